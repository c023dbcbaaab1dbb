//! The Migrations service: what migrations of a guest may take.

use tonic::{Request, Response};

use super::{
    decode,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    domain::Domain,
    error::{Error, Result},
    ops::{
        Driver,
        run::migration::{self, Settings},
    },
    pb,
};

#[tonic::async_trait]
impl pb::migrations_server::Migrations for Service {
    async fn get_migration_settings(
        &self,
        request: Request<pb::GetMigrationSettingsRequest>,
    ) -> Answer<pb::MigrationSettings> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        Ok(Response::new(shown(&self.driver, &domain).await?))
    }

    async fn set_migration_settings(
        &self,
        request: Request<pb::SetMigrationSettingsRequest>,
    ) -> Answer<pb::MigrationSettings> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let wanted = wanted(call.request.settings.as_ref())?;
            migration::set(&call.driver, &domain, wanted, &call.conditions).await?;
            shown(&call.driver, &domain).await
        })
        .await
    }
}

fn wanted(settings: Option<&pb::MigrationSettings>) -> Result<Settings> {
    let settings = settings.ok_or_else(|| Error::argument("settings are missing").at("settings"))?;
    let downtime = settings.downtime.as_ref();
    Ok(Settings {
        bandwidth: settings.bandwidth,
        postcopy_bandwidth: settings.postcopy_bandwidth,
        downtime: downtime
            .map(|time| decode::duration(time, "settings.downtime"))
            .transpose()?,
        cache: settings.compression_cache,
    })
}

async fn shown(driver: &Driver, domain: &Domain) -> Result<pb::MigrationSettings> {
    let settings = migration::settings(driver, domain).await?;
    Ok(pb::MigrationSettings {
        bandwidth: settings.bandwidth,
        postcopy_bandwidth: settings.postcopy_bandwidth,
        downtime: settings.downtime.and_then(|time| time.try_into().ok()),
        compression_cache: settings.cache,
    })
}

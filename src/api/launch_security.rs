//! The LaunchSecurity service.

use domxml::security::LaunchSecurity;
use tonic::{Request, Response};

use super::{
    convert,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    ops::{
        document::scope::{self, Scope},
        run::once::{self, LaunchSecret},
    },
    pb::{self, get_launch_security_response::Kind},
};

#[tonic::async_trait]
impl pb::launch_security_server::LaunchSecurity for Service {
    async fn get(
        &self,
        request: Request<pb::GetLaunchSecurityRequest>,
    ) -> Answer<pb::GetLaunchSecurityResponse> {
        let caller = Caller::of(&request)?;
        let view = self.domain(&caller, request.get_ref().domain.as_ref())?.view();
        let document = scope::read(&view, Scope::Current)?;
        let kind = match document.domain()?.launch_security {
            None => Kind::None,
            Some(LaunchSecurity::Sev(_)) => Kind::Sev,
            Some(LaunchSecurity::SevSnp(_)) => Kind::SevSnp,
            Some(LaunchSecurity::S390Pv) => Kind::S390Pv,
        };
        Ok(Response::new(pb::GetLaunchSecurityResponse { kind: kind.into() }))
    }

    async fn set_secret(&self, request: Request<pb::SetLaunchSecretRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let request = &call.request;
            let domain = call.domain(request.domain.as_ref())?;
            let secret = LaunchSecret {
                header: request.header.clone(),
                secret: request.secret.clone(),
                address: request.address,
            };
            once::set_launch_secret(&call.driver, &domain, secret, &call.conditions).await?;
            Ok(convert::basic(&domain.view()))
        })
        .await
    }
}

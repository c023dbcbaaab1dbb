//! The Backups service.

use tonic::{Request, Response};

use super::{
    convert,
    service::{Answer, Service},
};
use crate::{
    access::{Caller, Permission},
    ops::backups::{self, begin},
    pb,
};

#[tonic::async_trait]
impl pb::backups_server::Backups for Service {
    async fn begin(&self, request: Request<pb::BeginBackupRequest>) -> Answer<pb::BeginBackupResponse> {
        self.mutate(request, |call| async move {
            let of = call.request.domain.as_ref();
            let domain = call.domain(of)?;
            call.domain_for(of, Permission::DomainBlockWrite)?;
            let r = call.request;
            let wish = begin::Wish {
                backup: r.xml,
                checkpoint: Some(r.checkpoint_xml).filter(|xml| !xml.is_empty()),
                reuse: r.reuse_images,
            };
            let begun = Box::pin(begin::begin(&call.driver, &domain, wish, &call.conditions)).await?;
            Ok(pb::BeginBackupResponse {
                domain: Some(convert::full(&begun.view)),
                operation_id: begun.operation.map(|id| id.to_string()).unwrap_or_default(),
            })
        })
        .await
    }

    async fn get_xml(&self, request: Request<pb::GetBackupXmlRequest>) -> Answer<pb::GetBackupXmlResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let xml = backups::text(&domain.view())?;
        Ok(Response::new(pb::GetBackupXmlResponse { xml }))
    }
}

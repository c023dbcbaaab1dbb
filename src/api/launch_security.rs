//! The LaunchSecurity service.

use domxml::security::LaunchSecurity;
use tonic::{Request, Response};

use super::service::{Answer, Service};
use crate::{
    access::Caller,
    ops::document::scope::{self, Scope},
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
}

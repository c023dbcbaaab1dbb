//! The Devices service.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use unixfd::Peer;

use super::{convert, once::Once};
use crate::{
    ops::{
        Driver,
        media::{self, Lock},
    },
    pb,
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
    once: Once,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self { driver: Arc::clone(driver), once: Once::default() }
    }
}

#[tonic::async_trait]
impl pb::devices_server::Devices for Service {
    async fn update_device(&self, request: Request<pb::UpdateDeviceRequest>) -> Result<Response<()>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(request.options.as_ref());
        let id = request.options.as_ref().map_or_else(String::new, |o| o.request_id.clone());
        let work = async {
            let scope = convert::scope(request.scope());
            let lock = if request.force { Lock::Break } else { Lock::Respect };
            let domain = convert::find(&self.driver, request.domain.clone())?;
            Box::pin(media::update(&self.driver, &domain, media::Wanted { xml: request.xml.clone(), scope, lock }, &conditions)).await
        };
        self.once.run(peer.as_ref(), "UpdateDevice", &id, work).await.map(Response::new)
    }
}

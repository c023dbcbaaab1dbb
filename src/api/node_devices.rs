//! The NodeDevices service.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    ops::{Driver, holdings::hostdev::node_device},
    pb,
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self {
            driver: Arc::clone(driver),
        }
    }
}

#[tonic::async_trait]
impl pb::node_devices_server::NodeDevices for Service {
    async fn detach(
        &self,
        request: Request<pb::DetachNodeDeviceRequest>,
    ) -> Result<Response<pb::DetachNodeDeviceResponse>, Status> {
        let request = request.into_inner();
        let with = Some(request.driver.as_str()).filter(|driver| !driver.is_empty());
        node_device::detach(&self.driver, &request.name, with).await?;
        Ok(Response::new(pb::DetachNodeDeviceResponse {}))
    }

    async fn reattach(
        &self,
        request: Request<pb::ReattachNodeDeviceRequest>,
    ) -> Result<Response<pb::ReattachNodeDeviceResponse>, Status> {
        node_device::reattach(&self.driver, &request.get_ref().name).await?;
        Ok(Response::new(pb::ReattachNodeDeviceResponse {}))
    }

    async fn reset(
        &self,
        request: Request<pb::ResetNodeDeviceRequest>,
    ) -> Result<Response<pb::ResetNodeDeviceResponse>, Status> {
        node_device::reset(&self.driver, &request.get_ref().name).await?;
        Ok(Response::new(pb::ResetNodeDeviceResponse {}))
    }
}

//! The NodeDevices service.

use tonic::Request;

use super::service::{Answer, Service};
use crate::{ops::holdings::hostdev::node_device, pb};

#[tonic::async_trait]
impl pb::node_devices_server::NodeDevices for Service {
    async fn detach(
        &self,
        request: Request<pb::DetachNodeDeviceRequest>,
    ) -> Answer<pb::DetachNodeDeviceResponse> {
        self.mutate(request, |call| async move {
            if !call.of_host()? {
                let with = Some(call.request.driver.as_str()).filter(|driver| !driver.is_empty());
                node_device::detach(&call.driver, &call.request.name, with).await?;
            }
            Ok(pb::DetachNodeDeviceResponse {})
        })
        .await
    }

    async fn reattach(
        &self,
        request: Request<pb::ReattachNodeDeviceRequest>,
    ) -> Answer<pb::ReattachNodeDeviceResponse> {
        self.mutate(request, |call| async move {
            if !call.of_host()? {
                node_device::reattach(&call.driver, &call.request.name).await?;
            }
            Ok(pb::ReattachNodeDeviceResponse {})
        })
        .await
    }

    async fn reset(
        &self,
        request: Request<pb::ResetNodeDeviceRequest>,
    ) -> Answer<pb::ResetNodeDeviceResponse> {
        self.mutate(request, |call| async move {
            if !call.of_host()? {
                node_device::reset(&call.driver, &call.request.name).await?;
            }
            Ok(pb::ResetNodeDeviceResponse {})
        })
        .await
    }
}

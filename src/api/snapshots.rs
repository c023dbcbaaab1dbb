//! The Snapshots and Checkpoints services.

use tonic::{Request, Response};

use super::service::{Answer, Service};
use crate::{
    access::Caller,
    ops::inspect::moments::{self, Kind},
    pb,
};

#[tonic::async_trait]
impl pb::snapshots_server::Snapshots for Service {
    async fn list(&self, request: Request<pb::ListSnapshotsRequest>) -> Answer<pb::ListSnapshotsResponse> {
        let caller = Caller::of(&request)?;
        let view = self.domain(&caller, request.get_ref().domain.as_ref())?.view();
        let found = moments::list(&self.driver, &view, Kind::Snapshot).await?;
        let snapshots = found.into_iter().map(|moment| pb::Snapshot {
            name: moment.name,
            parent: moment.parent.unwrap_or_default(),
            current: moment.current,
        });
        Ok(Response::new(pb::ListSnapshotsResponse {
            snapshots: snapshots.collect(),
        }))
    }
}

#[tonic::async_trait]
impl pb::checkpoints_server::Checkpoints for Service {
    async fn list(
        &self,
        request: Request<pb::ListCheckpointsRequest>,
    ) -> Answer<pb::ListCheckpointsResponse> {
        let caller = Caller::of(&request)?;
        let view = self.domain(&caller, request.get_ref().domain.as_ref())?.view();
        let found = moments::list(&self.driver, &view, Kind::Checkpoint).await?;
        let checkpoints = found.into_iter().map(|moment| pb::Checkpoint {
            name: moment.name,
            parent: moment.parent.unwrap_or_default(),
        });
        Ok(Response::new(pb::ListCheckpointsResponse {
            checkpoints: checkpoints.collect(),
        }))
    }
}

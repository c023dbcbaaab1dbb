//! What all services share: the driver, the answers that are kept, and the way of a request that changes something.

use std::{future::Future, sync::Arc};

use tonic::{Request, Response, Status};

use super::{
    decode,
    once::{Once, Ticket},
};
use crate::{
    access::{Caller, Permission},
    admin::Admin,
    domain::Domain,
    error::{Error, Result},
    ops::{Conditions, Driver},
    pb,
};

/// What an RPC gives.
pub(super) type Answer<T> = std::result::Result<Response<T>, Status>;

/// The services: each implements its own trait on this one.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) driver: Arc<Driver>,
    pub(super) admin: Arc<Admin>,
    once: Once,
}

/// A request that changes something.
pub(super) trait Mutation: prost::Message + 'static {
    /// Names the call, for answers that are kept.
    const CALL: &'static str;
    /// Its options.
    fn options(&self) -> Option<&pb::MutationOptions>;
}

/// A change on its way: who asks, for what, and under which preconditions.
pub(super) struct Call<R> {
    pub(super) driver: Arc<Driver>,
    pub(super) caller: Caller,
    pub(super) request: R,
    pub(super) conditions: Conditions,
}

impl<R> Call<R> {
    /// The guest of the request.
    ///
    /// # Errors
    /// `InvalidArg`, `NoDomain`, or that the caller may not.
    pub(super) fn domain(&self, reference: Option<&pb::DomainRef>) -> Result<Domain> {
        let target = decode::target(reference)?;
        self.caller
            .domain(&self.driver, &target, self.caller.permission())
    }

    /// The same, of a call that needs a permission beside its own.
    ///
    /// # Errors
    /// As [`Call::domain`].
    pub(super) fn domain_for(
        &self,
        reference: Option<&pb::DomainRef>,
        permission: Permission,
    ) -> Result<Domain> {
        let target = decode::target(reference)?;
        self.caller.domain(&self.driver, &target, permission)
    }

    /// The same, where no operation looks at the preconditions.
    ///
    /// # Errors
    /// As [`Call::domain`], and `OperationAborted` if the guest has changed.
    pub(super) fn unchanged(&self, reference: Option<&pb::DomainRef>) -> Result<Domain> {
        let domain = self.domain(reference)?;
        self.conditions.check(&domain.view())?;
        Ok(domain)
    }

    /// Refuses the precondition that a request about the host can't have; whether it is a trial.
    ///
    /// # Errors
    /// `InvalidArg`.
    pub(super) fn of_host(&self) -> Result<bool> {
        match self.conditions.etag {
            Some(_) => Err(Error::argument("the host has no etag").at("options.etag")),
            None => Ok(self.conditions.trial),
        }
    }
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>, admin: &Arc<Admin>) -> Self {
        Self {
            admin: Arc::clone(admin),
            driver: Arc::clone(driver),
            once: Once::kept_in(&driver.registry.store().paths().state.join("virtqemud")),
        }
    }

    /// The guest that a reader asks for.
    ///
    /// # Errors
    /// `InvalidArg`, `NoDomain`, or that the caller may not.
    pub(super) fn domain(&self, caller: &Caller, reference: Option<&pb::DomainRef>) -> Result<Domain> {
        let target = decode::target(reference)?;
        caller.domain(&self.driver, &target, caller.permission())
    }

    /// Carries out a change: once for each request id, and to its end even if the caller hangs up.
    pub(super) async fn mutate<R, M, F>(
        &self,
        request: Request<R>,
        work: impl FnOnce(Call<R>) -> F + Send,
    ) -> Answer<M>
    where
        R: Mutation,
        M: prost::Message + Default,
        F: Future<Output = Result<M>> + Send + 'static,
    {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let options = request.options();
        let id = options.map_or("", |o| o.request_id.as_str());
        let ticket = Ticket::of(caller.user(), R::CALL, id, &request)?;
        let conditions = decode::conditions(options);
        let work = Box::pin(work(Call {
            driver: Arc::clone(&self.driver),
            caller,
            request,
            conditions,
        }));
        let answer = match ticket {
            Some(ticket) => self.once.run(&self.driver.tracker, ticket, work).await?,
            None => work.await?,
        };
        Ok(Response::new(answer))
    }
}

macro_rules! mutations {
    ($($request:ident)+) => {
        $(impl Mutation for pb::$request {
            const CALL: &'static str = stringify!($request);
            fn options(&self) -> Option<&pb::MutationOptions> {
                self.options.as_ref()
            }
        })+
        /// Requests that change something, by name.
        #[cfg(test)]
        const MUTATIONS: &[&str] = &[$(stringify!($request)),+];
    };
}

mutations! {
    DefineRequest UndefineRequest CreateRequest StartRequest ShutdownRequest RebootRequest ResetRequest
    InjectNmiRequest SendKeysRequest WakeRequest PowerOffRequest SuspendRequest ResumeRequest RenameRequest RemoveManagedSaveRequest
    AssociateDescriptorsRequest SetAutostartRequest ConfigureRequest MeasureDirtyRateRequest ReloadDisplayRequest SetLaunchSecretRequest SetPerfEventsRequest
    AttachDeviceRequest DetachDeviceRequest UpdateDeviceRequest SetInterfaceLimitsRequest
    SetDiskLimitsRequest SetThrottleGroupRequest RemoveThrottleGroupRequest ResizeDiskRequest SetDiskThresholdRequest
    PullBlocksRequest CommitBlocksRequest CopyBlocksRequest EndBlockJobRequest SetBlockJobSpeedRequest
    AddIoThreadRequest RemoveIoThreadRequest SetIoThreadRequest
    SetPinningRequest SetSchedulerRequest SetMemoryLimitsRequest SetNumaPlacementRequest SetBlockLimitsRequest
    ExecuteRequest ExecuteAgentRequest FreezeGuestFilesystemsRequest ThawGuestFilesystemsRequest
    TrimGuestFilesystemsRequest SetGuestVcpusRequest SetGuestVcpuCountRequest SetGuestTimeRequest
    SetUserPasswordRequest SetAuthorizedKeysRequest SleepRequest SetAgentTimeoutRequest
    DetachNodeDeviceRequest ReattachNodeDeviceRequest ResetNodeDeviceRequest
    CancelOperationRequest CancelJobRequest SetMigrationSettingsRequest
    SaveRequest RestoreRequest UpdateImageRequest DumpRequest
    CreateSnapshotRequest RevertSnapshotRequest DeleteSnapshotRequest CreateCheckpointRequest DeleteCheckpointRequest
    BeginBackupRequest
    AllocatePagesRequest SetPageMergingRequest SuspendHostRequest
    SetClientLimitsRequest SetWorkersRequest DisconnectClientRequest SetLoggingRequest SetIdleLimitRequest
    UpdateTlsFilesRequest ShutDownRequest
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::MUTATIONS;

    /// Requests that only read, or whose effect ends with their stream.
    const READERS: &[&str] = &[
        "ToNativeRequest",
        "OpenSessionRequest",
        "CompareCpuRequest",
        "BaselineCpuRequest",
    ];

    #[test]
    fn every_request_that_changes_something_has_options() {
        let set = prost_types::FileDescriptorSet::decode(crate::pb::DESCRIPTORS).expect("descriptors decode");
        let ours = || set.file.iter().filter(|file| file.package() == "virtqemud.v1");
        let methods = ours()
            .flat_map(|file| &file.service)
            .flat_map(|service| &service.method);
        for method in methods.filter(|method| !method.client_streaming()) {
            let input = method.input_type().rsplit('.').next().unwrap_or_default();
            let reads = ["Get", "List", "Peek", "Wait", "Watch", "Screenshot"];
            let reader = reads.iter().any(|verb| method.name().starts_with(verb)) || READERS.contains(&input);
            let message = ours()
                .flat_map(|file| &file.message_type)
                .find(|m| m.name() == input);
            let options = message.expect("the request's message").field.iter();
            let has = options
                .into_iter()
                .any(|f| f.type_name() == ".virtqemud.v1.MutationOptions");
            assert_eq!(has, !reader, "options of {input}");
            assert_eq!(MUTATIONS.contains(&input), has, "{input} in the table");
        }
    }
}

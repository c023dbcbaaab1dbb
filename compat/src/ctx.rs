//! What a handler is given beside its arguments.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use unixfd::{Fds, Peer};
use virtqemud_client::{Services, direct};
use wire::procedure::ProcedureInfo;
use wire::xdr::Text;
use wire::{Caller, ErrorCode, ErrorDomain, WireError};

use crate::backend::{Asked, Calls};
use crate::conn::{Conn, Open};
use crate::error;
use crate::stream::Ends;

/// One call.
#[derive(Debug)]
pub(crate) struct Ctx {
    pub(crate) conn: Arc<Conn>,
    pub(crate) info: &'static ProcedureInfo,
    /// Descriptors that came with the call, in order.
    pub(crate) fds: Fds,
    effects: Mutex<Vec<Effect>>,
}

/// What a call does to its connection when it succeeds, before its reply is sent.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The client has shown who it is.
    Authenticated,
    /// The connection is opened: the client may send what the protocol allows.
    Opened,
    /// The client speaks for somebody else.
    Identity,
    /// Ping it when it is silent.
    Keepalive,
    /// End the connection once the reply is sent.
    Close,
    /// Send these descriptors after the reply.
    #[allow(
        dead_code,
        reason = "for handlers of the few procedures that return descriptors"
    )]
    Reply(Fds),
    /// Bytes follow the reply, on the call's serial.
    Stream(Ends),
    /// Listen to these events.
    Watch(crate::events::Feed),
    /// Listen to the events of that registration no more; `None`: to those of guests.
    Unwatch(Option<i32>),
}

macro_rules! services {
    ($( $name:ident: $service:ident; )*) => {
        /// The services, called for the client.
        impl Ctx {
            $( pub(crate) fn $name(&self) -> direct::$service<Calls> {
                direct::$service(self.calls())
            } )*
        }
    };
}

services! {
    admin: Admin;
    domains: Domains;
    devices: Devices;
    host: Host;
    monitor: Monitor;
    node_devices: NodeDevices;
    guest_agent: GuestAgent;
    operations: Operations;
    tuning: Tuning;
    disks: Disks;
    block_jobs: BlockJobs;
    snapshots: Snapshots;
    checkpoints: Checkpoints;
    backups: Backups;
    perf_events: PerfEvents;
    launch_security: LaunchSecurity;
    jobs: Jobs;
    migrations: Migrations;
    saves: Saves;
}

impl Ctx {
    pub(crate) fn new(conn: Arc<Conn>, info: &'static ProcedureInfo, fds: Fds) -> Self {
        Self {
            conn,
            info,
            fds,
            effects: Mutex::default(),
        }
    }

    /// The services, for calls that are streams.
    pub(crate) fn streams(&self) -> Services<Calls> {
        Services::new(self.calls())
    }

    /// The way to the services.
    pub(crate) fn calls(&self) -> Calls {
        Calls {
            backend: Arc::clone(&self.conn.options.backend),
            asked: Asked {
                caller: Caller {
                    call: Some(self.info),
                    ..self.conn.caller()
                },
                priority: self.info.priority,
                fds: self.fds.clone(),
            },
        }
    }

    /// Whom the call is for.
    pub(crate) fn peer(&self) -> Peer {
        self.conn.peer()
    }

    /// What the client opened.
    ///
    /// # Errors
    /// When it opened nothing.
    pub(crate) fn opened(&self) -> Result<Open, WireError> {
        self.conn.opened().ok_or_else(not_open)
    }

    /// Has the connection do `effect` when the call has succeeded.
    pub(crate) fn then(&self, effect: Effect) {
        self.effects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(effect);
    }

    /// Takes what the connection is to do.
    pub(crate) fn take_effects(&self) -> Vec<Effect> {
        std::mem::take(&mut self.effects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An error of an argument that the protocol allows and libvirt's API does not.
    #[allow(dead_code, reason = "for handlers")]
    pub(crate) fn invalid_arg(&self, detail: &str) -> WireError {
        WireError::new(ErrorCode::INVALID_ARG, self.info.area(), detail)
    }
}

/// The error of a call that needs an open connection.
pub(crate) fn not_open() -> WireError {
    internal("hypervisor connection not open")
}

/// An error of the daemon's own connection handling.
pub(crate) fn internal(detail: &str) -> WireError {
    WireError::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, detail)
}

/// What a handler returns, by way of `?` on the services' statuses.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Box<WireError>);

impl Failure {
    /// Adds the guest's name, as the call has it, where the error is that there is no such guest.
    pub(crate) fn naming(mut self, guest: Option<&Text>) -> Self {
        let error = &mut self.0;
        if error.code != ErrorCode::NO_DOMAIN {
            return self;
        }
        let detail = error.str2.as_ref().map(|detail| detail.to_str().into_owned());
        if let (Some(guest), Some(detail)) = (guest, detail)
            && detail.starts_with("no domain with matching uuid")
        {
            let detail = format!("{detail} ({})", guest.to_str());
            **error = WireError::new(error.code, error.domain, &detail);
        }
        self
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self(Box::new(error))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(Box::new(error::from_status(&status)))
    }
}

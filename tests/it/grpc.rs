//! The services as a client sees them, over a sandbox's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use pb::event::Detail;
use testkit::sandbox::GRPC_SOCKET;
use testkit::{Daemon, Sandbox};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;
use virtqemud_client::proto as pb;

/// Where only reading is allowed.
pub(crate) const READ_ONLY_SOCKET: &str = "/run/libvirt/virtqemud-grpc-sock-ro";

/// Time for what takes no time, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a call gave.
pub(crate) type Answer<T> = std::result::Result<T, Status>;

/// The daemon under test: the one that was built with the tests, or another build that `TESTED_DAEMON` names.
pub(crate) fn daemon() -> Daemon {
    let built = || env!("CARGO_BIN_EXE_virtqemud").into();
    let program = std::env::var_os("TESTED_DAEMON").unwrap_or_else(built);
    Daemon::virtqemud(program).env("LIBVIRT_LOG_OUTPUTS", "2:stderr")
}

/// A client of one daemon.
#[derive(Clone)]
pub(crate) struct Grpc {
    channel: Channel,
}

impl Grpc {
    /// Connects to a sandbox's daemon.
    pub(crate) async fn of(sandbox: &Sandbox) -> Result<Self> {
        Self::at(sandbox.path(GRPC_SOCKET)).await
    }

    /// Connects to a socket.
    pub(crate) async fn at(socket: PathBuf) -> Result<Self> {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let end = tokio::time::Instant::now() + SOON;
        loop {
            let endpoint = Endpoint::from_static("http://localhost");
            match endpoint.connect_with_connector(connector.clone()).await {
                Ok(channel) => return Ok(Self { channel }),
                Err(error) if tokio::time::Instant::now() > end => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn domains(&self) -> pb::domains_client::DomainsClient<Channel> {
        pb::domains_client::DomainsClient::new(self.channel())
    }

    pub(crate) fn events(&self) -> pb::events_client::EventsClient<Channel> {
        pb::events_client::EventsClient::new(self.channel())
    }

    pub(crate) fn consoles(&self) -> pb::consoles_client::ConsolesClient<Channel> {
        pb::consoles_client::ConsolesClient::new(self.channel())
    }

    pub(crate) fn devices(&self) -> pb::devices_client::DevicesClient<Channel> {
        pb::devices_client::DevicesClient::new(self.channel())
    }

    pub(crate) fn monitor(&self) -> pb::monitor_client::MonitorClient<Channel> {
        pb::monitor_client::MonitorClient::new(self.channel())
    }

    pub(crate) fn disks(&self) -> pb::disks_client::DisksClient<Channel> {
        pb::disks_client::DisksClient::new(self.channel())
    }

    pub(crate) fn snapshots(&self) -> pb::snapshots_client::SnapshotsClient<Channel> {
        pb::snapshots_client::SnapshotsClient::new(self.channel())
    }

    pub(crate) fn tuning(&self) -> pb::tuning_client::TuningClient<Channel> {
        pb::tuning_client::TuningClient::new(self.channel())
    }

    pub(crate) fn operations(&self) -> pb::operations_client::OperationsClient<Channel> {
        pb::operations_client::OperationsClient::new(self.channel())
    }

    /// Detaches a device, and waits for the end of that: the operation, or its error as a call's.
    pub(crate) async fn detach(&self, request: pb::DetachDeviceRequest) -> Answer<pb::Operation> {
        let begun = self.devices().detach_device(request).await?.into_inner();
        let request = pb::WaitOperationRequest {
            id: begun.id,
            timeout: None,
        };
        let ended = self.operations().wait_operation(request).await?.into_inner();
        match ended.result.clone() {
            Some(pb::operation::Result::Error(error)) => Err(virtqemud_client::Failure::from(error).into()),
            _ => Ok(ended),
        }
    }

    pub(crate) fn host(&self) -> pb::host_client::HostClient<Channel> {
        pb::host_client::HostClient::new(self.channel())
    }

    pub(crate) async fn define(&self, xml: &str) -> Answer<pb::Domain> {
        let xml = xml.to_owned();
        self.ask(|mut c| async move {
            c.define(pb::DefineRequest {
                xml,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn create(&self, xml: &str) -> Answer<pb::Domain> {
        let xml = xml.to_owned();
        self.ask(|mut c| async move {
            c.create(pb::CreateRequest {
                xml,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn create_paused(&self, xml: &str) -> Answer<pb::Domain> {
        let request = pb::CreateRequest {
            xml: xml.to_owned(),
            paused: true,
            ..Default::default()
        };
        self.ask(|mut c| async move { c.create(request).await }).await
    }

    /// Sets the seconds between two looks at a guest's memory statistics.
    pub(crate) async fn set_stats_period(&self, name: &str, scope: pb::Scope, seconds: i64) -> Answer<()> {
        let period = prost_types::Duration { seconds, nanos: 0 };
        let request = pb::ConfigureRequest {
            domain: by_name(name),
            scope: scope.into(),
            change: Some(pb::configure_request::Change::MemoryStatsPeriod(period)),
            options: None,
        };
        self.ask(|mut c| async move { c.configure(request).await })
            .await
            .map(drop)
    }

    pub(crate) async fn set_vcpus(&self, name: &str, scope: pb::Scope, count: u32) -> Answer<()> {
        let request = pb::ConfigureRequest {
            domain: by_name(name),
            scope: scope.into(),
            change: Some(pb::configure_request::Change::Vcpus(count)),
            options: None,
        };
        self.domains().configure(request).await.map(drop)
    }

    /// Makes the I/O thread with the number 7.
    pub(crate) async fn add_iothread(&self, name: &str, scope: pb::Scope) -> Answer<()> {
        let request = pb::AddIoThreadRequest {
            domain: by_name(name),
            scope: scope.into(),
            id: 7,
            options: None,
        };
        self.tuning().add_io_thread(request).await.map(drop)
    }

    pub(crate) async fn get(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        self.ask(|mut c| async move {
            let view = pb::View::Full.into();
            c.get(pb::GetRequest {
                domain,
                view,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn xml(&self, name: &str) -> Answer<String> {
        let domain = by_name(name);
        let answer = self.ask(|mut c| async move {
            c.get_xml(pb::GetXmlRequest {
                domain,
                ..Default::default()
            })
            .await
        });
        Ok(answer.await?.xml)
    }

    /// The live document, secrets and all.
    pub(crate) async fn secure_xml(&self, name: &str) -> Answer<String> {
        let request = pb::GetXmlRequest {
            domain: by_name(name),
            secure: true,
            ..Default::default()
        };
        let answer = self.ask(|mut c| async move { c.get_xml(request).await });
        Ok(answer.await?.xml)
    }

    pub(crate) async fn start(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        self.ask(|mut c| async move {
            c.start(pb::StartRequest {
                domain,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn start_paused(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        self.ask(|mut c| async move {
            c.start(pb::StartRequest {
                domain,
                paused: true,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn suspend(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        let options = None;
        self.ask(|mut c| async move { c.suspend(pb::SuspendRequest { domain, options }).await })
            .await
    }

    pub(crate) async fn resume(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        let options = None;
        self.ask(|mut c| async move { c.resume(pb::ResumeRequest { domain, options }).await })
            .await
    }

    pub(crate) async fn power_off(&self, name: &str) -> Answer<pb::Domain> {
        let domain = by_name(name);
        self.ask(|mut c| async move {
            c.power_off(pb::PowerOffRequest {
                domain,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn undefine(&self, name: &str) -> Answer<pb::UndefineResponse> {
        let domain = by_name(name);
        self.ask(|mut c| async move {
            c.undefine(pb::UndefineRequest {
                domain,
                ..Default::default()
            })
            .await
        })
        .await
    }

    pub(crate) async fn rename(&self, name: &str, new_name: &str) -> Answer<pb::Domain> {
        let (domain, new_name) = (by_name(name), new_name.to_owned());
        self.ask(|mut c| async move {
            c.rename(pb::RenameRequest {
                domain,
                new_name,
                options: None,
            })
            .await
        })
        .await
    }

    pub(crate) async fn list(&self, request: pb::ListRequest) -> Answer<pb::ListResponse> {
        self.ask(|mut c| async move { c.list(request).await }).await
    }

    /// All names, in order.
    pub(crate) async fn names(&self) -> Answer<Vec<String>> {
        let page = self.list(pb::ListRequest::default()).await?;
        Ok(page.domains.into_iter().map(|d| d.name).collect())
    }

    /// Statistics of one guest, or all without a name.
    pub(crate) async fn stats(&self, name: Option<&str>) -> Answer<pb::GetStatsResponse> {
        let domains = name.and_then(by_name).into_iter().collect();
        self.ask(|mut c| async move {
            c.get_stats(pb::GetStatsRequest {
                domains,
                ..Default::default()
            })
            .await
        })
        .await
    }

    /// State and reason of a guest.
    pub(crate) async fn state(&self, name: &str) -> Answer<pb::StateReason> {
        Ok(self.get(name).await?.reason())
    }

    /// Waits until a guest is as wanted.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        mut wanted: impl FnMut(&pb::Domain) -> bool,
    ) -> Result<pb::Domain> {
        let end = tokio::time::Instant::now() + within;
        loop {
            let last = self.get(name).await?;
            if wanted(&last) {
                return Ok(last);
            }
            if tokio::time::Instant::now() > end {
                bail!("{what}: not so after {within:?}: {last:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Events from now on.
    pub(crate) async fn watch(&self) -> Result<Watch> {
        Ok(self.watch_for(pb::WatchRequest::default()).await?)
    }

    /// Events after a version.
    /// Watches events of these kinds alone.
    pub(crate) async fn watch_kinds(&self, kinds: &[pb::EventKind]) -> Answer<Watch> {
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        self.watch_for(pb::WatchRequest {
            kinds,
            ..Default::default()
        })
        .await
    }

    pub(crate) async fn watch_since(&self, version: pb::Version) -> Answer<Watch> {
        self.watch_for(pb::WatchRequest {
            since_version: Some(version),
            ..Default::default()
        })
        .await
    }

    pub(crate) async fn watch_for(&self, request: pb::WatchRequest) -> Answer<Watch> {
        let stream = self.events().watch(request).await?.into_inner();
        Ok(Watch { stream })
    }

    async fn ask<T, F>(&self, call: impl FnOnce(pb::domains_client::DomainsClient<Channel>) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<tonic::Response<T>>>,
    {
        match tokio::time::timeout(Duration::from_secs(120), call(self.domains())).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer after two minutes")),
        }
    }
}

/// An open watch.
pub(crate) struct Watch {
    stream: Streaming<pb::WatchResponse>,
}

impl Watch {
    /// What comes next.
    pub(crate) async fn item(&mut self) -> Result<pb::watch_response::Item> {
        let message = tokio::time::timeout(SOON, self.stream.message()).await;
        let message = message.context("no event came")??;
        message
            .context("the watch ended")?
            .item
            .context("an empty message")
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Result<pb::Event> {
        loop {
            match self.item().await? {
                pb::watch_response::Item::Event(event) => return Ok(event),
                pb::watch_response::Item::Bookmark(_) => {}
                pb::watch_response::Item::Initial(guest) => bail!("{guest:?}"),
            }
        }
    }

    /// The next events, each as a word; exactly as many as are expected, and no other within a moment.
    pub(crate) async fn expect(&mut self, expected: &[&str]) -> Result<()> {
        let mut got = Vec::new();
        for _ in expected {
            match self.event().await {
                Ok(event) => got.push(word(&event)),
                Err(error) => {
                    return Err(error.context(format!("expected {expected:?}, got {got:?}")));
                }
            }
        }
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(50), self.event()).await {
            got.push(word(&event?));
        }
        ensure!(got == expected, "expected {expected:?}, got {got:?}");
        Ok(())
    }

    /// All that come until `last`, each as a word.
    pub(crate) async fn until(&mut self, last: &str) -> Result<Vec<String>> {
        let mut got = Vec::new();
        loop {
            match self.event().await {
                Ok(event) => got.push(word(&event)),
                Err(error) => {
                    return Err(error.context(format!("waiting for {last}, got {got:?}")));
                }
            }
            if got.last().is_some_and(|word| word == last) {
                return Ok(got);
            }
        }
    }
}

/// An event in a word: "started/booted", "reboot", ...; of a snapshot or checkpoint its name, a star if it is the current one
/// and the one before it, too.
pub(crate) fn word(event: &pb::Event) -> String {
    const TYPES: [&str; 9] = [
        "defined",
        "undefined",
        "started",
        "suspended",
        "resumed",
        "stopped",
        "shutdown",
        "pmsuspended",
        "crashed",
    ];
    match &event.detail {
        Some(Detail::Lifecycle(l)) => {
            let kind = usize::try_from(l.r#type - 1).ok().and_then(|n| TYPES.get(n));
            format!("{}/{}", kind.unwrap_or(&"?"), l.detail % 100)
        }
        Some(Detail::Moment(moment)) => {
            let what = moment
                .r#type()
                .as_str_name()
                .trim_start_matches("TYPE_")
                .to_lowercase();
            let star = if moment.current { "*" } else { "" };
            format!("{what} {}{star}<{}", moment.name, moment.parent)
        }
        _ => event
            .kind()
            .as_str_name()
            .trim_start_matches("EVENT_KIND_")
            .to_lowercase(),
    }
}

/// The event's counter.
pub(crate) fn counter(event: &pb::Event) -> u64 {
    event.version.as_ref().map_or(0, |v| v.counter)
}

pub(crate) fn by_name(name: &str) -> Option<pb::DomainRef> {
    let r#ref = Some(pb::domain_ref::Ref::Name(name.to_owned()));
    Some(pb::DomainRef { r#ref })
}

pub(crate) fn by_uuid(uuid: &str) -> Option<pb::DomainRef> {
    let r#ref = Some(pb::domain_ref::Ref::Uuid(uuid.to_owned()));
    Some(pb::DomainRef { r#ref })
}

pub(crate) fn by_id(id: i32) -> Option<pb::DomainRef> {
    let r#ref = Some(pb::domain_ref::Ref::Id(id));
    Some(pb::DomainRef { r#ref })
}

/// The stable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// That a call was refused, with this code and reason.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, why: &str) -> Result<Status> {
    match answer {
        Ok(value) => bail!("not refused: {value:?}"),
        Err(status) => {
            ensure!(
                status.code() == code && reason(&status) == why,
                "refused otherwise: {:?} {}: {}",
                status.code(),
                reason(&status),
                status.message()
            );
            Ok(status)
        }
    }
}

/// A guest that has only what every guest has, under the emulator at `emulator`.
pub(crate) fn small(name: &str, emulator: &Path, more: &str) -> String {
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>{}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  {more}
</domain>",
        emulator.display()
    )
}

/// The host's own QEMU.
pub(crate) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

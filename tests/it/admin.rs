//! The daemon while it runs, administrated: by virt-admin and by gRPC, for the clients of both fronts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pb::admin_client::AdminClient;
use serde_json::json;
use testkit::place::program;
use testkit::skip::can_run_guests;
use testkit::{Daemon, process, skip, wait_for, wait_until};
use tonic::Code;
use tonic::transport::Channel;
use virtqemud_client::proto as pb;
use wire::client::{Client, ClientError};
use wire::remote::{ConnectGetType, DomainLookupByName, DomainOpenConsole, DomainSuspend};

use crate::admin_replay::Side;
use crate::grpc::{Grpc, QEMU, READ_ONLY_SOCKET, SOON, by_name, refused, small};
use crate::stage::Stage;

/// Longer than an answer takes, on a busy machine.
const A_WHILE: Duration = Duration::from_millis(700);
const MAIN: &str = "virtqemud";

fn can_administrate() -> bool {
    let can = program("virt-admin").is_some() && nix::unistd::geteuid().is_root();
    if !can {
        skip("virt-admin is not installed, or this is not root");
    }
    can
}

fn service(grpc: &Grpc) -> AdminClient<Channel> {
    AdminClient::new(grpc.channel())
}

async fn libvirt(side: &Side) -> Result<Client> {
    Ok(Client::open(&side.sandbox.socket(), "qemu:///system").await?)
}

async fn server(grpc: &Grpc) -> Result<pb::Server> {
    let server = MAIN.to_owned();
    let answer = service(grpc).get_server(pb::GetServerRequest { server }).await?;
    Ok(answer.into_inner())
}

async fn clients(grpc: &Grpc, protocol: pb::client::Protocol) -> Result<Vec<u64>> {
    let request = pb::ListClientsRequest {
        server: MAIN.to_owned(),
        ..Default::default()
    };
    let list = service(grpc).list_clients(request).await?.into_inner().clients;
    let wanted = list.iter().filter(|client| client.protocol() == protocol);
    Ok(wanted.map(|client| client.id).collect())
}

/// Waits until a client is not there any more.
async fn gone(grpc: &Grpc, protocol: pb::client::Protocol, id: u64) -> Result<()> {
    let looking = async {
        while clients(grpc, protocol).await?.contains(&id) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    within(looking).await?
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(SOON, future).await.context("not in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_below_what_there_is_hold_for_both_fronts() -> Result<()> {
    if !can_administrate() {
        return Ok(());
    }
    let side = Side::ours()?;
    let mut old = libvirt(&side).await?;
    let grpc = Grpc::of(&side.sandbox).await?;
    // One that is there is served, whatever the limits are.
    grpc.list(pb::ListRequest::default()).await?;
    let count = server(&grpc).await?.clients.context("limits")?.count;
    ensure!(count == 2, "{count} clients");
    side.ok(&[
        "srv-clients-set",
        "SERVER",
        "--max-clients",
        "1",
        "--max-unauth-clients",
        "1",
    ])?;
    old.call(&ConnectGetType {}).await?;
    grpc.list(pb::ListRequest::default()).await?;
    let told = side.ok(&["srv-clients-info", "SERVER"])?;
    ensure!(
        told.contains("nclients_max        : 1") && told.contains("nclients            : 2"),
        "{told}"
    );
    let socket = side.sandbox.socket();
    let new = tokio::spawn(async move { Client::open(&socket, "qemu:///system").await });
    let sandbox_socket = side.sandbox.path(testkit::sandbox::GRPC_SOCKET);
    let new_grpc = tokio::spawn(async move {
        let grpc = Grpc::at(sandbox_socket).await?;
        grpc.list(pb::ListRequest::default()).await?;
        anyhow::Ok(grpc)
    });
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        !new.is_finished() && !new_grpc.is_finished(),
        "served beyond the limit"
    );
    // One leaves, and there is still no room.
    drop(old);
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        !new.is_finished() && !new_grpc.is_finished(),
        "served beyond the limit"
    );
    let request = pb::SetClientLimitsRequest {
        server: MAIN.to_owned(),
        max: Some(3),
        ..Default::default()
    };
    service(&grpc).set_client_limits(request).await?;
    let mut new = within(new).await???;
    new.call(&ConnectGetType {}).await?;
    let new_grpc = within(new_grpc).await???;
    let limits = server(&new_grpc).await?.clients.context("limits")?;
    assert_eq!((limits.max, limits.count, limits.max_anonymous), (3, 3, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_workers_wait_and_powering_off_does_not() -> Result<()> {
    let stage = Stage::new().await?;
    let slow = json!({"rules": [{"execute": "stop", "delay_ms": 4000}]});
    for name in ["slow", "other"] {
        stage.define(name, &slow).await?;
        stage.grpc.start(name).await?;
    }
    let set = |max, trial| {
        let mut admin = service(&stage.grpc);
        let options = pb::MutationOptions {
            validate_only: trial,
            ..Default::default()
        };
        let request = pb::SetWorkersRequest {
            server: MAIN.to_owned(),
            min: Some(0),
            max: Some(max),
            options: Some(options),
            ..Default::default()
        };
        async move { admin.set_workers(request).await }
    };
    refused(set(0, false).await, Code::InvalidArgument, "INVALID_ARG")?;
    let before = server(&stage.grpc).await?.workers.context("workers")?;
    ensure!(before.max > 1000, "{before:?}");
    set(1, true).await?;
    assert_eq!(server(&stage.grpc).await?.workers, Some(before));
    set(1, false).await?;
    let grpc = stage.grpc.clone();
    let suspending = tokio::spawn(async move { grpc.suspend("slow").await });
    let grpc = stage.grpc.clone();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let listing = tokio::spawn(async move { grpc.list(pb::ListRequest::default()).await });
    let waits = wait_for_workers(&stage.grpc, |workers| workers.waiting == 1).await?;
    assert_eq!((waits.count, waits.free), (1, 0));
    ensure!(!suspending.is_finished(), "the machine is too slow for this test");
    stage.grpc.power_off("other").await?;
    ensure!(!listing.is_finished(), "it did not wait");
    let _ = within(suspending).await??;
    within(listing).await???;
    set(9, false).await?;
    let after = server(&stage.grpc).await?.workers.context("workers")?;
    assert_eq!((after.max, after.count, after.waiting), (9, 0, 0));
    Ok(())
}

async fn wait_for_workers(grpc: &Grpc, wanted: impl Fn(&pb::Workers) -> bool) -> Result<pb::Workers> {
    let looking = async {
        loop {
            let workers = server(grpc).await?.workers.context("workers")?;
            if wanted(&workers) {
                return Ok(workers);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(looking).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_take_effect_at_once_and_bad_ones_change_nothing() -> Result<()> {
    if !can_administrate() {
        return Ok(());
    }
    let side = Side::ours()?;
    let log = side.sandbox.dir().join("adm.log");
    side.ok(&["daemon-log-outputs", "1:file:DIR/adm.log"])?;
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    drop(libvirt(&side).await?);
    ensure!(!logged().contains("client connected"), "{}", logged());
    side.ok(&["daemon-log-filters", "1:compat.server 4:daemon"])?;
    drop(libvirt(&side).await?);
    wait_until("a message of the filter", SOON, || {
        logged().contains("client connected")
    })?;
    for bad in ["9:x", "1:ok 7:bad", "1:", "x"] {
        side.refused(&["daemon-log-filters", bad])?;
        let now = side.ok(&["daemon-log-filters"])?;
        assert_eq!(now.trim(), "Logging filters: 1:*compat.server* 4:*daemon*");
    }
    let told = side.refused(&["daemon-log-outputs", "1:file:/nonexistent/x"])?;
    assert_eq!(
        told,
        "error: failed to open /nonexistent/x: No such file or directory"
    );
    // A pipe that nobody reads keeps nobody waiting.
    let pipe = side.sandbox.dir().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    side.refused(&["daemon-log-outputs", "1:file:DIR/pipe"])?;
    // Both or neither, over gRPC.
    let grpc = Grpc::of(&side.sandbox).await?;
    let request = |filters: &str, outputs: &str| pb::SetLoggingRequest {
        filters: Some(filters.to_owned()),
        outputs: Some(outputs.to_owned()),
        options: None,
    };
    let refusal = service(&grpc).set_logging(request("2:new", "3:nope")).await;
    let status = refused(refusal, Code::InvalidArgument, "INVALID_ARG")?;
    let text = "invalid argument: Invalid log destination 'nope' for log output '3:nope'";
    assert_eq!(status.message(), text);
    let outputs = format!("1:file:{}", log.display());
    let now = service(&grpc)
        .get_logging(pb::GetLoggingRequest {})
        .await?
        .into_inner();
    assert_eq!(now.filters, ["1:*compat.server*", "4:*daemon*"]);
    assert_eq!(now.outputs, [outputs.as_str()]);
    let changed = service(&grpc)
        .set_logging(request("", &outputs))
        .await?
        .into_inner();
    assert_eq!((changed.filters.len(), changed.outputs), (0, vec![outputs]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_was_set_where_the_file_says_nothing_new() -> Result<()> {
    if !can_administrate() {
        return Ok(());
    }
    let daemon = Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud"));
    let side = Side::run(daemon.arg("--verbose"))?;
    let conf = side.sandbox.path("/etc/libvirt/virtqemud.conf");
    let base = fs::read_to_string(&conf).unwrap_or_default();
    let outputs = "2:file:DIR/log";
    side.ok(&["daemon-log-outputs", outputs])?;
    side.ok(&["daemon-log-filters", "3:qemu"])?;
    side.ok(&[
        "srv-clients-set",
        "SERVER",
        "--max-clients",
        "70",
        "--max-unauth-clients",
        "7",
    ])?;
    side.ok(&["srv-threadpool-set", "SERVER", "--max-workers", "33"])?;
    let log = side.sandbox.dir().join("log");
    let reload = |more: &str, count: usize| {
        fs::write(&conf, format!("{base}\n{more}"))?;
        process::signal(side.sandbox.pid().context("no daemon")?, Signal::SIGHUP);
        let done = || fs::read_to_string(&log).unwrap_or_default();
        let read = || done().matches("configuration read again").count() == count;
        wait_until("a reload", SOON, read).with_context(done)
    };
    let told = |what: &str, command: &[&str]| -> Result<()> {
        let said = side.ok(command)?;
        ensure!(said.contains(what), "{what}: {said}");
        Ok(())
    };
    reload("", 1)?;
    told("3:*qemu*", &["daemon-log-filters"])?;
    told("nclients_max        : 70", &["srv-clients-info", "SERVER"])?;
    told("maxWorkers     : 33", &["srv-threadpool-info", "SERVER"])?;
    reload(
        "max_clients = 60\nlog_filters = \"4:compat\"\nmax_workers = 11\n",
        2,
    )?;
    told("4:*compat*", &["daemon-log-filters"])?;
    told("/log", &["daemon-log-outputs"])?;
    told("nclients_max        : 60", &["srv-clients-info", "SERVER"])?;
    told("nclients_unauth_max : 7", &["srv-clients-info", "SERVER"])?;
    told("maxWorkers     : 11", &["srv-threadpool-info", "SERVER"])?;
    // What is refused changes nothing either.
    side.ok(&["daemon-log-filters", "2:mine"])?;
    fs::write(
        &conf,
        format!("{base}\nlog_filters = \"9:x\"\nmax_clients = 50\n"),
    )?;
    process::signal(side.sandbox.pid().context("no daemon")?, Signal::SIGHUP);
    let refused = || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("not reloaded")
    };
    wait_until("a refusal", SOON, refused)?;
    told("2:*mine*", &["daemon-log-filters"])?;
    told("nclients_max        : 60", &["srv-clients-info", "SERVER"])
}

/// A guest with a console that a client of each protocol may have.
async fn with_console(side: &Side, grpc: &Grpc) -> Result<()> {
    let xml = small("g", Path::new(QEMU), "").replace("</devices>", "<console type='pty'/></devices>");
    grpc.define(&xml).await?;
    grpc.start("g").await?;
    ensure!(side.sandbox.guest_pid("g").is_some(), "no process");
    Ok(())
}

/// Has QEMU not answer while `calls` are cut off, and looks at what becomes of a guest that is being suspended.
async fn cut<F: Future<Output = Result<()>>>(side: &Side, grpc: &Grpc, cut: F) -> Result<()> {
    let qemu = side.sandbox.guest_pid("g").context("no process")?;
    cut.await?;
    process::signal(qemu, Signal::SIGCONT);
    let paused = async {
        while grpc.get("g").await?.state() != pb::State::Paused {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    within(paused).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirt_client_is_disconnected_and_its_operation_goes_on() -> Result<()> {
    if !can_administrate() || !can_run_guests() {
        return Ok(());
    }
    let side = Side::ours()?;
    let grpc = Grpc::of(&side.sandbox).await?;
    with_console(&side, &grpc).await?;
    let mut client = libvirt(&side).await?;
    let found = client.call(&DomainLookupByName { name: "g".into() }).await?.dom;
    let open = DomainOpenConsole {
        dom: found.clone(),
        dev_name: None,
        flags: 0,
    };
    client.call(&open).await?;
    process::signal(
        side.sandbox.guest_pid("g").context("no process")?,
        Signal::SIGSTOP,
    );
    let suspending = tokio::spawn(async move { client.call(&DomainSuspend { dom: found }).await });
    cut(&side, &grpc, async {
        tokio::time::sleep(A_WHILE).await;
        let ids = clients(&grpc, pb::client::Protocol::Libvirt).await?;
        let id = ids.last().context("no client")?.to_string();
        side.ok(&["client-disconnect", "SERVER", &id])?;
        let ended = within(suspending).await??;
        ensure!(
            matches!(ended, Err(ClientError::Closed | ClientError::Io(_))),
            "{ended:?}"
        );
        gone(&grpc, pb::client::Protocol::Libvirt, id.parse()?).await?;
        Ok(())
    })
    .await?;
    // Nobody has the console, so it is had without force.
    let mut next = libvirt(&side).await?;
    within(async { while next.call(&open).await.is_err() {} }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_is_disconnected_and_its_operation_goes_on() -> Result<()> {
    if !can_administrate() || !can_run_guests() {
        return Ok(());
    }
    let side = Side::ours()?;
    let grpc = Grpc::of(&side.sandbox).await?;
    with_console(&side, &grpc).await?;
    let before = clients(&grpc, pb::client::Protocol::Grpc).await?;
    let other = Grpc::of(&side.sandbox).await?;
    let open = || {
        let open = pb::attach_request::Open {
            domain: by_name("g"),
            ..Default::default()
        };
        let message = Some(pb::attach_request::Message::Open(open));
        let (input, requests) = tokio::sync::mpsc::channel(2);
        let sent = input.try_send(pb::AttachRequest { message });
        sent.map(|()| (input, tokio_stream::wrappers::ReceiverStream::new(requests)))
    };
    let (_input, requests) = open()?;
    let mut console = other.consoles().attach(requests).await?.into_inner();
    let events = pb::WatchRequest::default();
    let mut watch = other.events().watch(events).await?.into_inner();
    process::signal(
        side.sandbox.guest_pid("g").context("no process")?,
        Signal::SIGSTOP,
    );
    let suspending = tokio::spawn({
        let other = other.clone();
        async move { other.suspend("g").await }
    });
    cut(&side, &grpc, async {
        tokio::time::sleep(A_WHILE).await;
        let ids = clients(&grpc, pb::client::Protocol::Grpc).await?;
        let id = *ids.iter().find(|id| !before.contains(id)).context("no client")?;
        side.ok(&["client-disconnect", "SERVER", &id.to_string()])?;
        ensure!(within(suspending).await??.is_err(), "it was answered");
        within(async { while let Ok(Some(_)) = console.message().await {} }).await?;
        within(async { while let Ok(Some(_)) = watch.message().await {} }).await?;
        gone(&grpc, pb::client::Protocol::Grpc, id).await
    })
    .await?;
    let attaching = async {
        loop {
            let (_input, requests) = open()?;
            if grpc.consoles().attach(requests).await.is_ok() {
                return anyhow::Ok(());
            }
        }
    };
    within(attaching).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_only_the_daemons_user_administrates_and_never_read_only() -> Result<()> {
    let side = Side::ours()?;
    let read_only = Grpc::at(side.sandbox.path(READ_ONLY_SOCKET)).await?;
    let request = pb::GetServerRequest {
        server: MAIN.to_owned(),
    };
    let answer = service(&read_only).get_server(request.clone()).await;
    refused(answer, Code::PermissionDenied, "OPERATION_DENIED")?;
    let grpc = Grpc::of(&side.sandbox).await?;
    let names = service(&grpc).list_servers(pb::ListServersRequest {}).await?;
    let names: Vec<_> = names.into_inner().servers.into_iter().map(|it| it.name).collect();
    assert_eq!(names, [MAIN, "admin"]);
    let unknown = pb::GetServerRequest {
        server: "nope".to_owned(),
    };
    refused(
        service(&grpc).get_server(unknown).await,
        Code::NotFound,
        "NO_SERVER",
    )?;
    let missing = pb::GetClientRequest {
        server: MAIN.to_owned(),
        id: 99,
    };
    refused(
        service(&grpc).get_client(missing).await,
        Code::NotFound,
        "NO_CLIENT",
    )?;
    // By pages of one, and each of them in full.
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let request = pb::ListClientsRequest {
            server: MAIN.to_owned(),
            page_size: 1,
            page_token: token,
        };
        let page = service(&grpc).list_clients(request).await?.into_inner();
        for client in page.clients {
            let request = pb::GetClientRequest {
                server: MAIN.to_owned(),
                id: client.id,
            };
            let full = service(&grpc).get_client(request).await?.into_inner();
            let identity = full.identity.context("identity")?;
            assert_eq!(identity.user, Some(nix::unistd::geteuid().as_raw()));
            assert_eq!(identity.process, Some(std::process::id().into()));
            seen.push((full.id, full.read_only));
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let read_only: Vec<_> = seen.iter().map(|(_, read_only)| *read_only).collect();
    assert_eq!(read_only, [true, false]);
    let disconnect = |id, validate_only| pb::DisconnectClientRequest {
        server: MAIN.to_owned(),
        id,
        options: Some(pb::MutationOptions {
            validate_only,
            ..Default::default()
        }),
    };
    service(&grpc)
        .disconnect_client(disconnect(seen[0].0, true))
        .await?;
    assert_eq!(clients(&grpc, pb::client::Protocol::Grpc).await?.len(), 2);
    service(&grpc)
        .disconnect_client(disconnect(seen[0].0, false))
        .await?;
    gone(&grpc, pb::client::Protocol::Grpc, seen[0].0).await?;
    let tls = pb::UpdateTlsFilesRequest {
        server: MAIN.to_owned(),
        options: None,
    };
    let status = refused(
        service(&grpc).update_tls_files(tls).await,
        Code::Internal,
        "INTERNAL_ERROR",
    )?;
    ensure!(status.message().contains("no tls service found"), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_when_to_end_ends_then() -> Result<()> {
    if !can_administrate() {
        return Ok(());
    }
    let side = Side::ours()?;
    side.ok(&["daemon-timeout", "1"])?;
    side.ok(&["daemon-timeout", "0"])?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Somebody is there: it stays.
    let mut client = libvirt(&side).await?;
    side.ok(&["daemon-timeout", "1"])?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.call(&ConnectGetType {}).await?;
    drop(client);
    wait_for("the daemon's end", SOON, || {
        (!side.sandbox.socket().exists()).then_some(())
    })
}

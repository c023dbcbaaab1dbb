//! What a client can do with a guest, over gRPC, and what is told of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pb::{StateReason as Reason, attach_request::Message};
use testkit::guest::{BOOT, Image, READY};
use testkit::skip::can_run_guests;
use testkit::{GuestSpec, Sandbox, process};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, QEMU, SOON, by_id, by_name, by_uuid, daemon, reason, refused, small};

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_life_is_told_in_libvirts_order() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let mut watch = grpc.watch().await?;

    let defined = grpc.define(&guest("a")).await?;
    assert_eq!((defined.state(), defined.persistent), (pb::State::Shutoff, true));
    watch.expect(&["defined/0"]).await?;
    let xml = grpc.xml("a").await?;
    grpc.define(&xml).await?;
    watch.expect(&["defined/1"]).await?;
    assert_eq!(grpc.get("a").await?.uuid, defined.uuid);
    grpc.rename("a", "b").await?;
    watch.expect(&["undefined/1", "defined/2"]).await?;

    let started = grpc.start("b").await?;
    assert_eq!(started.reason(), Reason::RunningBooted);
    watch.expect(&["resumed/0", "started/0"]).await?;
    let pid = sandbox.guest_pid("b").context("no process")?;
    refused(
        grpc.start("b").await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    grpc.suspend("b").await?;
    watch.expect(&["suspended/0"]).await?;
    assert_eq!(grpc.state("b").await?, Reason::PausedUser);
    grpc.suspend("b").await?;
    watch.expect(&[]).await?;
    grpc.resume("b").await?;
    watch.expect(&["resumed/0"]).await?;
    assert_eq!(grpc.state("b").await?, Reason::RunningUnpaused);
    refused(
        grpc.resume("b").await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    let reset = pb::ResetRequest {
        domain: by_name("b"),
        options: None,
    };
    grpc.domains().reset(reset).await?;
    // The firmware resets the machine once more.
    watch.expect(&["reboot", "reboot"]).await?;
    grpc.power_off("b").await?;
    watch.expect(&["shutdown/2", "stopped/1"]).await?;
    assert_eq!(grpc.state("b").await?, Reason::ShutoffDestroyed);
    assert!(!process::alive(pid), "the process is still there");
    refused(
        grpc.power_off("b").await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;

    grpc.start_paused("b").await?;
    watch.expect(&["started/0", "suspended/0"]).await?;
    assert_eq!(grpc.state("b").await?, Reason::PausedUser);
    grpc.resume("b").await?;
    watch.expect(&["resumed/0"]).await?;
    grpc.undefine("b").await?;
    watch.expect(&["undefined/0"]).await?;
    assert!(!grpc.get("b").await?.persistent);
    grpc.power_off("b").await?;
    watch.expect(&["shutdown/2", "stopped/1"]).await?;
    refused(grpc.get("b").await, Code::NotFound, "NO_DOMAIN")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_not_stored_is_gone_when_it_stops() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let mut watch = grpc.watch().await?;
    let created = grpc.create(&guest("t")).await?;
    assert_eq!((created.persistent, created.state()), (false, pb::State::Running));
    watch.expect(&["resumed/0", "started/0"]).await?;
    let uuid = created.uuid.clone();
    for domain in [by_id(created.id), by_uuid(&uuid), by_uuid(&uuid.to_uppercase())] {
        let view = pb::View::Basic.into();
        let found = grpc
            .domains()
            .get(pb::GetRequest {
                domain,
                view,
                ..Default::default()
            })
            .await?;
        assert_eq!(found.get_ref().name, "t");
    }
    refused(
        grpc.rename("t", "u").await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    refused(
        grpc.undefine("t").await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    let autostart = pb::SetAutostartRequest {
        domain: by_name("t"),
        autostart: true,
        once: false,
        options: None,
    };
    refused(
        grpc.domains().set_autostart(autostart).await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    assert!(grpc.create(&guest("t")).await.is_err(), "another of that name");
    grpc.power_off("t").await?;
    let last = watch.until("stopped/1").await?;
    assert_eq!(last, ["shutdown/2", "stopped/1"]);
    refused(grpc.get("t").await, Code::NotFound, "NO_DOMAIN")?;
    assert!(!sandbox.path("/etc/libvirt/qemu/t.xml").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_start_with_the_host_do() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    for name in ["a", "b"] {
        grpc.define(&guest(name)).await?;
    }
    let set = |name: &str, autostart| pb::SetAutostartRequest {
        domain: by_name(name),
        autostart,
        once: false,
        options: None,
    };
    grpc.domains().set_autostart(set("a", true)).await?;
    grpc.domains().set_autostart(set("b", true)).await?;
    grpc.domains().set_autostart(set("b", false)).await?;
    assert!(grpc.get("a").await?.autostart && !grpc.get("b").await?.autostart);
    let link = sandbox.path("/etc/libvirt/qemu/autostart/a.xml");
    assert_eq!(std::fs::read_link(&link)?, Path::new("/etc/libvirt/qemu/a.xml"));
    // A daemon that is only restarted starts nobody; one that comes up with the host does.
    sandbox.restart()?;
    let grpc = Grpc::of(&sandbox).await?;
    assert_eq!(grpc.get("a").await?.state(), pb::State::Shutoff);
    sandbox.stop()?;
    std::fs::remove_file(sandbox.path("/run/libvirt/qemu/autostarted"))?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.wait("a", "the guest to start", SOON, |d| {
        d.state() == pb::State::Running
    })
    .await?;
    assert_eq!(grpc.get("b").await?.state(), pb::State::Shutoff);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn etag_request_id_and_validate_only_are_kept() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let mut watch = grpc.watch().await?;
    let define = |name: &str, options: pb::MutationOptions| pb::DefineRequest {
        xml: guest(name),
        validate: false,
        options: Some(options),
    };
    let options = |request_id: &str, etag: &str, validate_only| pb::MutationOptions {
        request_id: request_id.to_owned(),
        etag: etag.to_owned(),
        validate_only,
    };
    // A trial changes nothing, and finds what is wrong.
    let trial = grpc.domains().define(define("a", options("", "", true))).await?;
    assert_eq!(trial.get_ref().name, "a");
    assert!(grpc.names().await?.is_empty());
    assert!(!sandbox.path("/etc/libvirt/qemu/a.xml").exists());

    // Once by request id, even if the guest is gone meanwhile.
    let first = grpc
        .domains()
        .define(define("a", options("one", "", false)))
        .await?;
    let again = grpc
        .domains()
        .define(define("a", options("one", "", false)))
        .await?;
    assert_eq!(first.get_ref(), again.get_ref());
    watch.expect(&["defined/0"]).await?;

    // By etag.
    let etag = grpc.get("a").await?.etag;
    let undefine = |options| pb::UndefineRequest {
        domain: by_name("a"),
        options: Some(options),
        ..Default::default()
    };
    let xml = grpc.xml("a").await?;
    grpc.define(&xml).await?;
    watch.expect(&["defined/1"]).await?;
    let stale = grpc.domains().undefine(undefine(options("", &etag, false))).await;
    refused(stale, Code::Aborted, "ETAG_MISMATCH")?;
    let start = pb::StartRequest {
        domain: by_name("a"),
        options: Some(options("", &etag, false)),
        ..Default::default()
    };
    refused(
        grpc.domains().start(start.clone()).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    )?;
    let fresh = grpc.get("a").await?.etag;
    let trial = pb::StartRequest {
        options: Some(options("", &fresh, true)),
        ..start
    };
    grpc.domains().start(trial).await?;
    assert_eq!(grpc.get("a").await?.etag, fresh);
    grpc.domains()
        .undefine(undefine(options("", &fresh, true)))
        .await?;
    grpc.domains()
        .undefine(undefine(options("", &fresh, false)))
        .await?;
    watch.expect(&["undefined/0"]).await?;
    let long = "x".repeat(129);
    refused(
        grpc.domains()
            .define(define("b", options(&long, "", false)))
            .await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clashes_or_is_nonsense_is_refused() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let a = grpc.define(&guest("a")).await?;
    refused(grpc.define(&guest("a")).await, Code::AlreadyExists, "DOM_EXIST")?;
    let other_name = grpc.xml("a").await?.replace("<name>a</name>", "<name>b</name>");
    refused(grpc.define(&other_name).await, Code::AlreadyExists, "DOM_EXIST")?;
    for xml in ["", "<domain", "<domain type='qemu'/>", "<network/>"] {
        let status = grpc.define(xml).await.expect_err(xml);
        assert_eq!(status.code(), Code::InvalidArgument, "{xml:?}: {status:?}");
    }
    for name in ["", "a/b", "a\nb"] {
        assert!(grpc.rename("a", name).await.is_err(), "{name:?}");
    }
    refused(grpc.rename("a", "a").await, Code::InvalidArgument, "INVALID_ARG")?;
    grpc.define(&guest("b")).await?;
    refused(grpc.rename("a", "b").await, Code::AlreadyExists, "DOM_EXIST")?;
    for domain in [
        by_name("nobody"),
        by_uuid("00000000-0000-0000-0000-000000000000"),
        by_id(99),
    ] {
        let view = pb::View::Basic.into();
        refused(
            grpc.domains()
                .get(pb::GetRequest {
                    domain,
                    view,
                    ..Default::default()
                })
                .await,
            Code::NotFound,
            "NO_DOMAIN",
        )?;
    }
    for domain in [None, by_uuid("no uuid"), Some(pb::DomainRef::default())] {
        let view = pb::View::Basic.into();
        let status = grpc
            .domains()
            .get(pb::GetRequest {
                domain,
                view,
                ..Default::default()
            })
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    assert_eq!(grpc.get("a").await?.uuid, a.uuid);
    assert_eq!(grpc.names().await?, ["a", "b"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_and_filter() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let mut wanted: Vec<String> = (0..25).map(|n| format!("g{n}")).collect();
    for name in &wanted {
        grpc.define(&guest(name)).await?;
    }
    wanted.sort();
    for page_size in [1, 7, 25, 26] {
        let (mut got, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let request = pb::ListRequest {
                page_size,
                page_token: token,
                ..Default::default()
            };
            let page = grpc.list(request).await?;
            assert_eq!(page.total_size, 25);
            got.extend(page.domains.into_iter().map(|d| d.name));
            token = page.next_page_token;
            pages += 1;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(got, wanted, "pages of {page_size}");
        assert_eq!(pages, (25 + page_size - 1) / page_size, "pages of {page_size}");
    }
    let negative = pb::ListRequest {
        page_size: -1,
        ..Default::default()
    };
    refused(grpc.list(negative).await, Code::InvalidArgument, "INVALID_ARG")?;
    grpc.start_paused("g3").await?;
    grpc.create(&guest("t")).await?;
    let filtered = |filter: pb::Filter| {
        let grpc = grpc.clone();
        async move {
            let request = pb::ListRequest {
                filter: Some(filter),
                ..Default::default()
            };
            let names = grpc.list(request).await?.domains.into_iter();
            anyhow::Ok(names.map(|d| d.name).collect::<Vec<_>>())
        }
    };
    let filter = pb::Filter::default;
    let active = pb::Filter {
        active: Some(true),
        ..filter()
    };
    assert_eq!(filtered(active).await?, ["g3", "t"]);
    let transient = pb::Filter {
        persistent: Some(false),
        ..filter()
    };
    assert_eq!(filtered(transient).await?, ["t"]);
    let paused = pb::Filter {
        states: vec![pb::State::Paused.into()],
        ..filter()
    };
    assert_eq!(filtered(paused).await?, ["g3"]);
    let off = pb::Filter {
        active: Some(false),
        ..filter()
    };
    assert_eq!(filtered(off).await?.len(), 24);
    let both = pb::Filter {
        active: Some(true),
        persistent: Some(true),
        ..filter()
    };
    assert_eq!(filtered(both).await?, ["g3"]);
    let auto = pb::Filter {
        autostart: Some(true),
        ..filter()
    };
    assert!(filtered(auto).await?.is_empty());
    Ok(())
}

/// A client on a console.
struct Typist {
    input: mpsc::Sender<pb::AttachRequest>,
    output: Streaming<pb::AttachResponse>,
    seen: String,
}

impl Typist {
    async fn attach(grpc: &Grpc, name: &str, force: bool) -> Answer<Self> {
        let (input, receiver) = mpsc::channel(8);
        let open = pb::attach_request::Open {
            domain: by_name(name),
            force,
            ..Default::default()
        };
        let message = Some(Message::Open(open));
        let _ = input.send(pb::AttachRequest { message }).await;
        let output = grpc.consoles().attach(ReceiverStream::new(receiver)).await?;
        Ok(Self {
            input,
            output: output.into_inner(),
            seen: String::new(),
        })
    }

    async fn type_line(&self, line: &str) -> Result<()> {
        let message = Some(Message::Data(format!("{line}\n").into_bytes()));
        Ok(self.input.send(pb::AttachRequest { message }).await?)
    }

    async fn wait(&mut self, text: &str) -> Result<()> {
        let reading = async {
            while !self.seen.contains(text) {
                let data = self.output.message().await?.context("the stream ended")?.data;
                self.seen.push_str(&String::from_utf8_lossy(&data));
            }
            Ok(())
        };
        let result = tokio::time::timeout(BOOT, reading).await;
        result
            .unwrap_or_else(|_| Err(anyhow::anyhow!("not in time")))
            .with_context(|| format!("{text:?} on the console: {}", self.seen))
    }

    /// The stream ends, by its end or an error.
    async fn ended(&mut self) -> Result<()> {
        let end = async { while let Ok(Some(_)) = self.output.message().await {} };
        Ok(tokio::time::timeout(SOON, end).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_typed_to_and_shuts_down_when_asked() -> Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.define(&GuestSpec::new("g").xml(&image)).await?;
    let status = Typist::attach(&grpc, "g", false)
        .await
        .err()
        .context("attached to what is off")?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let mut watch = grpc.watch().await?;
    grpc.start("g").await?;
    watch.expect(&["resumed/0", "started/0"]).await?;
    let mut first = Typist::attach(&grpc, "g", false).await?;
    first.wait(READY).await?;
    first.type_line("echo $((6*7))-typed").await?;
    first.wait("42-typed").await?;

    // One at a time, unless forced.
    let second = Typist::attach(&grpc, "g", false).await;
    let status = second.err().context("two on one console")?;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "CONSOLE_IN_USE"),
        "{status:?}"
    );
    let mut forced = Typist::attach(&grpc, "g", true).await?;
    first.ended().await?;
    forced.type_line("echo $((7*7))-again").await?;
    forced.wait("49-again").await?;

    let shutdown = pb::ShutdownRequest {
        domain: by_name("g"),
        modes: vec![pb::PowerMode::Acpi.into()],
        options: None,
    };
    grpc.domains().shutdown(shutdown).await?;
    forced.ended().await?;
    let told = watch.until("stopped/0").await?;
    ensure!(told == ["shutdown/1", "stopped/0"], "{told:?}");
    assert_eq!(grpc.state("g").await?, Reason::ShutoffShutdown);
    assert_eq!(sandbox.guest_pid("g"), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_bound_to_a_session_ends_with_it() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let open = pb::OpenSessionRequest {};
    let mut session = grpc.domains().open_session(open).await?.into_inner();
    let id = session.message().await?.context("no session")?.session;
    let create = |name: &str, session: &str| pb::CreateRequest {
        xml: guest(name),
        autodestroy_session: session.to_owned(),
        ..Default::default()
    };
    let unknown = grpc.domains().create(create("x", "no such session")).await;
    refused(unknown, Code::InvalidArgument, "INVALID_ARG")?;
    grpc.domains().create(create("bound", &id)).await?;
    grpc.domains().create(create("free", "")).await?;
    let mut watch = grpc.watch().await?;
    drop(session);
    let told = watch.until("stopped/1").await?;
    assert_eq!(told, ["shutdown/2", "stopped/1"]);
    assert_eq!(grpc.names().await?, ["free"]);
    Ok(())
}

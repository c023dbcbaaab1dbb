//! What the contract promises beyond single calls: choices that are refused, etags, requests that can be repeated,
//! reflection and health, devices as resources, and its clients.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pb::configure_request::{Change, Lifecycle};
use testkit::sandbox::GRPC_SOCKET;
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, place::program, process};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use virtqemud_client::{News, Services, Watch, connect, connect_lazily, proto as pb};

use crate::grpc::{Grpc, QEMU, READ_ONLY_SOCKET, SOON, by_name, daemon, reason, refused, small};

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "")
}

/// The field that a refusal names.
fn field(status: &Status) -> String {
    let bad = status.get_details_bad_request();
    let first = bad.and_then(|bad| bad.field_violations.into_iter().next());
    first.map(|bad| bad.field).unwrap_or_default()
}

fn options(request_id: impl Into<String>) -> Option<pb::MutationOptions> {
    Some(pb::MutationOptions {
        request_id: request_id.into(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_is_not_made_or_not_known_is_refused_by_its_field() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.define(&guest("g")).await?;
    let before = grpc.xml("g").await?;
    let configure = |scope, change| pb::ConfigureRequest {
        domain: by_name("g"),
        scope,
        change,
        options: None,
    };
    let lifecycle = |event, action| Some(Change::Lifecycle(Lifecycle { event, action }));
    // table: scope, change, the field that is named
    for (scope, change, expected) in [
        (0, lifecycle(1, 2), "scope"),
        (77, lifecycle(1, 2), "scope"),
        (3, lifecycle(0, 0), "lifecycle.event"),
        (3, lifecycle(1, 0), "lifecycle.action"),
        (3, lifecycle(1, 99), "lifecycle.action"),
        (3, None, "change"),
        (3, Some(Change::Vcpus(0)), "vcpus"),
    ] {
        let answer = grpc.domains().configure(configure(scope, change.clone())).await;
        let status = refused(answer, Code::InvalidArgument, "INVALID_ARG")?;
        ensure!(field(&status) == expected, "{change:?}: {}", field(&status));
    }
    let get = |view, scope| pb::GetRequest {
        domain: by_name("g"),
        view,
        scope,
    };
    for (request, expected) in [(get(9, 0), "view"), (get(1, 3), "scope"), (get(2, 4), "scope")] {
        let status = refused(
            grpc.domains().get(request).await,
            Code::InvalidArgument,
            "INVALID_ARG",
        )?;
        ensure!(field(&status) == expected, "{}", field(&status));
    }
    let stats = pb::GetStatsRequest {
        groups: vec![3],
        ..Default::default()
    };
    let status = refused(
        grpc.domains().get_stats(stats).await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    assert_eq!(field(&status), "groups");
    let watch = pb::WatchRequest {
        kinds: vec![7],
        ..Default::default()
    };
    let status = grpc.events().watch(watch).await.expect_err("an unknown kind");
    assert_eq!(
        (status.code(), field(&status).as_str()),
        (Code::InvalidArgument, "kinds")
    );
    let kinds = pb::GetMetadataRequest {
        domain: by_name("g"),
        ..Default::default()
    };
    let status = refused(
        grpc.domains().get_metadata(kinds).await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    assert_eq!(field(&status), "kind");
    assert_eq!(grpc.xml("g").await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_answers_the_etag_to_go_on_with() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let domain = by_name("g");
    let with = |etag: String| {
        Some(pb::MutationOptions {
            etag,
            ..Default::default()
        })
    };
    let mut domains = grpc.domains();
    let etag = grpc.define(&guest("g")).await?.etag;
    let autostart = pb::SetAutostartRequest {
        domain: domain.clone(),
        autostart: true,
        once: false,
        options: with(etag.clone()),
    };
    let first = domains.set_autostart(autostart.clone()).await?.into_inner();
    assert_ne!(first.etag, etag);
    refused(
        domains.set_autostart(autostart).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    )?;
    let change = pb::ConfigureRequest {
        domain: domain.clone(),
        scope: pb::Scope::Config.into(),
        change: Some(Change::Title(pb::configure_request::Text {
            value: Some("t".to_owned()),
        })),
        options: with(first.etag),
    };
    let etag = domains.configure(change).await?.into_inner().etag;
    let (domain, options) = (domain, with(etag));
    let start = pb::StartRequest {
        domain: domain.clone(),
        options,
        ..Default::default()
    };
    let started = domains.start(start).await?.into_inner();
    let (d, options) = (domain.clone(), with(started.etag));
    let paused = domains
        .suspend(pb::SuspendRequest { domain: d, options })
        .await?
        .into_inner();
    assert_eq!(paused.state(), pb::State::Paused);
    let (d, options) = (domain.clone(), with(paused.etag));
    let resumed = domains
        .resume(pb::ResumeRequest { domain: d, options })
        .await?
        .into_inner();
    let off = pb::PowerOffRequest {
        domain: domain.clone(),
        options: with(resumed.etag),
        ..Default::default()
    };
    let off = domains.power_off(off).await?.into_inner();
    assert_eq!(off.state(), pb::State::Shutoff);
    let gone = pb::UndefineRequest {
        domain,
        options: with(off.etag),
        ..Default::default()
    };
    assert_eq!(domains.undefine(gone).await?.into_inner().domain, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_repeated_after_a_hang_up_gets_the_first_answer() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    // A name that no other sandbox has: its process is looked for.
    let name = format!("once{}", std::process::id());
    grpc.define(&guest(&name)).await?;
    let start = pb::StartRequest {
        domain: by_name(&name),
        options: options("start-once"),
        ..Default::default()
    };
    // Long enough for the request to arrive, and shorter than QEMU takes.
    let mut hung_up = 0;
    for patience in [30, 60] {
        let mut domains = Grpc::of(&sandbox).await?.domains();
        let answer = timeout(Duration::from_millis(patience), domains.start(start.clone())).await;
        hung_up += u32::from(answer.is_err());
    }
    ensure!(hung_up > 0, "no start was slow enough to hang up on");
    let answer = grpc.domains().start(start.clone()).await?.into_inner();
    assert_eq!((answer.state(), answer.id > 0), (pb::State::Running, true));
    assert_eq!(grpc.domains().start(start).await?.into_inner(), answer);
    let mark = format!("guest={name},");
    let is_ours =
        |pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&mark));
    assert_eq!(process::find(is_ours).len(), 1, "one guest, one process");
    grpc.power_off(&name).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_id_is_refused_to_another_request() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let define = |name| pb::DefineRequest {
        xml: guest(name),
        options: options("one"),
        ..Default::default()
    };
    grpc.domains().define(define("a")).await?;
    let status = refused(
        grpc.domains().define(define("b")).await,
        Code::InvalidArgument,
        "REQUEST_ID_REUSED",
    )?;
    assert_eq!(field(&status), "options.request_id");
    assert_eq!(grpc.names().await?, ["a"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_outlives_the_daemon() -> Result<()> {
    let mut sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let define = |title: &str| pb::DefineRequest {
        xml: guest("g").replace("<memory", &format!("<title>{title}</title><memory")),
        options: options("one"),
        ..Default::default()
    };
    let bad = pb::DefineRequest {
        xml: "<domain/>".to_owned(),
        options: options("two"),
        ..Default::default()
    };
    let first = grpc.domains().define(define("a")).await?.into_inner();
    let refusal = grpc.domains().define(bad.clone()).await.expect_err("no guest");
    grpc.undefine("g").await?;
    for _ in 0..2 {
        sandbox.kill()?;
        sandbox.start()?;
        let grpc = Grpc::of(&sandbox).await?;
        assert_eq!(grpc.domains().define(define("a")).await?.into_inner(), first);
        let again = grpc.domains().define(bad.clone()).await.expect_err("no guest");
        assert_eq!(
            (again.code(), again.message(), again.details()),
            (refusal.code(), refusal.message(), refusal.details())
        );
        let other = grpc.domains().define(define("b")).await;
        refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED")?;
        ensure!(grpc.names().await?.is_empty(), "it was defined again");
    }
    // Files that say nothing are no reason not to start, and what is new is kept beside them.
    sandbox.kill()?;
    let own = sandbox.path("/run/libvirt/qemu/virtqemud");
    for entry in std::fs::read_dir(&own)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("answers."))
        {
            std::fs::write(path, "nothing")?;
        }
    }
    for _ in 0..2 {
        sandbox.start()?;
        let answer = Grpc::of(&sandbox)
            .await?
            .domains()
            .define(define("b"))
            .await?
            .into_inner();
        ensure!(answer.etag != first.etag);
        sandbox.kill()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_did_not_end_is_not_done_again() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut stage = crate::stage::Stage::new().await?;
    let record = stage.sandbox.dir().join("fake/cut.record");
    let hangs = serde_json::json!({"record": record, "rules": [{"execute": "cont", "then": "hang"}]});
    stage.define("cut", &hangs).await?;
    let start = |paused| pb::StartRequest {
        domain: by_name("cut"),
        options: options("cut"),
        paused,
        ..Default::default()
    };
    let mut domains = stage.grpc.domains();
    let request = start(false);
    let call = tokio::spawn(async move { domains.start(request).await });
    let is_asked = || {
        let asked = testkit::fake_qemu::program::read_record(&record);
        asked.is_ok_and(|asked| asked.iter().any(|one| one.execute == "cont"))
    };
    testkit::wait::wait_until("the start to be half done", SOON, is_asked)?;
    stage.sandbox.kill()?;
    ensure!(call.await?.is_err());
    stage.script("cut", &serde_json::json!({"record": record}))?;
    stage.sandbox.start()?;
    let grpc = Grpc::of(&stage.sandbox).await?;
    for _ in 0..2 {
        let again = grpc.domains().start(start(false)).await;
        refused(again, Code::Aborted, "REQUEST_INTERRUPTED")?;
    }
    let other = grpc.domains().start(start(true)).await;
    refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED")?;
    grpc.wait("cut", "undone", SOON, |guest| guest.state() == pb::State::Shutoff)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_caller_have_the_callers_codes() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    for name in ["a", "b"] {
        grpc.define(&guest(name)).await?;
    }
    let status = grpc
        .define("<domain/>")
        .await
        .expect_err("a domain without a type");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = grpc.rename("a", "b").await.expect_err("a taken name");
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    let zero = pb::GetRequest {
        domain: crate::grpc::by_id(0),
        ..Default::default()
    };
    let status = grpc.domains().get(zero).await.expect_err("id 0");
    assert_eq!(
        (status.code(), field(&status).as_str()),
        (Code::InvalidArgument, "domain.id")
    );
    let status = grpc.define("").await.expect_err("an empty document");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    // Reading is allowed, the secrets are not: the refusal says so.
    let reader = Grpc::at(sandbox.path(READ_ONLY_SOCKET)).await?;
    let secure = pb::GetXmlRequest {
        domain: by_name("a"),
        secure: true,
        ..Default::default()
    };
    let status = refused(
        reader.domains().get_xml(secure).await,
        Code::PermissionDenied,
        "OPERATION_DENIED",
    )?;
    ensure!(status.message().ends_with("GetXml with secure"), "{status:?}");
    reader.xml("a").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_and_found_by_their_alias() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    let xml = guest("g").replace(
        "<controller type='usb' model='none'/>",
        "<controller type='usb' model='qemu-xhci'/>",
    );
    let keyboard = "<input type='keyboard' bus='usb'><alias name='ua-keys'/></input></devices>";
    let etag = grpc.define(&xml.replace("</devices>", keyboard)).await?.etag;
    let list = |families| pb::ListDevicesRequest {
        domain: by_name("g"),
        scope: pb::Scope::Config.into(),
        families,
    };
    let all = grpc.devices().list_devices(list(vec![])).await?.into_inner();
    assert_eq!(all.etag, etag);
    let family = pb::DeviceFamily::Controller.into();
    let controllers = grpc
        .devices()
        .list_devices(list(vec![family]))
        .await?
        .into_inner()
        .devices;
    ensure!(!controllers.is_empty() && controllers.len() < all.devices.len());
    ensure!(
        controllers
            .iter()
            .all(|device| device.family == family && device.xml.starts_with("<controller"))
    );
    let get = |alias: &str| pb::GetDeviceRequest {
        domain: by_name("g"),
        scope: pb::Scope::Current.into(),
        alias: alias.to_owned(),
    };
    let keys = grpc.devices().get_device(get("ua-keys")).await?.into_inner();
    assert_eq!(
        (keys.family(), keys.state()),
        (pb::DeviceFamily::Input, pb::DeviceState::Stored)
    );
    ensure!(keys.xml.starts_with("<input type='keyboard'"), "{}", keys.xml);
    ensure!(matches!(
        keys.address.context("an address")?.bus,
        Some(pb::device_address::Bus::Usb(_))
    ));
    refused(
        grpc.devices().get_device(get("ua-none")).await,
        Code::NotFound,
        "DEVICE_MISSING",
    )?;
    refused(
        grpc.devices().get_device(get("")).await,
        Code::NotFound,
        "DEVICE_MISSING",
    )?;
    Ok(())
}

#[test]
fn reflection_knows_the_details_of_errors_and_health_every_service() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let Some(program) = program("grpcurl") else {
        skip("grpcurl is not installed (scripts/install-deps.sh)");
        return Ok(());
    };
    let run = |arguments: &[&str]| -> Result<String> {
        let socket = sandbox.path(GRPC_SOCKET);
        let mut command = Command::new(&program);
        command.args(["-plaintext", "-unix"]);
        let (options, rest) = arguments.split_at(arguments.len() - 1);
        let answer = command.args(options).arg(socket).args(rest).output()?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr))
    };
    let error = run(&["-d", "{\"domain\":{\"name\":\"x\"}}", "virtqemud.v1.Domains/Get"])?;
    ensure!(
        error.contains("\"reason\"") && error.contains("NO_DOMAIN"),
        "{error}"
    );
    let services = run(&["list"])?;
    let ours: Vec<_> = services
        .lines()
        .filter(|name| name.starts_with("virtqemud.v1."))
        .collect();
    ensure!(ours.len() >= 9, "{services}");
    for name in ours {
        let ask = format!("{{\"service\":\"{name}\"}}");
        let health = run(&["-d", &ask, "grpc.health.v1.Health/Check"])?;
        ensure!(health.contains("SERVING"), "{name}: {health}");
    }
    Ok(())
}

/// The next event of a watch.
async fn event<T>(watch: &mut Watch<T>) -> Result<pb::Event>
where
    Watch<T>: Sized,
    T: tonic::client::GrpcService<tonic::body::Body> + Clone,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    loop {
        match timeout(SOON, watch.next()).await.context("no event came")?? {
            News::Event(event) => return Ok(*event),
            News::Reset => anyhow::bail!("events were lost"),
            News::Bookmark(_) | News::Initial(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_client_goes_on_over_restarts_of_the_daemon() -> Result<()> {
    let mut sandbox = Sandbox::started(daemon())?;
    let services: Services<_> = connect_lazily(sandbox.path(GRPC_SOCKET));
    let request = pb::WatchRequest {
        send_initial_state: true,
        ..Default::default()
    };
    let mut watch = Watch::new(&services, request);
    ensure!(matches!(watch.next().await?, News::Bookmark(_)));
    for (round, name) in ["a", "b", "c"].into_iter().enumerate() {
        let grpc = Grpc::of(&sandbox).await?;
        grpc.define(&guest(name)).await?;
        if round == 1 {
            sandbox.kill()?;
            sandbox.start()?;
        } else {
            sandbox.restart()?;
        }
        let told = event(&mut watch).await?;
        assert_eq!(
            (told.name.as_str(), crate::grpc::word(&told).as_str()),
            (name, "defined/0")
        );
    }
    Ok(())
}

/// The finer reasons that the sources below a folder give.
fn reasons_in(folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            reasons_in(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let given = text.split("because(\"").skip(1);
            found.extend(given.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_knows_every_reason() -> Result<()> {
    use virtqemud::error::Code as Daemon;
    let known = |reason: &str| {
        virtqemud_client::Reason::ALL
            .iter()
            .any(|(_, text)| *text == reason)
    };
    let mut told: Vec<_> = Daemon::ALL.iter().map(|code| code.reason().to_owned()).collect();
    reasons_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut told)?;
    ensure!(told.len() > Daemon::ALL.len() + 10, "{told:?}");
    told.retain(|text| !known(text));
    ensure!(told.is_empty(), "{told:?}");
    let sandbox = Sandbox::started(daemon())?;
    let services = connect(sandbox.path(GRPC_SOCKET)).await?;
    let get = pb::GetRequest {
        domain: virtqemud_client::by_name("x"),
        ..Default::default()
    };
    let status = services.domains().get(get).await.expect_err("no guest");
    assert_eq!(reason(&status), "NO_DOMAIN");
    assert_eq!(
        virtqemud_client::Failure::from(status).reason,
        virtqemud_client::Reason::NoDomain
    );
    Ok(())
}

#[test]
fn the_example_in_python_works_as_it_is_told() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/tools/python");
    if !packages.join("grpc_status").exists() {
        skip("Python's gRPC is not installed (scripts/install-deps.sh)");
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let dir = tempfile::tempdir()?;
    let python = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new("python3");
        let path = std::env::join_paths([dir.path(), &packages])?;
        let answer = command
            .env("PYTHONPATH", path)
            .args(arguments)
            .current_dir(root)
            .output()?;
        let (told, wrong) = (
            answer.stdout,
            String::from_utf8_lossy(&answer.stderr).into_owned(),
        );
        ensure!(answer.status.success(), "python3 {arguments:?}: {wrong}");
        Ok(String::from_utf8_lossy(&told).into_owned())
    };
    let out = dir.path().to_string_lossy().into_owned();
    let (messages, services) = (format!("--python_out={out}"), format!("--grpc_python_out={out}"));
    let mut generate = vec!["-m", "grpc_tools.protoc", "-I", "proto", &messages, &services];
    let files: Vec<_> = std::fs::read_dir(root.join("proto/virtqemud/v1"))?
        .map(|entry| Ok(entry?.path().strip_prefix(root)?.to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    generate.extend(files.iter().map(String::as_str));
    python(&generate)?;
    let document = dir.path().join("demo.xml");
    std::fs::write(&document, guest("demo"))?;
    // The socket's path goes to the daemon as the authority, percent-encoded.
    let target = format!("unix:{}", sandbox.path(GRPC_SOCKET).display());
    let told = python(&["client/examples/guests.py", &target, &document.to_string_lossy()])?;
    let expected = [
        "defined demo",
        "started with id 1",
        "refused: FAILED_PRECONDITION OPERATION_INVALID",
        "state STATE_SHUTOFF",
        "event DETAIL_RESUMED_UNPAUSED",
        "event DETAIL_STARTED_BOOTED",
        "event DETAIL_STOPPED_DESTROYED",
    ];
    // What QEMU says of its own end comes or not: it is killed.
    let told = told.lines().filter(|line| *line != "event DETAIL_SHUTDOWN_HOST");
    assert_eq!(told.collect::<Vec<_>>(), expected);
    Ok(())
}

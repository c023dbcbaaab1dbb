//! Each step of a save that QEMU refuses: the guest runs on, no file is left, and nothing is noted any more.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::skip::can_run_guests;
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, by_name};
use crate::host::root;
use crate::stage::Stage;

/// Saves a guest, and waits for the end of that.
async fn save(grpc: &Grpc, name: &str, path: &str) -> Answer<()> {
    let channel = grpc.channel();
    let request = pb::SaveRequest {
        domain: by_name(name),
        path: path.to_owned(),
        ..Default::default()
    };
    let mut saves = pb::saves_client::SavesClient::new(channel);
    let begun = saves.save(request).await?.into_inner();
    let request = pb::WaitOperationRequest {
        id: begun.id,
        timeout: None,
    };
    let ended = grpc.operations().wait_operation(request).await?.into_inner();
    match ended.result {
        Some(pb::operation::Result::Error(error)) => Err(virtqemud_client::Failure::from(error).into()),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_save_that_is_refused_leaves_the_guest_running() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let stage = Stage::new().await?;
    let path = stage.sandbox.dir().join("image");
    // table: the command, and which of that name. A start sets capabilities, too.
    for (at, (execute, nth)) in [
        ("query-migrate", 1),
        ("stop", 1),
        ("migrate-set-capabilities", 2),
        ("migrate-set-parameters", 1),
        ("getfd", 1),
        ("migrate", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("s{at}");
        let error = json!({"class": "GenericError", "desc": "not today"});
        let rule = json!({"execute": execute, "nth": nth, "error": error});
        stage.script(&name, &json!({"rules": [rule]}))?;
        stage.grpc.create(&stage.xml(&name, "")).await?;
        let refused = save(&stage.grpc, &name, &path.to_string_lossy()).await;
        let refused = refused.err().map(|status| status.message().to_owned());
        ensure!(
            refused.as_ref().is_some_and(|text| text.contains("not today")),
            "{execute}: {refused:?}"
        );
        let state = stage.grpc.get(&name).await?.state();
        ensure!(state == pb::State::Running, "{execute}: {state:?}");
        ensure!(!path.exists(), "{execute}: a file is left");
        let notes = std::fs::read_dir(root(&stage.sandbox)?.join("run/libvirt/qemu/virtqemud"))?;
        let left = notes
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with("intent-"));
        ensure!(!left, "{execute}: a note is left");
        stage.grpc.power_off(&name).await?;
    }
    Ok(())
}

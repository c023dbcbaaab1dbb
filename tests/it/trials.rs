//! A trial refuses what the change would be refused for, in the same words.

use anyhow::{Result, ensure};
use tonic::{Code, Response};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, by_name, refused};
use crate::snapshots::Stage;

/// What an operation was refused for, when it was asked for or later.
async fn failure(grpc: &Grpc, begun: Answer<Response<pb::Operation>>) -> Result<String> {
    let begun = match begun {
        Err(status) => return Ok(status.message().to_owned()),
        Ok(begun) => begun.into_inner(),
    };
    ensure!(!begun.id.is_empty(), "a trial lets it pass");
    let request = pb::WaitOperationRequest {
        id: begun.id,
        timeout: None,
    };
    match grpc
        .operations()
        .wait_operation(request)
        .await?
        .into_inner()
        .result
    {
        Some(pb::operation::Result::Error(error)) => Ok(error.message),
        other => anyhow::bail!("{other:?}"),
    }
}

fn said<T>(answer: Answer<T>) -> String {
    answer
        .err()
        .map_or_else(|| "nothing".to_owned(), |status| status.message().to_owned())
}

fn options(validate_only: bool, etag: &str) -> Option<pb::MutationOptions> {
    Some(pb::MutationOptions {
        validate_only,
        etag: etag.to_owned(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_where_nothing_can_be_made_is_refused_by_the_trial_as_by_the_change() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    stage.grpc.start("g").await?;
    let (grpc, domain) = (&stage.grpc, by_name("g"));
    let mut saves = pb::saves_client::SavesClient::new(grpc.channel());
    let mut jobs = pb::block_jobs_client::BlockJobsClient::new(grpc.channel());
    let mut backups = pb::backups_client::BackupsClient::new(grpc.channel());
    let path = stage
        .sandbox
        .dir()
        .join("none/file")
        .to_string_lossy()
        .into_owned();
    let mut answers = Vec::new();
    for trial in [true, false] {
        let save = pb::SaveRequest {
            domain: domain.clone(),
            path: path.clone(),
            options: options(trial, ""),
            ..Default::default()
        };
        let dump = pb::DumpRequest {
            domain: domain.clone(),
            path: path.clone(),
            options: options(trial, ""),
            ..Default::default()
        };
        let copy = pb::CopyBlocksRequest {
            domain: domain.clone(),
            disk: "vda".to_owned(),
            destination: Some(pb::copy_blocks_request::Destination::Path(pb::CopyPath {
                path: path.clone(),
                ..Default::default()
            })),
            transient_job: true,
            options: options(trial, ""),
            ..Default::default()
        };
        let target = format!("<disk name='vda' type='file'><target file='{path}'/></disk>");
        let backup = pb::BeginBackupRequest {
            domain: domain.clone(),
            xml: format!("<domainbackup><disks>{target}</disks></domainbackup>"),
            options: options(trial, ""),
            ..Default::default()
        };
        let disk = format!("<disk name='vda' snapshot='external'><source file='{path}'/></disk>");
        let disk = format!("<name>d</name><disks>{disk}</disks>");
        let memory = format!("<name>m</name><memory snapshot='external' file='{path}'/>");
        let disk = stage.create(&disk, |r| (r.disk_only, r.options) = (true, options(trial, "")));
        let memory = stage.create(&memory, |r| r.options = options(trial, ""));
        answers.push([
            failure(grpc, saves.save(save).await).await?,
            failure(grpc, saves.dump(dump).await).await?,
            said(jobs.copy(copy).await),
            said(backups.begin(backup).await),
            said(disk.await),
            said(memory.await),
        ]);
    }
    assert_eq!(answers[0], answers[1]);
    for answer in &answers[0] {
        assert!(answer.ends_with("No such file or directory"), "{answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_can_not_be_restored_is_refused_by_the_trial() -> Result<()> {
    let Some(stage) = Stage::set().await? else {
        return Ok(());
    };
    let grpc = &stage.grpc;
    grpc.start("g").await?;
    let mut saves = pb::saves_client::SavesClient::new(grpc.channel());
    let path = stage.sandbox.dir().join("saved").to_string_lossy().into_owned();
    let save = pb::SaveRequest {
        domain: by_name("g"),
        path: path.clone(),
        ..Default::default()
    };
    let id = saves.save(save).await?.into_inner().id;
    let wait = pb::WaitOperationRequest { id, timeout: None };
    grpc.operations().wait_operation(wait).await?;
    let restore = |etag: &str| pb::RestoreRequest {
        path: path.clone(),
        options: options(true, etag),
        ..Default::default()
    };
    saves.restore(restore("")).await?;
    refused(
        saves.restore(restore("another")).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    )?;
    let update = pb::UpdateImageRequest {
        image: Some(pb::ImageRef {
            r#ref: Some(pb::image_ref::Ref::Path(path.clone())),
        }),
        options: options(false, "another"),
        ..Default::default()
    };
    refused(
        saves.update_image(update).await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    grpc.start("g").await?;
    refused(
        saves.restore(restore("")).await,
        Code::FailedPrecondition,
        "OPERATION_INVALID",
    )?;
    let document = grpc.xml("g").await?;
    let create = pb::CreateRequest {
        xml: document,
        options: options(true, ""),
        ..Default::default()
    };
    let created = grpc.domains().create(create).await;
    refused(created, Code::FailedPrecondition, "OPERATION_INVALID")?;
    Ok(())
}

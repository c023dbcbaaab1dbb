//! `vhost-user-gpu`, which draws a guest's screen beside QEMU: a program for each such screen, which is started before QEMU
//! and ends with it. The two speak over a pair of sockets.

use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

use domxml::devices::{Video, VideoBackend, common::YesNo};
use qemu_plan::command::{DeviceResources, Resources};

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::{plan, prepared::Prepared},
        holdings::helper::described,
        host::{files, identity::Identity},
        operation::undo::Undo,
    },
    qemu::{self, Helper, Process},
};

/// How long one has to end by itself once its QEMU has.
const LAST_MOMENT: Duration = Duration::from_millis(500);

fn is_drawn(video: &Video) -> bool {
    let driver = video.driver.as_ref();
    driver.is_some_and(|driver| driver.name == Some(VideoBackend::Vhostuser))
}

/// What a screen asks of its program: features, and arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    features: Vec<&'static str>,
    arguments: Vec<String>,
}

impl Wanted {
    fn of(video: &Video) -> Self {
        let acceleration = video.model.as_ref().and_then(|model| model.acceleration.as_ref());
        let mut wanted = Self::default();
        if acceleration.is_some_and(|acceleration| acceleration.accel3d == Some(YesNo::Yes)) {
            wanted.features.push("virgl");
            wanted.arguments.push("--virgl".to_owned());
        }
        if let Some(node) = acceleration.and_then(|acceleration| acceleration.rendernode.as_ref()) {
            wanted.features.push("render-node");
            wanted.arguments.push(format!("--render-node={node}"));
        }
        wanted
    }
}

fn pid_file(driver: &Driver, document: &domxml::Domain, alias: &str) -> PathBuf {
    let short = plan::short_name(document.id.unwrap_or_default(), &document.name);
    let state = &driver.registry.store().paths().state;
    state.join(format!("{short}-{alias}-vhost-user-gpu.pid"))
}

/// Whether the programs are there that a document needs.
///
/// # Errors
/// One is not.
pub(crate) async fn look(document: &domxml::Domain) -> Result<()> {
    for video in document.devices.videos.iter().filter(|video| is_drawn(video)) {
        program_of(Wanted::of(video).features).await?;
    }
    Ok(())
}

/// The first program that the host describes and that can do what is wanted.
async fn program_of(features: Vec<&'static str>) -> Result<PathBuf> {
    let find = move || {
        let has_all = |told: &described::Description| {
            let has = |wanted: &&str| told.features.iter().any(|feature| feature == wanted);
            features.iter().all(has)
        };
        described::find("gpu", has_all)
    };
    let found = crate::blocking::file("looking for vhost-user-gpu", find).await?;
    let missing = || {
        Error::new(
            Code::OperationFailed,
            "Unable to find a satisfying vhost-user-gpu",
        )
    };
    found.ok_or_else(missing)
}

/// Starts the programs that draw the guest's screens.
///
/// # Errors
/// There is none that can do what the document asks for, or one does not start.
pub(crate) async fn plug(
    driver: &Driver,
    prepared: &Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    let document = &prepared.document;
    for video in document.devices.videos.iter().filter(|video| is_drawn(video)) {
        let alias = video.info.alias.clone().unwrap_or_default();
        let Wanted { features, arguments } = Wanted::of(video);
        let program = program_of(features).await?;
        let failed = |error| Error::system("failed to create socket", error).in_area(Area::None);
        let (ours, qemus) = UnixStream::pair().map_err(failed)?;
        let identity = Identity::of_guest(&driver.config(), document)?;
        let pid_file = pid_file(driver, document, &alias);
        undo.push("the program of a screen", end(pid_file.clone()));
        let mut helper = Helper::new(&program, identity.run_as());
        let mut line = vec![format!("--fd={}", helper.pass(ours.into()))];
        line.extend(arguments);
        let process = helper.start(line, &pid_file).await?;
        if process.has_exited() {
            return Err(Error::internal("vhost-user-gpu failed to start").in_area(Area::None));
        }
        let given = DeviceResources {
            fd: Some(qemu.pass(qemus.into())?),
            ..DeviceResources::default()
        };
        resources.devices.insert(alias, given);
    }
    Ok(())
}

/// Sees to it that the program has ended, and removes its file.
async fn end(pid_file: PathBuf) -> Result<()> {
    if let Some(process) = Process::find_locker(&pid_file)
        && tokio::time::timeout(LAST_MOMENT, process.exited()).await.is_err()
    {
        process.kill_group();
        process.exited().await?;
    }
    crate::blocking::file("removing the file of a screen's program", move || {
        files::remove(&pid_file)
    })
    .await
}

/// After a run: ends what drew its screens. What fails is logged.
pub(crate) async fn unplug(driver: &Driver, document: &domxml::Domain) {
    for video in document.devices.videos.iter().filter(|video| is_drawn(video)) {
        let alias = video.info.alias.as_deref().unwrap_or_default();
        if let Err(error) = end(pid_file(driver, document, alias)).await {
            tracing::error!(guest = document.name, %error, "the program of a screen is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_asks_for_what_its_document_says() {
        let wanted = |acceleration: &str| {
            let text = format!(
                "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices><video><driver \
                 name='vhostuser'/><model type='virtio'>{acceleration}</model></video></devices></domain>"
            );
            let document = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap();
            let video = &document.devices.videos[0];
            assert!(is_drawn(video));
            Wanted::of(video)
        };
        assert_eq!(wanted(""), Wanted::default());
        assert_eq!(wanted("<acceleration accel3d='no'/>"), Wanted::default());
        let all = wanted("<acceleration accel3d='yes' rendernode='/dev/dri/renderD128'/>");
        assert_eq!(all.features, ["virgl", "render-node"]);
        assert_eq!(all.arguments, ["--virgl", "--render-node=/dev/dri/renderD128"]);
    }
}

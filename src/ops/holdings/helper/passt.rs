//! `passt`, which connects an interface without privileges: a program for each, which ends with QEMU's connection to it.
//!
//! It goes to the background by itself and writes its number into a file, where either daemon finds it again. One that ends
//! while its guest runs is started anew when QEMU says that the connection is gone: QEMU dials until it is there.

use std::{fs, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc, time::Duration};

use domxml::devices::Interface;
use nix::unistd::{Gid, Uid, chown};
use qemu_plan::{
    command::{DeviceResources, Resources, shell_quote},
    passt,
};

use crate::{
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::{plan, prepared::Prepared},
        host::{files, identity::Identity, programs},
        operation::undo::Undo,
    },
    qemu::{Helper, Process},
};

/// How long it may take to go to the background.
const STARTING: Duration = Duration::from_secs(30);
/// How long one has to end by itself once its QEMU has.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// The files of one interface's passt.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    socket: PathBuf,
    pid_file: PathBuf,
}

impl Place {
    fn of(driver: &Driver, document: &domxml::Domain, card: &Interface) -> Self {
        let dir = driver.registry.store().paths().state.join("passt");
        let short = plan::short_name(document.id.unwrap_or_default(), &document.name);
        let alias = card.info.alias.as_deref().unwrap_or_default();
        Self {
            socket: dir.join(format!("{short}-{alias}.socket")),
            pid_file: dir.join(format!("{short}-{alias}-passt.pid")),
            dir,
        }
    }

    /// Makes the directory, which is QEMU's user's, and removes what a former passt left. May block on files.
    fn make_ready(&self, identity: Identity) -> Result<()> {
        let failed = |error| Error::system(format_args!("cannot make '{}'", self.dir.display()), error);
        match fs::DirBuilder::new().mode(0o755).create(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        if let Some(user) = identity.run_as() {
            let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
            chown(&self.dir, owner.0, owner.1).map_err(|error| failed(error.into()))?;
        }
        files::remove(&self.socket)
    }

    fn process(&self) -> Option<Process> {
        Process::find_helper(&self.pid_file, &self.socket.to_string_lossy())
    }

    /// Sees to it that the program has ended, and removes its files.
    async fn end(self) -> Result<()> {
        if let Some(process) = self.process()
            && tokio::time::timeout(LAST_MOMENT, process.exited()).await.is_err()
        {
            process.kill();
            process.exited().await?;
        }
        self.remove().await
    }

    /// The same of one that is not to wait for anybody.
    async fn kill(self) -> Result<()> {
        if let Some(process) = self.process() {
            process.kill();
            process.exited().await?;
        }
        self.remove().await
    }

    async fn remove(self) -> Result<()> {
        crate::blocking::file("removing the files of passt", move || {
            files::remove(&self.socket)?;
            files::remove(&self.pid_file)
        })
        .await
    }
}

/// Starts what connects a guest's interfaces by passt.
///
/// # Errors
/// The program is missing, or does not start.
pub(crate) async fn plug(
    driver: &Arc<Driver>,
    prepared: &Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    for card in &prepared.document.devices.interfaces {
        plug_one(driver, &prepared.document, card, (&mut *resources, &mut *undo)).await?;
    }
    Ok(())
}

/// Starts what connects one interface of a run, if passt does.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn plug_one(
    driver: &Arc<Driver>,
    document: &domxml::Domain,
    card: &Interface,
    (resources, undo): (&mut Resources, &mut Undo),
) -> Result<()> {
    if !passt::is_run(card) {
        return Ok(());
    }
    let place = Place::of(driver, document, card);
    undo.push("passt", place.clone().kill());
    start(driver, card, &place).await?;
    let alias = card.info.alias.clone().unwrap_or_default();
    let given = DeviceResources {
        socket: Some(place.socket.to_string_lossy().into_owned()),
        ..DeviceResources::default()
    };
    resources.devices.insert(alias, given);
    Ok(())
}

async fn start(driver: &Arc<Driver>, card: &Interface, place: &Place) -> Result<()> {
    let identity = Identity::of(&driver.config())?;
    let files = place.clone();
    let program = crate::blocking::file("preparing passt", move || {
        files.make_ready(identity)?;
        Ok(programs::find("passt", &[]))
    })
    .await?;
    let missing = || {
        let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        Error::system("Cannot find 'passt' in path", error).in_area(Area::None)
    };
    let helper = Helper::new(&program.ok_or_else(missing)?, identity.run_as());
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let line = passt::arguments(card, &path(&place.socket), &path(&place.pid_file));
    let ended = helper.run(line.clone(), STARTING).await?;
    let how = match ended.status {
        Some(0) => return Ok(()),
        Some(status) => format!("exit status {status}"),
        None => "end".to_owned(),
    };
    let words: Vec<_> = line.iter().map(|word| shell_quote(word)).collect();
    let text = format!(
        "Child process (passt {}) unexpected {how}: {}",
        words.join(" "),
        ended.words
    );
    Err(Error::internal(text).in_area(Area::None))
}

/// Starts the passt of a running guest's interface again, if the interface has one and it is no more.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn again(driver: &Arc<Driver>, document: &domxml::Domain, alias: &str) -> Result<()> {
    let mut cards = document.devices.interfaces.iter();
    let card = cards.find(|card| card.info.alias.as_deref() == Some(alias) && passt::is_run(card));
    let Some(card) = card else { return Ok(()) };
    let place = Place::of(driver, document, card);
    // It was asked to end by the end of the connection, and may be at it still.
    place.clone().end().await?;
    start(driver, card, &place).await
}

/// After a run: ends what connected its interfaces. What fails is logged.
pub(crate) async fn unplug(driver: &Driver, document: &domxml::Domain) {
    for card in &document.devices.interfaces {
        unplug_one(driver, document, card).await;
    }
}

/// Ends what connected one interface of a run, if passt did. What fails is logged.
pub(crate) async fn unplug_one(driver: &Driver, document: &domxml::Domain, card: &Interface) {
    if !passt::is_run(card) {
        return;
    }
    if let Err(error) = Place::of(driver, document, card).end().await {
        tracing::error!(guest = document.name, %error, "a passt is left behind");
    }
}

//! Consoles: a client's byte stream joined to a character device of a running guest.
//!
//! A device has one client at a time. Whoever forces his way in ends the other's stream, and the end of the guest's run
//! ends all.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use domxml::devices::{Chardev, ChardevKind, DeviceInfo};
use futures_util::{Stream, StreamExt};
use nix::libc;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot},
};

use crate::{
    domain::Domain,
    error::{Error, Result},
    ops::Driver,
};

/// Bytes read from a device at once.
const CHUNK: usize = 16 << 10;
/// Chunks that wait for a slow client; then the guest waits.
const AHEAD: usize = 8;

/// Who is connected to the devices of one run.
#[derive(Clone, Default)]
pub struct Consoles {
    holders: Arc<Mutex<Holders>>,
}

#[derive(Default)]
struct Holders {
    by_alias: HashMap<String, (u64, oneshot::Sender<()>)>,
    next: u64,
    closed: bool,
}

/// Which device, and what of somebody else who has it.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Alias of the device, or a channel's target name; empty: the first console.
    pub device: String,
    /// Look among channels, by target name too.
    pub channel: bool,
    /// Disconnect who has it.
    pub force: bool,
}

/// The output of an attached device.
pub type Output = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

impl Consoles {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all streams, and lets nobody in any more.
    pub(crate) fn close(&self) {
        let mut holders = self.holders();
        holders.closed = true;
        // Dropping the senders is what ends them.
        holders.by_alias.clear();
    }

    fn enter(&self, alias: &str, force: bool) -> Result<(u64, oneshot::Receiver<()>)> {
        let mut holders = self.holders();
        if holders.closed {
            return Err(Error::not_running());
        }
        if holders.by_alias.contains_key(alias) && !force {
            return Err(Error::new(
                crate::error::Code::OperationFailed,
                "Active console session exists for this domain",
            )
            .because("CONSOLE_IN_USE"));
        }
        let (sender, receiver) = oneshot::channel();
        holders.next += 1;
        let ticket = holders.next;
        holders.by_alias.insert(alias.to_owned(), (ticket, sender));
        Ok((ticket, receiver))
    }

    fn leave(&self, alias: &str, ticket: u64) {
        let mut holders = self.holders();
        if holders.by_alias.get(alias).is_some_and(|(t, _)| *t == ticket) {
            holders.by_alias.remove(alias);
        }
    }
}

/// Joins `input` to a device and returns what the device says.
///
/// # Errors
/// `OperationInvalid` if the guest does not run, `Internal` if it has no such device, `OperationFailed` if somebody has
/// it, `System` if it can't be opened.
pub async fn attach(
    driver: &Arc<Driver>,
    domain: &Domain,
    which: Which,
    input: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Output> {
    let guest = driver.guests.reached(domain).await?;
    let view = domain.view();
    let run = view.running()?;
    let (alias, place) = find(&run.document.domain, &which)?;
    let (ticket, revoked) = guest.consoles.enter(&alias, which.force)?;
    let device = match place.open().await {
        Ok(device) => device,
        Err(error) => {
            guest.consoles.leave(&alias, ticket);
            return Err(Error::system(format_args!("cannot open device '{alias}'"), error));
        }
    };
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let consoles = guest.consoles.clone();
    tokio::spawn(async move {
        join(device, input, sender, revoked).await;
        consoles.leave(&alias, ticket);
    });
    Ok(Box::pin(futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context)
    })))
}

/// Joins `input` to a socket that nobody else has and returns what comes from there.
pub(crate) fn joined(socket: UnixStream, input: impl Stream<Item = Bytes> + Send + 'static) -> Output {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Nobody takes it away.
        let (_keep, revoked) = oneshot::channel();
        join(Box::pin(socket), input, sender, revoked).await;
    });
    Box::pin(futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context)
    }))
}

/// Copies both ways until one side ends or the device is taken away.
async fn join(
    device: Device,
    input: impl Stream<Item = Bytes> + Send,
    output: mpsc::Sender<Result<Bytes>>,
    revoked: oneshot::Receiver<()>,
) {
    let (mut reader, mut writer) = tokio::io::split(device);
    let to_client = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await {
                // A terminal whose other end closed says EIO.
                Ok(0) | Err(_) => return,
                Ok(n)
                    if output
                        .send(Ok(Bytes::copy_from_slice(&buffer[..n])))
                        .await
                        .is_err() =>
                {
                    return;
                }
                Ok(_) => {}
            }
        }
    };
    let to_device = async {
        let mut input = std::pin::pin!(input);
        while let Some(data) = input.next().await {
            if writer.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = to_client => {}
        () = to_device => {}
        () = output.closed() => {}
        _ = revoked => {}
    }
}

/// How a device is reached.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Terminal(PathBuf),
    Socket(PathBuf),
}

/// An open device.
type Device = Pin<Box<dyn ReadWrite>>;
trait ReadWrite: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ReadWrite for T {}

impl Place {
    async fn open(&self) -> io::Result<Device> {
        match self {
            Place::Terminal(path) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
                    .open(path)?;
                Ok(Box::pin(unixfd::AsyncFile::new(file)?))
            }
            Place::Socket(path) => Ok(Box::pin(UnixStream::connect(path).await?)),
        }
    }
}

/// Finds the device in a live document: its alias and how it is reached.
fn find(document: &domxml::Domain, which: &Which) -> Result<(String, Place)> {
    let devices = &document.devices;
    type Entry<'a> = (&'a DeviceInfo, &'a Chardev, Option<&'a str>);
    let consoles = || {
        devices
            .consoles
            .iter()
            .map(|d| -> Entry<'_> { (&d.info, &d.chardev, None) })
    };
    let serials = || {
        devices
            .serials
            .iter()
            .map(|d| -> Entry<'_> { (&d.info, &d.chardev, None) })
    };
    let parallels = || {
        devices
            .parallels
            .iter()
            .map(|d| -> Entry<'_> { (&d.info, &d.chardev, None) })
    };
    let channels = || {
        devices.channels.iter().map(|d| -> Entry<'_> {
            (
                &d.info,
                &d.chardev,
                d.target.as_ref().and_then(|t| t.name.as_deref()),
            )
        })
    };
    let named = |(info, _, target): &Entry<'_>| {
        info.alias.as_deref() == Some(which.device.as_str()) || *target == Some(which.device.as_str())
    };
    let found = match (which.channel, which.device.is_empty()) {
        (true, true) => channels().next(),
        (true, false) => channels().find(named),
        (false, true) => consoles().chain(serials()).next(),
        (false, false) => consoles()
            .chain(serials())
            .chain(parallels())
            .chain(channels())
            .find(named),
    };
    let Some((info, chardev, _)) = found else {
        let kind = if which.channel { "channel" } else { "character" };
        return Err(Error::internal(format!(
            "cannot find {kind} device {}",
            if which.device.is_empty() {
                "<null>"
            } else {
                &which.device
            }
        )));
    };
    let alias = info.alias.clone().unwrap_or_default();
    let path = chardev.path().map(PathBuf::from);
    match (chardev.kind, path) {
        (ChardevKind::Pty | ChardevKind::Dev, Some(path)) => Ok((alias, Place::Terminal(path))),
        (ChardevKind::Unix, Some(path)) => Ok((alias, Place::Socket(path))),
        (ChardevKind::Pty | ChardevKind::Unix, None) => {
            Err(Error::internal(format!("character device {alias} has no path")))
        }
        _ => Err(Error::internal(format!(
            "character device {alias} is not using a PTY"
        ))),
    }
}

//! A guest's screens: pictures of them, and connections to its displays.

use std::{os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use domxml::devices::{Graphics, GraphicsKind, Video};
use futures_util::Stream;
use qmp::commands;
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use crate::{
    domain::{
        Domain,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{Driver, host::scratch::Scratch, run::console},
};

/// Most bytes of a picture.
const PICTURE_MAX: u64 = 256 << 20;
/// Name of a descriptor while QEMU has not taken it.
const FD_NAME: &str = "graphicsfd";
/// The flag of a QEMU that makes pictures in PNG.
const PNG: &str = "screenshot-format-png";

/// A picture of a screen.
#[derive(Debug)]
pub struct Picture {
    /// Its type: "image/png", or "image/x-portable-pixmap".
    pub mime: &'static str,
    /// The picture.
    pub bytes: Vec<u8>,
}

/// Takes a picture of one of a running guest's screens: the heads of its video devices, counted from 0.
///
/// # Errors
/// `OperationInvalid` if it does not run or has no such screen, `OperationUnsupported` if it has none at all, what QEMU
/// refuses.
pub async fn screenshot(driver: &Arc<Driver>, domain: &Domain, screen: u32) -> Result<Picture> {
    domain.view().running()?;
    let job = domain.job(Want::Plain(Kind::Query)).await?;
    let view = job.view();
    let (guest, run) = (driver.guests.of(&view)?, view.running()?);
    let device = device(&run.document.domain.devices.videos, screen)?;
    let file = Scratch::new(driver, run, "screendump").await?;
    let png = run.status.qemu_caps.iter().any(|flag| flag.name == PNG);
    let mut args = Map::from_iter([("filename".to_owned(), Value::from(file.name()))]);
    args.extend(device.map(|alias| ("device".to_owned(), alias.into())));
    args.extend(png.then(|| ("format".to_owned(), "png".into())));
    guest.execute(commands::Screendump(args)).await?;
    let mime = if png {
        "image/png"
    } else {
        "image/x-portable-pixmap"
    };
    Ok(Picture {
        mime,
        bytes: file.read(PICTURE_MAX).await?,
    })
}

/// The video device of a screen as QEMU is told it; none for the first, which QEMU finds itself.
fn device(videos: &[Video], screen: u32) -> Result<Option<String>> {
    if videos.is_empty() {
        return Err(Error::invalid("no screens to take screenshot from"));
    }
    let mut first = 0;
    for video in videos.iter().filter(|_| screen > 0) {
        let heads = video.model.as_ref().and_then(|model| model.heads).unwrap_or(1);
        if screen - first < heads {
            return Ok(video.info.alias.clone());
        }
        first += heads;
    }
    if screen > 0 {
        Err(Error::invalid("no such screen ID"))
    } else {
        Ok(None)
    }
}

/// Which display, and whether the caller must show there who he is.
#[derive(Clone, Copy, Debug)]
pub struct Which {
    /// Counted from 0 in the order of the document.
    pub index: u32,
    /// Without a password.
    pub skip_auth: bool,
}

/// Hands a socket to one of a running guest's displays, as a client that has just connected.
///
/// # Errors
/// `OperationInvalid` if it does not run, `Internal` if it has no such display or QEMU takes no clients there, what QEMU
/// refuses.
pub async fn connect(driver: &Arc<Driver>, domain: &Domain, which: Which, socket: OwnedFd) -> Result<()> {
    domain.view().running()?;
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    let view = job.view();
    let protocol = protocol(&view.running()?.document.domain.devices.graphics, which.index)?;
    let monitor = driver.guests.of(&view)?.monitor()?;
    let work = async move {
        let fdname = FD_NAME.to_owned();
        monitor
            .client()
            .execute_with_fds(
                commands::Getfd {
                    fdname: fdname.clone(),
                },
                vec![socket],
            )
            .await?;
        let client = commands::AddClient {
            protocol: protocol.to_owned(),
            fdname: fdname.clone(),
            skipauth: which.skip_auth,
        };
        let joined = monitor.client().execute(client).await;
        if joined.is_err() {
            // What the display did not take stays open in QEMU.
            let _ = monitor.client().execute(commands::Closefd { fdname }).await;
        }
        drop(job);
        Ok(joined.map(drop)?)
    };
    driver.tracked(work).await
}

/// The name by which QEMU knows a display's protocol.
fn protocol(graphics: &[Graphics], index: u32) -> Result<&'static str> {
    let found = usize::try_from(index).ok().and_then(|index| graphics.get(index));
    let graphics = found.ok_or_else(|| Error::internal(format!("No graphics backend with index {index}")))?;
    match graphics.kind {
        GraphicsKind::Vnc => Ok("vnc"),
        GraphicsKind::Spice => Ok("spice"),
        other => Err(Error::internal(format!(
            "Can only open VNC or SPICE graphics backends, not {}",
            other.as_str()
        ))),
    }
}

/// Joins `input` to a display and returns what the display says.
///
/// # Errors
/// As [`connect`].
pub async fn open(
    driver: &Arc<Driver>,
    domain: &Domain,
    which: Which,
    input: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<console::Output> {
    let failed = |error| Error::system("unable to create socket pair", error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    connect(
        driver,
        domain,
        which,
        OwnedFd::from(theirs.into_std().map_err(failed)?),
    )
    .await?;
    Ok(console::joined(ours, input))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(xml: &str) -> domxml::devices::Devices {
        let text = format!("<domain type='qemu'><name>a</name><devices>{xml}</devices></domain>");
        domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE)
            .unwrap()
            .devices
    }

    #[test]
    fn screens_are_the_heads_of_all_devices() {
        let mut devices =
            devices("<video><model type='qxl' heads='2'/></video><video><model type='virtio'/></video>");
        for (index, video) in devices.videos.iter_mut().enumerate() {
            video.info.alias = Some(format!("video{index}"));
        }
        let of = |screen| device(&devices.videos, screen).map_err(|error| error.message.to_string());
        let expected = [
            Ok(None),
            Ok(Some("video0")),
            Ok(Some("video1")),
            Err("no such screen ID"),
            Err("no such screen ID"),
        ];
        for (screen, expected) in (0..).zip(expected) {
            assert_eq!(
                of(screen).as_ref().map(Option::as_deref).map_err(String::as_str),
                expected,
                "screen {screen}"
            );
        }
        assert!(of(u32::MAX).is_err());
        assert!(device(&[], 0).unwrap_err().message.contains("no screens"));
    }

    #[test]
    fn clients_are_handed_to_displays_that_take_them() {
        let devices = devices("<graphics type='vnc'/><graphics type='spice'/><graphics type='sdl'/>");
        let of = |index| protocol(&devices.graphics, index).map_err(|error| error.message.to_string());
        assert_eq!((of(0), of(1)), (Ok("vnc"), Ok("spice")));
        assert_eq!(
            of(2),
            Err("Can only open VNC or SPICE graphics backends, not sdl".to_owned())
        );
        assert_eq!(of(3), Err("No graphics backend with index 3".to_owned()));
    }
}

//! Devices of a guest: they come, go and change. From a client's document to the operation that does it.

pub(crate) mod attach;
mod change;
pub mod detach;
mod fixed;
pub(crate) mod holding;
pub(crate) mod images;
mod learnt;
pub mod limits;
pub mod link;
pub mod medium;
pub(crate) mod plugging;
pub(crate) mod rewire;
pub(crate) mod update;
pub mod vcpus;

use std::sync::Arc;

use domxml::{Domain as Document, ParseFlags, devices::Device};
use qemu_plan::{caps::Caps, hotplug, postparse::Context};

use crate::{
    domain::{Domain, View},
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        device::medium::How,
        document::{
            plan,
            scope::{Scope, Which},
        },
        operation::record::{Followed, Record},
    },
    peers,
};

/// Longest device document, bytes.
const XML_MAX: usize = 4 << 20;

/// Changes a device to what its document says.
///
/// # Errors
/// What is wrong with the document, `OperationUnsupported` or `ConfigUnsupported` for what can't be changed, what QEMU
/// refuses. Nothing is changed then.
pub async fn update(
    driver: &Arc<Driver>,
    domain: &Domain,
    xml: &str,
    how: How,
    conditions: &Conditions,
) -> Result<()> {
    let device = with_name(read(xml)?, xml);
    is_right(driver, &domain.view(), (&device, xml), how.scope).await?;
    match device {
        Device::Disk(disk) => Box::pin(medium::update(driver, domain, *disk, how, conditions)).await,
        Device::Interface(interface) => {
            Box::pin(link::update(driver, domain, *interface, how.scope, conditions)).await
        }
        // Of memory it counts what only a running guest's has.
        Device::Memory(_) => {
            let device = Device::given_as(xml, ParseFlags::NONE)?;
            Box::pin(update::update(driver, domain, device, how.scope, conditions)).await
        }
        other => Box::pin(update::update(driver, domain, other, how.scope, conditions)).await,
    }
}

/// Whether a device that is to take the place of another makes sense by itself. It is looked at before that other one is
/// looked for.
async fn is_right(
    driver: &Arc<Driver>,
    view: &View,
    (device, xml): (&Device, &str),
    scope: Scope,
) -> Result<()> {
    let which = Which::of(scope, view)?;
    let complete = async |document: &Document, device: Device| {
        let pass = move |caps: &Caps, context: &mut Context<'_>| {
            hotplug::complete(document, device, caps, context).map(drop)
        };
        plan::with_caps(driver, document, pass).await
    };
    if let Some(config) = view.config.as_ref().filter(|_| which.config) {
        complete(&*config.domain()?, device.clone()).await?;
    }
    if let Some(run) = view.run.as_ref().filter(|_| which.live) {
        // Of a device of a running guest more is read, so more may be wrong.
        complete(&run.document.domain, read_as(xml, ParseFlags::NONE)?).await?;
    }
    Ok(())
}

/// Attaches a device; as the guest has it then.
///
/// # Errors
/// What is wrong with the document, what is in the way of the device, what QEMU or the host refuses.
pub async fn attach(
    driver: &Arc<Driver>,
    domain: &Domain,
    xml: &str,
    scope: Scope,
    conditions: &Conditions,
) -> Result<Device> {
    let device = read(xml)?;
    Box::pin(attach::attach(driver, domain, &device, scope, conditions)).await
}

/// A detach that has begun, or would.
pub enum Detach {
    /// It is under way, or has ended.
    Begun(Arc<Record>),
    /// It was only a trial, and would begin.
    Tried,
}

/// Begins to detach the device that a document, in whatever form a client has it, or an alias means. It goes on by itself.
///
/// # Errors
/// What is wrong with the document, that it can't be told which device is meant, what is in the way of the beginning.
pub async fn begin_detach(
    driver: &Arc<Driver>,
    domain: &Domain,
    named: Named<'_>,
    how: detach::How,
    conditions: &Conditions,
) -> Result<Detach> {
    let meant = meant(domain, named, how.scope)?;
    let followed = Arc::new(Followed::default());
    let (driver, domain) = (Arc::clone(driver), domain.clone());
    let (conditions, mine) = (conditions.clone(), Arc::clone(&followed));
    let tracker = driver.tracker.clone();
    let work = async move {
        Box::pin(detach::detach(
            (&driver, &domain),
            &meant,
            how,
            &conditions,
            &mine,
        ))
        .await
    };
    let mut task = std::pin::pin!(peers::track(&tracker, work));
    tokio::select! {
        biased;
        record = followed.begun() => Ok(Detach::Begun(record)),
        ended = &mut task => {
            let bug = |panic| Error::internal("the operation met a bug in the daemon; see its log").caused_by(panic);
            match (followed.record(), ended.map_err(bug)?) {
                (Some(record), _) => Ok(Detach::Begun(record)),
                (None, result) => result.map(|_| Detach::Tried),
            }
        }
    }
}

fn meant(domain: &Domain, named: Named<'_>, scope: Scope) -> Result<detach::Meant> {
    Ok(match named {
        Named::Xml(xml) => {
            // What only a running guest's device has counts where the running guest is meant.
            let flags = match scope {
                Scope::Config => ParseFlags::INACTIVE,
                Scope::Current if !domain.view().active() => ParseFlags::INACTIVE,
                _ => ParseFlags::NONE,
            };
            detach::Meant::Document(Box::new(read_as(xml, flags)?))
        }
        Named::Alias(alias) => detach::Meant::Alias(alias.to_owned()),
    })
}

/// How a client says which device it means.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By a document that describes it.
    Xml(&'a str),
    /// By its alias.
    Alias(&'a str),
}

/// Reads the document of a device that somebody wants.
pub(crate) fn read(xml: &str) -> Result<Device> {
    short_enough(xml)?;
    Ok(Device::given(xml)?)
}

/// A device with the name that its document has, although it may be one that a run made up: it says which is meant.
fn with_name(mut device: Device, xml: &str) -> Device {
    let is_named = matches!(device, Device::Disk(_) | Device::Interface(_));
    let live = is_named
        .then(|| Device::parse(xml, ParseFlags::NONE).ok())
        .flatten();
    let alias = live.and_then(|live| live.as_ref().info()?.alias.clone());
    if let (Some(info), Some(_)) = (device.as_mut().into_info(), &alias) {
        info.alias = alias;
    }
    device
}

/// Reads the document of a device that somebody has: whether a guest could have it is not checked.
fn read_as(xml: &str, flags: ParseFlags) -> Result<Device> {
    short_enough(xml)?;
    Ok(Device::given_as(xml, flags)?)
}

fn short_enough(xml: &str) -> Result<()> {
    if xml.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            xml.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(matches!(
            read("<interface type='user'/>"),
            Ok(Device::Interface(_))
        ));
        assert_eq!(read("<bogus/>").unwrap_err().code, Code::ConfigUnsupported);
        assert!(read("<disk").is_err());
    }
}

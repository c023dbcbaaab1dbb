//! The host's end of a guest's vsock, opened for QEMU: it has the number by which the host reaches the guest.
//!
//! It ends with the last descriptor, so that nothing is to be given back.

use std::{io, os::fd::OwnedFd};

use domxml::devices::{Vsock, common::YesNo};
use qemu_plan::command::{DeviceResources, Resources};

use crate::{
    error::{Code, Error, Result},
    ops::{holdings::handover::Handover, operation::undo::Undo},
};

/// The first number that a guest can have.
const FIRST: u32 = 3;

/// Opens it for a process that is to be QEMU or for a running one; the document shows the number that was free.
///
/// # Errors
/// The host has no such device; the number is another guest's.
pub(crate) async fn plug(
    vsock: &mut Vsock,
    handover: &mut impl Handover,
    (resources, undo): (&mut Resources, &mut Undo),
) -> Result<()> {
    let cid = vsock.cid.get_or_insert_default();
    let wanted = cid.address.filter(|_| cid.auto != Some(YesNo::Yes));
    let (opened, number) = crate::blocking::file("opening a vsock", move || open(wanted)).await?;
    cid.address = Some(number);
    let alias = vsock.info.alias.clone().unwrap_or_default();
    let fd = handover.pass(format!("vhostfd-{alias}"), opened, undo).await?;
    let given = DeviceResources {
        vhost_fds: vec![fd],
        ..DeviceResources::default()
    };
    resources.devices.insert(alias, given);
    Ok(())
}

/// Opens it with a number: the one that is wanted, or the first that is free. May block on files.
fn open(wanted: Option<u32>) -> Result<(OwnedFd, u32)> {
    let unsupported = |_| Error::new(Code::ConfigUnsupported, "unable to open vhost-vsock device");
    let opened = unixfd::vhost_vsock().map_err(unsupported)?;
    let number = match wanted {
        Some(number) => {
            let set = unixfd::set_guest_cid(&opened, number);
            set.map_err(|error| Error::system("failed to set guest cid", error))?;
            number
        }
        None => first_free(|number| unixfd::set_guest_cid(&opened, number))
            .map_err(|error| Error::system("failed to acquire guest cid", error))?,
    };
    Ok((opened, number))
}

/// The first number that nobody has.
fn first_free(set: impl Fn(u32) -> io::Result<()>) -> io::Result<u32> {
    for number in FIRST..u32::MAX {
        match set(number) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_that_nobody_has_is_taken() {
        let taken_below = |end: u32| {
            move |number| match number < end {
                true => Err(io::ErrorKind::AddrInUse.into()),
                false => Ok(()),
            }
        };
        assert_eq!(first_free(taken_below(0)).unwrap(), 3);
        assert_eq!(first_free(taken_below(9)).unwrap(), 9);
        assert!(first_free(|_| Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}

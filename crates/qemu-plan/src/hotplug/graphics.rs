//! Displays: a running guest's changes its password.

use domxml::Domain;
use domxml::devices::{Family, Graphics, GraphicsKind, Listen, ListenKind, Place, YesNo};

use super::{Side, missing};
use crate::error::{Error, Result};

/// Finds the display that an update means, the first of its type, and checks that what differs may change.
///
/// # Errors
/// Libvirt's.
pub(super) fn update(def: &Domain, new: &Graphics, side: Side) -> Result<Place> {
    let word = new.kind.as_str();
    let at = def.devices.graphics.iter().position(|old| old.kind == new.kind);
    let at = at.ok_or_else(|| match side {
        Side::Live => missing(format!(
            "cannot find existing graphics device to modify of type '{word}'"
        )),
        Side::Stored => Error::argument_qemu(format!(
            "cannot find existing graphics type '{word}' device to modify"
        )),
    })?;
    if side == Side::Live {
        let old = &def.devices.graphics[at];
        same_listens(old, new)?;
        same_display(old, new)?;
    }
    Ok(Place {
        family: Family::Graphics,
        at,
    })
}

fn same_listens(old: &Graphics, new: &Graphics) -> Result<()> {
    let kind = new.kind.as_str();
    let refuse = |what: &str| {
        Err(Error::not_pluggable(format!(
            "cannot change {what} on '{kind}' graphics"
        )))
    };
    if old.listens.len() != new.listens.len() {
        return refuse("the number of listen addresses");
    }
    for (old, new) in old.listens.iter().zip(&new.listens) {
        if old.kind != new.kind {
            return refuse("the type of listen address");
        }
        match new.kind {
            ListenKind::Address if old.address != new.address => return refuse("listen address setting"),
            ListenKind::Network if old.network != new.network => return refuse("listen address setting"),
            ListenKind::Socket if !same_socket(old, new) => return refuse("listen socket setting"),
            _ => {}
        }
    }
    Ok(())
}

/// A socket that was made up need not be named.
fn same_socket(old: &Listen, new: &Listen) -> bool {
    let made_up = old.auto_generated == Some(YesNo::Yes);
    old.socket == new.socket || made_up && new.socket.is_none()
}

fn same_display(old: &Graphics, new: &Graphics) -> Result<()> {
    let word = new.kind.as_str();
    let auto = |g: &Graphics| g.autoport == Some(YesNo::Yes);
    let fixed = !auto(new);
    let ports = match new.kind {
        GraphicsKind::Vnc => auto(old) != auto(new) || fixed && old.port != new.port,
        GraphicsKind::Spice => {
            auto(old) != auto(new) || fixed && (old.port, old.tls_port) != (new.port, new.tls_port)
        }
        GraphicsKind::Rdp => auto(old) != auto(new) || fixed && old.port != new.port,
        other => {
            return Err(Error::internal_qemu(format!(
                "unable to change config on '{}' graphics type",
                other.as_str()
            )));
        }
    };
    if ports {
        return Err(Error::not_pluggable(format!(
            "cannot change port settings on {word} graphics"
        )));
    }
    if new.kind != GraphicsKind::Rdp && old.keymap != new.keymap {
        return Err(Error::not_pluggable(format!(
            "cannot change keymap setting on {word} graphics"
        )));
    }
    Ok(())
}

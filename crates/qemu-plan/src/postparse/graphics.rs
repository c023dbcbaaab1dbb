//! Displays: ports, where they listen, and the old attributes that say the same.

use domxml::devices::{Graphics, GraphicsKind, Listen, ListenKind, YesNo};

use crate::error::{Error, Result};

/// Fills in one display. What lies below `lib_dir` was made for a run.
pub(super) fn fill(g: &mut Graphics, lib_dir: &str) -> Result<()> {
    match g.kind {
        GraphicsKind::Vnc => {
            fill_socket(g)?;
            drop_generated_socket(g, lib_dir);
            fill_listens(g)?;
            fill_vnc_ports(g);
        }
        GraphicsKind::Spice => {
            fill_listens(g)?;
            fill_spice_ports(g);
        }
        GraphicsKind::Rdp => {
            fill_listens(g)?;
        }
        _ => {}
    }
    Ok(())
}

/// `socket=` of VNC is a `<listen type='socket'>` in old words.
fn fill_socket(g: &mut Graphics) -> Result<()> {
    let attribute = g.socket.take();
    if let Some(socket) = attribute {
        let first = g
            .listens
            .first()
            .filter(|l| l.kind == ListenKind::Socket)
            .and_then(|l| l.socket.clone());
        if let Some(found) = first.filter(|f| *f != socket) {
            return Err(Error::conflicting(format!(
                "graphics 'socket' attribute '{socket}' must match 'socket' attribute of first listen element (found '{found}')"
            )));
        }
        g.listens = vec![Listen {
            kind: ListenKind::Socket,
            socket: Some(socket),
            ..Listen::default()
        }];
        g.listen = None;
    }
    g.socket = g.listens.first().and_then(|l| l.socket.clone());
    Ok(())
}

/// A socket that was made for a run is not kept: the next run listens as one that is told nothing.
fn drop_generated_socket(g: &mut Graphics, lib_dir: &str) {
    for listen in &mut g.listens {
        let generated = |path: &String| path.starts_with(lib_dir);
        if listen.kind == ListenKind::Socket && listen.socket.as_ref().is_some_and(generated) {
            *listen = Listen {
                kind: ListenKind::Address,
                ..Listen::default()
            };
            g.socket = None;
        }
    }
}

/// The attribute `listen` is the address of the first `<listen>`.
fn fill_listens(g: &mut Graphics) -> Result<()> {
    for listen in &mut g.listens {
        listen.address = listen.address.take().filter(|a| !a.is_empty());
        if listen.kind == ListenKind::Network && listen.network.is_none() {
            return Err(Error::xml(
                "'network' attribute is required for listen type 'network'",
            ));
        }
    }
    let attribute = g.listen.take().filter(|a| !a.is_empty());
    if g.listens.is_empty() {
        g.listens.push(Listen {
            kind: ListenKind::Address,
            address: attribute.clone(),
            ..Listen::default()
        });
    }
    let Some(first) = g.listens.first_mut() else {
        return Ok(());
    };
    if let Some(attribute) = attribute {
        match &first.address {
            Some(found) if *found != attribute => {
                return Err(Error::conflicting(format!(
                    "graphics 'listen' attribute '{attribute}' must match 'address' attribute of first listen element (found '{found}')"
                )));
            }
            None if first.kind == ListenKind::Address => first.address = Some(attribute),
            _ => {}
        }
    }
    g.listen = first
        .address
        .clone()
        .filter(|_| first.kind == ListenKind::Address);
    Ok(())
}

fn listens_on_ports(g: &Graphics) -> bool {
    !matches!(
        g.listens.first().map(|l| l.kind),
        Some(ListenKind::None | ListenKind::Socket)
    )
}

fn fill_vnc_ports(g: &mut Graphics) {
    if !listens_on_ports(g) {
        (g.port, g.autoport) = (None, None);
        return;
    }
    if g.autoport == Some(YesNo::No) {
        g.port = g.port.filter(|p| *p != -1);
        return;
    }
    let automatic =
        g.port == Some(-1) || g.autoport == Some(YesNo::Yes) || g.port.is_none() && g.autoport.is_none();
    if automatic {
        g.port = Some(-1);
    }
    g.autoport = Some(YesNo::from(automatic));
}

/// SPICE without any port and without `autoport` does not listen at all.
fn fill_spice_ports(g: &mut Graphics) {
    let named = |p: Option<i32>| p.filter(|p| *p != 0);
    (g.port, g.tls_port) = (named(g.port), named(g.tls_port));
    let automatic = g.autoport == Some(YesNo::Yes) || g.port == Some(-1) && g.tls_port == Some(-1);
    if !automatic
        && g.port.is_none()
        && g.tls_port.is_none()
        && let [only] = g.listens.as_mut_slice()
        && only.kind == ListenKind::Address
        && only.address.is_none()
    {
        only.kind = ListenKind::None;
    }
    if !listens_on_ports(g) {
        (g.port, g.tls_port, g.autoport) = (None, None, None);
        return;
    }
    if automatic {
        (g.port, g.tls_port) = (None, None);
    }
    g.autoport = Some(YesNo::from(automatic));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Graphics {
        let text = format!("<domain type='qemu'><name>a</name><devices>{text}</devices></domain>");
        let mut domain = domxml::Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap();
        let mut display = domain.devices.graphics.remove(0);
        fill(&mut display, "/lib").unwrap();
        display
    }

    #[test]
    fn a_socket_that_was_made_for_a_run_is_not_kept() {
        for (path, kind) in [
            ("/lib/domain-1-a/vnc.sock", ListenKind::Address),
            ("/tmp/vnc.sock", ListenKind::Socket),
        ] {
            let display = filled(&format!("<graphics type='vnc' socket='{path}'/>"));
            assert_eq!(display.listens[0].kind, kind, "{path}");
            assert_eq!(display.socket.is_some(), kind == ListenKind::Socket, "{path}");
        }
    }
}

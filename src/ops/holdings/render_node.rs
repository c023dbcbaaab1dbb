//! The card that renders for displays which name none.
//!
//! Called by `start`, and for a command line that is only shown; the document names the node from then on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use domxml::devices::{Gl, Graphics, GraphicsKind, YesNo};
use qemu_plan::caps::{Caps, Flag};

use crate::error::{Area, Error, Result};

/// Where cards have their nodes.
const CARDS: &str = "/dev/dri";
/// How the name of a node begins that renders only.
const RENDERER: &str = "renderD";

/// Writes into the document with which card each display renders that leaves it open.
///
/// # Errors
/// There is no card.
pub(crate) async fn find(document: &mut domxml::Domain, caps: &Caps) -> Result<()> {
    let mut open = document.devices.graphics.iter_mut();
    if !open.any(|graphics| wants(graphics, caps)) {
        return Ok(());
    }
    let node = crate::blocking::file("looking for a render node", || first(Path::new(CARDS))).await?;
    let node = node.to_string_lossy().into_owned();
    for graphics in &mut document.devices.graphics {
        if wants(graphics, caps) {
            graphics.gl.get_or_insert_with(Gl::default).rendernode = Some(node.clone());
        }
    }
    Ok(())
}

fn wants(graphics: &Graphics, caps: &Caps) -> bool {
    let gl = graphics.gl.as_ref();
    let on = gl.and_then(|gl| gl.enable) == Some(YesNo::Yes);
    let wanted = match graphics.kind {
        GraphicsKind::EglHeadless => caps.has(Flag::EglHeadlessRendernode),
        GraphicsKind::Spice => on && caps.has(Flag::SpiceRendernode),
        GraphicsKind::Dbus => on,
        _ => false,
    };
    wanted && gl.is_none_or(|gl| gl.rendernode.is_none())
}

fn first(directory: &Path) -> Result<PathBuf> {
    let unreadable = |error: io::Error| {
        Error::system(
            format_args!("cannot open directory '{}'", directory.display()),
            error,
        )
        .in_area(Area::None)
    };
    let entries = fs::read_dir(directory).map_err(unreadable)?;
    let mut renderers = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(RENDERER));
    let found = renderers.next().map(|entry| entry.path());
    found.ok_or_else(|| Error::internal("No DRM render nodes available").in_area(Area::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renderer_is_found_among_cards() {
        let dir = tempfile::tempdir().unwrap();
        let missing = first(&dir.path().join("dri")).unwrap_err();
        assert!(missing.message.starts_with("cannot open directory"), "{missing}");
        fs::write(dir.path().join("card0"), "").unwrap();
        assert!(first(dir.path()).is_err());
        fs::write(dir.path().join("renderD128"), "").unwrap();
        assert_eq!(first(dir.path()).unwrap(), dir.path().join("renderD128"));
    }
}

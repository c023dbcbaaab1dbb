//! qemu-img at work on images that no guest has open.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    ops::host::programs,
    qemu::Helper,
};

/// How long qemu-img may take with one image.
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs qemu-img.
///
/// # Errors
/// There is none, or it fails: in its words.
pub(crate) async fn qemu_img(args: Vec<String>) -> Result<()> {
    let program = crate::blocking::file("looking for qemu-img", || {
        programs::find("qemu-img", &[]).ok_or_else(|| {
            Error::internal("unable to find qemu-img in PATH: it works on the images of guests that are off")
        })
    })
    .await?;
    let line = format!("{} {}", program.display(), args.join(" "));
    let ended = Helper::new(&program, None).run(args, DEADLINE).await?;
    let how = match ended.status {
        Some(0) => return Ok(()),
        Some(status) => format!("exit status {status}"),
        None => "fatal signal".to_owned(),
    };
    let said = ended.words.trim();
    Err(Error::internal(format!(
        "Child process ({line}) unexpected {how}: {said}"
    )))
}

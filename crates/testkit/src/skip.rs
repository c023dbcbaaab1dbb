//! Tests that cannot run here. Rust's test runner knows no such outcome, so each is written to the file named
//! by `TESTKIT_SKIPS`, where `scripts/test.sh` counts and prints it.

use std::io::Write;

use nix::unistd::Uid;

/// Notes that the calling test is skipped, and why. The test must return right after:
///
/// ```no_run
/// # fn f() -> anyhow::Result<()> {
/// let Some(grpcurl) = testkit::Grpcurl::find("/run/x.sock".as_ref()) else {
///     return Ok(testkit::skip("grpcurl is not installed"));
/// };
/// # let _ = grpcurl; Ok(()) }
/// ```
#[expect(clippy::print_stderr, reason = "a test says why it did nothing")]
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
    let Some(file) = std::env::var_os("TESTKIT_SKIPS") else {
        return;
    };
    let line = format!("{test}: {reason}\n");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
    // one write of one line: appends of many processes do not mix
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("TESTKIT_SKIPS: {error}");
    }
}

/// Whether daemons and guests can be run here: as root and with QEMU and virsh. Skips the calling test with
/// the reason when not.
pub fn can_run_guests() -> bool {
    let missing = if !Uid::effective().is_root() {
        "not root".to_owned()
    } else {
        match ["unshare", "virsh", "qemu-system-x86_64", "qemu-img"]
            .into_iter()
            .find(|name| crate::place::program(name).is_none())
        {
            Some(name) => format!("{name} is not installed"),
            None => return true,
        }
    };
    skip(&missing);
    false
}

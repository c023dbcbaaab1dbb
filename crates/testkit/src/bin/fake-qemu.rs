//! A scripted stand-in for `qemu-system-x86_64`; see `testkit::fake_qemu`.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let status = testkit::fake_qemu::program::run(std::env::args_os().collect())?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

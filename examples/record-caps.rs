//! Asks a QEMU what it can do, by the daemon's own code, and prints the replies as tests replay them.
//!
//! Run by `cargo xtask record-caps BINARY [OUT]`. One exchange a line, and only what some table reads.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use qemu_plan::caps::{Caps, Replies};
use virtqemud::qemu::{Prober, ProberConfig, RunAs, probe::Deadlines};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let binary = args.next().context("usage: record-caps BINARY [OUT]")?;
    let text = record(&binary.canonicalize().context("BINARY")?).await?;
    match args.next() {
        Some(out) => std::fs::write(out, text)?,
        None => print(&text)?,
    }
    Ok(())
}

async fn record(binary: &Path) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let nobody = RunAs {
        uid: 65534,
        gid: 65534,
        groups: kvms_group(),
    };
    let run_as = nix::unistd::geteuid().is_root().then_some(nobody);
    let config = ProberConfig {
        cache: dir.path().to_owned(),
        run_as,
        deadlines: Deadlines::default(),
    };
    let mut replies = Prober::new(config)
        .replies(binary)
        .await
        .map_err(anyhow::Error::msg)?;
    let whole = Caps::derive(&replies)?;
    replies.compact();
    ensure!(
        format!("{:?}", Caps::derive(&replies)?) == format!("{whole:?}"),
        "what was left out makes a difference"
    );
    lines(&replies)
}

/// Who may open `/dev/kvm`, so that what it can do with KVM is recorded too.
fn kvms_group() -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/dev/kvm")
        .map(|meta| vec![meta.gid()])
        .unwrap_or_default()
}

fn lines(replies: &Replies) -> Result<String> {
    let mut text = "{\"runs\":[".to_owned();
    for (number, run) in replies.runs.iter().enumerate() {
        text.push_str(if number == 0 {
            "\n{\"exchanges\":["
        } else {
            ",\n{\"exchanges\":["
        });
        for (number, exchange) in run.exchanges.iter().enumerate() {
            let separator = if number == 0 { "\n" } else { ",\n" };
            write!(text, "{separator}{}", serde_json::to_string(exchange)?)?;
        }
        text.push_str("\n]}");
    }
    text.push_str("\n]}\n");
    Ok(text)
}

#[expect(clippy::print_stdout, reason = "what the tool is for")]
fn print(text: &str) -> Result<()> {
    print!("{text}");
    Ok(())
}

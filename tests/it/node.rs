//! What is told of the host, and what of it can be set, beside libvirt's own daemon: answers and errors, with their
//! numbers. Nothing of the machine is changed: only what is refused is asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::golden::difference;
use testkit::place::program;
use testkit::reference::reference;
use testkit::{Sandbox, skip};
use wire::client::{Client, ClientError};
use wire::remote::*;
use wire::typed::TypedParam;

use crate::grpc::daemon;

/// Compared as they are.
const STEADY: &[&str] = &[
    "nodeinfo",
    "nodecpumap",
    "node-memory-tune",
    "nodesevinfo",
    "nodecpumap --pretty",
    "allocpages 4K 1",
];
/// Compared but for the numbers, which change all the time.
const VOLATILE: &[&str] = &[
    "nodecpustats",
    "nodecpustats 0",
    "nodememstats",
    "nodememstats 0",
    "freecell",
    "freecell --all",
    "freepages --all",
    "freepages 0 4K",
];
/// Refused by both.
const REFUSED: &[&str] = &[
    "nodecpustats 99999",
    "nodememstats 4096",
    "freecell 4096",
    "freepages 4096 4K",
    "freepages 0 5K",
    "allocpages 5K 1",
    "allocpages 5K 1 --cellno 0",
    "allocpages 4K 1 --all",
    "allocpages 2M 1 --cellno 4096",
    "node-memory-tune --shm-pages-to-scan -1",
    "nodesuspend mem 1",
    "nodesuspend disk 1",
    "nodesuspend hybrid 1",
    "nodesuspend never 60",
];

fn both() -> Result<Option<(Sandbox, Sandbox)>> {
    let Some(theirs) = reference()? else {
        return Ok(None);
    };
    Ok(Some((Sandbox::started(daemon())?, theirs)))
}

fn masked(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.is_empty());
    let mask = |word: &str| {
        if word.contains(|c: char| c.is_ascii_digit()) {
            "N".to_owned()
        } else {
            word.to_owned()
        }
    };
    words.map(mask).collect::<Vec<_>>().join(" ")
}

/// The whole answer, line by line; numbers masked if they are volatile.
fn answer(sandbox: &Sandbox, command: &str, volatile: bool) -> Result<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let answer = sandbox.virsh().run(&words)?;
    let text = format!("{}\n{}", answer.stdout, answer.stderr);
    let lines = text
        .lines()
        .map(|line| if volatile { masked(line) } else { line.to_owned() });
    Ok(format!(
        "## {command}: {:?}\n{}\n",
        answer.status,
        lines.collect::<Vec<_>>().join("\n")
    ))
}

fn same(ours: &Sandbox, theirs: &Sandbox, commands: &[&str], volatile: bool) -> Result<()> {
    for command in commands {
        let (got, wanted) = (
            answer(ours, command, volatile)?,
            answer(theirs, command, volatile)?,
        );
        ensure!(got == wanted, "{}", difference(&wanted, &got));
    }
    Ok(())
}

#[test]
fn virsh_is_told_of_the_host_as_by_libvirt() -> Result<()> {
    let Some((ours, theirs)) = both()? else {
        return Ok(());
    };
    same(&ours, &theirs, STEADY, false)?;
    same(&ours, &theirs, VOLATILE, true)?;
    same(&ours, &theirs, REFUSED, false)?;
    if Path::new("/sys/firmware/dmi/tables").exists() && program("dmidecode").is_none() {
        skip("libvirt needs dmidecode to tell of the firmware");
        return Ok(());
    }
    same(&ours, &theirs, &["sysinfo"], false)
}

/// One raw call, and what it gave: the error with its numbers, or that there is none.
macro_rules! tell {
    ($client:expr, $out:expr, $($call:expr),* $(,)?) => {
        $(
            let name = stringify!($call).split_whitespace().collect::<Vec<_>>().join(" ");
            let told = match $client.call(&$call).await {
                Ok(_) => "answered".to_owned(),
                Err(ClientError::Remote(e)) => {
                    let text = e.message.as_ref().map(|text| text.to_str().into_owned()).unwrap_or_default();
                    format!("{} {} {text} ({} {})", e.code.0, e.domain.0, e.int1, e.int2)
                }
                Err(error) => return Err(error.into()),
            };
            $out.push_str(&format!("{name}\n    {told}\n"));
        )*
    };
}

/// What no client library lets through reaches the daemon by raw calls.
async fn refusals(socket: PathBuf) -> Result<String> {
    let mut client = Client::open(&socket, "qemu:///system")
        .await
        .with_context(|| socket.display().to_string())?;
    let (reads, pages) = (of_reading(&mut client).await?, of_pages(&mut client).await?);
    Ok(reads + &pages + &of_settings(&mut client).await?)
}

async fn of_reading(client: &mut Client) -> Result<String> {
    let mut out = String::new();
    tell! { client, out,
        ConnectGetSysinfo { flags: 1 },
        NodeGetCpuMap { need_map: 0, need_online: 0, flags: 1 },
        NodeGetCpuStats { cpu_num: -1, nparams: 0, flags: 0 },
        NodeGetCpuStats { cpu_num: -1, nparams: 3, flags: 0 },
        NodeGetCpuStats { cpu_num: -1, nparams: 17, flags: 0 },
        NodeGetCpuStats { cpu_num: -1, nparams: -1, flags: 0 },
        NodeGetCpuStats { cpu_num: -1, nparams: 4, flags: 1 },
        NodeGetCpuStats { cpu_num: -2, nparams: 4, flags: 1 },
        NodeGetCpuStats { cpu_num: 65_000, nparams: 0, flags: 0 },
        NodeGetCpuStats { cpu_num: 65_000, nparams: 4, flags: 0 },
        NodeGetMemoryStats { cell_num: -1, nparams: 3, flags: 0 },
        NodeGetMemoryStats { cell_num: 0, nparams: 4, flags: 0 },
        NodeGetMemoryStats { cell_num: -2, nparams: 4, flags: 0 },
        NodeGetMemoryStats { cell_num: 4096, nparams: 0, flags: 0 },
        NodeGetMemoryStats { cell_num: -1, nparams: 4, flags: 2 },
        NodeGetCellsFreeMemory { start_cell: 0, maxcells: 0 },
        NodeGetCellsFreeMemory { start_cell: 0, maxcells: -1 },
        NodeGetCellsFreeMemory { start_cell: 0, maxcells: 1025 },
        NodeGetCellsFreeMemory { start_cell: -1, maxcells: 2 },
        NodeGetCellsFreeMemory { start_cell: 4096, maxcells: 2 },
        NodeGetSevInfo { nparams: 0, flags: 1 },
    }
    Ok(out)
}

async fn of_pages(client: &mut Client) -> Result<String> {
    let mut out = String::new();
    let pages = |pages: Vec<u32>, start_cell, cell_count| NodeGetFreePages {
        pages: pages.into(),
        start_cell,
        cell_count,
        flags: 0,
    };
    let alloc = |sizes: Vec<u32>, start_cell, cell_count, flags| NodeAllocPages {
        page_counts: sizes.iter().map(|_| 0).collect::<Vec<_>>().into(),
        page_sizes: sizes.into(),
        start_cell,
        cell_count,
        flags,
    };
    tell! { client, out,
        pages(Vec::new(), 0, 1),
        pages(vec![4], 0, 0),
        pages(vec![4; 600], 0, 2),
        pages(vec![4], -1, 2),
        pages(vec![4], 0, u32::MAX),
        pages(vec![5], -1, 1),
        pages(vec![4, 5], 0, 1),
        pages(vec![4], 4096, 1),
        alloc(Vec::new(), 0, 1, 0),
        alloc(vec![2048], 0, 0, 0),
        alloc(vec![4], 0, 1, 0),
        alloc(vec![4], -1, 1, 1),
        alloc(vec![5], 0, 1, 1),
        alloc(vec![5], -1, 2, 0),
        alloc(vec![2048], -3, 1, 0),
        alloc(vec![2048], 4096, 2, 0),
        alloc(vec![4], 0, 1, 2),
    }
    Ok(out)
}

async fn of_settings(client: &mut Client) -> Result<String> {
    let mut out = String::new();
    let set = |params: Vec<TypedParam>, flags| NodeSetMemoryParameters {
        params: params.into(),
        flags,
    };
    let asleep = |target, flags| NodeSuspendForDuration {
        target,
        duration: 1,
        flags,
    };
    tell! { client, out,
        NodeGetMemoryParameters { nparams: 0, flags: 4 },
        NodeGetMemoryParameters { nparams: 64, flags: 0 },
        NodeGetMemoryParameters { nparams: 65, flags: 0 },
        NodeGetMemoryParameters { nparams: -1, flags: 0 },
        NodeGetMemoryParameters { nparams: 8, flags: 5 },
        set(Vec::new(), 0),
        set(vec![TypedParam::new("shm_pages_to_scan", 1_u64)], 0),
        set(vec![TypedParam::new("shm_pages_to_scan", "many")], 0),
        set(vec![TypedParam::new("shm_pages_to_scan", 1_u32), TypedParam::new("shm_pages_to_scan", 1_u32)], 0),
        set(vec![TypedParam::new("shm_full_scans", 1_u64)], 0),
        set(vec![TypedParam::new("pages_to_scan", 1_u32)], 0),
        set(vec![TypedParam::new("nonsense", 1_u32)], 1),
        asleep(0, 0),
        asleep(1, 0),
        asleep(2, 0),
        asleep(3, 0),
        asleep(u32::MAX, 0),
        asleep(7, 2),
    }
    Ok(out)
}

fn readers(sandbox: &Sandbox) -> PathBuf {
    let mut socket = sandbox.socket().into_os_string();
    socket.push("-ro");
    socket.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_refused_with_libvirts_words_and_numbers() -> Result<()> {
    let Some((ours, theirs)) = both()? else {
        return Ok(());
    };
    for socket in [Sandbox::socket, readers] {
        let (got, wanted) = (refusals(socket(&ours)).await?, refusals(socket(&theirs)).await?);
        ensure!(got == wanted, "{}", difference(&wanted, &got));
    }
    Ok(())
}

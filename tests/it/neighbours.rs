//! Objects of the other drivers through our daemon: as their own daemon shows them, and no harm when it fails.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::{Answer, Neighbour, Sandbox, Virsh};
use wire::client::{Client, ClientError};
use wire::remote::{ConnectNumOfDefinedNetworks, DomainGetXmlDesc, DomainLookupByName};

use crate::grpc::{QEMU, daemon, small};

/// What a client of our own guests may wait, whatever happens to a neighbour.
const OWN: Duration = Duration::from_millis(50);
/// A machine that runs all tests at once is slower.
const LOADED: u32 = 3;

const DOCUMENTS: [(&str, &str); 5] = [
    (
        "net.xml",
        "<network><name>n</name><uuid>11111111-1111-1111-1111-111111111111</uuid><bridge name='vqtest0'/>\
         <mac address='52:54:00:11:22:33'/><ip address='192.168.213.1' netmask='255.255.255.0'/></network>",
    ),
    (
        "pool.xml",
        "<pool type='dir'><name>p</name><uuid>22222222-2222-2222-2222-222222222222</uuid>\
         <target><path>/var/lib/libvirt/pool</path></target></pool>",
    ),
    (
        "vol.xml",
        "<volume><name>v</name><capacity unit='MiB'>8</capacity><target><format type='raw'/></target></volume>",
    ),
    (
        "secret.xml",
        "<secret ephemeral='no' private='no'><uuid>33333333-3333-3333-3333-333333333333</uuid>\
         <usage type='volume'><volume>/v</volume></usage></secret>",
    ),
    (
        "filter.xml",
        "<filter name='f'><uuid>44444444-4444-4444-4444-444444444444</uuid>\
         <rule action='drop' direction='out'><mac srcmacaddr='52:54:00:00:00:01'/></rule></filter>",
    ),
];

/// A driver and commands for it, which leave nothing behind. `@` stands for the directory of the documents.
const COMMANDS: [(&str, &[&str]); 6] = [
    (
        "network",
        &[
            "net-list --all",
            "net-define @/net.xml",
            "net-info n",
            "net-dumpxml n",
            "net-desc n words",
            "net-autostart n",
            "net-list --all --table",
            "net-uuid n",
            "net-start n",
            "net-update n add ip-dhcp-host <host\u{a0}mac='52:54:00:00:00:01'\u{a0}ip='192.168.213.7'/> --config",
            "net-dhcp-leases n",
            "net-port-list n",
            "net-destroy n",
            "net-undefine n",
            "net-info n",
            "--readonly net-define @/net.xml",
        ],
    ),
    (
        "storage",
        &[
            "pool-define @/pool.xml",
            "pool-build p",
            "pool-start p",
            "pool-autostart p",
            "pool-list --all",
            "pool-dumpxml p --inactive",
            "pool-refresh p",
            "pool-capabilities",
            "find-storage-pool-sources-as netfs",
            "vol-create p @/vol.xml",
            "vol-create-as p w 4M --format qcow2",
            "vol-list p --details",
            "vol-info v p",
            "vol-path v p",
            "vol-pool /var/lib/libvirt/pool/v",
            "vol-upload v @/net.xml p",
            "vol-resize v 16M p",
            "vol-clone v x p",
            "vol-info x p --bytes",
            "vol-wipe x p",
            "vol-delete x p",
            "vol-delete w p",
            "vol-delete v p",
            "vol-delete v p",
            "pool-destroy p",
            "pool-delete p",
            "pool-undefine p",
            "pool-info p",
            "--readonly pool-define @/pool.xml",
        ],
    ),
    (
        "secret",
        &[
            "secret-define @/secret.xml",
            "secret-list",
            "secret-dumpxml 33333333-3333-3333-3333-333333333333",
            "secret-set-value 33333333-3333-3333-3333-333333333333 --base64 c2VjcmV0",
            "secret-get-value 33333333-3333-3333-3333-333333333333",
            "--readonly secret-get-value 33333333-3333-3333-3333-333333333333",
            "secret-undefine 33333333-3333-3333-3333-333333333333",
            "secret-get-value 33333333-3333-3333-3333-333333333333",
        ],
    ),
    (
        "nodedev",
        &[
            "nodedev-list",
            "nodedev-list --tree",
            "nodedev-list --cap net",
            "nodedev-dumpxml computer",
            "nodedev-info computer",
            "nodedev-dumpxml none",
            "nodedev-destroy none",
        ],
    ),
    (
        "nwfilter",
        &[
            "nwfilter-define @/filter.xml",
            "nwfilter-list",
            "nwfilter-dumpxml f",
            "nwfilter-binding-list",
            "nwfilter-undefine f",
            "nwfilter-undefine f",
        ],
    ),
    (
        "interface",
        &[
            "iface-list",
            "iface-list --all",
            "iface-dumpxml lo",
            "iface-mac lo",
            "iface-name 00:00:00:00:00:01",
        ],
    ),
];

/// Our daemon with a neighbour, and a directory of documents.
fn with_neighbour() -> Result<Option<(Sandbox, Neighbour, PathBuf)>> {
    let sandbox = Sandbox::started(daemon())?;
    let Some(neighbour) = Neighbour::beside(&sandbox)? else {
        return Ok(None);
    };
    let documents = sandbox.dir().join("documents");
    fs::create_dir(&documents)?;
    for (name, text) in DOCUMENTS {
        fs::write(documents.join(name), text)?;
    }
    Ok(Some((sandbox, neighbour, documents)))
}

fn run(virsh: &Virsh, command: &str, documents: &Path) -> Result<Answer> {
    let command = command.replace('@', &documents.to_string_lossy());
    let words: Vec<String> = command
        .split(' ')
        .map(|word| word.replace('\u{a0}', " "))
        .collect();
    virsh.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn transcript(virsh: &Virsh, commands: &[&str], documents: &Path) -> Result<String> {
    let mut text = String::new();
    for command in commands {
        let Answer {
            status,
            stdout,
            stderr,
        } = run(virsh, command, documents)?;
        // How full the file system is, changes all the time.
        let lasting = stdout
            .lines()
            .filter(|line| !line.contains("<allocation") && !line.contains("<available"));
        let stdout: String = lasting.map(|line| format!("{line}\n")).collect();
        text += &format!("{command}: {status:?}\n{stdout}{stderr}\n");
    }
    Ok(text)
}

#[test]
fn commands_give_what_the_neighbour_itself_gives() -> Result<()> {
    let Some((sandbox, neighbour, documents)) = with_neighbour()? else {
        return Ok(());
    };
    for (driver, commands) in COMMANDS {
        let theirs = transcript(&neighbour.virsh(driver), commands, &documents)?;
        let ours = transcript(&sandbox.virsh(), commands, &documents)?;
        // A driver that is not installed cannot be opened there; here the other drivers go on.
        if theirs.contains("no connection driver available") {
            ensure!(
                ours.contains("this function is not supported by the connection driver"),
                "{ours}"
            );
            continue;
        }
        ensure!(
            ours == theirs,
            "{driver} {}",
            testkit::golden::difference(&theirs, &ours)
        );
        ensure!(theirs.contains("Some(0)"), "{theirs}");
    }
    Ok(())
}

#[test]
fn a_volume_goes_up_and_down_with_its_holes() -> Result<()> {
    const SIZE: usize = 64 << 20;
    let Some((sandbox, _neighbour, documents)) = with_neighbour()? else {
        return Ok(());
    };
    let mut data = vec![0; SIZE];
    for start in [0, 20 << 20, SIZE - (3 << 20)] {
        for (index, byte) in data[start..start + (3 << 20)].iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
    }
    let (up, down) = (documents.join("up"), documents.join("down"));
    sparse(&up, &data)?;
    let virsh = sandbox.virsh();
    for command in [
        "pool-define @/pool.xml",
        "pool-build p",
        "pool-start p",
        "vol-create-as p big 64M --allocation 0",
    ] {
        ensure!(run(&virsh, command, &documents)?.success(), "{command}");
    }
    for holes in ["", " --sparse"] {
        let commands = [
            format!("vol-upload big @/up p{holes}"),
            format!("vol-download big @/down p{holes}"),
        ];
        for command in commands {
            let answer = run(&virsh, &command, &documents)?;
            ensure!(answer.success(), "{command}: {}", answer.stderr);
        }
        ensure!(
            fs::read(&down)? == data,
            "what came down is not what went up{holes}"
        );
    }
    let blocks = fs::metadata(&down)?.blocks() * 512;
    ensure!(
        blocks < 32 << 20,
        "{blocks} bytes are allocated: the holes are lost"
    );
    Ok(())
}

/// Writes what is not zero of `data` to `path`, by blocks.
fn sparse(path: &Path, data: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path)?;
    file.set_len(data.len() as u64)?;
    for (index, block) in data.chunks(1 << 20).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (index as u64) << 20)?;
        }
    }
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
fn events_are_those_of_the_neighbour_and_go_on_after_its_restart() -> Result<()> {
    let Some((sandbox, mut neighbour, documents)) = with_neighbour()? else {
        return Ok(());
    };
    let cases: [(&str, &[&str], &[&str]); 3] = [
        (
            "network",
            &["net-event", "--event", "lifecycle"],
            &["net-define @/net.xml", "net-undefine n"],
        ),
        (
            "storage",
            &["pool-event", "--event", "lifecycle"],
            &[
                "pool-define @/pool.xml",
                "pool-build p",
                "pool-start p",
                "pool-refresh p",
                "pool-destroy p",
                "pool-undefine p",
            ],
        ),
        (
            "secret",
            &["secret-event", "--event", "value-changed"],
            &[
                "secret-define @/secret.xml",
                "secret-set-value 33333333-3333-3333-3333-333333333333 --base64 c2VjcmV0",
                "secret-undefine 33333333-3333-3333-3333-333333333333",
            ],
        ),
    ];
    for (driver, listen, change) in cases {
        let (ours, theirs) = (sandbox.virsh(), neighbour.virsh(driver));
        let listen = [listen, &["--loop", "--timeout", "3"]].concat();
        let (ours, theirs) = std::thread::scope(|scope| -> Result<_> {
            let listen = &listen;
            let listeners = [ours, theirs].map(|virsh| scope.spawn(move || virsh.run(listen)));
            std::thread::sleep(Duration::from_millis(1000));
            for command in change {
                ensure!(run(&sandbox.virsh(), command, &documents)?.success(), "{command}");
            }
            let [ours, theirs] = listeners.map(|listener| {
                listener
                    .join()
                    .map_err(|_| anyhow::anyhow!("a listener panicked"))
            });
            Ok((ours??, theirs??))
        })?;
        ensure!(
            (&ours.stdout, &ours.stderr) == (&theirs.stdout, &theirs.stderr),
            "{ours:?} instead of {theirs:?}"
        );
        ensure!(ours.stdout.contains("event '"), "{ours:?}");
    }
    let virsh = sandbox.virsh();
    let heard = std::thread::scope(|scope| -> Result<_> {
        let listener =
            scope.spawn(|| virsh.run(&["net-event", "--event", "lifecycle", "--loop", "--timeout", "9"]));
        std::thread::sleep(Duration::from_millis(1000));
        neighbour.kill()?;
        neighbour.start()?;
        // As long as it may take until the registration is made again.
        std::thread::sleep(Duration::from_millis(4500));
        for command in ["net-define @/net.xml", "net-undefine n"] {
            ensure!(run(&sandbox.virsh(), command, &documents)?.success(), "{command}");
        }
        listener
            .join()
            .map_err(|_| anyhow::anyhow!("a listener panicked"))?
    })?;
    ensure!(
        heard.stdout.contains("Defined") && heard.stdout.contains("Undefined"),
        "{heard:?}"
    );
    Ok(())
}

/// Reads our guest until `until`; the longest that took.
async fn read_own(socket: PathBuf, until: Instant) -> Result<Duration> {
    let mut client = Client::open(&socket, "qemu:///system").await?;
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let begun = Instant::now();
        let dom = client.call(&DomainLookupByName { name: "own".into() }).await?.dom;
        client.call(&DomainGetXmlDesc { dom, flags: 0 }).await?;
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(longest)
}

/// Asks the neighbour through us until `until`; calls that succeeded, and the longest that one took.
async fn read_theirs(socket: PathBuf, until: Instant) -> Result<(usize, Duration)> {
    let mut client = Client::open(&socket, "qemu:///system").await?;
    let (mut answered, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let begun = Instant::now();
        match client.call(&ConnectNumOfDefinedNetworks {}).await {
            Ok(_) => answered += 1,
            Err(ClientError::Remote(_)) => {}
            Err(error) => return Err(error.into()),
        }
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((answered, longest))
}

/// A read of each driver that has a daemon of its own.
const READS: &[(&str, &[&str])] = &[
    ("network", &["net-list", "--all"]),
    ("storage", &["pool-list", "--all"]),
    ("nodedev", &["nodedev-info", "computer"]),
    ("secret", &["secret-list"]),
    ("nwfilter", &["nwfilter-list"]),
    ("interface", &["iface-list", "--all"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_six_daemons_one_that_is_stopped_or_killed_hurts_its_own_calls_only() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let Some(mut neighbour) = Neighbour::modular(&sandbox)? else {
        return Ok(());
    };
    sandbox.virsh().define(&small("own", Path::new(QEMU), ""))?;
    let until = Instant::now() + Duration::from_secs(6);
    let own: Vec<_> = (0..4)
        .map(|_| tokio::spawn(read_own(sandbox.socket(), until)))
        .collect();
    let (uri, socket) = (sandbox.uri(), sandbox.socket());
    let work = tokio::task::spawn_blocking(move || -> Result<()> {
        for (driver, _) in READS {
            neighbour.signal_one(driver, Signal::SIGSTOP)?;
            others_answer(&uri, driver)?;
            neighbour.kill_one(driver)?;
            others_answer(&uri, driver)?;
            let (_, read) = READS.iter().find(|(name, _)| name == driver).context("no read")?;
            ensure!(
                !Virsh::new(&uri).run(read)?.success(),
                "{driver} answers without its daemon at {}",
                socket.display()
            );
            neighbour.start()?;
            Virsh::new(&uri)
                .ok(read)
                .with_context(|| format!("{driver} after its daemon's restart"))?;
        }
        Ok(())
    });
    work.await??;
    for reader in own {
        let longest = reader.await?.context("a client of our own guests failed")?;
        ensure!(longest < OWN * LOADED, "{longest:?}");
    }
    Ok(())
}

fn others_answer(uri: &str, gone: &str) -> Result<()> {
    for (driver, read) in READS.iter().filter(|(driver, _)| *driver != gone) {
        Virsh::new(uri)
            .ok(read)
            .with_context(|| format!("{driver} while {gone} is away"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_is_stopped_or_killed_is_noticed_by_nobody_else() -> Result<()> {
    let Some((sandbox, mut neighbour, _)) = with_neighbour()? else {
        return Ok(());
    };
    sandbox.virsh().define(&small("own", Path::new(QEMU), ""))?;
    let until = Instant::now() + Duration::from_secs(8);
    let socket = sandbox.socket();
    let own: Vec<_> = (0..4)
        .map(|_| tokio::spawn(read_own(socket.clone(), until)))
        .collect();
    let theirs: Vec<_> = (0..4)
        .map(|_| tokio::spawn(read_theirs(socket.clone(), until)))
        .collect();
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        neighbour.signal(signal)?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    neighbour.kill()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let neighbour = tokio::task::spawn_blocking(move || neighbour.start().map(|()| neighbour)).await??;
    for reader in own {
        let longest = reader.await?.context("a client of our own guests failed")?;
        ensure!(longest < OWN * LOADED, "{longest:?}");
    }
    for reader in theirs {
        let (answered, longest) = reader.await??;
        ensure!(
            answered > 0 && longest < Duration::from_secs(5),
            "{answered} answered, {longest:?}"
        );
    }
    drop(neighbour);
    Ok(())
}

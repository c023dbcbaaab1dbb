//! Writes what each fuzz target begins with, made from the tests' data: `seeds REPOSITORY CORPUS`. Also prints the
//! names of the targets, for `scripts/fuzz.sh`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use qemu_plan::save_image::{ImageFormat, Texts};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(corpus)) = (args.next(), args.next()) else {
        return Err("seeds REPOSITORY CORPUS".into());
    };
    let write = |target: &str, inputs: Vec<Vec<u8>>| -> Result<()> {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        for (number, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:04}")), input)?;
        }
        println!("{target}");
        Ok(())
    };
    write("wire_packet", packets(&root)?)?;
    write(
        "qmp_line",
        files(&root.join("crates"), &["json", "jsonl", "qmp"])?,
    )?;
    write("xml_document", files(&root.join("crates"), &["xml"])?)?;
    write("domain_document", domains(&root)?)?;
    write(
        "status_document",
        files(&root.join("crates/domxml/tests/data/status"), &["xml"])?,
    )?;
    write("qemu_replies", replies(&root)?)?;
    write("firmware_descriptor", descriptors(&root)?)?;
    write("host_tree", trees(&root)?)?;
    write("config_file", files(&root.join("conf"), &["conf"])?)?;
    write("qcow2_head", heads())?;
    write("journal_segment", segments())?;
    write("save_image", images())?;
    write("moment_document", moments(&root)?)?;
    write(
        "cpu_list",
        ["0-3,8,10-11", "65535", "7"]
            .map(|list| list.as_bytes().to_vec())
            .to_vec(),
    )
}

/// Bytes in the last column.
fn packets(root: &Path) -> Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(root.join("crates/wire/tests/data/packets.tsv"))?;
    let columns = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit('\t').next());
    let bytes = |hex: &str| -> Option<Vec<u8>> {
        (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
            .collect()
    };
    Ok(columns.filter_map(bytes).collect())
}

/// Documents as libvirt keeps them, one after another in files, and as they were submitted.
fn domains(root: &Path) -> Result<Vec<Vec<u8>>> {
    let kept = files(&root.join("crates/domxml/tests/data/domains"), &["xml"])?;
    let mut found = files(&root.join("crates/qemu-plan/tests/data/define"), &["xml"])?;
    for text in kept {
        let text = String::from_utf8(text)?;
        let documents = text.split_inclusive("\n</domain>\n");
        found.extend(documents.map(|document| document.as_bytes().to_vec()));
    }
    Ok(found)
}

/// The number of a question, and a reply to it that is not too long to be changed.
fn replies(root: &Path) -> Result<Vec<Vec<u8>>> {
    let path = root.join("crates/qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");
    let recorded: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let exchanges = recorded
        .pointer("/runs/0/exchanges")
        .and_then(|all| all.as_array());
    let exchanges = exchanges.into_iter().flatten().enumerate();
    let seeds = exchanges.filter_map(|(number, exchange)| {
        let mut seed = vec![u8::try_from(number).ok()?];
        seed.extend(exchange.get("reply")?.to_string().bytes());
        (seed.len() < 16 << 10).then_some(seed)
    });
    Ok(seeds.collect())
}

/// Descriptors of hosts, good and odd ones.
fn descriptors(root: &Path) -> Result<Vec<Vec<u8>>> {
    let path = root.join("crates/qemu-plan/tests/data/firmware/sets.json");
    let sets: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let sets = sets.get("sets").and_then(|sets| sets.as_object());
    let all = sets
        .into_iter()
        .flat_map(|sets| sets.values())
        .filter_map(|set| set.get("descriptors")?.as_array());
    let texts = all.flatten().filter_map(|text| text.as_str());
    let distinct: std::collections::BTreeSet<&str> = texts.collect();
    Ok(distinct
        .into_iter()
        .map(|text| text.as_bytes().to_vec())
        .collect())
}

/// Recorded hosts, and firmware tables, in the target's form: those of its files that they have.
fn trees(root: &Path) -> Result<Vec<Vec<u8>>> {
    let target = fs::read_to_string(root.join("fuzz/targets/host_tree.rs"))?;
    let names: Vec<&str> = target
        .lines()
        .filter_map(|line| line.strip_prefix("    \"")?.strip_suffix("\","))
        .collect();
    let data = root.join("crates/hostinfo/tests/data");
    let mut found = Vec::new();
    for text in files(&data, &["tree", "tables"])? {
        let text = String::from_utf8(text)?;
        let mut input = Vec::new();
        for part in text.split("== ").skip(1) {
            let (path, content) = part.split_once('\n').unwrap_or((part, ""));
            let Some(which) = names.iter().position(|name| *name == path) else {
                continue;
            };
            let content = match path.starts_with("sys/firmware") {
                true => hexadecimal(content),
                false => content.as_bytes().to_vec(),
            };
            input.push(which as u8);
            input.extend((content.len() as u16).to_le_bytes());
            input.extend(content);
        }
        found.push(input);
    }
    Ok(found)
}

fn hexadecimal(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16).map(|value| value as u8))
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Heads of version 3 images: with a backing file and its format, and without.
fn heads() -> Vec<Vec<u8>> {
    let name = b"/base.img";
    let mut head = b"QFI\xfb".to_vec();
    head.extend(3_u32.to_be_bytes());
    head.extend(128_u64.to_be_bytes());
    head.extend((name.len() as u32).to_be_bytes());
    head.resize(100, 0);
    head.extend(104_u32.to_be_bytes());
    head.extend(0xE279_2ACA_u32.to_be_bytes());
    head.extend(5_u32.to_be_bytes());
    head.extend(b"qcow2\0\0\0");
    head.resize(128, 0);
    let alone = [&head[..8], &[0; 120]].concat();
    head.extend(name);
    vec![head, alone]
}

/// Heads of saved guests' images in every format, with a cookie and without.
fn images() -> Vec<Vec<u8>> {
    let image = |(at, format): (usize, &ImageFormat)| {
        let texts = Texts {
            document: "<domain/>".into(),
            cookie: (at % 2 == 0).then(|| "<cookie/>".into()),
        };
        let (header, data) = texts.compose(at % 3 == 0, *format);
        [&header.encode(at != 1)[..], data.get(..32).unwrap_or_default()].concat()
    };
    ImageFormat::ALL.iter().enumerate().map(image).collect()
}

/// Documents of snapshots and checkpoints as files have them, with a guest's document inside and without.
fn moments(root: &Path) -> Result<Vec<Vec<u8>>> {
    let head = "<name>a</name><description>d</description><state>running</state><parent><name>p</name></parent>\
        <creationTime>7</creationTime><memory snapshot='external' file='/m'/><disks><disk name='vda' snapshot='external' \
        type='file'><driver type='qcow2'/><source file='/a'/></disk><disk name='vdb' snapshot='no'/></disks>";
    let points = "<name>a</name><parent><name>p</name></parent><creationTime>7</creationTime><disks>\
        <disk name='vda' checkpoint='bitmap' bitmap='a'/><disk name='vdb' checkpoint='no'/></disks>";
    let mut found = Vec::new();
    for domain in domains(root)?.into_iter().step_by(20) {
        let domain = String::from_utf8(domain)?;
        found.push(format!("<domainsnapshot>{head}{domain}<active>1</active></domainsnapshot>"));
        found.push(format!("<domaincheckpoint>{points}{domain}</domaincheckpoint>"));
    }
    found.push(format!("<domainsnapshot>{head}</domainsnapshot>"));
    found.push(format!("<domaincheckpoint>{points}</domaincheckpoint>"));
    Ok(found.into_iter().map(String::into_bytes).collect())
}

/// Bodies of a segment's records, each behind its length: a head without guests, and an event's first fields.
fn segments() -> Vec<Vec<u8>> {
    let head = [&b"vqjrnl01"[..], &7_u64.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    let event = b"\x0a\x04\x08\x07\x10\x01\x1a\x2400000000-0000-0000-0000-000000000007\"\x05guest";
    let behind = |body: &[u8]| [&(body.len() as u16).to_le_bytes()[..], body].concat();
    let whole = [behind(&head), behind(event), behind(event)].concat();
    vec![behind(&head), whole]
}

/// Small files below a directory with one of the extensions, at most 200.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                dirs.push(path);
            } else if extensions.contains(&extension)
                && path.metadata()?.len() < 64 << 10
                && found.len() < 200
            {
                found.push(fs::read(path)?);
            }
        }
    }
    Ok(found)
}

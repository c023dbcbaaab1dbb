//! Documents of clients against libvirt's answers, which stand beside them in files of `data/reading`.
//!
//! `refused.txt` has a document for each kind of error of each place, `accepted.txt` what looks wrong and is taken all the
//! same, and `elsewhere.txt` the errors of libvirt's reader that no document leads to here, with the reason.

use domxml::devices::Device;
use domxml::{Domain, FormatFlags, ParseFlags};

const REFUSED: &str = include_str!("data/reading/refused.txt");
const MIRRORS: &str = include_str!("data/reading/mirrors.txt");
const ACCEPTED: &str = include_str!("data/reading/accepted.txt");

/// The beginning of a small guest.
const GUEST: &str = "<domain type='qemu'><name>t</name><memory>65536</memory><vcpu>2</vcpu>\
                     <os><type arch='x86_64' machine='pc'>hvm</type>";

fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|line| !line.starts_with('#'))
}

fn whole(document: &str) -> String {
    match document.strip_prefix('~') {
        Some(rest) => format!("{GUEST}{rest}"),
        None => document.to_owned(),
    }
}

#[test]
fn a_wrong_document_gives_libvirts_error() {
    let mut wrong = Vec::new();
    for line in lines(REFUSED) {
        let parts: Vec<&str> = line.splitn(4, '\t').collect();
        let [code, area, message, document] = parts[..] else {
            panic!("{line}");
        };
        let told = match Domain::given(&whole(document)) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => format!("{}\t{}\t{}", e.kind.number(), e.area.number(), e.message),
        };
        let expected = format!("{code}\t{area}\t{message}");
        if told != expected {
            wrong.push(format!("{expected}\n{told}\n{document}\n"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(lines(REFUSED).count() > 1000);
}

#[test]
fn the_copy_of_a_job_is_read_of_a_running_guest_only() {
    for line in lines(MIRRORS) {
        let parts: Vec<&str> = line.splitn(4, '\t').collect();
        let [code, area, message, mirror] = parts[..] else {
            panic!("{line}");
        };
        let disk = format!(
            "<disk type='file' device='disk'><source file='/x'/>{mirror}<target dev='sda' bus='scsi'/></disk>"
        );
        let told = match Device::given_as(&disk, ParseFlags::NONE) {
            Ok(_) => "ok\t\t".to_owned(),
            Err(e) => format!("{}\t{}\t{}", e.kind.number(), e.area.number(), e.message),
        };
        assert_eq!(told, format!("{code}\t{area}\t{message}"), "{mirror}");
        assert!(Device::given(&disk).is_ok(), "{mirror}");
    }
    assert!(lines(MIRRORS).count() > 10);
}

/// What was taken is stored, and is read for ever.
#[test]
fn an_odd_document_that_libvirt_takes_is_taken_and_can_be_read_back() {
    let form = FormatFlags::INACTIVE | FormatFlags::SECURE;
    for document in lines(ACCEPTED) {
        let domain = Domain::given(&whole(document)).unwrap_or_else(|e| panic!("{}: {document}", e.message));
        let stored = domain.format(form);
        let again = Domain::parse(&stored, ParseFlags::INACTIVE);
        let again = again.unwrap_or_else(|e| panic!("{}: {stored}", e.message));
        assert_eq!(again.format(form), stored, "{document}");
    }
    assert!(lines(ACCEPTED).count() > 300);
}

#[test]
fn the_number_of_an_image_is_read_of_a_running_guest_only() {
    for (index, refused) in [
        ("3", false),
        (" 3", false),
        ("", true),
        ("-1", true),
        ("x", true),
        ("4294967296", true),
    ] {
        let disk = format!("<disk type='file'><source file='/a' index='{index}'/><target dev='vda'/></disk>");
        let told = Device::given_as(&disk, ParseFlags::NONE).err();
        let told = told.map(|e| format!("{}/{} {}", e.kind.number(), e.area.number(), e.message));
        let said = format!("27/20 invalid disk index '{index}'");
        assert_eq!(told, Some(said).filter(|_| refused), "{index}");
        assert!(Device::given(&disk).is_ok(), "{index}");
    }
}

#[test]
fn of_some_elements_that_come_twice_the_first_that_says_something_counts() {
    // Table: what an interface has, and what of it is kept.
    for (given, kept) in [
        ("<model/><model type='virtio'/>", "<model type='virtio'/>"),
        ("<link/><link state='down'/>", "<link state='down'/>"),
        ("<mtu/><mtu size='1400'/>", "<mtu size='1400'/>"),
        ("<tune/><tune><sndbuf>1</sndbuf></tune>", "<sndbuf>1</sndbuf>"),
        ("<script/><script path='/x'/>", "<script path='/x'/>"),
        // Of others the first counts, whatever it says.
        ("<target/><target dev='x'/>", ""),
        ("<boot/><boot order='3'/>", ""),
        ("<rom/><rom bar='off'/>", ""),
    ] {
        let text = format!("<interface type='bridge'><source bridge='b'/>{given}</interface>");
        let Ok(device) = Device::given(&text) else {
            assert!(kept.is_empty(), "{given}");
            continue;
        };
        let shown = device.format(FormatFlags::INACTIVE);
        assert!(shown.contains(kept), "{shown}");
        let second = ["dev='x'", "order='3'", "bar='off'"];
        assert!(second.iter().all(|second| !shown.contains(second)), "{shown}");
    }
}

#[test]
fn reading_takes_no_more_time_than_the_length_of_a_document_allows() {
    let many = "<vcpusched vcpus='0' scheduler='batch'/><vcpupin vcpu='1' cpuset='0'/>".repeat(20_000);
    let document = format!("{GUEST}</os><cputune>{many}</cputune></domain>");
    let begin = std::time::Instant::now();
    assert!(Domain::given(&document).is_err());
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

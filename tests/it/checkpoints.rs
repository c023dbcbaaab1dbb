//! Checkpoints of a real guest: made, shown with what was written since, carried through block jobs, recorded anew, removed;
//! over a killed daemon, and beside libvirt's own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::skip::can_run_guests;
use testkit::{kill, libvirtd, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::daemon;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

impl Place {
    /// The bitmaps of all nodes, as `IMAGE NAME`.
    fn bitmaps(&self) -> Result<BTreeSet<String>> {
        let all = self.ask(r#"{"execute": "query-named-block-nodes", "arguments": {"flat": true}}"#)?;
        let mut found = BTreeSet::new();
        for node in all.as_array().context("a list")? {
            let file = node["file"].as_str().unwrap_or_default();
            let image = file
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .trim_end_matches(".qcow2");
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                let name = bitmap["name"].as_str().unwrap_or("(none)");
                found.insert(format!("{image} {name}"));
            }
        }
        Ok(found)
    }

    /// The names that are recorded, with their parents.
    fn recorded(&self) -> Result<Vec<String>> {
        let said = self.virsh().ok(&["checkpoint-list", "g", "--parent"])?;
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        let words = lines.map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            // Name, date, time, zone, parent.
            format!("{}<{}", words[0], words.get(4).copied().unwrap_or_default())
        });
        Ok(words.collect())
    }

    /// What is recorded is in the image, and nothing else is.
    pub(crate) fn bitmaps_are_recorded(&self) -> Result<()> {
        let recorded = self.recorded()?;
        let names = recorded.iter().filter_map(|name| name.split('<').next());
        let recorded: BTreeSet<_> = names.map(|name| format!("a {name}")).collect();
        let bitmaps = self.bitmaps()?;
        ensure!(
            recorded == bitmaps,
            "recorded is {recorded:?}, QEMU has {bitmaps:?}"
        );
        Ok(())
    }

    /// Bytes that were written to the disk since a checkpoint; none if that is not known.
    fn written(&self, name: &str) -> Result<Option<u64>> {
        let text = self
            .virsh()
            .ok(&["checkpoint-dumpxml", "g", name, "--size", "--no-domain"])?;
        let Some((_, rest)) = text.split_once("size='") else {
            return Ok(None);
        };
        let (number, _) = rest.split_once('\'').context("a number")?;
        Ok(Some(number.parse()?))
    }
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn what_is_written_since_is_known_and_goes_along() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    virsh.ok(&["checkpoint-create-as", "g", "one", "first"])?;
    place.write(LATE, 5 * PART)?;
    virsh.ok(&["checkpoint-create-as", "g", "two"])?;
    place.write(LATE, 6 * PART)?;
    assert_eq!(place.recorded()?, ["one<", "two<one"]);
    assert_eq!(place.bitmaps()?, set(["a one", "a two"]));
    assert_eq!(
        (place.written("one")?, place.written("two")?),
        (Some(2 * PART), Some(PART))
    );
    // An active commit carries them down, and writes go on being recorded.
    virsh.ok(&[
        "blockcommit",
        "g",
        "vda",
        "--active",
        "--shallow",
        "--wait",
        "--pivot",
    ])?;
    place.is_whole()?;
    assert_eq!(place.bitmaps()?, set(["top one", "top two"]));
    place.write(LATE, 7 * PART)?;
    let after = place.written("two")?.context("a size")?;
    ensure!(after >= 2 * PART, "{after} bytes since the second");
    // A guest that starts anew has them, and goes on recording.
    virsh.ok(&["destroy", "g"])?;
    let refused = virsh.ok(&["undefine", "g"]).unwrap_err().to_string();
    ensure!(
        refused.contains("cannot delete inactive domain with 2 checkpoints"),
        "{refused}"
    );
    virsh.ok(&["start", "g", "--paused"])?;
    assert_eq!(place.bitmaps()?, set(["top one", "top two"]));
    virsh.ok(&["checkpoint-delete", "g", "one"])?;
    assert_eq!(place.recorded()?, ["two<"]);
    assert_eq!(place.bitmaps()?, set(["top two"]));
    virsh.ok(&["checkpoint-create-as", "g", "three"])?;
    virsh.ok(&["checkpoint-create-as", "g", "four"])?;
    virsh.ok(&["checkpoint-delete", "g", "three", "--children"])?;
    assert_eq!(place.recorded()?, ["two<"]);
    assert_eq!(place.bitmaps()?, set(["top two"]));
    // The record goes, the bitmap stays; it is recorded anew by a document.
    let text = virsh.ok(&["checkpoint-dumpxml", "g", "two"])?;
    virsh.ok(&["checkpoint-delete", "g", "two", "--metadata"])?;
    assert_eq!(place.bitmaps()?, set(["top two"]));
    let file = place.sandbox.dir().join("two.xml");
    std::fs::write(&file, &text)?;
    let file = file.display().to_string();
    virsh.ok(&[
        "checkpoint-create",
        "g",
        &file,
        "--redefine",
        "--redefine-validate",
    ])?;
    assert_eq!(virsh.ok(&["checkpoint-dumpxml", "g", "two"])?, text);
    virsh.ok(&["destroy", "g"])?;
    virsh.ok(&["undefine", "g", "--checkpoints-metadata"])?;
    ensure!(
        !place
            .sandbox
            .path("/var/lib/libvirt/qemu/checkpoint/g/two.xml")
            .exists(),
        "the record is left"
    );
    Ok(())
}

#[test]
fn bitmaps_below_the_top_image_go_too() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    virsh.ok(&["checkpoint-create-as", "g", "one"])?;
    virsh.ok(&["checkpoint-create-as", "g", "two"])?;
    // The image becomes the second of the chain, as an external snapshot makes it.
    let over = place.path("over");
    virsh.ok(&["destroy", "g"])?;
    std::process::Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            &place.path("a"),
            &over,
        ])
        .status()?;
    virsh.define(&place.xml().replace(&place.path("a"), &over))?;
    virsh.ok(&["start", "g", "--paused"])?;
    assert_eq!(place.chain()?, ["over", "a", "top", "mid", "base"]);
    assert_eq!(place.written("one")?, None, "there is a gap above");
    virsh.ok(&["checkpoint-delete", "g", "one"])?;
    assert_eq!(place.bitmaps()?, set(["a two"]));
    place.is_whole()
}

#[test]
fn what_can_not_be_recorded_is_refused_in_libvirts_words() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    virsh.ok(&["checkpoint-create-as", "g", "c2"])?;
    let file = place.sandbox.dir().join("c.xml");
    let shown = file.display().to_string();
    let table: &[(&str, &[&str], &str)] = &[
        ("<name>c2</name>", &[], "domain moment c2 already exists"),
        (
            "<name>c3</name><disks><disk name='vda' checkpoint='bitmap' bitmap='zz'/></disks>",
            &[],
            "bitmap for disk 'vda' must match checkpoint name 'c3'",
        ),
        (
            "<disks><disk name='vdz' checkpoint='bitmap'/></disks>",
            &[],
            "no disk named 'vdz'",
        ),
        (
            "<name>c2</name><parent><name>c2</name></parent><creationTime>1</creationTime>",
            &["--redefine"],
            "cannot set moment c2 as its own parent",
        ),
        (
            "<name>nob</name><creationTime>1</creationTime><disks><disk name='vda' checkpoint='bitmap'/></disks>",
            &["--redefine", "--redefine-validate"],
            "missing or broken bitmap 'nob' for disk 'vda'",
        ),
        (
            "<name>x</name>",
            &["--redefine"],
            "missing creationTime from existing checkpoint",
        ),
    ];
    for (inside, more, expected) in table {
        std::fs::write(&file, format!("<domaincheckpoint>{inside}</domaincheckpoint>"))?;
        let mut args = vec!["checkpoint-create", "g", &shown];
        args.extend(*more);
        match virsh.ok(&args) {
            Ok(said) => bail!("{inside} was accepted: {said}"),
            Err(error) => ensure!(error.to_string().contains(expected), "{inside}: {error}"),
        }
    }
    virsh.ok(&["destroy", "g"])?;
    for args in [
        &["checkpoint-create-as", "g", "off"][..],
        &["checkpoint-delete", "g", "c2"],
    ] {
        let error = virsh.ok(args).unwrap_err().to_string();
        ensure!(
            error.contains("checkpoint for inactive domain"),
            "{args:?}: {error}"
        );
    }
    Ok(())
}

#[test]
fn a_daemon_killed_in_the_midst_leaves_bitmaps_that_are_recorded_and_no_others() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut place = Place::started(daemon())?;
    let make = ["checkpoint-create-as", "g", "new"];
    let remove = ["checkpoint-delete", "g", "new"];
    let mut kills = 0;
    for (before, operation) in [(None, &make[..]), (Some(&make[..]), &remove[..])] {
        let clear = |place: &Place| {
            // It may not be there.
            let _ = place.virsh().ok(&remove);
        };
        clear(&place);
        if let Some(before) = before {
            place.virsh().ok(before)?;
        }
        let begun = Instant::now();
        place.virsh().ok(operation)?;
        let whole = begun.elapsed();
        let tries = kill::tries();
        for number in 1..=tries {
            clear(&place);
            if let Some(before) = before {
                place.virsh().ok(before)?;
            }
            let moment = whole.mul_f64(1.1 * f64::from(number) / f64::from(tries));
            let pid = place.sandbox.pid().context("no daemon")?;
            let killer = kill::later(pid, moment);
            // The call fails where its daemon is killed first.
            let _ = place.virsh().ok(operation);
            killer
                .join()
                .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
            place.sandbox.kill()?;
            place.sandbox.start()?;
            agree(&place).with_context(|| format!("killed {moment:?} of {whole:?} into {operation:?}"))?;
            kills += 1;
        }
    }
    ensure!(kills > 0, "nothing was killed");
    Ok(())
}

/// Waits until what is recorded is in the image, and nothing else is.
fn agree(place: &Place) -> Result<()> {
    let agrees = || -> Result<()> {
        place.bitmaps_are_recorded()?;
        place.is_whole()
    };
    wait_until("all agree", AT_REST, || agrees().is_ok()).or_else(|_| agrees())
}

#[test]
fn libvirts_daemon_knows_our_checkpoints_and_we_know_its() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    let mut place = Place::started(libvirtd.clone())?;
    place
        .virsh()
        .ok(&["checkpoint-create-as", "g", "theirs", "first"])?;
    let text = place.virsh().ok(&["checkpoint-dumpxml", "g", "theirs"])?;
    place.sandbox.hand_over(daemon())?;
    let virsh = place.virsh();
    assert_eq!(virsh.ok(&["checkpoint-dumpxml", "g", "theirs"])?, text);
    virsh.ok(&["checkpoint-create-as", "g", "ours"])?;
    assert_eq!(place.recorded()?, ["ours<theirs", "theirs<"]);
    let text = virsh.ok(&["checkpoint-dumpxml", "g", "ours"])?;
    place.sandbox.hand_over(libvirtd)?;
    let virsh = place.virsh();
    assert_eq!(virsh.ok(&["checkpoint-dumpxml", "g", "ours"])?, text);
    virsh.ok(&["checkpoint-delete", "g", "theirs"])?;
    assert_eq!(place.recorded()?, ["ours<"]);
    assert_eq!(place.bitmaps()?, set(["a ours"]));
    Ok(())
}

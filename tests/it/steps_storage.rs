//! Each operation on a running guest's storage, each of its steps, each way in which a step goes wrong: in a real QEMU, whose
//! monitor is passed on by a script.
//!
//! After each the guest has the images that its document names and no others, what is recorded is so, no job, node or note is
//! left, and nothing that was on the disk is missing. What a client was told that is done is done. While a daemon comes back
//! QEMU's nodes are asked for at once: a pull that had ended by then would end QEMU 10.0.2 with it (`ops::run::streams`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::fake_qemu::program::{install, read_record};
use testkit::fake_qemu::script::Asked;
use testkit::skip::can_run_guests;
use testkit::wait::pause;
use testkit::{Daemon, wait_for, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::{QEMU, daemon};

/// How long all may take until it is at rest.
pub(crate) const AT_REST: Duration = Duration::from_secs(40);
/// How long a daemon that is to be killed is kept waiting for an answer.
const HELD_BACK: u64 = 800;
/// How long a QEMU that is to be killed is given to do what it was told, milliseconds.
const DONE_BY: u64 = 200;
/// What only asks, or takes away what is not needed any more: refused, it changes nothing, or leaves what it was to take away.
const PASSED_OVER: [&str; 6] = [
    "qmp_capabilities",
    "human-monitor-command",
    "job-dismiss",
    "blockdev-del",
    "object-del",
    "nbd-server-stop",
];

/// An operation, as commands of virsh; what is in capitals is an image or a file.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// What it begins from.
    pub(crate) before: &'static [&'static str],
    /// What is asked for, up to its end.
    pub(crate) commands: &'static [&'static str],
}

/// What can be wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Eof,
    /// QEMU does it, and ends before anybody hears of that.
    Died,
    EventFirst,
    Killed,
    /// The daemon and QEMU are, together.
    BothKilled,
}

const FAULTS: [Fault; 6] = [
    Fault::Refused,
    Fault::Killed,
    Fault::Eof,
    Fault::Died,
    Fault::BothKilled,
    Fault::EventFirst,
];

/// A guest whose QEMU does what the script lets it.
pub(crate) struct Trial {
    pub(crate) place: Place,
    script: PathBuf,
    record: PathBuf,
}

impl Trial {
    fn new() -> Result<Self> {
        Self::of(daemon())
    }

    pub(crate) fn of(daemon: Daemon) -> Result<Self> {
        let mut place = Place::new(daemon)?;
        let dir = place.sandbox.dir().join("fake");
        std::fs::create_dir_all(&dir)?;
        let emulator = install(&dir, &json!({"real": QEMU}))?;
        let record = dir.join("record");
        place.sandbox.start()?;
        let script = emulator.with_extension("json");
        Ok(Self {
            place,
            script,
            record,
        })
    }

    fn xml(&self) -> String {
        let emulator = self.script.with_extension("");
        self.place.xml().replace(QEMU, &emulator.display().to_string())
    }

    pub(crate) fn words(&self, line: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "TOP" => self.place.path("top"),
            "COPY" => self.place.path("copy"),
            "BACKUP" | "PULL" | "MEMORY" | "SAVED" => self.file(word).display().to_string(),
            other => other.to_owned(),
        };
        line.split(' ').map(word).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.sandbox.dir().join(name)
    }

    fn run(&self, line: &str) -> Result<bool> {
        let words = self.words(line);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Ok(self.place.virsh().run(&words)?.success())
    }

    /// The script from here on; what was asked before is forgotten.
    fn say(&self, rule: Option<&Value>) -> Result<()> {
        // It may not be there yet.
        let _ = std::fs::remove_file(&self.record);
        let rules: Vec<_> = rule.into_iter().collect();
        let script = json!({"real": QEMU, "record": self.record, "rules": rules});
        Ok(std::fs::write(&self.script, script.to_string())?)
    }

    /// All that QEMU was told and asked.
    fn heard(&self) -> Vec<Asked> {
        read_record(&self.record).unwrap_or_default()
    }

    /// What it was told that changes something.
    fn asked(&self) -> Vec<Asked> {
        let asked = self.heard();
        asked
            .into_iter()
            .filter(|step| !is_question(&json!(step.execute)))
            .collect()
    }

    /// The images as they were, the guest on them, and what the operation begins from.
    pub(crate) fn begin(&self, operation: &Operation) -> Result<String> {
        let (place, virsh) = (&self.place, self.place.virsh());
        self.say(None)?;
        // It may be off.
        let _ = virsh.ok(&["destroy", "g"]);
        let all = ["undefine", "g", "--snapshots-metadata", "--checkpoints-metadata"];
        let _ = virsh.ok(&all);
        for entry in std::fs::read_dir(place.sandbox.dir())? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.ends_with(".qcow2")
                || name.ends_with(".s1")
                || name.ends_with(".s2")
                || name.ends_with(".out")
                || name == "MEMORY"
            {
                std::fs::remove_file(path)?;
            }
        }
        place.make_images()?;
        let target = |kind: &str, name: &str| {
            let path = self.file(name).display().to_string();
            format!("<disks><disk name='vda' type='file'><{kind} file='{path}'/></disk></disks>")
        };
        let push = format!("<domainbackup>{}</domainbackup>", target("target", "push.out"));
        let pull = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{}'/>{}</domainbackup>",
            self.file("nbd").display(),
            target("scratch", "scratch.out")
        );
        std::fs::write(self.file("BACKUP"), push)?;
        std::fs::write(self.file("PULL"), pull)?;
        virsh.define(&self.xml())?;
        virsh.ok(&["start", "g"])?;
        for line in operation.before {
            ensure!(self.run(line)?, "{line}");
        }
        place.write(LATE, 6 * PART)?;
        place.tell_disk("flush")?;
        self.state()
    }

    /// What is recorded, and the images of the disk.
    pub(crate) fn state(&self) -> Result<String> {
        let virsh = self.place.virsh();
        let chain = self.place.chain()?.join(" ");
        let snapshots = virsh.ok(&["snapshot-list", "g", "--name"])?;
        let checkpoints = virsh.ok(&["checkpoint-list", "g", "--name"])?;
        let mirrored = virsh.ok(&["dumpxml", "g"])?.contains("<mirror ");
        let names = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(",");
        Ok(format!(
            "{chain}; {}; {}{}",
            names(&snapshots),
            names(&checkpoints),
            if mirrored { "; a copy" } else { "" }
        ))
    }

    /// The state that an operation leads to.
    fn undisturbed(&self, operation: &Operation) -> Result<String> {
        self.begin(operation)?;
        self.say(None)?;
        ensure!(self.carry_out(operation)?, "{} fails undisturbed", operation.name);
        self.state()
    }

    pub(crate) fn carry_out(&self, operation: &Operation) -> Result<bool> {
        for line in operation.commands {
            if !self.run(line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until nothing is under way; what is to be steered by a client is given up, unless `before` has it.
    pub(crate) fn rests(&self, before: &str) -> Result<()> {
        let (place, virsh) = (&self.place, self.place.virsh());
        let is_still = || {
            let Ok(document) = virsh.ok(&["dumpxml", "g"]) else {
                return Err(anyhow::anyhow!("no document"));
            };
            let status = std::fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml"))?;
            if document.contains("<mirror ") {
                if before.contains("a copy") && document.contains("ready='yes'") {
                    return Ok(());
                }
                let _ = virsh.ok(&["blockjob", "g", "vda", "--abort"]);
            }
            if status.contains("<backups>") {
                let _ = virsh.ok(&["domjobabort", "g"]);
            }
            ensure!(!status.contains("async='"), "the status file has a job: {status}");
            ensure!(virsh.state("g")? == "running", "its CPUs stand");
            place.is_whole()
        };
        wait_until("all is at rest", AT_REST, || is_still().is_ok()).or_else(|_| is_still())
    }

    /// All that must hold then: one of two states, and what was on the disk.
    pub(crate) fn holds(&self, states: &[&String]) -> Result<String> {
        self.rests(states[0])?;
        let state = self.state()?;
        ensure!(states.contains(&&state), "'{state}' is none of {states:?}");
        self.place.has_everything(Some(6 * PART))?;
        Ok(state)
    }

    /// The operation goes wrong at a step; `after` is the state that it leads to.
    fn errs(&mut self, operation: &Operation, fault: Fault, mut rule: Value, after: &String) -> Result<()> {
        let before = self.begin(operation)?;
        match fault {
            Fault::Refused => rule["error"] = json!({"class": "GenericError", "desc": "injected refusal"}),
            Fault::Eof => rule["then"] = json!("eof"),
            Fault::Died => {
                rule["delay_ms"] = json!(DONE_BY);
                rule["then"] = json!("eof-after");
            }
            Fault::EventFirst => {
                rule["before"] =
                    json!([{"event": "JOB_STATUS_CHANGE", "data": {"id": "another", "status": "concluded"}}]);
            }
            Fault::Killed | Fault::BothKilled => rule["delay_ms"] = json!(HELD_BACK),
        }
        self.say(Some(&rule))?;
        match fault {
            Fault::Killed | Fault::BothKilled => {
                return self.is_cut_off(operation, (fault, &rule), [&before, after]);
            }
            Fault::Eof | Fault::Died => return self.is_left(operation, &rule, [&before, after]),
            Fault::Refused | Fault::EventFirst => {}
        }
        let done = self.carry_out(operation)?;
        match fault {
            Fault::EventFirst => {
                ensure!(done, "it failed");
                self.holds(&[after]).map(drop)
            }
            _ => {
                let virsh = self.place.virsh();
                if rule["execute"] == "cont" && !done && virsh.state("g")? == "paused" {
                    // The client was told that it failed, and that is for him to mend.
                    virsh.ok(&["resume", "g"])?;
                }
                let state = self.holds(&[&before, after])?;
                ensure!(!done || state == *after, "it was said to be done");
                Ok(())
            }
        }
    }

    /// QEMU ends in the midst of it. Another QEMU, that goes on with it, does not.
    fn is_left(&self, operation: &Operation, rule: &Value, states: [&String; 2]) -> Result<()> {
        let pid = self.place.sandbox.guest_pid("g").context("no guest")?;
        let all: Vec<_> = operation
            .commands
            .iter()
            .map(|line| self.words(line).join(" "))
            .collect();
        let mut client = self.place.virsh().spawn(&[&all.join("; ")])?;
        let is_over = |client: &mut std::process::Child| client.try_wait().is_ok_and(|ended| ended.is_some());
        wait_until("QEMU's end", AT_REST, || {
            !testkit::process::alive(pid) || is_question(&rule["execute"]) && is_over(&mut client)
        })?;
        self.say(None)?;
        client.wait()?;
        if testkit::process::alive(pid) {
            return Ok(());
        }
        self.starts_as(states)
    }

    /// The guest is off, and its next start finds one of two states.
    fn starts_as(&self, states: [&String; 2]) -> Result<()> {
        self.place.ended()?;
        self.say(None)?;
        let virsh = self.place.virsh();
        virsh.ok(&["start", "g"]).context("the next start")?;
        let without_copy = states.map(|state| state.replace("; a copy", ""));
        self.holds(&without_copy.each_ref()).map(drop)
    }

    /// The daemon, or QEMU with it, is killed while QEMU works on a step, or has done it.
    fn is_cut_off(
        &mut self,
        operation: &Operation,
        (fault, rule): (Fault, &Value),
        states: [&String; 2],
    ) -> Result<()> {
        let (last, first) = operation.commands.split_last().context("no command")?;
        let nth = usize::try_from(rule["nth"].as_u64().unwrap_or(1))?;
        let reached = |trial: &Self| {
            let asked = trial.heard();
            asked
                .iter()
                .filter(|a| rule["execute"] == a.execute.as_str())
                .count()
                >= nth
        };
        let all: Vec<_> = first
            .iter()
            .chain([last])
            .map(|line| self.words(line).join(" "))
            .collect();
        let mut client = self.place.virsh().spawn(&[&all.join("; ")])?;
        let may_miss = is_question(&rule["execute"]);
        let come = wait_for("the step", AT_REST, || {
            let come = reached(self);
            // Who only asks may ask more or less often than the first time.
            let is_over = may_miss && client.try_wait().is_ok_and(|ended| ended.is_some());
            (come || is_over).then_some(come)
        })?;
        if !come {
            return Ok(());
        }
        if fault == Fault::BothKilled {
            pause(Duration::from_millis(DONE_BY));
            for pid in self.place.sandbox.emulators()() {
                testkit::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        self.place.sandbox.kill()?;
        // It waits for an answer that does not come.
        let _ = client.kill();
        let _ = client.wait();
        self.say(None)?;
        self.place.sandbox.start()?;
        match fault {
            Fault::BothKilled => self.starts_as(states),
            _ => self.holds(&states).map(drop),
        }
    }
}

/// Whether a step changes nothing, or only takes away what is not needed any more.
fn is_question(execute: &Value) -> bool {
    let word = execute.as_str().unwrap_or_default();
    let asks = ["query-", "qom-", "device-list-"];
    PASSED_OVER.contains(&word) || asks.iter().any(|begin| word.starts_with(begin))
}

/// Whether all is tried, at every step: `STEPS=long` is in the environment.
pub(crate) fn is_long() -> bool {
    std::env::var_os("STEPS").is_some_and(|s| s == "long")
}

/// All at every step if `STEPS=long` is in the environment; else what is worst at the first and at the last.
fn is_tried(fault: Fault, (at, last): (usize, usize)) -> bool {
    is_long()
        || matches!(fault, Fault::Refused | Fault::Killed) && (at == 0 || at == last)
        || matches!(fault, Fault::Died | Fault::BothKilled) && at == last
}

fn every_step(operation: Operation) -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut trial = Trial::new()?;
    let before = trial.begin(&operation)?;
    trial.say(None)?;
    ensure!(trial.carry_out(&operation)?, "it fails undisturbed");
    trial.rests(&before)?;
    let (steps, after, heard) = (trial.asked(), trial.state()?, trial.heard());
    trial.place.has_everything(Some(6 * PART))?;
    ensure!(!steps.is_empty(), "it takes no step");
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let nth = met.entry(&step.execute).or_default();
        *nth += 1;
        let rule = json!({"execute": step.execute, "nth": nth});
        for fault in FAULTS {
            if is_tried(fault, (at, steps.len() - 1)) {
                trial
                    .errs(&operation, fault, rule.clone(), &after)
                    .with_context(|| format!("{} at {rule}: {fault:?}", operation.name))?;
            }
        }
    }
    let questions = heard.iter().filter(|_| is_long());
    for question in questions.filter(|step| is_question(&json!(step.execute))) {
        let nth = met.entry(&question.execute).or_default();
        *nth += 1;
        let rule = json!({"execute": question.execute, "nth": nth});
        for fault in [Fault::Killed, Fault::BothKilled, Fault::Eof] {
            trial
                .errs(&operation, fault, rule.clone(), &after)
                .with_context(|| format!("{} at {rule}: {fault:?}", operation.name))?;
        }
    }
    Ok(())
}

const PULL: Operation = Operation {
    name: "pull",
    before: &[],
    commands: &["blockpull g vda --wait"],
};
const COMMIT: Operation = Operation {
    name: "commit",
    before: &[],
    commands: &["blockcommit g vda --top TOP --delete --wait"],
};
const COMMIT_ACTIVE: Operation = Operation {
    name: "commit-active",
    before: &[],
    commands: &["blockcommit g vda --active --wait --pivot"],
};
const PIVOT: Operation = Operation {
    name: "pivot",
    before: &["blockcopy g vda COPY --transient-job --wait"],
    commands: &["blockjob g vda --pivot"],
};
const DELETE_TOP: Operation = Operation {
    name: "delete-top",
    before: &["snapshot-create-as g s1 --disk-only"],
    commands: &["snapshot-delete g s1"],
};
const DELETE_OVERLAY: Operation = Operation {
    name: "delete-overlay",
    before: &[
        "snapshot-create-as g s1 --disk-only",
        "snapshot-create-as g s2 --disk-only",
    ],
    commands: &["snapshot-delete g s1"],
};

/// QEMU ends when a job is dismissed and nothing is recorded of it yet: documents and images say the same of the chain.
#[test]
fn a_merge_that_is_not_recorded_is_not_in_the_chain() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    for operation in [PULL, COMMIT, COMMIT_ACTIVE, DELETE_OVERLAY] {
        let name = operation.name;
        let mut trial = Trial::new()?;
        let after = trial.undisturbed(&operation)?;
        let asked = read_record(&trial.record)?;
        let is_question = |asked: &&Asked| asked.execute == "query-named-block-nodes";
        let dismissed = asked.iter().position(|asked| asked.execute == "job-dismiss");
        let dismissed = dismissed.context("no job was dismissed")?;
        let nth = asked[..dismissed].iter().filter(is_question).count() + 1;
        let rule = json!({"execute": "query-named-block-nodes", "nth": nth});
        trial.errs(&operation, Fault::Eof, rule, &after).context(name)?;
    }
    Ok(())
}

/// The daemon ends before a save has come to its file, which is the image of another save.
#[test]
fn an_image_stays_one_until_it_is_written_over() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut trial = Trial::new()?;
    let save = Operation {
        name: "save",
        before: &["save g SAVED", "restore SAVED"],
        commands: &["save g SAVED"],
    };
    let state = trial.begin(&save)?;
    let rule = json!({"execute": "stop", "nth": 1});
    trial.errs(&save, Fault::Killed, rule, &state)?;
    let head = std::fs::read(trial.file("SAVED"))?;
    ensure!(
        head.starts_with(b"LibvirtQemudSave"),
        "the image of the other save is none any more"
    );
    Ok(())
}

/// The daemon ends while the CPUs stand for a pivot and QEMU has swapped: the next one lets them run.
#[test]
fn cpus_run_again_if_the_daemon_ends_as_a_job_is_dismissed() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    for operation in [PIVOT, COMMIT_ACTIVE, DELETE_TOP] {
        let mut trial = Trial::new()?;
        let after = trial.undisturbed(&operation)?;
        let rule = json!({"execute": "job-dismiss", "nth": 1});
        trial
            .errs(&operation, Fault::Killed, rule, &after)
            .context(operation.name)?;
    }
    Ok(())
}

/// What follows from the end of a merge fails once: the guest does not go on to write to an image that its documents do not
/// name.
#[test]
fn documents_follow_a_merge_though_it_is_said_to_have_failed() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    for operation in [DELETE_TOP, DELETE_OVERLAY] {
        let name = operation.name;
        let trial = Trial::new()?;
        let after = trial.undisturbed(&operation)?;
        let before = trial.begin(&operation)?;
        let refused = json!({"class": "GenericError", "desc": "injected refusal"});
        trial.say(Some(
            &json!({"execute": "job-dismiss", "nth": 1, "error": refused}),
        ))?;
        ensure!(!trial.carry_out(&operation)?, "{name}: it was said to be done");
        trial.rests(&before).context(name)?;
        trial.place.has_everything(Some(6 * PART)).context(name)?;
        trial.say(None)?;
        ensure!(trial.carry_out(&operation)?, "{name}: it can't be made up for");
        trial.holds(&[&after]).context(name)?;
    }
    Ok(())
}

/// A snapshot is on the disk and can't be recorded, nor when the run has ended: no start takes the guest back to before it.
#[test]
fn a_guest_does_not_start_below_the_images_that_it_wrote_to() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut trial = Trial::new()?;
    let snapshot = Operation {
        name: "snapshot-disks",
        before: &[],
        commands: &["snapshot-create-as g s1 --disk-only"],
    };
    trial.begin(&snapshot)?;
    let in_the_way = trial.place.sandbox.path("/var/lib/libvirt/qemu/snapshot/g");
    let config = trial.place.sandbox.path("/etc/libvirt/qemu/g.xml");
    std::fs::create_dir_all(in_the_way.parent().context("a directory")?)?;
    std::fs::write(&in_the_way, "")?;
    ensure!(!trial.carry_out(&snapshot)?, "it is said to be made");
    trial.place.write(LATE, 7 * PART)?;
    trial.place.tell_disk("flush")?;
    trial.place.virsh().ok(&["destroy", "g"])?;
    for restarts in [false, true] {
        if restarts {
            trial.place.sandbox.kill()?;
            trial.place.sandbox.start()?;
        }
        ensure!(!trial.run("start g")?, "it starts, restarted: {restarts}");
        let named = std::fs::read_to_string(&config)?.contains("a.s1");
        ensure!(!named, "half of it is recorded, restarted: {restarts}");
    }
    std::fs::remove_file(&in_the_way)?;
    ensure!(trial.run("start g")?, "it does not start");
    let state = trial.state()?;
    ensure!(state.contains("; s1;"), "it is not recorded: {state}");
    let read = format!("read -P {LATE} {} {PART}", 7 * PART);
    trial.place.tell_disk("flush")?;
    let top = trial.file("a.s1").display().to_string();
    let said = crate::blockjobs::run("qemu-io", &["-U", "-r", "-f", "qcow2", "-c", &read, &top])?;
    ensure!(!said.contains("failed"), "what it wrote last is missing: {said}");
    trial.holds(&[&state]).map(drop)
}

/// The daemon and QEMU end while the image of a copy is made.
#[test]
fn a_copy_that_has_not_begun_leaves_no_file() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut trial = Trial::new()?;
    let copy = Operation {
        name: "copy",
        before: &[],
        commands: &["blockcopy g vda COPY --transient-job --wait"],
    };
    let before = trial.begin(&copy)?;
    let file = trial.place.image("copy");
    trial.errs(
        &copy,
        Fault::BothKilled,
        json!({"execute": "blockdev-create", "nth": 1}),
        &before,
    )?;
    ensure!(!file.exists(), "an image is left that nobody names");
    Ok(())
}

/// QEMU 10.0.2 ends if it is asked about its nodes between the end of a pull and its dismissal.
#[test]
fn a_pull_stands_while_qemu_is_asked_about_its_nodes() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let trial = Trial::new()?;
    let pull = Operation {
        name: "pull",
        before: &[],
        commands: &[],
    };
    trial.begin(&pull)?;
    trial.say(None)?;
    let virsh = trial.place.virsh();
    virsh.ok(&["blockpull", "g", "vda", "--bandwidth", "500000", "--bytes"])?;
    for _ in 0..3 {
        virsh.ok(&["domstats", "g", "--block", "--backing"])?;
    }
    let nodes = r#"{"execute": "query-named-block-nodes"}"#;
    virsh.ok(&["qemu-monitor-command", "g", nodes])?;
    wait_until("the end of the pull", AT_REST, || trial.rests("").is_ok())?;
    trial.place.has_everything(Some(6 * PART))?;
    let asked = read_record(&trial.record)?;
    let mut stands = false;
    let mut questions = 0;
    for step in asked {
        match step.execute.as_str() {
            "job-pause" => stands = true,
            "job-resume" => stands = false,
            "job-dismiss" => {
                ensure!(questions >= 4, "{questions} questions were put");
                return Ok(());
            }
            "query-named-block-nodes" if questions < 4 => {
                ensure!(stands, "QEMU was asked while a pull was at work");
                questions += 1;
            }
            _ => {}
        }
    }
    anyhow::bail!("the pull was never dismissed")
}

macro_rules! rows {
    ($($test:ident: $name:literal, [$($before:literal),*], [$($command:literal),+];)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            every_step(Operation { name: $name, before: &[$($before),*], commands: &[$($command),+] })
        })*
    };
}

rows! {
    a_pull_at_every_step: "pull", [], ["blockpull g vda --wait"];
    a_commit_at_every_step: "commit", [], ["blockcommit g vda --top TOP --delete --wait"];
    a_commit_of_the_top_at_every_step: "commit-active", [], ["blockcommit g vda --active --wait --pivot"];
    a_copy_at_every_step: "copy", [], ["blockcopy g vda COPY --transient-job --wait --pivot"];
    the_end_of_a_copy_at_every_step: "abort", ["blockcopy g vda COPY --transient-job --wait"],
        ["blockjob g vda --abort"];
    a_pivot_to_a_copy_at_every_step: "pivot", ["blockcopy g vda COPY --transient-job --wait"],
        ["blockjob g vda --pivot"];
    an_internal_snapshot_at_every_step: "snapshot", [], ["snapshot-create-as g s1"];
    an_external_snapshot_at_every_step: "snapshot-disks", [], ["snapshot-create-as g s1 --disk-only"];
    the_removal_of_an_internal_snapshot_at_every_step: "delete-snapshot", ["snapshot-create-as g s1"],
        ["snapshot-delete g s1"];
    the_removal_of_an_external_snapshot_at_every_step: "delete-overlay",
        ["snapshot-create-as g s1 --disk-only"], ["snapshot-delete g s1"];
    a_checkpoint_at_every_step: "checkpoint", [], ["checkpoint-create-as g c1"];
    the_removal_of_a_checkpoint_at_every_step: "delete-checkpoint", ["checkpoint-create-as g c1"],
        ["checkpoint-delete g c1"];
    a_snapshot_with_memory_at_every_step: "snapshot-memory", [],
        ["snapshot-create-as g s1 --memspec MEMORY --diskspec vda,snapshot=external"];
    a_backup_at_every_step: "backup", [], ["backup-begin g BACKUP"];
    a_backup_that_is_fetched_at_every_step: "pull-backup", [], ["backup-begin g PULL", "domjobabort g"];
}

//! The kill matrix: an operation during which the daemon is killed, at one moment after the other, and what must hold
//! when it is back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use nix::sys::signal::Signal;

use crate::client::Virsh;
use crate::process;
use crate::sandbox::Sandbox;
use crate::wait::{pause, wait_for};

/// An operation to be cut off, as virsh commands. `{}` in one stands for the number of the try, so that every try can
/// have an object of its own.
#[derive(Debug, Clone)]
pub struct KillMatrix<'a> {
    /// Puts all in place; undisturbed.
    pub before: &'a [&'a [&'a str]],
    /// What the daemon is killed in.
    pub operation: &'a [&'a str],
    /// Clears up after the check; undisturbed. A refusal is fine.
    pub after: &'a [&'a [&'a str]],
}

/// How many moments to try: `KILL_MATRIX` in the environment is "short" (5, as is its absence), "full" (50), or a
/// number.
pub fn tries() -> u32 {
    match std::env::var("KILL_MATRIX").as_deref() {
        Ok("full") => 50,
        Ok(number) => number.parse().unwrap_or(5),
        Err(_) => 5,
    }
}

/// Whether the daemon is to be killed at each of its changes of directories instead: `KILL_MATRIX` is "changes".
pub fn by_changes() -> bool {
    std::env::var("KILL_MATRIX").is_ok_and(|how| how == "changes")
}

/// When a matrix ends though it has not had all its tries: `KILL_MATRIX_SECONDS` from its beginning.
pub fn until() -> Option<Instant> {
    let seconds = std::env::var("KILL_MATRIX_SECONDS").ok()?.parse().ok()?;
    Some(Instant::now() + Duration::from_secs(seconds))
}

/// Kills a process after a while, from a thread of its own. Join it before the process is looked at.
pub fn later(pid: i32, moment: Duration) -> JoinHandle<()> {
    let begun = Instant::now();
    std::thread::spawn(move || {
        while begun.elapsed() < moment {
            pause(TICK);
        }
        process::signal(pid, Signal::SIGKILL);
    })
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The daemon, which is started again.
    Daemon,
    /// QEMU, or the program of QEMU's that does the work while a guest is off.
    Qemu,
    /// The daemon, which is started again, and what there is of QEMU's programs with it.
    Both,
}

impl Victim {
    /// Whether a guest that ran is off then.
    pub fn is_of_qemu(self) -> bool {
        self != Self::Daemon
    }
}

/// All of them.
pub const VICTIMS: [Victim; 3] = [Victim::Daemon, Victim::Qemu, Victim::Both];

/// Where operations are cut off that no commands of virsh can say.
#[expect(async_fn_in_trait, reason = "tests run it on one thread")]
pub trait Place: Sized {
    /// What can be cut off.
    type Operation: Copy + Debug + PartialEq;

    /// Makes it.
    async fn make() -> Result<Self>;

    /// The daemon that is killed, or whose QEMU is.
    fn sandbox(&mut self) -> &mut Sandbox;

    /// Brings about what an operation begins from.
    async fn prepare(&mut self, operation: Self::Operation) -> Result<()>;

    /// Carries it out; an error if a client is not told that it is done.
    async fn carry_out(&mut self, operation: Self::Operation) -> Result<()>;

    /// The daemon is there again: clients connect anew.
    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    /// Waits until nothing is under way, and checks what must hold then, whoever was killed, if somebody was. Whether the
    /// operation was finished.
    async fn rest(&mut self, operation: Self::Operation, killed: Option<Victim>) -> Result<bool>;

    /// What else must hold after a kill.
    async fn afterwards(&mut self, _: Self::Operation, _done: bool, _: Victim) -> Result<()> {
        Ok(())
    }

    /// Puts all back as it was before [`Self::prepare`].
    async fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What became of the kills of one operation.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    finished: u32,
    /// The victim was gone before its time.
    missed: u32,
    at_odds: u32,
    time: Duration,
}

/// An operation in the matrix.
struct Row<O> {
    operation: O,
    whole: Duration,
    of: BTreeMap<Victim, Tally>,
}

/// What one try came to.
enum Cut {
    Killed { done: bool },
    Missed,
}

/// Part of the golden ratio: its multiples fall evenly into any span, however many there are.
const EVENLY: f64 = 0.618_033_988_75;
/// Most failures of a matrix that goes on after one.
const ENOUGH: u32 = 20;
const TICK: Duration = Duration::from_micros(100);

/// Lets each operation happen once, to see how long it takes, then cuts each off `tries` times, at moments that are spread
/// evenly over that time and a little more, with each victim in turn. The operations take turns, so that all have been
/// cut off as often whenever it ends. A failure is told and counted, and the place is made anew.
///
/// # Errors
/// When something did not hold, or a client was told that something is done that is not.
pub async fn cut_off<P: Place>(
    name: &str,
    operations: &[P::Operation],
    victims: &[Victim],
    tries: u32,
) -> Result<()> {
    ensure!(
        tries > 0 && !operations.is_empty() && !victims.is_empty(),
        "nothing is killed"
    );
    let mut place = P::make().await?;
    if by_changes() {
        return cut_off_at_changes(place, name, operations).await;
    }
    let mut rows = Vec::new();
    for &operation in operations {
        let whole = undisturbed(&mut place, operation).await;
        let whole = whole.with_context(|| format!("{operation:?}, undisturbed"))?;
        let of = BTreeMap::new();
        rows.push(Row { operation, whole, of });
    }
    let (mut failures, mut shown) = (Vec::new(), 0);
    let until = until();
    for number in 0..tries {
        if number > 0 && until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let turn = usize::try_from(number)?;
        let victim = victims[turn % victims.len()];
        let round = f64::from(number / u32::try_from(victims.len())?);
        for row in &mut rows {
            let moment = row.whole.mul_f64(1.15 * (0.5 + EVENLY * round).fract());
            let begun = Instant::now();
            let cut = cut_one_off(&mut place, row, victim, moment).await;
            let tally = row.of.entry(victim).or_default();
            tally.time += begun.elapsed();
            match cut {
                Ok(Cut::Killed { done }) => {
                    tally.kills += 1;
                    tally.finished += u32::from(done);
                }
                Ok(Cut::Missed) => tally.missed += 1,
                Err(error) => {
                    tally.kills += 1;
                    tally.at_odds += 1;
                    let (whole, operation) = (row.whole, row.operation);
                    let what =
                        format!("{victim:?} killed {moment:?} of {whole:?} into {operation:?}, {number}");
                    report(&format!(
                        "{name}: {what}: {error:#}\n{}",
                        tail(&place.sandbox().log())
                    ));
                    failures.push(what);
                    ensure!(failures.len() < ENOUGH as usize, "{}", failures.join("\n"));
                    place = P::make().await?;
                }
            }
        }
        let kills = kills(&rows);
        if kills >= shown + 50 {
            shown = kills;
            report(&format!(
                "{name}: {kills} kills so far, {} at odds",
                failures.len()
            ));
        }
    }
    report(&shown_as_table(name, &rows));
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Kills the daemon as it is about to make the first change of a directory in an operation, the second, and so on, until it
/// makes no more.
async fn cut_off_at_changes<P: Place>(mut place: P, name: &str, operations: &[P::Operation]) -> Result<()> {
    let mut failures = Vec::new();
    for &operation in operations {
        undisturbed(&mut place, operation)
            .await
            .with_context(|| format!("{operation:?}, undisturbed"))?;
        let mut kills = 0;
        loop {
            match cut_off_at(&mut place, operation, kills + 1).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    let what = format!("killed at change {} of {operation:?}", kills + 1);
                    report(&format!(
                        "{name}: {what}: {error:#}\n{}",
                        tail(&place.sandbox().log())
                    ));
                    failures.push(what);
                    place = P::make().await?;
                }
            }
            kills += 1;
        }
        ensure!(kills > 0, "{operation:?} changes nothing");
        report(&format!(
            "{name}: {operation:?}: {kills} changes, {} at odds so far",
            failures.len()
        ));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Whether the daemon made that many changes.
async fn cut_off_at<P: Place>(place: &mut P, operation: P::Operation, nth: u32) -> Result<bool> {
    place.prepare(operation).await.context("before")?;
    let sandbox = place.sandbox();
    let pid = sandbox.pid().context("no daemon")?;
    sandbox.die_at().context("the daemon is not to die")?.arm(nth)?;
    let answered = place.carry_out(operation).await.is_ok();
    let lived = process::alive(pid) && place.rest(operation, None).await.is_ok();
    let is_killed = !process::alive(pid);
    place
        .sandbox()
        .die_at()
        .context("the daemon is not to die")?
        .disarm()?;
    if !is_killed {
        ensure!(lived && answered, "nobody was killed, and it failed");
        place.clear().await.context("after")?;
        return Ok(false);
    }
    place.sandbox().kill()?;
    place.sandbox().start()?;
    place.connect().await?;
    let done = place.rest(operation, Some(Victim::Daemon)).await?;
    ensure!(
        done || !answered,
        "the client was told that it is done, and it is not"
    );
    place.afterwards(operation, done, Victim::Daemon).await?;
    place.clear().await.context("after")?;
    Ok(true)
}

async fn undisturbed<P: Place>(place: &mut P, operation: P::Operation) -> Result<Duration> {
    place.prepare(operation).await?;
    let begun = Instant::now();
    place.carry_out(operation).await?;
    let whole = begun.elapsed();
    ensure!(place.rest(operation, None).await?, "it has done nothing");
    place.clear().await?;
    Ok(whole)
}

async fn cut_one_off<P: Place>(
    place: &mut P,
    row: &mut Row<P::Operation>,
    victim: Victim,
    moment: Duration,
) -> Result<Cut> {
    let operation = row.operation;
    place.prepare(operation).await.context("before")?;
    let ended = Arc::new(AtomicBool::new(false));
    let killer = match victim {
        Victim::Daemon => {
            let killer = later(place.sandbox().pid().context("no daemon")?, moment);
            std::thread::spawn(move || killer.join().is_ok())
        }
        Victim::Qemu => emulators_later(place.sandbox(), moment, Arc::clone(&ended)),
        Victim::Both => {
            let pid = place.sandbox().pid().context("no daemon")?;
            both_later(place.sandbox(), pid, moment)
        }
    };
    let begun = Instant::now();
    let answer = place.carry_out(operation).await;
    let (answered, took) = (answer.is_ok(), begun.elapsed());
    ended.store(true, Ordering::Relaxed);
    let killed = killer.join();
    let killed = killed.map_err(|_| anyhow::anyhow!("the killer panicked"))?;
    if answered {
        // How long it takes changes with what else the machine does.
        row.whole = (row.whole + took) / 2;
    }
    if !killed {
        answer.context("nobody was killed, and it failed")?;
        let _ = place.rest(operation, None).await?;
        place.clear().await.context("after")?;
        return Ok(Cut::Missed);
    }
    if victim != Victim::Qemu {
        place.sandbox().kill()?;
        place.sandbox().start()?;
        place.connect().await?;
    }
    let done = place.rest(operation, Some(victim)).await?;
    ensure!(
        done || !answered,
        "the client was told that it is done, and it is not"
    );
    place.afterwards(operation, done, victim).await?;
    place.clear().await.context("after")?;
    Ok(Cut::Killed { done })
}

/// Kills what there is of QEMU's programs at a moment; if there is none then, the first that comes until the operation has
/// ended. Whether one was killed.
fn emulators_later(sandbox: &Sandbox, moment: Duration, ended: Arc<AtomicBool>) -> JoinHandle<bool> {
    let emulators = sandbox.emulators();
    let begun = Instant::now();
    std::thread::spawn(move || {
        while begun.elapsed() < moment {
            pause(TICK);
        }
        loop {
            let over = ended.load(Ordering::Relaxed);
            let found = emulators();
            for pid in &found {
                process::signal(*pid, Signal::SIGKILL);
            }
            if over || !found.is_empty() {
                return !found.is_empty();
            }
            pause(TICK);
        }
    })
}

/// Kills what there is of QEMU's programs at a moment, and the daemon. Who is first changes from time to time: it may hear of
/// the other's end, or not.
fn both_later(sandbox: &Sandbox, daemon: i32, moment: Duration) -> JoinHandle<bool> {
    let emulators = sandbox.emulators();
    let begun = Instant::now();
    let daemon_first = moment.subsec_micros().is_multiple_of(2);
    std::thread::spawn(move || {
        while begun.elapsed() < moment {
            pause(TICK);
        }
        let found = emulators();
        let all = match daemon_first {
            true => [&[daemon][..], &found].concat(),
            false => [&found, &[daemon][..]].concat(),
        };
        for pid in all {
            process::signal(pid, Signal::SIGKILL);
        }
        true
    })
}

fn kills<O>(rows: &[Row<O>]) -> u32 {
    rows.iter()
        .flat_map(|row| row.of.values())
        .map(|tally| tally.kills)
        .sum()
}

fn shown_as_table<O: Debug>(name: &str, rows: &[Row<O>]) -> String {
    let mut text = format!("{name}: {} kills\n", kills(rows));
    for row in rows {
        for (victim, tally) in &row.of {
            let tries = (tally.kills + tally.missed).max(1);
            text += &format!(
                "  {:<18} {:<7} kills {:<5} finished {:<5} missed {:<4} at odds {:<3} {:.0?} each, of {:.0?}\n",
                format!("{:?}", row.operation),
                format!("{victim:?}"),
                tally.kills,
                tally.finished,
                tally.missed,
                tally.at_odds,
                tally.time / tries,
                row.whole
            );
        }
    }
    text
}

#[expect(clippy::print_stderr, reason = "figures of the long form")]
fn report(text: &str) {
    eprintln!("{text}");
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl KillMatrix<'_> {
    /// Lets the operation happen once, to see how long it takes, then cuts it off [`tries`] times, evenly spread over
    /// that time. After each the daemon is started again and `check` is asked, with the try's number.
    ///
    /// # Errors
    /// With the moment of the kill, when a check fails, the daemon does not come back, or something undisturbed fails.
    pub fn run(
        &self,
        sandbox: &mut Sandbox,
        mut check: impl FnMut(&Sandbox, u32) -> Result<()>,
    ) -> Result<()> {
        let whole = self.undisturbed(sandbox, &mut check)?;
        let tries = tries();
        for number in 1..=tries {
            let moment = whole * number / tries;
            self.cut_off(sandbox, number, moment)
                .and_then(|()| check(sandbox, number))
                .with_context(|| format!("killed {moment:?} into {:?}", self.operation))?;
            self.clear_up(&sandbox.virsh(), number)?;
        }
        Ok(())
    }

    fn undisturbed(
        &self,
        sandbox: &Sandbox,
        check: &mut impl FnMut(&Sandbox, u32) -> Result<()>,
    ) -> Result<Duration> {
        let virsh = sandbox.virsh();
        prepare(&virsh, self.before, 0)?;
        let begun = Instant::now();
        prepare(&virsh, &[self.operation], 0)?;
        let whole = begun.elapsed();
        check(sandbox, 0).context("undisturbed")?;
        self.clear_up(&virsh, 0)?;
        Ok(whole)
    }

    fn cut_off(&self, sandbox: &mut Sandbox, number: u32, moment: Duration) -> Result<()> {
        prepare(&sandbox.virsh(), self.before, number)?;
        let operation = numbered(self.operation, number);
        let mut client = sandbox.virsh().spawn(&refs(&operation))?;
        // the moment comes by the deadline's passing, or the operation ends sooner this time
        let _ = wait_for("the moment", moment, || client.try_wait().transpose());
        sandbox.kill()?;
        client.kill()?;
        client.wait()?;
        sandbox.start()
    }

    fn clear_up(&self, virsh: &Virsh, number: u32) -> Result<()> {
        for command in self.after {
            virsh.run(&refs(&numbered(command, number)))?;
        }
        Ok(())
    }
}

fn prepare(virsh: &Virsh, commands: &[&[&str]], number: u32) -> Result<()> {
    for command in commands {
        virsh.ok(&refs(&numbered(command, number)))?;
    }
    Ok(())
}

fn numbered(command: &[&str], number: u32) -> Vec<String> {
    command
        .iter()
        .map(|word| word.replace("{}", &number.to_string()))
        .collect()
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

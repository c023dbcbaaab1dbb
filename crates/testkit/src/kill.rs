//! The kill matrix: an operation during which the daemon is killed, at one moment after the other, and what must hold
//! when it is back.

use std::fmt::Debug;
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

/// Kills a process after a while, from a thread of its own. Join it before the process is looked at.
pub fn later(pid: i32, moment: Duration) -> std::thread::JoinHandle<()> {
    let begun = Instant::now();
    std::thread::spawn(move || {
        while begun.elapsed() < moment {
            pause(Duration::from_micros(100));
        }
        process::signal(pid, Signal::SIGKILL);
    })
}

/// Where operations are cut off that no commands of virsh can say.
#[expect(async_fn_in_trait, reason = "tests run it on one thread")]
pub trait Place {
    /// What can be cut off.
    type Operation: Copy + Debug;

    /// The daemon that is killed.
    fn sandbox(&mut self) -> &mut Sandbox;

    /// Brings about what an operation begins from.
    async fn prepare(&mut self, operation: Self::Operation) -> Result<()>;

    /// Carries it out; an error if a client is not told that it is done.
    async fn carry_out(&mut self, operation: Self::Operation) -> Result<()>;

    /// The daemon is there again: clients connect anew.
    async fn connect(&mut self) -> Result<()>;

    /// Waits until nothing is under way, and checks what must hold then. Whether the operation was finished.
    async fn rest(&mut self, operation: Self::Operation) -> Result<bool>;

    /// What else must hold after a kill.
    async fn afterwards(&mut self, _operation: Self::Operation, _done: bool) -> Result<()> {
        Ok(())
    }

    /// Puts all back as it was before [`Self::prepare`].
    async fn clear(&mut self) -> Result<()>;
}

/// Lets each operation happen once, to see how long it takes, then cuts it off `tries` times, evenly spread over that time
/// and a little more.
///
/// # Errors
/// With the moment of the kill, when something does not hold, or a client was told that something is done that is not.
pub async fn cut_off<P: Place>(place: &mut P, operations: &[P::Operation], tries: u32) -> Result<()> {
    ensure!(tries > 0 && !operations.is_empty(), "nothing is killed");
    for &operation in operations {
        place.prepare(operation).await?;
        let begun = Instant::now();
        place.carry_out(operation).await?;
        let whole = begun.elapsed();
        let rest = place.rest(operation).await;
        let done = rest.with_context(|| format!("{operation:?}, undisturbed"))?;
        ensure!(done, "{operation:?} has done nothing");
        place.clear().await?;
        for number in 1..=tries {
            let moment = whole.mul_f64(1.15 * f64::from(number) / f64::from(tries));
            let cut = cut_one_off(place, operation, moment).await;
            cut.with_context(|| format!("killed {moment:?} of {whole:?} into {operation:?}, try {number}"))?;
        }
    }
    Ok(())
}

async fn cut_one_off<P: Place>(place: &mut P, operation: P::Operation, moment: Duration) -> Result<()> {
    place.prepare(operation).await.context("before")?;
    let pid = place.sandbox().pid().context("no daemon")?;
    let killer = later(pid, moment);
    let answered = place.carry_out(operation).await.is_ok();
    let killed = killer.join();
    killed.map_err(|_| anyhow::anyhow!("the killer panicked"))?;
    place.sandbox().kill()?;
    place.sandbox().start()?;
    place.connect().await?;
    let done = place.rest(operation).await?;
    ensure!(
        done || !answered,
        "the client was told that it is done, and it is not"
    );
    place.afterwards(operation, done).await?;
    place.clear().await.context("after")
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

//! The kill matrix: an operation during which the daemon is killed, at one moment after the other, and what must hold
//! when it is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

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

//! The daemon is killed in the midst of each backup. After each: the guest has its images and no others, what is recorded of
//! checkpoints is in them, no job, server, file or note is left once the backup is over, and another one can be made.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{kill, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::daemon;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Push,
    PushSince,
    Pull,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Push, Self::PushSince, Self::Pull];

    /// What is asked for, from the beginning to the end.
    fn carry_out(self, place: &Place) -> Result<()> {
        let since = "<incremental>old</incremental>";
        match self {
            Self::Push => place.back_up(&place.target("out.qcow2"), Some("new"))?,
            Self::PushSince => {
                place.back_up(&(since.to_owned() + &place.target("out.qcow2")), Some("new"))?
            }
            Self::Pull => {
                let inside = since.to_owned() + &place.served("out.qcow2", "");
                place.back_up(&inside, Some("new"))?;
                place.virsh().ok(&["domjobabort", "g"])?
            }
        };
        place.backed_up()
    }
}

#[test]
fn a_daemon_killed_in_the_midst_of_a_backup_leaves_nothing_half_done() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut place = Place::started(daemon())?;
    place.virsh().ok(&["checkpoint-create-as", "g", "old"])?;
    place.write(LATE, 6 * PART)?;
    // A try takes seconds: the short form has fewer.
    let tries = match kill::tries() {
        5 => 2,
        more => more,
    };
    let mut kills = 0;
    for operation in Operation::ALL {
        clear(&place);
        let begun = Instant::now();
        operation.carry_out(&place)?;
        let whole = begun.elapsed();
        check(&place, operation).with_context(|| format!("{operation:?}, undisturbed"))?;
        for number in 1..=tries {
            let moment = whole.mul_f64(1.1 * f64::from(number) / f64::from(tries));
            cut_off(&mut place, operation, moment).with_context(|| {
                format!("killed {moment:?} of {whole:?} into {operation:?}, try {number}")
            })?;
            kills += 1;
        }
    }
    ensure!(kills > 0, "nothing was killed");
    Ok(())
}

fn clear(place: &Place) {
    // They may not be there.
    let _ = place.virsh().ok(&["checkpoint-delete", "g", "new"]);
    let _ = std::fs::remove_file(place.sandbox.dir().join("out.qcow2"));
}

fn cut_off(place: &mut Place, operation: Operation, moment: Duration) -> Result<()> {
    clear(place);
    let pid = place.sandbox.pid().context("no daemon")?;
    let killer = kill::later(pid, moment);
    // The call fails where its daemon is killed first.
    let _ = operation.carry_out(place);
    killer
        .join()
        .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
    place.sandbox.kill()?;
    place.sandbox.start()?;
    let file = place.sandbox.path("/run/libvirt/qemu/g.xml");
    wait_until("the backup is over", AT_REST, || {
        // It goes on as soon as the guest is reached.
        let _ = place.virsh().ok(&["domjobabort", "g"]);
        let status = std::fs::read_to_string(&file);
        status.is_ok_and(|status| !status.contains("<backups>")) && place.is_whole().is_ok()
    })
    .or_else(|_| place.is_whole())?;
    place.backed_up()?;
    check(place, operation)?;
    // Another one can be made.
    clear(place);
    operation.carry_out(place)
}

fn check(place: &Place, operation: Operation) -> Result<()> {
    place.is_whole()?;
    place.has_everything(Some(6 * PART))?;
    let exports = place.ask(r#"{"execute": "query-block-exports"}"#)?;
    ensure!(
        exports.as_array().is_some_and(Vec::is_empty),
        "exports are left: {exports}"
    );
    let out = place.sandbox.dir().join("out.qcow2");
    ensure!(
        operation != Operation::Pull || !out.exists(),
        "the scratch file is left"
    );
    place.bitmaps_are_recorded()
}

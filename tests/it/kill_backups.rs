//! The daemon is killed in the midst of each backup. After each: the guest has its images and no others, what is recorded of
//! checkpoints is in them, no job, server, file or note is left once the backup is over, and another one can be made.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::skip::can_run_guests;
use testkit::{Sandbox, kill, wait_until};

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

#[tokio::test]
async fn a_daemon_killed_in_the_midst_of_a_backup_leaves_nothing_half_done() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    place.virsh().ok(&["checkpoint-create-as", "g", "old"])?;
    place.write(LATE, 6 * PART)?;
    // A try takes seconds: the short form has fewer.
    let tries = match kill::tries() {
        5 => 2,
        more => more,
    };
    kill::cut_off(&mut Backups(place), &Operation::ALL, tries).await
}

/// A guest that is backed up.
struct Backups(Place);

impl kill::Place for Backups {
    type Operation = Operation;

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.0.sandbox
    }

    async fn prepare(&mut self, _operation: Operation) -> Result<()> {
        clear(&self.0);
        Ok(())
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        operation.carry_out(&self.0)
    }

    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    async fn rest(&mut self, operation: Operation) -> Result<bool> {
        let place = &self.0;
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
        // Whether it was copied is not kept anywhere.
        Ok(true)
    }

    /// Another one can be made.
    async fn afterwards(&mut self, operation: Operation, _done: bool) -> Result<()> {
        clear(&self.0);
        operation.carry_out(&self.0)
    }

    async fn clear(&mut self) -> Result<()> {
        clear(&self.0);
        Ok(())
    }
}

fn clear(place: &Place) {
    // They may not be there.
    let _ = place.virsh().ok(&["checkpoint-delete", "g", "new"]);
    let _ = std::fs::remove_file(place.sandbox.dir().join("out.qcow2"));
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

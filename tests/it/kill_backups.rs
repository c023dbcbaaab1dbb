//! The daemon, QEMU or both are killed in the midst of each backup and of what is done to checkpoints, while the guest writes. After
//! each: the guest has its images and no others, what is recorded of checkpoints is in them, no job, server, file or note is
//! left once the backup is over, and another one can be made. What a checkpoint of a guest whose QEMU was killed would have
//! said is not known, so a backup since then is refused.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::counter::{self, Counter};
use testkit::kill::Victim;
use testkit::skip::can_run_guests;
use testkit::wait::pause;
use testkit::{Sandbox, kill, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::daemon;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

const SINCE: &str = "<incremental>old</incremental>";

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Push,
    PushSince,
    Pull,
    CreateCheckpoint,
    DeleteCheckpoint,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::Push,
        Self::PushSince,
        Self::Pull,
        Self::CreateCheckpoint,
        Self::DeleteCheckpoint,
    ];

    /// What is asked for, from the beginning to the end.
    fn carry_out(self, place: &Place) -> Result<()> {
        match self {
            Self::Push => place.back_up(&place.target("out.qcow2"), Some("new"))?,
            Self::PushSince => {
                place.back_up(&(SINCE.to_owned() + &place.target("out.qcow2")), Some("new"))?
            }
            Self::Pull => {
                let inside = SINCE.to_owned() + &place.served("out.qcow2", "");
                place.back_up(&inside, Some("new"))?;
                place.virsh().ok(&["domjobabort", "g"])?
            }
            Self::CreateCheckpoint => {
                return place.virsh().ok(&["checkpoint-create-as", "g", "new"]).map(drop);
            }
            Self::DeleteCheckpoint => {
                return place.virsh().ok(&["checkpoint-delete", "g", "new"]).map(drop);
            }
        };
        // Who can't be asked any more has been killed.
        while !place.virsh().ok(&["domjobinfo", "g"])?.contains("None") {
            pause(Duration::from_millis(10));
        }
        Ok(())
    }

    fn makes_backup(self) -> bool {
        !matches!(self, Self::CreateCheckpoint | Self::DeleteCheckpoint)
    }
}

#[tokio::test]
async fn who_is_killed_in_the_midst_of_a_backup_leaves_nothing_half_done() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    // A try takes seconds: the short form has fewer.
    let tries = match kill::tries() {
        5 => 2,
        more => more,
    };
    kill::cut_off::<Backups>("backups", &Operation::ALL, &kill::VICTIMS, tries).await
}

/// A guest that counts, and is backed up.
struct Backups {
    place: Place,
    counter: Counter,
}

impl kill::Place for Backups {
    type Operation = Operation;

    async fn make() -> Result<Self> {
        let mut place = Place::new(daemon())?;
        place.sandbox.start()?;
        let counter = Counter::new(place.sandbox.dir().join("count.log"));
        place.virsh().define(&counter.within(&place.xml())?)?;
        let made = Self { place, counter };
        made.begin()?;
        Ok(made)
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.place.sandbox
    }

    async fn prepare(&mut self, operation: Operation) -> Result<()> {
        self.clear_up();
        if operation == Operation::DeleteCheckpoint {
            Operation::CreateCheckpoint.carry_out(&self.place)?;
        }
        self.counter.goes_on()?;
        // The guest runs on from try to try.
        self.counter.forget()?;
        self.counter.goes_on().map(drop)
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        operation.carry_out(&self.place)
    }

    async fn rest(&mut self, operation: Operation, killed: Option<Victim>) -> Result<bool> {
        let place = &self.place;
        if killed.is_some_and(Victim::is_of_qemu) {
            place.ended()?;
            let done = place.is_recorded("new")?;
            // A whole one that was complete before stays, and what an unfinished one has is not what it should be.
            ensure!(
                operation != Operation::Pull || !place.file("out.qcow2").exists(),
                "the scratch file is left"
            );
            self.starts_anew()?;
            return Ok(operation.makes_backup() || done == (operation == Operation::CreateCheckpoint));
        }
        let file = place.sandbox.path("/run/libvirt/qemu/g.xml");
        wait_until("the backup is over", AT_REST, || {
            // It goes on as soon as the guest is reached.
            let _ = place.virsh().ok(&["domjobabort", "g"]);
            let status = std::fs::read_to_string(&file);
            status.is_ok_and(|status| !status.contains("<backups>")) && place.is_whole().is_ok()
        })
        .or_else(|_| place.is_whole())?;
        place.backed_up()?;
        self.check(operation)?;
        // Whether it was copied is not kept anywhere.
        let done = place.is_recorded("new")? == (operation == Operation::CreateCheckpoint);
        Ok(operation.makes_backup() || done)
    }

    /// Another one can be made.
    async fn afterwards(&mut self, operation: Operation, _done: bool, killed: Victim) -> Result<()> {
        let place = &self.place;
        if killed.is_of_qemu() {
            let since = SINCE.to_owned() + &place.target("since.qcow2");
            let refused = place.back_up(&since, None);
            ensure!(refused.is_err(), "what was written since is said to be known");
            ensure!(
                !place.file("since.qcow2").exists(),
                "a refused backup left an image"
            );
            self.checkpoint_again()?;
        }
        self.clear_up();
        if operation == Operation::DeleteCheckpoint {
            Operation::CreateCheckpoint.carry_out(place)?;
        }
        operation.carry_out(place)
    }

    async fn clear(&mut self) -> Result<()> {
        self.clear_up();
        Ok(())
    }
}

impl Backups {
    /// The guest runs, and what is written since "old" is known.
    fn begin(&self) -> Result<()> {
        self.place.virsh().ok(&["start", "g"])?;
        self.place.virsh().ok(&["checkpoint-create-as", "g", "old"])?;
        self.place.write(LATE, 6 * PART)?;
        // What was not written out may go with QEMU.
        self.place.tell_disk("flush")
    }

    /// Starts the guest, which finds what it was told is written.
    fn starts_anew(&self) -> Result<()> {
        let told = self.counter.told()?;
        self.place.virsh().ok(&["start", "g"])?;
        self.counter.found(&told, told.last)?;
        self.place.is_whole()?;
        self.place.has_everything(Some(6 * PART))
    }

    fn checkpoint_again(&self) -> Result<()> {
        let virsh = self.place.virsh();
        for name in ["new", "old"] {
            // One whose bitmap is gone is only recorded.
            if self.place.is_recorded(name)? && virsh.ok(&["checkpoint-delete", "g", name]).is_err() {
                virsh.ok(&["checkpoint-delete", "g", name, "--metadata"])?;
            }
        }
        virsh.ok(&["checkpoint-create-as", "g", "old"]).map(drop)
    }

    fn clear_up(&self) {
        // They may not be there.
        let _ = self.place.virsh().ok(&["checkpoint-delete", "g", "new"]);
        let _ = std::fs::remove_file(self.place.file("out.qcow2"));
    }

    fn check(&self, operation: Operation) -> Result<()> {
        let place = &self.place;
        place.is_whole()?;
        place.has_everything(Some(6 * PART))?;
        let told = self.counter.goes_on()?;
        counter::holds(&place.top()?, "qcow2", told.last)?;
        let exports = place.ask(r#"{"execute": "query-block-exports"}"#)?;
        ensure!(
            exports.as_array().is_some_and(Vec::is_empty),
            "exports are left: {exports}"
        );
        ensure!(
            operation != Operation::Pull || !place.file("out.qcow2").exists(),
            "the scratch file is left"
        );
        place.bitmaps_are_recorded()
    }
}

impl Place {
    fn is_recorded(&self, checkpoint: &str) -> Result<bool> {
        let names = self.virsh().ok(&["checkpoint-list", "g", "--name"])?;
        Ok(names.split_whitespace().any(|name| name == checkpoint))
    }
}

//! How many CPUs a guest has: of the running one they are plugged and unplugged, the stored one says it for the next start.
//!
//! ```text
//!  what QEMU has ─▶ slots that come or go ─▶ intent ─▶ each slot: QEMU, then the document ─▶ the stored document
//!  left later, or found to be other than the document says: the document follows QEMU
//! ```
//!
//! Slots come one by one, each with a commit of its own: one that QEMU refuses does not take back those before it. The hard
//! thing is that a guest lets a CPU go when it likes, and that QEMU does not always tell: what it has is asked anew after
//! each step, by whoever comes to the guest later, too.

mod choose;
mod stored;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use choose::Step;
use domxml::Domain as Document;
use qemu_plan::command::plug::Part;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        Domain, Edit, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        device::plugging::{self, Unplugged},
        document::scope::{Scope, Which},
        holdings::cgroup::thread::Thread,
        operation::{self, Ask, Context, Operation},
        run::{
            guest::Guest,
            slots::{self, Slot, Slots},
        },
        tuning::threads,
    },
};

/// Between two looks at a CPU that is said to have left.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked at.
const LOOKS: usize = 20;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// So many CPUs.
    Count {
        /// How many.
        count: u32,
        /// Those that the stored configuration gets can be unplugged.
        hotpluggable: bool,
    },
    /// These CPUs online, or offline.
    Each {
        /// Their numbers.
        cpus: BTreeSet<u32>,
        /// Online.
        online: bool,
    },
}

/// Gives a guest other CPUs.
///
/// # Errors
/// `InvalidArg` for what it can't have, `OperationUnsupported` for a CPU that stays, `OperationTimeout` if the guest does
/// not let a CPU go in time, what QEMU refuses. What was plugged in before stays.
pub(crate) async fn set(
    driver: &Arc<Driver>,
    domain: &Domain,
    scope: Scope,
    wanted: &Wanted,
    conditions: &Conditions,
) -> Result<()> {
    operation::retrying(|| Box::pin(attempt(driver, domain, scope, wanted, conditions))).await
}

async fn attempt(
    driver: &Arc<Driver>,
    domain: &Domain,
    scope: Scope,
    wanted: &Wanted,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "set-vcpus",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let live = which.live.then(|| driver.guests.of(&view)).transpose()?;
    if which.live
        && let Wanted::Count { count, .. } = wanted
    {
        stored::check_count(&view.running()?.document.domain, *count)?;
    }
    let edit = if which.config {
        in_stored(wanted)
    } else {
        Edit::none()
    };
    edit.check(&view)?;
    let steps = match &live {
        Some(guest) => steps(&Slots::read(&guest.monitor()?).await?, wanted)?,
        None => Vec::new(),
    };
    if operation.is_trial() {
        return Ok(());
    }
    let wanted = wanted.clone();
    let work = async move |context: Arc<Context>| {
        if let Some(guest) = live.filter(|_| !steps.is_empty()) {
            context.intend(intent(&wanted, which.config)?).await?;
            for step in steps {
                match step {
                    Step::Plug(slot) => plug(&context, &guest, slot).await?,
                    Step::Unplug(slot) => unplug(&context, &guest, slot).await?,
                }
            }
        }
        context.commit(edit, Effects::none()).await.map(drop)
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

fn in_stored(wanted: &Wanted) -> Edit {
    let wanted = wanted.clone();
    Edit::stored(move |document: &mut Document| stored::apply(document, &wanted))
}

fn steps(slots: &Slots, wanted: &Wanted) -> Result<Vec<Step>> {
    match wanted {
        Wanted::Count { count, .. } => choose::for_count(slots, *count),
        Wanted::Each { cpus, online } => choose::for_each(slots, cpus, *online),
    }
}

fn intent(wanted: &Wanted, stored: bool) -> Result<Intent> {
    let wanted = serde_json::to_string(wanted)
        .map_err(|error| Error::internal("a change can't be put into words").caused_by(error))?;
    Ok(Intent::SetVcpus { wanted, stored })
}

/// Plugs one slot in, and has the document follow. Threads that can't be placed are an error of a CPU that is there.
async fn plug(context: &Context, guest: &Arc<Guest>, slot: Slot) -> Result<()> {
    let (id, to_undo) = (slot.id(), Arc::clone(guest));
    let reversal = async move {
        // A guest that does not let it go has it, and its document says so.
        if let Err(error) = plugging::take_away(&to_undo, &Part::Device(id)).await {
            tracing::debug!(%error, "a CPU stays");
        }
        refresh(&to_undo).await
    };
    context
        .step("the CPU", guest.execute(slot.device()), reversal)
        .await?;
    let slots = Slots::read(&guest.monitor()?).await?;
    let view = context.view();
    let placed = place(context.driver(), &view, &slots, slot.first).await;
    context
        .commit_with(move |view| {
            slots::put_into(view, &slots);
            Ok(Effects::none())
        })
        .await?;
    placed
}

/// Gives the threads of a slot their groups and places.
async fn place(driver: &Arc<Driver>, view: &View, slots: &Slots, first: u32) -> Result<()> {
    let slot = slots.of_cpu(first);
    let threads = slot.into_iter().flat_map(|slot| &slot.threads);
    let threads = threads
        .map(|thread| (Thread::Vcpu(thread.id), thread.pid))
        .collect();
    threads::place(driver, view.running()?, threads).await
}

/// Unplugs one slot, if the guest lets it go, and has the document follow.
async fn unplug(context: &Context, guest: &Arc<Guest>, slot: Slot) -> Result<()> {
    let alias = slot.alias.clone().unwrap_or_else(|| slot.id());
    // Nothing undoes it: the guest decides.
    let asked = context
        .step("the CPU", plugging::ask(guest, &alias), async { Ok(()) })
        .await?;
    let answer = match asked {
        Some(asked) => asked.answer(plugging::LETTING_GO).await?,
        None => Unplugged::Gone,
    };
    let slots = left(guest, slot.first, answer).await?;
    let view = context.view();
    context
        .commit_with(move |view| {
            slots::put_into(view, &slots);
            Ok(Effects::none())
        })
        .await?;
    for cpu in slot.first..slot.first.saturating_add(slot.count) {
        threads::forget(context.driver(), view.running()?, Thread::Vcpu(cpu)).await;
    }
    Ok(())
}

/// What QEMU has once a CPU has left it. It tells of some only in part, and may say so a moment before it is done.
async fn left(guest: &Guest, cpu: u32, answer: Unplugged) -> Result<Slots> {
    let looks = match answer {
        Unplugged::Gone => LOOKS,
        Unplugged::Pending => 1,
    };
    for look in 0..looks {
        let slots = Slots::read(&guest.monitor()?).await?;
        if slots.of_cpu(cpu).is_none_or(|slot| !slot.plugged) {
            return Ok(slots);
        }
        if look + 1 < looks {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let text = "vcpu unplug request timed out. Unplug result must be manually inspected in the domain";
    Err(Error::new(Code::OperationTimeout, text))
}

/// The run has the CPUs that QEMU has, by its word: one has left, or a daemon comes to the guest.
///
/// # Errors
/// QEMU does not answer, or the files can't be written.
pub(crate) async fn refresh(guest: &Arc<Guest>) -> Result<()> {
    let slots = Slots::read(&guest.monitor()?).await?;
    let id = guest.id;
    let change = move |view: &mut View| {
        if view.id() == id {
            slots::put_into(view, &slots);
        }
        Ok(Effects::none())
    };
    guest.domain.commit(change).await.map(drop)
}

/// Whether CPUs of a run can come and go.
pub(crate) fn may_change(document: &Document) -> bool {
    let vcpu = document.vcpu.as_ref();
    let is_full = vcpu.is_none_or(|vcpu| vcpu.current.is_none_or(|current| current == vcpu.count));
    document.vcpus.is_some() || !is_full
}

/// A CPU has left while nobody waited for it.
pub(crate) async fn departed(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let conditions = Conditions::default();
    let ask = Ask {
        kind: "device-departed",
        job: Want::Plain(Kind::Modify),
        conditions: &conditions,
    };
    // Whoever changes the guest's CPUs now is let finish.
    let result = match Operation::begin(driver, &guest.domain, ask).await {
        Ok(_held) => refresh(guest).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result
        && guest.ending().is_none()
    {
        let name = Arc::clone(&guest.domain.view().name);
        tracing::error!(guest = %name, %error, "a CPU has left and is in the document still");
    }
}

/// Sees a change through that was cut off: the run has what QEMU has, and if that is all that was wanted, the stored
/// configuration follows.
///
/// # Errors
/// QEMU does not answer, the note can't be read, or the files can't be written.
pub(crate) async fn finish(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    wanted: &str,
    stored: bool,
) -> Result<()> {
    let wanted: Wanted = serde_json::from_str(wanted)
        .map_err(|error| Error::internal("a note of a change can't be read").caused_by(error))?;
    let slots = Slots::read(&guest.monitor()?).await?;
    let view = guest.domain.view();
    let known = |id| {
        let run = view.run.as_ref();
        run.is_some_and(|run| run.status.vcpus.iter().any(|vcpu| vcpu.id == id))
    };
    let new = slots.all.iter().filter(|slot| slot.plugged && !known(slot.first));
    for slot in new {
        if let Err(error) = place(driver, &view, &slots, slot.first).await {
            tracing::warn!(guest = %view.name, %error, "the threads of a CPU are not where they are to be");
        }
    }
    let edit = match stored && is_reached(&slots, &wanted) {
        true => in_stored(&wanted),
        false => Edit::none(),
    };
    let change = move |view: &mut View| {
        edit.apply(view)?;
        slots::put_into(view, &slots);
        Ok(Effects::none())
    };
    guest.domain.commit(change).await.map(drop)
}

/// Whether QEMU has what was wanted.
fn is_reached(slots: &Slots, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Count { count, .. } => slots.online() == *count,
        Wanted::Each { cpus, online } => cpus
            .iter()
            .all(|cpu| slots.of_cpu(*cpu).is_some_and(|slot| slot.plugged == *online)),
    }
}

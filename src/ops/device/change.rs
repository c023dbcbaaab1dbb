//! The way that every change of a device goes which is there already: a link, a medium, a password, a size.
//!
//! The stored document is made anew, what is to happen in the running guest is found out, both are checked, and only then
//! something is done. A kind of change says what these are by [`Change`]; it can't leave one out or turn them round.

use std::{future::Future, sync::Arc};

use crate::{
    domain::{
        Domain, Edit, Effects, Stored, View,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        device::attach::defined,
        document::{
            plan,
            scope::{Scope, Which},
        },
        operation::{self, Ask, Context, Operation},
    },
};

/// A kind of change.
pub(super) trait Change: Sync {
    /// What is to happen in a running guest.
    type Live: Live;

    /// What it does, as logs and clients name it.
    const KIND: &'static str;

    /// The stored document as it is to be. It is completed after; the next start checks it as a whole, as with libvirt.
    ///
    /// # Errors
    /// The device is not there, or may not become what it is to be.
    fn in_stored(
        &self,
        driver: &Arc<Driver>,
        document: Box<domxml::Domain>,
    ) -> impl Future<Output = Result<Box<domxml::Domain>>> + Send;

    /// What is to happen in the running guest; nothing happens yet.
    ///
    /// # Errors
    /// The device is not there, or may not become what it is to be.
    fn in_live(&self, driver: &Arc<Driver>, view: &View) -> impl Future<Output = Result<Self::Live>> + Send;
}

/// What happens in a running guest.
pub(super) trait Live: Send + 'static {
    /// The change of its document that can be checked before.
    fn edit(&self) -> Edit {
        Edit::none()
    }

    /// Does it, and commits it with the change of the stored document.
    ///
    /// # Errors
    /// What QEMU or the host refuses.
    fn carry_out(self, context: &Context, stored: (Edit, Effects))
    -> impl Future<Output = Result<()>> + Send;
}

/// Makes a change.
///
/// # Errors
/// What is wrong with it, what QEMU or the host refuses. Nothing is changed then.
pub(super) async fn make<C: Change>(
    driver: &Arc<Driver>,
    domain: &Domain,
    change: &C,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    operation::retrying(|| Box::pin(attempt(driver, domain, change, scope, conditions))).await
}

async fn attempt<C: Change>(
    driver: &Arc<Driver>,
    domain: &Domain,
    change: &C,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: C::KIND,
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let (mut edit, mut effects) = (Edit::none(), Effects::none());
    if which.config {
        edit = stored(driver, &view, change).await?;
        effects = defined();
    }
    let live = match which.live {
        true => Some(change.in_live(driver, &view).await?),
        false => None,
    };
    let checked = live.as_ref().map_or_else(Edit::none, Live::edit);
    edit.check(&view)?;
    checked.check(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = async move |context: Arc<Context>| match live {
        Some(live) => Box::pin(live.carry_out(&context, (edit, effects))).await,
        None => context.commit(edit, effects).await.map(drop),
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// The stored document after the change, complete and checked.
async fn stored<C: Change>(driver: &Arc<Driver>, view: &View, change: &C) -> Result<Edit> {
    let config = view
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("transient domains do not have any persistent config"))?;
    let mut document = Box::new(domxml::Domain::clone(&*config.domain()?));
    document.number_consoles();
    let document = change.in_stored(driver, document).await?;
    let complete = plan::fill(driver, document, qemu_plan::address::Age::Known).await?;
    Ok(Edit::replacing(Arc::clone(config), Stored::new(&complete.domain)))
}

//! For whom the other daemons are called.
//!
//! A call of a client runs with its caller at hand, and so does what the call goes on with on the driver's tracker
//! (`Driver::tracked`): the other daemons decide about that caller. What we do by ourselves, at a guest's end or after
//! a restart, we do as the daemon.

use std::future::Future;

use wire::Caller;

tokio::task_local! {
    static CALLER: Option<Caller>;
}

/// Runs `work` for `caller`.
pub fn on_behalf<F: Future>(caller: Option<Caller>, work: F) -> impl Future<Output = F::Output> {
    CALLER.scope(caller, work)
}

/// The caller for whom we run now; none: the daemon itself.
pub fn current() -> Option<Caller> {
    CALLER.try_with(Clone::clone).ok().flatten()
}

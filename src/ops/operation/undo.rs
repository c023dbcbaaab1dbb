//! What was done so far, and how it is undone.
//!
//! Each step of an operation pushes its reversal; [`Undo::unwind`] runs them in reverse. A reversal that fails does not
//! keep the others from running: what can be cleaned up is, and the caller is told of the rest.

use std::{future::Future, pin::Pin};

use crate::error::{Error, Result};

type Reversal = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A stack of reversals.
#[derive(Default)]
pub struct Undo {
    stack: Vec<(&'static str, Reversal)>,
}

/// A reversal that failed.
#[derive(Debug)]
pub struct Failed {
    /// The step that stays done.
    pub what: &'static str,
    /// Why.
    pub error: Error,
}

impl Undo {
    /// Remembers how to undo what was just done; `what` names the step.
    pub fn push(&mut self, what: &'static str, reversal: impl Future<Output = Result<()>> + Send + 'static) {
        self.stack.push((what, Box::pin(reversal)));
    }

    /// Undoes everything, the last thing first; what could not be undone.
    pub async fn unwind(mut self) -> Vec<Failed> {
        let mut failed = Vec::new();
        while let Some((what, reversal)) = self.stack.pop() {
            if let Err(error) = reversal.await {
                tracing::error!(what, %error, "could not be undone");
                failed.push(Failed { what, error });
            }
        }
        failed
    }

    /// Forgets everything: it stays, or somebody else gives it back.
    pub fn forget(&mut self) {
        self.stack.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn the_last_thing_is_undone_first_and_failures_do_not_stop_it() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for n in 0..3 {
            let seen = Arc::clone(&seen);
            undo.push("a step", async move {
                seen.lock().unwrap().push(n);
                if n == 1 {
                    Err(Error::internal("cannot"))
                } else {
                    Ok(())
                }
            });
        }
        let failed = undo.unwind().await;
        assert_eq!(*seen.lock().unwrap(), [2, 1, 0]);
        assert_eq!(failed.len(), 1);
    }
}

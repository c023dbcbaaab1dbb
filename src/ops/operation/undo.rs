//! What was done so far, and how it is undone.
//!
//! Each stage of an operation pushes its reversal; [`Undo::unwind`] runs them in reverse. A reversal that fails is logged
//! with its cause and the rest goes on: what can be cleaned up is.

use std::{future::Future, pin::Pin};

use crate::error::Result;

type Reversal = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A stack of reversals.
#[derive(Default)]
pub(crate) struct Undo {
    stack: Vec<(&'static str, Reversal)>,
}

impl Undo {
    /// Remembers how to undo what was just done; `what` is for the log.
    pub(crate) fn push(
        &mut self,
        what: &'static str,
        reversal: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.stack.push((what, Box::pin(reversal)));
    }

    /// Undoes everything, the last thing first.
    pub(crate) async fn unwind(mut self) {
        while let Some((what, reversal)) = self.stack.pop() {
            if let Err(error) = reversal.await {
                tracing::error!(what, %error, "could not be undone");
            }
        }
    }

    /// Forgets everything: it stays, or somebody else gives it back.
    pub(crate) fn forget(&mut self) {
        self.stack.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Error;

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
        undo.unwind().await;
        assert_eq!(*seen.lock().unwrap(), [2, 1, 0]);
    }
}

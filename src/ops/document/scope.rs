//! Which configuration of a guest a call means: of the run, the stored one, or both.

use crate::{
    domain::{Either, View},
    error::{Area, Error, Result},
};

/// Which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of the run if there is one, otherwise the stored one.
    Current,
    /// Of the run.
    Live,
    /// The stored one.
    Config,
    /// Both.
    Both,
}

/// The configurations that a scope names now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) live: bool,
    pub(crate) config: bool,
}

impl Which {
    /// What `scope` means now.
    ///
    /// # Errors
    /// `OperationInvalid` if the guest has no such configuration.
    pub(crate) fn of(scope: Scope, view: &View) -> Result<Self> {
        let which = match scope {
            Scope::Current => Self {
                live: view.active(),
                config: !view.active(),
            },
            Scope::Live => Self {
                live: true,
                config: false,
            },
            Scope::Config => Self {
                live: false,
                config: true,
            },
            Scope::Both => Self {
                live: true,
                config: true,
            },
        };
        if which.live && !view.active() {
            return Err(Error::not_running());
        }
        if which.config && view.config.is_none() {
            return Err(
                Error::invalid("transient domains do not have any persistent config").in_area(Area::Domain),
            );
        }
        Ok(which)
    }
}

pub(crate) fn documents(view: &View, which: Which) -> Vec<Either<'_>> {
    let live = view
        .run
        .as_ref()
        .map(|r| Either::Live(&r.document))
        .filter(|_| which.live);
    let config = view.config.as_ref().map(Either::Stored).filter(|_| which.config);
    live.into_iter().chain(config).collect()
}

/// The document that a scope names, for reading.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration.
pub fn read(view: &View, scope: Scope) -> Result<Either<'_>> {
    let which = Which::of(scope, view)?;
    documents(view, which)
        .first()
        .copied()
        .ok_or_else(|| Error::internal("the domain has no document"))
}

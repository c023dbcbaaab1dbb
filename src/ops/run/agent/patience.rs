//! How long the agent may take for a command.
//!
//! A caller says it for one command, or for all that the daemon makes itself for a guest; then it is kept with the run.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Domain, Effects, View},
    error::{Error, Result},
};

/// How long a command may take if nobody says.
const USUAL: Duration = Duration::from_secs(5);
/// As good as no deadline, and no number that overflows when added to the time.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the agent may take for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Five seconds.
    Usual,
    /// That long; zero does not wait.
    Within(Duration),
    /// Until it answers or is gone.
    Endless,
}

impl Patience {
    /// libvirt's number for none at all: the agent may take as long as it needs.
    const NUMBER_ENDLESS: i32 = -2;
    /// The same for the usual time.
    const NUMBER_USUAL: i32 = -1;

    /// What commands of ours to this guest's agent may take.
    pub(super) fn of(view: &View) -> Self {
        let told = view.run.as_ref().and_then(|run| run.status.agent_timeout);
        match told.unwrap_or(Self::NUMBER_ENDLESS) {
            Self::NUMBER_USUAL => Self::Usual,
            seconds => u64::try_from(seconds).map_or(Self::Endless, |s| Self::Within(Duration::from_secs(s))),
        }
    }

    /// The number that keeps it in the status file.
    ///
    /// # Errors
    /// `InvalidArg` for more seconds than the number has room for.
    fn number(self) -> Result<i32> {
        let too_long = |_| Error::argument("the timeout is too long").at("timeout");
        match self {
            Self::Usual => Ok(Self::NUMBER_USUAL),
            Self::Endless => Ok(Self::NUMBER_ENDLESS),
            Self::Within(limit) => i32::try_from(limit.as_secs()).map_err(too_long),
        }
    }

    /// The time itself.
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::Usual => USUAL,
            Self::Within(limit) => limit,
            Self::Endless => ENDLESS,
        }
    }
}

/// Sets how long commands of ours to the agent of a running guest may take, from the next one on.
///
/// # Errors
/// `OperationInvalid` if the guest does not run, `InvalidArg` if it is too long.
pub async fn set_patience(domain: &Domain, patience: Patience) -> Result<()> {
    let number = patience.number()?;
    let change = move |view: &mut View| {
        let run = view.run.as_mut().ok_or_else(Error::not_running)?;
        Arc::make_mut(&mut run.status).agent_timeout = Some(number);
        Ok(Effects::none())
    };
    domain.commit(change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn patience_is_kept_as_libvirts_number() {
        let of = |number| {
            let mut view = crate::domain::fixture::running("<name>a</name>");
            if let Some(run) = &mut view.run {
                Arc::make_mut(&mut run.status).agent_timeout = number;
            }
            Patience::of(&view)
        };
        for (number, patience) in [
            (-2, Patience::Endless),
            (-1, Patience::Usual),
            (0, Patience::Within(Duration::ZERO)),
            (7, Patience::Within(Duration::from_secs(7))),
        ] {
            assert_eq!(of(Some(number)), patience);
            assert_eq!(patience.number().unwrap(), number);
        }
        assert_eq!(of(None), Patience::Endless);
        let error = Patience::Within(Duration::from_secs(1 << 40)).number();
        assert_eq!(error.unwrap_err().code, Code::InvalidArg);
    }
}

//! Limits of a server, read and set: all that one request names, or nothing.

use super::Server;
use super::workers::Settings;
use crate::error::{Area, Error, Result};

/// How many clients there may be and are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Most clients.
    pub max: u32,
    /// Clients.
    pub count: u32,
    /// Most clients that have not shown yet who they are; zero: no limit of its own.
    pub max_anonymous: u32,
    /// Those there are.
    pub anonymous: u32,
}

/// How many workers there may be and are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLimits {
    /// Least workers.
    pub min: u32,
    /// Most workers.
    pub max: u32,
    /// Workers for calls that never wait for a guest, beside the others.
    pub priority: u32,
    /// Workers, those that are idle among them.
    pub count: u32,
    /// Those that are idle.
    pub free: u32,
    /// Calls that wait for a worker.
    pub waiting: u32,
}

impl Server {
    /// What its clients may be and are.
    #[must_use]
    pub fn client_limits(&self) -> ClientLimits {
        let (limits, (count, anonymous)) = (self.clients.limits(), self.clients.count());
        ClientLimits {
            max: narrow(limits.max_clients),
            count: narrow(count),
            max_anonymous: narrow(limits.max_anonymous_clients),
            anonymous: narrow(anonymous),
        }
    }

    /// Sets what is given. With `trial` it is only checked.
    ///
    /// # Errors
    /// `InvalidArg` if there could be more strangers than clients.
    pub fn set_client_limits(&self, max: Option<u32>, anonymous: Option<u32>, trial: bool) -> Result<()> {
        let checked = self.clients.change_limits(|limits| {
            let mut wanted = *limits;
            wanted.max_clients = max.map_or(limits.max_clients, wide);
            wanted.max_anonymous_clients = anonymous.map_or(limits.max_anonymous_clients, wide);
            if wanted.max_clients < wanted.max_anonymous_clients {
                let text = "The overall maximum number of clients must not be less than the number of clients \
                            waiting for authentication";
                return Err(Error::argument(text).in_area(Area::Rpc));
            }
            if !trial {
                *limits = wanted;
            }
            Ok(())
        });
        checked?;
        tracing::info!(server = self.name, max, anonymous, trial, "limits of clients set");
        Ok(())
    }

    /// What its workers may be and are.
    #[must_use]
    pub fn worker_limits(&self) -> WorkerLimits {
        let (settings, count) = (self.workers.settings(), self.workers.count());
        let busy = narrow(count.busy);
        let all = busy.max(settings.min);
        WorkerLimits {
            min: settings.min,
            max: self.most_workers(settings),
            priority: settings.priority,
            count: all,
            free: all - busy,
            waiting: narrow(count.waiting),
        }
    }

    /// Sets what is given. With `trial` it is only checked.
    ///
    /// # Errors
    /// `InvalidArg` if the least is more than the most, or there could be no worker at all.
    pub fn set_workers(
        &self,
        (min, max, priority): (Option<u32>, Option<u32>, Option<u32>),
        trial: bool,
    ) -> Result<()> {
        let refused = |text: &'static str| Err(Error::argument(text).in_area(Area::None));
        self.workers.change(|settings| {
            let wanted = Settings {
                min: min.unwrap_or(settings.min),
                max: max.or(settings.max),
                priority: priority.unwrap_or(settings.priority),
            };
            if wanted.min > self.most_workers(wanted) {
                return refused("minWorkers cannot be larger than maxWorkers");
            }
            if wanted.max == Some(0) {
                return refused("maxWorkers must not be switched from zero to non-zero and vice versa");
            }
            if !trial {
                *settings = wanted;
            }
            Ok(())
        })?;
        tracing::info!(
            server = self.name,
            min,
            max,
            priority,
            trial,
            "limits of workers set"
        );
        Ok(())
    }

    /// Most calls at one time: what somebody set, or else what all clients together may have.
    fn most_workers(&self, settings: Settings) -> u32 {
        let limits = self.clients.limits();
        let all = limits.max_clients.saturating_mul(limits.max_client_requests);
        settings.max.unwrap_or_else(|| narrow(all))
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn wide(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

//! The host's message bus (D-Bus), over which systemd-machined and logind are asked.
//!
//! [`super::machined`] and [`super::logind`] call it. A connection is opened for one conversation and closed after it, as
//! with the other daemons: conversations are rare, and a connection that is kept must be watched. A host without a bus, or
//! without the service, is no error. Whoever calls bounds the whole conversation with [`within`].

use std::{io::ErrorKind, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use zbus::{
    Connection, MatchRule, MessageStream,
    message::Type,
    zvariant::{self, DynamicType},
};

/// How many signals wait until they are looked at.
const SIGNALS: usize = 4;

/// An object of a service, and the interface of it that is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    /// Name of the service on the bus.
    pub(super) service: &'static str,
    /// Path of the object.
    pub(super) path: &'static str,
    /// Name of the interface.
    pub(super) interface: &'static str,
}

/// Why there is no answer to a question on the bus.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no bus, or the bus failed.
    #[error("the message bus: {0}")]
    Bus(#[from] zbus::Error),
    /// It took too long.
    #[error("no answer on the message bus within {} s", .0.as_secs())]
    Silent(Duration),
}

impl Fault {
    /// The name of the error that the service answered with.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Bus(zbus::Error::MethodError(name, ..)) => Some(name.as_str()),
            _ => None,
        }
    }
}

/// The bus itself, as an object on it.
const BUS: Object = Object {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A connection to the system's bus: the one that `DBUS_SYSTEM_BUS_ADDRESS` names, or the usual one.
#[derive(Debug)]
pub(super) struct Bus(Connection);

impl Bus {
    /// Connects; `None` on a host that has no bus.
    ///
    /// # Errors
    /// The bus is there and refuses.
    pub(super) async fn open() -> Result<Option<Self>, Fault> {
        match zbus::connection::Builder::system()?.build().await {
            Ok(connection) => Ok(Some(Self(connection))),
            Err(zbus::Error::Connection(error, _)) if is_absence(error.kind()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls a method and gives back what it answers.
    ///
    /// # Errors
    /// The error that the service answers with, or an answer of another type.
    pub(super) async fn call<A, R>(&self, object: Object, method: &str, arguments: &A) -> Result<R, Fault>
    where
        A: Serialize + DynamicType,
        R: DeserializeOwned + zvariant::Type,
    {
        let Object {
            service,
            path,
            interface,
        } = object;
        let answer = self
            .0
            .call_method(Some(service), path, Some(interface), method, arguments)
            .await?;
        Ok(answer.body().deserialize()?)
    }

    /// The signals of a name that an object sends from now on.
    ///
    /// # Errors
    /// The bus refuses.
    pub(super) async fn signals(&self, object: Object, name: &str) -> Result<MessageStream, Fault> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(object.service)?
            .path(object.path)?
            .interface(object.interface)?
            .member(name)?
            .build();
        Ok(MessageStream::for_match_rule(rule, &self.0, Some(SIGNALS)).await?)
    }

    /// Whether a service runs.
    ///
    /// # Errors
    /// The bus fails.
    pub(super) async fn runs(&self, service: &str) -> Result<bool, Fault> {
        self.call(BUS, "NameHasOwner", &(service,)).await
    }

    /// Whether a service is started by the bus when it is called.
    ///
    /// # Errors
    /// The bus fails.
    pub(super) async fn can_start(&self, service: &str) -> Result<bool, Fault> {
        let names: Vec<String> = self.call(BUS, "ListActivatableNames", &()).await?;
        Ok(names.iter().any(|name| name == service))
    }
}

/// No socket, or nobody behind it.
fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Ends a conversation that takes longer than `limit`.
///
/// # Errors
/// Those of the conversation; [`Fault::Silent`].
pub(super) async fn within<T>(
    limit: Duration,
    conversation: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(limit, conversation)
        .await
        .unwrap_or(Err(Fault::Silent(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_conversation_that_does_not_end_is_ended() {
        let limit = Duration::from_millis(20);
        let silent = within(limit, std::future::pending::<Result<(), Fault>>()).await;
        assert!(matches!(silent, Err(Fault::Silent(l)) if l == limit));
        assert!(matches!(within(limit, async { Ok(7) }).await, Ok(7)));
    }
}

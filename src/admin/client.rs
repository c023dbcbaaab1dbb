//! Who a client is, as the administrator is told.

use compat::Client;
use wire::typed::{TypedParam, TypedValue};

/// What is known of a client's identity; what is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name by which it logged in with SASL.
    pub sasl_user_name: Option<String>,
    /// Name in its X.509 certificate.
    pub x509_name: Option<String>,
    /// User.
    pub user: Option<u32>,
    /// The user's name.
    pub user_name: Option<String>,
    /// Group.
    pub group: Option<u32>,
    /// The group's name.
    pub group_name: Option<String>,
    /// Process.
    pub process: Option<i64>,
    /// Label of SELinux.
    pub label: Option<String>,
}

/// The identity of `client` as it is now: its own, or that of whom it speaks for. Blocks: asks for the names of user and
/// group.
#[must_use]
pub fn identity(client: &Client) -> Identity {
    let params = client.caller.identity();
    let found = |name: &str| {
        let param = params
            .iter()
            .find(|param| param.field.as_bytes() == name.as_bytes());
        param.map(|param: &TypedParam| &param.value)
    };
    let text = |name| match found(name) {
        Some(TypedValue::String(text)) => Some(text.to_str().into_owned()),
        _ => None,
    };
    let number = |name| match found(name) {
        Some(TypedValue::Ullong(number)) => i64::try_from(*number).ok(),
        Some(TypedValue::Llong(number)) => Some(*number),
        _ => None,
    };
    let id = |name| number(name).and_then(|number| u32::try_from(number).ok());
    Identity {
        sasl_user_name: text("sasl-user-name"),
        x509_name: text("x509-distinguished-name"),
        user: id("unix-user-id"),
        user_name: text("user-name"),
        group: id("unix-group-id"),
        group_name: text("group-name"),
        process: number("process-id"),
        label: text("selinux-context"),
    }
}

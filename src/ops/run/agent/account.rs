//! Accounts inside a guest: their passwords, and the keys that open them over SSH.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::reply::Reply;
use crate::{domain::Domain, error::Result, ops::Driver};

/// A password of an account.
pub enum Password {
    /// As it is typed.
    Plain(String),
    /// As the guest keeps it, such as crypt(3) makes it.
    Encrypted(String),
}

/// What becomes of an account's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// The given ones take the place of all.
    Replace,
    /// The given ones are added.
    Add,
    /// The given ones are removed.
    Remove,
}

/// Sets the password of an account.
///
/// # Errors
/// As [`super::execute`].
pub async fn set_password(
    driver: &Arc<Driver>,
    domain: &Domain,
    user: &str,
    password: &Password,
) -> Result<()> {
    let (text, crypted) = match password {
        Password::Plain(text) => (text, false),
        Password::Encrypted(text) => (text, true),
    };
    let password = STANDARD.encode(text);
    let arguments = json!({"crypted": crypted, "username": user, "password": password});
    super::ask(driver, domain, "guest-set-user-password", arguments)
        .await
        .map(drop)
}

/// The keys that open an account.
///
/// # Errors
/// As [`super::execute`], and `Internal` if they are no list of texts.
pub async fn keys(driver: &Arc<Driver>, domain: &Domain, user: &str) -> Result<Vec<String>> {
    const COMMAND: &str = "guest-ssh-get-authorized-keys";
    super::available(&domain.view())?;
    let told = super::ask(driver, domain, COMMAND, json!({"username": user})).await?;
    let keys = Reply::new(COMMAND, &told).need("keys")?.entries()?;
    keys.map(Reply::own_text).collect()
}

/// Changes the keys that open an account.
///
/// # Errors
/// As [`super::execute`].
pub async fn change_keys(
    driver: &Arc<Driver>,
    domain: &Domain,
    user: &str,
    (change, keys): (KeyChange, &[String]),
) -> Result<()> {
    super::available(&domain.view())?;
    let (command, arguments) = command(user, change, keys);
    super::ask(driver, domain, command, arguments).await.map(drop)
}

fn command(user: &str, change: KeyChange, keys: &[String]) -> (&'static str, Value) {
    const ADD: &str = "guest-ssh-add-authorized-keys";
    let reset = match change {
        KeyChange::Replace => true,
        KeyChange::Add => false,
        KeyChange::Remove => {
            let arguments = json!({"username": user, "keys": keys});
            return ("guest-ssh-remove-authorized-keys", arguments);
        }
    };
    (ADD, json!({"username": user, "keys": keys, "reset": reset}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_keys_is_a_command() {
        let keys = ["k".to_owned()];
        let shown = |change| {
            let (name, arguments) = command("root", change, &keys);
            (name, arguments["reset"].as_bool())
        };
        let (add, remove) = (
            "guest-ssh-add-authorized-keys",
            "guest-ssh-remove-authorized-keys",
        );
        assert_eq!(shown(KeyChange::Replace), (add, Some(true)));
        assert_eq!(shown(KeyChange::Add), (add, Some(false)));
        assert_eq!(shown(KeyChange::Remove), (remove, None));
    }
}

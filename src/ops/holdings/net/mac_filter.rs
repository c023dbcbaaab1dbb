//! What guests send to bridges under a MAC address that is not their own is dropped, where qemu.conf says so
//! (`mac_filter`): in libvirt's chain of ebtables, with a rule for each interface, so that either daemon removes it.

use std::time::Duration;

use domxml::devices::{Interface, InterfaceKind};

use crate::{
    error::Result,
    ops::{Driver, host::programs, operation::undo::Undo},
    paths::Scope,
};

/// The chain of all guests, which drops what no rule lets through.
const CHAIN: &str = "libvirt_qemu_FORWARD";
/// How long ebtables may take: it waits for its lock.
const DEADLINE: Duration = Duration::from_secs(60);

fn is_on(driver: &Driver) -> bool {
    driver.config().mac_filter && driver.host.scope == Scope::System
}

/// Words that make the chain what it is; nothing to do where it is there.
// table
const CHAIN_MADE: &[&[&str]] = &[&["--insert", "FORWARD", "--jump", CHAIN], &["-P", CHAIN, "DROP"]];

/// Words that let through what an interface sends; none for one that is no port of a bridge.
fn rule(interface: &Interface, action: &str) -> Option<Vec<String>> {
    let is_port = matches!(interface.kind, InterfaceKind::Bridge | InterfaceKind::Network);
    let device = interface.target.as_ref().and_then(|target| target.dev.as_deref());
    let mac = interface.mac.as_ref().map(|mac| mac.address.as_str());
    let (device, mac) = device.zip(mac).filter(|_| is_port)?;
    let words = [
        action,
        CHAIN,
        "--in-interface",
        device,
        "--source",
        mac,
        "--jump",
        "ACCEPT",
    ];
    Some(words.map(str::to_owned).into())
}

/// Lets through what an interface that is connected to a bridge sends under its own address.
///
/// # Errors
/// ebtables is missing or fails.
pub(crate) async fn allow(driver: &Driver, interface: &Interface, undo: &mut Undo) -> Result<()> {
    let Some(words) = rule(interface, "--insert").filter(|_| is_on(driver)) else {
        return Ok(());
    };
    if ebtables(&["--new-chain", CHAIN]).await.is_ok() {
        for words in CHAIN_MADE {
            ebtables(words).await?;
        }
    }
    ebtables(&words).await?;
    if let Some(words) = rule(interface, "--delete") {
        undo.push("a rule for an interface's address", async move {
            ebtables(&words).await
        });
    }
    Ok(())
}

/// Removes the rule of an interface that has gone. What fails is logged.
pub(crate) async fn forget(driver: &Driver, interface: &Interface) {
    let Some(words) = rule(interface, "--delete").filter(|_| is_on(driver)) else {
        return;
    };
    if let Err(error) = ebtables(&words).await {
        tracing::warn!(%error, "the rule for an interface's address stays");
    }
}

async fn ebtables(words: &[impl AsRef<str>]) -> Result<()> {
    let own = words.iter().map(AsRef::as_ref);
    let words: Vec<&str> = std::iter::once("--concurrent").chain(own).collect();
    programs::run("ebtables", &words, DEADLINE, "mac_filter").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_bridge_is_let_through_in_libvirts_words() {
        let interface = |kind: &str| {
            let text = format!(
                "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices><interface type='{kind}'><mac \
                 address='52:54:00:11:22:33'/><target dev='vnet0'/></interface></devices></domain>"
            );
            let mut document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            document.devices.interfaces.remove(0)
        };
        let words = rule(&interface("bridge"), "--insert").unwrap().join(" ");
        assert_eq!(
            words,
            "--insert libvirt_qemu_FORWARD --in-interface vnet0 --source 52:54:00:11:22:33 --jump ACCEPT"
        );
        assert_eq!(rule(&interface("user"), "--insert"), None);
    }
}

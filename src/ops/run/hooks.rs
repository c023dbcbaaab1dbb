//! The administrator's scripts, called for a guest as its run begins and ends.
//!
//! `start` calls them at its stages, `stop` at the end of a run, `recover` when a run was taken over. What a run began
//! with ([`Operation::Prepare`]) it ends with, also when its start fails.

use domxml::{
    Domain, FormatFlags,
    devices::{ChardevKind, YesNo},
    security::{Seclabel, SeclabelType},
};

use crate::{
    domain::{Document, Either},
    error::Result,
    hooks::{Operation, Script},
    ops::Driver,
};

/// What the scripts that a start calls are told of the guest, until the run itself is there to end with them.
#[derive(Default)]
pub(crate) struct Begun {
    /// The newest document, once a script was called.
    document: Option<Box<Domain>>,
}

impl Begun {
    /// Calls the scripts about a guest that is being started.
    ///
    /// # Errors
    /// As [`crate::hooks::Hooks::call`].
    pub(crate) async fn call(
        &mut self,
        driver: &Driver,
        operation: Operation,
        document: &Domain,
    ) -> Result<()> {
        if driver.hooks.has(Script::Qemu) {
            self.document = Some(Box::new(document.clone()));
        }
        call(driver, operation, document).await
    }

    /// From here the end of the run is what calls them.
    pub(crate) fn forget(&mut self) {
        self.document = None;
    }

    /// The start has failed; to be called before what it has done is undone.
    pub(crate) async fn stopped(&self, driver: &Driver) {
        if let Some(document) = &self.document {
            tell(driver, Operation::Stopped, document).await;
        }
    }

    /// The start has failed, and all that it has done is undone.
    pub(crate) async fn released(&self, driver: &Driver) {
        if let Some(document) = &self.document {
            tell(driver, Operation::Release("failed"), document).await;
        }
    }
}

/// Calls the scripts about a run that goes on.
///
/// # Errors
/// As [`crate::hooks::Hooks::call`].
pub(crate) async fn call(driver: &Driver, operation: Operation, document: &Domain) -> Result<()> {
    if !driver.hooks.has(Script::Qemu) {
        return Ok(());
    }
    let text = text(document.clone())?;
    driver.hooks.call(&document.name, operation, &text).await
}

/// Tells the scripts of the end of a run.
pub(crate) async fn tell(driver: &Driver, operation: Operation, document: &Domain) {
    if !driver.hooks.has(Script::Qemu) {
        return;
    }
    match text(ended(document, operation)) {
        Ok(text) => driver.hooks.tell(&document.name, operation, &text).await,
        Err(error) => tracing::error!(guest = document.name, %error, "hooks are not called"),
    }
}

/// A run's document as scripts read it: without secrets.
fn text(document: Domain) -> Result<String> {
    Either::Live(&Document::live(document)).format(FormatFlags::NONE)
}

/// A run's document after its end: without its number, terminals and the ports that were chosen for it; once all was given
/// back, without the labels that were made for it, too.
fn ended(document: &Domain, operation: Operation) -> Domain {
    let mut document = document.clone();
    document.id = None;
    let devices = &mut document.devices;
    let chardevs = (devices.serials.iter_mut().map(|d| &mut d.chardev))
        .chain(devices.parallels.iter_mut().map(|d| &mut d.chardev))
        .chain(devices.channels.iter_mut().map(|d| &mut d.chardev))
        .chain(devices.consoles.iter_mut().map(|d| &mut d.chardev));
    for chardev in chardevs.filter(|chardev| chardev.kind == ChardevKind::Pty) {
        chardev.sources.clear();
    }
    for console in &mut devices.consoles {
        console.tty = None;
    }
    for display in devices
        .graphics
        .iter_mut()
        .filter(|d| d.autoport == Some(YesNo::Yes))
    {
        display.port = display.port.map(|_| -1);
        display.tls_port = display.tls_port.map(|_| -1);
    }
    let made = |label: &&mut Seclabel| label.kind == Some(SeclabelType::Dynamic);
    if matches!(operation, Operation::Release(_)) {
        for label in document.seclabels.iter_mut().filter(made) {
            (label.label, label.imagelabel) = (None, None);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_a_run_that_ended_has_nothing_of_it_any_more() {
        let live = "<domain type='qemu' id='3'><name>a</name><memory>1</memory><devices>
            <serial type='pty'><source path='/dev/pts/7'/><alias name='serial0'/></serial>
            <console type='pty' tty='/dev/pts/7'><source path='/dev/pts/7'/></console>
            <graphics type='vnc' port='5917' autoport='yes' listen='127.0.0.1'/></devices>
            <seclabel type='dynamic' model='dac'><label>+7:+7</label><imagelabel>+7:+7</imagelabel></seclabel></domain>";
        let document = Domain::parse(live, domxml::ParseFlags::NONE).unwrap();
        let told = |operation| text(ended(&document, operation)).unwrap();
        let stopped = told(Operation::Stopped);
        assert!(
            !stopped.contains("id='3'") && !stopped.contains("/dev/pts") && !stopped.contains("5917"),
            "{stopped}"
        );
        assert!(
            stopped.contains("+7:+7") && stopped.contains("serial0"),
            "{stopped}"
        );
        let released = told(Operation::Release("destroyed"));
        assert!(
            !released.contains("+7:+7") && released.contains("model='dac'"),
            "{released}"
        );
    }
}

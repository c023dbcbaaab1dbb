//! From a client's text to a document that is complete, and what else define and start share.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::devices::HostdevAddress;
use qemu_plan::{
    address::Age,
    caps::Caps,
    postparse::{Context, Emulators, Ids, post_parse},
};
use uuid::Uuid;

use crate::{
    error::{Area, Code, Error, Result},
    ops::Driver,
};

/// Longest document, bytes.
const XML_MAX: usize = 4 << 20;
/// A document of so many bytes is read on a thread of its own.
const LONG: usize = 64 << 10;
/// Emulators asked for one document: its own and at most as many defaults.
const PROBES_MAX: usize = 4;

/// A complete document, and what its emulator can do.
pub(crate) struct Planned {
    pub(crate) domain: Box<domxml::Domain>,
    pub(crate) caps: Arc<Caps>,
}

/// Reads a client's document and completes it.
///
/// # Errors
/// What is wrong with it, in libvirt's words.
pub(crate) async fn from_text(driver: &Arc<Driver>, xml: String, validate: bool) -> Result<Planned> {
    if xml.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            xml.len()
        )));
    }
    if validate {
        crate::ops::document::schema::check(&xml).await?;
    }
    let parse = |xml: &str| Ok(Box::new(domxml::Domain::given(xml)?));
    // A long one would keep others waiting for the thread.
    let domain = if xml.len() > LONG {
        crate::blocking::file("reading a long document", move || parse(&xml)).await?
    } else {
        parse(&xml)?
    };
    complete(driver, domain, Age::New).await
}

/// Completes a document: defaults, addresses, checks.
///
/// # Errors
/// As [`from_text`].
pub(crate) async fn complete(driver: &Arc<Driver>, domain: Box<domxml::Domain>, age: Age) -> Result<Planned> {
    let planned = fill(driver, domain, age).await?;
    qemu_plan::validate::validate(&planned.domain, &planned.caps)?;
    if age == Age::New && !driver.config().spice.tls.on {
        refuse_encrypted_port(&planned.domain)?;
    }
    Ok(planned)
}

/// Completes a document: defaults and addresses. Whether a guest could be so is not checked.
///
/// # Errors
/// When there are none.
pub(crate) async fn fill(driver: &Arc<Driver>, domain: Box<domxml::Domain>, age: Age) -> Result<Planned> {
    if domain.os.firmware.is_some() || domain.os.loader.is_some() || domain.os.nvram.is_some() {
        let owned = Arc::clone(driver);
        crate::blocking::file("reading the host's firmware descriptors", move || {
            owned.firmware.read();
            Ok(())
        })
        .await?;
    }
    let (domain, known) = filled_in(driver, domain, age).await?;
    let caps = known.of(&domain)?;
    Ok(Planned { domain, caps })
}

/// A port for encrypted connections needs certificates.
fn refuse_encrypted_port(domain: &domxml::Domain) -> Result<()> {
    use domxml::devices::{GraphicsKind, ListenKind};
    let is_asked_for = domain.devices.graphics.iter().any(|display| {
        let first = display.listens.first().map(|listen| listen.kind);
        display.kind == GraphicsKind::Spice
            && matches!(first, Some(ListenKind::Address | ListenKind::Network))
            && display.tls_port.is_some_and(|port| port > 0)
    });
    match is_asked_for {
        true => Err(Error::new(
            Code::ConfigUnsupported,
            "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
        )),
        false => Ok(()),
    }
}

/// A document with all that it does not say, and what its emulators can do: they are asked as they turn up.
async fn filled_in(
    driver: &Driver,
    domain: Box<domxml::Domain>,
    age: Age,
) -> Result<(Box<domxml::Domain>, Known<'_>)> {
    let mut known = Known {
        driver,
        caps: RefCell::default(),
        wanted: RefCell::default(),
    };
    for _ in 0..PROBES_MAX {
        let attempt = fill_in(driver, domain.clone(), &known, age);
        match known.take_wanted() {
            Some(path) => {
                let caps = driver.prober.caps(Path::new(&path)).await?;
                known.caps.get_mut().insert(path, caps);
            }
            None => return Ok((attempt?, known)),
        }
    }
    Err(Error::internal("the document names too many emulators"))
}

/// What a stored document becomes when it is read and completed again, as libvirt does before it changes one that is to be
/// shown.
///
/// # Errors
/// What is wrong with it by now, in libvirt's words.
pub(crate) async fn again(driver: &Driver, stored: &domxml::Domain) -> Result<Box<domxml::Domain>> {
    let text = stored.format(domxml::FormatFlags::INACTIVE | domxml::FormatFlags::SECURE);
    let domain = Box::new(domxml::Domain::given(&text)?);
    Ok(filled_in(driver, domain, Age::Known).await?.0)
}

/// Runs a pure pass over a guest's devices, with what its emulator can do.
///
/// # Errors
/// The emulator can't be asked; what the pass gives.
pub(crate) async fn with_caps<T>(
    driver: &Arc<Driver>,
    document: &domxml::Domain,
    pass: impl FnOnce(&Caps, &mut Context<'_>) -> qemu_plan::Result<T>,
) -> Result<T> {
    let path = document.devices.emulator.clone().unwrap_or_default();
    let caps = driver.prober.caps(Path::new(&path)).await?;
    let known = Known {
        driver,
        caps: RefCell::new(HashMap::from([(path, Arc::clone(&caps))])),
        wanted: RefCell::default(),
    };
    let config = crate::ops::document::config::plan_config(driver);
    let mut context = Context {
        host_arch: &driver.host.arch,
        emulators: &known,
        config: &config,
        ids: &mut Random,
        age: Age::Known,
    };
    Ok(pass(&caps, &mut context)?)
}

fn fill_in(
    driver: &Driver,
    mut domain: Box<domxml::Domain>,
    known: &Known<'_>,
    age: Age,
) -> Result<Box<domxml::Domain>> {
    let config = crate::ops::document::config::plan_config(driver);
    let mut context = Context {
        host_arch: &driver.host.arch,
        emulators: known,
        config: &config,
        ids: &mut Random,
        age,
    };
    note_conventional(driver, &mut domain);
    post_parse(&mut domain, &mut context)?;
    for hostdev in &mut domain.devices.hostdevs {
        hostdev
            .source
            .iter_mut()
            .for_each(|source| source.conventional = false);
    }
    Ok(domain)
}

/// Notes which of the host's PCI devices are of conventional PCI: they need other buses.
fn note_conventional(driver: &Driver, domain: &mut domxml::Domain) {
    let root = driver.hostdevs.root();
    for hostdev in &mut domain.devices.hostdevs {
        let Some(source) = hostdev.source.as_mut() else {
            continue;
        };
        if let Some(HostdevAddress::Pci {
            domain,
            bus,
            slot,
            function,
        }) = source.address
        {
            let address = hostinfo::PciAddress {
                domain,
                bus,
                slot,
                function,
            };
            // Of a device that is not named yet nothing is known.
            let named = (domain, bus, slot) != (0, 0, 0);
            source.conventional = named && hostinfo::is_conventional(root, address);
        }
    }
}

/// What is known of emulators so far; asking for more notes it, and the asker tries again.
struct Known<'a> {
    driver: &'a Driver,
    caps: RefCell<HashMap<String, Arc<Caps>>>,
    wanted: RefCell<Option<String>>,
}

impl Known<'_> {
    fn take_wanted(&mut self) -> Option<String> {
        self.wanted.get_mut().take()
    }
    fn find(&self, path: &str) -> Option<Arc<Caps>> {
        if let Some(caps) = self.caps.borrow().get(path) {
            return Some(Arc::clone(caps));
        }
        let caps = self.driver.prober.recent(Path::new(path))?;
        self.caps.borrow_mut().insert(path.to_owned(), Arc::clone(&caps));
        Some(caps)
    }
    fn of(&self, domain: &domxml::Domain) -> Result<Arc<Caps>> {
        let path = domain.devices.emulator.as_deref().unwrap_or_default();
        self.find(path)
            .ok_or_else(|| Error::internal("the document has no emulator"))
    }
}

impl Emulators for Known<'_> {
    fn default_for(&self, arch: &str) -> Option<String> {
        crate::ops::host::emulator::default_emulator(self.driver, arch)
    }
    fn caps(&self, path: &str) -> qemu_plan::Result<Arc<Caps>> {
        self.find(path).ok_or_else(|| {
            self.wanted.borrow_mut().get_or_insert_with(|| path.to_owned());
            qemu_plan::Error::internal("not asked yet")
        })
    }
}

/// Identities drawn at random.
struct Random;

impl Ids for Random {
    fn mac(&mut self) -> String {
        let random = Uuid::new_v4();
        let [a, b, c, ..] = *random.as_bytes();
        format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
    }
    fn uuid(&mut self) -> Uuid {
        Uuid::new_v4()
    }
}

/// UUID and name of a complete document.
///
/// # Errors
/// `Xml` if the name can't be one.
pub(crate) fn identity(domain: &domxml::Domain) -> Result<(Uuid, String)> {
    let uuid = domain
        .uuid
        .ok_or_else(|| Error::internal("the document has no UUID"))?;
    check_name(&domain.name)?;
    Ok((uuid, domain.name.clone()))
}

/// Whether a guest may have this name: it is a file's name, too.
///
/// # Errors
/// `Xml`, in libvirt's words.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let wrong = |message: String| Err(Error::new(Code::Xml, message).in_area(Area::Domain));
    if name.is_empty() {
        return wrong("name must not be empty".to_owned());
    }
    if name.contains('/') {
        return wrong(format!("name {name} cannot contain '/'"));
    }
    if name.contains('\n') {
        return wrong(format!("name {name} cannot contain '\\n'"));
    }
    Ok(())
}

/// The file of the firmware's variables, if the guest has one.
pub(crate) fn nvram_path(domain: &domxml::Domain) -> Option<PathBuf> {
    let nvram = domain.os.nvram.as_ref()?;
    let source = || nvram.source.as_ref().and_then(|s| s.file.clone());
    nvram
        .path
        .clone()
        .or_else(source)
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
}

/// "ID-NAME" with as much of the name as libvirt takes: the name of a run's directories.
pub(crate) fn short_name(id: i32, name: &str) -> String {
    format!("{id}-{}", name.chars().take(20).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_files_can_not_have_are_refused() {
        for name in ["", "a/b", "a\nb", "/"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("a b.c-d ü").is_ok() && check_name(" ").is_ok());
    }

    #[test]
    fn the_short_name_is_cut_like_libvirts() {
        assert_eq!(
            short_name(7, "abcdefghijklmnopqrstuvwxyz"),
            "7-abcdefghijklmnopqrst"
        );
        assert_eq!(short_name(7, "abc"), "7-abc");
    }
}

//! From a client's text to a document that is complete, and what else define and start share.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fs::OpenOptions,
    io::Write,
    net::{TcpListener, ToSocketAddrs},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use domxml::ParseFlags;
use qemu_plan::{
    address::Age,
    caps::Caps,
    postparse::{Context, Emulators, Ids, post_parse},
};
use uuid::Uuid;

use super::Driver;
use crate::{
    config::PortRange,
    error::{Area, Code, Error, Result},
};

/// Longest document, bytes.
const XML_MAX: usize = 4 << 20;
/// A document of so many bytes is read on a thread of its own.
const LONG: usize = 64 << 10;
/// Emulators asked for one document: its own and at most as many defaults.
const PROBES_MAX: usize = 4;

/// A complete document, and what its emulator can do.
pub(super) struct Planned {
    pub(super) domain: Box<domxml::Domain>,
    pub(super) caps: Arc<Caps>,
}

/// Reads a client's document and completes it.
///
/// # Errors
/// What is wrong with it, in libvirt's words.
pub(super) async fn from_text(driver: &Arc<Driver>, xml: String, validate: bool) -> Result<Planned> {
    if xml.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            xml.len()
        )));
    }
    if validate {
        super::schema::check(&xml)?;
    }
    let parse = |xml: &str| Ok(Box::new(domxml::Domain::parse(xml, ParseFlags::INACTIVE)?));
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
pub(super) async fn complete(driver: &Arc<Driver>, domain: Box<domxml::Domain>, age: Age) -> Result<Planned> {
    if domain.os.firmware.is_some() || domain.os.loader.is_some() || domain.os.nvram.is_some() {
        let owned = Arc::clone(driver);
        crate::blocking::file("reading the host's firmware descriptors", move || {
            owned.firmware.read();
            Ok(())
        })
        .await?;
    }
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
            None => {
                let domain = attempt?;
                let caps = known.of(&domain)?;
                qemu_plan::validate::validate(&domain, &caps)?;
                return Ok(Planned { domain, caps });
            }
        }
    }
    Err(Error::internal("the document names too many emulators"))
}

fn fill_in(
    driver: &Driver,
    mut domain: Box<domxml::Domain>,
    known: &Known<'_>,
    age: Age,
) -> Result<Box<domxml::Domain>> {
    let config = super::start::plan_config(driver);
    let mut context = Context {
        host_arch: &driver.host.arch,
        emulators: known,
        config: &config,
        ids: &mut Random,
        age,
    };
    post_parse(&mut domain, &mut context)?;
    Ok(domain)
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
        super::emulator::default_emulator(self.driver, arch)
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
pub(super) fn identity(domain: &domxml::Domain) -> Result<(Uuid, String)> {
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
pub(super) fn check_name(name: &str) -> Result<()> {
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
    if name.trim().is_empty() {
        return wrong("name must contain at least one non-whitespace character".to_owned());
    }
    Ok(())
}

/// The file of the firmware's variables, if the guest has one.
pub(super) fn nvram_path(domain: &domxml::Domain) -> Option<PathBuf> {
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
pub(super) fn short_name(id: i32, name: &str) -> String {
    format!("{id}-{}", name.chars().take(20).collect::<String>())
}

/// Appends a line with the time to a guest's log. A log that can't be written is no reason to fail.
pub(super) fn log_line(path: &Path, text: &str) {
    let line = format!("{}: {text}\n", timestamp());
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the guest's log can't be written");
    }
}

/// The time as libvirt's logs have it: `2026-01-31 23:59:59.123+0000`.
pub(super) fn timestamp() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}+0000",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        now.subsec_millis()
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    // Count from 0000-03-01, so that the leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// What a run holds of the host; dropped, it is given back.
pub enum Lease {
    /// A port of a display.
    Port(PortLease),
}

/// Ports of displays in use by guests.
#[derive(Clone, Default)]
pub struct Ports {
    used: Arc<Mutex<BTreeSet<u16>>>,
}

/// One port in use.
pub struct PortLease {
    /// The port.
    pub port: u16,
    ports: Ports,
}

impl Ports {
    fn used(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first port of `range` that no guest of ours and nobody else on the host has, on `address`.
    ///
    /// # Errors
    /// `Internal` if there is none.
    pub fn take(&self, range: PortRange, address: &str) -> Result<PortLease> {
        let mut used = self.used();
        let free = (range.min..=range.max).find(|port| !used.contains(port) && can_bind(address, *port));
        let port = free.ok_or_else(|| {
            Error::internal(format!(
                "Unable to find an unused port in range 'display' ({}-{})",
                range.min, range.max
            ))
            .in_area(Area::None)
        })?;
        used.insert(port);
        Ok(PortLease {
            port,
            ports: self.clone(),
        })
    }

    /// Notes a port that a guest has already, or was given by its document.
    pub fn hold(&self, port: u16) -> PortLease {
        self.used().insert(port);
        PortLease {
            port,
            ports: self.clone(),
        }
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.ports.used().remove(&self.port);
    }
}

fn can_bind(address: &str, port: u16) -> bool {
    let bind = |address: &str| {
        (address, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut a| a.next())
            .map(|a| TcpListener::bind(a).is_ok())
    };
    bind(address).or_else(|| bind("0.0.0.0")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_779, (2026, 11, 22)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }

    #[test]
    fn names_that_files_can_not_have_are_refused() {
        for name in ["", " ", "a/b", "a\nb", "/"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("a b.c-d ü").is_ok());
    }

    #[test]
    fn the_short_name_is_cut_like_libvirts() {
        assert_eq!(
            short_name(7, "abcdefghijklmnopqrstuvwxyz"),
            "7-abcdefghijklmnopqrst"
        );
        assert_eq!(short_name(7, "abc"), "7-abc");
    }

    #[test]
    fn a_port_is_lent_once_and_comes_back() {
        let ports = Ports::default();
        let range = PortRange {
            min: 47_100,
            max: 47_140,
        };
        let first = ports.take(range, "127.0.0.1").unwrap();
        let second = ports.take(range, "127.0.0.1").unwrap();
        assert_ne!(first.port, second.port);
        let port = first.port;
        drop(first);
        assert_eq!(ports.take(range, "127.0.0.1").unwrap().port, port);
    }

    #[test]
    fn a_port_of_somebody_else_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let range = PortRange { min: port, max: port };
        assert!(Ports::default().take(range, "127.0.0.1").is_err());
    }
}

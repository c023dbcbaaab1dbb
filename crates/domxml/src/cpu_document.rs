//! `<cpu>` as a document of its own, as clients hand it in to be compared or put together.

use xmlform::{Document, FormatFlags, Node, ParseFlags, Writer, Xml};

use crate::capabilities::HostCpu;
use crate::cpu::{Cpu, CpuMode, Topology};
use crate::{Area, Error};

/// A CPU's document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuDocument {
    /// A host's CPU, as capabilities describe it: it names an architecture.
    Host(HostCpu),
    /// A guest's CPU, as a domain's document describes it.
    Guest(Cpu),
}

/// Which documents are welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedCpu {
    /// Both.
    Any,
    /// A host's only.
    Host,
}

impl CpuDocument {
    /// Reads a document. `is_arch` knows libvirt's architectures.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<cpu>`, a value is not of its type, or things do not go together.
    pub fn parse(text: &str, wanted: WantedCpu, is_arch: fn(&str) -> bool) -> Result<Self, Error> {
        let document = Document::parse(text, &[], ParseFlags::NONE)?;
        let root = Self::root(document.root())?;
        let has_arch = root.child("arch").is_some();
        if wanted == WantedCpu::Any && !has_arch {
            return Ok(Self::Guest(guest(root)?));
        }
        if root.attr("mode").is_some() {
            return Err(Error::unsupported("Attribute mode is only allowed for guest CPU"));
        }
        if wanted == WantedCpu::Any && root.attr("match").is_some() {
            return Err(Error::xml(
                "'arch' element cannot be used inside 'cpu' element with 'match' attribute'",
            ));
        }
        host(root, is_arch).map(Self::Host)
    }

    /// The root, if it is the right one.
    pub(crate) fn root(root: Node<'_>) -> Result<Node<'_>, Error> {
        if root.is("cpu") {
            Ok(root)
        } else {
            Err(Error::xml("XML does not contain expected 'cpu' element"))
        }
    }
}

impl Cpu {
    /// The CPU as a document of its own.
    #[must_use]
    pub fn document(&self, flags: FormatFlags) -> String {
        let mut writer = Writer::new(flags);
        writer.element("cpu", self);
        writer.finish()
    }

    /// Checks what goes together: a CPU without a model can have neither features nor a vendor, no feature is named
    /// twice, a vendor's word has its length, and there is one of each part of the topology.
    ///
    /// # Errors
    /// `Xml` saying what does not.
    pub fn check_shape(&self) -> Result<(), Error> {
        let named = self
            .model
            .as_ref()
            .is_some_and(|m| m.name.as_deref().is_some_and(|n| !n.is_empty()));
        if matches!(self.mode, None | Some(CpuMode::Custom)) && !named {
            if self.vendor.is_some() {
                return Err(Error::xml("CPU vendor specified without CPU model"));
            }
            if !self.features.is_empty() {
                return Err(Error::xml("Non-empty feature list specified without CPU model"));
            }
        }
        let vendor_id = self.model.as_ref().and_then(|model| model.vendor_id.as_deref());
        if vendor_id.is_some_and(|word| word.len() != VENDOR_ID) {
            return Err(Error::xml(format!(
                "vendor_id must be exactly {VENDOR_ID} characters long"
            )));
        }
        self.topology.as_ref().map_or(Ok(()), check_topology)?;
        none_twice(self.features.iter().map(|feature| feature.name.as_str()))
    }
}

fn check_topology(topology: &Topology) -> Result<(), Error> {
    let Topology {
        sockets,
        dies,
        clusters,
        cores,
        threads,
    } = *topology;
    let parts = [
        ("sockets", sockets),
        ("dies", dies),
        ("clusters", clusters),
        ("cores", cores),
        ("threads", threads),
    ];
    match parts.iter().find(|(_, number)| *number == 0) {
        Some((name, _)) => Err(Error::xml(format!(
            "Invalid value for attribute '{name}' in element 'topology': Zero is not permitted"
        ))
        .in_area(Area::Xml)),
        None => Ok(()),
    }
}

/// Bytes of a vendor's word in CPUID.
const VENDOR_ID: usize = 12;

fn guest(root: Node<'_>) -> Result<Cpu, Error> {
    let cpu = Cpu::read(root)?;
    cpu.check_shape()?;
    Ok(cpu)
}

fn host(root: Node<'_>, is_arch: fn(&str) -> bool) -> Result<HostCpu, Error> {
    let arch = root
        .child("arch")
        .map(|arch| arch.text().trim())
        .ok_or_else(|| Error::xml("Missing CPU architecture"))?;
    let cpu = HostCpu::read(root)?;
    if !is_arch(arch) {
        return Err(Error::unsupported(format!("Unknown architecture {arch}")));
    }
    if cpu.model.as_deref().unwrap_or_default().is_empty() {
        return Err(Error::xml("Missing CPU model name"));
    }
    none_twice(cpu.features.iter().map(|feature| feature.name.as_str()))?;
    Ok(cpu)
}

fn none_twice<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<(), Error> {
    for (at, name) in names.clone().enumerate() {
        if name.is_empty() {
            return Err(Error::xml("Invalid CPU feature name"));
        }
        if names.clone().take(at).any(|earlier| earlier == name) {
            return Err(Error::xml(format!(
                "CPU feature '{name}' specified more than once"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, wanted: WantedCpu) -> String {
        match CpuDocument::parse(text, wanted, |arch| arch == "x86_64") {
            Ok(CpuDocument::Host(cpu)) => format!("host {}", cpu.model.unwrap_or_default()),
            Ok(CpuDocument::Guest(cpu)) => format!(
                "guest {}",
                cpu.model.and_then(|model| model.name).unwrap_or_default()
            ),
            Err(error) => format!("{} {}", error.kind.number(), error.message),
        }
    }

    #[test]
    fn a_document_is_a_hosts_if_it_names_an_architecture() {
        for (text, any, host) in [
            (
                "<cpu><model>486</model></cpu>",
                "guest 486",
                "27 Missing CPU architecture",
            ),
            ("<cpu/>", "guest ", "27 Missing CPU architecture"),
            (
                "<cpu><arch>x86_64</arch><model>486</model></cpu>",
                "host 486",
                "host 486",
            ),
            (
                "<cpu><arch>x86_64</arch></cpu>",
                "27 Missing CPU model name",
                "27 Missing CPU model name",
            ),
            (
                "<cpu><arch>z</arch></cpu>",
                "67 Unknown architecture z",
                "67 Unknown architecture z",
            ),
            (
                "<cpu match='exact'><arch>x86_64</arch><model>486</model></cpu>",
                "27 'arch' element cannot be used inside 'cpu' element with 'match' attribute'",
                "host 486",
            ),
            (
                "<cpu mode='custom'><model>486</model></cpu>",
                "guest 486",
                "67 Attribute mode is only allowed for guest CPU",
            ),
            (
                "<domain/>",
                "27 XML does not contain expected 'cpu' element",
                "27 XML does not contain expected 'cpu' element",
            ),
        ] {
            assert_eq!(
                (
                    told(text, WantedCpu::Any).as_str(),
                    told(text, WantedCpu::Host).as_str()
                ),
                (any, host),
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (inside, wanted) in [
            (
                "<vendor>AMD</vendor>",
                "27 CPU vendor specified without CPU model",
            ),
            (
                "<feature policy='require' name='nx'/>",
                "27 Non-empty feature list specified without CPU model",
            ),
            (
                "<model>a</model><feature name='nx'/><feature name='nx'/>",
                "27 CPU feature 'nx' specified more than once",
            ),
            (
                "<model>a</model><feature name=''/>",
                "27 Invalid CPU feature name",
            ),
            (
                "<model>a</model><feature policy='maybe' name='nx'/>",
                "67 Invalid CPU feature policy",
            ),
            (
                "<model vendor_id='1234567890'>a</model>",
                "27 vendor_id must be exactly 12 characters long",
            ),
            (
                "<topology sockets='1' cores='0' threads='1'/>",
                "27 Invalid value for attribute 'cores' in element 'topology': Zero is not permitted",
            ),
        ] {
            assert_eq!(
                told(&format!("<cpu>{inside}</cpu>"), WantedCpu::Any),
                wanted,
                "{inside}"
            );
        }
    }

    #[test]
    fn the_schema_knows_a_hosts_document_from_a_guests() {
        let fits = |text: &str| CpuDocument::check_schema(text, |arch| arch == "x86_64").is_ok();
        assert!(fits(
            "<cpu><model>486</model><feature policy='require' name='sse4.1'/></cpu>"
        ));
        assert!(fits(
            "<cpu><arch>x86_64</arch><model>486</model><feature name='nx'/></cpu>"
        ));
        for text in [
            "<cpu><model>486</model><feature name='nx'/></cpu>",
            "<cpu><model>486</model><other/></cpu>",
            "<cpu><model vendor_id='short'>486</model></cpu>",
            "<cpu><arch>x86_64</arch><model>486</model><feature policy='require' name='nx'/></cpu>",
            "<cpu><arch>x86_64</arch><model fallback='allow'>486</model></cpu>",
            "<cpu match='exact'><arch>x86_64</arch><model>486</model></cpu>",
            "<cpu><arch>z</arch><model>486</model></cpu>",
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}

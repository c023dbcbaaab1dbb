//! Answers to what clients ask first of a host: its name, CPUs, memory, and what QEMU can run on it.

use std::{path::Path, sync::Arc};

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    ops::{Driver, host::place::unreadable},
    paths::Scope,
};

/// What clients ask first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name of the host.
    pub hostname: String,
    /// URI of this connection.
    pub uri: String,
    /// UUID of the host.
    pub uuid: Uuid,
    /// Security driver in use; empty: none.
    pub security_model: String,
    /// Its domain of interpretation.
    pub security_doi: String,
}

/// CPUs and memory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Architecture.
    pub model: String,
    /// KiB.
    pub memory_kib: u64,
    /// CPUs online.
    pub cpus: u32,
    /// Of one of them, 0 if not known.
    pub mhz: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// A node.
    pub sockets: u32,
    /// A socket.
    pub cores: u32,
    /// A core.
    pub threads: u32,
}

/// What clients ask first.
///
/// # Errors
/// The host has no name.
pub fn info(driver: &Driver) -> Result<Info> {
    let hostname = hostinfo::hostname(&hostinfo::Root::at(&driver.host.root)).map_err(unreadable)?;
    let uri = match driver.host.scope {
        Scope::System => "qemu:///system",
        Scope::Session => "qemu:///session",
    };
    Ok(Info {
        hostname,
        uri: uri.to_owned(),
        uuid: driver.host.uuid,
        security_model: "none".to_owned(),
        security_doi: "0".to_owned(),
    })
}

/// CPUs and memory.
///
/// # Errors
/// The kernel does not tell.
pub async fn node(driver: &Arc<Driver>) -> Result<Node> {
    let facts = crate::ops::host::facts::of_host(driver).await?;
    let mhz = hostinfo::frequency(&hostinfo::Root::at(&driver.host.root)).map_err(unreadable)?;
    let info = &facts.node;
    Ok(Node {
        model: info.model.clone(),
        memory_kib: info.memory,
        cpus: info.cpus,
        mhz,
        nodes: info.nodes,
        sockets: info.sockets,
        cores: info.cores,
        threads: info.threads,
    })
}

/// The version of the host's default QEMU.
///
/// # Errors
/// There is none, or it can't be asked.
pub async fn hypervisor_version(driver: &Arc<Driver>) -> Result<u64> {
    let arch = driver.host.arch.clone();
    let path = crate::ops::host::emulator::default_emulator(driver, &arch)
        .ok_or_else(|| Error::internal(format!("Cannot find suitable emulator for {arch}")))?;
    Ok(u64::from(driver.prober.caps(Path::new(&path)).await?.version()))
}

/// The most CPUs of a guest that QEMU runs without KVM, where nothing else is known.
pub(crate) const MAX_VCPUS: u32 = 16;

/// The most CPUs that a guest of a kind may have here.
///
/// # Errors
/// `InvalidArg` for a kind that QEMU has not; `Internal` or `System` if KVM can't be asked.
pub fn max_vcpus(virt_type: &str) -> Result<u32> {
    match virt_type.to_ascii_lowercase().as_str() {
        "" | "qemu" => Ok(MAX_VCPUS),
        "kvm" => {
            let kvm = crate::ops::host::arch::KVM
                .as_ref()
                .ok_or_else(|| Error::internal("Unable to open /dev/kvm"))?;
            kvm.max_vcpus()
                .map_err(|error| Error::system("Unable to ask KVM", error))
        }
        _ => Err(Error::argument(format!("unknown type '{virt_type}'"))),
    }
}

/// Architectures whose models are known without asking QEMU; none for the others that libvirt knows.
pub(crate) const KNOWN_MODELS: &[&str] = &["x86_64", "i686"];

/// Names of the CPU models of an architecture.
///
/// # Errors
/// `InvalidArg` if there is no such architecture.
pub fn cpu_models(arch: &str) -> Result<Vec<String>> {
    if KNOWN_MODELS.contains(&arch) {
        return Ok(hostinfo::CpuModels::x86()
            .models
            .iter()
            .map(|model| model.name.to_string())
            .collect());
    }
    match crate::ops::host::arch::ARCHES
        .iter()
        .any(|(name, _)| *name == arch)
    {
        true => Ok(Vec::new()),
        false => Err(Error::argument(format!("cannot find architecture {arch}"))),
    }
}

/// libvirt's capabilities document.
///
/// # Errors
/// The host's facts can't be read.
pub async fn capabilities(driver: &Arc<Driver>) -> Result<String> {
    crate::ops::host::capabilities::document(driver).await
}

/// libvirt's domain capabilities document; empty arguments mean the host's best.
///
/// # Errors
/// `InvalidArg` for an architecture or machine that the emulator does not have.
pub async fn domain_capabilities(
    driver: &Arc<Driver>,
    asked: crate::ops::host::domcaps::Asked,
) -> Result<String> {
    crate::ops::host::domcaps::document(driver, asked).await
}

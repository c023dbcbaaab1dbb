//! Who the host is: names, UUIDs, kernel, and what it can do in one word.

use crate::error::Result;
use crate::root::Root;

/// The running kernel, as uname tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// "Linux".
    pub name: String,
    /// Such as "6.1.0-56-amd64".
    pub release: String,
    /// The build: "#1 SMP ...".
    pub version: String,
}

/// The running kernel.
///
/// # Errors
/// When `/proc/sys/kernel` cannot be read.
pub fn kernel(root: &Root) -> Result<Kernel> {
    let read = |name: &str| Ok(root.text(&format!("proc/sys/kernel/{name}"))?.trim().to_owned());
    Ok(Kernel {
        name: read("ostype")?,
        release: read("osrelease")?,
        version: read("version")?,
    })
}

/// The architecture, as uname tells: "x86_64". Kernels before 6.1 do not say; this program's own then.
///
/// # Errors
/// When the kernel's file is there and cannot be read.
pub fn arch(root: &Root) -> Result<String> {
    let said = root.optional("proc/sys/kernel/arch")?;
    Ok(said.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |text| text.trim().to_owned(),
    ))
}

/// The host's name, made whole as libvirt does: a name without a dot is looked up and the canonical name taken, but
/// none that begins with "localhost". Only `/etc/hosts` is consulted, the name service is not.
///
/// # Errors
/// When the kernel's file cannot be read.
pub fn hostname(root: &Root) -> Result<String> {
    let name = root.text("proc/sys/kernel/hostname")?.trim().to_owned();
    if name.contains('.') || name.starts_with("localhost") {
        return Ok(name);
    }
    let hosts = root.optional("etc/hosts")?.unwrap_or_default();
    let canonical = hosts.lines().find_map(|line| canonical_name(line, &name));
    Ok(canonical
        .filter(|canonical| !canonical.starts_with("localhost"))
        .unwrap_or(name))
}

fn canonical_name(line: &str, name: &str) -> Option<String> {
    let line = line.split('#').next()?;
    let mut names = line.split_whitespace().skip(1).peekable();
    let canonical = (*names.peek()?).to_owned();
    names
        .any(|alias| alias.eq_ignore_ascii_case(name))
        .then_some(canonical)
}

/// The UUID in the firmware's tables. One whose bytes are all alike is none.
///
/// # Errors
/// When the file is there and cannot be read for a reason other than lack of permission.
pub fn smbios_uuid(root: &Root) -> Result<Option<[u8; 16]>> {
    for file in [
        "sys/devices/virtual/dmi/id/product_uuid",
        "sys/class/dmi/id/product_uuid",
    ] {
        if let Some(uuid) = root.optional(file)?.as_deref().and_then(parse_uuid) {
            return Ok(Some(uuid));
        }
    }
    Ok(None)
}

/// The machine id of the installation, which libvirt can be told to use as host UUID.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn machine_id(root: &Root) -> Result<Option<[u8; 16]>> {
    Ok(root.optional("etc/machine-id")?.as_deref().and_then(parse_uuid))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u32> = text
        .trim()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok())
        .collect();
    let uuid: [u8; 16] = bytes.try_into().ok().filter(|_| digits.len() == 32)?;
    uuid.iter().any(|byte| *byte != uuid[0]).then_some(uuid)
}

/// Whether devices can be isolated from each other: the kernel has IOMMU groups.
///
/// # Errors
/// When the directory cannot be read.
pub fn has_iommu(root: &Root) -> Result<bool> {
    Ok(!root.names("sys/kernel/iommu_groups")?.is_empty())
}

/// Whether the kernel offers KVM. Whether it works is for QEMU to say.
pub fn has_kvm(root: &Root) -> bool {
    root.path("dev/kvm").exists()
}

/// The kernel's words for the sleep states it knows ("mem", "disk", "freeze"). A host offers to be suspended only if
/// its session manager agrees.
///
/// # Errors
/// When the kernel's file is there and cannot be read.
pub fn sleep_states(root: &Root) -> Result<Vec<String>> {
    let text = root.optional("sys/power/state")?.unwrap_or_default();
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_of_bytes_all_alike_or_of_another_length_is_none() {
        assert!(parse_uuid("3d1219c7c4c5404aaa1f6d2a48adfda4\n").is_some());
        assert_eq!(
            parse_uuid("03000200-0400-0500-0006-000700080009").unwrap()[..3],
            [3, 0, 2]
        );
        for text in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "ffffffffffffffffffffffffffffffff",
        ] {
            assert_eq!(parse_uuid(text), None, "{text:?}");
        }
        for text in [
            "3d1219c7c4c5404aaa1f6d2a48adfda",
            "Not Settable",
            "3d1219c7c4c5404aaa1f6d2a48adfda4a",
        ] {
            assert_eq!(parse_uuid(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_canonical_name_is_the_first_of_the_line_that_has_the_name() {
        assert_eq!(
            canonical_name("10.0.0.1 a.example.org a # x", "a").unwrap(),
            "a.example.org"
        );
        assert_eq!(canonical_name("10.0.0.1 b.example.org b # a", "a"), None);
        assert_eq!(canonical_name("# 10.0.0.1 a.example.org a", "a"), None);
    }
}

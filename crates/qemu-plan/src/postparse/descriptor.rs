//! What the host says of one firmware, in QEMU's interchange format (`/usr/share/qemu/firmware/*.json`).
//!
//! A descriptor that lacks something, or says what is not known where it matters (its interfaces, device, mode,
//! architectures), is none: it would be chosen for guests that it is not for. Features that are not known are no matter.

use serde_json::Value;

/// One firmware of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    interfaces: Vec<String>,
    pub(super) executable: String,
    pub(super) mapping: Mapping,
    /// Architectures, by QEMU's name, and patterns of machine types.
    targets: Vec<(String, Vec<String>)>,
    features: Vec<String>,
}

/// How a machine gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mapping {
    /// As a flash device.
    Flash {
        /// `raw` or `qcow2`; others can't be used.
        format: String,
        /// Where variables are.
        variables: Variables,
    },
    /// As ROM, in memory.
    Memory,
    /// As a kernel: known, and never chosen.
    Kernel,
}

/// Where a flash's variables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variables {
    /// In a file of the guest's own, which begins as this one of that format.
    Split(String, String),
    /// In the executable: each guest would need a copy of it.
    Combined,
    /// Nowhere.
    Stateless,
}

/// What software may see a firmware as.
const INTERFACES: &[&str] = &["bios", "openfirmware", "uboot", "uefi"];

/// Architectures by QEMU's name and, where it differs, libvirt's.
const ARCHES: &[(&str, &str)] = &[
    ("aarch64", "aarch64"),
    ("alpha", "alpha"),
    ("arm", "armv7l"),
    ("cris", "cris"),
    ("hppa", "hppa"),
    ("i386", "i686"),
    ("loongarch64", "loongarch64"),
    ("m68k", "m68k"),
    ("microblaze", "microblaze"),
    ("microblazeel", "microblazeel"),
    ("mips", "mips"),
    ("mips64", "mips64"),
    ("mips64el", "mips64el"),
    ("mipsel", "mipsel"),
    ("ppc", "ppc"),
    ("ppc64", "ppc64"),
    ("riscv32", "riscv32"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
    ("sh4", "sh4"),
    ("sh4eb", "sh4eb"),
    ("sparc", "sparc"),
    ("sparc64", "sparc64"),
    ("x86_64", "x86_64"),
    ("xtensa", "xtensa"),
    ("xtensaeb", "xtensaeb"),
];

impl Firmware {
    /// Reads a descriptor. `None` when it is none that is understood.
    pub fn parse(json: &str) -> Option<Self> {
        let v: Value = serde_json::from_str(json).ok()?;
        let interfaces = texts(v.get("interface-types")?)?;
        let (executable, mapping) = mapping(v.get("mapping")?)?;
        let targets = v
            .get("targets")?
            .as_array()?
            .iter()
            .map(target)
            .collect::<Option<_>>()?;
        let is_known = interfaces.iter().all(|i| INTERFACES.contains(&i.as_str()));
        is_known.then_some(Self {
            interfaces,
            executable,
            mapping,
            targets,
            features: texts(v.get("features")?)?,
        })
    }

    /// The file that the machine runs.
    pub fn executable(&self) -> &str {
        &self.executable
    }

    /// Whether software sees it as this: `uefi` or `bios`.
    pub fn is(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|i| i == interface)
    }

    /// What software sees it as first.
    pub(super) fn interface(&self) -> Option<&str> {
        self.interfaces.first().map(String::as_str)
    }

    /// Whether it has a feature, by its name in the descriptor.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// Whether it is for guests of this architecture (libvirt's name) and machine type.
    pub fn runs_on(&self, arch: &str, machine: &str) -> bool {
        let name = ARCHES
            .iter()
            .find(|(_, libvirts)| *libvirts == arch)
            .map(|(qemus, _)| *qemus);
        let machines = self
            .targets
            .iter()
            .filter(|(a, _)| Some(a.as_str()) == name)
            .flat_map(|(_, m)| m);
        machines.into_iter().any(|pattern| matches(pattern, machine))
    }
}

fn texts(list: &Value) -> Option<Vec<String>> {
    list.as_array()?
        .iter()
        .map(|t| t.as_str().map(str::to_owned))
        .collect()
}

fn text(v: &Value, key: &str) -> Option<String> {
    v.get(key)?.as_str().map(str::to_owned)
}

fn mapping(v: &Value) -> Option<(String, Mapping)> {
    match v.get("device")?.as_str()? {
        "flash" => {
            let file = v.get("executable")?;
            Some((
                text(file, "filename")?,
                Mapping::Flash {
                    format: text(file, "format")?,
                    variables: variables(v)?,
                },
            ))
        }
        "memory" => Some((text(v, "filename")?, Mapping::Memory)),
        "kernel" => Some((text(v, "filename")?, Mapping::Kernel)),
        _ => None,
    }
}

fn variables(v: &Value) -> Option<Variables> {
    match v.get("mode").map_or(Some("split"), Value::as_str)? {
        "split" => {
            let file = v.get("nvram-template")?;
            Some(Variables::Split(text(file, "filename")?, text(file, "format")?))
        }
        "combined" => Some(Variables::Combined),
        "stateless" => Some(Variables::Stateless),
        _ => None,
    }
}

fn target(v: &Value) -> Option<(String, Vec<String>)> {
    let arch = text(v, "architecture").filter(|arch| ARCHES.iter().any(|(qemus, _)| qemus == arch))?;
    Some((arch, texts(v.get("machines")?)?))
}

/// Whether a pattern fits: `*` is any text, `?` any character. At worst it looks at each pair of characters once.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read, mut star) = (0, 0, None);
    while let Some(c) = name.get(read) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(p) if *p == '?' || p == c => (at, read) = (at + 1, read + 1),
            _ => {
                // The last star takes one more.
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, read) = (after, taken + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_two_wildcards() {
        for pattern in [
            "pc-q35-*",
            "*q35*",
            "pc-q35-10.0",
            "pc-q35-1?.?",
            "*",
            "*-*-*",
            "**0",
            "pc-q35-10.0*",
        ] {
            assert!(matches(pattern, "pc-q35-10.0"), "{pattern}");
        }
        for pattern in [
            "q35",
            "pc-q35-10.0?",
            "",
            "pc-i440fx-*",
            "*q35",
            "pc-q35-1[0-9].0",
            "pc\\-q35*",
        ] {
            assert!(!matches(pattern, "pc-q35-10.0"), "{pattern}");
        }
        assert!(matches("", "") && !matches("?", "") && matches("[", "["));
        assert!(!matches(&"*a".repeat(5000), &"a".repeat(2000)));
    }
}

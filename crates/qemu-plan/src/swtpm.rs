//! Command lines of the TPM emulator: `swtpm_setup`, which makes a TPM's state, and `swtpm`, which a run of the guest has.
//!
//! Word for word what libvirt has, as either daemon takes over what the other one began.

use domxml::devices::tpm::{
    PcrBanks, Tpm, TpmBackend, TpmBackendKind, TpmRemoveDisabled, TpmSourceKind, TpmVersion,
};

use crate::{Area, Code, Error, Result};

/// Cipher of an encrypted state.
const CIPHER: &str = "aes-256-cbc";

/// Where a TPM's state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In a directory; `ours` where the document names none.
    Directory {
        /// The directory.
        path: String,
        /// It lies in the daemon's own place and goes with the directory above it, which is the guest's.
        ours: bool,
    },
    /// In one file or block device that the document names.
    File(String),
}

impl State {
    /// The state of `backend`, for a guest whose own directory is `directory`: `/var/lib/libvirt/swtpm/UUID`.
    #[must_use]
    pub fn of(backend: &TpmBackend, directory: &str) -> Self {
        let source = backend.source.as_ref();
        let kind = source.and_then(|s| s.kind);
        match source.and_then(|s| s.path.clone()) {
            Some(path) if kind == Some(TpmSourceKind::File) => Self::File(path),
            Some(path) => Self::Directory { path, ours: false },
            None => Self::Directory {
                path: format!("{directory}/{}", subdirectory(backend.version)),
                ours: true,
            },
        }
    }

    fn for_setup(&self) -> String {
        match self {
            Self::Directory { path, .. } => path.clone(),
            Self::File(path) => format!("file://{path}"),
        }
    }

    fn for_run(&self) -> String {
        match self {
            Self::Directory { path, .. } => format!("dir={},mode=0600", escape(path)),
            Self::File(path) => format!("backend-uri=file://{},mode=0600", escape(path)),
        }
    }
}

/// What an emulator of a guest's TPM is started with.
#[derive(Clone, Debug)]
pub struct Emulator<'a> {
    /// The document's part.
    pub backend: &'a TpmBackend,
    /// Where its state is.
    pub state: &'a State,
    /// Its log file.
    pub log: &'a str,
}

/// The emulator among a guest's TPMs, which has one at most.
#[must_use]
pub fn emulated(tpms: &[Tpm]) -> Option<(&Tpm, &TpmBackend)> {
    tpms.iter().find_map(|tpm| {
        Some((
            tpm,
            tpm.backend
                .as_ref()
                .filter(|b| b.kind == TpmBackendKind::Emulator)?,
        ))
    })
}

impl Emulator<'_> {
    /// Arguments of `swtpm_setup` to make the state; `vm` is "NAME:UUID", `key` the descriptor that the passphrase is read from.
    ///
    /// # Errors
    /// `swtpm_setup`, whose features those are, can't do what the document asks for.
    pub fn setup(&self, vm: &str, key: Option<i32>, features: &[String]) -> Result<Vec<String>> {
        let mut line = self.version();
        if let Some(key) = key {
            line.extend([
                "--pwdfile-fd".to_owned(),
                key.to_string(),
                "--cipher".to_owned(),
                CIPHER.to_owned(),
            ]);
        }
        line.extend(words(&[
            "--tpm-state",
            &self.state.for_setup(),
            "--vmid",
            vm,
            "--logfile",
            self.log,
        ]));
        line.extend(words(&[
            "--createek",
            "--create-ek-cert",
            "--create-platform-cert",
            "--lock-nvram",
            "--not-overwrite",
        ]));
        line.extend(self.profile(features)?);
        Ok(line)
    }

    /// Arguments of `swtpm_setup` to change which PCR banks are active; none if the document leaves them as they are, or
    /// `swtpm_setup` can't.
    #[must_use]
    pub fn reconfigure(&self, key: Option<i32>, features: &[String]) -> Option<Vec<String>> {
        let banks = self
            .backend
            .active_pcr_banks
            .as_ref()
            .map(bank_names)
            .filter(|names| !names.is_empty())?;
        if !self.is_2() || !features.iter().any(|f| f == "cmdarg-reconfigure-pcr-banks") {
            return None;
        }
        let mut line = self.version();
        if let Some(key) = key {
            line.extend([
                "--pwdfile-fd".to_owned(),
                key.to_string(),
                "--cipher".to_owned(),
                CIPHER.to_owned(),
            ]);
        }
        let state = self.state.for_setup();
        line.extend(words(&[
            "--tpm-state",
            &state,
            "--logfile",
            self.log,
            "--pcr-banks",
            &banks.join(","),
            "--reconfigure",
        ]));
        Some(line)
    }

    /// Arguments of `swtpm` for a run; `keys` are the descriptors of the passphrase, for the state and for migration.
    #[must_use]
    pub fn run(&self, socket: &str, keys: Option<(i32, i32)>) -> Vec<String> {
        let level = self
            .backend
            .debug
            .map(|level| format!(",level={level}"))
            .unwrap_or_default();
        let (control, log) = (control(socket), format!("file={}{level}", escape(self.log)));
        let mut line = words(&[
            "socket",
            "--ctrl",
            &control,
            "--tpmstate",
            &self.state.for_run(),
            "--log",
            &log,
            "--terminate",
        ]);
        line.extend(self.version());
        if let Some((state, migration)) = keys {
            let key = |fd: i32| format!("pwdfd={fd},mode={CIPHER}");
            line.extend(words(&["--key", &key(state), "--migration-key", &key(migration)]));
        }
        line
    }

    fn is_2(&self) -> bool {
        self.backend.version != Some(TpmVersion::V1_2)
    }

    fn version(&self) -> Vec<String> {
        self.is_2().then(|| "--tpm2".to_owned()).into_iter().collect()
    }

    fn profile(&self, features: &[String]) -> Result<Vec<String>> {
        let Some(profile) = &self.backend.profile else {
            return Ok(Vec::new());
        };
        if !features.iter().any(|f| f == "cmdarg-profile") {
            let text = "swtpm_setup has no support for profiles";
            return Err(Error::new(Code::ArgumentUnsupported, Area::None, text));
        }
        let mut line = Vec::new();
        if let Some(source) = &profile.source {
            line.extend(words(&["--profile-name", source]));
        }
        if let Some(remove) = profile.remove_disabled {
            let how = match remove {
                TpmRemoveDisabled::Check => "check",
                TpmRemoveDisabled::FipsHost => "fips-host",
            };
            line.extend(words(&["--profile-remove-disabled", how]));
        }
        Ok(line)
    }
}

/// How the command line of an emulator names its control socket: one of a guest's run, so it tells whose emulator a
/// process is.
#[must_use]
pub fn control(socket: &str) -> String {
    format!("type=unixio,path={},mode=0600", escape(socket))
}

fn subdirectory(version: Option<TpmVersion>) -> &'static str {
    match version {
        Some(TpmVersion::V1_2) => "tpm1.2",
        Some(TpmVersion::V2_0) | None => "tpm2",
    }
}

fn bank_names(banks: &PcrBanks) -> Vec<&'static str> {
    let all = [
        (banks.sha1, "sha1"),
        (banks.sha256, "sha256"),
        (banks.sha384, "sha384"),
        (banks.sha512, "sha512"),
    ];
    all.into_iter()
        .filter(|(active, _)| *active)
        .map(|(_, name)| name)
        .collect()
}

/// A value in a list of options: a comma in it is doubled.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: &[&str] = &["tpm-2.0", "cmdarg-reconfigure-pcr-banks", "cmdarg-profile"];
    const SETUP_END: &str = "--createek --create-ek-cert --create-platform-cert --lock-nvram --not-overwrite";

    /// Lines of setup, reconfiguration and run.
    fn lines(
        attributes: &str,
        content: &str,
        keys: Option<(i32, i32)>,
        features: &[&str],
    ) -> Result<(String, Option<String>, String)> {
        let xml = format!(
            "<domain type='qemu'><name>a</name><devices><tpm model='tpm-crb'><backend type='emulator' {attributes}>{content}</backend>\
             </tpm></devices></domain>"
        );
        let domain = domxml::Domain::parse(&xml, domxml::ParseFlags::INACTIVE).unwrap();
        let (_, backend) = emulated(&domain.devices.tpms).unwrap();
        let state = State::of(backend, "/swtpm/U");
        let emulator = Emulator {
            backend,
            state: &state,
            log: "/log/a.log",
        };
        let features: Vec<String> = words(features);
        let key = keys.map(|(key, _)| key);
        let setup = emulator.setup("a:U", key, &features)?.join(" ");
        Ok((
            setup,
            emulator.reconfigure(key, &features).map(|l| l.join(" ")),
            emulator.run("/run/1-a.sock", keys).join(" "),
        ))
    }

    #[test]
    fn lines_are_libvirts() {
        let control = "socket --ctrl type=unixio,path=/run/1-a.sock,mode=0600 --tpmstate";
        let line = |attributes, content| lines(attributes, content, None, FEATURES).unwrap();
        assert_eq!(
            line("version='2.0'", "<active_pcr_banks><sha384/><sha256/></active_pcr_banks>"),
            (
                format!("--tpm2 --tpm-state /swtpm/U/tpm2 --vmid a:U --logfile /log/a.log {SETUP_END}"),
                Some("--tpm2 --tpm-state /swtpm/U/tpm2 --logfile /log/a.log --pcr-banks sha256,sha384 --reconfigure".to_owned()),
                format!("{control} dir=/swtpm/U/tpm2,mode=0600 --log file=/log/a.log --terminate --tpm2"),
            )
        );
        assert_eq!(
            line("version='1.2' debug='5'", ""),
            (
                format!("--tpm-state /swtpm/U/tpm1.2 --vmid a:U --logfile /log/a.log {SETUP_END}"),
                None,
                format!("{control} dir=/swtpm/U/tpm1.2,mode=0600 --log file=/log/a.log,level=5 --terminate"),
            )
        );
        let (setup, _, run) = line("version='2.0'", "<source type='dir' path='/s,t'/>");
        assert_eq!(
            setup,
            format!("--tpm2 --tpm-state /s,t --vmid a:U --logfile /log/a.log {SETUP_END}")
        );
        assert_eq!(
            run,
            format!("{control} dir=/s,,t,mode=0600 --log file=/log/a.log --terminate --tpm2")
        );
        let (setup, _, run) = line(
            "version='2.0'",
            "<source type='file' path='/s'/><profile source='local:x' removeDisabled='check'/>",
        );
        let profile = "--profile-name local:x --profile-remove-disabled check";
        assert_eq!(
            setup,
            format!("--tpm2 --tpm-state file:///s --vmid a:U --logfile /log/a.log {SETUP_END} {profile}")
        );
        assert_eq!(
            run,
            format!("{control} backend-uri=file:///s,mode=0600 --log file=/log/a.log --terminate --tpm2")
        );
    }

    #[test]
    fn a_secret_is_given_by_descriptor() {
        let banks = "<active_pcr_banks><sha256/></active_pcr_banks>";
        let (setup, reconfigure, run) = lines("version='2.0'", banks, Some((46, 48)), FEATURES).unwrap();
        assert!(
            setup.starts_with("--tpm2 --pwdfile-fd 46 --cipher aes-256-cbc --tpm-state /swtpm/U/tpm2 "),
            "{setup}"
        );
        assert!(
            reconfigure
                .unwrap()
                .starts_with("--tpm2 --pwdfile-fd 46 --cipher aes-256-cbc --tpm-state ")
        );
        assert!(
            run.ends_with(
                " --tpm2 --key pwdfd=46,mode=aes-256-cbc --migration-key pwdfd=48,mode=aes-256-cbc"
            ),
            "{run}"
        );
    }

    #[test]
    fn what_swtpm_setup_does_not_know_is_not_asked_of_it() {
        let banks = "<active_pcr_banks><sha256/></active_pcr_banks>";
        assert_eq!(lines("version='2.0'", banks, None, &[]).unwrap().1, None);
        assert_eq!(lines("version='1.2'", banks, None, FEATURES).unwrap().1, None);
        assert!(lines("version='2.0'", "<profile source='x'/>", None, &[]).is_err());
    }
}

//! The user and group that QEMU and its helpers run as.

use std::{
    ffi::CString,
    fmt, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use domxml::{
    Domain,
    security::{Seclabel, SeclabelType},
};
use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};

use crate::{
    config::QemuConfig,
    error::{Area, Code, Error, Result},
    qemu::RunAs,
};

/// Debian's user and group for TPMs.
pub(crate) const USUAL_TPM_USER: &str = "tss";

/// The driver of owners of files, as documents name it.
pub(crate) const OWNERS: &str = "dac";

/// User and group that QEMU runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Whether the daemon itself can be somebody else.
    pub(crate) privileged: bool,
}

impl Identity {
    /// What qemu.conf says; a daemon without privileges runs QEMU as itself. Who the names mean is looked up once: the
    /// answer may come from another host.
    ///
    /// # Errors
    /// `ConfSyntax` if there is no such user or group.
    pub(crate) fn of(config: &QemuConfig) -> Result<Self> {
        type Found = (String, String, Identity);
        static LAST: Mutex<Option<Found>> = Mutex::new(None);
        let (user, group) = (&config.identity.user, &config.identity.group);
        let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last() {
            Some((u, g, found)) if (u, g) == (user, group) => return Ok(*found),
            _ => {}
        }
        let found = Self::look_up(config)?;
        *last() = Some((user.clone(), group.clone(), found));
        Ok(found)
    }

    fn look_up(config: &QemuConfig) -> Result<Self> {
        let (own_uid, own_gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !own_uid.is_root() {
            return Ok(Self {
                uid: own_uid.as_raw(),
                gid: own_gid.as_raw(),
                privileged: false,
            });
        }
        let uid = number(&config.identity.user, |name| {
            User::from_name(name).ok().flatten().map(|u| u.uid.as_raw())
        });
        let gid = number(&config.identity.group, |name| {
            Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw())
        });
        let missing = |what: &str, name: &str| {
            Error::new(
                Code::ConfSyntax,
                format!("qemu.conf: there is no {what} '{name}'"),
            )
            .in_area(Area::Conf)
        };
        Ok(Self {
            uid: uid.ok_or_else(|| missing("user", &config.identity.user))?,
            gid: gid.ok_or_else(|| missing("group", &config.identity.group))?,
            privileged: true,
        })
    }

    /// Whom a guest's QEMU runs as: the owner that its document's label of owners names, or else whom qemu.conf says.
    ///
    /// # Errors
    /// `InvalidArg` if the label names nobody; as [`Self::of`].
    pub(crate) fn of_guest(config: &QemuConfig, document: &Domain) -> Result<Self> {
        let usual = Self::of(config)?;
        match owner_label(document) {
            Some(Seclabel {
                kind: Some(SeclabelType::Static | SeclabelType::Dynamic),
                label: Some(label),
                ..
            }) if usual.privileged => usual.labelled(label),
            _ => Ok(usual),
        }
    }

    /// Whom a label of owners names.
    ///
    /// # Errors
    /// `InvalidArg` if it names nobody.
    pub(crate) fn labelled(self, label: &str) -> Result<Self> {
        let wrong = |what: &str, text: &str| {
            let said = format!("Failed to parse {what} '{text}'");
            Error::new(Code::InvalidArg, said).in_area(Area::None)
        };
        let (user, group) = label
            .split_once(':')
            .ok_or_else(|| wrong("uid and gid from", label))?;
        let uid = owner(user, |name| {
            User::from_name(name).ok().flatten().map(|u| u.uid.as_raw())
        });
        let gid = owner(group, |name| {
            Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw())
        });
        let plain = |text: &str| text.strip_prefix('+').unwrap_or(text).to_owned();
        Ok(Self {
            uid: uid.ok_or_else(|| wrong("user", &plain(user)))?,
            gid: gid.ok_or_else(|| wrong("group", &plain(group)))?,
            ..self
        })
    }

    /// The label that says the same.
    pub(crate) fn label(self) -> String {
        format!("+{}:+{}", self.uid, self.gid)
    }

    /// Whom emulators of TPMs run as. Where there is no user or group of the usual name, it is root, as with libvirt.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn of_tpms(config: &QemuConfig) -> Result<Self> {
        let helper = &config.swtpm;
        let user = User::from_name(USUAL_TPM_USER).ok().flatten();
        let usual = |name: &str, there: bool| {
            if name == USUAL_TPM_USER && !there {
                String::new()
            } else {
                name.to_owned()
            }
        };
        let group = Group::from_name(USUAL_TPM_USER).ok().flatten();
        let identity = crate::config::Identity {
            user: usual(&helper.user, user.is_some()),
            group: usual(&helper.group, group.is_some()),
            ..config.identity.clone()
        };
        Self::of(&QemuConfig {
            identity,
            ..config.clone()
        })
    }

    /// Whom to become; none if nobody else can be.
    pub(crate) fn run_as(self) -> Option<RunAs> {
        self.privileged.then(|| RunAs {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups(),
        })
    }

    /// Gives a file to it, unless nobody else can be.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        if self.run_as().is_none() {
            return Ok(());
        }
        chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))).map_err(Into::into)
    }

    /// The groups that the host's files say its user is in, the first of them too, and its own.
    fn groups(self) -> Vec<u32> {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        let listed = user.and_then(|user| getgrouplist(&CString::new(user.name).ok()?, user.gid).ok());
        let mut groups: Vec<u32> = listed.unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        if !groups.contains(&self.gid) {
            groups.push(self.gid);
        }
        groups
    }

    /// Whether QEMU has all rights on the host.
    pub(crate) fn is_root(self) -> bool {
        self.privileged && self.uid == 0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid:{}, gid:{}", self.uid, self.gid)
    }
}

/// What a document says of owners: libvirt's driver of them is called "dac".
pub(crate) fn owner_label(document: &Domain) -> Option<&Seclabel> {
    document
        .seclabels
        .iter()
        .find(|label| label.model.as_deref() == Some(OWNERS))
}

/// A name, a number, or "+number" of a label, where nothing is nobody.
fn owner(text: &str, by_name: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    (!text.is_empty()).then(|| number(text, by_name)).flatten()
}

/// A name, a number, or "+number"; an empty one is root.
pub(crate) fn number(text: &str, by_name: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    match text {
        "" => Some(0),
        text => match text.strip_prefix('+') {
            Some(digits) => digits.parse().ok(),
            None => by_name(text).or_else(|| text.parse().ok()),
        },
    }
}

/// Whom QEMU runs as by qemu.conf; none: as the daemon.
///
/// # Errors
/// `ConfSyntax` if there is no such user or group.
pub fn run_as(config: &crate::config::QemuConfig) -> Result<Option<crate::qemu::RunAs>> {
    Ok(Identity::of(config)?.run_as())
}

/// The label of guests that name none: whom QEMU runs as.
///
/// # Errors
/// As [`run_as`].
pub(crate) fn label_of_all(config: &crate::config::QemuConfig) -> Result<String> {
    Identity::of(config).map(Identity::label)
}

/// Whom images are opened as, for messages.
///
/// # Errors
/// As [`run_as`].
pub(crate) fn file_user(config: &crate::config::QemuConfig) -> Result<String> {
    Ok(Identity::of(config)?.to_string())
}

/// Whom a guest's images are opened as, for messages.
///
/// # Errors
/// As [`Identity::of_guest`].
pub(crate) fn file_user_of(config: &crate::config::QemuConfig, document: &Domain) -> Result<String> {
    Ok(Identity::of_guest(config, document)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_its_groups_in_whichever_group_qemu_runs() {
        let identity = Identity {
            uid: 0,
            gid: 12_345,
            privileged: true,
        };
        let run_as = identity.run_as().unwrap();
        assert!(
            run_as.groups.contains(&0) && run_as.groups.contains(&12_345),
            "{run_as:?}"
        );
    }

    #[test]
    fn a_label_names_a_user_and_a_group() {
        let usual = Identity {
            uid: 5,
            gid: 6,
            privileged: true,
        };
        let of = |label: &str| {
            let owner = usual.labelled(label).map(|identity| (identity.uid, identity.gid));
            owner.map_err(|error| (error.code, error.area, error.to_string()))
        };
        assert_eq!(of("+107:+108"), Ok((107, 108)));
        assert_eq!(of("107:108"), Ok((107, 108)));
        assert_eq!(of("root:root"), Ok((0, 0)));
        for (label, said) in [
            ("whoever", "uid and gid from 'whoever'"),
            ("no such user:+1", "user 'no such user'"),
            ("root:no such group", "group 'no such group'"),
            ("+x:+y", "user 'x'"),
            ("+107:", "group ''"),
            (":+107", "user ''"),
            ("+107:+108:+109", "group '108:+109'"),
            ("+99999999999:+1", "user '99999999999'"),
        ] {
            let text = format!("invalid argument: Failed to parse {said}");
            assert_eq!(of(label), Err((Code::InvalidArg, Area::None, text)), "{label}");
        }
    }

    #[test]
    fn a_guest_runs_as_whom_its_label_names() {
        let config = QemuConfig::usual();
        let of = |content: &str| {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{content}</domain>");
            let document = Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            Identity::of_guest(&config, &document).unwrap()
        };
        let Ok(usual) = Identity::of(&config) else { return };
        assert_eq!(of(""), usual);
        assert_eq!(of("<seclabel type='none' model='dac'/>"), usual);
        assert_eq!(
            of("<seclabel type='dynamic' model='dac'><baselabel>+1:+2</baselabel></seclabel>"),
            usual
        );
        let named =
            of("<seclabel type='static' model='dac' relabel='no'><label>+107:+108</label></seclabel>");
        let expected = if usual.privileged {
            (107, 108)
        } else {
            (usual.uid, usual.gid)
        };
        assert_eq!((named.uid, named.gid), expected);
    }

    #[test]
    fn users_are_named_or_numbered() {
        let by_name = |name: &str| (name == "qemu").then_some(64055);
        for (text, uid) in [
            ("", Some(0)),
            ("qemu", Some(64055)),
            ("+5", Some(5)),
            ("7", Some(7)),
            ("nobody-here", None),
            ("+x", None),
        ] {
            assert_eq!(number(text, by_name), uid, "{text}");
        }
    }
}

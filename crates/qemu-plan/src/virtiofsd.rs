//! Command lines of `virtiofsd`, which shares a directory with a guest: word for word what libvirt has, for both
//! generations of the program.

use domxml::devices::common::OnOff;
use domxml::devices::filesystem::{Filesystem, FilesystemBinary, FilesystemDriverKind, IdRange};

use crate::{Error, Result};

/// What a program can do that can share directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// It has an option for each thing, and none for locks.
    pub separate_options: bool,
    /// It is to log in detail.
    pub debug: bool,
}

/// Whether a share is served by a program that the daemon runs.
#[must_use]
pub fn is_run(share: &Filesystem) -> bool {
    let virtiofs = share.driver.as_ref().and_then(|d| d.kind) == Some(FilesystemDriverKind::Virtiofs);
    virtiofs && share.source.as_ref().is_none_or(|source| source.socket.is_none())
}

/// The shared directory.
#[must_use]
pub fn directory(share: &Filesystem) -> &str {
    share
        .source
        .as_ref()
        .and_then(|source| source.dir.as_deref())
        .unwrap_or_default()
}

/// Arguments of the program for a share; `socket` is the descriptor at which it listens.
///
/// # Errors
/// When the program can't do what the document asks for.
pub fn arguments(share: &Filesystem, features: Features, socket: i32) -> Result<Vec<String>> {
    let usual = FilesystemBinary::default();
    let binary = share.binary.as_ref().unwrap_or(&usual);
    let mut line = vec![format!("--fd={socket}")];
    if features.separate_options {
        line.extend(separate(share, binary)?);
    } else {
        line.extend(["-o".to_owned(), joined(share, binary)]);
    }
    line.extend(
        binary
            .thread_pool
            .filter(|size| *size >= 0)
            .map(|size| format!("--thread-pool-size={size}")),
    );
    line.extend(
        binary
            .openfiles
            .filter(|max| *max > 0)
            .map(|max| format!("--rlimit-nofile={max}")),
    );
    line.extend(features.debug.then(|| "-d".to_owned()));
    if let Some(map) = &share.idmap {
        let entry = |what: &'static str| {
            move |range: &IdRange| format!("--{what}-map=:{}:{}:{}:", range.start, range.target, range.count)
        };
        line.extend(map.uids.iter().map(entry("uid")));
        line.extend(map.gids.iter().map(entry("gid")));
    }
    line.extend(share.readonly.then(|| "--readonly".to_owned()));
    Ok(line)
}

fn separate(share: &Filesystem, binary: &FilesystemBinary) -> Result<Vec<String>> {
    if binary
        .lock
        .as_ref()
        .is_some_and(|lock| lock.posix.is_some() || lock.flock.is_some())
    {
        return Err(Error::unsupported(
            "locking options are not supported by this virtiofsd",
        ));
    }
    let mut line = vec!["--shared-dir".to_owned(), directory(share).to_owned()];
    line.extend(
        binary
            .cache
            .into_iter()
            .flat_map(|mode| ["--cache".to_owned(), mode.as_str().to_owned()]),
    );
    line.extend(
        binary
            .sandbox
            .into_iter()
            .flat_map(|mode| ["--sandbox".to_owned(), mode.as_str().to_owned()]),
    );
    line.extend((binary.xattr == Some(OnOff::On)).then(|| "--xattr".to_owned()));
    Ok(line)
}

fn joined(share: &Filesystem, binary: &FilesystemBinary) -> String {
    let switch = |value: Option<OnOff>, name: &str| match value? {
        OnOff::On => Some(name.to_owned()),
        OnOff::Off => Some(format!("no_{name}")),
    };
    let lock = binary.lock.clone().unwrap_or_default();
    let options = [
        Some(format!("source={}", directory(share).replace(',', ",,"))),
        binary.cache.map(|mode| format!("cache={}", mode.as_str())),
        binary.sandbox.map(|mode| format!("sandbox={}", mode.as_str())),
        switch(binary.xattr, "xattr"),
        switch(lock.flock, "flock"),
        switch(lock.posix, "posix_lock"),
    ];
    options.into_iter().flatten().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Filesystem {
        let text = format!(
            "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>{text}</devices></domain>"
        );
        domxml::Domain::parse(&text, domxml::ParseFlags::NONE)
            .unwrap()
            .devices
            .filesystems
            .remove(0)
    }

    const FULL: &str = "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs' queue='512'/><binary path='/x' xattr='on'>\
        <cache mode='always'/><sandbox mode='chroot'/><lock posix='off' flock='on'/><thread_pool size='16'/><openfiles max='333'/></binary>\
        <idmap><uid start='0' target='1000' count='1'/><uid start='1' target='100000' count='65535'/><gid start='0' target='1000' count='1'/>\
        </idmap><source dir='/srv/a,b'/><target dir='tag'/><readonly/></filesystem>";
    const REST: &str = "--thread-pool-size=16 --rlimit-nofile=333 --uid-map=:0:1000:1: --uid-map=:1:100000:65535: --gid-map=:0:1000:1: --readonly";

    #[test]
    fn both_generations_are_told_what_the_document_says() {
        let (old, new) = (
            Features::default(),
            Features {
                separate_options: true,
                debug: false,
            },
        );
        let plain = "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='tag'/></filesystem>";
        let unlocked = FULL.replace("<lock posix='off' flock='on'/>", "");
        let full =
            format!("-o source=/srv/a,,b,cache=always,sandbox=chroot,xattr,flock,no_posix_lock {REST}");
        let separate = format!("--shared-dir /srv/a,b --cache always --sandbox chroot --xattr {REST}");
        for (text, features, line) in [
            (plain, old, "-o source=/srv"),
            (plain, new, "--shared-dir /srv"),
            (FULL, old, &full),
            (&unlocked, new, &separate),
        ] {
            assert_eq!(
                arguments(&share(text), features, 27).unwrap().join(" "),
                format!("--fd=27 {line}")
            );
        }
        let refused = arguments(&share(FULL), new, 27).unwrap_err();
        assert_eq!(
            refused.message,
            "locking options are not supported by this virtiofsd"
        );
    }

    #[test]
    fn a_share_that_somebody_else_serves_is_not_run() {
        let text = "<filesystem type='mount'><driver type='virtiofs'/><source socket='/run/x'/><target dir='tag'/></filesystem>";
        assert!(!is_run(&share(text)) && is_run(&share(FULL)));
        assert!(!is_run(&share(
            "<filesystem type='mount'><source dir='/srv'/><target dir='tag'/></filesystem>"
        )));
    }
}

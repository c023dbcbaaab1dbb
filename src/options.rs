//! The command line: libvirt's options of virtqemud, and the words of its manual page.
//!
//! `main` reads it first of all. `docs/virtqemud.8` is written from the same definitions.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use crate::version;

/// Manage the QEMU guests of this host
///
/// virtqemud starts, watches and stops QEMU guests for its clients. They reach it on Unix sockets, by
/// libvirt's protocol or by gRPC. Guests go on when it ends, and are taken up again when it comes back.
#[derive(Debug, Clone, Parser)]
#[command(name = "virtqemud", disable_version_flag = true, max_term_width = 100)]
pub struct Options {
    /// Go to the background once the sockets are there
    #[arg(short, long)]
    pub daemon: bool,

    /// Read this file instead of the default virtqemud.conf; it must exist
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Note the process number in this file instead of the default one
    #[arg(short, long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Exit after so long without a client and without a running guest; 0 means never
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u32>,

    /// Log information, too, not only warnings and errors
    #[arg(short, long)]
    pub verbose: bool,

    /// Print the version and exit
    #[arg(short = 'V', long)]
    pub version: bool,

    /// Keep every file below this directory, as if it were the root; for tests
    #[arg(long, value_name = "DIR", hide = true)]
    pub root: Option<PathBuf>,

    /// Set for the process in the background: it tells on standard output that it is ready
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// What the command line asks for instead of running the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// Print this and exit with status 0.
    Print(String),
    /// Print this on standard error and exit with status 1, as libvirt's daemons do.
    Refuse(String),
}

impl Options {
    /// Reads the command line, program name first.
    ///
    /// # Errors
    /// When the daemon is not to run: help, version, or options that make no sense.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Instead> {
        let options = Self::try_parse_from(arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp => Instead::Print(error.to_string()),
            _ => Instead::Refuse(format!("virtqemud: {error}")),
        })?;
        if options.version {
            return Err(Instead::Print(format!("{}\n", version::long())));
        }
        Ok(options)
    }

    /// How long the daemon stays without a client and without a running guest.
    #[must_use]
    pub fn idle_limit(&self) -> Option<Duration> {
        self.timeout
            .filter(|seconds| *seconds != 0)
            .map(|s| Duration::from_secs(s.into()))
    }
}

/// Sections of the manual page that follow the options: heading and text, paragraphs parted by empty lines.
pub const MANUAL: &[(&str, &str)] = &[
    (
        "SOCKETS",
        "Where systemd hands sockets over, they are used, and what virtqemud.conf says on sockets has no effect. \
         Otherwise the daemon makes them itself: virtqemud-sock and virtqemud-sock-ro for libvirt's protocol, \
         virtqemud-admin-sock for virt-admin, virtqemud-grpc-sock and virtqemud-grpc-sock-ro for gRPC. \
         A socket whose name ends in -ro serves only what changes nothing.\n\n\
         A second daemon on the same files refuses to start.",
    ),
    (
        "SIGNALS",
        "SIGHUP reads the configuration again. What can change at once changes; the log says what waits for a \
         restart. A file with an error changes nothing.\n\n\
         SIGTERM and SIGINT end the daemon: no client is accepted any more, calls under way have a few seconds \
         to finish, guests are left running. A second signal ends it at once.",
    ),
    (
        "ENVIRONMENT",
        "LIBVIRT_DEBUG, LIBVIRT_LOG_FILTERS and LIBVIRT_LOG_OUTPUTS go before log_level, log_filters and \
         log_outputs of the configuration.\n\n\
         XDG_CONFIG_HOME, XDG_CACHE_HOME and XDG_RUNTIME_DIR place the files of a daemon that does not run as root.",
    ),
    (
        "FILES",
        "As root: /etc/libvirt/virtqemud.conf, /etc/libvirt/qemu.conf, /etc/libvirt/qemu-lockd.conf, sockets in /run/libvirt, process number in \
         /run/virtqemud.pid.\n\n\
         As another user: $XDG_CONFIG_HOME/libvirt/virtqemud.conf, qemu.conf and qemu-lockd.conf, sockets and virtqemud.pid in \
         $XDG_RUNTIME_DIR/libvirt. Without these variables: ~/.config, and ~/.cache for both.",
    ),
    (
        "EXIT STATUS",
        "0 when the daemon ended as it was told to, 1 when it could not start or failed.",
    ),
    ("SEE ALSO", "virsh(1), virt-admin(1), qemu-system(1)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, Instead> {
        Options::read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_have_libvirts_names() {
        let short = read("virtqemud -d -v -t 30 -f /c -p /p").unwrap();
        let long = read("virtqemud --daemon --verbose --timeout 30 --config=/c --pid-file /p").unwrap();
        for options in [short, long] {
            assert!(options.daemon && options.verbose);
            assert_eq!(options.idle_limit(), Some(Duration::from_secs(30)));
            assert_eq!(options.config, Some(PathBuf::from("/c")));
            assert_eq!(options.pid_file, Some(PathBuf::from("/p")));
        }
        assert_eq!(read("virtqemud -t 0").unwrap().idle_limit(), None);
    }

    #[test]
    fn bad_options_are_refused_with_a_reason() {
        let cases = ["--bogus", "extra", "-t abc", "-t -5", "-f"];
        for case in cases {
            match read(&format!("virtqemud {case}")) {
                Err(Instead::Refuse(text)) => {
                    assert!(
                        text.starts_with("virtqemud: ") && text.contains("Usage:") || text.contains("--help"),
                        "{text}"
                    );
                }
                other => panic!("{case}: {other:?}"),
            }
        }
    }

    #[test]
    fn version_begins_as_libvirts() {
        for option in ["-V", "--version"] {
            let Err(Instead::Print(text)) = read(&format!("virtqemud {option}")) else {
                panic!()
            };
            assert_eq!(text.lines().next(), Some("virtqemud (libvirt) 11.3.0"));
        }
    }

    /// `BLESS=1 cargo test` rewrites the page.
    #[test]
    fn manual_page_is_that_of_the_options() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/virtqemud.8");
        let page = manual();
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == page, "{} is stale: run with BLESS=1", path.display());
    }

    fn manual() -> String {
        use clap::CommandFactory;
        use clap_mangen::{
            Man,
            roff::{Roff, roman},
        };

        let man = Man::new(Options::command())
            .section("8")
            .date("")
            .source(format!("virtqemud {}", version::OWN_VERSION))
            .manual("System administration");
        let mut page = Vec::new();
        man.render_title(&mut page).unwrap();
        man.render_name_section(&mut page).unwrap();
        man.render_synopsis_section(&mut page).unwrap();
        man.render_description_section(&mut page).unwrap();
        man.render_options_section(&mut page).unwrap();
        for (title, text) in MANUAL {
            let mut section = Roff::new();
            section.control("SH", [*title]);
            for paragraph in text.split("\n\n") {
                section.control("PP", []);
                section.text([roman(paragraph)]);
            }
            section.to_writer(&mut page).unwrap();
        }
        String::from_utf8(page).unwrap()
    }
}

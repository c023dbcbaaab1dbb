//! Places that messages go to, opened.
//!
//! Writing never fails for the caller and never waits for a reader: sockets are non-blocking, and a
//! message that a full log does not take is dropped.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;

use super::layer::Message;
use super::plan::Target;

/// Where the journal takes messages with fields.
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where the system log takes messages.
pub(super) const SYSLOG: &str = "/dev/log";
/// "daemon" among syslog's facilities, shifted to its place.
const FACILITY: u8 = 3 << 3;
/// Longest message for a datagram; longer ones are cut.
const MAX_DATAGRAM: usize = 32 * 1024;

/// An open place.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    File(File),
    Syslog { socket: UnixDatagram, name: String },
    Journald(UnixDatagram),
}

impl Sink {
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Stderr => Ok(Self::Stderr),
            // A pipe without a reader is refused, and a full one takes nothing: neither holds the daemon up.
            Target::File(path) => File::options()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(path)
                .map(Self::File),
            Target::Syslog(name) => Ok(Self::Syslog {
                socket: socket()?,
                name: name.clone(),
            }),
            Target::Journald => socket().map(Self::Journald),
        }
    }

    pub(super) fn write(&self, message: &Message) {
        let _ = match self {
            Self::Stderr => io::stderr().write_all(message.line().as_bytes()),
            Self::File(file) => (&*file).write_all(message.line().as_bytes()),
            Self::Syslog { socket, name } => {
                let priority = FACILITY | message.priority.severity();
                let text = format!("<{priority}>{name}[{}]: {}", std::process::id(), message.text());
                send(socket, text.as_bytes(), SYSLOG)
            }
            Self::Journald(socket) => send(socket, &journal_fields(message), JOURNAL),
        };
    }
}

/// A socket that is connected to nobody: who takes the messages may start later, and again.
fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send(socket: &UnixDatagram, bytes: &[u8], to: &str) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(MAX_DATAGRAM)];
    socket.send_to(bytes, to).map(drop)
}

/// The journal's own format: `NAME=value` lines, or a length before a value that has lines of its own.
fn journal_fields(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut field = |name: &str, value: &str| {
        let value = &value.as_bytes()[..value.len().min(MAX_DATAGRAM / 4)];
        bytes.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    };
    field("PRIORITY", &message.priority.severity().to_string());
    field("SYSLOG_IDENTIFIER", "virtqemud");
    field("LIBVIRT_SOURCE", message.module);
    if let Some(line) = message.code_line {
        field("CODE_FILE", message.code_file.unwrap_or_default());
        field("CODE_LINE", &line.to_string());
    }
    field("MESSAGE", &message.text());
    for (name, value) in &message.fields {
        field(&format!("VIRTQEMUD_{}", journal_name(name)), value);
    }
    bytes
}

fn journal_name(name: &str) -> String {
    let valid = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().map(valid).take(50).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Priority;
    use super::*;

    #[test]
    fn the_journal_gets_fields_of_their_own() {
        let message = Message {
            priority: Priority::Warning,
            module: "virtqemud::x",
            code_file: Some("src/x.rs"),
            code_line: Some(7),
            message: "odd".to_owned(),
            fields: vec![("domain.name", "demo".to_owned()), ("text", "a\nb".to_owned())],
        };
        let bytes = journal_fields(&message);
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("PRIORITY=4\nSYSLOG_IDENTIFIER=virtqemud\n"),
            "{text}"
        );
        assert!(text.contains("\nVIRTQEMUD_DOMAIN_NAME=demo\n"), "{text}");
        let tail = b"VIRTQEMUD_TEXT\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert!(bytes.ends_with(tail), "{text}");
    }
}

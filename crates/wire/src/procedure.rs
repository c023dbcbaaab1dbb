//! What is known of a procedure, and the macros its tables are written in.
//!
//! A procedure's arguments are a struct of its name, so that `DomainCreate { dom }` is both the call
//! and its payload; its reply, where it has one, is a struct of its own.

use crate::log::LogDomain;
use crate::remote::{NonnullDomain, NonnullDomainCheckpoint, NonnullDomainSnapshot};
use crate::xdr::{DecodeError, Reader, Text, TooLong, Xdr};
use crate::{ErrorCode, ErrorDomain, WireError};

/// A procedure as a type: what it takes, and what it returns.
pub trait Procedure: Xdr + Send + 'static {
    /// The payload of its reply; `()` when that is empty.
    type Reply: Xdr + Send + 'static;

    /// What is known of it.
    const INFO: ProcedureInfo;

    /// Whether `flags` is among its arguments.
    const TAKES_FLAGS: bool;

    /// Name, as the call has it, of the guest that the call is about.
    fn guest(&self) -> Option<&Text> {
        None
    }

    /// Whether a read-only connection may not make this very call, by a flag in its arguments.
    fn needs_write(&self) -> bool {
        false
    }
}

/// What names a guest.
pub trait OfGuest {
    /// The guest's name, if one is named.
    fn guest(&self) -> Option<&Text>;
}

impl OfGuest for NonnullDomain {
    fn guest(&self) -> Option<&Text> {
        Some(&self.name)
    }
}

impl OfGuest for LogDomain {
    fn guest(&self) -> Option<&Text> {
        Some(&self.name)
    }
}

impl OfGuest for Option<NonnullDomain> {
    fn guest(&self) -> Option<&Text> {
        self.as_ref().map(|dom| &dom.name)
    }
}

impl OfGuest for NonnullDomainSnapshot {
    fn guest(&self) -> Option<&Text> {
        Some(&self.dom.name)
    }
}

impl OfGuest for NonnullDomainCheckpoint {
    fn guest(&self) -> Option<&Text> {
        Some(&self.dom.name)
    }
}

/// A program: the procedures of one number space, numbered from 1 without a gap.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// Its only version.
    pub version: u32,
    /// What it has, by number.
    pub procedures: &'static [ProcedureInfo],
}

impl Program {
    /// The procedure of `number`.
    #[must_use]
    pub fn procedure(&self, number: i32) -> Option<&'static ProcedureInfo> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.procedures.get(index)
    }
}

/// What is known of one procedure.
#[derive(Debug, Clone, Copy)]
pub struct ProcedureInfo {
    /// Number within its program.
    pub number: i32,
    /// Number of its program.
    pub program: u32,
    /// Name, as its type has it.
    pub name: &'static str,
    /// The function of libvirt's API it stands for, as errors name it.
    pub api: &'static str,
    /// Whether it may wait for others.
    pub priority: Priority,
    /// A client's call, or the server's event.
    pub kind: Kind,
    /// Who serves it where each driver is a daemon of its own.
    pub owner: Owner,
    /// Read-only connections may call it, unless [`Procedure::needs_write`] says no.
    pub read_only: bool,
    /// Allowed before the client has authenticated.
    pub before_auth: bool,
    /// The stream it opens.
    pub stream: Option<Stream>,
    /// Descriptors come with the call.
    pub fds_in: bool,
    /// Descriptors go with the reply.
    pub fds_out: bool,
    /// Whether these arguments need more than read-only access; an error when they are no arguments.
    pub needs_write: fn(&[u8]) -> Result<bool, DecodeError>,
    /// Reads its arguments and writes them again.
    pub recode_args: Recode,
    /// Reads its reply and writes it again.
    pub recode_reply: Recode,
}

/// Reads a payload and appends it again, as written by us.
pub type Recode = fn(&[u8], &mut Vec<u8>) -> Result<(), RecodeError>;

/// Why a payload could not be read or written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecodeError {
    /// It is no such payload.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What was read cannot be written.
    #[error(transparent)]
    Encode(#[from] TooLong),
}

/// Whether a call may be held up by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// May wait for a guest.
    Low,
    /// Never waits for a guest.
    High,
}

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client calls, the server replies.
    Call,
    /// The server tells; there is no reply.
    Event,
}

/// Which daemon serves a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The daemon's own connection handling.
    Daemon,
    /// virtqemud.
    Qemu,
    /// virtnetworkd.
    Network,
    /// virtstoraged.
    Storage,
    /// virtnodedevd.
    Nodedev,
    /// virtinterfaced.
    Interface,
    /// virtnwfilterd.
    Nwfilter,
    /// virtsecretd.
    Secret,
    /// No daemon that comes with QEMU.
    Nobody,
}

/// Direction of a stream that a procedure opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// From server to client.
    Download,
    /// From client to server.
    Upload,
    /// Both ways.
    Console,
}

macro_rules! words {
    ($( $word:ident => $field:ident = $value:expr; )*) => {
        /// The words of the tables: each sets one property.
        #[allow(missing_docs, reason = "each word is the property it sets")]
        impl ProcedureInfo {
            $( #[must_use] pub const fn $word(mut self) -> Self { self.$field = $value; self } )*
        }
    };
}

words! {
    daemon => owner = Owner::Daemon;
    qemu => owner = Owner::Qemu;
    network => owner = Owner::Network;
    storage => owner = Owner::Storage;
    nodedev => owner = Owner::Nodedev;
    interface => owner = Owner::Interface;
    nwfilter => owner = Owner::Nwfilter;
    secret => owner = Owner::Secret;
    nobody => owner = Owner::Nobody;
    event => kind = Kind::Event;
    ro => read_only = true;
    preauth => before_auth = true;
    download => stream = Some(Stream::Download);
    upload => stream = Some(Stream::Upload);
    console => stream = Some(Stream::Console);
    fds_in => fds_in = true;
    fds_out => fds_out = true;
}

impl ProcedureInfo {
    /// A procedure without any word said about it.
    #[must_use]
    pub const fn new<P: Procedure>(program: u32, number: i32, name: &'static str) -> Self {
        Self {
            number,
            program,
            name,
            api: "",
            priority: Priority::Low,
            kind: Kind::Call,
            owner: Owner::Daemon,
            read_only: false,
            before_auth: false,
            stream: None,
            fds_in: false,
            fds_out: false,
            needs_write: needs_write::<P>,
            recode_args: recode::<P>,
            recode_reply: recode::<P::Reply>,
        }
    }

    /// Sets its priority.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the name of its API function.
    #[must_use]
    pub const fn api(mut self, api: &'static str) -> Self {
        self.api = api;
        self
    }
}

/// What errors about the procedure itself say.
impl ProcedureInfo {
    /// The part of libvirt that such errors come from.
    #[must_use]
    pub fn area(&self) -> ErrorDomain {
        match (self.program, self.owner) {
            (crate::admin::PROGRAM_NUMBER, _) => ErrorDomain::ADMIN,
            (crate::qemu::PROGRAM_NUMBER | crate::lxc::PROGRAM_NUMBER, _) => ErrorDomain::NONE,
            (_, Owner::Network) => ErrorDomain::NETWORK,
            (_, Owner::Storage) => ErrorDomain::STORAGE,
            (_, Owner::Nodedev) => ErrorDomain::NODEDEV,
            (_, Owner::Interface) => ErrorDomain::INTERFACE,
            (_, Owner::Nwfilter) => ErrorDomain::NWFILTER,
            (_, Owner::Secret) => ErrorDomain::SECRET,
            _ if self.name.contains("Snapshot") => ErrorDomain::DOMAIN_SNAPSHOT,
            _ if self.name.contains("Checkpoint") => ErrorDomain::DOMAIN_CHECKPOINT,
            _ => ErrorDomain::DOMAIN,
        }
    }

    /// The function of libvirt's daemon that dispatches its calls, as messages name it.
    #[must_use]
    pub fn dispatcher(&self) -> String {
        let program = match self.program {
            crate::admin::PROGRAM_NUMBER => "admin",
            crate::qemu::PROGRAM_NUMBER => "qemu",
            crate::lxc::PROGRAM_NUMBER => "lxc",
            _ => "remote",
        };
        format!("{program}Dispatch{}", self.name)
    }

    /// The refusal of the call on a read-only connection.
    #[must_use]
    pub fn denied(&self) -> WireError {
        let detail = if self.read_only && self.api.ends_with("XMLDesc") {
            format!("{} with secure flag", self.api)
        } else {
            format!("read only access prevents {}", self.api)
        };
        WireError::new(ErrorCode::OPERATION_DENIED, self.area(), &detail)
    }

    /// The refusal of a call that nobody serves.
    #[must_use]
    pub fn unsupported(&self) -> WireError {
        WireError::new(ErrorCode::NO_SUPPORT, self.area(), self.api)
    }
}

fn needs_write<P: Procedure>(args: &[u8]) -> Result<bool, DecodeError> {
    P::decode(&mut Reader::new(args)).map(|args| args.needs_write())
}

fn recode<T: Xdr>(payload: &[u8], out: &mut Vec<u8>) -> Result<(), RecodeError> {
    T::decode(&mut Reader::new(payload))?.encode(out)?;
    Ok(())
}

/// Declares the bounds of a program's lists.
#[macro_export]
macro_rules! limits {
    ($( $name:ident = $value:literal; )*) => { $( pub const $name: usize = $value; )* };
}

/// Declares a program, a line a procedure:
///
/// `number priority Name "its API function" { arguments } -> NameRet { reply } [words] unless field & mask;`
///
/// The API function is `virName` when left out. `unless` names the flags that a read-only connection may
/// not use. The words are the methods of [`ProcedureInfo`].
#[macro_export]
macro_rules! procedures {
    (
        $program:ident = $program_number:literal, version $version:literal;
        $(
            $number:literal $priority:ident $name:ident $($api:literal)?
            { $( $field:ident : $ty:ty ),* }
            $( -> $ret:ident { $( $ret_field:ident : $ret_ty:ty ),* } )?
            [ $( $word:ident )* ]
            $( unless $flags:ident & $mask:literal )? ;
        )*
    ) => {
        $(
            $crate::xdr_struct! {
                #[doc = concat!("Arguments of procedure ", $number, ".")]
                $name { $( $field: $ty ),* }
            }
            $( $crate::xdr_struct! {
                #[doc = concat!("Reply of procedure ", $number, ".")]
                $ret { $( $ret_field: $ret_ty ),* }
            } )?
            impl $crate::procedure::Procedure for $name {
                type Reply = $crate::or_unit!($($ret)?);
                const INFO: $crate::procedure::ProcedureInfo =
                    $crate::procedure::ProcedureInfo::new::<$name>($program_number, $number, stringify!($name))
                        .priority($crate::procedure::Priority::$priority)
                        .api($crate::or_first!($($api,)? concat!("vir", stringify!($name))))
                        $( .$word() )*;
                const TAKES_FLAGS: bool = $crate::has_flags!($($field)*);
                fn guest(&self) -> Option<&$crate::xdr::Text> {
                    $crate::guest_of!(self, $($field)*)
                }
                $( fn needs_write(&self) -> bool { self.$flags & $mask != 0 } )?
            }
        )*
        /// Number of the program.
        pub const PROGRAM_NUMBER: u32 = $program_number;
        #[doc = concat!("The ", stringify!($program), " program.")]
        pub const PROGRAM: $crate::procedure::Program = $crate::procedure::Program {
            name: stringify!($program),
            number: $program_number,
            version: $version,
            procedures: &[ $( <$name as $crate::procedure::Procedure>::INFO, )* ],
        };
    };
}

/// Whether `flags` is among the names.
#[doc(hidden)]
#[macro_export]
macro_rules! has_flags {
    () => {
        false
    };
    (flags $($rest:ident)*) => {
        true
    };
    ($first:ident $($rest:ident)*) => {
        $crate::has_flags!($($rest)*)
    };
}

/// The name of the guest that the first field which has to do with one is about.
#[doc(hidden)]
#[macro_export]
macro_rules! guest_of {
    ($args:ident,) => {
        None
    };
    ($args:ident, dom $($rest:ident)*) => {
        $crate::procedure::OfGuest::guest(&$args.dom)
    };
    ($args:ident, snap $($rest:ident)*) => {
        $crate::procedure::OfGuest::guest(&$args.snap)
    };
    ($args:ident, snapshot $($rest:ident)*) => {
        $crate::procedure::OfGuest::guest(&$args.snapshot)
    };
    ($args:ident, checkpoint $($rest:ident)*) => {
        $crate::procedure::OfGuest::guest(&$args.checkpoint)
    };
    ($args:ident, $first:ident $($rest:ident)*) => {
        $crate::guest_of!($args, $($rest)*)
    };
}

/// The type given, or `()`.
#[doc(hidden)]
#[macro_export]
macro_rules! or_unit {
    () => {
        ()
    };
    ($ty:ty) => {
        $ty
    };
}

/// The first expression given.
#[doc(hidden)]
#[macro_export]
macro_rules! or_first {
    ($first:expr $(, $rest:expr)? $(,)?) => {
        $first
    };
}

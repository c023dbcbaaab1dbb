//! The program that asks whether the other side still lives: a ping is answered by a pong, before
//! anything else is allowed and whatever else goes on.

use crate::frame::{Header, PacketType, Status};

/// Number of the program.
pub const PROGRAM: u32 = 0x6b65_6570;

/// What a keepalive packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

impl Keepalive {
    /// What `header` says, where it is a keepalive packet that means something.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        if header.program != PROGRAM || header.version != 1 || header.r#type != PacketType::MESSAGE {
            return None;
        }
        match header.procedure {
            1 => Some(Self::Ping),
            2 => Some(Self::Pong),
            _ => None,
        }
    }

    /// The header that says it; there is no payload.
    #[must_use]
    pub fn header(self) -> Header {
        Header {
            program: PROGRAM,
            version: 1,
            procedure: match self {
                Self::Ping => 1,
                Self::Pong => 2,
            },
            r#type: PacketType::MESSAGE,
            serial: 0,
            status: Status::OK,
        }
    }
}

//! `<cookie>` of a saved guest's image and of a snapshot: what the document does not say and the next run must know.

use xmlform::{FormatFlags, ParseFlags, Rest, Writer, Xml};

use crate::Error;
use crate::cpu::Cpu;
use crate::parse::read_root;

/// The cookie of an image or a snapshot.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct SaveCookie {
    /// The CPU as QEMU had it.
    #[xml(child)]
    pub cpu: Option<Cpu>,
    /// User networks go along: there is none of QEMU's own.
    #[xml(flag = "slirpHelper")]
    pub slirp_helper: bool,
    /// Elements of another daemon.
    #[xml(rest)]
    pub rest: Rest,
}

impl SaveCookie {
    /// Reads a cookie.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<cookie>`, or a value is not of its type.
    pub fn parse(text: &str) -> Result<Self, Error> {
        read_root(text, "cookie", ParseFlags::NONE)
    }

    /// The cookie's text.
    #[must_use]
    pub fn format(&self) -> String {
        let mut w = Writer::new(FormatFlags::NONE);
        w.element("cookie", self);
        w.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_of_libvirts_is_read_and_written_alike() {
        let text = "<cookie>\n  <cpu mode='custom' match='exact' check='full'>\n    \
                    <model fallback='forbid'>qemu64</model>\n    <feature policy='require' name='hypervisor'/>\n  \
                    </cpu>\n  <slirpHelper/>\n</cookie>\n";
        let cookie = SaveCookie::parse(text).unwrap();
        assert!(cookie.slirp_helper && cookie.cpu.is_some());
        assert_eq!(cookie.format(), text);
    }
}

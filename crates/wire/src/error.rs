//! The error that a reply or a stream carries instead of a result.

use crate::codes::{ErrorCode, ErrorDomain, ErrorLevel};
use crate::remote::{NonnullDomain, NonnullNetwork};
use crate::xdr::Text;
use crate::xdr_struct;

xdr_struct! {
    /// An error as libvirt sends it. `dom`, `net` and `str3` are empty in practice.
    WireError {
        /// What went wrong.
        code: ErrorCode,
        /// Which part it comes from.
        domain: ErrorDomain,
        /// The whole message, for people.
        message: Option<Text>,
        /// How bad it is.
        level: ErrorLevel,
        /// The domain it is about.
        dom: Option<NonnullDomain>,
        /// The code's words, `%1$s` standing for the detail.
        str1: Option<Text>,
        /// The detail.
        str2: Option<Text>,
        /// More detail.
        str3: Option<Text>,
        /// The system's error number where there is one, else -1, or 0 for a refused argument.
        int1: i32,
        /// -1, or 0 for a refused argument.
        int2: i32,
        /// The network it is about.
        net: Option<NonnullNetwork>,
    }
}

impl WireError {
    /// An error whose `detail` follows the words that belong to `code`.
    #[must_use]
    pub fn new(code: ErrorCode, domain: ErrorDomain, detail: &str) -> Self {
        let words = code.words();
        Self {
            code,
            domain,
            message: Some(words.replacen("{}", detail, 1).into()),
            level: ErrorLevel::ERROR,
            str1: Some(if words == "{}" {
                "%s".into()
            } else {
                words.replacen("{}", "%1$s", 1).into()
            }),
            str2: Some(detail.into()),
            int1: -1,
            int2: -1,
            ..Self::default()
        }
    }

    /// An error of the protocol itself: its message has no words of the code before it.
    #[must_use]
    pub fn rpc(message: &str) -> Self {
        Self::new(ErrorCode::RPC, ErrorDomain::RPC, message)
    }

    /// An error about an argument libvirt's API layer refuses; it carries zeros where others carry -1.
    #[must_use]
    pub fn with_ints(mut self, int1: i32, int2: i32) -> Self {
        (self.int1, self.int2) = (int1, int2);
        self
    }

    /// Replaces the whole message, where it is not the code's words and the detail.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        self.message = Some(message.into());
        self
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.message {
            Some(message) => f.write_str(&message.to_str()),
            None => write!(f, "error {:?}", self.code),
        }
    }
}

impl std::error::Error for WireError {}

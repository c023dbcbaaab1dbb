//! The head of a saved guest's image: libvirt's format, read and written as bytes.
//!
//! ```text
//!   header (92 bytes) │ document, NUL │ cookie, NUL │ room for a longer document │ QEMU's stream
//!                      ╰───────────────────── `data_len` ──────────────────────╯
//! ```
//!
//! Used by whoever saves, restores or looks into an image. What is read here may be anybody's: nothing is believed before
//! it is checked, and [`Damage`] says what is wrong in libvirt's words.

use std::fmt;

/// Bytes of the header.
pub const HEADER_LEN: usize = 92;
/// Bytes that a document may grow by after the image was written.
pub const ROOM: usize = 64 << 10;
/// Most bytes between header and stream that are believed.
pub const DATA_MAX: u32 = 32 << 20;

const COMPLETE: &[u8; 16] = b"LibvirtQemudSave";
const INCOMPLETE: &[u8; 16] = b"LibvirtQemudPart";
const VERSION: u32 = 2;

macro_rules! formats {
    ($($name:ident = $number:literal $word:literal $program:expr;)*) => {
        /// How the stream is stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is the format of its name")]
        pub enum ImageFormat { $($name = $number,)* }

        impl ImageFormat {
            /// Every format, by its number in an image.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// libvirt's word for it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
            /// The program that compresses, and with `-dc` decompresses it.
            #[must_use]
            pub fn program(self) -> Option<&'static str> {
                match self { $(Self::$name => $program,)* }
            }
        }
    };
}

formats! {
    Raw = 0 "raw" None;
    Gzip = 1 "gzip" Some("gzip");
    Bzip2 = 2 "bzip2" Some("bzip2");
    Xz = 3 "xz" Some("xz");
    Lzop = 4 "lzop" Some("lzop");
    Zstd = 5 "zstd" Some("zstd");
    Sparse = 6 "sparse" None;
}

impl ImageFormat {
    /// The format of a word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.word() == word)
    }

    /// What the program is told to decompress.
    #[must_use]
    pub fn decompress(self) -> &'static [&'static str] {
        match self {
            // It takes a stream for damaged that ends with no mark of its end.
            Self::Lzop => &["-dc", "--ignore-warn"],
            _ => &["-dc"],
        }
    }
}

/// What is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It ends before its header does.
    NoHeader,
    /// It was not written to its end.
    Incomplete,
    /// It is no image of a saved guest.
    Foreign,
    /// Of a newer version.
    Version(u32),
    /// In a format that is not known.
    Format(u32),
    /// No document can have this length.
    Length(u32),
    /// It ends before its document does.
    NoDocument,
    /// Its cookie is cut off.
    NoCookie,
}

impl Damage {
    /// Whether nothing of a saved guest can be had from it.
    #[must_use]
    pub fn is_no_image(self) -> bool {
        matches!(self, Self::NoHeader | Self::Incomplete | Self::Foreign)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("failed to read qemu header"),
            Self::Incomplete => f.write_str("save image is incomplete"),
            Self::Foreign => f.write_str("image magic is incorrect"),
            Self::Version(version) => {
                write!(
                    f,
                    "image version is not supported ({} > {VERSION})",
                    version.cast_signed()
                )
            }
            Self::Format(format) => write!(f, "unsupported save image format: {}", format.cast_signed()),
            Self::Length(length) => write!(f, "invalid header data length: {}", length.cast_signed()),
            Self::NoDocument => f.write_str("failed to read domain XML"),
            Self::NoCookie => f.write_str("failed to read cookie"),
        }
    }
}

/// The header of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    version: u32,
    /// Bytes between the header and the stream.
    pub data_len: u32,
    /// The guest's CPUs are to run once it is restored.
    pub runs: bool,
    /// How the stream is stored.
    pub format: ImageFormat,
    /// Where the cookie begins after the header; 0: there is none.
    cookie: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let bytes: &[u8; HEADER_LEN] = bytes
            .get(..HEADER_LEN)
            .and_then(|head| head.try_into().ok())
            .ok_or(Damage::NoHeader)?;
        let (magic, rest) = bytes.split_at(COMPLETE.len());
        if magic == INCOMPLETE {
            return Err(Damage::Incomplete);
        }
        if magic != COMPLETE {
            return Err(Damage::Foreign);
        }
        let word = |at: usize| {
            let bytes = rest.get(at * 4..at * 4 + 4).and_then(|word| word.try_into().ok());
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        // An image of a host with the other order of bytes.
        let swapped = word(0) > VERSION;
        let word = |at: usize| if swapped { word(at).swap_bytes() } else { word(at) };
        let [version, data_len, runs, format, cookie] = std::array::from_fn(word);
        if version > VERSION {
            return Err(Damage::Version(version));
        }
        let format = ImageFormat::ALL
            .get(format as usize)
            .copied()
            .ok_or(Damage::Format(format))?;
        if data_len == 0 || data_len > DATA_MAX {
            return Err(Damage::Length(data_len));
        }
        Ok(Self {
            version,
            data_len,
            runs: runs != 0,
            format: if version == VERSION {
                format
            } else {
                ImageFormat::Raw
            },
            cookie,
        })
    }

    /// The header's bytes; of an image that is not `complete`, the mark of one.
    #[must_use]
    pub fn encode(&self, complete: bool) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (magic, rest) = bytes.split_at_mut(COMPLETE.len());
        magic.copy_from_slice(if complete { COMPLETE } else { INCOMPLETE });
        let words = [
            self.version,
            self.data_len,
            u32::from(self.runs),
            self.format as u32,
            self.cookie,
        ];
        for (place, word) in rest.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Where the stream begins.
    #[must_use]
    pub fn stream_at(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.data_len)
    }

    /// The document and the cookie in what follows the header.
    ///
    /// # Errors
    /// It is cut off, or is no text.
    pub fn texts(&self, data: &[u8]) -> Result<Texts, Damage> {
        let data = data.get(..self.data_len as usize).ok_or(Damage::NoDocument)?;
        let cookie_at = self.cookie as usize;
        if cookie_at >= data.len() {
            return Err(Damage::NoCookie);
        }
        let end = if cookie_at == 0 { data.len() } else { cookie_at };
        let document = text(&data[..end]).ok_or(Damage::NoDocument)?;
        let cookie = match cookie_at {
            0 => None,
            at => Some(text(&data[at..]).ok_or(Damage::NoCookie)?),
        };
        Ok(Texts { document, cookie })
    }
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// What is written between header and stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The guest's document.
    pub document: String,
    /// What else is known of the guest.
    pub cookie: Option<String>,
}

impl Texts {
    /// The head of a new image: header and data, with room for a longer document.
    #[must_use]
    pub fn compose(&self, runs: bool, format: ImageFormat) -> (Header, Vec<u8>) {
        let (cookie, mut data) = self.join();
        data.resize(data.len() + ROOM, 0);
        let header = Header {
            version: VERSION,
            data_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            runs,
            format,
            cookie,
        };
        (header, data)
    }

    /// The same for an image that is there: its stream stays where it is. `None` if they are too long for that.
    #[must_use]
    pub fn recompose(&self, header: Header, runs: bool) -> Option<(Header, Vec<u8>)> {
        let (cookie, mut data) = self.join();
        let room = header.data_len as usize;
        if data.len() > room {
            return None;
        }
        data.resize(room, 0);
        Some((
            Header {
                runs,
                cookie,
                ..header
            },
            data,
        ))
    }

    fn join(&self) -> (u32, Vec<u8>) {
        let mut data = self.document.clone().into_bytes();
        data.push(0);
        let Some(cookie) = &self.cookie else {
            return (0, data);
        };
        let at = u32::try_from(data.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(cookie.as_bytes());
        data.push(0);
        (at, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        Texts {
            document: "<domain/>\n".to_owned(),
            cookie: Some("<cookie/>\n".to_owned()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for format in ImageFormat::ALL {
            for texts in [
                texts(),
                Texts {
                    cookie: None,
                    ..texts()
                },
            ] {
                let (header, data) = texts.compose(true, *format);
                assert_eq!(Header::decode(&header.encode(true)), Ok(header));
                assert_eq!(Header::decode(&header.encode(false)), Err(Damage::Incomplete));
                assert_eq!(header.texts(&data), Ok(texts));
                assert_eq!(header.stream_at(), (HEADER_LEN + data.len()) as u64);
            }
        }
    }

    #[test]
    fn a_longer_document_takes_the_room_that_was_left() {
        let (header, data) = texts().compose(false, ImageFormat::Raw);
        let longer = |more: usize| Texts {
            document: "x".repeat(texts().document.len() + more),
            ..texts()
        };
        let (changed, written) = longer(ROOM).recompose(header, true).expect("it fits");
        assert_eq!((written.len(), changed.runs), (data.len(), true));
        assert_eq!(changed.texts(&written), Ok(longer(ROOM)));
        assert_eq!(longer(ROOM + 1).recompose(header, true), None);
    }

    #[test]
    fn damage_is_told_in_libvirts_order_and_words() {
        let (header, data) = texts().compose(true, ImageFormat::Raw);
        let with = |at: usize, value: u32| {
            let mut bytes = header.encode(true);
            bytes[16 + at * 4..20 + at * 4].copy_from_slice(&value.to_ne_bytes());
            Header::decode(&bytes).map_err(|damage| damage.to_string())
        };
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(
            with(0, 3),
            refused("image version is not supported (50331648 > 2)")
        );
        assert_eq!(with(3, 9), refused("unsupported save image format: 9"));
        assert_eq!(with(1, 0), refused("invalid header data length: 0"));
        assert_eq!(with(1, u32::MAX), refused("invalid header data length: -1"));
        assert!(with(2, 7).is_ok_and(|header| header.runs));
        let foreign = Header::decode(&[b'x'; HEADER_LEN]);
        assert_eq!(foreign, Err(Damage::Foreign));
        assert_eq!(Header::decode(b"Libvirt"), Err(Damage::NoHeader));
        assert_eq!(header.texts(&data[1..]), Err(Damage::NoDocument));
        let cookie = with(4, header.data_len).expect("the header itself is right");
        assert_eq!(cookie.texts(&data), Err(Damage::NoCookie));
    }

    #[test]
    fn an_image_of_a_host_with_the_other_order_of_bytes_is_read() {
        let (header, _) = texts().compose(true, ImageFormat::Zstd);
        let mut bytes = header.encode(true);
        bytes[16..36].chunks_exact_mut(4).for_each(<[u8]>::reverse);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        use proptest::prelude::*;
        proptest!(|(tail in prop::collection::vec(any::<u8>(), 0..200))| {
            let mut bytes = COMPLETE.to_vec();
            bytes.extend_from_slice(&tail);
            if let Ok(header) = Header::decode(&bytes) {
                let _ = header.texts(bytes.get(HEADER_LEN..).unwrap_or_default());
            }
        });
    }
}

//! Lets in gRPC clients that name the socket's path as the request's authority.
//!
//! gRPC libraries of some years (and grpcurl built with them) send the path of a Unix socket as `:authority`; those on
//! gRPC's C core (Python, C++, Ruby, PHP) send it percent-encoded. Neither is an authority by RFC 3986, and the HTTP/2
//! library resets such streams. Nothing here looks at the authority, so what can't
//! be one is replaced before that library sees it, by a name that is not longer: then the header compression's tables of
//! both sides go on agreeing (entries are numbered from the newest, and a shorter entry drops nothing early).
//!
//! Only the client's own HEADERS frames are looked at, and only as far as that one field.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection begins with.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Longer HEADERS frames are passed on as they are; the HTTP/2 library refuses what it does not want.
const LOOKED_AT: usize = 16 << 10;
/// Index of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// Its name, for clients that send it: as it is, and in Huffman code.
const AUTHORITY_NAMES: [&[u8]; 2] = [b":authority", &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f]];
/// What stands in its place.
const NAME: &[u8] = b"localhost";
/// Bytes read at once.
const CHUNK: usize = 8 << 10;

/// A connection whose requests have an authority that is one.
pub(super) struct Lenient<S> {
    inner: S,
    /// Read and not looked at yet.
    raw: BytesMut,
    /// Looked at.
    ready: BytesMut,
    /// Bytes that pass without a look: the rest of the preface or of a frame.
    pass: usize,
}

impl<S> Lenient<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            raw: BytesMut::new(),
            ready: BytesMut::new(),
            pass: PREFACE,
        }
    }

    /// Moves what can be moved from `raw` to `ready`.
    fn look(&mut self) {
        loop {
            let passing = self.pass.min(self.raw.len());
            if passing > 0 {
                self.ready.unsplit(self.raw.split_to(passing));
                self.pass -= passing;
            }
            if self.pass > 0 || self.raw.len() < FRAME_HEAD {
                return;
            }
            let length =
                usize::from(self.raw[0]) << 16 | usize::from(self.raw[1]) << 8 | usize::from(self.raw[2]);
            if self.raw[3] != HEADERS || length > LOOKED_AT {
                self.pass = FRAME_HEAD + length;
                continue;
            }
            if self.raw.len() < FRAME_HEAD + length {
                return;
            }
            let frame = self.raw.split_to(FRAME_HEAD + length);
            match mended(&frame) {
                Some(mended) => self.ready.extend_from_slice(&mended),
                None => self.ready.unsplit(frame),
            }
        }
    }
}

/// The HEADERS frame with another authority; none if it has one that is good, or is not understood.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let (flags, body) = (frame[4], &frame[FRAME_HEAD..]);
    let mut at = 0;
    let mut end = body.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*body.first()?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let (start, stop) = authority(body.get(..end)?, at)?;
    let value = &body[start..stop];
    let name = &NAME[..NAME.len().min(string_length(value)?.max(1))];
    if !is_no_authority(value) {
        return None;
    }
    let mut new_body = body[..start].to_vec();
    new_body.push(u8::try_from(name.len()).ok()?);
    new_body.extend_from_slice(name);
    new_body.extend_from_slice(&body[stop..]);
    let mut mended = u32::try_from(new_body.len()).ok()?.to_be_bytes()[1..].to_vec();
    mended.extend_from_slice(&frame[3..FRAME_HEAD]);
    mended.extend_from_slice(&new_body);
    Some(mended)
}

/// Where in a header block the value of `:authority` stands as a literal, length included.
fn authority(block: &[u8], mut at: usize) -> Option<(usize, usize)> {
    while at < block.len() {
        let first = block[at];
        let bits = match first {
            0x80.. => {
                at = integer(block, at, 7)?.1;
                continue;
            }
            0x40..=0x7f => 6,
            0x20..=0x3f => {
                at = integer(block, at, 5)?.1;
                continue;
            }
            _ => 4,
        };
        let (index, mut value) = integer(block, at, bits)?;
        let mut is_authority = index == AUTHORITY;
        if index == 0 {
            let name = value;
            value = string_end(block, name)?;
            is_authority = is_named_authority(&block[name..value]);
        }
        at = string_end(block, value)?;
        if is_authority {
            return Some((value, at));
        }
    }
    None
}

/// Whether the HPACK string, length included, is the name of the field.
fn is_named_authority(name: &[u8]) -> bool {
    let Some((_, start)) = integer(name, 0, 7) else {
        return false;
    };
    let coded = usize::from(name[0] & 0x80 != 0);
    name[start..] == *AUTHORITY_NAMES[coded]
}

/// An HPACK integer with a prefix of `bits`, and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut at = at + 1;
    if value < most {
        return Some((value, at));
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value = value.checked_add((byte & 0x7f) << shift)?;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// Where the HPACK string at `at` ends.
fn string_end(block: &[u8], at: usize) -> Option<usize> {
    let (length, start) = integer(block, at, 7)?;
    start.checked_add(length).filter(|end| *end <= block.len())
}

/// Bytes of an HPACK string as sent. A Huffman string of printable text has at least as many characters times two
/// thirds, and a path far more than our name.
fn string_length(value: &[u8]) -> Option<usize> {
    integer(value, 0, 7).map(|(length, _)| length)
}

/// Whether the string, length included, is no authority: it has a slash or a percent sign. In Huffman code both are six
/// bits; to look for them the string is decoded as far as the short codes go, which are all that paths are made of.
fn is_no_authority(value: &[u8]) -> bool {
    let Some((length, start)) = integer(value, 0, 7) else {
        return false;
    };
    let Some(text) = value.get(start..start + length) else {
        return false;
    };
    match value[0] & 0x80 != 0 {
        true => huffman_has_slash(text),
        false => text.iter().any(|b| matches!(b, b'/' | b'%' | b'@')),
    }
}

/// HPACK's Huffman codes of up to eight bits by length: first code, and the characters in order.
const SHORT_CODES: &[(u32, u32, &[u8])] = &[
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
];

/// Whether a Huffman string has a slash or a percent sign before anything that short codes can't say.
fn huffman_has_slash(text: &[u8]) -> bool {
    let (mut code, mut length) = (0_u32, 0_u32);
    for bit in text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |shift| u32::from(byte >> shift & 1)))
    {
        (code, length) = (code << 1 | bit, length + 1);
        if length > 8 {
            return false;
        }
        let Some((_, first, characters)) = SHORT_CODES.iter().find(|(l, ..)| *l == length) else {
            continue;
        };
        let character = code.checked_sub(*first).and_then(|i| characters.get(i as usize));
        match character {
            Some(b'/' | b'%') => return true,
            Some(_) => (code, length) = (0, 0),
            None => {}
        }
    }
    false
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // The end: what is left is half a frame, which is the HTTP/2 library's to complain of.
                let rest = this.raw.split();
                this.ready.unsplit(rest);
                break;
            }
            this.raw.extend_from_slice(read.filled());
            this.look();
        }
        let count = this.ready.len().min(buf.remaining());
        buf.put_slice(&this.ready[..count]);
        this.ready.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(block: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(block.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([HEADERS, 0x4, 0, 0, 0, 1]);
        frame.extend(block);
        frame
    }

    fn literal(value: &[u8]) -> Vec<u8> {
        // :method POST, then :authority with indexing, then :scheme http.
        let mut block = vec![0x83, 0x41, u8::try_from(value.len()).unwrap()];
        block.extend(value);
        block.push(0x86);
        block
    }

    async fn through(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(64);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            for piece in bytes.chunks(pieces) {
                client.write_all(piece).await.unwrap();
            }
        });
        let mut out = Vec::new();
        Lenient::new(server).read_to_end(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn a_path_is_replaced_and_an_authority_is_not() {
        let preface = [b'P'; PREFACE];
        for (sent, seen) in [
            ("/run/libvirt/virtqemud-grpc-sock", "localhost"),
            ("localhost", "localhost"),
            ("a:80", "a:80"),
            ("/x", "lo"),
        ] {
            let sent = [
                &preface[..],
                &frame(&literal(sent.as_bytes())),
                b"\0\0\x02\0\0\0\0\0\x01hi",
            ]
            .concat();
            let expected = [
                &preface[..],
                &frame(&literal(seen.as_bytes())),
                b"\0\0\x02\0\0\0\0\0\x01hi",
            ]
            .concat();
            for pieces in [1, 7, 4096] {
                assert_eq!(through(&sent, pieces).await, expected);
            }
        }
    }

    #[tokio::test]
    async fn the_field_may_come_with_its_name() {
        // As gRPC's C core sends it: a literal with a new name, the path percent-encoded.
        let named = |name: &[u8], coded: u8, value: &[u8]| {
            let mut block = vec![0x83, 0x40, u8::try_from(name.len()).unwrap() | coded];
            block.extend(name);
            block.push(u8::try_from(value.len()).unwrap());
            block.extend(value);
            block.push(0x86);
            [&[b'P'; PREFACE][..], &frame(&block)].concat()
        };
        for (name, coded) in AUTHORITY_NAMES.into_iter().zip([0, 0x80]) {
            let sent = named(name, coded, b"run%2Flibvirt%2Fvirtqemud-grpc-sock");
            assert_eq!(through(&sent, 5).await, named(name, coded, b"localhost"));
        }
        let other = named(b":authoritx", 0, b"a%2F");
        assert_eq!(through(&other, 5).await, other);
    }

    #[test]
    fn a_path_in_huffman_code_is_found() {
        // "/tmp" is 011000 01001 101001 101011, then ones.
        assert!(huffman_has_slash(&[0b0110_0001, 0b0011_0100, 0b1101_0111]));
        // "www.example.com" of RFC 7541, C.4.1.
        assert!(!huffman_has_slash(&[
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
        ]));
    }

    proptest! {
        #[test]
        fn whatever_comes_passes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let out = runtime.block_on(through(&bytes, 13));
            prop_assert!(out.len() <= bytes.len());
        }
    }
}

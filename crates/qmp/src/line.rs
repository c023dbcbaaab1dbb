//! Bytes to lines, within a bound: QEMU ends every message with CR LF and writes none over two lines.

/// Longest line in bytes. The longest reply known, `query-qmp-schema`, has 240 KB; libvirt bears 10 MiB.
pub const MAX_LINE: usize = 10 << 20;

/// A line exceeded its bound: what follows cannot be understood any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {0} bytes")]
pub struct TooLong(pub usize);

/// Takes bytes as they come and gives whole lines.
#[derive(Debug)]
pub struct LineDecoder {
    buffer: Vec<u8>,
    /// Up to here no line end was found: no byte is looked at twice.
    searched: usize,
    bound: usize,
}

impl Default for LineDecoder {
    fn default() -> Self {
        Self::with_bound(MAX_LINE)
    }
}

impl LineDecoder {
    /// A decoder of lines of up to `bound` bytes, the line end not counted.
    #[must_use]
    pub fn with_bound(bound: usize) -> Self {
        Self {
            buffer: Vec::new(),
            searched: 0,
            bound,
        }
    }

    /// Adds what was read. Call [`next_line`](Self::next_line) until it gives none before the next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end; blank ones are left out, and what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// [`TooLong`]; the decoder is of no use after that.
    pub fn next_line(&mut self) -> Result<Option<String>, TooLong> {
        loop {
            let Some(length) = self.find_end() else {
                // A CR may still be followed by its LF.
                let too_long = self.buffer.len() > self.bound + 1;
                return if too_long {
                    Err(TooLong(self.bound))
                } else {
                    Ok(None)
                };
            };
            let line = self.take(length);
            if line.len() > self.bound {
                return Err(TooLong(self.bound));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(to_text(line)));
            }
        }
    }

    fn find_end(&mut self) -> Option<usize> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n');
        let end = found.map(|at| self.searched + at);
        self.searched = end.unwrap_or(self.buffer.len());
        end
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        line
    }
}

fn to_text(line: Vec<u8>) -> String {
    String::from_utf8(line).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]], bound: usize) -> Result<Vec<String>, TooLong> {
        let (mut decoder, mut lines) = (LineDecoder::with_bound(bound), Vec::new());
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(line) = decoder.next_line()? {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    #[test]
    fn lines_end_in_lf_or_cr_lf_and_blank_ones_are_left_out() {
        let chunks: &[&[u8]] = &[
            b"{\"a\":1}\r\n{\"b\"",
            b":2}\n\r\n  \n",
            b"tail",
            b"\r",
            b"\nrest",
        ];
        assert_eq!(decode(chunks, 99).unwrap(), ["{\"a\":1}", "{\"b\":2}", "tail"]);
        assert_eq!(decode(&[b"\xff\n"], 99).unwrap(), ["\u{fffd}"]);
    }

    #[test]
    fn the_bound_is_exact_whether_or_not_the_line_ends() {
        assert_eq!(decode(&[b"1234\r\n"], 4).unwrap(), ["1234"]);
        assert_eq!(decode(&[b"12345\n"], 4), Err(TooLong(4)));
        assert_eq!(decode(&[b"123456"], 4), Err(TooLong(4)));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_were_cut(
            lines in prop::collection::vec("[a-z{}\"]{1,20}", 0..10),
            cuts in prop::collection::vec(1_usize..9, 0..40),
        ) {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let (mut rest, mut chunks) = (&bytes[..], Vec::new());
            for cut in cuts {
                let (chunk, other) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = other;
            }
            chunks.push(rest);
            prop_assert_eq!(decode(&chunks, 20).unwrap(), lines);
        }

        #[test]
        fn any_bytes_decode_without_panic(chunks in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            for line in decode(&chunks, 64).unwrap_or_default() {
                let _any = crate::parse(line);
            }
        }
    }
}

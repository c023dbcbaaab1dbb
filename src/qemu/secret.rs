//! Secrets on their way to QEMU: encrypted with a key that only this run has.
//!
//! The key lies in a file that QEMU reads; what is on the command line or goes over the monitor is of no use without it.
//! QEMU takes AES-256 in CBC mode, with the padding of PKCS #7, in base64. Key and values are overwritten after use.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aes::{
    Aes256,
    cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use qemu_plan::command::Secret;

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a block.
const BLOCK: usize = 16;

/// The key of one run.
pub struct MasterKey([u8; KEY]);

impl MasterKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new() -> io::Result<Self> {
        random().map(Self)
    }

    /// The key of a run that another daemon may have begun, from the file that QEMU read. Blocks on the file.
    ///
    /// # Errors
    /// It can't be read, or is no key.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut key = Self([0; KEY]);
        File::open(path)?.read_exact(&mut key.0)?;
        Ok(key)
    }

    /// The bytes, for the file that QEMU reads.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Encrypts a value.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn encrypt(&self, value: &[u8]) -> io::Result<Secret> {
        let start = random()?;
        Ok(Secret {
            data: STANDARD.encode(self.chain(start, value)),
            iv: STANDARD.encode(start),
        })
    }

    fn chain(&self, start: [u8; BLOCK], value: &[u8]) -> Vec<u8> {
        let cipher = Aes256::new(GenericArray::from_slice(&self.0));
        let padding = BLOCK - value.len() % BLOCK;
        let mut data = Vec::with_capacity(value.len() + padding);
        data.extend_from_slice(value);
        data.resize(value.len() + padding, padding as u8);
        let mut before = start;
        for block in data.chunks_exact_mut(BLOCK) {
            block
                .iter_mut()
                .zip(before)
                .for_each(|(byte, other)| *byte ^= other);
            cipher.encrypt_block(GenericArray::from_mut_slice(block));
            before.copy_from_slice(block);
        }
        data
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// NIST SP 800-38A, F.2.5.
    #[test]
    fn blocks_are_chained_as_the_standard_says() {
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key = MasterKey(key.try_into().unwrap());
        let start = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let data = key.chain(start, &plain);
        assert_eq!(
            data[..32],
            hex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d")
        );
        // What fills whole blocks is padded by one more.
        assert_eq!(
            (
                data.len(),
                key.chain(start, b"").len(),
                key.chain(start, b"0123456").len()
            ),
            (48, 16, 16)
        );
    }

    #[test]
    fn no_two_are_alike() {
        let key = MasterKey::new().unwrap();
        assert_ne!(key.encrypt(b"secret").unwrap(), key.encrypt(b"secret").unwrap());
    }
}

//! Secrets: their values, for QEMU and for nobody else.

use std::fmt;

use uuid::Uuid;
use wire::remote::{NonnullSecret, SecretGetValue, SecretLookupByUsage, SecretLookupByUuid};

use super::{Connection, wire_uuid};
use crate::error::{Error, Result};

/// What a secret may be used for, by libvirt's number.
// table
const USES: &[(&str, i32)] = &[("volume", 1), ("ceph", 2), ("iscsi", 3), ("tls", 4), ("vtpm", 5)];

/// A connection to the secrets.
pub struct Secrets(pub(super) Connection);

/// A secret's value. It shows itself to nobody, and is overwritten when it is dropped.
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.fill(0);
        // The bytes are gone before the memory is somebody else's, whatever the compiler thinks of it.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

impl Secrets {
    /// The value of the secret with that UUID.
    ///
    /// # Errors
    /// `NoSecret`, also for one that has no value.
    pub async fn by_uuid(&mut self, uuid: Uuid) -> Result<SecretValue> {
        let secret = self
            .0
            .call(&SecretLookupByUuid {
                uuid: wire_uuid(uuid),
            })
            .await?
            .secret;
        self.value(secret).await
    }

    /// The value of the secret for that use, such as "ceph" and the name of a pool.
    ///
    /// # Errors
    /// As [`Self::by_uuid`].
    pub async fn by_usage(&mut self, kind: &str, name: &str) -> Result<SecretValue> {
        let number = USES
            .iter()
            .find(|(known, _)| *known == kind)
            .map(|(_, number)| *number);
        let usage_type = number.ok_or_else(|| Error::argument(format!("'{kind}' is no use of a secret")))?;
        let secret = self
            .0
            .call(&SecretLookupByUsage {
                usage_type,
                usage_id: name.into(),
            })
            .await?
            .secret;
        self.value(secret).await
    }

    async fn value(&mut self, secret: NonnullSecret) -> Result<SecretValue> {
        let value = self
            .0
            .call_secret(&SecretGetValue { secret, flags: 0 })
            .await?
            .value;
        Ok(SecretValue(value.into_vec()))
    }
}

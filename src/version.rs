//! Versions that the daemon tells.
//!
//! Clients ask for the version of the libvirt API and decide by it what they may call; the daemon's own
//! version is for people.

/// Level of libvirt's API that the daemon answers to clients.
pub const API_VERSION: &str = "11.3.0";
/// The same as libvirt counts: major * 1,000,000 + minor * 1,000 + release.
pub const API_VERSION_NUMBER: u64 = 11_003_000;
/// Version of this program.
pub const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints: the first line as libvirt's daemons print it, then our own version.
#[must_use]
pub fn long() -> String {
    format!("virtqemud (libvirt) {API_VERSION}\nnative implementation {OWN_VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_api_version_agree() {
        let parts: Vec<u64> = API_VERSION.split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(
            parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2],
            API_VERSION_NUMBER
        );
    }
}

//! Addresses of networks and cards as people write them, and as they are kept.

use std::net::{IpAddr, Ipv4Addr};

/// A numeric address: of IPv6, or of IPv4 also in fewer than four parts, the last of which has the rest of its bits,
/// each decimal, octal or hexadecimal.
#[must_use]
pub fn numeric_address(s: &str) -> Option<IpAddr> {
    if let Ok(address) = s.parse() {
        return Some(address);
    }
    let parts: Vec<u64> = s.split('.').map(part).collect::<Option<_>>()?;
    let (last, firsts) = parts.split_last()?;
    let bits = 32_u32.checked_sub(8 * u32::try_from(firsts.len()).ok()?)?;
    if bits == 0 || *last >> bits != 0 || firsts.iter().any(|part| *part > 0xff) {
        return None;
    }
    let leading = firsts.iter().zip([24, 16, 8]).map(|(part, shift)| part << shift);
    let whole = u32::try_from(leading.sum::<u64>() + last).ok()?;
    Some(IpAddr::V4(Ipv4Addr::from_bits(whole)))
}

fn part(s: &str) -> Option<u64> {
    if !s.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    crate::number::integer(s, 0).and_then(|n| u64::try_from(n).ok())
}

/// The octets of a card's address: six groups of one or two hexadecimal digits. Blanks may follow.
#[must_use]
pub fn mac_octets(mac: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut groups = mac.trim_end_matches(|c: char| c <= ' ').split(':');
    for octet in &mut octets {
        let group = groups.next()?;
        let fits = matches!(group.len(), 1 | 2) && group.bytes().all(|b| b.is_ascii_hexdigit());
        *octet = fits.then(|| u8::from_str_radix(group, 16).ok())??;
    }
    groups.next().is_none().then_some(octets)
}

/// A card's address as it is kept: two lower-case digits an octet.
#[must_use]
pub fn format_mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        for (text, address) in [
            ("10.0.2.1", Some("10.0.2.1")),
            ("127.1", Some("127.0.0.1")),
            ("1.5", Some("1.0.0.5")),
            ("0x7f000001", Some("127.0.0.1")),
            ("10.010.1", Some("10.8.0.1")),
            ("fe80::1", Some("fe80::1")),
            ("1.2.3.4.5", None),
            ("256.1", None),
            ("1.16777216", None),
            ("host", None),
            ("", None),
        ] {
            let read = numeric_address(text).map(|address| address.to_string());
            assert_eq!(read.as_deref(), address, "{text}");
        }
    }

    #[test]
    fn a_cards_address_is_kept_with_two_digits_an_octet() {
        for (text, address) in [
            ("52:54:0:A:2:3", Some("52:54:00:0a:02:03")),
            ("52:54:00:01:02:03 ", Some("52:54:00:01:02:03")),
            ("52:54:00:01:02", None),
            ("52:54:00:01:02:03:04", None),
            ("52:54:00:01:02:zz", None),
            ("525400010203", None),
        ] {
            assert_eq!(mac_octets(text).map(format_mac).as_deref(), address, "{text}");
        }
    }
}

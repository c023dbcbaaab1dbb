//! What a virtual function of a network card is to its card: address and VLAN, which hold whatever its user does.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage as Request,
    link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoMac, VfInfoVlan},
};

use crate::{
    links::link_index,
    netlink::{ask, carry_out},
};

/// Address and VLAN of a virtual function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Its address; all zero if its card chooses none.
    pub mac: [u8; 6],
    /// Its VLAN; 0 for none.
    pub vlan: u16,
}

/// What a card has set for one of its functions.
///
/// # Errors
/// There is no such card, or it has no such function.
pub fn function_config(card: &str, number: u32) -> io::Result<FunctionConfig> {
    let mut message = LinkMessage::default();
    message.header.index = link_index(card)?;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Vf])];
    let Some(Request::NewLink(found)) = ask(Request::GetLink(message), 0)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let functions = found
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::VfInfoList(functions) => Some(functions),
            _ => None,
        });
    let read = |LinkVfInfo(values): LinkVfInfo| read(number, &values);
    let config = functions.unwrap_or_default().into_iter().find_map(read);
    config.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What is said of a function, if it is the one of this number.
fn read(number: u32, values: &[VfInfo]) -> Option<FunctionConfig> {
    let mut config = None;
    for value in values {
        match value {
            VfInfo::Mac(mac) if mac.vf_id == number => {
                let config: &mut FunctionConfig = config.get_or_insert_default();
                config.mac.copy_from_slice(mac.mac.get(..6)?);
            }
            VfInfo::Vlan(vlan) if vlan.vf_id == number => {
                config.get_or_insert_default().vlan = u16::try_from(vlan.vlan_id).ok()?;
            }
            _ => {}
        }
    }
    config
}

/// Has a card set address and VLAN of one of its functions.
///
/// # Errors
/// The card's driver refuses, or there is no such card or function.
pub fn configure_function(card: &str, number: u32, config: FunctionConfig) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = link_index(card)?;
    let values = vec![
        VfInfo::Mac(VfInfoMac::new(number, &config.mac)),
        VfInfo::Vlan(VfInfoVlan::new(number, u32::from(config.vlan), 0)),
    ];
    message.attributes = vec![LinkAttribute::VfInfoList(vec![LinkVfInfo(values)])];
    carry_out(Request::SetLink(message), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_another_function_is_not_taken_for_it() {
        let values = |number| {
            vec![
                VfInfo::Mac(VfInfoMac::new(number, &[0x52, 0x54, 0, 1, 2, 3])),
                VfInfo::Vlan(VfInfoVlan::new(number, 42, 0)),
            ]
        };
        let expected = FunctionConfig {
            mac: [0x52, 0x54, 0, 1, 2, 3],
            vlan: 42,
        };
        assert_eq!(read(1, &values(1)), Some(expected));
        assert_eq!(read(1, &values(0)), None);
    }

    #[test]
    fn a_link_without_functions_is_told() {
        assert!(function_config("lo", 0).is_err());
        assert!(configure_function("no such link", 0, FunctionConfig::default()).is_err());
    }
}

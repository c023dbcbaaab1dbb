//! `<interface>`: the card, its plug, and what belongs to the plug.
// table: one line a rule, in the order in which libvirt reads

use std::net::IpAddr;

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::info::ROM_INFO;
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, given, maybe, named, number, of, on, text, word, yes,
};
use super::storage::{RECONNECT, VIRTIO};
use crate::devices as model;
use crate::inet::{mac_octets, numeric_address};
use crate::number::integer;
use crate::{Error, Kind};
use Rule::{Check, Child, Each, If, Merged, Part};

/// `<interface>`.
pub(super) const INTERFACE: Rules = &[
    word("type", model::InterfaceKind::WORDS),
    yes("trustGuestRxFilters"),
    Merged(
        "model",
        &[maybe(
            "type",
            Form::Like(|name| {
                name.chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            }),
            domain("invalid argument: Model name contains invalid characters"),
        )],
    ),
    Check(has_source),
    If(
        When::Is("type", &["network"]),
        &[Child("source", &[attr("network", Form::Any).needed()])],
    ),
    If(When::Is("type", &["vds"]), &[Child("source", VDS)]),
    If(
        When::Is("type", &["internal"]),
        &[Child("source", &[attr("name", Form::Any).needed()])],
    ),
    If(
        When::Is("type", &["bridge"]),
        &[Child("source", &[attr("bridge", Form::Any).needed()])],
    ),
    If(
        When::Is("type", &["direct"]),
        &[Child(
            "source",
            &[
                attr("dev", Form::Any).needed(),
                word("mode", model::MacvtapMode::WORDS),
            ],
        )],
    ),
    If(When::Is("type", &["vhostuser"]), &[Child("source", VHOST_USER)]),
    If(
        When::Is("type", &["vdpa"]),
        &[Child("source", &[attr("dev", Form::Any).needed()])],
    ),
    If(
        When::Is("type", &["client", "server", "mcast", "udp"]),
        &[Child("source", SOCKET)],
    ),
    Child(
        "source",
        &[
            Each("ip", IP),
            Each(
                "route",
                &[Part(ROUTE), Check(|node| route(node, "interface host IP"))],
            ),
        ],
    ),
    If(When::Is("type", &["hostdev"]), super::hostdevs::OF_INTERFACE),
    If(PORTED, &[Child("virtualport", VIRTUALPORT)]),
    Check(
        |node| match PORTED.holds(node) || node.child("virtualport").is_none() {
            true => Ok(()),
            false => {
                let said =
                    "unsupported configuration: <virtualport> element unsupported for <interface type='{}'>";
                Err(domain(said).of(node.attr("type").unwrap_or("user")))
            }
        },
    ),
    Child("target", &[yes("managed")]),
    Child("bandwidth", BANDWIDTH),
    Child("vlan", VLAN),
    Child("mac", MAC),
    Part(ROM_INFO),
    Each("ip", IP),
    Each(
        "route",
        &[Part(ROUTE), Check(|node| route(node, "guest interface"))],
    ),
    Each("portForward", PORT_FORWARD),
    If(When::Case(is_virtio), &[Child("driver", DRIVER)]),
    Child("driver", VIRTIO),
    Child("backend", &[word("type", model::NetBackendKind::WORDS)]),
    Merged(
        "link",
        &[maybe(
            "state",
            Form::Word(&["up", "down"]),
            domain("unsupported configuration: unknown interface link state '{}'"),
        )],
    ),
    Child("teaming", TEAMING),
    Merged(
        "tune",
        &[text(
            "sndbuf",
            Form::U64(10),
            domain("XML error: sndbuf must be a positive integer"),
        )],
    ),
    Merged(
        "mtu",
        &[maybe(
            "size",
            Form::U32(10),
            domain("XML error: malformed mtu size"),
        )],
    ),
    Child("coalesce", &[Child("rx", &[Child("frames", COALESCE)])]),
    Child("port", &[yes("isolated")]),
];

const PORTED: When = When::Is("type", &["network", "bridge", "direct", "hostdev"]);

fn is_virtio(node: Node<'_>) -> bool {
    let name = node
        .child("model")
        .and_then(|m| m.attr("type"))
        .unwrap_or_default();
    let virtio = model::VirtioModel::WORDS
        .iter()
        .any(|word| word.eq_ignore_ascii_case(name));
    virtio && node.attr("type") != Some("hostdev")
}

/// Plugs that must say what they are in.
const NEED_SOURCE: &[&str] = &[
    "network", "vds", "internal", "bridge", "direct", "vdpa", "client", "server", "mcast", "udp",
];

fn has_source(node: Node<'_>) -> Checked {
    let kind = node.attr("type").unwrap_or("user");
    match NEED_SOURCE.contains(&kind) && node.child("source").is_none() {
        true => Err(domain("XML error: interface type='{}' requires a 'source' element").of(kind)),
        false => Ok(()),
    }
}

const VDS: Rules = &[
    attr("switchid", Form::Uuid).needed(),
    attr("portid", Form::I64(0)),
    attr("connectionid", Form::I64(0)),
];

const VHOST_USER: Rules = &[
    given(
        "type",
        Form::Word(&["unix"]),
        domain("unsupported configuration: Type='{}' unsupported for <interface type='vhostuser'>"),
    ),
    word("mode", &["client", "server"]),
    Child("reconnect", RECONNECT),
];

const SOCKET: Rules = &[
    If(
        When::Case(|node| node.parent().and_then(|p| p.attr("type")) != Some("server")),
        &[attr("address", Form::Any).needed()],
    ),
    attr("port", Form::I32(10)).needed(),
    If(
        When::Case(|node| node.parent().and_then(|p| p.attr("type")) == Some("udp")),
        &[Rule::Need(
            "local",
            domain("XML error: '<local>' element missing for 'udp' socket interface"),
            &[
                attr("address", Form::Any).needed(),
                attr("port", Form::I32(10)).needed(),
            ],
        )],
    ),
];

/// Whether it is a numeric address of a family; of any when none is named.
fn is_address(address: &str, family: Option<&str>) -> bool {
    match (numeric_address(address), family) {
        (Some(address), Some("ipv4")) => address.is_ipv4(),
        (Some(address), Some("ipv6")) => address.is_ipv6(),
        (address, _) => address.is_some(),
    }
}

const IP: Rules = &[Check(ip)];

fn ip(node: Node<'_>) -> Checked {
    let Some(address) = node.attr("address") else {
        return Err(domain("XML error: Missing required address in <ip>").of(""));
    };
    let family = node.attr("family");
    if !is_address(address, family) {
        return Err(domain("XML error: Invalid address '{}' in <ip>").of(address));
    }
    let bits = if is_address(address, Some("ipv6")) {
        128
    } else {
        32
    };
    if let Some(prefix) = node.attr("prefix") {
        let fits = Form::U32(10).check(prefix).is_ok() && unsigned(Some(prefix), 10) <= bits;
        if !fits {
            return Err(domain("XML error: Invalid prefix value '{}' in <ip>").of(prefix));
        }
    }
    match node.attr("peer") {
        Some(peer) if !is_address(peer, family) => {
            Err(domain("invalid argument: Invalid peer '{}' in <ip>").of(peer))
        }
        _ => Ok(()),
    }
}

/// The numbers of a route.
pub(super) const ROUTE: Rules = &[number("prefix"), number("metric").positive()];

/// Bits of the addresses of the two families.
const BITS_4: u64 = 32;
const BITS_6: u64 = 128;

/// Checks a route of something, by whose name errors begin.
pub(super) fn route(node: Node<'_>, whose: &str) -> Checked {
    let wrong =
        |said: String| Err(Error::xml(format!("{whose}: {said} in route definition")).in_area(Area::Network));
    let (address, gateway) = match (node.attr("address"), node.attr("gateway")) {
        (None, _) => return wrong("Missing required address attribute".to_owned()),
        (_, None) => return wrong("Missing required gateway attribute".to_owned()),
        (Some(address), Some(gateway)) => (address, gateway),
    };
    let Some(parsed) = numeric_address(address) else {
        return wrong(format!("Bad network address '{address}'"));
    };
    let Some(hop) = numeric_address(gateway) else {
        return wrong(format!("Bad gateway address '{gateway}'"));
    };
    let netmask = node.attr("netmask");
    let prefix = node.attr("prefix").map(|p| unsigned(Some(p), 10));
    match node.attr("family") {
        None | Some("ipv4") => {
            let said = match node.attr("family") {
                None => "No family specified",
                Some(_) => "IPv4 family specified",
            };
            if !parsed.is_ipv4() {
                return wrong(format!("{said} for non-IPv4 address '{address}'"));
            }
            if !hop.is_ipv4() {
                return wrong(format!("{said} for non-IPv4 gateway '{address}'"));
            }
            netmask.map_or(Ok(()), |mask| check_netmask(whose, mask, address))?;
            if netmask.is_some() && prefix.is_some() {
                let said = format!("{whose}: Route definition cannot have both a prefix and a netmask");
                return Err(Error::xml(said).in_area(Area::Network));
            }
            in_bits(whose, prefix, BITS_4)?;
        }
        Some("ipv6") => {
            if !parsed.is_ipv6() {
                return wrong(format!("ipv6 family specified for non-IPv6 address '{address}'"));
            }
            if netmask.is_some() {
                return wrong(format!("Specifying netmask invalid for IPv6 address '{address}'"));
            }
            if !hop.is_ipv6() {
                return wrong(format!("ipv6 specified for non-IPv6 gateway address '{gateway}'"));
            }
            in_bits(whose, prefix, BITS_6)?;
        }
        Some(family) => return wrong(format!("Unrecognized family '{family}'")),
    }
    match is_network(parsed, netmask, prefix) {
        true => Ok(()),
        false => {
            let said = format!("{whose}: Address '{address}' in route definition is not a network address");
            Err(Error::xml(said).in_area(Area::Network))
        }
    }
}

fn check_netmask(whose: &str, mask: &str, address: &str) -> Checked {
    let said = match numeric_address(mask) {
        None => format!("{whose}: Bad netmask address '{mask}' in route definition"),
        Some(IpAddr::V6(_)) => {
            format!("{whose}: Invalid netmask '{mask}' for address '{address}' (both must be IPv4)")
        }
        Some(IpAddr::V4(_)) => return Ok(()),
    };
    Err(Error::xml(said).in_area(Area::Network))
}

fn in_bits(whose: &str, prefix: Option<u64>, most: u64) -> Checked {
    match prefix.filter(|prefix| *prefix > most) {
        Some(prefix) => {
            let said =
                format!("{whose}: Invalid prefix {prefix} specified in route definition, must be 0 - {most}");
            Err(Error::xml(said).in_area(Area::Network))
        }
        None => Ok(()),
    }
}

/// Whether an address has no bit outside its mask.
fn is_network(address: IpAddr, netmask: Option<&str>, prefix: Option<u64>) -> bool {
    let prefix = prefix.unwrap_or_default();
    match address {
        IpAddr::V4(address) => {
            let mask = match netmask.and_then(numeric_address) {
                Some(IpAddr::V4(mask)) => mask.to_bits(),
                _ => u32::MAX
                    .checked_shl(u32::try_from(BITS_4.saturating_sub(prefix)).unwrap_or(0))
                    .unwrap_or(0),
            };
            address.to_bits() & !mask == 0
        }
        IpAddr::V6(address) => {
            let shift = u32::try_from(BITS_6.saturating_sub(prefix)).unwrap_or(0);
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            address.to_bits() & !mask == 0
        }
    }
}

/// Words of the reader of virtual ports.
const fn port(text: &'static str) -> Words {
    of(Area::None, text)
}

const VIRTUALPORT: Rules = &[
    given(
        "type",
        Form::Word(&["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"]),
        port("unsupported configuration: unknown virtualport type {}"),
    ),
    If(
        When::Case(|node| !in_network(node)),
        &[named(
            "type",
            port("XML error: missing required virtualport type"),
        )],
    ),
    Child("parameters", PORT_PARAMETERS),
    If(When::Case(|node| !in_network(node)), &[Check(parameters_missing)]),
    Check(parameters_extra),
];

/// Whether the port is of a network, which may say the rest.
fn in_network(node: Node<'_>) -> bool {
    node.parent().and_then(|p| p.attr("type")) == Some("network")
}

/// Longest profile, bytes.
const PROFILE_MOST: usize = 39;

const PORT_PARAMETERS: Rules = &[
    given(
        "managerid",
        Form::I32(0),
        port("XML error: cannot parse value of managerid parameter"),
    ),
    given(
        "managerid",
        Form::Like(|id| integer(id, 0).is_some_and(|id| (0..=0xff).contains(&id))),
        port("XML error: value of managerid out of range"),
    ),
    given(
        "typeid",
        Form::I32(0),
        port("XML error: cannot parse value of typeid parameter"),
    ),
    given(
        "typeid",
        Form::Like(|id| integer(id, 0).is_some_and(|id| (0..=0x00ff_ffff).contains(&id))),
        port("XML error: value for typeid out of range"),
    ),
    given(
        "typeidversion",
        Form::I32(0),
        port("XML error: cannot parse value of typeidversion parameter"),
    ),
    given(
        "typeidversion",
        Form::Like(|id| integer(id, 0).is_some_and(|id| (0..=0xff).contains(&id))),
        port("XML error: value of typeidversion out of range"),
    ),
    given(
        "instanceid",
        Form::Uuid,
        port("XML error: cannot parse instanceid parameter as a uuid"),
    ),
    given(
        "profileid",
        Form::Like(|profile| profile.len() <= PROFILE_MOST),
        port("XML error: profileid parameter too long"),
    ),
    given(
        "interfaceid",
        Form::Uuid,
        port("XML error: cannot parse interfaceid parameter as a uuid"),
    ),
];

/// What each kind of port must have, and what it must not.
const PARAMETERS: &[(&str, &[&str], &[&str])] = &[
    (
        "802.1Qbg",
        &["managerid", "typeid", "typeidversion"],
        &["profileid", "interfaceid"],
    ),
    (
        "802.1Qbh",
        &["profileid"],
        &[
            "managerid",
            "typeid",
            "typeidversion",
            "instanceid",
            "interfaceid",
        ],
    ),
    (
        "openvswitch",
        &[],
        &["managerid", "typeid", "typeidversion", "instanceid"],
    ),
    ("midonet", &["interfaceid"], &[]),
];

fn parameters_missing(node: Node<'_>) -> Checked {
    let kind = node.attr("type").unwrap_or_default();
    let given = |name: &str| {
        node.child("parameters")
            .is_some_and(|p| p.attr(name).is_some_and(|value| !value.is_empty()))
    };
    let needed = PARAMETERS
        .iter()
        .find(|(known, ..)| *known == kind)
        .map_or(&[][..], |(_, needed, _)| *needed);
    match needed.iter().find(|name| !given(name)) {
        Some(name) => {
            let said = format!("missing {name} in <virtualport type='{kind}'>");
            Err(Error::xml(said).in_area(Area::Net))
        }
        None => Ok(()),
    }
}

fn parameters_extra(node: Node<'_>) -> Checked {
    let kind = node.attr("type").unwrap_or_default();
    let given = |name: &str| {
        let value = node.child("parameters").and_then(|p| p.attr(name));
        value.is_some_and(|value| name != "profileid" || !value.is_empty())
    };
    let barred = PARAMETERS
        .iter()
        .find(|(known, ..)| *known == kind)
        .map_or(&[][..], |(.., barred)| *barred);
    match barred.iter().find(|name| given(name)) {
        Some(name) => {
            let said = format!("extra {name} unsupported in <virtualport type='{kind}'>");
            Err(Error::xml(said).in_area(Area::Net))
        }
        None => Ok(()),
    }
}

const BANDWIDTH: Rules = &[
    number("classID"),
    If(
        When::Given("classID"),
        &[Check(|_| {
            let said = "classID attribute not supported on <bandwidth> in this usage context";
            Err(port(said).of(""))
        })],
    ),
    Child("inbound", RATE),
    Child("outbound", RATE),
    Check(floors),
];

const RATE: Rules = &[
    attr("average", Form::U64(10)),
    attr("peak", Form::U64(10)),
    attr("burst", Form::U64(10)),
    attr("floor", Form::U64(10)),
    Check(|node| {
        let has = |name| node.attr(name).is_some();
        if !has("average") && !has("floor") {
            return Err(port("Missing mandatory average or floor attributes").of(""));
        }
        match !has("average") && (has("peak") || has("burst")) {
            true => {
                let said = "unsupported configuration: 'peak' and 'burst' require 'average' attribute";
                Err(port(said).of(""))
            }
            false => Ok(()),
        }
    }),
];

fn floors(node: Node<'_>) -> Checked {
    let has = |name| node.child(name).is_some_and(|rate| rate.attr("floor").is_some());
    match has("outbound") || (has("inbound") && !in_network(node)) {
        true => {
            let said = "unsupported configuration: floor attribute is not supported for this config";
            Err(port(said).of(""))
        }
        false => Ok(()),
    }
}

/// Largest tag of a VLAN.
const TAG_MOST: u64 = 4095;

const VLAN: Rules = &[
    Check(|node| match node.child("tag") {
        Some(_) => Ok(()),
        None => {
            let said =
                "XML error: missing tag id - each <vlan> must have at least one <tag id='n'/> subelement";
            Err(port(said).of(""))
        }
    }),
    Each(
        "tag",
        &[
            number("id").needed(),
            Check(|node| {
                let id = unsigned(node.attr("id"), 10);
                match id <= TAG_MOST {
                    true => Ok(()),
                    false => {
                        Err(port("XML error: vlan tag id {} too large (maximum 4095)").of(&id.to_string()))
                    }
                }
            }),
            word("nativeMode", model::NativeMode::WORDS),
        ],
    ),
    Check(trunk),
];

fn trunk(node: Node<'_>) -> Checked {
    let tags = node.children_named("tag").count();
    let native = node
        .children_named("tag")
        .filter(|tag| tag.attr("nativeMode").is_some())
        .count();
    if native > 1 {
        return Err(port("XML error: duplicate native vlan setting").of(""));
    }
    let Some(trunk) = node.attr("trunk").filter(|trunk| !trunk.is_empty()) else {
        return Ok(());
    };
    if trunk.eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    if tags > 1 {
        let said = "XML error: invalid \"trunk='{}'\" in <vlan> - trunk='yes' is required for more than one vlan tag";
        return Err(port(said).of(trunk));
    }
    if native > 0 {
        let said = "XML error: invalid configuration in <vlan> - \"trunk='no'\" is not allowed with a native vlan id";
        return Err(port(said).of(""));
    }
    match trunk.eq_ignore_ascii_case("no") {
        true => Ok(()),
        false => Err(port("XML error: invalid \"trunk='{}'\" in <vlan> - must be yes or no").of(trunk)),
    }
}

const MAC: Rules = &[
    given(
        "address",
        Form::Like(|mac| mac_octets(mac).is_some()),
        domain("XML error: unable to parse mac address '{}'"),
    ),
    given(
        "address",
        Form::Like(|mac| mac_octets(mac).is_some_and(|octets| octets[0] & 1 == 0)),
        domain("XML error: expected unicast mac address, found multicast '{}'"),
    ),
    word("type", model::MacKind::WORDS),
    yes("check"),
];

const PORT_FORWARD: Rules = &[
    word("proto", &["tcp", "udp"]).needed(),
    given(
        "address",
        Form::Like(|address| is_address(address, None)),
        domain("XML error: Invalid address '{}' in <portForward>"),
    ),
    Each(
        "range",
        &[
            number("start").positive(),
            number("end").positive(),
            number("to").positive(),
            yes("exclude"),
        ],
    ),
];

const DRIVER: Rules = &[
    word("name", model::NetDriverName::WORDS),
    word("txmode", model::TxMode::WORDS),
    on("ioeventfd"),
    on("event_idx"),
    number("queues"),
    number("rx_queue_size"),
    number("tx_queue_size"),
    on("rss"),
    on("rss_hash_report"),
    Child(
        "host",
        &[
            on("csum"),
            on("gso"),
            on("tso4"),
            on("tso6"),
            on("ecn"),
            on("ufo"),
            on("mrg_rxbuf"),
        ],
    ),
    Child(
        "guest",
        &[on("csum"), on("tso4"), on("tso6"), on("ecn"), on("ufo")],
    ),
];

/// `<teaming>`.
pub(super) const TEAMING: Rules = &[Check(|node| {
    let value = |name| node.attr(name).filter(|v| !v.is_empty());
    let kind = value("type");
    if kind.is_none() && value("persistent").is_none() {
        return Ok(());
    }
    match kind.is_some_and(|kind| model::TeamingKind::WORDS.contains(&kind)) {
        true => Ok(()),
        false => {
            let said = domain("unsupported configuration: unknown teaming type '{}'");
            Err(said.of(kind.unwrap_or("(null)")))
        }
    }
})];

const COALESCE: Rules = &[
    maybe(
        "max",
        Form::U64(10),
        domain("cannot parse value '{}' for coalesce parameter"),
    ),
    Check(|node| {
        let most = u64::from(u32::MAX);
        let max = node.attr("max").unwrap_or_default();
        match unsigned(Some(max), 10) <= most {
            true => Ok(()),
            false => {
                let said = format!("value '{max}' is too big for coalesce parameter, maximum is '{most}'");
                Err(Error::new(Kind::Overflow, said).in_area(Area::Domain))
            }
        }
    }),
];

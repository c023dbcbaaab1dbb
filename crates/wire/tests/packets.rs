//! Packets captured from libvirtd, and the tables they are read with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use wire::frame::{PacketType, Status, decode_packet, put_packet};
use wire::procedure::{Kind, Recode};
use wire::xdr::{Reader, Xdr};
use wire::{PROGRAMS, Procedure, ProcedureInfo, Program, WireError, admin, keepalive, remote};

const PACKETS: &str = include_str!("data/packets.tsv");

struct Captured {
    name: &'static str,
    bytes: Vec<u8>,
}

fn captured() -> Vec<Captured> {
    let lines = PACKETS.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            Captured {
                name: fields[2],
                bytes: unhex(fields[3]),
            }
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .map(|digit| digit.to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn info(program: u32, procedure: i32) -> &'static ProcedureInfo {
    let program = PROGRAMS
        .into_iter()
        .find(|known| known.number == program)
        .unwrap();
    program.procedure(procedure).unwrap()
}

fn recode_error(payload: &[u8], out: &mut Vec<u8>) -> Result<(), wire::procedure::RecodeError> {
    WireError::decode(&mut Reader::new(payload))?.encode(out)?;
    Ok(())
}

fn copy(payload: &[u8], out: &mut Vec<u8>) -> Result<(), wire::procedure::RecodeError> {
    out.extend_from_slice(payload);
    Ok(())
}

#[test]
fn every_captured_packet_is_read_and_written_to_the_same_bytes() {
    let packets = captured();
    assert_eq!(packets.len(), 200);
    for Captured { name, bytes } in packets {
        let packet = decode_packet(&bytes).unwrap();
        let header = packet.header;
        let recode: Recode = match (header.program, header.r#type, header.status) {
            (keepalive::PROGRAM, ..) | (_, PacketType::STREAM, Status::CONTINUE | Status::OK) => copy,
            (_, PacketType::STREAM, Status::ERROR) if packet.payload.is_empty() => copy,
            (_, PacketType::STREAM_HOLE, _) => hole,
            (_, _, Status::ERROR) => recode_error,
            (program, PacketType::REPLY | PacketType::REPLY_WITH_FDS, _) => {
                info(program, header.procedure).recode_reply
            }
            (program, ..) => info(program, header.procedure).recode_args,
        };
        let mut again = Vec::new();
        put_packet(&mut again, &header, |out| {
            if header.carries_fds() {
                u32::try_from(packet.fds).unwrap().encode(out)?;
            }
            recode(packet.payload, out).unwrap_or_else(|error| panic!("{name}: {error}"));
            Ok(())
        })
        .unwrap();
        assert_eq!(again, bytes, "{name}");
    }
}

fn hole(payload: &[u8], out: &mut Vec<u8>) -> Result<(), wire::procedure::RecodeError> {
    wire::frame::StreamHole::decode(&mut Reader::new(payload))?.encode(out)?;
    Ok(())
}

#[test]
fn captured_values_are_read_as_what_they_are() {
    let packets = captured();
    let reply = |name: &str| {
        let of_name = packets.iter().filter(|packet| packet.name == name);
        let mut replies = of_name.map(|packet| decode_packet(&packet.bytes).unwrap());
        replies
            .find(|packet| packet.header.r#type == PacketType::REPLY)
            .unwrap()
            .payload
    };
    let version = remote::ConnectGetLibVersionRet::decode(&mut Reader::new(reply(
        "REMOTE_PROC_CONNECT_GET_LIB_VERSION",
    )));
    assert_eq!(version.unwrap().lib_ver, 11_003_000);
    let domain =
        remote::DomainLookupByNameRet::decode(&mut Reader::new(reply("REMOTE_PROC_DOMAIN_LOOKUP_BY_NAME")));
    let domain = domain.unwrap().dom;
    assert_eq!((domain.name.to_str().as_ref(), domain.id), ("a1-test", -1));
    assert_eq!(domain.uuid.to_string(), "a1a1a1a1-0000-4000-8000-0000000000a1");
    let error = WireError::decode(&mut Reader::new(reply("REMOTE_PROC_CONNECT_GET_SYSINFO"))).unwrap();
    let same = WireError::new(
        wire::ErrorCode::CONFIG_UNSUPPORTED,
        wire::ErrorDomain::QEMU,
        "Host SMBIOS information is not available",
    );
    assert_eq!(error, same);
}

#[test]
fn each_program_has_all_its_procedures_in_order() {
    let counts: [(&Program, usize); 4] = [
        (&remote::PROGRAM, 453),
        (&wire::qemu::PROGRAM, 7),
        (&wire::lxc::PROGRAM, 1),
        (&admin::PROGRAM, 20),
    ];
    for (program, count) in counts {
        let numbers: Vec<_> = program.procedures.iter().map(|info| info.number).collect();
        let expected: Vec<_> = (1..=i32::try_from(count).unwrap()).collect();
        assert_eq!(numbers, expected, "{}", program.name);
        assert!(
            program
                .procedures
                .iter()
                .all(|info| info.program == program.number)
        );
        assert!(program.procedure(0).is_none() && program.procedure(-1).is_none());
    }
    let events = remote::PROGRAM
        .procedures
        .iter()
        .filter(|info| info.kind == Kind::Event)
        .count();
    assert_eq!(events, 53);
}

#[test]
fn secure_xml_is_not_for_read_only_connections() {
    let call = |flags| remote::DomainGetXmlDesc {
        flags,
        ..Default::default()
    };
    assert!(remote::PROGRAM.procedure(14).unwrap().read_only);
    assert!(call(wire::consts::VIR_DOMAIN_XML_SECURE).needs_write());
    assert!(!call(wire::consts::VIR_DOMAIN_XML_INACTIVE).needs_write());
}

//! What is served, to whom, and for whom.

use std::os::fd::AsFd;
use std::path::Path;

use wire::{ErrorCode, admin, remote};

use crate::Front;
use crate::client::Client;

#[test]
fn a_guest_is_found_by_name_uuid_and_id() {
    let front = Front::new();
    let mut client = front.open();
    let by_name = client
        .call(&remote::DomainLookupByName { name: "demo".into() })
        .unwrap()
        .dom;
    assert_eq!((by_name.name.to_str().as_ref(), by_name.id), ("demo", 3));
    let by_uuid = client
        .call(&remote::DomainLookupByUuid { uuid: by_name.uuid })
        .unwrap()
        .dom;
    assert_eq!(by_uuid, by_name);
    assert_eq!(
        client.call(&remote::DomainLookupById { id: 3 }).unwrap().dom,
        by_name
    );
    let error = client
        .call(&remote::DomainLookupByName { name: "none".into() })
        .unwrap_err();
    assert_eq!(error.str1.unwrap().to_str(), "Domain not found: %1$s");
    assert_eq!(
        error.str2.unwrap().to_str(),
        "no domain with matching name 'none'"
    );
    assert_eq!(
        client.call(&remote::ConnectGetLibVersion {}).unwrap().lib_ver,
        11_003_000
    );
    assert_eq!(
        client.call(&remote::ConnectGetUri {}).unwrap().uri.to_str(),
        "qemu:///system"
    );
}

#[test]
fn read_only_connections_look_and_change_nothing() {
    let front = Front::new();
    let mut by_socket = Client::open(&front.path("ro"));
    let mut by_flag = Client::connect(&front.path("rw"));
    let open = remote::ConnectOpen {
        name: Some("qemu:///system".into()),
        flags: 1,
    };
    by_flag.call(&open).unwrap();
    for client in [&mut by_socket, &mut by_flag] {
        client
            .call(&remote::DomainLookupByName { name: "demo".into() })
            .unwrap();
        let error = client.call(&remote::DomainCreate::default()).unwrap_err();
        let secure = client
            .call(&remote::DomainGetXmlDesc {
                flags: 1,
                ..Default::default()
            })
            .unwrap_err();
        assert_eq!(
            secure.to_string(),
            "operation forbidden: virDomainGetXMLDesc with secure flag"
        );
        let denied = "operation forbidden: read only access prevents virDomainCreate";
        assert_eq!(
            (error.code, error.to_string().as_str()),
            (ErrorCode::OPERATION_DENIED, denied)
        );
    }
    assert!(
        front
            .fake
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|(peer, _)| peer.read_only)
    );
}

#[test]
fn requests_carry_the_peer_its_identity_and_its_descriptors() {
    let front = Front::new();
    let mut client = front.open();
    let params = vec![wire::typed::TypedParam::new("unix-user-id", 1000_u64)];
    client
        .call(&remote::ConnectSetIdentity {
            params: params.into(),
            flags: 0,
        })
        .unwrap();
    let mut header = client.header::<remote::DomainLookupById>();
    header.r#type = wire::frame::PacketType::CALL_WITH_FDS;
    client.send_packet(&header, &[0, 0, 0, 1, 0, 0, 0, 3]);
    // One byte with one descriptor follows the packet.
    let file = std::fs::File::open("/dev/null").unwrap();
    let socket = client.socket.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    let send =
        async { unixfd::send_fd(&tokio::net::UnixStream::from_std(socket).unwrap(), file.as_fd()).await };
    front.runtime.block_on(send).unwrap();
    client.socket.set_nonblocking(false).unwrap();
    assert_eq!(client.receive().unwrap().line(), "ok");
    let (peer, fds) = *front.fake.seen.lock().unwrap().last().unwrap();
    let uid = if peer_is_root() { 1000 } else { peer.cred.uid };
    assert_eq!(
        (peer.cred.uid, peer.cred.pid, fds),
        (uid, i32::try_from(std::process::id()).unwrap(), 1)
    );
}

pub(crate) fn peer_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn the_admin_socket_speaks_the_admin_program_only() {
    let front = Front::new();
    let mut client = Client::connect(&front.path("admin"));
    let serial = client.send(&remote::AuthList {});
    let got = client.receive().unwrap();
    assert_eq!(got.header.serial, serial);
    assert_eq!(got.line(), "error 39 7 Cannot find program 536903814 version 1");
    let version = client.call(&admin::ConnectGetLibVersion {}).unwrap();
    assert_eq!(version.lib_ver, 11_003_000);
    // What the service says is told as it says it.
    let error = client
        .call(&admin::ConnectGetLoggingFilters { flags: 0 })
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::NO_SUPPORT);
    let error = client
        .call(&admin::ConnectGetLoggingFilters { flags: 4 })
        .unwrap_err();
    let text = "unsupported flags (0x4) in function adminConnectGetLoggingFilters";
    assert_eq!(
        (error.code, error.to_string().as_str()),
        (ErrorCode::INVALID_ARG, text)
    );
}

#[test]
fn the_list_of_served_procedures_is_as_written_down() {
    let lines =
        compat::served().map(|(program, info)| format!("{} {} {}\n", program.name, info.number, info.name));
    let served: String = lines.collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/served.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    assert_eq!(served, std::fs::read_to_string(path).unwrap());
}

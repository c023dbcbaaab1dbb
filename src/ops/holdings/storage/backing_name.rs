//! What the name of a backing file stands for, as it is written in the head of an image: a file, a source that QEMU reaches
//! by a protocol (a URL, one of QEMU's older forms, or `json:` with the options of a node), or one that only QEMU can open.
//!
//! Heads are written by guests: a name that is not understood is refused, and none leads to a device's credentials.

use domxml::devices::{HostTransport, NetProtocol, Slice, Slices, Source, StorageHost, StorageKind};
use serde_json::{Map, Value};

use crate::error::{Area, Code, Error, Result};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Named {
    /// A file beside the image, or anywhere if the path is absolute.
    Beside(String),
    /// A file or device, with the part of it that is used.
    File(StorageKind, Box<Source>),
    /// Something that is reached by a protocol.
    Remote(Box<Source>),
    /// It names a user: QEMU opens it by itself, with what the name says.
    Hidden,
}

/// Words of `json:` drivers of curl.
// table
const CURL: &[&str] = &["http", "https", "ftp", "ftps", "tftp"];

/// Reads a name.
///
/// # Errors
/// `Internal` for a protocol that is unknown, `InvalidArg` for options that say too little.
pub(super) fn read(name: &str) -> Result<Named> {
    if let Some(options) = name.strip_prefix("json:") {
        let value: Value = serde_json::from_str(options)
            .map_err(|error| Error::internal(format!("failed to parse JSON: {error}")).in_area(Area::None))?;
        return node(&nested(value), options);
    }
    let Some((scheme, rest)) = name.split_once(':').filter(|(scheme, _)| !scheme.contains('/')) else {
        return Ok(Named::Beside(name.to_owned()));
    };
    if scheme == "file" {
        return Ok(Named::Beside(rest.to_owned()));
    }
    if let Some(rest) = rest.strip_prefix("//") {
        return url(scheme, rest);
    }
    match protocol(scheme)? {
        NetProtocol::Nbd => Ok(Named::Remote(Box::new(old_nbd(rest)?))),
        NetProtocol::Rbd => Ok(Named::Remote(Box::new(old_rbd(rest)))),
        known => {
            let known = known.as_str();
            let text = format!("backing store parser is not implemented for protocol {known}");
            Err(storage(text))
        }
    }
}

fn storage(text: String) -> Error {
    Error::internal(text).in_area(Area::Storage)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Code::InvalidArg, text.into()).in_area(Area::Storage)
}

fn protocol(word: &str) -> Result<NetProtocol> {
    let wrong = |_| storage(format!("invalid backing protocol '{word}'"));
    word.parse().map_err(wrong)
}

fn url(scheme: &str, rest: &str) -> Result<Named> {
    let (word, transport) = scheme.split_once('+').unwrap_or((scheme, "tcp"));
    let protocol = protocol(word)?;
    let wrong = |_| storage(format!("invalid protocol transport type '{transport}'"));
    let transport: HostTransport = transport.parse().map_err(wrong)?;
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Ok(Named::Hidden);
    }
    let (name, port) = host_and_port(authority)?;
    let socket = query.and_then(|query| query.split('&').find_map(|part| part.strip_prefix("socket=")));
    let is_unix = transport == HostTransport::Unix;
    let host = StorageHost {
        transport: Some(transport).filter(|known| *known != HostTransport::Tcp),
        name: (!name.is_empty()).then_some(name),
        port,
        socket: socket.filter(|_| is_unix).map(str::to_owned),
    };
    let path = path.trim_start_matches('/');
    Ok(Named::Remote(Box::new(Source {
        protocol: Some(protocol),
        name: (!path.is_empty()).then(|| path.to_owned()),
        query: query.filter(|_| CURL.contains(&word)).map(str::to_owned),
        hosts: vec![host],
        ..Source::default()
    })))
}

/// A host, perhaps in brackets, and a port after it.
fn host_and_port(text: &str) -> Result<(String, Option<u32>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    Ok((host.to_owned(), port.map(port_of).transpose()?))
}

fn port_of(text: &str) -> Result<u32> {
    let wrong = |_| storage(format!("failed to parse port number '{text}'"));
    text.parse::<u16>().map(u32::from).map_err(wrong)
}

fn tcp(name: String, port: Option<u32>) -> StorageHost {
    StorageHost {
        name: Some(name),
        port,
        ..StorageHost::default()
    }
}

fn unix(socket: &str) -> StorageHost {
    StorageHost {
        transport: Some(HostTransport::Unix),
        socket: Some(socket.to_owned()),
        ..StorageHost::default()
    }
}

/// `HOST:PORT[:exportname=NAME]` or `unix:PATH[:exportname=NAME]`.
fn old_nbd(text: &str) -> Result<Source> {
    let (server, export) = match text.split_once(":exportname=") {
        Some((server, export)) => (server, Some(export.to_owned())),
        None => (text, None),
    };
    let host = match server.strip_prefix("unix:") {
        Some(path) => unix(path),
        None => {
            let (name, port) = host_and_port(server)?;
            let missing = || storage(format!("malformed nbd string '{text}'"));
            tcp(name, Some(port.ok_or_else(missing)?))
        }
    };
    Ok(Source {
        protocol: Some(NetProtocol::Nbd),
        name: export,
        hosts: vec![host],
        ..Source::default()
    })
}

/// `POOL/IMAGE[@SNAPSHOT][:OPTION=VALUE]...`; in values `\` takes `:` its meaning.
fn old_rbd(text: &str) -> Source {
    let mut parts = split_unless_escaped(text).into_iter();
    let image = parts.next().unwrap_or_default();
    let (name, snapshot) = match image.split_once('@') {
        Some((name, snapshot)) => (name.to_owned(), Some(snapshot.to_owned())),
        None => (image, None),
    };
    let mut source = Source {
        protocol: Some(NetProtocol::Rbd),
        name: Some(name),
        snapshot,
        ..Source::default()
    };
    for part in parts {
        match part.split_once('=') {
            Some(("conf", file)) => source.config = Some(file.to_owned()),
            Some(("mon_host", hosts)) => {
                let hosts = hosts.split([';', ',']).filter(|host| !host.is_empty());
                let known = hosts.filter_map(|host| host_and_port(host).ok());
                source.hosts = known.map(|(name, port)| tcp(name, port)).collect();
            }
            _ => {}
        }
    }
    source
}

fn split_unless_escaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ':' if !escaped => parts.push(String::new()),
            c => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
        escaped = false;
    }
    parts
}

/// Options whose names have dots, as options of options.
fn nested(value: Value) -> Value {
    let Value::Object(options) = value else {
        return value;
    };
    let mut whole = Map::new();
    for (key, value) in options {
        let value = nested(value);
        match key.split_once('.') {
            Some((outer, inner)) => {
                let into = whole.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                if let (Value::Object(into), inner) = (into, nested(single(inner, value))) {
                    merge(into, inner);
                }
            }
            None => {
                whole.insert(key, value);
            }
        }
    }
    Value::Object(whole)
}

fn single(key: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

fn merge(into: &mut Map<String, Value>, more: Value) {
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(there)), value @ Value::Object(_)) => merge(there, value),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The options of one node; `written` is how the name has them.
fn node(options: &Value, written: &str) -> Result<Named> {
    let text = |key: &str| options.get(key).and_then(text_of);
    let file = options.get("file").filter(|file| file.is_object());
    let Some(driver) = text("driver") else {
        let missing = || {
            invalid(format!(
                "JSON backing volume definition '{written}' lacks driver name"
            ))
        };
        return node(file.ok_or_else(missing)?, written);
    };
    let missing = |field: &str| {
        invalid(format!(
            "missing '{field}' field in JSON backing volume definition"
        ))
    };
    match driver.as_str() {
        "raw" => {
            let without = || {
                invalid(format!(
                    "JSON backing volume definition '{written}' lacks 'file' object"
                ))
            };
            sliced(node(file.ok_or_else(without)?, written)?, options)
        }
        "file" | "host_device" | "host_cdrom" => {
            let path = Some(text("filename").ok_or_else(|| missing("filename"))?);
            let mut source = Source::default();
            if driver == "file" {
                source.file = path;
                return Ok(Named::File(StorageKind::File, Box::new(source)));
            }
            source.dev = path;
            Ok(Named::File(StorageKind::Block, Box::new(source)))
        }
        _ if text("user").or_else(|| text("username")).is_some() && driver != "ssh" => Ok(Named::Hidden),
        driver if CURL.contains(&driver) => {
            let without = || invalid("missing 'url' in JSON backing volume definition");
            read(&text("url").ok_or_else(without)?)
        }
        "nbd" | "ssh" | "rbd" | "iscsi" | "gluster" | "nfs" => remote(&driver, options),
        other => Err(storage(format!(
            "missing parser implementation for JSON backing volume driver '{other}'"
        ))),
    }
}

/// A string, or a number as one.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The part of a file that a `raw` node shows.
fn sliced(named: Named, options: &Value) -> Result<Named> {
    let number = |key: &str| {
        let wrong = |_| invalid(format!("malformed '{key}' property of 'raw' driver"));
        let text = options.get(key).and_then(text_of);
        text.map(|text| text.parse::<u64>().map_err(wrong)).transpose()
    };
    let (offset, size) = (number("offset")?, number("size")?);
    let (Named::File(kind, mut source), true) = (named.clone(), offset.or(size).is_some()) else {
        return Ok(named);
    };
    let slice = Slice {
        kind: Some("storage".to_owned()),
        offset: offset.unwrap_or_default(),
        size: size.unwrap_or_default(),
    };
    source.slices = Some(Slices { slices: vec![slice] });
    Ok(Named::File(kind, source))
}

fn remote(driver: &str, options: &Value) -> Result<Named> {
    let text = |key: &str| options.get(key).and_then(text_of);
    let user = |name| domxml::devices::Identity {
        username: Some(name),
        ..domxml::devices::Identity::default()
    };
    let mut source = Source {
        protocol: Some(protocol(driver)?),
        ..Source::default()
    };
    match driver {
        "nbd" => {
            source.name = text("export");
            source.hosts = vec![nbd_server(options)?];
        }
        "ssh" => {
            source.name = text("path");
            source.identity = text("user").map(user);
            source.hosts = vec![match (options.get("server"), text("host")) {
                (Some(server), _) => server_of(server)?,
                (None, Some(host)) => tcp(host, text("port").map(|port| port_of(&port)).transpose()?),
                (None, None) => {
                    return Err(invalid(
                        "missing host/server or path of SSH JSON backing volume definition",
                    ));
                }
            }];
        }
        "rbd" => {
            let (Some(pool), Some(image)) = (text("pool"), text("image")) else {
                return Err(invalid(
                    "missing pool or image name in ceph backing volume JSON specification",
                ));
            };
            source.name = Some(format!("{pool}/{image}"));
            (source.config, source.snapshot) = (text("conf"), text("snapshot"));
            source.hosts = servers(options)?;
        }
        "iscsi" => {
            let (Some(portal), Some(target)) = (text("portal"), text("target")) else {
                return Err(invalid(
                    "missing 'portal' or 'target' of iSCSI JSON backing volume definition",
                ));
            };
            let (host, port) = host_and_port(&portal)?;
            source.name = Some(format!(
                "{target}/{}",
                text("lun").unwrap_or_else(|| "0".to_owned())
            ));
            source.hosts = vec![tcp(host, port)];
        }
        "gluster" => {
            let (Some(volume), Some(path)) = (text("volume"), text("path")) else {
                return Err(invalid(
                    "missing 'volume' or 'path' of gluster JSON backing volume definition",
                ));
            };
            source.name = Some(format!("{volume}/{}", path.trim_start_matches('/')));
            source.hosts = servers(options)?;
        }
        _ => {
            source.name = text("path");
            source.hosts = options
                .get("server")
                .map(server_of)
                .transpose()?
                .into_iter()
                .collect();
        }
    }
    Ok(Named::Remote(Box::new(source)))
}

/// Where an NBD server is, in one of QEMU's three forms.
fn nbd_server(options: &Value) -> Result<StorageHost> {
    let text = |key: &str| options.get(key).and_then(text_of);
    match (options.get("server"), text("host"), text("path")) {
        (Some(server), ..) => server_of(server),
        (None, Some(host), _) => Ok(tcp(host, text("port").map(|port| port_of(&port)).transpose()?)),
        (None, None, Some(path)) => Ok(unix(&path)),
        (None, None, None) => {
            let what = "missing host specification of NBD server in JSON backing volume definition";
            Err(invalid(what))
        }
    }
}

fn servers(options: &Value) -> Result<Vec<StorageHost>> {
    let servers = options.get("server").and_then(Value::as_array);
    servers.into_iter().flatten().map(server_of).collect()
}

/// A socket's address, as QEMU writes it.
fn server_of(server: &Value) -> Result<StorageHost> {
    let text = |key: &str| server.get(key).and_then(text_of);
    match text("type").as_deref().unwrap_or("inet") {
        "unix" => {
            let path = text("path").or_else(|| text("socket"));
            let missing =
                || invalid("missing socket path for unix backing server in JSON backing volume definition");
            path.map(|path| unix(&path)).ok_or_else(missing)
        }
        "inet" | "tcp" => {
            let missing =
                || invalid("missing hostname for tcp backing server in JSON backing volume definition");
            let port = text("port").map(|port| port_of(&port)).transpose()?;
            Ok(tcp(text("host").ok_or_else(missing)?, port))
        }
        other => Err(invalid(format!(
            "backing store protocol '{other}' is not yet supported"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libvirt 11.3 makes of names: the protocol, the name, the servers, and what else there is of it.
    // table
    const REMOTE: &[(&str, &str)] = &[
        ("nbd:localhost:10809", "nbd - localhost:10809"),
        ("nbd:localhost:10809:exportname=foo", "nbd foo localhost:10809"),
        ("nbd:unix:/tmp/s:exportname=bar", "nbd bar unix /tmp/s"),
        ("nbd:[::1]:99", "nbd - ::1:99"),
        ("nbd://host:123/exp", "nbd exp host:123"),
        ("nbd://host/", "nbd - host"),
        ("nbd://[::1]:99/e/f", "nbd e/f ::1:99"),
        ("nbd+unix:///exp?socket=/tmp/s", "nbd exp unix /tmp/s"),
        ("https://h:8443/p?x=1#f", "https p h:8443 query x=1"),
        ("ssh://h/p/x", "ssh p/x h"),
        ("rbd:pool/img:mon_host=h1\\:6789", "rbd pool/img h1:6789"),
        (
            "rbd:pool/img@snap:id=me:conf=/c",
            "rbd pool/img snapshot snap conf /c",
        ),
        ("iscsi://h:3260/iqn.x:y/1", "iscsi iqn.x:y/1 h:3260"),
        ("gluster+unix:///vol/p?socket=/s", "gluster vol/p unix /s"),
        ("nfs://h/export/x", "nfs export/x h"),
        (r#"json:{"driver":"nbd","host":"h","port":"1"}"#, "nbd - h:1"),
        (
            r#"json:{"driver":"nbd","server":{"type":"inet","host":"h","port":"1"},"export":"e"}"#,
            "nbd e h:1",
        ),
        (
            r#"json:{"driver":"nbd","server.type":"unix","server.path":"/s"}"#,
            "nbd - unix /s",
        ),
        (
            r#"json:{"file":{"driver":"https","url":"https://h/p"}}"#,
            "https p h",
        ),
        (
            r#"json:{"driver":"ssh","host":"h","path":"/p","user":"u"}"#,
            "ssh /p h user u",
        ),
        (r#"json:{"driver":"rbd","pool":"p","image":"i"}"#, "rbd p/i"),
        (
            r#"json:{"driver":"iscsi","transport":"tcp","portal":"h","target":"iqn","lun":"1"}"#,
            "iscsi iqn/1 h",
        ),
        (
            r#"json:{"file":{"driver":"gluster","volume":"v","path":"p","server":[{"type":"inet","host":"h","port":"1"}]}}"#,
            "gluster v/p h:1",
        ),
    ];

    fn shown(source: &Source) -> String {
        let mut words = vec![
            source.protocol.unwrap().as_str().to_owned(),
            source.name.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        for host in &source.hosts {
            let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
            words.extend(host.name.as_ref().map(|name| format!("{name}{port}")));
            words.extend(host.socket.as_ref().map(|socket| format!("unix {socket}")));
        }
        let user = source
            .identity
            .as_ref()
            .and_then(|identity| identity.username.clone());
        let more = [
            ("query", source.query.clone()),
            ("snapshot", source.snapshot.clone()),
            ("conf", source.config.clone()),
            ("user", user),
        ];
        let more = more
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} {}", value?)));
        words.extend(more);
        words.join(" ")
    }

    #[test]
    fn names_with_protocols_are_sources() {
        for (name, wanted) in REMOTE {
            match read(name).unwrap() {
                Named::Remote(source) => assert_eq!(shown(&source), *wanted, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        for name in ["https://u:pw@h/p", "iscsi://u%25p@h/iqn/0", "ssh://u@h/p/x"] {
            assert_eq!(read(name).unwrap(), Named::Hidden, "{name}");
        }
    }

    #[test]
    fn files_are_found_in_all_forms() {
        for name in ["base.img", "/a:b/c", "dir/a:b", "./x"] {
            assert_eq!(read(name).unwrap(), Named::Beside(name.to_owned()));
        }
        let file = |name: &str| match read(name).unwrap() {
            Named::File(kind, source) => (kind, source),
            other => panic!("{name}: {other:?}"),
        };
        for name in [
            r#"json:{"driver":"file","filename":"/x"}"#,
            r#"json:{"file":{"driver":"file","filename":"/x"}}"#,
            r#"json:{"driver":"raw","file":{"driver":"file","filename":"/x"}}"#,
            r#"json:{"file.filename":"/x","file.driver":"file"}"#,
        ] {
            let (kind, source) = file(name);
            assert_eq!(
                (kind, source.file.as_deref()),
                (StorageKind::File, Some("/x")),
                "{name}"
            );
        }
        let part =
            r#"json:{"driver":"raw","offset":512,"size":"1024","file":{"driver":"file","filename":"/x"}}"#;
        let slice = file(part).1.slices.unwrap().slices.remove(0);
        assert_eq!((slice.offset, slice.size), (512, 1024));
        let (kind, source) = file(r#"json:{"driver":"host_device","filename":"/dev/x"}"#);
        assert_eq!(
            (kind, source.dev.as_deref()),
            (StorageKind::Block, Some("/dev/x"))
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_in_libvirts_words() {
        for (name, wanted) in [
            ("foo:bar", "invalid backing protocol 'foo'"),
            ("foo://bar/x", "invalid backing protocol 'foo'"),
            ("host_device:/dev/x", "invalid backing protocol 'host_device'"),
            ("nbd+tls://h/e", "invalid protocol transport type 'tls'"),
            (
                "sheepdog:img",
                "backing store parser is not implemented for protocol sheepdog",
            ),
            (
                r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/x"}}"#,
                "missing parser implementation for JSON backing volume driver 'qcow2'",
            ),
            ("json:{}", "JSON backing volume definition '{}' lacks driver name"),
            (
                r#"json:{"driver":"raw"}"#,
                r#"JSON backing volume definition '{"driver":"raw"}' lacks 'file' object"#,
            ),
            (
                r#"json:{"driver":"nbd"}"#,
                "missing host specification of NBD server in JSON backing volume definition",
            ),
            (
                r#"json:{"driver":"file"}"#,
                "missing 'filename' field in JSON backing volume definition",
            ),
            (
                r#"json:{"driver":"https"}"#,
                "missing 'url' in JSON backing volume definition",
            ),
        ] {
            assert_eq!(read(name).unwrap_err().message, wanted, "{name}");
        }
        assert!(
            read("json:{bad")
                .unwrap_err()
                .message
                .starts_with("failed to parse JSON")
        );
    }
}

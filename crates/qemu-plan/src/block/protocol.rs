//! How the bytes of a source are reached: the driver of the storage node and its own options, one
//! function a protocol. The names of secret and TLS objects are given by the caller.

use domxml::devices::common::{HostTransport, StorageHost, YesNo};
use domxml::devices::storage::{NetProtocol, Source, StorageFormat, StorageKind};
use serde_json::{Value, json};

use super::source::Link;
use crate::props::Props;
use crate::{Error, Result};

/// Names of the objects that a storage node refers to, if there are any.
#[derive(Debug, Clone, Default)]
pub struct Refs {
    /// Secret with the password of `<auth>`.
    pub auth: Option<String>,
    /// Secret with HTTP cookies.
    pub cookie: Option<String>,
    /// TLS credentials.
    pub tls: Option<String>,
    /// Persistent reservations helper.
    pub pr_manager: Option<String>,
    /// `encrypt` of an image that the storage itself decrypts.
    pub encrypt: Option<Props>,
    /// Path to open instead of the document's (`/dev/fdset/N`).
    pub path: Option<String>,
    /// How much the driver of GlusterFS logs, if not as usual.
    pub debug: Option<u32>,
    /// Host's CD-ROM drive.
    pub host_cdrom: bool,
}

/// Driver and own options of a storage node.
///
/// # Errors
/// When QEMU has no driver for the source, or the source lacks what the driver needs.
pub fn storage_props(link: &Link<'_>, refs: &Refs) -> Result<Props> {
    match link.kind {
        StorageKind::File => local("file", link.source.file.as_deref(), link, refs),
        StorageKind::Block => {
            let driver = if refs.host_cdrom {
                "host_cdrom"
            } else {
                "host_device"
            };
            local(driver, link.source.dev.as_deref(), link, refs)
        }
        StorageKind::Dir => directory(link),
        StorageKind::Network => network(&link.source, refs),
        StorageKind::Nvme => Ok(nvme(&link.source)),
        StorageKind::VhostVdpa => Ok(Props::driver("virtio-blk-vhost-vdpa")
            .with_opt("path", refs.path.clone().or_else(|| link.source.dev.clone()))),
        StorageKind::Volume => Err(Error::internal_qemu(
            "storage source pool volume was not translated",
        )),
        StorageKind::VhostUser => Err(Error::internal_qemu("vhost-user disks have no block node")),
    }
}

fn local(driver: &str, path: Option<&str>, link: &Link<'_>, refs: &Refs) -> Result<Props> {
    let path = refs
        .path
        .as_deref()
        .or(path)
        .ok_or_else(|| Error::null("filename"))?;
    Ok(Props::driver(driver)
        .with("filename", path)
        .with_opt("aio", link.common.io.clone())
        .with_opt("pr-manager", refs.pr_manager.clone()))
}

fn directory(link: &Link<'_>) -> Result<Props> {
    if link.format != StorageFormat::Fat {
        return Err(Error::internal_qemu("storage type 'dir' needs format 'fat'"));
    }
    Ok(Props::driver("vvfat")
        .with("dir", link.source.dir.clone().unwrap_or_default())
        .with("floppy", link.common.floppy)
        .with("rw", !link.read_only))
}

fn nvme(source: &Source) -> Props {
    let at = source.address.unwrap_or_default();
    let number = |value: Option<u32>| value.unwrap_or_default();
    let device = format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        number(at.domain),
        number(at.bus),
        number(at.slot),
        number(at.function)
    );
    Props::driver("nvme")
        .with("device", device)
        .with("namespace", source.namespace.unwrap_or_default())
}

fn network(source: &Source, refs: &Refs) -> Result<Props> {
    let protocol = source
        .protocol
        .ok_or_else(|| Error::xml("missing network source protocol type"))?;
    match protocol {
        NetProtocol::Nbd => nbd(source, refs),
        NetProtocol::Rbd => Ok(rbd(source, refs)),
        NetProtocol::Iscsi => iscsi(source, refs),
        NetProtocol::Http | NetProtocol::Https | NetProtocol::Ftp | NetProtocol::Ftps | NetProtocol::Tftp => {
            curl(protocol, source, refs)
        }
        NetProtocol::Ssh => ssh(source),
        NetProtocol::Gluster => gluster(source, refs.debug),
        NetProtocol::Nfs => nfs(source),
        NetProtocol::Sheepdog | NetProtocol::Vxhs => Err(Error::unsupported(format!(
            "protocol '{}' is not supported by this QEMU binary",
            protocol.as_str()
        ))),
    }
}

/// Ports that a protocol uses when the document names none.
fn default_port(protocol: NetProtocol) -> u32 {
    const PORTS: [(NetProtocol, u32); 9] = [
        (NetProtocol::Http, 80),
        (NetProtocol::Https, 443),
        (NetProtocol::Ftp, 21),
        (NetProtocol::Ftps, 990),
        (NetProtocol::Tftp, 69),
        (NetProtocol::Ssh, 22),
        (NetProtocol::Nbd, 10809),
        (NetProtocol::Iscsi, 3260),
        (NetProtocol::Gluster, 24007),
    ];
    PORTS
        .iter()
        .find(|(known, _)| *known == protocol)
        .map_or(0, |(_, port)| *port)
}

fn port(host: &StorageHost, protocol: NetProtocol) -> u32 {
    host.port
        .filter(|port| *port != 0)
        .unwrap_or_else(|| default_port(protocol))
}

fn only_host(source: &Source) -> Result<&StorageHost> {
    match source.hosts.as_slice() {
        [host] => Ok(host),
        _ => {
            let named = match source.protocol.unwrap_or_default() {
                NetProtocol::Iscsi => "iSCSI protocol".to_owned(),
                protocol @ (NetProtocol::Nbd | NetProtocol::Ssh) => format!("{} protocol", protocol.as_str()),
                protocol => format!("protocol '{}'", protocol.as_str()),
            };
            Err(Error::internal_qemu(format!("{named} accepts only one host")))
        }
    }
}

/// A server without the `type` key, as RBD and SSH take it.
fn plain_address(host: &StorageHost, protocol: NetProtocol) -> Value {
    json!({"host": host.name.clone().unwrap_or_default(), "port": port(host, protocol).to_string()})
}

/// A server as a `SocketAddress`.
fn socket_address(host: &StorageHost, protocol: NetProtocol) -> Result<Value> {
    match host.transport.unwrap_or_default() {
        HostTransport::Tcp => Ok(json!({
            "type": "inet",
            "host": host.name.clone().unwrap_or_default(),
            "port": port(host, protocol).to_string(),
        })),
        HostTransport::Unix => Ok(json!({"type": "unix", "path": host.socket.clone().unwrap_or_default()})),
        HostTransport::Rdma => Err(Error::internal_qemu(
            "transport protocol 'rdma' is not yet supported",
        )),
    }
}

fn nbd(source: &Source, refs: &Refs) -> Result<Props> {
    let server = socket_address(only_host(source)?, NetProtocol::Nbd)?;
    let delay = source.reconnect.as_ref().and_then(|reconnect| reconnect.delay);
    Ok(Props::driver("nbd")
        .with("server", server)
        .with_opt("export", source.name.clone())
        .with_opt("tls-creds", refs.tls.clone())
        .with_opt("tls-hostname", source.tls_hostname.clone())
        .with_opt("reconnect-delay", delay.filter(|delay| *delay != 0)))
}

fn rbd(source: &Source, refs: &Refs) -> Props {
    let name = source.name.as_deref().unwrap_or_default();
    let (pool, image) = name.split_once('/').unwrap_or((name, ""));
    let servers: Vec<_> = source
        .hosts
        .iter()
        .map(|host| plain_address(host, NetProtocol::Rbd))
        .collect();
    let user = source.auth.as_ref().and_then(|auth| auth.username.clone());
    Props::driver("rbd")
        .with("pool", pool)
        .with("image", image)
        .with_opt("snapshot", source.snapshot.clone())
        .with_opt("conf", source.config.clone())
        .with_opt("server", (!servers.is_empty()).then_some(servers))
        .with_opt("user", user.filter(|_| refs.auth.is_some()))
        .with_opt(
            "auth-client-required",
            refs.auth.as_ref().map(|_| json!(["cephx", "none"])),
        )
        .with_opt("key-secret", refs.auth.clone())
        .with_opt("encrypt", refs.encrypt.clone())
}

fn iscsi(source: &Source, refs: &Refs) -> Result<Props> {
    let host = only_host(source)?;
    let name = source.name.as_deref().unwrap_or_default();
    let (target, lun) = match name.rsplit_once('/') {
        Some((target, lun)) => {
            let lun = lun.parse::<u32>();
            (
                target,
                lun.map_err(|_| Error::internal_qemu(format!("cannot parse target for lunStr '{name}'")))?,
            )
        }
        None => (name, 0),
    };
    let host_name = host.name.as_deref().unwrap_or_default();
    let host_name = if host_name.contains(':') {
        format!("[{host_name}]")
    } else {
        host_name.to_owned()
    };
    let user = source.auth.as_ref().and_then(|auth| auth.username.clone());
    Ok(Props::driver("iscsi")
        .with(
            "portal",
            format!("{host_name}:{}", port(host, NetProtocol::Iscsi)),
        )
        .with("target", target)
        .with("lun", lun)
        .with("transport", "tcp")
        .with_opt("user", user.filter(|_| refs.auth.is_some()))
        .with_opt("password-secret", refs.auth.clone())
        .with_opt(
            "initiator-name",
            source
                .initiator
                .as_ref()
                .and_then(|initiator| initiator.iqn.clone()),
        ))
}

fn curl(protocol: NetProtocol, source: &Source, refs: &Refs) -> Result<Props> {
    let host = only_host(source)?;
    let path = source.name.as_deref().unwrap_or_default().trim_start_matches('/');
    let query = source
        .query
        .as_ref()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let name = host.name.as_deref().unwrap_or_default();
    let name = if name.contains(':') {
        format!("[{name}]")
    } else {
        name.to_owned()
    };
    let url = format!(
        "{protocol}://{name}:{}/{path}{query}",
        port(host, protocol),
        protocol = protocol.as_str()
    );
    let user = source.auth.as_ref().and_then(|auth| auth.username.clone());
    let verify = source.ssl.as_ref().and_then(|ssl| ssl.verify);
    Ok(Props::driver(protocol.as_str())
        .with("url", url)
        .with_opt("username", user)
        .with_opt("password-secret", refs.auth.clone())
        .with_opt("sslverify", verify.map(YesNo::is_yes))
        .with_opt("cookie-secret", refs.cookie.clone())
        .with_opt("timeout", source.timeout.as_ref().map(|timeout| timeout.seconds))
        .with_opt(
            "readahead",
            source.readahead.as_ref().map(|readahead| readahead.size),
        ))
}

fn ssh(source: &Source) -> Result<Props> {
    let server = plain_address(only_host(source)?, NetProtocol::Ssh);
    let identity = source.identity.as_ref();
    let user = identity.and_then(|identity| identity.username.clone());
    let user = user.or_else(|| source.auth.as_ref().and_then(|auth| auth.username.clone()));
    Ok(Props::driver("ssh")
        .with("path", source.name.clone().unwrap_or_default())
        .with("server", server)
        .with_opt("user", user))
}

fn gluster(source: &Source, debug: Option<u32>) -> Result<Props> {
    const DEBUG_LEVEL: u32 = 4;
    let name = source.name.as_deref().unwrap_or_default();
    let (volume, path) = name
        .split_once('/')
        .ok_or_else(|| Error::xml(format!("missing path of image in gluster source '{name}'")))?;
    let servers: Result<Vec<_>> = source
        .hosts
        .iter()
        .map(|host| socket_address(host, NetProtocol::Gluster))
        .collect();
    Ok(Props::driver("gluster")
        .with("volume", volume)
        .with("path", path)
        .with("server", servers?)
        .with("debug", debug.unwrap_or(DEBUG_LEVEL)))
}

fn nfs(source: &Source) -> Result<Props> {
    let host = only_host(source)?;
    let identity = source.identity.as_ref();
    let number =
        |text: Option<&String>| text.and_then(|text| text.trim_start_matches('+').parse::<u32>().ok());
    Ok(Props::driver("nfs")
        .with(
            "server",
            json!({"host": host.name.clone().unwrap_or_default(), "type": "inet"}),
        )
        .with("path", source.name.clone().unwrap_or_default())
        .with_opt(
            "user",
            number(identity.and_then(|identity| identity.user.as_ref())),
        )
        .with_opt(
            "group",
            number(identity.and_then(|identity| identity.group.as_ref())),
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_that_have_one_host_say_so_in_their_own_words() {
        for (protocol, said) in [
            (NetProtocol::Nbd, "nbd protocol accepts only one host"),
            (NetProtocol::Iscsi, "iSCSI protocol accepts only one host"),
            (NetProtocol::Ssh, "ssh protocol accepts only one host"),
            (NetProtocol::Http, "protocol 'http' accepts only one host"),
        ] {
            let source = Source {
                protocol: Some(protocol),
                hosts: vec![StorageHost::default(); 2],
                ..Source::default()
            };
            let error = only_host(&source).unwrap_err().to_string();
            assert_eq!(error, format!("internal error: {said}"));
        }
    }
}

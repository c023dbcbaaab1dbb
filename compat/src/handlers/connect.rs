//! The connection itself: authentication, opening, features, identity, versions.

use unixfd::PeerCred;
use wire::consts::VIR_CONNECT_RO;
use wire::remote::*;
use wire::typed::{TypedParam, TypedValue};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::Reply;
use crate::conn::Open;
use crate::ctx::{Ctx, Effect, internal, not_open};
use crate::proto::{GetInfoRequest, GetVersionsRequest};

/// The feature of the protocol that makes the server ping: the only one known before anything is open.
const PROGRAM_KEEPALIVE: i32 = 10;
/// Features that a client may rely on. By number: migration 2, peer to peer, 3, change protection, descriptors, text
/// parameters, keepalive, migratable XML, offline, parameters, callbacks with ids, close callback, network updates.
const FEATURES: [i32; 13] = [3, 4, 6, 7, 8, 9, PROGRAM_KEEPALIVE, 11, 12, 13, 14, 15, 16];

pub(crate) async fn auth_list(ctx: &Ctx, _: AuthList) -> Reply<AuthListRet> {
    let must_ask = ctx.conn.options.authority.asks(ctx.conn.socket) && ctx.conn.cred.uid != 0;
    if must_ask && !ctx.conn.is_authenticated() {
        return Ok(AuthListRet {
            types: vec![AuthType::POLKIT].into(),
        });
    }
    ctx.then(Effect::Authenticated);
    Ok(AuthListRet {
        types: vec![AuthType::NONE].into(),
    })
}

pub(crate) async fn auth_polkit(ctx: &Ctx, _: AuthPolkit) -> Reply<AuthPolkitRet> {
    let ask = ctx
        .conn
        .options
        .authority
        .of(ctx.conn.socket)
        .filter(|_| !ctx.conn.is_authenticated());
    let ask = ask.ok_or_else(not_authenticated)?;
    if !ask(ctx.conn.cred, ctx.conn.socket).await {
        return Err(not_authenticated().into());
    }
    ctx.then(Effect::Authenticated);
    Ok(AuthPolkitRet { complete: 1 })
}

pub(crate) async fn no_sasl_init(_: &Ctx, _: AuthSaslInit) -> Reply<AuthSaslInitRet> {
    Err(not_authenticated().into())
}

pub(crate) async fn no_sasl_start(_: &Ctx, _: AuthSaslStart) -> Reply<AuthSaslStartRet> {
    Err(not_authenticated().into())
}

pub(crate) async fn no_sasl_step(_: &Ctx, _: AuthSaslStep) -> Reply<AuthSaslStepRet> {
    Err(not_authenticated().into())
}

fn not_authenticated() -> WireError {
    WireError::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, "authentication failed")
}

pub(crate) async fn open(ctx: &Ctx, args: ConnectOpen) -> Reply<()> {
    // A second open fails, and takes the first one with it.
    if ctx.conn.set_open(None).is_some() {
        return Err(internal("connection already open").into());
    }
    let name = args.name.ok_or_else(|| internal("connection not open"))?;
    let uri = local_uri(&name.to_str(), ctx.conn.options.system)?;
    ctx.conn.set_open(Some(Open {
        uri,
        read_only: args.flags & VIR_CONNECT_RO != 0,
    }));
    ctx.then(Effect::Opened);
    Ok(())
}

pub(crate) async fn close(ctx: &Ctx, _: ConnectClose) -> Reply<()> {
    ctx.conn.set_open(None);
    ctx.then(Effect::Close);
    Ok(())
}

pub(crate) async fn supports_feature(
    ctx: &Ctx,
    args: ConnectSupportsFeature,
) -> Reply<ConnectSupportsFeatureRet> {
    if args.feature == PROGRAM_KEEPALIVE {
        ctx.then(Effect::Keepalive);
    } else if !ctx.conn.is_open() {
        return Err(not_open().into());
    }
    Ok(ConnectSupportsFeatureRet {
        supported: i32::from(FEATURES.contains(&args.feature)),
    })
}

pub(crate) async fn set_identity(ctx: &Ctx, args: ConnectSetIdentity) -> Reply<()> {
    // Only who may do all may speak for others; whoever else does speaks for himself.
    if ctx.conn.cred.uid == 0 {
        ctx.conn
            .speak_for(identity(ctx.conn.cred, &args.params), args.params.to_vec());
        ctx.then(Effect::Identity);
    }
    Ok(())
}

pub(crate) async fn get_type(_: &Ctx, _: ConnectGetType) -> Reply<ConnectGetTypeRet> {
    Ok(ConnectGetTypeRet {
        r#type: "QEMU".into(),
    })
}

pub(crate) async fn get_lib_version(ctx: &Ctx, _: ConnectGetLibVersion) -> Reply<ConnectGetLibVersionRet> {
    let lib_ver = lib_version(ctx).await?;
    Ok(ConnectGetLibVersionRet { lib_ver })
}

/// The version of libvirt's API that the service has; it is asked once on a connection.
pub(crate) async fn lib_version(ctx: &Ctx) -> Reply<u64> {
    let lib_ver = match ctx.conn.version() {
        Some(known) => known,
        None => {
            let versions = ctx.host().get_versions(GetVersionsRequest {}).await?;
            versions.libvirt_api
        }
    };
    ctx.conn.know_version(lib_ver);
    Ok(lib_ver)
}

pub(crate) async fn get_uri(ctx: &Ctx, _: ConnectGetUri) -> Reply<ConnectGetUriRet> {
    Ok(ConnectGetUriRet {
        uri: ctx.opened()?.uri.into(),
    })
}

pub(crate) async fn get_hostname(ctx: &Ctx, _: ConnectGetHostname) -> Reply<ConnectGetHostnameRet> {
    let info = ctx.host().get_info(GetInfoRequest {}).await?;
    Ok(ConnectGetHostnameRet {
        hostname: info.hostname.into(),
    })
}

/// Nothing is to be remembered: the connection to QEMU's guests is the daemon itself, and ends with the socket.
pub(crate) async fn register_close_callback(_: &Ctx, _: ConnectRegisterCloseCallback) -> Reply<()> {
    Ok(())
}

pub(crate) async fn unregister_close_callback(_: &Ctx, _: ConnectUnregisterCloseCallback) -> Reply<()> {
    Ok(())
}

/// The URI that `name` opens here.
fn local_uri(name: &str, system: bool) -> Result<String, WireError> {
    let own = if system {
        "qemu:///system"
    } else {
        "qemu:///session"
    };
    if name.is_empty() {
        return Ok(own.to_owned());
    }
    let no_driver = |detail: &str| WireError::new(ErrorCode::NO_CONNECT, ErrorDomain::NONE, detail);
    let Some((scheme, rest)) = name.split_once(':') else {
        return Err(no_driver(&format!("URI '{name}' does not include a driver name")));
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme != "qemu" || !host.is_empty() {
        return Err(no_driver(name));
    }
    match path {
        "/session" => Ok(name.to_owned()),
        "/system" if system => Ok(name.to_owned()),
        _ => {
            let detail = format!("unexpected qemu URI path '{path}', try {own}");
            Err(WireError::new(
                ErrorCode::INTERNAL_ERROR,
                ErrorDomain::NONE,
                &detail,
            ))
        }
    }
}

/// The identity that `params` describe; what they do not say is the peer's own.
fn identity(own: PeerCred, params: &[TypedParam]) -> PeerCred {
    let number = |field: &str| {
        let param = params
            .iter()
            .find(|param| param.field.as_bytes() == field.as_bytes())?;
        match param.value {
            TypedValue::Ullong(value) => u32::try_from(value).ok(),
            TypedValue::Llong(value) => u32::try_from(value).ok(),
            TypedValue::Uint(value) => Some(value),
            _ => None,
        }
    };
    PeerCred {
        pid: number("process-id")
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or(own.pid),
        uid: number("unix-user-id").unwrap_or(own.uid),
        gid: number("unix-group-id").unwrap_or(own.gid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(name: &str, system: bool) -> String {
        local_uri(name, system).unwrap_or_else(|error| format!("{:?} {error}", error.code))
    }

    #[test]
    fn uris_open_what_they_open_in_libvirt() {
        let cases = [
            ("", "qemu:///system"),
            ("qemu:///system", "qemu:///system"),
            ("qemu:///session", "qemu:///session"),
            ("qemu:/system", "qemu:/system"),
            ("qemu:///system?x=1", "qemu:///system?x=1"),
            ("qemu://user@/system", "qemu://user@/system"),
            (
                "qemu:///nope",
                "INTERNAL_ERROR internal error: unexpected qemu URI path '/nope', try qemu:///system",
            ),
            (
                "bogus",
                "NO_CONNECT no connection driver available for URI 'bogus' does not include a driver name",
            ),
            (
                "QEMU:///system",
                "NO_CONNECT no connection driver available for QEMU:///system",
            ),
            (
                "qemu+unix:///system",
                "NO_CONNECT no connection driver available for qemu+unix:///system",
            ),
            (
                "qemu://host/system",
                "NO_CONNECT no connection driver available for qemu://host/system",
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(opened(name, true), expected);
        }
        let refused =
            "INTERNAL_ERROR internal error: unexpected qemu URI path '/system', try qemu:///session";
        assert_eq!(opened("qemu:///system", false), refused);
    }

    #[test]
    fn who_speaks_for_another_keeps_what_is_not_said() {
        let own = PeerCred {
            pid: 7,
            uid: 0,
            gid: 0,
        };
        let params = [
            TypedParam::new("unix-user-id", 1000_u64),
            TypedParam::new("user-name", "joe"),
        ];
        assert_eq!(
            identity(own, &params),
            PeerCred {
                pid: 7,
                uid: 1000,
                gid: 0
            }
        );
    }
}

//! The administration program: servers, their clients and limits, the log, the daemon's end.

use wire::admin::*;
use wire::params::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::Reply;
use super::args;
use super::flags::Flags;
use crate::conn::Open;
use crate::ctx::{Ctx, Effect, Failure};
use crate::proto::{
    Client, DisconnectClientRequest, GetClientRequest, GetLoggingRequest, GetServerRequest,
    ListClientsRequest, ListServersRequest, Server, SetClientLimitsRequest, SetIdleLimitRequest,
    SetLoggingRequest, SetWorkersRequest, ShutDownRequest, UpdateTlsFilesRequest,
};

/// The only transport that this daemon has: Unix sockets.
const TRANSPORT_UNIX: u32 = 0;
/// Guests are taken care of before the daemon ends.
pub(crate) const SHUTDOWN_PRESERVE: u32 = 1;

pub(crate) async fn open(ctx: &Ctx, _: ConnectOpen, flags: Flags) -> Reply<()> {
    flags.checked()?;
    ctx.conn.set_open(Some(Open {
        uri: String::new(),
        read_only: false,
    }));
    ctx.then(Effect::Opened);
    Ok(())
}

pub(crate) async fn close(ctx: &Ctx, _: ConnectClose) -> Reply<()> {
    ctx.conn.set_open(None);
    ctx.then(Effect::Close);
    Ok(())
}

pub(crate) async fn get_lib_version(ctx: &Ctx, _: ConnectGetLibVersion) -> Reply<ConnectGetLibVersionRet> {
    let lib_ver = super::connect::lib_version(ctx).await?;
    Ok(ConnectGetLibVersionRet { lib_ver })
}

pub(crate) async fn list_servers(
    ctx: &Ctx,
    args: ConnectListServers,
    flags: Flags,
) -> Reply<ConnectListServersRet> {
    flags.checked()?;
    let servers = ctx.admin().list_servers(ListServersRequest {}).await?;
    let servers = servers.servers;
    let ret = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let wanted = servers.into_iter().filter(|_| args.need_results != 0);
    let named = wanted.map(|server| NonnullServer {
        name: server.name.into(),
    });
    Ok(ConnectListServersRet {
        servers: named.collect::<Vec<_>>().into(),
        ret,
    })
}

pub(crate) async fn lookup_server(ctx: &Ctx, args: ConnectLookupServer) -> Reply<ConnectLookupServerRet> {
    let found = server(ctx, &args.name).await?;
    Ok(ConnectLookupServerRet {
        srv: NonnullServer {
            name: found.name.into(),
        },
    })
}

pub(crate) async fn get_workers(
    ctx: &Ctx,
    args: ServerGetThreadpoolParameters,
    flags: Flags,
) -> Reply<ServerGetThreadpoolParametersRet> {
    let found = server(ctx, &args.srv.name).await?;
    flags.checked()?;
    let workers = found.workers.unwrap_or_default();
    let params = vec![
        VIR_THREADPOOL_WORKERS_MIN.with(workers.min),
        VIR_THREADPOOL_WORKERS_MAX.with(workers.max),
        VIR_THREADPOOL_WORKERS_CURRENT.with(workers.count),
        VIR_THREADPOOL_WORKERS_FREE.with(workers.free),
        VIR_THREADPOOL_WORKERS_PRIORITY.with(workers.priority),
        VIR_THREADPOOL_JOB_QUEUE_DEPTH.with(workers.waiting),
    ];
    Ok(ServerGetThreadpoolParametersRet {
        params: params.into(),
    })
}

pub(crate) async fn set_workers(ctx: &Ctx, args: ServerSetThreadpoolParameters, flags: Flags) -> Reply<()> {
    server(ctx, &args.srv.name).await?;
    flags.checked()?;
    args::params(
        &args.params,
        &[
            VIR_THREADPOOL_WORKERS_MIN,
            VIR_THREADPOOL_WORKERS_MAX,
            VIR_THREADPOOL_WORKERS_PRIORITY,
        ],
    )?;
    let request = SetWorkersRequest {
        server: args.srv.name.into_string(),
        min: number(&args.params, VIR_THREADPOOL_WORKERS_MIN),
        max: number(&args.params, VIR_THREADPOOL_WORKERS_MAX),
        priority: number(&args.params, VIR_THREADPOOL_WORKERS_PRIORITY),
        options: None,
    };
    ctx.admin().set_workers(request).await?;
    Ok(())
}

pub(crate) async fn list_clients(
    ctx: &Ctx,
    args: ServerListClients,
    flags: Flags,
) -> Reply<ServerListClientsRet> {
    let name = args.srv.name.into_string();
    server(ctx, &name.as_str().into()).await?;
    flags.checked()?;
    let request = ListClientsRequest {
        server: name.clone(),
        ..ListClientsRequest::default()
    };
    let clients = ctx.admin().list_clients(request).await?.clients;
    let ret = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    let wanted = clients.iter().filter(|_| args.need_results != 0);
    let found = wanted.map(|client| nonnull(&name, client));
    Ok(ServerListClientsRet {
        clients: found.collect::<Vec<_>>().into(),
        ret,
    })
}

pub(crate) async fn lookup_client(
    ctx: &Ctx,
    args: ServerLookupClient,
    flags: Flags,
) -> Reply<ServerLookupClientRet> {
    let name = args.srv.name.into_string();
    server(ctx, &name.as_str().into()).await?;
    flags.checked()?;
    let found = client(ctx, name.clone(), args.id).await?;
    Ok(ServerLookupClientRet {
        clnt: nonnull(&name, &found),
    })
}

pub(crate) async fn get_client_info(ctx: &Ctx, args: ClientGetInfo, flags: Flags) -> Reply<ClientGetInfoRet> {
    let id = args.clnt.id;
    let found = match client(ctx, args.clnt.srv.name.into_string(), id).await {
        Err(Failure(error)) if error.code == ErrorCode::NO_CLIENT => {
            let text = format!("no client with matching id '{id}' found");
            return Err(WireError::new(ErrorCode::NO_CLIENT, ErrorDomain::ADMIN, &text).into());
        }
        found => found?,
    };
    flags.checked()?;
    let identity = found.identity.unwrap_or_default();
    let signed = |number: Option<u32>| number.map(|number| number.cast_signed());
    let process = identity.process.and_then(|pid| i32::try_from(pid).ok());
    let mut params = vec![VIR_CLIENT_INFO_READONLY.with(found.read_only)];
    let mut say = |param: Param, value: Option<TypedValue>| {
        params.extend(value.map(|value| param.with(value)));
    };
    say(
        VIR_CLIENT_INFO_SASL_USER_NAME,
        identity.sasl_user_name.map(Into::into),
    );
    say(
        VIR_CLIENT_INFO_X509_DISTINGUISHED_NAME,
        identity.x509_name.map(Into::into),
    );
    say(
        VIR_CLIENT_INFO_UNIX_USER_ID,
        signed(identity.user).map(Into::into),
    );
    say(VIR_CLIENT_INFO_UNIX_USER_NAME, identity.user_name.map(Into::into));
    say(
        VIR_CLIENT_INFO_UNIX_GROUP_ID,
        signed(identity.group).map(Into::into),
    );
    say(
        VIR_CLIENT_INFO_UNIX_GROUP_NAME,
        identity.group_name.map(Into::into),
    );
    say(VIR_CLIENT_INFO_UNIX_PROCESS_ID, process.map(Into::into));
    say(
        VIR_CLIENT_INFO_SELINUX_CONTEXT,
        identity.selinux_label.map(Into::into),
    );
    Ok(ClientGetInfoRet {
        params: params.into(),
    })
}

pub(crate) async fn close_client(ctx: &Ctx, args: ClientClose, flags: Flags) -> Reply<()> {
    let name = args.clnt.srv.name.into_string();
    client(ctx, name.clone(), args.clnt.id).await?;
    flags.checked()?;
    let request = DisconnectClientRequest {
        server: name,
        id: args.clnt.id,
        options: None,
    };
    ctx.admin().disconnect_client(request).await?;
    Ok(())
}

pub(crate) async fn get_client_limits(
    ctx: &Ctx,
    args: ServerGetClientLimits,
    flags: Flags,
) -> Reply<ServerGetClientLimitsRet> {
    let found = server(ctx, &args.srv.name).await?;
    flags.checked()?;
    let clients = found.clients.unwrap_or_default();
    let params = vec![
        VIR_SERVER_CLIENTS_MAX.with(clients.max),
        VIR_SERVER_CLIENTS_CURRENT.with(clients.count),
        VIR_SERVER_CLIENTS_UNAUTH_MAX.with(clients.max_anonymous),
        VIR_SERVER_CLIENTS_UNAUTH_CURRENT.with(clients.anonymous),
    ];
    Ok(ServerGetClientLimitsRet {
        params: params.into(),
    })
}

pub(crate) async fn set_client_limits(ctx: &Ctx, args: ServerSetClientLimits, flags: Flags) -> Reply<()> {
    server(ctx, &args.srv.name).await?;
    flags.checked()?;
    args::params(
        &args.params,
        &[VIR_SERVER_CLIENTS_MAX, VIR_SERVER_CLIENTS_UNAUTH_MAX],
    )?;
    let request = SetClientLimitsRequest {
        server: args.srv.name.into_string(),
        max: number(&args.params, VIR_SERVER_CLIENTS_MAX),
        max_anonymous: number(&args.params, VIR_SERVER_CLIENTS_UNAUTH_MAX),
        options: None,
    };
    ctx.admin().set_client_limits(request).await?;
    Ok(())
}

pub(crate) async fn get_log_outputs(
    ctx: &Ctx,
    _: ConnectGetLoggingOutputs,
    flags: Flags,
) -> Reply<ConnectGetLoggingOutputsRet> {
    flags.checked()?;
    let log = ctx.admin().get_logging(GetLoggingRequest {}).await?;
    Ok(ConnectGetLoggingOutputsRet {
        noutputs: u32::try_from(log.outputs.len()).unwrap_or(u32::MAX),
        outputs: log.outputs.join(" ").into(),
    })
}

pub(crate) async fn get_log_filters(
    ctx: &Ctx,
    _: ConnectGetLoggingFilters,
    flags: Flags,
) -> Reply<ConnectGetLoggingFiltersRet> {
    flags.checked()?;
    let log = ctx.admin().get_logging(GetLoggingRequest {}).await?;
    let filters: String = log.filters.iter().map(|filter| format!("{filter} ")).collect();
    Ok(ConnectGetLoggingFiltersRet {
        filters: Some(filters).filter(|text| !text.is_empty()).map(Text::from),
        nfilters: u32::try_from(log.filters.len()).unwrap_or(u32::MAX),
    })
}

pub(crate) async fn set_log_outputs(ctx: &Ctx, args: ConnectSetLoggingOutputs, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = SetLoggingRequest {
        outputs: Some(args::text(args.outputs)),
        ..SetLoggingRequest::default()
    };
    ctx.admin().set_logging(request).await?;
    Ok(())
}

pub(crate) async fn set_log_filters(ctx: &Ctx, args: ConnectSetLoggingFilters, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = SetLoggingRequest {
        filters: Some(args::text(args.filters)),
        ..SetLoggingRequest::default()
    };
    ctx.admin().set_logging(request).await?;
    Ok(())
}

pub(crate) async fn update_tls_files(ctx: &Ctx, args: ServerUpdateTlsFiles, flags: Flags) -> Reply<()> {
    server(ctx, &args.srv.name).await?;
    flags.checked()?;
    let request = UpdateTlsFilesRequest {
        server: args.srv.name.into_string(),
        options: None,
    };
    ctx.admin().update_tls_files(request).await?;
    Ok(())
}

pub(crate) async fn set_timeout(ctx: &Ctx, args: ConnectSetDaemonTimeout, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let limit = prost_types::Duration {
        seconds: args.timeout.into(),
        nanos: 0,
    };
    let request = SetIdleLimitRequest {
        limit: Some(limit),
        options: None,
    };
    ctx.admin().set_idle_limit(request).await?;
    Ok(())
}

pub(crate) async fn shut_down(ctx: &Ctx, _: ConnectDaemonShutdown, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = ShutDownRequest {
        preserve: flags & SHUTDOWN_PRESERVE != 0,
        options: None,
    };
    ctx.admin().shut_down(request).await?;
    Ok(())
}

async fn server(ctx: &Ctx, name: &Text) -> Reply<Server> {
    let request = GetServerRequest {
        server: name.to_str().into_owned(),
    };
    Ok(ctx.admin().get_server(request).await?)
}

async fn client(ctx: &Ctx, server: String, id: u64) -> Reply<Client> {
    let request = GetClientRequest { server, id };
    Ok(ctx.admin().get_client(request).await?)
}

fn nonnull(server: &str, client: &Client) -> NonnullClient {
    NonnullClient {
        srv: NonnullServer { name: server.into() },
        id: client.id,
        timestamp: client.connected.as_ref().map_or(0, |time| time.seconds),
        transport: TRANSPORT_UNIX,
    }
}

fn number(params: &[TypedParam], param: Param) -> Option<u32> {
    match param.find(params) {
        Some(TypedValue::Uint(number)) => Some(*number),
        _ => None,
    }
}

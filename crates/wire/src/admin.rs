//! The administration program, served on a socket of its own.

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::typed::TypedParam;
use crate::xdr::{List, Text};
use crate::{limits, procedures, xdr_struct};

limits! {
    SERVER_LIST_MAX = 16_384;
    SERVER_THREADPOOL_PARAMETERS_MAX = 32;
    CLIENT_LIST_MAX = 16_384;
    CLIENT_INFO_PARAMETERS_MAX = 64;
    SERVER_CLIENT_LIMITS_MAX = 32;
}

xdr_struct! {
    NonnullServer { name: Text }
    NonnullClient { srv: NonnullServer, id: u64, timestamp: i64, transport: u32 }
}

procedures! {
    Admin = 0x0690_0690, version 1;
    1 Low ConnectOpen "virAdmConnectOpen" { flags: u32 } [daemon];
    2 Low ConnectClose "virAdmConnectClose" {} [daemon];
    3 Low ConnectGetLibVersion "virAdmConnectGetLibVersion" {} -> ConnectGetLibVersionRet { lib_ver: u64 } [daemon];
    4 Low ConnectListServers "virAdmConnectListServers" { need_results: u32, flags: u32 } -> ConnectListServersRet { servers: List<NonnullServer, SERVER_LIST_MAX>,
        ret: u32 } [daemon];
    5 Low ConnectLookupServer "virAdmConnectLookupServer" { name: Text, flags: u32 } -> ConnectLookupServerRet { srv: NonnullServer } [daemon];
    6 Low ServerGetThreadpoolParameters "virAdmServerGetThreadpoolParameters" { srv: NonnullServer, flags: u32 }
        -> ServerGetThreadpoolParametersRet { params: List<TypedParam, SERVER_THREADPOOL_PARAMETERS_MAX> } [daemon];
    7 Low ServerSetThreadpoolParameters "virAdmServerSetThreadpoolParameters" { srv: NonnullServer, params: List<TypedParam, SERVER_THREADPOOL_PARAMETERS_MAX>, flags: u32 }
        [daemon];
    8 Low ServerListClients "virAdmServerListClients" { srv: NonnullServer, need_results: u32, flags: u32 }
        -> ServerListClientsRet { clients: List<NonnullClient, CLIENT_LIST_MAX>, ret: u32 } [daemon];
    9 Low ServerLookupClient "virAdmServerLookupClient" { srv: NonnullServer, id: u64, flags: u32 } -> ServerLookupClientRet { clnt: NonnullClient } [daemon];
    10 Low ClientGetInfo "virAdmClientGetInfo" { clnt: NonnullClient, flags: u32 } -> ClientGetInfoRet { params: List<TypedParam, CLIENT_INFO_PARAMETERS_MAX> }
        [daemon];
    11 Low ClientClose "virAdmClientClose" { clnt: NonnullClient, flags: u32 } [daemon];
    12 Low ServerGetClientLimits "virAdmServerGetClientLimits" { srv: NonnullServer, flags: u32 }
        -> ServerGetClientLimitsRet { params: List<TypedParam, SERVER_CLIENT_LIMITS_MAX> } [daemon];
    13 Low ServerSetClientLimits "virAdmServerSetClientLimits" { srv: NonnullServer, params: List<TypedParam, SERVER_CLIENT_LIMITS_MAX>, flags: u32 } [daemon];
    14 Low ConnectGetLoggingOutputs "virAdmConnectGetLoggingOutputs" { flags: u32 } -> ConnectGetLoggingOutputsRet { outputs: Text, noutputs: u32 } [daemon];
    15 Low ConnectGetLoggingFilters "virAdmConnectGetLoggingFilters" { flags: u32 } -> ConnectGetLoggingFiltersRet { filters: Option<Text>, nfilters: u32 } [daemon];
    16 Low ConnectSetLoggingOutputs "virAdmConnectSetLoggingOutputs" { outputs: Option<Text>, flags: u32 } [daemon];
    17 Low ConnectSetLoggingFilters "virAdmConnectSetLoggingFilters" { filters: Option<Text>, flags: u32 } [daemon];
    18 Low ServerUpdateTlsFiles "virAdmServerUpdateTlsFiles" { srv: NonnullServer, flags: u32 } [daemon];
    19 Low ConnectSetDaemonTimeout "virAdmConnectSetDaemonTimeout" { timeout: u32, flags: u32 } [daemon];
    20 Low ConnectDaemonShutdown "virAdmConnectDaemonShutdown" { flags: u32 } [daemon];
}

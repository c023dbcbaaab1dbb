//! The remote program: hypervisor connection, domains, and what the neighbouring daemons serve.
//!
//! One line a procedure: number, priority, arguments, reply, what it needs.
// table

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::typed::TypedParam;
use crate::xdr::{List, Opaque, Text, Uuid};
use crate::{limits, procedures, xdr_enum, xdr_struct};

limits! {
    CONNECT_IDENTITY_PARAMS_MAX = 20;
    DOMAIN_LIST_MAX = 16_384;
    CPUMAP_MAX = 2048;
    VCPUINFO_MAX = 16_384;
    CPUMAPS_MAX = 8_388_608;
    IOTHREAD_INFO_MAX = 16_384;
    MIGRATE_COOKIE_MAX = 4_194_304;
    NETWORK_LIST_MAX = 16_384;
    NETWORK_PORT_LIST_MAX = 16_384;
    INTERFACE_LIST_MAX = 16_384;
    STORAGE_POOL_LIST_MAX = 16_384;
    STORAGE_VOL_LIST_MAX = 16_384;
    NODE_DEVICE_LIST_MAX = 65_536;
    NODE_DEVICE_CAPS_LIST_MAX = 65_536;
    NWFILTER_LIST_MAX = 16_384;
    NWFILTER_BINDING_LIST_MAX = 16_384;
    DOMAIN_SCHEDULER_PARAMETERS_MAX = 16;
    DOMAIN_BLKIO_PARAMETERS_MAX = 16;
    DOMAIN_MEMORY_PARAMETERS_MAX = 16;
    DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX = 32;
    DOMAIN_NUMA_PARAMETERS_MAX = 16;
    DOMAIN_PERF_EVENTS_MAX = 64;
    DOMAIN_BLOCK_COPY_PARAMETERS_MAX = 16;
    NODE_CPU_STATS_MAX = 16;
    NODE_MEMORY_STATS_MAX = 16;
    DOMAIN_BLOCK_STATS_PARAMETERS_MAX = 16;
    NODE_MAX_CELLS = 1024;
    AUTH_SASL_DATA_MAX = 65_536;
    AUTH_TYPE_LIST_MAX = 20;
    DOMAIN_MEMORY_STATS_MAX = 1024;
    DOMAIN_CHECKPOINT_LIST_MAX = 16_384;
    DOMAIN_SNAPSHOT_LIST_MAX = 16_384;
    DOMAIN_BLOCK_PEEK_BUFFER_MAX = 4_194_304;
    DOMAIN_MEMORY_PEEK_BUFFER_MAX = 4_194_304;
    SECURITY_LABEL_LIST_MAX = 64;
    SECURITY_MODEL_MAX = 257;
    SECURITY_LABEL_MAX = 4097;
    SECURITY_DOI_MAX = 257;
    SECRET_VALUE_MAX = 65_536;
    SECRET_LIST_MAX = 16_384;
    CPU_BASELINE_MAX = 256;
    DOMAIN_SEND_KEY_MAX = 16;
    DOMAIN_INTERFACE_PARAMETERS_MAX = 16;
    DOMAIN_GET_CPU_STATS_NCPUS_MAX = 128;
    DOMAIN_GET_CPU_STATS_MAX = 2048;
    DOMAIN_DISK_ERRORS_MAX = 256;
    NODE_MEMORY_PARAMETERS_MAX = 64;
    DOMAIN_MIGRATE_PARAM_LIST_MAX = 64;
    DOMAIN_SAVE_PARAMS_MAX = 64;
    DOMAIN_JOB_STATS_MAX = 64;
    CONNECT_CPU_MODELS_MAX = 8192;
    DOMAIN_FSFREEZE_MOUNTPOINTS_MAX = 256;
    NETWORK_DHCP_LEASES_MAX = 65_536;
    CONNECT_GET_ALL_DOMAIN_STATS_MAX = 262_144;
    DOMAIN_EVENT_TUNABLE_MAX = 2048;
    DOMAIN_FSINFO_MAX = 256;
    DOMAIN_FSINFO_DISKS_MAX = 256;
    DOMAIN_INTERFACE_MAX = 2048;
    DOMAIN_IP_ADDR_MAX = 2048;
    DOMAIN_GUEST_VCPU_PARAMS_MAX = 64;
    DOMAIN_IOTHREAD_PARAMS_MAX = 64;
    NODE_SEV_INFO_MAX = 64;
    DOMAIN_LAUNCH_SECURITY_INFO_PARAMS_MAX = 64;
    DOMAIN_LAUNCH_SECURITY_STATE_PARAMS_MAX = 64;
    DOMAIN_GUEST_INFO_PARAMS_MAX = 2048;
    NETWORK_PORT_PARAMETERS_MAX = 16;
    DOMAIN_AUTHORIZED_SSH_KEYS_MAX = 2048;
    DOMAIN_MESSAGES_MAX = 2048;
    DOMAIN_EVENT_GRAPHICS_IDENTITY_MAX = 20;
}

xdr_struct! {
    NonnullDomain { name: Text, uuid: Uuid, id: i32 }
    NonnullNetwork { name: Text, uuid: Uuid }
    NonnullNetworkPort { net: NonnullNetwork, uuid: Uuid }
    NonnullNwfilter { name: Text, uuid: Uuid }
    NonnullNwfilterBinding { portdev: Text, filtername: Text }
    NonnullInterface { name: Text, mac: Text }
    NonnullStoragePool { name: Text, uuid: Uuid }
    NonnullStorageVol { pool: Text, name: Text, key: Text }
    NonnullNodeDevice { name: Text }
    NonnullSecret { uuid: Uuid, usage_type: i32, usage_id: Text }
    NonnullDomainCheckpoint { name: Text, dom: NonnullDomain }
    NonnullDomainSnapshot { name: Text, dom: NonnullDomain }
    VcpuInfo { number: u32, state: i32, cpu_time: u64, cpu: i32 }
    NodeCpuStat { field: Text, value: u64 }
    NodeMemoryStat { field: Text, value: u64 }
    DomainDiskError { disk: Text, error: i32 }
    DomainMemoryStat { tag: i32, val: u64 }
    DomainIothreadInfo { iothread_id: u32, cpumap: Opaque<CPUMAP_MAX> }
    DomainEventGraphicsAddress { family: i32, node: Text, service: Text }
    DomainEventGraphicsIdentity { r#type: Text, name: Text }
    NetworkDhcpLease { iface: Text, expirytime: i64, r#type: i32, mac: Option<Text>, iaid: Option<Text>, ipaddr: Text, prefix: u32, hostname: Option<Text>, clientid: Option<Text> }
    DomainStatsRecord { dom: NonnullDomain, params: List<TypedParam, CONNECT_GET_ALL_DOMAIN_STATS_MAX> }
    DomainFsinfo { mountpoint: Text, name: Text, fstype: Text, dev_aliases: List<Text, DOMAIN_FSINFO_DISKS_MAX> }
    DomainIpAddr { r#type: i32, addr: Text, prefix: u32 }
    DomainInterface { name: Text, hwaddr: Option<Text>, addrs: List<DomainIpAddr, DOMAIN_IP_ADDR_MAX> }
}

xdr_enum! {
    /// How a client may authenticate.
    AuthType { NONE = 0, SASL = 1, POLKIT = 2 }
}

procedures! {
    Remote = 0x2000_8086, version 1;
    1 High ConnectOpen { name: Option<Text>, flags: u32 } [daemon ro];
    2 High ConnectClose {} [daemon ro];
    3 High ConnectGetType {} -> ConnectGetTypeRet { r#type: Text } [qemu ro];
    4 High ConnectGetVersion {} -> ConnectGetVersionRet { hv_ver: u64 } [qemu ro];
    5 High ConnectGetMaxVcpus { r#type: Option<Text> } -> ConnectGetMaxVcpusRet { max_vcpus: i32 } [qemu ro];
    6 High NodeGetInfo {} -> NodeGetInfoRet { model: [i8; 32], memory: u64, cpus: i32, mhz: i32, nodes: i32, sockets: i32, cores: i32,
        threads: i32 } [qemu ro];
    7 Low ConnectGetCapabilities {} -> ConnectGetCapabilitiesRet { capabilities: Text } [qemu ro];
    8 Low DomainAttachDevice { dom: NonnullDomain, xml: Text } [qemu];
    9 Low DomainCreate { dom: NonnullDomain } [qemu];
    10 Low DomainCreateXml "virDomainCreateXML" { xml_desc: Text, flags: u32 } -> DomainCreateXmlRet { dom: NonnullDomain } [qemu];
    11 High DomainDefineXml "virDomainDefineXML" { xml: Text } -> DomainDefineXmlRet { dom: NonnullDomain } [qemu];
    12 High DomainDestroy { dom: NonnullDomain } [qemu];
    13 Low DomainDetachDevice { dom: NonnullDomain, xml: Text } [qemu];
    14 Low DomainGetXmlDesc "virDomainGetXMLDesc" { dom: NonnullDomain, flags: u32 } -> DomainGetXmlDescRet { xml: Text } [qemu ro] unless
        flags & 9;
    15 High DomainGetAutostart { dom: NonnullDomain } -> DomainGetAutostartRet { autostart: i32 } [qemu ro];
    16 Low DomainGetInfo { dom: NonnullDomain } -> DomainGetInfoRet { state: u8, max_mem: u64, memory: u64, nr_virt_cpu: u16,
        cpu_time: u64 } [qemu ro];
    17 High DomainGetMaxMemory { dom: NonnullDomain } -> DomainGetMaxMemoryRet { memory: u64 } [qemu ro];
    18 High DomainGetMaxVcpus { dom: NonnullDomain } -> DomainGetMaxVcpusRet { num: i32 } [qemu ro];
    19 High DomainGetOsType "virDomainGetOSType" { dom: NonnullDomain } -> DomainGetOsTypeRet { r#type: Text } [qemu ro];
    20 High DomainGetVcpus { dom: NonnullDomain, maxinfo: i32, maplen: i32 } -> DomainGetVcpusRet { info: List<VcpuInfo, VCPUINFO_MAX>,
        cpumaps: Opaque<CPUMAPS_MAX> } [qemu ro];
    21 High ConnectListDefinedDomains { maxnames: i32 } -> ConnectListDefinedDomainsRet { names: List<Text, DOMAIN_LIST_MAX> } [qemu ro];
    22 High DomainLookupById "virDomainLookupByID" { id: i32 } -> DomainLookupByIdRet { dom: NonnullDomain } [qemu ro];
    23 High DomainLookupByName { name: Text } -> DomainLookupByNameRet { dom: NonnullDomain } [qemu ro];
    24 High DomainLookupByUuid "virDomainLookupByUUID" { uuid: Uuid } -> DomainLookupByUuidRet { dom: NonnullDomain } [qemu ro];
    25 High ConnectNumOfDefinedDomains {} -> ConnectNumOfDefinedDomainsRet { num: i32 } [qemu ro];
    26 Low DomainPinVcpu { dom: NonnullDomain, vcpu: u32, cpumap: Opaque<CPUMAP_MAX> } [qemu];
    27 Low DomainReboot { dom: NonnullDomain, flags: u32 } [qemu];
    28 Low DomainResume { dom: NonnullDomain } [qemu];
    29 High DomainSetAutostart { dom: NonnullDomain, autostart: i32 } [qemu];
    30 High DomainSetMaxMemory { dom: NonnullDomain, memory: u64 } [qemu];
    31 Low DomainSetMemory { dom: NonnullDomain, memory: u64 } [qemu];
    32 Low DomainSetVcpus { dom: NonnullDomain, nvcpus: u32 } [qemu];
    33 Low DomainShutdown { dom: NonnullDomain } [qemu];
    34 Low DomainSuspend { dom: NonnullDomain } [qemu];
    35 High DomainUndefine { dom: NonnullDomain } [qemu];
    36 High ConnectListDefinedNetworks { maxnames: i32 } -> ConnectListDefinedNetworksRet { names: List<Text, NETWORK_LIST_MAX> } [network
        ro];
    37 High ConnectListDomains { maxids: i32 } -> ConnectListDomainsRet { ids: List<i32, DOMAIN_LIST_MAX> } [qemu ro];
    38 High ConnectListNetworks { maxnames: i32 } -> ConnectListNetworksRet { names: List<Text, NETWORK_LIST_MAX> } [network ro];
    39 Low NetworkCreate { net: NonnullNetwork } [network];
    40 Low NetworkCreateXml "virNetworkCreateXML" { xml: Text } -> NetworkCreateXmlRet { net: NonnullNetwork } [network];
    41 High NetworkDefineXml "virNetworkDefineXML" { xml: Text } -> NetworkDefineXmlRet { net: NonnullNetwork } [network];
    42 High NetworkDestroy { net: NonnullNetwork } [network];
    43 High NetworkGetXmlDesc "virNetworkGetXMLDesc" { net: NonnullNetwork, flags: u32 } -> NetworkGetXmlDescRet { xml: Text } [network ro];
    44 High NetworkGetAutostart { net: NonnullNetwork } -> NetworkGetAutostartRet { autostart: i32 } [network ro];
    45 High NetworkGetBridgeName { net: NonnullNetwork } -> NetworkGetBridgeNameRet { name: Text } [network ro];
    46 High NetworkLookupByName { name: Text } -> NetworkLookupByNameRet { net: NonnullNetwork } [network ro];
    47 High NetworkLookupByUuid "virNetworkLookupByUUID" { uuid: Uuid } -> NetworkLookupByUuidRet { net: NonnullNetwork } [network ro];
    48 High NetworkSetAutostart { net: NonnullNetwork, autostart: i32 } [network];
    49 High NetworkUndefine { net: NonnullNetwork } [network];
    50 High ConnectNumOfDefinedNetworks {} -> ConnectNumOfDefinedNetworksRet { num: i32 } [network ro];
    51 High ConnectNumOfDomains {} -> ConnectNumOfDomainsRet { num: i32 } [qemu ro];
    52 High ConnectNumOfNetworks {} -> ConnectNumOfNetworksRet { num: i32 } [network ro];
    53 Low DomainCoreDump { dom: NonnullDomain, to: Text, flags: u32 } [qemu];
    54 Low DomainRestore { from: Text } [qemu];
    55 Low DomainSave { dom: NonnullDomain, to: Text } [qemu];
    56 Low DomainGetSchedulerType { dom: NonnullDomain } -> DomainGetSchedulerTypeRet { r#type: Text, nparams: i32 } [qemu ro];
    57 Low DomainGetSchedulerParameters { dom: NonnullDomain, nparams: i32 }
        -> DomainGetSchedulerParametersRet { params: List<TypedParam, DOMAIN_SCHEDULER_PARAMETERS_MAX> } [qemu ro];
    58 Low DomainSetSchedulerParameters { dom: NonnullDomain, params: List<TypedParam, DOMAIN_SCHEDULER_PARAMETERS_MAX> } [qemu];
    59 High ConnectGetHostname {} -> ConnectGetHostnameRet { hostname: Text } [qemu ro];
    60 High ConnectSupportsFeature { feature: i32 } -> ConnectSupportsFeatureRet { supported: i32 } [daemon ro];
    61 Low DomainMigratePrepare { uri_in: Option<Text>, flags: u64, dname: Option<Text>, resource: u64 }
        -> DomainMigratePrepareRet { cookie: Opaque<MIGRATE_COOKIE_MAX>, uri_out: Option<Text> } [nobody];
    62 Low DomainMigratePerform { dom: NonnullDomain, cookie: Opaque<MIGRATE_COOKIE_MAX>, uri: Text, flags: u64, dname: Option<Text>,
        resource: u64 } [qemu];
    63 Low DomainMigrateFinish { dname: Text, cookie: Opaque<MIGRATE_COOKIE_MAX>, uri: Text, flags: u64 }
        -> DomainMigrateFinishRet { ddom: NonnullDomain } [nobody];
    64 Low DomainBlockStats { dom: NonnullDomain, path: Text } -> DomainBlockStatsRet { rd_req: i64, rd_bytes: i64, wr_req: i64,
        wr_bytes: i64, errs: i64 } [qemu ro];
    65 High DomainInterfaceStats { dom: NonnullDomain, device: Text } -> DomainInterfaceStatsRet { rx_bytes: i64, rx_packets: i64,
        rx_errs: i64, rx_drop: i64, tx_bytes: i64, tx_packets: i64, tx_errs: i64, tx_drop: i64 } [qemu ro];
    66 High AuthList {} -> AuthListRet { types: List<AuthType, AUTH_TYPE_LIST_MAX> } [daemon ro preauth];
    67 High AuthSaslInit {} -> AuthSaslInitRet { mechlist: Text } [daemon ro preauth];
    68 High AuthSaslStart { mech: Text, nil: i32, data: List<i8, AUTH_SASL_DATA_MAX> } -> AuthSaslStartRet { complete: i32, nil: i32,
        data: List<i8, AUTH_SASL_DATA_MAX> } [daemon ro preauth];
    69 High AuthSaslStep { nil: i32, data: List<i8, AUTH_SASL_DATA_MAX> } -> AuthSaslStepRet { complete: i32, nil: i32,
        data: List<i8, AUTH_SASL_DATA_MAX> } [daemon ro preauth];
    70 High AuthPolkit {} -> AuthPolkitRet { complete: i32 } [daemon ro preauth];
    71 High ConnectNumOfStoragePools {} -> ConnectNumOfStoragePoolsRet { num: i32 } [storage ro];
    72 High ConnectListStoragePools { maxnames: i32 } -> ConnectListStoragePoolsRet { names: List<Text, STORAGE_POOL_LIST_MAX> } [storage
        ro];
    73 High ConnectNumOfDefinedStoragePools {} -> ConnectNumOfDefinedStoragePoolsRet { num: i32 } [storage ro];
    74 High ConnectListDefinedStoragePools { maxnames: i32 }
        -> ConnectListDefinedStoragePoolsRet { names: List<Text, STORAGE_POOL_LIST_MAX> } [storage ro];
    75 Low ConnectFindStoragePoolSources { r#type: Text, src_spec: Option<Text>, flags: u32 }
        -> ConnectFindStoragePoolSourcesRet { xml: Text } [storage];
    76 Low StoragePoolCreateXml "virStoragePoolCreateXML" { xml: Text, flags: u32 }
        -> StoragePoolCreateXmlRet { pool: NonnullStoragePool } [storage];
    77 High StoragePoolDefineXml "virStoragePoolDefineXML" { xml: Text, flags: u32 }
        -> StoragePoolDefineXmlRet { pool: NonnullStoragePool } [storage];
    78 Low StoragePoolCreate { pool: NonnullStoragePool, flags: u32 } [storage];
    79 Low StoragePoolBuild { pool: NonnullStoragePool, flags: u32 } [storage];
    80 High StoragePoolDestroy { pool: NonnullStoragePool } [storage];
    81 Low StoragePoolDelete { pool: NonnullStoragePool, flags: u32 } [storage];
    82 High StoragePoolUndefine { pool: NonnullStoragePool } [storage];
    83 Low StoragePoolRefresh { pool: NonnullStoragePool, flags: u32 } [storage];
    84 High StoragePoolLookupByName { name: Text } -> StoragePoolLookupByNameRet { pool: NonnullStoragePool } [storage ro];
    85 High StoragePoolLookupByUuid "virStoragePoolLookupByUUID" { uuid: Uuid } -> StoragePoolLookupByUuidRet { pool: NonnullStoragePool }
        [storage ro];
    86 High StoragePoolLookupByVolume { vol: NonnullStorageVol } -> StoragePoolLookupByVolumeRet { pool: NonnullStoragePool } [storage ro];
    87 High StoragePoolGetInfo { pool: NonnullStoragePool } -> StoragePoolGetInfoRet { state: u8, capacity: u64, allocation: u64,
        available: u64 } [storage ro];
    88 High StoragePoolGetXmlDesc "virStoragePoolGetXMLDesc" { pool: NonnullStoragePool, flags: u32 }
        -> StoragePoolGetXmlDescRet { xml: Text } [storage ro];
    89 High StoragePoolGetAutostart { pool: NonnullStoragePool } -> StoragePoolGetAutostartRet { autostart: i32 } [storage ro];
    90 High StoragePoolSetAutostart { pool: NonnullStoragePool, autostart: i32 } [storage];
    91 High StoragePoolNumOfVolumes { pool: NonnullStoragePool } -> StoragePoolNumOfVolumesRet { num: i32 } [storage ro];
    92 High StoragePoolListVolumes { pool: NonnullStoragePool, maxnames: i32 }
        -> StoragePoolListVolumesRet { names: List<Text, STORAGE_VOL_LIST_MAX> } [storage ro];
    93 Low StorageVolCreateXml "virStorageVolCreateXML" { pool: NonnullStoragePool, xml: Text, flags: u32 }
        -> StorageVolCreateXmlRet { vol: NonnullStorageVol } [storage];
    94 Low StorageVolDelete { vol: NonnullStorageVol, flags: u32 } [storage];
    95 High StorageVolLookupByName { pool: NonnullStoragePool, name: Text } -> StorageVolLookupByNameRet { vol: NonnullStorageVol }
        [storage ro];
    96 High StorageVolLookupByKey { key: Text } -> StorageVolLookupByKeyRet { vol: NonnullStorageVol } [storage ro];
    97 High StorageVolLookupByPath { path: Text } -> StorageVolLookupByPathRet { vol: NonnullStorageVol } [storage ro];
    98 High StorageVolGetInfo { vol: NonnullStorageVol } -> StorageVolGetInfoRet { r#type: i8, capacity: u64, allocation: u64 } [storage
        ro];
    99 High StorageVolGetXmlDesc "virStorageVolGetXMLDesc" { vol: NonnullStorageVol, flags: u32 } -> StorageVolGetXmlDescRet { xml: Text }
        [storage ro];
    100 High StorageVolGetPath { vol: NonnullStorageVol } -> StorageVolGetPathRet { name: Text } [storage ro];
    101 High NodeGetCellsFreeMemory { start_cell: i32, maxcells: i32 } -> NodeGetCellsFreeMemoryRet { cells: List<u64, NODE_MAX_CELLS> }
        [qemu ro];
    102 High NodeGetFreeMemory {} -> NodeGetFreeMemoryRet { free_mem: u64 } [qemu ro];
    103 Low DomainBlockPeek { dom: NonnullDomain, path: Text, offset: u64, size: u32, flags: u32 }
        -> DomainBlockPeekRet { buffer: Opaque<DOMAIN_BLOCK_PEEK_BUFFER_MAX> } [qemu];
    104 Low DomainMemoryPeek { dom: NonnullDomain, offset: u64, size: u32, flags: u32 }
        -> DomainMemoryPeekRet { buffer: Opaque<DOMAIN_MEMORY_PEEK_BUFFER_MAX> } [qemu];
    105 High ConnectDomainEventRegister "virConnectDomainEventRegisterAny" {} -> ConnectDomainEventRegisterRet { cb_registered: i32 }
        [qemu ro];
    106 High ConnectDomainEventDeregister "virConnectDomainEventDeregisterAny" {}
        -> ConnectDomainEventDeregisterRet { cb_registered: i32 } [qemu ro];
    107 Low DomainEventLifecycle { dom: NonnullDomain, event: i32, detail: i32 } [event];
    108 Low DomainMigratePrepare2 { uri_in: Option<Text>, flags: u64, dname: Option<Text>, resource: u64, dom_xml: Text }
        -> DomainMigratePrepare2Ret { cookie: Opaque<MIGRATE_COOKIE_MAX>, uri_out: Option<Text> } [qemu];
    109 Low DomainMigrateFinish2 { dname: Text, cookie: Opaque<MIGRATE_COOKIE_MAX>, uri: Text, flags: u64, retcode: i32 }
        -> DomainMigrateFinish2Ret { ddom: NonnullDomain } [qemu];
    110 High ConnectGetUri "virConnectGetURI" {} -> ConnectGetUriRet { uri: Text } [daemon ro];
    111 High NodeNumOfDevices { cap: Option<Text>, flags: u32 } -> NodeNumOfDevicesRet { num: i32 } [nodedev ro];
    112 High NodeListDevices { cap: Option<Text>, maxnames: i32, flags: u32 }
        -> NodeListDevicesRet { names: List<Text, NODE_DEVICE_LIST_MAX> } [nodedev ro];
    113 High NodeDeviceLookupByName { name: Text } -> NodeDeviceLookupByNameRet { dev: NonnullNodeDevice } [nodedev ro];
    114 Low NodeDeviceGetXmlDesc "virNodeDeviceGetXMLDesc" { name: Text, flags: u32 } -> NodeDeviceGetXmlDescRet { xml: Text } [nodedev ro];
    115 High NodeDeviceGetParent { name: Text } -> NodeDeviceGetParentRet { parent_name: Option<Text> } [nodedev ro];
    116 High NodeDeviceNumOfCaps { name: Text } -> NodeDeviceNumOfCapsRet { num: i32 } [nodedev ro];
    117 High NodeDeviceListCaps { name: Text, maxnames: i32 } -> NodeDeviceListCapsRet { names: List<Text, NODE_DEVICE_CAPS_LIST_MAX> }
        [nodedev ro];
    118 Low NodeDeviceDettach { name: Text } [qemu];
    119 Low NodeDeviceReAttach { name: Text } [qemu];
    120 Low NodeDeviceReset { name: Text } [qemu];
    121 High DomainGetSecurityLabel { dom: NonnullDomain } -> DomainGetSecurityLabelRet { label: List<i8, SECURITY_LABEL_MAX>,
        enforcing: i32 } [qemu ro];
    122 High NodeGetSecurityModel {} -> NodeGetSecurityModelRet { model: List<i8, SECURITY_MODEL_MAX>, doi: List<i8, SECURITY_DOI_MAX> }
        [qemu ro];
    123 Low NodeDeviceCreateXml "virNodeDeviceCreateXML" { xml_desc: Text, flags: u32 }
        -> NodeDeviceCreateXmlRet { dev: NonnullNodeDevice } [nodedev];
    124 High NodeDeviceDestroy { name: Text } [nodedev];
    125 Low StorageVolCreateXmlFrom "virStorageVolCreateXMLFrom" { pool: NonnullStoragePool, xml: Text, clonevol: NonnullStorageVol,
        flags: u32 } -> StorageVolCreateXmlFromRet { vol: NonnullStorageVol } [storage];
    126 High ConnectNumOfInterfaces {} -> ConnectNumOfInterfacesRet { num: i32 } [interface ro];
    127 High ConnectListInterfaces { maxnames: i32 } -> ConnectListInterfacesRet { names: List<Text, INTERFACE_LIST_MAX> } [interface ro];
    128 High InterfaceLookupByName { name: Text } -> InterfaceLookupByNameRet { iface: NonnullInterface } [interface ro];
    129 High InterfaceLookupByMacString "virInterfaceLookupByMACString" { mac: Text }
        -> InterfaceLookupByMacStringRet { iface: NonnullInterface } [interface ro];
    130 Low InterfaceGetXmlDesc "virInterfaceGetXMLDesc" { iface: NonnullInterface, flags: u32 } -> InterfaceGetXmlDescRet { xml: Text }
        [interface ro];
    131 High InterfaceDefineXml "virInterfaceDefineXML" { xml: Text, flags: u32 } -> InterfaceDefineXmlRet { iface: NonnullInterface }
        [interface];
    132 High InterfaceUndefine { iface: NonnullInterface } [interface];
    133 Low InterfaceCreate { iface: NonnullInterface, flags: u32 } [interface];
    134 High InterfaceDestroy { iface: NonnullInterface, flags: u32 } [interface];
    135 Low ConnectDomainXmlFromNative "virConnectDomainXMLFromNative" { native_format: Text, native_config: Text, flags: u32 }
        -> ConnectDomainXmlFromNativeRet { domain_xml: Text } [nobody];
    136 Low ConnectDomainXmlToNative "virConnectDomainXMLToNative" { native_format: Text, domain_xml: Text, flags: u32 }
        -> ConnectDomainXmlToNativeRet { native_config: Text } [qemu];
    137 High ConnectNumOfDefinedInterfaces {} -> ConnectNumOfDefinedInterfacesRet { num: i32 } [interface ro];
    138 High ConnectListDefinedInterfaces { maxnames: i32 } -> ConnectListDefinedInterfacesRet { names: List<Text, INTERFACE_LIST_MAX> }
        [interface ro];
    139 High ConnectNumOfSecrets {} -> ConnectNumOfSecretsRet { num: i32 } [secret ro];
    140 High ConnectListSecrets { maxuuids: i32 } -> ConnectListSecretsRet { uuids: List<Text, SECRET_LIST_MAX> } [secret ro];
    141 High SecretLookupByUuid "virSecretLookupByUUID" { uuid: Uuid } -> SecretLookupByUuidRet { secret: NonnullSecret } [secret ro];
    142 High SecretDefineXml "virSecretDefineXML" { xml: Text, flags: u32 } -> SecretDefineXmlRet { secret: NonnullSecret } [secret];
    143 High SecretGetXmlDesc "virSecretGetXMLDesc" { secret: NonnullSecret, flags: u32 } -> SecretGetXmlDescRet { xml: Text } [secret ro];
    144 High SecretSetValue { secret: NonnullSecret, value: Opaque<SECRET_VALUE_MAX>, flags: u32 } [secret];
    145 High SecretGetValue { secret: NonnullSecret, flags: u32 } -> SecretGetValueRet { value: Opaque<SECRET_VALUE_MAX> } [secret];
    146 High SecretUndefine { secret: NonnullSecret } [secret];
    147 High SecretLookupByUsage { usage_type: i32, usage_id: Text } -> SecretLookupByUsageRet { secret: NonnullSecret } [secret ro];
    148 Low DomainMigratePrepareTunnel { flags: u64, dname: Option<Text>, resource: u64, dom_xml: Text } [qemu upload];
    149 High ConnectIsSecure {} -> ConnectIsSecureRet { secure: i32 } [qemu ro];
    150 High DomainIsActive { dom: NonnullDomain } -> DomainIsActiveRet { active: i32 } [qemu ro];
    151 High DomainIsPersistent { dom: NonnullDomain } -> DomainIsPersistentRet { persistent: i32 } [qemu ro];
    152 High NetworkIsActive { net: NonnullNetwork } -> NetworkIsActiveRet { active: i32 } [network ro];
    153 High NetworkIsPersistent { net: NonnullNetwork } -> NetworkIsPersistentRet { persistent: i32 } [network ro];
    154 High StoragePoolIsActive { pool: NonnullStoragePool } -> StoragePoolIsActiveRet { active: i32 } [storage ro];
    155 High StoragePoolIsPersistent { pool: NonnullStoragePool } -> StoragePoolIsPersistentRet { persistent: i32 } [storage ro];
    156 High InterfaceIsActive { iface: NonnullInterface } -> InterfaceIsActiveRet { active: i32 } [interface ro];
    157 High ConnectGetLibVersion {} -> ConnectGetLibVersionRet { lib_ver: u64 } [daemon ro];
    158 High ConnectCompareCpu "virConnectCompareCPU" { xml: Text, flags: u32 } -> ConnectCompareCpuRet { result: i32 } [qemu ro];
    159 Low DomainMemoryStats { dom: NonnullDomain, max_stats: u32, flags: u32 }
        -> DomainMemoryStatsRet { stats: List<DomainMemoryStat, DOMAIN_MEMORY_STATS_MAX> } [qemu ro];
    160 Low DomainAttachDeviceFlags { dom: NonnullDomain, xml: Text, flags: u32 } [qemu];
    161 Low DomainDetachDeviceFlags { dom: NonnullDomain, xml: Text, flags: u32 } [qemu];
    162 Low ConnectBaselineCpu "virConnectBaselineCPU" { xml_cp_us: List<Text, CPU_BASELINE_MAX>, flags: u32 }
        -> ConnectBaselineCpuRet { cpu: Text } [qemu ro];
    163 Low DomainGetJobInfo { dom: NonnullDomain } -> DomainGetJobInfoRet { r#type: i32, time_elapsed: u64, time_remaining: u64,
        data_total: u64, data_processed: u64, data_remaining: u64, mem_total: u64, mem_processed: u64, mem_remaining: u64,
        file_total: u64, file_processed: u64, file_remaining: u64 } [qemu ro];
    164 Low DomainAbortJob { dom: NonnullDomain } [qemu];
    165 Low StorageVolWipe { vol: NonnullStorageVol, flags: u32 } [storage];
    166 Low DomainMigrateSetMaxDowntime { dom: NonnullDomain, downtime: u64, flags: u32 } [qemu];
    167 High ConnectDomainEventRegisterAny { event_id: i32 } [qemu ro];
    168 High ConnectDomainEventDeregisterAny { event_id: i32 } [qemu ro];
    169 Low DomainEventReboot { dom: NonnullDomain } [event];
    170 Low DomainEventRtcChange { dom: NonnullDomain, offset: i64 } [event];
    171 Low DomainEventWatchdog { dom: NonnullDomain, action: i32 } [event];
    172 Low DomainEventIoError { dom: NonnullDomain, src_path: Text, dev_alias: Text, action: i32 } [event];
    173 Low DomainEventGraphics { dom: NonnullDomain, phase: i32, local: DomainEventGraphicsAddress, remote: DomainEventGraphicsAddress,
        auth_scheme: Text, subject: List<DomainEventGraphicsIdentity, DOMAIN_EVENT_GRAPHICS_IDENTITY_MAX> } [event];
    174 Low DomainUpdateDeviceFlags { dom: NonnullDomain, xml: Text, flags: u32 } [qemu];
    175 High NwfilterLookupByName "virNWFilterLookupByName" { name: Text } -> NwfilterLookupByNameRet { nwfilter: NonnullNwfilter }
        [nwfilter ro];
    176 High NwfilterLookupByUuid "virNWFilterLookupByUUID" { uuid: Uuid } -> NwfilterLookupByUuidRet { nwfilter: NonnullNwfilter }
        [nwfilter ro];
    177 High NwfilterGetXmlDesc "virNWFilterGetXMLDesc" { nwfilter: NonnullNwfilter, flags: u32 } -> NwfilterGetXmlDescRet { xml: Text }
        [nwfilter ro];
    178 High ConnectNumOfNwfilters "virConnectNumOfNWFilters" {} -> ConnectNumOfNwfiltersRet { num: i32 } [nwfilter ro];
    179 High ConnectListNwfilters "virConnectListNWFilters" { maxnames: i32 }
        -> ConnectListNwfiltersRet { names: List<Text, NWFILTER_LIST_MAX> } [nwfilter ro];
    180 High NwfilterDefineXml "virNWFilterDefineXML" { xml: Text } -> NwfilterDefineXmlRet { nwfilter: NonnullNwfilter } [nwfilter];
    181 High NwfilterUndefine "virNWFilterUndefine" { nwfilter: NonnullNwfilter } [nwfilter];
    182 Low DomainManagedSave { dom: NonnullDomain, flags: u32 } [qemu];
    183 Low DomainHasManagedSaveImage { dom: NonnullDomain, flags: u32 } -> DomainHasManagedSaveImageRet { result: i32 } [qemu ro];
    184 Low DomainManagedSaveRemove { dom: NonnullDomain, flags: u32 } [qemu];
    185 Low DomainSnapshotCreateXml "virDomainSnapshotCreateXML" { dom: NonnullDomain, xml_desc: Text, flags: u32 }
        -> DomainSnapshotCreateXmlRet { snap: NonnullDomainSnapshot } [qemu];
    186 High DomainSnapshotGetXmlDesc "virDomainSnapshotGetXMLDesc" { snap: NonnullDomainSnapshot, flags: u32 }
        -> DomainSnapshotGetXmlDescRet { xml: Text } [qemu ro] unless flags & 1;
    187 High DomainSnapshotNum { dom: NonnullDomain, flags: u32 } -> DomainSnapshotNumRet { num: i32 } [qemu ro];
    188 High DomainSnapshotListNames { dom: NonnullDomain, maxnames: i32, flags: u32 }
        -> DomainSnapshotListNamesRet { names: List<Text, DOMAIN_SNAPSHOT_LIST_MAX> } [qemu ro];
    189 High DomainSnapshotLookupByName { dom: NonnullDomain, name: Text, flags: u32 }
        -> DomainSnapshotLookupByNameRet { snap: NonnullDomainSnapshot } [qemu ro];
    190 Low DomainHasCurrentSnapshot { dom: NonnullDomain, flags: u32 } -> DomainHasCurrentSnapshotRet { result: i32 } [qemu ro];
    191 Low DomainSnapshotCurrent { dom: NonnullDomain, flags: u32 } -> DomainSnapshotCurrentRet { snap: NonnullDomainSnapshot } [qemu ro];
    192 Low DomainRevertToSnapshot { snap: NonnullDomainSnapshot, flags: u32 } [qemu];
    193 Low DomainSnapshotDelete { snap: NonnullDomainSnapshot, flags: u32 } [qemu];
    194 Low DomainGetBlockInfo { dom: NonnullDomain, path: Text, flags: u32 } -> DomainGetBlockInfoRet { allocation: u64, capacity: u64,
        physical: u64 } [qemu ro];
    195 Low DomainEventIoErrorReason { dom: NonnullDomain, src_path: Text, dev_alias: Text, action: i32, reason: Text } [event];
    196 Low DomainCreateWithFlags { dom: NonnullDomain, flags: u32 } -> DomainCreateWithFlagsRet { dom: NonnullDomain } [qemu];
    197 Low DomainSetMemoryParameters { dom: NonnullDomain, params: List<TypedParam, DOMAIN_MEMORY_PARAMETERS_MAX>, flags: u32 } [qemu];
    198 Low DomainGetMemoryParameters { dom: NonnullDomain, nparams: i32, flags: u32 }
        -> DomainGetMemoryParametersRet { params: List<TypedParam, DOMAIN_MEMORY_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    199 Low DomainSetVcpusFlags { dom: NonnullDomain, nvcpus: u32, flags: u32 } [qemu];
    200 Low DomainGetVcpusFlags { dom: NonnullDomain, flags: u32 } -> DomainGetVcpusFlagsRet { num: i32 } [qemu ro] unless flags & 8;
    201 Low DomainOpenConsole { dom: NonnullDomain, dev_name: Option<Text>, flags: u32 } [qemu console];
    202 High DomainIsUpdated { dom: NonnullDomain } -> DomainIsUpdatedRet { updated: i32 } [qemu ro];
    203 High ConnectGetSysinfo { flags: u32 } -> ConnectGetSysinfoRet { sysinfo: Text } [qemu ro];
    204 Low DomainSetMemoryFlags { dom: NonnullDomain, memory: u64, flags: u32 } [qemu];
    205 Low DomainSetBlkioParameters { dom: NonnullDomain, params: List<TypedParam, DOMAIN_BLKIO_PARAMETERS_MAX>, flags: u32 } [qemu];
    206 Low DomainGetBlkioParameters { dom: NonnullDomain, nparams: i32, flags: u32 }
        -> DomainGetBlkioParametersRet { params: List<TypedParam, DOMAIN_BLKIO_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    207 Low DomainMigrateSetMaxSpeed { dom: NonnullDomain, bandwidth: u64, flags: u32 } [qemu];
    208 Low StorageVolUpload { vol: NonnullStorageVol, offset: u64, length: u64, flags: u32 } [storage upload];
    209 Low StorageVolDownload { vol: NonnullStorageVol, offset: u64, length: u64, flags: u32 } [storage download];
    210 Low DomainInjectNmi "virDomainInjectNMI" { dom: NonnullDomain, flags: u32 } [qemu];
    211 Low DomainScreenshot { dom: NonnullDomain, screen: u32, flags: u32 } -> DomainScreenshotRet { mime: Option<Text> } [qemu download];
    212 High DomainGetState { dom: NonnullDomain, flags: u32 } -> DomainGetStateRet { state: i32, reason: i32 } [qemu ro];
    213 Low DomainMigrateBegin3 { dom: NonnullDomain, xmlin: Option<Text>, flags: u64, dname: Option<Text>, resource: u64 }
        -> DomainMigrateBegin3Ret { cookie_out: Opaque<MIGRATE_COOKIE_MAX>, xml: Text } [qemu];
    214 Low DomainMigratePrepare3 { cookie_in: Opaque<MIGRATE_COOKIE_MAX>, uri_in: Option<Text>, flags: u64, dname: Option<Text>,
        resource: u64, dom_xml: Text } -> DomainMigratePrepare3Ret { cookie_out: Opaque<MIGRATE_COOKIE_MAX>, uri_out: Option<Text> }
        [qemu];
    215 Low DomainMigratePrepareTunnel3 { cookie_in: Opaque<MIGRATE_COOKIE_MAX>, flags: u64, dname: Option<Text>, resource: u64,
        dom_xml: Text } -> DomainMigratePrepareTunnel3Ret { cookie_out: Opaque<MIGRATE_COOKIE_MAX> } [qemu upload];
    216 Low DomainMigratePerform3 { dom: NonnullDomain, xmlin: Option<Text>, cookie_in: Opaque<MIGRATE_COOKIE_MAX>,
        dconnuri: Option<Text>, uri: Option<Text>, flags: u64, dname: Option<Text>, resource: u64 }
        -> DomainMigratePerform3Ret { cookie_out: Opaque<MIGRATE_COOKIE_MAX> } [qemu];
    217 Low DomainMigrateFinish3 { dname: Text, cookie_in: Opaque<MIGRATE_COOKIE_MAX>, dconnuri: Option<Text>, uri: Option<Text>,
        flags: u64, cancelled: i32 } -> DomainMigrateFinish3Ret { dom: NonnullDomain, cookie_out: Opaque<MIGRATE_COOKIE_MAX> } [qemu];
    218 Low DomainMigrateConfirm3 { dom: NonnullDomain, cookie_in: Opaque<MIGRATE_COOKIE_MAX>, flags: u64, cancelled: i32 } [qemu];
    219 Low DomainSetSchedulerParametersFlags { dom: NonnullDomain, params: List<TypedParam, DOMAIN_SCHEDULER_PARAMETERS_MAX>,
        flags: u32 } [qemu];
    220 Low InterfaceChangeBegin { flags: u32 } [interface];
    221 Low InterfaceChangeCommit { flags: u32 } [interface];
    222 Low InterfaceChangeRollback { flags: u32 } [interface];
    223 Low DomainGetSchedulerParametersFlags { dom: NonnullDomain, nparams: i32, flags: u32 }
        -> DomainGetSchedulerParametersFlagsRet { params: List<TypedParam, DOMAIN_SCHEDULER_PARAMETERS_MAX> } [qemu ro];
    224 Low DomainEventControlError { dom: NonnullDomain } [event];
    225 Low DomainPinVcpuFlags { dom: NonnullDomain, vcpu: u32, cpumap: Opaque<CPUMAP_MAX>, flags: u32 } [qemu];
    226 Low DomainSendKey { dom: NonnullDomain, codeset: u32, holdtime: u32, keycodes: List<u32, DOMAIN_SEND_KEY_MAX>, flags: u32 } [qemu];
    227 High NodeGetCpuStats "virNodeGetCPUStats" { cpu_num: i32, nparams: i32, flags: u32 }
        -> NodeGetCpuStatsRet { params: List<NodeCpuStat, NODE_CPU_STATS_MAX>, nparams: i32 } [qemu ro];
    228 High NodeGetMemoryStats { nparams: i32, cell_num: i32, flags: u32 }
        -> NodeGetMemoryStatsRet { params: List<NodeMemoryStat, NODE_MEMORY_STATS_MAX>, nparams: i32 } [qemu ro];
    229 High DomainGetControlInfo { dom: NonnullDomain, flags: u32 } -> DomainGetControlInfoRet { state: u32, details: u32,
        state_time: u64 } [qemu ro];
    230 Low DomainGetVcpuPinInfo { dom: NonnullDomain, ncpumaps: i32, maplen: i32, flags: u32 }
        -> DomainGetVcpuPinInfoRet { cpumaps: Opaque<CPUMAPS_MAX>, num: i32 } [qemu ro];
    231 High DomainUndefineFlags { dom: NonnullDomain, flags: u32 } [qemu];
    232 Low DomainSaveFlags { dom: NonnullDomain, to: Text, dxml: Option<Text>, flags: u32 } [qemu];
    233 Low DomainRestoreFlags { from: Text, dxml: Option<Text>, flags: u32 } [qemu];
    234 High DomainDestroyFlags { dom: NonnullDomain, flags: u32 } [qemu];
    235 High DomainSaveImageGetXmlDesc "virDomainSaveImageGetXMLDesc" { file: Text, flags: u32 }
        -> DomainSaveImageGetXmlDescRet { xml: Text } [qemu];
    236 High DomainSaveImageDefineXml "virDomainSaveImageDefineXML" { file: Text, dxml: Text, flags: u32 } [qemu];
    237 Low DomainBlockJobAbort { dom: NonnullDomain, path: Text, flags: u32 } [qemu];
    238 Low DomainGetBlockJobInfo { dom: NonnullDomain, path: Text, flags: u32 } -> DomainGetBlockJobInfoRet { found: i32, r#type: i32,
        bandwidth: u64, cur: u64, end: u64 } [qemu ro];
    239 Low DomainBlockJobSetSpeed { dom: NonnullDomain, path: Text, bandwidth: u64, flags: u32 } [qemu];
    240 Low DomainBlockPull { dom: NonnullDomain, path: Text, bandwidth: u64, flags: u32 } [qemu];
    241 Low DomainEventBlockJob { dom: NonnullDomain, path: Text, r#type: i32, status: i32 } [event];
    242 Low DomainMigrateGetMaxSpeed { dom: NonnullDomain, flags: u32 } -> DomainMigrateGetMaxSpeedRet { bandwidth: u64 } [qemu];
    243 Low DomainBlockStatsFlags { dom: NonnullDomain, path: Text, nparams: i32, flags: u32 }
        -> DomainBlockStatsFlagsRet { params: List<TypedParam, DOMAIN_BLOCK_STATS_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    244 High DomainSnapshotGetParent { snap: NonnullDomainSnapshot, flags: u32 }
        -> DomainSnapshotGetParentRet { snap: NonnullDomainSnapshot } [qemu ro];
    245 Low DomainReset { dom: NonnullDomain, flags: u32 } [qemu];
    246 High DomainSnapshotNumChildren { snap: NonnullDomainSnapshot, flags: u32 } -> DomainSnapshotNumChildrenRet { num: i32 } [qemu ro];
    247 High DomainSnapshotListChildrenNames { snap: NonnullDomainSnapshot, maxnames: i32, flags: u32 }
        -> DomainSnapshotListChildrenNamesRet { names: List<Text, DOMAIN_SNAPSHOT_LIST_MAX> } [qemu ro];
    248 Low DomainEventDiskChange { dom: NonnullDomain, old_src_path: Option<Text>, new_src_path: Option<Text>, dev_alias: Text,
        reason: i32 } [event];
    249 Low DomainOpenGraphics { dom: NonnullDomain, idx: u32, flags: u32 } [qemu fds_in];
    250 Low NodeSuspendForDuration { target: u32, duration: u64, flags: u32 } [qemu];
    251 Low DomainBlockResize { dom: NonnullDomain, disk: Text, size: u64, flags: u32 } [qemu];
    252 Low DomainSetBlockIoTune { dom: NonnullDomain, disk: Text, params: List<TypedParam, DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX>,
        flags: u32 } [qemu];
    253 Low DomainGetBlockIoTune { dom: NonnullDomain, disk: Option<Text>, nparams: i32, flags: u32 }
        -> DomainGetBlockIoTuneRet { params: List<TypedParam, DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    254 Low DomainSetNumaParameters { dom: NonnullDomain, params: List<TypedParam, DOMAIN_NUMA_PARAMETERS_MAX>, flags: u32 } [qemu];
    255 Low DomainGetNumaParameters { dom: NonnullDomain, nparams: i32, flags: u32 }
        -> DomainGetNumaParametersRet { params: List<TypedParam, DOMAIN_NUMA_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    256 Low DomainSetInterfaceParameters { dom: NonnullDomain, device: Text, params: List<TypedParam, DOMAIN_INTERFACE_PARAMETERS_MAX>,
        flags: u32 } [qemu];
    257 Low DomainGetInterfaceParameters { dom: NonnullDomain, device: Text, nparams: i32, flags: u32 }
        -> DomainGetInterfaceParametersRet { params: List<TypedParam, DOMAIN_INTERFACE_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    258 Low DomainShutdownFlags { dom: NonnullDomain, flags: u32 } [qemu];
    259 Low StorageVolWipePattern { vol: NonnullStorageVol, algorithm: u32, flags: u32 } [storage];
    260 Low StorageVolResize { vol: NonnullStorageVol, capacity: u64, flags: u32 } [storage];
    261 Low DomainPmSuspendForDuration "virDomainPMSuspendForDuration" { dom: NonnullDomain, target: u32, duration: u64, flags: u32 }
        [qemu];
    262 Low DomainGetCpuStats "virDomainGetCPUStats" { dom: NonnullDomain, nparams: u32, start_cpu: i32, ncpus: u32, flags: u32 }
        -> DomainGetCpuStatsRet { params: List<TypedParam, DOMAIN_GET_CPU_STATS_MAX>, nparams: i32 } [qemu ro];
    263 Low DomainGetDiskErrors { dom: NonnullDomain, maxerrors: u32, flags: u32 }
        -> DomainGetDiskErrorsRet { errors: List<DomainDiskError, DOMAIN_DISK_ERRORS_MAX>, nerrors: i32 } [qemu ro];
    264 Low DomainSetMetadata { dom: NonnullDomain, r#type: i32, metadata: Option<Text>, key: Option<Text>, uri: Option<Text>,
        flags: u32 } [qemu];
    265 Low DomainGetMetadata { dom: NonnullDomain, r#type: i32, uri: Option<Text>, flags: u32 }
        -> DomainGetMetadataRet { metadata: Text } [qemu ro];
    266 Low DomainBlockRebase { dom: NonnullDomain, path: Text, base: Option<Text>, bandwidth: u64, flags: u32 } [qemu];
    267 Low DomainPmWakeup "virDomainPMWakeup" { dom: NonnullDomain, flags: u32 } [qemu];
    268 Low DomainEventTrayChange { dom: NonnullDomain, dev_alias: Text, reason: i32 } [event];
    269 Low DomainEventPmwakeup { dom: NonnullDomain } [event];
    270 Low DomainEventPmsuspend { dom: NonnullDomain } [event];
    271 Low DomainSnapshotIsCurrent { snap: NonnullDomainSnapshot, flags: u32 } -> DomainSnapshotIsCurrentRet { current: i32 } [qemu ro];
    272 Low DomainSnapshotHasMetadata { snap: NonnullDomainSnapshot, flags: u32 } -> DomainSnapshotHasMetadataRet { metadata: i32 } [qemu
        ro];
    273 High ConnectListAllDomains { need_results: i32, flags: u32 }
        -> ConnectListAllDomainsRet { domains: List<NonnullDomain, DOMAIN_LIST_MAX>, ret: u32 } [qemu ro];
    274 High DomainListAllSnapshots { dom: NonnullDomain, need_results: i32, flags: u32 }
        -> DomainListAllSnapshotsRet { snapshots: List<NonnullDomainSnapshot, DOMAIN_SNAPSHOT_LIST_MAX>, ret: i32 } [qemu ro];
    275 High DomainSnapshotListAllChildren { snapshot: NonnullDomainSnapshot, need_results: i32, flags: u32 }
        -> DomainSnapshotListAllChildrenRet { snapshots: List<NonnullDomainSnapshot, DOMAIN_SNAPSHOT_LIST_MAX>, ret: i32 } [qemu ro];
    276 Low DomainEventBalloonChange { dom: NonnullDomain, actual: u64 } [event];
    277 Low DomainGetHostname { dom: NonnullDomain, flags: u32 } -> DomainGetHostnameRet { hostname: Text } [qemu];
    278 High DomainGetSecurityLabelList { dom: NonnullDomain }
        -> DomainGetSecurityLabelListRet { labels: List<DomainGetSecurityLabelRet, SECURITY_LABEL_LIST_MAX>, ret: i32 } [qemu ro];
    279 Low DomainPinEmulator { dom: NonnullDomain, cpumap: Opaque<CPUMAP_MAX>, flags: u32 } [qemu];
    280 Low DomainGetEmulatorPinInfo { dom: NonnullDomain, maplen: i32, flags: u32 }
        -> DomainGetEmulatorPinInfoRet { cpumaps: Opaque<CPUMAPS_MAX>, ret: i32 } [qemu ro];
    281 High ConnectListAllStoragePools { need_results: i32, flags: u32 }
        -> ConnectListAllStoragePoolsRet { pools: List<NonnullStoragePool, STORAGE_POOL_LIST_MAX>, ret: u32 } [storage ro];
    282 High StoragePoolListAllVolumes { pool: NonnullStoragePool, need_results: i32, flags: u32 }
        -> StoragePoolListAllVolumesRet { vols: List<NonnullStorageVol, STORAGE_VOL_LIST_MAX>, ret: u32 } [storage ro];
    283 High ConnectListAllNetworks { need_results: i32, flags: u32 }
        -> ConnectListAllNetworksRet { nets: List<NonnullNetwork, NETWORK_LIST_MAX>, ret: u32 } [network ro];
    284 High ConnectListAllInterfaces { need_results: i32, flags: u32 }
        -> ConnectListAllInterfacesRet { ifaces: List<NonnullInterface, INTERFACE_LIST_MAX>, ret: u32 } [interface ro];
    285 High ConnectListAllNodeDevices { need_results: i32, flags: u32 }
        -> ConnectListAllNodeDevicesRet { devices: List<NonnullNodeDevice, NODE_DEVICE_LIST_MAX>, ret: u32 } [nodedev ro];
    286 High ConnectListAllNwfilters "virConnectListAllNWFilters" { need_results: i32, flags: u32 }
        -> ConnectListAllNwfiltersRet { filters: List<NonnullNwfilter, NWFILTER_LIST_MAX>, ret: u32 } [nwfilter ro];
    287 High ConnectListAllSecrets { need_results: i32, flags: u32 }
        -> ConnectListAllSecretsRet { secrets: List<NonnullSecret, SECRET_LIST_MAX>, ret: u32 } [secret ro];
    288 Low NodeSetMemoryParameters { params: List<TypedParam, NODE_MEMORY_PARAMETERS_MAX>, flags: u32 } [qemu];
    289 Low NodeGetMemoryParameters { nparams: i32, flags: u32 }
        -> NodeGetMemoryParametersRet { params: List<TypedParam, NODE_MEMORY_PARAMETERS_MAX>, nparams: i32 } [qemu ro];
    290 Low DomainBlockCommit { dom: NonnullDomain, disk: Text, base: Option<Text>, top: Option<Text>, bandwidth: u64, flags: u32 } [qemu];
    291 High NetworkUpdate { net: NonnullNetwork, command: u32, section: u32, parent_index: i32, xml: Text, flags: u32 } [network];
    292 Low DomainEventPmsuspendDisk { dom: NonnullDomain } [event];
    293 Low NodeGetCpuMap "virNodeGetCPUMap" { need_map: i32, need_online: i32, flags: u32 }
        -> NodeGetCpuMapRet { cpumap: Opaque<CPUMAP_MAX>, online: u32, ret: i32 } [qemu ro];
    294 Low DomainFstrim "virDomainFSTrim" { dom: NonnullDomain, mount_point: Option<Text>, minimum: u64, flags: u32 } [qemu];
    295 Low DomainSendProcessSignal { dom: NonnullDomain, pid_value: i64, signum: u32, flags: u32 } [nobody];
    296 Low DomainOpenChannel { dom: NonnullDomain, name: Option<Text>, flags: u32 } [qemu console];
    297 High NodeDeviceLookupScsiHostByWwn "virNodeDeviceLookupSCSIHostByWWN" { wwnn: Text, wwpn: Text, flags: u32 }
        -> NodeDeviceLookupScsiHostByWwnRet { dev: NonnullNodeDevice } [nodedev ro];
    298 Low DomainGetJobStats { dom: NonnullDomain, flags: u32 } -> DomainGetJobStatsRet { r#type: i32,
        params: List<TypedParam, DOMAIN_JOB_STATS_MAX> } [qemu ro];
    299 Low DomainMigrateGetCompressionCache { dom: NonnullDomain, flags: u32 } -> DomainMigrateGetCompressionCacheRet { cache_size: u64 }
        [qemu ro];
    300 Low DomainMigrateSetCompressionCache { dom: NonnullDomain, cache_size: u64, flags: u32 } [qemu];
    301 Low NodeDeviceDetachFlags { name: Text, driver_name: Option<Text>, flags: u32 } [qemu];
    302 Low DomainMigrateBegin3Params { dom: NonnullDomain, params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>, flags: u32 }
        -> DomainMigrateBegin3ParamsRet { cookie_out: Opaque<MIGRATE_COOKIE_MAX>, xml: Text } [qemu];
    303 Low DomainMigratePrepare3Params { params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>, cookie_in: Opaque<MIGRATE_COOKIE_MAX>,
        flags: u32 } -> DomainMigratePrepare3ParamsRet { cookie_out: Opaque<MIGRATE_COOKIE_MAX>, uri_out: Option<Text> } [qemu];
    304 Low DomainMigratePrepareTunnel3Params { params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>,
        cookie_in: Opaque<MIGRATE_COOKIE_MAX>, flags: u32 }
        -> DomainMigratePrepareTunnel3ParamsRet { cookie_out: Opaque<MIGRATE_COOKIE_MAX> } [qemu];
    305 Low DomainMigratePerform3Params { dom: NonnullDomain, dconnuri: Option<Text>,
        params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>, cookie_in: Opaque<MIGRATE_COOKIE_MAX>, flags: u32 }
        -> DomainMigratePerform3ParamsRet { cookie_out: Opaque<MIGRATE_COOKIE_MAX> } [qemu];
    306 Low DomainMigrateFinish3Params { params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>, cookie_in: Opaque<MIGRATE_COOKIE_MAX>,
        flags: u32, cancelled: i32 } -> DomainMigrateFinish3ParamsRet { dom: NonnullDomain, cookie_out: Opaque<MIGRATE_COOKIE_MAX> }
        [qemu];
    307 Low DomainMigrateConfirm3Params { dom: NonnullDomain, params: List<TypedParam, DOMAIN_MIGRATE_PARAM_LIST_MAX>,
        cookie_in: Opaque<MIGRATE_COOKIE_MAX>, flags: u32, cancelled: i32 } [qemu];
    308 Low DomainSetMemoryStatsPeriod { dom: NonnullDomain, period: i32, flags: u32 } [qemu];
    309 Low DomainCreateXmlWithFiles "virDomainCreateXMLWithFiles" { xml_desc: Text, flags: u32 }
        -> DomainCreateXmlWithFilesRet { dom: NonnullDomain } [nobody fds_in];
    310 Low DomainCreateWithFiles { dom: NonnullDomain, flags: u32 } -> DomainCreateWithFilesRet { dom: NonnullDomain } [nobody fds_in];
    311 Low DomainEventDeviceRemoved { dom: NonnullDomain, dev_alias: Text } [event];
    312 Low ConnectGetCpuModelNames "virConnectGetCPUModelNames" { arch: Text, need_results: i32, flags: u32 }
        -> ConnectGetCpuModelNamesRet { models: List<Text, CONNECT_CPU_MODELS_MAX>, ret: i32 } [qemu ro];
    313 High ConnectNetworkEventRegisterAny { event_id: i32, net: Option<NonnullNetwork> }
        -> ConnectNetworkEventRegisterAnyRet { callback_id: i32 } [network ro];
    314 High ConnectNetworkEventDeregisterAny { callback_id: i32 } [network ro];
    315 Low NetworkEventLifecycle { callback_id: i32, net: NonnullNetwork, event: i32, detail: i32 } [event];
    316 High ConnectDomainEventCallbackRegisterAny "virConnectDomainEventRegisterAny" { event_id: i32, dom: Option<NonnullDomain> }
        -> ConnectDomainEventCallbackRegisterAnyRet { callback_id: i32 } [qemu ro];
    317 High ConnectDomainEventCallbackDeregisterAny "virConnectDomainEventDeregisterAny" { callback_id: i32 } [qemu ro];
    318 Low DomainEventCallbackLifecycle { callback_id: i32, msg: DomainEventLifecycle } [event];
    319 Low DomainEventCallbackReboot { callback_id: i32, msg: DomainEventReboot } [event];
    320 Low DomainEventCallbackRtcChange { callback_id: i32, msg: DomainEventRtcChange } [event];
    321 Low DomainEventCallbackWatchdog { callback_id: i32, msg: DomainEventWatchdog } [event];
    322 Low DomainEventCallbackIoError { callback_id: i32, msg: DomainEventIoError } [event];
    323 Low DomainEventCallbackGraphics { callback_id: i32, msg: DomainEventGraphics } [event];
    324 Low DomainEventCallbackIoErrorReason { callback_id: i32, msg: DomainEventIoErrorReason } [event];
    325 Low DomainEventCallbackControlError { callback_id: i32, msg: DomainEventControlError } [event];
    326 Low DomainEventCallbackBlockJob { callback_id: i32, msg: DomainEventBlockJob } [event];
    327 Low DomainEventCallbackDiskChange { callback_id: i32, msg: DomainEventDiskChange } [event];
    328 Low DomainEventCallbackTrayChange { callback_id: i32, msg: DomainEventTrayChange } [event];
    329 Low DomainEventCallbackPmwakeup { callback_id: i32, reason: i32, msg: DomainEventPmwakeup } [event];
    330 Low DomainEventCallbackPmsuspend { callback_id: i32, reason: i32, msg: DomainEventPmsuspend } [event];
    331 Low DomainEventCallbackBalloonChange { callback_id: i32, msg: DomainEventBalloonChange } [event];
    332 Low DomainEventCallbackPmsuspendDisk { callback_id: i32, reason: i32, msg: DomainEventPmsuspendDisk } [event];
    333 Low DomainEventCallbackDeviceRemoved { callback_id: i32, msg: DomainEventDeviceRemoved } [event];
    334 Low DomainCoreDumpWithFormat { dom: NonnullDomain, to: Text, dumpformat: u32, flags: u32 } [qemu];
    335 Low DomainFsfreeze "virDomainFSFreeze" { dom: NonnullDomain, mountpoints: List<Text, DOMAIN_FSFREEZE_MOUNTPOINTS_MAX>,
        flags: u32 } -> DomainFsfreezeRet { filesystems: i32 } [qemu];
    336 Low DomainFsthaw "virDomainFSThaw" { dom: NonnullDomain, mountpoints: List<Text, DOMAIN_FSFREEZE_MOUNTPOINTS_MAX>, flags: u32 }
        -> DomainFsthawRet { filesystems: i32 } [qemu];
    337 Low DomainGetTime { dom: NonnullDomain, flags: u32 } -> DomainGetTimeRet { seconds: i64, nseconds: u32 } [qemu];
    338 Low DomainSetTime { dom: NonnullDomain, seconds: i64, nseconds: u32, flags: u32 } [qemu];
    339 Low DomainEventBlockJob2 { callback_id: i32, dom: NonnullDomain, dst: Text, r#type: i32, status: i32 } [event];
    340 High NodeGetFreePages { pages: List<u32, NODE_MAX_CELLS>, start_cell: i32, cell_count: u32, flags: u32 }
        -> NodeGetFreePagesRet { counts: List<u64, NODE_MAX_CELLS> } [qemu ro];
    341 Low NetworkGetDhcpLeases "virNetworkGetDHCPLeases" { net: NonnullNetwork, mac: Option<Text>, need_results: i32, flags: u32 }
        -> NetworkGetDhcpLeasesRet { leases: List<NetworkDhcpLease, NETWORK_DHCP_LEASES_MAX>, ret: u32 } [network ro];
    342 Low ConnectGetDomainCapabilities { emulatorbin: Option<Text>, arch: Option<Text>, machine: Option<Text>, virttype: Option<Text>,
        flags: u32 } -> ConnectGetDomainCapabilitiesRet { capabilities: Text } [qemu];
    343 Low DomainOpenGraphicsFd "virDomainOpenGraphicsFD" { dom: NonnullDomain, idx: u32, flags: u32 } [qemu fds_out];
    344 Low ConnectGetAllDomainStats { doms: List<NonnullDomain, DOMAIN_LIST_MAX>, stats: u32, flags: u32 }
        -> ConnectGetAllDomainStatsRet { ret_stats: List<DomainStatsRecord, DOMAIN_LIST_MAX> } [qemu ro];
    345 Low DomainBlockCopy { dom: NonnullDomain, path: Text, destxml: Text, params: List<TypedParam, DOMAIN_BLOCK_COPY_PARAMETERS_MAX>,
        flags: u32 } [qemu];
    346 Low DomainEventCallbackTunable { callback_id: i32, dom: NonnullDomain, params: List<TypedParam, DOMAIN_EVENT_TUNABLE_MAX> } [event];
    347 Low NodeAllocPages { page_sizes: List<u32, NODE_MAX_CELLS>, page_counts: List<u64, NODE_MAX_CELLS>, start_cell: i32,
        cell_count: u32, flags: u32 } -> NodeAllocPagesRet { ret: i32 } [qemu];
    348 Low DomainEventCallbackAgentLifecycle { callback_id: i32, dom: NonnullDomain, state: i32, reason: i32 } [event];
    349 Low DomainGetFsinfo "virDomainGetFSInfo" { dom: NonnullDomain, flags: u32 }
        -> DomainGetFsinfoRet { info: List<DomainFsinfo, DOMAIN_FSINFO_MAX>, ret: u32 } [qemu];
    350 High DomainDefineXmlFlags "virDomainDefineXMLFlags" { xml: Text, flags: u32 } -> DomainDefineXmlFlagsRet { dom: NonnullDomain }
        [qemu];
    351 Low DomainGetIothreadInfo "virDomainGetIOThreadInfo" { dom: NonnullDomain, flags: u32 }
        -> DomainGetIothreadInfoRet { info: List<DomainIothreadInfo, IOTHREAD_INFO_MAX>, ret: u32 } [qemu ro];
    352 Low DomainPinIothread "virDomainPinIOThread" { dom: NonnullDomain, iothreads_id: u32, cpumap: Opaque<CPUMAP_MAX>, flags: u32 }
        [qemu];
    353 Low DomainInterfaceAddresses { dom: NonnullDomain, source: u32, flags: u32 }
        -> DomainInterfaceAddressesRet { ifaces: List<DomainInterface, DOMAIN_INTERFACE_MAX> } [qemu ro] unless source & 1;
    354 Low DomainEventCallbackDeviceAdded { callback_id: i32, dom: NonnullDomain, dev_alias: Text } [event];
    355 Low DomainAddIothread "virDomainAddIOThread" { dom: NonnullDomain, iothread_id: u32, flags: u32 } [qemu];
    356 Low DomainDelIothread "virDomainDelIOThread" { dom: NonnullDomain, iothread_id: u32, flags: u32 } [qemu];
    357 Low DomainSetUserPassword { dom: NonnullDomain, user: Option<Text>, password: Option<Text>, flags: u32 } [qemu];
    358 Low DomainRename { dom: NonnullDomain, new_name: Option<Text>, flags: u32 } -> DomainRenameRet { retcode: i32 } [qemu];
    359 Low DomainEventCallbackMigrationIteration { callback_id: i32, dom: NonnullDomain, iteration: i32 } [event];
    360 High ConnectRegisterCloseCallback {} [daemon ro];
    361 High ConnectUnregisterCloseCallback {} [daemon ro];
    362 Low ConnectEventConnectionClosed { reason: i32 } [event];
    363 Low DomainEventCallbackJobCompleted { callback_id: i32, dom: NonnullDomain, params: List<TypedParam, DOMAIN_JOB_STATS_MAX> }
        [event];
    364 Low DomainMigrateStartPostCopy { dom: NonnullDomain, flags: u32 } [qemu];
    365 Low DomainGetPerfEvents { dom: NonnullDomain, flags: u32 }
        -> DomainGetPerfEventsRet { params: List<TypedParam, DOMAIN_PERF_EVENTS_MAX> } [qemu ro];
    366 Low DomainSetPerfEvents { dom: NonnullDomain, params: List<TypedParam, DOMAIN_PERF_EVENTS_MAX>, flags: u32 } [qemu];
    367 Low DomainEventCallbackDeviceRemovalFailed { callback_id: i32, dom: NonnullDomain, dev_alias: Text } [event];
    368 High ConnectStoragePoolEventRegisterAny { event_id: i32, pool: Option<NonnullStoragePool> }
        -> ConnectStoragePoolEventRegisterAnyRet { callback_id: i32 } [storage ro];
    369 High ConnectStoragePoolEventDeregisterAny { callback_id: i32 } [storage ro];
    370 Low StoragePoolEventLifecycle { callback_id: i32, pool: NonnullStoragePool, event: i32, detail: i32 } [event];
    371 Low DomainGetGuestVcpus { dom: NonnullDomain, flags: u32 }
        -> DomainGetGuestVcpusRet { params: List<TypedParam, DOMAIN_GUEST_VCPU_PARAMS_MAX> } [qemu];
    372 Low DomainSetGuestVcpus { dom: NonnullDomain, cpumap: Text, state: i32, flags: u32 } [qemu];
    373 Low StoragePoolEventRefresh { callback_id: i32, pool: NonnullStoragePool } [event];
    374 High ConnectNodeDeviceEventRegisterAny { event_id: i32, dev: Option<NonnullNodeDevice> }
        -> ConnectNodeDeviceEventRegisterAnyRet { callback_id: i32 } [nodedev ro];
    375 High ConnectNodeDeviceEventDeregisterAny { callback_id: i32 } [nodedev ro];
    376 Low NodeDeviceEventLifecycle { callback_id: i32, dev: NonnullNodeDevice, event: i32, detail: i32 } [event];
    377 Low NodeDeviceEventUpdate { callback_id: i32, dev: NonnullNodeDevice } [event];
    378 High StorageVolGetInfoFlags { vol: NonnullStorageVol, flags: u32 } -> StorageVolGetInfoFlagsRet { r#type: i8, capacity: u64,
        allocation: u64 } [storage ro];
    379 Low DomainEventCallbackMetadataChange { callback_id: i32, dom: NonnullDomain, r#type: i32, nsuri: Option<Text> } [event];
    380 High ConnectSecretEventRegisterAny { event_id: i32, secret: Option<NonnullSecret> }
        -> ConnectSecretEventRegisterAnyRet { callback_id: i32 } [secret ro];
    381 High ConnectSecretEventDeregisterAny { callback_id: i32 } [secret ro];
    382 Low SecretEventLifecycle { callback_id: i32, secret: NonnullSecret, event: i32, detail: i32 } [event];
    383 Low SecretEventValueChanged { callback_id: i32, secret: NonnullSecret } [event];
    384 Low DomainSetVcpu { dom: NonnullDomain, cpumap: Text, state: i32, flags: u32 } [qemu];
    385 Low DomainEventBlockThreshold { callback_id: i32, dom: NonnullDomain, dev: Text, path: Option<Text>, threshold: u64, excess: u64 }
        [event];
    386 Low DomainSetBlockThreshold { dom: NonnullDomain, dev: Text, threshold: u64, flags: u32 } [qemu];
    387 Low DomainMigrateGetMaxDowntime { dom: NonnullDomain, flags: u32 } -> DomainMigrateGetMaxDowntimeRet { downtime: u64 } [qemu ro];
    388 Low DomainManagedSaveGetXmlDesc "virDomainManagedSaveGetXMLDesc" { dom: NonnullDomain, flags: u32 }
        -> DomainManagedSaveGetXmlDescRet { xml: Text } [qemu ro] unless flags & 1;
    389 Low DomainManagedSaveDefineXml "virDomainManagedSaveDefineXML" { dom: NonnullDomain, dxml: Option<Text>, flags: u32 } [qemu];
    390 Low DomainSetLifecycleAction { dom: NonnullDomain, r#type: u32, action: u32, flags: u32 } [qemu];
    391 High StoragePoolLookupByTargetPath { path: Text } -> StoragePoolLookupByTargetPathRet { pool: NonnullStoragePool } [storage ro];
    392 Low DomainDetachDeviceAlias { dom: NonnullDomain, alias: Text, flags: u32 } [qemu];
    393 Low ConnectCompareHypervisorCpu "virConnectCompareHypervisorCPU" { emulator: Option<Text>, arch: Option<Text>,
        machine: Option<Text>, virttype: Option<Text>, xml_cpu: Text, flags: u32 } -> ConnectCompareHypervisorCpuRet { result: i32 }
        [qemu];
    394 Low ConnectBaselineHypervisorCpu "virConnectBaselineHypervisorCPU" { emulator: Option<Text>, arch: Option<Text>,
        machine: Option<Text>, virttype: Option<Text>, xml_cp_us: List<Text, CPU_BASELINE_MAX>, flags: u32 }
        -> ConnectBaselineHypervisorCpuRet { cpu: Text } [qemu];
    395 Low NodeGetSevInfo "virNodeGetSEVInfo" { nparams: i32, flags: u32 }
        -> NodeGetSevInfoRet { params: List<TypedParam, NODE_SEV_INFO_MAX>, nparams: i32 } [qemu];
    396 Low DomainGetLaunchSecurityInfo { dom: NonnullDomain, flags: u32 }
        -> DomainGetLaunchSecurityInfoRet { params: List<TypedParam, DOMAIN_LAUNCH_SECURITY_INFO_PARAMS_MAX> } [qemu];
    397 High NwfilterBindingLookupByPortDev "virNWFilterBindingLookupByPortDev" { name: Text }
        -> NwfilterBindingLookupByPortDevRet { nwfilter: NonnullNwfilterBinding } [nwfilter ro];
    398 High NwfilterBindingGetXmlDesc "virNWFilterBindingGetXMLDesc" { nwfilter: NonnullNwfilterBinding, flags: u32 }
        -> NwfilterBindingGetXmlDescRet { xml: Text } [nwfilter ro];
    399 High NwfilterBindingCreateXml "virNWFilterBindingCreateXML" { xml: Text, flags: u32 }
        -> NwfilterBindingCreateXmlRet { nwfilter: NonnullNwfilterBinding } [nwfilter];
    400 High NwfilterBindingDelete "virNWFilterBindingDelete" { nwfilter: NonnullNwfilterBinding } [nwfilter];
    401 High ConnectListAllNwfilterBindings "virConnectListAllNWFilterBindings" { need_results: i32, flags: u32 }
        -> ConnectListAllNwfilterBindingsRet { bindings: List<NonnullNwfilterBinding, NWFILTER_BINDING_LIST_MAX>, ret: u32 } [nwfilter
        ro];
    402 Low DomainSetIothreadParams "virDomainSetIOThreadParams" { dom: NonnullDomain, iothread_id: u32,
        params: List<TypedParam, DOMAIN_IOTHREAD_PARAMS_MAX>, flags: u32 } [qemu];
    403 Low ConnectGetStoragePoolCapabilities { flags: u32 } -> ConnectGetStoragePoolCapabilitiesRet { capabilities: Text } [storage ro];
    404 High NetworkListAllPorts { network: NonnullNetwork, need_results: i32, flags: u32 }
        -> NetworkListAllPortsRet { ports: List<NonnullNetworkPort, NETWORK_PORT_LIST_MAX>, ret: u32 } [network ro];
    405 High NetworkPortLookupByUuid "virNetworkPortLookupByUUID" { network: NonnullNetwork, uuid: Uuid }
        -> NetworkPortLookupByUuidRet { port: NonnullNetworkPort } [network ro];
    406 Low NetworkPortCreateXml "virNetworkPortCreateXML" { network: NonnullNetwork, xml: Text, flags: u32 }
        -> NetworkPortCreateXmlRet { port: NonnullNetworkPort } [network];
    407 Low NetworkPortGetParameters { port: NonnullNetworkPort, nparams: i32, flags: u32 }
        -> NetworkPortGetParametersRet { params: List<TypedParam, NETWORK_PORT_PARAMETERS_MAX>, nparams: i32 } [network ro];
    408 Low NetworkPortSetParameters { port: NonnullNetworkPort, params: List<TypedParam, NETWORK_PORT_PARAMETERS_MAX>, flags: u32 }
        [network];
    409 Low NetworkPortGetXmlDesc "virNetworkPortGetXMLDesc" { port: NonnullNetworkPort, flags: u32 }
        -> NetworkPortGetXmlDescRet { xml: Text } [network ro];
    410 Low NetworkPortDelete { port: NonnullNetworkPort, flags: u32 } [network];
    411 Low DomainCheckpointCreateXml "virDomainCheckpointCreateXML" { dom: NonnullDomain, xml_desc: Text, flags: u32 }
        -> DomainCheckpointCreateXmlRet { checkpoint: NonnullDomainCheckpoint } [qemu];
    412 Low DomainCheckpointGetXmlDesc "virDomainCheckpointGetXMLDesc" { checkpoint: NonnullDomainCheckpoint, flags: u32 }
        -> DomainCheckpointGetXmlDescRet { xml: Text } [qemu ro] unless flags & 1;
    413 High DomainListAllCheckpoints { dom: NonnullDomain, need_results: i32, flags: u32 }
        -> DomainListAllCheckpointsRet { checkpoints: List<NonnullDomainCheckpoint, DOMAIN_CHECKPOINT_LIST_MAX>, ret: i32 } [qemu ro];
    414 High DomainCheckpointListAllChildren { checkpoint: NonnullDomainCheckpoint, need_results: i32, flags: u32 }
        -> DomainCheckpointListAllChildrenRet { checkpoints: List<NonnullDomainCheckpoint, DOMAIN_CHECKPOINT_LIST_MAX>, ret: i32 }
        [qemu ro];
    415 High DomainCheckpointLookupByName { dom: NonnullDomain, name: Text, flags: u32 }
        -> DomainCheckpointLookupByNameRet { checkpoint: NonnullDomainCheckpoint } [qemu ro];
    416 High DomainCheckpointGetParent { checkpoint: NonnullDomainCheckpoint, flags: u32 }
        -> DomainCheckpointGetParentRet { parent: NonnullDomainCheckpoint } [qemu ro];
    417 Low DomainCheckpointDelete { checkpoint: NonnullDomainCheckpoint, flags: u32 } [qemu];
    418 Low DomainGetGuestInfo { dom: NonnullDomain, types: u32, flags: u32 }
        -> DomainGetGuestInfoRet { params: List<TypedParam, DOMAIN_GUEST_INFO_PARAMS_MAX> } [qemu];
    419 Low ConnectSetIdentity { params: List<TypedParam, CONNECT_IDENTITY_PARAMS_MAX>, flags: u32 } [daemon ro];
    420 Low DomainAgentSetResponseTimeout { dom: NonnullDomain, timeout: i32, flags: u32 }
        -> DomainAgentSetResponseTimeoutRet { result: i32 } [qemu];
    421 Low DomainBackupBegin { dom: NonnullDomain, backup_xml: Text, checkpoint_xml: Option<Text>, flags: u32 } [qemu];
    422 High DomainBackupGetXmlDesc "virDomainBackupGetXMLDesc" { dom: NonnullDomain, flags: u32 }
        -> DomainBackupGetXmlDescRet { xml: Text } [qemu ro];
    423 Low DomainEventMemoryFailure { callback_id: i32, dom: NonnullDomain, recipient: i32, action: i32, flags: u32 } [event];
    424 Low DomainAuthorizedSshKeysGet "virDomainAuthorizedSSHKeysGet" { dom: NonnullDomain, user: Text, flags: u32 }
        -> DomainAuthorizedSshKeysGetRet { keys: List<Text, DOMAIN_AUTHORIZED_SSH_KEYS_MAX> } [qemu];
    425 Low DomainAuthorizedSshKeysSet "virDomainAuthorizedSSHKeysSet" { dom: NonnullDomain, user: Text,
        keys: List<Text, DOMAIN_AUTHORIZED_SSH_KEYS_MAX>, flags: u32 } [qemu];
    426 Low DomainGetMessages { dom: NonnullDomain, flags: u32 } -> DomainGetMessagesRet { msgs: List<Text, DOMAIN_MESSAGES_MAX> } [qemu
        ro];
    427 Low DomainStartDirtyRateCalc { dom: NonnullDomain, seconds: i32, flags: u32 } [qemu];
    428 Low NodeDeviceDefineXml "virNodeDeviceDefineXML" { xml_desc: Text, flags: u32 }
        -> NodeDeviceDefineXmlRet { dev: NonnullNodeDevice } [nodedev];
    429 High NodeDeviceUndefine { name: Text, flags: u32 } [nodedev];
    430 High NodeDeviceCreate { name: Text, flags: u32 } [nodedev];
    431 High NwfilterDefineXmlFlags "virNWFilterDefineXMLFlags" { xml: Text, flags: u32 }
        -> NwfilterDefineXmlFlagsRet { nwfilter: NonnullNwfilter } [nwfilter];
    432 High NetworkDefineXmlFlags "virNetworkDefineXMLFlags" { xml: Text, flags: u32 }
        -> NetworkDefineXmlFlagsRet { net: NonnullNetwork } [network];
    433 High NodeDeviceGetAutostart { name: Text } -> NodeDeviceGetAutostartRet { autostart: i32 } [nodedev ro];
    434 High NodeDeviceSetAutostart { name: Text, autostart: i32 } [nodedev];
    435 High NodeDeviceIsPersistent { name: Text } -> NodeDeviceIsPersistentRet { persistent: i32 } [nodedev ro];
    436 High NodeDeviceIsActive { name: Text } -> NodeDeviceIsActiveRet { active: i32 } [nodedev ro];
    437 High NetworkCreateXmlFlags "virNetworkCreateXMLFlags" { xml: Text, flags: u32 }
        -> NetworkCreateXmlFlagsRet { net: NonnullNetwork } [network];
    438 Low DomainEventMemoryDeviceSizeChange { callback_id: i32, dom: NonnullDomain, alias: Text, size: u64 } [event];
    439 Low DomainSetLaunchSecurityState { dom: NonnullDomain, params: List<TypedParam, DOMAIN_LAUNCH_SECURITY_STATE_PARAMS_MAX>,
        flags: u32 } [qemu];
    440 Low DomainSaveParams { dom: NonnullDomain, params: List<TypedParam, DOMAIN_SAVE_PARAMS_MAX>, flags: u32 } [qemu];
    441 Low DomainRestoreParams { params: List<TypedParam, DOMAIN_SAVE_PARAMS_MAX>, flags: u32 } [qemu];
    442 Low DomainAbortJobFlags { dom: NonnullDomain, flags: u32 } [qemu];
    443 Low DomainFdAssociate "virDomainFDAssociate" { dom: NonnullDomain, name: Text, flags: u32 } [qemu fds_in];
    444 Low NetworkSetMetadata { network: NonnullNetwork, r#type: i32, metadata: Option<Text>, key: Option<Text>, uri: Option<Text>,
        flags: u32 } [network];
    445 Low NetworkGetMetadata { network: NonnullNetwork, r#type: i32, uri: Option<Text>, flags: u32 }
        -> NetworkGetMetadataRet { metadata: Text } [network ro];
    446 Low NetworkEventCallbackMetadataChange { callback_id: i32, net: NonnullNetwork, r#type: i32, nsuri: Option<Text> } [event];
    447 High NodeDeviceUpdate { name: Text, xml_desc: Text, flags: u32 } [nodedev];
    448 Low DomainGraphicsReload { dom: NonnullDomain, r#type: u32, flags: u32 } [qemu];
    449 High DomainGetAutostartOnce { dom: NonnullDomain } -> DomainGetAutostartOnceRet { autostart: i32 } [qemu ro];
    450 High DomainSetAutostartOnce { dom: NonnullDomain, autostart: i32 } [qemu];
    451 Low DomainSetThrottleGroup { dom: NonnullDomain, group: Text, params: List<TypedParam, DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX>,
        flags: u32 } [qemu];
    452 Low DomainDelThrottleGroup { dom: NonnullDomain, group: Option<Text>, flags: u32 } [qemu ro];
    453 Low DomainEventNicMacChange { callback_id: i32, dom: NonnullDomain, alias: Text, old_mac: Text, new_mac: Text } [event];
}

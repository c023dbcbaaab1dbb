//! Snapshots: which there are, made, gone back to, removed.

use bytes::Bytes;
use virtqemud_client::direct;
use wire::consts::*;
use wire::remote::*;
use wire::xdr::{Encode, STRING_MAX, Text, TooLong, Xdr, put_list, put_opaque};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self};
use super::flags::{Flags, either, exclusive, named, required};
use super::info::basic;
use super::{Reply, by_uuid};
use crate::ctx::Ctx;
use crate::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, GetSnapshotXmlRequest,
    ListSnapshotsRequest, RevertSnapshotRequest, Snapshot, SnapshotFilter, SnapshotState,
};

/// Flags of lists by whether there is metadata; there is for all that are known.
const METADATA: u32 = VIR_DOMAIN_SNAPSHOT_LIST_METADATA | VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA;
/// Most names of a list, and its name in the protocol.
const MOST: (usize, &str) = (DOMAIN_SNAPSHOT_LIST_MAX, "REMOTE_DOMAIN_SNAPSHOT_LIST_MAX");
/// Snapshots of a page: as many as the service gives.
const PAGE: i32 = 16_384;

/// The part of [`ListSnapshotsResponse`](crate::proto::ListSnapshotsResponse) that libvirt's lists take, its texts still in
/// the answer's own bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    snapshots: Vec<Named>,
    #[prost(int32, tag = "3")]
    total_size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
}

fn missing(detail: &str) -> WireError {
    WireError::new(ErrorCode::NO_DOMAIN_SNAPSHOT, ErrorDomain::QEMU, detail)
}

/// The states that flags choose; none if that is all.
fn states(flags: u32) -> Vec<i32> {
    use SnapshotState as S;
    const ACTIVE: [S; 6] = [
        S::Running,
        S::Blocked,
        S::Paused,
        S::Shutdown,
        S::Crashed,
        S::Pmsuspended,
    ];
    let groups: [(u32, &[S]); 3] = [
        (VIR_DOMAIN_SNAPSHOT_LIST_INACTIVE, &[S::Shutoff]),
        (VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE, &ACTIVE),
        (VIR_DOMAIN_SNAPSHOT_LIST_DISK_ONLY, &[S::DiskSnapshot]),
    ];
    let chosen = groups.iter().filter(|(flag, _)| flags & flag != 0);
    chosen
        .flat_map(|(_, states)| states.iter().map(|state| i32::from(*state)))
        .collect()
}

/// The snapshots that flags choose of a part of a guest's, their names alone; no more than `most`, and how many there are.
async fn chosen(ctx: &Ctx, part: ListSnapshotsRequest, flags: u32, most: i32) -> Reply<Listed> {
    let filter = SnapshotFilter {
        leaf: either(
            flags,
            VIR_DOMAIN_SNAPSHOT_LIST_LEAVES,
            VIR_DOMAIN_SNAPSHOT_LIST_NO_LEAVES,
        ),
        external: either(
            flags,
            VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL,
            VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL,
        ),
        states: states(flags),
    };
    let request = ListSnapshotsRequest {
        filter: Some(filter),
        page_size: most,
        names_only: true,
        ..part
    };
    let found = direct::call(&ctx.calls(), "/virtqemud.v1.Snapshots/List", &request).await?;
    if flags & METADATA == VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA {
        return Ok(Listed::default());
    }
    Ok(found)
}

/// The names that flags choose of a part of a guest's snapshots.
async fn names(ctx: &Ctx, part: ListSnapshotsRequest, flags: u32) -> Reply<Vec<Text>> {
    let found = chosen(ctx, part, flags, PAGE).await?.snapshots.into_iter();
    Ok(found.map(|snapshot| snapshot.name.to_vec().into()).collect())
}

/// How many snapshots flags choose of a part of a guest's.
async fn count(ctx: &Ctx, part: ListSnapshotsRequest, flags: u32) -> Reply<i32> {
    // A page has one at least.
    Ok(chosen(ctx, part, flags, 1).await?.total_size)
}

/// The part of a guest's snapshots that flags mean.
fn of_guest(dom: &NonnullDomain, flags: u32) -> ListSnapshotsRequest {
    ListSnapshotsRequest {
        domain: by_uuid(dom),
        roots: flags & VIR_DOMAIN_SNAPSHOT_LIST_ROOTS != 0,
        ..Default::default()
    }
}

/// Those after a snapshot.
fn after(snap: &NonnullDomainSnapshot, flags: u32) -> ListSnapshotsRequest {
    ListSnapshotsRequest {
        domain: by_uuid(&snap.dom),
        parent: snap.name.to_str().into_owned(),
        descendants: flags & VIR_DOMAIN_SNAPSHOT_LIST_DESCENDANTS != 0,
        ..Default::default()
    }
}

/// A snapshot by its name; with an empty one the current one.
async fn get(ctx: &Ctx, dom: &NonnullDomain, name: &str) -> Reply<Snapshot> {
    let request = GetSnapshotRequest {
        domain: by_uuid(dom),
        name: name.to_owned(),
    };
    Ok(ctx.snapshots().get(request).await?)
}

/// A snapshot that a client names.
async fn named_one(ctx: &Ctx, dom: &NonnullDomain, name: &Text) -> Reply<Snapshot> {
    let name = name.to_str();
    if name.is_empty() {
        // That is nobody's name.
        basic(ctx, dom).await?;
        return Err(missing("no domain snapshot with matching name ''").into());
    }
    get(ctx, dom, &name).await
}

/// Snapshots of a guest as the protocol names them, written as [`DomainListAllSnapshotsRet`]: each has the guest's name, too,
/// so a long list is made of the service's answer in one go.
#[derive(Default)]
pub(crate) struct All {
    snapshots: Vec<Named>,
    /// The guest, as it is written after each name.
    guest: Vec<u8>,
    number: i32,
}

impl All {
    /// Of a guest, with its own names, or only how many there are.
    async fn of(ctx: &Ctx, dom: &NonnullDomain, found: Listed, needed: bool) -> Reply<Self> {
        let mut all = Self {
            number: i32::try_from(found.snapshots.len()).unwrap_or(i32::MAX),
            ..Self::default()
        };
        if needed && !found.snapshots.is_empty() {
            let dom = NonnullDomain::from(&basic(ctx, dom).await?);
            dom.encode(&mut all.guest).map_err(too_long)?;
            all.snapshots = found.snapshots;
        }
        Ok(all)
    }
}

impl Encode for All {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        put_list(out, MOST.0, |out| {
            out.reserve(self.snapshots.len() * (self.guest.len() + 32));
            for snapshot in &self.snapshots {
                put_opaque(out, STRING_MAX, &snapshot.name)?;
                out.extend_from_slice(&self.guest);
            }
            Ok(self.snapshots.len())
        })?;
        self.number.encode(out)
    }
}

fn too_long(error: TooLong) -> WireError {
    WireError::rpc(&format!("a guest's name is too long: {error}"))
}

async fn one(ctx: &Ctx, dom: &NonnullDomain, name: &str) -> Reply<NonnullDomainSnapshot> {
    let dom = NonnullDomain::from(&basic(ctx, dom).await?);
    Ok(NonnullDomainSnapshot {
        name: name.into(),
        dom,
    })
}

pub(crate) async fn number_of(
    ctx: &Ctx,
    args: DomainSnapshotNum,
    flags: Flags,
) -> Reply<DomainSnapshotNumRet> {
    let flags = flags.checked()?;
    let num = count(ctx, of_guest(&args.dom, flags), flags).await?;
    Ok(DomainSnapshotNumRet { num })
}

pub(crate) async fn list_names(
    ctx: &Ctx,
    args: DomainSnapshotListNames,
    flags: Flags,
) -> Reply<DomainSnapshotListNamesRet> {
    let most = args::count("maxnames", args.maxnames, MOST)?;
    let flags = flags.checked()?;
    let names = names(ctx, of_guest(&args.dom, flags), flags).await?;
    Ok(DomainSnapshotListNamesRet {
        names: names.into_iter().take(most).collect(),
    })
}

pub(crate) async fn list_all(ctx: &Ctx, args: DomainListAllSnapshots, flags: Flags) -> Reply<All> {
    let flags = flags.checked()?;
    let found = chosen(ctx, of_guest(&args.dom, flags), flags, PAGE).await?;
    All::of(ctx, &args.dom, found, args.need_results != 0).await
}

pub(crate) async fn number_of_children(
    ctx: &Ctx,
    args: DomainSnapshotNumChildren,
    flags: Flags,
) -> Reply<DomainSnapshotNumChildrenRet> {
    let flags = flags.checked()?;
    let num = count(ctx, after(&args.snap, flags), flags).await?;
    Ok(DomainSnapshotNumChildrenRet { num })
}

pub(crate) async fn list_names_of_children(
    ctx: &Ctx,
    args: DomainSnapshotListChildrenNames,
    flags: Flags,
) -> Reply<DomainSnapshotListChildrenNamesRet> {
    let most = args::count("maxnames", args.maxnames, MOST)?;
    let flags = flags.checked()?;
    let names = names(ctx, after(&args.snap, flags), flags).await?;
    Ok(DomainSnapshotListChildrenNamesRet {
        names: names.into_iter().take(most).collect(),
    })
}

pub(crate) async fn list_all_children(
    ctx: &Ctx,
    args: DomainSnapshotListAllChildren,
    flags: Flags,
) -> Reply<All> {
    let flags = flags.checked()?;
    let found = chosen(ctx, after(&args.snapshot, flags), flags, PAGE).await?;
    All::of(ctx, &args.snapshot.dom, found, args.need_results != 0).await
}

pub(crate) async fn lookup_by_name(
    ctx: &Ctx,
    args: DomainSnapshotLookupByName,
    flags: Flags,
) -> Reply<DomainSnapshotLookupByNameRet> {
    flags.checked()?;
    let found = named_one(ctx, &args.dom, &args.name).await?;
    let snap = one(ctx, &args.dom, &found.name).await?;
    Ok(DomainSnapshotLookupByNameRet { snap })
}

pub(crate) async fn has_current(
    ctx: &Ctx,
    args: DomainHasCurrentSnapshot,
    flags: Flags,
) -> Reply<DomainHasCurrentSnapshotRet> {
    flags.checked()?;
    basic(ctx, &args.dom).await?;
    let result = get(ctx, &args.dom, "").await.is_ok().into();
    Ok(DomainHasCurrentSnapshotRet { result })
}

pub(crate) async fn current(
    ctx: &Ctx,
    args: DomainSnapshotCurrent,
    flags: Flags,
) -> Reply<DomainSnapshotCurrentRet> {
    flags.checked()?;
    let current = get(ctx, &args.dom, "").await?;
    let snap = one(ctx, &args.dom, &current.name).await?;
    Ok(DomainSnapshotCurrentRet { snap })
}

pub(crate) async fn is_current(
    ctx: &Ctx,
    args: DomainSnapshotIsCurrent,
    flags: Flags,
) -> Reply<DomainSnapshotIsCurrentRet> {
    flags.checked()?;
    let found = named_one(ctx, &args.snap.dom, &args.snap.name).await?;
    Ok(DomainSnapshotIsCurrentRet {
        current: found.current.into(),
    })
}

pub(crate) async fn has_metadata(
    ctx: &Ctx,
    args: DomainSnapshotHasMetadata,
    flags: Flags,
) -> Reply<DomainSnapshotHasMetadataRet> {
    flags.checked()?;
    named_one(ctx, &args.snap.dom, &args.snap.name).await?;
    Ok(DomainSnapshotHasMetadataRet { metadata: 1 })
}

pub(crate) async fn get_parent(
    ctx: &Ctx,
    args: DomainSnapshotGetParent,
    flags: Flags,
) -> Reply<DomainSnapshotGetParentRet> {
    flags.checked()?;
    let found = named_one(ctx, &args.snap.dom, &args.snap.name).await?;
    if found.parent.is_empty() {
        return Err(missing(&format!("snapshot '{}' does not have a parent", found.name)).into());
    }
    let snap = one(ctx, &args.snap.dom, &found.parent).await?;
    Ok(DomainSnapshotGetParentRet { snap })
}

pub(crate) async fn get_xml(
    ctx: &Ctx,
    args: DomainSnapshotGetXmlDesc,
    flags: Flags,
) -> Reply<DomainSnapshotGetXmlDescRet> {
    let flags = flags.checked()?;
    let request = GetSnapshotXmlRequest {
        domain: by_uuid(&args.snap.dom),
        name: args.snap.name.to_str().into_owned(),
        secure: flags & VIR_DOMAIN_SNAPSHOT_XML_SECURE != 0,
    };
    let xml = ctx.snapshots().get_xml(request).await?.xml;
    Ok(DomainSnapshotGetXmlDescRet { xml: xml.into() })
}

pub(crate) async fn create(
    ctx: &Ctx,
    args: DomainSnapshotCreateXml,
    flags: Flags,
) -> Reply<DomainSnapshotCreateXmlRet> {
    let flags = flags
        .requires(named!(
            VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT,
            VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        ))?
        .exclusive(named!(
            VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE,
            VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        ))?
        .exclusive(named!(
            VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE,
            VIR_DOMAIN_SNAPSHOT_CREATE_HALT
        ))?;
    let bits = flags.checked()?;
    // The rest is the driver's to refuse.
    required(
        ErrorDomain::QEMU,
        flags.info,
        bits,
        named!(
            VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE,
            VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        ),
    )?;
    exclusive(
        ErrorDomain::QEMU,
        flags.info,
        bits,
        named!(
            VIR_DOMAIN_SNAPSHOT_CREATE_LIVE,
            VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        ),
    )?;
    let has = |flag| bits & flag != 0;
    let request = CreateSnapshotRequest {
        domain: by_uuid(&args.dom),
        xml: args.xml_desc.into_string(),
        redefine: has(VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE),
        current: has(VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT),
        no_metadata: has(VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA),
        halt: has(VIR_DOMAIN_SNAPSHOT_CREATE_HALT),
        disk_only: has(VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY),
        reuse_images: has(VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT),
        quiesce: has(VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE),
        live: has(VIR_DOMAIN_SNAPSHOT_CREATE_LIVE),
        validate: has(VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE),
        options: None,
    };
    let made = ctx.snapshots().create(request).await?;
    let name = made.snapshot.unwrap_or_default().name;
    let snap = one(ctx, &args.dom, &name).await?;
    Ok(DomainSnapshotCreateXmlRet { snap })
}

pub(crate) async fn delete(ctx: &Ctx, args: DomainSnapshotDelete, flags: Flags) -> Reply<()> {
    let children = named!(
        VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN,
        VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY
    );
    let flags = flags.exclusive(children)?.checked()?;
    let request = DeleteSnapshotRequest {
        domain: by_uuid(&args.snap.dom),
        name: args.snap.name.into_string(),
        children: flags & VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN != 0,
        children_only: flags & VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY != 0,
        metadata_only: flags & VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY != 0,
        options: None,
    };
    ctx.snapshots().delete(request).await?;
    Ok(())
}

pub(crate) async fn revert(ctx: &Ctx, args: DomainRevertToSnapshot, flags: Flags) -> Reply<()> {
    let states = named!(
        VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING,
        VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
    );
    let flags = flags.exclusive(states)?.checked()?;
    let request = RevertSnapshotRequest {
        domain: by_uuid(&args.snap.dom),
        name: args.snap.name.into_string(),
        running: flags & VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING != 0,
        paused: flags & VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED != 0,
        force: flags & VIR_DOMAIN_SNAPSHOT_REVERT_FORCE != 0,
        reset_nvram: flags & VIR_DOMAIN_SNAPSHOT_REVERT_RESET_NVRAM != 0,
        options: None,
    };
    ctx.snapshots().revert(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_written_as_the_protocol_has_it() {
        let dom = NonnullDomain {
            name: "guest".into(),
            uuid: wire::xdr::Uuid([7; 16]),
            id: 3,
        };
        let names = ["a", "", "longer than four"];
        let mut all = All {
            snapshots: names
                .iter()
                .map(|name| Named {
                    name: Bytes::from_static(name.as_bytes()),
                })
                .collect(),
            number: 3,
            ..All::default()
        };
        dom.encode(&mut all.guest).unwrap();
        let named = |name: &&str| NonnullDomainSnapshot {
            name: (*name).into(),
            dom: dom.clone(),
        };
        let whole = DomainListAllSnapshotsRet {
            snapshots: names.iter().map(named).collect::<Vec<_>>().into(),
            ret: 3,
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        all.put(&mut ours).unwrap();
        whole.put(&mut theirs).unwrap();
        assert_eq!(ours, theirs);
    }
}

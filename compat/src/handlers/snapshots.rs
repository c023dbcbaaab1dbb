//! Snapshots: which there are. What is done with one is not served yet, and refused once it is found.

use wire::consts::*;
use wire::remote::*;
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self};
use super::flags::{Flags, named};
use super::info::basic;
use super::{Reply, by_uuid, nonnull};
use crate::ctx::Ctx;
use crate::moments::{Ends, Moment, Part, Tree};
use crate::proto::ListSnapshotsRequest;

/// Flags of lists that ask what kind of snapshot it is, which is not known here.
const KINDS: u32 = VIR_DOMAIN_SNAPSHOT_LIST_INACTIVE
    | VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE
    | VIR_DOMAIN_SNAPSHOT_LIST_DISK_ONLY
    | VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL
    | VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL;
/// Flags of lists by whether there is metadata; there is for all that are known.
const METADATA: u32 = VIR_DOMAIN_SNAPSHOT_LIST_METADATA | VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA;
/// Most names of a list, and its name in the protocol.
const MOST: (usize, &str) = (DOMAIN_SNAPSHOT_LIST_MAX, "REMOTE_DOMAIN_SNAPSHOT_LIST_MAX");

async fn tree(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Tree> {
    let request = ListSnapshotsRequest { domain: by_uuid(dom) };
    let found = ctx.snapshots().list(request).await?.into_inner().snapshots;
    let moment = |snapshot: crate::proto::Snapshot| Moment {
        name: snapshot.name,
        parent: snapshot.parent,
        current: snapshot.current,
    };
    Ok(Tree(found.into_iter().map(moment).collect()))
}

fn missing(detail: &str) -> WireError {
    WireError::new(ErrorCode::NO_DOMAIN_SNAPSHOT, ErrorDomain::QEMU, detail)
}

fn find<'a>(tree: &'a Tree, name: &str) -> Result<&'a Moment, WireError> {
    let unknown = || missing(&format!("no domain snapshot with matching name '{name}'"));
    tree.find(name).ok_or_else(unknown)
}

/// The names that flags choose of a part of the guest's snapshots.
fn chosen(ctx: &Ctx, tree: &Tree, part: Part<'_>, flags: u32) -> Result<Vec<String>, WireError> {
    if flags & METADATA == VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA {
        return Ok(Vec::new());
    }
    let has = |flag| flags & flag != 0;
    let ends = Ends::of(
        has(VIR_DOMAIN_SNAPSHOT_LIST_LEAVES),
        has(VIR_DOMAIN_SNAPSHOT_LIST_NO_LEAVES),
    );
    let names = tree.names(part, ends);
    if has(KINDS) && !names.is_empty() {
        return Err(ctx.info.unsupported());
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

async fn of_guest(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<Vec<String>> {
    let part = match flags & VIR_DOMAIN_SNAPSHOT_LIST_ROOTS {
        0 => Part::All,
        _ => Part::Roots,
    };
    Ok(chosen(ctx, &tree(ctx, dom).await?, part, flags)?)
}

async fn after(ctx: &Ctx, snap: &NonnullDomainSnapshot, flags: u32) -> Reply<Vec<String>> {
    let tree = tree(ctx, &snap.dom).await?;
    let name = &find(&tree, &snap.name.to_str())?.name;
    let part = match flags & VIR_DOMAIN_SNAPSHOT_LIST_DESCENDANTS {
        0 => Part::Children(name),
        _ => Part::Descendants(name),
    };
    Ok(chosen(ctx, &tree, part, flags)?)
}

fn number(names: &[String]) -> i32 {
    i32::try_from(names.len()).unwrap_or(i32::MAX)
}

/// Snapshots of the guest as the protocol names them, with the guest's own names.
async fn named_of(ctx: &Ctx, dom: &NonnullDomain, names: Vec<String>) -> Reply<Vec<NonnullDomainSnapshot>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let dom = nonnull(&basic(ctx, dom).await?);
    let named = |name: String| NonnullDomainSnapshot {
        name: name.into(),
        dom: dom.clone(),
    };
    Ok(names.into_iter().map(named).collect())
}

async fn one(ctx: &Ctx, dom: &NonnullDomain, name: &str) -> Reply<NonnullDomainSnapshot> {
    let dom = nonnull(&basic(ctx, dom).await?);
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
    let names = of_guest(ctx, &args.dom, flags.checked()?).await?;
    Ok(DomainSnapshotNumRet { num: number(&names) })
}

pub(crate) async fn list_names(
    ctx: &Ctx,
    args: DomainSnapshotListNames,
    flags: Flags,
) -> Reply<DomainSnapshotListNamesRet> {
    let most = args::count("maxnames", args.maxnames, MOST)?;
    let names = of_guest(ctx, &args.dom, flags.checked()?).await?;
    Ok(DomainSnapshotListNamesRet {
        names: names.into_iter().take(most).map(Text::from).collect(),
    })
}

pub(crate) async fn list_all(
    ctx: &Ctx,
    args: DomainListAllSnapshots,
    flags: Flags,
) -> Reply<DomainListAllSnapshotsRet> {
    let names = of_guest(ctx, &args.dom, flags.checked()?).await?;
    let ret = number(&names);
    let wanted = if args.need_results != 0 { names } else { Vec::new() };
    Ok(DomainListAllSnapshotsRet {
        snapshots: named_of(ctx, &args.dom, wanted).await?.into(),
        ret,
    })
}

pub(crate) async fn number_of_children(
    ctx: &Ctx,
    args: DomainSnapshotNumChildren,
    flags: Flags,
) -> Reply<DomainSnapshotNumChildrenRet> {
    let names = after(ctx, &args.snap, flags.checked()?).await?;
    Ok(DomainSnapshotNumChildrenRet { num: number(&names) })
}

pub(crate) async fn list_names_of_children(
    ctx: &Ctx,
    args: DomainSnapshotListChildrenNames,
    flags: Flags,
) -> Reply<DomainSnapshotListChildrenNamesRet> {
    let most = args::count("maxnames", args.maxnames, MOST)?;
    let names = after(ctx, &args.snap, flags.checked()?).await?;
    Ok(DomainSnapshotListChildrenNamesRet {
        names: names.into_iter().take(most).map(Text::from).collect(),
    })
}

pub(crate) async fn list_all_children(
    ctx: &Ctx,
    args: DomainSnapshotListAllChildren,
    flags: Flags,
) -> Reply<DomainSnapshotListAllChildrenRet> {
    let names = after(ctx, &args.snapshot, flags.checked()?).await?;
    let ret = number(&names);
    let wanted = if args.need_results != 0 { names } else { Vec::new() };
    Ok(DomainSnapshotListAllChildrenRet {
        snapshots: named_of(ctx, &args.snapshot.dom, wanted).await?.into(),
        ret,
    })
}

pub(crate) async fn lookup_by_name(
    ctx: &Ctx,
    args: DomainSnapshotLookupByName,
    flags: Flags,
) -> Reply<DomainSnapshotLookupByNameRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.dom).await?;
    let found = find(&tree, &args.name.to_str())?;
    let snap = one(ctx, &args.dom, &found.name).await?;
    Ok(DomainSnapshotLookupByNameRet { snap })
}

pub(crate) async fn has_current(
    ctx: &Ctx,
    args: DomainHasCurrentSnapshot,
    flags: Flags,
) -> Reply<DomainHasCurrentSnapshotRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.dom).await?;
    let result = i32::from(tree.0.iter().any(|moment| moment.current));
    Ok(DomainHasCurrentSnapshotRet { result })
}

pub(crate) async fn current(
    ctx: &Ctx,
    args: DomainSnapshotCurrent,
    flags: Flags,
) -> Reply<DomainSnapshotCurrentRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.dom).await?;
    let none = || missing("the domain does not have a current snapshot");
    let current = tree.0.iter().rfind(|moment| moment.current).ok_or_else(none)?;
    let snap = one(ctx, &args.dom, &current.name).await?;
    Ok(DomainSnapshotCurrentRet { snap })
}

pub(crate) async fn is_current(
    ctx: &Ctx,
    args: DomainSnapshotIsCurrent,
    flags: Flags,
) -> Reply<DomainSnapshotIsCurrentRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.snap.dom).await?;
    let current = find(&tree, &args.snap.name.to_str())?.current.into();
    Ok(DomainSnapshotIsCurrentRet { current })
}

pub(crate) async fn has_metadata(
    ctx: &Ctx,
    args: DomainSnapshotHasMetadata,
    flags: Flags,
) -> Reply<DomainSnapshotHasMetadataRet> {
    flags.checked()?;
    find(&tree(ctx, &args.snap.dom).await?, &args.snap.name.to_str())?;
    Ok(DomainSnapshotHasMetadataRet { metadata: 1 })
}

pub(crate) async fn get_parent(
    ctx: &Ctx,
    args: DomainSnapshotGetParent,
    flags: Flags,
) -> Reply<DomainSnapshotGetParentRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.snap.dom).await?;
    let snapshot = find(&tree, &args.snap.name.to_str())?;
    let none = || missing(&format!("snapshot '{}' does not have a parent", snapshot.name));
    let parent = tree.parent(snapshot).ok_or_else(none)?;
    let snap = one(ctx, &args.snap.dom, &parent.name).await?;
    Ok(DomainSnapshotGetParentRet { snap })
}

pub(crate) async fn get_xml(
    ctx: &Ctx,
    args: DomainSnapshotGetXmlDesc,
    flags: Flags,
) -> Reply<DomainSnapshotGetXmlDescRet> {
    flags.checked()?;
    find(&tree(ctx, &args.snap.dom).await?, &args.snap.name.to_str())?;
    Err(ctx.info.unsupported().into())
}

pub(crate) async fn delete(ctx: &Ctx, args: DomainSnapshotDelete, flags: Flags) -> Reply<()> {
    let children = named!(
        VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN,
        VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY
    );
    refuse(ctx, &args.snap, flags.exclusive(children)?).await
}

pub(crate) async fn revert(ctx: &Ctx, args: DomainRevertToSnapshot, flags: Flags) -> Reply<()> {
    let states = named!(
        VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING,
        VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
    );
    refuse(ctx, &args.snap, flags.exclusive(states)?).await
}

/// Refuses what cannot be done with a snapshot yet, once guest, flags and snapshot are found right.
async fn refuse(ctx: &Ctx, snap: &NonnullDomainSnapshot, flags: Flags) -> Reply<()> {
    let tree = tree(ctx, &snap.dom).await?;
    flags.checked()?;
    find(&tree, &snap.name.to_str())?;
    Err(ctx.info.unsupported().into())
}

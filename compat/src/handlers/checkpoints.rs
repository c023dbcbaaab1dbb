//! Checkpoints: which there are, made, shown, removed.

use wire::consts::*;
use wire::remote::*;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::flags::{Flags, named};
use super::info::basic;
use super::{Reply, by_uuid, nonnull};
use crate::ctx::Ctx;
use crate::moments::{Ends, Moment, Part, Tree};
use crate::proto::{
    CreateCheckpointRequest, DeleteCheckpointRequest, GetCheckpointXmlRequest, ListCheckpointsRequest,
};

async fn tree(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Tree> {
    let request = ListCheckpointsRequest { domain: by_uuid(dom) };
    let found = ctx.checkpoints().list(request).await?.into_inner().checkpoints;
    let moment = |checkpoint: crate::proto::Checkpoint| Moment {
        name: checkpoint.name,
        parent: checkpoint.parent,
        current: false,
    };
    Ok(Tree(found.into_iter().map(moment).collect()))
}

fn missing(detail: &str) -> WireError {
    WireError::new(ErrorCode::NO_DOMAIN_CHECKPOINT, ErrorDomain::QEMU, detail)
}

fn find<'a>(tree: &'a Tree, name: &str) -> Result<&'a Moment, WireError> {
    let unknown = || missing(&format!("no domain checkpoint with matching name '{name}'"));
    tree.find(name).ok_or_else(unknown)
}

fn ends(flags: u32) -> Ends {
    Ends::of(
        flags & VIR_DOMAIN_CHECKPOINT_LIST_LEAVES != 0,
        flags & VIR_DOMAIN_CHECKPOINT_LIST_NO_LEAVES != 0,
    )
}

async fn named_of(ctx: &Ctx, dom: &NonnullDomain, names: &[&str]) -> Reply<Vec<NonnullDomainCheckpoint>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let dom = nonnull(&basic(ctx, dom).await?);
    let named = |name: &&str| NonnullDomainCheckpoint {
        name: (*name).into(),
        dom: dom.clone(),
    };
    Ok(names.iter().map(named).collect())
}

pub(crate) async fn list_all(
    ctx: &Ctx,
    args: DomainListAllCheckpoints,
    flags: Flags,
) -> Reply<DomainListAllCheckpointsRet> {
    let flags = flags.checked()?;
    let part = match flags & VIR_DOMAIN_CHECKPOINT_LIST_ROOTS {
        0 => Part::All,
        _ => Part::Roots,
    };
    let tree = tree(ctx, &args.dom).await?;
    let names = tree.names(part, ends(flags));
    let wanted = if args.need_results != 0 {
        names.as_slice()
    } else {
        &[]
    };
    Ok(DomainListAllCheckpointsRet {
        checkpoints: named_of(ctx, &args.dom, wanted).await?.into(),
        ret: i32::try_from(names.len()).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn list_all_children(
    ctx: &Ctx,
    args: DomainCheckpointListAllChildren,
    flags: Flags,
) -> Reply<DomainCheckpointListAllChildrenRet> {
    let flags = flags.checked()?;
    let tree = tree(ctx, &args.checkpoint.dom).await?;
    let name = &find(&tree, &args.checkpoint.name.to_str())?.name;
    let part = match flags & VIR_DOMAIN_CHECKPOINT_LIST_DESCENDANTS {
        0 => Part::Children(name),
        _ => Part::Descendants(name),
    };
    let names = tree.names(part, ends(flags));
    let wanted = if args.need_results != 0 {
        names.as_slice()
    } else {
        &[]
    };
    Ok(DomainCheckpointListAllChildrenRet {
        checkpoints: named_of(ctx, &args.checkpoint.dom, wanted).await?.into(),
        ret: i32::try_from(names.len()).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn lookup_by_name(
    ctx: &Ctx,
    args: DomainCheckpointLookupByName,
    flags: Flags,
) -> Reply<DomainCheckpointLookupByNameRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.dom).await?;
    let name = find(&tree, &args.name.to_str())?.name.as_str();
    let found = named_of(ctx, &args.dom, &[name]).await?;
    let checkpoint = found.into_iter().next().unwrap_or_default();
    Ok(DomainCheckpointLookupByNameRet { checkpoint })
}

pub(crate) async fn get_parent(
    ctx: &Ctx,
    args: DomainCheckpointGetParent,
    flags: Flags,
) -> Reply<DomainCheckpointGetParentRet> {
    flags.checked()?;
    let tree = tree(ctx, &args.checkpoint.dom).await?;
    let checkpoint = find(&tree, &args.checkpoint.name.to_str())?;
    let none = || {
        missing(&format!(
            "checkpoint '{}' does not have a parent",
            checkpoint.name
        ))
    };
    let parent = tree.parent(checkpoint).ok_or_else(none)?;
    let found = named_of(ctx, &args.checkpoint.dom, &[&parent.name]).await?;
    let parent = found.into_iter().next().unwrap_or_default();
    Ok(DomainCheckpointGetParentRet { parent })
}

pub(crate) async fn get_xml(
    ctx: &Ctx,
    args: DomainCheckpointGetXmlDesc,
    flags: Flags,
) -> Reply<DomainCheckpointGetXmlDescRet> {
    let flags = flags.checked()?;
    let has = |flag: u32| flags & flag != 0;
    let request = GetCheckpointXmlRequest {
        domain: by_uuid(&args.checkpoint.dom),
        name: args.checkpoint.name.to_str().into_owned(),
        secure: has(VIR_DOMAIN_CHECKPOINT_XML_SECURE),
        no_domain: has(VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN),
        size: has(VIR_DOMAIN_CHECKPOINT_XML_SIZE),
    };
    let xml = ctx.checkpoints().get_xml(request).await?.into_inner().xml;
    Ok(DomainCheckpointGetXmlDescRet { xml: xml.into() })
}

pub(crate) async fn create(
    ctx: &Ctx,
    args: DomainCheckpointCreateXml,
    flags: Flags,
) -> Reply<DomainCheckpointCreateXmlRet> {
    let flags = flags
        .exclusive(named!(
            VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE,
            VIR_DOMAIN_CHECKPOINT_CREATE_QUIESCE
        ))?
        .requires(named!(
            VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE,
            VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        ))?
        .checked()?;
    let request = CreateCheckpointRequest {
        domain: by_uuid(&args.dom),
        xml: args.xml_desc.into_string(),
        redefine: flags & VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE != 0,
        validate_bitmaps: flags & VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE != 0,
        options: None,
    };
    let made = ctx.checkpoints().create(request).await?.into_inner();
    let checkpoint = NonnullDomainCheckpoint {
        name: made.checkpoint.unwrap_or_default().name.as_str().into(),
        dom: nonnull(&made.domain.unwrap_or_default()),
    };
    Ok(DomainCheckpointCreateXmlRet { checkpoint })
}

pub(crate) async fn delete(ctx: &Ctx, args: DomainCheckpointDelete, flags: Flags) -> Reply<()> {
    let children = named!(
        VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN,
        VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY
    );
    let flags = flags.exclusive(children)?.checked()?;
    let request = DeleteCheckpointRequest {
        domain: by_uuid(&args.checkpoint.dom),
        name: args.checkpoint.name.into_string(),
        children: flags & VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN != 0,
        children_only: flags & VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY != 0,
        metadata_only: flags & VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY != 0,
        options: None,
    };
    ctx.checkpoints().delete(request).await?;
    Ok(())
}

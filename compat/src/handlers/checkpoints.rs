//! Checkpoints: which there are, made, shown, removed.

use wire::consts::*;
use wire::remote::*;
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::flags::{Flags, either, named};
use super::info::basic;
use super::{Reply, by_uuid, nonnull};
use crate::ctx::Ctx;
use crate::proto::{
    Checkpoint, CreateCheckpointRequest, DeleteCheckpointRequest, GetCheckpointRequest,
    GetCheckpointXmlRequest, ListCheckpointsRequest,
};

/// Checkpoints of a page: as many as the service gives.
const PAGE: i32 = 16_384;

fn missing(detail: &str) -> WireError {
    WireError::new(ErrorCode::NO_DOMAIN_CHECKPOINT, ErrorDomain::QEMU, detail)
}

/// Answers the names that flags choose of a part of a guest's checkpoints.
async fn names(ctx: &Ctx, part: ListCheckpointsRequest, flags: u32) -> Reply<Vec<String>> {
    let request = ListCheckpointsRequest {
        leaf: either(
            flags,
            VIR_DOMAIN_CHECKPOINT_LIST_LEAVES,
            VIR_DOMAIN_CHECKPOINT_LIST_NO_LEAVES,
        ),
        page_size: PAGE,
        ..part
    };
    let found = ctx.checkpoints().list(request).await?.checkpoints;
    Ok(found.into_iter().map(|checkpoint| checkpoint.name).collect())
}

/// A checkpoint that a client names.
async fn get(ctx: &Ctx, dom: &NonnullDomain, name: &Text) -> Reply<Checkpoint> {
    let request = GetCheckpointRequest {
        domain: by_uuid(dom),
        name: name.to_str().into_owned(),
    };
    Ok(ctx.checkpoints().get(request).await?)
}

async fn named_of(ctx: &Ctx, dom: &NonnullDomain, names: Vec<String>) -> Reply<Vec<NonnullDomainCheckpoint>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let dom = NonnullDomain::from(&basic(ctx, dom).await?);
    let named = |name: String| NonnullDomainCheckpoint {
        name: name.into(),
        dom: dom.clone(),
    };
    Ok(names.into_iter().map(named).collect())
}

async fn one(ctx: &Ctx, dom: &NonnullDomain, name: String) -> Reply<NonnullDomainCheckpoint> {
    let found = named_of(ctx, dom, vec![name]).await?;
    Ok(found.into_iter().next().unwrap_or_default())
}

pub(crate) async fn list_all(
    ctx: &Ctx,
    args: DomainListAllCheckpoints,
    flags: Flags,
) -> Reply<DomainListAllCheckpointsRet> {
    let flags = flags.checked()?;
    let part = ListCheckpointsRequest {
        domain: by_uuid(&args.dom),
        roots: flags & VIR_DOMAIN_CHECKPOINT_LIST_ROOTS != 0,
        ..Default::default()
    };
    let names = names(ctx, part, flags).await?;
    let ret = i32::try_from(names.len()).unwrap_or(i32::MAX);
    let wanted = if args.need_results != 0 { names } else { Vec::new() };
    Ok(DomainListAllCheckpointsRet {
        checkpoints: named_of(ctx, &args.dom, wanted).await?.into(),
        ret,
    })
}

pub(crate) async fn list_all_children(
    ctx: &Ctx,
    args: DomainCheckpointListAllChildren,
    flags: Flags,
) -> Reply<DomainCheckpointListAllChildrenRet> {
    let flags = flags.checked()?;
    let parent = get(ctx, &args.checkpoint.dom, &args.checkpoint.name).await?;
    let part = ListCheckpointsRequest {
        domain: by_uuid(&args.checkpoint.dom),
        parent: parent.name,
        descendants: flags & VIR_DOMAIN_CHECKPOINT_LIST_DESCENDANTS != 0,
        ..Default::default()
    };
    let names = names(ctx, part, flags).await?;
    let ret = i32::try_from(names.len()).unwrap_or(i32::MAX);
    let wanted = if args.need_results != 0 { names } else { Vec::new() };
    Ok(DomainCheckpointListAllChildrenRet {
        checkpoints: named_of(ctx, &args.checkpoint.dom, wanted).await?.into(),
        ret,
    })
}

pub(crate) async fn lookup_by_name(
    ctx: &Ctx,
    args: DomainCheckpointLookupByName,
    flags: Flags,
) -> Reply<DomainCheckpointLookupByNameRet> {
    flags.checked()?;
    let found = get(ctx, &args.dom, &args.name).await?;
    let checkpoint = one(ctx, &args.dom, found.name).await?;
    Ok(DomainCheckpointLookupByNameRet { checkpoint })
}

pub(crate) async fn get_parent(
    ctx: &Ctx,
    args: DomainCheckpointGetParent,
    flags: Flags,
) -> Reply<DomainCheckpointGetParentRet> {
    flags.checked()?;
    let found = get(ctx, &args.checkpoint.dom, &args.checkpoint.name).await?;
    if found.parent.is_empty() {
        return Err(missing(&format!("checkpoint '{}' does not have a parent", found.name)).into());
    }
    let parent = one(ctx, &args.checkpoint.dom, found.parent).await?;
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
    let xml = ctx.checkpoints().get_xml(request).await?.xml;
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
    let made = ctx.checkpoints().create(request).await?;
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

//! Guests saved and restored, their images, and dumps.

use wire::consts::*;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, refused};
use super::flags::{Flags, named};
use super::info::{basic, running};
use super::{Reply, by_uuid, ended};
use crate::ctx::Ctx;
use crate::proto::dump_request::{Content, Guest};
use crate::proto::image_ref::Ref;
use crate::proto::{
    DumpRequest, GetImageRequest, ImageFormat, ImageRef, RestoreRequest, RestoredState, SaveRequest,
    UpdateImageRequest,
};

/// Parameters of saves and restores.
const PARAMS: [Param; 4] = [
    VIR_DOMAIN_SAVE_PARAM_FILE,
    VIR_DOMAIN_SAVE_PARAM_DXML,
    VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT,
    VIR_DOMAIN_SAVE_PARAM_PARALLEL_CHANNELS,
];
/// Those of restores.
const RESTORE_PARAMS: [Param; 3] = [
    VIR_DOMAIN_SAVE_PARAM_FILE,
    VIR_DOMAIN_SAVE_PARAM_DXML,
    VIR_DOMAIN_SAVE_PARAM_PARALLEL_CHANNELS,
];

fn state(flags: u32) -> i32 {
    let state = match flags & (VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED) {
        VIR_DOMAIN_SAVE_RUNNING => RestoredState::Running,
        VIR_DOMAIN_SAVE_PAUSED => RestoredState::Paused,
        _ => RestoredState::Unspecified,
    };
    state.into()
}

/// The flags, of which two exclude each other.
fn checked(flags: Flags) -> Result<u32, WireError> {
    let states = named!(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED);
    flags.exclusive(states)?.checked()
}

pub(crate) async fn save(ctx: &Ctx, args: DomainSave) -> Reply<()> {
    let request = SaveRequest {
        domain: by_uuid(&args.dom),
        path: args.to.into_string(),
        ..SaveRequest::default()
    };
    save_as(ctx, request, 0).await
}

pub(crate) async fn save_flags(ctx: &Ctx, args: DomainSaveFlags, flags: Flags) -> Reply<()> {
    let request = SaveRequest {
        domain: by_uuid(&args.dom),
        path: args.to.into_string(),
        xml: args::text(args.dxml),
        ..SaveRequest::default()
    };
    save_as(ctx, request, checked(flags)?).await
}

pub(crate) async fn save_params(ctx: &Ctx, args: DomainSaveParams, flags: Flags) -> Reply<()> {
    let flags = checked(flags)?;
    args::params(&args.params, &PARAMS)?;
    let text = |param| text_of(&args.params, param);
    let path = text(VIR_DOMAIN_SAVE_PARAM_FILE);
    let mut request = SaveRequest {
        domain: by_uuid(&args.dom),
        xml: text(VIR_DOMAIN_SAVE_PARAM_DXML).unwrap_or_default(),
        ..SaveRequest::default()
    };
    // A managed save goes by the configuration.
    if let Some(path) = path {
        request.path = path;
        request.channels = channels(&args.params);
        if let Some(word) = text(VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT) {
            basic(ctx, &args.dom).await?;
            request.format = format(&word)?;
        }
    }
    save_as(ctx, request, flags).await
}

pub(crate) async fn managed_save(ctx: &Ctx, args: DomainManagedSave, flags: Flags) -> Reply<()> {
    let request = SaveRequest {
        domain: by_uuid(&args.dom),
        ..SaveRequest::default()
    };
    save_as(ctx, request, checked(flags)?).await
}

async fn save_as(ctx: &Ctx, request: SaveRequest, flags: u32) -> Reply<()> {
    let request = SaveRequest {
        bypass_cache: flags & VIR_DOMAIN_SAVE_BYPASS_CACHE != 0,
        restored: state(flags),
        ..request
    };
    let operation = ctx.saves().save(request).await?;
    ended(ctx, operation).await
}

fn format(word: &str) -> Result<i32, WireError> {
    let format = match word {
        "raw" => ImageFormat::Raw,
        "gzip" => ImageFormat::Gzip,
        "bzip2" => ImageFormat::Bzip2,
        "xz" => ImageFormat::Xz,
        "lzop" => ImageFormat::Lzop,
        "zstd" => ImageFormat::Zstd,
        "sparse" => ImageFormat::Sparse,
        _ => {
            let detail = format!("Invalid image_format '{word}'");
            return Err(WireError::new(
                ErrorCode::OPERATION_FAILED,
                ErrorDomain::QEMU,
                &detail,
            ));
        }
    };
    Ok(format.into())
}

fn text_of(params: &[TypedParam], param: Param) -> Option<String> {
    match param.find(params) {
        Some(TypedValue::String(text)) => Some(text.to_str().into_owned()),
        _ => None,
    }
}

fn channels(params: &[TypedParam]) -> Option<i32> {
    match VIR_DOMAIN_SAVE_PARAM_PARALLEL_CHANNELS.find(params) {
        Some(TypedValue::Int(channels)) => Some(*channels),
        _ => None,
    }
}

pub(crate) async fn restore(ctx: &Ctx, args: DomainRestore) -> Reply<()> {
    let request = RestoreRequest {
        path: args.from.into_string(),
        ..RestoreRequest::default()
    };
    restore_as(ctx, request, 0).await
}

pub(crate) async fn restore_flags(ctx: &Ctx, args: DomainRestoreFlags, flags: Flags) -> Reply<()> {
    let request = RestoreRequest {
        path: args.from.into_string(),
        xml: args::text(args.dxml),
        ..RestoreRequest::default()
    };
    restore_as(ctx, request, checked(flags)?).await
}

pub(crate) async fn restore_params(ctx: &Ctx, args: DomainRestoreParams, flags: Flags) -> Reply<()> {
    let flags = checked(flags)?;
    args::params(&args.params, &RESTORE_PARAMS)?;
    let path = text_of(&args.params, VIR_DOMAIN_SAVE_PARAM_FILE);
    let request = RestoreRequest {
        path: path.ok_or_else(|| args::invalid("missing path to restore from"))?,
        xml: text_of(&args.params, VIR_DOMAIN_SAVE_PARAM_DXML).unwrap_or_default(),
        channels: channels(&args.params),
        ..RestoreRequest::default()
    };
    restore_as(ctx, request, flags).await
}

async fn restore_as(ctx: &Ctx, request: RestoreRequest, flags: u32) -> Reply<()> {
    let has = |flag| flags & flag != 0;
    let request = RestoreRequest {
        bypass_cache: has(VIR_DOMAIN_SAVE_BYPASS_CACHE),
        reset_nvram: has(VIR_DOMAIN_SAVE_RESET_NVRAM),
        restored: state(flags),
        ..request
    };
    let operation = ctx.saves().restore(request).await?;
    ended(ctx, operation).await
}

pub(crate) async fn get_image_xml(
    ctx: &Ctx,
    args: DomainSaveImageGetXmlDesc,
    flags: Flags,
) -> Reply<DomainSaveImageGetXmlDescRet> {
    let xml = image_xml(ctx, Ref::Path(args.file.into_string()), flags.checked()?).await?;
    Ok(DomainSaveImageGetXmlDescRet { xml })
}

pub(crate) async fn get_managed_xml(
    ctx: &Ctx,
    args: DomainManagedSaveGetXmlDesc,
    flags: Flags,
) -> Reply<DomainManagedSaveGetXmlDescRet> {
    let flags = flags.checked()?;
    let xml = image_xml(ctx, managed(&args.dom), flags).await?;
    Ok(DomainManagedSaveGetXmlDescRet { xml })
}

fn managed(dom: &NonnullDomain) -> Ref {
    Ref::Managed(by_uuid(dom).unwrap_or_default())
}

async fn image_xml(ctx: &Ctx, image: Ref, flags: u32) -> Reply<Text> {
    let request = GetImageRequest {
        image: Some(ImageRef { r#ref: Some(image) }),
        secure: flags & VIR_DOMAIN_SAVE_IMAGE_XML_SECURE != 0,
    };
    Ok(ctx.saves().get_image(request).await?.xml.into())
}

pub(crate) async fn define_image_xml(ctx: &Ctx, args: DomainSaveImageDefineXml, flags: Flags) -> Reply<()> {
    let image = Ref::Path(args.file.into_string());
    update(ctx, image, args.dxml.into_string(), checked(flags)?).await
}

pub(crate) async fn define_managed_xml(
    ctx: &Ctx,
    args: DomainManagedSaveDefineXml,
    flags: Flags,
) -> Reply<()> {
    let flags = checked(flags)?;
    update(ctx, managed(&args.dom), args::text(args.dxml), flags).await
}

async fn update(ctx: &Ctx, image: Ref, xml: String, flags: u32) -> Reply<()> {
    let request = UpdateImageRequest {
        image: Some(ImageRef { r#ref: Some(image) }),
        xml,
        restored: state(flags),
        options: None,
    };
    ctx.saves().update_image(request).await?;
    Ok(())
}

pub(crate) async fn core_dump(ctx: &Ctx, args: DomainCoreDump, flags: Flags) -> Reply<()> {
    let flags = after(flags)?;
    dump_as(ctx, &args.dom, (args.to, VIR_DOMAIN_CORE_DUMP_FORMAT_RAW), flags).await
}

pub(crate) async fn core_dump_with_format(
    ctx: &Ctx,
    args: DomainCoreDumpWithFormat,
    flags: Flags,
) -> Reply<()> {
    let format = args.dumpformat.cast_signed();
    if !(VIR_DOMAIN_CORE_DUMP_FORMAT_RAW..=VIR_DOMAIN_CORE_DUMP_FORMAT_WIN_DMP).contains(&format) {
        let text = format!("dumpformat '{format}' is not supported");
        return Err(refused(ctx.info.area(), ctx.info.api, "dumpformat", &text).into());
    }
    let flags = after(flags)?;
    dump_as(ctx, &args.dom, (args.to, format), flags).await
}

/// The flags of a dump, of which three exclude each other.
fn after(flags: Flags) -> Result<u32, WireError> {
    flags
        .exclusive(named!(VIR_DUMP_CRASH, VIR_DUMP_LIVE))?
        .exclusive(named!(VIR_DUMP_CRASH, VIR_DUMP_RESET))?
        .exclusive(named!(VIR_DUMP_LIVE, VIR_DUMP_RESET))?
        .checked()
}

async fn dump_as(ctx: &Ctx, dom: &NonnullDomain, (to, format): (Text, i32), flags: u32) -> Reply<()> {
    let has = |flag| flags & flag != 0;
    let content = match (has(VIR_DUMP_MEMORY_ONLY), format) {
        (false, VIR_DOMAIN_CORE_DUMP_FORMAT_RAW) => Content::Unspecified,
        (false, _) => {
            running(ctx, dom).await?;
            let detail = "kdump-compressed format is only supported with memory-only dump";
            let code = ErrorCode::OPERATION_UNSUPPORTED;
            return Err(WireError::new(code, ErrorDomain::QEMU, detail).into());
        }
        (true, VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB) => Content::KdumpZlib,
        (true, VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_LZO) => Content::KdumpLzo,
        (true, VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_SNAPPY) => Content::KdumpSnappy,
        (true, VIR_DOMAIN_CORE_DUMP_FORMAT_WIN_DMP) => Content::WinDmp,
        (true, _) => Content::Elf,
    };
    let guest = match () {
        () if has(VIR_DUMP_CRASH) => Guest::Crash,
        () if has(VIR_DUMP_LIVE) => Guest::Live,
        () if has(VIR_DUMP_RESET) => Guest::Reset,
        () => Guest::Unspecified,
    };
    let request = DumpRequest {
        domain: by_uuid(dom),
        path: to.into_string(),
        content: content.into(),
        guest: guest.into(),
        bypass_cache: has(VIR_DUMP_BYPASS_CACHE),
        options: None,
    };
    let operation = ctx.saves().dump(request).await?;
    ended(ctx, operation).await
}

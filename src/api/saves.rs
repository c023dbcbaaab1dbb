//! The Saves service.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use qemu_plan::save_image::ImageFormat;
use tonic::{Request, Response};

use super::{
    decode, operations,
    service::{Answer, Call, Service},
};
use crate::{
    access::{Caller, Permission},
    error::{Error, Result},
    ops::{
        operation::record::Record,
        saves::{dump, image, save},
        start::restore,
    },
    pb::{
        self,
        dump_request::{Content, Guest},
        image_ref::Ref,
    },
};

#[tonic::async_trait]
impl pb::saves_server::Saves for Service {
    async fn save(&self, request: Request<pb::SaveRequest>) -> Answer<pb::Operation> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            let how = save::How {
                path: match r.path.as_str() {
                    "" => None,
                    path => Some(absolute(path)?),
                },
                xml: Some(r.xml).filter(|xml| !xml.is_empty()),
                format: format(r.format)?,
                channels: channels(r.channels),
                bypass_cache: r.bypass_cache,
                runs: runs(r.restored)?,
            };
            let begun = save::begin(&call.driver, &domain, how, &call.conditions).await?;
            Ok(operation(begun, save::KIND))
        })
        .await
    }

    async fn restore(&self, request: Request<pb::RestoreRequest>) -> Answer<pb::Operation> {
        self.mutate(request, |call| async move {
            let r = call.request;
            let how = restore::Restore {
                path: absolute(&r.path)?,
                xml: Some(r.xml).filter(|xml| !xml.is_empty()),
                channels: channels(r.channels),
                bypass_cache: r.bypass_cache,
                runs: runs(r.restored)?,
                reset_nvram: r.reset_nvram,
            };
            let begun = restore::begin(&call.driver, how, &call.conditions);
            Ok(operation(Box::pin(begun).await?, restore::KIND))
        })
        .await
    }

    async fn get_image(&self, request: Request<pb::GetImageRequest>) -> Answer<pb::SavedImage> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let named = match given(request.image.as_ref())? {
            // Any file that the daemon can read: not for who may only look.
            Ref::Path(path) => {
                caller.may(Permission::DomainReadSecure, "GetImage with path")?;
                image::Named::Path(absolute(path)?)
            }
            Ref::Managed(domain) => image::Named::Managed(self.domain(&caller, Some(domain))?),
        };
        if request.secure {
            caller.may(Permission::DomainReadSecure, "GetImage with secure")?;
        }
        let shown = image::get(&self.driver, &named, request.secure).await?;
        Ok(Response::new(saved(shown)))
    }

    async fn update_image(&self, request: Request<pb::UpdateImageRequest>) -> Answer<pb::SavedImage> {
        self.mutate(request, |call: Call<pb::UpdateImageRequest>| async move {
            let named = match given(call.request.image.as_ref())? {
                // Nobody can say whether a guest has changed that is not named.
                Ref::Path(path) => call.of_host().and(absolute(path)).map(image::Named::Path)?,
                Ref::Managed(domain) => image::Named::Managed(call.domain(Some(domain))?),
            };
            let change = (call.request.xml.clone(), runs(call.request.restored)?);
            let updated = image::update(&call.driver, &named, change, &call.conditions);
            Ok(saved(Box::pin(updated).await?))
        })
        .await
    }

    async fn dump(&self, request: Request<pb::DumpRequest>) -> Answer<pb::Operation> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            let how = dump::How {
                path: absolute(&r.path)?,
                content: match decode::known(r.content, "content")? {
                    Content::Unspecified => dump::Content::Whole,
                    Content::Elf => dump::Content::Memory("elf"),
                    Content::KdumpZlib => dump::Content::Memory("kdump-zlib"),
                    Content::KdumpLzo => dump::Content::Memory("kdump-lzo"),
                    Content::KdumpSnappy => dump::Content::Memory("kdump-snappy"),
                    Content::WinDmp => dump::Content::Memory("win-dmp"),
                },
                then: match decode::known(r.guest, "guest")? {
                    Guest::Unspecified => dump::Then::GoOn,
                    Guest::Live => dump::Then::Live,
                    Guest::Crash => dump::Then::Crash,
                    Guest::Reset => dump::Then::Reset,
                },
                bypass_cache: r.bypass_cache,
            };
            let begun = dump::begin(&call.driver, &domain, how, &call.conditions).await?;
            Ok(operation(begun, dump::KIND))
        })
        .await
    }
}

/// An operation that has begun, or was only tried.
fn operation(begun: Option<Arc<Record>>, kind: &str) -> pb::Operation {
    begun.map_or_else(|| operations::trial(kind), |record| operations::shown(&record))
}

fn absolute(path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if !path.is_absolute() {
        let text = format!("the path '{}' is not absolute", path.display());
        return Err(Error::argument(text).at("path"));
    }
    Ok(path.to_owned())
}

fn channels(channels: Option<i32>) -> Option<i64> {
    channels.map(i64::from)
}

fn given(image: Option<&pb::ImageRef>) -> Result<&Ref> {
    decode::given(image.and_then(|image| image.r#ref.as_ref()), "image")
}

fn format(format: i32) -> Result<Option<ImageFormat>> {
    use pb::ImageFormat as F;
    Ok(match decode::known(format, "format")? {
        F::Unspecified => None,
        F::Raw => Some(ImageFormat::Raw),
        F::Gzip => Some(ImageFormat::Gzip),
        F::Bzip2 => Some(ImageFormat::Bzip2),
        F::Xz => Some(ImageFormat::Xz),
        F::Lzop => Some(ImageFormat::Lzop),
        F::Zstd => Some(ImageFormat::Zstd),
        F::Sparse => Some(ImageFormat::Sparse),
    })
}

fn runs(state: i32) -> Result<Option<bool>> {
    Ok(match decode::known(state, "restored")? {
        pb::RestoredState::Unspecified => None,
        pb::RestoredState::Running => Some(true),
        pb::RestoredState::Paused => Some(false),
    })
}

fn saved(shown: image::Shown) -> pb::SavedImage {
    use pb::{ImageFormat as F, RestoredState as S};
    let format = match shown.format {
        ImageFormat::Raw => F::Raw,
        ImageFormat::Gzip => F::Gzip,
        ImageFormat::Bzip2 => F::Bzip2,
        ImageFormat::Xz => F::Xz,
        ImageFormat::Lzop => F::Lzop,
        ImageFormat::Zstd => F::Zstd,
        ImageFormat::Sparse => F::Sparse,
    };
    let restored = if shown.runs { S::Running } else { S::Paused };
    pb::SavedImage {
        xml: shown.xml,
        format: format.into(),
        restored: restored.into(),
    }
}

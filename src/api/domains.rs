//! The Domains service.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use tonic::{Request, Response, Status};
use unixfd::Fds;

use super::{
    convert::{self, Wanted},
    decode::{self, Configured},
    service::{Answer, Call, Service},
};
use crate::{
    access::{Caller, Permission},
    domain::Domain,
    error::{Code, Error, Result},
    ops::{self, Conditions, Driver},
    pb,
};

/// Guests on a page if the caller does not say.
const PAGE: usize = 500;
/// Most guests on a page.
const PAGE_MAX: usize = 16_384;

impl Service {
    /// The answer to a request for who a guest is and in what state, encoded; none to any other request.
    ///
    /// # Errors
    /// As `Get`.
    pub(super) fn kept(&self, request: &Request<pb::GetRequest>) -> Result<Option<Bytes>> {
        let (caller, request) = (Caller::of(request)?, request.get_ref());
        if request.view != i32::from(pb::View::Basic) || request.scope != 0 {
            return Ok(None);
        }
        let domain = self.domain(&caller, request.domain.as_ref())?;
        Ok(Some(convert::encoded(&domain.view())))
    }

    fn page(&self, request: &pb::ListRequest) -> Result<pb::ListResponse> {
        let version = self.driver.registry.journal().version();
        let size = usize::try_from(request.page_size)
            .map_err(|_| Error::argument("page_size is negative").at("page_size"))?;
        let size = if size == 0 { PAGE } else { size.min(PAGE_MAX) };
        let wanted = Wanted::of(request.filter.as_ref())?;
        let encode = if decode::known::<pb::View>(request.view, "view")? == pb::View::Full {
            |view: &_| convert::full(view).encode_to_vec().into()
        } else {
            convert::encoded
        };
        let mut page = pb::ListResponse {
            version: Some(version.into()),
            ..Default::default()
        };
        let (views, mut last) = (self.driver.registry.views(), None);
        for view in views.iter().filter(|v| wanted.passes(v)) {
            page.total_size += 1;
            // A page begins after the name that its token is.
            if !request.page_token.is_empty() && *view.name <= *request.page_token {
                continue;
            }
            if page.domains.len() < size {
                page.domains.push(encode(view));
                last = Some(view);
            } else if page.next_page_token.is_empty() {
                page.next_page_token = last.map(|v| v.name.to_string()).unwrap_or_default();
            }
        }
        Ok(page)
    }
}

/// The guests of those references that are there.
fn named(driver: &Driver, caller: &Caller, references: &[pb::DomainRef]) -> Result<Vec<Domain>> {
    let targets = references.iter().map(|reference| decode::target(Some(reference)));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let found = targets
        .iter()
        .filter_map(|target| caller.domain(driver, target, caller.permission()).ok());
    Ok(found.collect())
}

/// The change of one guest, which answers the guest as it is then.
async fn change<R, F>(
    call: Call<R>,
    reference: fn(&R) -> Option<&pb::DomainRef>,
    work: impl FnOnce(Arc<Driver>, Domain, R, Conditions) -> F,
) -> Result<pb::Domain>
where
    F: Future<Output = Result<()>>,
{
    let domain = call.domain(reference(&call.request))?;
    let Call {
        driver,
        request,
        conditions,
        ..
    } = call;
    work(driver, domain.clone(), request, conditions).await?;
    Ok(convert::basic(&domain.view()))
}

#[tonic::async_trait]
impl pb::domains_server::Domains for Service {
    async fn define(&self, request: Request<pb::DefineRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = call.request;
            let view = ops::change::define::define(&call.driver, r.xml, r.validate, &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }

    async fn undefine(&self, request: Request<pb::UndefineRequest>) -> Answer<pb::UndefineResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let domain = call.domain(r.domain.as_ref())?;
            let what = ops::change::define::Undefine {
                managed_save: r.managed_save,
                snapshots: r.snapshots,
                checkpoints: r.checkpoints,
                nvram: r.nvram,
                keep_nvram: r.keep_nvram,
                tpm: r.tpm,
                keep_tpm: r.keep_tpm,
            };
            ops::change::define::undefine(&call.driver, &domain, what, &call.conditions).await?;
            let left = Some(domain.view()).filter(|view| view.exists());
            Ok(pb::UndefineResponse {
                domain: left.map(|view| convert::basic(&view)),
            })
        })
        .await
    }

    async fn create(&self, request: Request<pb::CreateRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let r = call.request;
            let how = ops::start::How {
                paused: r.paused,
                reset_nvram: r.reset_nvram,
                session: call.driver.sessions.find(&r.autodestroy_session)?,
                ..ops::start::How::default()
            };
            let view = ops::start::create(&call.driver, r.xml, r.validate, how, &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::Domain> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let view = decode::known(request.view, "view")?;
        if request.scope != 0 && view != pb::View::Full {
            return Err(Error::argument("scope is for VIEW_FULL alone").at("scope").into());
        }
        let scope = decode::read_scope(request.scope)?;
        let domain = self.domain(&caller, request.domain.as_ref())?;
        Ok(Response::new(convert::domain(&domain, view, scope)?))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        Ok(Response::new(self.page(request.get_ref())?))
    }

    async fn get_xml(&self, request: Request<pb::GetXmlRequest>) -> Answer<pb::GetXmlResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        for (asked, what) in [
            (request.secure, "GetXml with secure"),
            (request.migratable, "GetXml with migratable"),
        ] {
            if asked {
                caller.may(Permission::DomainReadSecure, what)?;
            }
        }
        let form = ops::document::xml::Form {
            inactive: request.inactive,
            secure: request.secure,
            migratable: request.migratable,
            update_cpu: request.update_cpu,
        };
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let xml = ops::document::xml::text(&self.driver, &view, form).await?;
        Ok(Response::new(pb::GetXmlResponse {
            xml: xml.to_string(),
            etag: view.etag(),
        }))
    }

    async fn start(&self, request: Request<pb::StartRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            let how = ops::start::How {
                paused: r.paused,
                reset_nvram: r.reset_nvram,
                force_boot: r.force_boot,
                bypass_cache: r.bypass_cache,
                session: call.driver.sessions.find(&r.autodestroy_session)?,
                ..ops::start::How::default()
            };
            let view = ops::start::start(&call.driver, &domain, how, &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let modes = decode::modes(&r.modes)?;
                    ops::run::power::shutdown(&driver, &domain, &modes, &conditions).await
                },
            )
        })
        .await
    }

    async fn reboot(&self, request: Request<pb::RebootRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let modes = decode::modes(&r.modes)?;
                    ops::run::power::reboot(&driver, &domain, &modes, &conditions).await
                },
            )
        })
        .await
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::run::power::reset(&driver, &domain, &conditions).await
                },
            )
        })
        .await
    }

    async fn inject_nmi(&self, request: Request<pb::InjectNmiRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::run::power::inject_nmi(&driver, &domain, &conditions).await
                },
            )
        })
        .await
    }

    async fn send_keys(&self, request: Request<pb::SendKeysRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let chord = decode::chord(&r)?;
                    ops::run::keys::press(&driver, &domain, &chord, &conditions).await
                },
            )
        })
        .await
    }

    async fn wake(&self, request: Request<pb::WakeRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::run::power::wake(&driver, &domain, &conditions).await
                },
            )
        })
        .await
    }

    async fn power_off(&self, request: Request<pb::PowerOffRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let how = ops::run::stop::How {
                        graceful: r.graceful,
                        remove_logs: r.remove_logs,
                    };
                    ops::run::stop::power_off(&driver, &domain, how, &conditions).await
                },
            )
        })
        .await
    }

    async fn suspend(&self, request: Request<pb::SuspendRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::run::power::suspend(&driver, &domain, &conditions).await
                },
            )
        })
        .await
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::run::power::resume(&driver, &domain, &conditions).await
                },
            )
        })
        .await
    }

    async fn rename(&self, request: Request<pb::RenameRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    ops::change::define::rename(&driver, &domain, r.new_name, &conditions).await?;
                    Ok(())
                },
            )
        })
        .await
    }

    async fn remove_managed_save(
        &self,
        request: Request<pb::RemoveManagedSaveRequest>,
    ) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, _, conditions| async move {
                    ops::change::define::remove_managed_save(&driver, &domain, &conditions).await?;
                    Ok(())
                },
            )
        })
        .await
    }

    async fn set_autostart(&self, request: Request<pb::SetAutostartRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |_, domain, r, conditions| async move {
                    use ops::change::configure::{set_autostart, set_autostart_once};
                    match r.once {
                        true => set_autostart_once(&domain, r.autostart, &conditions).await,
                        false => set_autostart(&domain, r.autostart, &conditions).await,
                    }
                },
            )
        })
        .await
    }

    async fn configure(&self, request: Request<pb::ConfigureRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let (scope, change) = (decode::scope(r.scope)?, decode::change(r.change)?);
                    match change {
                        Configured::Change(change) => {
                            ops::change::configure::configure(&driver, &domain, scope, change, &conditions)
                                .await
                        }
                        Configured::Vcpus(wanted) => {
                            ops::device::vcpus::set(&driver, &domain, scope, &wanted, &conditions).await
                        }
                    }
                },
            )
        })
        .await
    }

    async fn measure_dirty_rate(&self, request: Request<pb::MeasureDirtyRateRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            change(
                call,
                |r| r.domain.as_ref(),
                |driver, domain, r, conditions| async move {
                    let what = decode::dirty_rate(&r)?;
                    ops::run::once::measure_dirty_rate(&driver, &domain, what, &conditions).await
                },
            )
        })
        .await
    }

    async fn get_metadata(
        &self,
        request: Request<pb::GetMetadataRequest>,
    ) -> Answer<pb::GetMetadataResponse> {
        use pb::get_metadata_request::Kind;
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (scope, kind) = (
            decode::read_scope(request.scope)?,
            decode::needed(request.kind, "kind")?,
        );
        if kind != Kind::Element && !request.uri.is_empty() {
            return Err(Error::argument("uri is for KIND_ELEMENT alone").at("uri").into());
        }
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let value = match kind {
            Kind::Unspecified | Kind::Description => ops::change::configure::description(&view, scope)?,
            Kind::Title => ops::change::configure::title(&view, scope)?,
            Kind::Element => ops::change::configure::metadata(&view, scope, &request.uri)?,
        };
        Ok(Response::new(pb::GetMetadataResponse { value }))
    }

    async fn get_stats(&self, request: Request<pb::GetStatsRequest>) -> Answer<pb::GetStatsResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let filter = Wanted::of(request.filter.as_ref())?;
        let domains = match request.domains.is_empty() {
            true => self.driver.registry.all(),
            false => named(&self.driver, &caller, &request.domains)?,
        };
        let domains = domains
            .into_iter()
            .filter(|d| d.view().exists() && filter.passes(&d.view()))
            .collect();
        let wanted = ops::inspect::stats::Wanted {
            groups: super::stats::groups(&request.groups)?,
            backing_chain: request.backing_chain,
            call: super::stats::call(&request),
            oldest: super::stats::oldest(&request)?,
        };
        let collected = ops::inspect::stats::collect(&self.driver, domains, wanted).await;
        Ok(Response::new(super::stats::response(collected)))
    }

    async fn to_native(&self, request: Request<pb::ToNativeRequest>) -> Answer<pb::ToNativeResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.format != "qemu-argv" {
            let text = format!("unsupported config type {}", request.format);
            return Err(Error::argument(text).at("format").into());
        }
        let text = match request.source {
            Some(pb::to_native_request::Source::Domain(domain)) => {
                let view = self.domain(&caller, Some(&domain))?.view();
                ops::inspect::native::of_guest(&self.driver, &view).await?
            }
            Some(pb::to_native_request::Source::Xml(xml)) => {
                ops::inspect::native::of_text(&self.driver, xml).await?
            }
            None => {
                let text = "the request names neither a domain nor a document";
                return Err(Error::argument(text).at("source").into());
            }
        };
        Ok(Response::new(pb::ToNativeResponse { text }))
    }

    /// Only a caller in this process has descriptors to hand over.
    async fn associate_descriptors(
        &self,
        request: Request<pb::AssociateDescriptorsRequest>,
    ) -> Answer<pb::AssociateDescriptorsResponse> {
        let fds = request.extensions().get::<Fds>().cloned();
        self.mutate(request, |call| async move {
            let fds = fds.ok_or_else(|| {
                let text = "file descriptors can't be handed over by this interface";
                Error::new(Code::OperationUnsupported, text)
            })?;
            let domain = call.unchanged(call.request.domain.as_ref())?;
            let (driver, request) = (&call.driver, call.request);
            let session = driver.sessions.find(&request.session)?;
            let session = session.ok_or_else(|| Error::argument("no session is named").at("session"))?;
            if !call.conditions.trial {
                let given = (Arc::clone(&session), fds);
                driver.groups.put(domain.view().uuid, request.group, given)?;
                // It may have ended meanwhile.
                if !driver.sessions.is_open(&session) {
                    driver.groups.end(&session);
                }
            }
            Ok(pb::AssociateDescriptorsResponse {
                etag: domain.view().etag(),
            })
        })
        .await
    }

    type OpenSessionStream = Pin<Box<dyn Stream<Item = Result<pb::SessionUpdate, Status>> + Send>>;

    async fn open_session(&self, _: Request<pb::OpenSessionRequest>) -> Answer<Self::OpenSessionStream> {
        let session = self.driver.sessions.open(&self.driver);
        let first = pb::SessionUpdate {
            session: session.id().to_owned(),
        };
        // The stream owns the session: when it is dropped, by whoever, the session ends.
        let stream = futures_util::stream::unfold((Some(first), session), |(first, session)| async move {
            match first {
                Some(first) => Some((Ok(first), (None, session))),
                None => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

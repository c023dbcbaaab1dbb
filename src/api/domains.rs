//! The Domains service.

use std::{future::Future, pin::Pin, sync::Arc};

use futures_util::Stream;
use prost::Message;
use tonic::{Request, Response, Status};
use unixfd::Peer;

use super::{convert, once::Once};
use crate::{
    access::{Permission, authorize},
    domain::Domain,
    error::{Error, Result},
    ops::{self, Conditions, Driver},
    pb,
};

/// Guests on a page if the caller does not say.
const PAGE: usize = 500;
/// Most guests on a page.
const PAGE_MAX: usize = 16_384;

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
    once: Once,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self {
            driver: Arc::clone(driver),
            once: Once::default(),
        }
    }

    /// Carries out a mutation, once for each request_id.
    async fn mutate<T, M, F>(
        &self,
        call: &'static str,
        request: Request<T>,
        options: fn(&T) -> Option<&pb::MutationOptions>,
        work: impl FnOnce(Arc<Driver>, T, Conditions) -> F + Send,
    ) -> Result<Response<M>, Status>
    where
        T: Send,
        M: prost::Message + Default,
        F: Future<Output = Result<M>> + Send,
    {
        let peer = request.extensions().get::<Peer>().copied();
        let request = request.into_inner();
        let conditions = convert::conditions(options(&request));
        let id = options(&request).map_or_else(String::new, |o| o.request_id.clone());
        self.once
            .run(
                peer.as_ref(),
                call,
                &id,
                work(Arc::clone(&self.driver), request, conditions),
            )
            .await
            .map(Response::new)
    }

    fn page(&self, request: &pb::ListRequest) -> Result<pb::ListResponse> {
        let version = self.driver.registry.journal().version();
        let size =
            usize::try_from(request.page_size).map_err(|_| Error::argument("page_size is negative"))?;
        let size = if size == 0 { PAGE } else { size.min(PAGE_MAX) };
        let filter = request.filter.clone().unwrap_or_default();
        let encode = if request.view() == pb::View::Full {
            |view: &_| convert::full(view).encode_to_vec().into()
        } else {
            convert::encoded
        };
        let mut page = pb::ListResponse {
            version: Some(version.into()),
            ..Default::default()
        };
        let (views, mut last) = (self.driver.registry.views(), None);
        for view in views.iter().filter(|v| convert::passes(&filter, v)) {
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

/// The guests of those names that are there.
fn named(driver: &Driver, names: &[pb::DomainRef]) -> Result<Vec<Domain>> {
    let targets = names
        .iter()
        .map(|name| convert::target(Some(name.clone())))
        .collect::<Result<Vec<_>>>()?;
    Ok(targets
        .iter()
        .filter_map(|target| driver.find(target).ok())
        .collect())
}

#[tonic::async_trait]
impl pb::domains_server::Domains for Service {
    async fn define(&self, request: Request<pb::DefineRequest>) -> Result<Response<pb::Domain>, Status> {
        let work = |driver, r: pb::DefineRequest, conditions| async move {
            let view = ops::change::define::define(&driver, r.xml, r.validate, &conditions).await?;
            Ok(convert::full(&view))
        };
        self.mutate("Define", request, |r| r.options.as_ref(), work).await
    }

    async fn undefine(&self, request: Request<pb::UndefineRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::UndefineRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            let what = ops::change::define::Undefine {
                managed_save: r.managed_save,
                nvram: r.nvram,
                keep_nvram: r.keep_nvram,
                tpm: r.tpm,
                keep_tpm: r.keep_tpm,
            };
            ops::change::define::undefine(&driver, &domain, what, &conditions).await
        };
        self.mutate("Undefine", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn remove_managed_save(
        &self,
        request: Request<pb::RemoveManagedSaveRequest>,
    ) -> Result<Response<pb::Domain>, Status> {
        let work = |driver: Arc<Driver>, r: pb::RemoveManagedSaveRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            let view = ops::change::define::remove_managed_save(&driver, &domain, &conditions).await?;
            Ok(convert::full(&view))
        };
        self.mutate("RemoveManagedSave", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn create(&self, request: Request<pb::CreateRequest>) -> Result<Response<pb::Domain>, Status> {
        let work = |driver: Arc<Driver>, r: pb::CreateRequest, conditions| async move {
            let how = ops::start::How {
                paused: r.paused,
                reset_nvram: r.reset_nvram,
                force_boot: false,
                session: driver.sessions.find(&r.autodestroy_session)?,
            };
            let view = ops::start::create(&driver, r.xml, r.validate, how, &conditions).await?;
            Ok(convert::full(&view))
        };
        self.mutate("Create", request, |r| r.options.as_ref(), work).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::Domain>, Status> {
        let request = request.into_inner();
        let (view, scope) = (request.view(), convert::scope(request.scope()));
        let domain = convert::find(&self.driver, request.domain)?;
        Ok(Response::new(convert::domain(&domain, view, scope)?))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        Ok(Response::new(self.page(request.get_ref())?))
    }

    async fn get_xml(
        &self,
        request: Request<pb::GetXmlRequest>,
    ) -> Result<Response<pb::GetXmlResponse>, Status> {
        if request.get_ref().secure || request.get_ref().migratable {
            let peer = request
                .extensions()
                .get::<Peer>()
                .ok_or_else(|| Status::permission_denied("the caller is not known"))?;
            authorize(peer, Permission::DomainReadSecure, "GetXml")?;
        }
        let request = request.into_inner();
        let form = ops::document::xml::Form {
            inactive: request.inactive,
            secure: request.secure,
            migratable: request.migratable,
            update_cpu: request.update_cpu,
        };
        let view = convert::find(&self.driver, request.domain)?.view();
        let xml = ops::document::xml::text(&view, form)?;
        Ok(Response::new(pb::GetXmlResponse {
            xml: xml.to_string(),
            etag: view.etag(),
        }))
    }

    async fn start(&self, request: Request<pb::StartRequest>) -> Result<Response<pb::Domain>, Status> {
        let work = |driver: Arc<Driver>, r: pb::StartRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            let how = ops::start::How {
                paused: r.paused,
                reset_nvram: r.reset_nvram,
                force_boot: r.force_boot,
                session: driver.sessions.find(&r.autodestroy_session)?,
            };
            let view = ops::start::start(&driver, &domain, how, &conditions).await?;
            Ok(convert::full(&view))
        };
        self.mutate("Start", request, |r| r.options.as_ref(), work).await
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::ShutdownRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::shutdown(&driver, &domain, &convert::modes(&r.modes), &conditions).await
        };
        self.mutate("Shutdown", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn reboot(&self, request: Request<pb::RebootRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::RebootRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::reboot(&driver, &domain, &convert::modes(&r.modes), &conditions).await
        };
        self.mutate("Reboot", request, |r| r.options.as_ref(), work).await
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::ResetRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::reset(&driver, &domain, &conditions).await
        };
        self.mutate("Reset", request, |r| r.options.as_ref(), work).await
    }

    async fn inject_nmi(&self, request: Request<pb::InjectNmiRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::InjectNmiRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::inject_nmi(&driver, &domain, &conditions).await
        };
        self.mutate("InjectNmi", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn power_off(&self, request: Request<pb::PowerOffRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::PowerOffRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            let how = ops::run::stop::How {
                graceful: r.graceful,
                remove_logs: r.remove_logs,
            };
            ops::run::stop::power_off(&driver, &domain, how, &conditions).await
        };
        self.mutate("PowerOff", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn suspend(&self, request: Request<pb::SuspendRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::SuspendRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::suspend(&driver, &domain, &conditions).await
        };
        self.mutate("Suspend", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::ResumeRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::run::power::resume(&driver, &domain, &conditions).await
        };
        self.mutate("Resume", request, |r| r.options.as_ref(), work).await
    }

    async fn rename(&self, request: Request<pb::RenameRequest>) -> Result<Response<pb::Domain>, Status> {
        let work = |driver: Arc<Driver>, r: pb::RenameRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            let view = ops::change::define::rename(&driver, &domain, r.new_name, &conditions).await?;
            Ok(convert::full(&view))
        };
        self.mutate("Rename", request, |r| r.options.as_ref(), work).await
    }

    async fn set_autostart(&self, request: Request<pb::SetAutostartRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::SetAutostartRequest, conditions| async move {
            let domain = convert::find(&driver, r.domain)?;
            ops::change::configure::set_autostart(&domain, r.autostart, &conditions).await
        };
        self.mutate("SetAutostart", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn configure(&self, request: Request<pb::ConfigureRequest>) -> Result<Response<()>, Status> {
        let work = |driver: Arc<Driver>, r: pb::ConfigureRequest, conditions| async move {
            let (scope, change) = (convert::scope(r.scope()), convert::change(r.change)?);
            let domain = convert::find(&driver, r.domain)?;
            ops::change::configure::configure(&driver, &domain, scope, change, &conditions).await
        };
        self.mutate("Configure", request, |r| r.options.as_ref(), work)
            .await
    }

    async fn get_metadata(
        &self,
        request: Request<pb::GetMetadataRequest>,
    ) -> Result<Response<pb::GetMetadataResponse>, Status> {
        let request = request.into_inner();
        let (scope, kind) = (convert::scope(request.scope()), request.kind());
        let view = convert::find(&self.driver, request.domain)?.view();
        let value = match kind {
            pb::get_metadata_request::Kind::Description => ops::change::configure::description(&view, scope)?,
            pb::get_metadata_request::Kind::Title => ops::change::configure::title(&view, scope)?,
            pb::get_metadata_request::Kind::Element => {
                ops::change::configure::metadata(&view, scope, &request.uri)?
            }
        };
        Ok(Response::new(pb::GetMetadataResponse { value }))
    }

    async fn get_stats(
        &self,
        request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.clone().unwrap_or_default();
        let domains = match request.domains.is_empty() {
            true => self.driver.registry.all(),
            false => named(&self.driver, &request.domains)?,
        };
        let domains = domains
            .into_iter()
            .filter(|d| d.view().exists() && convert::passes(&filter, &d.view()))
            .collect();
        let wanted = ops::inspect::stats::Wanted {
            groups: super::stats::groups(&request)?,
            backing_chain: request.backing_chain,
            call: super::stats::call(&request),
            oldest: super::stats::oldest(&request)?,
        };
        let collected = ops::inspect::stats::collect(&self.driver, domains, wanted).await;
        Ok(Response::new(super::stats::response(collected)))
    }

    async fn to_native(
        &self,
        request: Request<pb::ToNativeRequest>,
    ) -> Result<Response<pb::ToNativeResponse>, Status> {
        let request = request.into_inner();
        if request.format != "qemu-argv" {
            return Err(Error::argument(format!("unsupported config type {}", request.format)).into());
        }
        let text = match request.source {
            Some(pb::to_native_request::Source::Domain(domain)) => {
                let view = convert::find(&self.driver, Some(domain))?.view();
                ops::document::native::of_guest(&self.driver, &view).await?
            }
            Some(pb::to_native_request::Source::Xml(xml)) => {
                ops::document::native::of_text(&self.driver, xml).await?
            }
            None => return Err(Error::argument("the request names neither a domain nor a document").into()),
        };
        Ok(Response::new(pb::ToNativeResponse { text }))
    }

    type OpenSessionStream = Pin<Box<dyn Stream<Item = Result<pb::SessionUpdate, Status>> + Send>>;

    async fn open_session(
        &self,
        _: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
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

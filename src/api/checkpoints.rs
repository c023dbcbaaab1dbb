//! The Checkpoints service.

use tonic::{Request, Response};

use super::{
    convert,
    decode::exclude,
    moments,
    service::{Answer, Service},
};
use crate::{
    access::{Caller, Permission},
    domain::{
        View,
        snapshots::{Entry, Filter},
    },
    error::{Error, Result},
    ops::checkpoints::{create, delete, document, find},
    pb,
};

#[tonic::async_trait]
impl pb::checkpoints_server::Checkpoints for Service {
    async fn list(
        &self,
        request: Request<pb::ListCheckpointsRequest>,
    ) -> Answer<pb::ListCheckpointsResponse> {
        let caller = Caller::of(&request)?;
        let view = self.domain(&caller, request.get_ref().domain.as_ref())?.view();
        Ok(Response::new(page(&view, request.get_ref())?))
    }

    async fn get(&self, request: Request<pb::GetCheckpointRequest>) -> Answer<pb::Checkpoint> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let entry = find(&view, &request.name)?;
        Ok(Response::new(shown(&view, entry)))
    }

    async fn get_xml(
        &self,
        request: Request<pb::GetCheckpointXmlRequest>,
    ) -> Answer<pb::GetCheckpointXmlResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.secure {
            caller.may(Permission::DomainReadSecure, "GetXml with secure")?;
        }
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let form = document::Form {
            secure: request.secure,
            no_domain: request.no_domain,
            size: request.size,
        };
        let xml = document::text(&self.driver, &domain, &request.name, form).await?;
        Ok(Response::new(pb::GetCheckpointXmlResponse { xml }))
    }

    async fn create(
        &self,
        request: Request<pb::CreateCheckpointRequest>,
    ) -> Answer<pb::CreateCheckpointResponse> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            if r.validate_bitmaps && !r.redefine {
                let said = "validate_bitmaps is for redefine alone";
                return Err(Error::argument(said).at("validate_bitmaps"));
            }
            let how = create::How {
                redefine: r.redefine,
                validate: r.validate_bitmaps,
            };
            let wish = (r.xml, how);
            let (view, name) =
                Box::pin(create::create(&call.driver, &domain, wish, &call.conditions)).await?;
            let bare = || pb::Checkpoint {
                name: name.clone(),
                ..Default::default()
            };
            let made = view.checkpoints.get(&name).map(|entry| shown(&view, entry));
            Ok(pb::CreateCheckpointResponse {
                checkpoint: Some(made.unwrap_or_else(bare)),
                domain: Some(convert::full(&view)),
            })
        })
        .await
    }

    async fn delete(&self, request: Request<pb::DeleteCheckpointRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            exclude(r.children, r.children_only, ("children", "children_only"))?;
            let how = delete::How {
                children: r.children,
                children_only: r.children_only,
                metadata_only: r.metadata_only,
            };
            let view = delete::delete(&call.driver, &domain, (r.name, how), &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }
}

/// A page of a guest's checkpoints.
fn page(view: &View, request: &pb::ListCheckpointsRequest) -> Result<pb::ListCheckpointsResponse> {
    if !request.parent.is_empty() {
        find(view, &request.parent)?;
    }
    let part = (request.parent.as_str(), request.descendants, request.roots);
    let filter = Filter {
        leaf: request.leaf,
        ..Filter::default()
    };
    let found = view.checkpoints.list(moments::part(part)?, filter);
    let page = moments::page(&found, request.page_size, &request.page_token)?;
    Ok(pb::ListCheckpointsResponse {
        checkpoints: page.entries.iter().map(|entry| shown(view, entry)).collect(),
        next_page_token: page.next,
        total_size: page.total,
    })
}

/// A checkpoint as clients are shown it.
fn shown(view: &View, entry: &Entry) -> pb::Checkpoint {
    pb::Checkpoint {
        name: entry.name.to_string(),
        parent: entry.parent.as_deref().unwrap_or_default().to_owned(),
        current: view
            .checkpoints
            .current()
            .is_some_and(|current| current.name == entry.name),
        create_time: Some(prost_types::Timestamp {
            seconds: entry.created,
            nanos: 0,
        }),
    }
}

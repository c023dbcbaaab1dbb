//! The Snapshots service.

use domxml::moment::SnapshotState;
use tonic::{Request, Response};

use super::{
    convert,
    decode::{self, exclude},
    moments,
    service::{Answer, Service},
};
use crate::{
    access::{Caller, Permission},
    domain::{
        View,
        snapshots::{Entry, Filter},
    },
    error::{Code, Error, Result},
    ops::{
        change::{remove, revert},
        moments::{create, delete, find, records},
    },
    pb,
};

#[tonic::async_trait]
impl pb::snapshots_server::Snapshots for Service {
    async fn list(&self, request: Request<pb::ListSnapshotsRequest>) -> Answer<pb::ListSnapshotsResponse> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        Ok(Response::new(page(&view, request)?))
    }

    async fn get(&self, request: Request<pb::GetSnapshotRequest>) -> Answer<pb::Snapshot> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let none = || {
            Error::new(
                Code::NoDomainSnapshot,
                "the domain does not have a current snapshot",
            )
        };
        let entry = match request.name.as_str() {
            "" => view.snapshots.current().ok_or_else(none)?,
            name => find(&view, name)?,
        };
        Ok(Response::new(shown(&view, entry)))
    }

    async fn get_xml(
        &self,
        request: Request<pb::GetSnapshotXmlRequest>,
    ) -> Answer<pb::GetSnapshotXmlResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.secure {
            caller.may(Permission::DomainReadSecure, "GetXml with secure")?;
        }
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let xml = records::text(&self.driver, &view, &request.name, request.secure).await?;
        Ok(Response::new(pb::GetSnapshotXmlResponse { xml }))
    }

    async fn create(
        &self,
        request: Request<pb::CreateSnapshotRequest>,
    ) -> Answer<pb::CreateSnapshotResponse> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            if call.request.quiesce {
                let target = decode::target(call.request.domain.as_ref())?;
                call.caller
                    .domain(&call.driver, &target, Permission::DomainFsFreeze)?;
            }
            let r = call.request;
            let how = how(&r)?;
            let wish = (r.xml, how);
            let (view, name) = create::create(&call.driver, &domain, wish, &call.conditions).await?;
            let bare = || pb::Snapshot {
                name: name.clone(),
                ..Default::default()
            };
            let made = view.snapshots.get(&name).map(|entry| shown(&view, entry));
            Ok(pb::CreateSnapshotResponse {
                snapshot: Some(made.unwrap_or_else(bare)),
                domain: Some(convert::full(&view)),
            })
        })
        .await
    }

    async fn revert(&self, request: Request<pb::RevertSnapshotRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            exclude(r.running, r.paused, ("running", "paused"))?;
            let how = revert::How {
                running: r.running,
                paused: r.paused,
                force: r.force,
                reset_nvram: r.reset_nvram,
            };
            let view = revert::revert(&call.driver, &domain, (r.name, how), &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }

    async fn delete(&self, request: Request<pb::DeleteSnapshotRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| async move {
            let domain = call.domain(call.request.domain.as_ref())?;
            let r = call.request;
            exclude(r.children, r.children_only, ("children", "children_only"))?;
            let how = delete::How {
                children: r.children,
                children_only: r.children_only,
                metadata_only: r.metadata_only,
            };
            let view = remove::delete(&call.driver, &domain, (r.name, how), &call.conditions).await?;
            Ok(convert::full(&view))
        })
        .await
    }
}

/// How a snapshot is to be made.
fn how(r: &pb::CreateSnapshotRequest) -> Result<create::How> {
    exclude(r.redefine, r.no_metadata, ("redefine", "no_metadata"))?;
    exclude(r.redefine, r.halt, ("redefine", "halt"))?;
    exclude(r.redefine, r.live, ("redefine", "live"))?;
    for (flag, needed, name, needed_name) in [
        (r.current, r.redefine, "current", "redefine"),
        (r.quiesce, r.disk_only, "quiesce", "disk_only"),
    ] {
        if flag && !needed {
            return Err(Error::argument(format!("{name} is for {needed_name} alone")).at(name));
        }
    }
    Ok(create::How {
        redefine: r.redefine,
        current: r.current,
        no_metadata: r.no_metadata,
        halt: r.halt,
        disk_only: r.disk_only,
        reuse: r.reuse_images,
        quiesce: r.quiesce,
        live: r.live,
        validate: r.validate,
    })
}

/// A page of a guest's snapshots.
fn page(view: &View, request: &pb::ListSnapshotsRequest) -> Result<pb::ListSnapshotsResponse> {
    if !request.parent.is_empty() {
        find(view, &request.parent)?;
    }
    let (filter, states) = filter(request.filter.as_ref())?;
    let part = (request.parent.as_str(), request.descendants, request.roots);
    let mut found = view.snapshots.list(moments::part(part)?, filter);
    found.retain(|entry| states.is_empty() || states.contains(&state(entry.state)));
    let page = moments::page(&found, request.page_size, &request.page_token)?;
    let shown = |entry: &&Entry| match request.names_only {
        true => pb::Snapshot {
            name: entry.name.to_string(),
            ..Default::default()
        },
        false => shown(view, entry),
    };
    Ok(pb::ListSnapshotsResponse {
        snapshots: page.entries.iter().map(shown).collect(),
        next_page_token: page.next,
        total_size: page.total,
    })
}

fn filter(filter: Option<&pb::SnapshotFilter>) -> Result<(Filter, Vec<pb::SnapshotState>)> {
    let Some(filter) = filter else {
        return Ok((Filter::default(), Vec::new()));
    };
    let states = decode::all::<pb::SnapshotState>(&filter.states, "filter.states")?;
    let chosen = Filter {
        leaf: filter.leaf,
        external: filter.external,
    };
    Ok((chosen, states))
}

/// A snapshot as clients are shown it.
fn shown(view: &View, entry: &Entry) -> pb::Snapshot {
    let current = view.snapshots.current();
    pb::Snapshot {
        name: entry.name.to_string(),
        parent: entry.parent.as_deref().unwrap_or_default().to_owned(),
        current: current.is_some_and(|current| current.name == entry.name),
        state: state(entry.state).into(),
        create_time: Some(prost_types::Timestamp {
            seconds: entry.created,
            nanos: 0,
        }),
        external: entry.external,
        leaf: view.snapshots.is_leaf(&entry.name),
    }
}

fn state(state: SnapshotState) -> pb::SnapshotState {
    use pb::SnapshotState as S;
    match state {
        SnapshotState::NoState => S::Unspecified,
        SnapshotState::Running => S::Running,
        SnapshotState::Blocked => S::Blocked,
        SnapshotState::Paused => S::Paused,
        SnapshotState::Shutdown => S::Shutdown,
        SnapshotState::Shutoff => S::Shutoff,
        SnapshotState::Crashed => S::Crashed,
        SnapshotState::PmSuspended => S::Pmsuspended,
        SnapshotState::DiskSnapshot => S::DiskSnapshot,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domxml::moment::Summary;

    use super::*;
    use crate::domain::{fixture, snapshots::Snapshots};

    fn guest() -> View {
        let summaries = [("a", None), ("b", Some("a")), ("c", Some("a")), ("d", None)];
        let summaries = summaries.map(|(name, parent)| Summary {
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
            state: SnapshotState::Shutoff,
            current: name == "b",
            ..Summary::default()
        });
        let mut view = fixture::defined("<name>g</name><memory>1024</memory>");
        view.snapshots = Arc::new(Snapshots::found(summaries.to_vec()).0);
        view
    }

    #[test]
    fn pages_follow_each_other_and_name_every_snapshot_once() {
        let view = guest();
        let mut request = pb::ListSnapshotsRequest {
            page_size: 3,
            ..Default::default()
        };
        let first = page(&view, &request).unwrap();
        let names = |response: &pb::ListSnapshotsResponse| {
            response
                .snapshots
                .iter()
                .map(|s| s.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names(&first), first.total_size),
            (vec!["a".into(), "d".into(), "b".into()], 4)
        );
        assert!(first.snapshots[2].current && first.snapshots[2].leaf && !first.snapshots[0].leaf);
        request.page_token = first.next_page_token;
        let second = page(&view, &request).unwrap();
        assert_eq!(
            (names(&second), second.next_page_token),
            (vec!["c".to_owned()], String::new())
        );
        let mut names_only = pb::ListSnapshotsRequest {
            names_only: true,
            ..Default::default()
        };
        let all = page(&view, &names_only).unwrap();
        assert_eq!(names(&all), ["a", "d", "b", "c"]);
        assert!(
            all.snapshots
                .iter()
                .all(|s| s.create_time.is_none() && !s.current)
        );
        names_only.page_size = 1;
        assert_eq!(page(&view, &names_only).unwrap().total_size, 4);
        request.page_token = "gone".to_owned();
        assert!(page(&view, &request).is_err());
    }

    #[test]
    fn parts_and_filters_are_chosen_or_refused() {
        let view = guest();
        let of = |parent: &str, descendants, roots| pb::ListSnapshotsRequest {
            parent: parent.to_owned(),
            descendants,
            roots,
            ..Default::default()
        };
        let count = |request| page(&view, &request).map(|r| r.total_size).ok();
        assert_eq!(count(of("a", false, false)), Some(2));
        assert_eq!(count(of("", false, true)), Some(2));
        assert_eq!(count(of("a", false, true)), None);
        assert_eq!(count(of("", true, false)), None);
        assert_eq!(count(of("z", false, false)), None);
        let mut leaves = of("", false, false);
        leaves.filter = Some(pb::SnapshotFilter {
            leaf: Some(true),
            states: vec![pb::SnapshotState::Shutoff.into()],
            ..Default::default()
        });
        assert_eq!(count(leaves), Some(3));
    }
}

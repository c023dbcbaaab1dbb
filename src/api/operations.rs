//! The Operations service: what `ops::operation::record` knows, as messages.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::{
    decode,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    error::{Code, Error, Result},
    ops::{
        Driver, Target,
        device::detach,
        operation::record::{self, Record},
    },
    pb::{self, operation::Result as Ended},
};

/// Operations on a page where the request does not say.
const PAGE: usize = 500;
/// Operations on a page at most.
const PAGE_MAX: usize = 16_384;

#[tonic::async_trait]
impl pb::operations_server::Operations for Service {
    async fn get_operation(&self, request: Request<pb::GetOperationRequest>) -> Answer<pb::Operation> {
        let caller = Caller::of(&request)?;
        let record = find(&self.driver, &caller, &request.get_ref().id)?;
        Ok(Response::new(shown(&record)))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Answer<pb::ListOperationsResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let of = match &request.domain {
            Some(domain) => Some(self.domain(&caller, Some(domain))?.uuid()),
            None => None,
        };
        let size = usize::try_from(request.page_size)
            .map_err(|_| Error::argument("page_size is negative").at("page_size"))?;
        let size = if size == 0 { PAGE } else { size.min(PAGE_MAX) };
        let all = self.driver.operations.all().into_iter().rev();
        let wanted = all.filter(|record| of.is_none_or(|guest| record.guest == guest));
        Ok(Response::new(page(wanted.collect(), size, &request.page_token)?))
    }

    async fn wait_operation(&self, request: Request<pb::WaitOperationRequest>) -> Answer<pb::Operation> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let limit = match &request.timeout {
            Some(timeout) => decode::duration(timeout, "timeout")?,
            None => Duration::MAX,
        };
        let record = find(&self.driver, &caller, &request.id)?;
        tokio::select! {
            _ = record.wait(limit) => {}
            () = self.driver.stop.cancelled() => {}
        }
        Ok(Response::new(shown(&record)))
    }

    type WatchOperationStream = Pin<Box<dyn Stream<Item = Result<pb::Operation, Status>> + Send>>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let caller = Caller::of(&request)?;
        let record = find(&self.driver, &caller, &request.get_ref().id)?;
        let mut states = record.follow();
        states.mark_changed();
        let watch = (record, states, self.driver.stop.clone());
        Ok(Response::new(Box::pin(futures_util::stream::unfold(
            Some(watch),
            async |watch| {
                let (record, mut states, stop) = watch?;
                tokio::select! {
                    changed = states.changed() => changed.ok()?,
                    () = stop.cancelled() => return None,
                }
                // Marks it seen before it is shown: what comes meanwhile is told again.
                states.borrow_and_update();
                let operation = shown(&record);
                let rest = (!operation.done).then_some((record, states, stop));
                Some((Ok(operation), rest))
            },
        ))))
    }

    async fn cancel_operation(&self, request: Request<pb::CancelOperationRequest>) -> Answer<pb::Operation> {
        self.mutate(request, |call| async move {
            let record = find(&call.driver, &call.caller, &call.request.id)?;
            if let Ok(domain) = call.driver.find(&Target::Uuid(record.guest)) {
                call.conditions.check(&domain.view())?;
            }
            match call.conditions.trial {
                true => record.may_cancel()?,
                false => record.cancel()?,
            }
            Ok(shown(&record))
        })
        .await
    }
}

/// The operation of an id, for a caller who may see its guest.
fn find(driver: &Driver, caller: &Caller, id: &str) -> Result<Arc<Record>> {
    let record = Uuid::parse_str(id).ok().and_then(|id| driver.operations.get(id));
    let record = record.ok_or_else(|| {
        let text = format!("there is no operation '{id}', or it is kept no longer");
        Error::invalid(text).because("NO_OPERATION").at("id")
    })?;
    match caller.domain(driver, &Target::Uuid(record.guest), caller.permission()) {
        // What is left of an operation on a guest that is gone is nobody's secret.
        Err(error) if error.code != Code::NoDomain => Err(error),
        _ => Ok(record),
    }
}

/// The operations of a page, of those that are wanted, the newest first. A page begins after the one that its token is.
fn page(wanted: Vec<Arc<Record>>, size: usize, token: &str) -> Result<pb::ListOperationsResponse> {
    let refused = || Error::argument("page_token is of no page, or what it names is gone").at("page_token");
    let begin = match token {
        "" => 0,
        token => {
            let last = wanted.iter().position(|record| record.id.to_string() == token);
            last.ok_or_else(refused)? + 1
        }
    };
    let rest = wanted.get(begin..).unwrap_or_default();
    let page = &rest[..size.min(rest.len())];
    let last = page.last().filter(|_| rest.len() > page.len());
    Ok(pb::ListOperationsResponse {
        operations: page.iter().map(|record| shown(record)).collect(),
        next_page_token: last.map(|record| record.id.to_string()).unwrap_or_default(),
    })
}

/// An operation as it is now.
pub(super) fn shown(record: &Record) -> pb::Operation {
    let state = record.state();
    pb::Operation {
        id: record.id.to_string(),
        done: state.outcome.is_some(),
        result: state
            .outcome
            .as_ref()
            .map(|outcome| ended(record, &state, outcome)),
        metadata: Some(metadata(record, &state)),
    }
}

/// An operation that was only tried.
pub(super) fn trial(kind: &str) -> pb::Operation {
    pb::Operation {
        done: true,
        metadata: Some(pb::OperationMetadata {
            kind: self::kind(kind).into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn metadata(record: &Record, state: &record::State) -> pb::OperationMetadata {
    let moment = prost_types::Timestamp::from;
    let progress = pb::OperationProgress {
        done: state.done,
        total: state.total,
    };
    let phase = |phase: &record::Phase| pb::OperationPhase {
        word: phase.word.to_owned(),
        since: Some(moment(phase.since)),
    };
    pb::OperationMetadata {
        domain_uuid: record.guest.to_string(),
        domain_name: record.name.to_string(),
        kind: kind(record.kind).into(),
        phase: state.phase().to_owned(),
        progress: (state.total > 0).then_some(progress),
        started: Some(moment(record.started)),
        ended: state.outcome.as_ref().map(|outcome| moment(outcome.at)),
        cancellable: state.cancellable,
        phases: state.phases.iter().map(phase).collect(),
    }
}

fn ended(record: &Record, state: &record::State, outcome: &record::Outcome) -> Ended {
    use pb::detach_device_result::Outcome;
    let etag = outcome.etag.clone();
    match (&outcome.error, record.kind) {
        (Some(status), _) => Ended::Error(error(status)),
        (None, detach::KIND) => {
            let outcome = match state.phase() {
                detach::TIMED_OUT => Outcome::Pending,
                _ => Outcome::Removed,
            };
            Ended::DetachDevice(pb::DetachDeviceResult {
                outcome: outcome.into(),
                etag,
            })
        }
        (None, _) => Ended::Success(pb::OperationSuccess { etag }),
    }
}

fn error(status: &Status) -> pb::OperationError {
    let info = status.get_details_error_info();
    let (reason, metadata) = info.map_or((String::new(), HashMap::new()), |info| {
        (info.reason, info.metadata)
    });
    pb::OperationError {
        code: status.code().into(),
        message: status.message().to_owned(),
        reason,
        metadata,
    }
}

/// The contract names kinds as logs do.
fn kind(of: &str) -> pb::OperationKind {
    let name = format!("OPERATION_KIND_{}", of.to_ascii_uppercase().replace('-', "_"));
    pb::OperationKind::from_str_name(&name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The kinds that the sources below a folder name.
    fn kinds_in(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                kinds_in(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let asks = text.split("= Ask {").skip(1);
            found.extend(asks.filter_map(|ask| quoted(ask.split_once("kind: ")?.1, ',')));
            let begun = text.split(" begin(driver").skip(1);
            found.extend(begun.filter_map(|rest| quoted(rest, ')')));
            let changes = text.split("const KIND: &'static str =").skip(1);
            found.extend(changes.filter_map(|rest| quoted(rest, ';')));
        }
    }

    /// What stands in quotes before `end`.
    fn quoted(text: &str, end: char) -> Option<String> {
        let (text, _) = text.split_once(end)?;
        Some(text.split('"').nth(1)?.to_owned())
    }

    #[test]
    fn every_kind_has_a_word_in_the_contract() {
        let mut kinds = Vec::new();
        kinds_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops"), &mut kinds);
        for name in ["set-link", "start", "rename", "suspend"] {
            assert!(kinds.iter().any(|kind| kind == name), "{name}: {kinds:?}");
        }
        for name in &kinds {
            assert_ne!(kind(name), pb::OperationKind::Unspecified, "{name}");
        }
        assert_ne!(kind(detach::KIND), pb::OperationKind::Unspecified);
    }
}

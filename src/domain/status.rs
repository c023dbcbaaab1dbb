//! Between a view and the status file of its run, libvirt's format.

use std::sync::Arc;

use domxml::{
    StatusDocument,
    status::{DomainState, Taint},
};

use super::{Condition, Document, Launched, Run, Seen, View, store};
use crate::error::{Error, Result};

/// The taints that a run can have, by libvirt's words.
const TAINTS: &[&str] = &[
    "custom-argv",
    "custom-monitor",
    "high-privileges",
    "shell-scripts",
    "disk-probing",
    "external-launch",
    "host-cpu",
    "hook-script",
    "cdrom-passthrough",
    "custom-dtb",
    "custom-ga-command",
    "custom-hypervisor-feature",
    "deprecated-config",
    "custom-device",
];

/// The word of a taint, if it is one.
pub fn taint(word: &str) -> Option<&'static str> {
    TAINTS.iter().find(|t| **t == word).copied()
}

/// The text of the status file.
pub(super) fn text(view: &View) -> String {
    let Some(run) = &view.run else {
        return String::new();
    };
    let mut status = StatusDocument::clone(&run.status);
    status.state = view.condition.state_word().parse().unwrap_or_default();
    status.reason = view.condition.reason_word().to_owned();
    status.pid = run.launched.pid;
    status.taints = run
        .taints
        .iter()
        .map(|t| Taint {
            flag: (*t).to_owned(),
        })
        .collect();
    status.deprecations = run.deprecations.iter().map(|d| d.to_string()).collect();
    status.fakereboot = run.fake_reboot;
    status.domain = domxml::Domain::clone(&run.document.domain);
    store::head(&view.name) + &status.format()
}

/// Whether the status file of `after` would say something else than that of `before`.
pub(super) fn differs(before: &View, after: &View) -> bool {
    let (Some(was), Some(is)) = (&before.run, &after.run) else {
        return before.run.is_some() != after.run.is_some();
    };
    let same = Arc::ptr_eq(&was.document, &is.document)
        && Arc::ptr_eq(&was.status, &is.status)
        && was.taints == is.taints
        && was.deprecations == is.deprecations
        && (was.launched.id, was.launched.pid, was.fake_reboot)
            == (is.launched.id, is.launched.pid, is.fake_reboot)
        && (before.condition, &before.name) == (after.condition, &after.name);
    !same
}

/// The run and condition that a status file describes.
///
/// # Errors
/// `Internal` if it has no process, id or known state.
pub fn read(mut status: StatusDocument) -> Result<(Run, Condition)> {
    let document = std::mem::take(&mut status.domain);
    let id = document
        .id
        .filter(|id| *id > 0)
        .ok_or_else(|| Error::internal("the status file has no id"))?;
    if status.pid <= 0 {
        return Err(Error::internal("the status file has no process"));
    }
    let condition = Condition::from_words(DomainState::as_str(status.state), &status.reason);
    let condition = condition.ok_or_else(|| {
        Error::internal(format!(
            "unknown state '{}' in the status file",
            status.state.as_str()
        ))
    })?;
    let run = Run {
        launched: Launched {
            id,
            pid: status.pid,
            start_time: 0,
            config: None,
            label: label(&document),
            session: None,
        },
        starting: condition == Condition::PAUSED_STARTING_UP,
        taints: status.taints.iter().filter_map(|t| taint(&t.flag)).collect(),
        deprecations: status.deprecations.iter().map(|d| d.as_str().into()).collect(),
        fake_reboot: status.fakereboot,
        seen: Seen::default(),
        document: Document::live(document),
        status: Arc::new(status),
    };
    Ok((run, condition))
}

/// The label that a live document says its process runs under.
pub fn label(document: &domxml::Domain) -> Option<Arc<str>> {
    document
        .seclabels
        .iter()
        .find(|s| s.model.as_deref() == Some("dac"))
        .and_then(|s| s.label.as_deref())
        .map(Into::into)
}

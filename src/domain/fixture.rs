//! Views of guests for tests: one place that knows how a run is put together.

use std::sync::Arc;

use super::{Condition, Document, Launched, Run, Seen, Stored, View};

fn document(content: &str, id: &str) -> domxml::Domain {
    let text = format!("<domain type='qemu'{id}>{content}<os><type>hvm</type></os></domain>");
    domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
}

fn view(domain: &domxml::Domain) -> View {
    View::new(uuid::Uuid::from_u128(1), domain.name.as_str().into(), 1)
}

/// A run of a guest with this document.
pub(crate) fn run(domain: domxml::Domain) -> Run {
    Run {
        launched: Launched {
            id: domain.id.unwrap_or(1),
            pid: 1,
            start_time: 0,
            config: None,
            label: None,
            session: None,
        },
        document: Document::live(domain),
        status: Arc::default(),
        starting: false,
        taints: Default::default(),
        deprecations: Vec::new(),
        fake_reboot: false,
        seen: Seen::default(),
    }
}

/// A transient guest that runs; `content` is what stands in its document beside the firmware's type.
pub(crate) fn running(content: &str) -> View {
    let domain = document(content, " id='3'");
    let mut view = view(&domain);
    view.condition = Condition::RUNNING_BOOTED;
    view.run = Some(run(domain));
    view
}

/// A guest that is defined and does not run.
pub(crate) fn defined(content: &str) -> View {
    let domain = document(content, "");
    let mut view = view(&domain);
    view.config = Some(Stored::new(&domain));
    view
}

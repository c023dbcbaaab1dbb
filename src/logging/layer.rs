//! The one `tracing` layer: makes a [`Message`] of an event and gives it to the sinks of the plan.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::plan::{Plan, Priority, Target};
use super::sink::Sink;

/// One message: what happened, and its fields, those of the spans around it first.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) priority: Priority,
    pub(super) module: &'static str,
    pub(super) code_file: Option<&'static str>,
    pub(super) code_line: Option<u32>,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// Changes the plan of the installed log.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    active: RwLock<Arc<Active>>,
    /// Held by who goes over to another plan: outputs are opened meanwhile, and nothing is logged under it.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Active {
    plan: Plan,
    sinks: Vec<(Priority, Sink)>,
}

struct LogLayer(Handle);

/// Fields of a span, kept with it.
#[derive(Default)]
struct SpanFields(Vec<(&'static str, String)>);

/// Makes `plan` the log of the process.
///
/// # Errors
/// When an output cannot be opened, or the process has a log already.
pub fn install(plan: Plan) -> Result<Handle, InstallError> {
    make_directories(&plan)?;
    let handle = Handle::new(Active::open(plan).map_err(io::Error::from)?);
    tracing_subscriber::registry()
        .with(LogLayer(handle.clone()))
        .try_init()?;
    log_panics();
    Ok(handle)
}

/// Has panics logged: in the background nobody reads standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let owned = payload.downcast_ref::<String>().map(String::as_str);
        let text = owned
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("?");
        tracing::error!(place, panic = text, "panic; this is a bug in the daemon");
    }));
}

/// Why the log cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// An output cannot be opened.
    #[error("cannot open a log output")]
    Output(#[from] io::Error),
    /// There is one already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// An output that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{target:?}: {reason}")]
pub struct OutputError {
    /// Which.
    pub target: Target,
    /// Why.
    pub reason: io::Error,
}

impl From<OutputError> for io::Error {
    fn from(error: OutputError) -> Self {
        Self::new(error.reason.kind(), error.to_string())
    }
}

impl Handle {
    fn new(active: Active) -> Self {
        Self(Arc::new(Shared {
            active: RwLock::new(Arc::new(active)),
            changing: Mutex::default(),
        }))
    }

    /// Goes over to a plan of the configuration, which replaces one that said `before`: what it does not say differently
    /// stays as it is now. On an error the old plan stays.
    ///
    /// # Errors
    /// When an output cannot be opened.
    pub fn configure(&self, plan: &Plan, before: Option<&Plan>) -> io::Result<()> {
        make_directories(plan)?;
        let reread = |now: &Plan| before.map_or_else(|| plan.clone(), |before| plan.reread(before, now));
        Ok(self.change(reread)?)
    }

    /// Goes over to the plan that `change` makes of the one that holds; on an error that one stays. Opens files.
    ///
    /// # Errors
    /// When an output cannot be opened.
    pub fn change(&self, change: impl FnOnce(&Plan) -> Plan) -> Result<(), OutputError> {
        let changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let active = Arc::new(Active::open(change(&self.active().plan))?);
        *self.0.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        drop(changing);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// The plan that holds.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.active().plan.clone()
    }

    fn active(&self) -> Arc<Active> {
        Arc::clone(&self.0.active.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes the directories of files that the configuration names.
fn make_directories(plan: &Plan) -> io::Result<()> {
    let mut files = plan.outputs.iter().filter_map(|output| match &output.target {
        Target::File(path) => path.parent(),
        _ => None,
    });
    files.try_for_each(std::fs::create_dir_all)
}

impl Active {
    fn open(plan: Plan) -> Result<Self, OutputError> {
        let open = |output: &super::Output| match Sink::open(&output.target) {
            Ok(sink) => Ok((output.priority, sink)),
            Err(reason) => Err(OutputError {
                target: output.target.clone(),
                reason,
            }),
        };
        let sinks = plan.outputs.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { plan, sinks })
    }
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Priority::of(*metadata.level())
            .is_some_and(|priority| priority >= self.0.active().plan.threshold(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.0.active().plan.most_verbose())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Collector::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Collector::default();
        values.record(&mut fields);
        let Some(span) = context.span(id) else { return };
        if let Some(kept) = span.extensions_mut().get_mut::<SpanFields>() {
            kept.0.append(&mut fields.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let Some(priority) = Priority::of(*metadata.level()) else {
            return;
        };
        let mut own = Collector::default();
        event.record(&mut own);
        let mut fields = Vec::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(kept) = span.extensions().get::<SpanFields>() {
                fields.extend(kept.0.iter().cloned());
            }
        }
        fields.append(&mut own.fields);
        let message = Message {
            priority,
            module: metadata.target(),
            code_file: metadata.file(),
            code_line: metadata.line(),
            message: own.message,
            fields,
        };
        for (least, sink) in &self.0.active().sinks {
            if priority >= *least {
                sink.write(&message);
            }
        }
    }
}

impl Message {
    /// The message with its fields, on one line.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let plain = !value.is_empty() && !value.contains([' ', '"', '\n', '=']);
            let _ = if plain {
                write!(text, " {name}={value}")
            } else {
                write!(text, " {name}={value:?}")
            };
        }
        text
    }

    /// A line of a log file, in libvirt's layout.
    pub(super) fn line(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!(
            "{}: {}: {} : {} : {}\n",
            timestamp(now),
            std::process::id(),
            self.priority.word(),
            self.module,
            self.text()
        )
    }
}

#[derive(Default)]
struct Collector {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Collector {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }
}

/// `2026-11-22 11:23:35.603+0000`, of a time since 1970 in UTC.
fn timestamp(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}+0000",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

/// Year, month and day of a day counted from 1970-01-01. Years begin in March here, so that the leap
/// day comes last; 719,468 days lie between 0000-03-01 and 1970-01-01, and 146,097 make 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{Filter, Output, Target};

    #[test]
    fn times_are_written_in_utc() {
        let cases = [
            (0, "1970-01-01 00:00:00.000+0000"),
            (951_782_400, "2000-02-29 00:00:00.000+0000"),
            (1_795_346_615, "2026-11-22 11:23:35.000+0000"),
            (4_107_542_399, "2100-02-28 23:59:59.000+0000"),
            (4_107_542_400, "2100-03-01 00:00:00.000+0000"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(timestamp(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_new_plan_takes_effect_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let output = Output {
            priority: Priority::Debug,
            target: Target::File(file.clone()),
        };
        let plan = |level, filters| Plan {
            level,
            filters,
            outputs: vec![output.clone()],
        };
        let handle = Handle::new(Active::open(plan(Priority::Warning, vec![])).unwrap());
        let subscriber = tracing_subscriber::registry().with(LogLayer(handle.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let say = |n: u32| {
                let _span = tracing::error_span!("call", domain = "demo").entered();
                tracing::info!(n, why = "a b", "said");
            };
            say(1);
            let debug = Filter {
                priority: Priority::Info,
                pattern: "logging".to_owned(),
            };
            handle
                .configure(&plan(Priority::Error, vec![debug]), None)
                .unwrap();
            say(2);
            let nowhere = Output {
                priority: Priority::Debug,
                target: Target::File("/dev/null/x".into()),
            };
            let bad = Plan {
                outputs: vec![nowhere],
                ..plan(Priority::Error, vec![])
            };
            assert!(handle.configure(&bad, None).is_err());
            say(3);
        });
        let text = std::fs::read_to_string(&file).unwrap();
        let ends: Vec<_> = text.lines().map(|l| l.split_once(" : ").unwrap().1).collect();
        let module = "virtqemud::logging::layer::tests";
        let expected = [2, 3].map(|n| format!("{module} : said domain=demo n={n} why=\"a b\""));
        assert_eq!(ends, expected);
    }
}

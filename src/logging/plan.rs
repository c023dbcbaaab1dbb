//! What is logged, and where to: `log_level`, `log_filters` and `log_outputs` understood.

use std::fmt;
use std::path::{Path, PathBuf};

use tracing::{Level, level_filters::LevelFilter};

use crate::config;

/// The settings as errors name them.
const FILTERS: &str = "log_filters";
const OUTPUTS: &str = "log_outputs";

/// Importance of a message, as libvirt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// 1
    Debug = 1,
    /// 2
    Info,
    /// 3
    Warning,
    /// 4
    Error,
}

/// An exception from the level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Least importance of what is logged.
    pub priority: Priority,
    /// Looked for anywhere in a module's name; `*` and `?` are wildcards.
    pub pattern: String,
}

/// A place to log to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Least importance of what it gets.
    pub priority: Priority,
    /// Place.
    pub target: Target,
}

/// Kind of place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
    /// The system log, under a name.
    Syslog(String),
    /// The journal.
    Journald,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where no filter matches.
    pub level: Priority,
    /// The first that matches counts.
    pub filters: Vec<Filter>,
    /// Where to.
    pub outputs: Vec<Output>,
}

/// What beside the configuration has a say.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `LIBVIRT_DEBUG`.
    pub debug: Option<String>,
    /// `LIBVIRT_LOG_FILTERS`.
    pub filters: Option<String>,
    /// `LIBVIRT_LOG_OUTPUTS`.
    pub outputs: Option<String>,
    /// `--verbose`.
    pub verbose: bool,
    /// `--daemon`: there is nobody to read standard error.
    pub background: bool,
    /// A person sits at the terminal.
    pub terminal: bool,
    /// The journal takes messages.
    pub journal: bool,
    /// The system log takes messages.
    pub syslog: bool,
    /// Where to log when in the background with neither of them.
    pub log_file: PathBuf,
}

/// Why settings of the log make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: \"{item}\": {problem}")]
pub struct PlanError {
    /// Setting or variable.
    pub setting: &'static str,
    /// The part that is wrong.
    pub item: String,
    /// Why.
    pub problem: Problem,
}

/// What is wrong with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no level.
    #[error("expected a level from 1 to 4, or its name")]
    Level,
    /// No colon parts the level from the rest.
    #[error("expected a level from 1 to 4, a colon and more")]
    Form,
    /// What is before the colon is no level.
    #[error("expected a level from 1 to 4, a colon and more")]
    Priority,
    /// Nothing to look for follows the colon.
    #[error("expected a level from 1 to 4, a colon and more")]
    Rest,
    /// An output of this kind has more or fewer parts.
    #[error("expected stderr, journald, file:PATH or syslog:NAME after the level")]
    Shape,
    /// There is no such kind of output.
    #[error("expected stderr, journald, file:PATH or syslog:NAME after the level")]
    Destination,
    /// The path of a file depends on where the daemon runs.
    #[error("expected an absolute path")]
    Relative,
}

impl PlanError {
    /// What libvirt tells an administrator who set filters or outputs.
    #[must_use]
    pub fn for_administrator(&self) -> String {
        let item = &self.item;
        let mut parts = item.split(':');
        let (level, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match (self.problem, self.setting == FILTERS) {
            (Problem::Priority | Problem::Level, true) => {
                format!("Invalid priority '{level}' for filter '{item}'")
            }
            (Problem::Rest, true) => format!("Invalid match string '{rest}'"),
            (_, true) => format!("Malformed format for filter '{item}'"),
            (Problem::Priority | Problem::Level, false) => {
                format!("Invalid log priority '{level}' for log output '{item}'")
            }
            (Problem::Form, false) => format!("Malformed format for log output '{item}'"),
            (Problem::Shape | Problem::Relative, false) => format!(
                "Log output '{item}' does not meet the format requirements for destination type '{rest}'"
            ),
            (Problem::Rest | Problem::Destination, false) => {
                format!("Invalid log destination '{rest}' for log output '{item}'")
            }
        }
    }
}

impl fmt::Display for Filter {
    /// As libvirt shows it: what is looked for anywhere has wildcards around it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:*{}*", self.priority as u8, self.pattern)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority as u8)?;
        match &self.target {
            Target::Stderr => f.write_str("stderr"),
            Target::File(path) => write!(f, "file:{}", path.display()),
            Target::Syslog(name) => write!(f, "syslog:{name}"),
            Target::Journald => f.write_str("journald"),
        }
    }
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        use std::io::IsTerminal;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            debug: variable("LIBVIRT_DEBUG"),
            filters: variable("LIBVIRT_LOG_FILTERS"),
            outputs: variable("LIBVIRT_LOG_OUTPUTS"),
            verbose: false,
            background: false,
            terminal: std::io::stdin().is_terminal(),
            journal: Path::new(super::sink::JOURNAL).exists(),
            syslog: Path::new(super::sink::SYSLOG).exists(),
            log_file: PathBuf::new(),
        }
    }
}

impl Plan {
    /// Puts settings and surroundings together; the environment goes first.
    ///
    /// # Errors
    /// At the first setting that makes no sense.
    pub fn new(config: &config::Logging, around: &Surroundings) -> Result<Self, PlanError> {
        let mut level = priority(config.level).unwrap_or(Priority::Warning);
        if let Some(word) = &around.debug {
            level = level_of_word(word).ok_or_else(|| PlanError {
                setting: "LIBVIRT_DEBUG",
                item: word.clone(),
                problem: Problem::Level,
            })?;
        }
        if around.verbose {
            level = level.min(Priority::Info);
        }
        let filters = match &around.filters {
            Some(filters) => parse_filters("LIBVIRT_LOG_FILTERS", filters)?,
            None => parse_filters(FILTERS, &config.filters)?,
        };
        let outputs = match &around.outputs {
            Some(outputs) => parse_outputs("LIBVIRT_LOG_OUTPUTS", outputs)?,
            None => parse_outputs(OUTPUTS, &config.outputs)?,
        };
        Ok(Self {
            level,
            filters,
            outputs: or_default(outputs, level, around),
        })
    }

    /// The same, with the filters of `text`.
    ///
    /// # Errors
    /// At the first that makes no sense.
    pub fn with_filters(&self, text: &str) -> Result<Self, PlanError> {
        Ok(Self {
            filters: parse_filters(FILTERS, text)?,
            ..self.clone()
        })
    }

    /// The same, with the outputs of `text`, or the usual one if it has none. Paths are relative to the daemon's directory.
    ///
    /// # Errors
    /// At the first that makes no sense.
    pub fn with_outputs(&self, text: &str, around: &Surroundings) -> Result<Self, PlanError> {
        let items = text
            .split_whitespace()
            .map(|item| match item.split_once(":file:") {
                Some((level, path)) if !path.starts_with('/') => {
                    let here = std::env::current_dir().unwrap_or_default();
                    format!("{level}:file:{}", here.join(path).display())
                }
                _ => item.to_owned(),
            });
        let text = items.collect::<Vec<_>>().join(" ");
        Ok(Self {
            outputs: or_default(parse_outputs(OUTPUTS, &text)?, self.level, around),
            ..self.clone()
        })
    }

    /// This plan of a file that was read again, where it said `before` and `now` is in force: what it does not say
    /// differently stays as it is.
    #[must_use]
    pub fn reread(&self, before: &Self, now: &Self) -> Self {
        fn changed<T: Clone + PartialEq>(new: &T, before: &T, now: &T) -> T {
            if new == before { now.clone() } else { new.clone() }
        }
        Self {
            level: changed(&self.level, &before.level, &now.level),
            filters: changed(&self.filters, &before.filters, &now.filters),
            outputs: changed(&self.outputs, &before.outputs, &now.outputs),
        }
    }

    /// For the time before the configuration is read: warnings to standard error.
    #[must_use]
    pub fn initial() -> Self {
        let stderr = Output {
            priority: Priority::Debug,
            target: Target::Stderr,
        };
        Self {
            level: Priority::Warning,
            filters: Vec::new(),
            outputs: vec![stderr],
        }
    }

    /// Whether standard error is among the outputs.
    #[must_use]
    pub fn says_on_stderr(&self) -> bool {
        self.outputs.iter().any(|output| output.target == Target::Stderr)
    }

    /// Least importance of what `module` logs.
    #[must_use]
    pub fn threshold(&self, module: &str) -> Priority {
        if self.filters.is_empty() {
            return self.level;
        }
        // Its own name would match "qemu" everywhere.
        let module = module.strip_prefix("virtqemud::").unwrap_or(module);
        let dotted = module.replace("::", ".");
        let matching = self
            .filters
            .iter()
            .find(|filter| contains(&dotted, &filter.pattern));
        matching.map_or(self.level, |filter| filter.priority)
    }

    /// Least importance of what anything logs.
    pub(super) fn most_verbose(&self) -> LevelFilter {
        let least = self.filters.iter().map(|f| f.priority).chain([self.level]).min();
        match least {
            Some(Priority::Debug) => LevelFilter::DEBUG,
            Some(Priority::Info) => LevelFilter::INFO,
            Some(Priority::Warning) | None => LevelFilter::WARN,
            Some(Priority::Error) => LevelFilter::ERROR,
        }
    }
}

impl Priority {
    /// That of a message; `TRACE`, which is below all that libvirt has, gives `None`.
    pub(super) fn of(level: Level) -> Option<Self> {
        match level {
            Level::ERROR => Some(Self::Error),
            Level::WARN => Some(Self::Warning),
            Level::INFO => Some(Self::Info),
            Level::DEBUG => Some(Self::Debug),
            _ => None,
        }
    }

    /// As libvirt prints it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// As syslog counts.
    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Debug => 7,
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
        }
    }
}

fn or_default(mut outputs: Vec<Output>, level: Priority, around: &Surroundings) -> Vec<Output> {
    if outputs.is_empty() {
        outputs.push(default_output(level, around));
    }
    outputs
}

fn default_output(priority: Priority, around: &Surroundings) -> Output {
    let target = match (around.background, around.journal) {
        (true, true) => Target::Journald,
        (true, false) if around.syslog => Target::Syslog("virtqemud".to_owned()),
        (true, false) => Target::File(around.log_file.clone()),
        (false, true) if !around.terminal => Target::Journald,
        (false, _) => Target::Stderr,
    };
    Output { priority, target }
}

fn priority(number: u8) -> Option<Priority> {
    match number {
        1 => Some(Priority::Debug),
        2 => Some(Priority::Info),
        3 => Some(Priority::Warning),
        4 => Some(Priority::Error),
        _ => None,
    }
}

fn level_of_word(word: &str) -> Option<Priority> {
    match word {
        "debug" => Some(Priority::Debug),
        "info" => Some(Priority::Info),
        "warning" => Some(Priority::Warning),
        "error" => Some(Priority::Error),
        _ => priority(word.parse().ok()?),
    }
}

fn parse_filters(setting: &'static str, text: &str) -> Result<Vec<Filter>, PlanError> {
    text.split_whitespace()
        .map(|item| {
            let (priority, rest) = split_level(setting, item)?;
            let pattern = rest.split(':').next().unwrap_or_default();
            match pattern.strip_prefix('+').unwrap_or(pattern) {
                "" => Err(wrong(setting, item, Problem::Rest)),
                pattern => Ok(Filter {
                    priority,
                    pattern: pattern.to_owned(),
                }),
            }
        })
        .collect()
}

/// Of several outputs to one place the last counts.
fn parse_outputs(setting: &'static str, text: &str) -> Result<Vec<Output>, PlanError> {
    let mut outputs: Vec<Output> = Vec::new();
    for item in text.split_whitespace() {
        let (priority, place) = split_level(setting, item)?;
        let target = target(place).map_err(|problem| wrong(setting, item, problem))?;
        outputs.retain(|output| output.target != target);
        outputs.push(Output { priority, target });
    }
    Ok(outputs)
}

fn target(place: &str) -> Result<Target, Problem> {
    match place.split_once(':') {
        None if place == "stderr" => Ok(Target::Stderr),
        None if place == "journald" => Ok(Target::Journald),
        Some(("file", path)) if path.starts_with('/') => Ok(Target::File(path.into())),
        Some(("file", _)) => Err(Problem::Relative),
        Some(("syslog", name)) => Ok(Target::Syslog(name.to_owned())),
        None if matches!(place, "file" | "syslog") => Err(Problem::Shape),
        Some(("stderr" | "journald", _)) => Err(Problem::Shape),
        _ => Err(Problem::Destination),
    }
}

fn split_level<'a>(setting: &'static str, item: &'a str) -> Result<(Priority, &'a str), PlanError> {
    let (level, rest) = item
        .split_once(':')
        .ok_or_else(|| wrong(setting, item, Problem::Form))?;
    let level = level.parse().ok().and_then(priority);
    let level = level.ok_or_else(|| wrong(setting, item, Problem::Priority))?;
    match rest {
        "" => Err(wrong(setting, item, Problem::Rest)),
        _ => Ok((level, rest)),
    }
}

fn wrong(setting: &'static str, item: &str, problem: Problem) -> PlanError {
    PlanError {
        setting,
        item: item.to_owned(),
        problem,
    }
}

/// Whether `pattern`, with its wildcards, is found anywhere in `text`.
fn contains(text: &str, pattern: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return text.contains(pattern);
    }
    matches_whole(text.as_bytes(), format!("*{pattern}*").as_bytes())
}

/// Wildcard match in linear space and without recursion: on a mismatch the last `*` takes one more byte.
fn matches_whole(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == text[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((back, taken)) => {
                    star = Some((back, taken + 1));
                    of = back + 1;
                    at = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(level: u8, filters: &str, outputs: &str) -> config::Logging {
        config::Logging {
            level,
            filters: filters.to_owned(),
            outputs: outputs.to_owned(),
        }
    }

    #[test]
    fn the_first_filter_that_matches_counts() {
        let filters = "1:qemu.monitor 4:qemu 2:a?i 1:do*job";
        let plan = Plan::new(&config(3, filters, ""), &Surroundings::default()).unwrap();
        let cases = [
            ("virtqemud::qemu::monitor", Priority::Debug),
            ("virtqemud::qemu::start", Priority::Error),
            ("virtqemud::api::domains", Priority::Info),
            ("virtqemud::domain::jobs", Priority::Debug),
            ("virtqemud::config", Priority::Warning),
            ("compat::session", Priority::Warning),
        ];
        for (module, expected) in cases {
            assert_eq!(plan.threshold(module), expected, "{module}");
        }
    }

    #[test]
    fn outputs_are_libvirts() {
        let text = "1:stderr 3:syslog:me 2:file:/var/log/x.log 4:journald";
        let plan = Plan::new(&config(0, "", text), &Surroundings::default()).unwrap();
        let expected = [
            (Priority::Debug, Target::Stderr),
            (Priority::Warning, Target::Syslog("me".into())),
            (Priority::Info, Target::File("/var/log/x.log".into())),
            (Priority::Error, Target::Journald),
        ];
        assert_eq!(
            plan.outputs,
            expected.map(|(priority, target)| Output { priority, target })
        );
        assert_eq!(plan.level, Priority::Warning);
    }

    #[test]
    fn nonsense_is_named() {
        let cases = [
            (
                "7:foo",
                "",
                "log_filters: \"7:foo\": expected a level from 1 to 4, a colon and more",
            ),
            (
                "",
                "7:foo",
                "log_outputs: \"7:foo\": expected a level from 1 to 4, a colon and more",
            ),
            (
                "",
                "1:file:x",
                "log_outputs: \"1:file:x\": expected an absolute path",
            ),
            (
                "",
                "1:tty",
                "log_outputs: \"1:tty\": expected stderr, journald, file:PATH or syslog:NAME after the level",
            ),
        ];
        for (filters, outputs, message) in cases {
            let error = Plan::new(&config(3, filters, outputs), &Surroundings::default()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn what_the_administrator_sets_is_read_and_shown_as_libvirt_does() {
        let plan = Plan::new(&config(3, "", ""), &Surroundings::default()).unwrap();
        let around = Surroundings::default();
        let filters = |text: &str| {
            let plan = plan.with_filters(text);
            let shown = |plan: Plan| plan.filters.iter().map(ToString::to_string).collect::<Vec<_>>();
            plan.map(shown).map_err(|error| error.for_administrator())
        };
        let outputs = |text: &str| {
            let plan = plan.with_outputs(text, &around);
            let shown = |plan: Plan| plan.outputs.iter().map(ToString::to_string).collect::<Vec<_>>();
            plan.map(|plan| shown(plan).join(" "))
                .map_err(|error| error.for_administrator())
        };
        let shown = ["3:**qemu**", "1:*a*b*", "2:*+p*", "1:*x*"].map(str::to_owned);
        assert_eq!(filters("3:*qemu*  1:a*b 2:++p 1:x:y"), Ok(shown.to_vec()));
        let bad = |text: &str| filters(text).unwrap_err();
        assert_eq!(bad("1:x 9:y"), "Invalid priority '9' for filter '9:y'");
        assert_eq!(bad("x"), "Malformed format for filter 'x'");
        assert_eq!(bad("1:+"), "Invalid match string '+'");
        assert_eq!(outputs(""), Ok("3:stderr".to_owned()));
        let twice = outputs("1:file:/a 3:syslog: 2:stderr 4:file:/a 1:stderr");
        assert_eq!(twice, Ok("3:syslog: 4:file:/a 1:stderr".to_owned()));
        let bad = |text: &str| outputs(text).unwrap_err();
        assert_eq!(bad("9:nope"), "Invalid log priority '9' for log output '9:nope'");
        assert_eq!(bad("3:"), "Invalid log destination '' for log output '3:'");
        let shape =
            "Log output '3:stderr:x' does not meet the format requirements for destination type 'stderr'";
        assert_eq!(bad("3:stderr:x"), shape);
    }

    #[test]
    fn the_environment_and_the_terminal_have_their_say() {
        let set = Surroundings {
            debug: Some("1".into()),
            outputs: Some("2:stderr".into()),
            ..Surroundings::default()
        };
        let plan = Plan::new(&config(4, "", "1:journald"), &set).unwrap();
        assert_eq!(
            (plan.level, &plan.outputs[0].target),
            (Priority::Debug, &Target::Stderr)
        );
        let around = |background, journal, terminal| Surroundings {
            background,
            journal,
            terminal,
            syslog: true,
            ..Surroundings::default()
        };
        let cases = [
            (around(true, true, false), Target::Journald),
            (around(true, false, false), Target::Syslog("virtqemud".into())),
            (around(false, true, false), Target::Journald),
            (around(false, true, true), Target::Stderr),
            (around(false, false, false), Target::Stderr),
        ];
        for (around, target) in cases {
            assert_eq!(
                Plan::new(&config(3, "", ""), &around).unwrap().outputs[0].target,
                target
            );
        }
    }
}

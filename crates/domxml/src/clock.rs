//! `<clock>` and its timers, what follows an end of the guest, power states, perf events.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Expected, Value, Writer, Xml};

use crate::devices::common::{YesNo, words};

words! {
    /// What the guest's clock starts from.
    ClockOffset {
        Utc "utc", Localtime "localtime", Variable "variable", Timezone "timezone",
        Absolute "absolute",
    }
    /// What a variable clock is relative to.
    ClockBasis { Utc "utc", Localtime "localtime" }
    /// A timer.
    TimerName {
        Platform "platform", Pit "pit", Rtc "rtc", Hpet "hpet", Tsc "tsc", Kvmclock "kvmclock",
        Hypervclock "hypervclock", Armvtimer "armvtimer",
    }
    /// What happens to ticks that the guest missed.
    TickPolicy { Delay "delay", Catchup "catchup", Merge "merge", Discard "discard" }
    /// What a timer follows.
    TimerTrack { Boot "boot", Guest "guest", Wall "wall", Realtime "realtime" }
    /// How the TSC is made.
    TimerMode {
        Auto "auto", Native "native", Emulate "emulate", Paravirt "paravirt", Smpsafe "smpsafe",
    }
    /// What follows an end of the guest.
    LifecycleAction {
        Destroy "destroy", Restart "restart", RenameRestart "rename-restart",
        Preserve "preserve", CoredumpDestroy "coredump-destroy",
        CoredumpRestart "coredump-restart",
    }
    /// What follows the loss of a lock.
    LockFailureAction {
        Default "default", Poweroff "poweroff", Restart "restart", Pause "pause",
        Ignore "ignore",
    }
    /// A performance event, in libvirt's order.
    PerfEventName {
        Cmt "cmt", Mbmt "mbmt", Mbml "mbml", CpuCycles "cpu_cycles",
        Instructions "instructions", CacheReferences "cache_references",
        CacheMisses "cache_misses", BranchInstructions "branch_instructions",
        BranchMisses "branch_misses", BusCycles "bus_cycles",
        StalledCyclesFrontend "stalled_cycles_frontend",
        StalledCyclesBackend "stalled_cycles_backend", RefCpuCycles "ref_cpu_cycles",
        CpuClock "cpu_clock", TaskClock "task_clock", PageFaults "page_faults",
        ContextSwitches "context_switches", CpuMigrations "cpu_migrations",
        PageFaultsMin "page_faults_min", PageFaultsMaj "page_faults_maj",
        AlignmentFaults "alignment_faults", EmulationFaults "emulation_faults",
    }
}

/// `<clock>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    #[xml(
        attr,
        default,
        always,
        blank,
        error = "unsupported configuration: unknown clock offset '{}'"
    )]
    pub offset: ClockOffset,
    /// Seconds a variable clock is ahead, or `reset` with the other offsets.
    #[xml(attr, lax)]
    pub adjustment: Option<Adjustment>,
    #[xml(attr, blank, error = "unsupported configuration: unknown clock basis '{}'")]
    pub basis: Option<ClockBasis>,
    /// Seconds that `adjustment` had at start.
    #[xml(attr, when = "clock_adjust")]
    pub adjustment0: Option<i64>,
    #[xml(attr)]
    pub timezone: Option<String>,
    /// Seconds since 1970 at which an absolute clock starts.
    #[xml(attr)]
    pub start: Option<u64>,
    #[xml(children = "timer")]
    pub timers: Vec<Timer>,
}

/// How far a clock is off its basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// Not at all, at every start.
    Reset,
    /// So many seconds.
    Seconds(i64),
}

impl Value for Adjustment {
    fn parse(s: &str) -> Result<Self, Expected> {
        match s {
            "reset" => Ok(Self::Reset),
            seconds => i64::parse(seconds).map(Self::Seconds),
        }
    }
    fn write(&self, w: &mut Writer) {
        match self {
            Self::Reset => w.push("reset"),
            Self::Seconds(seconds) => seconds.write(w),
        }
    }
}

/// `<timer>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    #[xml(attr)]
    pub name: TimerName,
    #[xml(attr)]
    pub present: Option<YesNo>,
    #[xml(attr)]
    pub tickpolicy: Option<TickPolicy>,
    #[xml(attr)]
    pub track: Option<TimerTrack>,
    /// Hertz.
    #[xml(attr)]
    pub frequency: Option<u64>,
    #[xml(attr)]
    pub mode: Option<TimerMode>,
    #[xml(child)]
    pub catchup: Option<Catchup>,
}

/// How missed ticks are made up for.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Catchup {
    #[xml(attr)]
    pub threshold: Option<u64>,
    #[xml(attr)]
    pub slew: Option<u64>,
    #[xml(attr)]
    pub limit: Option<u64>,
}

/// `<pm>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerManagement {
    #[xml(attr = "enabled", wrap = "suspend-to-mem")]
    pub suspend_to_mem: Option<YesNo>,
    #[xml(attr = "enabled", wrap = "suspend-to-disk")]
    pub suspend_to_disk: Option<YesNo>,
}

/// `<perf>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Perf {
    #[xml(children = "event")]
    pub events: Vec<PerfEvent>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerfEvent {
    #[xml(attr)]
    pub name: PerfEventName,
    #[xml(attr)]
    pub enabled: YesNo,
}

//! The parts of a scenario that are done in the guest. What is expected of them stays on the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capture::Ended;

/// Name of the daemon's recording, in the guest and among the results.
pub const RECORDING: &str = "recording.ktrace";

/// Whether the `tls` module is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// From the start.
    #[default]
    Loaded,
    /// Removed before, loaded some seconds after the daemon says it is watching; the workload starts after that.
    Late,
    /// Removed before, and refused to whoever asks for it.
    Absent,
}

/// `[daemon]`: `ktls-trace run --output FILE --format jsonl --record FILE ARGS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Further arguments of `run`.
    #[serde(default)]
    pub args: Vec<String>,
    /// Further environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User and group it runs as.
    #[serde(default)]
    pub uid: u32,
    /// Pause between the end of the workload and SIGTERM, so that episodes close.
    #[serde(default = "default_settle_ms")]
    pub settle_ms: u64,
    /// Expected status. A daemon that is expected to fail need not say that it is watching.
    #[serde(default)]
    pub exit: i32,
    /// Whether it records what it observes, for [`Daemon::records`].
    #[serde(default = "default_record")]
    pub record: bool,
}

impl Daemon {
    /// Whether it leaves a recording: one that is expected to fail may not come so far.
    pub fn records(&self) -> bool {
        self.record && self.exit == 0
    }
}

/// `[workload]`: what runs beside the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Commands started before it and killed after it.
    #[serde(default)]
    pub background: Vec<Vec<String>>,
    /// Expected status; any if not named.
    pub exit: Option<i32>,
}

/// One scenario as the guest does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioJob {
    /// Its name.
    pub name: String,
    /// Longest time the workload may take.
    pub timeout_s: u64,
    /// State of the `tls` module.
    pub tls: Tls,
    /// For [`Tls::Late`]: when.
    pub late_s: u64,
    /// Whether all of it runs on one processor.
    pub one_processor: bool,
    /// Set before, restored after.
    pub sysctl: BTreeMap<String, String>,
    /// The daemon, if there is one.
    pub daemon: Option<Daemon>,
    /// What runs beside it.
    pub workload: Workload,
    /// Whether it has a distribution around it, of which nothing may be killed or set back.
    pub userland: bool,
}

/// How it went, to be judged by the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// What went wrong with the run itself, each a sentence.
    pub problems: Vec<String>,
    /// The daemon's output file, as it is.
    pub events: String,
    /// The daemon, if it was started.
    pub daemon: Option<Ended>,
    /// The workload, if it was started.
    pub workload: Option<Ended>,
    /// The whole scenario with preparing and cleaning up.
    pub seconds: f64,
}

fn default_record() -> bool {
    true
}

fn default_settle_ms() -> u64 {
    1500
}

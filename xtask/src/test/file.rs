//! A scenario's file: `xtask/scenarios/NAME.toml`. The README there is its reference.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml::Spanned;
use xtask::scenario::{Daemon, ScenarioJob, Tls, Workload};

use super::matcher::Where;
use crate::{kernel, userland::Release};

/// A scenario as written.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Stem of the file.
    pub(crate) name: String,
    /// What it says.
    pub(crate) text: ScenarioText,
}

/// What a file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScenarioText {
    /// What this shows, in a sentence.
    #[serde(rename = "about")]
    pub(crate) _about: String,
    kernels: Vec<Spanned<String>>,
    /// Also one of the set for real-time kernels.
    #[serde(default)]
    rt: bool,
    timeout_s: u64,
    #[serde(default)]
    tls: Tls,
    #[serde(default = "default_late_s")]
    late_s: u64,
    #[serde(default, rename = "one-processor")]
    one_processor: bool,
    /// A whole Debian around it, in a guest of its own.
    pub(crate) userland: Option<Release>,
    #[serde(default)]
    sysctl: BTreeMap<String, String>,
    daemon: Option<Daemon>,
    workload: Workload,
    /// Events that must come.
    #[serde(default)]
    pub(crate) expect: Vec<ExpectedEvent>,
    /// Events that must not.
    #[serde(default)]
    pub(crate) forbid: Vec<ForbiddenEvent>,
    /// Text on the programs' streams.
    #[serde(default)]
    pub(crate) output: Vec<ExpectedOutput>,
    /// Values in the workload's JSON.
    #[serde(default, rename = "workload-expect")]
    pub(crate) workload_expect: Vec<WorkloadExpectation>,
    /// Sums over events that must agree with the workload's count.
    #[serde(default)]
    pub(crate) agree: Vec<Agreement>,
}

/// `[[expect]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedEvent {
    pub(crate) event: String,
    #[serde(default, rename = "where")]
    pub(crate) matching: Where,
    #[serde(default)]
    pub(crate) count: Count,
    /// Count different values at this pointer instead of events.
    pub(crate) distinct: Option<String>,
}

/// How many events.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Count {
    #[serde(default = "default_count_min")]
    pub(crate) min: usize,
    pub(crate) max: Option<usize>,
}

impl Default for Count {
    fn default() -> Self {
        Self {
            min: default_count_min(),
            max: None,
        }
    }
}

/// `[[forbid]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForbiddenEvent {
    pub(crate) event: String,
    #[serde(default, rename = "where")]
    pub(crate) matching: Where,
}

/// `[[output]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedOutput {
    pub(crate) stream: OutputStream,
    pub(crate) contains: Option<String>,
    pub(crate) absent: Option<String>,
}

/// The streams that are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OutputStream {
    DaemonStdout,
    DaemonStderr,
    WorkloadStdout,
    WorkloadStderr,
}

/// `[[workload-expect]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadExpectation {
    #[serde(rename = "where")]
    pub(crate) matching: Where,
}

/// `[[agree]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agreement {
    pub(crate) events: String,
    #[serde(default, rename = "where")]
    pub(crate) matching: Where,
    pub(crate) pointer: String,
    pub(crate) workload: String,
    pub(crate) within_percent: f64,
    /// Allowed besides, for counts that are small.
    #[serde(default)]
    pub(crate) within: f64,
}

fn default_late_s() -> u64 {
    2
}

fn default_count_min() -> usize {
    1
}

impl Scenario {
    /// Names of the kernels it is for.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = &str> {
        self.text
            .kernels
            .iter()
            .map(|kernel| kernel.get_ref().as_str())
    }

    /// Whether it is one of the set for real-time kernels.
    pub(crate) fn is_for_rt(&self) -> bool {
        self.text.rt
    }

    /// Has its daemon, if it says nothing of that, use these hooks.
    pub(crate) fn use_probes(&mut self, probes: &str) {
        if let Some(daemon) = &mut self.text.daemon
            && !daemon.args.iter().any(|argument| argument == "--probes")
        {
            daemon.args.extend(["--probes", probes].map(str::to_owned));
            // As for those that say so themselves.
            self.text.one_processor |= probes == "auto";
        }
    }

    /// The part that is done in the guest.
    pub(crate) fn job(&self) -> ScenarioJob {
        let ScenarioText {
            timeout_s,
            tls,
            late_s,
            one_processor,
            sysctl,
            daemon,
            workload,
            userland,
            ..
        } = &self.text;
        ScenarioJob {
            name: self.name.clone(),
            timeout_s: *timeout_s,
            tls: *tls,
            late_s: *late_s,
            one_processor: *one_processor,
            sysctl: sysctl.clone(),
            daemon: daemon.clone(),
            workload: workload.clone(),
            userland: userland.is_some(),
        }
    }

    fn parse(path: &Path, contents: &str) -> Result<Self> {
        let name = path
            .file_stem()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        let text: ScenarioText = toml::from_str(contents).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(contents, span.start));
            anyhow::anyhow!("{}:{line}: {}", path.display(), error.message())
        })?;
        for kernel in &text.kernels {
            kernel::find(kernel.get_ref()).with_context(|| {
                format!(
                    "{}:{}",
                    path.display(),
                    line_of(contents, kernel.span().start)
                )
            })?;
        }
        let scenario = Self { name, text };
        scenario
            .check()
            .map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
        Ok(scenario)
    }

    /// What the types don't rule out: above all, a scenario that can't fail.
    fn check(&self) -> Result<(), &'static str> {
        let text = &self.text;
        if text.kernels.is_empty() {
            return Err("`kernels` names none");
        }
        if text.workload.command.is_empty() || text.workload.background.iter().any(Vec::is_empty) {
            return Err("a command is empty");
        }
        let on_events = text.expect.len() + text.forbid.len() + text.agree.len();
        if text.daemon.is_none() && on_events > 0 {
            return Err("events are expected, but there is no [daemon]");
        }
        if on_events + text.output.len() + text.workload_expect.len() == 0
            && text.workload.exit.is_none()
            && text.daemon.is_none()
        {
            return Err("nothing is expected, so it can't fail");
        }
        if text
            .output
            .iter()
            .any(|output| output.contains.is_some() == output.absent.is_some())
        {
            return Err("an [[output]] needs either `contains` or `absent`");
        }
        let on_demand = |daemon: &Daemon| daemon.args.iter().any(|argument| argument == "auto");
        if text.daemon.as_ref().is_some_and(on_demand) && !text.one_processor {
            return Err("hooks that come on demand come to code that runs: `one-processor = true`");
        }
        Ok(())
    }
}

/// All scenarios of a directory by name; every broken file is reported, not just the first.
pub(crate) fn read_all(directory: &Path) -> Result<Vec<Scenario>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    paths.sort();
    let mut scenarios = Vec::new();
    let mut broken = Vec::new();
    for path in paths {
        let contents =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        match Scenario::parse(&path, &contents) {
            Ok(scenario) => scenarios.push(scenario),
            Err(error) => broken.push(format!("{error:#}")),
        }
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(scenarios)
}

fn line_of(contents: &str, offset: usize) -> usize {
    contents
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A scenario from its text, named `example`.
    pub(in super::super) fn parse(contents: &str) -> Result<Scenario> {
        Scenario::parse(Path::new("dir/example.toml"), contents)
    }

    const HEAD: &str = "about = \"x\"\nkernels = [\"6.12\"]\ntimeout_s = 5\n";

    #[test]
    fn defaults_are_as_documented() {
        let scenario = parse(&format!(
            "{HEAD}[daemon]\n[workload]\ncommand = [\"true\"]\n"
        ))
        .unwrap();
        let job = scenario.job();
        assert_eq!((job.tls, job.late_s), (Tls::Loaded, 2));
        let daemon = job.daemon.unwrap();
        assert_eq!((daemon.settle_ms, daemon.uid, daemon.exit), (1500, 0, 0));
        assert_eq!(job.workload.exit, None);
        assert_eq!(scenario.name, "example");
    }

    #[test]
    fn hooks_are_chosen_for_a_daemon_that_does_not_choose_itself() {
        let args = |daemon: &str| {
            let text = format!("{HEAD}{daemon}[workload]\ncommand = [\"true\"]\nexit = 0\n");
            let mut scenario = parse(&text).unwrap();
            scenario.use_probes("auto");
            scenario.job().daemon.map(|daemon| daemon.args)
        };
        let chosen = |mode: &str| Some(["--probes", mode].map(str::to_owned).to_vec());
        assert_eq!(args("[daemon]\n"), chosen("auto"));
        let light = "[daemon]\nargs = [\"--probes\", \"light\"]\n";
        assert_eq!(args(light), chosen("light"));
        assert_eq!(args(""), None);
    }

    #[test]
    fn a_mistake_is_reported_with_file_and_line() {
        let cases = [
            (format!("{HEAD}[workload]\ncommand = [\"true\"]\nexot = 0\n"), "dir/example.toml:6: ", "exot"),
            ("about = \"x\"\nkernels = [\"6.12\",\n\"6.13\"]\ntimeout_s = 5\n[workload]\ncommand = [\"a\"]\n".to_owned(), "dir/example.toml:3: ", "6.13"),
            (format!("{HEAD}[workload]\ncommand = [\"a\"]\n[[expect]]\nevent = \"e\"\nwhere = {{ \"/a\" = {{ most = 1 }} }}\n"), "dir/example.toml:8: ", "most"),
            (format!("{HEAD}[workload]\ncommand = [\"a\"]\n[[output]]\nstream = \"stdout\"\n"), "dir/example.toml:7: ", "stdout"),
        ];
        for (contents, place, word) in cases {
            let error = format!("{:#}", parse(&contents).unwrap_err());
            assert!(error.starts_with(place) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_scenario_that_cannot_fail_is_refused() {
        let error = parse(&format!("{HEAD}[workload]\ncommand = [\"true\"]\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("can't fail"), "{error}");
        let error = parse(&format!(
            "{HEAD}[workload]\ncommand = [\"true\"]\n[[forbid]]\nevent = \"e\"\n"
        ))
        .unwrap_err();
        assert!(error.to_string().contains("no [daemon]"), "{error}");
    }

    #[test]
    fn hooks_on_demand_take_one_processor() {
        let with = |more: &str| {
            let daemon = "[daemon]\nargs = [\"--probes\", \"auto\"]\n";
            parse(&format!(
                "{HEAD}{more}{daemon}[workload]\ncommand = [\"true\"]\nexit = 0\n"
            ))
        };
        let error = with("").unwrap_err().to_string();
        assert!(error.contains("one-processor"), "{error}");
        assert!(with("one-processor = true\n").unwrap().job().one_processor);
    }
}

//! Runs a kernel's scenarios in one boot. A guest that dies fails the scenario it was at; the rest gets one more boot.

use std::{collections::VecDeque, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use xtask::{
    frame::Frame,
    job::{Action, Job},
    scenario::{RECORDING, ScenarioJob, ScenarioResult, Tls},
};

use super::{
    evaluate::evaluate,
    file::Scenario,
    matrix,
    report::{self, Run},
};
use crate::{
    guest_image::{Bootable, Extra, Programs},
    recordings, userland,
    vm::{Ending, Machine},
};

/// How long a guest may take to boot, on a host that is busy with others.
const BOOTS_WITHIN: Duration = Duration::from_mins(2);
/// What a scenario may take beyond its own limits: starting and stopping the daemon, cleaning up.
const SLACK: Duration = Duration::from_secs(75);
/// Boots before what is left is given up.
const BOOTS: usize = 3;

/// A kernel's scenarios, each as often as it is to run.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    /// The kernel.
    pub(crate) bootable: &'a Bootable,
    /// What every guest shares.
    pub(crate) programs: &'a Programs,
    /// What to run, with which repetition it is.
    pub(crate) queue: VecDeque<(&'a Scenario, usize)>,
    /// What the guest gets, if it is to have a whole distribution.
    pub(crate) userland: Option<Extra<'a>>,
    /// Directory of this kernel's results.
    pub(crate) results: PathBuf,
    /// Which part of the kernel's scenarios this is.
    pub(crate) part: usize,
}

/// What a scenario's run left.
#[derive(Debug, Default)]
struct Ran {
    /// What the guest told of it.
    result: ScenarioResult,
    /// The daemon's recording.
    recording: Option<Vec<u8>>,
}

impl Work<'_> {
    /// Runs everything; a verdict for each entry of the queue.
    pub(crate) fn run(mut self) -> Result<Vec<Run>> {
        fs::create_dir_all(&self.results)
            .with_context(|| format!("creating {}", self.results.display()))?;
        let mut runs = Vec::new();
        let mut last_death = String::new();
        for boot in 1..=BOOTS {
            if self.queue.is_empty() {
                return Ok(runs);
            }
            if let Some(death) = self.boot(boot, &mut runs)? {
                last_death = death;
            }
        }
        while let Some((scenario, repetition)) = self.queue.pop_front() {
            let failure = format!("not run: {BOOTS} guests died before it, the last: {last_death}");
            runs.push(self.judge(scenario, repetition, Err(failure), "")?);
        }
        Ok(runs)
    }

    /// One boot, as far as it gets; why it ended early, if it did.
    fn boot(&mut self, boot: usize, runs: &mut Vec<Run>) -> Result<Option<String>> {
        let release = &self.bootable.kernel.release;
        let again = if boot == 1 { "" } else { " once more" };
        eprintln!(
            "booting {release}{again} for {} scenario runs …",
            self.queue.len()
        );
        let directory = self.results.join(format!("boot-{}-{boot}", self.part + 1));
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let jobs = self
            .queue
            .iter()
            .map(|(scenario, _)| scenario.job())
            .collect();
        let job = Job {
            load_modules: true,
            action: Action::Scenarios { jobs },
        };
        let (machine, extra) = match self.userland {
            Some(extra) => (userland::MACHINE, extra),
            None => (Machine::default(), Extra::default()),
        };
        let mut guest = self
            .bootable
            .boot(self.programs, machine, &job, extra, &directory)?;
        guest.limit(BOOTS_WITHIN);

        let mut said = String::new();
        // Set while a scenario runs: how much was on the console before it.
        let mut current: Option<usize> = None;
        let mut recording = None;
        let ending = loop {
            match guest.next()? {
                Ok(Frame::ScenarioStarted(_)) => {
                    current = Some(guest.console().bytes()?);
                    recording = None;
                    if let Some((scenario, _)) = self.queue.front() {
                        guest.limit(limit(&scenario.job()));
                    }
                }
                Ok(Frame::ScenarioResult(json)) => {
                    let result: ScenarioResult =
                        serde_json::from_slice(&json).context("decoding a guest's result")?;
                    let (scenario, repetition) = self
                        .queue
                        .pop_front()
                        .context("a guest reports more than it was asked")?;
                    let console = guest.console().since(current.take().unwrap_or_default())?;
                    let ran = Ran {
                        result,
                        recording: recording.take(),
                    };
                    runs.push(self.judge(scenario, repetition, Ok(ran), &console)?);
                    guest.limit(BOOTS_WITHIN);
                }
                // Scenarios are captured: this is the guest's own complaint.
                Ok(Frame::Stdout(bytes) | Frame::Stderr(bytes)) => {
                    said.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Frame::File { path, contents }) if path == RECORDING => {
                    recording = Some(contents);
                }
                Ok(Frame::Ready(_) | Frame::File { .. } | Frame::Exit(_)) => {}
                Err(ending) => break ending,
            }
        };
        fs::remove_file(directory.join("initramfs.cpio")).context("removing an initramfs")?;
        if self.queue.is_empty() {
            return Ok(None);
        }
        let short = match &ending {
            Ending::Exit(_) => format!("its init gave up: {}", said.trim()),
            Ending::Died { reason, .. } => reason.clone(),
            Ending::TimedOut { limit, .. } => format!("nothing came for {} s", limit.as_secs()),
        };
        eprintln!(
            "{}: the guest has ended early: {short}",
            self.bootable.kernel.short
        );
        if let Some(before) = current
            && let Some((scenario, repetition)) = self.queue.pop_front()
        {
            let console = guest.console().since(before)?;
            let failure = format!("the guest ended during it: {ending}");
            runs.push(self.judge(scenario, repetition, Err(failure), &console)?);
        }
        Ok(Some(short))
    }

    /// Compares with what is expected, and leaves everything the guest sent on disk.
    fn judge(
        &self,
        scenario: &Scenario,
        repetition: usize,
        ran: Result<Ran, String>,
        console: &str,
    ) -> Result<Run> {
        let mut directory = self.results.join(&scenario.name);
        if repetition > 0 {
            directory = directory.join((repetition + 1).to_string());
        }
        let (Ran { result, recording }, mut failures) = match ran {
            Ok(ran) => {
                let failures = evaluate(scenario, &ran.result);
                (ran, failures)
            }
            Err(failure) => (Ran::default(), vec![failure]),
        };
        report::save(&directory, &result, console)?;
        if let Some(recording) = &recording {
            let path = directory.join(RECORDING);
            fs::write(&path, recording).with_context(|| format!("writing {}", path.display()))?;
            failures.extend(recordings::differs(
                self.programs.daemon(),
                &path,
                &result.events,
            ));
        } else if failures.is_empty() && scenario.job().daemon.is_some_and(|it| it.records()) {
            failures.push("the daemon left no recording".to_owned());
        }
        let run = Run {
            kernel: self.bootable.kernel.short.clone(),
            scenario: scenario.name.clone(),
            repetition,
            seconds: result.seconds,
            given: matrix::given(&result.events),
            context: if failures.is_empty() {
                String::new()
            } else {
                report::context(&result)
            },
            failures,
        };
        eprintln!("{run}");
        Ok(run)
    }
}

/// Longest time between a scenario's start and its result.
fn limit(job: &ScenarioJob) -> Duration {
    let ScenarioJob {
        timeout_s,
        tls,
        late_s,
        daemon,
        ..
    } = job;
    let late = if *tls == Tls::Late { *late_s } else { 0 };
    let settle = daemon.as_ref().map_or(0, |daemon| daemon.settle_ms);
    SLACK + Duration::from_secs(timeout_s + late) + Duration::from_millis(settle)
}

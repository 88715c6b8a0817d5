//! Runs a workload beside the daemon: starts the daemon, waits until it watches, runs the workload, lets episodes close, and stops the
//! daemon as an administrator would. Scenarios and both kinds of demo do it through here.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    capture::{Captured, Ended, Sink, Stream},
    scenario::{Daemon, Workload},
};

/// The word the daemon says on its standard error once it is attached.
const WATCHING: &str = "watching";
/// How long it may take to say so.
const WATCHES_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// The same on a real-time kernel, where taking a program off its function waits half a second and more for
/// `synchronize_rcu_tasks_trace`, one program after another (`bpf_event_mutex`): 8.5 s for all, measured on 6.12 under emulation.
const ENDS_WITHIN_REAL_TIME: Duration = Duration::from_secs(30);

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The daemon with its whole command line.
    pub daemon: Option<(Vec<String>, Daemon)>,
    /// The workload.
    pub workload: Workload,
    /// Longest time the workload may take.
    pub timeout: Duration,
    /// The whole environment; with `None` our own and nothing else.
    pub environment: Option<Vec<(String, String)>>,
}

/// Whose output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The daemon.
    Daemon,
    /// The workload.
    Workload,
    /// One of the background commands.
    Background,
}

/// Takes output as it comes.
pub type Listener = Arc<dyn Fn(Who, Stream, &[u8]) + Send + Sync>;

/// How it went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What went wrong with the run itself, each a sentence.
    pub problems: Vec<String>,
    /// The daemon, if it was started.
    pub daemon: Option<Ended>,
    /// The workload, if it was started.
    pub workload: Option<Ended>,
}

/// Runs the plan. `before_workload` is called once the daemon watches.
///
/// # Errors
///
/// Only what makes the run meaningless, such as a child that can't be waited for; all else is among the problems.
pub fn run(
    plan: &Plan,
    listener: &Listener,
    before_workload: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    let Plan {
        daemon,
        workload,
        timeout,
        environment,
    } = plan;
    let environment = environment.as_deref();
    let mut outcome = Outcome::default();
    let mut watcher = None;
    if let Some((argv, daemon)) = daemon {
        let mut command = command(argv, environment)?;
        command.envs(&daemon.env);
        if daemon.uid != 0 {
            command.uid(daemon.uid).gid(daemon.uid);
        }
        let mut started = Captured::start(&mut command, &sink(listener, Who::Daemon))?;
        if !started.wait_for_stderr(WATCHING, WATCHES_WITHIN)? && daemon.exit == 0 {
            let what = if started.has_ended()? {
                "ended before it said"
            } else {
                "did not say within 20 s"
            };
            outcome
                .problems
                .push(format!("the daemon {what} that it is watching"));
            outcome.daemon = Some(started.finish()?);
            return Ok(outcome);
        }
        watcher = Some(started);
    }
    if let Err(error) = before_workload() {
        outcome.problems.push(format!("{error:#}"));
    }

    let mut background = Vec::new();
    for argv in &workload.background {
        background.push(Captured::start(
            &mut command(argv, environment)?,
            &sink(listener, Who::Background),
        )?);
    }
    match Captured::start(
        &mut command(&workload.command, environment)?,
        &sink(listener, Who::Workload),
    ) {
        Ok(mut started) => {
            if !started.wait(*timeout)? {
                outcome.problems.push(format!(
                    "the workload did not end within {} s",
                    timeout.as_secs()
                ));
            }
            outcome.workload = Some(started.finish()?);
        }
        Err(error) => outcome.problems.push(format!("{error:#}")),
    }
    drop(background);

    if let Some((started, (_, daemon))) = watcher.zip(daemon.as_ref()) {
        outcome.daemon = Some(stop(started, daemon, &mut outcome.problems)?);
    }
    Ok(outcome)
}

/// Lets episodes close, then ends the daemon.
fn stop(mut started: Captured, daemon: &Daemon, problems: &mut Vec<String>) -> Result<Ended> {
    if daemon.exit == 0 {
        let settled = Instant::now() + Duration::from_millis(daemon.settle_ms);
        while Instant::now() < settled && !started.has_ended()? {
            thread::sleep(Duration::from_millis(20));
        }
        if started.has_ended()? {
            problems.push("the daemon ended before it was told to".to_owned());
        }
    }
    started.terminate()?;
    let limit = ends_within();
    if !started.wait(limit)? {
        problems.push(format!(
            "the daemon did not end within {} s of SIGTERM",
            limit.as_secs()
        ));
    }
    started.finish()
}

/// How long the daemon may take to end on this kernel. The file is there with `PREEMPT_RT` only.
fn ends_within() -> Duration {
    if Path::new("/sys/kernel/realtime").exists() {
        ENDS_WITHIN_REAL_TIME
    } else {
        ENDS_WITHIN
    }
}

fn sink(listener: &Listener, who: Who) -> Sink {
    let listener = Arc::clone(listener);
    Arc::new(move |stream, bytes| listener(who, stream, bytes))
}

fn command(argv: &[String], environment: Option<&[(String, String)]>) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(environment) = environment {
        command
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn run_with(daemon: &str, expected_exit: i32, workload: &str, timeout: Duration) -> Outcome {
        let settings = Daemon {
            args: Vec::new(),
            env: BTreeMap::new(),
            uid: 0,
            settle_ms: 50,
            exit: expected_exit,
            record: false,
        };
        let plan = Plan {
            daemon: Some((shell(daemon), settings)),
            workload: Workload {
                command: shell(workload),
                background: vec![shell("exec sleep 60")],
                exit: None,
            },
            timeout,
            environment: None,
        };
        let silent: Listener = Arc::new(|_, _, _| {});
        run(&plan, &silent, || Ok(())).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(20);
    const GOOD: &str =
        "trap 'echo stopped; exit 0' TERM; echo watching >&2; while :; do sleep 0.02; done";

    #[test]
    fn the_daemon_outlives_the_workload_and_is_stopped() {
        let outcome = run_with(GOOD, 0, "echo done", LIMIT);
        assert_eq!(outcome.problems, [""; 0]);
        let daemon = outcome.daemon.unwrap();
        assert_eq!(
            (daemon.exit, daemon.stdout.as_str()),
            (Some(0), "stopped\n")
        );
        assert_eq!(outcome.workload.unwrap().stdout, "done\n");
    }

    #[test]
    fn a_daemon_that_ends_at_once_is_a_problem_and_nothing_is_run_beside_it() {
        let outcome = run_with("echo no permission >&2; exit 2", 0, "echo done", LIMIT);
        assert_eq!(
            outcome.problems,
            ["the daemon ended before it said that it is watching"]
        );
        assert_eq!(outcome.daemon.unwrap().stderr, "no permission\n");
        assert_eq!(outcome.workload, None);
    }

    #[test]
    fn a_daemon_expected_to_fail_may() {
        let outcome = run_with("exit 2", 2, "echo done", LIMIT);
        assert_eq!(outcome.problems, [""; 0]);
        assert_eq!(outcome.daemon.unwrap().exit, Some(2));
        assert_eq!(outcome.workload.unwrap().stdout, "done\n");
    }

    #[test]
    fn a_daemon_that_dies_during_the_workload_is_a_problem() {
        let outcome = run_with("echo watching >&2; exit 0", 0, "sleep 0.1", LIMIT);
        assert_eq!(outcome.problems, ["the daemon ended before it was told to"]);
    }

    #[test]
    fn a_workload_past_its_time_is_killed() {
        let outcome = run_with(GOOD, 0, "exec sleep 60", Duration::from_millis(100));
        assert_eq!(outcome.problems, ["the workload did not end within 0 s"]);
        assert_eq!(outcome.workload.unwrap().exit, None);
        assert_eq!(outcome.daemon.unwrap().exit, Some(0));
    }
}

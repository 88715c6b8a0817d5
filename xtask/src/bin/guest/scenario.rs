//! Does one scenario after another, each from a clean start: no process and no connection left, sysctls restored, tls as the scenario wants it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::{
    beside::{self, Listener, Outcome, Plan},
    frame::Frame,
    job::REFUSED_MODULES_PATH,
    scenario::{RECORDING, ScenarioJob, ScenarioResult, Tls},
};

use crate::{modules, port::Port, runner::environment, sockets};

/// Where a scenario's programs may leave files.
const DIRECTORY: &str = "/tmp/scenario";
/// Whatever it starts keeps to its processors.
const THIS_THREAD: Pid = Pid::from_raw(0);
/// Parent of all threads of the kernel.
const KTHREADD: Pid = Pid::from_raw(2);
/// How long sockets of killed processes may keep the module.
const UNUSED_WITHIN: Duration = Duration::from_mins(1);

/// Does all and reports each as it ends.
pub(crate) fn run_all(port: &Port, jobs: &[ScenarioJob]) -> Result<()> {
    for job in jobs {
        port.send(&Frame::ScenarioStarted(job.name.clone()))?;
        let started = Instant::now();
        let (mut result, recording) = run(job).unwrap_or_else(|error| {
            let result = ScenarioResult {
                problems: vec![format!("{error:#}")],
                ..ScenarioResult::default()
            };
            (result, None)
        });
        if !job.userland
            && let Err(error) = kill_everything()
        {
            result.problems.push(format!("{error:#}"));
        }
        result.seconds = started.elapsed().as_secs_f64();
        if let Some(contents) = recording {
            port.send(&Frame::File {
                path: RECORDING.to_owned(),
                contents,
            })?;
        }
        port.send(&Frame::ScenarioResult(
            serde_json::to_vec(&result).context("encoding a result")?,
        ))?;
    }
    Ok(())
}

/// Runs one; what is to be told of it, and the daemon's recording.
fn run(job: &ScenarioJob) -> Result<(ScenarioResult, Option<Vec<u8>>)> {
    if !job.userland {
        kill_everything()?;
    }
    prepare_directory()?;
    prepare_tls(job.tls)?;
    let before = Sysctls::set(job)?;
    let processors = sched_getaffinity(THIS_THREAD).context("asking for the processors")?;
    if job.one_processor {
        let mut first = CpuSet::new();
        first.set(0).context("naming a processor")?;
        sched_setaffinity(THIS_THREAD, &first).context("keeping to one processor")?;
    }
    let outcome = run_beside(job);
    sched_setaffinity(THIS_THREAD, &processors).context("taking all processors again")?;
    before.restore()?;

    let Outcome {
        problems,
        daemon,
        workload,
    } = outcome?;
    let events = left_in("events.jsonl")?.unwrap_or_default();
    let events = String::from_utf8_lossy(&events).into_owned();
    let result = ScenarioResult {
        problems,
        events,
        daemon,
        workload,
        seconds: 0.0,
    };
    Ok((result, left_in(RECORDING)?))
}

/// A file that the daemon left; one that refused to start has made none.
fn left_in(name: &str) -> Result<Option<Vec<u8>>> {
    match fs::read(Path::new(DIRECTORY).join(name)) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {name}")),
    }
}

fn run_beside(job: &ScenarioJob) -> Result<Outcome> {
    let ScenarioJob {
        timeout_s,
        tls,
        late_s,
        daemon,
        workload,
        ..
    } = job;
    let daemon = daemon.as_ref().map(|daemon| {
        let path = |name| format!("{DIRECTORY}/{name}");
        let events = path("events.jsonl");
        let mut argv = [
            "ktls-trace",
            "run",
            "--output",
            &events,
            "--format",
            "jsonl",
        ]
        .map(str::to_owned)
        .to_vec();
        if daemon.records() {
            argv.extend(["--record".to_owned(), path(RECORDING)]);
        }
        argv.extend(daemon.args.iter().cloned());
        (argv, daemon.clone())
    });
    let plan = Plan {
        daemon,
        workload: workload.clone(),
        timeout: Duration::from_secs(*timeout_s),
        environment: Some(environment()),
    };
    let silent: Listener = Arc::new(|_, _, _| {});
    beside::run(&plan, &silent, || match tls {
        Tls::Loaded | Tls::Absent => Ok(()),
        Tls::Late => {
            thread::sleep(Duration::from_secs(*late_s));
            refuse(&[])?;
            modules::load_by_name("tls")
        }
    })
}

/// An empty directory anybody may write to: the daemon may run as another user.
fn prepare_directory() -> Result<()> {
    match fs::remove_dir_all(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {DIRECTORY}"));
        }
        _ => {}
    }
    fs::create_dir(DIRECTORY).with_context(|| format!("creating {DIRECTORY}"))?;
    fs::set_permissions(DIRECTORY, fs::Permissions::from_mode(0o1777))
        .with_context(|| format!("opening up {DIRECTORY}"))
}

fn prepare_tls(wanted: Tls) -> Result<()> {
    if wanted == Tls::Loaded {
        refuse(&[])?;
        return modules::load_by_name("tls");
    }
    refuse(&["tls"])?;
    let deadline = Instant::now() + UNUSED_WITHIN;
    loop {
        match modules::remove(c"tls") {
            Ok(()) => return Ok(()),
            Err(Errno::EWOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(errno) => return Err(errno).context("removing module tls"),
        }
    }
}

/// Has `modprobe` refuse exactly these modules.
fn refuse(names: &[&str]) -> Result<()> {
    fs::write(REFUSED_MODULES_PATH, names.join("\n"))
        .with_context(|| format!("writing {REFUSED_MODULES_PATH}"))
}

/// Kills every process but init and ourselves, and waits until they are gone.
fn kill_everything() -> Result<()> {
    let deadline = Instant::now() + UNUSED_WITHIN;
    loop {
        let left = other_processes()?;
        if left.is_empty() {
            return sockets::end_all();
        }
        if Instant::now() > deadline {
            anyhow::bail!("processes left by a scenario can't be killed: {left:?}");
        }
        for process in left {
            match kill(process, Signal::SIGKILL) {
                // It may have ended since.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("killing process {process}"));
                }
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Every process that isn't init, ourselves or a thread of the kernel.
fn other_processes() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing /proc")? {
        let entry = entry.context("listing /proc")?;
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .map(Pid::from_raw)
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // `PID (NAME) STATE PARENT …`, where the name may hold anything.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let of_kernel = process == KTHREADD || parent == Some("2");
        if process != Pid::from_raw(1) && process != Pid::this() && !of_kernel {
            found.push(process);
        }
    }
    Ok(found)
}

/// Values as they were before.
struct Sysctls(Vec<(PathBuf, String)>);

impl Sysctls {
    fn set(job: &ScenarioJob) -> Result<Self> {
        let mut before = Self(Vec::new());
        for (name, value) in &job.sysctl {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            let set = fs::read_to_string(&path).and_then(|old| {
                before.0.push((path.clone(), old));
                fs::write(&path, value)
            });
            if let Err(error) = set {
                before.restore()?;
                return Err(error).with_context(|| format!("setting sysctl {name} to {value:?}"));
            }
        }
        Ok(before)
    }

    fn restore(self) -> Result<()> {
        for (path, value) in self.0.into_iter().rev() {
            fs::write(&path, value.trim())
                .with_context(|| format!("restoring {}", path.display()))?;
        }
        Ok(())
    }
}

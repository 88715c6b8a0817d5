//! A foreign command: started, ended after its time, and cleared away with all that it left behind.

use std::{
    fs, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use super::namespace;

/// How often it is looked whether the command has ended.
const LOOK_UP: Duration = Duration::from_millis(5);
/// Time to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// How, in words.
    pub(super) how: String,
    /// Whether it succeeded, or was only ended by its limit.
    pub(super) fine: bool,
    /// How long it ran.
    pub(super) elapsed: Duration,
}

/// Runs a command as a child of the calling thread, in that thread's namespaces, for at most `limit`.
/// Its output goes to stderr: stdout is the report's. Whatever it leaves behind, which bears
/// the mark of the UTS namespace `uts`, is killed.
pub(super) fn run(
    argv: &[String],
    limit: Duration,
    uts: u32,
    stop: &AtomicBool,
) -> io::Result<Ended> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .process_group(0)
        .spawn()?;
    let status = wait(&mut child, begun + limit, stop)?;
    let elapsed = begun.elapsed();
    let ended = if let Some(status) = status {
        Ended {
            how: described(status),
            fine: status.success(),
            elapsed,
        }
    } else {
        end(&mut child)?;
        Ended {
            how: format!("ended after {} s", limit.as_secs_f64()),
            fine: true,
            elapsed,
        }
    };
    kill_marked(uts);
    Ok(ended)
}

/// Waits until the command has ended; `None`: its time is up.
fn wait(child: &mut Child, until: Instant, stop: &AtomicBool) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until || stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        thread::sleep(LOOK_UP);
    }
}

/// Ends a command and its process group, at first politely.
fn end(child: &mut Child) -> io::Result<()> {
    let group = Pid::from_raw(child.id().cast_signed());
    // It may have ended since.
    let _gone = killpg(group, Signal::SIGTERM);
    let never = AtomicBool::new(false);
    if wait(child, Instant::now() + GRACE, &never)?.is_none() {
        let _gone = killpg(group, Signal::SIGKILL);
        child.wait()?;
    }
    Ok(())
}

/// Kills every other process in that UTS namespace: only what the command started can be there.
fn kill_marked(uts: u32) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
            .filter(|&pid| pid != process::id())
        else {
            continue;
        };
        if namespace::inode(&format!("/proc/{pid}/ns/uts"), "uts").is_ok_and(|found| found == uts) {
            // It may have ended since.
            let _gone = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// An exit status in words.
fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

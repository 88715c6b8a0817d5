//! Does the job the guest was booted for and reports to the host. A process of its own, so that waiting for its children doesn't
//! collide with init's reaping.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
};

use anyhow::{Context as _, Result};
use xtask::{
    frame::Frame,
    job::{Action, JOB_PATH, Job},
};

use crate::{modules, port::Port};

/// The name this process is called by.
pub(crate) const NAME: &str = "job";

/// What commands find their programs in.
const PROGRAM_PATH: &str = "/bin:/sbin";

/// Whatever the job left here goes to the host.
const OUT: &str = "/out";

/// Reads the job, does it, and tells the host how it ended.
pub(crate) fn main() -> Result<()> {
    let port = Port::open()?;
    let code = match work(&port) {
        Ok(code) => code,
        Err(error) => {
            port.send(&Frame::Stderr(format!("guest: {error:#}\n").into_bytes()))?;
            125
        }
    };
    if let Err(error) = send_files(&port, Path::new(OUT)) {
        port.send(&Frame::Stderr(format!("guest: {error:#}\n").into_bytes()))?;
    }
    port.send(&Frame::Exit(code))
        .context("reporting the exit status")
}

fn work(port: &Port) -> Result<i32> {
    let text = fs::read(JOB_PATH).with_context(|| format!("reading {JOB_PATH}"))?;
    let Job {
        load_modules,
        action,
    } = serde_json::from_slice(&text).with_context(|| format!("decoding {JOB_PATH}"))?;
    if load_modules {
        modules::load_at_start()?;
    }
    let uptime = fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    port.send(&Frame::Ready(
        uptime.split(' ').next().unwrap_or_default().to_owned(),
    ))?;
    match action {
        Action::Command { argv } => run_command(port, &argv),
    }
}

fn run_command(port: &Port, argv: &[String]) -> Result<i32> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", PROGRAM_PATH), ("HOME", "/root"), ("TERM", "dumb")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            port.send(&Frame::Stderr(
                format!("guest: {program}: {error}\n").into_bytes(),
            ))?;
            // What a shell says: not found, or not executable.
            return Ok(if error.kind() == ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    let stdout = child.stdout.take().context("no stdout")?;
    let stderr = child.stderr.take().context("no stderr")?;
    // Not scoped: a background process that keeps the pipes open must not keep the guest.
    let pumps = [
        spawn_pump(port.clone(), stdout, Frame::Stdout),
        spawn_pump(port.clone(), stderr, Frame::Stderr),
    ];
    let status = child.wait().context("waiting for the command")?;
    let patience = std::time::Instant::now();
    while pumps.iter().any(|pump| !pump.is_finished()) && patience.elapsed().as_millis() < 500 {
        thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(exit_code(status))
}

/// The status as a shell would report it.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(125)
}

fn spawn_pump(
    port: Port,
    mut source: impl Read + Send + 'static,
    frame: fn(Vec<u8>) -> Frame,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = source.read(&mut buffer) {
            if port.send(&frame(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    })
}

fn send_files(port: &Port, directory: &Path) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .with_context(|| format!("looking at {}", path.display()))?;
        if kind.is_dir() {
            send_files(port, &path)?;
        } else if kind.is_file() {
            let contents =
                fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let relative = path
                .strip_prefix(OUT)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            port.send(&Frame::File {
                path: relative,
                contents,
            })?;
        }
    }
    Ok(())
}

//! Does the job the guest was booted for and reports to the host. A process of its own, so that waiting for its children doesn't
//! collide with init's reaping.

use std::{fs, io, path::Path, process::Command, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use xtask::{
    capture::{Captured, Sink, Stream},
    demo::{self, Show},
    frame::Frame,
    job::{Action, JOB_PATH, Job},
};

use crate::{modules, port::Port, scenario};

/// The name this process is called by.
pub(crate) const NAME: &str = "job";

/// Whatever the job left here goes to the host.
const OUT: &str = "/out";
/// How long the host may take to read what it was told.
const READ_WITHIN: Duration = Duration::from_mins(1);

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
        .context("reporting the exit status")?;
    // What the host has not read yet would go with the guest. It ends the guest once it has the status.
    thread::sleep(READ_WITHIN);
    Ok(())
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
        Action::Demo => run_demo(port),
        Action::Scenarios { jobs } => scenario::run_all(port, &jobs).map(|()| 0),
    }
}

/// What commands see: they run as on a bare system.
pub(crate) fn environment() -> Vec<(String, String)> {
    [("PATH", "/bin:/sbin"), ("HOME", "/root"), ("TERM", "dumb")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn run_command(port: &Port, argv: &[String]) -> Result<i32> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment());
    let sink: Sink = {
        let port = port.clone();
        Arc::new(move |stream, bytes| forward(&port, stream, bytes))
    };
    let mut child = match Captured::start(&mut command, &sink) {
        Ok(child) => child,
        Err(error) => {
            port.send(&Frame::Stderr(format!("guest: {error:#}\n").into_bytes()))?;
            let missing = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
            // What a shell says: not found, or not executable.
            return Ok(if missing { 127 } else { 126 });
        }
    };
    // The host has the time limit.
    while !child.wait(Duration::from_hours(1))? {}
    Ok(child.finish()?.exit.unwrap_or(125))
}

fn run_demo(port: &Port) -> Result<i32> {
    let show: Show = {
        let port = port.clone();
        Arc::new(move |stream, text| forward(&port, stream, text.as_bytes()))
    };
    Ok(i32::from(!demo::run(Some(environment()), &show)?))
}

/// Passes output on to the host, which is all we can do with it.
fn forward(port: &Port, stream: Stream, bytes: &[u8]) {
    let frame = match stream {
        Stream::Stdout => Frame::Stdout(bytes.to_vec()),
        Stream::Stderr => Frame::Stderr(bytes.to_vec()),
    };
    if let Err(error) = port.send(&frame) {
        // Goes to the console, which the host shows when it misses our exit status.
        eprintln!("guest: sending output to the host: {error}");
    }
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

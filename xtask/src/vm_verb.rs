//! `cargo xtask vm`: one command in one guest, as if it ran here.

use std::{
    fs,
    io::{self, Write as _},
    path::{Component, Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::{
    frame::Frame,
    job::{Action, Job},
};

use crate::{
    guest_image::{Bootable, Extra, Lower, Programs},
    kernel,
    place::Place,
    run_directory::RunDirectory,
    setup::{self, Needs},
    userland::{self, Release},
    vm::{Ending, Machine},
};

/// Status when the time limit passes, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// Status when the guest dies.
const DIED: u8 = 125;

/// Boots a kernel, runs a command in it and returns its exit status
///
/// The command runs as root with PATH=/bin:/sbin, where ktls-trace and busybox's tools are; say `sh -c '…'` for a shell.
/// Files it leaves below /out are brought back to target/xtask/vm-out. Exit status 124 means the time limit, 125 that
/// the guest died; both show the end of the guest's console.
#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// Kernel to boot
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT_SHORT)]
    kernel: String,
    /// Count instructions instead of time, on one processor: the same run takes the same guest time again
    #[arg(long)]
    icount: bool,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, conflicts_with = "icount", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Time limit in seconds, boot included
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Don't load tls, socket diagnosis and GCM before the command; they come when they are asked for
    #[arg(long)]
    no_modules: bool,
    /// Further file for the guest; may be given again
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_put)]
    put: Vec<(PathBuf, String)>,
    /// A whole Debian around it, with systemd, instead of busybox; then ktls-trace is not there
    #[arg(long, value_enum, value_name = "RELEASE")]
    userland: Option<Release>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn parse_put(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => {
            Ok((host.into(), guest.to_owned()))
        }
        _ => Err("expected HOST:GUEST with an absolute GUEST path".to_owned()),
    }
}

/// Runs the verb; the status of the command is ours.
pub(crate) fn run(place: &Place, arguments: VmArguments) -> Result<ExitCode> {
    let VmArguments {
        kernel,
        icount,
        smp,
        memory,
        timeout,
        no_modules,
        put,
        userland,
        command,
    } = arguments;
    let known = kernel::find(&kernel)?;
    setup::ensure(place, Needs::of_guests(userland.is_some()))?;
    let programs = Programs::prepare(place)?;
    let bootable = Bootable::prepare(place, known)?;
    let machine = Machine {
        smp,
        memory_mib: memory,
        icount,
    };
    let job = Job {
        load_modules: !no_modules,
        action: Action::Command { argv: command },
    };
    let directory = RunDirectory::create(place)?;
    let limit = Duration::from_secs(timeout);
    let userland = userland.map(|release| userland::prepare(place, release));
    let userland = userland.transpose()?;
    let extra = Extra {
        put: &put,
        lower: userland.as_deref().map(Lower::Debian),
    };
    let booted =
        bootable.boot_until_ready(&programs, machine, &job, extra, directory.path(), limit)?;
    let ending = match booted {
        Ok(mut guest) => loop {
            match guest.next()? {
                Ok(frame) => show(place, frame)?,
                Err(ending) => break ending,
            }
        },
        Err(ending) => ending,
    };
    Ok(match ending {
        Ending::Exit(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Ending::Died { .. } => {
            eprintln!("{ending}");
            ExitCode::from(DIED)
        }
        Ending::TimedOut { .. } => {
            eprintln!("{ending}");
            ExitCode::from(TIMED_OUT)
        }
    })
}

fn show(place: &Place, frame: Frame) -> Result<()> {
    match frame {
        Frame::Stdout(bytes) => {
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(&bytes)
                .and_then(|()| stdout.flush())
                .context("writing to stdout")?;
        }
        Frame::Stderr(bytes) => io::stderr()
            .write_all(&bytes)
            .context("writing to stderr")?,
        Frame::File { path, contents } => {
            save(&place.results("vm-out"), Path::new(&path), &contents)?;
        }
        Frame::Ready(_) | Frame::ScenarioStarted(_) | Frame::ScenarioResult(_) | Frame::Exit(_) => {
        }
    }
    Ok(())
}

/// Saves a file a guest sent, which must stay below `root`.
fn save(root: &Path, relative: &Path, contents: &[u8]) -> Result<()> {
    if !relative
        .components()
        .all(|component| matches!(component, Component::Normal(_)))
    {
        bail!(
            "the guest sent a file with a strange path: {}",
            relative.display()
        );
    }
    let path = root.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("saved {}", path.display());
    Ok(())
}

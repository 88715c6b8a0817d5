//! `cargo xtask demo`: the stall on a real kernel, and the daemon flagging it.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::{
    capture::Stream,
    demo::{self, Show},
    frame::Frame,
    job::{Action, Job},
};

use crate::{
    dist,
    guest_image::{Bootable, Extra, Programs},
    kernel,
    place::Place,
    run_directory::RunDirectory,
    setup::{self, Needs},
    vm::{Ending, Machine},
};

/// Boot and demonstration together.
const LIMIT: Duration = Duration::from_mins(4);

/// Shows the daemon flagging a real stall on a real kernel
///
/// Starts `ktls-trace run` and beside it the built-in workload. Exit status 0 only if the stall was flagged.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Kernel to boot
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT_SHORT)]
    kernel: String,
    /// On this host's own kernel, without a guest; needs root
    #[arg(long, conflicts_with = "kernel")]
    host: bool,
}

/// Runs the verb.
pub(crate) fn run(place: &Place, arguments: &DemoArguments) -> Result<ExitCode> {
    let DemoArguments { kernel, host } = arguments;
    let flagged = if *host {
        on_host(place)?
    } else {
        in_guest(place, kernel)?
    };
    Ok(if flagged {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn on_host(place: &Place) -> Result<bool> {
    setup::ensure(place, Needs::Build)?;
    let daemon = dist::daemon(place)?;
    let directory = daemon.parent().context("the binary lies in a directory")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let paths = [directory.to_path_buf()]
        .into_iter()
        .chain(env::split_paths(&path));
    let path = env::join_paths(paths).context("putting the binary on the PATH")?;
    let mut environment: Vec<(String, String)> =
        env::vars().filter(|(name, _)| name != "PATH").collect();
    environment.push(("PATH".to_owned(), path.to_string_lossy().into_owned()));
    let show: Show = Arc::new(|stream, text| drop(write(stream, text.as_bytes())));
    demo::run(Some(environment), &show)
}

fn in_guest(place: &Place, short: &str) -> Result<bool> {
    let known = kernel::find(short)?;
    setup::ensure(place, Needs::Guests)?;
    let programs = Programs::prepare(place)?;
    let bootable = Bootable::prepare(place, known)?;
    let job = Job {
        load_modules: true,
        action: Action::Demo,
    };
    let directory = RunDirectory::create(place)?;
    let machine = Machine::default();
    let booted = bootable.boot_until_ready(
        &programs,
        machine,
        &job,
        Extra::default(),
        directory.path(),
        LIMIT,
    )?;
    let mut guest = match booted {
        Ok(guest) => guest,
        Err(ending) => bail!("{ending}"),
    };
    loop {
        match guest.next()? {
            Ok(Frame::Stdout(bytes)) => write(Stream::Stdout, &bytes)?,
            Ok(Frame::Stderr(bytes)) => write(Stream::Stderr, &bytes)?,
            Ok(_) => {}
            Err(Ending::Exit(code)) => return Ok(code == 0),
            Err(ending) => bail!("{ending}"),
        }
    }
}

fn write(stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(bytes)
                .and_then(|()| stdout.flush())
                .context("writing to stdout")
        }
        Stream::Stderr => io::stderr().write_all(bytes).context("writing to stderr"),
    }
}

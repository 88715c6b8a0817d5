//! `cargo xtask bench`: what the daemon costs, counted in instructions.
//!
//! A guest under `-icount` takes the same time for the same instructions, whatever its host does meanwhile, so that ratios within one
//! run can be compared to a thousandth.

mod document;
mod expected;
mod figures;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use xtask::{
    frame::Frame,
    job::{Action, Job},
};

use self::{expected::Expected, figures::Figures};
use crate::{
    guest_image::{Bootable, Extra, Lower, Programs},
    kernel,
    place::Place,
    run_directory::RunDirectory,
    setup::{self, Needs},
    userland,
    vm::{Ending, Machine},
};

/// What the guest does.
const SCRIPT: &str = include_str!("guest.sh");
/// Where it finds what bpftrace is given.
const PEER: &str = "/usr/lib/bench/peer.bt";

/// Measures what the daemon costs, in a guest that counts instructions
///
/// Writes docs/performance.md, what `--check` holds later figures against, and target/xtask/results/bench.json. Takes
/// some twenty minutes.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Kernel to boot
    #[arg(long, value_name = "NAME", default_value = kernel::DEFAULT_SHORT)]
    kernel: String,
    /// Guest time of each transfer
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Time limit in seconds, boot included
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    timeout: u64,
    /// Write no figures into the source
    #[arg(long)]
    no_document: bool,
    /// Measure a part only, and fail if it is worse than the figures that are kept
    #[arg(long, conflicts_with = "no_document")]
    check: bool,
}

/// Runs the verb.
pub(crate) fn run(place: &Place, arguments: &BenchArguments) -> Result<ExitCode> {
    let BenchArguments {
        kernel,
        seconds,
        no_document,
        check,
        ..
    } = arguments;
    let known = kernel::find(kernel)?;
    setup::ensure(place, Needs::of_guests(!check))?;
    let programs = Programs::prepare(place)?;
    let bootable = Bootable::prepare(place, known)?;
    let boot = |part| in_guest(place, &programs, &bootable, arguments, part);
    let said = boot(if *check { Part::Check } else { Part::All })?;
    let binary = fs::metadata(programs.daemon())
        .with_context(|| format!("looking at {}", programs.daemon().display()))?;
    let mut figures = Figures {
        kernel: bootable.kernel.release.clone(),
        binary_bytes: binary.len(),
        seconds: *seconds,
        ..Figures::default()
    };
    figures.take_all(&said)?;
    ensure!(!figures.sends.is_empty(), "the guest measured nothing");

    let keep = place.workspace.join(expected::FILE);
    if *check {
        return Ok(Expected::read(&keep)?.hold_against(&figures));
    }
    // Before it is replaced. Nothing may be kept yet.
    let replaced = Expected::read(&keep).map_or_else(|_| Vec::new(), |kept| kept.worse(&figures));
    let write_out = |figures: &Figures| -> Result<String> {
        let results = place.results("results");
        fs::create_dir_all(&results).with_context(|| format!("creating {}", results.display()))?;
        let json = serde_json::to_string_pretty(figures).context("encoding the figures")?;
        write(&results.join("bench.json"), &json)?;
        let document = document::of(figures);
        if !no_document {
            write(&place.workspace.join("docs/performance.md"), &document)?;
            Expected::of(figures).write(&keep)?;
        }
        Ok(document)
    };
    // What there is by now is not lost if the other guest fails.
    write_out(&figures)?;
    let counted = figures.crowds.len();
    figures.take_all(&boot(Part::TwoProcessors)?)?;
    for crowd in figures.crowds.iter_mut().skip(counted) {
        crowd.two_processors = true;
    }
    print!("{}", write_out(&figures)?);
    if !no_document {
        for line in &replaced {
            println!("kept from now on, and worse than before: {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a guest measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Everything that is counted in instructions.
    All,
    /// What later figures are held against.
    Check,
    /// What takes two processors, and is not counted.
    TwoProcessors,
}

impl Part {
    /// Its name for the script.
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Check => "check",
            Self::TwoProcessors => "two",
        }
    }
}

fn write(path: &Path, contents: &str) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}

/// Boots a guest, runs the script and gives back what it printed.
fn in_guest(
    place: &Place,
    programs: &Programs,
    bootable: &Bootable,
    arguments: &BenchArguments,
    part: Part,
) -> Result<String> {
    let seconds = arguments.seconds.to_string();
    let job = Job {
        load_modules: true,
        action: Action::Command {
            argv: ["sh", "-c", SCRIPT, "bench", part.name(), &seconds]
                .map(str::to_owned)
                .to_vec(),
        },
    };
    let machine = Machine {
        icount: part != Part::TwoProcessors,
        memory_mib: 2048,
        ..Machine::default()
    };
    let tools = (part != Part::Check)
        .then(|| userland::tools(place))
        .transpose()?;
    let peer = place.workspace.join("xtask/src/bench/peer.bt");
    let put = [(peer, PEER.to_owned())];
    let extra = Extra {
        put: &put,
        lower: tools.as_deref().map(Lower::Packages),
    };
    let directory = RunDirectory::create(place)?;
    let limit = Duration::from_secs(arguments.timeout);
    let mut guest =
        match bootable.boot_until_ready(programs, machine, &job, extra, directory.path(), limit)? {
            Ok(guest) => guest,
            Err(ending) => bail!("{ending}"),
        };
    let mut said = String::new();
    let mut complaints = String::new();
    loop {
        match guest.next()? {
            Ok(Frame::Stdout(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                // What is under way, for whoever waits.
                for line in text.lines() {
                    let columns: Vec<&str> = line.split('\t').take(4).collect();
                    eprintln!("{:.100}", columns.join("  "));
                }
                said.push_str(&text);
            }
            Ok(Frame::Stderr(bytes)) => complaints.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(_) => {}
            Err(Ending::Exit(0)) => return Ok(said),
            Err(ending) => bail!("{ending}\n{complaints}"),
        }
    }
}

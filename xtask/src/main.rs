//! `cargo xtask VERB`: set-up, guests, scenarios and packaging of ktls-trace.

mod apt;
mod bench;
mod command;
mod consumers;
mod demo_verb;
mod dist;
mod ebpf;
mod guest_image;
mod initramfs;
mod kernel;
mod place;
mod record;
mod recordings;
mod run_directory;
mod setup;
mod test;
mod userland;
mod vm;
mod vm_verb;

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench::BenchArguments, demo_verb::DemoArguments, dist::DistArguments, ebpf::EbpfArguments,
    place::Place, record::RecordArguments, recordings::RecordingsArguments, setup::Needs,
    test::TestArguments, vm_verb::VmArguments,
};

/// Set-up, guests, scenarios and packaging of ktls-trace
///
/// Fetched kernels and packages are kept in target/xtask, or where `KTLS_TRACE_CACHE` says.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Installs what is missing: QEMU, rust-src, bpf-linker
    ///
    /// Every other verb does the same first, for what it needs. Packages are installed as root, or through sudo.
    Setup {
        /// Also the tools of the release checks (cargo-deny)
        #[arg(long)]
        checks: bool,
    },
    Demo(DemoArguments),
    Test(TestArguments),
    Recordings(RecordingsArguments),
    Vm(VmArguments),
    RecordKernel(RecordArguments),
    Bench(BenchArguments),
    Ebpf(EbpfArguments),
    Dist(DistArguments),
}

fn main() -> ExitCode {
    let Arguments { verb } = Arguments::parse();
    match run(verb) {
        Ok(code) => code,
        // Whoever reads our output has had enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn run(verb: Verb) -> Result<ExitCode> {
    let place = Place::find()?;
    match verb {
        Verb::Setup { checks } => {
            setup::run(&place, if checks { Needs::Checks } else { Needs::Guests })?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Demo(arguments) => demo_verb::run(&place, &arguments),
        Verb::Recordings(arguments) => recordings::run(&place, &arguments),
        Verb::Test(arguments) => test::run(&place, &arguments),
        Verb::Ebpf(arguments) => {
            setup::ensure(&place, Needs::Build)?;
            ebpf::run(&place, &arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Vm(arguments) => vm_verb::run(&place, arguments),
        Verb::RecordKernel(arguments) => record::run(&place, &arguments),
        Verb::Bench(arguments) => bench::run(&place, &arguments),
        Verb::Dist(arguments) => dist::run(&place, &arguments),
    }
}

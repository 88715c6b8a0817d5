//! `cargo xtask ebpf`: builds or lints the eBPF programs alone, without the daemon that carries them.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{command, place::Place};

/// Builds the eBPF programs alone
#[derive(Debug, Args)]
pub(crate) struct EbpfArguments {
    /// Lint them instead; any warning is an error
    #[arg(long)]
    clippy: bool,
}

/// Runs the verb.
pub(crate) fn run(place: &Place, arguments: &EbpfArguments) -> Result<()> {
    let mut command = command::cargo();
    command
        .arg(if arguments.clippy { "clippy" } else { "build" })
        .args([
            "--quiet",
            "--release",
            "--package",
            "ktls-trace-ebpf",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
        ])
        .current_dir(&place.workspace)
        .env("CARGO_TARGET_DIR", &place.target)
        // build-std is unstable; the programs are built with it on the stable toolchain.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "--cfg=bpf_target_arch=\"x86_64\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf",
        );
    if arguments.clippy {
        command.args(["--", "-D", "warnings"]);
    }
    command::run(&mut command).context("the eBPF programs")
}

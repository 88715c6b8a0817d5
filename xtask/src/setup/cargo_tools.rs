//! Tools installed with cargo.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages::first_line;
use crate::{command, place::Place};

/// The last that takes the LLVM of rustc itself; later ones want one on the system. A newer one that is there is taken.
const LINKER_VERSION: &str = "0.10.4";

/// Version of bpf-linker, if it is there and new enough.
pub(crate) fn linker_present() -> Option<String> {
    first_line(Command::new("bpf-linker").arg("--version"))
        .filter(|line| is_at_least(line, LINKER_VERSION))
}

/// Builds bpf-linker.
pub(crate) fn linker_install(_place: &Place) -> Result<String> {
    cargo_install(&["bpf-linker", "--version", LINKER_VERSION, "--locked"])?;
    let line = linker_present()
        .context("bpf-linker is installed, but not on the PATH: add cargo's bin directory to it")?;
    Ok(format!("installed {line}"))
}

/// Version of cargo-deny, if it is there.
pub(crate) fn deny_present() -> Option<String> {
    first_line(Command::new("cargo-deny").arg("--version"))
}

/// Builds cargo-deny. Optimised, that takes three times as long, and its checks a second less.
pub(crate) fn deny_install(_place: &Place) -> Result<String> {
    cargo_install(&["cargo-deny", "--locked", "--debug"])?;
    let line = deny_present()
        .context("cargo-deny is installed, but not on the PATH: add cargo's bin directory to it")?;
    Ok(format!("installed {line}"))
}

fn cargo_install(arguments: &[&str]) -> Result<()> {
    let mut command = command::cargo();
    // Outside the workspace, so that its settings are not taken for the tool's.
    command
        .args(["install", "--quiet", "--force"])
        .args(arguments)
        .current_dir("/");
    command::run(&mut command)
}

/// Whether the version in `line` (`bpf-linker 0.10.4`) is `wanted` or later.
fn is_at_least(line: &str, wanted: &str) -> bool {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        let plain = version.split(['-', '+']).next()?;
        plain.split('.').map(|part| part.parse().ok()).collect()
    };
    let found = line.split_whitespace().find_map(numbers);
    found.is_some_and(|found| Some(found) >= numbers(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_at_least("bpf-linker 0.10.4", "0.10.4"));
        assert!(is_at_least("bpf-linker 0.11.0-rc1", "0.10.4"));
        assert!(!is_at_least("bpf-linker 0.9.15", "0.10.4"));
        assert!(!is_at_least("bpf-linker", "0.10.4"));
    }
}

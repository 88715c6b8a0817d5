//! The sources of core, which the eBPF programs are built with: from rustup, or else from the distribution.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{Mirrors, Suite, unpack},
    command,
    place::Place,
};

/// Suites that may have the compiler's version; the newest compilers reach backports and unstable first.
const SUITES: &[&str] = &["trixie-backports", "sid", "trixie", "bookworm"];

/// Below the compiler's sysroot.
const LIBRARY: &str = "lib/rustlib/src/rust/library";

/// Where the sources are, if they are.
pub(crate) fn present() -> Option<String> {
    let library = library().ok()?;
    is_complete(&library).then(|| library.display().to_string())
}

/// Tries rustup, then the distribution.
pub(crate) fn install(place: &Place) -> Result<String> {
    let by_rustup =
        match command::output(Command::new("rustup").args(["component", "add", "rust-src"])) {
            Ok(_) if is_complete(&library()?) => return Ok("added with rustup".to_owned()),
            Ok(_) => anyhow::anyhow!(
                "`rustup component add rust-src` ended well, but {} is not there",
                library()?.display()
            ),
            Err(error) => error,
        };
    from_distribution(place).map_err(|by_distribution| {
        anyhow::anyhow!(
            "no rust-src for this compiler.\nFrom rustup: {by_rustup:#}\nFrom the distribution: {by_distribution:#}"
        )
    })
}

fn library() -> Result<PathBuf> {
    Ok(sysroot()?.join(LIBRARY))
}

fn sysroot() -> Result<PathBuf> {
    let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// Both are needed by `-Z build-std`.
fn is_complete(library: &Path) -> bool {
    library.join("Cargo.lock").is_file() && library.join("core/src/lib.rs").is_file()
}

fn from_distribution(place: &Place) -> Result<String> {
    let release = compiler_release()?;
    let mirrors = Mirrors::of_this_machine()?;
    let lock = place.lock_cache()?;
    let mut seen = Vec::new();
    for name in SUITES {
        let suite = match Suite::open(&place.cache, &mirrors, name) {
            Ok(suite) => suite,
            Err(error) => {
                seen.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        let versions = suite.versions("rust-src")?;
        let Some(version) = versions
            .iter()
            .find(|version| is_release(version, &release))
        else {
            seen.push(format!(
                "{name} has {}",
                if versions.is_empty() {
                    "none".to_owned()
                } else {
                    versions.join(", ")
                }
            ));
            continue;
        };
        let scratch = lock.scratch("rust-src")?;
        unpack(&suite.download("rust-src", version, &scratch)?, &scratch)?;
        let source = scratch.join(format!("usr/src/rustc-{release}/library"));
        if !is_complete(&source) {
            bail!("rust-src {version} from {name} has no complete usr/src/rustc-{release}/library");
        }
        move_into_place(&source, &library()?)?;
        return Ok(format!(
            "taken from the distribution's rust-src {version} ({name})"
        ));
    }
    bail!("no suite has rust-src {release}: {}", seen.join("; "))
}

/// Copies beside the destination first, so that an interrupted copy is never taken for the sources.
fn move_into_place(source: &Path, library: &Path) -> Result<()> {
    let parent = library.parent().context("the library has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let beside = parent.join("library.incoming");
    for leftover in [&beside, &library.to_path_buf()] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)
                .with_context(|| format!("removing {}", leftover.display()))?;
        }
    }
    command::output(Command::new("cp").arg("-rT").args([source, &beside]))?;
    fs::rename(&beside, library).with_context(|| format!("renaming {}", beside.display()))
}

/// The compiler's version, such as `1.95.0`.
pub(crate) fn compiler_release() -> Result<String> {
    let text = command::output(Command::new("rustc").args(["--version", "--verbose"]))?;
    field(&text, "release").context("`rustc --version --verbose` names no release")
}

/// Where the compiler lies, and the name it gives the sources of the standard library: its commit, or its version if
/// it was not built from a repository.
pub(crate) fn compiler() -> Result<(PathBuf, String)> {
    let text = command::output(Command::new("rustc").args(["--version", "--verbose"]))?;
    let name = field(&text, "commit-hash")
        .filter(|commit| commit != "unknown")
        .map_or_else(compiler_release, Ok)?;
    Ok((sysroot()?, name))
}

/// A line of `rustc --version --verbose`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .map(|value| value.trim().to_owned())
}

/// Whether a package version such as `1.95.0+dfsg1-2~bpo13+1` is of exactly this release.
fn is_release(version: &str, release: &str) -> bool {
    version
        .strip_prefix(release)
        .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exactly_the_compilers_release_will_do() {
        assert!(is_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(!is_release("1.95.1+dfsg1-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
    }
}

//! Builds the static binaries: the daemon for any host, and the guest's own programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{command, place::Place};

/// The gnu target: the musl one is not assumed to be installed. Naming it keeps our flags away from build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the daemon and puts it at `target/dist/ktls-trace`, as its only file.
pub(crate) fn daemon(place: &Place) -> Result<PathBuf> {
    let built = build(place, "ktls-trace", "ktls-trace")?;
    let directory = place.target.join("dist");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("ktls-trace");
    let temporary = directory.join(format!(".ktls-trace.{}", std::process::id()));
    fs::copy(&built, &temporary)
        .with_context(|| format!("copying {} to {}", built.display(), temporary.display()))?;
    fs::rename(&temporary, &path).with_context(|| format!("replacing {}", path.display()))?;
    Ok(path)
}

/// Builds the guest's init.
pub(crate) fn guest_init(place: &Place) -> Result<PathBuf> {
    build(place, "xtask", "guest")
}

/// Builds the workloads that the daemon's own reproducer has not.
pub(crate) fn odd_workloads(place: &Place) -> Result<PathBuf> {
    build(place, "xtask", "odd")
}

fn build(place: &Place, package: &str, binary: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "--package",
            package,
            "--bin",
            binary,
        ])
        .current_dir(&place.workspace)
        .env("CARGO_TARGET_DIR", &place.target)
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags());
    // Set by `cargo run` for xtask's own build; a build script of another package must not take it for its own.
    command.env_remove("CARGO_MANIFEST_DIR");
    command::run(&mut command).with_context(|| format!("building the static {binary}"))?;
    Ok(place
        .target
        .join(TARGET)
        .join("release")
        .join(Path::new(binary)))
}

/// The caller's own flags and `crt-static`, in cargo's encoding, which wins over every other way to set flags.
fn static_flags() -> String {
    let mut flags: Vec<String> = match (env::var("CARGO_ENCODED_RUSTFLAGS"), env::var("RUSTFLAGS"))
    {
        (Ok(encoded), _) => encoded.split('\x1f').map(str::to_owned).collect(),
        (_, Ok(plain)) => plain.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    flags.retain(|flag| !flag.is_empty());
    flags.extend(["-C".to_owned(), "target-feature=+crt-static".to_owned()]);
    flags.join("\x1f")
}

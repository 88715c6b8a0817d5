//! Builds the static binaries: the daemon for any host, and the guest's own programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::PACKAGED;
use crate::{command, place::Place, setup};

/// The gnu target: the musl one is not assumed to be installed. Naming it keeps our flags away from build scripts.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the daemon and puts it at `target/dist/ktls-trace`, as its only file.
pub(crate) fn daemon(place: &Place) -> Result<PathBuf> {
    let built = build(place, "ktls-trace", "ktls-trace", "")?;
    publish(&built, &place.target.join("dist"))
}

/// Builds it as it is packaged, with features that the one file has not for the sake of its size.
pub(super) fn packaged(place: &Place) -> Result<PathBuf> {
    let built = build(place, "ktls-trace", "ktls-trace", PACKAGED)?;
    publish(&built, &place.target.join("dist/packaged"))
}

/// Puts the daemon into a folder.
fn publish(built: &Path, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join("ktls-trace");
    let temporary = directory.join(format!(".ktls-trace.{}", std::process::id()));
    fs::copy(built, &temporary)
        .with_context(|| format!("copying {} to {}", built.display(), temporary.display()))?;
    fs::rename(&temporary, &path).with_context(|| format!("replacing {}", path.display()))?;
    Ok(path)
}

/// Builds the guest's init.
pub(crate) fn guest_init(place: &Place) -> Result<PathBuf> {
    build(place, "xtask", "guest", "")
}

/// Builds the workloads that the daemon's own reproducer has not.
pub(crate) fn odd_workloads(place: &Place) -> Result<PathBuf> {
    build(place, "xtask", "odd", "")
}

fn build(place: &Place, package: &str, binary: &str, features: &str) -> Result<PathBuf> {
    let mut command = command::cargo();
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
            "--features",
            features,
        ])
        .current_dir(&place.workspace)
        .env("CARGO_TARGET_DIR", &place.target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(place)?);
    command::run(&mut command).with_context(|| format!("building the static {binary}"))?;
    Ok(place
        .target
        .join(TARGET)
        .join("release")
        .join(Path::new(binary)))
}

/// The caller's own flags and ours, in cargo's encoding, which wins over every other way to set flags. All binaries are
/// built with the same ones: other flags would build every dependency again.
fn flags(place: &Place) -> Result<String> {
    let mut flags: Vec<String> = match (env::var("CARGO_ENCODED_RUSTFLAGS"), env::var("RUSTFLAGS"))
    {
        (Ok(encoded), _) => encoded.split('\x1f').map(str::to_owned).collect(),
        (_, Ok(plain)) => plain.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    flags.retain(|flag| !flag.is_empty());
    flags.extend(["-C".to_owned(), "target-feature=+crt-static".to_owned()]);
    let (sysroot, compiler) = setup::compiler()?;
    let names = [
        (&place.workspace, "/ktls-trace".to_owned()),
        (&place.target, "/ktls-trace/target".to_owned()),
        (&cargo_home(), "/cargo".to_owned()),
        // What rustc itself says where these sources are not installed.
        (
            &sysroot.join("lib/rustlib/src/rust"),
            format!("/rustc/{compiler}"),
        ),
    ];
    flags.extend(remapped(&names));
    Ok(flags.join("\x1f"))
}

/// Where a panic happened is told by the path of a source file: names for the folders that differ from one machine to
/// the next. cargo leaves these flags out of what it tells builds apart by.
fn remapped(names: &[(&PathBuf, String)]) -> Vec<String> {
    let mut flags = Vec::new();
    for (index, (folder, name)) in names.iter().enumerate() {
        let covered = names[..index]
            .iter()
            .any(|(other, within)| folder.starts_with(other) && name.starts_with(within));
        if !covered {
            flags.push(format!("--remap-path-prefix={}={name}", folder.display()));
        }
    }
    flags
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || env::home_dir().unwrap_or_default().join(".cargo"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_folder_in_the_workspace_has_its_name_already() {
        let [clone, inside, outside, cargo] = [
            "/home/a/clone",
            "/home/a/clone/target",
            "/var/target",
            "/home/a/.cargo",
        ]
        .map(PathBuf::from);
        let flags = |target| {
            remapped(&[
                (&clone, "/ktls-trace".to_owned()),
                (target, "/ktls-trace/target".to_owned()),
                (&cargo, "/cargo".to_owned()),
            ])
        };
        assert_eq!(
            flags(&inside),
            [
                "--remap-path-prefix=/home/a/clone=/ktls-trace",
                "--remap-path-prefix=/home/a/.cargo=/cargo"
            ]
        );
        assert_eq!(
            flags(&outside)[1],
            "--remap-path-prefix=/var/target=/ktls-trace/target"
        );
    }
}

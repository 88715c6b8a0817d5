//! The package for Debian, made by `dpkg-deb`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use jiff::{fmt::rfc2822::DateTimePrinter, tz::TimeZone};

use super::{
    VERSION,
    contents::{File, Kind},
    stage,
    stamp::{self, Stamp},
};
use crate::{command, place::Place};

/// Scripts that dpkg runs, in `packaging/deb`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes the package in target/dist.
pub(super) fn build(
    place: &Place,
    files: &[File],
    stamp: Stamp,
    scratch: &Path,
) -> Result<PathBuf> {
    let root = scratch.join("deb");
    stage::write(&root, files, stamp)?;
    let sums = command::output(
        Command::new("md5sum")
            .args(files.iter().map(|file| &file.path))
            .current_dir(&root),
    )?;
    let packaging = place.workspace.join("packaging/deb");
    let read = |name: &str| {
        let path = packaging.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let debian = root.join("DEBIAN");
    fs::create_dir(&debian).with_context(|| format!("creating {}", debian.display()))?;
    let control = control(&read("control")?, files);
    stage::one(&debian.join("control"), control.as_bytes(), 0o644)?;
    stage::one(&debian.join("md5sums"), sums.as_bytes(), 0o644)?;
    stage::one(
        &debian.join("conffiles"),
        conffiles(files).as_bytes(),
        0o644,
    )?;
    for name in SCRIPTS {
        stage::one(&debian.join(name), read(name)?.as_bytes(), 0o755)?;
    }
    stage::stamp_all(&root, stamp)?;

    let package = place
        .target
        .join("dist")
        .join(format!("ktls-trace_{VERSION}_amd64.deb"));
    // xz is what dpkg of every release reads. How many threads there are can change what it writes.
    command::output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"])
            .args([&root, &package])
            .env(stamp::VARIABLE, stamp.seconds().to_string()),
    )?;
    Ok(package)
}

/// Fills the template.
fn control(template: &str, files: &[File]) -> String {
    template
        .replace("@VERSION@", VERSION)
        .replace("@INSTALLED_SIZE@", &installed_kib(files).to_string())
}

/// As Debian counts it: each file in whole KiB.
fn installed_kib(files: &[File]) -> usize {
    files
        .iter()
        .map(|file| file.bytes.len().div_ceil(1024))
        .sum()
}

/// The files that dpkg keeps as the administrator left them.
fn conffiles(files: &[File]) -> String {
    let mut list = String::new();
    for file in files.iter().filter(|file| file.kind == Kind::Configuration) {
        list.extend(["/", &file.path, "\n"]);
    }
    list
}

/// What policy wants beside CHANGELOG.md, which tells more.
pub(super) fn changelog(stamp: Stamp) -> Result<Vec<u8>> {
    let date = DateTimePrinter::new()
        .zoned_to_string(&stamp.timestamp()?.to_zoned(TimeZone::UTC))
        .context("writing the date")?;
    let text = format!(
        "ktls-trace ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- the ktls-trace developers \
         <ktls-trace@packages.invalid>  {date}\n"
    );
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, kind: Kind, bytes: usize) -> File {
        File {
            path: path.to_owned(),
            mode: 0o644,
            kind,
            bytes: vec![0; bytes],
        }
    }

    #[test]
    fn only_configuration_is_a_conffile() {
        let files = [
            file("etc/ktls-trace/config.toml", Kind::Configuration, 1),
            file("usr/bin/ktls-trace", Kind::Program, 1),
        ];
        assert_eq!(conffiles(&files), "/etc/ktls-trace/config.toml\n");
    }

    #[test]
    fn the_template_is_filled() {
        let files = [
            file("a", Kind::Document, 1),
            file("b", Kind::Document, 1025),
        ];
        let text = control(
            "Version: @VERSION@\nInstalled-Size: @INSTALLED_SIZE@\n",
            &files,
        );
        assert_eq!(text, format!("Version: {VERSION}\nInstalled-Size: 3\n"));
    }

    #[test]
    fn the_changelog_carries_the_stamp() {
        let text = changelog(Stamp::read("1780000000").unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.ends_with(">  Thu, 28 May 2026 20:26:40 +0000\n"),
            "{text}"
        );
    }
}

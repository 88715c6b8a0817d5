//! The package for Fedora, SUSE and their relatives, made by `rpmbuild`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    VERSION,
    contents::{File, Kind},
    stage,
    stamp::{self, Stamp},
};
use crate::{command, place::Place};

/// What rpmbuild would take from this machine or do beyond packaging. xz is what rpm of every release reads.
const SETTINGS: [&str; 9] = [
    "_buildhost reproducible",
    "use_source_date_epoch_as_buildtime 1",
    "clamp_mtime_to_source_date_epoch 1",
    "source_date_epoch_from_changelog 0",
    "_binary_payload w7.xzdio",
    "_build_id_links none",
    "debug_package %{nil}",
    "__os_install_post %{nil}",
    "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
];

/// Makes the package in target/dist.
pub(super) fn build(
    place: &Place,
    files: &[File],
    stamp: Stamp,
    scratch: &Path,
) -> Result<PathBuf> {
    let staged = scratch.join("rpm");
    stage::write(&staged, files, stamp)?;
    let list = scratch.join("rpm.list");
    stage::one(&list, listed(files).as_bytes(), 0o644)?;
    let folder = place.target.join("dist");
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.args(["-bb", "--target", "x86_64-linux"]);
    for setting in SETTINGS {
        rpmbuild.args(["--define", setting]);
    }
    for (name, value) in [
        ("_topdir", scratch.join("rpmbuild").as_path()),
        ("_rpmdir", folder.as_path()),
        ("staged", staged.as_path()),
        ("listed", list.as_path()),
        ("version", Path::new(VERSION)),
    ] {
        rpmbuild.arg("--define");
        rpmbuild.arg(format!("{name} {}", value.display()));
    }
    rpmbuild
        .arg(place.workspace.join("packaging/rpm/ktls-trace.spec"))
        .env(stamp::VARIABLE, stamp.seconds().to_string());
    command::output(&mut rpmbuild)?;
    let package = folder.join(format!("ktls-trace-{VERSION}-1.x86_64.rpm"));
    fs::metadata(&package).with_context(|| format!("rpmbuild made no {}", package.display()))?;
    Ok(package)
}

/// The list of files with attributes, as `%files -f` takes it; with the folders that are nobody else's, and those of
/// shells that may not be installed.
fn listed(files: &[File]) -> String {
    let folders: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| Some((file, file.path.rsplit_once('/')?.0)))
        .filter(|(file, folder)| folder.ends_with("/ktls-trace") || is_completions(file.kind))
        .map(|(_, folder)| folder)
        .collect();
    let folders = folders
        .iter()
        .map(|folder| format!("%dir %attr(0755, root, root) /{folder}\n"));
    let files = files.iter().map(|file| {
        let what = match file.kind {
            Kind::Configuration => "%config(noreplace) ",
            Kind::Notices | Kind::Licence => "%license ",
            Kind::Document | Kind::Readme | Kind::Manual => "%doc ",
            _ => "",
        };
        format!("{what}%attr(0{:o}, root, root) /{}\n", file.mode, file.path)
    });
    folders.chain(files).collect()
}

fn is_completions(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CompletionsBash | Kind::CompletionsZsh | Kind::CompletionsFish
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_kept_and_own_folders_are_owned() {
        let file = |path: &str, kind, mode| File {
            path: path.to_owned(),
            mode,
            kind,
            bytes: Vec::new(),
        };
        let text = listed(&[
            file("etc/ktls-trace/config.toml", Kind::Configuration, 0o644),
            file("usr/bin/ktls-trace", Kind::Program, 0o755),
            file("usr/share/zsh/x/_k", Kind::CompletionsZsh, 0o644),
        ]);
        assert_eq!(
            text,
            "%dir %attr(0755, root, root) /etc/ktls-trace\n\
             %dir %attr(0755, root, root) /usr/share/zsh/x\n\
             %config(noreplace) %attr(0644, root, root) /etc/ktls-trace/config.toml\n\
             %attr(0755, root, root) /usr/bin/ktls-trace\n\
             %attr(0644, root, root) /usr/share/zsh/x/_k\n"
        );
    }
}

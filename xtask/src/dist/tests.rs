//! What is packaged, in every format, with a stand-in for the binary.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    contents::{Format, Kind, Made, files},
    deb, remove_folder, stage,
    stamp::Stamp,
};
use crate::{command, place::Place};

/// Answers like the binary.
const STAND_IN: &str = "#!/bin/sh\ncase $1 in\nman) echo page > \"$2/ktls-trace.1\" ;;\ncompletions) echo \"for $2\" ;;\nesac\n";

/// The workspace itself, with a target folder that is removed again.
struct Release {
    place: Place,
    made: Made,
}

impl Release {
    fn new(name: &str) -> Self {
        let target = std::env::temp_dir().join(format!("ktls-trace-{name}-{}", std::process::id()));
        remove_folder(&target).unwrap();
        fs::create_dir_all(target.join("dist/scratch")).unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let binary = target.join("dist/ktls-trace");
        stage::one(&binary, STAND_IN.as_bytes(), 0o755).unwrap();
        Self {
            made: Made {
                binary,
                sbom: b"{}".to_vec(),
                notices: b"licences".to_vec(),
                changelog: deb::changelog(stamp()).unwrap(),
            },
            place: Place {
                workspace: workspace.to_path_buf(),
                cache: target.join("xtask"),
                target,
            },
        }
    }

    fn scratch(&self) -> PathBuf {
        self.place.target.join("dist/scratch")
    }

    /// Paths in a format, without docs and dashboards: those come and go.
    fn paths(&self, format: Format) -> Vec<String> {
        files(format, &self.place, &self.made, &self.scratch())
            .unwrap()
            .into_iter()
            .filter(|file| !matches!(file.kind, Kind::Document | Kind::Shared))
            .map(|file| file.path)
            .collect()
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // What is left is in a folder for temporary files.
        drop(remove_folder(&self.place.target));
    }
}

fn stamp() -> Stamp {
    Stamp::read("1780000000").unwrap()
}

#[test]
fn each_format_has_its_files_where_the_distribution_looks() {
    let release = Release::new("formats");
    assert_eq!(
        release.paths(Format::Deb),
        [
            "etc/ktls-trace/config.toml",
            "usr/bin/ktls-trace",
            "usr/lib/systemd/system/ktls-trace.service",
            "usr/share/bash-completion/completions/ktls-trace",
            "usr/share/doc/ktls-trace/CHANGELOG.md",
            "usr/share/doc/ktls-trace/README.md",
            "usr/share/doc/ktls-trace/THIRD-PARTY.txt",
            "usr/share/doc/ktls-trace/changelog.gz",
            "usr/share/doc/ktls-trace/copyright",
            "usr/share/doc/ktls-trace/ktls-trace.cdx.json",
            "usr/share/fish/vendor_completions.d/ktls-trace.fish",
            "usr/share/lintian/overrides/ktls-trace",
            "usr/share/man/man1/ktls-trace.1.gz",
            "usr/share/zsh/vendor-completions/_ktls-trace",
        ]
    );
    assert_eq!(
        release.paths(Format::Rpm),
        [
            "etc/ktls-trace/config.toml",
            "usr/bin/ktls-trace",
            "usr/lib/systemd/system/ktls-trace.service",
            "usr/share/bash-completion/completions/ktls-trace",
            "usr/share/doc/ktls-trace/CHANGELOG.md",
            "usr/share/doc/ktls-trace/README.md",
            "usr/share/doc/ktls-trace/ktls-trace.cdx.json",
            "usr/share/fish/vendor_completions.d/ktls-trace.fish",
            "usr/share/licenses/ktls-trace/LICENSE-APACHE",
            "usr/share/licenses/ktls-trace/LICENSE-GPL2",
            "usr/share/licenses/ktls-trace/LICENSE-MIT",
            "usr/share/licenses/ktls-trace/THIRD-PARTY.txt",
            "usr/share/man/man1/ktls-trace.1.gz",
            "usr/share/zsh/site-functions/_ktls-trace",
        ]
    );
    assert_eq!(
        release.paths(Format::Tarball),
        [
            "CHANGELOG.md",
            "LICENSE-APACHE",
            "LICENSE-GPL2",
            "LICENSE-MIT",
            "README.md",
            "THIRD-PARTY.txt",
            "completions/bash/ktls-trace",
            "completions/fish/ktls-trace.fish",
            "completions/zsh/_ktls-trace",
            "config.toml",
            "ktls-trace",
            "ktls-trace.cdx.json",
            "man/ktls-trace.1.gz",
            "systemd/ktls-trace.service",
        ]
    );
}

#[test]
fn only_the_program_can_be_executed() {
    let release = Release::new("modes");
    for format in [Format::Deb, Format::Rpm, Format::Tarball] {
        for file in files(format, &release.place, &release.made, &release.scratch()).unwrap() {
            let expected = if file.kind == Kind::Program {
                0o755
            } else {
                0o644
            };
            assert_eq!(file.mode, expected, "{}", file.path);
        }
    }
}

#[test]
fn dpkg_reads_the_package_and_two_are_the_same() {
    if !command::succeeds(Command::new("dpkg-deb").arg("--version")) {
        eprintln!("SKIPPED: there is no dpkg-deb");
        return;
    }
    let releases = [Release::new("deb-1"), Release::new("deb-longer-2")];
    let packages = releases.each_ref().map(|release| {
        let scratch = release.scratch();
        let files = files(Format::Deb, &release.place, &release.made, &scratch).unwrap();
        let package = deb::build(&release.place, &files, stamp(), &scratch).unwrap();
        let listed = command::output(
            Command::new("sh")
                .args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -tf -"])
                .arg(&package),
        )
        .unwrap();
        let listed: Vec<&str> = listed
            .lines()
            .filter(|line| !line.ends_with('/'))
            .map(|line| line.trim_start_matches("./"))
            .collect();
        let expected: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(listed, expected);
        let conffiles = command::output(
            Command::new("dpkg-deb")
                .args(["--info"])
                .arg(&package)
                .arg("conffiles"),
        )
        .unwrap();
        assert_eq!(conffiles, "/etc/ktls-trace/config.toml\n");
        fs::read(package).unwrap()
    });
    assert!(packages[0] == packages[1], "the packages differ");
}

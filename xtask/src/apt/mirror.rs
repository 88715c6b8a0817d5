//! Which archives this machine takes Debian and its security updates from, read from its own apt configuration.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::source::{Source, parse_deb822_format, parse_one_line_format};
use crate::command;

/// An archive any suite can be asked from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// Its address.
    pub(crate) uri: String,
    /// Path of a keyring, or an armoured key itself.
    pub(crate) signed_by: Option<String>,
    /// Taken unsigned.
    pub(crate) trusted: bool,
}

/// The machine's archives.
#[derive(Clone, Debug)]
pub(crate) struct Mirrors {
    /// Of the distribution itself, backports and unstable included.
    main: Mirror,
    /// Of its security updates.
    security: Option<Mirror>,
}

impl Mirrors {
    /// Reads the machine's configuration.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_default();
        Self::choose(&configured_sources()?, &codename)
    }

    /// The archive that has `suite`; `None` when this machine has no security archive.
    pub(crate) fn of_suite(&self, suite: &str) -> Option<&Mirror> {
        if suite.ends_with("-security") {
            self.security.as_ref()
        } else {
            Some(&self.main)
        }
    }

    fn choose(sources: &[Source], codename: &str) -> Result<Self> {
        let aliases = [codename, "stable", "testing", "unstable", "sid"];
        let find = |suffixes: &[&str]| {
            let is_wanted = |suite: &String| {
                aliases.iter().any(|alias| {
                    !alias.is_empty()
                        && suite
                            .strip_prefix(alias)
                            .is_some_and(|suffix| suffixes.contains(&suffix))
                })
            };
            sources
                .iter()
                .filter(|source| {
                    source
                        .components
                        .iter()
                        .any(|component| component == "main")
                })
                .find(|source| source.suites.iter().any(is_wanted))
                .and_then(|source| {
                    Some(Mirror {
                        uri: source.uris.first()?.clone(),
                        signed_by: source.signed_by.clone(),
                        trusted: source.trusted,
                    })
                })
        };
        let main = find(&["", "-updates", "-backports"]).with_context(|| {
            format!(
                "the apt sources of this machine name no Debian archive (looked for a suite `{codename}` \
                 with component main)"
            )
        })?;
        Ok(Self {
            main,
            security: find(&["-security", "/updates"]),
        })
    }
}

/// All enabled sources, from the files apt itself would read.
fn configured_sources() -> Result<Vec<Source>> {
    let shell = command::output(Command::new("apt-config").args([
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ]))
    .context("asking apt where its sources are (Debian or a derivative is needed)")?;
    let path = |variable: &str| {
        shell
            .lines()
            .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))
            .map(|value| PathBuf::from(value.trim_matches('\'')))
    };
    let mut files: Vec<PathBuf> = path("LIST")
        .into_iter()
        .filter(|path| path.is_file())
        .collect();
    if let Some(parts) = path("PARTS")
        && let Ok(entries) = fs::read_dir(&parts)
    {
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        inside.sort();
        files.extend(inside);
    }
    let mut sources = Vec::new();
    for file in files {
        sources.extend(read_sources(&file)?);
    }
    Ok(sources)
}

fn read_sources(file: &Path) -> Result<Vec<Source>> {
    let parse = match file.extension().and_then(OsStr::to_str) {
        Some("list") => parse_one_line_format,
        Some("sources") => parse_deb822_format,
        _ => return Ok(Vec::new()),
    };
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn third_party_archives_are_not_taken_for_debian() {
        let sources = parse_one_line_format(
            "deb http://third.example/linux/debian bookworm stable\n\
             deb http://cloud.example/apt cloud-sdk-bookworm main\n\
             deb [signed-by=/k.gpg] http://m.example/debian bookworm main\n\
             deb http://m.example/debian-security bookworm-security main\n",
        );
        let mirrors = Mirrors::choose(&sources, "bookworm").unwrap();
        assert_eq!(
            mirrors.of_suite("sid").unwrap().uri,
            "http://m.example/debian"
        );
        assert_eq!(
            mirrors.of_suite("sid").unwrap().signed_by.as_deref(),
            Some("/k.gpg")
        );
        assert_eq!(
            mirrors.of_suite("trixie-security").unwrap().uri,
            "http://m.example/debian-security"
        );
    }

    #[test]
    fn a_machine_without_security_archive_has_no_security_suites() {
        let sources = parse_one_line_format("deb http://m.example/debian stable main\n");
        let mirrors = Mirrors::choose(&sources, "bookworm").unwrap();
        assert!(mirrors.of_suite("bookworm-security").is_none());
    }

    #[test]
    fn no_debian_archive_is_one_clear_error() {
        let error = Mirrors::choose(&[], "noble").unwrap_err().to_string();
        assert!(error.contains("`noble`"), "{error}");
    }
}

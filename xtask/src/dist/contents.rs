//! What a release consists of: one table, from which all three formats are made.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};

use crate::{command, place::Place};

/// What the contents are put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Debian and what comes from it.
    Deb,
    /// Fedora, SUSE and their relatives.
    Rpm,
    /// Any other host; a folder to copy from.
    Tarball,
}

/// What a file is, which says where it goes and who may write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What is run.
    Program,
    /// Kept as the administrator left it when another version is installed.
    Configuration,
    /// Of systemd.
    Unit,
    /// Pages of section 1.
    Manual,
    /// For one shell.
    CompletionsBash,
    /// For one shell; where they lie differs between distributions.
    CompletionsZsh,
    /// For one shell.
    CompletionsFish,
    /// Alert rules and dashboards, for other hosts to fetch from here.
    Shared,
    /// For people to read.
    Document,
    /// What is read first, at the top of the archive.
    Readme,
    /// Licences of what is linked in.
    Notices,
    /// Our own licences; Debian's `copyright` has or names them.
    Licence,
    /// Licences as Debian wants them, read by machines.
    DebianCopyright,
    /// The history of the package, as Debian wants it.
    DebianChangelog,
    /// What the checker of Debian's packages is told to accept, with reasons.
    LintianOverrides,
}

impl Kind {
    /// The folder it lies in, from the root of a host or of the archive; `None` where it is not part of the format.
    fn folder(self, format: Format) -> Option<&'static str> {
        use Format::{Deb, Rpm, Tarball};
        Some(match (self, format) {
            (Self::Program, Deb | Rpm) => "usr/bin",
            (Self::Configuration, Deb | Rpm) => "etc/ktls-trace",
            (Self::Unit, Deb | Rpm) => "usr/lib/systemd/system",
            (Self::Manual, Deb | Rpm) => "usr/share/man/man1",
            (Self::CompletionsBash, Deb | Rpm) => "usr/share/bash-completion/completions",
            (Self::CompletionsZsh, Deb) => "usr/share/zsh/vendor-completions",
            (Self::CompletionsZsh, Rpm) => "usr/share/zsh/site-functions",
            (Self::CompletionsFish, Deb | Rpm) => "usr/share/fish/vendor_completions.d",
            (Self::Shared, Deb | Rpm) => "usr/share/ktls-trace",
            (Self::Document | Self::Readme, Deb | Rpm)
            | (Self::Notices | Self::DebianCopyright | Self::DebianChangelog, Deb) => {
                "usr/share/doc/ktls-trace"
            }
            (Self::Notices | Self::Licence, Rpm) => "usr/share/licenses/ktls-trace",
            (Self::LintianOverrides, Deb) => "usr/share/lintian/overrides",
            (
                Self::Program | Self::Configuration | Self::Readme | Self::Notices | Self::Licence,
                Tarball,
            ) => "",
            (Self::Unit, Tarball) => "systemd",
            (Self::Manual, Tarball) => "man",
            (Self::CompletionsBash, Tarball) => "completions/bash",
            (Self::CompletionsZsh, Tarball) => "completions/zsh",
            (Self::CompletionsFish, Tarball) => "completions/fish",
            (Self::Shared, Tarball) => "share",
            (Self::Document, Tarball) => "docs",
            (Self::Licence, Deb)
            | (
                Self::DebianCopyright | Self::DebianChangelog | Self::LintianOverrides,
                Rpm | Tarball,
            ) => return None,
        })
    }

    /// Permissions of the file.
    fn mode(self) -> u32 {
        if self == Self::Program { 0o755 } else { 0o644 }
    }

    /// Whether readers expect it in gzip.
    fn compressed(self) -> bool {
        matches!(self, Self::Manual | Self::DebianChangelog)
    }
}

/// Where the bytes come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A file of the workspace.
    Workspace(&'static str),
    /// Every file of a folder of the workspace whose name ends like this; there need be none.
    Every(&'static str, &'static str),
    /// The static binary itself.
    Binary,
    /// The pages that `ktls-trace man` writes.
    Manuals,
    /// What `ktls-trace completions SHELL` prints.
    Completions(&'static str),
    /// One of the documents that [`Made`] has.
    Document(fn(&Made) -> &[u8]),
}

/// Source, kind, and the name if it is not the source's own.
type Row = (Source, Kind, &'static str);

/// All of it.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    (Source::Binary,                                           Kind::Program,          "ktls-trace"),
    (Source::Workspace("packaging/config.toml"),               Kind::Configuration,    ""),
    (Source::Workspace("packaging/systemd/ktls-trace.service"), Kind::Unit,            ""),
    (Source::Manuals,                                          Kind::Manual,           ""),
    (Source::Completions("bash"),                              Kind::CompletionsBash,  "ktls-trace"),
    (Source::Completions("zsh"),                               Kind::CompletionsZsh,   "_ktls-trace"),
    (Source::Completions("fish"),                              Kind::CompletionsFish,  "ktls-trace.fish"),
    (Source::Every("packaging/prometheus", ".rules.yml"),      Kind::Shared,           ""),
    (Source::Every("packaging/grafana", ".json"),              Kind::Shared,           ""),
    (Source::Workspace("README.md"),                           Kind::Readme,           ""),
    (Source::Workspace("CHANGELOG.md"),                        Kind::Readme,           ""),
    (Source::Every("docs", ".md"),                             Kind::Document,         ""),
    (Source::Document(|made| &made.sbom),                      Kind::Readme,           "ktls-trace.cdx.json"),
    (Source::Document(|made| &made.notices),                   Kind::Notices,          "THIRD-PARTY.txt"),
    (Source::Workspace("LICENSE-MIT"),                         Kind::Licence,          ""),
    (Source::Workspace("LICENSE-APACHE"),                      Kind::Licence,          ""),
    (Source::Workspace("LICENSE-GPL2"),                        Kind::Licence,          ""),
    (Source::Workspace("packaging/deb/copyright"),             Kind::DebianCopyright,  ""),
    (Source::Document(|made| &made.changelog),                 Kind::DebianChangelog,  "changelog"),
    (Source::Workspace("packaging/deb/lintian-overrides"),     Kind::LintianOverrides, "ktls-trace"),
];

/// What `dist` makes before anything is packaged.
#[derive(Debug)]
pub(super) struct Made {
    /// The static binary.
    pub(super) binary: PathBuf,
    /// What is linked in, in CycloneDX.
    pub(super) sbom: Vec<u8>,
    /// Licences of what is linked in.
    pub(super) notices: Vec<u8>,
    /// For Debian.
    pub(super) changelog: Vec<u8>,
}

/// One file as it is packaged.
#[derive(Debug)]
pub(super) struct File {
    /// From the root of a host, or of the archive; no leading slash.
    pub(super) path: String,
    /// Permissions.
    pub(super) mode: u32,
    /// What it is.
    pub(super) kind: Kind,
    /// Its contents, compressed already if they are to be.
    pub(super) bytes: Vec<u8>,
}

/// Everything that goes into a format, sorted by path. `scratch` is for what the binary writes.
pub(super) fn files(
    format: Format,
    place: &Place,
    made: &Made,
    scratch: &Path,
) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for (source, kind, name) in TABLE {
        let Some(folder) = kind.folder(format) else {
            continue;
        };
        for (found, bytes) in read(*source, place, made, scratch)? {
            let name = if name.is_empty() { &found } else { *name };
            files.push(packaged(folder, name, *kind, bytes)?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(twice) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        bail!("{} is packaged twice", twice[0].path);
    }
    Ok(files)
}

fn packaged(folder: &str, name: &str, kind: Kind, bytes: Vec<u8>) -> Result<File> {
    let slash = if folder.is_empty() { "" } else { "/" };
    let path = format!("{folder}{slash}{name}");
    let (path, bytes) = if kind.compressed() {
        (format!("{path}.gz"), gzip(&bytes)?)
    } else {
        (path, bytes)
    };
    Ok(File {
        path,
        mode: kind.mode(),
        kind,
        bytes,
    })
}

/// As `gzip -n9` does it: without name and time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes).context("compressing")?;
    encoder.finish().context("compressing")
}

/// Names and contents of what a row means.
fn read(
    source: Source,
    place: &Place,
    made: &Made,
    scratch: &Path,
) -> Result<Vec<(String, Vec<u8>)>> {
    let one = |bytes| vec![(String::new(), bytes)];
    Ok(match source {
        Source::Workspace(path) => vec![read_named(&place.workspace.join(path))?],
        Source::Every(folder, ending) => every(&place.workspace.join(folder), ending)?,
        Source::Binary => one(read_named(&made.binary)?.1),
        Source::Manuals => {
            let folder = scratch.join("man");
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
            command::output(Command::new(&made.binary).arg("man").arg(&folder))?;
            every(&folder, ".1")?
        }
        Source::Completions(shell) => {
            let script = command::output(Command::new(&made.binary).args(["completions", shell]))?;
            one(script.into_bytes())
        }
        Source::Document(of) => one(of(made).to_vec()),
    })
}

fn read_named(path: &Path) -> Result<(String, Vec<u8>)> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let name = path.file_name().and_then(OsStr::to_str);
    Ok((name.context("a file without a name")?.to_owned(), bytes))
}

/// The files in a folder whose names end like this; none if there is no such folder.
fn every(folder: &Path, ending: &str) -> Result<Vec<(String, Vec<u8>)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            paths.push(entry.path());
        }
    }
    paths.iter().map(|path| read_named(path)).collect()
}

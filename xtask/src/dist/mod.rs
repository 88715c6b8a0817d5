//! `cargo xtask dist`: the static binary and what it is handed out as. Two builds of a commit give the same bytes.
//!
//! [`contents`] lists once what is packaged; `deb`, `rpm` and `tarball` wrap it, `sbom` and `notices` tell what is linked
//! into the binary.

mod binary;
mod check;
mod contents;
mod crates;
mod deb;
mod notices;
mod rpm;
mod sbom;
mod stage;
mod stamp;
mod tarball;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

pub(crate) use self::binary::{daemon, guest_init, odd_workloads};
use self::{
    binary::packaged,
    contents::{Format, Made},
    crates::Linked,
    stamp::Stamp,
};
use crate::{
    command,
    place::{Place, write_atomically},
    setup::{self, Needs},
};

/// The version of everything in this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the daemon in packages has beside what is always there: features, as cargo names them for the workspace.
pub(crate) const PACKAGED: &str = "ktls-trace/otlp";

/// The list of checksums, the last file that is written.
const SUMS: &str = "SHA256SUMS";

/// Builds the static binary, packages, archive and SBOM of a release in target/dist
///
/// The time of the commit is the time of every file: two builds of it give the same bytes. `SOURCE_DATE_EPOCH` is used
/// instead where it is set, and has to be where there is no git.
#[derive(Debug, clap::Args)]
pub(crate) struct DistArguments {
    /// Builds a second time, from a fresh clone of the commit, and compares
    #[arg(long)]
    check: bool,
}

/// The verb.
pub(crate) fn run(place: &Place, arguments: &DistArguments) -> Result<ExitCode> {
    setup::ensure(place, Needs::Packages)?;
    if arguments.check {
        return check::run(place);
    }
    for path in artefacts(place)? {
        let bytes = fs::metadata(&path)
            .with_context(|| format!("looking at {}", path.display()))?
            .len();
        println!("{:>9} {}", bytes, path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the package for Debian alone; its path.
pub(crate) fn deb(place: &Place) -> Result<PathBuf> {
    let stamp = Stamp::of(&place.workspace)?;
    let made = Made::new(place, stamp)?;
    let scratch = place.target.join("dist/scratch");
    remove_folder(&scratch)?;
    let contents = contents::files(Format::Deb, place, &made, &scratch)?;
    let path = deb::build(place, &contents, stamp, &scratch)?;
    remove_folder(&scratch)?;
    Ok(path)
}

/// Makes everything; the paths, with the checksums at the end.
fn artefacts(place: &Place) -> Result<Vec<PathBuf>> {
    let stamp = Stamp::of(&place.workspace)?;
    let made = Made::new(place, stamp)?;
    let folder = place.target.join("dist");
    let alone = daemon(place)?;
    remove_earlier(&folder, &alone)?;
    let scratch = folder.join("scratch");
    let contents = |format| contents::files(format, place, &made, &scratch);

    let sbom = folder.join(format!("ktls-trace-{VERSION}.cdx.json"));
    write_atomically(&sbom, &made.sbom)?;
    let paths = [
        alone,
        deb::build(place, &contents(Format::Deb)?, stamp, &scratch)?,
        rpm::build(place, &contents(Format::Rpm)?, stamp, &scratch)?,
        tarball::build(place, &contents(Format::Tarball)?, stamp)?,
        sbom,
    ];
    remove_folder(&scratch)?;
    let sums = folder.join(SUMS);
    write_atomically(&sums, sums_of(&paths, &folder)?.as_bytes())?;
    Ok(paths.into_iter().chain([sums]).collect())
}

impl Made {
    /// The binary that is packaged, and what is made of it and of what is linked into it.
    fn new(place: &Place, stamp: Stamp) -> Result<Self> {
        let binary = packaged(place)?;
        let linked = Linked::find(place)?;
        Ok(Self {
            sbom: sbom::document(&linked, &binary, stamp)?,
            notices: notices::document(&linked)?,
            changelog: deb::changelog(stamp)?,
            binary,
        })
    }
}

/// What an earlier run left, perhaps of another version.
fn remove_earlier(folder: &Path, binary: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("listing {}", folder.display()))?
            .path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_file() && path != binary && (name.starts_with("ktls-trace") || name == SUMS) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    remove_folder(&folder.join("scratch"))
}

/// Removes a folder, if it is there.
fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// Checksums as `sha256sum --check` reads them.
fn sums_of(paths: &[PathBuf], folder: &Path) -> Result<String> {
    let names = paths.iter().filter_map(|path| path.file_name());
    command::output(Command::new("sha256sum").args(names).current_dir(folder))
}

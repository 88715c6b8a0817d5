//! A whole Debian with systemd, as the lower part of a guest's root file system: what an operator's host looks like.
//!
//! `mmdebstrap` makes it from the machine's own archive; it is kept as a newc archive, before which nothing has to be
//! unpacked, and to which a guest's own files are appended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use cpio::newc;
use serde::Deserialize;
use tar::{Archive, EntryType};

use crate::{
    apt::{Mirrors, Suite},
    command, consumers, dist,
    guest_image::{Extra, Lower},
    initramfs,
    place::Place,
    vm::Machine,
};

/// Which release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// What it has beside the essential packages: an init, and what the scenarios' scripts call.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,jq,curl,procps,iproute2";
/// What nobody reads in a guest.
const LEFT_OUT: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];
/// Changes when what is made changes.
const VERSION: u32 = 1;
/// The longest of newc's fields that lie in memory at once; QEMU loads the archive whole anyway.
const LONGEST_FILE: u64 = 1 << 30;

/// The hardware that it runs on. The service attaches hooks to code that runs, which QEMU 7.2 does not stand with two
/// processors (see `one-processor` of scenarios).
pub(crate) const MACHINE: Machine = Machine {
    smp: 1,
    memory_mib: 2048,
    icount: false,
};
/// Where a guest has what scenarios bring with them.
const SCENARIOS: &str = "/usr/lib/guest/scenarios";

/// Distributions with what their scenarios need.
#[derive(Debug, Default)]
pub(crate) struct Userlands {
    /// The distributions.
    bases: BTreeMap<Release, PathBuf>,
    /// Path on the host, path in the guest.
    put: Vec<(PathBuf, String)>,
}

impl Userlands {
    /// These releases with our package, what consumes what it exports, and what lies beside the scenarios in `debian`.
    pub(crate) fn prepare(
        place: &Place,
        releases: &BTreeSet<Release>,
        scenarios: &Path,
    ) -> Result<Self> {
        if releases.is_empty() {
            return Ok(Self::default());
        }
        let mut put = vec![(dist::deb(place)?, "/root/ktls-trace.deb".to_owned())];
        let (prometheus, store) = (
            consumers::prometheus(place)?,
            consumers::victoria_metrics(place)?,
        );
        for (folder, program) in [
            (&prometheus, "prometheus"),
            (&store, "victoria-metrics"),
            (&store, "vmalert"),
        ] {
            put.push((folder.join(program), format!("/usr/bin/{program}")));
        }
        let directory = scenarios.join("debian");
        let files =
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
        for file in files {
            let file = file.with_context(|| format!("listing {}", directory.display()))?;
            let name = file.file_name();
            put.push((
                file.path(),
                format!("{SCENARIOS}/{}", name.to_string_lossy()),
            ));
        }
        let base = |&release: &Release| Ok((release, prepare(place, release)?));
        let bases = releases.iter().map(base).collect::<Result<_>>()?;
        Ok(Self { bases, put })
    }

    /// What a guest gets that has a distribution around it; `None` if that was not prepared.
    pub(crate) fn extra(&self, release: Release) -> Option<Extra<'_>> {
        Some(Extra {
            put: &self.put,
            lower: Some(Lower::Debian(self.bases.get(&release)?)),
        })
    }
}

/// The archive of a release, from the cache where possible.
pub(crate) fn prepare(place: &Place, release: Release) -> Result<PathBuf> {
    let suite = release.suite();
    let made = Made {
        name: format!("userland-{suite}-{VERSION}"),
        what: format!("a Debian {suite} with systemd"),
        suite,
        variant: "minbase",
        packages: PACKAGES,
    };
    made.archive(place)
}

/// The archive of what others observe a host with.
pub(crate) fn tools(place: &Place) -> Result<PathBuf> {
    let made = Made {
        name: format!("tools-{VERSION}"),
        what: "a folder with bpftrace and ss".to_owned(),
        suite: Release::Trixie.suite(),
        // Nothing but these, what they depend on, and what every system has to have.
        variant: "extract",
        packages: "bpftrace,iproute2",
    };
    made.archive(place)
}

/// An archive that `mmdebstrap` makes.
struct Made {
    /// Its name in the cache.
    name: String,
    /// What it is, for whoever waits.
    what: String,
    suite: &'static str,
    /// How much is made of it.
    variant: &'static str,
    packages: &'static str,
}

impl Made {
    /// The archive, from the cache where possible.
    fn archive(&self, place: &Place) -> Result<PathBuf> {
        let Self {
            name, what, suite, ..
        } = self;
        let directory = place.cache.join(name);
        let archive = directory.join("base.cpio");
        if archive.is_file() {
            return Ok(archive);
        }
        let lock = place.lock_cache()?;
        if archive.is_file() {
            return Ok(archive);
        }
        eprintln!("making {what} …");
        let scratch = lock.scratch(suite)?;
        let tar = scratch.join("base.tar");
        self.bootstrap(place, &tar)
            .with_context(|| format!("making {what}"))?;
        convert(&tar, &scratch.join("base.cpio"))
            .with_context(|| format!("converting {}", tar.display()))?;
        fs::remove_file(&tar).with_context(|| format!("removing {}", tar.display()))?;
        lock.publish(&scratch, &directory)?;
        Ok(archive)
    }

    /// Has `mmdebstrap` make it.
    fn bootstrap(&self, place: &Place, tar: &Path) -> Result<()> {
        let Self {
            suite,
            variant,
            packages,
            ..
        } = self;
        let sources = Suite::open(&place.cache, &Mirrors::of_this_machine()?, suite)?.sources();
        let mut tool = Command::new("mmdebstrap");
        tool.arg("--quiet");
        tool.arg(format!("--variant={variant}"));
        tool.args(["--include", packages]);
        tool.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
        tool.arg(suite).arg(tar).arg(sources);
        command::output(&mut tool).map(drop)
    }
}

/// Writes what is in a tar archive as a newc one, without devices, which the guest's devtmpfs has.
fn convert(tar: &Path, cpio: &Path) -> Result<()> {
    let mut archive = Archive::new(BufReader::new(File::open(tar)?));
    let mut sink = BufWriter::new(File::create(cpio)?);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.to_string_lossy();
        let name = name.trim_start_matches("./").trim_end_matches('/');
        if name.is_empty() {
            continue;
        }
        let (kind, contents) = match entry.header().entry_type() {
            EntryType::Directory => (0o040_000, Vec::new()),
            EntryType::Symlink => {
                let target = entry.link_name()?.context("a symbolic link to nowhere")?;
                (
                    0o120_000,
                    target.to_string_lossy().into_owned().into_bytes(),
                )
            }
            EntryType::Regular => {
                if entry.size() > LONGEST_FILE {
                    bail!("{name} is too long for an initramfs");
                }
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents)?;
                (0o100_000, contents)
            }
            // A second name for a file: here one that points to the first.
            EntryType::Link => {
                let target = entry.link_name()?.context("a link to nowhere")?;
                let target = target.to_string_lossy();
                let target = format!("/{}", target.trim_start_matches("./"));
                (0o120_000, target.into_bytes())
            }
            // devtmpfs has the devices.
            _ => continue,
        };
        let header = entry.header();
        let header = newc::Builder::new(name)
            .ino(u32::try_from(number + 1)?)
            .mode(kind | (header.mode()? & 0o7777))
            .uid(u32::try_from(header.uid()?)?)
            .gid(u32::try_from(header.gid()?)?);
        initramfs::append(&mut sink, name, header, &contents)?;
    }
    newc::trailer(&mut sink)?.flush()?;
    Ok(())
}

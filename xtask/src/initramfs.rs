//! Builds a guest's root file system: a newc archive the kernel unpacks into memory. It is not compressed, since unpacking under
//! emulation costs more than reading.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use cpio::newc;
use xtask::job::{JOB_PATH, Job, MODULES_PATH};

use crate::{apt::fetched, command, guest_image::Lower, kernel::GuestModules, place::Place};

/// Name of the unit that does the job where systemd is.
const SERVICE: &str = "job.service";

/// What goes into a guest.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// The guest's init, static.
    pub(crate) init: &'a Path,
    /// Static busybox.
    pub(crate) busybox: &'a Path,
    /// The daemon, static.
    pub(crate) daemon: &'a Path,
    /// The workloads that the daemon's own reproducer has not, static.
    pub(crate) odd: &'a Path,
    /// Kernel modules.
    pub(crate) modules: &'a GuestModules,
    /// Further files: path on the host, path in the guest.
    pub(crate) put: &'a [(PathBuf, String)],
    /// What the guest is to do.
    pub(crate) job: &'a Job,
    /// What to put this on top of.
    pub(crate) lower: Option<Lower<'a>>,
}

/// Writes the archive to `path`.
pub(crate) fn build(path: &Path, contents: &Contents<'_>) -> Result<()> {
    let Contents {
        init,
        busybox,
        daemon,
        odd,
        modules,
        put,
        job,
        lower,
    } = contents;
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    if let Some(Lower::Debian(lower) | Lower::Packages(lower)) = lower {
        File::open(lower)
            .and_then(|mut lower| io::copy(&mut lower, &mut file))
            .with_context(|| format!("copying {}", lower.display()))?;
    }
    let debian = matches!(lower, Some(Lower::Debian(_)));
    let mut archive = Archive {
        sink: BufWriter::new(file),
        directories: BTreeSet::new(),
        inode: 1,
        merged_usr: debian,
    };
    if debian {
        archive.service()?;
    } else {
        archive.bare(busybox, daemon)?;
    }
    archive.copy("init", init, 0o755)?;
    archive.symlink("sbin/modprobe", "/init")?;
    archive.copy("bin/odd", odd, 0o755)?;
    for module in &modules.list.0 {
        archive.copy(
            &module.file,
            &modules.directory.join(format!("{}.ko", module.name)),
            0o644,
        )?;
    }
    archive.file(
        MODULES_PATH,
        &serde_json::to_vec(&modules.list).context("encoding the module list")?,
        0o644,
    )?;
    archive.file(
        JOB_PATH,
        &serde_json::to_vec(job).context("encoding the job")?,
        0o644,
    )?;
    for (from, to) in *put {
        archive.copy(to, from, 0o755)?;
    }
    newc::trailer(&mut archive.sink)
        .and_then(io::Write::flush)
        .with_context(|| format!("writing {}", path.display()))
}

/// Writes an entry of a newc archive.
pub(crate) fn append(
    sink: &mut impl io::Write,
    name: &str,
    header: newc::Builder,
    contents: &[u8],
) -> Result<()> {
    let length = u32::try_from(contents.len())
        .with_context(|| format!("{name} is too long for an initramfs"))?;
    let mut writer = header.nlink(1).write(sink, length);
    writer
        .write_all(contents)
        .and_then(|()| writer.finish().map(drop))
        .with_context(|| format!("adding {name} to an initramfs"))
}

/// The archive being written. Names in it have no leading slash.
struct Archive {
    sink: BufWriter<File>,
    directories: BTreeSet<String>,
    inode: u32,
    /// Whether `/bin`, `/lib` and `/sbin` are links below `/usr`, which must not be replaced by folders.
    merged_usr: bool,
}

impl Archive {
    /// What there is beside our own programs where nothing else is.
    fn bare(&mut self, busybox: &Path, daemon: &Path) -> Result<()> {
        for directory in [
            "proc", "sys", "dev", "tmp", "run", "etc", "root", "out", "var/tmp",
        ] {
            self.directory(directory)?;
        }
        self.symlink("sbin/end-connections", "/init")?;
        self.symlink("sbin/latency", "/init")?;
        self.symlink("sbin/qdisc", "/init")?;
        self.symlink("sbin/route-initcwnd", "/init")?;
        self.file(
            "bin/over-veth",
            include_bytes!("bin/guest/over-veth.sh"),
            0o755,
        )?;
        self.copy("bin/ktls-trace", daemon, 0o755)?;
        self.copy("bin/busybox", busybox, 0o755)?;
        for applet in command::output(Command::new(busybox).arg("--list"))?.lines() {
            if applet != "modprobe" && applet != "busybox" {
                self.symlink(&format!("bin/{applet}"), "busybox")?;
            }
        }
        self.file(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
            0o644,
        )?;
        self.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
        self.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n", 0o644)
    }

    /// The job as a service of systemd.
    fn service(&mut self) -> Result<()> {
        let units = "usr/lib/systemd/system";
        self.directory("out")?;
        self.file(
            &format!("{units}/{SERVICE}"),
            include_bytes!("bin/guest/job.service"),
            0o644,
        )?;
        self.symlink(
            &format!("{units}/multi-user.target.wants/{SERVICE}"),
            &format!("../{SERVICE}"),
        )?;
        self.symlink("usr/lib/guest/job", "/init")?;
        // Otherwise it is a first boot, at which every unit is enabled.
        self.file(
            "etc/machine-id",
            b"0123456789abcdef0123456789abcdef\n",
            0o444,
        )
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.inode += 1;
        let header = newc::Builder::new(name).ino(self.inode).mode(mode);
        append(&mut self.sink, name, header, contents)
    }

    /// Adds a directory and the ones above it.
    fn directory(&mut self, name: &str) -> Result<()> {
        let mut above = String::new();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            if !above.is_empty() {
                above.push('/');
            }
            above.push_str(part);
            if self.directories.insert(above.clone()) {
                self.entry(&above.clone(), 0o040_755, b"")?;
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, contents: &[u8], mode: u32) -> Result<()> {
        let name = self.with_parent(name)?;
        self.entry(&name, 0o100_000 | mode, contents)
    }

    fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        let name = self.with_parent(name)?;
        self.entry(&name, 0o120_777, target.as_bytes())
    }

    fn copy(&mut self, name: &str, from: &Path, mode: u32) -> Result<()> {
        let contents = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(name, &contents, mode)
    }

    fn with_parent(&mut self, name: &str) -> Result<String> {
        let name = name.trim_start_matches('/');
        let below_usr = ["bin/", "lib/", "sbin/"]
            .iter()
            .any(|top| name.starts_with(top));
        let name = if self.merged_usr && below_usr {
            format!("usr/{name}")
        } else {
            name.to_owned()
        };
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(name)
    }
}

/// The distribution's static busybox, fetched into the cache and not installed.
pub(crate) fn busybox(place: &Place) -> Result<PathBuf> {
    // Any will do: it is static and runs in the guest only.
    let suites = ["trixie", "bookworm", "sid"];
    let directory = fetched(place, "busybox-static", "busybox", &suites)?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| directory.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("busybox-static has no busybox")
}

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

use crate::{apt::fetched, command, kernel::GuestModules, place::Place};

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
    } = contents;
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut archive = Archive {
        sink: BufWriter::new(file),
        directories: BTreeSet::new(),
        inode: 1,
    };
    for directory in [
        "proc", "sys", "dev", "tmp", "run", "etc", "root", "out", "var/tmp",
    ] {
        archive.directory(directory)?;
    }
    archive.copy("init", init, 0o755)?;
    archive.symlink("sbin/modprobe", "/init")?;
    archive.symlink("sbin/latency", "/init")?;
    archive.symlink("sbin/qdisc", "/init")?;
    archive.file(
        "bin/over-veth",
        include_bytes!("bin/guest/over-veth.sh"),
        0o755,
    )?;
    archive.copy("bin/busybox", busybox, 0o755)?;
    for applet in command::output(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "modprobe" && applet != "busybox" {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
    }
    archive.copy("bin/ktls-trace", daemon, 0o755)?;
    archive.copy("bin/odd", odd, 0o755)?;
    archive.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    )?;
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n", 0o644)?;
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

/// The archive being written. Names in it have no leading slash.
struct Archive {
    sink: BufWriter<File>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let length = u32::try_from(contents.len())
            .with_context(|| format!("{name} is too long for an initramfs"))?;
        self.inode += 1;
        let mut writer = newc::Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .write(&mut self.sink, length);
        writer
            .write_all(contents)
            .and_then(|()| writer.finish().map(drop))
            .with_context(|| format!("adding {name} to an initramfs"))
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
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(name.to_owned())
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

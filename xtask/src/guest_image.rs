//! From a kernel's short name and a job to a booted guest.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use xtask::{frame::Frame, job::Job};

use crate::{
    dist,
    initramfs::{self, Contents},
    kernel::{self, GuestModules, Kernel, Known},
    place::Place,
    vm::{Ending, Guest, Machine},
};

/// Guests that may die while they boot. Emulated kernels did now and then (one boot in twenty on 7.3), before `cmpxchg16b` was
/// taken from them.
const BOOTS: u32 = 3;

/// What every guest shares.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    init: PathBuf,
    busybox: PathBuf,
    daemon: PathBuf,
    odd: PathBuf,
}

impl Programs {
    /// Builds ours and fetches busybox.
    pub(crate) fn prepare(place: &Place) -> Result<Self> {
        Ok(Self {
            busybox: initramfs::busybox(place)?,
            init: dist::guest_init(place)?,
            daemon: dist::daemon(place)?,
            odd: dist::odd_workloads(place)?,
        })
    }

    /// The daemon's binary, which runs on the host too.
    pub(crate) fn daemon(&self) -> &Path {
        &self.daemon
    }
}

/// What a guest gets beside what all of them get.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra<'a> {
    /// Further files: path on the host, path in the guest.
    pub(crate) put: &'a [(PathBuf, String)],
    /// What lies below it.
    pub(crate) lower: Option<Lower<'a>>,
}

/// A newc archive below a guest's own files.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lower<'a> {
    /// A whole Debian, whose systemd is the init.
    Debian(&'a Path),
    /// Some packages of it, below `/usr`.
    Packages(&'a Path),
}

/// A kernel with the modules its guests get.
#[derive(Debug)]
pub(crate) struct Bootable {
    /// The kernel.
    pub(crate) kernel: Kernel,
    modules: GuestModules,
}

impl Bootable {
    /// Takes the kernel from the cache or fetches it.
    pub(crate) fn prepare(place: &Place, known: &Known) -> Result<Self> {
        let kernel = kernel::fetch(place, known)?;
        let modules = kernel::prepare_modules(place, &kernel)?;
        Ok(Self { kernel, modules })
    }

    /// Boots a guest with `job` until it is ready to run it, again if it dies before; how it ended if that was
    /// in vain. The whole of it has `limit`.
    pub(crate) fn boot_until_ready(
        &self,
        programs: &Programs,
        machine: Machine,
        job: &Job,
        extra: Extra<'_>,
        directory: &Path,
        limit: Duration,
    ) -> Result<Result<Guest, Ending>> {
        let release = &self.kernel.release;
        eprintln!("booting {release} …");
        let mut boot = 1;
        loop {
            let started = Instant::now();
            let mut guest = self.boot(programs, machine, job, extra, directory)?;
            guest.limit(limit);
            match guest.next()? {
                Ok(Frame::Ready(_)) => {
                    eprintln!("booted in {:.1} s", started.elapsed().as_secs_f64());
                    return Ok(Ok(guest));
                }
                Err(Ending::Died { reason, .. }) if boot < BOOTS => {
                    eprintln!("{release} died while booting ({reason}), booting once more …");
                    boot += 1;
                }
                Err(ending) => return Ok(Err(ending)),
                Ok(frame) => anyhow::bail!("the guest sent {frame:?} before it was ready"),
            }
        }
    }

    /// Boots a guest with `job`; its initramfs and console log lie in `directory`.
    pub(crate) fn boot(
        &self,
        programs: &Programs,
        machine: Machine,
        job: &Job,
        extra: Extra<'_>,
        directory: &Path,
    ) -> Result<Guest> {
        let Programs {
            init,
            busybox,
            daemon,
            odd,
        } = programs;
        let image = directory.join("initramfs.cpio");
        let contents = Contents {
            init,
            busybox,
            daemon,
            odd,
            modules: &self.modules,
            put: extra.put,
            job,
            lower: extra.lower,
        };
        initramfs::build(&image, &contents)?;
        Guest::boot(
            machine,
            &self.kernel,
            &image,
            &directory.join("console.log"),
        )
    }
}

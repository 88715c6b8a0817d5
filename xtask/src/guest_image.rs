//! From a kernel's short name and a job to a booted guest.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xtask::job::Job;

use crate::{
    dist,
    initramfs::{self, Contents},
    kernel::{self, GuestModules, Kernel, Known},
    place::Place,
    vm::{Guest, Machine},
};

/// What every guest shares.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    init: PathBuf,
    busybox: PathBuf,
    daemon: PathBuf,
}

impl Programs {
    /// Builds ours and fetches busybox.
    pub(crate) fn prepare(place: &Place) -> Result<Self> {
        Ok(Self {
            busybox: initramfs::busybox(place)?,
            init: dist::guest_init(place)?,
            daemon: dist::daemon(place)?,
        })
    }
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

    /// Boots a guest with `job`; its initramfs and console log lie in `directory`.
    pub(crate) fn boot(
        &self,
        programs: &Programs,
        machine: Machine,
        job: &Job,
        put: &[(PathBuf, String)],
        directory: &Path,
    ) -> Result<Guest> {
        let Programs {
            init,
            busybox,
            daemon,
        } = programs;
        let image = directory.join("initramfs.cpio");
        let contents = Contents {
            init,
            busybox,
            daemon,
            modules: &self.modules,
            put,
            job,
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

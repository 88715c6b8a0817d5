//! Kernels to boot guests with: which are known, how they are fetched, and which of their modules go into a guest.

mod elf;
mod fetch;
mod modules;
mod table;

use std::path::PathBuf;

pub(crate) use elf::{functions, section};
pub(crate) use fetch::fetch;
pub(crate) use modules::{GuestModules, module_files, prepare_modules, read_module};
pub(crate) use table::{DEFAULT_SHORT, Known, StandsIn, find, find_not_booted, known, recordable};

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The name people use, such as `6.12` or `6.12-rt`.
    pub(crate) short: String,
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The package's version and the suite it came from.
    pub(crate) origin: String,
    /// What it was built with, if the package says.
    pub(crate) config: Option<PathBuf>,
    /// The compressed image QEMU loads.
    pub(crate) vmlinuz: PathBuf,
    /// Its `lib/modules/RELEASE`.
    pub(crate) modules_dir: PathBuf,
    /// The cache entry it lies in.
    pub(crate) directory: PathBuf,
}

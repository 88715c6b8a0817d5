//! Kernels to boot guests with: which are known, how they are fetched, and which of their modules go into a guest.

mod elf;
mod fetch;
mod modules;
mod table;

use std::path::PathBuf;

pub(crate) use fetch::fetch;
pub(crate) use modules::{GuestModules, prepare_modules};
pub(crate) use table::{DEFAULT_SHORT, Known, find, known};

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The name people use, such as `6.12`.
    pub(crate) short: String,
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The compressed image QEMU loads.
    pub(crate) vmlinuz: PathBuf,
    /// Its `lib/modules/RELEASE`.
    pub(crate) modules_dir: PathBuf,
    /// The cache entry it lies in.
    pub(crate) directory: PathBuf,
}

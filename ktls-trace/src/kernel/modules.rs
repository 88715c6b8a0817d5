//! Whether kernel TLS is there: a module nearly everywhere, loaded by the first kTLS socket.

use std::{fs, path::Path};

/// State of the `tls` module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Its functions are in the kernel's symbol table.
    Present,
    /// Not loaded (yet): no socket of this host uses kernel TLS.
    NotLoaded,
}

/// Whether the module is loaded, cheaply enough to be asked several times a second.
pub fn tls_is_loaded() -> bool {
    // The folder appears when loading starts and `initstate` turns "live" when it is done.
    fs::read_to_string("/sys/module/tls/initstate").is_ok_and(|state| state.trim() == "live")
}

/// Whether the kernel has the module on disk, for a helpful word in `doctor`.
pub fn tls_is_installed(release: &str) -> bool {
    let folder = Path::new("/lib/modules")
        .join(release)
        .join("kernel/net/tls");
    fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
}

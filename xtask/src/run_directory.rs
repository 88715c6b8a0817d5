//! Where one boot's files lie while it runs.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

use crate::place::Place;

/// A directory for one boot's files, removed afterwards.
#[derive(Debug)]
pub(crate) struct RunDirectory(PathBuf);

impl RunDirectory {
    /// A new one below `target/xtask/run`. Those of runs that were interrupted are removed.
    pub(crate) fn create(place: &Place) -> Result<Self> {
        let all = place.results("run");
        fs::create_dir_all(&all).with_context(|| format!("creating {}", all.display()))?;
        let entries = fs::read_dir(&all).with_context(|| format!("listing {}", all.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let owner = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if !Path::new("/proc").join(owner).exists() {
                // Another run may be removing it at the same moment.
                drop(fs::remove_dir_all(&path));
            }
        }
        let path = all.join(process::id().to_string());
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // What can't be removed now is removed by a later run.
        drop(fs::remove_dir_all(&self.0));
    }
}

//! Where things lie: the workspace, its target directory and the cache of fetched kernels and packages.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

/// Environment variable that moves the cache out of the target directory.
pub(crate) const CACHE_VARIABLE: &str = "KTLS_TRACE_CACHE";

/// The directories every verb works in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Root of the workspace.
    pub(crate) workspace: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What was fetched or derived from it and may be deleted at any time: `target/xtask`, or [`CACHE_VARIABLE`].
    pub(crate) cache: PathBuf,
}

impl Place {
    /// Finds the workspace this xtask was built in.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let workspace = manifest
            .parent()
            .context("xtask's manifest lies in no workspace")?
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
        let cache = env::var_os(CACHE_VARIABLE)
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| target.join("xtask"), PathBuf::from);
        fs::create_dir_all(&cache)
            .with_context(|| format!("creating the cache {}", cache.display()))?;
        let cache = fs::canonicalize(&cache)
            .with_context(|| format!("resolving the cache {}", cache.display()))?;
        Ok(Self {
            workspace,
            target,
            cache,
        })
    }

    /// Directory for what a run leaves behind for people to read (`target/xtask`, wherever the cache is).
    pub(crate) fn results(&self, name: &str) -> PathBuf {
        self.target.join("xtask").join(name)
    }

    /// Takes the cache for writing; others wait. What an interrupted run left half-done is removed.
    pub(crate) fn lock_cache(&self) -> Result<CacheLock> {
        let path = self.cache.join("lock");
        let file =
            fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let flock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("locking {}", path.display()))?;
        let scratch = self.cache.join("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)
                .with_context(|| format!("removing {}", scratch.display()))?;
        }
        fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
        Ok(CacheLock {
            _flock: flock,
            scratch,
        })
    }
}

/// The right to change the cache, and a directory on its file system to prepare the changes in.
#[derive(Debug)]
pub(crate) struct CacheLock {
    /// Held until dropped.
    _flock: Flock<fs::File>,
    /// Empty at the start; whatever is complete is renamed out of it.
    scratch: PathBuf,
}

impl CacheLock {
    /// A new empty directory below the scratch directory.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Moves a complete directory from the scratch directory to its place, over what is there.
    #[expect(clippy::unused_self, reason = "only the holder of the lock may do it")]
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        if to.exists() {
            fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
        }
        let parent = to.parent().context("a cache entry has a parent")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        fs::rename(from, to)
            .with_context(|| format!("moving {} to {}", from.display(), to.display()))
    }
}

/// Writes a file so that readers see the old contents or the new, never half.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let mut name = path
        .file_name()
        .context("a file has a name")?
        .to_os_string();
    name.push(format!(".{}.new", process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, contents).with_context(|| format!("writing {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("replacing {}", path.display()))
}

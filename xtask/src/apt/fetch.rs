//! A package's files in the cache, without installing it.

use std::{io, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Mirrors, Suite, unpack};
use crate::place::Place;

/// The folder of the cache with what is in a package, from the first of these suites that has it.
pub(crate) fn fetched(
    place: &Place,
    package: &str,
    name: &str,
    suites: &[&str],
) -> Result<PathBuf> {
    let directory = place.cache.join(name);
    if directory.is_dir() {
        return Ok(directory);
    }
    let lock = place.lock_cache()?;
    if directory.is_dir() {
        return Ok(directory);
    }
    let mut failures = Vec::new();
    for suite_name in suites {
        let fetch = || -> Result<()> {
            let suite = Suite::open(&place.cache, &Mirrors::of_this_machine()?, suite_name)?;
            let versions = suite.versions(package)?;
            let version = versions
                .first()
                .with_context(|| format!("{suite_name} has no {package}"))?;
            eprintln!("fetching {package} {version} from {suite_name} …");
            let scratch = lock.scratch(name)?;
            unpack(&suite.download(package, version, &scratch)?, &scratch)?;
            lock.publish(&scratch, &directory)
        };
        match fetch() {
            Ok(()) => return Ok(directory),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    Err(io::Error::other(failures.join("\n  "))).with_context(|| format!("fetching {package}"))
}

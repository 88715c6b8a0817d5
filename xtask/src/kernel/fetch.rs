//! Fetches a kernel's packages and unpacks them into the cache, whichever way Debian has cut them up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Kernel, Known};
use crate::{
    apt::{Mirrors, Suite, dependency_names, unpack},
    place::Place,
};

/// What a cache entry says about itself; written last, so an entry that has it is complete.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    release: String,
    version: String,
    suite: String,
    vmlinuz: PathBuf,
    modules_dir: PathBuf,
}

/// The cached kernel, or else a newly fetched one.
pub(crate) fn fetch(place: &Place, known: &Known) -> Result<Kernel> {
    if let Some(kernel) = cached(place, known)? {
        return Ok(kernel);
    }
    let lock = place.lock_cache()?;
    // Somebody else may have fetched it while we waited.
    if let Some(kernel) = cached(place, known)? {
        return Ok(kernel);
    }
    let Found {
        suite,
        package,
        version,
    } = resolve(place, known).with_context(|| format!("looking for kernel {}", known.short))?;
    let release = package
        .strip_prefix("linux-image-")
        .unwrap_or(&package)
        .to_owned();
    eprintln!(
        "fetching kernel {} ({release}, {version} from {}) …",
        known.short, suite.name
    );

    let entry = lock.scratch(known.short)?;
    // Since 7.x the image package is empty and depends on linux-binary-RELEASE, linux-modules-RELEASE and linux-base-RELEASE.
    let depends = suite.depends(&package, &version)?;
    let parts = dependency_names(&depends)
        .into_iter()
        .filter(|name| name.starts_with("linux-") && name.ends_with(&release));
    for part in parts.chain([package.as_str()]) {
        unpack(&suite.download(part, &version, &entry)?, &entry)?;
    }
    let manifest = Manifest {
        vmlinuz: first_existing(
            &entry,
            &[
                format!("boot/vmlinuz-{release}"),
                format!("usr/lib/modules/{release}/vmlinuz"),
                format!("lib/modules/{release}/vmlinuz"),
            ],
        )?,
        modules_dir: first_existing(
            &entry,
            &[
                format!("usr/lib/modules/{release}/kernel"),
                format!("lib/modules/{release}/kernel"),
            ],
        )?,
        release,
        version,
        suite: suite.name,
    };
    let path = entry.join("manifest.json");
    fs::write(
        &path,
        serde_json::to_vec_pretty(&manifest).context("encoding a manifest")?,
    )
    .with_context(|| format!("writing {}", path.display()))?;
    lock.publish(&entry, &directory(place, known))?;
    cached(place, known)?.context("a kernel just fetched is not in the cache")
}

fn directory(place: &Place, known: &Known) -> PathBuf {
    place.cache.join("kernels").join(known.short)
}

fn cached(place: &Place, known: &Known) -> Result<Option<Kernel>> {
    let directory = directory(place, known);
    let path = directory.join("manifest.json");
    let Ok(text) = fs::read(&path) else {
        return Ok(None);
    };
    let Manifest {
        release,
        version,
        suite,
        vmlinuz,
        modules_dir,
    } = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is damaged: delete {}",
            path.display(),
            directory.display()
        )
    })?;
    // An entry from the time when its name meant another build.
    if !known.suites.contains(&suite.as_str()) || !is_of_series(&version, known.series) {
        return Ok(None);
    }
    Ok(Some(Kernel {
        short: known.short.to_owned(),
        origin: format!("{version} from {suite}"),
        config: first_existing(
            &directory,
            &[
                format!("boot/config-{release}"),
                format!("usr/lib/modules/{release}/config"),
            ],
        )
        .ok()
        .map(|path| directory.join(path)),
        release,
        vmlinuz: directory.join(vmlinuz),
        modules_dir: directory.join(modules_dir),
        directory,
    }))
}

fn first_existing(entry: &Path, candidates: &[String]) -> Result<PathBuf> {
    candidates
        .iter()
        .find(|candidate| entry.join(candidate).exists())
        .map(PathBuf::from)
        .with_context(|| {
            format!(
                "the kernel's packages have none of {}",
                candidates.join(", ")
            )
        })
}

/// The package to fetch.
struct Found {
    suite: Suite,
    package: String,
    version: String,
}

/// Follows the meta package of the first suite that has the series. A suite that should be there and can't be read is an
/// error rather than a reason to take the next: the name would mean another build today than tomorrow.
fn resolve(place: &Place, known: &Known) -> Result<Found> {
    let Known {
        short,
        series,
        architecture,
        meta,
        suites,
        stands_in: _,
    } = known;
    let mirrors = Mirrors::of_this_machine()?;
    let mut tried = Vec::new();
    for name in *suites {
        if mirrors.of_suite(name).is_none() {
            tried.push(format!(
                "the apt sources of this machine name no archive for {name}"
            ));
            continue;
        }
        eprintln!("looking for kernel {short} in {name} …");
        let suite = Suite::open_for(&place.cache, &mirrors, name, architecture)?;
        let versions = suite.versions(meta)?;
        if let Some(version) = versions
            .iter()
            .find(|version| is_of_series(version, series))
        {
            let depends = suite.depends(meta, version)?;
            let package = image_package(&depends)
                .map(str::to_owned)
                .with_context(|| {
                    format!(
                        "{meta} {version} in {name} depends on no linux-image package: {depends}"
                    )
                })?;
            return Ok(Found {
                suite,
                package,
                version: version.clone(),
            });
        }
        tried.push(if versions.is_empty() {
            format!("{name} has no {meta}")
        } else {
            format!("{name} has {meta} {}", versions.join(", "))
        });
    }
    bail!("no {series}.x kernel to fetch: {}", tried.join("; "))
}

/// Whether a package version such as `6.12.117-1~deb12u1` is of the series `6.12`.
fn is_of_series(version: &str, series: &str) -> bool {
    version
        .strip_prefix(series)
        .is_some_and(|rest| rest.starts_with(['.', '-', '~', '+']))
}

/// The package with the image among a meta package's dependencies.
fn image_package(depends: &str) -> Option<&str> {
    dependency_names(depends).into_iter().find(|name| {
        name.strip_prefix("linux-image-")
            .is_some_and(|release| release.starts_with(|first: char| first.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_a_prefix() {
        assert!(is_of_series("6.1.192-2", "6.1"));
        assert!(is_of_series("7.3~rc1-1", "7.3"));
        assert!(!is_of_series("6.12.117-1", "6.1"));
        assert!(!is_of_series("6.1.192-2", "6.12"));
    }

    #[test]
    fn meta_packages_lead_to_the_image_in_both_layouts() {
        assert_eq!(
            image_package("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            image_package(
                "linux-base-cloud-amd64 (= 7), linux-image-7.3.4+deb13-cloud-amd64 (= 7), linux-modules-cloud-amd64"
            ),
            Some("linux-image-7.3.4+deb13-cloud-amd64")
        );
        assert_eq!(image_package("kmod"), None);
    }
}

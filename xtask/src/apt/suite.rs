//! One suite with private apt lists: which versions of a package it has, what they depend on, and their files.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::mirror::{Mirror, Mirrors};
use crate::{command, place::write_atomically};

/// A suite whose package lists have been fetched.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Its name in the archive, such as `trixie-backports`.
    pub(crate) name: String,
    /// Whose packages it is about, such as `amd64`.
    architecture: String,
    /// Private apt directories: source list, package lists, cache.
    directory: PathBuf,
}

impl Suite {
    /// Fetches the package lists of `name`. An error when the machine has no archive for it, or the archive no such suite.
    pub(crate) fn open(cache: &Path, mirrors: &Mirrors, name: &str) -> Result<Self> {
        Self::open_for(cache, mirrors, name, "amd64")
    }

    /// The same for the packages of another architecture.
    pub(crate) fn open_for(
        cache: &Path,
        mirrors: &Mirrors,
        name: &str,
        architecture: &str,
    ) -> Result<Self> {
        let mirror = mirrors.of_suite(name).with_context(|| {
            format!("the apt sources of this machine name no archive for {name}")
        })?;
        let directory = cache.join("apt").join(match architecture {
            "amd64" => name.to_owned(),
            other => format!("{name}-{other}"),
        });
        for subdirectory in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(subdirectory);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let suite = Self {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            directory,
        };
        let line = suite.source_line(mirror)?;
        write_atomically(&suite.sources(), line.as_bytes())?;
        command::output(suite.tool("apt-get").args(["--error-on=any", "update"]))
            .with_context(|| format!("fetching the package lists of {name}"))?;
        Ok(suite)
    }

    fn source_line(&self, mirror: &Mirror) -> Result<String> {
        let Mirror {
            uri,
            signed_by,
            trusted,
        } = mirror;
        let mut options = Vec::new();
        match signed_by {
            Some(key) if key.contains("-----BEGIN") => {
                let path = self.directory.join("key.asc");
                write_atomically(&path, key.as_bytes())?;
                options.push(format!("signed-by={}", path.display()));
            }
            Some(path) => options.push(format!("signed-by={path}")),
            None => {}
        }
        if *trusted {
            options.push("trusted=yes".to_owned());
        }
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("[{}] ", options.join(" "))
        };
        Ok(format!("deb {options}{uri} {} main\n", self.name))
    }

    /// `apt-get` or `apt-cache` seeing this suite alone.
    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let directory = self.directory.display();
        for option in [
            format!("Dir::Etc::sourcelist={}", self.sources().display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            // Pinning done on the machine is about what to install there, not about what to boot in a guest.
            "Dir::Etc::preferences=-".to_owned(),
            "Dir::Etc::preferencesparts=-".to_owned(),
            format!("Dir::State::lists={directory}/lists"),
            format!("Dir::Cache={directory}/cache"),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// Its source list.
    pub(crate) fn sources(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    /// Versions of `package` here, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = command::output(self.tool("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
            .collect())
    }

    /// The `Depends:` field of one version.
    pub(crate) fn depends(&self, package: &str, version: &str) -> Result<String> {
        let exact = format!("{package}={version}");
        let record = command::output(self.tool("apt-cache").args(["show", &exact]))?;
        Ok(record
            .lines()
            .find_map(|line| line.strip_prefix("Depends:"))
            .unwrap_or_default()
            .trim()
            .to_owned())
    }

    /// Downloads one version into `into`; the path of the `.deb`.
    pub(crate) fn download(&self, package: &str, version: &str, into: &Path) -> Result<PathBuf> {
        let exact = format!("{package}={version}");
        command::output(
            self.tool("apt-get")
                .args(["download", &exact])
                .current_dir(into),
        )
        .with_context(|| format!("downloading {package} {version} from {}", self.name))?;
        let prefix = format!("{package}_");
        let entries = fs::read_dir(into).with_context(|| format!("listing {}", into.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("listing {}", into.display()))?
                .path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name.starts_with(&prefix)
                && path.extension().is_some_and(|extension| extension == "deb")
            {
                return Ok(path);
            }
        }
        bail!(
            "apt-get said it downloaded {package} {version}, but {} has no {prefix}*.deb",
            into.display()
        )
    }
}

/// Unpacks a `.deb` below `into` and removes it.
pub(crate) fn unpack(deb: &Path, into: &Path) -> Result<()> {
    command::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
    fs::remove_file(deb).with_context(|| format!("removing {}", deb.display()))
}

/// Package names in a `Depends:` field, the first of each set of alternatives.
pub(crate) fn dependency_names(depends: &str) -> Vec<&str> {
    depends
        .split(',')
        .filter_map(|group| {
            group
                .split(['|', '(', ':', '['])
                .next()?
                .split_whitespace()
                .next()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_lose_versions_and_alternatives() {
        let depends = "linux-image-6.1.0-1-cloud-amd64 (= 6.1.9-1), initramfs-tools (>= 0.1) | dracut, kmod:any";
        assert_eq!(
            dependency_names(depends),
            ["linux-image-6.1.0-1-cloud-amd64", "initramfs-tools", "kmod"]
        );
        assert!(dependency_names("").is_empty());
    }
}

//! What is linked into the binary: the crates of the daemon and of the eBPF programs, as Cargo.lock has them, and what
//! comes with the toolchain.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{PACKAGED, binary::TARGET};
use crate::{command, place::Place, setup};

/// The two programs in the binary, what each is compiled for, and with which features.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("ktls-trace", TARGET, PACKAGED),
    ("ktls-trace-ebpf", "bpfel-unknown-none", ""),
];

/// Everything in the binary.
#[derive(Debug)]
pub(super) struct Linked {
    /// Sorted by name and version; our own among them.
    pub(super) crates: Vec<Crate>,
    /// Version of Rust's standard library.
    pub(super) std: String,
    /// Version of the GNU C library.
    pub(super) glibc: String,
}

/// A crate that is linked in.
#[derive(Debug)]
pub(super) struct Crate {
    /// As in Cargo.lock.
    pub(super) name: String,
    /// As in Cargo.lock.
    pub(super) version: String,
    /// As SPDX writes it; `None` if the crate names a file only.
    pub(super) licence: Option<String>,
    /// Where its sources are public.
    pub(super) repository: Option<String>,
    /// Where its sources are on this machine.
    pub(super) folder: PathBuf,
    /// SHA-256 of the archive it comes in; `None` for our own.
    pub(super) checksum: Option<String>,
    /// What it needs itself, as [`Crate::purl`].
    pub(super) needs: BTreeSet<String>,
}

impl Crate {
    /// The name that other tools know it by.
    pub(super) fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

impl Linked {
    /// Asks cargo, and the toolchain.
    pub(super) fn find(place: &Place) -> Result<Self> {
        let mut linked = BTreeSet::new();
        for (package, target, features) in PROGRAMS {
            linked.extend(tree(place, package, target, features)?);
        }
        let text = command::output(&mut cargo(
            place,
            &[
                "metadata",
                "--format-version=1",
                "--filter-platform",
                TARGET,
                "--features",
                PACKAGED,
            ],
        ))?;
        let metadata: Metadata =
            serde_json::from_str(&text).context("reading what `cargo metadata` says")?;
        let path = place.workspace.join("Cargo.lock");
        let lock = fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))
            .and_then(|text| toml::from_str(&text).context("reading Cargo.lock"))?;
        let glibc = command::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
        Ok(Self {
            crates: join(&metadata, &lock, &linked)?,
            std: setup::compiler_release()?,
            glibc: glibc.trim().trim_start_matches("glibc ").to_owned(),
        })
    }
}

/// What cargo says of a package. Only `tree` knows which features are on in this build, only `metadata` the rest.
fn cargo(place: &Place, arguments: &[&str]) -> Command {
    let mut command = command::cargo();
    command
        .args(arguments)
        .arg("--locked")
        .current_dir(&place.workspace);
    command
}

/// Names and versions of what is linked into a program. What runs in the compiler only is not.
fn tree(
    place: &Place,
    package: &str,
    target: &str,
    features: &str,
) -> Result<BTreeSet<(String, String)>> {
    let text = command::output(&mut cargo(
        place,
        &[
            "tree",
            "--package",
            package,
            "--edges=normal,no-proc-macro",
            "--target",
            target,
            "--features",
            features,
            "--prefix=none",
        ],
    ))?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| name_and_version(line).with_context(|| format!("`cargo tree` says {line:?}")))
        .collect()
}

/// Of a line such as `aya v0.14.0 (*)`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    Some((name, words.next()?.strip_prefix('v')?.to_owned()))
}

/// Brings together what cargo says in three places.
fn join(
    metadata: &Metadata,
    lock: &Lock,
    linked: &BTreeSet<(String, String)>,
) -> Result<Vec<Crate>> {
    let key = |package: &Package| (package.name.clone(), package.version.clone());
    let by_id: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(&key(package)))
        .map(|package| (package.id.as_str(), package))
        .collect();
    let mut crates = Vec::new();
    for node in &metadata.resolve.nodes {
        let Some(package) = by_id.get(node.id.as_str()) else {
            continue;
        };
        let mut needs: BTreeSet<String> = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|how| how.kind.is_none()))
            .filter_map(|dependency| by_id.get(dependency.pkg.as_str()))
            .map(|package| format!("pkg:cargo/{}@{}", package.name, package.version))
            .collect();
        if package.name == PROGRAMS[0].0 {
            // Built by its build script, which cargo knows nothing of.
            needs.insert(format!("pkg:cargo/{}@{}", PROGRAMS[1].0, package.version));
        }
        let checksum = lock.package.iter().find_map(|locked| {
            (locked.name == package.name && locked.version == package.version)
                .then(|| locked.checksum.clone())?
        });
        let manifest = Path::new(&package.manifest_path);
        crates.push(Crate {
            name: package.name.clone(),
            version: package.version.clone(),
            licence: package.license.as_deref().map(spdx),
            repository: package.repository.clone(),
            folder: manifest.parent().context("a manifest")?.to_path_buf(),
            checksum,
            needs,
        });
    }
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    anyhow::ensure!(
        crates.len() == linked.len(),
        "`cargo tree` and `cargo metadata` do not agree on what is linked"
    );
    Ok(crates)
}

/// Older crates write a slash for OR.
fn spdx(licence: &str) -> String {
    let parts: Vec<&str> = licence.split('/').map(str::trim).collect();
    parts.join(" OR ")
}

/// The part of `cargo metadata` that is used.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

/// A package of the workspace or one it needs.
#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: String,
}

/// Who needs whom.
#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

/// What one package needs.
#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

/// One thing that is needed.
#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

/// What it is needed for.
#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// `None` for an ordinary dependency, which is linked.
    kind: Option<String>,
}

/// The part of Cargo.lock that is used.
#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

/// One package with the checksum of its archive.
#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_tree_are_read() {
        let read = |line| name_and_version(line);
        let expected = Some(("aya".to_owned(), "0.14.0".to_owned()));
        assert_eq!(read("aya v0.14.0 (*)"), expected);
        assert_eq!(read("aya v0.14.0 (/somewhere)"), expected);
        assert_eq!(read("aya"), None);
    }

    #[test]
    fn an_old_licence_becomes_spdx() {
        assert_eq!(spdx("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(spdx("MIT OR Apache-2.0"), "MIT OR Apache-2.0");
    }

    #[test]
    fn what_is_only_built_with_is_not_linked() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"packages":[
                {"id":"1","name":"ktls-trace","version":"1.0.0","license":"MIT","repository":null,"manifest_path":"/w/a/Cargo.toml"},
                {"id":"2","name":"linked","version":"2.0.0","license":"MIT","repository":null,"manifest_path":"/r/b/Cargo.toml"},
                {"id":"3","name":"builds","version":"3.0.0","license":"MIT","repository":null,"manifest_path":"/r/c/Cargo.toml"}],
               "resolve":{"nodes":[
                {"id":"1","deps":[{"pkg":"2","dep_kinds":[{"kind":null}]},{"pkg":"3","dep_kinds":[{"kind":"build"}]}]},
                {"id":"2","deps":[]},{"id":"3","deps":[]}]}}"#,
        )
        .unwrap();
        let lock = toml::from_str(
            "[[package]]\nname = \"ktls-trace\"\nversion = \"1.0.0\"\n\
             [[package]]\nname = \"linked\"\nversion = \"2.0.0\"\nchecksum = \"abc\"\n",
        )
        .unwrap();
        let linked = ["ktls-trace v1.0.0", "linked v2.0.0"]
            .iter()
            .filter_map(|line| name_and_version(line))
            .collect();
        let crates = join(&metadata, &lock, &linked).unwrap();
        assert_eq!(crates.len(), 2);
        assert_eq!(
            crates[0].needs.iter().collect::<Vec<_>>(),
            ["pkg:cargo/ktls-trace-ebpf@1.0.0", "pkg:cargo/linked@2.0.0"]
        );
        assert_eq!(crates[1].checksum.as_deref(), Some("abc"));
    }
}

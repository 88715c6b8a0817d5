//! Picks the modules a guest needs with everything they depend on, unpacked on the host, so that the guest only has to load them.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use xtask::job::{Load, Module, ModuleList, module_name};

use super::{Kernel, elf};
use crate::place::Place;

/// Where a guest keeps its modules.
const GUEST_DIRECTORY: &str = "/lib/modules";

/// What kTLS and its diagnosis need. A name that a kernel doesn't have is built in there or has gone: the crypto API is being
/// moved into library functions release by release.
const WANTED: &[(&str, Load)] = &[
    ("virtio_pci", Load::Transport),
    ("virtio_console", Load::Transport),
    ("tls", Load::AtStart),
    ("inet_diag", Load::AtStart),
    ("tcp_diag", Load::AtStart),
    // AES-GCM, as a host with AES-NI has it: aesni_intel is loaded at boot there, the parts on demand.
    ("aesni_intel", Load::AtStart),
    ("gcm", Load::AtStart),
    ("ctr", Load::AtStart),
    ("ghash_generic", Load::AtStart),
    ("ghash_clmulni_intel", Load::OnDemand),
    ("cryptd", Load::OnDemand),
    // AES-GCM that answers later, and how a process asks for it.
    ("pcrypt", Load::OnDemand),
    ("algif_aead", Load::OnDemand),
    ("ccm", Load::OnDemand),
    ("seqiv", Load::OnDemand),
    // ChaCha20-Poly1305.
    ("chacha20poly1305", Load::OnDemand),
    ("chacha", Load::OnDemand),
    ("chacha_generic", Load::OnDemand),
    ("chacha_x86_64", Load::OnDemand),
    ("poly1305_generic", Load::OnDemand),
    ("poly1305_x86_64", Load::OnDemand),
    // Links with a delay, a loss or another MSS.
    ("veth", Load::OnDemand),
    ("sch_netem", Load::OnDemand),
    ("sch_fq", Load::OnDemand),
    ("sch_tbf", Load::OnDemand),
    // A file system on a file, whose pages can be made cold; ext4 itself is built in.
    ("loop", Load::OnDemand),
];

/// Without these a guest is of no use, so a kernel that lacks one is an error.
const INDISPENSABLE: &[&str] = &["tls", "inet_diag", "tcp_diag", "gcm"];

/// Unpacked modules of one kernel, and their list as the guest reads it.
#[derive(Debug)]
pub(crate) struct GuestModules {
    /// In loading order.
    pub(crate) list: ModuleList,
    /// Directory with one `NAME.ko` each.
    pub(crate) directory: PathBuf,
}

/// What is kept beside the unpacked modules.
#[derive(Serialize, Deserialize)]
struct Prepared {
    /// The request it answers: another one means preparing anew.
    wanted: Vec<(String, Load)>,
    list: ModuleList,
}

/// The modules for guests of `kernel`, from the cache where possible.
pub(crate) fn prepare_modules(place: &Place, kernel: &Kernel) -> Result<GuestModules> {
    let directory = kernel.directory.join("guest-modules");
    if let Some(list) = prepared(&directory) {
        return Ok(GuestModules { list, directory });
    }
    let lock = place.lock_cache()?;
    if let Some(list) = prepared(&directory) {
        return Ok(GuestModules { list, directory });
    }
    eprintln!("unpacking modules of {} …", kernel.release);
    let scratch = lock.scratch("guest-modules")?;
    let mut closure = Closure {
        files: module_files(&kernel.modules_dir)?,
        list: ModuleList::default(),
        directory: scratch.clone(),
    };
    for (name, load) in WANTED {
        if closure.files.contains_key(*name) {
            closure
                .add(name, *load)
                .with_context(|| format!("module {name} of {}", kernel.release))?;
        }
    }
    let Closure { list, .. } = closure;
    for name in INDISPENSABLE {
        list.find(name)
            .with_context(|| format!("{} has no module {name}", kernel.release))?;
    }
    let prepared = Prepared {
        wanted: wanted(),
        list,
    };
    let path = scratch.join("list.json");
    fs::write(
        &path,
        serde_json::to_vec_pretty(&prepared).context("encoding a module list")?,
    )
    .with_context(|| format!("writing {}", path.display()))?;
    lock.publish(&scratch, &directory)?;
    Ok(GuestModules {
        list: prepared.list,
        directory,
    })
}

fn prepared(directory: &Path) -> Option<ModuleList> {
    let text = fs::read(directory.join("list.json")).ok()?;
    let prepared: Prepared = serde_json::from_slice(&text).ok()?;
    (prepared.wanted == wanted()).then_some(prepared.list)
}

fn wanted() -> Vec<(String, Load)> {
    WANTED
        .iter()
        .map(|(name, load)| ((*name).to_owned(), *load))
        .collect()
}

/// All modules of a kernel by name.
pub(crate) fn module_files(directory: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
            let path = entry.path();
            if entry
                .file_type()
                .with_context(|| format!("looking at {}", path.display()))?
                .is_dir()
            {
                pending.push(path);
                continue;
            }
            let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if let Some((name, "ko" | "ko.xz")) = file.split_once('.') {
                files.insert(module_name(name), path);
            }
        }
    }
    Ok(files)
}

/// Modules added so far, each after the ones it needs.
struct Closure {
    files: HashMap<String, PathBuf>,
    list: ModuleList,
    directory: PathBuf,
}

impl Closure {
    /// Adds a module and, before it, what it needs.
    fn add(&mut self, name: &str, load: Load) -> Result<()> {
        if let Some(present) = self.list.0.iter_mut().find(|module| module.name == name) {
            // Needed by a module that is loaded earlier than it was itself asked for.
            present.load = present.load.min(load);
            let needs = present.needs.clone();
            for need in needs {
                self.add(&need, load)?;
            }
            return Ok(());
        }
        let file = self
            .files
            .get(name)
            .with_context(|| format!("there is no module {name}"))?
            .clone();
        let contents = read_module(&file)?;
        let info =
            elf::modinfo(&contents).with_context(|| format!("reading {}", file.display()))?;
        let mut needs: Vec<String> = Vec::new();
        for need in requirements(&info) {
            if !self.files.contains_key(&need.name) && !need.hard {
                continue;
            }
            self.add(&need.name, load)?;
            let module = self
                .list
                .find(&need.name)
                .context("a module just added is not listed")?;
            for name in module.needs.iter().chain([&module.name]) {
                if !needs.contains(name) {
                    needs.push(name.clone());
                }
            }
        }
        let unpacked = self.directory.join(format!("{name}.ko"));
        fs::write(&unpacked, contents)
            .with_context(|| format!("writing {}", unpacked.display()))?;
        self.list.0.push(Module {
            name: name.to_owned(),
            file: format!("{GUEST_DIRECTORY}/{name}.ko"),
            needs,
            aliases: info
                .into_iter()
                .filter(|(key, _)| key == "alias")
                .map(|(_, value)| value)
                .collect(),
            load,
        });
        Ok(())
    }
}

/// A module named by another.
struct Requirement {
    name: String,
    /// From `depends=`; `softdep=` may name what is built in.
    hard: bool,
}

fn requirements(info: &[(String, String)]) -> Vec<Requirement> {
    let mut found = Vec::new();
    for (key, value) in info {
        match key.as_str() {
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                found.extend(names.map(|name| Requirement {
                    name: module_name(name),
                    hard: true,
                }));
            }
            "softdep" => {
                if let Some(before) = value
                    .split("post:")
                    .next()
                    .and_then(|part| part.split_once("pre:"))
                {
                    let names = before.1.split_whitespace();
                    found.extend(names.map(|name| Requirement {
                        name: module_name(name),
                        hard: false,
                    }));
                }
            }
            _ => {}
        }
    }
    found
}

/// A module's contents, decompressed.
pub(crate) fn read_module(file: &Path) -> Result<Vec<u8>> {
    let stored = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(stored);
    }
    let mut contents = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(stored), &mut contents)
        .map_err(|error| anyhow::anyhow!("{error:?}"))
        .with_context(|| format!("decompressing {}", file.display()))?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_and_soft_dependencies_are_told_apart() {
        let info = [
            (
                "depends".to_owned(),
                "virtio_ring,poly1305-x86_64".to_owned(),
            ),
            (
                "softdep".to_owned(),
                "pre: chacha-neon post: other".to_owned(),
            ),
            ("depends".to_owned(), String::new()),
        ];
        let found: Vec<(String, bool)> = requirements(&info)
            .into_iter()
            .map(|need| (need.name, need.hard))
            .collect();
        let expected = [
            ("virtio_ring", true),
            ("poly1305_x86_64", true),
            ("chacha_neon", false),
        ];
        assert_eq!(found, expected.map(|(name, hard)| (name.to_owned(), hard)));
    }
}

//! Loads kernel modules from the initramfs: for init, and as the `modprobe` the kernel itself calls for what it finds missing.

use std::{
    collections::HashSet,
    ffi::CStr,
    fs::{self, File},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module},
};
use xtask::job::{Load, MODULES_PATH, Module, ModuleList, REFUSED_MODULES_PATH, module_name};

/// `modprobe [OPTION]… NAME`: options are accepted and ignored, since the kernel passes `-q --`.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> Result<()> {
    let list = read_list()?;
    let names: Vec<String> = arguments
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    // Further words would be module parameters.
    let wanted = names.first().context("which module?")?;
    let module = list
        .find(wanted)
        .with_context(|| format!("no module answers to {wanted}"))?;
    load(&list, module)
}

/// Loads what the guest needs to talk to the host.
pub(crate) fn load_transport() -> Result<()> {
    load_all(&read_list()?, Load::Transport)
}

/// Loads what a job expects to be there.
pub(crate) fn load_at_start() -> Result<()> {
    load_all(&read_list()?, Load::AtStart)
}

fn load_all(list: &ModuleList, when: Load) -> Result<()> {
    list.0
        .iter()
        .filter(|module| module.load == when)
        .try_for_each(|module| load(list, module))
}

/// Loads a module by name with all it needs; nothing to do when it is there.
pub(crate) fn load_by_name(name: &str) -> Result<()> {
    let list = read_list()?;
    let module = list
        .find(name)
        .with_context(|| format!("no module {name} in this guest"))?;
    load(&list, module)
}

fn load(list: &ModuleList, module: &Module) -> Result<()> {
    let refused = fs::read_to_string(REFUSED_MODULES_PATH).unwrap_or_default();
    if refused.lines().any(|line| module_name(line) == module.name) {
        bail!(
            "module {} is refused by {REFUSED_MODULES_PATH}",
            module.name
        );
    }
    let loaded = loaded()?;
    for name in module.needs.iter().chain([&module.name]) {
        if loaded.contains(name) {
            continue;
        }
        let module = list
            .find(name)
            .with_context(|| format!("no module {name} in this guest"))?;
        let file = File::open(&module.file).with_context(|| format!("opening {}", module.file))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // Somebody else was faster, or the processor lacks what the module is for.
            Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => {}
            Err(errno) => return Err(errno).with_context(|| format!("loading module {name}")),
        }
    }
    Ok(())
}

/// Removes a module if it is there and unused.
pub(crate) fn remove(name: &CStr) -> Result<(), Errno> {
    match delete_module(name, DeleteModuleFlags::O_NONBLOCK) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn loaded() -> Result<HashSet<String>> {
    let text = fs::read_to_string("/proc/modules").context("reading /proc/modules")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

fn read_list() -> Result<ModuleList> {
    let text = fs::read(MODULES_PATH).with_context(|| format!("reading {MODULES_PATH}"))?;
    serde_json::from_slice(&text).with_context(|| format!("decoding {MODULES_PATH}"))
}

//! The programs and their links, each of the kind that serves its hook best.

use std::{collections::HashMap, os::fd::AsFd as _, time::Duration};

use aya::{
    Ebpf,
    programs::{KProbe, ProgramError, kprobe::KProbeLinkId},
};

use super::{
    armory::Cost,
    load::{Verified, chain},
    trampoline::{PREFIX, Trampoline, Trampolines, info_of},
};
use crate::kernel::plan::{Hook, Kind};

/// The object, with its maps made.
pub(super) struct Programs {
    /// What aya made of it: the maps and the kprobes.
    pub(super) object: Ebpf,
    /// Those for trampolines; `None`: none is wanted, or the object can't be read that way.
    trampolines: Option<Trampolines>,
    /// Those of them that are with the kernel, by function.
    loaded: HashMap<&'static str, Trampoline>,
    /// The kprobes that are attached, by function.
    links: HashMap<&'static str, KProbeLinkId>,
}

impl Programs {
    /// Of an object whose maps are all still with it, for these hooks.
    pub(super) fn new(bytes: &[u8], object: Ebpf, hooks: &[Hook]) -> Self {
        let wanted = hooks.iter().any(|hook| hook.kind != Kind::Kprobe);
        let read = || {
            Trampolines::of(bytes, &object)
                .inspect_err(|error| tracing::debug!("programs for trampolines: {error}"))
                .ok()
        };
        let trampolines = wanted.then(read).flatten();
        Self {
            object,
            trampolines,
            loaded: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Has the kernel verify the program of a hook, unless it did.
    pub(super) fn load(&mut self, hook: Hook) -> Result<(), ProgramError> {
        if self.loaded.contains_key(hook.symbol) || self.load_trampoline(hook) {
            return Ok(());
        }
        self.load_kprobe(hook)
    }

    /// Attaches the program of a hook, unless it is.
    pub(super) fn attach(&mut self, hook: Hook) -> Result<(), ProgramError> {
        self.load(hook)?;
        if let Some(trampoline) = self.loaded.get_mut(hook.symbol) {
            match trampoline.attach() {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!("{hook}: a kprobe instead of a trampoline: {error}");
                    self.loaded.remove(hook.symbol);
                    self.load_kprobe(hook)?;
                }
            }
        }
        let link = self.kprobe(hook)?.attach(hook.symbol, 0)?;
        self.links.insert(hook.symbol, link);
        Ok(())
    }

    /// Takes it away again.
    pub(super) fn detach(&mut self, hook: Hook) -> Result<(), ProgramError> {
        if let Some(trampoline) = self.loaded.get_mut(hook.symbol) {
            trampoline.detach();
        }
        match self.links.remove(hook.symbol) {
            Some(link) => self.kprobe(hook)?.detach(link),
            None => Ok(()),
        }
    }

    /// How the program of a hook is called, once it is loaded.
    pub(super) fn kind(&self, hook: Hook) -> &'static str {
        if self.loaded.contains_key(hook.symbol) {
            hook.kind.name()
        } else {
            Kind::Kprobe.name()
        }
    }

    /// What the program of a hook has cost, and how often it was passed over; nothing if it is not loaded.
    pub(super) fn cost(&self, hook: Hook) -> Option<Cost> {
        let info = if let Some(trampoline) = self.loaded.get(hook.symbol) {
            trampoline.info()
        } else {
            let program: &KProbe = self.object.program(hook.program)?.try_into().ok()?;
            info_of(program.fd().ok()?.as_fd())
        }
        .ok()?;
        Some(Cost {
            hook: hook.to_string(),
            runs: info.run_cnt,
            time: Duration::from_nanos(info.run_time_ns),
            misses: info.recursion_misses,
        })
    }

    /// Has the kernel verify every program, those included that no hook of the plan uses.
    pub(super) fn verify(&mut self, hooks: &[Hook]) -> Vec<Verified> {
        let mut verified = Vec::new();
        for (name, program) in self.object.programs_mut() {
            let Ok(program) = <&mut KProbe>::try_from(program) else {
                continue; // for a trampoline
            };
            let loaded = program.load().and_then(|()| program.fd());
            let loaded = loaded.map_err(|error| chain(&error));
            let info = loaded
                .and_then(|program| info_of(program.as_fd()).map_err(|error| error.to_string()));
            verified.push(Verified::of(name.to_owned(), info));
        }
        for hook in hooks {
            if let (Kind::Fentry(function), Some(trampolines)) = (hook.kind, &self.trampolines) {
                let program = format!("{PREFIX}{hook}");
                let loaded = trampolines.load(&program, function);
                let info = loaded.and_then(|trampoline| trampoline.info());
                let info = info.map_err(|error| error.to_string());
                verified.push(Verified::of(program, info));
            }
        }
        verified.sort_by(|a, b| a.program.cmp(&b.program));
        verified
    }

    /// Has the kernel verify the program for the trampoline of a hook; whether there is one.
    fn load_trampoline(&mut self, hook: Hook) -> bool {
        let (Kind::Fentry(function), Some(trampolines)) = (hook.kind, &self.trampolines) else {
            return false;
        };
        match trampolines.load(&format!("{PREFIX}{hook}"), function) {
            Ok(trampoline) => {
                self.loaded.insert(hook.symbol, trampoline);
                true
            }
            Err(error) => {
                tracing::debug!("{hook}: a kprobe instead of a trampoline: {error}");
                false
            }
        }
    }

    /// Has the kernel verify the kprobe of a hook, unless it did.
    fn load_kprobe(&mut self, hook: Hook) -> Result<(), ProgramError> {
        match self.kprobe(hook)?.load() {
            Err(ProgramError::AlreadyLoaded) => Ok(()),
            other => other,
        }
    }

    /// The kprobe of a hook.
    fn kprobe(&mut self, hook: Hook) -> Result<&mut KProbe, ProgramError> {
        self.object
            .program_mut(hook.program)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }
}

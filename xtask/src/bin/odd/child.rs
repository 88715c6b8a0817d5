//! Child processes that send.

use std::{ffi::CStr, fs, process};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

/// A child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child(Pid);

impl Child {
    /// Forks a child of that name (at most 15 bytes) that does `work`. It dies with us.
    pub(crate) fn start(name: &CStr, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let threads = fs::read_dir("/proc/self/task")
            .context("listing our threads")?
            .count();
        if threads != 1 {
            bail!("a process with {threads} threads can't fork and go on");
        }
        // SAFETY: there is no other thread, so no lock is held that nobody in the child would release.
        match unsafe { fork() }.context("forking")? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => {
                let done = prctl::set_pdeathsig(Signal::SIGKILL)
                    .and_then(|()| prctl::set_name(name))
                    .context("naming a process")
                    .and_then(|()| work());
                if let Err(error) = &done {
                    eprintln!("odd: {}: {error:#}", name.to_string_lossy());
                }
                // A child must not go on with what its parent does.
                process::exit(i32::from(done.is_err()));
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.0
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.0, signal).with_context(|| format!("sending {signal} to process {}", self.0))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nothing more can be done about one that is gone already.
        kill(self.0, Signal::SIGKILL).ok();
        waitpid(self.0, None).ok();
    }
}

//! What the programs tell, taken from their ring buffer, and what they are told in return.

use std::path::Path;

use super::{clock, hooks::Mode, process, session::Session};
use crate::{
    kernel::netns,
    observe::{Observation, SocketKey, What},
    probe,
};

/// Records of the ring buffer that are taken before it is looked whether there is something else to do.
const AT_ONCE: usize = 512;

impl Session<'_> {
    /// Has the programs forget what the correlator has forgotten, once no record waits that may be about it: named anew, a socket
    /// would be two as long as there are such.
    pub(super) fn clear_forgotten(&mut self) {
        if self.behind_ns.is_some() {
            return;
        }
        for key in std::mem::take(&mut self.forgotten) {
            if !self.correlator.is_watched(key)
                && let Mode::Hooks(hooks) = &mut self.mode
                && let Some((sk, generation)) = hooks.suspects.remove(&key)
            {
                hooks.probe.suspects.clear(sk, generation);
            }
        }
    }

    /// Takes what waits in the ring buffer, but not for ever if it fills faster than that.
    pub(super) fn drain(&mut self) {
        let mut seen_ns = None;
        self.behind_ns.get_or_insert_with(clock::monotonic_ns);
        for _ in 0..AT_ONCE {
            let decoded = match &mut self.mode {
                Mode::Hooks(hooks) => {
                    let addresses = &hooks.addresses;
                    let record = hooks.probe.ring.get_mut().next();
                    record.map(|record| probe::decode(&record, || addresses.get()))
                }
                Mode::WaitingForTls | Mode::Polling(_) => None,
            };
            let Some(decoded) = decoded else {
                self.behind_ns = None;
                self.clear_forgotten();
                return;
            };
            let Some(decoded) = decoded else { continue };
            let observation = decoded.observation;
            seen_ns = seen_ns.max(Some(observation.at_ns));
            let key = SocketKey(decoded.generation);
            if observation.what.makes_suspect()
                && let Mode::Hooks(hooks) = &mut self.mode
            {
                hooks.suspects.insert(key, (decoded.sk, decoded.generation));
            }
            let pid = match &observation.what {
                What::Refused { process, .. } if !process.is_kernel_worker() => Some(process.pid),
                What::Refused { hold, .. }
                | What::PersistFired { hold, .. }
                | What::RetransmitTimeout { hold, .. } => hold.writer_pid,
                _ => None,
            };
            self.take(&observation);
            if let Some(pid) = pid {
                self.name(key, pid, observation.at_ns);
            }
        }
        self.behind_ns = Some(seen_ns.unwrap_or_else(clock::monotonic_ns));
    }

    /// Looks up a process once for a socket. It is named at the moment it was seen: a later one would
    /// run ahead of what still waits in the ring buffer.
    pub(super) fn name(&mut self, key: SocketKey, pid: u32, at_ns: u64) {
        let pids = self.named.entry(key).or_default();
        if !pids.contains(&pid) {
            pids.push(pid);
            let (comm, exe, cgroup) = (process::comm(pid), process::exe(pid), process::cgroup(pid));
            let what = What::ProcessNamed {
                key,
                pid,
                comm,
                exe,
                cgroup,
                netns: netns::inode(Path::new(&format!("/proc/{pid}/ns/net"))).ok(),
            };
            self.take(&Observation { at_ns, what });
        }
    }
}

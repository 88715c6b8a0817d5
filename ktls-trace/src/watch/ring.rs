//! What the programs tell, taken from their ring buffer, and what they are told in return.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{clock, hooks::Mode, process, session::Session};
use crate::{
    kernel::netns,
    observe::{Observation, SocketKey, What},
    probe,
};

/// Records of the ring buffer that are taken before it is looked whether there is something else to do.
const AT_ONCE: usize = 512;
/// How long the ring buffer is left alone where records come one after the other: the many of many stalls are then taken together,
/// instead of waking this thread for each.
const PAUSE: Duration = Duration::from_millis(2);

/// When the ring buffer is read: at once where records are seldom.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it was read last.
    read: Option<Instant>,
    /// Until when it is left alone. What is due meanwhile waits for that, too; what comes from elsewhere has it read first.
    pub(super) pause_until: Option<Instant>,
}

impl Pace {
    /// It was read because there was something in it.
    pub(super) fn has_read(&mut self, now: Instant) {
        let before = self.read.replace(now);
        // Twice, for after a pause it is read no sooner than that.
        let soon = before.is_some_and(|before| now.duration_since(before) < 2 * PAUSE);
        self.pause_until = soon.then(|| now + PAUSE);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seldom_records_are_read_at_once_and_many_after_a_pause() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        for (after_ms, pause_ms) in [
            (0, None),
            (100, None),
            (101, Some(103)),
            (104, Some(106)),
            (200, None),
        ] {
            pace.has_read(begun + Duration::from_millis(after_ms));
            let until = pause_ms.map(|ms| begun + Duration::from_millis(ms));
            assert_eq!(pace.pause_until, until, "after {after_ms} ms");
        }
    }
}

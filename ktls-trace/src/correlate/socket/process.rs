//! Who writes to the socket: several may take turns.

use super::Watched;
use crate::{
    correlate::event::ProcessInfo,
    observe::{Process, names_kernel_worker},
};

/// Processes that are remembered of a socket that several write to.
const PAST_WRITERS: usize = 16;

impl Watched {
    /// Who was refused.
    pub(super) fn named(&mut self, seen: &Process) {
        let mut process = match self.process.take() {
            Some(process) if process.pid == seen.pid => process,
            other => {
                if let Some(past) = other {
                    self.remember(past);
                }
                self.writer(seen.pid)
            }
        };
        process.tid = Some(seen.tid);
        process.thread = Some(seen.thread.clone());
        self.process = Some(process);
    }

    /// Who sent last, for a timer that has no process of its own.
    pub(super) fn sent_by(&mut self, pid: Option<u32>) {
        if let Some(pid) = pid
            && self.process.is_none()
        {
            self.process = Some(self.writer(pid));
        }
    }

    /// What is known of a process.
    pub(super) fn writer(&mut self, pid: u32) -> ProcessInfo {
        let past = &mut self.past_writers;
        let known = past.iter().position(|past| past.pid == pid);
        known.map_or_else(|| known_by_pid(pid), |index| past.swap_remove(index))
    }

    /// Notes what is known of a process that writes to it, did so before, or is about to.
    pub(super) fn known(&mut self, named: ProcessInfo) {
        let works_for_another = named.comm.as_deref().is_some_and(names_kernel_worker);
        if self.process.is_none() && !works_for_another {
            // Its owner: no hook has met a writer.
            self.process = Some(named);
        } else {
            self.remember(named);
        }
    }

    /// Notes it of one that is known already, or may have its turn yet.
    fn remember(&mut self, named: ProcessInfo) {
        let mut writers = self.process.iter_mut().chain(&mut self.past_writers);
        if let Some(writer) = writers.find(|writer| writer.pid == named.pid) {
            *writer = ProcessInfo {
                tid: writer.tid,
                thread: writer.thread.take(),
                ..named
            };
        } else if self.past_writers.len() < PAST_WRITERS {
            self.past_writers.push(named);
        }
    }
}

/// A process of which only the number is known.
pub(super) fn known_by_pid(pid: u32) -> ProcessInfo {
    ProcessInfo {
        pid,
        tid: None,
        comm: None,
        thread: None,
        exe: None,
        cgroup: None,
    }
}

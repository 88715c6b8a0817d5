//! The thread on which the workload runs, in a UTS namespace of its own: threads and processes that it
//! starts inherit that, and by it the hooks tell them from everybody else on the host. It is a copy
//! that nothing changes, so the workload can't tell; it is gone with the last of them.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use super::{Error, namespace};

/// Something to be done on the thread.
type Job = Box<dyn FnOnce() + Send>;

/// The thread.
#[derive(Debug)]
pub(super) struct Place {
    /// Inode number of its UTS namespace.
    pub(super) uts: u32,
    /// Jobs for it.
    jobs: Sender<Job>,
}

impl Place {
    /// Starts the thread.
    pub(super) fn new() -> Result<Self, Error> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let (tell, marked) = mpsc::channel();
        thread::Builder::new()
            .name("workload".to_owned())
            .spawn(move || {
                if tell.send(namespace::mark()).is_ok() {
                    for job in to_do {
                        job();
                    }
                }
            })
            .map_err(no_thread)?;
        let uts = marked.recv().map_err(|_gone| Error::ThreadGone)??;
        Ok(Self { uts, jobs })
    }

    /// Has something done on the thread, after what was asked for before; the answer comes through the
    /// channel.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (tell, answer) = mpsc::channel();
        // If the thread is gone, so is `tell`, and the receiver is told.
        let _gone = self.jobs.send(Box::new(move || {
            // Nobody waits for it any more: then it does not matter.
            let _unheard = tell.send(job());
        }));
        answer
    }

    /// Has something done on the thread and waits for it.
    pub(super) fn wait_for<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.begin(job).recv().map_err(|_gone| Error::ThreadGone)
    }
}

/// No thread could be started.
fn no_thread(source: io::Error) -> Error {
    Error::Resource {
        what: "start a thread",
        source,
    }
}

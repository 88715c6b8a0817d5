//! Why nothing could be told.

use std::io;

use super::namespace;
use crate::{watch, workload};

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capabilities are missing.
    #[error("the kernel hooks are needed, and {0} missing: run as root")]
    Privileges(String),
    /// The hooks could not be used.
    #[error("the kernel hooks are needed, and can't be used: {0}")]
    NoHooks(String),
    /// The kernel's types lack what it takes to tell this workload's sockets from others.
    #[error("this kernel's BTF lacks {0}, by which the workload is told from others")]
    NoMark(&'static str),
    /// The kernel's TLS can't be used, or the built-in workload not be set up.
    #[error(transparent)]
    Workload(#[from] workload::Error),
    /// The built-in workload failed under way.
    #[error("the workload failed: {0}")]
    Transfer(String),
    /// A namespace could not be made or set up.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The command could not be started.
    #[error("cannot run {program}: {source}")]
    Command {
        /// The program.
        program: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A thread or the runtime could not be had.
    #[error("{what}: {source}")]
    Resource {
        /// What was asked for.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The tracing could not begin.
    #[error(transparent)]
    Watch(#[from] watch::Error),
    /// The thread of the workload is gone.
    #[error("the thread of the workload has ended early")]
    ThreadGone,
    /// Somebody stopped it.
    #[error("interrupted")]
    Interrupted,
}

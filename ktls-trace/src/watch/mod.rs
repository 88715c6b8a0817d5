//! The daemon at work: wires hooks and `sock_diag` to the correlator and its events to an output.

pub(crate) mod clock;
mod control;
mod hooks;
mod poller;
pub(crate) mod process;
mod reload;
mod ring;
mod service;
mod session;
mod tell;

pub use control::{Control, Reread, Seen};
pub(crate) use poller::sample_of;
pub use reload::Reload;
pub use session::{Error, Options, run, run_within};

//! The daemon at work: wires hooks and `sock_diag` to the correlator and its events to an output.

mod clock;
mod poller;
mod process;
mod session;

pub use session::{Error, Options, run};

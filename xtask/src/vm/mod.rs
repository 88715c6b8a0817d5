//! Boots a kernel under QEMU with a job, and hands out what the guest says.

mod console;
mod machine;
mod watch;

pub(crate) use console::Console;
pub(crate) use machine::Machine;
pub(crate) use watch::{Ending, Guest};

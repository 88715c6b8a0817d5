//! Loads the programs, attaches them as the plan says, and drains their ring buffer.

mod armory;
mod decode;
mod load;
mod path;
mod programs;
mod trampoline;

pub use armory::{Armed, Cost};
pub use decode::{Decoded, decode};
pub use load::{Attached, Error, Options, Probe, Stir, Suspects, Verified, verify};
pub use path::release_path;

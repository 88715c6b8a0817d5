//! Loads the programs, attaches them as the plan says, and drains their ring buffer.

mod decode;
mod load;
mod path;

pub use decode::{Decoded, decode};
pub use load::{Attached, Error, Options, Probe, Suspects, Verified, verify};
pub use path::release_path;

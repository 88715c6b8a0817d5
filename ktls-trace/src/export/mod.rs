//! Where events go: one file per destination.

mod lines;

pub use lines::{Error, Format, Lines, Written};

//! Fetches packages of any suite of the machine's own mirror through apt, with private lists, so that nothing on the machine changes.

mod fetch;
mod mirror;
mod source;
mod suite;

pub(crate) use fetch::fetched;
pub(crate) use mirror::Mirrors;
pub(crate) use suite::{Suite, dependency_names, unpack};

//! Events for people.

pub mod text;

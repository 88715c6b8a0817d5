//! `cargo xtask test`: unit tests, then scenarios on real kernels, then a table.

mod evaluate;
mod file;
mod guests;
mod matcher;
mod report;
mod select;
mod unit;
mod verb;

pub(crate) use verb::{TestArguments, run};

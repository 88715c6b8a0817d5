//! `cargo xtask test`: unit tests, then scenarios on real kernels, then a table.

mod dashboard;
mod evaluate;
mod file;
mod guests;
mod matcher;
mod matrix;
mod packaging;
mod report;
mod select;
mod unit;
mod verb;

#[cfg(test)]
pub(crate) use evaluate::evaluate_events;
#[cfg(test)]
pub(crate) use file::read_all;
pub(crate) use verb::{TestArguments, run};

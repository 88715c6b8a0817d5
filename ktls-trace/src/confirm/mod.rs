//! `confirm`: the causal chain of the stall, seen link by link, and the proof by flips: the same transfer
//! with one cause removed at a time.
//!
//! Each transfer runs on a thread with a UTS namespace of its own ([`place`]). What it starts
//! inherits that, and the hooks look at nobody else ([`Filter::uts`](ktls_trace_common::filter::Filter)).
//! What the hooks see is gathered by [`evidence`]; [`chain`], [`questions`] and [`verdict`] are pure.

mod chain;
mod command;
mod error;
mod evidence;
mod findings;
mod flips;
mod namespace;
mod place;
mod questions;
mod run;
mod series;
mod verdict;

#[cfg(test)]
mod tests;

pub use self::{
    error::Error,
    findings::{
        Answer, Findings, LinkFinding, Outcome, Question, RunName, RunReport, RunStatus, SCHEMA,
        WorkloadReport,
    },
    flips::{HEALED_TIMES, SMALL_MSS},
    run::{Options, Workload, run},
    series::Range,
};

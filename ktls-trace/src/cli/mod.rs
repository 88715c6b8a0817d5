//! One file for each verb, and nothing but argument reading and wiring.

pub(crate) mod config;
pub(crate) mod confirm;
pub(crate) mod diagnostics;
pub(crate) mod doctor;
pub(crate) mod manual;
pub(crate) mod otlp;
pub(crate) mod output;
pub(crate) mod reload;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod repro;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod sending;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod units;

use std::{fmt, process::ExitCode};

pub(crate) use diagnostics::say;

/// Exit status for bad arguments, or when this host can't do it.
pub(crate) const CANNOT: u8 = 2;

/// One clear line on stderr, and exit status 2.
pub(crate) fn cannot(verb: &str, why: &dyn fmt::Display) -> ExitCode {
    say(format_args!("ktls-trace {verb}: {why}"));
    ExitCode::from(CANNOT)
}

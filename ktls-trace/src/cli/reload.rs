//! What SIGHUP means for the options of `run`: the file is read again, and what may change while a run goes on does. All
//! of it or nothing: if something is wrong, everything stays as it was.

use std::{ffi::OsString, sync::Arc};

use ktls_trace::{
    correlate::event::{Changed, Reloaded},
    export::{Address, Exports, metrics::Metrics},
    watch::Reload,
};

use super::{
    config::{self, Values},
    run::{self, Args},
};

/// What the run itself can go by anew.
const RUN: [&str; 5] = ["threshold", "poll-interval", "pid", "port", "netns"];
/// Options of the destinations of events.
const OUTLETS: [&str; 10] = [
    "output",
    "format",
    "output-rotate",
    "output-keep",
    "output-sync",
    "journal",
    "otlp",
    "otlp-traces",
    "otlp-metrics",
    "otlp-interval",
];
/// Options of what is served over HTTP.
const HTTP: [&str; 2] = ["metrics-listen", "metrics-processes"];

/// Reads the options again.
pub(super) struct Reloader {
    /// The command line as it was given.
    given: Vec<OsString>,
    /// The same with its layers, as they count now.
    words: Vec<OsString>,
    /// What is counted.
    metrics: Arc<Metrics>,
}

impl Reloader {
    /// Of a run with this command line, without and with its layers.
    pub(super) fn new(given: Vec<OsString>, words: Vec<OsString>, metrics: Arc<Metrics>) -> Self {
        Self {
            given,
            words,
            metrics,
        }
    }

    /// Reads them, changes exports, and says what else there is to do; nothing if none has changed.
    pub(super) fn reread(&mut self, exports: &mut Exports) -> Result<Option<Reload>, String> {
        let words = config::layered(self.given.clone()).map_err(|error| error.to_string())?;
        let (before, was) = config::read(&self.words)?;
        let (args, is) = config::read(&words)?;
        let changed = changes(&was, &is);
        if changed.is_empty() {
            return Ok(None);
        }
        let reload = apply(&before, &args, changed, exports, &self.metrics);
        let reload = reload.map_err(|error| error.to_string())?;
        self.words = words;
        Ok(Some(reload))
    }
}

/// Changes exports, and says what else there is to do.
fn apply(
    before: &Args,
    args: &Args,
    changed: Vec<Changed>,
    exports: &mut Exports,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Reload> {
    let options = args.options(false)?;
    let any = |names: &[&str]| {
        changed
            .iter()
            .any(|change| names.contains(&&*change.option))
    };
    // First everything that can go wrong.
    let asking = exports.asking();
    let destinations = any(&OUTLETS)
        .then(|| args.destinations(metrics, &asking, true))
        .transpose()?;
    let missing = |addresses: &[Address], others: &[Address]| -> Vec<Address> {
        let new = addresses.iter().filter(|address| !others.contains(address));
        new.cloned().collect()
    };
    let (before, now) = (before.metrics_listen(), args.metrics_listen());
    let opened = run::listen(&missing(now, before))?;
    if exports.http.is_none() {
        exports.http = Args::serve(opened, metrics, asking)?;
    } else if let Some(http) = exports.http.as_ref().filter(|_| !now.is_empty()) {
        http.go_by(&missing(before, now), opened);
    } else {
        exports.http = None;
    }
    metrics.go_by(args.bounds());
    if let Some(destinations) = destinations {
        let replaced = exports.outlets.replace(destinations);
        replaced.map_err(run::cannot_start)?;
    }
    let lives = [&RUN[..], &OUTLETS, &HTTP].concat();
    let (changed, rest): (Vec<_>, Vec<_>) = changed
        .into_iter()
        .partition(|change| lives.contains(&&*change.option));
    Ok(Reload {
        threshold_ns: options.correlate.threshold_ns,
        poll_interval_ns: options.correlate.poll_interval_ns,
        filter: options.filter,
        netns: options.netns,
        told: Reloaded {
            changed,
            needs_restart: rest.into_iter().map(|change| change.option).collect(),
        },
    })
}

/// Which options are others than before.
fn changes(before: &Values, now: &Values) -> Vec<Changed> {
    let changed = now.iter().filter_map(|(option, is)| {
        let was = before.get(option).cloned().unwrap_or_default();
        (was != *is).then(|| Changed {
            option: option.clone(),
            was,
            is: is.clone(),
        })
    });
    changed.collect()
}

//! Real consumers of what the daemon exports, from Debian's archive: the folders of their programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::{apt::fetched, place::Place};

/// `prometheus` and `promtool`. Debian builds them without the receiver for OTLP, in every suite.
pub(crate) fn prometheus(place: &Place) -> Result<PathBuf> {
    let package = fetched(place, "prometheus", "prometheus", &["bookworm", "trixie"])?;
    Ok(package.join("usr/bin"))
}

/// `victoria-metrics`, which takes OTLP, and `vmalert`, which evaluates Prometheus's rules on it. Debian 13 has none of its own;
/// that of the next one runs on it, and on Debian 12.
pub(crate) fn victoria_metrics(place: &Place) -> Result<PathBuf> {
    let name = "victoria-metrics";
    let package = fetched(place, name, name, &["forky", "sid"])?;
    Ok(package.join("usr/bin"))
}

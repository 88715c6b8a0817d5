//! Which collector gets stalls and metrics by OTLP. A binary without the feature `otlp` has the options as well, and says
//! what it lacks to whoever gives one.

use std::{io, sync::Arc, time::Duration};

#[cfg(feature = "otlp")]
use ktls_trace::export::otlp::{Endpoint, Pushes, Traces};
use ktls_trace::export::{Asking, Destination, metrics::Metrics};

use super::units::parse_positive_time;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Otlp {
    /// Send stalls as spans to URL/v1/traces and metrics to URL/v1/metrics, by OTLP over HTTP (http:// only, no TLS): to a
    /// collector of OpenTelemetry
    #[arg(long = "otlp", id = "otlp", value_name = "URL")]
    base: Option<Endpoint>,
    /// Send stalls there, whatever --otlp says; alone, metrics are not sent
    #[arg(long = "otlp-traces", id = "otlp_traces", value_name = "URL")]
    traces: Option<Endpoint>,
    /// Send metrics there, whatever --otlp says; alone, stalls are not sent. Prometheus takes them at
    /// `http://HOST:9090/api/v1/otlp/v1/metrics`
    #[arg(long = "otlp-metrics", id = "otlp_metrics", value_name = "URL")]
    metrics: Option<Endpoint>,
    /// How often metrics are sent
    #[arg(
        long = "otlp-interval",
        id = "otlp_interval",
        default_value = "30s",
        requires = "pushes",
        value_name = "TIME",
        value_parser = parse_positive_time
    )]
    interval: Duration,
}

impl Otlp {
    /// What sends there.
    #[cfg(feature = "otlp")]
    pub(crate) fn destinations(
        &self,
        counted: &Arc<Metrics>,
        asking: &Asking,
    ) -> io::Result<Vec<Box<dyn Destination>>> {
        let Self {
            base,
            traces,
            metrics,
            interval,
        } = self;
        let below = |signal: fn(&Endpoint) -> Endpoint| base.as_ref().map(signal);
        let mut destinations: Vec<Box<dyn Destination>> = Vec::new();
        if let Some(endpoint) = traces.clone().or_else(|| below(Endpoint::of_traces)) {
            destinations.push(Box::new(Traces::to(endpoint)?));
        }
        if let Some(endpoint) = metrics.clone().or_else(|| below(Endpoint::of_metrics)) {
            let (counted, asking) = (Arc::clone(counted), asking.clone());
            let pushes = Pushes::to(endpoint, *interval, counted, asking)?;
            destinations.push(Box::new(pushes));
        }
        Ok(destinations)
    }

    /// Nothing does: there is no endpoint.
    #[cfg(not(feature = "otlp"))]
    #[expect(clippy::unnecessary_wraps, reason = "with the feature it may fail")]
    pub(crate) fn destinations(
        &self,
        _: &Arc<Metrics>,
        _: &Asking,
    ) -> io::Result<Vec<Box<dyn Destination>>> {
        let Self {
            base,
            traces,
            metrics,
            interval: _,
        } = self;
        if let Some(endpoint) = base.or(*traces).or(*metrics) {
            match endpoint {}
        }
        Ok(Vec::new())
    }
}

/// What no text names in a binary without the feature.
#[cfg(not(feature = "otlp"))]
#[derive(Clone, Copy, Debug)]
enum Endpoint {}

#[cfg(not(feature = "otlp"))]
impl std::str::FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Err("this binary was built without the feature otlp")
    }
}

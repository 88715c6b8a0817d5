//! Stalls as spans and metrics to a collector of `OpenTelemetry`, by OTLP over HTTP with protobuf in binary.
//!
//! Two destinations, each with a thread of its own as every destination has: [`Traces`] gathers an episode until it is
//! closed, [`Pushes`] sends what `/metrics` serves every so often. Which names they use is told in `docs/otlp.md`.

mod collector;
mod endpoint;
mod episodes;
mod points;
mod pushes;
mod resource;
mod span;
mod standing;
mod traces;
mod value;

pub use self::{endpoint::Endpoint, pushes::Pushes, traces::Traces};

/// Name of the instrumentation scope, and of the service.
const NAME: &str = "ktls-trace";

//! What is served where.

use std::{convert::Infallible, iter, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};

use super::Shared;
use crate::{
    export::{
        asking::Asking,
        metrics::{CONTENT_TYPE, Health, Live, classic},
        stream::Told,
    },
    kernel::facts,
};

/// What a request is answered from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) shared: Arc<Shared>,
    /// Of how the run is.
    pub(super) asking: Asking,
}

/// What is served where.
pub(super) fn routes(serving: Serving) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/stalls", get(stalls))
        .route("/events", get(events))
        .with_state(serving)
}

async fn index() -> &'static str {
    "ktls-trace\n\n/metrics  OpenMetrics text\n/healthz  whether everything that can be seen is seen\n\
     /stalls   stalls that are open now\n\
     /events   events as they come (server-sent events), after the last ones and every stall that is open\n"
}

async fn metrics(State(serving): State<Serving>, headers: HeaderMap) -> Response {
    let live = serving.asking.live().await;
    let accepted = headers.get(header::ACCEPT).map(HeaderValue::to_str);
    let newer =
        matches!(accepted, Some(Ok(kinds)) if kinds.contains("application/openmetrics-text"));
    match serving.shared.metrics.text(live) {
        Ok(text) if newer => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(text) => {
            let text = classic::from_open_metrics(&text);
            ([(header::CONTENT_TYPE, classic::CONTENT_TYPE)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// What `/healthz` says.
#[derive(Debug, Serialize, Deserialize)]
pub struct HealthReport {
    /// How the run is.
    pub status: Health,
    /// What can't be seen, in words.
    pub cannot_see: Vec<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of ktls-trace.
    pub version: String,
}

async fn healthz(State(serving): State<Serving>) -> Response {
    let Live {
        health, cannot_see, ..
    } = serving.asking.live().await;
    let code = if health == Health::Stuck {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let report = HealthReport {
        status: health,
        cannot_see,
        kernel: facts::release(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    json(code, &report)
}

async fn stalls(State(serving): State<Serving>) -> Response {
    let open = serving.shared.stream.open();
    let bytes: usize = open.iter().map(|told| told.json.len()).sum();
    let commas = open.len().saturating_sub(1);
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (
            header::CONTENT_LENGTH,
            HeaderValue::from(bytes + commas + "[]\n".len()),
        ),
    ];
    // One at a time: a client that reads slowly, or not at all, holds no copy of all of them.
    let events = open.into_iter().enumerate().map(|(index, told)| {
        let before = if index == 0 { "" } else { "," };
        format!("{before}{}", told.json)
    });
    let pieces = iter::once("[".to_owned())
        .chain(events)
        .chain(iter::once("]\n".to_owned()));
    let body = Body::from_stream(tokio_stream::iter(pieces.map(Ok::<_, Infallible>)));
    (headers, body).into_response()
}

/// An answer in JSON.
fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => json_text(code, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// An answer that is JSON already.
fn json_text(code: StatusCode, text: String) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (code, kind, text + "\n").into_response()
}

/// A stream of events.
type Events = Pin<Box<dyn tokio_stream::Stream<Item = Result<sse::Event, Infallible>> + Send>>;

async fn events(State(serving): State<Serving>) -> Response {
    let Ok(place) = Arc::clone(&serving.shared.listeners).try_acquire_owned() else {
        let why = "too many listen already\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let (kept, more) = serving.shared.stream.listen();
    let kept = tokio_stream::iter(kept).map(|told| sent(&told));
    let more = BroadcastStream::new(more).map(move |told| {
        // It is somebody else's once this one has gone.
        let _place = &place;
        match told {
            Ok(told) => sent(&told),
            Err(lagged) => sse::Event::default().comment(format!("missed: {lagged}")),
        }
    });
    let all: Events = Box::pin(kept.chain(more).map(Ok));
    Sse::new(all)
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// An event as a server-sent one.
fn sent(told: &Told) -> sse::Event {
    sse::Event::default().event(&told.name).data(&told.json)
}

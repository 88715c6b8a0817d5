//! The collector at the other end: one request at a time, on a connection of its own.

use std::{io, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::TcpStream, runtime::Runtime};

use super::endpoint::Endpoint;
use crate::export::Patience;

/// How long a request may take, connection and answer included.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// What is read of an answer at most, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
/// What is told of an answer in text at most, in characters.
const LONGEST_REASON: usize = 200;
/// What a collector may have one wait for at most.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// What is sent, and answered.
const PROTOBUF: &str = "application/x-protobuf";

/// Why a request was in vain.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be taken later: why not now, and after which time, if the collector has said that.
    Later(String, Option<Duration>),
    /// It will never be taken: why.
    Never(String),
}

/// A collector.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: Endpoint,
    /// What the one thread that sends waits with.
    runtime: Runtime,
}

impl Collector {
    /// Nothing is sent yet.
    pub(super) fn new(endpoint: Endpoint) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self { endpoint, runtime })
    }

    /// Waits for something as long as the run has patience.
    pub(super) fn wait<T>(
        &self,
        patience: &mut Patience,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        self.runtime.block_on(patience.wait(limit, future))
    }

    /// Has the collector take a message; what it answered.
    pub(super) fn post<A: Message + Default>(
        &self,
        patience: &mut Patience,
        message: &impl Message,
    ) -> Result<A, Failure> {
        let body = Bytes::from(message.encode_to_vec());
        let answered = self.wait(patience, ANSWERS_WITHIN, exchange(&self.endpoint, body));
        let later = |why: String| Failure::Later(format!("{}: {why}", self.endpoint), None);
        let answer = answered
            .ok_or_else(|| later("no answer in time".to_owned()))?
            .map_err(|error| later(error.to_string()))?;
        answer.judged().map_err(|failure| match failure {
            Failure::Later(why, after) => {
                Failure::Later(format!("{}: {why}", self.endpoint), after)
            }
            Failure::Never(why) => Failure::Never(format!("{}: {why}", self.endpoint)),
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It can't be reached.
    #[error(transparent)]
    Connection(#[from] io::Error),
    /// What is said there is no HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The request can't be made.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// The answer is too long, or breaks off.
    #[error("its answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// What a collector answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// What it means, as the protocol has it.
    fn judged<A: Message + Default>(&self) -> Result<A, Failure> {
        if self.status.is_success() {
            // Not a word of what was not taken: then all was.
            return Ok(A::decode(&*self.body).unwrap_or_default());
        }
        let why = format!("it answers {}{}", self.status, self.reason());
        Err(match self.status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Failure::Later(why, self.retry_after()),
            _ => Failure::Never(why),
        })
    }

    /// Its reason, if that is a line of text.
    fn reason(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty()
            || line.contains(|letter: char| letter.is_control() || letter == '\u{fffd}')
        {
            return String::new();
        }
        let line: String = line.chars().take(LONGEST_REASON).collect();
        format!(" ({line})")
    }

    /// When it may be asked again; it can also name a date, which nobody does.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
    }
}

/// Sends a request and reads the answer.
async fn exchange(endpoint: &Endpoint, body: Bytes) -> Result<Answer, Error> {
    let stream = TcpStream::connect(endpoint.host()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(endpoint.path())
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, PROTOBUF)
        .header(
            USER_AGENT,
            concat!("ktls-trace/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(body))?;
    let answer = async { whole(sender.send_request(request).await?).await };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It is over once what was sent has been answered; then there is still that to take.
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

/// An answer with all of its body.
async fn whole(answer: Response<Incoming>) -> Result<Answer, Error> {
    let (head, body) = answer.into_parts();
    let read = Limited::new(body, LONGEST_ANSWER).collect().await;
    let body = read.map_err(Error::Body)?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;

    use super::*;

    fn judged(status: u16, body: &'static str) -> Result<ExportTraceServiceResponse, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.into(),
        };
        answer.judged()
    }

    #[test]
    fn only_what_the_protocol_says_may_be_tried_again_is() {
        for status in [429, 502, 503, 504] {
            let failure = judged(status, "").unwrap_err();
            let Failure::Later(_, after) = failure else {
                panic!("{status}: {failure:?}")
            };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            let failure = judged(status, "no such place\nmore").unwrap_err();
            let Failure::Never(why) = failure else {
                panic!("{status}: {failure:?}")
            };
            assert!(why.ends_with(" (no such place)"), "{why}");
        }
        assert_eq!(judged(200, "").unwrap().partial_success, None);
        assert_eq!(judged(202, "no protobuf").unwrap().partial_success, None);
    }
}

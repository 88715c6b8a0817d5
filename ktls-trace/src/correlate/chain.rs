//! The causal chain of one hold: each link seen, refuted, or not observable.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    event::name_of,
    rules::{Gate, held_below_mss},
};
use crate::observe::{Hold, SocketState, says_more};

/// A link of the causal chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Link {
    /// Which.
    pub link: LinkName,
    /// What the facts say of it.
    pub status: Status,
}

/// The links of the chain in causal order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkName {
    /// Splice or sendfile said that more is to come (`splice_direct_to_actor` does with every chunk but the last).
    SpliceSetsMsgMore,
    /// Kernel TLS handed that flag to TCP with a complete record (`tls_push_sg`).
    FlagReachesTcp,
    /// Less than one MSS is unsent although the window is open.
    RecordBelowMssHeld,
    /// The writer meets a limit (`sk_stream_memory_free` says no).
    GateShuts,
    /// The writer was refused: it sleeps or got `-EAGAIN`.
    WriterRefused,
    /// The bytes leave later than the threshold.
    ReleaseDelayed,
}

impl LinkName {
    /// Its name, as in events.
    pub fn name(self) -> String {
        name_of(&self).unwrap_or_default()
    }
}

/// What the facts say of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was seen.
    Seen,
    /// It was looked at and does not hold.
    Refuted,
    /// It can't be seen here.
    NotObservable,
}

impl From<Option<bool>> for Status {
    fn from(seen: Option<bool>) -> Self {
        match seen {
            Some(true) => Self::Seen,
            Some(false) => Self::Refuted,
            None => Self::NotObservable,
        }
    }
}

/// That the flag reached TCP shows in what it left out; that it did not, does not.
fn told_by_tail(socket: &SocketState) -> Option<bool> {
    (!socket.tail_psh?).then_some(true)
}

/// The chain of a hold in an episode: there is an episode only because bytes left late.
pub fn of(hold: Option<&Hold>, refused: bool) -> Vec<Link> {
    let socket = hold.map(|hold| &hold.socket);
    let send = hold.and_then(|hold| hold.send.as_ref());
    let push = hold.and_then(Hold::last_push);
    let below_mss = socket.and_then(held_below_mss);
    let gate = socket
        .filter(|socket| socket.notsent_lowat.is_some() || socket.sndbuf.is_some())
        .map(|socket| Gate::of(socket).is_some());
    [
        (
            LinkName::SpliceSetsMsgMore,
            send.map(|send| send.is_splice() && says_more(send.flags)),
        ),
        (
            LinkName::FlagReachesTcp,
            push.map(|push| push.complete && says_more(push.flags))
                .or_else(|| told_by_tail(socket?)),
        ),
        (LinkName::RecordBelowMssHeld, below_mss),
        (LinkName::GateShuts, gate),
        (LinkName::WriterRefused, hold.map(|_| refused)),
        (LinkName::ReleaseDelayed, Some(true)),
    ]
    .into_iter()
    .map(|(link, seen)| Link {
        link,
        status: seen.into(),
    })
    .collect()
}

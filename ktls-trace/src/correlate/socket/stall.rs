//! The episode as an event tells it.

use super::Watched;
use crate::{
    correlate::{
        chain,
        episode::ms,
        event::{
            self, Evidence, Held, RecordEvidence, SendEvidence, SockDiagEvidence, Stall,
            TcpEvidence, WriterEvidence, flag_names,
        },
        holding::Holding,
        remedy::{self, Place},
        rules::Finding,
    },
    observe::{Hold, Sample},
};

impl Watched {
    /// The episode as an event tells it.
    pub(super) fn stall(&self, now_ns: u64) -> Option<Stall> {
        let episode = self.episode.as_ref()?;
        let holding = self.holding.as_ref().or(self.last.as_ref());
        let facts = holding.and_then(|holding| holding.facts.as_ref());
        let sample = holding.and_then(|holding| holding.sample.as_ref());
        let held_ms = match &self.holding {
            Some(holding) => ms(now_ns.saturating_sub(holding.since_ns)),
            None => self.last_ms,
        };
        let Finding {
            verdict,
            confidence,
            gate,
        } = episode.told;
        let remedy = remedy::of(verdict, gate, facts, self.place());
        Some(Stall {
            stall: episode.name.clone(),
            socket: event::Socket {
                cookie: self.cookie.map(|cookie| format!("{cookie:x}")),
                netns: self.netns,
                src: self.src.map(|address| address.to_string()),
                dst: self.dst.map(|address| address.to_string()),
                inode: self.inode,
            },
            process: self.process.clone(),
            tls: self.tls.clone(),
            verdict,
            confidence,
            gate,
            held: Held {
                bytes: holding.and_then(|holding| holding.bytes),
                records: holding.and_then(Holding::records),
                ms: held_ms,
            },
            released: episode.released.clone(),
            cadence: episode.cadence,
            evidence: self.evidence(holding, facts, sample),
            chain: chain::of(
                facts,
                holding.is_some_and(|holding| holding.refused.is_some()),
            ),
            remedy,
            ended: None,
            totals: episode.totals(now_ns),
        })
    }

    /// Where it lives, as seen from the daemon.
    fn place(&self) -> Place {
        let elsewhere = |(netns, own)| (netns != own).then_some(netns);
        let Some(netns) = self.netns.zip(self.own_netns).and_then(elsewhere) else {
            return Place::Here;
        };
        let pid = self.process.as_ref().map(|process| process.pid);
        // It may have been handed the socket, or have gone elsewhere since.
        let lives_there = |pid: &u32| {
            self.lives
                .is_none_or(|(named, lives)| named != *pid || lives == netns)
        };
        pid.filter(lives_there)
            .map_or(Place::Elsewhere(netns), Place::Of)
    }

    /// What the verdict rests on.
    pub(super) fn evidence(
        &self,
        holding: Option<&Holding>,
        facts: Option<&Hold>,
        sample: Option<&Sample>,
    ) -> Evidence {
        let mut sources = Vec::new();
        if facts.is_some() {
            sources.push("hooks");
        }
        if sample.is_some() {
            sources.push("sock_diag");
        }
        let send = facts.and_then(|facts| facts.send).map(|send| SendEvidence {
            flags: flag_names(send.flags),
            bytes: send.bytes,
            splice: send.is_splice(),
        });
        let record = facts
            .and_then(|facts| facts.push)
            .map(|push| RecordEvidence {
                flags: flag_names(push.flags),
                bytes: push.record_bytes,
                complete: push.complete,
            });
        Evidence {
            sources,
            send,
            record,
            writer: holding
                .and_then(|holding| holding.refused)
                .map(|blocking| WriterEvidence { blocking }),
            tcp: match (facts, sample) {
                (Some(facts), _) => TcpEvidence::of_socket(&facts.socket),
                (None, Some(sample)) => TcpEvidence::of_sample(sample),
                (None, None) => TcpEvidence::default(),
            },
            timer: sample.and_then(|sample| sample.timer.clone()),
            persist: self.persist,
            retransmit_timeouts: self.retransmit_timeouts,
            sock_diag: sample.map(SockDiagEvidence::of_sample),
        }
    }
}

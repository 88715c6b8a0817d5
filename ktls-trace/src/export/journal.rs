//! Events in the journal of systemd, with their facts as fields: `journalctl VERDICT=corked-completed-record`.
//!
//! The stalled process is named by `OBJECT_PID=`. journald looks up its unit, so that
//! `journalctl --unit nginx.service` shows the stalls of that unit.

use std::{io, path::Path};

use libsystemd::logging::{Priority, journal_send};

use super::{Destination, Written};
use crate::{
    correlate::{
        event::{Body, Event, Name, Stall, name_of},
        rules::Verdict,
    },
    report,
};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal.
#[derive(Debug)]
pub struct Journal {
    /// Whether the last event was lost.
    failing: bool,
}

impl Journal {
    /// Looks whether there is one.
    ///
    /// # Errors
    ///
    /// If journald's socket is not there.
    pub fn open() -> io::Result<Self> {
        Path::new(SOCKET).metadata().map_err(|error| {
            io::Error::new(error.kind(), format!("no journal at {SOCKET}: {error}"))
        })?;
        Ok(Self { failing: false })
    }
}

impl Destination for Journal {
    fn place(&self) -> &'static str {
        "journal"
    }

    fn write(&mut self, event: &Event) -> Written {
        let sent = journal_send(
            priority(event),
            &report::text::headline(event),
            fields(event).into_iter(),
        );
        match sent {
            Ok(()) => {
                self.failing = false;
                Written::Yes
            }
            Err(_) if self.failing => Written::StillLost,
            Err(error) => {
                self.failing = true;
                Written::Lost(error.to_string())
            }
        }
    }
}

/// How urgent it is: what a host's owner can do something about is a warning.
fn priority(event: &Event) -> Priority {
    match &event.body {
        Body::Stall(stall)
            if stall.verdict == Verdict::CorkedCompletedRecord
                && event.event != Name::StallClosed =>
        {
            Priority::Warning
        }
        Body::Stall(_) => Priority::Notice,
        Body::Lost(_) => Priority::Warning,
        Body::Started(_) | Body::Probes(_) | Body::Reloaded(_) | Body::Stopped(_) => Priority::Info,
    }
}

/// Its facts. Whatever is not known has no field.
fn fields(event: &Event) -> Vec<(&'static str, String)> {
    let mut fields = vec![("KTLS_EVENT", name_of(&event.event).unwrap_or_default())];
    if let Ok(json) = serde_json::to_string(event) {
        fields.push(("KTLS_JSON", json));
    }
    if let Body::Stall(stall) = &event.body {
        fields.extend(stall_fields(stall));
    }
    fields
}

fn stall_fields(stall: &Stall) -> impl Iterator<Item = (&'static str, String)> {
    let Stall {
        stall: name,
        socket,
        process,
        verdict,
        confidence,
        gate,
        held,
        remedy,
        ..
    } = stall;
    let process = process.as_ref();
    [
        ("KTLS_STALL", Some(name.clone())),
        ("VERDICT", name_of(verdict)),
        ("CONFIDENCE", name_of(confidence)),
        ("GATE", gate.and_then(|gate| name_of(&gate))),
        ("HELD_BYTES", held.bytes.map(|bytes| bytes.to_string())),
        ("HELD_MS", Some(held.ms.to_string())),
        ("SRC", socket.src.clone()),
        ("DST", socket.dst.clone()),
        ("COOKIE", socket.cookie.clone()),
        ("NETNS", socket.netns.map(|netns| netns.to_string())),
        ("OBJECT_PID", process.map(|process| process.pid.to_string())),
        ("COMM", process.and_then(|process| process.comm.clone())),
        ("REMEDY", (!remedy.is_empty()).then(|| remedy.join("\n"))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::{rules::Gate, tests::stall_event};

    #[test]
    fn a_stall_has_its_facts_as_fields_and_none_for_what_is_not_known() {
        let verdict = Verdict::CorkedCompletedRecord;
        let gate = Some(Gate::NotsentLowat);
        let mut event = stall_event(Name::StallOpened, "1-a", verdict, gate);
        if let Body::Stall(stall) = &mut event.body {
            stall.socket.netns = None;
        }
        let fields = fields(&event);
        let field = |name| {
            let named = fields.iter().find(|(field, _)| *field == name);
            named.map(|(_, value)| value.as_str())
        };
        assert_eq!(field("KTLS_EVENT"), Some("stall-opened"));
        assert_eq!(field("KTLS_STALL"), Some("1-a"));
        assert_eq!(field("VERDICT"), Some("corked-completed-record"));
        assert_eq!(field("GATE"), Some("notsent-lowat"));
        assert_eq!(field("OBJECT_PID"), Some("100"));
        assert_eq!(field("NETNS"), None);
        assert!(field("KTLS_JSON").unwrap().starts_with("{\"schema\""));
        assert_eq!(u8::from(priority(&event)), 4);
        let headline = report::text::headline(&event);
        assert!(
            headline.starts_with("STALL ") && !headline.contains('\n'),
            "{headline}"
        );
    }
}

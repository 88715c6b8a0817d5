//! `send-buffer-limited`: nothing is unsent, yet the writer is refused: the send buffer is full of data in
//! flight (`sk_wmem_queued >= sk_sndbuf`), and only its acknowledgement makes room.
//!
//! Refuted by unsent bytes (something else holds those) and by a buffer that has room.

use super::{Facts, Finding, Verdict, confidence};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let hooks = facts.hold.and_then(|hold| {
        let socket = &hold.socket;
        let full = socket.buffer_is_full()?;
        Some(full && socket.notsent()? == 0 && socket.packets_out? > 0)
    });
    let sock_diag = facts.sample.and_then(|sample| {
        let full = sample.buffer_is_full()?;
        Some(full && sample.notsent? == 0 && sample.packets_out? > 0)
    });
    // That a writer waits is only seen by the hooks: a full buffer alone is no stall.
    if hooks != Some(true) {
        return None;
    }
    let confidence = confidence(true, sock_diag == Some(true))?;
    Some(Finding::new(Verdict::SendBufferLimited, confidence))
}

//! `encryption-pending`: TCP has nothing left to send and nothing in flight, and records are with an
//! asynchronous cipher that has not returned them (`tls_sw_context_tx.encrypt_pending`).
//!
//! Refuted by bytes that TCP holds: they are held for another reason. `sock_diag` does not show it, so it
//! is `consistent` at most.

use super::{Confidence, Facts, Finding, Verdict};

pub(super) fn judge(facts: &Facts<'_>) -> Option<Finding> {
    let socket = &facts.hold?.socket;
    let pending = socket.encrypt_pending? > 0;
    let idle = socket.notsent()? == 0 && socket.packets_out? == 0;
    (pending && idle).then_some(Finding::new(
        Verdict::EncryptionPending,
        Confidence::Consistent,
    ))
}

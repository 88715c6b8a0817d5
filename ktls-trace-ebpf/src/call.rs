//! Follows a call from its entry to its return: a kretprobe sees the return value, but no argument.
//!
//! Only functions that run in process context are followed, so the thread is the key.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap, programs::ProbeContext,
};
use ktls_trace_common::counter;

use crate::maps::count;

/// One call under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// The socket.
    pub(crate) sk: u64,
    /// When it was entered, in nanoseconds.
    pub(crate) begin_ns: u64,
}

/// Calls under way of one function, by thread.
pub(crate) type Calls = HashMap<u64, Call>;

/// Records being handed over (`tls_push_sg`).
#[map]
pub(crate) static PUSHING: Calls = HashMap::with_max_entries(8192, 0);

/// Notes that this thread entered the function.
#[inline(always)]
pub(crate) fn enter(calls: &Calls, sk: u64, begin_ns: u64) {
    if calls
        .insert(bpf_get_current_pid_tgid(), Call { sk, begin_ns }, 0)
        .is_err()
    {
        count(counter::LOST_CALL);
    }
}

/// Takes the call that this thread returns from.
#[inline(always)]
pub(crate) fn leave(calls: &Calls) -> Option<Call> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the entry is only touched by its own thread.
    let call = unsafe { calls.get(thread) }.copied()?;
    // Gone already is as good as removed.
    let _gone = calls.remove(thread);
    Some(call)
}

/// The `flags` argument, at the position that BTF names. The verifier wants a constant position, so
/// there is one arm for each that kernels have; with several the compiler would make one load with a
/// computed position of them, which the verifier refuses.
#[inline(always)]
pub(crate) fn flags(ctx: &ProbeContext, position: u32) -> Option<u32> {
    if position == 4 { ctx.arg(4) } else { None }
}

//! The programs' counters: slots of one per-CPU array, so that nothing that is dropped or set aside
//! in the kernel goes unnoticed.

/// `sk_stream_wait_memory` was entered for a socket with software kTLS transmit.
pub const REFUSED: u32 = 0;
/// … and looked like ordinary back-pressure: nothing was sent to user space.
pub const BACK_PRESSURE: u32 = 1;
/// … and nothing had moved since it was last reported (a writer that keeps asking).
pub const REPEATED: u32 = 2;
/// An event was lost because the ring buffer was full.
pub const LOST_RING: u32 = 3;
/// A socket could not be put under suspicion because the map was full.
pub const LOST_SUSPECT: u32 = 4;
/// A call could not be followed from entry to return because the map was full.
pub const LOST_CALL: u32 = 5;
/// Complete records handed to TCP (`tls_push_sg` returned 0).
pub const RECORDS: u32 = 6;
/// … of which with `MSG_MORE`.
pub const RECORDS_MORE: u32 = 7;
/// Sends begun (`tls_sw_sendmsg`, `tls_sw_sendpage`).
pub const SENDS: u32 = 8;
/// The persist timer fired for a socket with software kTLS transmit (`tcp_send_probe0`).
pub const PERSIST_FIRED: u32 = 9;
/// A zero-window probe was sent for such a socket (`tcp_xmit_probe_skb`).
pub const ZERO_WINDOW_PROBE: u32 = 10;
/// Number of slots.
pub const SLOTS: u32 = 11;

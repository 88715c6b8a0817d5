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
/// Nothing could be remembered of a send or a record because the map had no room.
pub const LOST_SEND: u32 = 5;
/// Complete records handed to TCP (`tls_push_sg`), each counted once when that begins.
pub const RECORDS: u32 = 6;
/// … of which with `MSG_MORE`.
pub const RECORDS_MORE: u32 = 7;
/// Sends begun (`tls_sw_sendmsg`, `tls_sw_sendpage`).
pub const SENDS: u32 = 8;
/// The persist timer fired for a socket with software kTLS transmit (`tcp_send_probe0`).
pub const PERSIST_FIRED: u32 = 9;
/// A zero-window probe was sent for such a socket (`tcp_xmit_probe_skb`).
pub const ZERO_WINDOW_PROBE: u32 = 10;
/// The retransmission timer fired for such a socket (`tcp_enter_loss`).
pub const RETRANSMIT_TIMEOUT: u32 = 11;
/// Sends begun by splice or sendfile (`MSG_SPLICE_PAGES`, or `tls_sw_sendpage` before 6.5).
pub const SENDS_SPLICE: u32 = 12;
/// … of which with `MSG_MORE`.
pub const SENDS_SPLICE_MORE: u32 = 13;
/// Bytes of the complete records, TLS overhead included.
pub const RECORD_BYTES: u32 = 14;
/// Records with `MSG_MORE` of which, when the writer came with the next or was refused, less than one MSS was left
/// unsent, with the window open; counted only if the filter names a UTS namespace.
pub const RECORDS_HELD: u32 = 15;
/// Number of slots.
pub const SLOTS: u32 = 16;

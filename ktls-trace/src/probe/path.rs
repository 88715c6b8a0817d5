//! Who let held bytes go, read from the stack at `tcp_event_new_data_sent`.

use crate::{kernel::symbols::Symbols, observe::ReleasePath};

/// Tells the path from a stack, innermost frame first. The innermost function that decides wins:
/// an acknowledgement may be processed on top of a send, in the sender's own context.
pub fn release_path(stack: &[u64], symbols: &Symbols) -> ReleasePath {
    stack
        .iter()
        .filter_map(|&address| symbols.name_of(address))
        .find_map(path_of)
        .unwrap_or(ReleasePath::Unknown)
}

/// The path that a function belongs to, if it decides.
fn path_of(function: &str) -> Option<ReleasePath> {
    Some(match function {
        "tcp_rcv_established" | "tcp_rcv_state_process" => ReleasePath::PeerAck,
        "tcp_write_wakeup" | "tcp_send_probe0" => ReleasePath::PersistTimer,
        "__tcp_close" | "tcp_close" | "tcp_shutdown" | "tcp_send_fin" | "inet_shutdown"
        | "tls_sk_proto_close" => ReleasePath::Close,
        "tls_push_sg"
        | "tls_sw_sendmsg"
        | "tls_sw_sendpage"
        | "tls_sw_sendmsg_locked"
        | "tcp_sendmsg_locked"
        | "tcp_sendpage_locked"
        | "do_tcp_sendpages"
        | "do_tcp_setsockopt" => ReleasePath::LaterSend,
        // `tcp_tsq_handler` is inlined into its callers in some builds.
        "tcp_tsq_handler" | "tcp_tsq_write" | "tcp_tsq_workfn" | "tcp_tasklet_func"
        | "tcp_pace_kick" | "tcp_release_cb" => ReleasePath::TransmitQueue,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "\
0000000000001000 T tcp_rcv_established
0000000000002000 T tcp_send_probe0
0000000000003000 t tls_push_sg\t[tls]
0000000000004000 t tls_sw_sendmsg\t[tls]
0000000000005000 T tcp_send_fin
0000000000006000 T other
0000000000007000 T end
";

    fn path(stack: &[u64]) -> ReleasePath {
        release_path(stack, &Symbols::from_kallsyms(KALLSYMS.as_bytes()).unwrap())
    }

    #[test]
    fn an_ack_processed_by_the_sender_itself_is_the_peers() {
        assert_eq!(
            path(&[0x6010, 0x1010, 0x6020, 0x4010]),
            ReleasePath::PeerAck
        );
    }

    #[test]
    fn timer_later_send_and_close_are_told_apart() {
        assert_eq!(path(&[0x6010, 0x2010]), ReleasePath::PersistTimer);
        assert_eq!(path(&[0x6010, 0x3010, 0x4010]), ReleasePath::LaterSend);
        assert_eq!(path(&[0x6010, 0x5010]), ReleasePath::Close);
    }

    #[test]
    fn an_empty_or_foreign_stack_is_unknown() {
        assert_eq!(path(&[]), ReleasePath::Unknown);
        assert_eq!(path(&[0x6010, 0]), ReleasePath::Unknown);
    }
}

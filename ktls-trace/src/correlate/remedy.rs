//! What can be done about a corked record, as commands for the host at hand.

use super::rules::{Gate, Verdict, never_pushed};
use crate::observe::Hold;

/// The kernel's own `tcp_wmem[1]`, in bytes.
const DEFAULT_WMEM: u32 = 16384;
/// Largest segment, in bytes.
const LARGEST_MSS: u32 = 65535;

/// Commands for a verdict; none where nothing on this host cures it. `hold` is what the hooks saw, `in_netns_of` names a
/// process if the socket lives in another network namespace than the daemon.
pub fn of(
    verdict: Verdict,
    gate: Option<Gate>,
    hold: Option<&Hold>,
    in_netns_of: Option<u32>,
) -> Vec<String> {
    match (verdict, gate.zip(hold)) {
        (Verdict::CorkedCompletedRecord, Some((gate, hold))) => {
            corked_record(hold, gate, in_netns_of)
        }
        (Verdict::CorkedCompletedRecord, None) => {
            let room = room_above(LARGEST_MSS);
            vec![format!(
                "# which gate is shut was not seen: raise net.ipv4.tcp_notsent_lowat, or the socket's own \
                 TCP_NOTSENT_LOWAT, to {room} or more, and the send buffer to several segments"
            )]
        }
        (Verdict::SendBufferLimited, _) => {
            larger_send_buffer(&prefix(in_netns_of), DEFAULT_WMEM).into()
        }
        (Verdict::Nagle, _) => {
            vec!["# the application leaves TCP_NODELAY off: set it on the socket".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// What enters another network namespace.
fn prefix(in_netns_of: Option<u32>) -> String {
    in_netns_of.map_or_else(String::new, |pid| format!("nsenter -t {pid} -n "))
}

/// Commands that make send buffers several segments large; at first they have `initial` bytes.
fn larger_send_buffer(prefix: &str, initial: u32) -> [String; 2] {
    [
        format!("{prefix}sysctl -w net.ipv4.tcp_wmem='4096 {initial} 4194304'"),
        "# if the application sets SO_SNDBUF itself: raise it there to several segments".to_owned(),
    ]
}

/// A `tcp_notsent_lowat` that is shut only by more than one segment; a power of two above that leaves room for the next record.
fn room_above(mss: u32) -> u32 {
    mss.saturating_add(16384)
        .checked_next_power_of_two()
        .unwrap_or(u32::MAX)
}

/// Commands that open the gate.
fn corked_record(hold: &Hold, gate: Gate, in_netns_of: Option<u32>) -> Vec<String> {
    let prefix = prefix(in_netns_of);
    let socket = &hold.socket;
    // Then TCP is asked to send once an skb is full, which has room for a segment of the largest size whatever the MSS is.
    let hangs = never_pushed(hold);
    let room = room_above(match socket.mss {
        Some(mss) if !hangs => mss,
        _ => LARGEST_MSS,
    });
    let mut remedy = Vec::new();
    if matches!(gate, Gate::NotsentLowat | Gate::Both) {
        if socket.own_lowat == Some(true) {
            remedy.push(format!(
                "# the application sets TCP_NOTSENT_LOWAT itself: raise it there to {room} or more"
            ));
        } else {
            remedy.push(format!(
                "{prefix}sysctl -w net.ipv4.tcp_notsent_lowat={room}"
            ));
        }
    }
    // What hangs there has not sent enough for its buffer to have grown: once the other gate is open it would meet this one.
    let small = hangs && socket.sndbuf.is_some_and(|sndbuf| sndbuf < room);
    if small || matches!(gate, Gate::Sndbuf | Gate::Both) {
        let initial = if hangs { room } else { DEFAULT_WMEM };
        remedy.extend(larger_send_buffer(&prefix, initial));
    }
    if hangs {
        remedy.push(
            "# that wakes no connection that hangs already: set TCP_NOTSENT_LOWAT on its socket (pidfd_getfd), or end it"
                .to_owned(),
        );
    }
    remedy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{correlate::rules::tests::corked, observe::MSG_SENDPAGE_NOTLAST};

    #[test]
    fn the_sysctl_is_raised_above_the_mss() {
        let remedy = corked_record(&corked(), Gate::NotsentLowat, None);
        assert_eq!(remedy, ["sysctl -w net.ipv4.tcp_notsent_lowat=131072"]);
    }

    #[test]
    fn a_sockets_own_setting_is_not_cured_by_the_sysctl() {
        let mut hold = corked();
        hold.socket.own_lowat = Some(true);
        let remedy = corked_record(&hold, Gate::NotsentLowat, None);
        assert!(remedy[0].starts_with("# the application sets TCP_NOTSENT_LOWAT"));
    }

    #[test]
    fn before_6_5_the_mss_plays_no_part_and_what_hangs_is_not_woken() {
        let mut hold = corked();
        hold.push.as_mut().unwrap().flags |= MSG_SENDPAGE_NOTLAST;
        (hold.socket.mss, hold.socket.timer_pending) = (Some(1448), Some(false));
        let remedy = corked_record(&hold, Gate::NotsentLowat, None);
        assert_eq!(remedy[0], "sysctl -w net.ipv4.tcp_notsent_lowat=131072");
        assert!(remedy[1].starts_with("# that wakes no connection"));
        // The buffer that a connection with a small MSS begins with.
        hold.socket.sndbuf = Some(46080);
        let buffer = "sysctl -w net.ipv4.tcp_wmem='4096 131072 4194304'";
        for gate in [Gate::NotsentLowat, Gate::Sndbuf] {
            let remedy = corked_record(&hold, gate, None);
            assert!(remedy.iter().any(|line| line == buffer), "{remedy:?}");
        }
    }

    #[test]
    fn where_the_gate_was_not_seen_both_are_named() {
        let remedy = of(Verdict::CorkedCompletedRecord, None, None, None);
        assert!(remedy[0].starts_with("# which gate is shut was not seen"));
        assert_eq!(of(Verdict::ZeroWindow, None, None, None), [""; 0]);
    }

    #[test]
    fn another_namespace_is_entered() {
        let remedy = corked_record(&corked(), Gate::NotsentLowat, Some(42));
        assert_eq!(
            remedy,
            ["nsenter -t 42 -n sysctl -w net.ipv4.tcp_notsent_lowat=131072"]
        );
    }
}

//! What can be done about a corked record, as commands for the host at hand.

use super::rules::{Gate, Verdict};
use crate::observe::SocketState;

/// Commands for a verdict; none where nothing on this host cures it. `in_netns_of` names a process if the
/// socket lives in another network namespace than the daemon.
pub fn of(
    verdict: Verdict,
    gate: Option<Gate>,
    socket: &SocketState,
    in_netns_of: Option<u32>,
) -> Vec<String> {
    match (verdict, gate) {
        (Verdict::CorkedCompletedRecord, Some(gate)) => corked_record(socket, gate, in_netns_of),
        (Verdict::SendBufferLimited, _) => larger_send_buffer(&prefix(in_netns_of)).into(),
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

/// Commands that make send buffers several segments large.
fn larger_send_buffer(prefix: &str) -> [String; 2] {
    [
        format!("{prefix}sysctl -w net.ipv4.tcp_wmem='4096 16384 4194304'"),
        "# if the application sets SO_SNDBUF itself: raise it there to several segments".to_owned(),
    ]
}

/// Commands that open the gate.
fn corked_record(socket: &SocketState, gate: Gate, in_netns_of: Option<u32>) -> Vec<String> {
    let prefix = prefix(in_netns_of);
    let mss = socket.mss.unwrap_or(65535);
    // The gate opens only past one MSS; a power of two above it leaves room for the next record.
    let room = mss
        .saturating_add(16384)
        .checked_next_power_of_two()
        .unwrap_or(u32::MAX);
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
    if matches!(gate, Gate::Sndbuf | Gate::Both) {
        remedy.extend(larger_send_buffer(&prefix));
    }
    remedy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::rules::tests::corked;

    #[test]
    fn the_sysctl_is_raised_above_the_mss() {
        let remedy = corked_record(&corked().socket, Gate::NotsentLowat, None);
        assert_eq!(remedy, ["sysctl -w net.ipv4.tcp_notsent_lowat=131072"]);
    }

    #[test]
    fn a_sockets_own_setting_is_not_cured_by_the_sysctl() {
        let mut socket = corked().socket;
        socket.own_lowat = Some(true);
        let remedy = corked_record(&socket, Gate::NotsentLowat, None);
        assert!(remedy[0].starts_with("# the application sets TCP_NOTSENT_LOWAT"));
    }

    #[test]
    fn another_namespace_is_entered() {
        let remedy = corked_record(&corked().socket, Gate::NotsentLowat, Some(42));
        assert_eq!(
            remedy,
            ["nsenter -t 42 -n sysctl -w net.ipv4.tcp_notsent_lowat=131072"]
        );
    }
}

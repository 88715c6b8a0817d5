//! What can be done about a corked record, as commands for the host at hand.

use super::rules::{Gate, Verdict, never_pushed};
use crate::observe::Hold;

/// The kernel's own `tcp_wmem[1]`, in bytes.
const DEFAULT_WMEM: u32 = 16384;
/// The kernel's own `tcp_wmem[2]` at most, in bytes (`tcp_init`).
const LARGEST_WMEM: u32 = 4_194_304;
/// Largest segment, in bytes.
const LARGEST_MSS: u32 = 65535;

/// Where the network namespace of a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The daemon's own.
    Here,
    /// That of this process.
    Of(u32),
    /// One with this inode number, of which no process is known.
    Elsewhere(u32),
}

impl Place {
    /// A command that has to be run there.
    fn command(self, command: &str) -> String {
        match self {
            Self::Here => command.to_owned(),
            Self::Of(pid) => format!("nsenter -t {pid} -n {command}"),
            Self::Elsewhere(inode) => {
                format!("# in network namespace {inode} (lsns --type net): {command}")
            }
        }
    }
}

/// Commands for a verdict; none where nothing on this host cures it. `hold` is what the hooks saw.
pub fn of(verdict: Verdict, gate: Option<Gate>, hold: Option<&Hold>, place: Place) -> Vec<String> {
    match (verdict, gate.zip(hold)) {
        (Verdict::CorkedCompletedRecord, Some((gate, hold))) => corked_record(hold, gate, place),
        (Verdict::CorkedCompletedRecord, None) => {
            let room = room_above(LARGEST_MSS);
            vec![format!(
                "# which gate is shut was not seen: raise net.ipv4.tcp_notsent_lowat, or the socket's own \
                 TCP_NOTSENT_LOWAT, to {room} or more, and the send buffer to several segments"
            )]
        }
        (Verdict::SendBufferLimited, _) => larger_send_buffer(place, DEFAULT_WMEM).into(),
        (Verdict::Nagle, _) => {
            vec!["# the application leaves TCP_NODELAY off: set it on the socket".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Commands that make send buffers several segments large, and at first `initial` bytes at least; none that is larger already becomes smaller.
fn larger_send_buffer(place: Place, initial: u32) -> [String; 2] {
    [
        place.command(&format!(
            "sh -c 'read -r a b c < /proc/sys/net/ipv4/tcp_wmem; sysctl -w \
             net.ipv4.tcp_wmem=\"$a $((b > {initial} ? b : {initial})) $((c > {LARGEST_WMEM} ? c : {LARGEST_WMEM}))\"'"
        )),
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
fn corked_record(hold: &Hold, gate: Gate, place: Place) -> Vec<String> {
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
            remedy.push(place.command(&format!("sysctl -w net.ipv4.tcp_notsent_lowat={room}")));
        }
    }
    // What hangs there has not sent enough for its buffer to have grown: once the other gate is open it would meet this one.
    let small = hangs && socket.sndbuf.is_some_and(|sndbuf| sndbuf < room);
    if small || matches!(gate, Gate::Sndbuf | Gate::Both) {
        let initial = if hangs { room } else { DEFAULT_WMEM };
        remedy.extend(larger_send_buffer(place, initial));
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
        let remedy = corked_record(&corked(), Gate::NotsentLowat, Place::Here);
        assert_eq!(remedy, ["sysctl -w net.ipv4.tcp_notsent_lowat=131072"]);
    }

    #[test]
    fn a_sockets_own_setting_is_not_cured_by_the_sysctl() {
        let mut hold = corked();
        hold.socket.own_lowat = Some(true);
        let remedy = corked_record(&hold, Gate::NotsentLowat, Place::Here);
        assert!(remedy[0].starts_with("# the application sets TCP_NOTSENT_LOWAT"));
    }

    #[test]
    fn before_6_5_the_mss_plays_no_part_and_what_hangs_is_not_woken() {
        let mut hold = corked();
        hold.push.as_mut().unwrap().flags |= MSG_SENDPAGE_NOTLAST;
        (hold.socket.mss, hold.socket.timer_pending) = (Some(1448), Some(false));
        let remedy = corked_record(&hold, Gate::NotsentLowat, Place::Here);
        assert_eq!(remedy[0], "sysctl -w net.ipv4.tcp_notsent_lowat=131072");
        assert!(remedy[1].starts_with("# that wakes no connection"));
        // The buffer that a connection with a small MSS begins with.
        hold.socket.sndbuf = Some(46080);
        for gate in [Gate::NotsentLowat, Gate::Sndbuf] {
            let remedy = corked_record(&hold, gate, Place::Here);
            let raised = |line: &String| line.contains("tcp_wmem") && line.contains("b > 131072");
            assert!(remedy.iter().any(raised), "{remedy:?}");
        }
    }

    #[test]
    fn where_the_gate_was_not_seen_both_are_named() {
        let remedy = of(Verdict::CorkedCompletedRecord, None, None, Place::Here);
        assert!(remedy[0].starts_with("# which gate is shut was not seen"));
        assert_eq!(of(Verdict::ZeroWindow, None, None, Place::Here), [""; 0]);
    }

    /// The command as a shell reads it, with that file and `echo` for what would change the host.
    fn raised_from(wmem: &str) -> String {
        let file = std::env::temp_dir().join(format!("ktls-trace-wmem-{}", std::process::id()));
        std::fs::write(&file, wmem).unwrap();
        let [command, _] = larger_send_buffer(Place::Here, DEFAULT_WMEM);
        let command = command
            .replace("/proc/sys/net/ipv4/tcp_wmem", file.to_str().unwrap())
            .replace("sysctl -w", "echo");
        let shell = std::process::Command::new("sh")
            .args(["-c", &command])
            .output();
        std::fs::remove_file(&file).unwrap();
        String::from_utf8(shell.unwrap().stdout).unwrap()
    }

    #[test]
    fn a_send_buffer_that_is_large_already_becomes_no_smaller() {
        let small = raised_from("4096\t8192\t9216\n");
        assert_eq!(small, "net.ipv4.tcp_wmem=4096 16384 4194304\n");
        let large = raised_from("4096\t65536\t16777216\n");
        assert_eq!(large, "net.ipv4.tcp_wmem=4096 65536 16777216\n");
    }

    #[test]
    fn where_no_process_of_the_namespace_is_known_nothing_is_done_to_the_daemons() {
        let remedy = corked_record(&corked(), Gate::Both, Place::Elsewhere(7));
        assert!(
            remedy[..2]
                .iter()
                .all(|line| line.starts_with("# in network namespace 7 ")),
            "{remedy:?}"
        );
    }

    #[test]
    fn another_namespace_is_entered() {
        let remedy = corked_record(&corked(), Gate::NotsentLowat, Place::Of(42));
        assert_eq!(
            remedy,
            ["nsenter -t 42 -n sysctl -w net.ipv4.tcp_notsent_lowat=131072"]
        );
    }
}

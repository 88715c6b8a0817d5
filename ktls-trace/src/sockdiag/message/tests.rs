//! Requests and answers, made by hand, made at random, and recorded from kernels (tests/fixtures/sockdiag).

use netlink_packet_core::Emitable;
use netlink_packet_sock_diag::inet::InetResponseHeader;
use proptest::prelude::*;

use super::{
    super::{TcpState, TimerKind, TlsCipher, TlsConf, TlsVersion, attributes::tests::attribute},
    *,
};

fn header(state: u8) -> Vec<u8> {
    let mut socket_id = HeaderId::new_v4();
    socket_id.source_address = "192.0.2.1".parse().unwrap();
    socket_id.destination_address = "192.0.2.2".parse().unwrap();
    socket_id.source_port = 443;
    socket_id.destination_port = 50000;
    socket_id.cookie = cookie_to_bytes(0x1_0000_0002);
    let header = InetResponseHeader {
        family: AF_INET,
        state,
        timer: None,
        socket_id,
        recv_queue: 0,
        send_queue: 16406,
        uid: 33,
        inode: 9349,
    };
    let mut bytes = vec![0; HEADER_BYTES];
    header.emit(&mut bytes);
    bytes
}

fn netlink(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn only(datagram: &[u8]) -> Reply {
    let mut all = replies(datagram);
    let reply = all.next().unwrap().unwrap();
    assert!(all.next().is_none());
    reply
}

#[test]
fn a_socket_is_read_from_header_and_attributes() {
    let mut fixed = header(1);
    fixed[TIMER] = 5;
    fixed[EXPIRES..EXPIRES + 4].copy_from_slice(&28_u32.to_ne_bytes());
    let payload = [
        fixed,
        attribute(99, &[1, 2, 3]),
        attribute(INET_DIAG_SKMEMINFO, &[1; 36]),
    ]
    .concat();
    let reply = only(&netlink(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP_INTR, &payload));
    assert_eq!((reply.sequence, reply.interrupted), (7, true));
    let Body::Sample(sample) = reply.body else {
        panic!("{reply:?}")
    };
    assert_eq!(sample.src, "192.0.2.1:443".parse().unwrap());
    assert_eq!(sample.cookie, 0x1_0000_0002);
    assert_eq!(
        (sample.inode, sample.uid, sample.send_queue),
        (Some(9349), 33, 16406)
    );
    assert_eq!(sample.timer, Timer::decode(5, 28, 0));
    assert_eq!(sample.mem.unwrap().sndbuf, Some(0x0101_0101));
    assert_eq!((sample.tcp, sample.ulp), (TcpInfo::default(), None));
}

#[test]
fn errors_and_ends_are_told_apart() {
    let refused = |kind, code: i32| only(&netlink(kind, 0, &code.to_ne_bytes())).body;
    assert_eq!(
        refused(NLMSG_ERROR, -libc::ENOENT),
        Body::Refused(Errno::ENOENT)
    );
    assert_eq!(refused(NLMSG_ERROR, 0), Body::Done);
    assert_eq!(
        refused(NLMSG_DONE, -libc::EINVAL),
        Body::Refused(Errno::EINVAL)
    );
    assert_eq!(refused(NLMSG_DONE, 0), Body::Done);
    assert_eq!(only(&netlink(NLMSG_DONE, 0, &[])).body, Body::Done);
    assert_eq!(only(&netlink(NLMSG_OVERRUN, 0, &[])).body, Body::Overrun);
    assert_eq!(only(&netlink(999, 0, &[])).body, Body::Nothing);
}

#[test]
fn a_cut_datagram_is_an_error_after_what_is_whole() {
    let whole = netlink(SOCK_DIAG_BY_FAMILY, 0, &header(1));
    let two = [whole.clone(), whole[..40].to_vec()].concat();
    let all: Vec<_> = replies(&two).collect();
    assert!(all[0].is_ok() && all[1].is_err() && all.len() == 2);
}

#[test]
fn a_mapped_socket_is_asked_for_as_ipv4_and_a_mixed_one_not_at_all() {
    let id = |src: &str, dst: &str| SocketId {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        interface: None,
        cookie: None,
    };
    let plain = exact_request(1, &id("192.0.2.1:1", "192.0.2.2:2")).unwrap();
    let mapped = exact_request(1, &id("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")).unwrap();
    assert_eq!(plain, mapped);
    assert!(matches!(
        exact_request(1, &id("192.0.2.1:1", "[2001:db8::1]:2")),
        Err(Error::MixedFamilies { .. })
    ));
}

#[test]
fn a_request_without_cookie_asks_for_any() {
    let mut id = SocketId {
        src: "192.0.2.1:1".parse().unwrap(),
        dst: "192.0.2.2:2".parse().unwrap(),
        interface: None,
        cookie: None,
    };
    assert!(exact_request(1, &id).unwrap().ends_with(&NO_COOKIE));
    id.cookie = Some(0x1_0000_0002);
    assert!(
        exact_request(1, &id)
            .unwrap()
            .ends_with(&cookie_to_bytes(0x1_0000_0002))
    );
}

#[test]
fn a_socket_bound_to_an_interface_is_asked_for_by_it() {
    let id = |src: &str, interface| SocketId {
        src: src.parse().unwrap(),
        dst: "[fe80::2]:2".parse().unwrap(),
        interface,
        cookie: None,
    };
    let of = |id: &SocketId| {
        let request = exact_request(1, id).unwrap();
        // `idiag_if` is before the cookie.
        let at = request.len() - NO_COOKIE.len() - 4;
        u32::from_ne_bytes(request[at..at + 4].try_into().unwrap())
    };
    assert_eq!(of(&id("[fe80::1]:1", None)), 0);
    assert_eq!(of(&id("[fe80::1]:1", Some(7))), 7);
    // As a dump or a caller names a link-local address.
    assert_eq!(of(&id("[fe80::1%5]:1", None)), 5);
    assert_eq!(of(&id("[fe80::1%5]:1", Some(7))), 7);
}

/// A kernel's answer about a kernel-TLS socket, as `examples/capture_sockdiag.rs` printed it.
macro_rules! recorded {
    ($name:literal) => {
        unhex(include_str!(concat!(
            "../../../tests/fixtures/sockdiag/",
            $name,
            ".hex"
        )))
    };
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Each kernel's recordings: a sender with a held record, and one whose peer has stopped reading.
fn recordings() -> [(&'static str, Vec<u8>, Vec<u8>); 3] {
    [
        (
            "6.1",
            recorded!("6.1-tls13-aes-gcm-128-held"),
            recorded!("6.1-tls12-aes-gcm-256-zero-window"),
        ),
        (
            "6.12",
            recorded!("6.12-tls13-aes-gcm-128-held"),
            recorded!("6.12-tls12-aes-gcm-256-zero-window"),
        ),
        (
            "7.3",
            recorded!("7.3-tls13-aes-gcm-128-held"),
            recorded!("7.3-tls12-aes-gcm-256-zero-window"),
        ),
    ]
}

#[test]
fn a_held_record_is_read_from_every_kernels_answer() {
    for (kernel, held, _) in recordings() {
        let sample = sample(&held).unwrap();
        assert_eq!(
            (sample.family, sample.state),
            (Family::Inet, TcpState::Established),
            "{kernel}"
        );
        assert_eq!(sample.tcp.notsent_bytes, Some(16406), "{kernel}");
        assert!(
            sample.tcp.snd_wnd.unwrap() > 16406 && sample.tcp.snd_mss.unwrap() > 16406,
            "{kernel}"
        );
        let mem = sample.mem.unwrap();
        assert!(mem.wmem_queued.unwrap() < mem.sndbuf.unwrap(), "{kernel}");
        let ulp = sample.ulp.unwrap();
        let tls = ulp.tls.clone().unwrap();
        assert!(ulp.is_tls(), "{kernel}");
        assert_eq!(
            (tls.version, tls.cipher),
            (Some(TlsVersion::V1_3), Some(TlsCipher::AesGcm128)),
            "{kernel}"
        );
        assert_eq!(
            (tls.tx, tls.rx),
            (Some(TlsConf::Sw), Some(TlsConf::Base)),
            "{kernel}"
        );
        assert!(!tls.zerocopy_sendfile && !tls.rx_no_pad, "{kernel}");
    }
}

#[test]
fn on_6_1_a_held_record_has_no_timer_and_nothing_in_flight() {
    let sample = sample(&recorded!("6.1-tls13-aes-gcm-128-held")).unwrap();
    assert_eq!((sample.timer, sample.tcp.unacked), (None, Some(0)));
    // The struct ends with snd_wnd.
    assert_eq!(sample.tcp.rcv_wnd, None);
}

#[test]
fn what_only_newer_kernels_tell_is_read_from_those() {
    let of = |recording: &[u8]| {
        let sample = sample(recording).unwrap();
        let tls = sample.ulp.unwrap().tls.unwrap();
        (
            sample.tcp.rcv_wnd.is_some(),
            sample.tcp.total_rto,
            tls.tx_max_payload,
        )
    };
    assert_eq!(
        of(&recorded!("6.1-tls13-aes-gcm-128-held")),
        (false, None, None)
    );
    assert_eq!(
        of(&recorded!("6.12-tls13-aes-gcm-128-held")),
        (true, Some(0), None)
    );
    assert_eq!(
        of(&recorded!("7.3-tls13-aes-gcm-128-held")),
        (true, Some(0), Some(16384))
    );
}

#[test]
fn a_shut_window_is_read_from_every_kernels_answer() {
    for (kernel, _, shut) in recordings() {
        let sample = sample(&shut).unwrap();
        assert_eq!(
            (sample.family, sample.v4_mapped),
            (Family::Inet6, false),
            "{kernel}"
        );
        assert_eq!(sample.tcp.snd_wnd, Some(0), "{kernel}");
        assert!(sample.tcp.notsent_bytes.unwrap() > 0, "{kernel}");
        assert_eq!(sample.timer.unwrap().kind, TimerKind::Persist, "{kernel}");
        let tls = sample.ulp.unwrap().tls.unwrap();
        assert_eq!(
            (tls.version, tls.cipher),
            (Some(TlsVersion::V1_2), Some(TlsCipher::AesGcm256)),
            "{kernel}"
        );
    }
}

#[test]
fn a_recording_cut_anywhere_is_read_as_far_as_it_goes() {
    for (_, held, shut) in recordings() {
        for whole in [held, shut] {
            for length in 0..whole.len() {
                assert_eq!(sample(&whole[..length]).is_some(), length >= HEADER_BYTES);
            }
        }
    }
}

proptest! {
    #[test]
    fn cookies_survive(cookie in any::<u64>()) {
        prop_assert_eq!(cookie_from_bytes(cookie_to_bytes(cookie)), cookie);
    }

    #[test]
    fn any_datagram_is_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(replies(&bytes).count() <= bytes.len() / 16 + 1);
    }

    #[test]
    fn any_payload_is_read(kind in any::<u16>(), bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for kind in [kind, SOCK_DIAG_BY_FAMILY, NLMSG_ERROR, NLMSG_DONE] {
            let _body = body(kind, &bytes);
        }
    }

    #[test]
    fn any_attributes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let whole = [header(1), bytes].concat();
        prop_assert!(sample(&whole).is_some());
    }
}

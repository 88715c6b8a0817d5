//! The workload over plain TCP, which every machine has; kernel TLS is tried in guests.

use std::time::Instant;

use clap::ValueEnum as _;

use super::*;

fn plain() -> Config {
    Config {
        mode: Mode::Plain,
        file_size: 256 << 10,
        ..Config::default()
    }
}

fn run_now(config: &Config) -> Report {
    run(config, &AtomicBool::new(false)).unwrap()
}

#[test]
fn every_byte_asked_for_arrives() {
    for (nonblocking, ipv6, ipv4_mapped) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let config = Config {
            bytes: Some(1_000_001),
            connections: 2,
            nonblocking,
            ipv6,
            ipv4_mapped,
            ..plain()
        };
        let report = run_now(&config);
        assert_eq!(
            (report.bytes_sent, report.bytes_received),
            (2_000_002, 2_000_002)
        );
        assert!(
            report
                .connections
                .iter()
                .all(|connection| connection.finished)
        );
        assert!(!report.hung);
    }
}

#[test]
fn a_sender_that_connects_sends_to_the_port_that_is_listened_on() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = Config {
        bytes: Some(1_000_001),
        upload: true,
        port,
        ..plain()
    };
    let report = run_now(&config);
    assert!(report.connections[0].finished);
    assert_eq!(report.connections[0].dst, format!("127.0.0.1:{port}"));
    assert_eq!(report.bytes_received, 1_000_001);
}

#[test]
fn the_limit_ends_a_send_that_nobody_reads() {
    for (nonblocking, upload) in [(false, false), (true, false), (false, true)] {
        let config = Config {
            receiver: Receiver::Stop { after_bytes: 4096 },
            duration: Duration::from_millis(1300),
            nonblocking,
            upload,
            ..plain()
        };
        let report = run_now(&config);
        assert!(report.hung);
        assert_eq!(report.bytes_received, 4096);
        assert!(report.bytes_sent > 4096 && report.connections[0].notsent_at_end > Some(0));
        assert_eq!(report.connections[0].error, None);
    }
}

#[test]
fn a_stop_ends_it_early() {
    let begun = Instant::now();
    let report = run(&plain(), &AtomicBool::new(true)).unwrap();
    assert!(begun.elapsed() < plain().duration);
    assert!(u128::from(report.duration_ms) < plain().duration.as_millis());
}

#[test]
fn a_small_mss_is_used() {
    let config = Config {
        mss: Some(1448),
        bytes: Some(1),
        ..plain()
    };
    // 12 bytes of each segment are timestamps, where the host has them on.
    let mss = run_now(&config).connections[0].mss.unwrap();
    assert!((1436..=1448).contains(&mss), "{mss}");
}

#[test]
fn options_that_make_no_sense_are_named() {
    let config = Config {
        file_size: 0,
        ..plain()
    };
    let error = run(&config, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("--file-size"), "{error}");
}

#[test]
fn a_cipher_is_refused_in_a_version_it_is_not_defined_for() {
    let config = Config {
        mode: Mode::Sendfile,
        cipher: Cipher::Aria128Gcm,
        ..plain()
    };
    let error = run(&config, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("--cipher"), "{error}");
}

#[test]
fn every_cipher_frames_its_records_as_the_kernel_does() {
    // The wire bytes of one full record, as measured in guests and, for the ciphers that none has, as
    // `tls_cipher_desc` gives them.
    for cipher in Cipher::value_variants() {
        let overhead = |tls| config::record_overhead(tls, *cipher);
        assert_eq!(overhead(TlsVersion::V1_3), 22, "{cipher:?}");
        let explicit = if *cipher == Cipher::Chacha20Poly1305 {
            21
        } else {
            29
        };
        assert_eq!(overhead(TlsVersion::V1_2), explicit, "{cipher:?}");
    }
}

#[test]
fn the_report_names_its_schema() {
    let config = Config {
        bytes: Some(1),
        ..plain()
    };
    let json = serde_json::to_value(run_now(&config)).unwrap();
    assert_eq!(json["schema"], SCHEMA);
    assert_eq!(json["mode"], "plain");
    assert!(json["tls"].is_null());
}

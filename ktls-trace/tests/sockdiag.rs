//! `sock_diag` against the kernel this runs on, with plain TCP over loopback.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use ktls_trace::sockdiag::{Error, Family, SockDiag, SocketId, States, TcpState, Wanted};

struct Pair {
    sender: TcpStream,
    receiver: TcpStream,
    id: SocketId,
}

fn connect(listener: &TcpListener, to: SocketAddr) -> Pair {
    let receiver = TcpStream::connect(to).unwrap();
    let (sender, _) = listener.accept().unwrap();
    let id = SocketId {
        src: sender.local_addr().unwrap(),
        dst: sender.peer_addr().unwrap(),
        interface: None,
        cookie: None,
    };
    Pair {
        sender,
        receiver,
        id,
    }
}

fn pair(ip: &str) -> (TcpListener, Pair) {
    let listener = TcpListener::bind(format!("{ip}:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let pair = connect(&listener, address);
    (listener, pair)
}

#[tokio::test]
async fn a_socket_is_found_by_its_ends_and_then_by_its_cookie() {
    for ip in ["127.0.0.1", "[::1]"] {
        let (_listener, pair) = pair(ip);
        let mut diag = SockDiag::open().unwrap();

        let sample = diag.query(&pair.id).await.unwrap().unwrap();
        assert_eq!((sample.src, sample.dst), (pair.id.src, pair.id.dst));
        assert_eq!(sample.state, TcpState::Established);
        assert_eq!((sample.v4_mapped, sample.interface), (false, None));
        assert!(sample.cookie != 0 && sample.inode.is_some());
        assert_eq!(sample.tcp.notsent_bytes, Some(0));
        assert!(sample.tcp.snd_wnd.unwrap() > 0 && sample.tcp.snd_mss.unwrap() > 0);
        assert!(sample.mem.as_ref().unwrap().sndbuf.unwrap() > 0);
        assert_eq!(sample.ulp, None);

        let again = diag.query(&sample.id()).await.unwrap().unwrap();
        assert_eq!(again.cookie, sample.cookie);

        let wrong = SocketId {
            cookie: Some(sample.cookie + 1_000_000),
            ..pair.id
        };
        assert_eq!(diag.query(&wrong).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_closed_socket_is_gone_and_its_listener_is_not_taken_for_it() {
    let (listener, pair) = pair("127.0.0.1");
    let mut diag = SockDiag::open().unwrap();
    let cookie = diag.query(&pair.id).await.unwrap().unwrap().cookie;

    // The receiver closes first, so that the time-wait socket is its, and the sender's is gone at once.
    drop(pair.receiver);
    drop(pair.sender);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        diag.query(&SocketId {
            cookie: Some(cookie),
            ..pair.id
        })
        .await
        .unwrap(),
        None
    );
    assert_eq!(
        diag.query(&pair.id).await.unwrap(),
        None,
        "{} still listens",
        listener.local_addr().unwrap()
    );

    let receivers = SocketId {
        src: pair.id.dst,
        dst: pair.id.src,
        interface: None,
        cookie: None,
    };
    if let Some(sample) = diag.query(&receivers).await.unwrap() {
        assert_eq!(sample.state, TcpState::TimeWait);
        assert_eq!(sample.inode, None);
    }
}

#[tokio::test]
async fn an_ipv4_peer_of_a_dual_stack_listener_is_found_by_its_ipv4_ends() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pair = connect(&listener, SocketAddr::from(([127, 0, 0, 1], port)));
    let mut diag = SockDiag::open().unwrap();

    let plain = SocketId {
        src: SocketAddr::from(([127, 0, 0, 1], port)),
        dst: pair.receiver.local_addr().unwrap(),
        interface: None,
        cookie: None,
    };
    for id in [plain, pair.id] {
        let sample = diag.query(&id).await.unwrap().unwrap();
        assert_eq!(
            (sample.src, sample.dst),
            (plain.src, plain.dst),
            "asked for {id}"
        );
        assert_eq!((sample.family, sample.v4_mapped), (Family::Inet6, true));
    }
    let dump = diag.dump(Wanted::all(States::SENDING)).await.unwrap();
    assert!(
        dump.samples
            .iter()
            .any(|sample| sample.v4_mapped && sample.src == plain.src)
    );
}

#[tokio::test]
async fn a_dump_has_the_sockets_of_both_families() {
    let (_listener4, pair4) = pair("127.0.0.1");
    let (_listener6, pair6) = pair("[::1]");
    let mut diag = SockDiag::open().unwrap();
    let dump = diag.dump(Wanted::all(States::SENDING)).await.unwrap();
    for pair in [&pair4, &pair6] {
        let found = dump
            .samples
            .iter()
            .filter(|sample| sample.src == pair.id.src && sample.dst == pair.id.dst);
        assert_eq!(found.count(), 1);
    }
    assert!(
        dump.samples
            .iter()
            .all(|sample| sample.state != TcpState::Listen)
    );

    let listening = diag.dump(Wanted::all(States(1 << 10))).await.unwrap();
    assert!(!listening.samples.is_empty());
    assert!(
        listening
            .samples
            .iter()
            .all(|sample| sample.state == TcpState::Listen)
    );

    // These sockets are plain TCP.
    let ktls = diag.dump(Wanted::ktls()).await.unwrap();
    assert!(ktls.samples.iter().all(|sample| sample.src != pair4.id.src));
}

#[tokio::test]
async fn a_large_dump_comes_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pairs: Vec<Pair> = (0..300).map(|_| connect(&listener, address)).collect();
    let mut diag = SockDiag::open().unwrap();
    let dump = diag.dump(Wanted::all(States::SENDING)).await.unwrap();
    let found = dump
        .samples
        .iter()
        .filter(|sample| sample.src == address)
        .count();
    assert_eq!(found, pairs.len());

    // More than is wanted is counted, and takes no memory.
    let wanted = Wanted {
        takes: &|sample| sample.src == address,
        at_most: 100,
        ..Wanted::all(States::SENDING)
    };
    let part = diag.dump(wanted).await.unwrap();
    assert_eq!((part.samples.len(), part.left_out), (100, 200));
    assert!(part.samples.iter().all(|sample| sample.src == address));
}

#[tokio::test]
async fn answers_to_what_was_given_up_are_skipped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pairs: Vec<Pair> = (0..300).map(|_| connect(&listener, address)).collect();
    // Give up after too short a time, in the middle of a dump as well.
    let mut diag = SockDiag::open().unwrap().with_limit(Duration::ZERO);
    for _ in 0..3 {
        let late = diag.query(&pairs[0].id).await;
        assert!(
            matches!(late, Ok(Some(_)) | Err(Error::Timeout { .. })),
            "{late:?}"
        );
        let late = diag.dump(Wanted::all(States::SENDING)).await;
        let expected = matches!(
            late,
            Ok(_)
                | Err(Error::Timeout { .. }
                    | Error::Refused {
                        errno: nix::errno::Errno::EBUSY,
                        ..
                    })
        );
        assert!(expected, "{late:?}");
    }
    let mut diag = diag.with_limit(Duration::from_secs(1));
    let sample = diag.query(&pairs[1].id).await.unwrap().unwrap();
    assert_eq!(sample.dst, pairs[1].id.dst);
    let dump = diag.dump(Wanted::all(States::SENDING)).await.unwrap();
    assert_eq!(
        dump.samples
            .iter()
            .filter(|sample| sample.src == address)
            .count(),
        pairs.len()
    );
}

#[tokio::test]
async fn a_namespace_is_entered_by_a_helper_thread_alone() {
    let own = Path::new("/proc/thread-self/ns/net");
    let before = std::fs::read_link(own).unwrap();
    let mut diag = match SockDiag::open_in(Path::new("/proc/self/ns/net")) {
        Ok(diag) => diag,
        Err(Error::Namespace { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
            eprintln!("SKIPPED: entering a namespace needs CAP_SYS_ADMIN");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(std::fs::read_link(own).unwrap(), before);
    let (_listener, pair) = pair("127.0.0.1");
    assert!(diag.query(&pair.id).await.unwrap().is_some());
}

#[tokio::test]
async fn another_namespace_shows_its_own_sockets_and_no_others() {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            ready.send(Err(error)).unwrap();
            return;
        }
        // Loopback is down in a new namespace, but one can listen on any address.
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let netns = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        ready
            .send(Ok((netns, listener.local_addr().unwrap())))
            .unwrap();
        finished.recv().ok();
    });
    let (netns, address) = match is_ready.recv().unwrap() {
        Ok(made) => made,
        Err(error) => {
            eprintln!("SKIPPED: a new network namespace: {error}");
            return;
        }
    };
    let (own, _pair) = pair("127.0.0.1");
    let listening = States(1 << 10);
    let ends = |dump: ktls_trace::sockdiag::Dump| -> Vec<SocketAddr> {
        dump.samples.iter().map(|sample| sample.src).collect()
    };
    let mut there = SockDiag::open_in(Path::new(&netns)).unwrap();
    assert_eq!(
        ends(there.dump(Wanted::all(listening)).await.unwrap()),
        [address]
    );
    let mut here = SockDiag::open().unwrap();
    assert!(
        ends(here.dump(Wanted::all(listening)).await.unwrap()).contains(&own.local_addr().unwrap())
    );
    finish.send(()).unwrap();
    other.join().unwrap();
}

#[tokio::test]
async fn a_missing_namespace_is_named() {
    let error = SockDiag::open_in(Path::new("/nonexistent/ns")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ns"), "{error}");
}

#[test]
fn outside_of_a_runtime_it_is_an_error() {
    assert!(matches!(SockDiag::open(), Err(Error::NoRuntime)));
}

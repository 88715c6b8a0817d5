//! What a service manager hears of a run.

use std::{os::unix::net::UnixDatagram, process::Command, time::Duration};

#[test]
fn the_manager_hears_ready_then_that_it_is_alive_then_that_it_ends() {
    let folder = std::env::temp_dir().join(format!("ktls-trace-notify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ktls-trace"))
        .args(["run", "--no-bpf", "--duration", "2500ms"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "30000000")
        .env_remove("WATCHDOG_PID")
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = socket.recv(&mut buffer) {
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let first = &heard[0];
    assert!(first.contains("READY=1"), "{heard:?}");
    assert!(first.contains("STATUS=watching"), "{heard:?}");
    assert!(
        first.contains("stalls: 0 open, 0 since the start"),
        "{heard:?}"
    );
    let alive = heard.iter().filter(|said| said.contains("WATCHDOG=1"));
    assert!(alive.count() >= 2, "{heard:?}");
    assert!(heard.last().unwrap().contains("STOPPING=1"), "{heard:?}");
}

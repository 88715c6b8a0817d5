//! The only program of a test guest besides the daemon and busybox. By the name it is called under it is the guest's init, its
//! `modprobe`, its `end-connections`, `qdisc` and `route-initcwnd`, its stopwatch, or the process that does the job the guest was
//! booted for.

mod init;
mod latency;
mod modules;
mod port;
mod qdisc;
mod route_initcwnd;
mod rtnetlink;
mod runner;
mod scenario;
mod sockets;

use std::{env, ffi::OsStr, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = env::args();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let result = match name {
        "init" => init::main(),
        "modprobe" => modules::main(arguments),
        "end-connections" => sockets::end_all(),
        "latency" => latency::main(arguments),
        "qdisc" => qdisc::main(arguments),
        "route-initcwnd" => route_initcwnd::main(arguments),
        runner::NAME => runner::main(),
        _ => Err(anyhow::anyhow!(
            "call me as init, modprobe, end-connections, latency, qdisc, route-initcwnd or {}",
            runner::NAME
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

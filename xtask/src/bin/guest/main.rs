//! The only program of a test guest besides the daemon and busybox. By the name it is called under it is the guest's init, its
//! `modprobe`, or the process that does the job the guest was booted for.

mod init;
mod modules;
mod port;
mod runner;
mod scenario;

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
        runner::NAME => runner::main(),
        _ => Err(anyhow::anyhow!(
            "call me as init, modprobe or {}",
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

//! What there is of BPF in the kernel, whoever has it: to see that nothing is left.

use std::{fs, io};

use anyhow::{Context as _, Result};
use nix::libc;
use serde_json::{Value, json};

/// `BPF_PROG_GET_NEXT_ID`, `BPF_MAP_GET_NEXT_ID` and `BPF_LINK_GET_NEXT_ID` of `linux/bpf.h`.
const PROGRAMS: libc::c_int = 11;
const MAPS: libc::c_int = 12;
const LINKS: libc::c_int = 31;
/// The kprobes that there are.
const KPROBES: &str = "/sys/kernel/debug/kprobes/list";

/// The part of `union bpf_attr` that these commands take.
#[repr(C)]
struct NextId {
    start: u32,
    next: u32,
    open_flags: u32,
}

pub(crate) fn run() -> Result<Value> {
    let kprobes = fs::read_to_string(KPROBES).with_context(|| format!("reading {KPROBES}"))?;
    Ok(json!({
        "programs": count(PROGRAMS).context("listing programs")?,
        "maps": count(MAPS).context("listing maps")?,
        "links": count(LINKS).context("listing links")?,
        "kprobes": kprobes.lines().count(),
    }))
}

/// How many there are of a kind.
fn count(command: libc::c_int) -> io::Result<u32> {
    let mut id = NextId {
        start: 0,
        next: 0,
        open_flags: 0,
    };
    let mut found = 0;
    loop {
        // SAFETY: `id` is as long as it says and outlives the call, which writes its `next` only.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut id, size_of::<NextId>()) };
        if answer != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(found),
                _ => Err(error),
            };
        }
        found += 1;
        id.start = id.next;
    }
}

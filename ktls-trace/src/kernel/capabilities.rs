//! The capabilities that the daemon has, what the missing ones cost, and giving up those that have done their work.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::prctl::set_no_new_privs;

/// What the hooks take: `CAP_BPF` and `CAP_PERFMON` to load and attach, for which the kernel takes `CAP_SYS_ADMIN` as well
/// (`bpf_capable`, `perfmon_capable`), and `CAP_NET_ADMIN` for all of `sock_diag`.
const NEEDED: [(Capability, Option<Capability>); 3] = [
    (Capability::CAP_BPF, Some(Capability::CAP_SYS_ADMIN)),
    (Capability::CAP_PERFMON, Some(Capability::CAP_SYS_ADMIN)),
    (Capability::CAP_NET_ADMIN, None),
];

/// What a run that observes goes on needing: `sock_diag`, other processes' namespaces and programs, the maps, for which
/// kernels before 5.19 ask for `CAP_BPF` each time (`kernel.unprivileged_bpf_disabled`), and the files and ports that a reload may name.
pub const OF_A_RUN: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_NET_BIND_SERVICE,
];

/// What a thread goes on needing that attaches and detaches hooks.
pub const OF_HOOKS: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
];

/// What a thread goes on needing that opens files anew.
pub const OF_FILES: [Capability; 1] = [Capability::CAP_DAC_OVERRIDE];

/// What a thread goes on needing that reads what `/proc` says of processes.
pub const OF_PROCESSES: [Capability; 1] = [Capability::CAP_SYS_PTRACE];

/// The names of the capabilities that are needed and not effective.
pub fn missing() -> Vec<String> {
    NEEDED
        .iter()
        .filter(|&&(capability, instead)| !has(capability) && !instead.is_some_and(has))
        .map(|(capability, _)| capability.to_string())
        .collect()
}

/// Whether the calling thread has a capability.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Why `CAP_PERFMON` may not be enough: with a value that the mainline kernel does not know, those of Debian and Ubuntu
/// let nobody but `CAP_SYS_ADMIN` call `perf_event_open`.
fn paranoid() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    let value: i32 = text.trim().parse().ok()?;
    let wanted = value > 2 && has(Capability::CAP_PERFMON) && !has(Capability::CAP_SYS_ADMIN);
    wanted.then(|| {
        format!(
            "kernel.perf_event_paranoid is {value}: kernels of Debian and Ubuntu then want CAP_SYS_ADMIN for kprobes, \
             which the functions of the module tls need without it"
        )
    })
}

/// What missing capabilities cost a run beside its hooks, a line each. `elsewhere`: whether other network namespaces are
/// looked at; `hides_addresses`: whether the kernel hides where its functions are; `failed`: whether a hook that was tried
/// can't be attached.
pub fn losses(elsewhere: bool, hides_addresses: bool, failed: bool) -> Vec<String> {
    let mut losses = Vec::new();
    if !has(Capability::CAP_NET_ADMIN) {
        losses.push(
            "without CAP_NET_ADMIN most kernels don't say which sockets use TLS: one that hung before is not found, and where \
             there are no hooks none is",
        );
    }
    if hides_addresses {
        losses.push(
            "without CAP_SYSLOG (or with kernel.kptr_restrict=2) the kernel hides its addresses: who lets held bytes go \
             stays unknown",
        );
    }
    if !has(Capability::CAP_SYS_PTRACE) {
        losses.push(
            "without CAP_SYS_PTRACE the programs and network namespaces of other users' processes stay unknown",
        );
    }
    if elsewhere && !has(Capability::CAP_SYS_ADMIN) {
        losses.push(
            "without CAP_SYS_ADMIN other network namespaces can't be entered: sock_diag is not asked there, and verdicts \
             stay consistent",
        );
    }
    let losses = losses.into_iter().map(str::to_owned);
    losses.chain(paranoid().filter(|_| failed)).collect()
}

/// Gives up, in the calling thread and whatever it starts, every capability but these. What it does not have it does not get.
///
/// # Errors
///
/// If the kernel refuses.
pub fn keep(kept: &[Capability]) -> Result<(), CapsError> {
    // Otherwise a program started as root would have them again.
    if let Err(errno) = set_no_new_privs() {
        tracing::debug!("PR_SET_NO_NEW_PRIVS: {errno}");
    }
    let of = |set| -> Result<CapsHashSet, CapsError> {
        let all = caps::read(None, set)?;
        Ok(all.into_iter().filter(|has| kept.contains(has)).collect())
    };
    let (effective, permitted) = (of(CapSet::Effective)?, of(CapSet::Permitted)?);
    caps::set(None, CapSet::Effective, &effective)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Permitted, &permitted)
}

/// As [`keep`], for a thread that goes on with too many if it has to.
pub fn keep_only(kept: &[Capability]) {
    if let Err(error) = keep(kept) {
        tracing::debug!("capabilities can't be given up: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_not_kept_is_gone_in_that_thread_alone() {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        let kept = thread::spawn(|| {
            keep(&[Capability::CAP_SYS_PTRACE]).unwrap();
            let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable];
            sets.map(|set| caps::read(None, set).unwrap())
        });
        for set in kept.join().unwrap() {
            assert!(
                set.is_subset(&CapsHashSet::from([Capability::CAP_SYS_PTRACE])),
                "{set:?}"
            );
        }
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
    }
}

//! The capabilities that the daemon has, and what the missing ones cost.

use caps::{CapSet, Capability};

/// What the hooks take: `CAP_BPF` and `CAP_PERFMON` to load and attach, `CAP_NET_ADMIN` for all of
/// `sock_diag`. `CAP_SYS_ADMIN` stands in for the first two on kernels before 5.8.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_PERFMON, "CAP_PERFMON"),
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
];

/// The names of the capabilities that are needed and not effective.
pub fn missing() -> Vec<&'static str> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    NEEDED
        .iter()
        .filter(|&&(capability, _)| !has(capability))
        .map(|&(_, name)| name)
        .collect()
}

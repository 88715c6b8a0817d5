//! The clocks. Hooks stamp with `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`), so that is the daemon's time.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_MONOTONIC)).unwrap_or(0)
}

/// `CLOCK_REALTIME` in nanoseconds since 1970.
pub(crate) fn unix_ns() -> i64 {
    read(ClockId::CLOCK_REALTIME)
}

/// A clock in nanoseconds. These two exist on every Linux, so reading them does not fail.
fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

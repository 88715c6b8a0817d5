//! The maps, the globals and the counters. Every map is bounded, and what does not fit is
//! counted.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use ktls_trace_common::{
    counter,
    event::{Suspect, Tx},
    filter::Filter,
    layout::Layout,
};

/// Where things lie in this kernel; set by the user side before the programs are loaded.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = Layout::ABSENT;

/// What to look at; set by the user side, at any time: therefore not read-only, of which the verifier would take the
/// first value for the last.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
pub(crate) static mut FILTER: Filter = Filter {
    tgid: 0,
    port: 0,
    netns: 0,
    uts: 0,
};

/// Events on their way to the user side.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

/// What the send hooks remember of each socket. The oldest are forgotten first: that costs the
/// history of an idle socket, never an event.
#[map]
pub(crate) static TX: LruHashMap<u64, Tx> = LruHashMap::with_max_entries(16384, 0);

/// Sockets under suspicion. The user side takes them out again.
#[map]
pub(crate) static SUSPECTS: HashMap<u64, Suspect> = HashMap::with_max_entries(8192, 0);

/// Whether there may be sockets under suspicion: 1 as soon as one comes under it, 0 once the user side has found that there
/// is none. What runs for every segment looks here before it looks one up.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss")]
static mut SUSPICION: u32 = 0;

/// Whether there may be sockets under suspicion.
#[inline(always)]
pub(crate) fn suspicion() -> bool {
    // SAFETY: reads an aligned integer of a static.
    unsafe { core::ptr::read_volatile(&raw const SUSPICION) != 0 }
}

/// Notes that there is one.
#[inline(always)]
pub(crate) fn note_suspicion() {
    // SAFETY: writes an aligned integer of a static, and every program the same.
    unsafe { core::ptr::write_volatile(&raw mut SUSPICION, 1) };
}

/// Address of the `tcp_ulp_ops` of `tls`, once a socket has had one of that name; 0 before. If the module is loaded anew they lie
/// elsewhere, and the name is looked at again. In a section of its own, which makes it a map of its own: the other one is the user side's to write.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.tls")]
static mut TLS_OPS: u64 = 0;

/// Whether these operations are known to be those of `tls`.
#[inline(always)]
pub(crate) fn is_tls(ops: u64) -> bool {
    // SAFETY: reads an aligned integer of a static.
    unsafe { core::ptr::read_volatile(&raw const TLS_OPS) == ops }
}

/// Notes that they are.
#[inline(always)]
pub(crate) fn note_tls(ops: u64) {
    // SAFETY: writes an aligned integer of a static, and every program the same.
    unsafe { core::ptr::write_volatile(&raw mut TLS_OPS, ops) };
}

/// The counters of [`counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::SLOTS, 0);

/// Reads one member of [`LAYOUT`] as the user side set it.
macro_rules! layout {
    ($($member:ident).+) => {
        // SAFETY: reads a static; volatile, because the loader changes it after compilation.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::LAYOUT.$($member).+) }
    };
}
pub(crate) use layout;

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    add(slot, 1);
}

/// Adds to a counter.
#[inline(always)]
pub(crate) fn add(slot: u32, number: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: a slot of a per-CPU array that the lookup has just checked.
        unsafe { *value += u64::from(number) };
    }
}

/// Reads one member of [`FILTER`] as the user side set it last.
macro_rules! filter {
    ($member:ident) => {
        // SAFETY: reads an aligned integer of a static, which only the user side writes.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::FILTER.$member) }
    };
}
pub(crate) use filter;

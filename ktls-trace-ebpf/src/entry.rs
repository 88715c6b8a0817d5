//! The entry of a kernel function, as both kinds of programs see it.
//!
//! What a healthy host runs all the time is there twice: as a kprobe, and for the trampoline that newer kernels put in a
//! function's first bytes (`fentry`), which costs a part of it. The user side loads one of them. The others are kprobes alone: those
//! can't be preempted, and a trampoline passes over a program that was when the same processor comes by again.

use aya_ebpf::{
    EbpfContext,
    programs::{FEntryContext, ProbeContext},
};

/// What a program is given when the function is entered.
pub(crate) trait Entry: EbpfContext {
    /// An argument, by its position; positions have to be constant.
    fn arg(&self, position: usize) -> u64;
}

impl Entry for ProbeContext {
    #[inline(always)]
    fn arg(&self, position: usize) -> u64 {
        // None where arguments go by the stack, which is after the sixth at the earliest.
        self.arg(position).unwrap_or(0)
    }
}

impl Entry for FEntryContext {
    #[inline(always)]
    fn arg(&self, position: usize) -> u64 {
        self.arg(position)
    }
}

/// The programs of a hook, and what they do.
macro_rules! hook {
    ($(#[$doc:meta])+ $kprobe:ident => $enter:ident) => {
        $(#[$doc])+
        #[aya_ebpf::macros::kprobe]
        fn $kprobe(ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $enter(&ctx);
            0
        }
    };
    ($(#[$doc:meta])+ $kprobe:ident, $fentry:ident => $enter:ident) => {
        hook! { $(#[$doc])+ $kprobe => $enter }

        $(#[$doc])+
        #[aya_ebpf::macros::fentry]
        fn $fentry(ctx: aya_ebpf::programs::FEntryContext) -> i32 {
            $enter(&ctx);
            0
        }
    };
}
pub(crate) use hook;

/// The `flags` argument, at the position that BTF names. The verifier wants a constant position, so
/// there is one arm for each that kernels have; with several the compiler would make one load with a
/// computed position of them, which the verifier refuses.
#[inline(always)]
pub(crate) fn flags(entry: &impl Entry, position: u32) -> Option<u32> {
    if position == 4 {
        Some(entry.arg(4) as u32)
    } else {
        None
    }
}

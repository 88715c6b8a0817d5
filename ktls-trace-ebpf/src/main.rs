//! The eBPF programs of ktls-trace: one file per thing observed, all listed here.
//!
//! They read the state of sockets, never payload and never keys, and decide in the kernel whether
//! anything has to leave it. Which of them are attached is decided by `kernel::plan` on the user
//! side; each works without the others and leaves out what it could not see.

#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call costs a stack frame, of which a program has 512 bytes"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "arguments and helpers come as whole registers"
)]

mod entry;
mod maps;
mod persist;
mod record;
mod release;
mod send;
mod sock;
mod wait;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! What the kernel side and the user side of ktls-trace agree on: the records that cross the ring
//! buffer, where members of kernel structures lie, and what the programs are asked to look at.
//!
//! Everything here is `repr(C)` without padding, enums or bools, so that both sides read the same
//! bytes and any byte pattern is a valid value.

#![cfg_attr(not(test), no_std)]

pub mod counter;
pub mod event;
pub mod filter;
pub mod layout;

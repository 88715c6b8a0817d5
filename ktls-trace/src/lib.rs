//! ktls-trace finds connections whose software kernel-TLS transmit is held back, says on one line
//! why and what to do, and can prove it link by link.
//!
//! Data flows one way: [`kernel`], [`probe`] and [`sockdiag`] → [`observe`] → [`correlate`] →
//! [`export`] and [`report`]. [`watch`] wires them; [`workload`] makes something to look at.

pub mod confirm;
pub mod correlate;
pub mod export;
pub mod kernel;
mod memory;
pub mod observe;
pub mod probe;
pub mod report;
pub mod snapshot;
pub mod sockdiag;
pub mod watch;
pub mod workload;

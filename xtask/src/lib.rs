//! What the host side of `cargo xtask` and the guest's init agree on: the job a guest is booted for, the frames it answers in, and how
//! a workload is run beside the daemon. The host's own work lives in the `xtask` binary, the guest's in the `guest` binary.

pub mod beside;
pub mod capture;
pub mod demo;
pub mod frame;
pub mod job;
pub mod scenario;

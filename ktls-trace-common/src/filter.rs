//! What the programs look at. A filter that is 0 lets everything through.

/// The programs' filter; they read it as a global, which may change while they run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Process (thread group) whose sends are looked at; 0: any.
    pub tgid: u32,
    /// Local or remote TCP port in host order; 0: any.
    pub port: u32,
    /// Network namespace, as the inode number of `/proc/PID/ns/net`; 0: any.
    pub netns: u32,
    /// UTS namespace of the sending thread, as the inode number of `/proc/PID/ns/uts`; 0: any.
    /// Every process that a thread starts inherits it, so it marks a whole tree of processes.
    pub uts: u32,
}

const _: () = assert!(size_of::<Filter>() == 16);

#[cfg(feature = "user")]
// SAFETY: repr(C), only integers, no padding (asserted above).
unsafe impl aya::Pod for Filter {}

//! Gives back what only the start needed: the kernel's types and tables, and those that aya's loader parses again.

/// Has the allocator return what is free: most of it lies below what stays, and would stay with it.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function has no preconditions.
    let _returned = unsafe { libc::malloc_trim(0) };
}

//! Memory that was needed once goes back to the system: a ruleset of a thousand services takes
//! megabytes for half a second.
#![allow(unsafe_code)]

/// Bytes from which on an allocation is its own mapping, which goes back to the system when it is
/// freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 << 10;

/// Keeps the allocator from holding large blocks for later, as it does by itself once the first was
/// freed.
pub fn limit_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` takes two numbers; it is called before other threads exist.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// Gives what is free on the heap back to the system, as after the start, a change of the
/// configuration, or a check of the rules.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes a number and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

//! How much of the heap is in use.
// The allocator alone knows it.
#![allow(unsafe_code)]

/// Bytes that were allocated and not given back.
pub(crate) fn in_use() -> u64 {
    // SAFETY: it reads the allocator's own counters, under its lock.
    let counters = unsafe { libc::mallinfo2() };
    (counters.uordblks + counters.hblkhd) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_and_what_is_given_back_is_not() {
        let before = in_use();
        let bytes = std::hint::black_box(vec![1_u8; 8 << 20]);
        assert!(in_use() >= before + (8 << 20));
        drop(bytes);
        assert!(in_use() < before + (8 << 20));
    }
}

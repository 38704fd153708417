//! Long sums with vector instructions.
//!
//! There is one loop, in safe code, which the compiler vectorises for x86-64. The baseline there is
//! SSE2, so it is built once more for AVX2, which is used where the processor has it. For AArch64,
//! whose baseline has NEON, the compiler leaves it scalar: there the loop is written in NEON's
//! instructions.
#![allow(unsafe_code)]

/// Bytes the loop takes at a time.
pub(super) const BLOCK: usize = 64;
/// Running sums that do not wait for each other.
#[cfg(any(test, not(target_arch = "aarch64")))]
const LANES: usize = BLOCK / 4;

/// The sum of the 32-bit words of whole blocks, in memory order; exact up to 16 GiB.
#[inline]
pub(super) fn sum(blocks: &[[u8; BLOCK]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just detected.
        return unsafe { sum_avx2(blocks) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: NEON is in the baseline of every AArch64 target that is built for.
    return unsafe { sum_neon(blocks) };
    #[cfg(not(target_arch = "aarch64"))]
    sum_of(blocks)
}

/// Each instruction adds four words to two running sums.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn sum_neon(blocks: &[[u8; BLOCK]]) -> u64 {
    use std::arch::aarch64::{
        vaddq_u64, vaddvq_u64, vdupq_n_u64, vld1q_u8, vpadalq_u32, vreinterpretq_u32_u8,
    };
    const WIDTH: usize = 16;
    let mut lanes = [vdupq_n_u64(0); BLOCK / WIDTH];
    for block in blocks {
        let (parts, _) = block.as_chunks::<WIDTH>();
        for (lane, part) in lanes.iter_mut().zip(parts) {
            // SAFETY: a part has the 16 bytes that are read, and they may lie anywhere.
            let words = unsafe { vld1q_u8(part.as_ptr()) };
            *lane = vpadalq_u32(*lane, vreinterpretq_u32_u8(words));
        }
    }
    vaddvq_u64(lanes.into_iter().fold(vdupq_n_u64(0), |sum, lane| vaddq_u64(sum, lane)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(blocks: &[[u8; BLOCK]]) -> u64 {
    sum_of(blocks)
}

#[cfg(any(test, not(target_arch = "aarch64")))]
#[inline(always)]
fn sum_of(blocks: &[[u8; BLOCK]]) -> u64 {
    let mut lanes = [0u64; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_the_processor_runs_equals_the_plain_loop(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let (blocks, _) = bytes.as_chunks::<BLOCK>();
            prop_assert_eq!(sum(blocks), plain(blocks));
            prop_assert_eq!(sum_of(blocks), plain(blocks));
        }
    }

    #[test]
    fn the_longest_packet_of_ones_loses_no_carry() {
        let blocks = [[0xff; BLOCK]; 1024];
        assert_eq!(sum(&blocks), u64::from(u32::MAX) * (1024 * LANES as u64));
    }

    fn plain(blocks: &[[u8; BLOCK]]) -> u64 {
        let words = blocks.as_flattened().chunks(4);
        words.map(|word| u64::from(u32::from_ne_bytes(word.try_into().unwrap()))).sum()
    }
}

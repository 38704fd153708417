//! Digests over several parts.

use blake2::Blake2s256;
use blake2::digest::Digest as _;

/// BLAKE2s over a label and parts, each with its length in front, so that no two lists of parts are
/// the same bytes.
pub(super) fn digest(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in std::iter::once(&label).chain(parts) {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_move_from_one_part_to_the_next_change_it() {
        let digests = [
            digest(b"x", &[b"ab", b"c"]),
            digest(b"x", &[b"a", b"bc"]),
            digest(b"x", &[b"abc"]),
            digest(b"xa", &[b"b", b"c"]),
            digest(b"x", &[b"ab", b"c", b""]),
        ];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
    }
}

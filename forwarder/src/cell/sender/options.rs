//! The TCP options that a sender reads: window scale (RFC 7323), SACK permitted and SACK blocks
//! (RFC 2018).

/// The largest shift (RFC 7323 §2.3).
const MAX_SCALE: u8 = 14;
/// Most blocks that fit into the option space.
pub(super) const MAX_BLOCKS: usize = 4;

/// What the other end's SYN offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cell) struct Offer {
    /// By how many bits its windows are to be shifted; `None` when it scales none.
    pub(in crate::cell) scale: Option<u8>,
    /// Whether it sends selective acknowledgements.
    pub(in crate::cell) selective: bool,
}

impl Offer {
    /// Reads the options of a SYN: the bytes behind its first 20.
    pub(in crate::cell) fn parse(options: &[u8]) -> Self {
        let mut offer = Self::default();
        for (kind, value) in Options(options) {
            match (kind, value) {
                (3, &[shift]) => offer.scale = Some(shift.min(MAX_SCALE)),
                (4, []) => offer.selective = true,
                _ => {}
            }
        }
        offer
    }
}

/// The SACK blocks of an acknowledgement as sequence numbers, start and end, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cell) struct Blocks {
    blocks: [(u32, u32); MAX_BLOCKS],
    count: usize,
}

impl Blocks {
    /// Reads the options of an acknowledgement: the bytes behind its first 20.
    pub(in crate::cell) fn parse(options: &[u8]) -> Self {
        let mut found = Self::default();
        for (kind, value) in Options(options) {
            if kind != 5 {
                continue;
            }
            let (blocks, _) = value.as_chunks::<8>();
            for (place, &[a, b, c, d, e, f, g, h]) in found.blocks.iter_mut().zip(blocks) {
                *place = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                found.count += 1;
            }
            break;
        }
        found
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.blocks.iter().copied().take(self.count)
    }
}

#[cfg(test)]
impl FromIterator<(u32, u32)> for Blocks {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(blocks: I) -> Self {
        let mut found = Self::default();
        for (place, block) in found.blocks.iter_mut().zip(blocks) {
            *place = block;
            found.count += 1;
        }
        found
    }
}

/// Kinds and values of options; ends at the first malformed one.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [] | [0, ..] => return None,
                [1, ref rest @ ..] => self.0 = rest,
                [kind, length, ..] => {
                    let value = self.0.get(2..usize::from(length))?;
                    self.0 = self.0.get(usize::from(length)..)?;
                    return Some((kind, value));
                }
                [_] => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_linux_syn_is_understood() {
        let syn = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(Offer::parse(&syn), Offer { scale: Some(7), selective: true });
        assert_eq!(Offer::parse(&syn[..4]), Offer::default());
    }

    #[test]
    fn a_shift_beyond_fourteen_counts_as_fourteen() {
        assert_eq!(Offer::parse(&[3, 3, 200, 1]).scale, Some(14));
    }

    #[test]
    fn blocks_come_in_their_order() {
        let options = [1, 1, 5, 18, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(Blocks::parse(&options).iter().collect::<Vec<_>>(), [(9, 10), (1, 2)]);
        assert_eq!(Blocks::parse(&options[..12]).iter().count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..44)) {
            Offer::parse(&bytes);
            prop_assert!(Blocks::parse(&bytes).iter().count() <= MAX_BLOCKS);
        }
    }
}

//! Frames: a length of four bytes, big-endian, and that many bytes.

/// Bytes of the length in front of a frame.
pub const HEADER: usize = 4;
/// The longest frame, without its length.
pub const MAX_FRAME: usize = 16 << 10;

/// A frame longer than is allowed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes is longer than {limit}")]
pub struct TooLong {
    /// What its length says.
    pub announced: usize,
    /// What is allowed.
    pub limit: usize,
}

/// Takes frames out of a stream of bytes, however it is cut.
#[derive(Debug)]
pub struct FrameReader {
    limit: usize,
    header: Vec<u8>,
    body: Vec<u8>,
}

impl FrameReader {
    /// At the beginning of a frame; frames are at most `limit` bytes long.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, header: Vec::new(), body: Vec::new() }
    }

    /// From now on frames are at most this long.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes from the front of `input` what belongs to the current frame; returns the frame once it
    /// is complete.
    ///
    /// Memory is taken for bytes that have come, never for a length that was announced.
    ///
    /// # Errors
    /// [`TooLong`] as soon as the length is known.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        move_bytes(input, HEADER.saturating_sub(self.header.len()), &mut self.header);
        let Ok(header) = <[u8; HEADER]>::try_from(self.header.as_slice()) else { return Ok(None) };
        let announced = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if announced > self.limit {
            return Err(TooLong { announced, limit: self.limit });
        }
        move_bytes(input, announced.saturating_sub(self.body.len()), &mut self.body);
        if self.body.len() < announced {
            return Ok(None);
        }
        self.header.clear();
        Ok(Some(std::mem::take(&mut self.body)))
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.header.capacity() + self.body.capacity()
    }
}

/// Moves at most `count` bytes from the front of `from`.
fn move_bytes(from: &mut &[u8], count: usize, to: &mut Vec<u8>) {
    let (taken, rest) = from.split_at(count.min(from.len()));
    to.extend_from_slice(taken);
    *from = rest;
}

/// The frame that holds `body`; `None` when it is too long for one.
#[must_use]
pub fn frame(body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME)?;
    Some([&length.to_be_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_of_the_limit_passes_and_one_byte_more_is_refused_by_its_length_alone() {
        let whole = frame(&[7; MAX_FRAME]).unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        assert_eq!(reader.take(&mut whole.as_slice()), Ok(Some(vec![7; MAX_FRAME])));
        let header = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
        let refused = TooLong { announced: MAX_FRAME + 1, limit: MAX_FRAME };
        assert_eq!(reader.take(&mut header.as_slice()), Err(refused));
        assert_eq!(frame(&[7; MAX_FRAME + 1]), None);
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut reader = FrameReader::new(MAX_FRAME);
        let mut input: &[u8] = &[0, 0, 0x40, 0, b'{'];
        assert_eq!(reader.take(&mut input), Ok(None));
        assert!(reader.held() < 64, "{} bytes", reader.held());
    }

    #[test]
    fn a_length_of_four_gibibytes_is_refused() {
        let mut reader = FrameReader::new(MAX_FRAME);
        assert!(reader.take(&mut [0xff; 4].as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in proptest::collection::vec(1_usize..97, 1..20),
        ) {
            let stream = bodies.iter().flat_map(|body| frame(body).unwrap()).collect::<Vec<_>>();
            let mut reader = FrameReader::new(300);
            let (mut rest, mut found) = (stream.as_slice(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (mut piece, after) = rest.split_at((*cut).min(rest.len()));
                while !piece.is_empty() {
                    found.extend(reader.take(&mut piece).unwrap());
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, bodies);
        }
    }
}

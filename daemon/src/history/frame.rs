//! Records as bytes: a segment is a header, then frames, each with its length and a checksum.
//!
//! | bytes of the header | |
//! |---|---|
//! | 0–15 | `causeway history` |
//! | 16–19 | the schema |
//! | 20–27 | the segment's number: the order of segments |
//! | 28–35 | the ring's name |
//! | 36–43 | the number of the first record in it |
//! | 44–47 | the checksum of the above |
//!
//! | bytes of a frame | |
//! |---|---|
//! | 0–1 | `CH` |
//! | 2–3 | the length of what follows the checksum |
//! | 4–7 | the checksum of the segment's number, the length and what follows |
//! | 8–15 | the number of the record |
//! | 16–23 | its time, in Unix milliseconds |
//! | 24 | its form: 0 is JSON, 1 a [`minute`] |
//! | 25– | the record in that form |
//!
//! Numbers are big-endian. A frame that is damaged is skipped: reading goes on at the next one.

use blake2::Blake2s256;
use blake2::digest::Digest as _;

use super::minute;
use super::record::{Record, What};

/// The version of this layout. A segment of a newer one is left alone.
pub const SCHEMA: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER: usize = 48;
/// Bytes of a frame before its record.
pub const FRAME: usize = 25;
/// The most bytes of a record.
pub const MAX_RECORD: usize = 4_096;

const FILE_MARK: &[u8; 16] = b"causeway history";
const FRAME_MARK: &[u8; 2] = b"CH";
/// Bytes of a frame before what its length counts.
const PREFIX: usize = 8;
const JSON: u8 = 0;
const MINUTE: u8 = 1;

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of its layout.
    pub schema: u32,
    /// The order of segments.
    pub segment: u64,
    /// The ring that it belongs to.
    pub ring: u64,
    /// The number of its first record.
    pub first: u64,
}

impl Header {
    /// As bytes.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(FILE_MARK);
        bytes.extend(self.schema.to_be_bytes());
        for number in [self.segment, self.ring, self.first] {
            bytes.extend(number.to_be_bytes());
        }
        let check = checksum(0, &bytes);
        bytes.extend(check);
        bytes
    }

    /// The header of a segment; `None` when it is damaged, or not whole.
    #[must_use]
    pub fn decoded(bytes: &[u8]) -> Option<Self> {
        let (content, check) = bytes.get(..HEADER)?.split_at_checked(HEADER - 4)?;
        if !content.starts_with(FILE_MARK) || checksum(0, content) != check {
            return None;
        }
        let schema = u32::from_be_bytes(content.get(16..20)?.try_into().ok()?);
        let number = |at| Some(u64::from_be_bytes(content.get(at..at + 8)?.try_into().ok()?));
        Some(Self { schema, segment: number(20)?, ring: number(28)?, first: number(36)? })
    }

    /// Whether this version can read and continue the segment.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.schema <= SCHEMA
    }
}

/// The frame of a record in the segment of this number; `None` when the record is too long.
#[must_use]
pub fn encoded(segment: u64, record: &Record) -> Option<Vec<u8>> {
    let (form, content) = match minute::encoded(&record.what) {
        Some(bytes) => (MINUTE, bytes),
        None => (JSON, serde_json::to_vec(&record.what).ok()?),
    };
    if content.len() > MAX_RECORD {
        return None;
    }
    let mut body = Vec::with_capacity(FRAME + content.len());
    body.extend(record.number.to_be_bytes());
    body.extend(record.at.to_be_bytes());
    body.push(form);
    body.extend(content);
    let length = u16::try_from(body.len()).ok()?;
    let mut frame = FRAME_MARK.to_vec();
    frame.extend(length.to_be_bytes());
    frame.extend(body_checksum(segment, length, &body));
    frame.extend(body);
    Some(frame)
}

/// One frame of a segment, its record not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The number of the record.
    pub number: u64,
    /// Its time, in Unix milliseconds.
    pub at: u64,
    /// Where the frame ends in the segment.
    pub end: usize,
    form: u8,
    content: &'b [u8],
}

impl Frame<'_> {
    /// Whether it is a minute.
    #[must_use]
    pub const fn is_minute(&self) -> bool {
        self.form == MINUTE
    }

    /// The record. What this version cannot read is [`What::Unknown`].
    #[must_use]
    pub fn record(&self) -> Record {
        let what = match self.form {
            JSON => serde_json::from_slice(self.content).ok(),
            MINUTE => minute::decoded(self.content),
            _ => None,
        };
        Record { number: self.number, at: self.at, what: what.unwrap_or(What::Unknown) }
    }
}

/// The frames of a segment that are whole, in order.
pub fn frames(segment: u64, bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        while at + FRAME <= bytes.len() {
            if let Some(frame) = frame_at(segment, bytes, at) {
                at = frame.end;
                return Some(frame);
            }
            // Damaged: the next one begins with the mark.
            let rest = bytes.get(at + 1..)?;
            at += 1 + rest.windows(FRAME_MARK.len()).position(|two| two == FRAME_MARK)?;
        }
        None
    })
}

fn frame_at(segment: u64, bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let prefix = bytes.get(at..at + PREFIX)?;
    let (mark, rest) = prefix.split_at_checked(2)?;
    let (length, check) = rest.split_at_checked(2)?;
    let length = u16::from_be_bytes(length.try_into().ok()?);
    if mark != FRAME_MARK || usize::from(length) > FRAME - PREFIX + MAX_RECORD {
        return None;
    }
    let end = at + PREFIX + usize::from(length);
    let body = bytes.get(at + PREFIX..end)?;
    if body_checksum(segment, length, body) != check {
        return None;
    }
    let (number, rest) = body.split_first_chunk()?;
    let (time, rest) = rest.split_first_chunk()?;
    let (form, content) = rest.split_first()?;
    Some(Frame {
        number: u64::from_be_bytes(*number),
        at: u64::from_be_bytes(*time),
        end,
        form: *form,
        content,
    })
}

fn body_checksum(segment: u64, length: u16, body: &[u8]) -> [u8; 4] {
    let mut hash = Blake2s256::new();
    hash.update(segment.to_be_bytes());
    hash.update(length.to_be_bytes());
    hash.update(body);
    first_bytes(hash)
}

fn checksum(segment: u64, bytes: &[u8]) -> [u8; 4] {
    let mut hash = Blake2s256::new();
    hash.update(segment.to_be_bytes());
    hash.update(bytes);
    first_bytes(hash)
}

fn first_bytes(hash: Blake2s256) -> [u8; 4] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(records: &[Record]) -> Vec<u8> {
        let mut bytes = Header { schema: SCHEMA, segment: 3, ring: 9, first: 1 }.encoded();
        bytes.extend(records.iter().flat_map(|record| encoded(3, record).unwrap()));
        bytes
    }

    fn numbers(segment: u64, bytes: &[u8]) -> Vec<u64> {
        frames(segment, bytes).map(|frame| frame.record().number).collect()
    }

    fn records(count: u64) -> Vec<Record> {
        let what = |number: u64| match number % 3 {
            0 => What::Roamed { peer: "wroclaw".to_owned() },
            1 => What::Peer { peer: "CH".repeat(40), from: "up".to_owned(), to: "down".to_owned() },
            _ => What::Minute {
                peer: "kyiv".to_owned(),
                round_trip_ms: Some(12.5),
                loss: 0.25,
                received: number * 1_000,
                sent: u64::MAX,
            },
        };
        (1..=count).map(|number| Record { number, at: number * 60_000, what: what(number) }).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let written = records(9);
        let bytes = segment(&written);
        assert_eq!(frames(3, &bytes).map(|frame| frame.record()).collect::<Vec<_>>(), written);
        assert_eq!(frames(3, &bytes).last().map(|frame| frame.end), Some(bytes.len()));
        let header = Header::decoded(&bytes).unwrap();
        assert_eq!((header.segment, header.ring, header.first), (3, 9, 1));
        assert!(numbers(4, &bytes).is_empty(), "the frames of another segment are none of it");
    }

    #[test]
    fn a_record_that_is_too_long_has_no_frame() {
        let fix = "x".repeat(MAX_RECORD);
        assert_eq!(encoded(1, &Record { number: 1, at: 1, what: What::Repaired { what: fix } }), None);
    }

    #[test]
    fn every_length_of_a_torn_segment_has_the_records_that_are_whole() {
        let bytes = segment(&records(6));
        let ends: Vec<usize> = frames(3, &bytes).map(|frame| frame.end).collect();
        for length in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(numbers(3, &bytes[..length]).len(), whole, "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_garbled_byte_costs_the_record_that_it_is_in(at in 0_usize..700, to: u8) {
            let mut bytes = segment(&records(8));
            let ranges: Vec<(usize, usize)> = {
                let ends: Vec<usize> = frames(3, &bytes).map(|frame| frame.end).collect();
                std::iter::once(HEADER).chain(ends.clone()).zip(ends).collect()
            };
            let at = at % bytes.len();
            let is_changed = std::mem::replace(&mut bytes[at], to) != to;
            let hit = ranges.iter().position(|(from, end)| (*from..*end).contains(&at)).filter(|_| is_changed);
            let expected: Vec<u64> = (1..=8).filter(|number| hit.is_none_or(|hit| hit as u64 + 1 != *number)).collect();
            prop_assert_eq!(numbers(3, &bytes), expected);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>, segment: u64) {
            let _ = Header::decoded(&bytes);
            frames(segment, &bytes).for_each(|frame| drop(frame.record()));
        }
    }
}

//! The ring on the disk: segment files in a folder, which are only ever appended to; the oldest
//! goes when a new one needs its place.
//!
//! Minutes have files of their own, so that they never take the place of what happened: with many
//! peers it is minutes that are kept for less than 30 days.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::frame::{self, FRAME, HEADER, Header, SCHEMA};
use super::recent;
use super::record::{Query, Record};

/// How large the files of one kind may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of one segment.
    pub segment: u64,
    /// Segments at most.
    pub segments: u64,
}

/// 8 MiB in all: as much for what happened as for minutes.
pub const SIZE: Size = Size { segment: 256 * 1_024, segments: 16 };

/// The two kinds of files, as their names begin.
const KINDS: [&str; 2] = ["events", "minutes"];

/// What a reader needs to know of a segment, so that it opens those alone that may have what it
/// wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    path: PathBuf,
    number: u64,
    /// `None` for one whose header this version cannot read, or that is damaged.
    header: Option<Header>,
    bytes: u64,
}

/// The segments of both kinds, each oldest first.
pub type Index = [Vec<Segment>; 2];

/// The ring, open for writing.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    size: Size,
    /// Its name.
    ring: u64,
    /// The number of the newest record.
    newest: u64,
    /// Since it was opened.
    written: u64,
    kinds: [Kind; 2],
}

#[derive(Debug)]
struct Kind {
    name: &'static str,
    segments: Vec<Segment>,
    /// The newest segment, where it can be continued.
    open: Option<File>,
    is_changed: bool,
}

impl Store {
    /// Opens the ring in `folder`, which is made where it is missing; a torn end is cut off. A new
    /// ring is named `random`.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(folder: &Path, size: Size, random: u64) -> io::Result<Self> {
        crate::files::make_folder(folder)?;
        let mut found = list(folder)?;
        let known = found.iter().flatten().filter_map(|segment| segment.header);
        let ring = known.max_by_key(|header| header.first).map_or(random, |header| header.ring);
        let newest = found.iter().flatten().map(Segment::reaches).max().unwrap_or(0);
        let mut newest = newest;
        let mut kinds = Vec::new();
        for (name, segments) in KINDS.into_iter().zip(&mut found) {
            let mut kind = Kind { name, segments: std::mem::take(segments), open: None, is_changed: false };
            // A power cut may have left both the oldest one and the new one for which it was to go.
            kind.shrink(size.segment.saturating_mul(size.segments))?;
            newest = newest.max(kind.continue_newest()?);
            kinds.push(kind);
        }
        let kinds = kinds.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { folder: folder.to_owned(), size, ring, newest, written: 0, kinds })
    }

    /// The name of the ring.
    #[must_use]
    pub const fn ring(&self) -> u64 {
        self.ring
    }

    /// The number of the newest record, or a higher one where that cannot be read.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// What readers need.
    #[must_use]
    pub fn index(&self) -> Index {
        self.kinds.each_ref().map(|kind| kind.segments.clone())
    }

    /// The newest records that are no minutes, at most [`MOST`](super::recent::MOST).
    #[must_use]
    pub fn latest_events(&self) -> Vec<Record> {
        let [events, _] = &self.kinds;
        let mut latest = VecDeque::new();
        for segment in events.segments.iter().rev() {
            let Ok(bytes) = read(&segment.path) else { continue };
            let records: Vec<Record> =
                frame::frames(segment.number, &bytes).map(|frame| frame.record()).collect();
            records.into_iter().rev().for_each(|record| latest.push_front(record));
            if latest.len() >= recent::MOST {
                break;
            }
        }
        latest.drain(..latest.len().saturating_sub(recent::MOST));
        latest.into()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kinds.iter().flat_map(|kind| &kind.segments).map(|segment| segment.bytes).sum()
    }

    /// Bytes that were written since it was opened.
    #[must_use]
    pub const fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Writes records; once it returns they outlast a power cut.
    ///
    /// # Errors
    /// Whatever the file system says; then some of them may be there. The ring is to be opened
    /// again.
    pub fn write(&mut self, records: &[Record]) -> io::Result<()> {
        for record in records {
            let [events, minutes] = &mut self.kinds;
            let kind = if record.what.is_minute() { minutes } else { events };
            let length = kind.append(&self.folder, self.size, self.ring, record)?;
            self.written = self.written.saturating_add(length);
            self.newest = self.newest.max(record.number);
        }
        self.kinds.iter_mut().try_for_each(Kind::sync)
    }
}

impl Kind {
    /// Cuts a torn end off the newest segment and opens it; returns the number of its last record.
    fn continue_newest(&mut self) -> io::Result<u64> {
        let Some(newest) = self.segments.last_mut() else { return Ok(0) };
        let Some(header) = newest.header.filter(Header::is_known) else { return Ok(0) };
        let bytes = read(&newest.path)?;
        let last = frame::frames(header.segment, &bytes).last();
        let (number, end) = last.map_or((0, HEADER), |frame| (frame.number, frame.end));
        let file = File::options().append(true).open(&newest.path)?;
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        if newest.bytes > end {
            file.set_len(end)?;
            file.sync_all()?;
        }
        newest.bytes = end;
        self.open = Some(file);
        Ok(number)
    }

    /// Appends a record; returns how many bytes that took.
    fn append(&mut self, folder: &Path, size: Size, ring: u64, record: &Record) -> io::Result<u64> {
        let number = self.segments.last().map_or(0, |segment| segment.number);
        // One that is too long is in memory alone.
        let Some(mut frame) = frame::encoded(number, record) else { return Ok(0) };
        let length = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        let used = self.segments.last().map_or(u64::MAX, |segment| segment.bytes);
        if self.open.is_none() || used.saturating_add(length) > size.segment {
            let number = self.begin(folder, size, ring, record.number)?;
            frame = frame::encoded(number, record).unwrap_or_default();
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.last_mut()) else { return Ok(0) };
        file.write_all(&frame)?;
        segment.bytes += length;
        self.is_changed = true;
        Ok(length)
    }

    /// Begins a segment; the oldest ones go, so that there is room for it.
    fn begin(&mut self, folder: &Path, size: Size, ring: u64, first: u64) -> io::Result<u64> {
        self.sync()?;
        self.open = None;
        self.shrink(size.segment.saturating_mul(size.segments.saturating_sub(1)))?;
        let number = self.segments.last().map_or(1, |segment| segment.number.saturating_add(1));
        let header = Header { schema: SCHEMA, segment: number, ring, first };
        let path = folder.join(format!("{}-{number:010}", self.name));
        let mut file = File::options().create_new(true).append(true).open(&path)?;
        file.write_all(&header.encoded())?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        self.segments.push(Segment { path, number, header: Some(header), bytes: HEADER as u64 });
        self.open = Some(file);
        Ok(number)
    }

    /// Removes the oldest segments until the others take so many bytes at most.
    fn shrink(&mut self, bytes: u64) -> io::Result<()> {
        while !self.segments.is_empty()
            && self.segments.iter().map(|segment| segment.bytes).sum::<u64>() > bytes
        {
            fs::remove_file(&self.segments.remove(0).path)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.open {
            Some(file) if std::mem::take(&mut self.is_changed) => file.sync_data(),
            _ => Ok(()),
        }
    }
}

impl Segment {
    /// The highest number that a record in it may have, as far as its header shows. Of a segment
    /// that a newer version wrote, no more is known than its size.
    fn reaches(&self) -> u64 {
        let most = self.bytes / FRAME as u64;
        match self.header {
            Some(header) if header.is_known() => header.first.saturating_sub(1),
            Some(header) => header.first.saturating_add(most),
            None => 0,
        }
    }
}

/// The segments in a folder; what is no segment is left alone.
fn list(folder: &Path) -> io::Result<Index> {
    let mut found: [BTreeMap<u64, Segment>; 2] = Default::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        for (kind, segments) in KINDS.iter().zip(&mut found) {
            let number =
                name.to_str().and_then(|name| name.strip_prefix(kind)?.strip_prefix('-')?.parse().ok());
            if let (Some(number), true) = (number, entry.file_type()?.is_file()) {
                segments.insert(number, looked_at(&entry.path(), number)?);
            }
        }
    }
    Ok(found.map(|segments| segments.into_values().collect()))
}

fn looked_at(path: &Path, number: u64) -> io::Result<Segment> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    (&mut file).take(HEADER as u64).read_to_end(&mut bytes)?;
    // A file under another's name would have its frames refused.
    let header = Header::decoded(&bytes).filter(|header| header.segment == number);
    Ok(Segment { path: path.to_owned(), number, header, bytes: file.metadata()?.len() })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A segment is never larger; whatever is in its place may be.
    File::open(path)?.take(SIZE.segment * 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first records in these segments that are wanted, oldest first. What cannot be read is left
/// out, and so is a segment that has gone meanwhile.
#[must_use]
pub fn find(index: &Index, query: &Query) -> Vec<Record> {
    let [events, minutes] = index;
    let mut found = find_in(events, query);
    if !query.no_minutes {
        found.extend(find_in(minutes, query));
        found.sort_unstable_by_key(|record| record.number);
        found.truncate(query.most());
    }
    found
}

fn find_in(segments: &[Segment], query: &Query) -> Vec<Record> {
    let mut found = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).and_then(|next| next.header);
        let is_before = |after: u64| next.is_some_and(|next| next.first <= after.saturating_add(1));
        let Some(header) = segment.header.filter(Header::is_known) else { continue };
        if query.after.is_some_and(is_before) {
            continue;
        }
        let Ok(bytes) = read(&segment.path) else { continue };
        let wanted = frame::frames(header.segment, &bytes)
            .filter(|frame| query.wants(frame.number, frame.at, frame.is_minute()))
            .take(query.most() - found.len());
        found.extend(wanted.map(|frame| frame.record()));
        if found.len() >= query.most() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests;

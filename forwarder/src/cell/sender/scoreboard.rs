//! What was sent and not yet acknowledged: which runs of bytes are in flight, arrived out of order,
//! or are lost.
//!
//! Places are offsets from the first byte of the stream. Runs sent together stay one entry until an
//! acknowledgement or a loss takes them apart, so that a path without loss costs one entry per
//! super-packet.

use std::collections::VecDeque;
use std::time::Duration;

use tunnel::time::Instant;

/// Most entries. Beyond it nothing new is sent, and a selective acknowledgement that would cut one
/// more run in pieces is ignored: what it reports is sent again. A full ring of 4 MiB is 3,100
/// segments.
pub(super) const MAX_ENTRIES: usize = 8_192;
/// Neighbours that both arrived become one entry up to this many bytes.
const MERGED: u64 = 60_000;

/// Where a run of bytes is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying,
    /// Selectively acknowledged.
    Arrived,
    Lost,
}

/// Bytes that were sent at once and have had the same fate since.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    end: u64,
    sent_at: Instant,
    state: State,
    /// Sent more than once.
    again: bool,
}

/// A run of bytes: the offset of the first, and of the one after the last.
pub(super) type Run = (u64, u64);

/// Everything sent and not cumulatively acknowledged.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    entries: VecDeque<Entry>,
    acknowledged: u64,
    next: u64,
    arrived: u64,
    lost: u64,
    /// No lost entry starts below.
    lost_from: u64,
    /// End of the highest run that is known to have arrived.
    forward: u64,
}

/// What one acknowledgement reported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AckSummary {
    /// Bytes that the cumulative acknowledgement advanced by.
    pub(super) acknowledged: u64,
    /// Bytes of which it was not known before that they arrived.
    pub(super) delivered: u64,
    /// Of what was delivered, when the last was sent and where it ends (`RACK.xmit_ts`,
    /// `RACK.end_seq`); what was sent again counts only when the acknowledgement cannot be for the
    /// first time.
    pub(super) newest: Option<(Instant, u64)>,
    /// Of what was delivered and sent only once: when the first and the last were sent.
    pub(super) once: Option<(Instant, Instant)>,
    /// Something was taken for lost, not sent again, and arrived.
    pub(super) was_not_lost: bool,
    /// Something sent only once arrived after what was sent later.
    pub(super) reordered: bool,
    /// There was no entry left to note all that arrived.
    pub(super) was_full: bool,
}

impl Scoreboard {
    /// First byte not acknowledged (SND.UNA).
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// First byte never sent (SND.NXT).
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes between the two.
    pub(super) fn outstanding(&self) -> u64 {
        self.next - self.acknowledged
    }

    /// Bytes believed to be on the path (`pipe` in RFC 6675).
    pub(super) fn in_flight(&self) -> u64 {
        self.outstanding() - self.arrived - self.lost
    }

    /// Bytes that arrived out of order.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Bytes that are lost and not sent again yet.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether another run may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < MAX_ENTRIES
    }

    /// Bytes were sent for the first time.
    pub(super) fn push(&mut self, now: Instant, len: u64) {
        let (start, end) = (self.next, self.next + len);
        self.entries.push_back(Entry { start, end, sent_at: now, state: State::Flying, again: false });
        self.next = end;
    }

    /// Everything below `to` has arrived.
    pub(super) fn acknowledge(
        &mut self,
        to: u64,
        believable: impl Fn(Instant) -> bool,
        summary: &mut AckSummary,
    ) {
        let to = to.min(self.next);
        summary.acknowledged += to.saturating_sub(self.acknowledged);
        while let Some(entry) = self.entries.front_mut().filter(|entry| entry.start < to) {
            let run = Entry { end: entry.end.min(to), ..*entry };
            entry.start = run.end;
            let is_over = entry.start == entry.end;
            if is_over {
                self.entries.pop_front();
            }
            self.leave(&run);
            if run.state != State::Arrived {
                summary.deliver(&run, self.forward, &believable);
            }
        }
        self.acknowledged = self.acknowledged.max(to);
    }

    /// The bytes of `block` have arrived; the caller calls [`arrived_up_to`](Self::arrived_up_to)
    /// afterwards.
    pub(super) fn select(
        &mut self,
        block: Run,
        believable: impl Fn(Instant) -> bool,
        summary: &mut AckSummary,
    ) {
        let (start, end) = (block.0.max(self.acknowledged), block.1.min(self.next));
        let mut at = self.entries.partition_point(|entry| entry.end <= start);
        while let Some(&entry) = self.entries.get(at).filter(|entry| entry.start < end) {
            if entry.state == State::Arrived {
                at += 1;
                continue;
            }
            if entry.start < start {
                if !self.has_room() {
                    summary.was_full = true;
                    break;
                }
                self.split(at, start);
                at += 1;
                continue;
            }
            if entry.end > end {
                if !self.has_room() {
                    summary.was_full = true;
                    break;
                }
                self.split(at, end);
            }
            at = self.arrive(at, &believable, summary);
        }
    }

    /// One entry has arrived; returns the index after it.
    fn arrive(
        &mut self,
        at: usize,
        believable: &impl Fn(Instant) -> bool,
        summary: &mut AckSummary,
    ) -> usize {
        let Some(&entry) = self.entries.get(at) else { return at + 1 };
        summary.deliver(&entry, self.forward, believable);
        self.leave(&entry);
        self.arrived += entry.end - entry.start;
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = State::Arrived;
        }
        let before = at.checked_sub(1).and_then(|before| self.entries.get_mut(before));
        match before {
            Some(before) if before.state == State::Arrived && entry.end - before.start <= MERGED => {
                before.end = entry.end;
                before.sent_at = before.sent_at.max(entry.sent_at);
                before.again |= entry.again;
                self.entries.remove(at);
                at
            }
            _ => at + 1,
        }
    }

    /// Remembers how far anything has arrived, once the whole acknowledgement is read.
    pub(super) fn arrived_up_to(&mut self, end: u64) {
        self.forward = self.forward.max(end);
    }

    /// Marks as lost what was sent before the `newest` that arrived and has had `allowance` since
    /// (RFC 8985 §6.2, step 5).
    ///
    /// Returns when the next would be lost; bytes newly lost are seen in [`lost`](Self::lost).
    pub(super) fn detect(
        &mut self,
        now: Instant,
        newest: (Instant, u64),
        allowance: Duration,
    ) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for entry in &mut self.entries {
            let is_before = (entry.sent_at, entry.end) < newest;
            // Everything behind was sent later, for the first time or again.
            if !is_before && !entry.again {
                break;
            }
            if !is_before || entry.state != State::Flying {
                continue;
            }
            let at = entry.sent_at.after(allowance);
            if at <= now {
                entry.state = State::Lost;
                self.lost += entry.end - entry.start;
                self.lost_from = self.lost_from.min(entry.start);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    /// The first `len` bytes are lost, where nothing more is reported (RFC 6582).
    pub(super) fn lose_first(&mut self, len: u64) {
        let Some(first) = self.entries.front().copied() else { return };
        if first.state != State::Flying {
            return;
        }
        if first.end - first.start > len {
            self.split(0, first.start + len);
        }
        if let Some(entry) = self.entries.front_mut() {
            entry.state = State::Lost;
            self.lost += entry.end - entry.start;
            self.lost_from = entry.start;
        }
    }

    /// The timeout ran out: the first is lost, and of the rest what had `allowance` to arrive and
    /// did not.
    ///
    /// When the first did "arrive", the other end has discarded it again (RFC 2018 §8), and all
    /// that it reported is void.
    pub(super) fn time_out(&mut self, now: Instant, allowance: Duration) {
        let reneged = self.entries.front().is_some_and(|entry| entry.state == State::Arrived);
        for (at, entry) in self.entries.iter_mut().enumerate() {
            let is_late = at == 0 || entry.sent_at.after(allowance) <= now;
            if reneged || (entry.state == State::Flying && is_late) {
                entry.state = State::Lost;
            }
        }
        self.recount();
    }

    /// Everything that did not arrive is to be sent again: it was too long for the path.
    pub(super) fn lose_all(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Flying) {
            entry.state = State::Lost;
        }
        self.recount();
    }

    /// What was taken for lost is in flight after all.
    pub(super) fn nothing_is_lost(&mut self) {
        for entry in &mut self.entries {
            if entry.state == State::Lost {
                entry.state = State::Flying;
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        let sum = |state: State| -> u64 {
            let inside = self.entries.iter().filter(|entry| entry.state == state);
            inside.map(|entry| entry.end - entry.start).sum()
        };
        (self.arrived, self.lost) = (sum(State::Arrived), sum(State::Lost));
        self.lost_from = self.acknowledged;
    }

    /// The first lost run, `limit` bytes of it at most.
    pub(super) fn first_lost(&mut self, limit: u64) -> Option<Run> {
        if self.lost == 0 {
            return None;
        }
        let from = self.entries.partition_point(|entry| entry.end <= self.lost_from);
        let entry = self.entries.iter().skip(from).find(|entry| entry.state == State::Lost)?;
        self.lost_from = entry.start;
        Some((entry.start, entry.end.min(entry.start + limit)))
    }

    /// The last `limit` bytes sent, when they have not arrived.
    pub(super) fn last(&self, limit: u64) -> Option<Run> {
        let entry = self.entries.back().filter(|entry| entry.state != State::Arrived)?;
        // Cut where a segment begins, so that the receiver sees the same one again.
        let whole = (entry.end - entry.start - 1) / limit.max(1) * limit;
        Some((entry.start + whole, entry.end))
    }

    /// A run inside one entry was sent again.
    pub(super) fn sent_again(&mut self, now: Instant, run: Run) {
        let mut at = self.entries.partition_point(|entry| entry.end <= run.0);
        let Some(&entry) = self.entries.get(at) else { return };
        if entry.start < run.0 {
            self.split(at, run.0);
            at += 1;
        }
        if entry.end > run.1 {
            self.split(at, run.1);
        }
        let Some(entry) = self.entries.get_mut(at) else { return };
        if entry.state == State::Lost {
            self.lost -= entry.end - entry.start;
        }
        if entry.state != State::Arrived {
            *entry = Entry { state: State::Flying, sent_at: now, again: true, ..*entry };
        }
    }

    fn split(&mut self, at: usize, place: u64) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        let rest = Entry { start: place, ..*entry };
        entry.end = place;
        self.entries.insert(at + 1, rest);
    }

    /// Takes an entry out of the sum it is in.
    fn leave(&mut self, entry: &Entry) {
        let len = entry.end - entry.start;
        match entry.state {
            State::Flying => {}
            State::Arrived => self.arrived -= len,
            State::Lost => self.lost -= len,
        }
    }

    /// Whether the sums are those of the entries, and the entries are without gap and overlap.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let mut at = self.acknowledged;
        let (mut arrived, mut lost) = (0, 0);
        for entry in &self.entries {
            if entry.start != at || entry.end <= entry.start {
                return false;
            }
            at = entry.end;
            match entry.state {
                State::Flying => {}
                State::Arrived => arrived += entry.end - entry.start,
                State::Lost => lost += entry.end - entry.start,
            }
        }
        let first_lost = self.entries.iter().find(|entry| entry.state == State::Lost);
        at == self.next
            && (arrived, lost) == (self.arrived, self.lost)
            && first_lost.is_none_or(|entry| entry.start >= self.lost_from)
    }
}

impl AckSummary {
    fn deliver(&mut self, entry: &Entry, forward: u64, believable: &impl Fn(Instant) -> bool) {
        self.delivered += entry.end - entry.start;
        let sent = (entry.sent_at, entry.end);
        if !entry.again || believable(entry.sent_at) {
            self.newest = Some(self.newest.map_or(sent, |newest| newest.max(sent)));
        }
        if !entry.again {
            self.once = Some(self.once.map_or((entry.sent_at, entry.sent_at), |(first, last)| {
                (first.min(entry.sent_at), last.max(entry.sent_at))
            }));
            self.was_not_lost |= entry.state == State::Lost;
            self.reordered |= entry.end < forward;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_acknowledged_leaves_and_a_part_of_an_entry_is_cut_off() {
        let mut board = sent(&[100, 100]);
        let summary = acknowledge(&mut board, 150);
        assert_eq!((summary.acknowledged, summary.delivered, board.outstanding()), (150, 150, 50));
        assert!(board.is_consistent());
    }

    #[test]
    fn a_selective_acknowledgement_cuts_an_entry_in_three() {
        let mut board = sent(&[300]);
        let summary = select(&mut board, (100, 200));
        assert_eq!(
            (summary.delivered, board.in_flight(), board.arrived(), board.entries.len()),
            (100, 200, 100, 3)
        );
        assert_eq!(select(&mut board, (100, 200)).delivered, 0);
        assert_eq!(acknowledge(&mut board, 300).delivered, 200);
        assert!(board.is_consistent());
    }

    #[test]
    fn neighbours_that_arrived_become_one() {
        let mut board = sent(&[100; 10]);
        for at in 2..8 {
            select(&mut board, (at * 100, at * 100 + 100));
        }
        assert_eq!(board.entries.len(), 5);
        assert!(board.is_consistent());
    }

    #[test]
    fn what_was_sent_before_the_newest_arrival_is_lost_after_its_allowance() {
        let mut board = sent(&[100, 100, 100]);
        let summary = select(&mut board, (200, 300));
        let newest = summary.newest.unwrap();
        let wait = Duration::from_millis(5);
        assert_eq!(board.detect(at(2), newest, wait), Some(at(5)));
        assert_eq!(board.lost(), 0);
        assert_eq!(board.detect(at(5), newest, wait), Some(at(6)));
        assert_eq!((board.lost(), board.first_lost(40)), (100, Some((0, 40))));
        board.sent_again(at(6), (0, 40));
        assert_eq!((board.lost(), board.first_lost(400)), (60, Some((40, 100))));
        assert!(board.is_consistent());
    }

    #[test]
    fn a_receiver_that_takes_back_what_it_reported_is_sent_everything_again() {
        let mut board = sent(&[100, 100]);
        select(&mut board, (0, 100));
        board.time_out(at(5), Duration::from_secs(1));
        assert_eq!((board.lost(), board.arrived()), (200, 0));
        board.nothing_is_lost();
        assert_eq!((board.lost(), board.in_flight()), (0, 200));
    }

    #[test]
    fn a_timeout_loses_the_first_and_what_is_as_late() {
        let mut board = sent(&[100, 100, 100]);
        board.sent_again(at(9), (0, 100));
        board.time_out(at(10), Duration::from_millis(9));
        assert_eq!((board.lost(), board.first_lost(1_000)), (200, Some((0, 100))));
        assert!(board.is_consistent());
    }

    #[test]
    fn reordering_is_an_original_that_arrives_after_a_later_one() {
        let mut board = sent(&[100, 100, 100]);
        assert!(!select(&mut board, (200, 300)).reordered);
        assert!(select(&mut board, (100, 200)).reordered);
        board.sent_again(at(9), (0, 100));
        assert!(!acknowledge(&mut board, 300).reordered);
    }

    #[test]
    fn runs_beyond_the_limit_are_ignored() {
        let mut board = sent(&[100_000]);
        for at in 0..10_000 {
            select(&mut board, (at * 10 + 3, at * 10 + 4));
        }
        assert_eq!(board.entries.len(), MAX_ENTRIES);
        assert!(!board.has_room() && board.is_consistent());
        acknowledge(&mut board, 100_000);
        assert_eq!((board.entries.len(), board.arrived()), (0, 0));
    }

    proptest! {
        #[test]
        fn the_sums_are_right_whatever_is_acknowledged(
            steps in prop::collection::vec((0_u8..8, 0_u64..6_000, 1_u64..900), 1..120)
        ) {
            let mut board = Scoreboard::default();
            for (time, (what, place, len)) in steps.into_iter().enumerate() {
                let now = at(time as u64);
                let first = board.acknowledged();
                match what {
                    0 | 1 => board.push(now, len),
                    2 => drop(acknowledge(&mut board, first + len)),
                    3 | 4 => drop(select(&mut board, (first + place, first + place + len))),
                    5 => drop(board.detect(now, (now, u64::MAX), Duration::from_millis(len / 10))),
                    6 => match board.first_lost(len) {
                        Some(run) => board.sent_again(now, run),
                        None => if let Some(run) = board.last(len) { board.sent_again(now, run) },
                    },
                    _ if len < 100 => board.time_out(now, Duration::from_millis(len)),
                    _ if len < 150 => board.lose_all(),
                    _ => board.lose_first(len),
                }
                prop_assert!(board.is_consistent(), "{board:?}");
            }
        }
    }

    fn sent(lens: &[u64]) -> Scoreboard {
        let mut board = Scoreboard::default();
        for (time, len) in lens.iter().enumerate() {
            board.push(at(time as u64), *len);
        }
        board
    }

    fn acknowledge(board: &mut Scoreboard, to: u64) -> AckSummary {
        let mut summary = AckSummary::default();
        board.acknowledge(to, |_| true, &mut summary);
        board.arrived_up_to(to);
        summary
    }

    fn select(board: &mut Scoreboard, block: Run) -> AckSummary {
        let mut summary = AckSummary::default();
        board.select(block, |_| true, &mut summary);
        board.arrived_up_to(block.1);
        summary
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }
}

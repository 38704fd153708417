//! The sending half of a cell's TCP: what to send, when, and again.
//!
//! Selective acknowledgements (RFC 2018, duplicates by RFC 2883) on a scoreboard; losses by time
//! (RACK and tail loss probes, RFC 8985), where the other end has no SACK by three duplicates (RFC
//! 6582); the timeout of RFC 6298 with Linux's 200 ms minimum; CUBIC; proportional rate reduction;
//! reductions undone that prove to be mistakes, by duplicates or by an original that arrives after
//! a timeout (RFC 5682); probes of a closed window (RFC 9293 §3.8.6.1); short segments where the
//! path loses long ones without an ICMP error (RFC 8899 §4.3).
//!
//! Pure: it takes the time and acknowledgements and returns what to send; it holds no byte of the
//! stream. Places are offsets from the first byte; the bytes themselves are in the cell's
//! [ring](super::ring).

mod black_hole;
mod cubic;
mod options;
mod rack;
mod recovery;
mod rtt;
mod scoreboard;
#[cfg(test)]
mod tests;
mod timers;
mod transmit;

use std::time::Duration;

use tunnel::time::Instant;

use black_hole::BlackHole;
use cubic::{Cubic, Sample};
pub(super) use options::{Blocks, Offer};
use rack::Rack;
use recovery::{Phase, Recovery, Step};
use rtt::Rtt;
use scoreboard::{AckSummary, Run, Scoreboard};
use timers::{Probe, Timers};
use transmit::Usage;
pub(super) use transmit::{Segment, Sizes};

/// Duplicate acknowledgements that mean a loss where there is no SACK (RFC 5681 §3.2).
const DUPLICATES: u64 = 3;

/// Segments that may be found lost at once without congestion: noise on a radio link loses single
/// ones, a full queue or a policer loses them in a row.
const RANDOM_LOSSES: u64 = 2;

/// How many of the longest segments the owner may be ahead of what has left.
const AHEAD: usize = 2;

/// The sending half of an established flow.
///
/// It has more than 25 methods because the rules of TCP do not divide further: the parts of its
/// state have owners (scoreboard, window, round trips, recovery, timers), and what is left here are
/// the rules that read several of them at once. They are in three files: acknowledgements here,
/// `timers`, `transmit`.
#[derive(Debug)]
pub(super) struct Sender {
    /// Sequence number of the first byte.
    first: u32,
    offer: Offer,
    sizes: Sizes,
    board: Scoreboard,
    /// Bytes written by the flow's owner.
    end: u64,
    /// A FIN follows the last byte; it takes one place.
    is_closing: bool,
    window: Window,
    rtt: Rtt,
    rack: Rack,
    cubic: Cubic,
    recovery: Recovery,
    timers: Timers,
    /// A tail loss probe that was not answered yet.
    probe: Option<Probe>,
    usage: Usage,
    black_hole: BlackHole,
    /// Duplicate acknowledgements in a row from an end without SACK: each is a segment that
    /// arrived.
    duplicates: u64,
    last_sent: Instant,
    tally: Tally,
}

/// What a sender counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of payload that were sent again.
    pub resent: u64,
    /// How often the [scoreboard](scoreboard::MAX_ENTRIES) was full: nothing new was sent, or
    /// something that arrived could not be noted.
    pub full: u64,
}

/// The other end's window.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// First place that it does not take.
    edge: u64,
    len: u64,
    largest: u64,
    /// Sequence number of the segment that last updated it (SND.WL1).
    updated_by: u32,
}

/// The contents of an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// Acknowledgement number.
    pub(super) number: u32,
    /// Window as sent, not shifted.
    pub(super) window: u16,
    /// Sequence number of the segment that carries it.
    pub(super) sequence: u32,
    /// Whether that segment has data or a FIN.
    pub(super) has_data: bool,
    pub(super) blocks: Blocks,
}

/// What became of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckResult {
    /// Taken: so many bytes of data are newly acknowledged.
    Taken(usize),
    /// For something never sent (RFC 9293 §3.10.7.4).
    NeverSent,
}

impl Sender {
    /// The sender of a flow whose handshake is over: `first` is the sequence number of its first
    /// byte, `ack` what ended the handshake, its window scaled unless it was a SYN; `round_trip`
    /// what the handshake took, if that is known.
    pub(super) fn new(
        now: Instant,
        first: u32,
        sizes: Sizes,
        offer: Offer,
        ack: &Ack,
        is_syn: bool,
        round_trip: Option<Duration>,
    ) -> Self {
        let len = u64::from(ack.window) << if is_syn { 0 } else { offer.scale.unwrap_or(0) };
        let mut rtt = Rtt::default();
        if let Some(round_trip) = round_trip {
            rtt.sample(now, (round_trip, round_trip));
        }
        Self {
            first,
            offer,
            sizes,
            board: Scoreboard::default(),
            end: 0,
            is_closing: false,
            window: Window { edge: len, len, largest: len, updated_by: ack.sequence },
            rtt,
            rack: Rack::new(),
            cubic: Cubic::new(sizes.segment),
            recovery: Recovery::new(),
            timers: Timers::default(),
            probe: None,
            usage: Usage::default(),
            black_hole: BlackHole::default(),
            duplicates: 0,
            last_sent: now,
            tally: Tally::default(),
        }
    }

    /// What was counted since the last call.
    pub(super) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Sequence number of the first byte.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Bytes that may be written now: what the congestion window will allow soon, and not much
    /// more. What waits for the tunnel to take it takes memory, and more than two of the longest
    /// segments at once makes nothing faster.
    pub(super) fn room(&self) -> usize {
        if self.is_closing {
            return 0;
        }
        let segment = self.sizes.segment;
        let allowed = usize::try_from(self.allowance()).unwrap_or(usize::MAX);
        let ahead = allowed.min(AHEAD * self.sizes.largest).max(self.cubic.window().min(self.sizes.largest));
        let unsent = usize::try_from(self.end - self.board.next().min(self.end)).unwrap_or(usize::MAX);
        // Whole segments, so that where there is plenty to send none leaves half full.
        (ahead / segment * segment).saturating_sub(unsent)
    }

    /// The owner wrote `len` bytes.
    pub(super) fn written(&mut self, len: usize) {
        self.end += len as u64;
    }

    /// No more will be written: a FIN follows.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Whether the FIN was sent and acknowledged.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closing && self.board.acknowledged() > self.end
    }

    /// Bytes that wait to be sent or acknowledged, the FIN as one.
    pub(super) fn unacknowledged(&self) -> usize {
        usize::try_from(self.stream_end() - self.board.acknowledged()).unwrap_or(usize::MAX)
    }

    /// Sequence number of a segment without data: the next, or the window's end where the other end
    /// took back room.
    pub(super) fn sequence(&self) -> u32 {
        let inside = self.board.next().min(self.window.edge.max(self.board.acknowledged()));
        self.sequence_of(inside)
    }

    /// Whether what begins at `sequence` was sent and is not acknowledged.
    pub(super) fn is_outstanding(&self, sequence: u32) -> bool {
        let sent = self.board.acknowledged()..self.board.next();
        self.place(sequence).is_some_and(|place| sent.contains(&place))
    }

    /// A smaller segment size: the path cannot carry longer packets, so everything in flight is
    /// sent again.
    pub(super) fn shrink(&mut self, sizes: Sizes) {
        self.sizes = sizes;
        self.cubic.set_segment(sizes.segment);
        self.board.lose_all();
    }

    /// Whether the path has been found to lose long packets without an ICMP error; `true` once for
    /// each finding.
    pub(super) fn take_black_hole(&mut self) -> bool {
        self.black_hole.take_finding()
    }

    /// One place after the last, the FIN counted.
    fn stream_end(&self) -> u64 {
        self.end + u64::from(self.is_closing)
    }

    fn sequence_of(&self, place: u64) -> u32 {
        // The low half is what sequence numbers are.
        self.first.wrapping_add(place as u32)
    }

    /// The place of a sequence number near the first unacknowledged one.
    fn place(&self, sequence: u32) -> Option<u64> {
        let acknowledged = self.board.acknowledged();
        let distance = sequence.wrapping_sub(self.sequence_of(acknowledged)) as i32;
        acknowledged.checked_add_signed(i64::from(distance))
    }

    /// Takes an acknowledgement whose segment lies near the receive window.
    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Ack) -> AckResult {
        // Below the first byte of all: as old as can be.
        let place = self.place(ack.number).unwrap_or(0);
        if place > self.board.next() {
            return AckResult::NeverSent;
        }
        let data_before = self.board.acknowledged().min(self.end);
        let is_duplicate = self.is_duplicate(place, ack);
        self.update_window(place, ack);
        let (summary, arrived_twice) = self.read(now, place, ack);
        self.measure(now, &summary);
        if summary.acknowledged > 0 {
            self.black_hole.handle_progress(self.board.acknowledged());
        }
        self.handle_probe_reply(place, arrived_twice, is_duplicate);
        if let Some(run) = arrived_twice {
            self.handle_duplicate(run);
        }
        self.recover(now, &summary, is_duplicate);
        self.rearm(now, summary.acknowledged > 0);
        let data = self.board.acknowledged().min(self.end) - data_before;
        AckResult::Taken(usize::try_from(data).unwrap_or(usize::MAX))
    }

    /// Whether it acknowledges the same as the one before and brings nothing else (RFC 5681 §2).
    fn is_duplicate(&self, place: u64, ack: &Ack) -> bool {
        let window = u64::from(ack.window) << self.offer.scale.unwrap_or(0);
        place == self.board.acknowledged()
            && self.board.outstanding() > 0
            && !ack.has_data
            && window == self.window.len
    }

    /// What the acknowledgement reports about what was sent, and a run that arrived twice.
    fn read(&mut self, now: Instant, place: u64, ack: &Ack) -> (AckSummary, Option<Run>) {
        let mut summary = AckSummary::default();
        let shortest = self.rtt.shortest().unwrap_or_default();
        let believable = |sent_at: Instant| now.since(sent_at) >= shortest;
        self.board.acknowledge(place, believable, &mut summary);
        let mut forward = place;
        let mut arrived_twice = None;
        if self.offer.selective {
            let mut blocks = ack.blocks.iter();
            let runs = std::array::from_fn::<_, { options::MAX_BLOCKS }, _>(|_| self.run(blocks.next()?));
            arrived_twice = twice(&runs, place);
            for run in runs.iter().flatten().filter(|run| Some(**run) != arrived_twice) {
                self.board.select(*run, believable, &mut summary);
                forward = forward.max(run.1.min(self.board.next()));
            }
        }
        self.board.arrived_up_to(forward);
        self.tally.full += u64::from(summary.was_full);
        (summary, arrived_twice)
    }

    /// A SACK block as places; `None` when it is impossible.
    fn run(&self, (start, end): (u32, u32)) -> Option<Run> {
        let run = (self.place(start)?, self.place(end)?);
        (run.0 < run.1 && run.1 <= self.board.next()).then_some(run)
    }

    fn update_window(&mut self, place: u64, ack: &Ack) {
        let len = u64::from(ack.window) << self.offer.scale.unwrap_or(0);
        let is_later = (ack.sequence.wrapping_sub(self.window.updated_by) as i32) > 0;
        let is_same = ack.sequence == self.window.updated_by;
        let acknowledged = self.board.acknowledged();
        // What arrives late has an old window (RFC 9293 §3.10.7.4).
        let is_wider = is_same && (place + len >= self.window.edge || len == 0);
        if place > acknowledged || (place == acknowledged && (is_later || is_wider)) {
            let largest = self.window.largest.max(len);
            self.window = Window { edge: place + len, len, largest, updated_by: ack.sequence };
        }
    }

    fn measure(&mut self, now: Instant, summary: &AckSummary) {
        if let Some((first, last)) = summary.once {
            let (first, last) = (now.since(first), now.since(last));
            self.rtt.sample(now, (first, last));
            self.cubic.handle_sample(Sample {
                now,
                round_trip: last,
                shortest: self.rtt.shortest().unwrap_or(last),
                delivered: summary.delivered,
                acknowledged: self.board.acknowledged(),
                next: self.board.next(),
                is_full: self.usage.is_full(&self.cubic),
            });
        }
        self.rack.handle_ack_summary(now, summary);
    }

    /// A run arrived twice; where something was sent again, that was too early.
    fn handle_duplicate(&mut self, run: Run) {
        if self.recovery.has_resent() {
            self.rack.handle_duplicate(self.board.acknowledged(), self.board.next());
        }
        if self.recovery.handle_duplicate(run) {
            self.undo();
        }
    }

    /// Finds losses, and grows or reduces what may be sent.
    fn recover(&mut self, now: Instant, summary: &AckSummary, is_duplicate: bool) {
        if self.recovery.phase() == Phase::Timeout && summary.was_not_lost {
            // The timeout came too early: the original was only late (RFC 5682).
            self.undo();
        }
        let lost_before = self.board.lost();
        let delivered = match self.offer.selective {
            true => summary.delivered,
            false => self.count_duplicates(summary, is_duplicate),
        };
        if self.recovery.is_over(self.board.acknowledged()) {
            self.end_recovery();
        }
        self.detect(now);
        match self.recovery.phase() {
            Phase::Fast => self.step(delivered, summary.acknowledged > 0 && self.board.lost() <= lost_before),
            Phase::Open | Phase::Timeout => {
                if delivered > 0 && self.usage.is_full(&self.cubic) {
                    let bytes = usize::try_from(delivered).unwrap_or(usize::MAX);
                    self.cubic.grow(now, bytes, self.rtt.smoothed().unwrap_or_default());
                }
            }
        }
    }

    /// Without SACK: three duplicates are a loss, and so is what an acknowledgement in recovery
    /// stops at (RFC 6582).
    fn count_duplicates(&mut self, summary: &AckSummary, is_duplicate: bool) -> u64 {
        let segment = self.sizes.segment as u64;
        if summary.acknowledged > 0 {
            let known = self.duplicates * segment;
            self.duplicates = 0;
            if self.recovery.phase() == Phase::Fast && !self.recovery.is_over(self.board.acknowledged()) {
                self.board.lose_first(segment);
            }
            return summary.delivered.saturating_sub(known);
        }
        if !is_duplicate {
            return 0;
        }
        self.duplicates += 1;
        if self.duplicates == DUPLICATES && self.recovery.phase() == Phase::Open {
            self.board.lose_first(segment);
            self.begin_recovery();
        }
        segment
    }

    /// Finds what is lost by now; begins a recovery when something is.
    fn detect(&mut self, now: Instant) {
        self.timers.reorder = None;
        if self.offer.selective
            && let Some(newest) = self.rack.newest()
        {
            let is_recovering = self.recovery.phase() != Phase::Open;
            let segments = self.board.arrived() / self.sizes.segment.max(1) as u64;
            let allowance = self.rack.allowance(&self.rtt, is_recovering, segments);
            self.timers.reorder = self.board.detect(now, newest, allowance);
        }
        if self.recovery.phase() == Phase::Open && self.board.lost() > 0 {
            self.begin_recovery();
        }
    }

    fn begin_recovery(&mut self) {
        let window = self.cubic.window() as u64;
        self.reduce(self.is_congested());
        self.recovery.begin(window, (self.board.acknowledged(), self.board.next()));
        self.step(0, false);
    }

    pub(super) fn reduce(&mut self, is_queued: bool) {
        let is_one = self.recovery.is_unanswered(self.board.acknowledged());
        self.cubic.reduce(is_queued, is_one);
    }

    /// Whether losses that were just found are a sign of congestion: they come in numbers, or there
    /// is a queue on the path.
    fn is_congested(&self) -> bool {
        self.board.lost() > RANDOM_LOSSES * self.sizes.segment as u64 || self.rtt.is_queued()
    }

    fn end_recovery(&mut self) {
        if self.recovery.is_needless() {
            self.undo();
        } else if self.recovery.phase() == Phase::Fast {
            self.cubic.set_window(self.cubic.threshold());
        }
        self.recovery.end();
        self.rack.recovered();
        self.duplicates = 0;
    }

    fn step(&mut self, delivered: u64, is_good: bool) {
        self.recovery.step(Step {
            delivered,
            in_flight: self.in_flight(),
            threshold: self.cubic.threshold() as u64,
            is_good,
            segment: self.sizes.segment as u64,
        });
    }

    /// The last reduction was a mistake: the window is what it was, and nothing counts as lost.
    fn undo(&mut self) {
        match self.recovery.take_undo() {
            true => self.cubic.undo(),
            false => self.cubic.set_window(self.cubic.threshold()),
        }
        self.board.nothing_is_lost();
        self.recovery.end();
    }

    /// Bytes believed to be on the path.
    fn in_flight(&self) -> u64 {
        self.board.in_flight().saturating_sub(self.duplicates * self.sizes.segment as u64)
    }
}

/// The block that reports something that arrived twice (RFC 2883 §4): the first one, when it is
/// below what is acknowledged or inside the second.
fn twice(runs: &[Option<Run>], acknowledged: u64) -> Option<Run> {
    let first = runs.first().copied().flatten()?;
    let is_inside = |outer: Run| outer.0 <= first.0 && first.1 <= outer.1;
    let second = runs.get(1).copied().flatten();
    (first.1 <= acknowledged || second.is_some_and(is_inside)).then_some(first)
}

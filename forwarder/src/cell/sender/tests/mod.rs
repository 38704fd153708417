mod goodput;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SEGMENT: u64 = 1_380;
const FIRST: u32 = u32::MAX - 100_000;

#[test]
fn a_transfer_over_a_clean_path_is_sent_once() {
    let mut path = Flow::new(Faults::default());
    path.transfer(4_000_000);
    assert_eq!(path.sent_again, 0);
    assert!(path.seconds() < 0.8, "{}", path.seconds());
}

#[test]
fn one_lost_segment_is_sent_again_once_and_without_a_timeout() {
    let mut path = Flow::new(Faults { losing: vec![40], ..Faults::default() });
    path.transfer(400_000);
    assert_eq!((path.sent_again, path.sender.rtt.timeout()), (SEGMENT, Duration::from_millis(250)));
    assert!(path.seconds() < 0.6, "{}", path.seconds());
}

#[test]
fn a_lost_tail_is_mended_by_a_probe_before_the_timeout() {
    let mut path = Flow::new(Faults { losing: vec![56, 57], ..Faults::default() });
    path.transfer(58 * SEGMENT);
    // Two round trips and the probe's wait, where a timeout would come after 250 ms.
    assert!(path.seconds() < 0.45, "{}", path.seconds());
    assert!(!path.sender.cubic.is_slow_start(), "the probe mended a loss, which is congestion");
}

#[test]
fn a_delay_that_jumps_costs_no_window() {
    let mut path = Flow::new(Faults::default());
    path.transfer(400_000);
    let window = path.sender.cubic.window();
    path.faults.delay = Duration::from_millis(400);
    path.transfer(400_000);
    assert!(path.sent_again > 0, "no timeout came too early");
    path.faults.delay = Duration::from_millis(25);
    path.transfer(400_000);
    assert!(path.sender.cubic.window() >= window, "{} after {window}", path.sender.cubic.window());
}

#[test]
fn reordering_does_not_keep_the_window_small() {
    let mut path = Flow::new(Faults { reorder: 25, late: Duration::from_millis(8), ..Faults::default() });
    path.transfer(8_000_000);
    assert!(path.sender.cubic.window() > 200_000, "{}", path.sender.cubic.window());
    assert!(path.seconds() < 3.0, "{}", path.seconds());
}

#[test]
fn an_end_without_selective_acknowledgements_gets_everything() {
    for seed in 0..5 {
        let mut path =
            Flow::new(Faults { selective: false, loss: 20, reorder: 5, seed, ..Faults::default() });
        path.transfer(300_000);
    }
}

#[test]
fn a_closed_window_is_probed_ever_more_slowly_until_it_opens() {
    let mut path = Flow::new(Faults { capacity: 60_000, ..Faults::default() });
    path.is_reading = false;
    path.write(200_000);
    path.run_for(Duration::from_secs(100));
    assert!((59_900..=60_000).contains(&path.receiver.next), "{}", path.receiver.next);
    let probes = path.probes;
    assert!((4..12).contains(&probes), "{probes} probes");
    path.is_reading = true;
    path.run_until_closed();
    assert_eq!(path.receiver.next, 200_000 + 1);
}

#[test]
fn a_window_that_opens_by_crumbs_is_used_by_whole_segments() {
    let mut path = Flow::new(Faults { capacity: 1_000, ..Faults::default() });
    path.transfer(20_000);
    assert_eq!(path.receiver.next, 20_000);
}

#[test]
fn a_peer_that_is_gone_is_sent_less_and_less() {
    let mut path = Flow::new(Faults::default());
    path.transfer(100_000);
    path.faults.loss = 1_000;
    path.write(200_000);
    let before = path.packets;
    path.run_for(Duration::from_secs(600));
    let packets = path.packets - before;
    // The first flight, then one segment for each of 250, 500, 1000 ms … 60 s.
    assert!(packets < 200 + 30, "{packets} packets");
    assert_eq!(path.sender.rtt.timeout(), Duration::from_secs(60));
    path.faults.loss = 0;
    path.run_until_closed();
}

#[test]
fn a_path_that_is_back_is_used_at_once_and_not_when_a_doubled_timeout_runs_out() {
    let mut path = Flow::new(Faults::default());
    path.transfer(100_000);
    path.faults.loss = 1_000;
    path.write(200_000);
    path.run_for(Duration::from_secs(8));
    path.do_what_is_due();
    path.faults.loss = 0;
    let (back, waits_until) = (path.now, path.sender.poll_timeout().unwrap());
    assert!(waits_until.since(back) > Duration::from_secs(1), "it would go on by itself");

    assert!(path.sender.resume(back));
    path.transfer(0);
    assert!(path.now.since(back) < Duration::from_millis(700), "{:?}", path.now.since(back));
    assert!(!path.sender.resume(path.now), "nothing waits any more");
}

#[test]
fn a_closed_window_is_asked_for_at_once_when_the_path_is_back() {
    let mut path = Flow::new(Faults { capacity: 20_000, ..Faults::default() });
    path.is_reading = false;
    path.write(60_000);
    path.run_for(Duration::from_secs(2));
    path.faults.loss = 1_000;
    path.run_for(Duration::from_secs(20));
    path.do_what_is_due();
    path.faults.loss = 0;
    path.is_reading = true;
    path.receiver.read = path.receiver.next;
    let (back, waits_until) = (path.now, path.sender.poll_timeout().unwrap());
    assert!(waits_until.since(back) > Duration::from_secs(1), "it would ask by itself");

    assert!(path.sender.resume(back));
    path.transfer(0);
    assert!(path.now.since(back) < Duration::from_millis(700), "{:?}", path.now.since(back));
}

#[test]
fn nothing_that_does_not_wait_is_sent_for_a_new_session() {
    let mut path = Flow::new(Faults::default());
    assert!(!path.sender.resume(path.now));
    path.write(100_000);
    path.run_for(Duration::from_millis(30));
    assert!(path.sender.unacknowledged() > 0 && !path.sender.resume(path.now));
}

#[test]
fn only_what_was_sent_and_is_not_acknowledged_can_have_met_a_router() {
    let mut path = Flow::new(Faults::default());
    path.transfer(10_000);
    assert!(!path.sender.is_outstanding(FIRST) && !path.sender.is_outstanding(FIRST.wrapping_add(10_000)));
    path.write(3 * SEGMENT);
    path.run_for(Duration::from_millis(1));
    let next = FIRST.wrapping_add(10_000);
    assert!(
        path.sender.is_outstanding(next) && path.sender.is_outstanding(next.wrapping_add(SEGMENT as u32))
    );
    assert!(!path.sender.is_outstanding(next.wrapping_sub(1)));
    assert!(!path.sender.is_outstanding(next.wrapping_add(3 * SEGMENT as u32)));
}

#[test]
fn a_small_flow_never_waits_for_company() {
    let mut path = Flow::new(Faults::default());
    for len in 1..50 {
        path.transfer(len);
    }
    assert!(path.seconds() < 49.0 * 0.051, "{}", path.seconds());
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut path = Flow::new(Faults::default());
    path.transfer(10_000);
    let beyond = Ack { number: path.sender.sequence().wrapping_add(1), ..path.receiver.ack() };
    assert_eq!(path.sender.handle_ack(path.now, &beyond), Heard::NeverSent);
    assert_eq!(path.sender.unacknowledged(), 0);
}

#[test]
fn a_smaller_path_is_used_with_smaller_segments_and_no_smaller_window() {
    let mut path = Flow::new(Faults { largest: 1_000, ..Faults::default() });
    path.transfer(100_000);
    assert!(path.sender.cubic.is_slow_start(), "{:?}", path.sender);
}

#[test]
fn a_path_that_loses_long_packets_without_a_word_is_found_out() {
    for largest in (1_240..SEGMENT).step_by(20) {
        for selective in [true, false] {
            let mut path = Flow::new(Faults { largest, is_silent: true, selective, ..Faults::default() });
            path.transfer(100_000);
            assert_eq!(path.sender.sizes.segment as u64, black_hole::SHORT);
            assert!(path.seconds() < 5.0, "{}", path.seconds());
        }
    }
}

#[test]
fn a_path_that_begins_to_lose_long_packets_later_is_found_out_too() {
    let mut path = Flow::new(Faults { is_silent: true, ..Faults::default() });
    path.transfer(2_000_000);
    path.faults.largest = 1_240;
    path.transfer(2_000_000);
    assert_eq!(path.sender.sizes.segment as u64, black_hole::SHORT);
    path.run_until_closed();
}

#[test]
fn neither_an_outage_nor_losses_make_segments_shorter() {
    for seconds in [1, 5, 90] {
        let mut path = Flow::new(Faults::default());
        path.transfer(200_000);
        path.write(400_000);
        path.faults.loss = 1_000;
        path.run_for(Duration::from_secs(seconds));
        path.faults.loss = 0;
        path.transfer(400_000);
        assert_eq!(path.sender.sizes.segment as u64, SEGMENT, "after {seconds} s");
    }
    for seed in 0..10 {
        let mut path = Flow::new(Faults { loss: 50, seed, ..Faults::default() });
        path.transfer(1_000_000);
        assert_eq!(path.sender.sizes.segment as u64, SEGMENT, "seed {seed}");
    }
}

#[test]
fn the_owner_is_not_let_far_ahead_of_the_window() {
    let mut path = Flow::new(Faults::default());
    let mut written = 0;
    while path.sender.room() > 0 {
        let len = path.sender.room();
        path.sender.written(len);
        written += len;
    }
    assert_eq!(written, 10 * SEGMENT as usize);
    path.now = path.now.after(Duration::from_millis(1));
    while path.sender.poll_segment(path.now).is_some() {}
    assert_eq!(path.sender.room(), 10 * SEGMENT as usize);
}

#[test]
fn a_full_scoreboard_holds_back_what_is_new_and_is_counted() {
    let mut path = Flow::new(Faults { capacity: 8_000_000, ..Faults::default() });
    path.sender.shrink(Sizes { segment: 500, largest: 500 });
    path.sender.cubic.set_window(8_000_000);
    path.sender.written(8_000_000);
    let mut sent = 0;
    while path.sender.poll_segment(path.now).is_some() {
        sent += 1;
    }
    assert_eq!(sent, scoreboard::MAX_ENTRIES);
    assert_eq!(path.sender.take_tally(), Tally { resent: 0, full: 1 });
    // In the middle of the second: there is no entry for its two halves.
    let ack = Ack {
        blocks: [(FIRST.wrapping_add(600), FIRST.wrapping_add(700))].into_iter().collect(),
        ..path.receiver.ack()
    };
    path.sender.handle_ack(path.now, &ack);
    assert_eq!((path.sender.take_tally().full, path.sender.board.arrived()), (1, 0));
    path.check();
}

#[test]
fn what_is_sent_again_is_counted() {
    let mut path = Flow::new(Faults { losing: vec![40], ..Faults::default() });
    path.transfer(400_000);
    assert_eq!(path.sender.take_tally(), Tally { resent: SEGMENT, full: 0 });
    assert_eq!(path.sender.take_tally(), Tally::default());
}

#[test]
fn a_wide_window_lets_the_owner_no_further_ahead_than_two_super_packets() {
    let mut path = Flow::new(Faults::default());
    path.sender.cubic.set_window(4 << 20);
    assert_eq!(path.sender.room(), AHEAD * path.sender.sizes.largest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_arrives_over_any_path(
        faults in (0_u64..80, 0_u64..40, 0_u64..100, 0_u64..60, 1_u64..120, any::<bool>(), any::<u64>()),
        capacity in prop::sample::select(vec![3_000_u64, 40_000, 1_000_000]),
        lens in prop::collection::vec(1_u64..120_000, 1..4),
    ) {
        let (loss, reorder, duplicate, jitter, delay, selective, seed) = faults;
        let mut path = Flow::new(Faults {
            loss, reorder, duplicate, selective, seed, capacity,
            delay: Duration::from_millis(delay),
            late: Duration::from_millis(jitter),
            ..Faults::default()
        });
        for len in &lens {
            path.write(*len);
        }
        path.run_until_closed();
        prop_assert_eq!(path.receiver.next, lens.iter().sum::<u64>() + 1);
    }

    #[test]
    fn no_acknowledgement_breaks_the_sums_or_makes_it_spin(
        acks in prop::collection::vec(
            (-5_i64..80_000, any::<u16>(), 0_u32..3, prop::collection::vec((-9_i64..90_000, 0_u32..5_000), 0..4)),
            1..80,
        )
    ) {
        let mut path = Flow::new(Faults::default());
        path.sender.written(60_000);
        path.sender.close();
        for (number, window, sequence, blocks) in acks {
            path.now = path.now.after(Duration::from_millis(7));
            path.sender.handle_timeout(path.now);
            path.pump();
            let at = |place: i64| FIRST.wrapping_add(place as u32);
            let blocks = blocks.into_iter().map(|(start, len)| (at(start), at(start).wrapping_add(len)));
            let ack = Ack { number: at(number), window, sequence, has_data: false, blocks: blocks.collect() };
            path.sender.handle_ack(path.now, &ack);
            path.check();
        }
    }
}

/// What goes wrong on the path; chances per thousand, in both directions, reordering in percent.
#[derive(Clone, Debug)]
struct Faults {
    delay: Duration,
    loss: u64,
    duplicate: u64,
    reorder: u64,
    /// By how much what is reordered comes later.
    late: Duration,
    /// Packets to the receiver that are lost, counted from 0.
    losing: Vec<u64>,
    largest: u64,
    /// Nobody says so when a packet is larger than that.
    is_silent: bool,
    selective: bool,
    /// Bytes the receiver buffers.
    capacity: u64,
    /// Bytes per second of the narrowest link; 0 where there is none.
    rate: u64,
    /// Bytes that wait before it at most.
    queue: u64,
    seed: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(25),
            loss: 0,
            duplicate: 0,
            reorder: 0,
            late: Duration::ZERO,
            losing: Vec::new(),
            largest: 9_999,
            is_silent: false,
            selective: true,
            capacity: 1 << 20,
            rate: 0,
            queue: 0,
            seed: 1,
        }
    }
}

enum Packet {
    Data(Run),
    Ack(Ack),
}

/// The other end: puts runs in order and says what it has (RFC 2018, RFC 2883).
struct Receiver {
    /// First place missing.
    next: u64,
    /// First place not read.
    read: u64,
    /// Runs beyond, the latest first.
    beyond: Vec<Run>,
    twice: Option<Run>,
    faults: Faults,
    stream_end: Option<u64>,
}

impl Receiver {
    fn take(&mut self, run: Run) {
        let edge = self.read + self.faults.capacity;
        self.twice = None;
        if run.1 <= self.next || self.beyond.iter().any(|known| known.0 <= run.0 && run.1 <= known.1) {
            self.twice = Some(run);
            return;
        }
        // A FIN takes no room.
        if run.1 > edge + u64::from(Some(run.1) == self.stream_end) {
            return;
        }
        let mut run = (run.0.max(self.next), run.1);
        self.beyond.retain(|known| {
            let touches = known.0 <= run.1 && run.0 <= known.1;
            if touches {
                run = (run.0.min(known.0), run.1.max(known.1));
            }
            !touches
        });
        if run.0 == self.next {
            self.next = run.1;
        } else {
            self.beyond.insert(0, run);
        }
    }

    fn ack(&self) -> Ack {
        let wire = |run: Run| (FIRST.wrapping_add(run.0 as u32), FIRST.wrapping_add(run.1 as u32));
        let told = self.twice.iter().chain(&self.beyond).map(|run| wire(*run)).take(4);
        let window = (self.read + self.faults.capacity).saturating_sub(self.next).min(self.faults.capacity);
        Ack {
            number: FIRST.wrapping_add(self.next as u32),
            window: (window >> 7) as u16,
            sequence: 77,
            has_data: false,
            blocks: if self.faults.selective { told.collect() } else { Blocks::default() },
        }
    }
}

/// A sender, a path and a receiver, on virtual time.
struct Flow {
    sender: Sender,
    receiver: Receiver,
    faults: Faults,
    start: Instant,
    now: Instant,
    to_write: u64,
    under_way: BTreeMap<(Instant, u64), Packet>,
    count: u64,
    packets: u64,
    probes: u64,
    sent_again: u64,
    highest: u64,
    is_reading: bool,
    /// When the narrowest link has sent all that waits before it.
    free_at: Instant,
    /// Bytes that did not fit there.
    overflowed: u64,
    random: u64,
}

impl Flow {
    fn new(faults: Faults) -> Self {
        let start = Instant::from_boot(Duration::from_secs(1_000));
        let receiver = Receiver {
            next: 0,
            read: 0,
            beyond: Vec::new(),
            twice: None,
            faults: faults.clone(),
            stream_end: None,
        };
        let sizes = Sizes { segment: SEGMENT as usize, largest: 40 * SEGMENT as usize };
        let offer = Offer { scale: Some(7), selective: faults.selective };
        let round_trip = Some(faults.delay * 2);
        let sender = Sender::new(start, FIRST, sizes, offer, &receiver.ack(), false, round_trip);
        Self {
            sender,
            receiver,
            random: faults.seed,
            faults,
            start,
            now: start,
            to_write: 0,
            under_way: BTreeMap::new(),
            count: 0,
            packets: 0,
            probes: 0,
            sent_again: 0,
            highest: 0,
            is_reading: true,
            free_at: start,
            overflowed: 0,
        }
    }

    fn seconds(&self) -> f64 {
        self.now.since(self.start).as_secs_f64()
    }

    fn write(&mut self, len: u64) {
        self.to_write += len;
    }

    /// Writes so many bytes and runs until they are acknowledged.
    fn transfer(&mut self, len: u64) {
        self.write(len);
        let limit = self.now.after(Duration::from_secs(600));
        while self.to_write > 0 || self.sender.unacknowledged() > 0 {
            self.step();
            assert!(self.now < limit, "stuck: {:?}", self.sender);
        }
    }

    fn run_until_closed(&mut self) {
        let limit = self.now.after(Duration::from_secs(3_000));
        while !self.sender.is_closed() {
            if self.to_write == 0 && !self.sender.is_closing {
                self.sender.close();
                self.receiver.stream_end = Some(self.sender.stream_end());
            }
            self.step();
            assert!(self.now < limit, "stuck: {:?}", self.sender);
        }
        assert_eq!(self.sender.unacknowledged(), 0);
    }

    fn run_for(&mut self, time: Duration) {
        let limit = self.now.after(time);
        while self.now < limit {
            self.step();
        }
    }

    fn do_what_is_due(&mut self) {
        self.sender.handle_timeout(self.now);
        self.pump();
    }

    fn step(&mut self) {
        self.sender.handle_timeout(self.now);
        if self.sender.take_black_hole() {
            let segment = black_hole::SHORT as usize;
            self.sender.shrink(Sizes { segment, largest: segment * 10 });
        }
        loop {
            let len = self.sender.room().min(self.to_write as usize);
            self.sender.written(len);
            self.to_write -= len as u64;
            self.pump();
            // What has left makes room.
            if self.to_write == 0 || self.sender.room() == 0 {
                break;
            }
        }
        self.check();
        let arrival = self.under_way.keys().next().map(|(at, _)| *at);
        let next = arrival.into_iter().chain(self.sender.poll_timeout()).min();
        self.now = next.unwrap_or_else(|| self.now.after(Duration::from_millis(100)));
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Packet::Data(run) => {
                    self.receiver.take(run);
                    self.answer();
                }
                Packet::Ack(ack) => drop(self.sender.handle_ack(self.now, &ack)),
            }
        }
        if self.is_reading && self.receiver.read != self.receiver.next {
            let was_closed = self.receiver.ack().window == 0;
            self.receiver.read = self.receiver.next;
            if was_closed {
                self.answer();
            }
        }
    }

    /// Sends all that may be sent, in wire packets.
    fn pump(&mut self) {
        for round in 0.. {
            assert!(round < 20_000, "it sends for ever");
            let Some(segment) = self.sender.poll_segment(self.now) else { return };
            let start = self.sender.board.acknowledged() + segment.at as u64;
            let end = start + segment.len as u64 + u64::from(segment.fin);
            if start == end {
                self.probes += 1;
                self.answer();
                continue;
            }
            assert!(end <= self.sender.window.edge.max(self.highest), "beyond the window");
            assert_eq!(segment.sequence, FIRST.wrapping_add(start as u32));
            self.sent_again += self.highest.min(end).saturating_sub(start);
            self.highest = self.highest.max(end);
            let (mut at, size) = (start, self.sender.sizes.segment as u64);
            while at < end {
                // A FIN goes with the last bytes.
                let last = (start + segment.len as u64 <= at + size).then_some(end);
                let to = last.unwrap_or(at + size);
                self.carry_data((at, to));
                at = to;
            }
        }
    }

    fn carry_data(&mut self, run: Run) {
        self.packets += 1;
        if run.1 - run.0 > self.faults.largest {
            let segment = self.faults.largest as usize;
            if self.sender.sizes.segment > segment && !self.faults.is_silent {
                self.sender.shrink(Sizes { segment, largest: segment * 10 });
            }
        } else if !self.faults.losing.contains(&(self.packets - 1))
            && let Some(wait) = self.queue(run.1 - run.0)
        {
            self.carry(wait, || Packet::Data(run));
        }
    }

    /// How long so many bytes take to get through the narrowest link; `None` when its queue is full.
    fn queue(&mut self, len: u64) -> Option<Duration> {
        let Faults { rate, queue, .. } = self.faults;
        let takes = |bytes: u64| Duration::from_nanos((bytes * 1_000_000_000).checked_div(rate).unwrap_or(0));
        let before = self.free_at.since(self.now);
        if before > takes(queue) {
            self.overflowed += len;
            return None;
        }
        self.free_at = self.now.after(before + takes(len));
        Some(before + takes(len))
    }

    fn answer(&mut self) {
        let ack = self.receiver.ack();
        self.carry(Duration::ZERO, || Packet::Ack(ack));
    }

    fn carry(&mut self, wait: Duration, packet: impl Fn() -> Packet) {
        let copies = 1 + usize::from(self.chance(self.faults.duplicate));
        for _ in 0..copies {
            if self.chance(self.faults.loss) {
                continue;
            }
            let is_late = self.chance(self.faults.reorder * 10);
            let late = if is_late { self.faults.late } else { Duration::ZERO };
            self.count += 1;
            let at = self.now.after(wait + self.faults.delay + late);
            self.under_way.insert((at, self.count), packet());
        }
    }

    fn chance(&mut self, thousandths: u64) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 1_000 < thousandths
    }

    fn check(&self) {
        let board = &self.sender.board;
        assert!(board.is_consistent(), "{board:?}");
        assert!(self.sender.poll_timeout().is_none_or(|at| at > self.now), "it would spin");
        let waits = board.outstanding() > 0 || self.sender.stream_end() > board.next();
        assert!(!waits || self.sender.poll_timeout().is_some(), "nothing would ever happen");
    }
}

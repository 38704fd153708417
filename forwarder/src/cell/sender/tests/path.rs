//! A sender, a path with faults and a receiver, on virtual time.

use std::collections::BTreeMap;

use super::*;

/// The faults of the path in both directions: chances per thousand, reordering in percent.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) delay: Duration,
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    pub(super) reorder: u64,
    /// The delay of a reordered packet.
    pub(super) late: Duration,
    /// Packets to the receiver that are lost, counted from 0.
    pub(super) losing: Vec<u64>,
    pub(super) largest: u64,
    /// Longer packets are lost without an ICMP error.
    pub(super) is_silent: bool,
    pub(super) selective: bool,
    /// Bytes the receiver buffers.
    pub(super) capacity: u64,
    /// Bytes per second of the narrowest link; 0 where there is none.
    pub(super) rate: u64,
    /// The most bytes that wait before the narrowest link.
    pub(super) queue: u64,
    pub(super) seed: u64,
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

/// The other end: puts runs in order and reports what it has (RFC 2018, RFC 2883).
pub(super) struct Receiver {
    /// First place missing.
    pub(super) next: u64,
    /// First place not read.
    pub(super) read: u64,
    /// Runs beyond, the latest first.
    pub(super) beyond: Vec<Run>,
    pub(super) twice: Option<Run>,
    pub(super) faults: Faults,
    pub(super) stream_end: Option<u64>,
}

impl Receiver {
    pub(super) fn take(&mut self, run: Run) {
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

    pub(super) fn ack(&self) -> Ack {
        let wire = |run: Run| (FIRST.wrapping_add(run.0 as u32), FIRST.wrapping_add(run.1 as u32));
        let reported = self.twice.iter().chain(&self.beyond).map(|run| wire(*run)).take(4);
        let window = (self.read + self.faults.capacity).saturating_sub(self.next).min(self.faults.capacity);
        Ack {
            number: FIRST.wrapping_add(self.next as u32),
            window: (window >> 7) as u16,
            sequence: 77,
            has_data: false,
            blocks: if self.faults.selective { reported.collect() } else { Blocks::default() },
        }
    }
}

/// A sender, a path and a receiver, on virtual time.
pub(super) struct Flow {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) faults: Faults,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) to_write: u64,
    under_way: BTreeMap<(Instant, u64), Packet>,
    pub(super) count: u64,
    pub(super) packets: u64,
    pub(super) probes: u64,
    pub(super) sent_again: u64,
    pub(super) highest: u64,
    pub(super) is_reading: bool,
    /// When the narrowest link will have sent everything that waits before it.
    pub(super) free_at: Instant,
    /// Bytes that did not fit there.
    pub(super) overflowed: u64,
    pub(super) random: u64,
}

impl Flow {
    pub(super) fn new(faults: Faults) -> Self {
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

    pub(super) fn seconds(&self) -> f64 {
        self.now.since(self.start).as_secs_f64()
    }

    pub(super) fn write(&mut self, len: u64) {
        self.to_write += len;
    }

    /// Writes this many bytes and runs until they are acknowledged.
    pub(super) fn transfer(&mut self, len: u64) {
        self.write(len);
        let limit = self.now.after(Duration::from_secs(600));
        while self.to_write > 0 || self.sender.unacknowledged() > 0 {
            self.step();
            assert!(self.now < limit, "stuck: {:?}", self.sender);
        }
    }

    pub(super) fn run_until_closed(&mut self) {
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

    pub(super) fn run_for(&mut self, time: Duration) {
        let limit = self.now.after(time);
        while self.now < limit {
            self.step();
        }
    }

    pub(super) fn do_what_is_due(&mut self) {
        self.sender.handle_timeout(self.now);
        self.pump();
    }

    pub(super) fn step(&mut self) {
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
            // Bytes that were sent make room.
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
    pub(super) fn pump(&mut self) {
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

    /// How long this many bytes take through the narrowest link; `None` when its queue is full.
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

    pub(super) fn check(&self) {
        let board = &self.sender.board;
        assert!(board.is_consistent(), "{board:?}");
        assert!(self.sender.poll_timeout().is_none_or(|at| at > self.now), "it would spin");
        let waits = board.outstanding() > 0 || self.sender.stream_end() > board.next();
        assert!(!waits || self.sender.poll_timeout().is_some(), "nothing would ever happen");
    }
}

use super::*;
use std::collections::BTreeMap;
use tunnel::offload::SuperPacket;
use tunnel::offload::split::Segments;

#[test]
fn a_cell_answers_a_syn_and_carries_bytes_both_ways() {
    for family in [v4(), v6()] {
        let mut pair = Pair::new(family, Wire::clean(10));
        pair.transfer(50_000, 70_000);
        assert_eq!((pair.received.0.len(), pair.received.1.len()), (50_000, 70_000));
    }
}

#[test]
fn every_packet_on_the_wire_fits_the_mtu_and_has_right_checksums() {
    for family in [v4(), v6()] {
        let mut pair = Pair::new(family, Wire::clean(10));
        pair.transfer(300_000, 0);
        assert!(pair.wire.longest <= 1420 && pair.wire.longest > 1380, "{}", pair.wire.longest);
        assert_eq!(pair.wire.bad, 0);
    }
}

#[test]
fn what_is_lost_and_reordered_arrives_all_the_same() {
    for seed in 1..4 {
        let wire = Wire { loss: 3, reorder: 10, seed, ..Wire::clean(20) };
        let mut pair = Pair::new(v4(), wire);
        pair.transfer(200_000, 50_000);
    }
}

#[test]
fn every_path_of_the_matrix_carries_every_byte_both_ways() {
    for (seed, loss) in [0, 1, 5].into_iter().enumerate() {
        for reorder in [0, 25] {
            for delay in [2, 25, 100] {
                let wire = Wire { loss, reorder, twice: 2, seed: seed as u64, ..Wire::clean(delay) };
                Pair::new(v4(), wire).transfer(60_000, 150_000);
            }
        }
    }
}

#[test]
fn a_flow_that_both_ends_close_at_once_over_a_bad_path_ends_at_both() {
    for seed in 0..20 {
        let mut pair = Pair::new(v4(), Wire { loss: 20, reorder: 20, twice: 5, seed, ..Wire::clean(10) });
        pair.transfer(10_000, 10_000);
        pair.client.close();
        pair.server.as_mut().unwrap().close();
        pair.run_until(|pair| {
            let server = pair.server.as_mut().unwrap().ending();
            // No end waits for the last acknowledgement of a close: the end that closed last may be
            // gone.
            pair.client.ending() == Some(Ending::Closed) || server == Some(Ending::Closed)
        });
    }
}

#[test]
fn no_acknowledgement_goes_back_behind_data_that_was_sent() {
    // An upload with holes is acknowledged at once, also in the middle of a download.
    let mut pair = Pair::new(v4(), Wire { loss: 3, reorder: 10, ..Wire::clean(10) });
    pair.transfer(300_000, 300_000);
    assert!(pair.wire.backwards == 0, "{} bare acknowledgements with an old number", pair.wire.backwards);
}

#[test]
fn the_side_that_speaks_first_may_be_the_one_that_was_called() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(0, 30_000);
    pair.transfer(2_000_000, 0);
}

#[test]
fn a_thirty_millisecond_path_is_not_capped_by_the_window() {
    let mut pair = Pair::new(v4(), Wire::clean(15));
    let start = pair.now;
    pair.transfer(8 << 20, 0);
    let rate = (8 << 20) as f64 / pair.now.since(start).as_secs_f64();
    assert!(rate > 12_000_000.0, "{rate:.0} bytes per second");
}

#[test]
fn a_too_big_message_makes_segments_smaller_and_the_transfer_goes_on() {
    let mut pair = Pair::new(v4(), Wire { largest: 1300, ..Wire::clean(10) });
    pair.transfer(100_000, 0);
    assert!(pair.wire.longest_carried <= 1300);
}

#[test]
fn a_peer_that_fills_the_ring_before_it_saw_a_scaled_window_is_ignored() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.handshake_of_server_only();
    let server = pair.server.as_mut().unwrap();
    let limit = server.unscaled_limit.unwrap();
    let beyond = Tcp {
        source_port: 1,
        destination_port: 2,
        sequence: limit.wrapping_sub(10),
        acknowledgement: 0,
        header_len: 20,
        flags: tcp_flags::ACK,
        window: 1,
        checksum: 0,
    };
    assert!(server.admits(&beyond, 10));
    assert!(!server.admits(&beyond, 11));
}

#[test]
fn a_reset_ends_the_other_cell() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(10, 10);
    pair.client.abort();
    pair.run_until(|pair| pair.server.as_mut().is_some_and(|server| server.ending() == Some(Ending::Reset)));
}

#[test]
fn both_ends_close_in_order() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(10, 10);
    pair.client.close();
    pair.run_until(|pair| pair.server.as_mut().is_some_and(Cell::is_drained));
    pair.server.as_mut().unwrap().close();
    pair.run_until(|pair| {
        let server = pair.server.as_mut().unwrap().ending();
        pair.client.ending() == Some(Ending::Closed) && server == Some(Ending::Closed)
    });
}

#[test]
fn an_idle_cell_has_no_timer() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(1_000, 1_000);
    let now = pair.now.after(Duration::from_secs(1));
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.client.poll_timeout(now), None);
    assert_eq!(pair.server.as_mut().unwrap().poll_timeout(now), None);
}

#[test]
fn an_idle_cell_gives_its_pages_back_and_goes_on() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(2 << 20, 2 << 20);
    let before = pair.client.touched();
    assert!(before > 256 * 1024, "{before}");
    pair.run_for(Duration::from_millis(500));
    pair.client.release_idle(pair.now);
    assert_eq!(pair.client.touched(), before, "it is not idle for long enough");
    pair.run_for(Duration::from_secs(2));
    for cell in [&mut pair.client, pair.server.as_mut().unwrap()] {
        cell.release_idle(pair.now);
        assert_eq!(cell.touched(), 0);
    }
    pair.transfer(100_000, 100_000);
}

#[test]
fn a_cell_that_chats_for_hours_keeps_few_pages() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    let mut most = 0;
    for _ in 0..200 {
        pair.transfer(1_000, 1_000);
        pair.run_for(Duration::from_secs(10));
        for cell in [&mut pair.client, pair.server.as_mut().unwrap()] {
            cell.release_idle(pair.now);
            most = most.max(cell.touched());
        }
    }
    assert!(most <= 12 * 1024, "{most}");
}

#[test]
fn a_cell_with_a_hole_keeps_its_pages() {
    let mut pair = Pair::new(v4(), Wire::clean(10));
    pair.transfer(2 << 20, 0);
    pair.run_for(Duration::from_secs(2));
    let server = pair.server.as_mut().unwrap();
    server.arrived_end = server.arrived_end.wrapping_add(1_000);
    assert_eq!(server.release_at(), None);
}

/// A path with delay, loss, reordering and a largest packet; all from one seed.
struct Wire {
    delay: Duration,
    /// Percent.
    loss: u64,
    /// Percent that take three times as long.
    reorder: u64,
    /// Percent that arrive twice.
    twice: u64,
    largest: usize,
    seed: u64,
    longest: usize,
    longest_carried: usize,
    bad: usize,
    /// How many packets without data had a lower sequence number than the highest of their
    /// direction.
    backwards: usize,
    highest: [Option<u32>; 2],
    count: u64,
    /// By time of arrival: the packet, and whether it goes to the server.
    under_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    /// Sizes for the sender of a packet that was too big; `true` for the client.
    icmp_errors: Vec<(bool, u16)>,
}

impl Wire {
    fn clean(milliseconds: u64) -> Self {
        Self {
            delay: Duration::from_millis(milliseconds),
            loss: 0,
            reorder: 0,
            twice: 0,
            largest: 1420,
            seed: 1,
            longest: 0,
            longest_carried: 0,
            bad: 0,
            backwards: 0,
            highest: [None; 2],
            count: 0,
            under_way: BTreeMap::new(),
            icmp_errors: Vec::new(),
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % 100 < percent
    }

    fn carry(&mut self, now: Instant, to_server: bool, packet: &[u8]) {
        let ip = Ip::parse(packet).unwrap();
        self.bad += usize::from(!ip.transport_checksum_is_valid(packet));
        self.longest = self.longest.max(packet.len());
        self.note_sequence(&ip, to_server, packet);
        if packet.len() > self.largest {
            self.icmp_errors.push((to_server, self.largest as u16));
            return;
        }
        self.longest_carried = self.longest_carried.max(packet.len());
        let copies = 1 + u64::from(self.chance(self.twice));
        for _ in 0..copies {
            if self.chance(self.loss) {
                continue;
            }
            let delay = if self.chance(self.reorder) { self.delay * 3 } else { self.delay };
            self.count += 1;
            self.under_way.insert((now.after(delay), self.count), (to_server, packet.to_vec()));
        }
    }
}

impl Wire {
    fn note_sequence(&mut self, ip: &Ip, to_server: bool, packet: &[u8]) {
        let tcp = Tcp::parse(ip.payload(packet)).unwrap();
        let len = (ip.payload(packet).len() - tcp.header_len) as u32;
        let controls = u32::from(tcp.flags & (tcp_flags::SYN | tcp_flags::FIN) != 0);
        let highest = &mut self.highest[usize::from(to_server)];
        if len + controls == 0 && highest.is_some_and(|highest| after(highest, tcp.sequence)) {
            self.backwards += 1;
        }
        let end = tcp.sequence.wrapping_add(len + controls);
        if highest.is_none_or(|highest| after(end, highest)) {
            *highest = Some(end);
        }
    }
}

/// Puts a cell's packets on the wire, cut.
struct OnWire<'a> {
    wire: &'a mut Wire,
    now: Instant,
    to_server: bool,
}

impl Egress for OnWire<'_> {
    fn is_ready(&self) -> bool {
        true
    }

    fn send(&mut self, packet: SuperPacket<'_>) {
        let mut segments = Segments::new(packet).unwrap();
        while let Some(segment) = segments.next_segment() {
            self.wire.carry(self.now, self.to_server, segment);
        }
    }
}

struct Pair {
    client: Cell,
    server: Option<Cell>,
    wire: Wire,
    now: Instant,
    path: Path,
    scratch: Vec<u8>,
    to_send: (usize, usize),
    received: (Vec<u8>, Vec<u8>),
}

impl Pair {
    fn new(path: Path, wire: Wire) -> Self {
        let now = Instant::from_boot(Duration::from_secs(1_000));
        let reversed = Path { local: path.remote, remote: path.local };
        Self {
            client: Cell::connect(now, reversed, settings(3)),
            server: None,
            wire,
            now,
            path,
            scratch: vec![0; SCRATCH],
            to_send: (0, 0),
            received: (Vec::new(), Vec::new()),
        }
    }

    /// Sends this many bytes from the client and from the server, and checks that they arrive.
    fn transfer(&mut self, from_client: usize, from_server: usize) {
        let had = (self.received.0.len(), self.received.1.len());
        self.to_send = (from_client, from_server);
        self.run_until(|pair| {
            pair.received.0.len() == had.0 + from_client && pair.received.1.len() == had.1 + from_server
        });
        for bytes in [&self.received.0[had.0..], &self.received.1[had.1..]] {
            let expected = |at: usize| ((bytes.len() - at) % 251) as u8;
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == expected(at)), "the bytes differ");
        }
    }

    fn handshake_of_server_only(&mut self) {
        while self.server.is_none() {
            self.step();
        }
    }

    fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now.after(Duration::from_secs(600));
        while !done(self) {
            self.step();
            assert!(self.now < limit, "nothing more happens");
        }
    }

    fn run_for(&mut self, time: Duration) {
        let limit = self.now.after(time);
        while self.now < limit {
            self.step();
            self.now = self.now.after(Duration::from_millis(1));
        }
    }

    /// Moves data, sends, and advances the time to the next event.
    fn step(&mut self) {
        let Self { client, server, wire, now, scratch, to_send, received, .. } = self;
        read(client, &mut received.1);
        write(client, &mut to_send.0, (&mut OnWire { wire, now: *now, to_server: true }, scratch));
        if let Some(server) = server {
            read(server, &mut received.0);
            write(server, &mut to_send.1, (&mut OnWire { wire, now: *now, to_server: false }, scratch));
        }
        let timers =
            [client.poll_timeout(*now), server.as_mut().and_then(|server| server.poll_timeout(*now))];
        let arrival = wire.under_way.keys().next().map(|(at, _)| *at);
        let next = timers.into_iter().chain([arrival]).flatten().min();
        *now = next.unwrap_or_else(|| now.after(Duration::from_millis(10))).max(*now);
        self.deliver_icmp_errors();
        self.arrive();
    }

    fn deliver_icmp_errors(&mut self) {
        for (by_client, mtu) in std::mem::take(&mut self.wire.icmp_errors) {
            let cell = if by_client { Some(&mut self.client) } else { self.server.as_mut() };
            if let Some(cell) = cell {
                cell.handle_too_big(mtu);
            }
        }
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.wire.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            let (to_server, mut packet) = entry.remove();
            let ip = Ip::parse(&packet).unwrap();
            let tcp = Tcp::parse(ip.payload(&packet)).unwrap();
            if to_server && self.server.is_none() {
                let syn = (&tcp, ip.payload(&packet));
                self.server = Some(Cell::accept(self.now, self.path, syn, settings(4)));
            }
            let cell = if to_server { self.server.as_mut().unwrap() } else { &mut self.client };
            let out = &mut OnWire { wire: &mut self.wire, now: self.now, to_server: !to_server };
            cell.handle_segment(self.now, &mut packet, (&ip, &tcp), (out, &mut self.scratch));
        }
    }
}

/// Writes and sends until the window is full; what has left makes room.
fn write(cell: &mut Cell, left: &mut usize, (out, scratch): (&mut OnWire<'_>, &mut [u8])) {
    loop {
        while *left > 0
            && let Some(sent) = cell.fill(|room| {
                let len = room.len().min(*left);
                for (at, byte) in room[..len].iter_mut().enumerate() {
                    *byte = ((*left - at) % 251) as u8;
                }
                (len, len)
            })
        {
            *left -= sent;
        }
        cell.poll_transmit(out.now, (&mut *out, &mut *scratch));
        if *left == 0 || !cell.has_room() {
            return;
        }
    }
}

fn read(cell: &mut Cell, into: &mut Vec<u8>) {
    while cell
        .drain(|data| {
            into.extend_from_slice(data);
            (data.len(), ())
        })
        .is_some()
    {}
}

fn settings(seed: u64) -> Settings {
    Settings { mtu: 1420, ring: 1 << 20, seed }
}

fn v4() -> Path {
    path("192.168.88.2:443", "203.0.113.10:40001")
}

fn v6() -> Path {
    path("[fd88::2]:443", "[2001:db8::10]:40001")
}

fn path(local: &str, remote: &str) -> Path {
    Path { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

use super::*;

const RANGE: MtuRange = MtuRange::new(false);
const ROUND_TRIP: Duration = Duration::from_millis(30);

#[test]
fn every_path_size_from_1280_to_1500_is_found_within_a_minute_inside_ipv4_and_ipv6() {
    for outer in (1280..=1500).step_by(4) {
        for overhead in [60, 80] {
            let mut path = Path::new(RANGE, outer - overhead);
            path.run(60);
            let want = (outer - overhead).min(RANGE.most);
            assert_eq!(path.search.found(), Some(want), "path of {outer}, overhead of {overhead}");
        }
    }
}

#[test]
fn an_ordinary_path_is_found_within_two_seconds_and_reported_once() {
    let mut path = Path::new(RANGE, 1440);
    path.run(2);
    assert_eq!((path.search.found(), path.reported.as_slice()), (Some(1440), &[1440][..]));

    let mut path = Path::new(RANGE, 1420);
    path.run(30);
    assert_eq!(path.reported, [1420]);
}

#[test]
fn no_probe_is_ever_outside_the_range_nor_sooner_than_a_second_after_the_one_before() {
    for carries in [0, 1199, 1280, 1333, 1440, 9000] {
        let mut path = Path::new(RANGE, carries);
        for _ in 0..20 {
            path.run(97);
            path.search.restart();
            path.search.activate(path.now);
        }
        assert!(path.probes.iter().all(|(_, size)| (RANGE.least..=RANGE.most).contains(size)));
        let pairs = path.probes.windows(2);
        assert!(pairs.into_iter().all(|pair| pair[1].0.since(pair[0].0) >= SPACING));
    }
}

#[test]
fn at_rest_the_size_in_use_is_tried_four_times_a_minute() {
    let mut path = Path::new(RANGE, 1420);
    path.run(60);
    path.probes.clear();
    path.run(240);
    assert!(path.probes.iter().all(|(_, size)| *size == 1420));
    assert!((14..=17).contains(&path.probes.len()), "{} probes", path.probes.len());
}

#[test]
fn a_path_that_shrinks_is_noticed_within_half_a_minute_and_searched_again() {
    for narrower in [1220, 1280, 1300, 1416] {
        let mut path = Path::new(RANGE, 1440);
        path.run(60);
        path.carries = narrower;
        path.run(30);
        assert_eq!(path.reported.get(1), Some(&BASE), "the base first");
        path.run(60);
        assert_eq!(path.search.found(), Some(narrower));
    }
}

#[test]
fn a_path_that_grows_is_noticed_after_ten_minutes() {
    let mut path = Path::new(RANGE, 1300);
    path.run(60);
    path.carries = 1440;
    path.run(500);
    assert_eq!(path.search.found(), Some(1300));
    path.run(130);
    assert_eq!(path.reported, [1300, 1440]);
}

#[test]
fn one_probe_in_ten_lost_does_not_lower_the_size_in_a_day() {
    let mut path = Path::new(RANGE, 1420);
    // Five percent are lost each way.
    path.loss = 97;
    path.run(86_400);
    assert_eq!(path.search.found(), Some(1420));
    assert!(!path.reported.contains(&BASE), "{:?}", path.reported);
}

#[test]
fn while_small_probes_are_lost_too_nothing_is_concluded() {
    let mut path = Path::new(RANGE, 1440);
    path.run(60);
    path.is_down = true;
    path.run(3600);
    assert_eq!(path.reported, [1440]);
    path.is_down = false;
    path.run(60);
    assert_eq!(path.reported, [1440]);
}

#[test]
fn a_peer_that_answers_no_padded_probe_gets_no_size_and_is_asked_again_later() {
    let mut path = Path::new(RANGE, 0);
    path.run(120);
    assert_eq!(path.search.found(), None);
    let tried = path.probes.len();
    path.run(400);
    assert_eq!(path.probes.len(), tried, "it rests");
    path.carries = 1420;
    path.run(300);
    assert_eq!(path.search.found(), Some(1420));
}

#[test]
fn where_the_tunnel_carries_ipv6_the_search_ends_no_lower_than_1280() {
    let mut path = Path::new(MtuRange::new(true), 1280);
    path.run(60);
    assert_eq!(path.search.found(), Some(1280));
    let mut path = Path::new(MtuRange::new(true), 1220);
    path.run(120);
    assert_eq!(path.search.found(), None);
    assert!(path.probes.iter().all(|(_, size)| *size >= 1280));
}

#[test]
fn a_new_path_is_searched_and_the_old_size_stays_until_it_is_known() {
    let mut path = Path::new(RANGE, 1440);
    path.run(10);
    path.carries = 1300;
    path.search.restart();
    path.run(3);
    assert_eq!(path.search.found(), Some(1440));
    path.run(60);
    assert_eq!(path.reported, [1440, 1300]);
}

#[test]
fn without_a_session_nothing_is_sent_and_a_forged_answer_is_none() {
    let mut random = Rng::with_seed(1);
    let (mut search, now) = (Search::new(RANGE, &mut random), Instant::from_boot(Duration::from_secs(100)));
    assert_eq!((search.poll(now, SPACING), search.deadline()), (None, None));

    search.activate(now);
    let probe = search.poll(now, SPACING).unwrap();
    assert_eq!(probe.size, FIRST);
    let mut forged = probe.data;
    forged[15] ^= 1;
    assert!(!search.handle_reply(probe.id, probe.sequence, &forged, now));
    assert!(!search.handle_reply(probe.id, probe.sequence.wrapping_add(1), &probe.data, now));
    assert!(search.handle_reply(probe.id, probe.sequence, &probe.data, now));
    assert!(!search.handle_reply(probe.id, probe.sequence, &probe.data, now), "once");

    search.poll(now.after(SPACING), SPACING).unwrap();
    search.deactivate();
    assert_eq!(search.deadline(), None);
}

#[test]
fn a_given_size_is_only_tried_once_a_minute_and_is_lost_until_it_passes() {
    let mut path = Path::new(MtuRange::fixed(1418).unwrap(), 1500);
    path.run(240);
    assert!(path.probes.iter().all(|(_, size)| *size == 1418));
    assert!((4..=6).contains(&path.probes.len()), "{} probes", path.probes.len());
    assert_eq!(path.search.lost(), None);
    path.carries = 1417;
    path.run(70);
    assert_eq!(path.search.lost(), Some(1418));
    path.run(600);
    assert_eq!(path.search.lost(), Some(1418));
    path.carries = 1418;
    path.run(65);
    assert_eq!(path.search.lost(), None);
}

#[test]
fn a_path_that_is_down_or_loses_a_third_of_all_probes_loses_no_size() {
    let mut path = Path::new(MtuRange::fixed(1420).unwrap(), 1420);
    path.is_down = true;
    path.run(600);
    assert_eq!(path.search.lost(), None);
    (path.is_down, path.loss) = (false, 330);
    for minute in 0..600 {
        path.run(60);
        assert_eq!(path.search.lost(), None, "minute {minute}");
    }
}

#[test]
fn a_size_beyond_jumbo_frames_is_not_tried() {
    assert_eq!(MtuRange::fixed(MtuRange::MOST_CHECKED).map(|range| range.least), Some(9_216));
    assert_eq!(MtuRange::fixed(MtuRange::MOST_CHECKED + 1), None);
}

/// A path on virtual time that carries inner packets up to a size, and loses some.
struct Path {
    search: Search,
    now: Instant,
    carries: u16,
    /// Probes in a thousand that are lost by chance.
    loss: u64,
    is_down: bool,
    answered: Option<Instant>,
    random: Rng,
    probes: Vec<(Instant, u16)>,
    reported: Vec<u16>,
}

impl Path {
    fn new(range: MtuRange, carries: u16) -> Self {
        let now = Instant::from_boot(Duration::from_secs(1000));
        let mut random = Rng::with_seed(7);
        let mut search = Search::new(range, &mut random);
        search.activate(now);
        Self {
            search,
            now,
            carries,
            loss: 0,
            is_down: false,
            answered: None,
            random,
            probes: Vec::new(),
            reported: Vec::new(),
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        while let Some(at) = self.search.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.search.handle_timeout(self.now, self.answered);
            let probe = self.search.poll(self.now, SPACING);
            self.note();
            let Some(probe) = probe else { continue };
            self.probes.push((self.now, probe.size));
            if self.is_down {
                continue;
            }
            let back = self.now.after(ROUND_TRIP);
            self.answered = Some(back);
            if probe.size <= self.carries && self.random.u64(..1000) >= self.loss {
                assert!(self.search.handle_reply(probe.id, probe.sequence, &probe.data, back));
                self.note();
            }
        }
        self.now = end;
    }

    fn note(&mut self) {
        if let Some(found) = self.search.found().filter(|found| self.reported.last() != Some(found)) {
            self.reported.push(found);
        }
    }
}

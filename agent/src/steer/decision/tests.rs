//! Edges that die, flap and come back, on virtual time.

use super::*;

const KYIV: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const ORACLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const RETURN_AFTER: Duration = Duration::from_secs(300);
/// How often the daemon is asked here.
const STEP: Duration = Duration::from_millis(500);

/// Two edges, of which each answers probes or not, as an origin counts it.
struct World {
    steering: Steering,
    now: Instant,
    answers: [bool; 2],
    received: [u64; 2],
    lost: [u64; 2],
    /// What the name leads to, as decided.
    decisions: Vec<Decision>,
}

impl World {
    fn new(found: &[Ipv4Addr]) -> Self {
        let edges = [("kyiv".to_owned(), KYIV), ("oracle".to_owned(), ORACLE)];
        let mut steering = Steering::new(&edges, RETURN_AFTER);
        let now = Instant::now();
        steering.handle_found(now, found);
        Self { steering, now, answers: [true; 2], received: [0; 2], lost: [0; 2], decisions: Vec::new() }
    }

    fn run(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for place in 0..2 {
                if self.answers[place] {
                    self.received[place] += 60;
                } else {
                    self.lost[place] += 1;
                }
            }
            let counted = |place: usize, name: &str| Counted {
                name: name.to_owned(),
                received: self.received[place],
                lost: self.lost[place],
                is_up: true,
            };
            let counted = [counted(0, "kyiv"), counted(1, "oracle")];
            self.steering.handle_counted(self.now, &counted);
            while let Some(decision) = self.steering.poll_decision() {
                self.decisions.push(decision);
            }
        }
        self
    }

    fn seconds(&mut self, seconds: u64) -> &mut Self {
        self.run(Duration::from_secs(seconds))
    }

    fn name(&self) -> Vec<Ipv4Addr> {
        match self.steering.wanted() {
            Wanted::Among { present, .. } => present,
            Wanted::Only(_) => panic!("the name is not one edge's alone"),
        }
    }
}

fn out(edge: &str, address: Ipv4Addr) -> Decision {
    Decision::TakenOut { edge: edge.to_owned(), address }
}

#[test]
fn a_silent_edge_is_taken_out_within_two_seconds_and_comes_back_after_five_minutes() {
    let mut world = World::new(&[KYIV, ORACLE]);
    world.seconds(60);
    assert_eq!(world.decisions, []);
    world.answers[0] = false;
    world.seconds(2);
    assert_eq!((world.decisions.as_slice(), world.name()), (&[out("kyiv", KYIV)][..], vec![ORACLE]));
    world.answers[0] = true;
    assert_eq!(world.seconds(299).name(), [ORACLE]);
    assert_eq!(world.seconds(3).name(), [KYIV, ORACLE]);
}

#[test]
fn when_both_are_silent_the_name_stays_as_it_is() {
    for order in [[0, 1], [1, 0]] {
        let mut world = World::new(&[KYIV, ORACLE]);
        world.seconds(60);
        // The second falls silent one look later: it was not heard since the first was lost.
        world.answers[order[0]] = false;
        world.run(STEP);
        world.answers[order[1]] = false;
        world.seconds(3_600);
        assert_eq!(world.decisions, [Decision::AllSilent]);
        world.answers = [true; 2];
        assert_eq!(world.seconds(60).name(), [KYIV, ORACLE]);
    }
}

#[test]
fn the_one_that_is_left_is_never_taken_out_and_one_that_waits_takes_its_place_at_once() {
    let mut world = World::new(&[KYIV, ORACLE]);
    world.seconds(60).answers[0] = false;
    world.seconds(60).answers[1] = false;
    world.seconds(600);
    assert_eq!(world.name(), [ORACLE], "no edge is heard");
    world.answers[0] = true;
    assert_eq!(world.seconds(2).name(), [KYIV], "without a pause: the other one is silent");
}

#[test]
fn an_edge_that_flaps_is_kept_out_twice_as_long_each_time_and_for_an_hour_at_most() {
    let mut world = World::new(&[KYIV, ORACLE]);
    world.seconds(10);
    let mut times = Vec::new();
    for _ in 0..6 {
        world.answers[0] = false;
        world.seconds(5).answers[0] = true;
        let begin = world.now;
        while world.name().len() == 1 {
            world.run(STEP);
        }
        times.push(world.now.duration_since(begin).as_secs() / 60);
    }
    assert_eq!(times[..3], [5, 10, 20]);
    assert!(times.iter().all(|minutes| *minutes <= 60), "{times:?}");
}

#[test]
fn a_few_lost_probes_are_no_silence() {
    let mut world = World::new(&[KYIV, ORACLE]);
    world.seconds(10);
    for _ in 0..100 {
        world.answers[0] = false;
        world.run(STEP * 2).answers[0] = true;
        world.run(STEP);
    }
    assert_eq!(world.decisions, []);
}

#[test]
fn a_daemon_that_does_not_answer_or_was_restarted_decides_nothing() {
    let mut world = World::new(&[KYIV, ORACLE]);
    world.seconds(10).steering.handle_silence();
    world.now += Duration::from_secs(3_600);
    (world.received, world.lost) = ([0; 2], [0; 2]);
    world.seconds(10);
    assert_eq!((world.decisions.as_slice(), world.name()), (&[][..], vec![KYIV, ORACLE]));
    // Nor does one whose tunnels are not up yet.
    let down = |name: &str| Counted { name: name.to_owned(), received: 0, lost: 0, is_up: false };
    world.steering.handle_silence();
    world.steering.handle_counted(world.now, &[down("kyiv"), down("oracle")]);
    assert_eq!(world.name(), [KYIV, ORACLE]);
}

#[test]
fn an_edge_that_the_name_does_not_lead_to_yet_is_added_once_it_has_been_there_for_a_time() {
    let mut world = World::new(&[KYIV]);
    assert_eq!(world.seconds(290).name(), [KYIV]);
    assert_eq!(world.seconds(20).name(), [KYIV, ORACLE]);
    let mut world = World::new(&[]);
    assert_eq!(world.seconds(310).name(), [KYIV, ORACLE], "a name without a record gets its first");
}

#[test]
fn nothing_is_decided_before_the_name_was_read() {
    let edges = [("kyiv".to_owned(), KYIV), ("oracle".to_owned(), ORACLE)];
    let mut world = World { steering: Steering::new(&edges, RETURN_AFTER), ..World::new(&[]) };
    world.answers[0] = false;
    world.seconds(60);
    assert_eq!((world.decisions.as_slice(), world.name()), (&[][..], Vec::new()));
    let now = world.now;
    world.steering.handle_found(now, &[KYIV, ORACLE]);
    assert_eq!(world.seconds(1).name(), [ORACLE]);
}

#[test]
fn whatever_the_edges_do_the_name_never_loses_its_last_address_nor_leads_to_silent_ones_alone() {
    let mut random = fastrand::Rng::with_seed(19);
    for _ in 0..200 {
        let mut world = World::new(&[KYIV, ORACLE]);
        world.seconds(5);
        for _ in 0..30 {
            world.answers = [random.bool(), random.bool()];
            let time = Duration::from_millis(random.u64(500..20_000));
            world.run(time);
            assert!(!world.name().is_empty());
            let leads_to = |place: usize, address| world.answers[place] && world.name().contains(&address);
            let is_settled = time > Duration::from_secs(4) && world.answers.contains(&true);
            assert!(!is_settled || leads_to(0, KYIV) || leads_to(1, ORACLE), "{:?}", world.decisions);
        }
    }
}

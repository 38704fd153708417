//! Whole outages on virtual time, with the agent restarted between any two of its steps.

use daemon::history::What;

use super::*;

const T0: u64 = 1_796_008_325_000;
const STEP: u64 = 5_000;

#[test]
fn twenty_services_that_fail_together_are_one_message_and_one_when_it_is_over() {
    let mut agent = Agent::new(End::Origin);
    for number in 0..20 {
        agent.world.set(&service(number), upstream(None), 0);
    }
    agent.run(20);
    assert_eq!(agent.sent(), ["down s0 s1 s10 s11 s12 s13 s14 s15 s16 s17 s18 s19 s2 s3 s4 s5 s6 s7 s8 s9"]);
    assert_eq!(agent.at.last(), Some(&15));
    agent.run(600);
    (0..20).for_each(|number| agent.world.set(&service(number), None, 0));
    agent.run(60);
    assert_eq!(agent.sent().len(), 2);
    assert!(agent.sent()[1].starts_with("over s0 "), "{:?}", agent.sent());
    agent.run(3_600);
    assert_eq!(agent.sent().len(), 2);
}

#[test]
fn a_fault_near_this_end_is_reported_at_once_and_one_at_the_other_end_a_minute_later() {
    for (end, fault, seconds) in [
        (End::Origin, upstream(None), 15),
        (End::Edge, upstream(Some("wroclaw")), 60),
        (End::Edge, upstream(Some("plain")), 15),
        (End::Edge, fault("tunnel", Some("wroclaw")), 15),
        (End::Edge, fault("ruleset", None), 15),
        (End::Edge, fault("service_entry", Some("wroclaw")), 60),
        (End::Origin, fault("tunnel", None), 60),
    ] {
        let mut agent = Agent::new(end);
        agent.world.peers.linked = vec!["wroclaw".to_owned()];
        agent.world.set(&service(1), fault.clone(), 0);
        agent.run(89);
        assert_eq!(
            (agent.sent(), agent.at.clone()),
            (vec!["down s1".to_owned()], vec![seconds]),
            "{fault:?}"
        );
    }
}

#[test]
fn what_the_other_ends_agent_has_reported_is_not_reported_again() {
    let mut agent = Agent::new(End::Edge);
    agent.world.peers.linked = vec!["wroclaw".to_owned()];
    agent.world.set(&service(1), upstream(Some("wroclaw")), 0);
    agent.run(20);
    agent.record(What::Notice { peer: "wroclaw".to_owned(), notice: "reported upstream".to_owned() });
    agent.run(600);
    agent.world.set(&service(1), None, 0);
    agent.run(600);
    assert_eq!(agent.sent(), [""; 0]);
    // It was about another hop, and about the last time.
    agent.record(What::Notice { peer: "wroclaw".to_owned(), notice: "reported name".to_owned() });
    agent.world.set(&service(1), upstream(Some("wroclaw")), 0);
    agent.run(90);
    assert_eq!(agent.sent(), ["down s1"]);
}

#[test]
fn a_blip_is_no_message() {
    let mut agent = Agent::new(End::Origin);
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(10);
    agent.world.set(&service(1), None, 0);
    agent.run(3_600);
    assert_eq!(agent.sent(), [""; 0]);
}

#[test]
fn two_causes_are_two_messages_and_what_follows_later_is_another_cause() {
    let mut agent = Agent::new(End::Edge);
    agent.world.set(&service(1), upstream(Some("wroclaw")), 0);
    agent.world.set(&service(2), fault("tunnel", Some("lodz")), 0);
    agent.run(300);
    agent.world.set(&service(3), upstream(Some("wroclaw")), 0);
    agent.run(300);
    assert_eq!(agent.sent(), ["down s1", "down s2", "down s3"]);
}

#[test]
fn an_announced_stop_is_no_message_for_five_minutes() {
    for (minutes, expected) in [(4, vec![]), (6, vec!["down s1".to_owned()])] {
        for end in [End::Edge, End::Origin] {
            let mut agent = Agent::new(end);
            let peer = (end == End::Edge).then_some("wroclaw");
            agent.record(What::Notice { peer: "wroclaw".to_owned(), notice: "stopping".to_owned() });
            agent.run(5);
            agent.world.set(&service(1), fault("tunnel", peer), 0);
            agent.run(minutes * 60);
            assert_eq!(agent.sent(), expected, "{end:?}");
        }
    }
}

#[test]
fn announced_stops_one_after_the_other_are_no_flapping() {
    let mut agent = Agent::new(End::Edge);
    let stop = |agent: &mut Agent| {
        agent.record(What::Notice { peer: "wroclaw".to_owned(), notice: "stopping".to_owned() });
        agent.world.set(&service(1), fault("tunnel", Some("wroclaw")), 0);
    };
    for _ in 0..4 {
        stop(&mut agent);
        agent.run(120);
        agent.world.set(&service(1), None, 0);
        agent.run(60);
    }
    stop(&mut agent);
    agent.run(295);
    assert_eq!(agent.sent(), [""; 0]);
    agent.run(10);
    assert_eq!(agent.sent(), ["down s1"]);
}

#[test]
fn a_stop_that_the_report_shows_as_announced_waits_as_well() {
    let mut agent = Agent::new(End::Edge);
    agent.world.peers.announced = vec!["wroclaw".to_owned()];
    agent.world.set(&service(1), fault("tunnel", Some("wroclaw")), 0);
    agent.run(290);
    assert_eq!(agent.sent(), [""; 0]);
    agent.run(30);
    assert_eq!(agent.sent(), ["down s1"]);
}

#[test]
fn flapping_is_one_message_and_one_when_it_has_been_calm_for_ten_minutes() {
    for period in [5, 20, 100] {
        let mut agent = Agent::new(End::Origin);
        for _ in 0..40 {
            agent.world.set(&service(1), upstream(None), 0);
            agent.run(period);
            agent.world.set(&service(1), None, 0);
            agent.run(period);
        }
        let flapping = agent.sent().iter().filter(|sent| sent.starts_with("flapping")).count();
        assert_eq!(flapping, 1, "{period}: {:?}", agent.sent());
        assert_eq!(agent.sent().last().unwrap(), "flapping s1", "{period}");
        agent.run(590 - period);
        assert_eq!(agent.sent().last().unwrap(), "flapping s1", "{period}");
        agent.run(period + 20);
        assert_eq!(agent.sent().last().unwrap(), "over s1", "{period}");
        let all = agent.sent().len();
        agent.run(3_600);
        assert_eq!(agent.sent().len(), all);
    }
}

#[test]
fn what_flaps_at_the_other_end_is_reported_there_and_here_only_where_that_is_missing() {
    for (is_reported, expected) in [(true, 0), (false, 1)] {
        let mut agent = Agent::new(End::Edge);
        agent.world.peers.linked = vec!["wroclaw".to_owned()];
        for round in 0..20 {
            agent.world.set(&service(1), upstream(Some("wroclaw")), 0);
            agent.run(20);
            if is_reported && round == 1 {
                agent.record(What::Notice {
                    peer: "wroclaw".to_owned(),
                    notice: "reported upstream".to_owned(),
                });
            }
            agent.world.set(&service(1), None, 0);
            agent.run(10);
        }
        let flapping = agent.sent().iter().filter(|sent| sent.starts_with("flapping")).count();
        assert_eq!((flapping, agent.sent().len()), (expected, expected), "{:?}", agent.sent());
    }
}

#[test]
fn what_flapped_and_stays_down_is_reported_as_down() {
    let mut agent = Agent::new(End::Origin);
    for _ in 0..3 {
        agent.world.set(&service(1), upstream(None), 0);
        agent.run(5);
        agent.world.set(&service(1), None, 0);
        agent.run(5);
    }
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(630);
    assert_eq!(agent.sent(), ["flapping s1", "down s1"]);
    agent.world.set(&service(1), None, 0);
    agent.run(60);
    assert_eq!(agent.sent().last().unwrap(), "over s1");
}

#[test]
fn a_daemon_that_does_not_answer_is_one_message_and_its_restart_in_time_is_none() {
    let mut agent = Agent::new(End::Edge);
    agent.run(10);
    agent.world.is_silent = true;
    agent.run(10);
    agent.world.is_silent = false;
    agent.run(700);
    assert_eq!(agent.sent(), [""; 0]);
    agent.world.is_silent = true;
    agent.run(60);
    agent.world.is_silent = false;
    agent.run(60);
    assert_eq!(agent.sent(), ["down everything of this end", "over everything of this end"]);
}

#[test]
fn names_have_the_cause_of_their_service_whichever_is_seen_first() {
    let mut agent = Agent::new(End::Origin);
    let name = |name: &str| Thing::Name { service: "s1".to_owned(), name: name.to_owned() };
    agent.world.set(&name("emby"), fault("name", None), 0);
    agent.run(5);
    agent.world.set(&service(1), upstream(None), 0);
    agent.world.set(&name("photos"), fault("name", None), 0);
    agent.run(120);
    assert_eq!(agent.sent(), ["down emby photos s1"]);
    // The service is back first; its names a minute later.
    agent.world.set(&service(1), None, 0);
    agent.run(50);
    agent.world.set(&name("emby"), None, 0);
    agent.world.set(&name("photos"), None, 0);
    agent.run(60);
    assert_eq!(agent.sent(), ["down emby photos s1", "over emby photos s1"]);
    // One name alone is a cause of its own.
    agent.world.set(&name("emby"), fault("name", None), 0);
    agent.run(700);
    assert_eq!(agent.sent().last().unwrap(), "down emby");
}

#[test]
fn a_cause_that_turns_out_to_be_another_one_in_time_is_one_message() {
    let mut agent = Agent::new(End::Edge);
    agent.world.peers.linked = vec!["wroclaw".to_owned()];
    agent.world.set(&service(1), upstream(Some("wroclaw")), 0);
    agent.run(10);
    agent.world.set(&service(1), fault("tunnel", Some("wroclaw")), 0);
    agent.run(300);
    assert_eq!(agent.sent(), ["down s1"]);
    assert_eq!(agent.hops, ["tunnel"]);
}

#[test]
fn nothing_is_sent_while_it_is_quiet_and_then_once_what_is_still_down() {
    let mut agent = Agent::new(End::Origin);
    agent.run(5);
    agent.quiet(None, 3_600);
    for number in 1..4 {
        agent.world.set(&service(number), upstream(None), 0);
        agent.run(100);
    }
    agent.world.set(&service(2), None, 0);
    agent.run(3_000);
    assert_eq!(agent.sent(), [""; 0]);
    agent.run(400);
    assert_eq!(agent.sent(), ["still_down s1 s3"]);
    agent.world.set(&service(1), None, 0);
    agent.world.set(&service(3), None, 0);
    agent.run(60);
    assert_eq!(agent.sent(), ["still_down s1 s3", "over s1", "over s3"]);
}

#[test]
fn what_was_over_before_the_quiet_time_was_ended_is_no_message() {
    for is_over in [true, false] {
        let mut agent = Agent::new(End::Origin);
        agent.quiet(None, 3_600);
        agent.world.set(&service(1), upstream(None), 0);
        agent.run(600);
        if is_over {
            agent.world.set(&service(1), None, 0);
        }
        agent.incidents.end_quiet(None);
        agent.incidents.advance(agent.now);
        assert_eq!(agent.incidents.poll_report(), None, "before the daemon was asked");
        agent.run(600);
        assert_eq!(agent.sent(), if is_over { vec![] } else { vec!["still_down s1"] });
    }
}

#[test]
fn what_is_held_back_here_is_not_to_be_reported_by_the_other_end() {
    let mut agent = Agent::new(End::Origin);
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(60);
    assert_eq!((agent.sent().len(), agent.held.len()), (1, 0));
    agent.quiet(None, 3_600);
    agent.world.set(&service(2), fault("name", None), 0);
    agent.run(300);
    assert_eq!((agent.sent().len(), agent.held.clone()), (1, vec!["name".to_owned()]));
}

#[test]
fn what_was_worked_on_in_a_quiet_time_is_still_down_and_not_flapping() {
    let mut agent = Agent::new(End::Origin);
    agent.quiet(None, 280);
    for _ in 0..3 {
        agent.world.set(&service(1), upstream(None), 0);
        agent.run(40);
        agent.world.set(&service(1), None, 0);
        agent.run(40);
    }
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(100);
    assert_eq!((agent.sent(), agent.held.len()), (vec!["still_down s1".to_owned()], 4));
}

#[test]
fn one_service_can_be_quiet_alone_and_an_unknown_name_is_refused_with_the_nearest() {
    let mut agent = Agent::new(End::Origin);
    agent.world.set(&service(1), None, 0);
    agent.world.set(&service(2), None, 0);
    agent.run(5);
    let refused = agent.incidents.set_quiet(Quiet { name: Some("s1x".to_owned()), until: u64::MAX });
    assert!(refused.unwrap_err().contains("s1"));
    agent.quiet(Some("s1"), 3_600);
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(100);
    agent.world.set(&service(2), upstream(None), 0);
    agent.run(100);
    assert_eq!(agent.sent(), ["down s2"]);
    assert!(agent.incidents.end_quiet(Some("s1")));
    agent.run(10);
    assert_eq!(agent.sent(), ["down s2", "still_down s1"]);
}

#[test]
fn what_happened_while_the_agent_was_dead_is_read_from_the_records() {
    let mut agent = Agent::new(End::Origin);
    agent.run(60);
    agent.is_dead = true;
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(300);
    agent.world.set(&service(1), None, 0);
    agent.run(300);
    agent.is_dead = false;
    agent.run(60);
    assert_eq!(agent.sent(), ["down s1", "over s1"]);
    // The second one makes the first needless while that is not delivered.
    assert_eq!(agent.reports[1].begun, Some(agent.reports[0].id.clone()));
    agent.run(3_600);
    assert_eq!(agent.sent().len(), 2);
}

#[test]
fn what_is_taken_out_of_the_configuration_is_not_down_any_more() {
    let mut agent = Agent::new(End::Origin);
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(60);
    agent.world.rows.clear();
    agent.run(60);
    assert_eq!(agent.sent(), ["down s1", "over s1"]);
}

#[test]
fn what_is_not_for_visitors_is_in_no_message_though_the_history_has_it() {
    let mut agent = Agent::new(End::Edge);
    agent.world.set(&service(1), None, 0);
    agent.run(10);
    let failing = |service: &str| What::Service {
        service: service.to_owned(),
        name: None,
        state: "failing".to_owned(),
        hop: Some("tunnel".to_owned()),
        reason: None,
        evidence: None,
        peer: Some("wroclaw".to_owned()),
        fix: None,
    };
    agent.record(failing("nfs"));
    agent.world.set(&service(1), fault("tunnel", Some("wroclaw")), 0);
    agent.run(60);
    agent.world.set(&service(1), None, 0);
    agent.run(60);
    assert_eq!(agent.sent(), ["down s1", "over s1"]);
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_waiting() {
    let mut agent = Agent::new(End::Origin);
    agent.run(60);
    agent.now -= 40_000_000;
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(30);
    assert_eq!(agent.sent(), ["down s1"]);
}

#[test]
fn there_are_never_more_than_256_incidents() {
    let mut agent = Agent::new(End::Edge);
    for number in 0..300 {
        agent.world.set(&service(number), upstream(Some(&format!("p{number}"))), 0);
    }
    agent.run(100);
    assert_eq!(agent.incidents.open.len(), MAX_INCIDENTS);
    let down: usize = agent.reports.iter().map(|report| report.causes[0].down.len()).sum();
    assert_eq!((agent.reports.len(), down), (MAX_INCIDENTS, 300));
}

#[test]
fn a_message_says_what_happened_just_before_and_what_works() {
    let mut agent = Agent::new(End::Origin);
    agent.world.set(&service(2), None, 0);
    let summary = vec!["~ https upstream".to_owned()];
    agent.record(What::Applied { how: "reload".to_owned(), changes: 2, summary });
    agent.record(What::Stack { stack: "media".to_owned(), what: "restarted caddy".to_owned() });
    agent.world.set(&service(1), upstream(None), 0);
    agent.run(30);
    let report = &agent.reports[0];
    let before: Vec<&str> = report.before.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(before, ["reload, 2 changes: ~ https upstream", "stackctl: media restarted caddy"]);
    assert_eq!(report.working, ["s2"]);
}

fn service(number: usize) -> Thing {
    Thing::Service(format!("s{number}"))
}

fn fault(hop: &str, peer: Option<&str>) -> Option<Fault> {
    let reason = Some("refused".to_owned());
    Some(Fault { hop: hop.to_owned(), peer: peer.map(str::to_owned), reason, ..Fault::default() })
}

fn upstream(peer: Option<&str>) -> Option<Fault> {
    fault("upstream", peer)
}

/// What the daemon knows.
#[derive(Default)]
struct World {
    rows: Vec<Row>,
    changed: Vec<Row>,
    peers: Peers,
    is_silent: bool,
}

impl World {
    fn set(&mut self, thing: &Thing, fault: Option<Fault>, since: u64) {
        let names = if let Thing::Name { name, .. } = thing { vec![name.clone()] } else { vec![] };
        let condition = if fault.is_some() { Condition::Failing } else { Condition::Ok };
        let fault = fault.unwrap_or_default();
        let row = Row { thing: thing.clone(), condition, since, fault, works: vec![], names };
        self.rows.retain(|known| known.thing != *thing);
        self.rows.push(row.clone());
        self.changed.push(row);
    }
}

/// An agent that is killed and started again after each of its steps.
struct Agent {
    incidents: Incidents,
    world: World,
    records: Vec<Record>,
    read: usize,
    now: u64,
    reports: Vec<Report>,
    held: Vec<String>,
    hops: Vec<String>,
    at: Vec<u64>,
    is_dead: bool,
}

impl Agent {
    fn new(end: End) -> Self {
        Self {
            incidents: Incidents::new(end),
            world: World::default(),
            records: Vec::new(),
            read: 0,
            now: T0,
            reports: Vec::new(),
            held: Vec::new(),
            hops: Vec::new(),
            at: Vec::new(),
            is_dead: false,
        }
    }

    fn record(&mut self, what: What) {
        let number = self.records.len() as u64 + 1;
        self.records.push(Record { number, at: self.now, what });
    }

    fn quiet(&mut self, name: Option<&str>, seconds: u64) {
        let until = self.now + seconds * 1_000;
        self.incidents.set_quiet(Quiet { name: name.map(str::to_owned), until }).unwrap();
    }

    /// The daemon writes its records at once; the agent looks every five seconds.
    fn run(&mut self, seconds: u64) {
        for row in std::mem::take(&mut self.world.changed) {
            if let Some(record) = record_of(&row) {
                self.record(record);
            }
            for known in &mut self.world.rows {
                if known.thing == row.thing {
                    known.since = self.now;
                }
            }
        }
        let until = self.now + seconds * 1_000;
        while self.now < until {
            if !self.is_dead {
                self.step();
            }
            self.now += STEP.min(until - self.now);
        }
        if !self.is_dead {
            self.step();
        }
    }

    fn step(&mut self) {
        if self.world.is_silent {
            self.incidents.handle_silence(self.now, "no answer");
        } else {
            for record in &self.records[self.read..] {
                self.incidents.handle_record(record);
            }
            self.read = self.records.len();
            let seen = Seen { rows: self.world.rows.clone(), peers: self.world.peers.clone() };
            self.incidents.handle_seen(self.now, seen);
        }
        while let Some(report) = self.incidents.poll_report() {
            self.hops.push(report.causes[0].fault.hop.clone());
            self.at.push(self.now.saturating_sub(T0) / 1_000);
            self.reports.push(report);
        }
        self.held.extend(std::iter::from_fn(|| self.incidents.poll_held()));
        let seen = std::mem::take(&mut self.incidents.seen);
        let saved = serde_json::to_string(&self.incidents).unwrap();
        self.incidents = serde_json::from_str(&saved).unwrap();
        self.incidents.seen = seen;
    }

    fn sent(&self) -> Vec<String> {
        let sent = |report: &Report| {
            let down: Vec<_> = report.causes.iter().flat_map(|cause| cause.down.clone()).collect();
            format!("{} {}", report.kind.label(), down.join(" "))
        };
        self.reports.iter().map(sent).collect()
    }
}

fn record_of(row: &Row) -> Option<What> {
    let (service, name) = match &row.thing {
        Thing::Service(service) => (service.clone(), None),
        Thing::Name { service, name } => (service.clone(), Some(name.clone())),
        Thing::Daemon | Thing::Peer(_) | Thing::Visitor { .. } => return None,
    };
    let is_failing = row.condition == Condition::Failing;
    Some(What::Service {
        service,
        name,
        state: if is_failing { "failing" } else { "ok" }.to_owned(),
        hop: is_failing.then(|| row.fault.hop.clone()),
        reason: row.fault.reason.clone(),
        evidence: None,
        peer: row.fault.peer.clone(),
        fix: None,
    })
}

#[test]
fn a_silent_tunnel_is_down_since_it_was_heard_last() {
    let what = What::Peer { peer: "kyiv".to_owned(), from: "up".to_owned(), to: "stale".to_owned() };
    let row = Row::of_record(End::Origin, &Record { number: 1, at: T0 + 20_000, what }).unwrap();
    assert_eq!(row.since, T0 + 5_000);
}

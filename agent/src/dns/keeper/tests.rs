//! The keeper against an authority that fails in every way, on virtual time.

use super::*;
use crate::dns::record::Record;

const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const NAME: &str = "kyiv.example.com";

/// A zone in memory, whose answers fail as the test wants.
struct Zone {
    address: Option<Ipv4Addr>,
    /// Every state that the record had.
    history: Vec<Option<Ipv4Addr>>,
}

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Works,
    /// The request does not arrive.
    Lost,
    /// It is carried out, but the answer does not arrive.
    AnswerLost,
    Refused,
}

impl Zone {
    fn new(address: Option<Ipv4Addr>) -> Self {
        Self { address, history: vec![address] }
    }

    fn carry_out(&mut self, keeper: &mut Keeper, now: Instant, step: Step, fate: Fate) {
        let failed = match fate {
            Fate::Works => None,
            Fate::Lost | Fate::AnswerLost => Some(Failure::unavailable("no answer")),
            Fate::Refused => Some(Failure::Refused("not allowed".to_owned())),
        };
        match step.action {
            Action::Read => {
                let found = self.address.map_or(Found::Nothing, |address| Found::One(record(address)));
                keeper.handle_read(now, NAME, failed.map_or(Ok(found), Err));
            }
            Action::Change(change) => {
                let result = failed.map_or(Ok(()), Err);
                if matches!(fate, Fate::Works | Fate::AnswerLost) {
                    self.address = change.after().first().copied();
                    self.history.push(self.address);
                }
                keeper.handle_change(now, NAME, change, result);
            }
        }
    }

    /// Carries out what is due until `end`; `fates` are those of the first steps.
    fn run(&mut self, keeper: &mut Keeper, now: &mut Instant, end: Instant, fates: &[Fate]) {
        let mut fates = fates.iter().copied();
        loop {
            if let Some(step) = keeper.poll_step(*now) {
                self.carry_out(keeper, *now, step, fates.next().unwrap_or(Fate::Works));
                continue;
            }
            match keeper.poll_timeout().filter(|next| *next <= end) {
                Some(next) => *now = next,
                None => return *now = end,
            }
        }
    }
}

#[test]
fn a_record_is_read_changed_and_read_again() {
    let (mut keeper, mut now) = keeper();
    let mut zone = Zone::new(Some(OLD));
    assert_eq!(keeper.poll_step(now), None, "there is no address yet");
    keeper.handle_wanted(now, Wanted::Only(NEW));
    let step = keeper.poll_step(now).unwrap();
    assert_eq!(step.action, Action::Read);
    assert_eq!(keeper.poll_step(now), None, "one step is out");
    zone.carry_out(&mut keeper, now, step, Fate::Works);
    let step = keeper.poll_step(now).unwrap();
    assert_eq!(step.action, Action::Change(Change::Replace { from: record(OLD), to: NEW }));
    zone.carry_out(&mut keeper, now, step, Fate::Works);
    assert_eq!(keeper.poll_event(), None, "it counts when it was seen");
    let end = now;
    zone.run(&mut keeper, &mut now, end, &[]);
    let changed = EventKind::Changed { from: vec![OLD], to: vec![NEW] };
    assert_eq!(keeper.poll_event(), Some(Event { name: NAME.to_owned(), kind: changed }));
    assert!(keeper.is_right() && keeper.poll_timeout().unwrap() > now + Duration::from_secs(2_400));
}

#[test]
fn whatever_fails_in_the_first_five_steps_the_name_keeps_an_address_and_ends_right() {
    let fates = [Fate::Works, Fate::Lost, Fate::AnswerLost, Fate::Refused];
    for first in [Some(OLD), None] {
        for number in 0..4_usize.pow(5) {
            let fates: Vec<Fate> = (0..5).map(|digit| fates[number / 4_usize.pow(digit) % 4]).collect();
            let (mut keeper, mut now) = keeper();
            let mut zone = Zone::new(first);
            keeper.handle_wanted(now, Wanted::Only(NEW));
            let end = now + Duration::from_secs(1_800);
            zone.run(&mut keeper, &mut now, end, &fates);
            assert_eq!(zone.address, Some(NEW), "{fates:?}");
            assert!(zone.history.iter().skip(1).all(|state| *state == Some(NEW)), "{fates:?}");
            let events: Vec<EventKind> =
                std::iter::from_fn(|| keeper.poll_event()).map(|event| event.kind).collect();
            let changed = EventKind::Changed { from: first.into_iter().collect(), to: vec![NEW] };
            assert_eq!(events.iter().filter(|kind| **kind == changed).count(), 1, "{fates:?} {events:?}");
            assert!(keeper.is_right());
        }
    }
}

#[test]
fn an_agent_that_is_killed_between_any_two_steps_begins_with_reading_and_ends_right() {
    for killed_after in 0..4 {
        let mut zone = Zone::new(Some(OLD));
        let (mut first, now) = keeper();
        first.handle_wanted(now, Wanted::Only(NEW));
        for _ in 0..killed_after {
            let Some(step) = first.poll_step(now) else { break };
            zone.carry_out(&mut first, now, step, Fate::AnswerLost);
        }
        let (mut second, mut now) = keeper();
        second.handle_wanted(now, Wanted::Only(NEW));
        let end = now + Duration::from_secs(5);
        zone.run(&mut second, &mut now, end, &[]);
        assert_eq!(zone.address, Some(NEW));
        assert!(zone.history.iter().all(Option::is_some));
    }
}

#[test]
fn a_change_that_is_accepted_and_not_made_is_reported_and_tried_again_later() {
    let (mut keeper, now) = keeper();
    keeper.handle_wanted(now, Wanted::Only(NEW));
    let found = || Ok(Found::One(record(OLD)));
    assert!(keeper.poll_step(now).is_some());
    keeper.handle_read(now, NAME, found());
    let Some(Step { action: Action::Change(change), .. }) = keeper.poll_step(now) else {
        panic!("no change")
    };
    keeper.handle_change(now, NAME, change, Ok(()));
    assert!(keeper.poll_step(now).is_some());
    keeper.handle_read(now, NAME, found());
    let Some(Event { kind: EventKind::Failed { severity, reason }, .. }) = keeper.poll_event() else {
        panic!("nothing was reported")
    };
    assert!(severity == Severity::Warning && reason.contains("accepted"), "{reason}");
    assert!(keeper.poll_timeout().unwrap() >= now + Duration::from_secs(30));
}

#[test]
fn an_address_that_changes_while_a_step_is_out_is_the_one_that_counts() {
    let (mut keeper, mut now) = keeper();
    let mut zone = Zone::new(Some(OLD));
    keeper.handle_wanted(now, Wanted::Only(NEW));
    let read = keeper.poll_step(now).unwrap();
    zone.carry_out(&mut keeper, now, read, Fate::Works);
    let change = keeper.poll_step(now).unwrap();
    keeper.handle_wanted(now, Wanted::Only(OLD));
    zone.carry_out(&mut keeper, now, change, Fate::Works);
    let end = now + Duration::from_secs(1);
    zone.run(&mut keeper, &mut now, end, &[]);
    assert_eq!(zone.history, [Some(OLD), Some(NEW), Some(OLD)]);
}

#[test]
fn a_line_that_flaps_changes_the_record_five_times_and_then_once_a_minute() {
    let (mut keeper, mut now) = keeper();
    let mut zone = Zone::new(Some(OLD));
    let begin = now;
    for round in 0..600_u32 {
        keeper.handle_wanted(now, Wanted::Only(if round % 2 == 0 { NEW } else { OLD }));
        let end = begin + Duration::from_secs(round.into());
        zone.run(&mut keeper, &mut now, end, &[]);
    }
    let changes = zone.history.len() - 1;
    assert!((6..=15).contains(&changes), "{changes} changes in 10 minutes");
    let held = std::iter::from_fn(|| keeper.poll_event());
    assert!(held.filter(|event| matches!(event.kind, EventKind::Held(_))).count() >= 1);
}

#[test]
fn after_an_outage_a_change_of_the_network_ends_the_pause() {
    let (mut keeper, mut now) = keeper();
    let mut zone = Zone::new(Some(OLD));
    keeper.handle_wanted(now, Wanted::Only(NEW));
    while keeper.poll_timeout().unwrap() < now + Duration::from_secs(100) {
        now = now.max(keeper.poll_timeout().unwrap());
        let step = keeper.poll_step(now).unwrap();
        zone.carry_out(&mut keeper, now, step, Fate::Lost);
    }
    keeper.handle_network_change(now);
    assert_eq!(keeper.poll_timeout(), Some(now + SETTLE));
}

fn keeper() -> (Keeper, Instant) {
    let now = Instant::now();
    (Keeper::new(now, &[NAME.to_owned()], 7), now)
}

fn record(address: Ipv4Addr) -> Record {
    Record { address, ttl: 300, id: "1".to_owned() }
}

use super::*;

#[test]
fn probes_leave_every_five_seconds_while_they_are_answered() {
    let mut prober = prober();
    let sent: Vec<_> =
        (0..=20_000).step_by(100).filter(|ms| answer_poll(&mut prober, at(*ms)).is_some()).collect();

    assert_eq!(sent, [0, 5000, 10_000, 15_000, 20_000]);
    assert_eq!(prober.recent(), (0, 5));
}

#[test]
fn one_lost_probe_shortens_the_interval_and_three_start_recovery() {
    let mut prober = answered_prober();
    let (mut sent, mut called) = (Vec::new(), None);

    for ms in (5000..=9000).step_by(100) {
        if prober.handle_timeout(at(ms)) && called.is_none() {
            called = Some(ms);
        }
        if prober.poll(at(ms)).is_some() {
            sent.push(ms);
        }
    }

    assert_eq!(sent[..3], [5000, 6000, 7000]);
    assert_eq!(called, Some(8000));
    assert_eq!(prober.lost_total(), 4);
}

#[test]
fn a_late_answer_ends_the_run_of_lost_probes() {
    let mut prober = answered_prober();
    let late = prober.poll(at(5000)).unwrap();
    prober.handle_timeout(at(6000));
    prober.poll(at(6000)).unwrap();

    assert!(prober.handle_reply(late.id, late.sequence, &late.data, at(6500)));
    assert!(!prober.handle_timeout(at(7000)));
    assert!(!prober.handle_timeout(at(8000)));
}

#[test]
fn only_an_answer_with_our_token_counts_and_only_once() {
    let mut prober = prober();
    let probe = prober.poll(at(0)).unwrap();
    let mut forged = probe.data;
    forged[15] ^= 1;

    assert_eq!(probe_data(&forged), Some(&forged[..]));
    assert!(!prober.handle_reply(probe.id, probe.sequence, &forged, at(10)));
    assert!(!prober.handle_reply(probe.id ^ 1, probe.sequence, &probe.data, at(10)));
    assert!(prober.handle_reply(probe.id, probe.sequence, &probe.data, at(20)));
    assert!(!prober.handle_reply(probe.id, probe.sequence, &probe.data, at(30)));
    assert_eq!(prober.rtt(), Some(Duration::from_millis(20)));
}

#[test]
fn a_peer_that_never_answers_is_no_longer_probed() {
    let mut prober = prober();
    let sent = (0..590_000).step_by(500).filter(|ms| {
        if ms % 120_000 == 0 {
            prober.activate(at(*ms));
        }
        assert!(!prober.handle_timeout(at(*ms)));
        prober.poll(at(*ms)).is_some()
    });

    assert_eq!(sent.count(), UNANSWERED as usize);
    assert_eq!(prober.deadline(), None);
    assert_eq!(prober.recent(), (0, 0));
}

#[test]
fn a_peer_that_agrees_sessions_but_has_long_stopped_to_answer_becomes_a_plain_one() {
    let mut prober = answered_prober();
    prober.activate(at(599_000));
    assert!(prober.has_answered());

    prober.activate(at(601_000));
    assert!(!prober.has_answered());
    assert!(answer_poll(&mut prober, at(601_000)).is_some());
    assert!(prober.has_answered());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut prober = answered_prober();
    for ms in (5000..500_000).step_by(1000) {
        prober.handle_timeout(at(ms));
        prober.poll(at(ms));
    }

    assert!(prober.sent.len() <= REMEMBERED);
    assert_eq!(prober.recent(), (32, 32));
}

#[test]
fn a_slow_path_gets_a_longer_timeout() {
    let mut prober = prober();
    for ms in [0, 5000, 10_000, 15_000] {
        let probe = prober.poll(at(ms)).unwrap();
        assert!(!prober.handle_timeout(at(ms + 999)));
        prober.handle_reply(probe.id, probe.sequence, &probe.data, at(ms + 999));
    }
    prober.poll(at(20_000)).unwrap();

    assert!(!prober.handle_timeout(at(21_100)));
    assert_eq!(prober.lost_total(), 0);
}

#[test]
fn the_state_follows_from_what_was_heard() {
    let probed = Facts { heard: Some(at(0)), handshake: Some(at(0)), answered: true, failed: false };
    let plain = Facts { answered: false, ..probed };
    let judge = |facts: Facts, ms| facts.judge(Some(&rules()), at(ms)).0;

    assert_eq!(judge(Facts::default(), 0), PeerState::Never);
    assert_eq!(judge(probed, 14_999), PeerState::Up);
    assert_eq!(judge(probed, 15_000), PeerState::Stale);
    assert_eq!(judge(probed, 180_000), PeerState::Down);
    assert_eq!(judge(Facts { failed: true, ..probed }, 15_000), PeerState::Down);
    assert_eq!(judge(plain, 179_999), PeerState::Up);
    assert_eq!(judge(plain, 180_000), PeerState::Down);
    assert_eq!(probed.judge(Some(&rules()), at(1)).1, Some(at(15_000)));
}

fn prober() -> Prober {
    let mut prober = Prober::new(rules(), &mut Rng::with_seed(1));
    prober.activate(at(0));
    prober
}

/// A prober that was answered at 0 ms, with nothing outstanding.
#[test]
fn single_probes_are_loss_and_an_interruption_or_a_session_that_ended_is_none() {
    let mut prober = answered_prober();
    let end = lose(&mut prober, 10_000, 2);
    answer_poll(&mut prober, at(end)).unwrap();
    assert_eq!(prober.recent(), (2, 4));
    let end = lose(&mut prober, 20_000, INTERRUPTION.into());
    answer_poll(&mut prober, at(end)).unwrap();
    assert_eq!(prober.recent(), (2, 5));
    let end = lose(&mut prober, 30_000, 2);
    assert_eq!(prober.recent(), (4, 7));
    prober.activate(at(end));
    assert_eq!(prober.recent(), (2, 5));
    prober.poll(at(60_000)).unwrap();
    prober.activate(at(60_500));
    prober.handle_timeout(at(99_000));
    assert_eq!((prober.recent(), prober.is_losing()), ((2, 5), false), "it was of the session before");
    let end = lose(&mut prober, 100_000, 40);
    answer_poll(&mut prober, at(end)).unwrap();
    assert_eq!(prober.recent(), (0, 1));
}

/// Loses so many probes, one a second; returns when the next is due.
fn lose(prober: &mut Prober, from: u64, count: u64) -> u64 {
    for second in (0..count).map(|second| from + second * 1_000) {
        prober.poll(at(second)).unwrap();
        prober.handle_timeout(at(second + 1_000));
    }
    from + count * 1_000
}

fn answered_prober() -> Prober {
    let mut prober = prober();
    assert!(answer_poll(&mut prober, at(0)).is_some());
    prober
}

fn answer_poll(prober: &mut Prober, now: Instant) -> Option<Probe> {
    prober.handle_timeout(now);
    let probe = prober.poll(now)?;
    assert!(prober.handle_reply(probe.id, probe.sequence, &probe.data, now.after(Duration::from_millis(1))));
    Some(probe)
}

fn rules() -> Liveness {
    Liveness {
        interval: Duration::from_secs(5),
        interval_lost: Duration::from_secs(1),
        tolerated: 3,
        up_within: Duration::from_secs(15),
        plain_up_within: Duration::from_secs(180),
    }
}

fn at(ms: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(10_000 + ms))
}

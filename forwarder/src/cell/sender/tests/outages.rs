//! A path that fails and comes back.

use super::*;

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
fn a_closed_window_is_probed_at_once_when_the_path_is_back() {
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
    assert!(waits_until.since(back) > Duration::from_secs(1), "it would probe by itself");

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

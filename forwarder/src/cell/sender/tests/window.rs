//! The windows of both ends, and how far the owner may be ahead.

use super::*;

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
fn a_window_that_opens_little_by_little_is_used_by_whole_segments() {
    let mut path = Flow::new(Faults { capacity: 1_000, ..Faults::default() });
    path.transfer(20_000);
    assert_eq!(path.receiver.next, 20_000);
}

#[test]
fn a_small_flow_never_waits_for_more_data() {
    let mut path = Flow::new(Faults::default());
    for len in 1..50 {
        path.transfer(len);
    }
    assert!(path.seconds() < 49.0 * 0.051, "{}", path.seconds());
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
    // An acknowledgement of the middle of the second segment: there is no entry left to split it.
    let ack = Ack {
        blocks: [(FIRST.wrapping_add(600), FIRST.wrapping_add(700))].into_iter().collect(),
        ..path.receiver.ack()
    };
    path.sender.handle_ack(path.now, &ack);
    assert_eq!((path.sender.take_tally().full, path.sender.board.arrived()), (1, 0));
    path.check();
}

#[test]
fn a_wide_window_lets_the_owner_no_further_ahead_than_two_super_packets() {
    let mut path = Flow::new(Faults::default());
    path.sender.cubic.set_window(4 << 20);
    assert_eq!(path.sender.room(), AHEAD * path.sender.sizes.largest);
}

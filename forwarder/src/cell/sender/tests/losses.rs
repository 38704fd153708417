//! Lost, late and doubled segments.

use super::*;

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
fn a_lost_tail_is_repaired_by_a_probe_before_the_timeout() {
    let mut path = Flow::new(Faults { losing: vec![56, 57], ..Faults::default() });
    path.transfer(58 * SEGMENT);
    // Two round trips and the probe's wait, where a timeout would come after 250 ms.
    assert!(path.seconds() < 0.45, "{}", path.seconds());
    assert!(!path.sender.cubic.is_slow_start(), "the probe repaired a loss, which is congestion");
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
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut path = Flow::new(Faults::default());
    path.transfer(10_000);
    let beyond = Ack { number: path.sender.sequence().wrapping_add(1), ..path.receiver.ack() };
    assert_eq!(path.sender.handle_ack(path.now, &beyond), AckResult::NeverSent);
    assert_eq!(path.sender.unacknowledged(), 0);
}

#[test]
fn what_is_sent_again_is_counted() {
    let mut path = Flow::new(Faults { losing: vec![40], ..Faults::default() });
    path.transfer(400_000);
    assert_eq!(path.sender.take_tally(), Tally { resent: SEGMENT, full: 0 });
    assert_eq!(path.sender.take_tally(), Tally::default());
}

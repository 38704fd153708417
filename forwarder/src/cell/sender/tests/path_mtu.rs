//! Paths that carry shorter packets than was assumed.

use super::*;

#[test]
fn a_smaller_path_is_used_with_smaller_segments_and_no_smaller_window() {
    let mut path = Flow::new(Faults { largest: 1_000, ..Faults::default() });
    path.transfer(100_000);
    assert!(path.sender.cubic.is_slow_start(), "{:?}", path.sender);
}

#[test]
fn a_path_that_loses_long_packets_without_an_icmp_error_is_found_out() {
    for largest in (1_240..SEGMENT).step_by(20) {
        for selective in [true, false] {
            let mut path = Flow::new(Faults { largest, is_silent: true, selective, ..Faults::default() });
            path.transfer(100_000);
            assert_eq!(path.sender.sizes.segment as u64, black_hole::SHORT);
            assert!(path.seconds() < 5.0, "{}", path.seconds());
        }
    }
}

#[test]
fn a_path_that_begins_to_lose_long_packets_later_is_found_out_too() {
    let mut path = Flow::new(Faults { is_silent: true, ..Faults::default() });
    path.transfer(2_000_000);
    path.faults.largest = 1_240;
    path.transfer(2_000_000);
    assert_eq!(path.sender.sizes.segment as u64, black_hole::SHORT);
    path.run_until_closed();
}

#[test]
fn neither_an_outage_nor_losses_make_segments_shorter() {
    for seconds in [1, 5, 90] {
        let mut path = Flow::new(Faults::default());
        path.transfer(200_000);
        path.write(400_000);
        path.faults.loss = 1_000;
        path.run_for(Duration::from_secs(seconds));
        path.faults.loss = 0;
        path.transfer(400_000);
        assert_eq!(path.sender.sizes.segment as u64, SEGMENT, "after {seconds} s");
    }
    for seed in 0..10 {
        let mut path = Flow::new(Faults { loss: 50, seed, ..Faults::default() });
        path.transfer(1_000_000);
        assert_eq!(path.sender.sizes.segment as u64, SEGMENT, "seed {seed}");
    }
}

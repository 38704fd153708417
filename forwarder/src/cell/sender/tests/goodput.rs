//! Goodput on virtual time, compared with what a TCP with CUBIC may expect of the same path.

use super::*;

/// Bytes per second of the paths, and the bytes that may wait before the narrowest link.
const RATE: u64 = 12_500_000;
const QUEUE: u64 = 2_500_000;
/// How long a transfer would take at the expected rate.
const SECONDS: f64 = 8.0;

#[test]
fn a_path_without_loss_is_filled_whatever_its_delay() {
    for (round_trip, least) in [(5, 0.95), (50, 0.9), (200, 0.75)] {
        for reorder in [0, 25] {
            let share = goodput(0, round_trip, reorder);
            assert!(share >= least, "{round_trip} ms, {reorder} % reordered: {share:.2}");
        }
    }
}

#[test]
fn a_path_that_loses_without_a_queue_brings_more_than_cubic_gets_of_it() {
    for (loss, least) in [(1, 0.8), (10, 1.2), (50, 1.1)] {
        for round_trip in [5, 50, 200] {
            let share = goodput(loss, round_trip, 0);
            assert!(share >= least, "{loss} ‰ lost, {round_trip} ms: {share:.2}");
        }
    }
}

#[test]
fn nor_does_reordering_together_with_losses_cost_what_that_gains() {
    for (loss, least) in [(1, 0.6), (10, 1.0), (50, 1.0)] {
        for round_trip in [5, 50, 200] {
            let share = goodput(loss, round_trip, 25);
            assert!(share >= least, "{loss} ‰ lost, {round_trip} ms, reordered: {share:.2}");
        }
    }
}

#[test]
fn packets_late_by_more_than_half_a_round_trip_do_not_end_slow_start() {
    let seconds = |seed: u64| {
        let delay = Duration::from_millis(25);
        let late = Duration::from_millis(30);
        let faults = Faults { delay, late, reorder: 25, rate: RATE, queue: QUEUE, ..Faults::default() };
        let mut path = Flow::new(Faults { capacity: 6 << 20, seed: seed * 7_919, ..faults });
        path.transfer(20_000_000);
        path.seconds()
    };
    // A segment that was sent again too early arrives twice. That undoes the reduction of the
    // window, even when another reduction came before it was known.
    let slow = (1..=12).map(seconds).filter(|seconds| *seconds > 3.0).count();
    assert!(slow <= 3, "{slow} of 12");
}

#[test]
fn where_delays_show_nothing_slow_start_ends_before_the_queue_overflows() {
    // A round trip of a third of a millisecond, as between two machines in a room, and a queue of
    // six megabytes.
    let mut path = Flow::new(Faults {
        delay: Duration::from_micros(150),
        rate: 600_000_000,
        queue: 6_000_000,
        capacity: 8_000_000,
        ..Faults::default()
    });
    path.transfer(20_000_000);
    assert_eq!((path.overflowed, path.sent_again), (0, 0));
    // The window found the path's rate nevertheless.
    assert!(path.seconds() < 0.1, "{}", path.seconds());
}

#[test]
fn a_receive_buffer_of_a_stock_system_is_enough() {
    // Linux's `rmem_max`, which no process exceeds without a privilege, on a link that is faster
    // than its reader.
    let mut path = Flow::new(Faults {
        delay: Duration::from_micros(150),
        rate: 600_000_000,
        queue: 212_992,
        capacity: 8_000_000,
        ..Faults::default()
    });
    path.transfer(300_000_000);
    assert!(path.sent_again < 3_000_000, "{} bytes", path.sent_again);
    assert!(path.seconds() < 0.5 / 0.8, "{}", path.seconds());
}

#[test]
fn an_owner_who_writes_slowly_does_not_end_slow_start() {
    let mut path = Flow::new(Faults { delay: Duration::from_micros(150), ..Faults::default() });
    for _ in 0..200 {
        path.transfer(2_000);
    }
    assert!(path.sender.cubic.is_slow_start(), "{:?}", path.sender.cubic);
}

/// The goodput of a transfer as a share of what RFC 9438 predicts; the median of three.
fn goodput(loss: u64, round_trip: u64, reorder: u64) -> f64 {
    let delay = Duration::from_millis(round_trip) / 2;
    let expected = expected(loss as f64 / 1_000.0, (delay * 2).as_secs_f64());
    let bytes = (expected * SECONDS) as u64;
    let mut shares: Vec<f64> = (1..=3)
        .map(|seed| {
            let mut path = Flow::new(Faults {
                delay,
                loss,
                reorder,
                late: delay / 4,
                rate: RATE,
                queue: QUEUE,
                capacity: 6 << 20,
                seed: seed * 7_919,
                ..Faults::default()
            });
            path.transfer(bytes);
            bytes as f64 / path.seconds() / expected
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    shares[1]
}

/// Bytes per second: the larger of CUBIC's and Reno's average window (RFC 9438 §5.1), or the
/// narrowest link.
fn expected(loss: f64, round_trip: f64) -> f64 {
    let segments = (1.054 * (round_trip / loss).powf(0.75)).max(1.22 / loss.sqrt());
    (segments * SEGMENT as f64 / round_trip).min(RATE as f64)
}

//! Any path, and any acknowledgement.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_arrives_over_any_path(
        faults in (0_u64..80, 0_u64..40, 0_u64..100, 0_u64..60, 1_u64..120, any::<bool>(), any::<u64>()),
        capacity in prop::sample::select(vec![3_000_u64, 40_000, 1_000_000]),
        lens in prop::collection::vec(1_u64..120_000, 1..4),
    ) {
        let (loss, reorder, duplicate, jitter, delay, selective, seed) = faults;
        let mut path = Flow::new(Faults {
            loss, reorder, duplicate, selective, seed, capacity,
            delay: Duration::from_millis(delay),
            late: Duration::from_millis(jitter),
            ..Faults::default()
        });
        for len in &lens {
            path.write(*len);
        }
        path.run_until_closed();
        prop_assert_eq!(path.receiver.next, lens.iter().sum::<u64>() + 1);
    }

    #[test]
    fn no_acknowledgement_breaks_the_sums_or_makes_it_spin(
        acks in prop::collection::vec(
            (-5_i64..80_000, any::<u16>(), 0_u32..3, prop::collection::vec((-9_i64..90_000, 0_u32..5_000), 0..4)),
            1..80,
        )
    ) {
        let mut path = Flow::new(Faults::default());
        path.sender.written(60_000);
        path.sender.close();
        for (number, window, sequence, blocks) in acks {
            path.now = path.now.after(Duration::from_millis(7));
            path.sender.handle_timeout(path.now);
            path.pump();
            let at = |place: i64| FIRST.wrapping_add(place as u32);
            let blocks = blocks.into_iter().map(|(start, len)| (at(start), at(start).wrapping_add(len)));
            let ack = Ack { number: at(number), window, sequence, has_data: false, blocks: blocks.collect() };
            path.sender.handle_ack(path.now, &ack);
            // What the acknowledgement allows is sent at once; only then it waits for something.
            path.pump();
            path.check();
        }
    }
}

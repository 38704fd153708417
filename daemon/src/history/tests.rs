use std::fs;

use super::*;

#[test]
fn what_is_noted_is_there_after_a_restart_and_numbers_grow() {
    let state = tempfile::tempdir().unwrap();
    let history = History::open(state.path());
    (0..5).for_each(|_| history.note(roamed()));
    history.flush();
    assert_eq!(history.problem(), None);
    let before = history.read(&Query::default());
    assert_eq!(before.records.len(), 5);
    drop(history);

    let history = History::open(state.path());
    let after = history.read(&Query::default());
    assert_eq!(after.records, before.records);
    assert_eq!(after.ring, before.ring);
    history.note(roamed());
    let new = history.read(&Query { after: Some(before.newest), ..Query::default() });
    assert_eq!(new.records.len(), 1);
    assert!(new.records[0].number > before.newest + 1, "a number is given once");
}

#[test]
fn a_reader_that_goes_on_misses_nothing_and_sees_nothing_twice() {
    let state = tempfile::tempdir().unwrap();
    let history = History::open(state.path());
    let (mut seen, mut after) = (Vec::new(), None);
    for round in 0_usize..20 {
        (0..round * 8).for_each(|_| history.note(roamed()));
        let page = history.read(&Query { after, limit: Some(70), ..Query::default() });
        after = page.records.last().map(|record| record.number).or(after);
        seen.extend(page.records.iter().map(|record| record.number));
        // More than are in memory are not noted between two writes.
        history.flush();
    }
    while after != Some(1_520) {
        let page = history.read(&Query { after, ..Query::default() });
        after = page.records.last().map(|record| record.number);
        seen.extend(page.records.iter().map(|record| record.number));
    }
    assert!(seen.iter().copied().eq(1..=1_520), "{seen:?}");
}

#[test]
fn a_folder_that_cannot_be_had_is_a_problem_and_the_records_are_in_memory() {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join(FOLDER), "a file in its place").unwrap();
    let history = History::open(state.path());
    history.note(roamed());
    history.flush();
    let problem = history.problem().unwrap();
    assert!(problem.contains("in memory alone") && problem.contains("history"), "{problem}");
    assert_eq!(history.read(&Query::default()).records.len(), 1);
    let failing =
        history.numbers("gateway").into_iter().find(|number| format!("{number:?}").contains("failing"));
    assert!(format!("{failing:?}").contains("Gauge(1.0)"), "{failing:?}");
}

#[test]
fn records_of_the_time_without_a_disk_follow_those_that_are_on_it() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join(FOLDER);
    let history = History::open(state.path());
    (0..3).for_each(|_| history.note(roamed()));
    history.flush();
    let before = history.read(&Query::default());
    drop(history);

    let shared = Shared::new(None, true, 42);
    shared.push(5, roamed());
    shared.push(6, roamed());
    let mut store = Store::open(&folder, SIZE, 1).unwrap();
    shared.adopt(&store);
    let waiting = shared.wait_for_records().unwrap();
    store.write(&waiting).unwrap();
    shared.handle_written(waiting[1].number, &store);
    let page = shared.read(&Query::default());
    assert_eq!((page.ring, page.records.len()), (before.ring, 5));
    assert!(page.records.is_sorted_by_key(|record| record.number));
}

#[test]
fn records_that_no_disk_takes_are_counted_when_they_are_given_up() {
    let shared = Shared::new(None, true, 42);
    (0..recent::MOST + 3).for_each(|_| shared.push(5, roamed()));
    assert_eq!(shared.counts().lost, 3);
    let without_a_disk = Shared::new(None, false, 42);
    (0..recent::MOST + 3).for_each(|_| without_a_disk.push(5, roamed()));
    assert_eq!(without_a_disk.counts().lost, 0);
}

fn roamed() -> What {
    What::Roamed { peer: "kyiv".to_owned() }
}

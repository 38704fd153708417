use std::collections::BTreeMap;

use super::*;
use crate::history::record::What;

const SMALL: Size = Size { segment: 512, segments: 4 };
const DAY: u64 = 86_400_000;

#[test]
fn what_was_written_is_there_after_a_restart_and_the_oldest_goes_first() {
    let folder = folder();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    for number in 1..=60 {
        store.write(&[event(number)]).unwrap();
        assert!(on_disk(folder.path()) <= SMALL.segment * SMALL.segments, "{number}");
        assert_eq!(on_disk(folder.path()), store.bytes());
    }
    let before = find(&store.index(), &Query::default());
    drop(store);
    let store = Store::open(folder.path(), SMALL, 8).unwrap();
    assert_eq!((store.ring(), store.newest()), (7, 60));
    assert_eq!(find(&store.index(), &Query::default()), before);
    let numbers = numbers(&store, &Query::default());
    assert!(numbers.len() > 15 && numbers.last() == Some(&60), "{numbers:?}");
    assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "the oldest go: {numbers:?}");
}

#[test]
fn a_query_opens_the_segments_that_may_have_what_it_wants() {
    let folder = folder();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    let records: Vec<Record> =
        (1..=40).map(|number| if number % 2 == 0 { minute(number) } else { event(number) }).collect();
    store.write(&records).unwrap();
    let after = |after, limit| Query { after: Some(after), limit: Some(limit), ..Query::default() };
    assert_eq!(numbers(&store, &after(30, 5)), [31, 32, 33, 34, 35]);
    assert_eq!(numbers(&store, &Query { no_minutes: true, ..after(30, 3) }), [31, 33, 35]);
    assert!(numbers(&store, &after(40, 5)).is_empty());
    assert_eq!(numbers(&store, &Query { since: Some(39 * 60_000), ..Query::default() }), [39, 40]);
    let oldest = store.index()[0][0].path.clone();
    fs::remove_file(oldest).unwrap();
    assert_eq!(numbers(&store, &after(38, 5)), [39, 40], "a segment that has gone is left out");
}

/// 30 days of one peer, with 400 things that happened on each day.
#[test]
fn thirty_days_of_a_peer_fit_into_eight_mebibytes() {
    let folder = folder();
    let store = simulated(folder.path(), 30, 1);
    assert!(on_disk(folder.path()) <= 8 * 1_024 * 1_024, "{}", on_disk(folder.path()));
    let index = store.index();
    let all = |segments: &[Segment]| {
        let records = segments.iter().flat_map(|segment| {
            let bytes = read(&segment.path).unwrap();
            frame::frames(segment.number, &bytes).map(|frame| frame.at).collect::<Vec<_>>()
        });
        records.collect::<Vec<u64>>()
    };
    let (events, minutes) = (all(&index[0]), all(&index[1]));
    assert_eq!(minutes.len(), 30 * 1_440);
    assert_eq!(events.len(), 30 * 400);
    assert!(minutes.is_sorted() && events.is_sorted());
}

#[test]
fn with_many_peers_minutes_go_and_what_happened_stays() {
    let folder = folder();
    let store = simulated(folder.path(), 30, 8);
    assert!(on_disk(folder.path()) <= 8 * 1_024 * 1_024);
    let oldest = |no_minutes| {
        let query = Query { no_minutes, limit: Some(1), ..Query::default() };
        find(&store.index(), &query)[0].at
    };
    assert!(oldest(true) < DAY, "every event of the month is there");
    let [_, minutes] = store.index();
    let kept = find_in(&minutes, &Query { limit: Some(1), ..Query::default() })[0].at;
    assert!(kept < 25 * DAY, "minutes of more than 5 days are there: since day {}", kept / DAY);
    let newest = Query { since: Some(30 * DAY - 60_000), ..Query::default() };
    assert_eq!(find_in(&minutes, &newest).len(), 8);
}

fn simulated(folder: &Path, days: u64, peers: u64) -> Store {
    let mut store = Store::open(folder, SIZE, 1).unwrap();
    let mut number = 0;
    for day in 0..days {
        let mut records = Vec::new();
        for minute in 0..1_440 {
            let at = day * DAY + minute * 60_000;
            let events = if minute * 400 / 1_440 == (minute + 1) * 400 / 1_440 { 0 } else { 1 };
            let moved = day * 1_440 + minute;
            let minutes = (0..peers).map(|peer| What::Minute {
                peer: format!("peer-{peer}"),
                round_trip_ms: Some(20.0 + (moved % 977) as f64 / 100.0),
                loss: 0.01,
                received: 10_000_000 + moved * 7,
                sent: 90_000_000 + moved * 11,
            });
            for what in minutes.chain((0..events).map(|_| failing())) {
                number += 1;
                records.push(Record { number, at, what });
            }
        }
        store.write(&records).unwrap();
    }
    store
}

fn failing() -> What {
    What::Service {
        service: "https".to_owned(),
        name: Some("photos.example.com".to_owned()),
        state: "failing".to_owned(),
        hop: Some("upstream".to_owned()),
        reason: Some("refused".to_owned()),
        evidence: Some("127.0.0.1:8443: Connection refused (os error 111)".to_owned()),
        peer: Some("wroclaw".to_owned()),
        fix: Some("start the upstream 127.0.0.1:8443, or correct upstream of [[service]] https".to_owned()),
    }
}

/// The folder as it is after each write, then every state in between that a power cut may leave.
#[test]
fn after_a_power_cut_at_any_write_everything_written_before_it_is_there() {
    let folder = folder();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    let mut before = snapshot(folder.path());
    for number in 1..=25 {
        let record = if number % 3 == 0 { minute(number) } else { event(number) };
        store.write(&[record]).unwrap();
        let after = snapshot(folder.path());
        for torn in torn(&before, &after) {
            let kept = numbers_of(&before, &after);
            check_reopened(&torn, &kept, number);
        }
        before = after;
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// Opens what a power cut left: everything of `kept` is there, and what is written then is found
/// after it.
fn check_reopened(files: &Files, kept: &[u64], cut: u64) {
    let folder = folder();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut store = Store::open(folder.path(), SMALL, 9).unwrap();
    let found = numbers(&store, &Query::default());
    assert!(kept.iter().all(|number| found.contains(number)), "cut at {cut}: {kept:?} in {found:?}");
    assert!(found.iter().all(|number| *number <= cut), "cut at {cut}: {found:?}");
    let next = store.newest().max(cut) + 1;
    store.write(&[event(next)]).unwrap();
    let again = numbers(&Store::open(folder.path(), SMALL, 9).unwrap(), &Query::default());
    assert_eq!(again.last(), Some(&next));
    assert!(on_disk(folder.path()) <= SMALL.segment * SMALL.segments);
}

/// What a power cut may leave of the write that made `after` of `before`: each file that grew at
/// every length between, with what was there, with zeros and with garbage at its end; a file that
/// is to go gone or not.
fn torn(before: &Files, after: &Files) -> Vec<Files> {
    let mut states = Vec::new();
    let gone: Vec<_> = before.keys().filter(|name| !after.contains_key(*name)).collect();
    for (name, bytes) in after {
        let old = before.get(name).map_or(0, Vec::len);
        if old == bytes.len() {
            continue;
        }
        for length in old..=bytes.len() {
            let fill = [None, Some(0), Some(b'C')][length % 3];
            for is_gone in [false, true].into_iter().take(1 + gone.len().min(1)) {
                let mut state = before.clone();
                if is_gone {
                    gone.iter().for_each(|name| drop(state.remove(*name)));
                }
                let mut content = bytes[..length].to_vec();
                content.extend(std::iter::repeat_n(fill, bytes.len() - length).flatten());
                state.insert(name.clone(), content);
                states.push(state);
            }
        }
    }
    states
}

/// The records of `before` that are in the files which did not have to go.
fn numbers_of(before: &Files, left: &Files) -> Vec<u64> {
    let of_file = |(name, bytes): (&String, &Vec<u8>)| {
        let segment = name.rsplit('-').next().unwrap().parse().unwrap();
        let frames = frame::frames(segment, bytes).map(|frame| frame.number).collect::<Vec<_>>();
        if left.contains_key(name) { frames } else { Vec::new() }
    };
    before.iter().flat_map(of_file).collect()
}

#[test]
fn segments_in_each_others_places_are_left_out_and_the_ring_goes_on() {
    let folder = folder();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    (1..=20).for_each(|number| store.write(&[event(number)]).unwrap());
    let [events, _] = store.index();
    assert!(events.len() >= 3);
    let (first, second) = (&events[0].path, &events[1].path);
    let aside = folder.path().join("aside");
    fs::rename(first, &aside).unwrap();
    fs::rename(second, first).unwrap();
    fs::rename(&aside, second).unwrap();
    fs::write(folder.path().join("events-x"), "no segment").unwrap();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    assert_eq!(store.newest(), 20);
    store.write(&[event(21)]).unwrap();
    assert_eq!(numbers(&store, &Query { after: Some(19), ..Query::default() }), [20, 21]);
}

#[test]
fn a_newer_layout_is_left_alone_until_its_place_is_needed_and_numbers_go_on_after_it() {
    let folder = folder();
    let newer = Header { schema: SCHEMA + 1, segment: 5, ring: 7, first: 100 };
    let mut bytes = newer.encoded();
    bytes.extend(vec![b'?'; 300]);
    let path = folder.path().join("events-0000000005");
    fs::write(&path, &bytes).unwrap();
    let mut store = Store::open(folder.path(), SMALL, 9).unwrap();
    assert_eq!(store.ring(), 7);
    assert!(store.newest() >= 100, "{}", store.newest());
    let mut number = store.newest();
    number += 1;
    store.write(&[event(number)]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "it is as it was");
    assert_eq!(numbers(&store, &Query::default()), [number]);
    while path.exists() {
        number += 1;
        store.write(&[event(number)]).unwrap();
        assert!(on_disk(folder.path()) <= SMALL.segment * SMALL.segments);
        assert!(number < 400, "its place is needed in the end");
    }
}

#[test]
fn a_clock_that_steps_changes_no_order() {
    let folder = folder();
    let mut store = Store::open(folder.path(), SMALL, 7).unwrap();
    for (number, at) in [(1, 50 * 365 * DAY), (2, 5), (3, 56 * 365 * DAY), (4, 0)] {
        store.write(&[Record { number, at, what: failing() }]).unwrap();
    }
    assert_eq!(numbers(&store, &Query::default()), [1, 2, 3, 4]);
    assert_eq!(numbers(&store, &Query { since: Some(6), ..Query::default() }), [1, 3]);
}

/// In memory where the machine has that: a thousand segments are written and kept.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn event(number: u64) -> Record {
    let what = What::Peer { peer: "kyiv".to_owned(), from: "up".to_owned(), to: "stale".to_owned() };
    Record { number, at: number * 60_000, what }
}

fn minute(number: u64) -> Record {
    let what = What::Minute {
        peer: "kyiv".to_owned(),
        round_trip_ms: Some(9.0),
        loss: 0.0,
        received: number * 1_000_000,
        sent: 1 << 40,
    };
    Record { number, at: number * 60_000, what }
}

fn numbers(store: &Store, query: &Query) -> Vec<u64> {
    find(&store.index(), query).iter().map(|record| record.number).collect()
}

fn on_disk(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn snapshot(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

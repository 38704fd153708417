//! Cloudflare's API as a program of this test: what the agent makes of every way it fails.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::dns::cloudflare::Cloudflare;
use agent::dns::failure::Failure;
use agent::dns::keeper::{Action, EventKind, Keeper};
use agent::dns::record::{Change, Found, Wanted};
use serde_json::{Value, json};
use zeroize::Zeroizing;

const NAME: &str = "kyiv.example.com";
const TOKEN: &str = "token-of-this-test";
const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

#[test]
fn a_record_is_changed_in_place_and_keeps_proxy_ttl_comment_and_tags() {
    let api = Api::start(vec![record(NAME, OLD)]);
    let mut zone = api.zone(TOKEN);
    let Ok(Found::One(found)) = zone.read(NAME) else { panic!("no record") };
    assert_eq!((found.address, found.ttl), (OLD, 120));
    zone.change(NAME, &Change::Replace { from: found, to: NEW }).unwrap();
    let mut expected = record(NAME, OLD);
    expected["content"] = json!(NEW);
    assert_eq!(api.records(), [expected]);
}

#[test]
fn whatever_fails_between_any_two_calls_the_name_is_never_empty_and_ends_right() {
    for first in [Some(OLD), None] {
        for fault in Fault::ALL {
            for call in 0..6 {
                let api = Api::start(first.map(|address| record(NAME, address)).into_iter().collect());
                api.state().faults = vec![(call, fault)];
                let events = keep(&mut api.zone(TOKEN));
                let state = api.state();
                let contents: Vec<Value> =
                    state.records.iter().map(|record| record["content"].clone()).collect();
                assert_eq!(contents, [json!(NEW)], "{fault:?} at call {call}");
                assert!(state.fewest >= first.iter().count(), "{fault:?} at call {call}: the name was empty");
                assert!(state.methods.iter().all(|method| method != "DELETE"));
                let changed = EventKind::Changed { from: first.into_iter().collect(), to: vec![NEW] };
                assert_eq!(
                    events.iter().filter(|kind| **kind == changed).count(),
                    1,
                    "{fault:?} {call}: {events:?}"
                );
            }
        }
    }
}

#[test]
fn among_several_one_batch_keeps_the_proxy_and_whatever_fails_the_name_ends_right() {
    let wanted = Wanted::Among { present: vec![NEW], absent: vec![OLD] };
    for foreign in [None, Some(Ipv4Addr::new(192, 0, 2, 77))] {
        for fault in std::iter::once(None).chain(Fault::ALL.map(Some)) {
            for call in 0..if fault.is_some() { 6 } else { 1 } {
                let first = foreign.into_iter().chain([OLD]).map(|address| record(NAME, address));
                let api = Api::start(first.collect());
                api.state().faults = fault.map(|fault| (call, fault)).into_iter().collect();
                keep_wanted(&mut api.zone(TOKEN), wanted.clone());
                let state = api.state();
                let found: Vec<_> = state.records.iter().map(|record| record["content"].clone()).collect();
                let expected: Vec<_> =
                    foreign.into_iter().chain([NEW]).map(|address| json!(address)).collect();
                assert_eq!(found, expected, "{fault:?} at call {call}");
                assert!(state.fewest >= expected.len(), "{fault:?} at call {call}: the name was short");
                let made = state.records.last().unwrap();
                assert_eq!((&made["proxied"], &made["ttl"]), (&json!(true), &json!(120)));
            }
        }
    }
}

#[test]
fn a_batch_fails_where_the_record_that_stays_is_gone_so_that_the_last_one_is_not_removed() {
    let stays = Ipv4Addr::new(192, 0, 2, 77);
    for answers_404 in [true, false] {
        let api = Api::start(vec![record(NAME, stays), record(NAME, OLD)]);
        let mut zone = api.zone(TOKEN);
        let Ok(Found::Several(from)) = zone.read(NAME) else { panic!("not two records") };
        api.state().records.remove(0);
        api.state().answers_404 = answers_404;
        let change = Change::Among { from, added: Vec::new(), removed: vec![OLD] };
        assert_eq!(zone.change(NAME, &change), Err(Failure::Outdated));
        assert_eq!(api.records(), [record(NAME, OLD)]);
        keep_wanted(&mut zone, Wanted::Among { present: vec![OLD], absent: vec![stays] });
        assert_eq!(api.records(), [record(NAME, OLD)]);
    }
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let api = Api::start(vec![record(NAME, OLD)]);
    api.state().faults = vec![(0, Fault::TooMany)];
    let failure = api.zone(TOKEN).read(NAME);
    let Err(Failure::Unavailable { retry_after, .. }) = failure else { panic!("{failure:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
}

#[test]
fn a_wrong_token_a_foreign_zone_and_a_shared_name_are_refused_with_the_fix() {
    let api = Api::start(vec![record(NAME, OLD), record(NAME, NEW)]);
    let Err(Failure::Refused(said)) = api.zone("another").read(NAME) else { panic!("not refused") };
    assert!(said.contains("403") && said.contains("DNS:Edit") && !said.contains("another"), "{said}");
    let mut foreign = Cloudflare::new(&api.base, "example.org", Zeroizing::new(TOKEN.to_owned())).unwrap();
    let Err(Failure::Refused(said)) = foreign.read("kyiv.example.org") else { panic!("not refused") };
    assert!(said.contains("sees no zone example.org"), "{said}");
    assert_eq!(api.zone(TOKEN).read(NAME).map(|found| found.addresses()), Ok(vec![OLD, NEW]));
    api.state().records =
        vec![json!({"id": "1", "type": "CNAME", "name": NAME, "content": "x.example.com", "ttl": 1})];
    assert_eq!(api.zone(TOKEN).read(NAME), Ok(Found::Alias));
}

/// Lets a keeper work on virtual time until the record is right; what it reported.
fn keep(zone: &mut Cloudflare) -> Vec<EventKind> {
    keep_wanted(zone, Wanted::Only(NEW))
}

fn keep_wanted(zone: &mut Cloudflare, wanted: Wanted) -> Vec<EventKind> {
    let mut now = Instant::now();
    let mut keeper = Keeper::new(now, &[NAME.to_owned()], 7);
    keeper.handle_wanted(now, wanted);
    let end = now + Duration::from_secs(1_800);
    while now < end && !keeper.is_right() {
        let Some(step) = keeper.poll_step(now) else {
            now = keeper.poll_timeout().unwrap();
            continue;
        };
        match step.action {
            Action::Read => keeper.handle_read(now, NAME, zone.read(NAME)),
            Action::Change(change) => {
                let result = zone.change(NAME, &change);
                keeper.handle_change(now, NAME, change, result);
            }
        }
    }
    std::iter::from_fn(|| keeper.poll_event()).map(|event| event.kind).collect()
}

fn record(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "id": format!("r{}", address.octets()[3]), "type": "A", "name": name, "content": address, "ttl": 120,
        "proxied": true, "comment": "the edge in Kyiv", "tags": ["owner:me"],
    })
}

/// How one call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection is cut before the call is carried out.
    CutBefore,
    /// And after it, before the answer.
    CutAfter,
    /// The answer ends in its middle, though it is announced in full.
    CutWithin,
    /// The answer is half a document of the announced length.
    HalfDocument,
    /// Status 500 before it is carried out.
    Broken,
    /// And after it.
    BrokenAfter,
    /// Status 429, with a time.
    TooMany,
    /// Status 404: what was there is gone.
    Gone,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::CutBefore,
        Self::CutAfter,
        Self::CutWithin,
        Self::HalfDocument,
        Self::Broken,
        Self::BrokenAfter,
        Self::TooMany,
        Self::Gone,
    ];
}

/// What the API holds.
struct State {
    records: Vec<Value>,
    faults: Vec<(usize, Fault)>,
    methods: Vec<String>,
    /// The fewest records that there ever were.
    fewest: usize,
    /// How a batch answers that names a record which is not there; status 400 where not.
    answers_404: bool,
}

struct Api {
    base: String,
    state: Arc<Mutex<State>>,
}

impl Api {
    fn start(records: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/client/v4", listener.local_addr().unwrap());
        let fewest = records.len();
        let state = State { records, faults: Vec::new(), methods: Vec::new(), fewest, answers_404: true };
        let api = Self { base, state: Arc::new(Mutex::new(state)) };
        let state = Arc::clone(&api.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that is gone is of no matter.
                drop(serve(stream.unwrap(), &state));
            }
        });
        api
    }

    fn zone(&self, token: &str) -> Cloudflare {
        Cloudflare::new(&self.base, "example.com", Zeroizing::new(token.to_owned())).unwrap()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn records(&self) -> Vec<Value> {
        self.state().records.clone()
    }
}

/// One request, then the connection ends.
fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length, mut is_allowed) = (String::new(), 0, false);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((field, value)) = line.trim().split_once(": ") else { break };
        match field.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => is_allowed = value == format!("Bearer {TOKEN}"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut state = state.lock().unwrap();
    let call = state.methods.len();
    state.methods.push(method.to_owned());
    let fault = state.faults.iter().find(|(at, _)| *at == call).map(|(_, fault)| *fault);
    match fault {
        Some(Fault::CutBefore) => return Ok(()),
        Some(Fault::Broken) => return answer(stream, 500, "", "oops"),
        Some(Fault::TooMany) => return answer(stream, 429, "Retry-After: 7\r\n", "{}"),
        Some(Fault::Gone) => return answer(stream, 404, "", &refusal(81_044, "Record does not exist.")),
        _ => {}
    }
    let (status, text) = if is_allowed {
        carry_out(&mut state, method, path, &body)
    } else {
        (403, refusal(9_109, "Invalid token"))
    };
    state.fewest = state.fewest.min(state.records.len());
    let half = text.get(..text.len() / 2).unwrap_or_default();
    match fault {
        Some(Fault::CutAfter) => Ok(()),
        Some(Fault::BrokenAfter) => answer(stream, 502, "", "<html>"),
        Some(Fault::HalfDocument) => answer(stream, status, "", half),
        Some(Fault::CutWithin) => {
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            (&stream).write_all(head.as_bytes())?;
            (&stream).write_all(half.as_bytes())
        }
        _ => answer(stream, status, "", &text),
    }
}

fn answer(mut stream: TcpStream, status: u16, fields: &str, text: &str) -> std::io::Result<()> {
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

fn refusal(code: u32, message: &str) -> String {
    json!({"success": false, "errors": [{"code": code, "message": message}], "result": null}).to_string()
}

/// All of it, or nothing.
fn batch(state: &mut State, asked: &Value) -> (u16, String) {
    let list = |key: &str| asked[key].as_array().unwrap().clone();
    let is_there = |named: &Value| state.records.iter().any(|record| record["id"] == named["id"]);
    if !list("deletes").iter().chain(&list("patches")).all(is_there) {
        let status = if state.answers_404 { 404 } else { 400 };
        return (status, refusal(81_044, "Record does not exist."));
    }
    state.records.retain(|record| !list("deletes").iter().any(|named| named["id"] == record["id"]));
    for change in list("patches") {
        let record = state.records.iter_mut().find(|record| record["id"] == change["id"]).unwrap();
        record["content"] = change["content"].clone();
    }
    let mut posts = list("posts");
    for (number, made) in posts.iter_mut().enumerate() {
        made["id"] = json!(format!("new{number}"));
        state.records.push(made.clone());
    }
    let result =
        json!({"deletes": asked["deletes"], "patches": asked["patches"], "posts": posts, "puts": null});
    (200, json!({"success": true, "errors": [], "result": result}).to_string())
}

/// The calls that there are; all others do not exist.
fn carry_out(state: &mut State, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let done = |result: Value| (200, json!({"success": true, "errors": [], "result": result}).to_string());
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("name=")).unwrap_or_default();
    let path = path.strip_prefix("/client/v4").unwrap();
    match (method, path) {
        ("GET", "/zones") if asked == "example.com" => done(json!([{"id": "z1", "name": "example.com"}])),
        ("GET", "/zones") => done(json!([])),
        ("GET", "/zones/z1/dns_records") => {
            let named = state.records.iter().filter(|record| record["name"] == asked);
            done(named.cloned().collect::<Vec<_>>().into())
        }
        ("POST", "/zones/z1/dns_records/batch") => batch(state, &serde_json::from_slice(body).unwrap()),
        ("POST", "/zones/z1/dns_records") => {
            let mut made: Value = serde_json::from_slice(body).unwrap();
            made["id"] = json!("new");
            state.records.push(made.clone());
            done(made)
        }
        ("PATCH", path) => {
            let id = path.strip_prefix("/zones/z1/dns_records/").unwrap();
            let changes: Value = serde_json::from_slice(body).unwrap();
            let Some(record) = state.records.iter_mut().find(|record| record["id"] == id) else {
                return (404, refusal(81_044, "Record does not exist."));
            };
            for (key, value) in changes.as_object().unwrap() {
                record[key] = value.clone();
            }
            done(record.clone())
        }
        _ => (405, refusal(10_405, "Method not allowed")),
    }
}

use super::*;

#[test]
fn an_upstream_that_stops_is_the_cause_and_what_follows_are_symptoms() {
    let shown = shown(vec![
        // The edge looked first.
        edge(10, service("https", Some("upstream"), "failing")),
        origin(12, service("web", Some("upstream"), "failing")),
        origin(14, name("web", "failing")),
        origin(70, visitor("web", "failing")),
        edge(120, service("https", None, "ok")),
        origin(121, service("web", None, "ok")),
        origin(125, name("web", "ok")),
        origin(140, visitor("web", "proven")),
    ]);
    assert_eq!(
        shown,
        ["origin service web upstream | edge service https upstream, origin name, origin visitor | 10–140"]
    );
}

#[test]
fn a_tunnel_that_is_cut_is_the_cause_of_everything_behind_it() {
    let shown = shown(vec![
        origin(10, link(false)),
        edge(11, service("https", Some("tunnel"), "failing")),
        edge(12, peer("stale")),
        origin(13, peer("stale")),
        origin(300, visitor("web", "failing")),
        edge(400, peer("up")),
        origin(401, peer("up")),
        origin(402, link(true)),
        edge(405, service("https", None, "unknown")),
        origin(420, visitor("web", "proven")),
    ]);
    assert_eq!(
        shown,
        [
            "edge peer stale | origin link down, edge service https tunnel, origin peer stale, origin visitor | 10–420"
        ]
    );
}

#[test]
fn what_changed_just_before_is_the_cause() {
    let applied = || What::Applied { how: "apply".to_owned(), changes: 1, summary: Vec::new() };
    let stack = || What::Stack { stack: "media".to_owned(), what: "applied".to_owned() };
    let fails = || origin(40, service("web", Some("upstream"), "failing"));
    let single = |second, what| shown(vec![origin(second, what), fails()]);
    assert_eq!(single(20, applied()), ["origin applied | origin service web upstream | 20–"]);
    assert_eq!(single(20, stack()), ["origin stack | origin service web upstream | 20–"]);
    let later: Vec<Entry> =
        vec![origin(20, applied()), origin(600, service("web", Some("upstream"), "failing"))];
    assert_eq!(shown(later), ["origin applied", "origin service web upstream |  | 600–"]);
    let stopping = What::Stopping { notice: None };
    let both = vec![origin(20, stopping), edge(21, applied()), edge(40, peer("stale"))];
    assert_eq!(shown(both), ["origin stopping | edge peer stale | 20–", "edge applied"]);
}

#[test]
fn a_stack_that_was_changed_while_a_service_failed_is_the_cause() {
    let stack = || What::Stack { stack: "media".to_owned(), what: "recreated web".to_owned() };
    let during = |second| {
        shown(vec![
            origin(100, service("web", Some("upstream"), "failing")),
            origin(130, service("web", None, "ok")),
            origin(second, stack()),
        ])
    };
    assert_eq!(during(140), ["origin stack | origin service web upstream | 100–130"]);
    assert_eq!(during(300), ["origin service web upstream |  | 100–130", "origin stack"]);
}

#[test]
fn a_daemon_that_was_killed_is_the_cause_and_one_that_was_alive_is_not() {
    let killed = vec![
        origin(1, name("web", "ok")),
        edge(20, link(false)),
        edge(30, peer("stale")),
        edge(31, service("https", Some("tunnel"), "failing")),
        origin(60, started()),
        edge(62, peer("up")),
        edge(63, link(true)),
        edge(65, service("https", None, "ok")),
    ];
    let expected = ["origin crashed | edge link down, edge peer stale, edge service https tunnel | 20–65"];
    assert_eq!(shown(killed), expected);
    let alive = vec![
        edge(20, peer("stale")),
        origin(22, peer("stale")),
        origin(600, started()),
        edge(700, peer("up")),
        origin(701, peer("up")),
    ];
    assert_eq!(shown(alive), ["edge peer stale | origin peer stale | 20–700", "origin started"]);
    // It had started just before, which is no reason to fail.
    let soon = vec![
        origin(1, started()),
        origin(2, name("web", "ok")),
        edge(20, link(false)),
        origin(40, started()),
        edge(45, link(true)),
    ];
    assert_eq!(shown(soon), ["origin started", "origin crashed | edge link down | 20–45"]);
}

#[test]
fn a_tunnel_that_worked_after_a_start_is_not_cut_by_it() {
    let up = |side: fn(u64, What) -> Entry| vec![side(2, peer("up")), side(2, link(true))];
    let restarted =
        vec![origin(20, started()), edge(21, link(false)), origin(22, link(true)), edge(23, link(true))];
    let earlier = [vec![edge(1, started())], up(edge)].concat();
    assert_eq!(
        shown([earlier.clone(), restarted].concat()),
        ["edge started", "origin started | edge link down | 20–23"]
    );
    let cut = vec![
        edge(15, link(false)),
        origin(15, link(false)),
        edge(22, peer("stale")),
        origin(22, peer("stale")),
    ];
    assert_eq!(
        shown([earlier, vec![origin(1, started())], up(origin), cut].concat()),
        [
            "edge started",
            "origin started",
            "edge peer stale | edge link down, origin link down, origin peer stale | 15–"
        ]
    );
}

#[test]
fn the_first_start_of_an_end_is_no_crash_and_what_fails_otherwise_later_leaves_the_outage() {
    let first = vec![
        edge(1, started()),
        edge(2, service("https", Some("tunnel"), "failing")),
        edge(2, service("game", Some("tunnel"), "failing")),
        origin(10, started()),
        edge(12, service("https", Some("upstream"), "failing")),
        edge(12, service("game", None, "ok")),
    ];
    assert_eq!(
        shown(first),
        [
            "edge started | edge service https tunnel, edge service game tunnel | 1–12",
            "origin started",
            "edge service https upstream |  | 12–"
        ]
    );
}

#[test]
fn an_announced_stop_is_no_crash() {
    let stopped = vec![
        origin(10, What::Stopping { notice: None }),
        edge(10, What::Notice { peer: "wroclaw".to_owned(), notice: "stopping".to_owned() }),
        edge(11, link(false)),
        origin(20, started()),
        edge(22, link(true)),
    ];
    assert_eq!(shown(stopped), ["edge notice", "origin stopping | edge link down | 10–22", "origin started"]);
}

#[test]
fn two_services_that_fail_at_other_times_are_two_outages_and_a_cut_tunnel_joins_neither() {
    let apart = vec![
        origin(0, service("game", Some("upstream"), "failing")),
        origin(4_000, service("web", Some("upstream"), "failing")),
        origin(8_000, peer("stale")),
        origin(8_100, peer("up")),
        origin(9_000, service("web", None, "ok")),
    ];
    assert_eq!(
        shown(apart),
        [
            "origin service game upstream |  | 0–",
            "origin service web upstream |  | 4000–9000",
            "origin peer stale |  | 8000–8100"
        ]
    );
}

#[test]
fn a_visit_that_failed_first_belongs_to_the_tunnel_and_an_upstream_does_not() {
    let cut = vec![
        origin(5, service("game", Some("upstream"), "failing")),
        origin(10, visitor("web", "failing")),
        edge(14, peer("stale")),
        origin(20, service("web", Some("upstream"), "failing")),
    ];
    assert_eq!(
        shown(cut),
        [
            "origin service game upstream |  | 5–",
            "edge peer stale | origin visitor | 10–",
            "origin service web upstream |  | 20–"
        ]
    );
}

#[test]
fn two_services_that_fail_at_once_at_one_end_are_two_outages() {
    let both = vec![
        origin(10, service("game", Some("upstream"), "failing")),
        origin(11, service("web", Some("upstream"), "failing")),
        edge(12, service("https", Some("upstream"), "failing")),
        edge(13, service("wroclaw/game", Some("upstream"), "failing")),
    ];
    assert_eq!(
        shown(both),
        [
            "origin service game upstream | edge service wroclaw/game upstream | 10–",
            "origin service web upstream | edge service https upstream | 11–"
        ]
    );
}

#[test]
fn ends_are_merged_by_this_ends_time_and_each_ones_order_stays() {
    let record = |number: u64, at: u64| Record { number, at, what: started() };
    let side = |peer: Option<&str>| Side { role: "origin", end: peer.map(str::to_owned) };
    // The far clock is an hour ahead, and this one stepped back in the middle.
    let here = vec![record(1, 50_000), record(2, 90_000), record(3, 20_000)];
    let far = vec![record(7, 3_660_000), record(8, 3_700_000)];
    let all = merged(vec![(side(None), 0, here), (side(Some("kyiv")), 3_600_000, far)]);
    let order: Vec<_> = all.iter().map(|entry| (entry.record.number, entry.record.at / 1_000)).collect();
    assert_eq!(order, [(1, 50), (7, 60), (2, 90), (3, 20), (8, 100)]);
}

fn shown(entries: Vec<Entry>) -> Vec<String> {
    let block = |block: &Block| match block {
        Block::Single(entry) => word(entry),
        Block::Outage(outage) => {
            let cause = if outage.is_crash {
                format!("{} crashed", outage.cause.side.role)
            } else {
                word(&outage.cause)
            };
            let symptoms: Vec<String> = outage.symptoms.iter().map(word).collect();
            let over = outage.over.map_or_else(String::new, |over| (over / 1_000).to_string());
            format!("{cause} | {} | {}–{over}", symptoms.join(", "), outage.began / 1_000)
        }
    };
    blocks(entries).iter().map(block).collect()
}

fn word(entry: &Entry) -> String {
    let what = match &entry.record.what {
        What::Service { name: Some(_), .. } => "name".to_owned(),
        What::Service { service, hop, .. } => format!("service {service} {}", hop.as_deref().unwrap_or("-")),
        What::Peer { to, .. } => format!("peer {to}"),
        What::Link { up, .. } => format!("link {}", if *up { "up" } else { "down" }),
        What::Visitor { .. } => "visitor".to_owned(),
        What::Applied { .. } => "applied".to_owned(),
        What::Stack { .. } => "stack".to_owned(),
        What::Stopping { .. } => "stopping".to_owned(),
        What::Notice { .. } => "notice".to_owned(),
        What::Started { .. } => "started".to_owned(),
        _ => "another".to_owned(),
    };
    format!("{} {what}", entry.side.role)
}

fn edge(second: u64, what: What) -> Entry {
    entry("edge", second, what)
}

fn origin(second: u64, what: What) -> Entry {
    entry("origin", second, what)
}

fn entry(role: &'static str, second: u64, what: What) -> Entry {
    let record = Record { number: second, at: second * 1_000, what };
    Entry { side: Side { role, end: None }, record }
}

fn service(service: &str, hop: Option<&str>, state: &str) -> What {
    What::Service {
        service: service.to_owned(),
        name: None,
        state: state.to_owned(),
        hop: hop.map(str::to_owned),
        reason: None,
        evidence: None,
        peer: None,
        fix: None,
    }
}

fn name(of: &str, state: &str) -> What {
    let What::Service { service, state, hop, reason, evidence, peer, fix, .. } = service(of, None, state)
    else {
        panic!("another kind")
    };
    let name = Some("photos.example.com".to_owned());
    What::Service { service, name, state, hop, reason, evidence, peer, fix }
}

fn visitor(service: &str, state: &str) -> What {
    let name = "photos.example.com".to_owned();
    What::Visitor { service: service.to_owned(), name, state: state.to_owned(), reason: None }
}

fn peer(to: &str) -> What {
    What::Peer { peer: "wroclaw".to_owned(), from: "up".to_owned(), to: to.to_owned() }
}

fn link(up: bool) -> What {
    What::Link { peer: "wroclaw".to_owned(), up, reason: None }
}

fn started() -> What {
    What::Started { version: "1".to_owned(), failed: None }
}

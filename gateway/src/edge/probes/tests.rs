use daemon::health::HopName;

use super::*;
use crate::edge::example::{TEXT, policy};

const HTTPS: &str = "192.168.88.2:443";
const RANGE: &str = r#"
[[publish]]
name = "range"
listen = "7000-7010"
target = "192.168.88.2:7000-7010"
"#;

#[test]
fn a_service_is_probed_every_ten_seconds_once_its_tunnel_is_up_for_five() {
    let mut scene = Scene::new(TEXT);
    let mut sent = Vec::new();
    for second in 0..36 {
        scene.follow(second, true, false);
        for target in scene.due(second) {
            assert_eq!(target, https(), "UDP is not probed");
            sent.push(second);
            scene.reply(second, ServiceReply::Open);
        }
    }
    assert_eq!(sent, [5, 15, 25, 35]);
    assert_eq!(scene.shown(35), ("ok".to_owned(), None, 30));
}

#[test]
fn two_refusals_half_a_second_apart_are_failing_and_one_success_is_ok() {
    let mut scene = Scene::probing(TEXT);
    scene.reply(10, ServiceReply::Open);
    assert_eq!(scene.due(20), [https()]);
    scene.reply(20, ServiceReply::Refused);
    assert_eq!(scene.shown(20).0, "ok", "one is none");
    assert_eq!(scene.probes.poll_timeout(), Some(at(20).after(CONFIRM_AFTER)));
    assert_eq!(scene.due(21), [https()]);
    scene.reply(21, ServiceReply::Refused);
    assert_eq!(scene.shown(25), ("failing".to_owned(), Some("refused"), 4));
    assert!(scene.due(30).is_empty(), "no more often than every ten seconds");
    assert_eq!(scene.due(31), [https()]);
    scene.reply(31, ServiceReply::Open);
    assert_eq!(scene.shown(31), ("ok".to_owned(), None, 0));
}

#[test]
fn silence_of_what_never_replied_is_unknown_and_of_what_did_is_failing() {
    for reply in [ServiceReply::Silent, ServiceReply::Prohibited] {
        let mut scene = Scene::probing(TEXT);
        (0..5).for_each(|second| scene.reply(second, reply));
        assert_eq!(scene.shown(10), ("unknown".to_owned(), Some("silent"), 15));
    }
    let mut scene = Scene::probing(TEXT);
    scene.reply(0, ServiceReply::Open);
    scene.reply(10, ServiceReply::Silent);
    scene.reply(13, ServiceReply::Silent);
    assert_eq!(scene.shown(13), ("failing".to_owned(), Some("timed_out"), 0));
    scene.reply(14, ServiceReply::Open);
    assert_eq!(scene.shown(14).0, "ok", "a late reply counts");
}

#[test]
fn what_refuses_or_has_no_way_there_is_failing_although_it_was_never_open() {
    for (reply, reason) in [(ServiceReply::Refused, "refused"), (ServiceReply::Unreachable, "unreachable")] {
        let mut scene = Scene::probing(TEXT);
        scene.reply(0, reply);
        scene.reply(1, reply);
        assert_eq!(scene.shown(1), ("failing".to_owned(), Some(reason), 0));
    }
}

#[test]
fn the_first_port_of_a_range_is_failing_only_once_it_was_open() {
    let first: SocketAddr = "192.168.88.2:7000".parse().unwrap();
    let mut scene = Scene::probing(&format!("{TEXT}{RANGE}"));
    for _ in 0..3 {
        scene.probes.handle_reply(at(1), first, ServiceReply::Refused);
    }
    assert_eq!(scene.probes.upstream(at(1), first).unwrap().state, State::Unknown);
    for reply in [ServiceReply::Open, ServiceReply::Refused, ServiceReply::Refused] {
        scene.probes.handle_reply(at(2), first, reply);
    }
    assert_eq!(scene.probes.upstream(at(2), first).unwrap().state, State::Failing);
}

#[test]
fn a_link_replaces_the_probes_at_once_and_they_come_back_fifteen_seconds_after_its_end() {
    let mut scene = Scene::probing(TEXT);
    scene.reply(0, ServiceReply::Refused);
    scene.reply(1, ServiceReply::Refused);
    scene.follow(20, true, true);
    assert_eq!((scene.probes.upstream(at(20), https()), scene.due(60)), (None, vec![]));
    for second in 61..76 {
        scene.follow(second, true, second == 61);
        assert!(scene.due(second).is_empty(), "{second}");
    }
    scene.follow(76, true, false);
    assert_eq!(scene.due(76), [https()]);
    assert_eq!(scene.shown(76).0, "unknown", "nothing is left of what was known before");
}

#[test]
fn what_failed_stays_failing_while_its_tunnel_is_down_and_all_else_is_unknown() {
    for (reply, shown) in [(ServiceReply::Refused, Some("failing")), (ServiceReply::Open, None)] {
        let mut scene = Scene::probing(TEXT);
        scene.reply(0, reply);
        scene.reply(1, reply);
        scene.follow(20, false, false);
        assert!(scene.due(60).is_empty());
        let state = scene.probes.upstream(at(60), https()).map(|hop| hop.state.label());
        assert_eq!(state, shown);
    }
}

#[test]
fn what_is_not_published_any_more_or_whose_peer_is_not_to_be_probed_is_forgotten() {
    let mut scene = Scene::probing(TEXT);
    scene.policy = policy(
        &TEXT.replace("[[publish]]\nname = \"https\"", "probe = \"off\"\n[[publish]]\nname = \"https\""),
    );
    scene.follow(10, true, false);
    assert_eq!((scene.probes.upstream(at(10), https()), scene.probes.poll_timeout()), (None, None));
    scene.policy = policy(TEXT);
    scene.policy.publish.clear();
    scene.follow(11, true, false);
    assert!(scene.probes.targets.is_empty());
}

#[test]
fn as_many_wait_as_allowed_and_a_result_that_never_comes_frees_its_place() {
    let more: String = (1..100)
        .map(|port| {
            format!(
                "[[publish]]\nname = \"p{port}\"\nlisten = \"{port}\"\ntarget = \"192.168.88.2:{port}\"\n"
            )
        })
        .collect();
    let mut scene = Scene::new(&format!("{TEXT}{more}"));
    scene.follow(0, true, false);
    scene.follow(5, true, false);
    let mut first = scene.due(5);
    assert_eq!((first.len(), scene.due(6).len()), (MAX_SERVICE_PROBES, 0));
    assert_eq!(scene.probes.poll_timeout(), Some(at(10)));
    first.extend(scene.due(10));
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 100, "each had its turn before one had a second");
    scene.probes.handle_not_probed(at(10), first[99], NotProbed::Busy);
    assert!(scene.due(11).contains(&first[99]));
}

#[test]
fn results_are_counted() {
    let mut scene = Scene::probing(TEXT);
    scene.reply(1, ServiceReply::Refused);
    let page = daemon::metrics::page(scene.probes.numbers());
    assert!(page.contains("gateway_service_probes_total{result=\"refused\"} 1\n"), "{page}");
    assert!(page.contains("gateway_service_probes_total{result=\"open\"} 0\n"), "{page}");
}

struct Scene {
    policy: Policy,
    probes: Probes,
}

impl Scene {
    fn new(text: &str) -> Self {
        Self { policy: policy(text), probes: Probes::default() }
    }

    /// The tunnel is up for long.
    fn probing(text: &str) -> Self {
        let mut scene = Self::new(text);
        scene.probes.follow(
            Instant::from_boot(Duration::from_secs(3_595)),
            &scene.policy,
            &[PeerNow { name: "wroclaw".to_owned(), is_up: true, has_link: false }],
        );
        scene.follow(0, true, false);
        scene
    }

    fn follow(&mut self, second: u64, is_up: bool, has_link: bool) {
        let peer = PeerNow { name: "wroclaw".to_owned(), is_up, has_link };
        self.probes.follow(at(second), &self.policy, &[peer]);
    }

    fn due(&mut self, second: u64) -> Vec<SocketAddr> {
        std::iter::from_fn(|| self.probes.poll(at(second))).collect()
    }

    fn reply(&mut self, second: u64, reply: ServiceReply) {
        self.probes.handle_reply(at(second), https(), reply);
    }

    /// State, reason and seconds of the web server.
    fn shown(&self, second: u64) -> (String, Option<&'static str>, u64) {
        let hop = self.probes.upstream(at(second), https()).unwrap();
        assert_eq!(hop.name, HopName::Upstream);
        (hop.state.label().to_owned(), hop.reason.map(Reason::label), hop.seconds.unwrap())
    }
}

fn https() -> SocketAddr {
    HTTPS.parse().unwrap()
}

/// Seconds after an hour of uptime.
fn at(second: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(3_600 + second))
}

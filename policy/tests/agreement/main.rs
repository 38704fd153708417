//! The kernel does with packets what the evaluator says, and a faulty compiler is detected.
//!
//! The tests run themselves again in a network namespace of their own, build the worked example's
//! surroundings there out of veth pairs, install generated policies with real `nft` and `ip`, and
//! send one packet at a time. Where it goes (out of which interface with which addresses, to a
//! program on the edge, or into which drop counter), and which service counts it, must be what the
//! evaluator returned.
//!
//! `POLICY_CASES` is the number of policies, `POLICY_PACKETS` that of packets for each; with
//! `CAUSEWAY_SOAK=1` there are ten times as many policies.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod faults;
mod link;
mod netfilter;
mod pairing;
mod stage;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arbitrary::{self, Random};
use policy::evaluator::{self, Arrival, Entry, Judgement, Outcome, Packet, Surroundings, Transport};
use policy::gateway::{Limits, Requested, Requests, SourceHandling};
use policy::{PublicPorts, Source, gateway};
use stage::{Compiled, Stage};

#[test]
fn the_kernel_does_what_the_evaluator_says() {
    in_a_namespace("the_kernel_does_what_the_evaluator_says", compare);
}

#[test]
fn every_planted_fault_is_found() {
    in_a_namespace("every_planted_fault_is_found", find_faults);
}

#[test]
fn the_port_of_the_link_is_open_out_of_the_tunnel_alone_while_the_daemon_owns_its_socket() {
    let test = "the_port_of_the_link_is_open_out_of_the_tunnel_alone_while_the_daemon_owns_its_socket";
    in_a_namespace(test, link::is_open_out_of_the_tunnel_alone);
}

#[test]
fn the_temporary_peer_of_a_pairing_reaches_the_link_and_nothing_that_peers_reach() {
    let test = "the_temporary_peer_of_a_pairing_reaches_the_link_and_nothing_that_peers_reach";
    in_a_namespace(test, pairing::reaches_the_link_and_nothing_else);
}

fn compare() {
    let started = Instant::now();
    let mut stage = Stage::build();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut mismatches = Vec::new();
    let (policies, packets) = (number("POLICY_CASES", default_policies()), number("POLICY_PACKETS", 100));
    for seed in 0..policies {
        let policy = generated(seed);
        stage.change_to(&Stage::plan(&policy));
        let mut random = Random::new(seed ^ 0xface);
        for turn in 0..packets {
            let (verdict, mismatch) = one_packet(&mut stage, &policy, &mut random, turn, TIMEOUT);
            *seen.entry(verdict).or_default() += 1;
            mismatches.extend(mismatch.map(|text| format!("seed {seed}: {text}")));
        }
        assert!(mismatches.len() < 20, "{}", mismatches.join("\n"));
    }

    println!("{policies} policies, {packets} packets each, in {:?}: {seen:#?}", started.elapsed());
    assert!(mismatches.is_empty(), "{} mismatches:\n{}", mismatches.len(), mismatches.join("\n"));
    // Not every policy has packets of each class.
    let least = 800 / u64::try_from(WANTED.len()).unwrap();
    for verdict in VERDICTS {
        let share = seen.get(*verdict).copied().unwrap_or(0) * 1_000 / (policies * packets);
        assert!(share >= least, "only {share} of 1,000 packets were {verdict}");
    }
    assert!(seen.keys().all(|verdict| VERDICTS.contains(&verdict.as_str())), "a verdict is not listed here");
}

/// Plants one fault after another in the compiled rules, and checks that the comparison detects
/// each.
fn find_faults() {
    let mut stage = Stage::build();
    let policies: Vec<gateway::Policy> = (0..POLICIES_PER_FAULT).map(generated).collect();
    let mut unnoticed = Vec::new();
    for (fault, spoil) in faults::FAULTS {
        let found = policies.iter().find_map(|policy| {
            let whole = Compiled::of(&Stage::plan(policy));
            let mut spoilt = whole.clone();
            spoil(&mut spoilt);
            if spoilt == whole {
                return None;
            }
            stage.install(&spoilt);
            let mut random = Random::new(0xface);
            (0..PACKETS_PER_FAULT)
                .find_map(|turn| one_packet(&mut stage, policy, &mut random, turn, SHORT_TIMEOUT).1)
        });
        match found {
            Some(mismatch) => println!("found: {fault}\n  {mismatch}"),
            None => unnoticed.push(*fault),
        }
    }
    assert!(faults::FAULTS.len() >= 20);
    assert!(unnoticed.is_empty(), "these faults would not be found: {unnoticed:#?}");
}

const POLICIES_PER_FAULT: u64 = 30;
const PACKETS_PER_FAULT: u64 = 120;

/// How long a packet may be under way before it counts as lost without a trace.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same when a planted fault may make a packet vanish.
const SHORT_TIMEOUT: Duration = Duration::from_millis(300);

/// Everything that can happen to the first packet of a flow in the surroundings of the test.
const VERDICTS: &[&str] = &[
    "delivered",
    "forwarded",
    "unroutable",
    "prerouting spoofed",
    "prerouting banned",
    "prerouting wan_guard",
    "prerouting source_not_allowed",
    "prerouting not_syn",
    "input wan_guard",
    "input not_listed",
    "input link",
    "forward wan_guard",
    "forward not_listed",
    "output not_listed",
    "postrouting leak",
];

/// The classes of packets that are chosen in turn: every verdict, and each way to be forwarded or
/// delivered.
const WANTED: &[&str] = &[
    "delivered",
    "delivered from the WAN",
    "delivered of the other edge",
    "forwarded freely",
    "forwarded published",
    "forwarded allowed",
    "forwarded masqueraded",
    "unroutable",
    "prerouting spoofed",
    "prerouting banned",
    "prerouting wan_guard",
    "prerouting source_not_allowed",
    "prerouting not_syn",
    "not_syn out of the tunnel",
    "not_syn of the LAN",
    "input wan_guard",
    "input not_listed",
    "input link",
    "input link out of the tunnel",
    "delivered to the link",
    "forward wan_guard",
    "forward not_listed",
    "output not_listed",
    "postrouting leak",
];

/// Sends one packet; returns the evaluator's verdict, or both verdicts when the kernel's differs.
fn one_packet(
    stage: &mut Stage,
    policy: &gateway::Policy,
    random: &mut Random,
    turn: u64,
    timeout: Duration,
) -> (String, Option<String>) {
    let around = surroundings(policy);
    let wanted = WANTED[usize::try_from(turn).unwrap() % WANTED.len()];
    let packet = stage.numbered(likely(wanted, random, policy, &around));
    let expected = evaluator::judge(policy, &around, &packet);
    let counted = expected.entry.map(|entry| match entry {
        Entry::Publish(publish) => format!("publish_in_{}", publish.name),
        Entry::Allow(allow) => format!("allow_in_{}", allow.name),
    });
    let actual = stage.send(&packet, timeout);
    let same_way = actual.outcome.as_ref().map(|outcome| simplified(&packet, outcome))
        == Some(simplified(&packet, &expected.outcome));
    let same = same_way && actual.counted == Vec::from_iter(counted.clone());
    let mismatch = (!same).then(|| {
        let expected = &expected.outcome;
        format!("{packet:?}\n  expected {expected:?}, counted by {counted:?}\n  the kernel: {actual:?}")
    });
    (verdict(&expected.outcome), mismatch)
}

/// A packet of the wanted class, or any packet when the policy hardly allows one.
fn likely(wanted: &str, random: &mut Random, policy: &gateway::Policy, around: &Surroundings) -> Packet {
    let mut packet = arbitrary::packet(random, policy);
    for _ in 0..1_000 {
        if class(&packet, &evaluator::judge(policy, around, &packet)) == wanted {
            break;
        }
        packet = arbitrary::packet(random, policy);
    }
    packet
}

fn class(packet: &Packet, judgement: &Judgement<'_>) -> String {
    let to_link = matches!(packet.transport, Transport::Tcp { destination: 51_899, .. });
    let to_pair = matches!(packet.transport, Transport::Udp { destination: 3_780 | 51_898, .. });
    let at = |name: &str| packet.arrival == Arrival::Interface(name.to_owned());
    let on_wan = at("eth0") || at("br-x");
    match (&judgement.outcome, judgement.entry) {
        (Outcome::Dropped { reason: "not_syn", .. }, _) if at("gw0") => {
            "not_syn out of the tunnel".to_owned()
        }
        (Outcome::Dropped { reason: "not_syn", .. }, _) if at("eth1") => "not_syn of the LAN".to_owned(),
        (Outcome::Dropped { reason: "link", .. }, _) if at("gw0") => {
            "input link out of the tunnel".to_owned()
        }
        (Outcome::Delivered, _) if to_link => "delivered to the link".to_owned(),
        (Outcome::Delivered, _) if on_wan && to_pair => "delivered of the other edge".to_owned(),
        (Outcome::Delivered, _) if on_wan => "delivered from the WAN".to_owned(),
        (Outcome::Forwarded { masqueraded: true, .. }, _) => "forwarded masqueraded".to_owned(),
        (Outcome::Forwarded { .. }, Some(Entry::Publish(_))) => "forwarded published".to_owned(),
        (Outcome::Forwarded { .. }, Some(Entry::Allow(_))) => "forwarded allowed".to_owned(),
        (Outcome::Forwarded { .. }, None) => "forwarded freely".to_owned(),
        (outcome, _) => verdict(outcome),
    }
}

fn verdict(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::Forwarded { .. } => "forwarded".to_owned(),
        Outcome::Dropped { stage, reason } => format!("{stage} {reason}"),
        Outcome::Unroutable => "unroutable".to_owned(),
    }
}

/// The edge's own packets have its own address before and after masquerading.
fn simplified(packet: &Packet, outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let (Arrival::Edge, Outcome::Forwarded { masqueraded, .. }) = (&packet.arrival, &mut outcome) {
        *masqueraded = false;
    }
    outcome
}

/// The worked example's, with two bans and without a default route for IPv6.
fn surroundings(policy: &gateway::Policy) -> Surroundings {
    let mut surroundings = arbitrary::surroundings(policy);
    surroundings.banned = stage::BANNED.iter().map(|address| address.parse().unwrap()).collect();
    surroundings.default_routes.retain(|(_, ipv6)| !ipv6);
    surroundings
}

fn generated(seed: u64) -> gateway::Policy {
    let text = arbitrary::gateway_text(seed);
    let source = Source { name: Path::new("gateway.toml"), text: &text };
    let mut policy = gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
    for list in &mut policy.lists {
        list.load(&Source { name: Path::new("partners.list"), text: arbitrary::PARTNERS }).unwrap();
    }
    match seed % 4 {
        1 => with_grants(policy, 1),
        3 => with_grants(policy, 2),
        _ => policy,
    }
}

/// What the file publishes on the WAN side with at most so many targets, as its peers publish it by
/// themselves.
fn with_grants(mut policy: gateway::Policy, most_targets: usize) -> gateway::Policy {
    let is_plain = |publish: &gateway::Publish| {
        publish.wan_only
            && publish.targets.len() <= most_targets
            && publish.source == SourceHandling::Preserve
            && publish.limits == Limits::default()
    };
    let (plain, others) = policy.publish.into_iter().partition::<Vec<_>, _>(is_plain);
    policy.publish = others;
    let mut requests = Requests::default();
    for peer in &mut policy.peers {
        let its = plain.iter().filter(|publish| publish.targets[0].peer == peer.name);
        let requested: Vec<Requested> = its.flat_map(requested).collect();
        peer.may_publish = requested.iter().map(|requested| requested.port).collect();
        requests.replace(&peer.name, requested);
    }
    let judged = requests.judge(&policy, &[]);
    assert!(judged.replies.values().flatten().all(Result::is_ok), "{:?}", judged.replies);
    judged.served
}

fn requested(publish: &gateway::Publish) -> Vec<Requested> {
    let target_ports = publish.targets[0].ports;
    let requested = |protocol| Requested {
        service: publish.name.clone(),
        port: PublicPorts { protocol, ports: publish.ports },
        targets: publish.targets.iter().map(|target| target.address).collect(),
        target_ports,
        allow: publish.allow.clone(),
    };
    publish.protocols.iter().map(requested).collect()
}

/// Runs `inside` in a namespace: this program starts itself again there for the one test.
fn in_a_namespace(test: &str, inside: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let root = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    let user: &[&str] =
        if root.is_ok_and(|status| status.success()) { &[] } else { &["--user", "--map-root-user"] };

    let status = Command::new("unshare")
        .args(user)
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) must be there");

    assert!(status.success());
}

const INSIDE: &str = "POLICY_INSIDE_NAMESPACE";

fn default_policies() -> u64 {
    if std::env::var_os("CAUSEWAY_SOAK").is_some_and(|value| value == "1") { 1_000 } else { 100 }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

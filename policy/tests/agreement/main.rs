//! The kernel does with packets what the evaluator says.
//!
//! The test runs itself again in a network namespace of its own, builds the worked example's surroundings there out
//! of veth pairs, installs a generated policy with real `nft` and `ip`, and sends one packet at a time. Where it goes
//! (out of which interface with which addresses, to a program on the edge, or into which drop counter) must be what
//! the evaluator said. `POLICY_CASES` is the number of policies, `POLICY_PACKETS` that of packets for each.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod stage;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use policy::arbitrary::{self, Random};
use policy::evaluator::{self, Arrival, Outcome, Packet};
use policy::{Source, gateway};
use stage::Stage;

#[test]
fn the_kernel_does_what_the_evaluator_says() {
    if std::env::var_os(INSIDE).is_some() {
        return compare();
    }
    let root = Command::new("unshare").args(["--net", "true"]).stderr(std::process::Stdio::null()).status();
    let user: &[&str] =
        if root.is_ok_and(|status| status.success()) { &[] } else { &["--user", "--map-root-user"] };

    let status = Command::new("unshare")
        .args(user)
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "the_kernel_does_what_the_evaluator_says", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) must be there");

    assert!(status.success());
}

const INSIDE: &str = "POLICY_INSIDE_NAMESPACE";

fn compare() {
    let mut stage = Stage::build();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut mismatches = Vec::new();
    for seed in 0..number("POLICY_CASES", 4) {
        let text = arbitrary::gateway_text(seed);
        let policy = parsed(&text);
        stage.install(&policy.plan());
        let mut random = Random::new(seed ^ 0xface);
        for _ in 0..number("POLICY_PACKETS", 50) {
            let packet = stage.numbered(arbitrary::packet(&mut random, &policy));
            let expected = evaluator::evaluate(&policy, &arbitrary::surroundings(), &packet);
            let actual = stage.send(&packet);
            *seen.entry(kind(&expected)).or_default() += 1;
            if simplified(&packet, &expected) != simplified(&packet, &actual) {
                mismatches
                    .push(format!("seed {seed}: {packet:?}\n  expected {expected:?}\n  kernel   {actual:?}"));
            }
        }
    }

    println!("{seen:#?}");
    assert!(mismatches.is_empty(), "{} mismatches:\n{}", mismatches.len(), mismatches.join("\n"));
    for outcome in ["delivered", "forwarded", "input wan_guard", "forward not_listed", "prerouting spoofed"] {
        assert!(seen.contains_key(outcome), "no packet was {outcome}");
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

fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::Forwarded { .. } => "forwarded".to_owned(),
        Outcome::Dropped { stage, reason } => format!("{stage} {reason}"),
        Outcome::Unroutable => "unroutable".to_owned(),
    }
}

fn parsed(text: &str) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text };
    gateway::parse(&source).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

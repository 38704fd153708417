//! The rules that policies compile to are rules that nft takes.
//!
//! These tests need `nft` and a user namespace of their own; without them they fail, and say so.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use policy::ruleset::{Present, Ruleset};
use policy::{Source, gateway};
use serde_json::Value;

#[test]
fn the_annotated_example_is_taken_again_and_again() {
    let plan = example().plan();
    let guard = Ruleset::guard(&example(), 1420);
    let everything =
        Present::from_listing(&listing_after(&[plan.ruleset.install(&Present::nothing())])).unwrap();

    let script = [
        guard.install(&Present::nothing()),
        guard.install(&Present::nothing()),
        plan.ruleset.install(&Present::nothing()),
        plan.ruleset.install(&everything),
        guard.install(&everything),
        plan.ruleset.replace(),
        Ruleset::teardown(),
        Ruleset::teardown(),
        plan.ruleset.install(&Present::nothing()),
    ];

    listing_after(&script);
}

fn example() -> gateway::Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    gateway::parse(&Source { name: &path, text: &text }).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Runs the transactions one after another in a namespace of its own, each first with `-c`, and lists the table.
fn listing_after(transactions: &[Value]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut script = String::from("set -e\n");
    for (index, transaction) in transactions.iter().enumerate() {
        let file = folder.path().join(format!("{index}.json"));
        std::fs::write(&file, transaction.to_string()).unwrap();
        let file = file.display();
        script.push_str(&format!(
            "nft -c -j -f {file} || {{ echo 'transaction {index}' >&2; exit 1; }}\nnft -j -f {file}\n"
        ));
    }
    script.push_str("nft -j list table inet causeway\n");
    in_namespace(&script)
}

fn in_namespace(script: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux) must be there");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft (package nftables) must be there and take the rules:\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

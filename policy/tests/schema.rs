//! The generated rules conform to the `nftables` crate's types, as far as these go.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use arbitrary::gateway_text;
use nftables::schema::NfObject;
use policy::{Source, gateway};
use serde_json::Value;

#[test]
fn the_crates_types_read_every_generated_command_that_they_have_a_type_for() {
    for seed in 0..50 {
        let text = gateway_text(seed);
        let policy = gateway::parse(&Source { name: Path::new("g.toml"), text: &text }).expect("a policy");
        let ruleset = policy.plan().ruleset.replace();
        let commands = ruleset["nftables"].as_array().expect("commands");

        let typed = commands.iter().filter(|command| !is_beyond_the_crate(command));
        let mut read = 0;
        for command in typed {
            let object = serde_json::from_value::<NfObject<'_>>(command.clone());
            assert!(object.is_ok(), "seed {seed}: {command}");
            read += 1;
        }
        assert!(read > commands.len() / 2, "seed {seed}: only {read} of {}", commands.len());
    }
}

/// What `nft` takes and the crate's types lack: emptying a set or map, maps to verdicts or named
/// counters, and sets of interface indexes.
fn is_beyond_the_crate(command: &Value) -> bool {
    let flushes = ["set", "map"].iter().any(|kind| !command["flush"][kind].is_null());
    let maps_to = command["add"]["map"]["map"].as_str();
    let of_links = command["add"]["set"]["type"].to_string().contains("iface_index");
    flushes || of_links || maps_to.is_some_and(|data| matches!(data, "verdict" | "counter"))
}

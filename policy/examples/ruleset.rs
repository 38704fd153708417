//! Prints the nftables transaction of a gateway configuration: `cargo run -p policy --example ruleset FILE`.

use std::path::Path;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let text = std::fs::read_to_string(&name).unwrap_or_default();
    match policy::gateway::parse(&policy::Source { name: Path::new(&name), text: &text }) {
        Ok(policy) => println!("{}", policy.plan().ruleset.install(&policy::ruleset::Present::nothing())),
        Err(errors) => errors.iter().for_each(|error| eprintln!("{error}")),
    }
}

//! Configurations of other products.

use std::path::Path;

use migrate::import::{self, Exports};
use policy::Source;

/// Between the edge's export and the origin's.
const BETWEEN: &[u8] = b"\n%%\n";

/// The bytes of one or two RouterOS exports: they are refused, or they become configurations that
/// parse and publish nothing without a dst-nat.
pub(crate) fn routeros(input: &[u8]) {
    let at = input.windows(BETWEEN.len()).position(|window| window == BETWEEN);
    let (first, second) = match at.and_then(|at| Some((input.get(..at)?, input.get(at + BETWEEN.len()..)?))) {
        Some((first, second)) => (first, Some(second)),
        None => (input, None),
    };
    let text = |bytes: &[u8]| import::decode(Path::new("fuzz.rsc"), bytes).ok();
    let (Some(first), second) = (text(first), second.map(text)) else { return };
    let edge = Source { name: Path::new("edge.rsc"), text: &first };
    let imported = match &second {
        None => import::mikrotik(&Exports::Edge(&edge), &|_| None),
        Some(None) => return,
        Some(Some(second)) => {
            let origin = Source { name: Path::new("origin.rsc"), text: second };
            import::mikrotik(&Exports::Both { edge: &edge, origin: &origin }, &|_| None)
        }
    };
    let Ok(imported) = imported else { return };
    let gateway = Source { name: Path::new("gateway.toml"), text: &imported.gateway };
    let policy = policy::gateway::parse(&gateway).expect("an import writes what parses");
    let forwarder = Source { name: Path::new("forwarder.toml"), text: &imported.forwarder };
    drop(policy::forwarder::parse(&forwarder).expect("an import writes what parses"));
    let translates = first.contains("dst-nat") || first.contains("netmap");
    assert!(translates || policy.publish.is_empty(), "something is public that no rule publishes");
}

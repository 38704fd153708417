//! The temporary peer of a pairing in a real kernel: it reaches the link and nothing else, whatever
//! the policy lists.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use policy::evaluator::{Arrival, Outcome, Packet, Transport};
use policy::gateway::Policy;
use policy::plan::{Conditions, Plan};
use policy::{Source, gateway};

use crate::stage::Stage;

const TEXT: &str = r#"
[interface]
address = ["10.77.88.1/24", "fd00:77::1/64"]
private_key_file = "kyiv.key"
[lan]
prefixes = ["192.168.1.0/24"]
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "fd00:77::2/128", "192.168.88.0/24"]
[[peer]]
name = "gdansk"
public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
allowed_ips = ["0.0.0.0/0", "::/0", "10.77.88.3/32"]
[[publish]]
name = "https"
listen = "443"
target = "192.168.88.2:443"
[[allow]]
name = "everything"
from = ["peer:wroclaw", "peer:gdansk"]
to = ["self", "192.168.1.0/24"]
ports = ["1-51898", "51900-65535"]
[[allow]]
name = "echo"
from = ["peer:wroclaw"]
to = ["192.168.1.0/24"]
protocol = ["icmp"]
"#;
const LINK: u16 = 51_899;
/// How long a packet that arrives nowhere is waited for.
const TIMEOUT: Duration = Duration::from_millis(500);
/// What a peer reaches, but for the link.
const LISTED: &[(&str, Option<u16>)] = &[
    ("10.77.88.1", Some(22)),
    ("10.77.88.1", Some(9_586)),
    ("10.77.88.1", None),
    ("fd00:77::1", None),
    ("192.168.1.2", Some(2_049)),
    ("192.168.1.50", Some(2_049)),
    ("192.168.1.50", None),
];
/// What no peer reaches.
const UNLISTED: &[(&str, Option<u16>)] = &[
    ("192.168.1.2", Some(LINK)),
    ("192.168.88.2", Some(443)),
    ("10.77.88.2", Some(443)),
    ("203.0.113.10", Some(443)),
];

pub(crate) fn reaches_the_link_and_nothing_else() {
    let mut stage = Stage::build();
    let policy = gateway::parse(&Source { name: Path::new("gateway.toml"), text: TEXT }).unwrap();
    for (joiner, link) in [("10.77.88.9", "10.77.88.1"), ("fd00:77::9", "fd00:77::1")] {
        stage.change_to(&plan(&policy, Some(joiner)));
        let mut reaches = |source: &str, destination: &str, port: Option<u16>| {
            let packet = stage.numbered(packet(source, destination, port));
            let outcome = stage.send(&packet, TIMEOUT).outcome;
            matches!(outcome, Some(Outcome::Delivered | Outcome::Forwarded { .. }))
        };
        let peer = if joiner.contains(':') { "fd00:77::2" } else { "10.77.88.2" };
        assert!(reaches(joiner, link, Some(LINK)), "{joiner} does not reach the link");
        assert!(reaches(peer, link, Some(LINK)), "{peer} does not reach the link");
        for &(destination, port) in LISTED.iter().chain(UNLISTED) {
            if destination.contains(':') != joiner.contains(':') {
                continue;
            }
            let is_listed = LISTED.contains(&(destination, port));
            assert!(!reaches(joiner, destination, port), "{joiner} reaches {destination} {port:?}");
            assert_eq!(reaches(peer, destination, port), is_listed, "{peer} to {destination} {port:?}");
        }
    }
    // An address that the policy gives to a peer is that peer's.
    let mut reaches = |pairing: &str| {
        stage.change_to(&plan(&policy, Some(pairing)));
        let packet = stage.numbered(packet("10.77.88.2", "192.168.1.2", Some(2_049)));
        stage.send(&packet, TIMEOUT).outcome
    };
    assert_eq!(reaches("10.77.88.2"), Some(Outcome::Delivered));
}

fn plan(policy: &Policy, pairing: Option<&str>) -> Plan {
    let own = |address: &str| SocketAddr::new(address.parse().unwrap(), LINK);
    let link = vec![own("10.77.88.1"), own("fd00:77::1")];
    let conditions = Conditions {
        pairing: pairing.map(|address| address.parse::<IpAddr>().unwrap()),
        ..Stage::conditions(policy, link)
    };
    policy.plan_under(&conditions)
}

fn packet(source: &str, destination: &str, port: Option<u16>) -> Packet {
    Packet {
        arrival: Arrival::Interface("gw0".to_owned()),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        transport: port.map_or(Transport::Echo, |destination| Transport::Tcp { source: 0, destination }),
        relayed: false,
    }
}

//! The port of the link in a real kernel: open out of the tunnel alone, while the daemon owns its
//! socket.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use policy::evaluator::{Arrival, Outcome, Packet, Surroundings, Transport, evaluate};
use policy::plan::Plan;
use policy::ruleset::Ruleset;
use policy::{Source, gateway};

use crate::stage::Stage;

/// The peer has one address that is its own end of the link. It may open tcp/9092 and every source tcp/9093, which another program's DNAT leads to the
/// link's port, as it does for all of [`REDIRECTED`].
const TEXT: &str = r#"
[interface]
address = ["10.77.88.1/24", "fd00:77::1/64"]
private_key_file = "kyiv.key"
[wan]
accept = ["tcp/9093"]
[lan]
prefixes = ["192.168.1.0/24"]
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "10.77.88.128/25", "fd00:77::2/128", "192.168.88.2/32"]
[[allow]]
name = "redirected"
from = ["peer:wroclaw"]
to = ["self"]
ports = ["9092", "9093"]
"#;
const REDIRECTED: [u16; 2] = [9_092, 9_093];
const LINK: u16 = 51_899;
/// How long a packet that arrives nowhere is waited for.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Who sends to where, and whether it may arrive while the daemon owns sockets of both families.
const CASES: &[(&str, &str, &str, u16, bool)] = &[
    ("gw0", "10.77.88.2", "10.77.88.1", LINK, true),
    ("gw0", "192.168.88.2", "10.77.88.1", LINK, false),
    ("gw0", "10.77.88.130", "10.77.88.1", LINK, false),
    ("gw0", "fd00:77::2", "fd00:77::1", LINK, true),
    ("gw0", "10.77.88.2", "192.168.1.2", LINK, false),
    ("gw0", "10.77.88.2", "10.77.88.1", LINK + 1, false),
    ("gw0", "10.77.88.2", "10.77.88.1", 9_092, false),
    ("gw0", "10.77.88.2", "192.168.1.2", 9_092, false),
    ("eth0", "203.0.113.10", "10.77.88.1", LINK, false),
    ("eth0", "203.0.113.10", "192.0.2.2", LINK, false),
    ("eth0", "203.0.113.10", "192.0.2.2", 9_093, false),
    ("eth0", "10.77.88.2", "10.77.88.1", LINK, false),
    ("eth0", "2001:db8:1::10", "fd00:77::1", LINK, false),
    ("eth1", "192.168.1.50", "10.77.88.1", LINK, false),
    ("eth1", "192.168.1.50", "192.168.1.2", 9_092, false),
    ("docker0", "172.17.0.2", "10.77.88.1", LINK, false),
    ("docker0", "172.17.0.2", "172.17.0.1", 9_092, false),
    ("br-x", "198.18.5.9", "10.77.88.1", LINK, false),
    ("", "10.77.88.1", "10.77.88.1", LINK, false),
    ("", "192.168.1.2", "10.77.88.1", LINK, false),
    ("", "fd00:77::1", "fd00:77::1", LINK, false),
];

pub(crate) fn is_open_out_of_the_tunnel_alone() {
    let mut stage = Stage::build();
    let policy = gateway::parse(&Source { name: Path::new("gateway.toml"), text: TEXT }).unwrap();
    let own = |port| ["10.77.88.1", "fd00:77::1"].map(|own| at(own, port)).to_vec();

    for sockets in [own(LINK), own(LINK + 1), Vec::new(), own(LINK)] {
        let plan = Stage::plan_with(&policy, sockets.clone());
        stage.change_to(&plan);
        for case in CASES {
            check(&mut stage, (&policy, &sockets), case);
        }
    }
    let plan = Stage::plan_with(&policy, own(LINK));
    for ruleset in [Ruleset::guard(&policy, 1420), Ruleset::minimal_guard(&policy)] {
        stage.install_table(&Plan { ruleset, ..plan.clone() });
        for (arrival, source, destination, port, _) in CASES {
            let packet = stage.numbered(packet(arrival, source, destination, *port));
            let seen = stage.send(&packet, IMPATIENCE).outcome;
            assert_ne!(seen, Some(Outcome::Delivered), "the guard opens the link: {packet:?}");
        }
    }
}

/// The same where a drop is not counted.
const IMPATIENCE: Duration = Duration::from_millis(30);

fn check(
    stage: &mut Stage,
    (policy, sockets): (&gateway::Policy, &[SocketAddr]),
    (arrival, source, destination, port, may_arrive): &(&str, &str, &str, u16, bool),
) {
    let packet = stage.numbered(packet(arrival, source, destination, *port));
    let seen = stage.send(&packet, TIMEOUT).outcome;
    let is_open = *may_arrive && sockets.contains(&at(destination, *port));
    assert_eq!(seen == Some(Outcome::Delivered), is_open, "{sockets:?} {packet:?}: {seen:?}");
    let surroundings = arbitrary::surroundings(policy);
    let redirects = REDIRECTED.map(|port| {
        let to = at("10.77.88.1", LINK);
        policy::evaluator::Redirect { protocol: policy::Protocol::Tcp, port, to }
    });
    let around = Surroundings { link: sockets.to_vec(), redirects: redirects.to_vec(), ..surroundings };
    assert_eq!(seen, Some(evaluate(policy, &around, &packet)), "{sockets:?} {packet:?}");
}

fn packet(arrival: &str, source: &str, destination: &str, port: u16) -> Packet {
    let arrival = match arrival {
        "" => Arrival::Edge,
        name => Arrival::Interface(name.to_owned()),
    };
    Packet {
        arrival,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        transport: Transport::Tcp { source: 0, destination: port },
        relayed: false,
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

//! A configuration for the unit tests of the edge's parts.

use std::path::Path;

use policy::Source;
use policy::gateway::Policy;

/// Two services behind one peer.
pub(crate) const TEXT: &str = r#"
[interface]
name = "gw0"
address = ["10.77.88.1/30"]
listen_port = 51820
private_key_file = "kyiv.key"
[wan]
interface = "eth0"
[[peer]]
name = "wroclaw"
public_key = "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs="
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]
[[publish]]
name = "https"
protocol = ["tcp"]
listen = "443"
target = "192.168.88.2:443"
[[publish]]
name = "game"
protocol = ["udp"]
listen = "6000"
target = "192.168.88.2:6000"
"#;

/// The policy of a text that is valid.
pub(crate) fn policy(text: &str) -> Policy {
    policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap()
}

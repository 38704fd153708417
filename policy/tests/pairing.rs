//! What `gateway check --with forwarder.toml` says.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::path::Path;

use policy::pairing::{Finding, OwnKeys, pairing, pairing_with_keys};
use policy::{Source, forwarder, gateway};

#[test]
fn two_files_that_fit_give_no_finding() {
    assert_eq!(found(GATEWAY, FORWARDER), Vec::<String>::new());
}

#[test]
fn a_publish_needs_a_service() {
    let forwarder = FORWARDER.replace("192.168.88.2:443", "192.168.88.2:444");

    assert_eq!(
        found(GATEWAY, &forwarder),
        [
            "publish \"https\" leads to tcp 192.168.88.2:443, which no [[service]] matches: clients are refused"
        ]
    );
}

#[test]
fn a_reach_needs_an_allow_and_an_allow_a_reach() {
    let forwarder = FORWARDER.replace("192.168.1.2:2049", "192.168.1.3:2049");

    assert_eq!(
        found(GATEWAY, &forwarder),
        [
            "allow \"nfs\" lets the forwarder in, but no [[reach]] uses it; remove one or add the other",
            "reach \"nfs\" leads to 192.168.1.3:2049, which no [[allow]] lists: the edge drops its connections",
        ]
    );
}

#[test]
fn an_allow_into_the_tunnel_needs_a_service() {
    let forwarder = FORWARDER.replace(":8428\"\nupstream", ":8429\"\nupstream");

    assert_eq!(
        found(GATEWAY, &forwarder),
        [
            "allow \"push\" leads to tcp 192.168.88.2:8428, which no [[service]] matches: connections are refused"
        ]
    );
}

#[test]
fn a_proxy_header_behind_masquerading_is_found() {
    let gateway = GATEWAY.replace("listen = \"443\"", "listen = \"443\"\nsource = \"masquerade\"");

    assert!(matches!(findings(&gateway, FORWARDER).as_slice(), [Finding::ProxyBehindMasquerade { .. }]));
}

#[test]
fn addresses_ports_keys_and_sizes_are_compared() {
    let unrelated = FORWARDER.replace("10.77.88.2/30", "10.99.0.2/30");
    let elsewhere = GATEWAY.replace("10.77.88.2/32", "10.77.88.6/32");
    let other_port = FORWARDER.replace("example.com:51820", "example.com:51821");
    let other_mtu = FORWARDER.replace("mtu = 1420", "mtu = 1380");
    let other_link = format!("{FORWARDER}\n[link]\nport = 51900\n");
    let preshared = GATEWAY.replace("allowed_ips", "preshared_key_file = \"psk\"\nallowed_ips");

    assert!(matches!(findings(GATEWAY, &unrelated).as_slice(), [Finding::NoEdge]));
    assert!(matches!(findings(&elsewhere, FORWARDER).as_slice(), [Finding::NoOrigin { .. }]));
    assert!(matches!(findings(GATEWAY, &other_port).as_slice(), [Finding::OtherPort { .. }]));
    assert!(matches!(findings(GATEWAY, &other_link).as_slice(), [Finding::OtherLinkPort { .. }]));
    assert!(matches!(findings(GATEWAY, &other_mtu).as_slice(), [Finding::OtherMtu { .. }]));
    assert!(matches!(findings(&preshared, FORWARDER).as_slice(), [Finding::PresharedOnOneSide { .. }]));
}

#[test]
fn clients_must_be_let_through_at_the_origin() {
    let only =
        |prefixes: &str| FORWARDER.replace("endpoint =", &format!("allowed_ips = [{prefixes}]\nendpoint ="));
    for enough in ["\"0.0.0.0/0\"", "\"0.0.0.0/1\", \"128.0.0.0/1\"", "\"10.77.88.1/32\", \"0.0.0.0/0\""] {
        assert_eq!(found(GATEWAY, &only(enough)), Vec::<String>::new(), "{enough}");
    }
    let narrow = only("\"10.77.88.1/32\", \"192.168.1.0/24\"");
    assert_eq!(
        found(GATEWAY, &narrow),
        [
            "publish \"https\" is for everyone, but allowed_ips of peer \"kyiv\" in forwarder.toml do not have that: the \
             forwarder drops their packets; add it"
        ]
    );

    let masqueraded = GATEWAY.replace("listen = \"443\"", "listen = \"443\"\nsource = \"masquerade\"");
    let plain = narrow.replace("proxy_protocol = \"v2\"", "");
    assert_eq!(found(&masqueraded, &plain), Vec::<String>::new());
    let listed = GATEWAY.replace("listen = \"443\"", "listen = \"443\"\nallow = [\"192.168.1.0/25\"]");
    assert_eq!(found(&listed, &narrow), Vec::<String>::new());
    let wider = listed.replace("192.168.1.0/25", "192.168.0.0/16");
    assert!(
        matches!(findings(&wider, &narrow).as_slice(), [Finding::SourcesNotAllowed { from, .. }] if from == "192.168.0.0/16")
    );
}

#[test]
fn an_upstream_in_the_tunnel_is_found_by_both_checks() {
    let itself = FORWARDER.replace("127.0.0.1:8443", "10.77.88.2:8443");

    assert!(matches!(findings(GATEWAY, &itself).as_slice(), [Finding::UpstreamInTunnel { .. }]));
    let warnings: Vec<String> = forwarder(&itself).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("upstream 10.77.88.2:8443") && warnings[0].contains("127.0.0.1"),
        "{warnings:?}"
    );
    assert!(forwarder(FORWARDER).warnings.is_empty());
    let behind = FORWARDER.replace("127.0.0.1:8443", "192.168.88.9:8443");
    assert!(forwarder(&behind).warnings.is_empty() && findings(GATEWAY, &behind).is_empty());
}

#[test]
fn single_addresses_at_both_ends_are_one_tunnel() {
    let (edge, origin) = (
        GATEWAY.replace("10.77.88.1/30", "10.77.88.1/32"),
        FORWARDER.replace("10.77.88.2/30", "10.77.88.2/32"),
    );

    assert_eq!(found(&edge, &origin), Vec::<String>::new());
    assert!(matches!(
        findings(&edge, &origin.replace("10.77.88.2/32", "10.77.99.2/32")).as_slice(),
        [Finding::NoEdge]
    ));
}

#[test]
fn the_forwarders_address_must_be_its_peers() {
    let elsewhere = gateway(&GATEWAY.replace("10.77.88.2/32", "10.77.88.6/32"));
    let forwarder = forwarder(FORWARDER);
    let keys = OwnKeys { gateway: None, forwarder: Some(elsewhere.peers[0].public_key) };

    let findings = pairing_with_keys(&elsewhere, &forwarder, &keys);
    assert!(matches!(findings.first(), Some(Finding::AddressNotAllowed { .. })), "{findings:?}");
}

#[test]
fn keys_are_compared_where_they_are_known() {
    let (gateway, forwarder) = (gateway(GATEWAY), forwarder(FORWARDER));
    let right = OwnKeys {
        gateway: Some(forwarder.peers[0].public_key),
        forwarder: Some(gateway.peers[0].public_key),
    };
    let swapped = OwnKeys { gateway: right.forwarder, forwarder: right.gateway };

    assert_eq!(pairing_with_keys(&gateway, &forwarder, &right), []);
    assert!(matches!(
        pairing_with_keys(&gateway, &forwarder, &swapped).as_slice(),
        [Finding::WrongKey { file: "forwarder.toml", .. }, Finding::WrongKey { file: "gateway.toml", .. }]
    ));
}

#[test]
fn a_requested_port_that_the_edge_does_not_grant_is_found_with_its_fix() {
    let request = |port: &str| {
        format!("{FORWARDER}[[service]]\nname = \"web\"\nupstream = \"127.0.0.1:*\"\npublish = {port}\n")
    };
    let may = GATEWAY.replace("allowed_ips", "may_publish = [\"80\", \"5000-5010\"]\nallowed_ips");
    for fits in ["80", "\"5000-5010\""] {
        assert_eq!(found(&may, &request(fits)), Vec::<String>::new(), "{fits}");
    }
    assert_eq!(
        found(&may, &request("[80, \"80/udp\"]")),
        [
            "service \"web\" requests the public port 80/udp, which may_publish of peer \"wroclaw\" in gateway.toml does not \
             have: the edge refuses it; add \"80/udp\""
        ]
    );
    let listed = found(&may, &request("{ ports = 80, from = [\"@cloudflare\"] }"));
    assert!(listed.len() == 1 && listed[0].contains("[[list]]"), "{listed:?}");
}

const GATEWAY: &str = r#"
[interface]
address = ["10.77.88.1/30"]
private_key_file = "kyiv.key"
[wan]
interface = "eth0"
[lan]
prefixes = ["192.168.1.0/24"]
[[peer]]
name = "wroclaw"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]
[[publish]]
name = "https"
listen = "443"
target = "192.168.88.2:443"
[[allow]]
name = "nfs"
from = ["peer:wroclaw"]
to = ["192.168.1.2"]
ports = ["2049"]
[[allow]]
name = "push"
from = ["self"]
to = ["192.168.88.2"]
ports = ["8428"]
"#;

const FORWARDER: &str = r#"
[interface]
address = ["10.77.88.2/30"]
private_key_file = "wroclaw.key"
mtu = 1420
[[peer]]
name = "kyiv"
public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
endpoint = "kyiv.example.com:51820"
[[service]]
name = "https"
match = "192.168.88.2:443"
upstream = "127.0.0.1:8443"
proxy_protocol = "v2"
[[service]]
name = "push"
match = "192.168.88.2:8428"
upstream = "127.0.0.1:8428"
[[reach]]
name = "nfs"
listen = "127.0.0.1:2049"
target = "192.168.1.2:2049"
"#;

fn found(gateway_text: &str, forwarder_text: &str) -> Vec<String> {
    findings(gateway_text, forwarder_text).iter().map(ToString::to_string).collect()
}

fn findings(gateway_text: &str, forwarder_text: &str) -> Vec<Finding> {
    pairing(&gateway(gateway_text), &forwarder(forwarder_text))
}

fn gateway(text: &str) -> gateway::Policy {
    gateway::parse(&Source { name: Path::new("gateway.toml"), text })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    forwarder::parse(&Source { name: Path::new("forwarder.toml"), text })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

//! Files after the shape of real ones, each with what becomes of it; their mutations, and packets.

mod both;
mod mutation;
mod narrow;
mod packets;
mod table;

use std::path::{Path, PathBuf};

use super::{Role, WgQuickOptions, wg_quick};
use crate::import::{FindingKind, Import, ImportError};
use policy::{PublicKey, Source, forwarder, gateway};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wg-quick")
}

/// The names and texts of all files.
fn files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn import(name: &str, text: &str) -> Result<Import, ImportError> {
    import_as(name, text, &WgQuickOptions::default())
}

fn import_as(name: &str, text: &str, options: &WgQuickOptions) -> Result<Import, ImportError> {
    wg_quick(&Source { name: Path::new(name), text }, options, &|_| PublicKey::new([7; 32]))
}

/// The edge's configuration, with its lists.
fn gateway(import: &Import) -> gateway::Policy {
    let source = Source { name: Path::new("gateway.toml"), text: &import.gateway };
    let mut policy = gateway::parse(&source).unwrap();
    for list in &mut policy.lists {
        let file = import.lists.iter().find(|file| file.name.contains(list.name.as_str())).unwrap();
        list.load(&Source { name: Path::new(&file.name), text: &file.text }).unwrap();
    }
    policy
}

fn forwarder(import: &Import) -> forwarder::Policy {
    let source = Source { name: Path::new("forwarder.toml"), text: &import.forwarder };
    forwarder::parse(&source).unwrap()
}

fn edge(hooks: &str) -> String {
    format!(
        "[Interface]\nAddress = 10.77.88.1/24\nListenPort = 51820\n{hooks}\n[Peer]\n\
         PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 10.77.88.2/32\n"
    )
}

const WEB: &str = "PostUp = iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 443 -j DNAT --to-destination 10.77.88.2:443\n";

#[test]
fn signs_that_disagree_are_asked_about_and_the_answer_decides() {
    let (_, text) = files().into_iter().find(|(name, _)| name == "either-end.conf").unwrap();
    let refused = import("either-end.conf", &text).err().unwrap();
    assert!(matches!(&refused, ImportError::UnknownRole { .. }), "{refused}");
    assert!(refused.to_string().contains("--role edge or --role origin"), "{refused}");

    for (role, port) in [(Role::Edge, 51_820), (Role::Origin, 51_820)] {
        let options = WgQuickOptions { role: Some(role), ..WgQuickOptions::default() };
        let import = import_as("either-end.conf", &text, &options).unwrap();
        assert_eq!(gateway(&import).interface.listen_port, port);
        let own = if role == Role::Edge {
            gateway(&import).interface.address
        } else {
            forwarder(&import).interface.address
        };
        assert_eq!(own, ["10.77.88.2/24".parse().unwrap()]);
    }
}

#[test]
fn the_endpoint_that_was_saved_never_makes_an_origin() {
    for saved in ["SaveConfig = true\n", ""] {
        let text = edge(&format!("{saved}{WEB}")) + "Endpoint = 198.51.100.7:40213\n";
        let import = import("wg0.conf", &text).unwrap();

        let policy = gateway(&import);
        assert_eq!((policy.interface.listen_port, policy.publish.len()), (51_820, 1));
        assert_eq!(policy.peers[0].endpoint.is_none(), !saved.is_empty());
        assert!(!import.forwarder.contains("198.51.100.7"));
        let said =
            import.findings.iter().any(|finding| finding.text.starts_with("this is the edge's file, since"));
        assert!(said, "the signs of the role are not reported");
    }
}

#[test]
fn the_link_gets_a_port_that_nothing_imported_has() {
    let dnat = |ports: &str, protocol: &str| {
        format!(
            "PostUp = iptables -t nat -A PREROUTING -i eth0 -p {protocol} --dport {ports} -j DNAT --to-destination 10.77.88.2\n"
        )
    };
    let port = |text: &str| {
        let import = import("wg0.conf", text).unwrap();
        let ports = (gateway(&import).link.port, forwarder(&import).link.port);
        assert_eq!(ports.0, ports.1, "both ends have one port");
        assert_eq!(import.gateway.contains("[link]"), ports.0 != 51_899);
        ports.0
    };
    assert_eq!(port(&edge(WEB)), 51_899);
    assert_eq!(port(&edge(&dnat("51899", "udp"))), 51_899);
    assert_eq!(port(&edge(&dnat("51899", "tcp"))), 49_152);
    assert_eq!(port(&edge(&dnat("49000:52000", "tcp"))), 52_001);
    assert_eq!(port(&edge("").replace("ListenPort = 51820", "ListenPort = 51899")), 49_152);
}

#[test]
fn one_interface_of_several_is_the_way_in_only_when_it_is_stated() {
    let text = edge(&format!("{WEB}PostUp = iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE\n"));
    assert_eq!(gateway(&import("wg0.conf", &text).unwrap()).publish.len(), 0);

    let options = WgQuickOptions { wan: Some("eth0".to_owned()), ..WgQuickOptions::default() };
    let policy = gateway(&import_as("wg0.conf", &text, &options).unwrap());
    assert_eq!((policy.publish.len(), policy.wan.interfaces[0].as_str()), (1, "eth0"));
    assert!(policy.publish[0].wan_only);
}

#[test]
fn names_are_given_or_come_with_the_sign_they_were_taken_from() {
    let (_, text) = files().into_iter().find(|(name, _)| name == "several-peers.conf").unwrap();
    let names = vec!["one".to_owned(), "two".to_owned(), "three".to_owned()];
    let options = WgQuickOptions { names, ..WgQuickOptions::default() };
    let import = import_as("wg0.conf", &text, &options).unwrap();
    let given: Vec<String> = gateway(&import).peers.iter().map(|peer| peer.name.to_string()).collect();
    assert_eq!(given, ["one", "two", "three"]);
    assert!(!import.findings.iter().any(|finding| finding.text.contains("--name")));

    let two = text
        .replace("# friendly_name = Lviv", "# Odesa")
        .replace("[Peer]\n# Odesa", "# Lviv\n[Peer]\n# Odesa");
    let findings = self::import("wg0.conf", &two).unwrap().findings;
    let unsure = findings.iter().find(|finding| finding.text.contains("\"lviv\" and \"odesa\"")).unwrap();
    assert_eq!(unsure.kind, FindingKind::Assumed);
}

#[test]
fn what_only_private_addresses_may_use_is_not_published() {
    for source in ["10.77.88.0/24", "192.168.1.0/24", "100.64.0.0/10", "10.0.0.0/8,172.16.0.0/12"] {
        let rule = WEB.replace("-i eth0", &format!("-i eth0 -s {source}"));
        let import = import("wg0.conf", &edge(&rule)).unwrap();
        assert!(gateway(&import).publish.is_empty(), "{source}");
        assert!(
            import.findings.iter().any(|finding| finding.text.contains("only private addresses")),
            "{source}"
        );
    }
}

#[test]
fn a_rule_in_the_chain_that_docker_calls_first_decides_before_others() {
    let hooks = format!("{WEB}PostUp = iptables -I DOCKER-USER -i eth0 ! -s 203.0.113.0/24 -j DROP\n");
    let import = import("wg0.conf", &edge(&hooks)).unwrap();

    assert!(import.gateway.contains("allow = [\"203.0.113.0/24\"]"), "{}", import.gateway);
    let sign = import.findings.iter().find(|finding| finding.text.contains("\"DOCKER-USER\"")).unwrap();
    assert_eq!(sign.kind, FindingKind::Assumed);

    let unknown = hooks.replace("DOCKER-USER", "SOMEWHERE");
    let findings = self::import("wg0.conf", &edge(&unknown)).unwrap().findings;
    let said = |finding: &crate::import::Finding| finding.text.contains("where this chain is called from");
    assert!(findings.iter().any(|finding| finding.kind == FindingKind::NoCounterpart && said(finding)));
}

#[test]
fn an_origin_without_a_single_address_has_the_one_that_ports_lead_to() {
    let text =
        edge(&WEB.replace("10.77.88.2:443", "10.77.88.7:443")).replace("10.77.88.2/32", "10.77.88.0/24");
    let import = import("wg0.conf", &text).unwrap();

    let far = forwarder(&import);
    assert_eq!(far.interface.address, ["10.77.88.7/24".parse().unwrap()]);
    assert_eq!(far.services[0].upstreams[0].to_string(), "127.0.0.1:443");
    assert!(
        import.findings.iter().any(|finding| finding.text.contains("address 10.77.88.7 in forwarder.toml"))
    );
}

#[test]
fn the_other_ends_address_is_guessed_aloud() {
    for (own, other) in [
        ("10.77.88.2/32", "10.77.88.1/32"),
        ("10.77.88.7/24", "10.77.88.1/24"),
        ("fd00:77::1/64", "fd00:77::2/64"),
    ] {
        let text = format!(
            "[Interface]\nAddress = {own}\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
             AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = vpn.example.com:51820\n"
        );
        let import = import("wg0.conf", &text).unwrap();

        assert_eq!(gateway(&import).interface.address, [other.parse().unwrap()]);
        let address = other.split('/').next().unwrap();
        let said = format!("[interface] address {address} in gateway.toml");
        assert!(import.findings.iter().any(|finding| finding.text.starts_with(&said)), "{said}");
    }
}

#[test]
fn a_prefix_that_two_peers_have_is_the_last_ones() {
    let text = edge(WEB)
        + "[Peer]\nPublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\nAllowedIPs = 10.77.88.2/32\n";
    let import = import("wg0.conf", &text).unwrap();

    let policy = gateway(&import);
    assert_eq!(policy.peers.len(), 1);
    assert_eq!(policy.peers[0].public_key.to_string(), "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=");
}

#[test]
fn a_value_that_is_malformed_is_named_by_line_and_column() {
    let text = edge(WEB).replace("AllowedIPs = ", "AllowedIPs = fd00::1/300, ");
    let findings = import("wg0.conf", &text).unwrap().findings;
    let wrong = findings.iter().find(|finding| finding.text.contains("fd00::1/300")).unwrap();
    assert_eq!(
        wrong.to_string(),
        "wg0.conf:8:14: no counterpart: `fd00::1/300` is no address or prefix: it is left out"
    );

    let text = edge(WEB).replace("AllowedIPs = 10.77.88.2/32", "AllowedIPs = 10.77.88.2/32, 224.0.0.0/4");
    if let Err(refused) = import("wg0.conf", &text) {
        assert!(refused.to_string().starts_with("wg0.conf:8: "), "{refused}");
    }
}

#[test]
fn a_contradiction_names_the_line_of_the_file_that_was_read() {
    let text = edge(WEB).replace("10.77.88.1/24", "10.77.88.0/24");
    let refused = import("wg0.conf", &text).err().unwrap();

    assert!(refused.to_string().starts_with("wg0.conf:2: "), "{refused}");
    assert!(!refused.to_string().contains("gateway.toml"), "{refused}");
}

#[test]
fn a_large_file_of_rules_is_decided_in_bounded_time() {
    let rule = |port: u32| {
        format!(
            "PostUp = iptables -t nat -A PREROUTING -s 203.0.{}.0/24 -p tcp --dport {} -j DNAT --to-destination 10.77.88.2\n",
            port % 250,
            port + 1_000
        )
    };
    let few: String = (0..30).map(rule).collect();
    assert_eq!(gateway(&import("wg0.conf", &edge(&few)).unwrap()).publish.len(), 30);

    let many: String = (0..20_000).map(rule).collect();
    let import = import("wg0.conf", &edge(&many)).unwrap();
    assert!(gateway(&import).publish.is_empty());
    assert!(import.findings.iter().any(|finding| finding.text.contains("import it in parts")));
}

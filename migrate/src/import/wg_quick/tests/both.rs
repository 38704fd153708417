//! The edge's file and the origin's together: what passes both is carried, with the origin's own
//! upstreams.

use std::path::Path;

use super::super::{WgQuickOptions, wg_quick_both};
use super::{WEB, edge, forwarder, gateway};
use crate::import::{Import, ImportError};
use policy::{PublicKey, Source};

/// The private key of the edge, and its public key by the stand-in below.
const EDGE_KEY: &str = "8GboYh0YF3q/hJhoPFoL3HM/ObgOuC8YI6UXWsgWL2M=";

fn derived(private: &str) -> Option<PublicKey> {
    match private {
        EDGE_KEY => PublicKey::new([7; 32]),
        // The origin's, which `edge` has as its peer.
        _ => "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".parse().ok(),
    }
}

fn origin(hooks: &str) -> String {
    let key = PublicKey::new([7; 32]).unwrap();
    format!(
        "[Interface]\nAddress = 10.77.88.2/24\nPrivateKey = MPN4MTXZpFTBZzLqLlJhBHKEpIGwgpKbhZtPtBBCtlQ=\n{hooks}\n\
         [Peer]\n# kyiv\nPublicKey = {key}\nEndpoint = kyiv.example.com:51820\nAllowedIPs = 0.0.0.0/0\n\
         PersistentKeepalive = 25\n"
    )
}

fn import_both(edge: &str, origin: &str) -> Result<Import, ImportError> {
    let edge = edge.replace("ListenPort", &format!("PrivateKey = {EDGE_KEY}\nListenPort"));
    let edge = Source { name: Path::new("edge/wg0.conf"), text: &edge };
    let origin = Source { name: Path::new("origin/wg0.conf"), text: origin };
    wg_quick_both(&edge, &origin, &WgQuickOptions::default(), &derived)
}

fn both(edge_hooks: &str, origin_hooks: &str) -> Import {
    import_both(&edge(edge_hooks), &origin(origin_hooks)).unwrap_or_else(|error| panic!("{error}"))
}

fn said(import: &Import) -> String {
    import.findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// Pairs of files, by the name that they share.
pub(super) fn pairs() -> Vec<(String, [String; 2])> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wg-quick-both");
    let names =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix("-edge.conf").map(str::to_owned)).collect();
    names.sort();
    let text =
        |name: &str, end: &str| std::fs::read_to_string(folder.join(format!("{name}-{end}.conf"))).unwrap();
    names.into_iter().map(|name| (name.clone(), [text(&name, "edge"), text(&name, "origin")])).collect()
}

/// Both files, with no word about their keys.
pub(super) fn import_pair([edge, origin]: &[String; 2]) -> Result<Import, ImportError> {
    let edge = Source { name: Path::new("edge/wg0.conf"), text: edge };
    let origin = Source { name: Path::new("origin/wg0.conf"), text: origin };
    wg_quick_both(&edge, &origin, &WgQuickOptions::default(), &|_| None)
}

#[test]
fn pairs_of_files_become_what_passes_both() {
    let expected = [
        ("lan-servers", vec!["10.77.88.2 443 to 192.168.88.10:8443", "10.77.88.2 25 to 127.0.0.1:10025"], ""),
        (
            "narrow-allowed",
            vec![
                "10.77.88.2 27019-27020 to 127.0.0.1:27019",
                "10.77.88.2 27015-27018 to 192.168.88.30:27015",
            ],
            "AllowedIPs in",
        ),
        (
            "origin-filters",
            vec!["10.77.88.2 443 to 127.0.0.1:443", "192.168.88.20 80 to 192.168.88.20:80"],
            "",
        ),
    ];
    let known = pairs();
    assert_eq!(known.len(), expected.len());
    for ((name, texts), (expected, services, why)) in known.iter().zip(expected) {
        let import = import_pair(texts).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(name, expected);
        assert_eq!(carried(&import), services, "{name}\n{}", said(&import));
        assert!(said(&import).contains(why), "{name}\n{}", said(&import));
        for (end, text) in ["edge", "origin"].iter().zip(texts) {
            for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.starts_with("PostUp")) {
                let at = Some((format!("{end}/wg0.conf"), number));
                assert!(import.findings.iter().any(|finding| finding.at == at), "{name} {end}: {line}");
            }
        }
    }
}

/// Each service as one line, and who may use what is published.
fn carried(import: &Import) -> Vec<String> {
    assert_eq!(policy::pairing::pairing(&gateway(import), &forwarder(import)), []);
    let far = forwarder(import);
    let lines = far.services.iter().map(|service| {
        let upstream = service.upstreams.first().map(ToString::to_string).unwrap_or_default();
        format!("{} {} to {upstream}", service.addresses[0].ip(), service.ports)
    });
    lines.collect()
}

const LAN_WEB: &str =
    "PostUp = iptables -t nat -A PREROUTING -i %i -p tcp --dport 443 -j DNAT --to 192.168.88.10:8443\n";

#[test]
fn a_dnat_of_the_origin_is_the_upstream_of_the_service() {
    let import = both(WEB, LAN_WEB);

    assert_eq!(carried(&import), ["10.77.88.2 443 to 192.168.88.10:8443"]);
    assert!(said(&import).contains("origin/wg0.conf:4: carried: "), "{}", said(&import));
    let keys: Vec<&str> = import.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(keys, ["wg0-edge.key", "wg0-origin.key"]);
    let far = forwarder(&import);
    assert_eq!(far.peers[0].endpoint.to_string(), "kyiv.example.com:51820");
    assert!(
        !said(&import).contains(": missing:") && !said(&import).starts_with("missing:"),
        "{}",
        said(&import)
    );
}

#[test]
fn the_ways_to_lead_a_port_on_at_the_origin_are_read() {
    for (hook, to) in [
        (LAN_WEB.replace("--to ", "--to-destination "), "192.168.88.10:8443"),
        (LAN_WEB.replace("-i %i ", ""), "192.168.88.10:8443"),
        (LAN_WEB.replace("-i %i ", "-d 10.77.88.2 "), "192.168.88.10:8443"),
        (LAN_WEB.replace(":8443", ""), "192.168.88.10:443"),
        (LAN_WEB.replace("DNAT --to 192.168.88.10:8443", "REDIRECT --to-ports 8443"), "127.0.0.1:8443"),
        (
            format!("PostUp = sysctl -w net.ipv4.conf.%i.route_localnet=1\n{LAN_WEB}")
                .replace("192.168.88.10", "127.0.0.1"),
            "127.0.0.1:8443",
        ),
        (
            "PostUp = nft 'table ip n { chain p { type nat hook prerouting priority -100; iifname \"%i\" tcp dport 443 dnat to \
             192.168.88.10:8443; } }'\n"
                .to_owned(),
            "192.168.88.10:8443",
        ),
        (LAN_WEB.replace("-i %i", "-i eth0"), "127.0.0.1:443"),
        (String::new(), "127.0.0.1:443"),
    ] {
        assert_eq!(carried(&both(WEB, &hook)), [format!("10.77.88.2 443 to {to}")], "{hook}");
    }
}

#[test]
fn what_the_origin_refuses_is_not_published() {
    for (hooks, why) in [
        ("PostUp = iptables -A INPUT -i %i -p tcp --dport 443 -j DROP\n", "line 4 of origin/wg0.conf"),
        ("PostUp = iptables -P INPUT DROP\n", "nothing in origin/wg0.conf lets"),
        ("PostUp = iptables -A OUTPUT -o %i -p tcp --sport 443 -j DROP\n", "line 4 of origin/wg0.conf"),
        ("PostUp = iptables -t raw -A PREROUTING -i %i -j DROP\n", "line 4 of origin/wg0.conf"),
        (
            "PostUp = iptables -A INPUT -i %i -m geoip --src-cc UA -j DROP\n",
            "line 4 of origin/wg0.conf, which is not read",
        ),
    ] {
        let import = both(WEB, hooks);
        assert!(gateway(&import).publish.is_empty(), "{hooks}");
        assert!(said(&import).contains(why), "{hooks}{}", said(&import));
    }
    for hooks in [
        format!("{LAN_WEB}PostUp = iptables -P FORWARD DROP\n"),
        format!("{LAN_WEB}PostUp = iptables -A FORWARD -o %i -s 192.168.88.10 -j DROP\n"),
        format!("{LAN_WEB}PostUp = sysctl -w net.ipv4.ip_forward=0\n"),
        LAN_WEB.replace("192.168.88.10", "127.0.0.1"),
    ] {
        let import = both(WEB, &hooks);
        assert!(gateway(&import).publish.is_empty(), "{hooks}");
        let lost = import
            .findings
            .iter()
            .any(|finding| finding.to_string().starts_with("edge/wg0.conf:5: no counterpart"));
        assert!(lost, "{hooks}{}", said(&import));
    }
}

#[test]
fn sources_that_the_origin_keeps_out_are_kept_out_at_both_ends() {
    let import = both(WEB, "PostUp = iptables -A INPUT -i %i ! -s 203.0.113.0/24 -j DROP\n");
    assert!(import.gateway.contains("allow = [\"203.0.113.0/24\"]"), "{}", import.gateway);
    assert!(import.forwarder.contains("allow = [\"203.0.113.0/24\"]"), "{}", import.forwarder);

    let narrow = origin("").replace("AllowedIPs = 0.0.0.0/0", "AllowedIPs = 10.77.88.1/32, 203.0.113.0/24");
    let import = import_both(&edge(WEB), &narrow).unwrap();
    assert!(import.gateway.contains("allow = [\"203.0.113.0/24\"]"), "{}", import.gateway);

    let own = narrow.replace(", 203.0.113.0/24", "");
    let import = import_both(&edge(WEB), &own).unwrap();
    assert!(gateway(&import).publish.is_empty());
    assert!(said(&import).contains("AllowedIPs in origin/wg0.conf"), "{}", said(&import));
    let hidden = edge(&format!("{WEB}PostUp = iptables -t nat -A POSTROUTING -o %i -j MASQUERADE\n"));
    let import = import_both(&hidden, &own).unwrap();
    assert!(import.gateway.contains("source = \"masquerade\""), "{}", import.gateway);
}

#[test]
fn an_address_that_may_be_the_origins_own_or_not_is_right_for_both() {
    let web = WEB.replace("10.77.88.2", "192.168.88.2");
    let with = |hooks: &str| {
        let edge =
            edge(&web).replace("AllowedIPs = 10.77.88.2/32", "AllowedIPs = 10.77.88.2/32, 192.168.88.0/24");
        import_both(&edge, &origin(hooks)).unwrap()
    };
    assert_eq!(carried(&with("")), ["192.168.88.2 443 to 192.168.88.2:443"]);
    let import = with("PostUp = iptables -P INPUT DROP\n");
    assert!(gateway(&import).publish.is_empty());
    assert!(said(&import).contains("does not say which its target is"), "{}", said(&import));
}

#[test]
fn files_that_are_no_tunnel_and_files_in_the_wrong_order_are_refused() {
    let swapped = import_both(&origin(""), &edge(WEB)).err().unwrap();
    assert!(swapped.to_string().contains("give the edge's file first"), "{swapped}");

    let other_key = edge(WEB).replace(
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
    );
    let import = import_both(&other_key, &origin("")).unwrap();
    assert!(said(&import).contains("PublicKey is not that of its PrivateKey"), "{}", said(&import));

    let strange = other_key.replace("10.77.88.2/32", "10.99.0.2/32");
    let refused = import_both(&strange, &origin("")).err().unwrap();
    assert!(refused.to_string().contains("which [Peer] is origin/wg0.conf is not known"), "{refused}");
}

#[test]
fn services_of_another_peer_keep_their_own_origin() {
    let more = format!(
        "{WEB}{}",
        WEB.replace("10.77.88.2:443", "10.77.88.3:25").replace("--dport 443", "--dport 25")
    );
    let text = edge(&more)
        + "[Peer]\nPublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\nAllowedIPs = 10.77.88.3/32\n";
    let import = import_both(&text, &origin(LAN_WEB)).unwrap();

    assert_eq!(gateway(&import).publish.len(), 2);
    assert_eq!(forwarder(&import).services.len(), 1);
    assert!(said(&import).contains("forwarder.toml of \"origin-2\""), "{}", said(&import));
}

//! What a `[[service]]` with `publish` takes, requests and is known by.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use policy::forwarder::{Policy, Service, parse};
use policy::{AllowList, Protocols, Source};

#[test]
fn three_keys_are_enough_the_rest_follows_from_what_is_published() {
    let service = one("publish = [443]");
    assert_eq!(service.matched(), "10.77.88.2/32, fd77:88::2/128:443");
    assert_eq!(service.protocols, Protocols::Tcp);
    assert_eq!(requested(&service), ["443"]);
    assert_eq!(service.publish.unwrap().from, AllowList::Any);
    assert!(service.health.is_some());
}

#[test]
fn ports_are_written_as_numbers_texts_ranges_lists_or_in_a_table() {
    for (written, matched, expected) in [
        ("443", 443, vec!["443"]),
        ("\"443\"", 443, vec!["443"]),
        ("\"443/udp\"", 443, vec!["443/udp"]),
        ("[443, \"443/udp\"]", 443, vec!["443", "443/udp"]),
        ("\"5000-5010\"", 5000, vec!["5000-5010"]),
        ("{ ports = [443], from = [\"@cloudflare\", \"203.0.113.0/24\"] }", 443, vec!["443"]),
    ] {
        let service = one(&format!("publish = {written}"));
        assert_eq!(requested(&service), expected, "{written}");
        assert_eq!(service.ports.first(), matched, "{written}");
    }
}

#[test]
fn a_port_without_a_protocol_has_those_of_the_service() {
    assert_eq!(requested(&one("protocol = \"udp\"\npublish = 27015")), ["27015/udp"]);
    assert_eq!(requested(&one("protocol = [\"tcp\", \"udp\"]\npublish = 443")), ["443", "443/udp"]);
    assert_eq!(one("publish = \"27015/udp\"").protocols, Protocols::Udp);
}

#[test]
fn with_a_match_other_public_ports_may_lead_to_it() {
    let service = one("match = \"192.168.88.2:8443\"\npublish = [443, 8443]");
    assert_eq!(requested(&service), ["443", "8443"]);
    assert_eq!(service.matched(), "192.168.88.2/32:8443");
    assert_eq!(targets(&service), ["192.168.88.2"]);
}

#[test]
fn what_is_published_goes_to_the_own_addresses_that_the_match_has() {
    assert_eq!(targets(&one("publish = 443")), ["10.77.88.2", "fd77:88::2"]);
    assert_eq!(targets(&one("match = \"*:443\"\npublish = 443")), ["10.77.88.2", "fd77:88::2"]);
    assert_eq!(targets(&one("match = \"10.77.88.0/24:443\"\npublish = 443")), ["10.77.88.2"]);
}

#[test]
fn names_are_kept_in_lower_case() {
    let service = one("publish = 443\nnames = [\"Emby.Example.com\", \"photos.example.com.\"]");
    let names: Vec<&str> = service.names.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["emby.example.com", "photos.example.com"]);
}

#[test]
fn a_flow_survives_a_change_of_what_is_published_and_named() {
    let before = one("publish = 443");
    assert!(!before.is_alike(&one("match = \"10.77.88.2:443\"\npublish = 443")));
    assert!(before.is_alike(&one("publish = 443\nnames = [\"emby.example.com\"]")));
}

#[test]
fn every_mistake_is_named_where_it_is_written() {
    for (written, expected) in [
        ("publish = [80, 443]", "write a [[service]] for each port"),
        ("publish = [443, 443]", "each port once"),
        ("publish = \"443/sctp\"", "a port or a range"),
        ("publish = 0", "a port or a range"),
        ("protocol = \"tcp\"\npublish = \"443/udp\"", "a protocol that `protocol` has"),
        ("match = \"192.168.88.2:8443\"\npublish = \"5000-5010\"", "as many ports as `match` has"),
        (
            "match = \"192.168.88.0/24:443\"\npublish = 443",
            "an own address in the tunnel, or a single address",
        ),
        ("publish = { port = 443 }", "port"),
        ("publish = { ports = 443, from = [\"@\"] }", "the name of a list"),
        ("publish = 443\nnames = [\"*.example.com\"]", "a host name"),
        ("publish = 443\nnames = [\"a.example.com\", \"A.example.com\"]", "each name once"),
        ("publish = \"443/udp\"\nnames = [\"a.example.com\"]", "over TCP alone"),
        ("proxy_protocol = \"v2\"\npublish = \"443/udp\"", "TCP"),
        ("names = [\"a.example.com\"]", "no `match`"),
    ] {
        let errors = read(written).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(expected)), "{written}: {errors:#?}");
    }
}

#[test]
fn names_beyond_those_that_are_watched_are_warned_about() {
    let entry = |number: usize, names: usize| {
        let names: Vec<_> = (0..names).map(|name| format!("\"n{name}.s{number}.example.com\"")).collect();
        let (port, names) = (1000 + number, names.join(", "));
        format!(
            "[[service]]\nname = \"s{number}\"\nupstream = \"127.0.0.1:*\"\npublish = {port}\nnames = [{names}]\n"
        )
    };
    let warnings = |names: &[usize]| {
        let entries: String = names.iter().enumerate().map(|(at, names)| entry(at, *names)).collect();
        let warnings = policy(&format!("publish = 443\n{entries}")).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&[64; 4]), [""; 0]);
    let one_more = warnings(&[1, 64, 64, 64, 64]);
    assert!(matches!(one_more.as_slice(), [one] if one.contains("257 names; 256 at most")), "{one_more:?}");
}

fn requested(service: &Service) -> Vec<String> {
    service.publish.as_ref().unwrap().ports.iter().map(ToString::to_string).collect()
}

fn targets(service: &Service) -> Vec<String> {
    let own = ["10.77.88.2/24".parse().unwrap(), "fd77:88::2/64".parse().unwrap()];
    service.publish_targets(&own).iter().map(ToString::to_string).collect()
}

fn one(entry: &str) -> Service {
    read(entry).unwrap_or_else(|errors| panic!("{errors:#?}")).remove(0)
}

fn read(entry: &str) -> Result<Vec<Service>, Vec<String>> {
    policy(entry).map(|policy| policy.services)
}

fn policy(entry: &str) -> Result<Policy, Vec<String>> {
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/24\", \"fd77:88::2/64\"]\nprivate_key_file = \"k\"\n[[peer]]\n\
         name = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
         endpoint = \"192.0.2.2:51820\"\n\
         [[service]]\nname = \"web\"\nupstream = \"127.0.0.1:*\"\n{entry}\n"
    );
    let policy = parse(&Source { name: Path::new("forwarder.toml"), text: &text });
    policy.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

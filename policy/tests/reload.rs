//! A reload takes and names every change in a file, or names it as one that needs a restart.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

use policy::plan::Change;
use policy::{Source, forwarder, gateway};

/// Section, key and another value, for every key of the annotated gateway.toml.
const GATEWAY: [(&str, &str, &str); 74] = [
    ("interface", "name", "\"gw1\""),
    ("interface", "address", "[\"10.77.88.1/29\"]"),
    ("interface", "listen_port", "51821"),
    ("interface", "private_key_file", "\"other.key\""),
    ("interface", "mtu", "1400"),
    ("wan", "name", "\"kyiv2.example.com\""),
    ("wan", "interface", "\"eth1\""),
    ("wan", "accept", "[\"tcp/2222\"]"),
    ("lan", "prefixes", "[\"192.168.1.0/24\", \"192.168.2.0/24\"]"),
    ("lan", "interfaces", "[\"eth9\"]"),
    ("peer", "name", "\"wroclaw2\""),
    ("peer", "public_key", "\"CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\""),
    ("peer", "preshared_key_file", "\"other.psk\""),
    ("peer", "allowed_ips", "[\"10.77.88.2/32\", \"192.168.88.0/24\", \"192.168.89.0/24\"]"),
    ("peer", "endpoint", "\"192.0.2.9:51820\""),
    ("peer", "keepalive", "\"25s\""),
    ("peer", "may_publish", "[\"444\"]"),
    ("peer", "probe", "\"off\""),
    ("publish", "name", "\"web\""),
    ("publish", "protocol", "[\"tcp\", \"udp\"]"),
    ("publish", "listen", "\"444\""),
    ("publish", "target", "\"192.168.88.3:443\""),
    ("publish", "source", "\"masquerade\""),
    ("publish", "allow", "[\"192.0.2.0/24\"]"),
    ("publish", "limits", "{ flows_per_source = 100 }"),
    ("list", "name", "\"friends\""),
    ("list", "file", "\"friends.list\""),
    ("list", "url", "\"https://example.com/list\""),
    ("allow", "name", "\"nfs4\""),
    ("allow", "from", "[\"peer:wroclaw\"] # as before"),
    ("allow", "to", "[\"192.168.1.3\"]"),
    ("allow", "protocol", "[\"udp\"]"),
    ("allow", "ports", "[\"2048\"]"),
    ("allow", "source", "\"preserve\""),
    ("dns", "name", "[\"kyiv.example.com\", \"edge.example.com\"]"),
    ("dns", "zone", "\"com\""),
    ("dns", "server", "\"ns2.example.com\""),
    ("dns", "provider", "\"cloudflare\""),
    ("dns", "key_file", "\"other.tsig\""),
    ("dns", "address", "\"203.0.113.9\""),
    ("dns", "interval", "\"1m\""),
    ("metrics", "listen", "[\"127.0.0.1:9587\"]"),
    ("metrics", "hosts", "[\"edge.lan\"]"),
    ("page", "listen", "[\"lan\"]"),
    ("page", "hosts", "[\"edge.lan\"]"),
    ("control", "socket", "\"/run/gateway.sock\""),
    ("control", "group", "\"adm\""),
    ("link", "port", "51900"),
    ("standby", "address", "\"192.0.2.9\""),
    ("standby", "other", "\"10.9.9.3\""),
    ("state", "directory", "\"/var/lib/other\""),
    ("log", "level", "\"debug\""),
    ("log", "format", "\"json\""),
    ("reload", "watch", "true"),
    ("containers", "interfaces", "[\"docker0\"]"),
    ("offload", "tun_gso", "\"off\""),
    ("offload", "tun_gro", "\"off\""),
    ("offload", "udp_gso", "\"off\""),
    ("offload", "udp_gro", "\"off\""),
    ("offload", "busy_poll", "\"off\""),
    ("kernel", "fwmark", "0x4358"),
    ("kernel", "ct_mark", "0x43580000"),
    ("kernel", "route_table", "4358"),
    ("kernel", "rule_priority", "4360"),
    ("kernel", "route_protocol", "158"),
    // Keys for which several values are tried.
    ("interface", "mtu", "\"auto\""),
    ("publish", "target", "\"192.168.88.2:444\""),
    ("peer", "probe", "\"192.168.88.9\""),
    ("log", "level", "\"warn\""),
    ("kernel", "fwmark", "1"),
    ("metrics", "listen", "\"127.0.0.1:9588\""),
    ("page", "listen", "[\"lan:9600\", \"192.168.1.2:9590\"]"),
    ("publish", "limits", "{ bandwidth = \"1mbit\" }"),
    ("dns", "address", "\"dns://resolver1.example.com/myip.example.com\""),
];

/// The keys of `[[notify]]`, which both have.
const NOTIFY: [(&str, &str, &str); 11] = [
    ("notify", "name", "\"tablet\""),
    ("notify", "kind", "\"ntfy\" # as before"),
    ("notify", "url", "\"https://ntfy.sh/OTHER\""),
    ("notify", "priority", "\"max\""),
    ("notify", "token_file", "\"other.token\""),
    ("notify", "server", "\"mail2.example.com:587\""),
    ("notify", "tls", "\"tls\""),
    ("notify", "user", "\"me\""),
    ("notify", "password_file", "\"other.password\""),
    ("notify", "from", "\"me@example.com\""),
    ("notify", "to", "[\"them@example.com\"]"),
];

/// The same for forwarder.toml.
const FORWARDER: [(&str, &str, &str); 59] = [
    ("interface", "address", "[\"10.77.88.2/29\"]"),
    ("interface", "private_key_file", "\"other.key\""),
    ("interface", "mtu", "1400"),
    ("interface", "listen_port", "51821"),
    ("peer", "name", "\"kyiv\" # as before"),
    ("peer", "public_key", "\"CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\""),
    ("peer", "next_public_key", "\"j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=\""),
    ("peer", "preshared_key_file", "\"other.psk\""),
    ("peer", "endpoint", "\"192.0.2.9:51820\""),
    ("peer", "allowed_ips", "[\"192.168.0.0/16\"]"),
    ("peer", "keepalive", "\"20s\""),
    ("peer", "address", "[\"10.88.99.2/30\"]"),
    ("peer", "private_key_file", "\"oracle.key\""),
    ("peer", "probe", "\"off\""),
    ("peer", "public_address", "\"192.0.2.9\""),
    ("service", "name", "\"web\""),
    ("service", "protocol", "\"tcp\" # as before"),
    ("service", "match", "\"192.168.88.2:444\""),
    ("service", "upstream", "\"127.0.0.1:8444\""),
    ("service", "publish", "[443]"),
    ("service", "names", "[\"wiki.example.com\"]"),
    ("service", "health", "{ check = \"tcp\" }"),
    ("service", "visitor", "\"off\""),
    ("service", "proxy_protocol", "\"v1\""),
    ("service", "peer", "\"kyiv\" # as before"),
    ("service", "allow", "[\"192.0.2.0/24\"]"),
    ("list", "name", "\"proxy\""),
    ("list", "file", "\"other.list\""),
    ("reach", "name", "\"nfs4\""),
    ("reach", "protocol", "[\"udp\"]"),
    ("reach", "listen", "\"127.0.0.1:2050\""),
    ("reach", "target", "\"192.168.1.3:2049\""),
    ("reach", "peer", "\"kyiv\" # as before"),
    ("reach", "source_port", "\"any\""),
    ("reach", "on_down", "\"hold\""),
    ("metrics", "listen", "[\"127.0.0.1:9588\"]"),
    ("metrics", "hosts", "[\"edge.lan\"]"),
    ("page", "listen", "[\"192.168.88.2:9591\"]"),
    ("page", "hosts", "[\"edge.lan\"]"),
    ("caddy", "sites", "\"/srv/sites\""),
    ("caddy", "config", "\"/srv/Caddyfile\""),
    ("caddy", "command", "[\"podman\", \"exec\", \"caddy\", \"caddy\"]"),
    ("control", "socket", "\"/run/forwarder.sock\""),
    ("link", "port", "51900"),
    ("limits", "flows", "99"),
    ("limits", "pending_dials", "99"),
    ("limits", "flows_per_client", "99"),
    ("limits", "pending_per_client", "99"),
    ("limits", "udp_flows", "99"),
    ("limits", "udp_flows_per_client", "99"),
    ("limits", "udp_timeout", "\"3m\""),
    ("limits", "buffers", "\"99MiB\""),
    ("limits", "dial_timeout", "\"9s\""),
    ("limits", "drain", "\"9s\""),
    ("state", "directory", "\"/var/lib/other\""),
    ("log", "level", "\"debug\""),
    ("log", "format", "\"json\""),
    ("offload", "udp_gso", "\"off\""),
    ("offload", "busy_poll", "\"off\""),
];

/// The keys of `[steer]`, which needs a second edge.
const STEER: [(&str, &str, &str); 7] = [
    ("steer", "name", "\"www.example.com\""),
    ("steer", "zone", "\"com\""),
    ("steer", "server", "\"ns2.example.com\""),
    ("steer", "provider", "\"cloudflare\""),
    ("steer", "key_file", "\"other.tsig\""),
    ("steer", "return_after", "\"10m\""),
    ("steer", "dry_run", "true"),
];

#[test]
fn every_key_of_the_gateway_is_taken_and_named_or_named_as_needing_a_restart() {
    let old = gateway(&text("gateway.toml"));
    for (section, key, value) in GATEWAY.into_iter().chain(NOTIFY) {
        let new = gateway(&changed("gateway.toml", section, key, value));
        let settings = old.changed_settings(&new);
        is_readable(&settings);
        let named = old.plan().diff(&new.plan()).len() + settings.len();
        let is_same = value.contains("# as before");
        let is_named = named > 0 || old.needs_restart(&new).is_some();
        assert_eq!(is_named, !is_same, "[{section}] {key} = {value}");
    }
    is_complete("gateway.toml", &[&GATEWAY[..], &NOTIFY].concat());
    assert!(old.plan().diff(&old.plan()).is_empty() && old.changed_settings(&old).is_empty());
    assert_eq!(old.needs_restart(&old), None);
}

#[test]
fn every_key_of_the_forwarder_is_taken_and_named_or_named_as_needing_a_restart() {
    let old = forwarder(&text("forwarder.toml"));
    for (section, key, value) in FORWARDER.into_iter().chain(NOTIFY) {
        let new = forwarder(&changed("forwarder.toml", section, key, value));
        let is_same = value.contains("# as before");
        let changes = old.changes(&new);
        is_readable(&changes);
        let is_named = !changes.is_empty() || old.needs_restart(&new).is_some();
        assert_eq!(is_named, !is_same, "[{section}] {key} = {value}");
    }
    is_complete("forwarder.toml", &[&FORWARDER[..], &NOTIFY, &STEER, &[("offload", "udp_gro", "")]].concat());
}

#[test]
fn every_key_between_several_edges_is_taken_and_named() {
    let with = |key: &str, value: &str| {
        let rows = STEER.map(|(_, name, _)| {
            let line = text("forwarder.toml");
            let line = line.split("\n# [steer]").nth(1).unwrap().lines().find_map(|line| {
                line.strip_prefix("# ")
                    .filter(|line| line.starts_with(&format!("{name} = ")))
                    .map(str::to_owned)
            });
            // One of the two.
            let other = if key == "provider" { "server" } else { "provider" };
            match name {
                _ if name == key => format!("{name} = {value}"),
                _ if name == other => String::new(),
                _ => line.unwrap(),
            }
        });
        let second = "public_key = \"CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n\
                      address = [\"10.88.99.2/30\"]\nendpoint = \"203.0.113.2:51820\"";
        let text = changed("forwarder.toml", "peer", "public_address", "\"192.0.2.2\"");
        forwarder(&format!("{text}\n[[peer]]\nname = \"oracle\"\n{second}\n[steer]\n{}\n", rows.join("\n")))
    };
    let old = with("", "");
    assert!(old.changes(&with("", "")).is_empty());
    for (_, key, value) in STEER {
        let changes = old.changes(&with(key, value));
        is_readable(&changes);
        assert!(!changes.is_empty() && old.needs_restart(&with(key, value)).is_none(), "{key} = {value}");
    }
}

#[test]
fn edges_come_go_and_change_places_without_a_restart_and_each_is_known_by_its_name() {
    let edge = |number: u8, more: &str| {
        let names = ["kyiv", "oracle", "vienna"];
        let keys = [
            "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        ];
        let (name, key) = (names[usize::from(number)], keys[usize::from(number)]);
        format!(
            "[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\nendpoint = \"192.0.2.{number}:51820\"\n{more}\n"
        )
    };
    let with = |edges: &[String], more: &str| {
        let head = "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"a.key\"\n";
        forwarder(&format!("{head}{more}\n{}", edges.concat()))
    };
    let three = [edge(0, ""), edge(1, ""), edge(2, "")];
    let old = with(&three, "");
    let lines = |new: &forwarder::Policy| -> Vec<String> {
        assert_eq!(old.needs_restart(new), None);
        old.changes(new).iter().map(|change| change.line.clone()).collect()
    };
    let reordered = with(&[edge(2, ""), edge(0, ""), edge(1, "")], "");
    assert!(lines(&reordered).is_empty(), "{:?}", lines(&reordered));
    assert_eq!(lines(&with(&[edge(0, ""), edge(2, "")], "")), ["- oracle (its flows end)"]);
    let moved = edge(1, "address = [\"10.88.99.2/30\"]\nkeepalive = \"20s\"");
    let moved = with(&[moved, edge(2, "")], "");
    assert_eq!(
        lines(&moved),
        [
            "- kyiv (its flows end)",
            "~ oracle address (its flows end)",
            "~ oracle keepalive",
            "~ oracle probe"
        ]
    );
    assert_eq!(
        with(&[edge(2, "")], "").changes(&old).iter().map(|it| it.line.as_str()).collect::<Vec<_>>(),
        ["+ kyiv", "+ oracle"]
    );
    // One socket can have the port of the file.
    let (port, first) = ("listen_port = 51820", [edge(0, ""), edge(2, "")]);
    assert_eq!(with(&three, port).needs_restart(&with(&first, port)), None);
    let restart = with(&three, port).needs_restart(&with(&[edge(1, ""), edge(0, "")], port));
    assert!(restart.is_some_and(|what| what.contains("listen_port")), "{restart:?}");
}

/// What an operator reads has nothing of the source code's own notation.
fn is_readable(changes: &[Change]) {
    for change in changes {
        let is_code = ["Some(", "None", " {", "\""].iter().any(|mark| change.line.contains(mark));
        assert!(!is_code, "{change}");
    }
}

/// The name of the table that begins with this line, commented or not.
fn header(line: &str) -> Option<&str> {
    let line = line.trim_start_matches("# ");
    let begins =
        line.starts_with('[') && line.split('#').next().is_some_and(|line| line.trim_end().ends_with(']'));
    begins.then(|| line.trim_start_matches('[').split(']').next().unwrap_or_default())
}

/// Whether the table has every key that the file has, the commented ones included.
fn is_complete(file: &str, table: &[(&str, &str, &str)]) {
    let known: BTreeSet<(String, String)> =
        table.iter().map(|(section, key, _)| ((*section).to_owned(), (*key).to_owned())).collect();
    let mut section = String::new();
    for line in text(file).lines() {
        if let Some(header) = header(line) {
            section = header.to_owned();
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            let is_key = key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
            assert!(
                !is_key || known.contains(&(section.clone(), key.to_owned())),
                "[{section}] {key} is untested"
            );
        }
    }
}

/// The file with another value of a section's key; the first section with that name, and its first
/// key.
fn changed(file: &str, section: &str, key: &str, value: &str) -> String {
    let (mut inside, mut done) = (false, false);
    let mut lines = Vec::new();
    for line in text(file).lines() {
        let header = header(line);
        inside = header.map_or(inside, |header| header == section);
        let is_it = inside && !done && line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        done |= is_it;
        // A table that is a comment must be one to hold the key.
        let is_wanted = inside && header.is_some();
        lines.push(match (is_it, is_wanted) {
            (true, _) => format!("{key} = {value}"),
            (false, true) => line.trim_start_matches("# ").to_owned(),
            (false, false) => line.to_owned(),
        });
    }
    assert!(done, "{file} has no [{section}] {key}");
    let changed = lines.join("\n");
    // Other lines that name the entry change with it.
    match (key, value) {
        ("name", "\"wroclaw2\"") => changed.replace("peer:wroclaw\"", "peer:wroclaw2\""),
        ("provider", _) => changed.replace("server = \"ns1.example.com\"", ""),
        ("name", "\"friends\"") => changed.replace("@partners", "@friends"),
        _ => changed,
    }
}

/// The file, with the section that needs both of its keys.
fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file);
    let mut text = std::fs::read_to_string(path).unwrap();
    for line in ["[standby]", "address = \"192.0.2.2\"", "other = \"10.9.9.2\""] {
        text = text.replace(&format!("\n# {line}"), &format!("\n{line}"));
    }
    text
}

fn gateway(text: &str) -> gateway::Policy {
    gateway::parse(&Source { name: Path::new("/etc/causeway/gateway.toml"), text })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn forwarder(text: &str) -> forwarder::Policy {
    forwarder::parse(&Source { name: Path::new("/etc/causeway/forwarder.toml"), text })
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn a_single_tcp_port_is_checked_by_connections_unless_that_is_turned_off() {
    let default = Some(forwarder::Health::DEFAULT);
    for checked in ["192.168.88.2:443\"", "*:443\"", "192.168.88.2:443\"\nprotocol = [\"tcp\", \"udp\"]"] {
        assert_eq!(health_of(checked), default, "{checked}");
    }
    for unchecked in [
        "192.168.88.2:443\"\nhealth = \"off\"",
        "192.168.88.2:5000-5010\"",
        "*:*\"",
        "192.168.88.2:443\"\nprotocol = [\"udp\"]",
    ] {
        assert_eq!(health_of(unchecked), None, "{unchecked}");
    }
    let own = health_of("192.168.88.2:443\"\nhealth = { check = \"tcp\" }").unwrap();
    assert!(!own.counts_dials && own.every == forwarder::Health::DEFAULT.every);
}

/// How the upstream of an entry is checked; `entry` begins inside the quotes of its match.
fn health_of(entry: &str) -> Option<forwarder::Health> {
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
         [[service]]\nname = \"web\"\nupstream = \"127.0.0.1:*\"\nmatch = \"{entry}\n"
    );
    let source = Source { name: Path::new("forwarder.toml"), text: &text };
    forwarder::parse(&source).unwrap().services.remove(0).health
}

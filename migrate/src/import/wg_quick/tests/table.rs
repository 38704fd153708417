//! What becomes of each file: what is published, and what is not and why.

use std::collections::BTreeSet;

use super::{files, forwarder, gateway, import};
use crate::import::{FindingKind, Import};
use policy::forwarder::Upstream;
use policy::gateway::{Publish, SourceHandling};
use policy::{AllowList, Host};

/// A file, what it publishes, and lines that are not carried, each with some words of the reason.
struct Row(&'static str, &'static [&'static str], &'static [(u32, &'static str)]);

const TABLE: &[Row] = &[
    Row("both-families", &["tcp+udp 443 to 10.77.88.2:443", "tcp 443 to [fd00:77::2]:443"], &[]),
    Row("bound-private", &["tcp 80 to 10.77.88.2:80"], &[(5, "private address"), (6, "in the tunnel")]),
    Row(
        "bound-two-addresses",
        &["tcp 192.0.2.2:443 to 10.77.88.2:443", "tcp 192.0.2.3:443 to 10.77.88.2:8443"],
        &[],
    ),
    Row("containers-apart", &["tcp wan:443 to 10.77.88.2:443"], &[(6, "docker0"), (7, "no published port")]),
    Row("deleted-again", &["tcp 443 to 10.77.88.2:443", "tcp 80 to 10.77.88.2:80"], &[]),
    Row("exempt-address", &[], &[(5, "what it decides"), (6, "for some addresses")]),
    Row("exempt-first", &["tcp 25565 to 10.77.88.2:25565 from 24 prefixes"], &[]),
    Row(
        "exempt-return-port",
        &["tcp 8000-8004 to 10.77.88.2:8000-8004", "tcp 8006-8010 to 10.77.88.2:8006-8010"],
        &[],
    ),
    Row(
        "forward-drop-listed",
        &["tcp 443 to 10.77.88.2:443"],
        &[(8, "nothing lets its connections through")],
    ),
    Row("forward-sources", &["tcp 22 to 10.77.88.2:22 from 203.0.113.0/24"], &[]),
    Row("forwarding-off", &[], &[(5, "no counterpart"), (6, "nothing lets its connections through")]),
    Row("ipv6-only", &["tcp 443 to [fd00:77::2]:443", "udp [2001:db8:2::2]:443 to [fd00:77::2]:443"], &[]),
    Row(
        "jump-nowhere",
        &["tcp 80 to 10.77.88.2:80"],
        &[(5, "`MARK` is not understood"), (6, "line 5 is not read")],
    ),
    Row("low-mtu", &[], &[(4, "below the 1280")]),
    Row("mangle-drop", &["tcp 443 to 10.77.88.2:443 from 25 prefixes"], &[]),
    Row(
        "masqueraded",
        &["tcp 443 to 10.77.88.2:443 as the edge", "tcp 80 to 10.77.88.2:80"],
        &[(8, "line 9 gives"), (9, "what it decides")],
    ),
    Row("negations", &[], &[(5, "list its ports"), (6, "an earlier rule"), (7, "an earlier rule")]),
    Row(
        "nft-block",
        &["tcp 443 to 10.77.88.2:443 from 24 prefixes"],
        &[(6, "nothing lets its connections through")],
    ),
    Row(
        "nft-lines",
        &[
            "tcp 80 to 10.77.88.2:80",
            "tcp 443 to 10.77.88.2:443",
            "udp 27015 to 10.77.88.2:27016 from 203.0.113.0/24",
        ],
        &[],
    ),
    Row("not-from-tunnel", &["tcp 443 to 10.77.88.2:443"], &[]),
    Row("origin-halves", &[], &[]),
    Row("origin-routes", &[], &[(6, "routes are made")]),
    Row("origin-single", &[], &[]),
    Row("own-port", &[], &[(5, "tunnel's own port"), (7, "[wan] accept")]),
    Row(
        "ranges",
        &["tcp 7000-7010 to 10.77.88.2:6100-6110", "tcp 9000-9010 to 10.77.88.2:9000-9010"],
        &[(5, "the kernel picks"), (7, "lead to one port")],
    ),
    Row("saved", &["tcp 443 to 10.77.88.2:443"], &[]),
    Row("scripted", &["tcp 443 to 10.77.88.2:443"], &[(5, "not known"), (7, "not known")]),
    Row("scripted-filter", &[], &[(5, "line 6 is not read"), (6, "are not read")]),
    Row(
        "several-peers",
        &["tcp 443 to 10.77.88.2:443", "tcp 2222 to 192.168.89.7:22"],
        &[(7, "behind no peer")],
    ),
    Row("single-addresses", &["tcp 443 to 10.77.88.2:443"], &[]),
    Row(
        "spellings",
        &[
            "udp 27015-27020 to 10.77.88.2:27015-27020",
            "tcp 8080 to 10.77.88.2:80",
            "tcp 2222 to 10.77.88.2:22",
            "tcp 9000 to 10.77.88.2:9000",
        ],
        &[],
    ),
    Row("table-off", &["tcp 80 to 10.77.88.2:80", "tcp 8080 to 192.168.90.2:80"], &[(6, "behind no peer")]),
    Row(
        "tunnel-and-own",
        &["tcp wan:443 to 10.77.88.2:443"],
        &[(5, "out of the tunnel"), (6, "this machine itself"), (7, "out of the tunnel"), (8, "by lo")],
    ),
    Row("two-uplinks", &[], &[(5, "--wan"), (6, "--wan")]),
    Row("unread-dnat", &["tcp 80 to 10.77.88.2:80"], &[(5, "`statistic`")]),
    Row("unread-matches", &[], &[(5, "`geoip`"), (6, "reach line 5")]),
    Row(
        "user-chain",
        &["tcp 80 to 10.77.88.2:80 from 32 prefixes", "tcp 443 to 10.77.88.2:443 from 32 prefixes"],
        &[],
    ),
    Row("vps-semicolons", &["tcp 80 to 10.77.88.2:80", "tcp 443 to 10.77.88.2:443"], &[]),
    Row("vps-web", &["tcp 80 to 10.77.88.2:80", "tcp 443 to 10.77.88.2:443"], &[(8, "way to the internet")]),
];

#[test]
fn each_file_publishes_what_its_rules_do_and_reports_the_rest() {
    for Row(name, published, refused) in TABLE {
        let file = format!("{name}.conf");
        let (_, text) = files().into_iter().find(|(known, _)| *known == file).unwrap();
        let import = import(&file, &text).unwrap_or_else(|error| panic!("{error}"));

        assert_eq!(services(&import), *published, "{name}");
        let lost = import.findings.iter().filter(|finding| finding.kind == FindingKind::NoCounterpart);
        let lost: Vec<(u32, String)> =
            lost.filter_map(|finding| Some((finding.at.as_ref()?.1, finding.to_string()))).collect();
        assert_eq!(lost.len(), refused.len(), "{name}: {lost:#?}");
        for ((line, said), (wanted, why)) in lost.iter().zip(*refused) {
            assert!(line == wanted && said.contains(why), "{name}: {said}, not {wanted}: {why}");
        }
    }
}

#[test]
fn every_file_is_in_the_table() {
    let known: BTreeSet<String> = TABLE.iter().map(|Row(name, ..)| format!("{name}.conf")).collect();
    let there: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    let asked = BTreeSet::from(["either-end.conf".to_owned()]);
    assert_eq!(there.difference(&known).cloned().collect::<BTreeSet<_>>(), asked);
}

/// Each published port as one line.
fn services(import: &Import) -> Vec<String> {
    let policy = gateway(import);
    let line = |publish: &Publish| {
        let protocols: Vec<_> = publish.protocols.iter().map(|protocol| protocol.as_str()).collect();
        let toml = import.gateway.split(&format!("name = {:?}", publish.name.as_str())).nth(1).unwrap();
        let value = |key: &str| {
            toml.split(&format!("{key} = \"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let mut line = format!("{} {} to {}", protocols.join("+"), value("listen"), value("target"));
        if publish.source == SourceHandling::Masquerade {
            line.push_str(" as the edge");
        }
        if let AllowList::Only { prefixes, lists } = &publish.allow {
            let listed = policy.lists.iter().filter(|list| lists.contains(&list.name));
            match (prefixes.as_slice(), listed.map(|list| list.prefixes.len()).sum::<usize>()) {
                ([one], 0) => line.push_str(&format!(" from {one}")),
                (_, count) => line.push_str(&format!(" from {} prefixes", prefixes.len() + count)),
            }
        }
        line
    };
    policy.publish.iter().map(line).collect()
}

#[test]
fn what_becomes_public_is_one_finding_each_with_source_port_and_target() {
    for (name, text) in files() {
        let Ok(import) = import(&name, &text) else { continue };
        let public: Vec<&str> = import
            .findings
            .iter()
            .filter(|finding| finding.kind == FindingKind::Public)
            .map(|finding| finding.text.as_str())
            .collect();
        let policy = gateway(&import);
        assert_eq!(public.len(), policy.publish.len(), "{name}");
        for (line, publish) in public.iter().zip(&policy.publish) {
            let target = &publish.targets[0];
            for part in [publish.ports.to_string(), target.address.to_string(), target.ports.to_string()] {
                assert!(line.starts_with("from ") && line.contains(&part), "{line}");
            }
        }
    }
}

#[test]
fn every_service_can_work_on_paper() {
    for (name, text) in files() {
        let Ok(import) = import(&name, &text) else { continue };
        let (near, far) = (gateway(&import), forwarder(&import));
        assert_eq!(policy::pairing::pairing(&near, &far), [], "{name}");
        let own: Vec<_> = far.interface.address.iter().map(|own| own.ip()).collect();
        for service in &far.services {
            for upstream in &service.upstreams {
                let Upstream::Network { host: Host::Address(host), .. } = upstream else {
                    panic!("{upstream}")
                };
                assert!(!own.contains(host), "{name}: {upstream} is the tunnel itself");
            }
        }
    }
}

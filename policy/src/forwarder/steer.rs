//! `[steer]`: the name that leads to several edges, whose records `causeway-agent` keeps at those
//! that are there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::model::Peer;
use crate::change::Settings;
use crate::dns::{self, Authority, absolute};
use crate::reader::{Table, Value};
use crate::{FileRef, Host, HostPort, Problem, fields, text};

/// How long an edge has to be there before it is taken back, unless the file says otherwise.
const RETURN_AFTER: Duration = Duration::from_secs(300);

/// `[steer]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// The name in lower case, without a final dot; in the zone.
    pub name: String,
    /// The zone that holds it.
    pub zone: String,
    /// Who holds the zone.
    pub authority: Authority,
    /// The TSIG key, or the API token: a file that `causeway-agent` alone may read.
    pub key_file: FileRef,
    /// How long an edge that was taken out has to be there before it is taken back; 10 s to 24 h.
    pub return_after: Duration,
    /// Whether decisions are only reported.
    pub dry_run: bool,
}

impl Steer {
    fn keys(&self) -> [(&'static str, String); 6] {
        let (authority, who) = self.authority.written();
        [
            ("name", self.name.clone()),
            ("zone", self.zone.clone()),
            (authority, who),
            ("key_file", self.key_file.location.to_string()),
            ("return_after", format!("{}s", self.return_after.as_secs())),
            ("dry_run", self.dry_run.to_string()),
        ]
    }
}

/// What another `[steer]` changes.
pub(super) fn note_changes(old: Option<&Steer>, new: Option<&Steer>, changes: &mut Settings) {
    let of = |steer: Option<&Steer>| steer.map(Steer::keys);
    let (before, after) = (of(old), of(new));
    for key in ["name", "zone", "server", "provider", "key_file", "return_after", "dry_run"] {
        let value = |keys: &Option<[(&'static str, String); 6]>| {
            let mut all = keys.iter().flatten();
            all.find(|(name, _)| *name == key).map(|(_, value)| value.clone())
        };
        changes.option("steer", key, value(&before).as_ref(), value(&after).as_ref());
    }
}

/// `public_address` of a `[[peer]]`; where it is absent, the endpoint's address.
pub(super) fn public_address(
    written: Option<Value<'_>>,
    endpoint: Option<&HostPort>,
) -> Option<Option<Ipv4Addr>> {
    let public = |address: &Ipv4Addr| !is_local(*address);
    match (written, endpoint.map(|endpoint| &endpoint.host)) {
        (Some(value), _) => value
            .parse("a public IPv4 address, since [steer] keeps A records alone", |written| {
                written.parse::<Ipv4Addr>().ok().filter(public)
            })
            .map(Some),
        (None, Some(Host::Address(IpAddr::V4(address)))) => Some(Some(*address).filter(public)),
        (None, _) => Some(None),
    }
}

/// `[steer]` between these edges; `Some(None)` where the file does not have it.
pub(super) fn steer(root: &Table<'_>, edges: &[&Peer], are_all: bool) -> Option<Option<Steer>> {
    let Some(table) = root.table("steer", "[steer]") else { return Some(None) };
    let written = table.required("name");
    let name =
        written.and_then(|value| value.parse("a name in the DNS, such as \"home.example.com\"", absolute));
    let zone = table.optional("zone").map(dns::zone);
    let authority = dns::authority(&table, "[steer]");
    let key_file = table.required("key_file").and_then(fields::file);
    let return_after = table.optional("return_after").map_or(Some(RETURN_AFTER), return_after);
    let dry_run = table.optional("dry_run").map_or(Some(false), Value::boolean);
    table.close();
    if are_all {
        check(&table, edges);
    }
    let name = name?;
    let zone = dns::zone_of(zone, &name)?;
    dns::all_within(std::slice::from_ref(&name), &zone, &table, written);
    Some(Some(Steer {
        name,
        zone,
        authority: authority?,
        key_file: key_file?,
        return_after: return_after?,
        dry_run: dry_run?,
    }))
}

fn check(table: &Table<'_>, edges: &[&Peer]) {
    let mut without = edges.iter().filter(|edge| edge.public_address.is_none());
    let first = without.next().map(|edge| edge.name.to_string());
    if edges.len() < 2 || first.is_some() {
        table.report(Problem::NothingToSteer { without_address: first });
    }
    for (place, edge) in edges.iter().enumerate() {
        let is_same = |other: &&&Peer| other.public_address == edge.public_address;
        if let Some(other) = edges.iter().take(place).find(is_same)
            && edge.public_address.is_some()
        {
            let (one, other) = (other.name.to_string(), edge.name.to_string());
            table.report(Problem::SamePublicAddress { one, other });
        }
    }
}

/// Whether visitors from elsewhere cannot reach it (RFC 1918, 6598, 3927, 1122, 5771).
fn is_local(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    let is_own = address.is_private() || address.is_link_local() || address.is_loopback();
    is_shared || is_own || first == 0 || address.is_multicast() || first >= 240
}

fn return_after(value: Value<'_>) -> Option<Duration> {
    value.parse("a time from \"10s\" to \"24h\"", |written| {
        text::duration(written)
            .filter(|time| (10..=86_400).contains(&time.as_secs()) && time.subsec_nanos() == 0)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;
    use crate::forwarder::{Policy, parse};

    const STEER: &str =
        "[steer]\nname = \"Home.example.com.\"\nserver = \"ns1.example.com\"\nkey_file = \"h\"\n";

    #[test]
    fn a_name_between_two_edges_is_read_with_its_defaults() {
        let policy = read(&file("203.0.113.2:51820", "", STEER)).unwrap();
        let steer = policy.steer.unwrap();
        assert_eq!((steer.name.as_str(), steer.zone.as_str()), ("home.example.com", "example.com"));
        assert_eq!((steer.return_after, steer.dry_run), (RETURN_AFTER, false));
        let addresses: Vec<_> = policy.peers.iter().filter_map(|peer| peer.public_address).collect();
        assert_eq!(addresses, [Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(203, 0, 113, 2)]);
    }

    #[test]
    fn a_provider_takes_the_place_of_a_server() {
        let by_api = STEER.replace("server = \"ns1.example.com\"", "provider = \"cloudflare\"");
        let [one, other] = [STEER, &by_api].map(|steer| read(&file("203.0.113.2:51820", "", steer)).unwrap());
        assert_eq!(other.steer.as_ref().map(|steer| &steer.authority), Some(&Authority::Cloudflare));
        let lines: Vec<String> = one.changes(&other).into_iter().map(|change| change.line).collect();
        let shown = lines.join("\n");
        assert!(shown.contains("provider") && shown.contains("ns1.example.com:53"), "{shown}");
        assert!(!shown.contains("key_file"), "{shown}");
    }

    #[test]
    fn an_edge_by_name_needs_its_address_written() {
        let named = "oracle.example.com:51820";
        let said = read(&file(named, "", STEER)).unwrap_err();
        assert!(said.len() == 1 && said[0].to_string().contains("[[peer]] oracle has no"), "{said:#?}");
        assert!(said[0].to_string().contains("one that changes cannot be steered"), "{said:#?}");
        read(&file(named, "public_address = \"203.0.113.2\"", STEER)).unwrap();
    }

    #[test]
    fn one_mistake_is_one_error() {
        let wrong = |steer: &str| read(&file("203.0.113.2:51820", "", steer)).unwrap_err();
        for steer in [
            STEER.replace("Home.example.com.", "home"),
            STEER.replace("server", "sevrer"),
            STEER.replace("key_file = \"h\"", ""),
            format!("{STEER}zone = \"example.org\""),
            format!("{STEER}return_after = \"5s\""),
            format!("{STEER}provider = \"cloudflare\""),
        ] {
            assert_eq!(wrong(&steer).len(), 1, "{steer}: {:#?}", wrong(&steer));
        }
        for address in ["192.168.1.2", "2001:db8::1", "kyiv.example.com"] {
            let line = format!("public_address = \"{address}\"");
            assert_eq!(read(&file("o.example.com:51820", &line, STEER)).unwrap_err().len(), 1, "{address}");
        }
        let same = read(&file("192.0.2.2:51820", "", STEER)).unwrap_err();
        assert!(same.len() == 1 && same[0].to_string().contains("kyiv and oracle"), "{same:#?}");
    }

    fn file(endpoint: &str, line: &str, steer: &str) -> String {
        format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n\
             [[peer]]\nname = \"kyiv\"\npublic_key = \"{}\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[peer]]\nname = \"oracle\"\npublic_key = \"{}\"\nendpoint = \"{endpoint}\"\n\
             address = [\"10.77.99.2/30\"]\n{line}\n{steer}",
            key(1),
            key(2)
        )
    }

    fn key(byte: u8) -> String {
        crate::PublicKey::new([byte; 32]).unwrap().to_string()
    }

    fn read(text: &str) -> Result<Policy, Vec<crate::ConfigError>> {
        parse(&Source { name: Path::new("forwarder.toml"), text })
    }
}

//! Whether certificate authorities reach a public entry.
//!
//! An authority checks a name from addresses of its own choice, several of them at a time, and
//! publishes none of them: by port 80 for HTTP-01 (RFC 8555 §8.3), by port 443 for TLS-ALPN-01
//! (RFC 8737 §3), by the name's DNS records for DNS-01 (RFC 8555 §8.4).

use ipnetwork::IpNetwork;

use crate::sections::List;
use crate::{AllowList, Name, Protocol, forwarder, gateway};

/// The port of HTTP-01.
const HTTP: u16 = 80;
/// The port of TLS-ALPN-01.
const HTTPS: u16 = 443;

/// A public entry, as authorities see it.
struct Opening<'a> {
    name: &'a Name,
    is_http: bool,
    is_https: bool,
    allow: &'a AllowList,
    /// The lists that `allow` may name.
    lists: &'a [List],
}

impl gateway::Policy {
    /// What certificate authorities cannot do at the ports that it publishes, a line for each entry
    /// on port 443; none while port 80 is open to everyone. Its lists must have been loaded.
    #[must_use]
    pub fn closed_to_authorities(&self) -> Vec<String> {
        let openings = self.publish.iter().map(|publish| {
            let is_on = |port| publish.protocols.contains(Protocol::Tcp) && publish.ports.contains(port);
            let (is_http, is_https) = (is_on(HTTP), is_on(HTTPS));
            Opening { name: &publish.name, is_http, is_https, allow: &publish.allow, lists: &self.lists }
        });
        notes(&openings.collect::<Vec<_>>())
    }
}

impl forwarder::Policy {
    /// What certificate authorities cannot do at its services, as for
    /// [`gateway::Policy::closed_to_authorities`]; lists of the edge are not known here.
    #[must_use]
    pub fn closed_to_authorities(&self) -> Vec<String> {
        let openings = self.services.iter().map(|service| {
            let at_edge = service.publish.as_ref().map(|publish| &publish.from);
            let at_edge = at_edge.filter(|from| **from != AllowList::Any);
            let (allow, lists) = at_edge.map_or((&service.allow, self.lists.as_slice()), |from| (from, &[]));
            let (is_http, is_https) = (service.is_on(HTTP), service.is_on(HTTPS));
            Opening { name: &service.name, is_http, is_https, allow, lists }
        });
        notes(&openings.collect::<Vec<_>>())
    }
}

fn notes(openings: &[Opening<'_>]) -> Vec<String> {
    if openings.iter().any(|opening| opening.is_http && opening.is_open()) {
        return Vec::new();
    }
    openings.iter().filter(|opening| opening.is_https && !opening.is_open()).map(note).collect()
}

fn note(opening: &Opening<'_>) -> String {
    format!(
        "only {} may connect to tcp/443 of {}, so that a certificate authority cannot: TLS-ALPN-01 fails, and so does \
         HTTP-01, unless a proxy there passes port 80 on to this edge; DNS-01 works (docs/CERTIFICATES.md)",
        sources(opening.allow),
        opening.name
    )
}

impl Opening<'_> {
    /// Whether authorities may connect: everyone may, or most of the internet, such as all but a few
    /// banned networks.
    fn is_open(&self) -> bool {
        let AllowList::Only { prefixes, lists } = self.allow else { return true };
        let named = self.lists.iter().filter(|list| lists.contains(&list.name));
        let all = prefixes.iter().chain(named.flat_map(|list| &list.prefixes));
        let count = |prefix: &IpNetwork| match prefix {
            IpNetwork::V4(prefix) => u64::from(prefix.size()),
            IpNetwork::V6(_) => 0,
        };
        all.map(count).fold(0, u64::saturating_add) > u64::from(u32::MAX) / 2
    }
}

/// The sources in words, at most three of them named.
fn sources(allow: &AllowList) -> String {
    let all = allow.entries();
    let shown: Vec<&str> = all.iter().map(String::as_str).take(3).collect();
    match all.len() - shown.len() {
        0 => shown.join(" and "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;

    #[test]
    fn a_port_443_for_some_sources_is_noted_unless_port_80_is_open_or_most_sources_may_connect() {
        for (https, http, is_noted) in [
            ("", None, false),
            ("allow = [\"@cloudflare\"]", None, true),
            ("allow = [\"@cloudflare\"]", Some("allow = [\"@cloudflare\"]"), true),
            ("allow = [\"@cloudflare\"]", Some(""), false),
            ("allow = [\"203.0.113.0/24\", \"@cloudflare\"]", None, true),
            // All but what is banned.
            ("allow = [\"@most\"]", None, false),
        ] {
            let publish = |name: &str, port: u16, rest: &str| {
                format!(
                    "[[publish]]\nname = \"{name}\"\nlisten = \"{port}\"\ntarget = \"10.77.88.2:{port}\"\n{rest}\n"
                )
            };
            let http = http.map(|rest| publish("http", 80, rest)).unwrap_or_default();
            let text = format!("{EDGE}{}{http}", publish("https", 443, https));
            let mut policy = gateway::parse(&Source { name: Path::new("f"), text: &text }).unwrap();
            load(&mut policy.lists);
            let notes = policy.closed_to_authorities();
            assert_eq!(notes.len(), usize::from(is_noted), "{https} {http}: {notes:?}");
            assert!(
                notes.iter().all(|note| note.contains("may connect to tcp/443 of https, so that")),
                "{notes:?}"
            );
        }
    }

    #[test]
    fn the_origin_notes_what_it_requests_and_what_it_takes_itself() {
        for (service, is_noted) in [
            ("publish = { ports = 443, from = [\"@cloudflare\"] }\n", true),
            // Of the edge's own list nothing is known.
            ("publish = { ports = 443, from = [\"@most\"] }\n", true),
            ("publish = 443\nallow = [\"@cloudflare\"]\n", true),
            ("publish = 443\nallow = [\"@most\"]\n", false),
            ("match = \"10.77.88.2:443\"\nallow = [\"@cloudflare\"]\n", true),
            ("publish = 443\n", false),
            ("publish = \"443/udp\"\nallow = [\"@cloudflare\"]\n", false),
            ("match = \"10.77.88.2:8428\"\nallow = [\"@cloudflare\"]\n", false),
        ] {
            let text = format!("{ORIGIN}{service}");
            let mut policy = forwarder::parse(&Source { name: Path::new("f"), text: &text }).unwrap();
            load(&mut policy.lists);
            assert_eq!(policy.closed_to_authorities().len(), usize::from(is_noted), "{service}");
        }
    }

    #[test]
    fn a_long_list_of_sources_is_cut() {
        let only = |lists: &[&str]| {
            let lists = lists.iter().map(|name| Name::new(name).unwrap()).collect();
            AllowList::Only { prefixes: Vec::new(), lists }
        };
        assert_eq!(sources(&only(&["a", "b"])), "@a and @b");
        assert_eq!(sources(&only(&["a", "b", "c", "d", "e"])), "@a, @b, @c and 2 more");
    }

    const EDGE: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nlisten_port = 51820\nprivate_key_file = \"k\"\n[wan]\n\
        accept = [\"tcp/22\"]\n[[peer]]\nname = \"wroclaw\"\n\
        public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nallowed_ips = [\"10.77.88.2/32\"]\n\
        [[list]]\nname = \"cloudflare\"\nfile = \"c\"\n[[list]]\nname = \"most\"\nfile = \"m\"\n";
    const ORIGIN: &str = "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\n\
        name = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
        endpoint = \"192.0.2.2:51820\"\n[[list]]\nname = \"cloudflare\"\nfile = \"c\"\n[[list]]\n\
        name = \"most\"\nfile = \"m\"\n[[service]]\nname = \"https\"\nupstream = \"127.0.0.1:8443\"\n";

    fn load(lists: &mut [List]) {
        for list in lists {
            let text = match list.name.as_str() {
                "most" => "0.0.0.0/1\n128.0.0.0/2\n",
                _ => include_str!("../../configs/lists/cloudflare.list"),
            };
            list.load(&Source { name: Path::new("list"), text }).unwrap();
        }
    }
}

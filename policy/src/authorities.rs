//! Whether certificate authorities reach a public entry.
//!
//! An authority checks a name from addresses of its own choice, several of them at a time, and
//! publishes none of them: by port 80 for HTTP-01 (RFC 8555 §8.3), by port 443 for TLS-ALPN-01
//! (RFC 8737 §3), by the name's DNS records for DNS-01 (RFC 8555 §8.4).

use crate::{AllowList, Name, Protocol, forwarder, gateway};

/// The port of HTTP-01.
const HTTP: u16 = 80;
/// The port of TLS-ALPN-01.
const HTTPS: u16 = 443;

/// A public entry, as authorities see it.
pub(crate) struct Opening<'a> {
    name: &'a Name,
    is_http: bool,
    is_https: bool,
    allow: &'a AllowList,
}

impl<'a> Opening<'a> {
    /// A port that the edge publishes.
    pub(crate) fn of_publish(publish: &'a gateway::Publish) -> Self {
        let is_on = |port| publish.protocols.contains(Protocol::Tcp) && publish.ports.contains(port);
        Self { name: &publish.name, is_http: is_on(HTTP), is_https: is_on(HTTPS), allow: &publish.allow }
    }

    /// A service of the origin.
    pub(crate) fn of_service(service: &'a forwarder::Service) -> Self {
        let at_edge = service.publish.as_ref().map(|publish| &publish.from);
        let allow = at_edge.filter(|from| **from != AllowList::Any).unwrap_or(&service.allow);
        Self { name: &service.name, is_http: service.is_on(HTTP), is_https: service.is_on(HTTPS), allow }
    }
}

impl gateway::Policy {
    /// What certificate authorities cannot do at the ports that it publishes, a line for each entry.
    #[must_use]
    pub fn closed_to_authorities(&self) -> Vec<(&Name, String)> {
        closed(&self.publish.iter().map(Opening::of_publish).collect::<Vec<_>>())
    }
}

impl forwarder::Policy {
    /// What certificate authorities cannot do at its services, a line for each entry.
    #[must_use]
    pub fn closed_to_authorities(&self) -> Vec<(&Name, String)> {
        closed(&self.services.iter().map(Opening::of_service).collect::<Vec<_>>())
    }
}

fn closed<'a>(openings: &[Opening<'a>]) -> Vec<(&'a Name, String)> {
    let noted = openings.iter().zip(notes(openings));
    noted.filter_map(|(opening, note)| Some((opening.name, note?))).collect()
}

/// For each entry what authorities cannot do there, if it is on port 443 for some sources only and
/// port 80 is not open to everyone either.
pub(crate) fn notes(openings: &[Opening<'_>]) -> Vec<Option<String>> {
    let is_open = |opening: &Opening<'_>| opening.is_http && *opening.allow == AllowList::Any;
    let has_http = openings.iter().any(is_open);
    openings.iter().map(|opening| note(opening).filter(|_| !has_http)).collect()
}

fn note(opening: &Opening<'_>) -> Option<String> {
    let sources = sources(opening.allow);
    let is_closed = opening.is_https && *opening.allow != AllowList::Any && !sources.is_empty();
    is_closed.then(|| format!(
        "only {sources} may connect to tcp/443 of {}, so that a certificate authority cannot: TLS-ALPN-01 fails, and so does \
         HTTP-01, unless a proxy there passes port 80 on to this edge; DNS-01 works (docs/CERTIFICATES.md)",
        opening.name
    ))
}

/// The sources in words, at most three of them named; empty when there is none.
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
    use super::*;

    #[test]
    fn an_entry_on_443_for_some_sources_only_is_noted_unless_80_is_open_to_everyone() {
        let (any, some, none) = (AllowList::Any, only(&["cloudflare"]), only(&[]));
        for (https, http, is_noted) in [
            (&any, None, false),
            (&any, Some(&some), false),
            (&none, None, false),
            (&some, None, true),
            (&some, Some(&some), true),
            (&some, Some(&any), false),
        ] {
            let (name, other) = (Name::new("https").unwrap(), Name::new("http").unwrap());
            let mut openings = vec![Opening { name: &name, is_http: false, is_https: true, allow: https }];
            openings.extend(http.map(|allow| Opening {
                name: &other,
                is_http: true,
                is_https: false,
                allow,
            }));
            let notes = notes(&openings);
            let noted: Vec<bool> = notes.iter().map(Option::is_some).collect();
            let expected = [vec![is_noted], vec![false; openings.len() - 1]].concat();
            assert_eq!(noted, expected, "{https:?} {http:?}");
        }
    }

    #[test]
    fn a_long_list_of_sources_is_cut() {
        for (lists, expected) in
            [(&[][..], ""), (&["a", "b"], "@a and @b"), (&["a", "b", "c", "d", "e"], "@a, @b, @c and 2 more")]
        {
            assert_eq!(sources(&only(lists)), expected);
        }
    }

    #[test]
    fn both_files_are_warned_about_where_the_entry_is() {
        let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let list = "[[list]]\nname = \"cloudflare\"\nfile = \"c\"\n";
        let edge = format!(
            "[interface]\naddress = [\"10.77.88.1/30\"]\nlisten_port = 51820\nprivate_key_file = \"k\"\n[wan]\n\
             accept = [\"tcp/22\"]\n[[peer]]\nname = \"wroclaw\"\npublic_key = \"{key}\"\n\
             allowed_ips = [\"10.77.88.2/32\"]\n{list}[[publish]]\nname = \"https\"\nlisten = \"443\"\n\
             target = \"10.77.88.2:443\"\nallow = [\"@cloudflare\"]\n"
        );
        let origin = |service: &str| {
            format!(
                "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
                 public_key = \"{key}\"\nendpoint = \"192.0.2.2:51820\"\n{list}[[service]]\nname = \"https\"\n\
                 upstream = \"127.0.0.1:8443\"\n{service}"
            )
        };
        let file = std::path::Path::new("f.toml");
        let read = |text: &str| {
            let policy = gateway::parse(&crate::Source { name: file, text }).unwrap();
            let notes = policy.closed_to_authorities().into_iter().map(|(_, note)| note).collect::<Vec<_>>();
            (policy.warnings.clone(), notes)
        };
        let (warnings, notes) = read(&edge);
        assert_eq!(warnings.len(), 1);
        let warning = warnings[0].to_string();
        assert!(
            warning
                .starts_with("f.toml:15:10: warning: only @cloudflare may connect to tcp/443 of https, so"),
            "{warning}"
        );
        assert!(warning.ends_with(&notes[0]) && warning.contains("DNS-01 works"), "{warning}");
        let open =
            format!("{edge}[[publish]]\nname = \"http\"\nlisten = \"80\"\ntarget = \"10.77.88.2:80\"\n");
        assert!(read(&open).0.is_empty() && read(&open).1.is_empty());

        for (service, count) in [
            ("publish = { ports = 443, from = [\"@cloudflare\"] }\n", 1),
            ("publish = 443\nallow = [\"@cloudflare\"]\n", 1),
            ("match = \"10.77.88.2:443\"\nallow = [\"@cloudflare\"]\n", 1),
            ("publish = 443\n", 0),
            ("publish = \"443/udp\"\nallow = [\"@cloudflare\"]\n", 0),
            ("match = \"10.77.88.2:8428\"\nallow = [\"@cloudflare\"]\n", 0),
        ] {
            let text = origin(service);
            let policy = forwarder::parse(&crate::Source { name: file, text: &text }).unwrap();
            let counts = (policy.warnings.len(), policy.closed_to_authorities().len());
            assert_eq!(counts, (count, count), "{service}: {:?}", policy.warnings);
        }
    }

    fn only(lists: &[&str]) -> AllowList {
        let lists = lists.iter().map(|name| Name::new(name).unwrap()).collect();
        AllowList::Only { prefixes: Vec::new(), lists }
    }
}

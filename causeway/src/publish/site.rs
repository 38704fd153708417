//! Caddy's site of a published name, as text.

use policy::forwarder::{Service, Upstream};

/// How every file begins that `publish` writes; no other file is ever replaced or removed.
const MARK: &str = "# Written by `causeway publish`";

/// The first line of a name's site.
fn first_line(name: &str) -> String {
    format!("{MARK}; `causeway unpublish {name}` removes it.")
}

/// The text of a name's site, which listens where the service's flows go to.
pub(super) fn site(name: &str, upstream: &str, service: &Service) -> String {
    let mut lines = vec![first_line(name)];
    let mut bind = None;
    let address = match service.upstreams.first() {
        Some(Upstream::Network { host, port }) => {
            let port = port.of(service.ports.first(), service.ports.first());
            // Elsewhere, as on a container network, Caddy listens on all addresses.
            bind = loopback(&host.to_string());
            format!("https://{name}:{port}")
        }
        Some(Upstream::Unix(path)) => {
            bind = Some(format!("unix/{}", path.display()));
            format!("https://{name}")
        }
        None => format!("https://{name}"),
    };
    lines.push(format!("{address} {{"));
    lines.extend(bind.map(|bind| format!("\tbind {bind}")));
    lines.push(format!("\treverse_proxy {upstream}"));
    lines.push("}\n".to_owned());
    lines.join("\n")
}

/// Whether `publish` wrote a file with this text.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Whether a text is one that [`site`] makes of this name, wherever it listens and leads to: what
/// its owner added, as a login, must not be lost.
pub(super) fn is_as_written(text: &str, name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && !word.contains([' ', '\t', '{', '}', '#']);
    let is_address = |line: &str| {
        let port = line.strip_prefix("https://").and_then(|rest| rest.strip_prefix(name)?.strip_suffix(" {"));
        port.is_some_and(|port| {
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
        })
    };
    let is_option = |line: &str, option: &str| line.strip_prefix(option).is_some_and(is_word);
    match text.split('\n').collect::<Vec<_>>().as_slice() {
        [first, address, bind @ .., program, "}", ""] => {
            *first == first_line(name)
                && is_address(address)
                && bind.len() <= 1
                && bind.iter().all(|line| is_option(line, "\tbind "))
                && is_option(program, "\treverse_proxy ")
        }
        _ => false,
    }
}

/// The file of a name below the folder of sites.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}.caddy")
}

/// Whether Caddy's configuration, as JSON, has a site of this name.
pub(super) fn has_site(adapted: &serde_json::Value, name: &str) -> bool {
    match adapted {
        serde_json::Value::Object(fields) => fields.iter().any(|(key, value)| {
            let hosts = value.as_array().filter(|_| key == "host");
            let is_host = |host: &serde_json::Value| host.as_str() == Some(name);
            hosts.is_some_and(|hosts| hosts.iter().any(is_host)) || has_site(value, name)
        }),
        serde_json::Value::Array(items) => items.iter().any(|item| has_site(item, name)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => false,
    }
}

/// Whether a program is on this machine's own loopback.
pub(super) fn is_loopback(upstream: &str) -> bool {
    policy::text::host_port(upstream).is_some_and(|there| loopback(&there.host.to_string()).is_some())
}

fn loopback(host: &str) -> Option<String> {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback().then(|| host.to_owned()),
        Err(_) => (host == "localhost").then(|| "127.0.0.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;
    use policy::forwarder::parse;

    use super::*;

    #[test]
    fn the_site_listens_where_the_service_dials() {
        for (upstream, expected) in [
            ("127.0.0.1:8443", "https://emby.example.com:8443 {\n\tbind 127.0.0.1\n\treverse_proxy"),
            ("localhost:8443", "https://emby.example.com:8443 {\n\tbind 127.0.0.1\n\treverse_proxy"),
            ("caddy:*", "https://emby.example.com:443 {\n\treverse_proxy"),
            (
                "unix:/run/caddy.sock",
                "https://emby.example.com {\n\tbind unix//run/caddy.sock\n\treverse_proxy",
            ),
        ] {
            let text = site("emby.example.com", "127.0.0.1:8096", &service(upstream));
            assert!(text.contains(expected), "{text}");
            assert!(is_ours(&text) && text.ends_with(" 127.0.0.1:8096\n}\n"), "{text}");
        }
    }

    #[test]
    fn a_site_is_found_by_its_host_and_by_nothing_else() {
        let adapted = serde_json::json!({"apps": {"http": {"servers": {"srv0": {"routes": [
            {"match": [{"host": ["emby.example.com"]}], "handle": [{"body": "photos.example.com"}]},
        ]}}}}});
        assert!(has_site(&adapted, "emby.example.com"));
        assert!(!has_site(&adapted, "photos.example.com") && !has_site(&adapted, "example.com"));
    }

    #[test]
    fn a_site_is_as_written_wherever_it_leads_and_no_longer_once_it_was_edited() {
        for upstream in ["127.0.0.1:8443", "caddy:*", "unix:/run/caddy.sock"] {
            let text = site("emby.example.com", "[fd00::1]:8096", &service(upstream));
            assert!(is_as_written(&text, "emby.example.com"), "{text}");
            assert!(!is_as_written(&text, "photos.example.com"), "{text}");
            let program = "\treverse_proxy [fd00::1]:8096\n";
            for (written, edited) in [
                (program, format!("\tbasic_auth {{\n\t\tme hash\n\t}}\n{program}")),
                (program, format!("\timport behind_login\n{program}")),
                (program, format!("{program}\tencode\n")),
                (program, "\treverse_proxy /api [fd00::1]:8096\n".to_owned()),
                (program, "\treverse_proxy [fd00::1]:8096 {\n\t\theader_up X y\n\t}\n".to_owned()),
                ("}\n", "}\nother.example.com {\n}\n".to_owned()),
                ("}\n", "}\n# mine\n".to_owned()),
                ("https://emby.example.com", "https://emby.example.com, https://www.example.com".to_owned()),
            ] {
                let edited = text.replacen(written, &edited, 1);
                assert!(is_ours(&edited) && !is_as_written(&edited, "emby.example.com"), "{edited}");
            }
        }
    }

    fn service(upstream: &str) -> Service {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"https\"\npublish = 443\nupstream = \"{upstream}\"\n"
        );
        parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap().services.remove(0)
    }
}

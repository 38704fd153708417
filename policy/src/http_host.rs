//! Which host an HTTP request is for, by its `Host`: a request under a foreign name (DNS rebinding)
//! is not served.

use std::net::{IpAddr, Ipv6Addr};

use crate::Host;

/// Which host a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has no `Host`: no browser sent it.
    NoName,
    /// An address, `localhost`, or a name that is listed.
    Known,
    /// Another name, several names, or text that is no name.
    Foreign,
}

/// Which host a request is for, from its head; `listed` are further names of this machine.
#[must_use]
pub fn asked(head: &[u8], listed: &[Host]) -> Asked {
    let lines = head.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::trim_ascii_end);
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line.split_at_checked(colon)
    });
    let mut hosts = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"host")).map(|(_, value)| value);
    match (hosts.next(), hosts.next()) {
        (None, _) => Asked::NoName,
        (Some(value), None) if is_known(value, listed) => Asked::Known,
        (Some(_), _) => Asked::Foreign,
    }
}

/// Whether `: NAME:PORT` names this machine; the port does not matter.
fn is_known(value: &[u8], listed: &[Host]) -> bool {
    let Some(text) = std::str::from_utf8(value).ok().and_then(|text| text.strip_prefix(':')) else {
        return false;
    };
    let text = text.trim();
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || is_port(rest));
    }
    let name = match text.find(':') {
        None => text,
        Some(colon) => match text.split_at(colon) {
            (name, port) if is_port(port) => name,
            _ => return false,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_listed = |host: &Host| match host {
        Host::Name(known) => known.strip_suffix('.').unwrap_or(known).eq_ignore_ascii_case(name),
        Host::Address(_) => false,
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || listed.iter().any(is_listed)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_listed_names_are_known_with_and_without_a_port() {
        for host in [
            "127.0.0.1:9586",
            "10.77.88.1",
            "[::1]:9586",
            "[fd00:77::1]",
            "localhost",
            "LocalHost.:9586",
            "forwarder:9587",
            "Host.Docker.Internal",
        ] {
            assert_eq!(asked_with(&format!("Host: {host}\r\n")), Asked::Known, "{host}");
        }
        assert_eq!(asked_with("accept: */*\r\nhOST:localhost\r\n"), Asked::Known);
    }

    #[test]
    fn other_names_and_what_is_none_are_foreign() {
        for host in [
            "evil.example.com",
            "evil.example.com:9586",
            "127.0.0.1.evil.example.com",
            "0x7f.1",
            "localhost.evil.example.com",
            "xlocalhost",
            "",
            ":9586",
            "[::1",
            "[::1]x",
            "[evil.example.com]",
            "127.0.0.1:x",
            "127.0.0.1:1:2",
            "localhost evil.example.com",
            "\u{e9}",
        ] {
            assert_eq!(asked_with(&format!("Host: {host}\r\n")), Asked::Foreign, "{host}");
        }
        assert_eq!(asked_with("Host: localhost\r\nHost: evil.example.com\r\n"), Asked::Foreign);
        assert_eq!(asked(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", &[]), Asked::Foreign);
    }

    #[test]
    fn only_the_head_is_asked() {
        assert_eq!(asked_with("X: Host: localhost\r\n"), Asked::NoName);
        assert_eq!(asked(b"GET / HTTP/1.0\r\n\r\nHost: localhost\r\n", &[]), Asked::NoName);
        assert_eq!(asked(b"", &[]), Asked::NoName);
        assert_eq!(asked(b"Host: localhost", &[]), Asked::NoName);
    }

    fn asked_with(fields: &str) -> Asked {
        let listed = ["forwarder", "host.docker.internal."].map(|name| Host::Name(name.into()));
        asked(format!("GET /metrics HTTP/1.1\r\n{fields}\r\n").as_bytes(), &listed)
    }
}

//! Text: configuration files, the UAPI, endpoints; and the PROXY header that is made of addresses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use policy::Source;
use policy::forwarder::ProxyProtocol;
use tunnel::uapi::{Change, parse_set};

/// The text of either file is refused with positions inside it, or it compiles.
pub(crate) fn config_toml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let source = Source { name: Path::new("fuzz.toml"), text };
    match policy::gateway::parse(&source) {
        Ok(policy) => drop(policy.plan()),
        Err(errors) => judge(text, &errors),
    }
    if let Err(errors) = policy::forwarder::parse(&source) {
        judge(text, &errors);
    }
}

/// Text in the place of an endpoint.
pub(crate) fn endpoint(input: &[u8]) {
    let Ok(endpoint) = std::str::from_utf8(input) else { return };
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = {endpoint:?}\n"
    );
    config_toml(text.as_bytes());
}

/// The body of a `set` request is refused, or it is a change that can be made.
pub(crate) fn uapi(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(set) = parse_set(text) {
        let change = Change::of(&set, None, &[]);
        assert!(change.upsert.len() <= set.peers.len(), "peers were made up");
    }
}

/// Two addresses and ports: the header has the length of its protocol and the given addresses.
pub(crate) fn proxy_header(input: &[u8]) {
    let Some((&[kind, ports @ ..], rest)) = input.split_first_chunk::<5>() else { return };
    let Some(&addresses) = rest.first_chunk::<32>() else { return };
    let [a, b, c, d] = ports;
    let (from, to) = addresses.split_at(16);
    let address =
        |bytes: &[u8], is_v6: bool, port| match (bytes.first_chunk::<16>(), bytes.first_chunk::<4>()) {
            (Some(bytes), _) if is_v6 => SocketAddr::from((Ipv6Addr::from(*bytes), port)),
            (_, Some(bytes)) => SocketAddr::from((Ipv4Addr::from(*bytes), port)),
            _ => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        };
    let client = address(from, kind & 1 != 0, u16::from_be_bytes([a, b]));
    let destination = address(to, kind & 2 != 0, u16::from_be_bytes([c, d]));
    let first = forwarder::proxy_protocol::header(ProxyProtocol::V1, client, destination);
    assert!(first.len() <= 107 && first.starts_with(b"PROXY ") && first.ends_with(b"\r\n"), "version 1");
    let second = forwarder::proxy_protocol::header(ProxyProtocol::V2, client, destination);
    let length =
        second.get(14..16).and_then(|length| length.first_chunk()).map(|length| u16::from_be_bytes(*length));
    assert_eq!(length.map(|length| usize::from(length) + 16), Some(second.len()), "version 2's length");
    assert!(second.ends_with(&ports), "version 2's ports");
    if client.is_ipv4() && destination.is_ipv4() {
        assert_eq!(second.get(16..20), from.get(..4), "version 2's client");
    }
}

fn judge(text: &str, errors: &[policy::ConfigError]) {
    assert!(!errors.is_empty(), "refused without a reason");
    let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX).saturating_add(1);
    for error in errors {
        assert!((1..=lines.max(1)).contains(&error.at.line), "an error is outside the text: {error}");
        assert!(error.at.column >= 1, "a column is counted from 1");
    }
}

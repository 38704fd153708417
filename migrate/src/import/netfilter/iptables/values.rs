//! Single values of rules: ports, prefixes, states and targets.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::{Kind, Ports, State, Target};
use policy::text;

/// Names of ports that rules are often written with.
const NAMES: [(&str, u16); 10] = [
    ("ssh", 22),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("www", 80),
    ("imap", 143),
    ("https", 443),
    ("submission", 587),
    ("imaps", 993),
    ("http-alt", 8080),
];

/// `80`, `https`, `8000:8010` or a list of them.
pub(super) fn ports(list: &str) -> Option<Vec<(u16, u16)>> {
    let number = |item: &str| {
        let known = NAMES.iter().find(|(name, _)| *name == item).map(|(_, port)| *port);
        known.or_else(|| item.parse().ok())
    };
    let one = |item: &str| {
        let (first, last) = item.split_once(':').unwrap_or((item, item));
        let first = if first.is_empty() { 0 } else { number(first)? };
        let last = if last.is_empty() { u16::MAX } else { number(last)? };
        (first <= last).then_some((first, last))
    };
    let ports = list.split(',').map(one).collect::<Option<Vec<_>>>()?;
    (list != ":").then_some(ports)
}

/// What `--tcp-flags MASK SET` asks for.
pub(super) fn flags(mask: &str, set: &str) -> Option<Kind> {
    let holds = |list: &str, flag: &str| list.split(',').any(|item| item == flag || item == "ALL");
    let (asks, has) = (|flag: &str| holds(mask, flag), |flag: &str| holds(set, flag));
    let contradict = [("SYN", "FIN"), ("SYN", "RST"), ("FIN", "RST")];
    let is_bare_end = has("FIN") && asks("ACK") && !has("ACK");
    let is_nothing = set == "NONE" && ["SYN", "ACK", "RST"].into_iter().all(asks);
    if contradict.iter().any(|(one, other)| has(one) && has(other)) || is_bare_end || is_nothing {
        return Some(Kind::Never);
    }
    // Of the flags SYN, RST, ACK and FIN a first packet has SYN, and the first reply ACK as well.
    let kind = if asks("ACK") { Kind::Syn } else { Kind::AnySyn };
    (asks("SYN") && set == "SYN").then_some(kind)
}

/// `192.0.2.0/24`, `192.0.2.0/255.255.255.0` or a single address, without host bits.
pub(in crate::import::netfilter) fn prefix(text: &str) -> Option<IpNetwork> {
    let text = if text == "0/0" { "0.0.0.0/0" } else { text };
    if let Some((address, mask)) = text.split_once('/')
        && let (Ok(IpAddr::V4(address)), Ok(IpAddr::V4(mask))) = (address.parse(), mask.parse())
    {
        let length = ipnetwork::ipv4_mask_to_prefix(mask).ok()?;
        return IpNetwork::new(IpAddr::V4(address), length).ok().map(policy::prefix::network);
    }
    text::prefix(text).map(policy::prefix::network)
}

/// States of connection tracking, in either program's case.
pub(in crate::import::netfilter) fn states(list: &str) -> Option<Vec<State>> {
    let one = |name: &str| {
        Some(match name.trim().to_ascii_uppercase().as_str() {
            "NEW" => State::New,
            "ESTABLISHED" => State::Established,
            "DNAT" => State::Dnat,
            "SNAT" => State::Snat,
            "RELATED" | "INVALID" | "UNTRACKED" => State::Other,
            _ => return None,
        })
    };
    list.split(',').map(one).collect()
}

/// `ADDRESS`, `ADDRESS:PORT`, `ADDRESS:FIRST-LAST` or `ADDRESS:FIRST-LAST/BASE`.
pub(in crate::import::netfilter) fn target(written: &str) -> Option<Target> {
    if let Some(address) = text::address(written.trim_start_matches('[').trim_end_matches(']')) {
        return Some(Target { address, ports: Ports::Same });
    }
    let (address, ports) = text::split_port(written)?;
    let address = text::address(address)?;
    let (ports, from) = match ports.split_once('/') {
        Some((ports, from)) => (ports, Some(text::port(from)?)),
        None => (ports, None),
    };
    let ports = text::ports(ports)?;
    let (first, last) = (ports.first(), ports.last());
    let ports = match from {
        Some(from) => Ports::Shifted { from, last: from.checked_add(last - first)?, to: first },
        None if first == last => Ports::One(first),
        None => Ports::Within(first, last),
    };
    Some(Target { address, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_keep_what_the_kernel_does_with_the_port() {
        let ports = |text: &str| target(text).map(|target| target.ports);
        assert_eq!(ports("10.0.0.2"), Some(Ports::Same));
        assert_eq!(ports("10.0.0.2:80"), Some(Ports::One(80)));
        assert_eq!(ports("10.0.0.2:80-90"), Some(Ports::Within(80, 90)));
        let shifted = Ports::Shifted { from: 8_080, last: 8_090, to: 80 };
        assert_eq!(ports("10.0.0.2:80-90/8080"), Some(shifted));
        assert_eq!((shifted.of(8_081), shifted.of(8_091)), (Some(81), None));
        assert_eq!(target("[fd00::2]:443").map(|target| target.ports), Some(Ports::One(443)));
        assert_eq!(target("fd00::2").map(|target| target.ports), Some(Ports::Same));
        assert_eq!(ports("host:80"), None);
    }
}

//! Probes of services behind a peer, through whole nodes.

use super::lab::End;
use super::*;
use crate::packet::icmp::Error;
use crate::packet::{Bare, Ip, Tcp, tcp_flags};

const TARGET: &str = "192.168.88.2:443";
const V6_TARGET: &str = "[fd00::2]:443";
const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;

#[test]
fn an_open_port_is_reset_and_reported_and_the_inner_network_sees_nothing_of_it() {
    for target in [TARGET, V6_TARGET] {
        let mut pair = connected();
        let syn = probe(&mut pair, target);
        assert_eq!((syn.flags, syn.source_port >= 61_000), (tcp_flags::SYN, true));
        pair.reply(target, &syn, SYN_ACK, 1);
        assert_eq!(replies(&pair), [(target.parse().unwrap(), ServiceReply::Open)]);
        assert!(pair.edge.delivered.is_empty());
        let reset = pair.at_origin().expect("a reset");
        assert_eq!((reset.flags, reset.sequence), (tcp_flags::RST, syn.sequence.wrapping_add(1)));
    }
}

#[test]
fn a_reset_and_an_error_about_the_port_are_refusals() {
    for target in [TARGET, V6_TARGET] {
        let mut pair = connected();
        let syn = probe(&mut pair, target);
        pair.reply(target, &syn, tcp_flags::RST | tcp_flags::ACK, 1);
        assert_eq!(replies(&pair), [(target.parse().unwrap(), ServiceReply::Refused)]);

        let mut pair = connected();
        pair.edge.node.probe_service(target.parse().unwrap(), pair.now).unwrap();
        pair.timers();
        pair.exchange();
        let about = pair.origin.delivered.pop().expect("a SYN");
        let from = target.parse::<SocketAddr>().unwrap().ip();
        pair.send_to_edge(Error::PortUnreachable.build(&about, from).unwrap());
        assert_eq!(replies(&pair), [(target.parse().unwrap(), ServiceReply::Refused)]);
        assert!(pair.edge.delivered.is_empty());
    }
}

#[test]
fn silence_is_reported_after_two_seconds_and_three_syns() {
    let mut pair = connected();
    probe(&mut pair, TARGET);
    let mut syns = 1;
    for _ in 0..20 {
        pair.advance(Duration::from_millis(100));
        pair.timers();
        pair.exchange();
        syns += std::mem::take(&mut pair.origin.delivered).len();
    }
    assert_eq!((syns, replies(&pair)), (3, vec![(TARGET.parse().unwrap(), ServiceReply::Silent)]));
}

#[test]
fn forged_replies_are_ordinary_packets_and_change_nothing() {
    let mut pair = connected();
    let syn = probe(&mut pair, TARGET);
    pair.reply(TARGET, &syn, SYN_ACK, 2);
    pair.reply(TARGET, &Tcp { source_port: syn.source_port ^ 1, ..syn }, SYN_ACK, 1);
    pair.reply("192.168.88.2:444", &syn, SYN_ACK, 1);
    pair.reply("192.168.88.3:443", &syn, SYN_ACK, 1);
    let mut damaged = answer(TARGET, &syn, SYN_ACK, 1);
    damaged[38] ^= 1;
    pair.send_to_edge(damaged);
    assert_eq!((replies(&pair), pair.edge.delivered.len()), (vec![], 5));
    assert!(pair.at_origin().is_none(), "something was answered");
}

#[test]
fn a_reply_through_another_peer_is_dropped() {
    let mut pair = connected();
    let (private, public) = key(3);
    let mut other = End::new(private, public, "10.77.88.3", "198.51.100.9:40000", None, pair.now);
    let at_edge = PeerConfig {
        public_key: public,
        endpoint: None,
        allowed_ips: vec!["10.77.88.3/32".parse().unwrap()],
        ..pair.edge.node.peer_config(&pair.origin.key).unwrap()
    };
    let at_other = PeerConfig {
        public_key: pair.edge.key,
        endpoint: Some(EDGE_OUTER.parse().unwrap()),
        allowed_ips: vec!["10.77.88.1/32".parse().unwrap()],
        ..at_edge.clone()
    };
    pair.edge.node.update_peers(&[at_edge], &[], pair.now).unwrap();
    other.node.update_peers(&[at_other], &[], pair.now).unwrap();
    let syn = probe(&mut pair, TARGET);
    let mut forged = answer(TARGET, &syn, SYN_ACK, 1);
    other.node.handle_inner(pair.now, whole(&mut forged), &mut other.out);
    // The handshake, and then what waited for it.
    for _ in 0..3 {
        for (datagram, ..) in other.take() {
            pair.edge.receive(pair.now, other.at, &datagram, 0);
        }
        for (datagram, ..) in pair.edge.take() {
            other.receive(pair.now, pair.edge.at, &datagram, 0);
        }
    }
    assert_eq!(pair.edge.node.dropped(DropReason::SpoofedSource), 1);
    assert_eq!((replies(&pair), pair.edge.delivered.len()), (vec![], 0));
}

#[test]
fn without_address_peer_or_session_nothing_is_probed() {
    let pair = Pair::new();
    let probed = |target: &str| pair.edge.node.probe_service(target.parse().unwrap(), pair.now);
    assert_eq!(probed(V6_TARGET), Err(NotProbed::NoAddress));
    assert_eq!(probed("192.168.99.2:443"), Err(NotProbed::NoPeer));
    assert_eq!(probed(TARGET), Err(NotProbed::NoSession));
    let pair = connected();
    let target = |port| SocketAddr::new("192.168.88.2".parse().unwrap(), port);
    for port in 1..=64 {
        assert_eq!(pair.edge.node.probe_service(target(port), pair.now), Ok(()));
    }
    assert_eq!(pair.edge.node.probe_service(target(65), pair.now), Err(NotProbed::Busy));
}

#[test]
fn the_end_of_a_session_ends_its_probes_without_a_result() {
    let mut pair = connected();
    probe(&mut pair, TARGET);
    pair.edge.node.set_private_key(Some(key(9).0), pair.now);
    pair.advance(Duration::from_secs(3));
    pair.timers();
    assert_eq!(replies(&pair), []);
}

/// A pair with a session, whose edge has an address of each family.
fn connected() -> Pair {
    let pair = Pair::connected();
    pair.edge.node.set_addresses(vec![EDGE.parse().unwrap(), "fd00::1".parse().unwrap()]);
    while pair.edge.node.poll_event().is_some() {}
    pair
}

/// Probes, and returns the SYN as it arrives at the origin.
fn probe(pair: &mut Pair, target: &str) -> Tcp {
    pair.edge.node.probe_service(target.parse().unwrap(), pair.now).unwrap();
    assert!(pair.edge.node.poll_timeout().is_some_and(|at| at <= pair.now.instant), "nothing is due");
    pair.timers();
    pair.exchange();
    pair.at_origin().expect("a SYN")
}

/// The results since the last time.
fn replies(pair: &Pair) -> Vec<(SocketAddr, ServiceReply)> {
    let events = std::iter::from_fn(|| pair.edge.node.poll_event());
    let probed = |event| {
        let Event::ServiceProbed { target, reply } = event else { return None };
        Some((target, reply))
    };
    events.filter_map(probed).collect()
}

/// A packet of the target in reply to a SYN, which acknowledges its number and so much more.
fn answer(target: &str, syn: &Tcp, flags: u8, more: u32) -> Vec<u8> {
    let source: SocketAddr = target.parse().unwrap();
    let own = if source.is_ipv4() { EDGE } else { "fd00::1" };
    let destination = SocketAddr::new(own.parse().unwrap(), syn.source_port);
    let acknowledgement = Some(syn.sequence.wrapping_add(more));
    Bare { source, destination, sequence: 7, acknowledgement, flags }.packet()
}

impl Pair {
    fn reply(&mut self, target: &str, syn: &Tcp, flags: u8, more: u32) {
        self.send_to_edge(answer(target, syn, flags, more));
    }

    /// Carries a packet of the inner network at the origin to the edge, and what that answers.
    fn send_to_edge(&mut self, mut packet: Vec<u8>) {
        self.origin.node.handle_inner(self.now, whole(&mut packet), &mut self.origin.out);
        self.exchange();
    }

    /// The segment that arrived at the origin.
    fn at_origin(&mut self) -> Option<Tcp> {
        let packet = self.origin.delivered.pop()?;
        let ip = Ip::parse(&packet).unwrap();
        assert!(ip.transport_checksum_is_valid(&packet));
        Some(Tcp::parse(ip.payload(&packet)).unwrap())
    }
}

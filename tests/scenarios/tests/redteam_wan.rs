//! Attacks of a WAN client on the edge: nothing is answered, nothing goes further, and other
//! clients are served meanwhile.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, TcpServer, Topology, echo, full_counts, scenario};
use relay::Random;
use scenarios::forge::{self, V4, datagram, piece, segment, syn};
use scenarios::{Attacker, Closed, Silence, Site, Visitor, download, initiations, memory, serve_bulk};
use tunnel::packet::{protocol, tcp_flags};

const EDGE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const EDGE_ON_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const LAN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 50);
/// The attacker's source, an address of the internet next to the visitor's, which no host of the
/// lab has.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const ATTACKER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x77);
const EDGE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, 0, 2);
/// The echo server at the origin, as visitors know it.
const SERVICE: &str = "192.0.2.2:5001";
/// Ports that the edge and a LAN host listen on, and that no WAN client may reach.
const CLOSED: [u16; 3] = [2049, 8080, 9999];

#[test]
fn whatever_a_wan_client_sends_to_what_is_closed_is_neither_answered_nor_carried_on() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let stage = Stage::up(lab)?;
        let before = stage.site.edge.run("ip route show table all")?;
        let attacks = [
            ("every IP protocol", every_protocol()?),
            ("forged sources", forged_sources()?),
            ("odd flags", odd_flags()?),
            ("IP options", ip_options()?),
            ("fragments", fragments()?),
            ("ICMP", icmp_messages()?),
            ("to everybody on the link", broadcasts()?),
        ];
        for (attack, packets) in attacks {
            packets.iter().for_each(|packet| stage.attacker.send(packet));
            stage.holds(attack)?;
        }
        let after = stage.site.edge.run("ip route show table all")?;
        ensure!(before == after, "a route changed:\n{before}\n{after}");
        stage.end()
    })
}

#[test]
fn over_ipv6_a_wan_client_reaches_nothing_by_ports_headers_or_neighbour_discovery() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let stage = Stage::up(lab)?;
        let state = || stage.site.edge.shell("ip -6 route show table all; ip -6 address show scope global");
        let before = state()?;
        let last_port = if full_counts() { 10_000 } else { 1_024 };
        for port in (1..=last_port).filter(|port| *port != 22).chain(CLOSED) {
            // Port 22 is accepted: it is closed, and says so.
            stage.attacker.send(&syn6(ATTACKER_V6, EDGE_V6, port)?);
        }
        stage.holds("ports")?;
        for packet in odd_v6()? {
            stage.attacker.send(&packet);
        }
        stage.holds("headers and neighbour discovery")?;
        let after = state()?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        stage.end()
    })
}

#[test]
fn forged_icmp_errors_about_the_tunnel_neither_cut_nor_slow_nor_shrink_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let (inet, client) = (lab.node("inet")?, lab.node("client")?);
        let attacker =
            Attacker::new((&inet, "edge0"), Some((&site.edge, "eth0")), &site.edge, (ATTACKER, EDGE))?;
        let cut =
            Silence::new().arriving(&inet, "are fragments", "iifname edge0 ip frag-off & 0x3fff != 0")?;
        let endpoint = site.peer_field("/endpoint")?;
        let port = endpoint.as_str().and_then(|text| text.rsplit(':').next()?.parse().ok()).unwrap_or(0);
        let outer = datagram(EDGE, Ipv4Addr::new(198, 51, 100, 7), (51_820, port), &[4, 0, 0, 0])?;
        // Too big in three sizes, no such net, host, port, protocol, time exceeded and a redirect.
        let errors = [
            (3, 4, [0, 0, 2, 64]),
            (3, 4, [0, 0, 0, 68]),
            (3, 4, [0; 4]),
            (3, 0, [0; 4]),
            (3, 1, [0; 4]),
            (3, 3, [0; 4]),
            (3, 2, [0; 4]),
            (11, 0, [0; 4]),
            (5, 1, [192, 0, 2, 66]),
        ];
        for _ in 0..200 {
            for (kind, code, word) in errors {
                let error = forge::icmp(kind, code, word, &outer);
                attacker.send(&V4::new(Ipv4Addr::new(192, 0, 2, 1), EDGE, protocol::ICMP, error).bytes()?);
            }
        }
        attacker.settle()?;
        download(&client, SERVICE, 3 << 20)?;
        cut.holds("after forged errors")?;
        let exceptions = site.edge.run("ip route get 198.51.100.7")?;
        ensure!(!exceptions.contains("mtu") && !exceptions.contains("192.0.2.66"), "{exceptions}");
        ensure!(site.state()? == "up");
        Ok(())
    })
}

#[test]
fn floods_of_a_wan_client_take_no_page_from_anybody_and_get_no_answer_but_cookies() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // Warned of while the peer is not up, as may happen when the machine is busy with the
        // floods.
        lab.expect_warning("came with a key that no [[peer]] has");
        let mut site = Site::new(lab)?;
        site.gateway_config.append(
            "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"",
        );
        let _echo = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let inet = lab.node("inet")?;
        let attacker =
            Attacker::new((&inet, "edge0"), Some((&site.edge, "eth0")), &site.edge, (ATTACKER, EDGE))?;
        // Of WireGuard an unknown peer gets cookie replies at most, which are of type 3.
        let only_cookies = Silence::new().arriving(
            &inet,
            "are more than a cookie",
            "iifname edge0 ip daddr != 198.51.100.7 udp sport 51820 @th,64,8 != 3",
        )?;
        let (gateway, forwarder) = (memory(site.gateway()?)?, memory(site.forwarder()?)?);
        let visitor = Visitor::start(&lab.node("client")?, SERVICE);
        visitor.sees(1)?;
        for flood in floods(&site)? {
            let (count, rate) = if full_counts() { (8 * flood.rate, flood.rate) } else { (12_000, 6_000) };
            attacker.flood(count, rate, &flood.packet)?;
            attacker.settle()?;
            only_cookies.holds(flood.name)?;
            visitor.sees(2)?;
            ensure!(site.gateway()?.is_running() && site.forwarder()?.is_running(), "{}", flood.name);
        }
        let pages = visitor.end()?;
        println!("{pages} pages during {} packets", attacker.sent());
        site.wait_until_up(Duration::from_secs(15))?;
        let after = (memory(site.gateway()?)?, memory(site.forwarder()?)?);
        let most = 40 * 1024;
        ensure!(
            after.0 < gateway + most && after.1 < forwarder + most,
            "{gateway}, {forwarder}: {after:?} KiB"
        );
        Ok(())
    })
}

/// An edge full of servers that are closed to the WAN, a page for a visitor, and who attacks.
struct Stage<'lab> {
    site: Site<'lab>,
    attacker: Attacker,
    closed: [Closed; 2],
    silence: Silence,
    visitor: Visitor,
    _page: TcpServer,
}

impl<'lab> Stage<'lab> {
    fn up(lab: &'lab Lab) -> Result<Self> {
        let mut site = Site::new(lab)?;
        let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let (inet, lan, client) = (lab.node("inet")?, lab.node("lan")?, lab.node("client")?);
        // From now on the machines have each other's link-layer addresses.
        client.run("ping -6 -c 1 -W 5 2001:db8:192::2")?;
        let closed = [Closed::start(&site.edge, "[::]", &CLOSED)?, Closed::start(&lan, "0.0.0.0", &CLOSED)?];
        let attacker =
            Attacker::new((&inet, "edge0"), Some((&site.edge, "eth0")), &site.edge, (ATTACKER, EDGE))?;
        let discovery = "{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report }";
        let silence = Silence::new()
            .arriving(&inet, "came back", "iifname edge0 ip daddr != { 203.0.113.10, 198.51.100.7 }")?
            .arriving(
                &inet,
                "came back over IPv6",
                "iifname edge0 meta nfproto ipv6 meta l4proto { tcp, udp }",
            )?
            .arriving(&inet, "came back over ICMPv6", &format!("iifname edge0 icmpv6 type != {discovery}"))?
            .leaving(
                &site.edge,
                "went into the tunnel",
                "oifname gw0 ip saddr != 203.0.113.10 th sport != 51899",
            )?
            .leaving(&site.edge, "went to the LAN", "oifname eth1 meta l4proto { tcp, udp, icmp }")?;
        let visitor = Visitor::start(&client, SERVICE);
        visitor.sees(1)?;
        Ok(Self { site, attacker, closed, silence, visitor, _page: page })
    }

    fn holds(&self, attack: &str) -> Result<()> {
        self.attacker.settle()?;
        self.silence.holds(attack)?;
        self.closed.iter().try_for_each(|closed| closed.holds(attack))?;
        self.visitor.sees(1)
    }

    fn end(mut self) -> Result<()> {
        ensure!(self.site.gateway()?.is_running() && self.site.state()? == "up");
        self.visitor.end().map(drop)
    }
}

/// Each protocol but ICMP, whose echo is answered, with a SYN to a LAN host in it, as a tunnel would carry it.
fn every_protocol() -> Result<Vec<Vec<u8>>> {
    let inner = syn(ATTACKER, LAN_HOST, (40_000, 2049))?;
    let numbers = (0..=u8::MAX).filter(|number| *number != protocol::ICMP);
    let targets = [EDGE, EDGE_ON_LAN];
    targets
        .iter()
        .flat_map(|&target| numbers.clone().map(move |number| (target, number)))
        .map(|(target, number)| V4::new(ATTACKER, target, number, inner.clone()).bytes())
        .collect()
}

fn forged_sources() -> Result<Vec<Vec<u8>>> {
    let sources = [
        "127.0.0.1",
        "192.0.2.2",
        "192.0.2.255",
        "10.77.88.1",
        "10.77.88.2",
        "192.168.88.2",
        "192.168.1.2",
        "192.168.1.50",
        "192.168.1.77",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
    ];
    let targets = [
        EDGE,
        EDGE_ON_LAN,
        LAN_HOST,
        Ipv4Addr::new(10, 77, 88, 1),
        Ipv4Addr::new(192, 168, 88, 2),
        Ipv4Addr::LOCALHOST,
    ];
    let mut packets = Vec::new();
    for source in sources {
        let source: Ipv4Addr = source.parse()?;
        for target in targets {
            for port in [2049, 5001, 8428] {
                packets.push(syn(source, target, (40_000, port))?);
                packets.push(datagram(source, target, (40_000, port), b"word")?);
            }
        }
    }
    for target in targets.into_iter().filter(|target| ![EDGE, EDGE_ON_LAN].contains(target)) {
        packets.push(syn(ATTACKER, target, (40_000, 5001))?);
    }
    Ok(packets)
}

fn odd_flags() -> Result<Vec<Vec<u8>>> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN};
    const URG: u8 = 0x20;
    let mut packets = Vec::new();
    for flags in [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | RST, SYN | ACK, RST, RST | ACK, 0xff] {
        for port in [2049, 5001] {
            packets.push(segment(ATTACKER, EDGE, (40_001, port), flags)?);
        }
    }
    for flags in [ACK, FIN | ACK, PSH | ACK] {
        for port in [2049, 5001] {
            packets.push(segment(ATTACKER, EDGE, (40_002, port), flags)?);
        }
    }
    Ok(packets)
}

/// Source routes by the edge to a LAN host and a service, recorded routes, time stamps, and router alert.
fn ip_options() -> Result<Vec<Vec<u8>>> {
    let to_lan = [131, 7, 4, 192, 168, 1, 50];
    let to_origin = [137, 7, 4, 192, 168, 88, 2];
    let record = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    let stamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Only valid options: the kernel itself answers malformed ones, before any rule of ours.
    let options: [&[u8]; 5] = [&to_lan, &to_origin, &record, &stamp, &[148, 4, 0, 0]];
    let mut packets = Vec::new();
    for options in options {
        let tcp = forge::tcp(ATTACKER.into(), EDGE.into(), (40_003, 2049), tcp_flags::SYN);
        packets.push(V4::new(ATTACKER, EDGE, protocol::TCP, tcp).options(options).bytes()?);
        let udp = forge::udp(ATTACKER.into(), EDGE.into(), (40_003, 9999), b"word")?;
        packets.push(V4::new(ATTACKER, EDGE, protocol::UDP, udp).options(options).bytes()?);
    }
    Ok(packets)
}

/// SYNs and datagrams to closed ports, cut so that a rule that sees only one piece would let them
/// in.
fn fragments() -> Result<Vec<Vec<u8>>> {
    let mut tcp = forge::tcp(ATTACKER.into(), EDGE.into(), (40_004, 2049), tcp_flags::SYN);
    tcp.extend([0; 12]);
    let whole = V4::new(ATTACKER, EDGE, protocol::TCP, Vec::new());
    let open = forge::tcp(ATTACKER.into(), EDGE.into(), (40_004, 5001), tcp_flags::SYN);
    let udp = forge::udp(ATTACKER.into(), EDGE.into(), (40_004, 9999), &[0; 40])?;
    let datagram = V4::new(ATTACKER, EDGE, protocol::UDP, Vec::new());
    let (head, tail) = tcp.split_at(8);
    let mut packets = vec![
        // Tiny: the flags are in the second piece.
        whole.fragment(0, head, true).bytes()?,
        whole.fragment(1, tail, false).bytes()?,
        // The first piece is missing.
        datagram.fragment(5, piece(&udp, 40..usize::MAX), false).bytes()?,
        // Longer than a packet can be.
        datagram.fragment(8191, vec![0; 200], false).bytes()?,
        datagram.fragment(0, piece(&udp, 0..16), true).bytes()?,
        datagram.fragment(2, piece(&udp, 16..usize::MAX), false).bytes()?,
    ];
    // Two first pieces that overlap: one to an open port, one to a closed port, in either order.
    for (first, second) in [(&open, &tcp), (&tcp, &open)] {
        packets.push(whole.fragment(0, piece(first, 0..16), true).bytes()?);
        packets.push(whole.fragment(0, piece(second, 0..16), true).bytes()?);
        packets.push(whole.fragment(2, piece(&tcp, 16..usize::MAX), false).bytes()?);
    }
    Ok(packets)
}

/// Every ICMP type but the needed ones (echo request and errors), and messages that claim to come
/// from the next hop.
fn icmp_messages() -> Result<Vec<Vec<u8>>> {
    let router = Ipv4Addr::new(192, 0, 2, 1);
    let mut packets = Vec::new();
    for kind in (0..=u8::MAX).filter(|kind| ![3, 8, 11, 12].contains(kind)) {
        packets.push(forge::message(ATTACKER, EDGE, kind, 0)?);
    }
    let known = syn(EDGE, ATTACKER, (2049, 40_000))?;
    for code in 0..4 {
        let redirect = forge::icmp(5, code, [192, 0, 2, 66], &known);
        packets.push(V4::new(router, EDGE, protocol::ICMP, redirect).bytes()?);
    }
    Ok(packets)
}

fn broadcasts() -> Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    for target in
        ["192.0.2.255", "255.255.255.255", "192.168.1.255", "224.0.0.1", "224.0.0.251", "239.255.255.250"]
    {
        let target: Ipv4Addr = target.parse()?;
        packets.push(forge::message(ATTACKER, target, 8, 0)?);
        for port in [67, 137, 1900, 5353, 9999] {
            packets.push(datagram(ATTACKER, target, (port, port), b"who is there")?);
        }
    }
    Ok(packets)
}

fn syn6(source: Ipv6Addr, target: Ipv6Addr, port: u16) -> Result<Vec<u8>> {
    let tcp = forge::tcp(source.into(), target.into(), (40_000, port), tcp_flags::SYN);
    forge::v6(source, target, protocol::TCP, &tcp)
}

/// Sources that no packet of the WAN can have, extension headers, and messages that would change
/// routes or addresses.
fn odd_v6() -> Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let sources = [
        "2001:db8:192::2",
        "::1",
        "::",
        "::ffff:192.168.1.50",
        "2002:c0a8:132::1",
        "2001:0:c000:202::1",
        "ff02::1",
        "fd00:77::2",
    ];
    for source in sources {
        for port in CLOSED {
            packets.push(syn6(source.parse()?, EDGE_V6, port)?);
        }
    }
    // Hop-by-hop, destination options, routing (type 0, to a LAN host's mapped address), and a
    // fragment that is the whole packet.
    let mut routing = vec![6, 2, 0, 1, 0, 0, 0, 0];
    routing.extend("::ffff:192.168.1.50".parse::<Ipv6Addr>()?.octets());
    let headers: [(u8, &[u8]); 4] = [
        (0, &[6, 0, 1, 4, 0, 0, 0, 0]),
        (60, &[6, 0, 1, 4, 0, 0, 0, 0]),
        (43, &routing),
        (44, &[6, 0, 0, 0, 0, 0, 0, 9]),
    ];
    for (next, header) in headers {
        let tcp = forge::tcp(ATTACKER_V6.into(), EDGE_V6.into(), (40_005, 8080), tcp_flags::SYN);
        packets.push(forge::v6(ATTACKER_V6, EDGE_V6, next, &[header, &tcp].concat())?);
    }
    let mut prefix = vec![3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    prefix.extend("2001:db8:bad::".parse::<Ipv6Addr>()?.octets());
    let advert = [&[0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
    let redirect = [ATTACKER_V6.octets(), "2001:db8:203::10".parse::<Ipv6Addr>()?.octets()].concat();
    for source in [ATTACKER_V6, "2001:db8:192::1".parse()?] {
        for (kind, rest) in
            [(134, &advert), (137, &redirect), (139, &redirect), (130, &redirect), (133, &advert)]
        {
            let message = forge::icmp6(source, EDGE_V6, kind, [64, 0, 14, 16], rest);
            packets.push(forge::v6(source, EDGE_V6, protocol::ICMPV6, &message)?);
        }
    }
    Ok(packets)
}

/// Many packets of one kind.
struct Flood {
    name: &'static str,
    /// Packets in a second with full counts.
    rate: u32,
    packet: Box<dyn Fn(u32) -> Result<Vec<u8>>>,
}

fn floods(site: &Site<'_>) -> Result<Vec<Flood>> {
    // Addresses of the benchmark network, which no host of the lab has.
    let source = |number: u32| Ipv4Addr::from_bits(0xc612_0000 | (number & 0xffff));
    let port = |number: u32| 1_024 + u16::try_from(number >> 16).unwrap_or(0);
    let initiations = initiations(&site.kyiv.public, 32)?;
    let pick = move |number: u32| {
        let at = usize::try_from(number).unwrap_or(0) % initiations.len();
        initiations.get(at).cloned().unwrap_or_default()
    };
    let same = pick.clone();
    let garbage = move |number: u32| {
        let mut random = Random::new(number.into());
        let bytes: Vec<u8> = (0..16).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        datagram(Ipv4Addr::from_bits(0x0b00_0000 | number), EDGE, (4000, 51_820), &bytes)
    };
    let flood = |name, rate, packet| Flood { name, rate, packet };
    Ok(vec![
        flood("noise to WireGuard", 30_000, Box::new(garbage)),
        flood(
            "initiations of many sources",
            10_000,
            Box::new(move |number| datagram(source(number), EDGE, (4000, 51_820), &pick(number))),
        ),
        flood(
            "initiations of one source",
            10_000,
            Box::new(move |number| datagram(ATTACKER, EDGE, (4000, 51_820), &same(number))),
        ),
        flood("SYNs", 20_000, Box::new(move |number| syn(source(number), EDGE, (port(number), 5001)))),
        flood(
            "ACKs",
            20_000,
            Box::new(move |number| segment(source(number), EDGE, (port(number), 5001), tcp_flags::ACK)),
        ),
        flood(
            "datagrams to a published port",
            10_000,
            Box::new(move |number| datagram(source(number), EDGE, (port(number), 6000), b"word")),
        ),
    ])
}

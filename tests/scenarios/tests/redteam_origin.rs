//! A compromised origin, and a compromised edge: an attacker at one end of the tunnel reaches what the other
//! end lists, and nothing else.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, TcpServer, Topology, echo, scenario, until};
use scenarios::forge::{self, V4, datagram, message, piece, segment, syn};
use scenarios::{
    Attacker, Closed, PlainPeer, Router, Silence, Site, Visitor, WireGuardGo, page, preshared_key,
};
use tunnel::packet::{protocol, tcp_flags};

const ORIGIN: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 2);
const ORIGIN_IN_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 77, 88, 2);
const EDGE_IN_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 77, 88, 1);
const EDGE_ON_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Ports that the edge and a LAN host listen on; only 2049 of them is listed.
const CLOSED: [u16; 5] = [22, 111, 2050, 8080, 9091];

/// Ports that the origin listens on and that no `[[service]]` lists.
const AT_ORIGIN: [u16; 4] = [22, 5432, 8080, 9090];

#[test]
fn a_compromised_origin_reaches_nothing_that_no_allow_lists_and_no_host_on_the_internet() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let _page = TcpServer::start(site.origin.tcp_listener("192.168.88.2:5001")?, echo)?;
        site.start_gateway()?;
        let _far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
        site.wait_until_up(Duration::from_secs(20))?;
        let (lan, client) = (lab.node("lan")?, lab.node("client")?);
        let closed =
            [Closed::start(&site.edge, "0.0.0.0", &CLOSED)?, Closed::start(&lan, "0.0.0.0", &CLOSED)?];
        let attacker =
            Attacker::new((&site.origin, "kyiv"), None, &site.edge, (ORIGIN_IN_TUNNEL, EDGE_IN_TUNNEL))?;
        let silence = Silence::new()
            .leaving(
                &site.edge,
                "went to the internet",
                "oifname eth0 meta nfproto ipv4 th sport != { 5001, 51820 }",
            )?
            .leaving(&site.edge, "went to the LAN", "oifname eth1 meta nfproto ipv4")?
            .leaving(&site.edge, "went back into the tunnel", "oifname gw0 ip saddr != 203.0.113.10")?;
        let visitor = Visitor::start(&client, "192.0.2.2:5001");
        visitor.sees(1)?;
        let attacks = [
            ("ports that are not listed", not_listed()?),
            ("forged sources", forged_sources()?),
            ("other protocols and ICMP", other_protocols()?),
            ("clients without a flow", without_a_flow()?),
            ("options, fragments, lies", malformed()?),
        ];
        for (attack, packets) in attacks {
            packets.iter().for_each(|packet| attacker.send(packet));
            attacker.settle()?;
            silence.holds(attack)?;
            closed.iter().try_for_each(|closed| closed.holds(attack))?;
            visitor.sees(1)?;
        }
        println!("{} packets, {} pages", attacker.sent(), visitor.end()?);
        ensure!(site.gateway()?.is_running() && site.state()? == "up");
        Ok(())
    })
}

#[test]
fn a_compromised_edge_makes_the_forwarder_dial_nothing_that_no_service_lists_and_send_to_no_one_else()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _near = compromised_edge(lab, &site)?;
        let closed = Closed::start(&site.origin, "0.0.0.0", &AT_ORIGIN)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start_forwarder()?;
        until(Duration::from_secs(15), "the tunnel", || {
            site.edge.tcp_connect("192.168.88.2:5001", Duration::from_secs(2)).map(Some)
        })?;
        let attacker = Attacker::new((&site.edge, "wg0"), None, &site.edge, (EDGE_IN_TUNNEL, ORIGIN))?;
        let silence = Silence::new().leaving(
            &site.origin,
            "went to another host",
            "oifname != lo ip daddr != 192.0.2.2",
        )?;
        let targets = [
            "192.168.88.2",
            "10.77.88.2",
            "127.0.0.1",
            "127.0.0.53",
            "100.64.0.2",
            "100.64.0.1",
            "192.168.88.1",
            "198.51.100.1",
            "203.0.113.10",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
        ];
        for target in targets {
            let target: Ipv4Addr = target.parse()?;
            for source in [EDGE_IN_TUNNEL, CLIENT, Ipv4Addr::LOCALHOST, ORIGIN, Ipv4Addr::BROADCAST] {
                for port in AT_ORIGIN.into_iter().chain([2049, 9587]) {
                    attacker.send(&syn(source, target, (40_000, port))?);
                    attacker.send(&datagram(source, target, (40_000, port), b"word")?);
                }
                // A listed port of an address that is not listed.
                if target != ORIGIN {
                    attacker.send(&syn(source, target, (40_000, 5001))?);
                }
            }
        }
        // What comes after it in the same tunnel has come through.
        page(&site.edge, "192.168.88.2:5001")?;
        silence.holds("a compromised edge")?;
        closed.holds("a compromised edge")?;
        ensure!(site.forwarder()?.is_running() && attacker.sent() > 500);
        Ok(())
    })
}

#[test]
fn a_compromised_edge_names_any_client_to_a_web_server_and_no_more_than_that() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _near = compromised_edge(lab, &site)?;
        // It closes after the header's first line of 28 bytes, and gives it back.
        let _web = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8443")?, |mut stream| {
            let mut header = [0; 28];
            stream.read_exact(&mut header)?;
            std::io::Write::write_all(&mut stream, &header)
        })?;
        site.edge.run("ip address add 198.18.66.66/32 dev lo")?;
        site.start_forwarder()?;
        let header = until(Duration::from_secs(15), "the header", || {
            let mut stream = site.edge.within(|| -> Result<std::net::TcpStream> {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.bind(&std::net::SocketAddr::from(([198, 18, 66, 66], 0)).into())?;
                let target = std::net::SocketAddr::from((ORIGIN, 443));
                socket.connect_timeout(&target.into(), Duration::from_secs(5))?;
                Ok(socket.into())
            })??;
            let mut header = [0; 28];
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.read_exact(&mut header)?;
            Ok(Some(header))
        })?;
        ensure!(header.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "{header:?}");
        ensure!(header.get(16..20) == Some(&[198, 18, 66, 66]), "another client is named: {header:?}");
        Ok(())
    })
}

/// Eighteen places: the edge, its LAN, its WAN side, its containers, other clients, the tunnel itself.
fn not_listed() -> Result<Vec<Vec<u8>>> {
    let places = [
        "10.77.88.1",
        "192.168.1.2",
        "192.168.1.50",
        "192.168.1.1",
        "192.168.1.255",
        "192.0.2.1",
        "192.0.2.2",
        "203.0.113.10",
        "198.51.100.1",
        "172.17.0.2",
        "127.0.0.1",
        "127.0.0.53",
        "10.77.88.3",
        "192.168.88.9",
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",
        "1.1.1.1",
    ];
    let ports = CLOSED.into_iter().chain([80, 443, 5001, 9586, 51_820]);
    let mut packets = Vec::new();
    for place in places {
        let place: Ipv4Addr = place.parse()?;
        for source in [ORIGIN, ORIGIN_IN_TUNNEL] {
            for port in ports.clone() {
                packets.push(syn(source, place, (40_000, port))?);
                packets.push(datagram(source, place, (40_000, port), b"word")?);
            }
        }
        // Listed by port, but for these two alone.
        if !["192.168.1.2", "192.168.1.50", "10.77.88.1", "192.0.2.2", "127.0.0.1"]
            .contains(&place.to_string().as_str())
        {
            packets.push(syn(ORIGIN, place, (40_000, 2049))?);
        }
        packets.push(datagram(ORIGIN, place, (40_000, 2049), b"by UDP")?);
    }
    Ok(packets)
}

/// Even the listed port is closed to a source that is not the peer's.
fn forged_sources() -> Result<Vec<Vec<u8>>> {
    let sources = [
        "192.168.1.50",
        "192.168.1.2",
        "10.77.88.1",
        "192.0.2.2",
        "203.0.113.10",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "172.17.0.2",
        "192.168.89.2",
    ];
    let mut packets = Vec::new();
    for source in sources {
        for target in [EDGE_ON_LAN, EDGE_IN_TUNNEL, Ipv4Addr::new(192, 168, 1, 50)] {
            for port in [2049, 22] {
                packets.push(syn(source.parse()?, target, (40_000, port))?);
                packets.push(datagram(source.parse()?, target, (40_000, port), b"word")?);
            }
        }
    }
    Ok(packets)
}

fn other_protocols() -> Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let inner = syn(ORIGIN, EDGE_ON_LAN, (40_000, 2049))?;
    for target in [EDGE_ON_LAN, EDGE_IN_TUNNEL, Ipv4Addr::new(192, 168, 1, 50), CLIENT] {
        for number in (0..=u8::MAX).filter(|number| ![1, 6, 17].contains(number)) {
            packets.push(V4::new(ORIGIN, target, number, inner.clone()).bytes()?);
        }
        // An echo request to the edge's own address is how its forwarders measure the path, and is answered.
        for kind in (0..=u8::MAX).filter(|kind| *kind != 8) {
            packets.push(message(ORIGIN, target, kind, 0)?);
        }
    }
    for target in [Ipv4Addr::new(192, 168, 1, 50), CLIENT] {
        packets.push(message(ORIGIN, target, 8, 0)?);
    }
    Ok(packets)
}

/// Replies without a request.
fn without_a_flow() -> Result<Vec<Vec<u8>>> {
    use tcp_flags::{ACK, PSH, RST, SYN};
    let mut packets = Vec::new();
    for target in [CLIENT, Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(1, 1, 1, 1)] {
        for flags in [SYN | ACK, ACK, RST, RST | ACK, PSH | ACK] {
            packets.push(segment(ORIGIN, target, (443, 40_009), flags)?);
        }
        packets.push(datagram(ORIGIN, target, (443, 40_009), b"answer")?);
        let about = segment(target, ORIGIN, (40_009, 443), SYN)?;
        for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1)] {
            let error = forge::icmp(kind, code, [0, 0, 2, 64], &about);
            packets.push(V4::new(ORIGIN, target, protocol::ICMP, error).bytes()?);
        }
    }
    Ok(packets)
}

/// Source routes, overlapping fragments, lengths that lie, and IPv6, of which this tunnel has none.
fn malformed() -> Result<Vec<Vec<u8>>> {
    let tcp = forge::tcp(ORIGIN.into(), EDGE_ON_LAN.into(), (40_010, 22), tcp_flags::SYN);
    let whole = V4::new(ORIGIN, EDGE_ON_LAN, protocol::TCP, tcp.clone());
    let listed = forge::tcp(ORIGIN.into(), EDGE_ON_LAN.into(), (40_010, 2049), tcp_flags::SYN);
    let mut packets = vec![
        whole.clone().options(&[131, 7, 4, 192, 168, 1, 50]).bytes()?,
        whole.clone().options(&[137, 7, 4, 203, 0, 113, 10]).bytes()?,
        whole.fragment(0, piece(&listed, 0..8), true).bytes()?,
        whole.fragment(0, piece(&tcp, 0..16), true).bytes()?,
        whole.fragment(2, piece(&tcp, 16..usize::MAX), false).bytes()?,
        whole.fragment(8191, vec![0; 200], false).bytes()?,
    ];
    let sound = whole.bytes()?;
    for lie in 0..16 {
        packets.push([&[0x40 | lie], piece(&sound, 1..usize::MAX)].concat());
        packets.push(piece(&sound, 0..usize::from(lie) * 2).to_vec());
    }
    let (source, target): (Ipv6Addr, Ipv6Addr) = ("fd00:77::2".parse()?, "2001:db8:192::2".parse()?);
    let segment = forge::tcp(source.into(), target.into(), (40_011, 22), tcp_flags::SYN);
    packets.push(forge::v6(source, target, protocol::TCP, &segment)?);
    Ok(packets)
}

/// An attacker with the edge's key and address: a plain interface from which any packet can be
/// sent.
fn compromised_edge(lab: &Lab, site: &Site<'_>) -> Result<WireGuardGo> {
    let edge = lab.node("edge")?;
    let near = WireGuardGo::start(&edge, "wg0")?;
    near.configure(&PlainPeer {
        private_key: &site.kyiv.private,
        listen_port: Some(51_820),
        public_key: &site.wroclaw.public,
        preshared_key: Some(&preshared_key("wroclaw")),
        allowed_ips: "0.0.0.0/0",
        endpoint: None,
        keepalive: None,
    })?;
    near.bring_up(&["10.77.88.1/30"], &["192.168.88.0/24"])?;
    Ok(near)
}

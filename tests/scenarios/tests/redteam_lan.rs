//! Attacks of a LAN host: it reaches what is listed for the LAN, under its own address, and nothing else beyond the tunnel.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lab::{Counter, TcpServer, Topology, echo, scenario};
use scenarios::forge::{datagram, syn};
use scenarios::{Attacker, Silence, Site, page};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 50);
const EDGE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ORIGIN: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 2);

#[test]
fn a_lan_host_gets_nothing_across_the_tunnel_by_a_forged_source_or_to_a_port_that_is_not_listed() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _listed = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, echo)?;
        site.start()?;
        let lan = lab.node("lan")?;
        let attacker = Attacker::new((&lan, "eth0"), Some((&site.edge, "eth1")), &site.edge, (HOST, EDGE))?;
        // But for the link, which the edge itself has with its origin.
        let silence =
            Silence::new().leaving(&site.edge, "went into the tunnel", "oifname gw0 th sport != 51899")?;
        // Of the edge itself, of the tunnel, of the origin, of loopback, of the internet.
        let forged = [
            "192.168.1.2",
            "192.0.2.2",
            "10.77.88.1",
            "10.77.88.2",
            "192.168.88.2",
            "127.0.0.1",
            "203.0.113.10",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
        ];
        for source in forged {
            let source: Ipv4Addr = source.parse()?;
            for target in [ORIGIN, Ipv4Addr::new(10, 77, 88, 2)] {
                for port in [443, 5001, 8428, 22] {
                    attacker.send(&syn(source, target, (40_000, port))?);
                    attacker.send(&datagram(source, target, (40_000, port), b"word")?);
                }
            }
        }
        for port in (1..=1_024).chain([5_001, 8_429, 9_100]) {
            attacker.send(&syn(HOST, ORIGIN, (40_001, port))?);
            attacker.send(&datagram(HOST, ORIGIN, (40_001, port), b"word")?);
        }
        for target in ["192.168.88.9", "10.77.88.2", "10.77.88.3", "192.168.88.255"] {
            attacker.send(&syn(HOST, target.parse()?, (40_002, 8428))?);
        }
        attacker.settle()?;
        silence.holds("LAN host")?;

        // The same sender's listed port, which shows that the counter counts.
        let crossed = Counter::leaving(&site.edge, "crossed", "oifname gw0 tcp dport 8428")?;
        page(&lan, "192.168.88.2:8428")?;
        ensure!(crossed.packets()? > 0, "the counter that proves tightness counts nothing");
        Ok(())
    })
}

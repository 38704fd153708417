//! The WAN guard trusts by list: whatever an interface is called and whatever routes say, an
//! unauthenticated source reaches what is published or accepted, and nothing else.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, scenario, until};
use scenarios::forge::datagram;
use scenarios::{Site, growth, packet_counters};

/// Every address of the edge that a WAN client can ask, with a port that is neither published nor
/// accepted.
const EDGE: [&str; 2] = ["192.0.2.2:9999", "[2001:db8:192::2]:9999"];
/// A LAN host behind the edge.
const BEHIND: &str = "192.168.1.50:9998";
/// How long a connection that must fail is tried.
const SHORT: Duration = Duration::from_millis(700);

#[test]
fn whatever_wan_interface_says_the_edge_and_its_lan_are_closed_to_wan_clients() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("there is no eth9");
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        site.gateway_config.replace("interface = \"eth0\"\n", "interface = \"eth9\"\n")?;
        site.start_gateway()?;
        closed(lab)?;
        open_to_lan(lab)?;
        let status = site.gatewayctl(&["status"])?.output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(said.contains("there is no eth9; the default route leaves by eth0"), "{said}");

        for (old, new) in
            [("interface = \"eth9\"\n", "interface = \"eth1\"\n"), ("interface = \"eth1\"\n", "")]
        {
            site.gateway_config.replace(old, new)?;
            apply(&site)?;
            closed(lab)?;
            open_to_lan(lab)?;
        }
        let status = site.gatewayctl(&["status"])?.output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(said.contains("trusted: eth1: LAN sources") && said.contains("192.168.1.0/24"), "{said}");
        Ok(())
    })
}

#[test]
fn a_wan_that_moves_to_a_bridge_or_another_name_while_the_daemon_runs_stays_closed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("there is no eth0");
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        site.start_gateway()?;
        closed(lab)?;
        // The name is one that containers' bridges have.
        site.edge.ip(
            "link add br-x type bridge\nlink set br-x up\nlink set eth0 master br-x\naddress flush dev eth0\n\
             address add 192.0.2.2/24 dev br-x\naddress add 2001:db8:192::2/64 dev br-x nodad\n\
             route replace default via 192.0.2.1\nroute replace default via 2001:db8:192::1",
        )?;
        until(Duration::from_secs(10), "the client to reach the edge again", || {
            lab.node("client")?.run("ping -c 1 -W 1 192.0.2.2").map(Some)
        })?;
        closed(lab)?;
        open_to_lan(lab)?;
        apply(&site)?;
        closed(lab)?;
        site.edge.ip("link set br-x down\nlink set br-x name docker0\nlink set docker0 up\n\
             address replace 2001:db8:192::2/64 dev docker0 nodad\n\
             route replace default via 192.0.2.1\nroute replace default via 2001:db8:192::1")?;
        closed(lab)
    })
}

#[test]
fn an_uplink_that_comes_while_the_daemon_runs_is_closed_for_both_families() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        site.start_gateway()?;
        let (inet, edge) = (lab.node("inet")?, &site.edge);
        lab.connect((&inet, "edge2"), (edge, "eth2"))?;
        inet.ip("address add 198.18.3.1/24 dev edge2\naddress add 2001:db8:3::1/64 dev edge2 nodad")?;
        edge.ip("address add 198.18.3.2/24 dev eth2\naddress add 2001:db8:3::2/64 dev eth2 nodad\n\
             route del default via 2001:db8:192::1\nroute add default via 2001:db8:3::1")?;
        let client = lab.node("client")?;
        for address in ["198.18.3.2:9999", "[2001:db8:3::2]:9999"] {
            ensure!(client.tcp_connect(address, SHORT).is_err(), "{address} is open");
        }
        closed(lab)
    })
}

#[test]
fn a_lan_source_from_the_wan_is_no_lan_with_the_lan_down_a_longer_route_a_new_name_or_the_guard_alone()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("192.168.1.0/24 of [lan]");
        lab.expect_warning("there is no eth0");
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        let edge = site.edge.clone();
        claims_a_lan_source(lab)?;
        let forged = || from_lan_source(lab, "192.0.2.2:9999");

        edge.ip("link set eth1 down")?;
        ensure!(forged().is_ok(), "the test's own sender does not work");
        site.gateway_config.write()?;
        let guard = edge.command(lab::binary("gateway")?).args(["guard", "--config"]);
        guard.arg(site.gateway_config.path()).run()?;
        ensure!(forged().is_err(), "the guard alone took a WAN client for the LAN");

        site.start_gateway()?;
        ensure!(forged().is_err(), "with the LAN down a WAN client was taken for the LAN");
        edge.ip("link set eth1 up")?;
        edge.ip("address replace 192.168.1.2/24 dev eth1\nroute add 192.168.1.0/25 via 192.0.2.1")?;
        apply(&site)?;
        ensure!(forged().is_err(), "a longer route made a WAN client the LAN");
        edge.ip("route del 192.168.1.0/25 via 192.0.2.1")?;
        open_to_lan(lab)?;

        edge.ip("address del 192.168.1.2/24 dev eth1")?;
        ensure!(forged().is_err(), "without the LAN's address a WAN client was taken for the LAN");
        edge.ip(
            "link set eth1 down\nlink set eth1 name lan9\nlink set eth0 down\nlink set eth0 name eth1\n\
             link set eth1 up\nroute add default via 192.0.2.1",
        )?;
        ensure!(forged().is_err(), "a new name made the WAN the LAN");
        Ok(())
    })
}

#[test]
fn on_the_lan_hosts_without_an_address_and_link_local_ones_reach_the_edge_and_on_the_wan_they_do_not()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        let edge = site.edge.clone();
        site.start_gateway()?;
        edge.nft(
            "table inet seen { counter dhcp { }
               counter mdns { }
               chain input { type filter hook input priority 500;
                 udp sport 68 udp dport 67 counter name dhcp
                 udp dport 5353 counter name mdns
               }
             }",
        )?;
        let discover = datagram(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), b"word")?;
        let (host, group) = (Ipv4Addr::new(192, 168, 1, 50), Ipv4Addr::new(224, 0, 0, 251));
        let mdns = datagram(host, group, (5353, 5353), b"word")?;
        let joined = edge.within(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:5353")?;
            for own in [Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(192, 0, 2, 2)] {
                socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &own)?;
            }
            Ok(socket)
        })??;
        for (node, interface, near, open) in [("lan", "eth0", "eth1", true), ("inet", "edge0", "eth0", false)]
        {
            let socket = lab.node(node)?.packet_socket(interface, Some((&edge, near)))?;
            let before = packet_counters(&edge)?;
            socket.send(&discover)?;
            socket.send(&mdns)?;
            until(Duration::from_secs(5), "the datagrams to be judged", || {
                let seen = edge.run("nft list counters table inet seen")?;
                let dropped: u64 = growth(&edge, &before)?.values().sum();
                ensure!(
                    seen.matches("packets 1 ").count() == 2 || (!open && dropped >= 2),
                    "{seen}, {dropped}"
                );
                Ok(Some(()))
            })?;
            let seen = edge.run("nft list counters table inet seen")?;
            ensure!((seen.matches("packets 1 ").count() == 2) == open, "from {node}: {seen}");
            edge.run("nft reset counters table inet seen")?;
        }
        drop(joined);
        let address = |interface: &str| -> Result<String> {
            let text = edge.run(&format!("ip -6 -o address show dev {interface} scope link"))?;
            let inet6 = text.split_whitespace().skip_while(|word| *word != "inet6").nth(1);
            Ok(inet6.context("no link-local address")?.split('/').next().unwrap_or_default().to_owned())
        };
        for (node, out, at, open) in [("lan", "eth0", "eth1", true), ("inet", "edge0", "eth0", false)] {
            let url = format!("http://[{}%{out}]:9999/", address(at)?);
            let asked = lab.node(node)?.command("curl").args(["-s", "-m", "2", "--http0.9", "-X", "x", &url]);
            // The server echoes the request: any answer at all is a connection.
            let answered = !asked.output()?.stdout.is_empty();
            ensure!(answered == open, "link-local from {node}: open is {answered}");
        }
        Ok(())
    })
}

#[test]
fn a_dhcp_shaped_datagram_of_a_wan_client_is_not_answered() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let client = lab.node("client")?;
        let before = packet_counters(&site.edge)?;
        let socket = client.udp_socket("203.0.113.10:67")?;
        socket.connect("192.0.2.2:68")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send(b"offer")?;
        let answer = socket.recv(&mut [0; 16]);
        let refused = answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        ensure!(!refused, "an unauthenticated source was answered");
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_input_wan_guard"), "{grown:?}");
        Ok(())
    })
}

#[test]
fn a_container_network_is_trusted_whatever_its_name_once_it_is_there_and_not_with_a_default_route()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _servers = servers(lab)?;
        site.start_gateway()?;
        let (edge, container) = (site.edge.clone(), lab.add_node("box")?);
        lab.connect((&edge, "vethb"), (&container, "eth0"))?;
        edge.ip("link add lxd7 type bridge\nlink set vethb master lxd7\nlink set lxd7 up\n\
             address add 172.30.0.1/24 dev lxd7")?;
        container.ip("address add 172.30.0.2/24 dev eth0\nroute add default via 172.30.0.1")?;
        until(Duration::from_secs(10), "the new container network to be trusted", || {
            container.tcp_connect("172.30.0.1:9999", SHORT).map(Some)
        })?;
        container.tcp_connect(BEHIND, Duration::from_secs(5))?;
        edge.ip("route add default via 172.30.0.2 metric 900")?;
        until(Duration::from_secs(10), "the network that became an uplink to be closed", || {
            Ok(container.tcp_connect("172.30.0.1:9999", SHORT).is_err().then_some(()))
        })?;
        closed(lab)
    })
}

#[test]
fn a_port_that_the_edge_serves_itself_is_named_and_left_to_the_lan_when_it_is_published_to_the_wan_alone()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let own = TcpServer::start(site.edge.tcp_listener("192.168.1.2:5001")?, echo)?;
        site.start_gateway()?;
        let status = site.gatewayctl(&["status"])?.output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(said.contains("tcp/5001 is served on the edge itself (192.168.1.2:5001)"), "{said}");
        site.gateway_config.replace("listen = \"5001\"", "listen = \"wan:5001\"")?;
        apply(&site)?;
        let status = site.gatewayctl(&["status"])?.output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(!said.contains("tcp/5001"), "{said}");
        let lan = lab.node("lan")?;
        lan.tcp_connect("192.168.1.2:5001", Duration::from_secs(5))?;
        until(Duration::from_secs(5), "the edge's own service", || Ok((own.accepted() > 0).then_some(())))
    })
}

/// Servers on every address of the edge and of a LAN host, and a way for WAN clients to them.
fn servers(lab: &Lab) -> Result<Vec<TcpServer>> {
    let (edge, lan) = (lab.node("edge")?, lab.node("lan")?);
    lab.node("inet")?.run("ip route add 192.168.1.0/24 via 192.0.2.2")?;
    Ok(vec![
        TcpServer::start(edge.tcp_listener("[::]:9999")?, echo)?,
        TcpServer::start(lan.tcp_listener(BEHIND)?, echo)?,
    ])
}

fn closed(lab: &Lab) -> Result<()> {
    let client = lab.node("client")?;
    for address in EDGE.into_iter().chain([BEHIND]) {
        ensure!(client.tcp_connect(address, SHORT).is_err(), "a WAN client reached {address}");
    }
    Ok(())
}

fn open_to_lan(lab: &Lab) -> Result<()> {
    let lan = lab.node("lan")?;
    let opened = || lan.tcp_connect("192.168.1.2:9999", SHORT).map(Some);
    until(Duration::from_secs(10), "the LAN to reach the edge", opened).map(drop)
}

/// Gives the client an address of the LAN as well, as a sender on the WAN can have.
fn claims_a_lan_source(lab: &Lab) -> Result<()> {
    lab.node("client")?.run("ip address add 192.168.1.77/32 dev lo")?;
    lab.node("inet")?.run("ip route add 192.168.1.77/32 via 203.0.113.10").map(drop)
}

fn from_lan_source(lab: &Lab, to: &str) -> Result<TcpStream> {
    let (to, from): (SocketAddr, SocketAddr) = (to.parse()?, "192.168.1.77:0".parse()?);
    connect_from(&lab.node("client")?, from, to)
}

fn connect_from(node: &Node, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    node.within(|| -> Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), SHORT)?;
        Ok(socket.into())
    })?
}

fn apply(site: &Site<'_>) -> Result<()> {
    site.gateway_config.write()?;
    let file = site.gateway_config.path().to_string_lossy().into_owned();
    site.gatewayctl(&["apply", &file])?.run().map(drop)
}

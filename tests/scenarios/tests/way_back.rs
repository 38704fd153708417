//! Replies of a flow leave by the uplink that it came in by, whatever other routes and rules say.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, TcpServer, Topology, echo, scenario, until};
use scenarios::{Router, Site};

/// A provider that drops packets from any source but the one that it assigned (BCP 38).
const PROVIDERS: &str = "table ip bcp38 { chain forward { type filter hook forward priority 0;
  iifname edge0 ip saddr != 192.0.2.0/24 drop
  iifname edge2 ip saddr != 198.18.3.0/24 drop
}
}";

#[test]
fn a_service_is_reached_by_both_of_two_uplinks_that_check_sources_and_goes_on_when_one_goes() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let (site, _far) = two_uplinks(
            lab,
            "ip rule add from 198.18.3.2 table 100 && ip route add default via 198.18.3.1 table 100",
        )?;
        let client = lab.node("client")?;
        let _far_end = TcpServer::start(site.origin.tcp_listener("192.168.88.2:443")?, echo)?;
        let _own = TcpServer::start(site.edge.tcp_listener("[::]:22")?, echo)?;
        for address in ["192.0.2.2:443", "198.18.3.2:443", "192.0.2.2:22", "198.18.3.2:22"] {
            until(Duration::from_secs(10), address, || {
                client.tcp_connect(address, Duration::from_secs(2)).map(Some)
            })?;
        }
        site.edge.run("ip link set eth2 down")?;
        client.tcp_connect("192.0.2.2:443", Duration::from_secs(5))?;
        site.edge.shell("ip link set eth2 up && ip route add default via 198.18.3.1 table 100")?;
        until(Duration::from_secs(10), "the uplink that is back", || {
            client.tcp_connect("198.18.3.2:443", Duration::from_secs(2)).map(Some)
        })?;
        // The way back uses no bit of the connection mark: the service's mark is as it was.
        let flows = site.edge.run("conntrack -L -p tcp --orig-port-dst 443")?;
        ensure!(
            flows.lines().filter(|line| line.contains("mark=")).all(|line| line.contains("mark=1129798458")),
            "{flows}"
        );
        site.gatewayctl(&["status"])?.run()?;
        Ok(())
    })
}

#[test]
fn a_vpn_providers_default_route_takes_no_reply_in_either_order_of_starts() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let client = lab.node("client")?;
        // What wg-quick makes for AllowedIPs = 0.0.0.0/0: here every packet into it is lost.
        let vpn =
            "ip tuntap add dev vpn0 mode tun && ip link set vpn0 up && ip address add 10.2.0.2/32 dev vpn0 &&
             ip route add default dev vpn0 table 51820 &&
             ip rule add not fwmark 51820 table 51820 && ip rule add table main suppress_prefixlength 0";
        site.edge.shell(vpn)?;
        site.start_gateway()?;
        let _far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
        site.wait_until_up(Duration::from_secs(20))?;
        let _far_end = TcpServer::start(site.origin.tcp_listener("192.168.88.2:443")?, echo)?;
        until(Duration::from_secs(10), "the page next to a VPN", || {
            client.tcp_connect("192.0.2.2:443", Duration::from_secs(2)).map(Some)
        })?;
        site.edge.shell("set +e; ip link del vpn0; ip rule del not fwmark 51820 table 51820; ip rule del table main suppress_prefixlength 0")?;
        client.tcp_connect("192.0.2.2:443", Duration::from_secs(5))?;
        site.edge.shell(vpn)?;
        // The VPN's rules have no priority, so the kernel puts them before all others; the edge
        // moves its own before them.
        until(Duration::from_secs(10), "the page next to a VPN that came later", || {
            client.tcp_connect("192.0.2.2:443", Duration::from_secs(2)).map(Some)
        })?;
        Ok(())
    })
}

#[test]
fn a_rule_that_leaves_no_room_before_it_and_leads_replies_elsewhere_is_named() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        lab.expect_warning("rule 2 lookup 77");
        let (site, _far) = two_uplinks(lab, "true")?;
        site.edge.shell("ip route add default dev eth1 table 77 && ip rule add priority 2 table 77")?;
        until(Duration::from_secs(10), "the rule to be named", || {
            let status = site.gatewayctl(&["status"])?.output()?;
            let said = String::from_utf8_lossy(&status.stdout).into_owned();
            ensure!(said.contains("replies of flows that came in by eth0"), "{said}");
            ensure!(said.contains("rule 2 lookup 77"), "{said}");
            Ok(Some(()))
        })?;
        site.edge.run("ip rule del priority 2")?;
        until(Duration::from_secs(10), "the problem to be over", || {
            let status = site.gatewayctl(&["status"])?.output()?;
            Ok((!String::from_utf8_lossy(&status.stdout).contains("rule 2 lookup")).then_some(()))
        })
    })
}

#[test]
fn a_program_of_the_edge_reaches_a_service_by_the_public_address() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        // The origin's router answers through the tunnel whoever asks.
        site.start_gateway()?;
        let _far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
        site.wait_until_up(Duration::from_secs(20))?;
        let _far_end = TcpServer::start(site.origin.tcp_listener("192.168.88.2:443")?, echo)?;
        let own = TcpServer::start(site.edge.tcp_listener("192.168.1.2:443")?, echo)?;
        until(Duration::from_secs(10), "the service from the edge itself", || {
            site.edge.tcp_connect("192.0.2.2:443", Duration::from_secs(2)).map(Some)
        })?;
        // At its own loopback and LAN addresses it finds itself.
        ensure!(site.edge.tcp_connect("127.0.0.1:443", Duration::from_secs(1)).is_err());
        let before = own.accepted();
        site.edge.tcp_connect("192.168.1.2:443", Duration::from_secs(2))?;
        until(Duration::from_secs(5), "the edge's own service to be asked", || {
            Ok((own.accepted() > before).then_some(()))
        })
    })
}

#[test]
fn one_uplink_and_no_rule_of_others_need_no_marks_and_get_them_as_soon_as_one_comes() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let marks = || -> Result<bool> {
            let rules = site.edge.run("nft list table inet causeway")?;
            let tables = site.edge.run("ip route show table all proto 158")?;
            ensure!(rules.contains("meta mark set") == tables.contains("default via 192.0.2.1"), "{tables}");
            Ok(tables.contains("default via 192.0.2.1"))
        };
        ensure!(!marks()?);
        for (comes, goes) in [
            ("ip rule add to 203.0.113.99 lookup main", "ip rule del to 203.0.113.99 lookup main"),
            ("ip route add 10.9.0.0/16 dev eth1", "ip route del 10.9.0.0/16"),
        ] {
            for (command, wanted) in [(comes, true), (goes, false)] {
                site.edge.run(command)?;
                until(Duration::from_secs(10), command, || {
                    // Between the table and the routes there is a moment when one is there and the
                    // other is not.
                    Ok(marks().is_ok_and(|marks| marks == wanted).then_some(()))
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn down_takes_the_tables_of_the_way_back_with_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.run("ip rule add to 203.0.113.99 lookup main")?;
        site.start_gateway()?;
        ensure!(site.edge.run("ip route show table 4358")?.contains("default via 192.0.2.1"));
        let gateway = site.gateway()?;
        gateway.signal(lab::Signal::Terminate)?;
        gateway.wait(Duration::from_secs(10))?;
        let down = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
        down.arg(site.gateway_config.path()).run()?;
        let left =
            site.edge.shell("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all")?;
        ensure!(!left.contains("4358") && !left.contains("proto 158"), "{left}");
        Ok(())
    })
}

/// The edge with a second uplink, each behind a provider that checks sources, and more commands on
/// it.
fn two_uplinks<'lab>(lab: &'lab Lab, more: &str) -> Result<(Site<'lab>, Router)> {
    let mut site = Site::new(lab)?;
    let (inet, edge) = (lab.node("inet")?, site.edge.clone());
    lab.connect((&inet, "edge2"), (&edge, "eth2"))?;
    inet.ip("address add 198.18.3.1/24 dev edge2")?;
    inet.nft(PROVIDERS)?;
    edge.ip("address add 198.18.3.2/24 dev eth2")?;
    edge.shell(more)?;
    site.start_gateway()?;
    let far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    Ok((site, far))
}

//! Where a peer is and how to reach it: `causeway-wg` at both ends, held to the checks that the
//! kernel's own interface is held to (tools/testing/selftests/wireguard/netns.sh of Linux), in
//! scenarios of our own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Topology, scenario, until};
use scenarios::{Pair, Plain, own_address};

#[test]
fn a_peer_that_changes_its_port_or_its_address_is_followed_over_ipv4() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        pair.two.expect_endpoint(&pair.one, "192.0.2.1:5001")?;
        pair.one.set("listen-port 6001")?;
        pair.one.ping("10.9.0.2")?;
        pair.two.expect_endpoint(&pair.one, "192.0.2.1:6001")?;
        pair.one.node.ip("address delete 192.0.2.1/24 dev eth0\naddress add 192.0.2.77/24 dev eth0")?;
        pair.one.reaches("10.9.0.2")?;
        pair.two.expect_endpoint(&pair.one, "192.0.2.77:6001")?;
        pair.two.ping("10.9.0.1")
    })
}

#[test]
fn a_peer_that_changes_its_port_or_its_address_is_followed_over_ipv6() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.one.set(&format!("peer {} endpoint [2001:db8:2::2]:5002", pair.two.keys.public))?;
        pair.pings()?;
        pair.two.expect_endpoint(&pair.one, "[2001:db8:2::1]:5001")?;
        pair.one.set("listen-port 6001")?;
        pair.one.ping("10.9.0.2")?;
        pair.two.expect_endpoint(&pair.one, "[2001:db8:2::1]:6001")?;
        let batch = "address add 2001:db8:2::77/64 dev eth0 nodad\naddress delete 2001:db8:2::1/64 dev eth0";
        pair.one.node.ip(batch)?;
        own_address(&pair.one.node, "2001:db8:2::77")?;
        pair.one.reaches("10.9.0.2")?;
        pair.two.expect_endpoint(&pair.one, "[2001:db8:2::77]:6001")?;
        pair.two.ping("fd00:9::1")
    })
}

#[test]
fn a_packet_whose_source_is_another_peers_is_not_delivered_but_its_sender_is_followed() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        let other = scenarios::KeyPair::of("other").public;
        pair.one.set(&format!("listen-port 6001 peer {} endpoint 192.0.2.2:5002", pair.two.keys.public))?;
        // The other peer has the more specific prefix now.
        let (one, two) = (&pair.one.keys.public, &pair.two);
        two.set(&format!("peer {one} allowed-ips 10.9.0.0/24,fd00:9::/64"))?;
        two.set(&format!("peer {other} allowed-ips 10.9.0.1/32,fd00:9::1/128"))?;
        ensure!(!pair.one.answers("10.9.0.2")?, "a forged source was believed");
        ensure!(!pair.one.answers("fd00:9::2")?, "a forged source was believed");
        two.expect_endpoint(&pair.one, "192.0.2.1:6001")?;
        two.set(&format!("peer {other} remove"))?;
        pair.one.ping("10.9.0.2")
    })
}

#[test]
fn answers_leave_from_the_address_that_was_asked_and_follow_it_when_it_goes() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.one
            .node
            .ip("address add 192.0.2.11/24 dev eth0\naddress add 2001:db8:2::11/64 dev eth0 nodad")?;
        // The address of another interface works as well.
        pair.one
            .node
            .ip("link add inside0 type veth peer name inside1\nlink set inside1 up\nlink set inside0 up")?;
        pair.one
            .node
            .ip("address add 198.51.100.1/24 dev inside0\naddress add 2001:db8:51::1/64 dev inside0 nodad")?;
        pair.two
            .node
            .ip("route add 198.51.100.0/24 dev eth0\nroute add 2001:db8:51::/64 via 2001:db8:2::1")?;
        let addresses = [
            "192.0.2.11",
            "[2001:db8:2::11]",
            "198.51.100.1",
            "[2001:db8:51::1]",
            "192.0.2.1",
            "[2001:db8:2::1]",
        ];
        for address in addresses {
            let endpoint = format!("{address}:5001");
            own_address(&pair.one.node, address.trim_matches(['[', ']']))?;
            pair.two.set(&format!("peer {} endpoint {endpoint}", pair.one.keys.public))?;
            pair.two.ping("10.9.0.1").context(address)?;
            pair.two.expect_endpoint(&pair.one, &endpoint)?;
            // Packets that the other end sends first leave from there as well.
            pair.one.ping("10.9.0.2")?;
            pair.two.expect_endpoint(&pair.one, &endpoint)?;
        }
        for (gone, length) in [("2001:db8:2::1", 64), ("2001:db8:2::11", 64)] {
            pair.one.node.run(&format!("ip address delete {gone}/{length} dev eth0"))?;
        }
        pair.one.node.ip("address add 2001:db8:2::12/64 dev eth0 nodad")?;
        own_address(&pair.one.node, "2001:db8:2::12")?;
        pair.one.reaches("10.9.0.2")?;
        let endpoint = pair.two.of_peer("endpoints", &pair.one)?;
        ensure!(endpoint == "[2001:db8:2::12]:5001", "the peer hears from {endpoint}");
        Ok(())
    })
}

#[test]
fn a_better_route_is_taken_with_the_address_that_belongs_to_it() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let (one, two) = (&pair.one, &pair.two);
        lab.connect((&one.node, "eth1"), (&two.node, "eth1"))?;
        one.node.ip("address add 198.51.100.1/24 dev eth1\naddress add 2001:db8:51::1/64 dev eth1 nodad")?;
        two.node.ip("address add 198.51.100.2/24 dev eth1\naddress add 2001:db8:51::2/64 dev eth1 nodad")?;
        own_address(&one.node, "2001:db8:51::1")?;
        own_address(&two.node, "2001:db8:51::2")?;
        for node in [&one.node, &two.node] {
            // A packet of the same source may arrive by either cable.
            node.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            node.shell("for i in eth0 eth1; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done")?;
        }
        for (endpoint, length, old, new) in [
            ("192.0.2.2", 32, "192.0.2.1:5001", "198.51.100.1:5001"),
            ("2001:db8:2::2", 128, "[2001:db8:2::1]:5001", "[2001:db8:51::1]:5001"),
        ] {
            let bracketed = if length == 128 { format!("[{endpoint}]") } else { endpoint.to_owned() };
            one.set(&format!("peer {} endpoint {bracketed}:5002", two.keys.public))?;
            one.ping("10.9.0.2")?;
            two.expect_endpoint(one, old)?;
            let via = if length == 128 { "2001:db8:51::2" } else { "198.51.100.2" };
            one.node.run(&format!("ip route add {endpoint}/{length} via {via} dev eth1"))?;
            until(Duration::from_secs(20), "the better route to be taken", || {
                one.ping("10.9.0.2")?;
                Ok((two.of_peer("endpoints", one)? == new).then_some(()))
            })?;
            one.node.run(&format!("ip route delete {endpoint}/{length} via {via} dev eth1"))?;
            until(Duration::from_secs(20), "the old route to be taken again", || {
                one.ping("10.9.0.2")?;
                Ok((two.of_peer("endpoints", one)? == old).then_some(()))
            })?;
        }
        Ok(())
    })
}

#[test]
fn behind_nat_a_keepalive_holds_the_way_back_open() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let (pair, nat) = behind_nat(lab)?;
        // The NAT keeps an entry for two seconds, which is less than the silence that follows.
        nat.sysctl("net/netfilter/nf_conntrack_udp_timeout", "2")?;
        nat.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", "2")?;
        pair.one.ping("10.9.0.2")?;
        let endpoint = pair.two.of_peer("endpoints", &pair.one)?;
        ensure!(endpoint.starts_with("198.51.100.1:"), "the peer hears from {endpoint}");
        pair.two.ping("10.9.0.1")?;
        until(Duration::from_secs(20), "the NAT to forget the flow", || {
            Ok(nat.run("conntrack -L -p udp")?.trim().is_empty().then_some(()))
        })?;
        ensure!(!pair.two.answers("10.9.0.1")?, "the translation did not forget");
        pair.one.set(&format!("peer {} persistent-keepalive 1", pair.two.keys.public))?;
        std::thread::sleep(Duration::from_secs(3));
        pair.two.reaches("10.9.0.1")?;
        std::thread::sleep(Duration::from_secs(4));
        pair.two.ping("10.9.0.1")?;
        // A translation to another port is followed as well.
        nat.nft("flush ruleset")?;
        nat.nft(&translation("ip protocol udp masquerade to :40000-40010"))?;
        nat.output("conntrack -D -p udp")?;
        pair.one.reaches("10.9.0.2")?;
        let port = pair.two.of_peer("endpoints", &pair.one)?;
        ensure!(port.starts_with("198.51.100.1:400"), "the peer hears from {port}");
        pair.two.ping("10.9.0.1")
    })
}

#[test]
fn a_packet_with_nowhere_to_go_is_answered_here_and_through_nat() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let unreachable = |end: &Plain, words: &str| -> Result<()> {
            let output = end.node.output(&format!("ping -n -c 1 -W 5 {words}"))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(text.to_lowercase().contains("unreachable"), "ping {words}:\n{text}");
            Ok(())
        };
        // No peer has these addresses.
        unreachable(&pair.one, "10.9.0.99")?;
        unreachable(&pair.one, "fd00:9::99")?;
        // A peer has them, but its endpoint is unknown.
        let other = scenarios::KeyPair::of("other").public;
        pair.one.set(&format!("peer {other} allowed-ips 10.9.0.98/32,fd00:9::98/128"))?;
        unreachable(&pair.one, "10.9.0.98")?;
        unreachable(&pair.one, "fd00:9::98")?;

        let client = lab.add_node("client")?;
        lab.connect((&pair.one.node, "lan0"), (&client, "eth0"))?;
        pair.one.node.ip("address add 192.168.7.1/24 dev lan0")?;
        pair.one.node.sysctl("net/ipv4/ip_forward", "1")?;
        client.ip("address add 192.168.7.2/24 dev eth0\nroute add default via 192.168.7.1")?;
        pair.one.node.nft(
            "table ip nat { chain postrouting { type nat hook postrouting priority 100;
               ip saddr 192.168.7.0/24 oifname wg0 masquerade;
             }
             }",
        )?;
        client.run("ping -n -c 1 -W 5 10.9.0.2")?;
        let text =
            String::from_utf8_lossy(&client.output("ping -n -c 1 -W 5 10.9.0.99")?.stdout).into_owned();
        ensure!(text.contains("Unreachable"), "through NAT:\n{text}");
        Ok(())
    })
}

#[test]
fn a_packet_in_a_routing_loop_is_dropped() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        // The route to the peer's endpoint leads through the peer.
        let (one, two) = (&pair.one, &pair.two);
        one.set(&format!("peer {} allowed-ips 0.0.0.0/0,::/0", two.keys.public))?;
        one.node.ip("route add 192.0.2.2/32 dev wg0")?;
        let before = (one.transfer(two)?.1, sent_by_cable(&one.node)?);
        one.node.output("ping -n -q -f -c 50 -W 1 10.9.0.2")?;
        std::thread::sleep(Duration::from_secs(2));
        let after = (one.transfer(two)?.1, sent_by_cable(&one.node)?);
        ensure!(after.0 - before.0 < 70_000, "{} bytes were encrypted", after.0 - before.0);
        ensure!(after.1 - before.1 < 70_000, "{} bytes left by the cable", after.1 - before.1);
        one.node.ip("route delete 192.0.2.2/32 dev wg0")?;
        one.reaches("10.9.0.2")?;

        // A peer whose endpoint is the tunnel address of this interface itself.
        let looped = scenarios::KeyPair::of("looped").public;
        one.set(&format!("peer {looped} allowed-ips 10.9.0.50/32 endpoint 10.9.0.1:5001"))?;
        let before = one.transfer(two)?.1;
        one.node.output("ping -n -q -c 3 -i 0.2 -W 1 10.9.0.50")?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(one.transfer(two)?.1 - before < 70_000, "the loop was not stopped");
        one.ping("10.9.0.2")
    })
}

#[test]
fn a_tunnel_crosses_another_tunnel() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let one = Plain::start(lab, &pair.one.node, "wg1", "inner-one")?;
        let two = Plain::start(lab, &pair.two.node, "wg1", "inner-two")?;
        for (end, other, number, far) in [(&one, &two, 1, 2), (&two, &one, 2, 1)] {
            end.set(&format!(
                "listen-port 600{number} peer {} allowed-ips 10.8.0.{far}/32 endpoint 10.9.0.{far}:600{far}",
                other.keys.public
            ))?;
            end.mtu(1340)?;
            end.bring_up(&[&format!("10.8.0.{number}/24")])?;
        }
        one.ping("10.8.0.2")?;
        two.ping("-M do -s 1312 10.8.0.1")?;
        two.expect_endpoint(&one, "10.9.0.1:6001")?;
        one.node.run("ping -n -q -f -c 200 -W 5 10.8.0.2").map(drop)
    })
}

#[test]
fn a_cable_that_is_unplugged_and_plugged_in_again_costs_nothing_but_the_time() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let mut pair = Pair::start(lab)?;
        pair.pings()?;
        for _ in 0..3 {
            pair.one.node.run("ip link set eth0 down")?;
            ensure!(!pair.one.answers("10.9.0.2")?);
            pair.one.node.run("ip link set eth0 up")?;
            pair.one.reaches("10.9.0.2")?;
        }
        // First without any route, and then with another one.
        pair.one.node.run("ip link delete eth0")?;
        ensure!(!pair.one.answers("10.9.0.2")?);
        lab.connect((&pair.one.node, "eth2"), (&pair.two.node, "eth2"))?;
        pair.one.node.ip("address add 192.0.2.31/24 dev eth2")?;
        pair.two.node.ip("address add 192.0.2.2/24 dev eth2")?;
        pair.one.reaches("10.9.0.2")?;
        pair.two.expect_endpoint(&pair.one, "192.0.2.31:5001")?;
        ensure!(pair.one.process.is_running() && pair.two.process.is_running());
        Ok(())
    })
}

/// `one` behind a router that translates its address to 198.51.100.1; `two` at 198.51.100.2 knows
/// no endpoint.
fn behind_nat(lab: &Lab) -> Result<(Pair, Node)> {
    let (one, nat, two) = (lab.add_node("one")?, lab.add_node("nat")?, lab.add_node("two")?);
    lab.connect((&one, "eth0"), (&nat, "lan0"))?;
    lab.connect((&two, "eth0"), (&nat, "wan0"))?;
    one.ip("address add 192.168.9.2/24 dev eth0\nroute add default via 192.168.9.1")?;
    nat.ip("address add 192.168.9.1/24 dev lan0\naddress add 198.51.100.1/24 dev wan0")?;
    two.ip("address add 198.51.100.2/24 dev eth0")?;
    nat.sysctl("net/ipv4/ip_forward", "1")?;
    nat.nft(&translation("masquerade"))?;
    let pair = Pair::between(lab, &one, &two)?;
    pair.one.set(&format!("peer {} endpoint 198.51.100.2:5002", pair.two.keys.public))?;
    Ok((pair, nat))
}

fn translation(rule: &str) -> String {
    format!(
        "table ip nat {{ chain postrouting {{ type nat hook postrouting priority 100;
           oifname wan0 {rule};
         }}
         }}"
    )
}

fn sent_by_cable(node: &Node) -> Result<u64> {
    let text = node.run("cat /sys/class/net/eth0/statistics/tx_bytes")?;
    text.trim().parse().context("bytes of the cable")
}

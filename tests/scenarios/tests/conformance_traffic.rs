//! What a WireGuard interface carries: `causeway-wg` at both ends, held to the checks that the
//! kernel's own interface is held to (tools/testing/selftests/wireguard/netns.sh of Linux), in
//! scenarios of our own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, Topology, full_counts, scenario, until};
use scenarios::Pair;

#[test]
fn pings_and_streams_of_both_families_cross_both_ways_over_ipv4() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        everything_crosses(&pair)
    })
}

#[test]
fn pings_and_streams_of_both_families_cross_both_ways_over_ipv6() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = over_ipv6(lab)?;
        everything_crosses(&pair)
    })
}

#[test]
fn everything_crosses_with_an_mtu_of_34_kilobytes_over_either_family() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        for end in [&pair.one, &pair.two] {
            end.mtu(34_000)?;
        }
        // First in fragments of the cable's 1,500 bytes, then whole.
        for outer in [1500, 65_535] {
            for end in [&pair.one, &pair.two] {
                end.node.run(&format!("ip link set eth0 mtu {outer}"))?;
            }
            everything_crosses(&pair)?;
            pair.one.ping("-M do -s 33972 10.9.0.2")?;
            pair.two.ping("-M do -s 33952 fd00:9::1")?;
        }
        pair.one.set(&format!("peer {} endpoint [2001:db8:2::2]:5002", pair.two.keys.public))?;
        everything_crosses(&pair)?;
        pair.two.expect_endpoint(&pair.one, "[2001:db8:2::1]:5001")
    })
}

#[test]
fn parallel_streams_all_end() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let counts: &[u32] = if full_counts() { &[4, 5, 50] } else { &[4, 5] };
        for count in counts {
            iperf(&pair.one.node, &pair.two.node, "10.9.0.2", &format!("-n 2M -P {count}"))?;
            iperf(&pair.two.node, &pair.one.node, "fd00:9::1", &format!("-n 2M -P {count} -R"))?;
        }
        Ok(())
    })
}

#[test]
fn bytes_and_handshakes_are_counted_exactly() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        ensure!(pair.one.transfer(&pair.two)? == (0, 0));
        ensure!(pair.one.of_peer("latest-handshakes", &pair.two)? == "0");
        // IPv6's own packets when an interface comes up must not be counted.
        for end in [&pair.one, &pair.two] {
            end.node.sysctl("net/ipv6/conf/wg0/disable_ipv6", "1")?;
        }
        let before = inner_bytes(&pair.one.node)?;
        pair.one.node.run("ping -n -q -c 10 -i 0.1 -W 5 10.9.0.2")?;

        // 84 bytes are padded to 96 and get a header and a tag of 32; the handshake is 148 bytes
        // and 92, and the first packet of the initiator, which confirms it, a keepalive of 32.
        let (received, sent) = pair.one.transfer(&pair.two)?;
        ensure!((received, sent) == (92 + 10 * 128, 148 + 32 + 10 * 128), "{received} received, {sent} sent");
        ensure!(pair.two.transfer(&pair.one)? == (sent, received), "the other end counts otherwise");
        let after = inner_bytes(&pair.one.node)?;
        ensure!((after.0 - before.0, after.1 - before.1) == (840, 840), "{before:?} then {after:?}");
        for (end, other) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
            ensure!(end.of_peer("latest-handshakes", other)?.parse::<u64>()? > 1_700_000_000);
        }
        Ok(())
    })
}

#[test]
fn padding_never_makes_a_packet_longer_than_the_way_takes() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = over_ipv6(lab)?;
        pair.two.node.nft(
            "table inet fragments { counter seen { }
               chain prerouting { type filter hook prerouting priority -450;
                 exthdr frag exists counter name seen;
                 ip frag-off & 0x3fff != 0 counter name seen;
               }
             }",
        )?;
        // 1,419 bytes and 80 of headers are one less than the cable takes; padded to a multiple of
        // 16 they are more.
        for end in [&pair.one, &pair.two] {
            end.mtu(1419)?;
        }
        until(Duration::from_secs(10), "the new MTU to be known", || {
            let before = fragments(&pair.two.node)?;
            pair.one.ping("-M do -s 1391 10.9.0.2")?;
            Ok((fragments(&pair.two.node)? == before).then_some(()))
        })?;
        let before = fragments(&pair.two.node)?;
        for payload in 1371..=1391 {
            pair.one.ping(&format!("-M do -s {payload} 10.9.0.2"))?;
            pair.one.ping(&format!("-M do -s {} fd00:9::2", payload - 20))?;
        }
        ensure!(fragments(&pair.two.node)? == before, "something was sent in fragments");
        Ok(())
    })
}

fn over_ipv6(lab: &lab::Lab) -> Result<Pair> {
    let pair = Pair::start(lab)?;
    pair.one.set(&format!("peer {} endpoint [2001:db8:2::2]:5002", pair.two.keys.public))?;
    pair.two.set(&format!("peer {} endpoint [2001:db8:2::1]:5001", pair.one.keys.public))?;
    Ok(pair)
}

fn everything_crosses(pair: &Pair) -> Result<()> {
    pair.pings()?;
    let (one, two) = (&pair.one.node, &pair.two.node);
    for (from, to, number) in [(one, two, 2), (two, one, 1)] {
        for address in [format!("10.9.0.{number}"), format!("fd00:9::{number}")] {
            from.run(&format!("ping -n -q -f -c 200 -W 5 {address}"))?;
            iperf(from, to, &address, "-n 8M")?;
            iperf(from, to, &address, "-u -b 100M -n 2M")?;
        }
    }
    Ok(())
}

/// One run of iperf3, with a server for this run alone.
fn iperf(from: &Node, to: &Node, address: &str, options: &str) -> Result<()> {
    let mut server = to.command("iperf3").args(["-s", "-1", "-B", address]).spawn("iperf3")?;
    until(Duration::from_secs(10), "iperf3 to listen", || {
        Ok(to.run("ss -Hltn sport = :5201")?.contains("5201").then_some(()))
    })?;
    let text = from.run(&format!("iperf3 --connect-timeout 5000 -J -c {address} {options}"))?;
    server.wait(Duration::from_secs(30))?;
    let end = text.find("\"end\"").and_then(|at| text.get(at..)).context("no end of iperf3's report")?;
    ensure!(!text.contains("\"error\""), "{text}");
    ensure!(end.contains("\"bytes\""), "{text}");
    Ok(())
}

/// Bytes that the inner interface has received and sent.
fn inner_bytes(node: &Node) -> Result<(u64, u64)> {
    let read = |way: &str| -> Result<u64> {
        Ok(node.run(&format!("cat /sys/class/net/wg0/statistics/{way}_bytes"))?.trim().parse()?)
    };
    Ok((read("rx")?, read("tx")?))
}

fn fragments(node: &Node) -> Result<u64> {
    let text = node.run("nft list counter inet fragments seen")?;
    let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(packets.context("no packets in the counter")?.parse()?)
}

//! How an interface is set up, changed and taken away: `causeway-wg` under `wg`, `wg-quick` and
//! `ip`, held to the checks that the kernel's own interface is held to
//! (tools/testing/selftests/wireguard/netns.sh of Linux).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Lab, Topology, scenario, until};
use scenarios::{KeyPair, Pair, Plain, preshared_key};

#[test]
fn a_new_private_key_starts_a_handshake_at_once() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        let new = KeyPair::of("new");
        let file = pair.one.secret("new", &new.private)?;
        let old = &pair.one.keys.public;
        pair.one.set(&format!("private-key {file}"))?;
        ensure!(pair.one.show("public-key")? == new.public);
        pair.two.set(&format!("peer {old} remove"))?;
        pair.two.set(&format!("peer {} allowed-ips 10.9.0.1/32,fd00:9::1/128", new.public))?;
        pair.one.ping("10.9.0.2")?;
        pair.two.ping("fd00:9::1")
    })
}

#[test]
fn a_preshared_key_must_be_the_same_at_both_ends_and_can_be_unset() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let (one, two) = (&pair.one, &pair.two);
        let file = |end: &Plain, name: &str| end.secret(name, &preshared_key(name));
        one.set(&format!("peer {} preshared-key {}", two.keys.public, file(one, "a")?))?;
        ensure!(one.of_peer("preshared-keys", two)? == preshared_key("a"));
        ensure!(!one.answers("10.9.0.2")?, "a handshake with one preshared key");
        two.set(&format!("peer {} preshared-key {}", one.keys.public, file(two, "a")?))?;
        one.reaches("10.9.0.2")?;
        two.set(&format!("peer {} preshared-key {}", one.keys.public, file(two, "b")?))?;
        ensure!(!two.answers("10.9.0.1")?, "a handshake with two preshared keys");
        for (end, other) in [(one, two), (two, one)] {
            end.set(&format!("peer {} preshared-key /dev/null", other.keys.public))?;
            ensure!(end.of_peer("preshared-keys", other)? == "(none)");
        }
        one.reaches("10.9.0.2")
    })
}

#[test]
fn an_allowed_ip_belongs_to_the_peer_that_was_given_it_last() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        let (one, two, other) = (&pair.one, &pair.two, KeyPair::of("other").public);
        one.set(&format!("peer {other} allowed-ips 10.9.0.2/32"))?;
        ensure!(one.of_peer("allowed-ips", two)? == "fd00:9::2/128");
        ensure!(!one.answers("10.9.0.2")?, "the prefix was not taken away");
        one.ping("fd00:9::2")?;
        one.set(&format!("peer {} allowed-ips 10.9.0.2/32,fd00:9::2/128", two.keys.public))?;
        ensure!(one.show("allowed-ips")?.contains(&format!("{other}\t(none)")));
        one.ping("10.9.0.2")?;
        // The most specific prefix wins, whoever came first, and it is masked.
        one.set(&format!("peer {other} allowed-ips 0.0.0.0/0,10.9.0.0/24,10.9.0.3/30,::/0"))?;
        ensure!(one.show("allowed-ips")?.contains("10.9.0.0/30"), "{}", one.show("allowed-ips")?);
        one.ping("10.9.0.2")?;
        one.set(&format!("peer {other} remove"))?;
        one.ping("fd00:9::2")
    })
}

#[test]
fn a_file_replaces_all_peers_and_another_adds_to_them() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        pair.pings()?;
        let one = &pair.one;
        let original = one.node.run("wg showconf wg0")?;
        let other = KeyPair::of("other").public;
        let more = format!("[Peer]\nPublicKey = {other}\nAllowedIPs = 10.9.1.0/24\n");
        one.node.run(&format!("wg addconf wg0 {}", one.secret("more", &more)?))?;
        ensure!(one.show("peers")?.lines().count() == 2);
        one.ping("10.9.0.2")?;
        one.node.run(&format!("wg setconf wg0 {}", one.secret("all", &original)?))?;
        ensure!(one.show("peers")? == pair.two.keys.public);
        one.reaches("10.9.0.2")?;
        let no_peer = original.split("[Peer]").next().unwrap_or_default();
        one.node.run(&format!("wg setconf wg0 {}", one.secret("no-peer", no_peer)?))?;
        ensure!(one.show("peers")?.is_empty());
        ensure!(!one.answers("10.9.0.2")?);
        Ok(())
    })
}

#[test]
fn a_hundred_and_thirty_thousand_allowed_ips_are_set_and_read_back() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("one")?;
        let end = Plain::start(lab, &node, "wg0", "one")?;
        let other = KeyPair::of("other").public;
        let mut config =
            format!("[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {other}\n", end.keys.private);
        for high in 0..=255 {
            for low in 0..510 {
                writeln!(config, "AllowedIPs = {}.{high}.{}.0/24", 1 + low / 255, low % 255)?;
            }
        }
        let file = end.secret("many", &config)?;
        let started = Instant::now();
        node.run(&format!("wg setconf wg0 {file}"))?;
        let set = started.elapsed();
        let text = end.show("allowed-ips")?;
        println!("130,560 allowed-ips: set in {set:?}, read back in {:?}", started.elapsed() - set);
        ensure!(text.split_whitespace().skip(1).count() == 130_560);

        let mut many = String::new();
        for peer in 0..30 {
            writeln!(many, "[Peer]\nPublicKey = {}", KeyPair::of(&format!("peer {peer}")).public)?;
            for number in 0..if peer == 1 { 197 } else { 52 } {
                writeln!(many, "AllowedIPs = {:x}:{number:x}:abcd::/64", 0x2000 + peer)?;
                writeln!(many, "AllowedIPs = 172.{}.{number}.0/24", 16 + peer)?;
            }
        }
        node.run(&format!("wg addconf wg0 {}", end.secret("peers", &many)?))?;
        let text = end.show("allowed-ips")?;
        ensure!(text.lines().count() == 31);
        let prefixes: usize = text.lines().map(|line| line.split_whitespace().count() - 1).sum();
        ensure!(prefixes == 130_560 + 2 * (29 * 52 + 197), "{prefixes} prefixes");
        node.run("wg set wg0 private-key /dev/null").map(drop)
    })
}

#[test]
fn keys_are_clamped_ones_own_is_no_peers_and_a_low_order_one_sends_nothing() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let one = &pair.one;
        // 32 bytes of 0xff: bits that a curve25519 key may not have are cleared.
        let file = one.secret("ones", "//////////////////////////////////////////8=")?;
        one.set(&format!("private-key {file}"))?;
        ensure!(one.show("private-key")? == "+P///////////////////////////////////////38=");
        let own = one.show("public-key")?;
        // `wg` requests it and gets no error, but no such peer is added.
        one.node.output(&format!("wg set wg0 peer {own} allowed-ips 10.9.7.0/24"))?;
        ensure!(!one.show("peers")?.contains(&own));
        let file = one.secret("one", &one.keys.private)?;
        one.set(&format!("private-key {file}"))?;
        one.set("private-key /dev/null")?;
        ensure!(one.show("private-key")? == "(none)");
        ensure!(!one.answers("10.9.0.2")?, "an interface without a key");
        one.set(&format!("private-key {file}"))?;
        one.reaches("10.9.0.2")?;

        for (number, key) in LOW_ORDER.iter().enumerate() {
            let address = format!("10.9.6.{}", number + 1);
            one.node
                .output(&format!("wg set wg0 peer {key} allowed-ips {address}/32 endpoint 192.0.2.2:5002"))?;
            one.node.output(&format!("ping -n -q -c 1 -W 1 {address}"))?;
            let sent =
                one.show("transfer")?.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
            ensure!(sent.is_none_or(|sent| sent.ends_with("\t0")), "something was sent to {key}");
        }
        Ok(())
    })
}

#[test]
fn an_unknown_interface_is_an_error_and_a_deleted_one_ends_the_process() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let mut pair = Pair::start(lab)?;
        pair.pings()?;
        ensure!(!pair.one.node.output("wg show wg9")?.status.success());
        ensure!(!pair.one.node.output("wg set wg9 listen-port 1")?.status.success());
        for _ in 0..3 {
            pair.one.node.run("ip link delete wg0")?;
            ensure!(pair.one.process.wait(Duration::from_secs(10))?.success());
            pair.one.node.shell("test ! -e /var/run/wireguard/wg0.sock")?;
            ensure!(!pair.one.node.run("ss -Hlun")?.contains("5001"), "the port is still taken");
            pair.one = again(lab, &pair)?;
            pair.one.reaches("10.9.0.2")?;
        }
        // An interface whose socket is removed ends. wg-quick removes an interface this way.
        pair.one.node.run("rm /var/run/wireguard/wg0.sock")?;
        ensure!(pair.one.process.wait(Duration::from_secs(10))?.success());
        ensure!(!pair.one.node.output("ip link show wg0")?.status.success());
        Ok(())
    })
}

#[test]
fn packets_carry_the_firewall_mark_and_follow_the_route_for_it() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let (one, two) = (&pair.one, &pair.two);
        one.node.nft(
            "table inet marks { counter marked { }
               chain output { type filter hook output priority 0; meta mark 0x77 counter name marked; }
             }",
        )?;
        one.ping("10.9.0.2")?;
        ensure!(one.node.run("nft list counter inet marks marked")?.contains("packets 0 "));
        one.set("fwmark 0x77")?;
        ensure!(one.show("fwmark")? == "0x77");
        one.ping("10.9.0.2")?;
        ensure!(!one.node.run("nft list counter inet marks marked")?.contains("packets 0 "));
        // Packets with the first mark have no route; with the second one they have.
        one.node.run("ip rule add fwmark 0x77 unreachable")?;
        ensure!(!one.answers("10.9.0.2")?);
        one.set("fwmark 0x78")?;
        one.reaches("10.9.0.2")?;
        one.set("fwmark 0")?;
        ensure!(one.show("fwmark")? == "off");
        one.set("listen-port 0")?;
        ensure!(one.show("listen-port")? != "5001");
        one.reaches("10.9.0.2")?;
        two.ping("10.9.0.1")
    })
}

#[test]
fn wg_quick_brings_a_default_route_up_and_takes_everything_down_again() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let (one, two) = (lab.add_node("one")?, lab.add_node("two")?);
        lab.connect((&one, "eth0"), (&two, "eth0"))?;
        one.ip("address add 192.0.2.1/24 dev eth0")?;
        two.ip("address add 192.0.2.2/24 dev eth0\naddress add 203.0.113.7/32 dev lo")?;
        let far = Plain::start(lab, &two, "wg0", "two")?;
        let (near, psk) = (KeyPair::of("one"), preshared_key("pair"));
        let file = far.secret("psk", &psk)?;
        far.set(&format!(
            "listen-port 5002 peer {} preshared-key {file} allowed-ips 10.9.0.1/32,fd00:9::1/128",
            near.public
        ))?;
        far.bring_up(&["10.9.0.2/24", "fd00:9::2/64"])?;
        let state = || {
            one.shell("ip rule; ip -6 rule; ip route show table all; nft list ruleset; ip -o link | wc -l")
        };
        let before = state()?;
        let config = one.directory().join("quick0.conf");
        std::fs::write(
            &config,
            format!(
                "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24, fd00:9::1/64\nMTU = 1400\n\
                 [Peer]\nPublicKey = {}\nPresharedKey = {psk}\nAllowedIPs = 0.0.0.0/0, ::/0\n\
                 Endpoint = 192.0.2.2:5002\nPersistentKeepalive = 5\n",
                near.private, far.keys.public
            ),
        )?;
        let quick = |what: &str| {
            let command = one.command("wg-quick").arg(what).arg(&config);
            let program = lab::binary("causeway-wg")?;
            command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", program).run()
        };
        for _ in 0..2 {
            quick("up")?;
            // Through the default route, which leads into the tunnel, while the tunnel's own
            // packets do not.
            until(Duration::from_secs(20), "an answer through the default route", || {
                one.run("ping -n -q -c 1 -W 1 203.0.113.7").map(Some)
            })?;
            one.run("ping -n -q -f -c 200 -W 5 203.0.113.7")?;
            one.run("ping -n -q -c 1 -W 5 fd00:9::2")?;
            ensure!(one.run("ip link show quick0")?.contains("mtu 1400"));
            ensure!(one.run("wg show quick0 fwmark")?.trim() != "off");
            quick("down")?;
            until(Duration::from_secs(10), "the interface to go", || {
                let traces = ["ip link show quick0", "test -e /var/run/wireguard/quick0.sock"];
                for trace in traces {
                    if one.output(trace)?.status.success() {
                        return Ok(None);
                    }
                }
                Ok((state()? == before).then_some(()))
            })?;
        }
        Ok(())
    })
}

/// Starts the first end of a pair again as it was.
fn again(lab: &Lab, pair: &Pair) -> Result<Plain> {
    let end = Plain::start(lab, &pair.one.node, "wg0", "one")?;
    end.set(&format!(
        "listen-port 5001 peer {} allowed-ips 10.9.0.2/32,fd00:9::2/128 endpoint 192.0.2.2:5002",
        pair.two.keys.public
    ))?;
    end.bring_up(&["10.9.0.1/24", "fd00:9::1/64"])?;
    Ok(end)
}

/// Points of low order on curve25519 (RFC 7748, section 6.1, and the WireGuard paper, section
/// 5.4.2).
const LOW_ORDER: [&str; 5] = [
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
];

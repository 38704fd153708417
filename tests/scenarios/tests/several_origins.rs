//! Two origins behind one edge: each has services of its own, and neither reaches the other unless
//! that is listed.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Topology, scenario, until};
use scenarios::{KeyPair, Probe, Site, WireGuardGo, ask_tcp, growth, packet_counters, serve_seen_tcp};

#[test]
fn each_origin_has_services_of_its_own_and_sees_the_client() -> Result<()> {
    scenario(Topology::standard().routed().with_second_origin(), |lab| {
        let (_site, _tunnels) = two_origins(lab)?;
        let (client, origin, gdansk) = (lab.node("client")?, lab.node("origin")?, lab.node("gdansk")?);
        let _one = serve_seen_tcp(&origin, "192.168.88.2:5001")?;
        let _other = serve_seen_tcp(&gdansk, "192.168.99.2:5001")?;
        for (asked, served) in [("192.0.2.2:5001", &origin), ("192.0.2.2:5002", &gdansk)] {
            let replies = Counter::leaving(served, "replies", "oifname wg0 tcp sport 5001")?;
            let seen = ask_tcp(&client, asked)?;
            ensure!(seen == "203.0.113.10 5001", "{} saw {seen}", served.name());
            ensure!(replies.packets()? > 0, "another machine answered for {}", served.name());
        }
        Ok(())
    })
}

#[test]
fn origins_are_isolated_from_each_other_unless_an_entry_lists_it() -> Result<()> {
    scenario(Topology::standard().routed().with_second_origin(), |lab| {
        let (mut site, _tunnels) = two_origins(lab)?;
        let (origin, gdansk) = (lab.node("origin")?, lab.node("gdansk")?);
        let arrived = Counter::arriving(&gdansk, "arrived", "iifname wg0 ip saddr 10.77.88.2")?;
        let passed =
            Counter::arriving(&site.edge, "tried", "iifname gw0 ip saddr 10.77.88.2 tcp sport 40000")?;
        let _there = serve_seen_tcp(&gdansk, "192.168.99.2:7000")?;
        let _back = serve_seen_tcp(&origin, "192.168.88.2:7000")?;

        let before = packet_counters(&site.edge)?;
        let probe = Probe::new(&origin, "wg0", None, "10.77.88.2")?;
        let ports: Vec<u16> = (1..=2_000).chain([7_000]).collect();
        for target in ["192.168.99.2", "10.77.88.3"] {
            probe.syns(target, &ports, || passed.packets())?;
        }
        let grown = growth(&site.edge, &before)?;
        let tried = 2 * ports.len() as u64;
        ensure!(grown.get("drop_forward_not_listed") == Some(&tried), "{tried} tries, counted: {grown:?}");
        ensure!(arrived.packets()? == 0, "{} packets of the other origin arrived", arrived.packets()?);

        // With an address of the other origin nothing even reaches the rules.
        let forged = Probe::new(&gdansk, "wg0", None, "10.77.88.2")?;
        for port in 1..=200 {
            forged.syn(40_000, "192.168.88.2", port)?;
        }
        until(Duration::from_secs(10), "the forged packets to be counted", || {
            Ok((dropped_in_the_tunnel(&site)? >= 200).then_some(()))
        })?;
        ensure!(passed.packets()? == tried, "a forged packet came out of the tunnel");

        site.gateway_config.append(
            "[[allow]]\nname = \"between\"\nfrom = [\"peer:wroclaw\"]\nto = [\"192.168.99.2\"]\n\
             protocol = [\"tcp\"]\nports = [\"7000\"]",
        );
        site.gateway_config.write()?;
        let file = site.gateway_config.path().to_string_lossy().into_owned();
        site.gatewayctl(&["apply", &file])?.run()?;
        let seen = ask_tcp(&origin, "192.168.99.2:7000")?;
        ensure!(seen == "10.77.88.2 7000", "the other origin saw {seen}");
        let back = gdansk.tcp_connect("192.168.88.2:7000", Duration::from_secs(1));
        ensure!(back.is_err(), "an entry for one direction opened the other");
        Ok(())
    })
}

/// The edge with two plain peers, each a router of its own, and services of both.
fn two_origins(lab: &Lab) -> Result<(Site<'_>, [WireGuardGo; 2])> {
    let mut site = Site::new(lab)?;
    let far = KeyPair::of("gdansk");
    let config = &mut site.gateway_config;
    config.replace("10.77.88.1/30", "10.77.88.1/29")?;
    config.replace("preshared_key_file = \"wroclaw.psk\"\n", "")?;
    config.append(&format!(
        "[[peer]]\nname = \"gdansk\"\npublic_key = \"{}\"\nallowed_ips = [\"10.77.88.3/32\", \"192.168.99.0/24\"]\n\
         [[publish]]\nname = \"other\"\nlisten = \"5002\"\ntarget = \"192.168.99.2:5001\"",
        far.public
    ));
    site.start_gateway()?;
    let tunnel = |name: &str, key: &KeyPair, own: &str| -> Result<WireGuardGo> {
        let node = lab.node(name)?;
        let routes = ["203.0.113.0/24", "192.168.88.0/24", "192.168.99.0/24"];
        let tunnel = WireGuardGo::dialling(&site, &node, key, &[own], &routes)?;
        node.sysctl("net/ipv4/conf/wg0/rp_filter", "0")?;
        until(Duration::from_secs(15), "the tunnel", || node.run("ping -c 1 -W 1 10.77.88.1").map(Some))?;
        Ok(tunnel)
    };
    let tunnels =
        [tunnel("origin", &site.wroclaw, "10.77.88.2/29")?, tunnel("gdansk", &far, "10.77.88.3/29")?];
    Ok((site, tunnels))
}

/// Packets that the engine refused because their source is not the peer's.
fn dropped_in_the_tunnel(site: &Site<'_>) -> Result<u64> {
    let metrics = site.edge.run("curl -sS --max-time 5 http://127.0.0.1:9586/metrics")?;
    let lines = metrics.lines().filter(|line| {
        line.starts_with("gateway_dropped_packets_total{") && line.contains("reason=\"spoofed_source\"")
    });
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}

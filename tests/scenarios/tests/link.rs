//! The link between the two ends: up, down and up again, what it reports, and who cannot have it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::{KeyPair, Site, WireGuardGo, growth, memory, packet_counters};
use serde_json::Value;

/// Where the edge listens for links.
const LINK: &str = "10.77.88.1:51899";
/// A user who is neither root nor the daemon's.
const OTHER_USER: u32 = 65_533;
/// How soon both ends must know that the link is down.
const KNOWN: Duration = Duration::from_secs(15);

#[test]
fn both_ends_show_the_link_and_the_edge_knows_soon_which_service_fails() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.forwarder_config.replace(
            "upstream = \"127.0.0.1:5001\"",
            "upstream = \"127.0.0.1:5001\"\nhealth = { check = \"tcp\", every = \"2s\" }",
        )?;
        let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        println!("the link is up {:?} after the tunnel", linked(&site, true, KNOWN)?);
        let shown = site.gatewayctl(&["peers"])?.run()?;
        ensure!(shown.contains("  link: up for "), "{shown}");
        ensure!(site.gatewayctl(&["status"])?.run()?.contains("links: 1 up"), "status does not count it");
        let status = site.ask_forwarder(&["status"])?.output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains("kyiv: link: up for "), "{status}");
        let metrics = metrics(&site.edge, 9586)?;
        ensure!(metrics.contains("gateway_link_up{peer=\"wroclaw\"} 1"), "{metrics}");
        ensure!(metrics.contains("gateway_link_bytes_total{direction=\"rx\",peer=\"wroclaw\"}"), "{metrics}");
        ensure!(
            self::metrics(&site.origin, 9587)?.contains("forwarder_link_up{peer=\"kyiv\"} 1"),
            "no metric at the origin"
        );

        until(KNOWN, "the services to be known", || {
            Ok((service(&site, "bulk")? == "up" && service(&site, "https")? == "failing").then_some(()))
        })?;
        drop(page);
        let took = time_until(KNOWN, "the edge to know", || Ok(service(&site, "bulk")? == "failing"))?;
        println!("the edge knew {took:?} after the service ended");
        let shown = site.gatewayctl(&["peers"])?.run()?;
        ensure!(shown.contains("bulk is failing for ") && shown.contains("(refused): \""), "{shown}");
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let took = time_until(KNOWN, "the edge to know", || Ok(service(&site, "bulk")? == "up"))?;
        println!("and {took:?} after it was back");
        Ok(())
    })
}

#[test]
fn a_link_whose_far_daemon_was_killed_is_down_within_fifteen_seconds_and_up_again_after_its_start()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        linked(&site, true, KNOWN)?;
        site.forwarder()?.kill()?;
        println!("the edge knew after {:?}", linked(&site, false, KNOWN)?);
        site.start_forwarder()?;
        println!("up again after {:?}", linked(&site, true, Duration::from_secs(30))?);

        site.gateway()?.kill()?;
        let took = time_until(KNOWN, "the origin to know", || Ok(!is_up(&at_origin(&site)?)))?;
        println!("the origin knew after {took:?}");
        site.start_gateway()?;
        println!("up again after {:?}", linked(&site, true, Duration::from_secs(45))?);
        Ok(())
    })
}

#[test]
fn a_daemon_that_stops_announces_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        linked(&site, true, KNOWN)?;
        let begun = Instant::now();
        site.forwarder()?.stop(Duration::from_secs(10))?;
        ensure!(begun.elapsed() < Duration::from_secs(5), "the link held up the end: {:?}", begun.elapsed());
        linked(&site, false, KNOWN)?;
        let back = site.peer_field("/link/back_within_seconds")?.as_u64();
        ensure!(back.is_some_and(|seconds| seconds > 200), "{back:?}");

        site.start_forwarder()?;
        linked(&site, true, Duration::from_secs(30))?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        site.forwarder()?.wait_for_log("the edge announced that it stops", KNOWN)?;
        let link = at_origin(&site)?;
        ensure!(link.get("back_within_seconds").is_some_and(|back| !back.is_null()), "{link}");
        Ok(())
    })
}

#[test]
fn a_plain_wireguard_peer_shows_no_link_and_nothing_is_said_of_it() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let _far = WireGuardGo::origin(&site, &["10.77.88.2/30"], &[])?;
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(20))?;
        ensure!(site.peer_field("/link")?.is_null(), "a plain peer shows a link");
        let shown = site.gatewayctl(&["peers"])?.run()? + &site.gatewayctl(&["status"])?.run()?;
        ensure!(!shown.contains("link: ") && shown.contains("links: 0 up"), "{shown}");
        ensure!(!metrics(&site.edge, 9586)?.contains("gateway_link_up"), "a metric for a plain peer");
        ensure!(!site.gateway()?.log()?.contains("the link is"), "the log speaks of a link");
        Ok(())
    })
}

#[test]
fn a_plain_edge_shows_no_link_and_is_dialled_ever_more_slowly() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _near = WireGuardGo::edge(&site, &["10.77.88.1/30"], &["192.168.88.0/24"])?;
        site.edge.nft(
            "table inet seen { chain input { type filter hook input priority -200;
               tcp dport 51899 tcp flags syn counter name dials;
             }
             counter dials {}
             }",
        )?;
        site.start_forwarder()?;
        until(Duration::from_secs(20), "the tunnel to come up", || {
            Ok((origin_peer(&site)?["state"] == "up").then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(20));
        let dials = site.edge.run("nft -j list counter inet seen dials")?;
        let dials: Value = serde_json::from_str(&dials)?;
        let count = dials["nftables"][1]["counter"]["packets"].as_u64().context("a count")?;
        ensure!((1..=8).contains(&count), "{count} dials in 20 s");
        ensure!(at_origin(&site)?.is_null(), "a plain edge shows a link");
        let log = site.forwarder()?.log()?;
        ensure!(!log.contains("the link is") && !log.contains("there is no link"), "{log}");
        Ok(())
    })
}

#[test]
fn a_program_of_the_edge_a_lan_host_a_container_and_a_wan_client_cannot_connect() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        linked(&site, true, KNOWN)?;
        let container = container(lab, &site.edge)?;
        let (lan, client) = (lab.node("lan")?, lab.node("client")?);
        lan.ip("route add 10.77.88.0/30 via 192.168.1.2")?;
        client.ip("route add 10.77.88.0/30 via 203.0.113.1")?;
        lab.node("inet")?.ip("route add 10.77.88.0/30 via 192.0.2.2")?;
        for node in [&site.edge, &lan, &container, &client] {
            for _ in 0..3 {
                ensure!(
                    node.tcp_connect(LINK, Duration::from_secs(1)).is_err(),
                    "{} reached the link",
                    node.name()
                );
            }
        }
        if lab::has_real_root() {
            let script = "import socket; socket.create_connection(('10.77.88.1', 51899), 1)";
            for source in ["", ", ('10.77.88.1', 0)", ", ('192.168.1.2', 0)"] {
                let script = script.replace(", 1)", &format!(", 1{source})"));
                let command = site.edge.command("python3").args(["-c", &script]);
                let output = command.user(OTHER_USER, OTHER_USER).output()?;
                ensure!(!output.status.success(), "a local user reached the link ({source})");
            }
        }
        ensure!(is_up(&site.peer_field("/link")?), "the origin's link did not stay");
        Ok(())
    })
}

#[test]
fn a_program_that_has_the_port_first_gets_no_origin_and_is_a_problem_until_it_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let taken = "another program listens on 10.77.88.1:51899";
        lab.expect_warning(taken);
        let mut site = Site::new(lab)?;
        let squatter = TcpServer::start(site.edge.tcp_listener("0.0.0.0:51899")?, echo)?;
        site.start()?;
        let status = || -> Result<String> {
            let output = site.gatewayctl(&["status"])?.output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        until(Duration::from_secs(10), "the problem to be shown", || {
            Ok(status()?.contains(taken).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(at_origin(&site)?.is_null(), "the origin had a link with another program");
        drop(squatter);
        linked(&site, true, Duration::from_secs(45))?;
        ensure!(!status()?.contains(taken), "it is still a problem");
        Ok(())
    })
}

#[test]
fn a_compromised_origin_that_floods_the_link_costs_bounded_memory() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let _far = WireGuardGo::origin(&site, &["10.77.88.2/30"], &[])?;
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(20))?;
        until(KNOWN, "the port to be open", || {
            Ok(site.origin.tcp_connect(LINK, Duration::from_secs(2)).ok().map(drop))
        })?;
        let before = memory(site.gateway()?)?;
        let begun = Instant::now();
        let flood = "import socket, struct, time, sys
end = time.monotonic() + 10
held, tries = [], 0
frame = struct.pack('>I', 4096) + b' ' * 4095
while time.monotonic() < end:
    try:
        s = socket.create_connection(('10.77.88.1', 51899), 2)
        s.settimeout(0.2)
        tries += 1
        for data in (frame, frame * 64):
            try: s.sendall(data)
            except OSError: break
        held.append(s)
        held = held[-200:]
    except OSError: time.sleep(0.01)
print(tries)";
        let tries = site.origin.command("python3").args(["-c", flood]).run()?;
        let after = memory(site.gateway()?)?;
        println!("{} connections in {:?}: {before} KiB became {after} KiB", tries.trim(), begun.elapsed());
        ensure!(after < before + 16 * 1024, "{before} KiB became {after} KiB");
        let metrics = metrics(&site.edge, 9586)?;
        ensure!(metrics.contains("gateway_link_refusals_total{reason="), "{metrics}");
        ensure!(site.gatewayctl(&["peers"])?.run()?.contains("wroclaw"), "the edge does not answer");
        Ok(())
    })
}

#[test]
fn a_compromised_origin_that_begins_links_without_end_keeps_no_other_peer_from_its_link() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut site = Site::new(lab)?;
        let key = KeyPair::of("gdansk");
        let config = &mut site.gateway_config;
        config.replace("10.77.88.1/30", "10.77.88.1/29")?;
        config.append(&format!(
            "[[peer]]\nname = \"gdansk\"\npublic_key = \"{}\"\nallowed_ips = [\"10.77.88.3/32\", \"192.168.99.0/24\"]",
            key.public
        ));
        site.start()?;
        linked(&site, true, KNOWN)?;
        let gdansk = lab.node("gdansk")?;
        let _hostile = WireGuardGo::dialling(&site, &gdansk, &key, &["10.77.88.3/29"], &[])?;
        until(Duration::from_secs(15), "its tunnel", || gdansk.run("ping -c 1 -W 1 10.77.88.1").map(Some))?;
        // From its own address, and from one behind it.
        let flood = "import socket, time
held = []
for n in range(60000):
    s = socket.socket()
    s.setblocking(False)
    s.bind((('10.77.88.3', '192.168.99.2')[n % 2], 0))
    s.connect_ex(('10.77.88.1', 51899))
    held.append(s)
    if len(held) > 500: held.pop(0).close()
    time.sleep(0.002)";
        let _flood = gdansk.command("python3").args(["-c", flood]).spawn("flood")?;
        let before = packet_counters(&site.edge)?;
        until(KNOWN, "the flood to be limited", || {
            let grown = growth(&site.edge, &before)?;
            let many = |reason: &str| grown.get(reason).is_some_and(|&packets| packets > 200);
            Ok((many("drop_input_too_many_new") && many("drop_input_link")).then_some(()))
        })?;
        site.forwarder()?.kill()?;
        linked(&site, false, KNOWN)?;
        site.start_forwarder()?;
        println!("up again after {:?}", linked(&site, true, Duration::from_secs(30))?);
        Ok(())
    })
}

/// A container's end of a bridge that Docker would have made.
fn container(lab: &Lab, edge: &Node) -> Result<Node> {
    let container = lab.add_node("container")?;
    lab.connect((edge, "veth7"), (&container, "eth0"))?;
    edge.ip("link add br-7 type bridge\nlink set veth7 master br-7\nlink set br-7 up\n\
         address add 172.18.0.1/24 dev br-7")?;
    container.ip("address add 172.18.0.2/24 dev eth0\nroute add default via 172.18.0.1")?;
    container.run("ping -n -q -c 1 -W 5 172.18.0.1")?;
    Ok(container)
}

/// Waits until the link is up or down, as the edge sees it.
fn linked(site: &Site<'_>, up: bool, limit: Duration) -> Result<Duration> {
    time_until(limit, if up { "the link to come up" } else { "the link to go down" }, || {
        Ok(is_up(&site.peer_field("/link")?) == up)
    })
}

fn is_up(link: &Value) -> bool {
    link["up"] == true
}

/// A service as the edge shows it.
fn service(site: &Site<'_>, name: &str) -> Result<String> {
    let services = site.peer_field("/link/services")?;
    let services = services.as_array().context("a list of services")?;
    let service = services.iter().find(|service| service["name"] == name);
    Ok(service.map_or("absent", |service| service["state"].as_str().unwrap_or_default()).to_owned())
}

fn at_origin(site: &Site<'_>) -> Result<Value> {
    Ok(origin_peer(site)?.pointer("/link").cloned().unwrap_or_default())
}

fn origin_peer(site: &Site<'_>) -> Result<Value> {
    let text = site.ask_forwarder(&["peers", "--json"])?.run()?;
    let peers: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    peers.pointer("/peers/0").cloned().with_context(|| text)
}

fn metrics(node: &Node, port: u16) -> Result<String> {
    node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/metrics"))
}

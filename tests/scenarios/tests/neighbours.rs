//! Private flows with the edge's surroundings: containers as Docker publishes them, LAN hosts with
//! and without a way back.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, Topology, scenario, until};
use scenarios::{Router, Site, ask_tcp, growth, packet_counters, serve_seen_tcp};

/// The far end's address in the tunnel: what a plain router's own flows come from.
const FAR: &str = "10.77.88.2";

#[test]
fn a_port_that_docker_publishes_is_reached_from_the_origin_as_a_port_of_the_edge_when_it_is_listed()
-> Result<()> {
    scenario(Topology::standard().routed().with_docker(), |lab| {
        let (mut site, _far) = routed(lab, "")?;
        let (origin, container) = (lab.node("origin")?, lab.node("container")?);
        let _server = serve_seen_tcp(&container, "172.17.0.2:9091")?;
        let _unpublished = serve_seen_tcp(&container, "172.17.0.2:8081")?;
        // Docker's own proxy listens there as well, but the packets never reach it.
        let _proxy = serve_seen_tcp(&site.edge, "0.0.0.0:9091")?;
        let before = packet_counters(&site.edge)?;
        ensure!(
            origin.tcp_connect("192.168.1.2:9091", Duration::from_secs(1)).is_err(),
            "open before it is listed"
        );
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_forward_not_listed"), "not counted: {grown:?}");

        site.gateway_config.append(
            "[[allow]]\nname = \"transmission\"\nfrom = [\"peer:wroclaw\"]\nto = [\"192.168.1.2\"]\n\
             protocol = [\"tcp\"]\nports = [\"9091\"]",
        );
        apply(&site)?;
        let before = packet_counters(&site.edge)?;
        let seen = ask_tcp(&origin, "192.168.1.2:9091")?;
        ensure!(seen == format!("{FAR} 9091"), "the container saw {seen}");
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("allow_in_transmission"), "not counted for its entry: {grown:?}");
        // The entry names the edge's port, not the container.
        for other in ["172.17.0.2:9091", "172.17.0.2:8081", "192.168.1.50:9091"] {
            ensure!(origin.tcp_connect(other, Duration::from_secs(1)).is_err(), "{other} is not listed");
        }
        Ok(())
    })
}

#[test]
fn containers_behind_dockers_own_rules_reach_what_is_listed_for_the_edge_and_nothing_else() -> Result<()> {
    scenario(Topology::standard().routed().with_docker(), |lab| {
        let (site, _far) = routed(lab, "")?;
        let (origin, container) = (lab.node("origin")?, lab.node("container")?);
        let _server = serve_seen_tcp(&origin, "192.168.88.2:8428")?;
        let _unlisted = serve_seen_tcp(&origin, "192.168.88.2:9999")?;
        let seen = ask_tcp(&container, "192.168.88.2:8428")?;
        // Docker masquerades what leaves its bridge: into the tunnel it leaves with the tunnel's
        // address.
        ensure!(seen == "10.77.88.1 8428", "the far end saw {seen}");
        let before = packet_counters(&site.edge)?;
        ensure!(container.tcp_connect("192.168.88.2:9999", Duration::from_secs(1)).is_err());
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_forward_not_listed"), "not counted: {grown:?}");
        // The container's way to the internet is as it was.
        let inet = lab.node("inet")?;
        let _internet = serve_seen_tcp(&inet, "192.0.2.1:80")?;
        let seen = ask_tcp(&container, "192.0.2.1:80")?;
        ensure!(seen == "192.0.2.2 80", "the internet saw {seen}");
        Ok(())
    })
}

#[test]
fn a_lan_host_without_a_way_back_is_reached_masqueraded_and_one_with_it_sees_who_asks() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let masked = "[[allow]]\nname = \"masked\"\nfrom = [\"peer:wroclaw\"]\nto = [\"192.168.1.50\"]\n\
                      protocol = [\"tcp\"]\nports = [\"8080\"]\nsource = \"masquerade\"\n";
        let kept = masked.replace("masked", "kept").replace("8080", "8081").replace("masquerade", "preserve");
        let (site, _far) = routed(lab, &format!("{masked}{kept}"))?;
        let (origin, lan) = (lab.node("origin")?, lab.node("lan")?);
        let _masked = serve_seen_tcp(&lan, "192.168.1.50:8080")?;
        let _kept = serve_seen_tcp(&lan, "192.168.1.50:8081")?;
        let seen = (ask_tcp(&origin, "192.168.1.50:8080")?, ask_tcp(&origin, "192.168.1.50:8081")?);
        ensure!(seen == ("192.168.1.2 8080".to_owned(), format!("{FAR} 8081")), "with a way back: {seen:?}");

        // Its router is another machine, and knows nothing of the tunnel.
        lan.run("ip route delete default")?;
        let seen = ask_tcp(&origin, "192.168.1.50:8080")?;
        ensure!(seen == "192.168.1.2 8080", "without a way back: {seen}");
        let tried = origin.tcp_connect("192.168.1.50:8081", Duration::from_secs(1));
        ensure!(tried.is_err(), "an answer came by no way at all");
        lan.run("ip route add 10.77.88.0/30 via 192.168.1.2")?;
        let seen = ask_tcp(&origin, "192.168.1.50:8081")?;
        ensure!(seen == format!("{FAR} 8081"), "with one route back: {seen}");
        drop(site);
        Ok(())
    })
}

#[test]
fn a_privileged_source_port_stays_privileged_when_it_is_masqueraded() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let (_site, _far) = routed(lab, "")?;
        let (origin, lan) = (lab.node("origin")?, lab.node("lan")?);
        let listener = lan.tcp_listener("192.168.1.50:2049")?;
        for port in [600, 700, 1_023] {
            let stream = origin.within(|| -> Result<std::net::TcpStream> {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.bind(&std::net::SocketAddr::from(([10, 77, 88, 2], port)).into())?;
                let to: std::net::SocketAddr = "192.168.1.50:2049".parse()?;
                socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
                Ok(socket.into())
            })??;
            let from = listener.accept()?.1;
            ensure!(from.ip().to_string() == "192.168.1.2" && from.port() < 1_024, "{port} became {from}");
            drop(stream);
        }
        Ok(())
    })
}

/// The edge with more entries, and the far end as an exported router.
fn routed<'lab>(lab: &'lab Lab, entries: &str) -> Result<(Site<'lab>, Router)> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(entries);
    site.start_gateway()?;
    let far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    until(Duration::from_secs(10), "the far end to answer", || {
        site.origin.run("ping -c 1 -W 1 10.77.88.1").map(Some)
    })?;
    Ok((site, far))
}

fn apply(site: &Site<'_>) -> Result<()> {
    site.gateway_config.write()?;
    let file = site.gateway_config.path().to_string_lossy().into_owned();
    site.gatewayctl(&["apply", &file])?.run().map(drop)
}

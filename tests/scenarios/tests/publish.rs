//! Published ports of every shape, and what their targets see of the client.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, TcpServer, Topology, UdpServer, scenario, until};
use scenarios::{Caddy, Router, Site, ask_tcp, ask_udp, serve_seen_tcp, serve_seen_udp};
use serde_json::Value;

const CLIENT: &str = "203.0.113.10";
const CLIENT_6: &str = "2001:db8:203::10";

#[test]
fn ports_ranges_offsets_both_protocols_both_families_and_bound_addresses_reach_their_targets() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.ip("address add 192.0.2.3/24 dev eth0")?;
        let _far = start(&mut site, SHAPES)?;
        let _servers = Servers::on(&site.origin)?;
        let client = lab.node("client")?;
        for (asked, seen) in [
            ("192.0.2.2:7000", 7_001),
            ("192.0.2.2:6000", 16_000),
            ("192.0.2.2:6005", 16_005),
            ("192.0.2.2:6009", 16_009),
            ("192.0.2.2:6100", 6_100),
            ("192.0.2.2:6109", 6_109),
            ("192.0.2.3:7100", 7_101),
            ("192.0.2.2:7100", 7_102),
            ("192.0.2.2:7200", 7_200),
            ("192.0.2.3:7200", 7_200),
        ] {
            let (tcp, udp) = (ask_tcp(&client, asked)?, ask_udp(&client, asked)?);
            let wanted = format!("{CLIENT} {seen}");
            ensure!(tcp == wanted && udp == wanted, "{asked}: tcp {tcp}, udp {udp}, wanted {wanted}");
        }
        let asked = "[2001:db8:192::2]:7200";
        let (tcp, udp) = (ask_tcp(&client, asked)?, ask_udp(&client, asked)?);
        let wanted = format!("{CLIENT_6} 7200");
        ensure!(tcp == wanted && udp == wanted, "{asked}: tcp {tcp}, udp {udp}, wanted {wanted}");
        for closed in ["192.0.2.2:5999", "192.0.2.2:6010", "192.0.2.2:7101", "[2001:db8:192::2]:7000"] {
            let tried = client.tcp_connect(closed, Duration::from_secs(1));
            ensure!(tried.is_err(), "{closed} is not published and answered");
        }
        Ok(())
    })
}

#[test]
fn the_target_sees_the_client_or_with_masquerade_the_edge() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let masked = "[[publish]]\nname = \"masked\"\nprotocol = [\"tcp\", \"udp\"]\nlisten = \"7300\"\n\
                      target = \"192.168.88.2:7200\"\nsource = \"masquerade\"\n";
        let _far = start(&mut site, &format!("{SHAPES}{masked}"))?;
        let _servers = Servers::on(&site.origin)?;
        let client = lab.node("client")?;
        for (asked, wanted) in [("192.0.2.2:7200", CLIENT), ("192.0.2.2:7300", "10.77.88.1")] {
            let (tcp, udp) = (ask_tcp(&client, asked)?, ask_udp(&client, asked)?);
            let wanted = format!("{wanted} 7200");
            ensure!(tcp == wanted && udp == wanted, "{asked}: tcp {tcp}, udp {udp}, wanted {wanted}");
        }
        Ok(())
    })
}

#[test]
fn lan_hosts_and_containers_reach_a_published_port_by_the_edges_own_addresses() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        site.start()?;
        let (lan, container) = (lab.node("lan")?, lab.node("container")?);
        for address in ["192.0.2.2", "192.168.1.2"] {
            let seen = caddy.fetch(&lan, address, "/whoami")?;
            ensure!(seen == "192.168.1.50", "by {address} the server saw {seen}");
            // Docker's masquerade gives what leaves for the tunnel the edge's own address.
            let seen = caddy.fetch(&container, address, "/whoami")?;
            ensure!(seen == "10.77.88.1", "by {address} the server saw {seen}");
        }
        Ok(())
    })
}

#[test]
fn a_thousand_services_are_as_many_rules_as_one() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let one = "[[publish]]\nname = \"s0\"\nlisten = \"20000\"\ntarget = \"192.168.88.2:30000\"\n";
        let _far = start(&mut site, one)?;
        let rules_of_one = rules(&site.edge)?;
        let mut more = String::new();
        for number in 1..1_000 {
            writeln!(
                more,
                "[[publish]]\nname = \"s{number}\"\nlisten = \"{}\"\ntarget = \"192.168.88.2:{}\"",
                20_000 + number,
                30_000 + number
            )?;
        }
        site.gateway_config.append(&more);
        site.gateway_config.write()?;
        let file = site.gateway_config.path().to_string_lossy().into_owned();
        site.gatewayctl(&["apply", &file])?.run()?;
        let (client, rules_of_all) = (lab.node("client")?, rules(&site.edge)?);
        ensure!(rules_of_all == rules_of_one, "{rules_of_one} rules for one, {rules_of_all} for a thousand");
        for number in [0, 1, 499, 998, 999] {
            let _server = serve_seen_tcp(&site.origin, &format!("0.0.0.0:{}", 30_000 + number))?;
            let seen = ask_tcp(&client, &format!("192.0.2.2:{}", 20_000 + number))?;
            ensure!(seen == format!("{CLIENT} {}", 30_000 + number), "service {number} answered {seen}");
        }
        Ok(())
    })
}

#[test]
fn a_port_of_an_address_of_version_six_with_a_target_of_version_four_is_refused_before_anything_happens()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(
            "[[publish]]\nname = \"six\"\nlisten = \"[2001:db8:192::2]:8443\"\ntarget = \"192.168.88.2:443\"",
        );
        site.gateway_config.write()?;
        let command = site.edge.command(lab::binary("gateway")?).args(["check", "--config"]);
        let output = command.arg(site.gateway_config.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(4), "{}: {said}", output.status);
        let written = std::fs::read_to_string(site.gateway_config.path())?;
        let line = written.lines().position(|line| line == "listen = \"[2001:db8:192::2]:8443\"");
        let line = line.context("the listen line")? + 2;
        let error = format!(
            "gateway.toml:{line}:10: 2001:db8:192::2 and its target 192.168.88.2 are of different address families"
        );
        ensure!(said.contains(&error), "{said}");
        ensure!(!site.edge.run("nft list tables")?.contains("causeway"), "a check has changed the kernel");
        Ok(())
    })
}

const SHAPES: &str = r#"
[[publish]]
name = "moved"
protocol = ["tcp", "udp"]
listen = "7000"
target = "192.168.88.2:7001"

[[publish]]
name = "offset"
protocol = ["tcp", "udp"]
listen = "6000-6009"
target = "192.168.88.2:16000-16009"

[[publish]]
name = "range"
protocol = ["tcp", "udp"]
listen = "6100-6109"
target = "192.168.88.2:6100-6109"

[[publish]]
name = "bound"
protocol = ["tcp", "udp"]
listen = "192.0.2.3:7100"
target = "192.168.88.2:7101"

[[publish]]
name = "unbound"
protocol = ["tcp", "udp"]
listen = "7100"
target = "192.168.88.2:7102"

[[publish]]
name = "families"
protocol = ["tcp", "udp"]
listen = "7200"
target = ["192.168.88.2:7200", "[fd77:88::2]:7200"]
"#;

/// Starts the edge with these services and the far end as an exported router; both families cross
/// the tunnel.
fn start(site: &mut Site<'_>, services: &str) -> Result<Router> {
    let config = &mut site.gateway_config;
    config.replace(r#"["10.77.88.1/30"]"#, r#"["10.77.88.1/30", "fd77:88::1/64"]"#)?;
    config.replace(r#""192.168.88.0/24"]"#, r#""192.168.88.0/24", "fd77:88::2/128"]"#)?;
    config.append(services);
    site.start_gateway()?;
    let far = Router::up(site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    until(Duration::from_secs(10), "the far end to answer", || {
        site.origin.run("ping -c 1 -W 1 10.77.88.1").map(Some)
    })?;
    Ok(far)
}

/// A server at every address that the published ports lead to.
struct Servers {
    _tcp: Vec<TcpServer>,
    _udp: Vec<UdpServer>,
}

impl Servers {
    fn on(origin: &Node) -> Result<Self> {
        let ports = [7_001, 16_000, 16_005, 16_009, 6_100, 6_109, 7_101, 7_102, 7_200];
        let four = ports.iter().map(|port| format!("192.168.88.2:{port}"));
        let addresses: Vec<String> = four.chain(["[fd77:88::2]:7200".to_owned()]).collect();
        let tcp = addresses.iter().map(|address| serve_seen_tcp(origin, address));
        let udp = addresses.iter().map(|address| serve_seen_udp(origin, address));
        Ok(Self { _tcp: tcp.collect::<Result<_>>()?, _udp: udp.collect::<Result<_>>()? })
    }
}

fn rules(edge: &Node) -> Result<usize> {
    let listing: Value = serde_json::from_str(&edge.run("nft -j list table inet causeway")?)?;
    let objects = listing.get("nftables").and_then(Value::as_array).context("no list from nft")?;
    Ok(objects.iter().filter(|object| object.get("rule").is_some()).count())
}

//! Public ports that an origin publishes by itself: open within what the edge lets it, whatever
//! happens in between, and nothing else.

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Signal, TcpServer, Topology, echo, scenario, until};
use scenarios::{Site, download, serve_bulk};
use serde_json::Value;

/// How soon a request must be replied to, the link's start included.
const SOON: Duration = Duration::from_secs(20);
/// Three lines, as a person writes them.
const WEB: &str = "[[service]]\nname = \"web\"\nupstream = \"127.0.0.1:8080\"\npublish = [9443]\n";

#[test]
fn a_port_published_by_three_lines_at_the_origin_is_served_on_the_wan_side_alone() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = site(lab, &format!("{WEB}names = [\"web.example.com\"]\n"))?;
        site.gateway_config.replace(r#"["10.77.88.1/30"]"#, r#"["10.77.88.1/30", "fd77:88::1/64"]"#)?;
        site.gateway_config.replace(r#"["10.77.88.2/32","#, r#"["10.77.88.2/32", "fd77:88::2/128","#)?;
        site.forwarder_config.replace(r#"["10.77.88.2/30"]"#, r#"["10.77.88.2/30", "fd77:88::2/64"]"#)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, echo)?;
        site.start()?;
        published(&site, "web", "granted")?;
        let client = lab.node("client")?;
        for public in ["192.0.2.2:9443", "[2001:db8:192::2]:9443"] {
            ensure!(is_served(&client, public), "the granted port is not served at {public}");
        }
        for (node, address) in
            [("lan", "192.168.1.2:9443"), ("lan", "192.0.2.2:9443"), ("container", "192.0.2.2:9443")]
        {
            ensure!(!is_served(&lab.node(node)?, address), "{node} is served at {address}");
        }
        ensure!(!is_served(&site.edge, "192.0.2.2:9443"), "the edge's own programs are served");

        let shown = site.gatewayctl(&["services"])?.run()?;
        let row = shown.lines().find(|line| line.starts_with("wroclaw/web")).context("no row")?;
        ensure!(row.contains("9443") && row.contains("10.77.88.2:9443"), "{shown}");
        let status = site.ask_forwarder(&["status"])?.output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains("publish 9443 at kyiv: granted"), "{status}");
        until(SOON, "the name at the edge", || {
            let shown = site.gatewayctl(&["services", "--json"])?.run()?;
            Ok(shown.contains("web.example.com").then_some(()))
        })?;
        let metrics = site.edge.run("curl -s http://127.0.0.1:9586/metrics")?;
        ensure!(metrics.contains("service=\"wroclaw/web\""), "no metric of the granted service");
        Ok(())
    })
}

#[test]
fn what_the_edge_does_not_let_the_origin_open_is_refused_with_its_reason_and_stays_closed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("the edge refuses a public port");
        let requested = "[[service]]\nname = \"outside\"\nupstream = \"127.0.0.1:8080\"\npublish = [9999]\n\
            [[service]]\nname = \"other\"\nupstream = \"127.0.0.1:8080\"\npublish = [81]\n\
            [[service]]\nname = \"taken\"\nupstream = \"127.0.0.1:8080\"\npublish = [8000]\n\
            [[service]]\nname = \"docker\"\nupstream = \"127.0.0.1:8080\"\npublish = [7100]\n\
            [[service]]\nname = \"ssh\"\nupstream = \"127.0.0.1:8080\"\npublish = [22]\n\
            [[service]]\nname = \"foreign\"\nupstream = \"127.0.0.1:8080\"\nmatch = \"192.168.89.9:7000\"\npublish = [7000]\n";
        let mut site = site(lab, requested)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, echo)?;
        let _own = TcpServer::start(site.edge.tcp_listener("0.0.0.0:8000")?, echo)?;
        site.edge.nft(
            "table ip others { chain prerouting { type nat hook prerouting priority dstnat;
               tcp dport 7100 dnat to 172.17.0.2:80;
             }
             }",
        )?;
        site.start()?;
        let client = lab.node("client")?;
        for (service, reason, fix, port) in [
            ("outside", "not_allowed", "add \"9999\" to may_publish", 9_999),
            ("other", "not_allowed", "add \"81\" to may_publish", 81),
            ("taken", "in_use", "the edge uses 8000 itself", 8_000),
            ("docker", "in_use", "the edge uses 7100 itself", 7_100),
            ("ssh", "not_allowed", "add \"22\" to may_publish", 22),
            ("foreign", "target_elsewhere", "add \"192.168.89.9/32\" to allowed_ips", 7_000),
        ] {
            let shown = published(&site, service, "refused")?;
            let field = |name: &str| shown.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            ensure!(field("reason") == reason && field("fix").contains(fix), "{service}: {shown}");
            ensure!(!is_served(&client, &format!("192.0.2.2:{port}")), "{port} is served");
        }
        ensure!(granted(&site)?.is_empty(), "{:?} are granted", granted(&site)?);
        Ok(())
    })
}

#[test]
fn a_port_that_a_program_of_the_edge_takes_is_closed_until_it_is_free_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("the edge refuses a public port");
        let mut site = site(lab, WEB)?;
        site.start()?;
        published(&site, "web", "granted")?;
        // A change of any table makes the edge look at once, and not only within a minute.
        let look = |site: &Site<'_>| site.edge.nft("table ip others {}; delete table ip others");
        let own = TcpServer::start(site.edge.tcp_listener("0.0.0.0:9443")?, echo)?;
        until(SOON, "the port to be closed", || {
            look(&site)?;
            Ok(granted(&site)?.is_empty().then_some(()))
        })?;
        let shown = published(&site, "web", "refused")?;
        ensure!(shown.get("reason").and_then(Value::as_str) == Some("in_use"), "{shown}");
        ensure!(
            is_served(&lab.node("lan")?, "192.168.1.2:9443"),
            "the edge's own program is not served to the LAN"
        );
        drop(own);
        until(SOON, "the port to be open", || {
            look(&site)?;
            Ok((granted(&site)? == ["wroclaw/web"]).then_some(()))
        })?;
        published(&site, "web", "granted").map(drop)
    })
}

#[test]
fn publishing_in_a_loop_touches_no_flow_of_another_service() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab, WEB)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        published(&site, "web", "granted")?;
        let before = mark_of(&site, "bulk")?;
        let client = lab.node("client")?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let downloads = scope.spawn(|| -> Result<u32> {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    download(&client, "192.0.2.2:5001", 64 << 20)?;
                    count += 1;
                }
                Ok(count)
            });
            let looped = in_a_loop(&mut site);
            is_over.store(true, Ordering::Relaxed);
            let downloads = downloads.join().map_err(|_| anyhow::anyhow!("the downloads panicked"))?;
            looped?;
            println!("{} downloads of 64 MiB while ports came and went", downloads?);
            Ok::<(), anyhow::Error>(())
        })?;
        ensure!(mark_of(&site, "bulk")? == before, "the mark of another service moved");
        Ok(())
    })
}

#[test]
fn grants_are_there_after_a_reboot_without_the_origin_and_stay_while_the_link_is_cut() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab, WEB)?;
        site.start()?;
        published(&site, "web", "granted")?;
        site.forwarder()?.kill()?;
        until(SOON, "the link to be down", || Ok((site.peer_field("/link/up")? == false).then_some(())))?;
        ensure!(granted(&site)? == ["wroclaw/web"], "{:?} are granted without the link", granted(&site)?);
        let number = mark_of(&site, "wroclaw/web")?;

        reboot(&mut site)?;
        ensure!(granted(&site)? == ["wroclaw/web"], "{:?} are granted after a reboot", granted(&site)?);
        ensure!(mark_of(&site, "wroclaw/web")? == number, "its mark is another after a reboot");
        let rules = site.edge.run("nft list map inet causeway wan_tcp4")?;
        ensure!(rules.contains("9443"), "{rules}");

        site.start_forwarder()?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, echo)?;
        published(&site, "web", "granted")?;
        until(SOON, "the port to be served", || {
            Ok(is_served(&lab.node("client")?, "192.0.2.2:9443").then_some(()))
        })
    })
}

#[test]
fn a_forged_state_file_opens_nothing_that_the_edge_does_not_let_the_origin_open() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab, "")?;
        let port = |service: &str, port: u16, target: &str| {
            format!(
                r#"{{"service":"{service}","ports":[{port},{port}],"target":"{target}","name":"wroclaw/{service}","number":24577}}"#
            )
        };
        let kept = [
            port("a", 22, "10.77.88.2"),
            port("b", 9_999, "10.77.88.2"),
            port("c", 7_000, "192.168.1.50"),
            port("d", 7_001, "10.77.88.3"),
            port("e", 443, "10.77.88.2"),
            port("f", 80, "10.77.88.2"),
            port("g", 7_002, "10.77.88.2"),
        ];
        let text = format!(
            r#"{{"schema":1,"peers":{{"wroclaw":[{}],"unknown":[{}]}}}}"#,
            kept.join(","),
            port("h", 81, "10.77.88.3")
        );
        fs::write(site.edge.directory().join("state/grants.json"), text)?;
        site.start_gateway()?;
        ensure!(granted(&site)? == ["wroclaw/f", "wroclaw/g"], "{:?} are granted", granted(&site)?);
        ensure!(mark_of(&site, "wroclaw/f")? != mark_of(&site, "wroclaw/g")?, "two services have one mark");
        Ok(())
    })
}

#[test]
fn a_smaller_may_publish_closes_ports_in_the_same_apply_and_its_flows_end() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("the edge refuses a public port");
        let mut site = site(lab, WEB)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, echo)?;
        site.start()?;
        published(&site, "web", "granted")?;
        let client = lab.node("client")?;
        let mut flow = client.tcp_connect("192.0.2.2:9443", SOON)?;
        flow.write_all(b"x")?;
        flow.read_exact(&mut [0])?;

        site.gateway_config.replace("\"9443\", ", "")?.write()?;
        let file = site.gateway_config.path().to_string_lossy().into_owned();
        let plan = site.gatewayctl(&["plan", &file])?.run()?;
        ensure!(plan.contains("- wroclaw/web: tcp/9443 to 10.77.88.2 port 9443"), "{plan}");
        site.gatewayctl(&["apply", &file])?.run()?;
        ensure!(granted(&site)?.is_empty(), "{:?} are granted", granted(&site)?);
        ensure!(!is_served(&client, "192.0.2.2:9443"), "the port is served");
        flow.set_read_timeout(Some(Duration::from_secs(2)))?;
        flow.write_all(b"x")?;
        ensure!(!matches!(flow.read(&mut [0]), Ok(1)), "the flow goes on");
        let shown = published(&site, "web", "refused")?;
        ensure!(shown.get("reason").and_then(Value::as_str) == Some("not_allowed"), "{shown}");

        site.gateway_config.replace("[\"80\", ", "[\"80\", \"9443\", ")?.write()?;
        site.gatewayctl(&["apply", &file])?.run()?;
        published(&site, "web", "granted")?;
        until(SOON, "the port to be served", || Ok(is_served(&client, "192.0.2.2:9443").then_some(())))
    })
}

/// Both ends, with ports that the origin may open, and these services at the origin.
fn site<'lab>(lab: &'lab Lab, services: &str) -> Result<Site<'lab>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.replace(
        "allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\"]",
        "allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\"]\nmay_publish = [\"80\", \"9443\", \"7000-8000\"]",
    )?;
    let gdansk = scenarios::KeyPair::of("gdansk").public;
    site.gateway_config.append(&format!(
        "[[peer]]\nname = \"gdansk\"\npublic_key = \"{gdansk}\"\nallowed_ips = [\"10.77.99.2/32\", \"192.168.89.0/24\"]\n\
         may_publish = [\"81\"]\nprobe = \"off\""
    ));
    site.forwarder_config.append(services);
    Ok(site)
}

/// Withdraws the service and publishes it again, a few times.
fn in_a_loop(site: &mut Site<'_>) -> Result<()> {
    for _ in 0..5 {
        site.forwarder_config.replace(WEB, "")?.write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        until(SOON, "the port to be closed", || Ok(granted(site)?.is_empty().then_some(())))?;
        site.forwarder_config.append(WEB).write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        until(SOON, "the port to be open", || Ok((granted(site)? == ["wroclaw/web"]).then_some(())))?;
    }
    Ok(())
}

/// What a reboot leaves: files, and nothing in the kernel.
fn reboot(site: &mut Site<'_>) -> Result<()> {
    site.gateway()?.stop(Duration::from_secs(10))?;
    site.edge.run("nft flush ruleset")?;
    site.edge.run("ip link delete gw0")?;
    site.start_gateway()
}

/// Waits until the origin shows this state for the only public port of a service; what it shows.
fn published(site: &Site<'_>, service: &str, state: &str) -> Result<Value> {
    until(SOON, &format!("{service} to be {state}"), || {
        let status = site.ask_forwarder(&["status", "--json"])?.output()?;
        let report: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let services = report.get("services").and_then(Value::as_array).into_iter().flatten();
        let its =
            services.into_iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(service));
        let shown = its.and_then(|entry| entry.pointer("/publish/0")).cloned().unwrap_or_default();
        Ok((shown.get("state").and_then(Value::as_str) == Some(state)).then_some(shown))
    })
}

/// The granted services, as the edge shows them.
fn granted(site: &Site<'_>) -> Result<Vec<String>> {
    let shown: Value = serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?;
    let services = shown.get("services").and_then(Value::as_array).into_iter().flatten();
    let names = services.filter_map(|service| service.get("name").and_then(Value::as_str));
    Ok(names.filter(|name| name.contains('/')).map(str::to_owned).collect())
}

/// The conntrack mark of a service's flows.
fn mark_of(site: &Site<'_>, service: &str) -> Result<u64> {
    let listing: Value = serde_json::from_str(&site.edge.run("nft -j list map inet causeway count_in")?)?;
    let elements = listing.pointer("/nftables/1/map/elem").and_then(Value::as_array).into_iter().flatten();
    let counter = format!("publish_in_{service}");
    let found = elements.into_iter().find(|element| element.get(1).and_then(Value::as_str) == Some(&counter));
    found.and_then(|element| element.get(0)?.as_u64()).with_context(|| format!("no mark of {service}"))
}

/// Whether an echo server answers there.
fn is_served(node: &Node, address: &str) -> bool {
    let Ok(mut stream) = node.tcp_connect(address, Duration::from_secs(1)) else { return false };
    let limit = Some(Duration::from_secs(2));
    let asked = stream.set_read_timeout(limit).and_then(|()| stream.write_all(b"hello"));
    let mut answer = [0; 5];
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == *b"hello"
}

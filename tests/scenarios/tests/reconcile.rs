//! Other programs change the edge's rules, routes and switches, and the edge repairs them. It never
//! changes theirs.
#![allow(clippy::print_stdout, reason = "figures that are quoted come from here")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, Topology, scenario, until};
use scenarios::{Site, download, serve_bulk, table};
use serde_json::Value;

/// What Docker and another firewall keep on a host.
const FOREIGN: &str = "table ip filter {
  chain DOCKER-USER { }
  chain FORWARD { type filter hook forward priority 0; policy drop;
    counter jump DOCKER-USER
    ct state established,related accept
    iifname docker0 accept
  }
}
table ip nat {
  chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != docker0 masquerade; }
}
table inet other {
  set known { type ipv4_addr; elements = { 198.51.100.1, 198.51.100.2 } }
  chain watch { type filter hook prerouting priority -200; ip saddr @known counter; }
}";

#[test]
fn whatever_another_program_takes_away_is_put_back_counted_and_logged_once() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let whole = kernel_state(&site.edge)?;
        let harms = [
            ("the table flushed", "nft flush ruleset"),
            ("the rules flushed", "nft flush table inet causeway"),
            (
                "one rule deleted",
                "nft delete rule inet causeway forward handle $(nft -a list chain inet causeway forward | sed -n 's/.*# handle //p' | sed -n 2p)",
            ),
            ("one element deleted", "nft flush set inet causeway lan4"),
            ("a route deleted", "ip route delete 192.168.88.0/24 dev gw0 table 4357"),
            ("an unreachable route deleted", "ip route delete unreachable 192.168.88.0/24 table 4357"),
            ("a routing rule deleted", "ip rule delete priority 4359"),
            ("the address deleted", "ip address delete 10.77.88.1/30 dev gw0"),
            ("forwarding turned off", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
        ];
        for (count, (what, script)) in harms.iter().enumerate() {
            site.edge.shell(script).context(*what)?;
            let begun = Instant::now();
            until(Duration::from_secs(30), what, || Ok((kernel_state(&site.edge)? == whole).then_some(())))?;
            println!("{what}: repaired after {:?}", begun.elapsed());
            // A check may run in the middle of the harm; the count is final once everything is
            // back.
            let counted = until(Duration::from_secs(10), "the repair to be counted", || {
                let repairs = metric(&site.edge, "gateway_reconcile_repairs_total")?;
                Ok((repairs > count as f64).then_some(repairs))
            })?;
            let logged = site.gateway()?.log()?.matches("repaired what another program changed").count();
            ensure!(
                counted == (count + 1) as f64 && logged == count + 1,
                "{what}: {counted} counted, {logged} logged"
            );
        }
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20).map(drop)
    })
}

#[test]
fn repeated_interference_is_logged_once_and_repaired_more_slowly() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        lab.expect_warning("another program keeps changing");
        until(Duration::from_secs(120), "the contention to be noticed", || {
            site.edge.output("ip route delete 192.168.88.0/24 dev gw0 table 4357")?;
            Ok((metric(&site.edge, "gateway_reconcile_fought")? == 1.0).then_some(()))
        })?;
        let status = status(&site)?;
        ensure!(status.contains("another program keeps changing"), "{status}");
        // Repairs are slow now: the route is missing for a second or longer.
        site.edge.output("ip route delete 192.168.88.0/24 dev gw0 table 4357")?;
        let route = || site.edge.run("ip route show table 4357");
        let begun = Instant::now();
        until(Duration::from_secs(60), "the route to come back all the same", || {
            Ok(route()?.contains("192.168.88.0/24 dev gw0").then_some(()))
        })?;
        println!("back after {:?}", begun.elapsed());
        let warnings = site.gateway()?.log()?.matches("another program keeps changing").count();
        ensure!(warnings == 1, "logged {warnings} times");
        Ok(())
    })
}

#[test]
fn switches_that_cannot_be_written_degrade_the_edge_with_the_exact_fix() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.shell("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")?;
        lab.expect_warning("cannot be written");
        site.start()?;
        let output = site.gatewayctl(&["status", "--json"])?.output()?;
        ensure!(output.status.code() == Some(10), "exit code {:?}", output.status.code());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let fix = "sysctl -w net.ipv4.conf.all.src_valid_mark=1";
        ensure!(said.contains("\"degraded\"") && said.contains(fix), "{said}");
        let unwritable = metric(&site.edge, "gateway_kernel_unwritable_switches")?;
        ensure!(unwritable >= 1.0, "{unwritable}");
        // To run the fixes as they were printed is all that is needed.
        site.edge.shell("mount -o remount,rw,bind /proc/sys")?;
        let problems: Value = serde_json::from_str(&said)?;
        for problem in problems.pointer("/problems").and_then(Value::as_array).context("no problems")? {
            let command = problem.as_str().and_then(|text| text.split_once("run: ")).context("no fix")?.1;
            site.edge.shell(command)?;
        }
        until(Duration::from_secs(90), "the edge to be well", || {
            Ok((site.gatewayctl(&["status"])?.output()?.status.code() == Some(0)).then_some(()))
        })
    })
}

#[test]
fn router_advertisements_switched_off_on_purpose_stay_off_and_are_no_problem() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let address = "address = [\"10.77.88.1/30\"]";
        site.gateway_config.text =
            site.gateway_config.text.replace(address, "address = [\"10.77.88.1/30\", \"fd00:77::1/64\"]");
        let switch = "net/ipv6/conf/eth0/accept_ra";
        for (before, after) in [("0", "0"), ("2", "2"), ("1", "2")] {
            site.edge.sysctl(switch, before)?;
            site.start_gateway()?;
            let found = site.edge.read_sysctl(switch)?;
            ensure!(found == after, "{before} became {found} and not {after}");
            ensure!(!status(&site)?.contains("accept_ra"), "{}", status(&site)?);
            site.gateway()?.stop(Duration::from_secs(10))?;
        }
        Ok(())
    })
}

#[test]
fn foreign_tables_are_the_same_after_twenty_restarts_and_what_they_forbid_is_named_with_its_fix() -> Result<()>
{
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.edge.nft(FOREIGN)?;
        let before = foreign(&site.edge)?;
        for round in 0..20 {
            site.start_gateway()?;
            if round % 2 == 0 {
                site.gateway()?.kill()?
            } else {
                site.gateway()?.stop(Duration::from_secs(10)).map(drop)?
            }
        }
        ensure!(foreign(&site.edge)? == before, "after:\n{}\nbefore:\n{before}", foreign(&site.edge)?);

        site.start()?;
        let client = lab.node("client")?;
        ensure!(
            client.tcp_connect("192.0.2.2:5001", Duration::from_secs(2)).is_err(),
            "Docker's policy lets it pass"
        );
        let config = site.gateway_config.path().to_string_lossy().into_owned();
        let checked =
            site.edge.command(lab::binary("gateway")?).args(["check", "--config", &config]).output()?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(said.contains("ip filter FORWARD blocks the tunnel: its policy is drop"), "{said}");
        ensure!(status(&site)?.contains("ip filter FORWARD"), "{}", status(&site)?);
        fix(&site.edge, &said, "FORWARD")?;
        download(&client, "192.0.2.2:5001", 1 << 20)?;
        ensure!(!status(&site)?.contains("blocks the tunnel"), "{}", status(&site)?);
        Ok(())
    })
}

#[test]
fn an_input_chain_that_rejects_the_tunnel_is_named_with_its_fix() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.nft(
            "table ip filter { chain INPUT { type filter hook input priority 0;
               ct state established,related accept
               iifname lo accept
               tcp dport 22 accept
               counter reject with icmp type host-prohibited
             }
             }",
        )?;
        // A slow machine may take longer than the origin waits before it warns.
        lab.expect_warning("nothing came back");
        site.start_gateway()?;
        site.start_forwarder()?;
        let said = status(&site)?;
        ensure!(said.contains("a rule there refuses everything"), "{said}");
        ensure!(site.wait_until_up(Duration::from_secs(3)).is_err(), "the chain lets the tunnel in");
        fix(&site.edge, &said, "INPUT")?;
        site.wait_until_up(Duration::from_secs(60))?;
        ensure!(!status(&site)?.contains("blocks the tunnel"), "{}", status(&site)?);
        Ok(())
    })
}

/// Runs the command that the line about a chain gives.
fn fix(edge: &Node, said: &str, chain: &str) -> Result<()> {
    let line = said.lines().find(|line| line.contains(chain)).context("no line about the chain")?;
    let command = line.split_once("run: ").context("no fix")?.1;
    edge.shell(command).map(drop)
}

fn status(site: &Site<'_>) -> Result<String> {
    Ok(String::from_utf8_lossy(&site.gatewayctl(&["status"])?.output()?.stdout).into_owned())
}

/// Everything of ours in the kernel, without packet counters and the numbers that the kernel gives.
fn kernel_state(edge: &Node) -> Result<String> {
    let rules = table(edge).unwrap_or_default();
    let routes = edge.run("ip route show table 4357")?;
    let others = ["ip rule", "ip -6 rule", "ip -brief address show gw0", "sysctl net.ipv4.ip_forward"];
    let others: Result<Vec<_>> = others.iter().map(|question| edge.run(question)).collect();
    // A route that was added again is at another place.
    let mut routes: Vec<_> = routes.lines().map(str::trim).collect();
    routes.sort_unstable();
    Ok([rules, routes.join("\n"), others?.join("\n")].join("\n"))
}

fn foreign(edge: &Node) -> Result<String> {
    let tables = ["ip filter", "ip nat", "ip dockerlike", "inet other"];
    let listed = tables.iter().map(|table| edge.run(&format!("nft -j list table {table}")));
    Ok(listed.collect::<Result<Vec<_>>>()?.join("\n"))
}

fn metric(edge: &Node, name: &str) -> Result<f64> {
    let mut stream = edge.tcp_connect("127.0.0.1:9586", Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

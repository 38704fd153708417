//! `causeway doctor` at a pair whose edge has a fault: the right hop is named, and the printed fix
//! works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, full_counts, scenario, until};
use scenarios::{End, Measured, Served, Site, download, examined, leads_to, serve_bulk, upload};

/// How soon a fault must be named: the edge looks at rules and routes every 10 s at least.
const NAMED: Duration = Duration::from_secs(20);

#[test]
fn each_fault_of_an_edge_is_named_and_the_printed_fix_repairs_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        for expected in ["keeps changing", "would go by", "gatewayctl", "cannot be written", "closed"] {
            lab.expect_warning(expected);
        }
        let (mut site, _served) = examined(lab)?;
        before_the_first_start(&site)?;
        site.start()?;
        site.well()?;
        healthy(&site)?;
        foreign_firewalls(&site)?;
        a_stolen_route(&site)?;
        a_port_in_use(&mut site)?;
        a_list_without_a_source(&mut site)?;
        forwarding_off(&site)?;
        if full_counts() {
            a_name_that_leads_elsewhere(&site)?;
            a_router_that_does_not_forward(lab, &site)?;
        }
        a_table_that_another_program_removes(&site)
    })
}

#[test]
fn nothing_is_found_wrong_with_a_pair_that_is_well_under_load() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, served) = examined(lab)?;
        let Served { caddy: _caddy, bulk } = served;
        drop(bulk);
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        site.well()?;
        let client = lab.node("client")?;
        let is_over = AtomicBool::new(false);
        let transfer = |one: fn(&Node, &str, u64) -> Result<Measured>| -> Result<u64> {
            let mut moved = 0;
            while !is_over.load(Ordering::Relaxed) {
                one(&client, "192.0.2.2:5001", 8 << 20)?;
                moved += 8;
            }
            Ok(moved)
        };
        thread::scope(|scope| {
            let loads = [scope.spawn(|| transfer(download)), scope.spawn(|| transfer(upload))];
            let examined = healthy(&site);
            is_over.store(true, Ordering::Relaxed);
            for load in loads {
                println!(
                    "{} MiB at the same time",
                    load.join().map_err(|_| anyhow!("a transfer panicked"))??
                );
            }
            examined
        })
    })
}

/// What is in the way of a first start, for both files, without a daemon.
fn before_the_first_start(site: &Site<'_>) -> Result<()> {
    let other = site.edge.udp_socket("0.0.0.0:51820")?;
    site.edge.nft("table inet mine { chain in { type filter hook input priority 0; policy drop; }\n }")?;
    let found = site.checkup_before(End::Edge)?;
    ensure!(found.exit == Some(10) && found.names("ruleset", "missing"), "{}", found.document);
    let said = (found.first("hop"), found.first("evidence"), found.first("fix"));
    ensure!(
        said.0 == "wan_port" && said.1.contains("has udp/51820") && said.2.starts_with("stop it"),
        "{said:?}"
    );
    drop(other);
    let found = site.checkup_before(End::Edge)?;
    ensure!(found.first("hop") == "ruleset", "{}", found.document);
    site.edge.shell(&found.command()?)?;
    let found = site.checkup_before(End::Edge)?;
    ensure!(found.exit == Some(0), "{}", found.document);
    site.edge.run("nft delete table inet mine")?;

    let other = site.origin.tcp_listener("127.0.0.1:9587")?;
    let found = site.checkup_before(End::Origin)?;
    ensure!(
        (found.first("hop"), found.first("reason")) == ("service_entry", "port_taken"),
        "{}",
        found.document
    );
    drop(other);
    let found = site.checkup_before(End::Origin)?;
    ensure!(found.exit == Some(0), "{}", found.document);
    Ok(())
}

/// Nothing is wrong with a pair that is well, however often it is examined.
fn healthy(site: &Site<'_>) -> Result<()> {
    for _ in 0..if full_counts() { 100 } else { 5 } {
        for at in [End::Edge, End::Origin] {
            let found = site.checkup(at)?;
            ensure!((found.exit, found.state()) == (Some(0), "ok"), "{at:?}: {}", found.document);
        }
    }
    Ok(())
}

/// A firewall whose default is to drop, as the operator of an edge may have it.
fn foreign_firewalls(site: &Site<'_>) -> Result<()> {
    site.edge.nft(
        "table inet mine { chain in { type filter hook input priority 0; policy drop;
           iifname { lo, gw0 } accept; ct state established,related accept; }\n }",
    )?;
    let found = site.named(End::Edge, "wan_port", "foreign_input", NAMED)?;
    let seen = site.named(End::Origin, "wan_port", "foreign_input", NAMED)?;
    ensure!(seen.first("fix").starts_with("at kyiv: "), "{}", seen.document);
    site.edge.shell(&found.command()?)?;
    site.well()?;
    site.edge.run("nft delete table inet mine")?;

    site.edge
        .nft("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n }")?;
    let found = site.named(End::Edge, "ruleset", "foreign_forward", NAMED)?;
    site.edge.shell(&found.command()?)?;
    site.well()?;
    site.edge.run("nft delete table ip filter").map(drop)
}

/// A rule of another program in front of the edge's: the fix names the priority that it may have.
fn a_stolen_route(site: &Site<'_>) -> Result<()> {
    let rule = |priority: u32| format!("priority {priority} to 192.168.88.0/24 table 99");
    site.edge.ip(&format!("route add default via 192.0.2.1 table 99\nrule add {}", rule(1)))?;
    let found = site.named(End::Edge, "route", "other_route", NAMED)?;
    let fix = found.first("fix");
    let (_, above) = fix.split_once("give it a priority above ").with_context(|| fix.to_owned())?;
    let above: u32 = above.split_whitespace().next().unwrap_or_default().parse()?;
    site.edge.ip(&format!("rule del {}\nrule add {}", rule(1), rule(above + 1)))?;
    site.well()?;
    site.edge.ip(&format!("rule del {}", rule(above + 1)))
}

/// A program of the edge on a published port: the fix is a line of gateway.toml.
fn a_port_in_use(site: &mut Site<'_>) -> Result<()> {
    let _own = TcpServer::start(site.edge.tcp_listener("0.0.0.0:443")?, echo)?;
    let found = site.named(End::Edge, "wan_port", "port_taken", NAMED)?;
    let fix = found.first("fix");
    let (_, line) = fix.split_once("write ").with_context(|| fix.to_owned())?;
    let line = line.split(" to publish").next().unwrap_or_default();
    site.gateway_config.replace("listen = \"443\"", line)?.write()?;
    site.gatewayctl(&["reload"])?.run()?;
    site.well()
}

/// A published port for a list alone, whose file holds no source.
fn a_list_without_a_source(site: &mut Site<'_>) -> Result<()> {
    let file = site.edge.directory().join("friends.list");
    std::fs::write(&file, "# no source yet\n")?;
    site.gateway_config.replace("listen = \"5001\"", "listen = \"5001\"\nallow = [\"@friends\"]")?;
    site.gateway_config.append("[[list]]\nname = \"friends\"\nfile = \"friends.list\"").write()?;
    site.gatewayctl(&["reload"])?.run()?;
    let found = site.named(End::Edge, "ruleset", "list", NAMED)?;
    std::fs::write(&file, "203.0.113.0/24\n")?;
    ensure!(found.command()? == "gatewayctl reload", "{found:?}");
    site.gatewayctl(&["reload"])?.run()?;
    site.well()
}

/// A switch of the kernel that is off, on a machine that does not let it be written.
fn forwarding_off(site: &Site<'_>) -> Result<()> {
    site.edge.shell(
        // The gateway may switch it on again before it is read-only.
        r#"mount --bind /proc/sys /proc/sys
         until [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ]; do
           mount -o remount,rw,bind /proc/sys
           echo 0 >/proc/sys/net/ipv4/ip_forward
           mount -o remount,ro,bind /proc/sys
         done"#,
    )?;
    let found = site.named(End::Edge, "ruleset", "switch", NAMED)?;
    site.edge.run("umount /proc/sys")?;
    site.edge.run(&found.command()?)?;
    site.well()
}

/// DNS that leads to another machine than the edge.
fn a_name_that_leads_elsewhere(site: &Site<'_>) -> Result<()> {
    leads_to(site, "203.0.113.99")?;
    for at in [End::Visitor, End::Edge] {
        let found = site.named(at, "public_name", "elsewhere", NAMED)?;
        ensure!(found.first("fix").starts_with("correct the DNS record of emby.example.com"), "{found:?}");
    }
    leads_to(site, "192.0.2.2")?;
    site.checkup(End::Visitor)?;
    site.well()
}

/// What is in front of the edge does not let the port through.
fn a_router_that_does_not_forward(lab: &Lab, site: &Site<'_>) -> Result<()> {
    let inet = lab.node("inet")?;
    inet.nft(
        "table inet away { chain out { type filter hook forward priority 0; ip daddr 192.0.2.2 tcp dport 443 drop; }\n }",
    )?;
    let found = site.named(End::Visitor, "forward", "not_forwarded", NAMED)?;
    ensure!(found.first("fix").contains("forward the port to the edge"), "{found:?}");
    inet.run("nft delete table inet away")?;
    site.checkup(End::Visitor)?;
    site.well()
}

/// A program that removes the edge's table again and again: each time it is put back.
fn a_table_that_another_program_removes(site: &Site<'_>) -> Result<()> {
    let mut other = site
        .edge
        .command("sh")
        .args(["-c", "while :; do nft delete table inet causeway 2>/dev/null; sleep 0.3; done"])
        .spawn("other")?;
    let named = until(Duration::from_secs(40), "the contention to be named", || {
        let found = site.checkup(End::Edge)?;
        ensure!(found.first("hop") == "ruleset" || found.exit == Some(0), "{}", found.document);
        Ok(found.names("ruleset", "contention").then_some(()))
    });
    other.kill()?;
    named
}

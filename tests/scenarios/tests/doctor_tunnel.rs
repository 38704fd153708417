//! `causeway doctor` at a pair whose tunnel has a fault, which both ends take a while to notice:
//! most of it is part of the soak. Each fault is repaired as the printed fix says.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Process, Signal, Topology, full_counts, scenario, until};
use scenarios::{
    Checkup, End, KeyPair, Site, WireGuardGo, ahead_by, examined, preshared_key, shifted_clock, write_secret,
};

/// A silent peer is noticed after 15 s, and its reason found after as long again; a size is tried once
/// a minute.
const NAMED: Duration = Duration::from_secs(120);

#[test]
fn a_path_that_changes_or_is_blocked_and_a_machine_that_sleeps_are_named_with_a_fix_that_works() -> Result<()>
{
    only_in_the_soak(&[], |lab, site| {
        a_carrier_that_maps_again(lab, site)?;
        blocked_udp(lab, site)?;
        an_origin_that_sleeps(site)
    })
}

#[test]
fn another_key_at_one_end_and_an_endpoint_without_an_address_are_named_with_a_fix_that_works() -> Result<()> {
    let warnings = ["handshakes in the last", "does not authenticate", "nothing came back", "no address"];
    only_in_the_soak(&warnings, |_, site| {
        another_preshared_key(site)?;
        another_key(site)?;
        an_endpoint_without_an_address(site)
    })
}

#[test]
fn a_lossy_path_is_named_and_forgotten_once_it_is_well() -> Result<()> {
    only_in_the_soak(&[], |lab, site| a_lossy_path(lab, site))
}

#[test]
fn two_forwarders_with_one_key_are_named_at_both_ends_with_a_fix_that_works() -> Result<()> {
    let warnings = ["two machines use the key", "another machine uses"];
    only_in_the_soak(&warnings, |lab, site| two_forwarders_with_one_key(lab, site))
}

/// A pair that is well, and a fault that takes minutes to be noticed or forgotten.
#[allow(clippy::print_stdout)]
fn only_in_the_soak(warnings: &[&str], fault: impl FnOnce(&Lab, &mut Site<'_>) -> Result<()>) -> Result<()> {
    if !full_counts() {
        println!("only in the soak");
        return Ok(());
    }
    scenario(Topology::standard(), |lab| {
        for expected in warnings {
            lab.expect_warning(expected);
        }
        let (mut site, _served) = examined(lab)?;
        site.start()?;
        site.well()?;
        fault(lab, &mut site)
    })
}

#[test]
fn a_full_table_of_flows_and_a_wrong_clock_are_named_with_a_fix_that_works() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("conntrack is nearly full");
        lab.expect_warning("wall clock");
        let (mut site, _served) = examined(lab)?;
        site.start()?;
        site.well()?;
        a_full_table_of_flows(lab, &site)?;
        a_clock_that_is_years_behind(lab, &mut site)
    })
}

#[test]
fn a_path_to_a_plain_peer_that_drops_large_packets_is_named_and_repaired_by_the_printed_line() -> Result<()> {
    if !full_counts() {
        println!("only in the soak");
        return Ok(());
    }
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let _far = WireGuardGo::origin(&site, &["10.77.88.2/30"], &[])?;
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(20))?;
        let found = site.checkup(End::Edge)?;
        ensure!(!found.names("tunnel", "path_mtu"), "{}", found.document);
        lab.node("inet")?.nft(HOLE)?;
        let line = line(&site.named(End::Edge, "tunnel", "path_mtu", NAMED)?)?;
        site.gateway_config.replace("mtu = 1420", &line)?.write()?;
        site.gatewayctl(&["reload"])?.run()?;
        until(Duration::from_secs(60), "large packets to be no fault any more", || {
            Ok((!site.checkup(End::Edge)?.names("tunnel", "path_mtu")).then_some(()))
        })
    })
}

#[test]
fn a_path_to_an_origin_that_drops_large_packets_is_named_at_both_ends_and_repaired_by_the_printed_lines()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _served) = examined(lab)?;
        lab.node("inet")?.nft(HOLE)?;
        site.start()?;
        let edge = line(&site.named(End::Edge, "tunnel", "path_mtu", NAMED)?)?;
        let origin = line(&site.named(End::Origin, "tunnel", "path_mtu", NAMED)?)?;
        site.gateway_config.replace("mtu = 1420", &edge)?.write()?;
        site.gatewayctl(&["reload"])?.run()?;
        site.forwarder_config.replace("mtu = 1420", &origin)?;
        restart_forwarder(&mut site)?;
        site.well()?;
        until(NAMED, "both ends to find what passes", || {
            let found = site.checkup(End::Edge)?;
            ensure!(found.exit == Some(0), "{}", found.document);
            Ok(found.document.to_string().contains("bytes pass").then_some(()))
        })
    })
}

#[test]
fn an_edge_whose_address_changed_is_named_at_both_ends_and_repaired_by_the_printed_record() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _served) = examined(lab)?;
        let hosts = |address: &str| {
            format!("127.0.0.1 localhost\n{address} emby.example.com\n{address} kyiv.example.com\n")
        };
        let mut files = Vec::new();
        for node in [&site.edge, &site.origin] {
            files.push(node.shadow_file("/etc/hosts", &hosts("192.0.2.2"))?);
            node.shadow_file("/etc/nsswitch.conf", "hosts: files\n")?;
        }
        site.gateway_config.replace("[wan]\n", "[wan]\nname = \"kyiv.example.com\"\n")?;
        site.forwarder_config.replace("192.0.2.2:51820", "kyiv.example.com:51820")?;
        site.start()?;
        site.well()?;
        site.edge.ip("address del 192.0.2.2/24 dev eth0\naddress add 192.0.2.3/24 dev eth0\n\
             route replace default via 192.0.2.1")?;
        let found = site.named(End::Edge, "public_name", "elsewhere", NAMED)?;
        let record =
            found.first("fix").split("; ").next().and_then(|fix| fix.strip_prefix("set the DNS record "));
        let record = record.context("no record")?.to_owned();
        let (name, address) = record.split_once(" A ").context("no address")?;
        ensure!((name, address) == ("kyiv.example.com", "192.0.2.3"), "{record}");
        let found = site.named(End::Origin, "tunnel", "peer_down", NAMED)?;
        ensure!(found.first("fix").contains("correct the DNS record of kyiv.example.com"), "{found:?}");
        for file in files {
            fs::write(file, hosts(address))?;
        }
        site.well()
    })
}

/// A router between the ends that drops large datagrams without an error.
const HOLE: &str = "table inet hole { chain pass { type filter hook forward priority 0;
  udp dport 51820 ip length > 1440 drop; udp sport 51820 ip length > 1440 drop; }\n }";

/// The line of a configuration in the fix of the first failing hop.
fn line(found: &Checkup) -> Result<String> {
    let line = found.first("fix").strip_prefix("write ").and_then(|fix| fix.split(" in ").next());
    Ok(line.context("no line")?.to_owned())
}

/// Of the packets between the ends, 30 % get lost.
fn a_lossy_path(lab: &Lab, site: &Site<'_>) -> Result<()> {
    let inet = lab.node("inet")?;
    inet.nft(
        "table inet lossy { chain pass { type filter hook forward priority 0;
           udp dport 51820 numgen random mod 10 < 3 drop; udp sport 51820 numgen random mod 10 < 3 drop; }\n }",
    )?;
    let found = site.named(End::Edge, "tunnel", "loss", Duration::from_secs(300))?;
    ensure!(found.first("evidence").contains("% of the probes to wroclaw are lost"), "{found:?}");
    site.named(End::Origin, "tunnel", "loss", Duration::from_secs(300))?;
    inet.run("nft delete table inet lossy")?;
    // The last probes are remembered for a while.
    until(Duration::from_secs(600), "the losses to be forgotten", || Ok(site.well().ok()))
}

/// The carrier gives the origin another port: nothing is wrong once the tunnel has followed.
fn a_carrier_that_maps_again(lab: &Lab, site: &Site<'_>) -> Result<()> {
    let findings = site.checkup(End::Edge)?.document.to_string();
    ensure!(!findings.contains("its address changed"), "{findings}");
    lab.rebind_cgnat(44_001)?;
    until(NAMED, "the edge to see the other port", || {
        let found = site.checkup(End::Edge)?;
        ensure!(found.exit == Some(0), "{}", found.document);
        Ok(found.document.to_string().contains("its address changed").then_some(()))
    })?;
    site.well()
}

fn blocked_udp(lab: &Lab, site: &Site<'_>) -> Result<()> {
    let inet = lab.node("inet")?;
    inet.nft(
        "table inet closed { chain pass { type filter hook forward priority 0; udp dport 51820 drop; udp sport 51820 drop; }\n }",
    )?;
    let found = site.named(End::Edge, "tunnel", "silent", NAMED)?;
    ensure!(found.first("fix").contains("udp/51820 is forwarded"), "{found:?}");
    let found = site.named(End::Origin, "tunnel", "peer_down", NAMED)?;
    ensure!(found.first("evidence").contains("nothing comes back any more"), "{found:?}");
    inet.run("nft delete table inet closed")?;
    site.well()
}

fn an_origin_that_sleeps(site: &mut Site<'_>) -> Result<()> {
    site.forwarder()?.signal(Signal::Stop)?;
    let found = site.named(End::Edge, "tunnel", "silent", NAMED)?;
    ensure!(found.first("fix").contains("see that wroclaw runs and is online"), "{found:?}");
    site.forwarder()?.signal(Signal::Continue)?;
    site.well()
}

fn another_preshared_key(site: &mut Site<'_>) -> Result<()> {
    let file = site.origin.directory().join("wroclaw.psk");
    write_secret(&file, &preshared_key("unknown"))?;
    restart_forwarder(site)?;
    let found = site.named(End::Origin, "tunnel", "peer_down", NAMED)?;
    ensure!(found.first("fix").contains("preshared_key_file must hold the same key"), "{found:?}");
    let found = site.named(End::Edge, "tunnel", "not_completed", NAMED)?;
    ensure!(found.first("fix").contains("must hold the same key at both ends"), "{found:?}");
    write_secret(&file, &preshared_key("wroclaw"))?;
    restart_forwarder(site)?;
    site.well()
}

/// The edge has another key for its peer: it shows the one that comes.
fn another_key(site: &mut Site<'_>) -> Result<()> {
    let (own, other) = (site.wroclaw.public.clone(), KeyPair::of("unknown").public);
    site.gateway_config.replace(&own, &other)?.write()?;
    site.gatewayctl(&["reload"])?.run()?;
    let found = site.named(End::Edge, "tunnel", "handshakes", NAMED)?;
    let mut words = found.first("evidence").split_whitespace();
    let key = words.rfind(|word| word.len() == 44 && word.ends_with('=')).context("no key")?;
    site.gateway_config.replace(&other, key)?.write()?;
    site.gatewayctl(&["reload"])?.run()?;
    site.well()
}

fn an_endpoint_without_an_address(site: &mut Site<'_>) -> Result<()> {
    site.forwarder_config.replace("192.0.2.2:51820", "kyiv.example.com:51820")?;
    restart_forwarder(site)?;
    let found = site.named(End::Origin, "tunnel", "peer_down", NAMED)?;
    ensure!(found.first("evidence").contains("kyiv.example.com has no address"), "{found:?}");
    site.forwarder_config.replace("kyiv.example.com:51820", "192.0.2.2:51820")?;
    restart_forwarder(site)?;
    site.well()
}

fn two_forwarders_with_one_key(lab: &Lab, site: &Site<'_>) -> Result<()> {
    let mut other = second(lab, site)?;
    site.named(End::Edge, "tunnel", "shared_key", NAMED)?;
    let found = site.named(End::Origin, "tunnel", "shared_key", Duration::from_secs(150))?;
    ensure!(found.first("fix").contains("stop one of them"), "{found:?}");
    other.kill()?;
    // What was seen of the links is remembered for ten minutes.
    until(Duration::from_secs(700), "the second machine to be forgotten", || Ok(site.well().ok()))
}

fn a_full_table_of_flows(lab: &Lab, site: &Site<'_>) -> Result<()> {
    drop(lab.node("client")?.tcp_connect("192.0.2.2:5001", Duration::from_secs(5))?);
    let flows = site.edge.run("conntrack -L -p tcp --orig-port-dst 5001")?;
    let mark = flows.split_whitespace().find_map(|word| word.strip_prefix("mark=")).context("no mark")?;
    let most: u64 = site.edge.read_sysctl("net/netfilter/nf_conntrack_max")?.trim().parse()?;
    let line = |number: u64| {
        let (high, low) = (number / 60_000, 1_000 + number % 60_000);
        format!(
            "-I -p tcp -s 198.18.0.{high} -d 192.0.2.2 --sport {low} --dport 9 --state SYN_SENT -t 600 -m {mark}\n"
        )
    };
    let file: PathBuf = site.edge.directory().join("flows");
    fs::write(&file, (0..most * 81 / 100).map(line).collect::<String>())?;
    let load = site.edge.command("conntrack").arg("-R").arg(&file).limit(Duration::from_secs(120));
    load.run().context("filling conntrack")?;
    let found = site.named(End::Edge, "ruleset", "flow_table", NAMED)?;
    let seen = site.named(End::Origin, "ruleset", "flow_table", NAMED)?;
    ensure!(seen.first("fix").starts_with("at kyiv: "), "{seen:?}");
    let fix = found.first("fix");
    let command = fix.split('`').find(|part| part.starts_with("conntrack -D")).context("no command")?;
    site.edge.output(command)?;
    site.well()
}

/// A clock that ran ahead once and is set back: peers refuse what is older than the last.
fn a_clock_that_is_years_behind(lab: &Lab, site: &mut Site<'_>) -> Result<()> {
    let library = shifted_clock(lab)?;
    let ahead = |site: &mut Site<'_>, seconds: i64| -> Result<()> {
        site.gateway()?.stop(Duration::from_secs(10))?;
        site.environment = [ahead_by(&library, seconds), Vec::new()];
        site.start_gateway()
    };
    ahead(site, -157_680_000)?;
    let found = site.named(End::Edge, "tunnel", "clock", NAMED)?;
    ensure!(found.first("fix").contains("set it"), "{found:?}");
    ahead(site, 0)?;
    site.well()
}

fn restart_forwarder(site: &mut Site<'_>) -> Result<()> {
    site.forwarder()?.kill()?;
    site.start_forwarder()
}

/// A second daemon with the origin's key, next to the first.
fn second(lab: &Lab, site: &Site<'_>) -> Result<Process> {
    let folder = site.origin.directory();
    let state = folder.join("second-state");
    fs::create_dir_all(&state)?;
    let mut config = site.forwarder_config.clone();
    let (first, reach) = config.text.split_once("[[reach]]").context("no [[reach]]")?;
    let (_, metrics) = reach.split_once("[metrics]").context("no [metrics]")?;
    config.text = format!("{first}[metrics]{metrics}");
    config.replace("127.0.0.1:9587", "127.0.0.1:9588")?;
    config.replace(&folder.join("state").display().to_string(), &state.display().to_string())?;
    for name in ["wroclaw.key", "wroclaw.psk"] {
        fs::copy(folder.join(name), state.join(name))?;
        chown(state.join(name), Some(0), Some(0))?;
        config.replace(&format!("\"{name}\""), &format!("\"second-state/{name}\""))?;
    }
    let path = folder.join("second.toml");
    fs::write(&path, &config.text)?;
    let command = site.origin.command(lab::binary("forwarder")?).arg("--config").arg(path);
    let process = command.spawn("second-forwarder")?;
    lab.judge(&process);
    Ok(process)
}

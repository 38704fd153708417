//! `causeway doctor` at a pair whose origin has a fault: both ends name the right hop, and the
//! printed fix works.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Signal, Topology, scenario};
use scenarios::{Caddy, End, SITES, Served, Site, examined, expired_certificate};

/// How soon a fault must be named: an upstream is checked every 10 s, a name once a minute, and
/// what fails is looked at again before it counts.
const NAMED: Duration = Duration::from_secs(30);
/// A user who is neither root nor a daemon's.
const OTHER_USER: u32 = 65_533;

#[test]
fn each_fault_of_an_origin_is_named_at_both_ends_and_the_printed_fix_repairs_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, mut served) = examined(lab)?;
        site.start()?;
        site.well()?;
        a_dead_upstream_and_one_that_hangs(&site, &mut served)?;
        another_proxy_setting(&mut site, &mut served)?;
        an_expired_certificate(&site, &mut served)?;
        a_missing_service(&mut site)?;
        an_upstream_without_an_address(&mut site)?;
        no_descriptors(lab, &mut site)?;
        a_user_who_may_not_ask(&site)?;
        a_daemon_that_does_not_run(&mut site)
    })
}

/// Both ends name it.
fn both(site: &Site<'_>, hop: &str, reason: &str) -> Result<[String; 2]> {
    let fix = |at| Ok::<_, anyhow::Error>(site.named(at, hop, reason, NAMED)?.first("fix").to_owned());
    let [edge, origin] = [fix(End::Edge)?, fix(End::Origin)?];
    ensure!(edge.starts_with("at wroclaw: ") && !origin.starts_with("at "), "{edge} | {origin}");
    Ok([edge, origin])
}

fn a_dead_upstream_and_one_that_hangs(site: &Site<'_>, served: &mut Served) -> Result<()> {
    site.checkup(End::Visitor)?;
    served.caddy.process.kill()?;
    let [_, fix] = both(site, "upstream", "refused")?;
    ensure!(fix.starts_with("start the program that listens on the upstream of [[service]] https"), "{fix}");
    let shown = site.doctor_at_edge(&[])?.output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let last = shown.lines().next_back().unwrap_or_default();
    ensure!(last == format!("fix: at wroclaw: {fix}"), "{shown}");
    served.caddy = Caddy::start_sites(&site.origin, true, SITES)?;
    site.well()?;
    served.caddy.process.signal(Signal::Stop)?;
    let [_, fix] = both(site, "upstream", "timed_out")?;
    ensure!(
        fix.starts_with("restart the program that listens on the upstream of [[service]] https"),
        "{fix}"
    );
    served.caddy.process.kill()?;
    served.caddy = Caddy::start_sites(&site.origin, true, SITES)?;
    site.well()
}

/// A Caddy without a listener for PROXY headers: the fix is a line of forwarder.toml.
fn another_proxy_setting(site: &mut Site<'_>, served: &mut Served) -> Result<()> {
    served.caddy.process.kill()?;
    served.caddy = Caddy::start_sites(&site.origin, false, SITES)?;
    let [_, fix] = both(site, "upstream", "no_proxy_listener")?;
    let (_, line) = fix.rsplit_once("or set ").with_context(|| fix.clone())?;
    site.forwarder_config.replace("proxy_protocol = \"v2\"", line)?;
    reload(site)?;
    site.well()
}

fn an_expired_certificate(site: &Site<'_>, served: &mut Served) -> Result<()> {
    expired_certificate(&site.origin)?;
    let folder = site.origin.directory().display().to_string();
    let old = SITES.replace("tls internal", &format!("tls {folder}/old.crt {folder}/old.key"));
    served.caddy.process.kill()?;
    served.caddy = Caddy::start_sites(&site.origin, false, &old)?;
    let [_, fix] = both(site, "upstream", "certificate_expired")?;
    ensure!(fix.starts_with("renew the certificate for"), "{fix}");
    served.caddy.process.kill()?;
    served.caddy = Caddy::start_sites(&site.origin, false, SITES)?;
    site.well()
}

/// A published port that no entry of the origin takes: the edge knows, and the origin by it.
fn a_missing_service(site: &mut Site<'_>) -> Result<()> {
    site.forwarder_config.replace("match = \"192.168.88.2:5001\"", "match = \"192.168.88.2:5002\"")?;
    reload(site)?;
    let found = site.named(End::Edge, "service_entry", "no_entry", NAMED)?;
    let edge = found.first("fix").to_owned();
    ensure!(edge.starts_with("in forwarder.toml of wroclaw, add a [[service]]"), "{edge}");
    let found = site.named(End::Origin, "service_entry", "no_entry", NAMED)?;
    ensure!(found.first("fix").starts_with("add a [[service]]"), "{found:?}");
    let (_, target) = edge.split_once("match = \"").with_context(|| edge.clone())?;
    let target = target.split('"').next().unwrap_or_default();
    let line = format!("match = \"{target}\"");
    site.forwarder_config.replace("match = \"192.168.88.2:5002\"", &line)?;
    reload(site)?;
    site.well()
}

fn an_upstream_without_an_address(site: &mut Site<'_>) -> Result<()> {
    site.forwarder_config.replace("upstream = \"127.0.0.1:5001\"", "upstream = \"nas.home.arpa:5001\"")?;
    reload(site)?;
    let [_, fix] = both(site, "upstream", "unresolved")?;
    ensure!(fix.starts_with("correct the host name in `upstream` of [[service]] bulk"), "{fix}");
    site.forwarder_config.replace("upstream = \"nas.home.arpa:5001\"", "upstream = \"127.0.0.1:5001\"")?;
    reload(site)?;
    site.well()
}

/// A forwarder that may open no file more: flows are refused, and for a while that is shown.
fn no_descriptors(lab: &Lab, site: &mut Site<'_>) -> Result<()> {
    lab.expect_warning("because every file descriptor was in use");
    let pid = site.forwarder()?.pid().to_string();
    // Only the owner of a process, or root with every capability, may set its limits.
    let owner = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "prlimit"];
    let is_unprivileged = site.is_unprivileged();
    let limit = |soft: u32| -> Result<()> {
        let mut limit = Command::new(if is_unprivileged { "setpriv" } else { "prlimit" });
        limit.args(if is_unprivileged { owner.as_slice() } else { &[] });
        let status = limit.args(["--pid", &pid, &format!("--nofile={soft}:")]).status()?;
        ensure!(status.success(), "prlimit: {status}");
        Ok(())
    };
    limit(64)?;
    let (client, mut flows) = (lab.node("client")?, Vec::new());
    while let Ok(flow) = client.tcp_connect("192.0.2.2:5001", Duration::from_millis(1_500)) {
        flows.push(flow);
        ensure!(flows.len() < 100, "64 descriptors for 100 flows");
    }
    limit(4_096)?;
    drop(flows);
    let found = site.named(End::Origin, "service_entry", "descriptors", NAMED)?;
    ensure!(found.first("fix").contains("LimitNOFILE="), "{found:?}");
    let found = site.named(End::Edge, "service_entry", "descriptors", NAMED)?;
    ensure!(found.first("evidence").contains("were refused since the start"), "{found:?}");
    Ok(())
}

/// Who may not ask the daemon gets no good news, and learns how to see more.
fn a_user_who_may_not_ask(site: &Site<'_>) -> Result<()> {
    if !site.is_unprivileged() {
        return Ok(());
    }
    let socket = site.edge.directory().join("closed.sock");
    let _other = std::os::unix::net::UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let command = site.doctor_at_edge(&["--socket"])?.arg(&socket).user(OTHER_USER, OTHER_USER);
    let output = command.output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(11), "{shown}");
    ensure!(shown.contains("is not known") && shown.contains("sudo causeway doctor"), "{shown}");
    Ok(())
}

/// One end is dead: the other one says so, and what it still sees.
fn a_daemon_that_does_not_run(site: &mut Site<'_>) -> Result<()> {
    site.forwarder()?.stop(Duration::from_secs(10))?;
    let found = site.named(End::Origin, "daemon", "no_answer", NAMED)?;
    ensure!(found.first("fix").contains("systemctl start forwarder"), "{found:?}");
    let found = site.named(End::Edge, "tunnel", "stopping", NAMED)?;
    ensure!(found.names("tunnel", "stopping") && !found.names("ruleset", "table_missing"), "{found:?}");
    site.start_forwarder()?;
    site.well()
}

fn reload(site: &Site<'_>) -> Result<()> {
    site.forwarder_config.write()?;
    let command = site.origin.command(site.of_origin("forwarder")?).arg("--config");
    command.arg(site.forwarder_config.path()).arg("reload").run().map(drop)
}

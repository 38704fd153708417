//! What happened, as `causeway history` shows it at both ends: each outage with its cause first,
//! whatever the clocks say, and nothing lost with a daemon that is killed.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::{Site, ahead_by, shifted_clock};
use serde_json::Value;

/// The link, the reports across it, and the looks of both ends.
const SOON: Duration = Duration::from_secs(45);
/// How far the origin's clock is ahead.
const AHEAD: u64 = 3_600;

#[test]
fn an_upstream_that_ends_and_an_apply_that_breaks_it_are_causes_at_both_ends_whatever_the_clocks_say()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _others) = site(lab)?;
        site.environment = [Vec::new(), ahead_by(&shifted_clock(lab)?, AHEAD)];
        let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        works(&site)?;
        lab.node("client")?.tcp_connect("192.0.2.2:5001", Duration::from_secs(5))?;

        drop(page);
        ends_show(&site, "an upstream that ended", |outage| {
            is_failing_upstream(&outage["cause"]) && outage["over"].is_null() && has_both(outage)
        })?;
        let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        ends_show(&site, "its end", |outage| {
            is_failing_upstream(&outage["cause"]) && outage["over"].is_u64() && has_both(outage)
        })?;

        site.forwarder_config.replace("upstream = \"127.0.0.1:5001\"", "upstream = \"127.0.0.1:5002\"")?;
        site.forwarder_config.write()?;
        let reload = site.origin.command(site.of_origin("forwarder")?).arg("--config");
        reload.arg(site.forwarder_config.path()).arg("reload").run()?;
        ends_show(&site, "a change that broke it", |outage| {
            outage["cause"]["kind"] == "applied" && outage["symptoms"].to_string().contains("\"bulk\"")
        })?;
        drop(page);

        let shown = text(&site, &site.edge)?;
        println!("{shown}");
        let order = [
            "at wroclaw: service bulk: upstream is failing",
            "over after",
            "the configuration was read again",
        ];
        // The start has a block of its own before.
        let mut rest = shown.as_str();
        for words in order {
            rest =
                rest.split_once(words).with_context(|| format!("no {words:?} in its place in\n{shown}"))?.1;
        }
        ensure!(shown.contains("the clock of wroclaw is 1 hour ahead of this one"), "{shown}");
        no_client_is_in_it(&site)
    })
}

#[test]
fn a_daemon_that_was_killed_is_the_cause_and_lost_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _others) = site(lab)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        works(&site)?;
        site.forwarder()?.kill()?;
        until(SOON, "the edge to know", || {
            let outages = outages(&history(&site, &site.edge)?)?;
            Ok(outages.iter().any(|outage| about_tunnel(&outage["cause"])).then_some(()))
        })?;
        site.start_forwarder()?;
        ends_show(&site, "a daemon that was killed", |outage| {
            let symptoms = outage["symptoms"].as_array();
            outage["is_crash"] == true
                && outage["cause"]["role"] == "origin"
                && outage["over"].is_u64()
                && symptoms.is_some_and(|symptoms| symptoms.iter().any(about_tunnel))
        })?;
        println!("{}", text(&site, &site.edge)?);

        let known = numbers(&history(&site, &site.edge)?, "edge")?;
        site.gateway()?.kill()?;
        site.start_gateway()?;
        let after = history(&site, &site.edge)?;
        let there = numbers(&after, "edge")?;
        let lost: Vec<_> = known.iter().filter(|number| !there.contains(number)).collect();
        ensure!(lost.is_empty(), "{lost:?} of {known:?} were lost: {there:?}");
        ensure!(there.len() > known.len(), "the start is not there: {there:?}");
        Ok(())
    })
}

/// `make soak` runs it: it waits until both ends have noticed.
#[test]
fn a_tunnel_that_is_cut_is_the_cause_of_what_is_behind_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _others) = site(lab)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        works(&site)?;
        let inet = lab.node("inet")?;
        inet.nft(
            "table ip cut {
               chain forward { type filter hook forward priority 0; udp dport 51820 drop; udp sport 51820 drop; }
             }",
        )?;
        // The link is down first, which is a symptom then.
        until(SOON, "both ends to know", || {
            let knows = |node| {
                let outages = outages(&local(&site, node)?)?;
                anyhow::Ok(outages.iter().any(|outage| outage["cause"]["kind"] == "peer"))
            };
            Ok((knows(&site.edge)? && knows(&site.origin)?).then_some(()))
        })?;
        inet.nft("delete table ip cut")?;
        ends_show(&site, "a tunnel that was cut", |outage| {
            about_tunnel(&outage["cause"])
                && outage["over"].is_u64()
                && outage["symptoms"].as_array().is_some_and(|symptoms| symptoms.len() >= 2)
        })?;
        println!("{}", text(&site, &site.origin)?);
        Ok(())
    })
}

/// The worked example with one service, which is looked at often.
fn site(lab: &Lab) -> Result<(Site<'_>, [TcpServer; 2])> {
    let mut site = Site::new(lab)?;
    site.forwarder_config.replace(
        "upstream = \"127.0.0.1:5001\"",
        "upstream = \"127.0.0.1:5001\"\nhealth = { check = \"tcp\", every = \"2s\" }",
    )?;
    // Nothing but the test's own service fails.
    let server = |address| TcpServer::start(site.origin.tcp_listener(address)?, echo);
    let others = [server("127.0.0.1:8443")?, server("127.0.0.1:8428")?];
    Ok((site, others))
}

/// Waits until both ends have noted that the service works.
fn works(site: &Site<'_>) -> Result<()> {
    let is_up = |record: &Value| record["service"] == "bulk" && record["state"] == "ok";
    let noted = |node| {
        let records = local(site, node)?["records"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(records.iter().any(is_up))
    };
    until(SOON, "the service to work", || Ok((noted(&site.edge)? && noted(&site.origin)?).then_some(())))
}

/// Waits until both ends show such an outage.
fn ends_show(site: &Site<'_>, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<()> {
    for node in [&site.edge, &site.origin] {
        let mut shown = Value::Null;
        let took = time_until(SOON, what, || {
            shown = history(site, node)?;
            Ok(outages(&shown)?.iter().any(&is_it))
        });
        let took = took.with_context(|| format!("{}: {shown}", node.name()))?;
        println!("{} shows {what} after {took:?}", node.name());
    }
    Ok(())
}

fn is_failing_upstream(record: &Value) -> bool {
    record["service"] == "bulk" && record["hop"] == "upstream" && record["role"] == "origin"
}

fn about_tunnel(record: &Value) -> bool {
    record["kind"] == "peer" || record["kind"] == "link"
}

/// Whether what both ends saw is in it.
fn has_both(outage: &Value) -> bool {
    let symptoms = outage["symptoms"].as_array();
    symptoms.is_some_and(|symptoms| symptoms.iter().any(|symptom| symptom["role"] == "edge"))
}

fn outages(history: &Value) -> Result<Vec<Value>> {
    let blocks = history["blocks"].as_array().context("no blocks")?;
    Ok(blocks.iter().map(|block| block["outage"].clone()).filter(|outage| !outage.is_null()).collect())
}

fn numbers(history: &Value, role: &str) -> Result<Vec<u64>> {
    let records = history["records"].as_array().context("no records")?;
    let own = records.iter().filter(|record| record["role"] == role && record["kind"] != "minute");
    Ok(own.filter_map(|record| record["number"].as_u64()).collect())
}

fn history(site: &Site<'_>, node: &Node) -> Result<Value> {
    let text = causeway(site, node, &["--json"])?;
    serde_json::from_str(&text).with_context(|| text)
}

/// What this end alone noted.
fn local(site: &Site<'_>, node: &Node) -> Result<Value> {
    let text = causeway(site, node, &["--json", "--local"])?;
    serde_json::from_str(&text).with_context(|| text)
}

/// What people read, both outputs.
fn text(site: &Site<'_>, node: &Node) -> Result<String> {
    let output = command(site, node, &[])?.output()?;
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    Ok(shown(&output.stdout) + &shown(&output.stderr))
}

fn causeway(site: &Site<'_>, node: &Node, arguments: &[&str]) -> Result<String> {
    command(site, node, arguments)?.run()
}

fn command(site: &Site<'_>, node: &Node, arguments: &[&str]) -> Result<lab::NodeCommand> {
    let command = node.command(lab::binary("causeway")?).args(["history", "--since", "10m"]).args(arguments);
    let is_origin = node.name() == site.origin.name();
    Ok(match is_origin {
        true => {
            // Both ends' times are asked for by the same clock.
            let [_, environment] = &site.environment;
            let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
            command.arg("--config").arg(site.forwarder_config.path())
        }
        false => command,
    })
}

/// No address of a client is in the files, nor in what is shown.
fn no_client_is_in_it(site: &Site<'_>) -> Result<()> {
    for node in [&site.edge, &site.origin] {
        let shown = history(site, node)?.to_string();
        ensure!(!shown.contains("203.0.113."), "{}: {shown}", node.name());
        let folder = node.directory().join("state/history");
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let bytes = fs::read(entry?.path())?;
            ensure!(
                !bytes.is_empty() && !String::from_utf8_lossy(&bytes).contains("203.0.113."),
                "{}",
                node.name()
            );
        }
    }
    Ok(())
}

//! A tunnel that does not come up: each end names the cause, as far as it can know it, and what to
//! do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Topology, scenario, until};
use relay::Random;
use scenarios::{KeyPair, Site, preshared_key, write_secret};
use serde_json::Value;

/// A daemon looks for the reason after 15 s, and then every five seconds.
const TIMEOUT: Duration = Duration::from_secs(40);

#[test]
fn a_wrong_key_of_the_edge_at_the_origin_is_named_by_both_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("made for another key than this edge's");
        lab.expect_warning("nothing came back");
        let mut site = Site::new(lab)?;
        let (kyiv, wroclaw) = (site.kyiv.public.clone(), site.wroclaw.public.clone());
        site.forwarder_config.replace(&kyiv, &KeyPair::of("unknown").public)?;
        start_both(&mut site)?;

        edge_says(&site, &["(bad_mac)", &kyiv])?;
        origin_says(&site, &["nothing came back from 192.0.2.2:51820", &wroclaw, "gatewayctl status"])
    })
}

#[test]
fn a_key_that_the_edge_does_not_list_is_shown_there_to_be_compared() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("came with a key that no [[peer]] has");
        lab.expect_warning("nothing came back");
        let mut site = Site::new(lab)?;
        let wroclaw = site.wroclaw.public.clone();
        site.gateway_config.replace(&wroclaw, &KeyPair::of("unknown").public)?;
        start_both(&mut site)?;

        edge_says(&site, &["(unknown_peer)", &wroclaw, "NAME.pub"])?;
        origin_says(&site, &["nothing came back from 192.0.2.2:51820", &wroclaw])?;
        let log = site.gateway()?.log()?;
        ensure!(!log.contains("198.51.100.7"), "a client's address is logged: {log}");
        ensure!(log.matches("unknown_peer").count() == 1, "warned of more than once: {log}");
        Ok(())
    })
}

#[test]
fn another_preshared_key_is_distinguished_from_silence() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("its answer does not authenticate");
        let mut site = Site::new(lab)?;
        write_secret(&site.origin.directory().join("wroclaw.psk"), &preshared_key("unknown"))?;
        start_both(&mut site)?;

        origin_says(&site, &["192.0.2.2:51820 answers", "preshared_key_file"])
    })
}

#[test]
fn a_wrong_port_is_silence_that_names_the_port_and_the_edge_has_nothing_to_say() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("nothing came back from 192.0.2.2:51821");
        let mut site = Site::new(lab)?;
        site.forwarder_config.replace("192.0.2.2:51820", "192.0.2.2:51821")?;
        start_both(&mut site)?;

        origin_says(&site, &["nothing came back from 192.0.2.2:51821", "port"])?;
        let problems = edge_problems(&site)?;
        ensure!(problems == ["peer wroclaw is never"], "{problems:?}");
        let log = site.forwarder()?.log()?;
        ensure!(log.matches("nothing came back").count() == 1, "warned of more than once: {log}");
        Ok(())
    })
}

#[test]
fn an_endpoint_where_nothing_listens_and_one_that_no_host_has_answer_by_icmp() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("nothing listens on this UDP port");
        lab.expect_warning("cannot be reached");
        // This NAT lets a flow's ICMP errors back in. The lab's own drops them, which looks like
        // silence.
        lab.node("cgnat")?.nft("add rule ip cgnat forward ct state related accept")?;
        let mut site = Site::new(lab)?;
        site.forwarder_config.replace("192.0.2.2:51820", "192.0.2.1:51820")?;
        site.start_forwarder()?;
        origin_says(&site, &["192.0.2.1:51820 answers that nothing listens on this UDP port"])?;
        drop(site.forwarder.take());

        site.forwarder_config.replace("192.0.2.1:51820", "192.0.2.77:51820")?;
        site.start_forwarder()?;
        origin_says(&site, &["192.0.2.77 cannot be reached"])?;
        // The reason that was found does not keep the tunnel from coming up once the edge is there.
        drop(site.forwarder.take());
        site.forwarder_config.replace("192.0.2.77:51820", "192.0.2.2:51820")?;
        site.start_forwarder()?;
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(15))?;
        ensure!(origin_problems(&site)?.is_empty());
        Ok(())
    })
}

#[test]
fn a_name_without_an_address_and_one_that_leads_to_a_proxy_are_named() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("has no address");
        lab.expect_warning("carries no WireGuard");
        let mut site = Site::new(lab)?;
        site.origin.shadow_file("/etc/hosts", "127.0.0.1 localhost\n104.16.0.1 proxied.example.com\n")?;
        site.origin.shadow_file("/etc/nsswitch.conf", "hosts: files\n")?;
        site.forwarder_config.replace("192.0.2.2:51820", "kyiv.example.com:51820")?;
        site.start_forwarder()?;
        origin_says(&site, &["kyiv.example.com has no address", "DNS"])?;
        drop(site.forwarder.take());

        site.forwarder_config.replace("kyiv.example.com:51820", "proxied.example.com:51820")?;
        site.start_forwarder()?;
        origin_says(&site, &["leads to 104.16.0.1", "@cloudflare"])
    })
}

#[test]
fn a_tunnel_that_is_up_has_nothing_to_say_at_either_end_whatever_noise_comes_to_the_port() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        noise(lab, &site.edge)?;
        ensure!(edge_problems(&site)?.is_empty(), "{:?}", edge_problems(&site)?);
        ensure!(origin_problems(&site)?.is_empty(), "{:?}", origin_problems(&site)?);
        Ok(())
    })
}

/// Messages in the form of initiations, and datagrams of any form, from one address over six
/// seconds.
fn noise(lab: &Lab, edge: &Node) -> Result<()> {
    let socket = lab.node("client")?.udp_socket("203.0.113.10:0")?;
    let mut random = Random::new(7);
    let counted = || -> Result<f64> {
        let page = edge.run("curl -sS http://127.0.0.1:9586/metrics")?;
        let lines = page.lines().filter(|line| line.contains("reason=\"bad_mac\""));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    for burst in 1..=6_u32 {
        for kind in [1_u8, 1, 2, 4, 9] {
            let mut message: Vec<u8> = (0..148).map(|_| random.next_u64().to_le_bytes()[0]).collect();
            message.splice(..4, [kind, 0, 0, 0]);
            socket.send_to(&message, "192.0.2.2:51820")?;
        }
        let wanted = f64::from(burst * 2);
        until(Duration::from_secs(10), "the noise to arrive", || Ok((counted()? >= wanted).then_some(())))?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn start_both(site: &mut Site<'_>) -> Result<()> {
    site.start_gateway()?;
    site.start_forwarder()
}

fn edge_says(site: &Site<'_>, parts: &[&str]) -> Result<()> {
    says("the edge", || edge_problems(site), parts)
}

fn origin_says(site: &Site<'_>, parts: &[&str]) -> Result<()> {
    says("the origin", || origin_problems(site), parts)
}

fn says(end: &str, problems: impl Fn() -> Result<Vec<String>>, parts: &[&str]) -> Result<()> {
    let is_said = || {
        let problems = problems()?;
        let said = problems.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(said, "{end} says {problems:?}, not {parts:?}");
        Ok(Some(()))
    };
    until(TIMEOUT, &format!("{end} to say why"), is_said)
}

fn edge_problems(site: &Site<'_>) -> Result<Vec<String>> {
    // The exit code says that it is not well.
    let output = site.gatewayctl(&["status", "--json"])?.output()?;
    problems(&output.stdout)
}

fn origin_problems(site: &Site<'_>) -> Result<Vec<String>> {
    let output = site.ask_forwarder(&["status", "--json"])?.output()?;
    problems(&output.stdout)
}

fn problems(json: &[u8]) -> Result<Vec<String>> {
    let status: Value =
        serde_json::from_slice(json).with_context(|| String::from_utf8_lossy(json).into_owned())?;
    let problems = status.get("problems").and_then(Value::as_array).context("no problems")?;
    Ok(problems.iter().filter_map(|line| Some(line.as_str()?.to_owned())).collect())
}

//! The `wg` program of wireguard-tools on the gateway's own socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Topology, scenario, until};
use scenarios::{KeyPair, Site, preshared_key};

#[test]
fn wg_show_lists_what_the_configuration_says() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let ask =
            |what: &str| site.edge.run(&format!("wg show gw0 {what}")).map(|text| text.trim().to_owned());
        let wroclaw = &site.wroclaw.public;
        ensure!(ask("public-key")? == site.kyiv.public);
        ensure!(ask("private-key")? == site.kyiv.private);
        ensure!(ask("listen-port")? == "51820");
        ensure!(ask("allowed-ips")? == format!("{wroclaw}\t10.77.88.2/32 192.168.88.0/24"));
        ensure!(ask("preshared-keys")? == format!("{wroclaw}\t{}", preshared_key("wroclaw")));
        ensure!(ask("endpoints")?.starts_with(&format!("{wroclaw}\t198.51.100.7:")), "{}", ask("endpoints")?);
        ensure!(!ask("latest-handshakes")?.ends_with("\t0"));
        let mode = site.edge.run("stat -Lc %a /var/run/wireguard/gw0.sock")?;
        ensure!(mode.trim() == "600", "the socket's mode is {mode}");
        Ok(())
    })
}

#[test]
fn wg_set_adds_changes_and_removes_a_peer() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let other = KeyPair::of("other").public;
        let peers = || site.edge.run("wg show gw0 allowed-ips");
        site.edge.run(&format!("wg set gw0 peer {other} allowed-ips 10.99.0.0/24 persistent-keepalive 7"))?;
        ensure!(peers()?.contains(&format!("{other}\t10.99.0.0/24")), "{}", peers()?);
        site.edge
            .run(&format!("wg set gw0 peer {other} allowed-ips 10.99.1.0/24 endpoint 203.0.113.10:9"))?;
        ensure!(peers()?.contains(&format!("{other}\t10.99.1.0/24")), "{}", peers()?);
        ensure!(site.edge.run("wg show gw0 endpoints")?.contains("203.0.113.10:9"));
        site.edge.run(&format!("wg set gw0 peer {other} remove"))?;
        ensure!(!peers()?.contains(&other), "{}", peers()?);
        ensure!(site.state()? == "up");
        Ok(())
    })
}

#[test]
fn wg_set_changes_port_key_and_preshared_key_of_a_running_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        site.edge.run("wg set gw0 listen-port 51999")?;
        ensure!(site.edge.run("wg show gw0 listen-port")?.trim() == "51999");
        site.edge.run("wg set gw0 listen-port 51820")?;

        let (wroclaw, other) = (&site.wroclaw.public, KeyPair::of("other"));
        let psk = secret(lab, "other.psk", &preshared_key("other"))?;
        site.edge.run(&format!("wg set gw0 peer {wroclaw} preshared-key {psk}"))?;
        ensure!(site.edge.run("wg show gw0 preshared-keys")?.contains(&preshared_key("other")));
        let psk = secret(lab, "wroclaw.psk", &preshared_key("wroclaw"))?;
        site.edge.run(&format!("wg set gw0 peer {wroclaw} preshared-key {psk}"))?;

        // `wg` counts in whole seconds: let the first handshake be in an earlier one.
        until(Duration::from_secs(5), "the handshake to age", || {
            Ok(site.peer_field("/latest_handshake_age_seconds")?.as_f64().filter(|age| *age > 1.1))
        })?;
        let before = site.edge.run("wg show gw0 latest-handshakes")?;
        let key = secret(lab, "other.key", &other.private)?;
        site.edge.run(&format!("wg set gw0 private-key {key}"))?;
        ensure!(site.edge.run("wg show gw0 public-key")?.trim() == other.public);
        let key = secret(lab, "kyiv.key", &site.kyiv.private)?;
        site.edge.run(&format!("wg set gw0 private-key {key}"))?;
        until(Duration::from_secs(30), "a handshake with the old keys", || {
            let now = site.edge.run("wg show gw0 latest-handshakes")?;
            Ok((now != before && !now.trim().ends_with("\t0")).then_some(()))
        })?;
        site.wait_until_up(Duration::from_secs(10)).map(drop)
    })
}

#[test]
fn wg_syncconf_brings_the_interface_to_a_file_and_keeps_the_session() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let other = KeyPair::of("other").public;
        let handshake = site.edge.run("wg show gw0 latest-handshakes")?;
        let original = site.edge.run("wg showconf gw0")?;
        let more = format!("{original}\n[Peer]\nPublicKey = {other}\nAllowedIPs = 10.99.0.0/24\n");
        let (original, more) = (secret(lab, "original.wg", &original)?, secret(lab, "more.wg", &more)?);
        site.edge.run(&format!("wg syncconf gw0 {more}"))?;
        ensure!(site.edge.run("wg show gw0 peers")?.contains(&other));
        site.edge.run(&format!("wg syncconf gw0 {original}"))?;
        ensure!(!site.edge.run("wg show gw0 peers")?.contains(&other));
        ensure!(site.edge.run("wg show gw0 latest-handshakes")? == handshake, "the session was restarted");
        Ok(())
    })
}

#[test]
fn gatewayctl_dumps_what_wg_dumps_with_keys_hidden_unless_root_asks() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        // The byte counters may change between two questions: ask until they did not.
        until(Duration::from_secs(20), "both dumps to be equal", || {
            let before = site.edge.run("wg show all dump")?;
            let hidden = site.gatewayctl(&["peers", "--dump"])?.run()?;
            let shown = site.gatewayctl(&["peers", "--dump", "--show-keys"])?.run()?;
            if site.edge.run("wg show all dump")? != before {
                return Ok(None);
            }
            ensure!(shown == before, "with --show-keys:\n{shown}wg:\n{before}");
            ensure!(hidden == without_keys(&before)?, "without:\n{hidden}wg:\n{before}");
            Ok(Some(()))
        })
    })
}

/// Hides the private key of an interface line (5 fields) and the preshared key of a peer line (9
/// fields).
fn without_keys(dump: &str) -> Result<String> {
    let mut hidden = String::new();
    for line in dump.lines() {
        let mut fields: Vec<&str> = line.split('\t').collect();
        let position = if fields.len() == 5 { 1 } else { 2 };
        let field = fields.get_mut(position).context("a short line")?;
        if *field != "(none)" {
            *field = "(hidden)";
        }
        hidden.push_str(&fields.join("\t"));
        hidden.push('\n');
    }
    Ok(hidden)
}

fn secret(lab: &Lab, name: &str, text: &str) -> Result<String> {
    let path = lab.node("edge")?.directory().join(format!("wg-{name}"));
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path.to_string_lossy().into_owned())
}

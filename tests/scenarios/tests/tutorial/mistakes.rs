//! What a reader of a tutorial does wrong, and what the tutorial says of it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lab::TcpServer;
use scenarios::forwarded_for;
use scenarios::steps::{Step, is_as_written, steps_of};

use crate::room::Room;
use crate::{DOCKER, PI_AND_MAC};

/// What a reader does wrong, in the order of the steps, until the page is there.
pub(crate) fn of_pi_and_mac(room: &mut Room<'_>) -> Result<()> {
    room.machine("pi")?.install("gateway")?;
    room.machine("mac")?.install("forwarder")?;
    name_leads_to_a_proxy(room)?;
    pairs_badly(room)?;
    room.refused("mac", "sudo causeway publish hello.example.com")?;
    for (_, step) in steps_of(PI_AND_MAC)?.iter().filter(|(_, step)| matches!(step, Step::File { .. })) {
        room.take("mac", step)?;
    }
    room.refused("mac", "sudo causeway publish hello.example.com")?;
    room.command("mac", "sudo forwarder reload --config /etc/causeway/forwarder.toml")?;
    // Caddy does not run, and the name has no record.
    room.command("mac", "sudo causeway publish photos.example.com")?;
    room.command("mac", "sudo causeway status")?;
    room.finish("mac")?;

    room.start_caddy("mac", "/opt/homebrew/etc")?;
    room.command("mac", "sudo causeway publish hello.example.com --wait")?;
    room.finish("mac")?;
    let masquerades = "add rule ip router out ip daddr 192.168.1.2 tcp dport 443 masquerade";
    room.lab.node("router")?.nft(masquerades)?;
    room.command("visitor", "curl -sS https://hello.example.com/")?;
    room.finish("visitor")
}

/// The same for a rented server, until the two machines are paired.
pub(crate) fn of_server(room: &mut Room<'_>) -> Result<()> {
    room.machine("vps")?.install("gateway")?;
    room.machine("home")?.install("forwarder")?;
    let node = room.machine("vps")?.node.clone();
    let web = TcpServer::start(node.tcp_listener("0.0.0.0:443")?, forwarded_for)?;
    node.nft(
        "table ip filter { chain INPUT { type filter hook input priority filter; policy accept
             ct state established,related accept\n tcp dport 22 accept\n reject with icmp host-prohibited\n }\n }",
    )?;
    room.with_host("vps", "203.0.113.99 edge", |room| {
        room.command("vps", "sudo causeway setup")?;
        room.answer("vps", "what is the public name…", "edge.example.com")?;
        room.answer("vps", "…yes or no", "no")?;
        room.end("vps").map(drop)
    })?;
    drop(web);
    node.nft("delete table ip filter")?;
    room.command("vps", "sudo causeway setup")?;
    room.answer("vps", "what is the public name…", "edge.example.com")?;
    room.answer("vps", "…yes or no", "yes")?;
    room.finish("vps")?;

    let inet = room.lab.node("inet")?;
    inet.nft("table ip provider { chain forward { type filter hook forward priority 0; udp dport 51820 drop\n }\n }")?;
    room.command("vps", "sudo causeway pair home")?;
    room.answer("vps", "which public ports…", "80")?;
    room.see("vps", "causeway1-…")?;
    let code = room.completed("causeway1-…")?;
    room.command("home", "sudo causeway join")?;
    room.answer("home", "paste the code…", &code)?;
    room.see("vps", "0 packets…")?;
    inet.nft("delete table ip provider")?;
    room.answer("vps", "…yes or no", "yes")?;
    room.finish("vps")?;
    room.finish("home")
}

/// The same for the machine with Docker.
pub(crate) fn of_docker(room: &mut Room<'_>) -> Result<()> {
    let steps = steps_of(DOCKER)?;
    let copies = |step: &Step| matches!(step, Step::Command(line) if line.contains("/etc/caddy"));
    for (_, step) in steps.iter().filter(|(_, step)| copies(step) || matches!(step, Step::File { .. })) {
        room.take("home", step)?;
    }
    room.finish("home")?;
    room.start_caddy("home", "/etc/caddy")?;
    room.command("home", "sudo forwarder reload --config /etc/causeway/forwarder.toml")?;
    room.refused("home", "causeway publish emby.example.com 8096")?;
    // 443 was not among the ports that the edge lets this machine open.
    room.refused("home", "sudo causeway publish emby.example.com 8096")?;
    let edit = "sed -i 's/may_publish = .*/may_publish = [80, 443]/' /etc/causeway/gateway.toml";
    room.machine("vps")?.node.shell(edit)?;
    room.command("vps", "sudo gatewayctl reload")?;
    room.finish("vps")?;

    let node = room.machine("home")?.node.clone();
    node.shell("cp /etc/caddy/Caddyfile /run/Caddyfile && sed -i /^import/d /etc/caddy/Caddyfile")?;
    room.refused("home", "sudo causeway publish emby.example.com 8096")?;
    node.shell("cp /run/Caddyfile /etc/caddy/Caddyfile")?;
    // No program is there.
    room.command("home", "sudo causeway publish emby.example.com 8099")?;
    room.finish("home")?;
    node.shell(
        "sed -i 's/reverse_proxy/encode\\n\\treverse_proxy/' /etc/caddy/sites/emby.example.com.caddy",
    )?;
    room.refused("home", "sudo causeway publish emby.example.com 8096")
}

fn name_leads_to_a_proxy(room: &mut Room<'_>) -> Result<()> {
    room.with_host("pi", "104.16.0.1 kyiv", |room| {
        room.command("pi", "sudo causeway setup")?;
        room.answer("pi", "what is the public name…", "kyiv.example.com")?;
        room.see("pi", "…@cloudflare…")
    })?;
    room.answer("pi", "what is the public name…", "kyiv.example.com")?;
    room.answer("pi", "…yes or no", "yes")?;
    room.finish("pi")
}

/// A code with a mistake, then a router that does not forward; then both commands go on.
fn pairs_badly(room: &mut Room<'_>) -> Result<()> {
    room.command("pi", "sudo causeway pair wroclaw")?;
    room.answer("pi", "which public ports…", "")?;
    room.see("pi", "causeway1-…")?;
    let code = room.completed("causeway1-…")?;
    let groups: Vec<&str> = code.split('-').collect();
    join(room, &code.replacen(groups.get(3).context("no third group")?, "00000000", 1))?;
    room.end("mac")?;

    let router = room.lab.node("router")?;
    let rules = router.run("nft list chain ip router in")?;
    router.nft("flush chain ip router in")?;
    join(room, &code)?;
    room.see("pi", "0 packets…")?;
    room.see("mac", "no answer…")?;
    router.nft(&rules)?;
    // What a router tracks it does not forward elsewhere.
    router.output("conntrack -F")?;
    room.answer("pi", "…yes or no", "yes")?;
    room.finish("pi")?;
    room.finish("mac")
}

fn join(room: &mut Room<'_>, code: &str) -> Result<()> {
    room.command("mac", "sudo causeway join")?;
    room.answer("mac", "paste the code…", code)
}

/// Fails when the text has a message that nothing has printed.
pub(crate) fn are_explained(room: &Room<'_>, document: &str) -> Result<()> {
    let printed: Vec<&str> = room.printed.lines().map(str::trim).collect();
    for message in messages_of(document)? {
        let is_printed = printed.iter().any(|line| is_as_written(line, &message));
        ensure!(is_printed, "{document} has what was not printed: {message}\n{}", room.printed);
    }
    Ok(())
}

/// The messages in the first column of the table of what can go wrong.
fn messages_of(document: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(lab::workspace().join(document))?;
    let (_, section) = text.split_once("\n## What can go wrong\n").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let messages: Vec<String> = rows.map(|(message, _)| message.to_owned()).collect();
    ensure!(messages.len() >= 5, "only {} messages", messages.len());
    Ok(messages)
}

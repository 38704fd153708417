//! Certificates from a real authority (pebble) for a real Caddy, as the sample tree configures it,
//! through the tunnel: issued from nothing and renewed by each kind of challenge, and refused where
//! only some sources may connect.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Signal, TcpServer, Topology, scenario, until};
use scenarios::{Authority, Caddy, Site};
use serde_json::Value;

const EMBY: &str = "emby.example.com";
/// How soon a certificate must be there, and be seen at both ends.
const SOON: Duration = Duration::from_secs(25);

#[test]
fn a_name_without_a_certificate_gets_one_by_port_80_becomes_green_by_itself_and_renews_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let authority = Authority::start(&lab.node("client")?)?;
        let (site, caddy) = origin_with_caddy(lab, &authority, "[80, 443]", "disable_tlsalpn_challenge")?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8096")?, reply)?;
        let before = file(&site)?;

        // The authority is slow.
        authority.pebble.signal(Signal::Stop)?;
        let published = causeway(&site, &["publish", EMBY, "8096"])?;
        authority.pebble.signal(Signal::Continue)?;
        let said = text(&published);
        ensure!(published.status.code() == Some(10), "{said}");
        for line in ["ok: kyiv grants 443", "ok: kyiv grants 80", "(no_certificate_for_name)"] {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        let http = "publish = [80]\nproxy_protocol = \"v2\"\n";
        ensure!(file(&site)?.contains(http), "{}", file(&site)?);

        let days = both_are_green(&site)?;
        ensure!(days == [89, 89], "{days:?} days are left");
        ensure!(page(lab, &authority)? == "203.0.113.10");
        // The authority's own address: port 80 has the PROXY header too.
        caddy_says(&caddy, "\"challenge\":\"http-01\"", "\"remote\":\"203.0.113.10:")?;
        is_renewed(lab, &caddy)?;

        let gone = causeway(&site, &["unpublish", EMBY])?;
        ensure!(text(&gone).contains("port 80 is closed with it"), "{}", text(&gone));
        ensure!(gone.status.code() == Some(0) && file(&site)? == before, "{}", file(&site)?);
        Ok(())
    })
}

#[test]
fn an_edge_that_grants_443_alone_serves_a_name_whose_certificate_renews_by_443() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // What an edge refuses, a person should see.
        lab.expect_warning("80");
        let authority = Authority::start(&lab.node("client")?)?;
        let (site, caddy) = origin_with_caddy(lab, &authority, "[443]", "")?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8096")?, reply)?;
        let before = file(&site)?;

        let published = causeway(&site, &["publish", EMBY, "8096", "--wait", "40s"])?;
        let said = text(&published);
        ensure!(published.status.code() == Some(0), "{said}");
        let note = "note: kyiv refuses 80 (not allowed): at the edge, add \"80\" to may_publish";
        for line in [note, "emby.example.com is served, certificate for 89 days"] {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        let header = "proxy_protocol = \"v2\"\n";
        let named = before.replace(header, &format!("{header}names = [\"{EMBY}\"]\n"));
        ensure!(file(&site)? == named, "{}", file(&site)?);
        let status = text(&causeway(&site, &["status"])?);
        ensure!(status.contains("443 granted by kyiv") && !status.contains("80 refused by kyiv"), "{status}");
        ensure!(page(lab, &authority)? == "203.0.113.10");
        caddy_says(&caddy, "\"challenge\":\"tls-alpn-01\"", "\"remote\":\"203.0.113.10:")?;
        is_renewed(lab, &caddy)
    })
}

#[test]
fn where_only_a_proxy_may_enter_authorities_are_refused_and_the_recipe_for_dns_works() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let authority = Authority::start(&lab.node("client")?)?;
        let (mut site, caddy) = origin_with_caddy(lab, &authority, "[80, 443]", "")?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8096")?, reply)?;
        for_the_proxy_alone(&mut site)?;

        let published = causeway(&site, &["publish", EMBY, "8096"])?;
        let said = text(&published);
        ensure!(published.status.code() == Some(10), "{said}");
        let closed = "only @cloudflare may connect to tcp/443 of ";
        for line in
            [&format!("note: {closed}https, so that a certificate authority cannot"), "no_certificate"]
        {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        // Whichever of the two it tries first.
        until(SOON, "Caddy to be refused", || Ok(caddy_says(&caddy, "challenge failed", EMBY).ok()))?;
        let at_edge = site.edge.command(lab::binary("causeway")?).arg("status").output()?;
        let at_origin = causeway(&site, &["status"])?;
        for (status, service) in [(&at_edge, "wroclaw/https"), (&at_origin, "https")] {
            let said = text(status);
            ensure!(status.status.code() == Some(10) && said.contains("(no_certificate_for_name)"), "{said}");
            ensure!(said.contains(&format!("  note: {closed}{service}, so that")), "{said}");
        }

        let recipe = Recipe::install(&site.origin, &caddy, &authority)?;
        recipe.run()?;
        recipe.load(&caddy)?;
        let days = both_are_green(&site)?;
        ensure!(days == [89, 89], "{days:?} days are left");
        let proxy = lab.node("proxy")?;
        ensure!(page_from(&proxy, &authority)? == "173.245.48.10");
        let first = serial(&proxy)?;
        recipe.run()?;
        ensure!(serial(&proxy)? == first, "it was renewed long before its end");
        recipe.set("DAYS=90")?;
        recipe.run()?;
        ensure!(serial(&proxy)? != first, "Caddy has the certificate of before");
        Ok(())
    })
}

/// A running pair whose edge lets the origin open these ports, and a Caddy without sites that gets
/// its certificates from the authority and renews them 8 s after they were issued.
fn origin_with_caddy<'lab>(
    lab: &'lab Lab,
    authority: &Authority,
    granted: &str,
    challenges: &str,
) -> Result<(Site<'lab>, Caddy)> {
    let mut site = Site::new(lab)?;
    let own = "[[publish]]\nname = \"https\"\nprotocol = [\"tcp\"]\nlisten = \"443\"\ntarget = \"192.168.88.2:443\"\n";
    site.gateway_config.replace(own, "")?;
    site.gateway_config.replace("allowed_ips =", &format!("may_publish = {granted}\nallowed_ips ="))?;
    site.origin.shadow_file("/etc/resolv.conf", &Authority::resolver())?;
    let options = format!(
        "cert_issuer acme {} {{\n\t\ttrusted_roots {}\n\t\t{challenges}\n\t}}\n\temail me@example.com\n\t\
         renew_interval 1s\n\trenewal_window_ratio 0.999999",
        Authority::DIRECTORY,
        authority.certificate().display()
    );
    let caddy = Caddy::start_sample_with(&site.origin, &options)?;
    let section = format!(
        "[caddy]\nsites = {:?}\nconfig = {:?}\ncommand = [{:?}]",
        caddy.sites(),
        caddy.configuration(),
        lab::newer("caddy")?
    );
    site.forwarder_config.replace("match = \"192.168.88.2:443\"", "publish = [443]")?;
    site.forwarder_config.append(&section);
    site.start()?;
    // As the package has it: root's file, which the daemon may only read.
    chown(site.forwarder_config.path(), Some(0), Some(0))?;
    until(SOON, "443 to be granted", || {
        let status = causeway(&site, &["status", "--json"])?;
        Ok(text(&status).contains("\"state\":\"granted\"").then_some(()))
    })?;
    Ok((site, caddy))
}

/// Lets only the network of `proxy` connect to the origin's public ports.
fn for_the_proxy_alone(site: &mut Site<'_>) -> Result<()> {
    fs::write(site.edge.directory().join("cloudflare.list"), "173.245.48.0/20\n")?;
    site.gateway_config.append("[[list]]\nname = \"cloudflare\"\nfile = \"cloudflare.list\"");
    site.gateway_config.write()?;
    let file = site.gateway_config.path().to_string_lossy().into_owned();
    site.gatewayctl(&["apply", &file])?.run()?;
    site.forwarder_config
        .replace("publish = [443]", "publish = { ports = [443], from = [\"@cloudflare\"] }")?
        .write()?;
    let command = site.origin.command(site.of_origin("forwarder")?).arg("--config");
    command.arg(site.forwarder_config.path()).arg("reload").run()?;
    // The edge takes up what an origin asks for within a second; an authority is as quick.
    until(SOON, "443 to be the proxy's alone", || {
        let services = "list set inet causeway users_cloudflare";
        Ok(site.edge.command("nft").args(services.split(' ')).run()?.contains("elements").then_some(()))
    })
}

/// `configs/caddy/dns-01` at the origin, as docs/CERTIFICATES.md has it.
struct Recipe {
    node: Node,
    settings: PathBuf,
    folder: PathBuf,
}

impl Recipe {
    /// The script with the settings of the sample, for this authority and this name server.
    fn install(node: &Node, caddy: &Caddy, authority: &Authority) -> Result<Self> {
        let sample = fs::read_to_string(lab::workspace().join("configs/caddy/dns-01/dns-01.env"))?;
        let folder = node.directory().join("certificates");
        let recipe = Self { node: node.clone(), settings: node.directory().join("dns-01.env"), folder };
        fs::write(&recipe.settings, sample)?;
        recipe.set(&format!("RFC2136_TSIG_SECRET={}", Authority::SECRET))?;
        recipe.set(&format!("SERVER={}", Authority::DIRECTORY))?;
        recipe.set(&format!("FOLDER={}", recipe.folder.display()))?;
        recipe.set("GROUP=root")?;
        // The name server of the sample is asked for one name a minute.
        recipe.set("RFC2136_SEQUENCE_INTERVAL=1\nRFC2136_POLLING_INTERVAL=1")?;
        let (program, config) = (lab::newer("caddy")?, caddy.configuration());
        recipe.set(&format!(
            "RELOAD=\"{} reload --force --config {}\"",
            program.display(),
            config.display()
        ))?;
        recipe.set(&format!("LEGO_CA_CERTIFICATES={}", authority.certificate().display()))?;
        Ok(recipe)
    }

    /// Adds a setting; the last one of a name is in force.
    fn set(&self, line: &str) -> Result<()> {
        let text = fs::read_to_string(&self.settings)?;
        Ok(fs::write(&self.settings, format!("{text}{line}\n"))?)
    }

    fn run(&self) -> Result<()> {
        let script = lab::workspace().join("configs/caddy/dns-01/dns-01");
        self.node.command(script).arg(&self.settings).env("HOME", self.node.directory()).run().map(drop)
    }

    /// Has Caddy use the certificate for every name of the domain.
    fn load(&self, caddy: &Caddy) -> Result<()> {
        let block = document_block("# every name of the domain")?;
        let block = block.replace("/etc/caddy/certificates", &self.folder.display().to_string());
        let text = fs::read_to_string(caddy.configuration())?;
        fs::write(caddy.configuration(), format!("{text}\n{block}"))?;
        let command = self.node.command(lab::newer("caddy")?).args(["reload", "--config"]);
        command.arg(caddy.configuration()).env("HOME", self.node.directory()).run().map(drop)
    }
}

/// The Caddyfile in docs/CERTIFICATES.md that begins with this line.
fn document_block(first: &str) -> Result<String> {
    let text = fs::read_to_string(lab::workspace().join("docs/CERTIFICATES.md"))?;
    let found = text
        .split("```")
        .find(|block| block.strip_prefix("caddyfile\n").is_some_and(|block| block.starts_with(first)));
    Ok(found.context("no such Caddyfile")?.trim_start_matches("caddyfile\n").to_owned())
}

/// Waits until both ends show the name as served; the days that are left at the edge and at the
/// origin.
fn both_are_green(site: &Site<'_>) -> Result<[i64; 2]> {
    until(SOON, "both ends to show the name as served", || {
        let edge = site.edge.command(lab::binary("causeway")?).args(["status", "--json"]).output()?;
        let days = [named(&edge)?, named(&causeway(site, &["status", "--json"])?)?];
        Ok(days[0].zip(days[1]).map(<[i64; 2]>::from))
    })
}

/// The days that the name's certificate is valid, once the name is served.
fn named(status: &Output) -> Result<Option<i64>> {
    let document: Value = serde_json::from_slice(&status.stdout)?;
    let services =
        document.pointer("/daemons/0/services").and_then(Value::as_array).context("no services")?;
    let names = services.iter().flat_map(|service| service["names"].as_array().into_iter().flatten());
    let mut served = names.filter(|name| name["name"] == EMBY && name["state"] == "ok");
    Ok(served.next().and_then(|name| name["certificate_days"].as_i64()))
}

/// Waits until visitors get another certificate than now.
fn is_renewed(lab: &Lab, caddy: &Caddy) -> Result<()> {
    let client = lab.node("client")?;
    let first = serial(&client)?;
    until(SOON, "another certificate", || Ok((serial(&client)? != first).then_some(())))?;
    caddy_says(caddy, "certificate renewed successfully", EMBY)
}

/// Whether a line of Caddy's log has both texts.
fn caddy_says(caddy: &Caddy, one: &str, other: &str) -> Result<()> {
    let log = caddy.process.log()?;
    ensure!(
        log.lines().any(|line| line.contains(one) && line.contains(other)),
        "no {one} with {other} in {log}"
    );
    Ok(())
}

/// The serial number of the certificate that a visitor gets.
fn serial(client: &Node) -> Result<String> {
    client.shell(&format!(
        "openssl s_client -connect 192.0.2.2:443 -servername {EMBY} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    ))
}

/// The command at the origin, as root.
fn causeway(site: &Site<'_>, arguments: &[&str]) -> Result<Output> {
    let folder = site.origin.directory().join("caddy");
    let command = site.origin.command(lab::binary("causeway")?).args(arguments);
    let command = command.env("HOME", &folder).env("XDG_DATA_HOME", &folder).env("XDG_CONFIG_HOME", &folder);
    command.arg("--config").arg(site.forwarder_config.path()).output()
}

fn text(output: &Output) -> String {
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    shown(&output.stdout) + &shown(&output.stderr)
}

fn file(site: &Site<'_>) -> Result<String> {
    fs::read_to_string(site.forwarder_config.path()).context("forwarder.toml")
}

/// A program that replies with the visitor's address, as Caddy reports it.
fn reply(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
    let body = request.lines().find_map(|line| line.strip_prefix("X-Forwarded-For: ")).unwrap_or("none");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let is_head = request.starts_with("HEAD ");
    stream.write_all(if is_head { head } else { format!("{head}{body}") }.as_bytes())
}

/// What a visitor gets who trusts the authority alone.
fn page(lab: &Lab, authority: &Authority) -> Result<String> {
    page_from(&lab.node("client")?, authority)
}

fn page_from(client: &Node, authority: &Authority) -> Result<String> {
    let resolve = format!("{EMBY}:443:192.0.2.2");
    let command = client.command("curl").args(["-sS", "--fail", "--max-time", "10", "--resolve", &resolve]);
    command.arg("--cacert").arg(authority.root()).arg(format!("https://{EMBY}/")).run()
}

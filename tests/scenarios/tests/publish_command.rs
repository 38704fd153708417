//! `causeway publish`, `unpublish` and `status` on a running pair, with a real Caddy as the sample tree
//! configures it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, scenario, until};
use scenarios::{Caddy, Site, forwarded_for};

const EMBY: &str = "emby.example.com";
/// How soon a page must be there, or be gone.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn one_command_serves_a_new_name_with_the_clients_address_and_one_takes_it_back() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (site, caddy) = origin_with_caddy(lab)?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8096")?, forwarded_for)?;
        let before = file(&site)?;
        let owner = fs::metadata(site.forwarder_config.path())?;

        let published = causeway(&site, &["publish", EMBY, "8096"])?;
        let said = text(&published);
        ensure!(published.status.code() == Some(0), "{said}");
        let lines = ["443", "80"].map(|port| format!("kyiv grants {port}"));
        let name = ["is served", "leads to kyiv"].map(|line| format!("emby.example.com {line}"));
        for line in lines.iter().chain(&name) {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        ensure!(page(lab, &caddy, EMBY)? == "203.0.113.10");
        let after = file(&site)?;
        let header = "proxy_protocol = \"v2\"\n";
        let named = before.replace(header, &format!("{header}names = [\"{EMBY}\"]\n"));
        ensure!(after.contains(HTTP) && after.replace(HTTP, "") == named, "{after}");
        ensure!(redirected(lab)? == "https://emby.example.com/page");
        let now = fs::metadata(site.forwarder_config.path())?;
        ensure!((now.uid(), now.gid(), now.mode()) == (owner.uid(), owner.gid(), owner.mode()));

        let again = causeway(&site, &["publish", EMBY, "8096"])?;
        ensure!(again.status.code() == Some(0) && file(&site)? == after, "{}", text(&again));

        // What its owner added to the site is not lost.
        let site_file = caddy.sites().join("emby.example.com.caddy");
        let written = fs::read_to_string(&site_file)?;
        let edited = written.replace("\treverse_proxy", "\tbasic_auth {\n\t}\n\treverse_proxy");
        fs::write(&site_file, &edited)?;
        let kept = causeway(&site, &["publish", EMBY, "8096"])?;
        let said = text(&kept);
        ensure!(
            kept.status.code() == Some(6) && said.contains("was edited since causeway wrote it"),
            "{said}"
        );
        ensure!(fs::read_to_string(&site_file)? == edited && file(&site)? == after);

        let gone = causeway(&site, &["unpublish", EMBY])?;
        ensure!(gone.status.code() == Some(0), "{}", text(&gone));
        ensure!(file(&site)? == before, "{}", file(&site)?);
        ensure!(!caddy.sites().join("emby.example.com.caddy").exists(), "its site is still there");
        until(SOON, "the page to be gone", || Ok(page(lab, &caddy, EMBY).is_err().then_some(())))
    })
}

#[test]
fn what_is_refused_is_taken_back_and_what_is_missing_is_kept_and_listed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // What an edge refuses, a person should see.
        lab.expect_warning("27015/udp");
        let (site, caddy) = origin_with_caddy(lab)?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8096")?, forwarded_for)?;
        let before = file(&site)?;
        let unchanged = |output: &Output, exit: i32, expected: &str| -> Result<()> {
            let said = text(output);
            ensure!(output.status.code() == Some(exit) && said.contains(expected), "{expected}: {said}");
            ensure!(file(&site)? == before, "the file is changed: {}", file(&site)?);
            Ok(())
        };
        // Outside of the grant.
        let game = ["publish", "game", "27015/udp", "--upstream", "127.0.0.1:27015"];
        unchanged(&causeway(&site, &game)?, 7, "may_publish")?;
        // A site that is not causeway's.
        let own = caddy.sites().join("own.example.com.caddy");
        fs::write(&own, "own.example.com {\n\trespond own\n}\n")?;
        unchanged(
            &causeway(&site, &["publish", "own.example.com", "8096"])?,
            6,
            "was not written by causeway",
        )?;
        fs::remove_file(&own)?;
        // What Caddy refuses.
        let sample = fs::read_to_string(caddy.configuration())?;
        fs::write(caddy.configuration(), format!("{sample}\nnonsense.example.com {{\n\tnonsense\n}}\n"))?;
        unchanged(&causeway(&site, &["publish", EMBY, "8096"])?, 1, "unrecognized directive: nonsense")?;
        fs::write(caddy.configuration(), sample.replace("import sites/*.caddy", ""))?;
        unchanged(&causeway(&site, &["publish", EMBY, "8096"])?, 1, "does not import")?;
        // A site of that name that leads elsewhere, whether sites are imported or not.
        let own = "https://emby.example.com:8443 {\n\tbind 127.0.0.1\n\trespond other\n}\n";
        for sample in [&sample, &sample.replace("import sites/*.caddy", "")] {
            fs::write(caddy.configuration(), format!("{sample}\n{own}"))?;
            unchanged(&causeway(&site, &["publish", EMBY, "8096"])?, 6, "Caddy has another site for")?;
        }
        fs::write(caddy.configuration(), &sample)?;
        ensure!(fs::read_dir(caddy.sites())?.count() == 0, "a refused site is still there");

        // What root would run must be root's, and what is not in force yet stays so.
        if lab::has_real_root() {
            chown(site.forwarder_config.path(), Some(65_534), Some(65_534))?;
            unchanged(&causeway(&site, &["publish", EMBY, "8096"])?, 5, "chown root")?;
            chown(site.forwarder_config.path(), Some(0), Some(0))?;
            for path in [caddy.configuration(), caddy.sites()] {
                chown(&path, Some(65_534), Some(65_534))?;
                let fix = format!("chown root {}", path.display());
                unchanged(&causeway(&site, &["publish", EMBY, "8096"])?, 5, &fix)?;
                chown(&path, Some(0), Some(0))?;
            }
        }
        fs::write(site.forwarder_config.path(), format!("{before}# Not in force yet.\n"))?;
        let edited = causeway(&site, &["publish", EMBY, "8096"])?;
        let said = text(&edited);
        ensure!(edited.status.code() == Some(6) && said.contains("changes that are not in force"), "{said}");
        ensure!(fs::read_dir(caddy.sites())?.count() == 0, "a site is there without its name");
        fs::write(site.forwarder_config.path(), &before)?;

        // No record, and no program.
        let kept = causeway(&site, &["publish", "late.example.com", "8097"])?;
        let said = text(&kept);
        ensure!(kept.status.code() == Some(10), "{said}");
        ensure!(said.contains("missing: late.example.com has no address: set the DNS record"), "{said}");
        ensure!(said.contains("missing: no program accepts connections at 127.0.0.1:8097"), "{said}");
        ensure!(file(&site)?.contains("names = [\"late.example.com\"]"));

        let status = causeway(&site, &["status"])?;
        let said = text(&status);
        ensure!(status.status.code() == Some(10), "{said}");
        // No name of it is served.
        let first = said.lines().next().unwrap_or_default();
        ensure!(first.starts_with("https is down for visitors: upstream is failing for "), "{said}");
        ensure!(said.contains("\n  https: late.example.com is failing for "), "{said}");
        let at_edge = site.edge.command(lab::binary("causeway")?).args(["status", "--json"]).output()?;
        let shown = String::from_utf8_lossy(&at_edge.stdout).into_owned();
        ensure!(shown.contains("\"role\":\"edge\"") && shown.contains("\"state\":\"failing\""), "{shown}");
        ensure!(at_edge.status.code() == Some(10), "{shown}");
        Ok(())
    })
}

#[test]
fn the_sample_caddyfile_is_valid_with_the_sites_next_to_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let node = lab.node("origin")?;
        let folder = node.directory().join("sample");
        let configs = lab::workspace().join("configs/caddy");
        node.command("cp").arg("-r").arg(&configs).arg(&folder).run()?;
        fs::write(folder.join("Caddyfile"), Caddy::sample(&folder)?)?;
        let validate = Caddy::command(&node, &folder)?.args(["validate", "--config"]);
        validate.arg(folder.join("Caddyfile")).run()?;
        let site = fs::read_to_string(folder.join("sites/emby.example.com.caddy"))?;
        ensure!(site.lines().count() == 3, "a site is three lines: {site}");
        Ok(())
    })
}

/// What the first name adds.
const HTTP: &str = "\n# Port 80 of the names on port 443: certificates by HTTP-01, and the redirect to HTTPS.\n\
    # `causeway unpublish` removes it with the last of them.\n[[service]]\nname = \"http\"\n\
    upstream = \"127.0.0.1:8080\"\npublish = [80]\nproxy_protocol = \"v2\"\n";

/// What makes the service on port 443 one that requests it.
const PUBLISH: &str = "publish = [443]   # what visitors use";

/// A running pair whose edge lets the origin open 443 and 80, and a Caddy without sites.
fn origin_with_caddy(lab: &Lab) -> Result<(Site<'_>, Caddy)> {
    let mut site = Site::new(lab)?;
    let granted = "[[publish]]\nname = \"https\"\nprotocol = [\"tcp\"]\nlisten = \"443\"\ntarget = \"192.168.88.2:443\"\n";
    site.gateway_config.replace(granted, "")?;
    site.gateway_config.replace("allowed_ips =", "may_publish = [80, 443]\nallowed_ips =")?;
    let caddy = Caddy::start_sample(&site.origin)?;
    let section = format!(
        "# Caddy's sites.\n[caddy]\nsites = {:?}\nconfig = {:?}\ncommand = [{:?}]",
        caddy.sites(),
        caddy.configuration(),
        lab::newer("caddy")?
    );
    site.forwarder_config.replace("match = \"192.168.88.2:443\"", PUBLISH)?;
    site.forwarder_config.append(&section);
    let origin = &site.origin;
    origin.shadow_file("/etc/hosts", &format!("127.0.0.1 localhost\n192.0.2.2 {EMBY}\n"))?;
    // No resolver: what is not in the file has no address.
    origin.shadow_file("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    site.start()?;
    // As the package has it: root's file, which the daemon may only read.
    chown(site.forwarder_config.path(), Some(0), Some(0))?;
    until(SOON, "443 to be granted", || {
        let status = causeway(&site, &["status", "--json"])?;
        Ok(text(&status).contains("\"state\":\"granted\"").then_some(()))
    })?;
    Ok((site, caddy))
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

/// Where a client of the internet is sent that begins without TLS.
fn redirected(lab: &Lab) -> Result<String> {
    let command = lab.node("client")?.command("curl").args(["-sS", "--max-time", "10", "-o", "/dev/null"]);
    let command = command.args(["--resolve", "emby.example.com:80:192.0.2.2", "-w", "%{redirect_url}"]);
    command.arg("http://emby.example.com/page").run()
}

/// What a client of the internet gets by this name.
fn page(lab: &Lab, caddy: &Caddy, name: &str) -> Result<String> {
    let client: Node = lab.node("client")?;
    let resolve = format!("{name}:443:192.0.2.2");
    let command = client.command("curl").args(["-sS", "--fail", "--max-time", "10", "--resolve", &resolve]);
    command.arg("--cacert").arg(caddy.certificate()).arg(format!("https://{name}/")).run()
}

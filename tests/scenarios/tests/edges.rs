//! Edges come, go and change at a reload of the origin; the flows of the others do not notice.

// What a reload cost the flows of other edges is printed; a JSON value has an answer to any index.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, scenario, until};
use scenarios::{Oracle, PacedFlow, Site, Way, preshared_key, serve_bulk, write_secret};
use serde_json::Value;

const KYIV: &str = "192.0.2.2:5001";
const ORACLE: &str = "198.18.66.2:5001";
const VIENNA: &str = "198.18.55.2:5001";

#[test]
fn an_edge_is_added_changed_and_removed_while_flows_through_the_others_go_on() -> Result<()> {
    scenario(Topology::three_edges(), |lab| {
        let mut home = Home::start(lab)?;
        let by_kyiv = home.flows(KYIV)?;
        let by_oracle = home.flows(ORACLE)?;
        let kyiv = home.tunnel("kyiv")?;

        let said = home.reload(&home.text(&["vienna", "oracle", "kyiv"])?)?;
        ensure!(said.contains("+ vienna") && said.matches("peer").count() == 1, "{said}");
        home.vienna.wait_until_up(Duration::from_secs(20))?;
        until(Duration::from_secs(20), "the new link", || Ok(home.tunnel("vienna")?.link_up.then_some(())))?;
        let by_vienna = home.flows(VIENNA)?;
        let oracle = home.tunnel("oracle")?;

        let said = home.reload(&home.text(&["oracle", "vienna", "kyiv"])?)?;
        ensure!(!said.contains("peer") && !said.contains("https"), "another order changed something: {said}");
        ensure!(home.names()? == ["oracle", "vienna", "kyiv"], "{:?}", home.names()?);

        // A changed edge has another session; its flows go on by that.
        home.give_oracle_a_preshared_key()?;
        let changed = home.text(&["kyiv", "oracle", "vienna"])?;
        let said = home.reload(&changed)?;
        ensure!(said.contains("~ oracle preshared_key_file") && said.matches("peer").count() == 1, "{said}");
        until(Duration::from_secs(20), "a session by the new key", || {
            Ok((home.tunnel("oracle")?.handshakes > oracle.handshakes).then_some(()))
        })?;
        let vienna = home.tunnel("vienna")?;

        home.refuses_what_is_wrong(&changed)?;
        ensure!(home.tunnel("vienna")? == vienna, "{:?} was {vienna:?}", home.tunnel("vienna")?);

        let said = home.reload(&home.text(&["oracle", "kyiv"])?)?;
        ensure!(said.contains("- vienna (its flows end)") && said.matches("peer").count() == 1, "{said}");
        for flow in by_vienna {
            until(Duration::from_secs(10), "the removed edge's flows to end", || {
                Ok(flow.has_ended().then_some(()))
            })?;
            let error = flow.finish().err().context("a flow without an edge went on")?;
            ensure!(format!("{error:#}").contains("reset"), "{error:#}");
        }
        home.knows_nothing_of("vienna")?;
        ensure!(home.tunnel("kyiv")? == kyiv, "{:?} was {kyiv:?}", home.tunnel("kyiv")?);

        home.reload(&home.text(&["vienna", "oracle", "kyiv"])?)?;
        home.vienna.wait_until_up(Duration::from_secs(20))?;
        for (edge, flows) in [("kyiv", by_kyiv), ("oracle", by_oracle), ("vienna", home.flows(VIENNA)?)] {
            for flow in flows {
                let pause = flow.finish().with_context(|| format!("a flow through {edge}"))?;
                println!("{edge}: a flow paused for {pause:.2?} at most");
            }
        }
        Ok(())
    })
}

#[test]
fn a_reach_entry_moves_to_another_edge_on_the_same_address_and_back() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut site = Site::new(lab)?;
        let mut oracle = Oracle::add_to(&mut site, lab)?;
        let at = |edge: &str, target: &str| {
            format!(
                "[[reach]]\nname = \"far-{edge}\"\nlisten = \"127.0.0.1:6000\"\ntarget = \"{target}:6000\"\n\
                 peer = \"{edge}\"\n"
            )
        };
        for (config, subject) in
            [(&mut site.gateway_config, "192.168.1.2"), (&mut oracle.config, "10.88.99.1")]
        {
            config.append(&format!(
                "[[allow]]\nname = \"far\"\nfrom = [\"peer:wroclaw\"]\nto = [\"self\"]\nprotocol = [\"tcp\"]\n\
                 ports = [\"6000\"]\n# {subject}"
            ));
        }
        let plain = site.forwarder_config.text.clone();
        let (by_kyiv, by_oracle) = (at("kyiv", "192.168.1.2"), at("oracle", "10.88.99.1"));
        site.forwarder_config.append(&by_kyiv);
        oracle.start()?;
        site.start()?;
        oracle.wait_until_up(Duration::from_secs(20))?;
        let _kyiv =
            TcpServer::start(site.edge.tcp_listener("0.0.0.0:6000")?, |stream| name(stream, b"kyiv"))?;
        let far = oracle.node.tcp_listener("0.0.0.0:6000")?;
        let _oracle = TcpServer::start(far, |stream| name(stream, b"oracle"))?;
        for (entry, edge) in [(&by_kyiv, "kyiv"), (&by_oracle, "oracle"), (&by_kyiv, "kyiv")] {
            site.forwarder_config.text = format!("{plain}\n{entry}");
            reload(&mut site)?;
            until(Duration::from_secs(5), "the entry to lead to its edge", || {
                Ok((answer(&site.origin)? == edge).then_some(()))
            })?;
        }
        Ok(())
    })
}

/// Sends a name, and ends.
fn name(mut stream: std::net::TcpStream, name: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    stream.write_all(name)
}

/// The name that is sent behind the origin's listener.
fn answer(origin: &Node) -> Result<String> {
    use std::io::Read as _;
    let mut stream = origin.tcp_connect("127.0.0.1:6000", Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    // A connection that began before the reload may be reset by it.
    let _ = stream.read_to_string(&mut answer);
    Ok(answer)
}

/// Has the origin read its file again; what it says.
fn reload(site: &mut Site<'_>) -> Result<String> {
    site.forwarder_config.write()?;
    let output = command(site)?.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As root: next to the state folder lies the operator's own.
fn command(site: &Site<'_>) -> Result<lab::NodeCommand> {
    let socket = site.origin.directory().join("state/forwarder.sock");
    let command = site.origin.command(lab::binary("forwarder")?).args(["reload", "--config"]);
    Ok(command.arg(site.forwarder_config.path()).arg("--socket").arg(socket))
}

/// An origin with three edges, of which it knows two.
struct Home<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    oracle: Oracle<'lab>,
    vienna: Oracle<'lab>,
    /// The configuration without peers, and the section of each peer.
    rest: String,
    peers: Vec<(&'static str, String)>,
    _bulk: TcpServer,
    _echo: TcpServer,
}

/// What a change that is not for an edge leaves as it is.
#[derive(Debug, PartialEq)]
struct Tunnel {
    handshakes: u64,
    recoveries: u64,
    port: u64,
    link_up: bool,
}

impl<'lab> Home<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        let mut site = Site::new(lab)?;
        let mut oracle = Oracle::add_to(&mut site, lab)?;
        let mut vienna = Oracle::add_third_to(&mut site, lab)?;
        oracle.start()?;
        vienna.start()?;
        let (rest, peers) = sections(&site.forwarder_config.text)?;
        site.forwarder_config.text = text(&rest, &peers, &["kyiv", "oracle"])?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let _echo = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8443")?, echo)?;
        site.start()?;
        oracle.wait_until_up(Duration::from_secs(20))?;
        let home = Self { lab, site, oracle, vienna, rest, peers, _bulk, _echo };
        until(Duration::from_secs(20), "the links", || {
            let has_links = home.tunnel("kyiv")?.link_up && home.tunnel("oracle")?.link_up;
            Ok(has_links.then_some(()))
        })?;
        Ok(home)
    }

    fn text(&self, names: &[&str]) -> Result<String> {
        text(&self.rest, &self.peers, names)
    }

    /// A download and an upload through an edge.
    fn flows(&self, edge: &str) -> Result<Vec<PacedFlow>> {
        let (client, edge): (Node, SocketAddr) = (self.lab.node("client")?, edge.parse()?);
        [Way::Down, Way::Up].into_iter().map(|way| PacedFlow::begin(&client, edge, way)).collect()
    }

    fn reload(&mut self, text: &str) -> Result<String> {
        text.clone_into(&mut self.site.forwarder_config.text);
        reload(&mut self.site)
    }

    /// The peers as the origin shows them.
    fn shown(&self) -> Result<Vec<Value>> {
        let text = self.site.ask_forwarder(&["peers", "--json"])?.run()?;
        let shown: Value = serde_json::from_str(&text).with_context(|| text)?;
        shown["peers"].as_array().cloned().context("no peers")
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.shown()?.iter().filter_map(|peer| peer["name"].as_str().map(str::to_owned)).collect())
    }

    fn metrics(&self) -> Result<String> {
        self.site.origin.run("curl -sS --max-time 10 http://127.0.0.1:9587/metrics")
    }

    fn tunnel(&self, edge: &str) -> Result<Tunnel> {
        let (page, shown) = (self.metrics()?, self.shown()?);
        let peer = shown.iter().find(|peer| peer["name"] == edge).with_context(|| format!("no {edge}"))?;
        let sum = |metric: &str| {
            let its = format!("peer=\"{edge}\"");
            let lines = page.lines().filter(|line| line.starts_with(metric) && line.contains(&its));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        Ok(Tunnel {
            handshakes: sum("forwarder_peer_handshakes_total{"),
            recoveries: sum("forwarder_peer_recoveries_total{"),
            port: peer["interface"]["listen_port"].as_u64().context("no port")?,
            link_up: peer["link"]["up"] == true,
        })
    }

    /// The edge takes it first: the origin begins the handshake.
    fn give_oracle_a_preshared_key(&mut self) -> Result<()> {
        let key = preshared_key("oracle");
        write_secret(&self.oracle.node.directory().join("wroclaw.psk"), &key)?;
        let line = "preshared_key_file = \"wroclaw.psk\"\nallowed_ips = [\"10.88.99.2/32\"";
        self.oracle.config.replace("allowed_ips = [\"10.88.99.2/32\"", line)?.write()?;
        let config = self.oracle.config.path().to_string_lossy().into_owned();
        self.oracle.gatewayctl(&["reload", "--config", &config])?.run()?;
        let file = self.site.origin.directory().join("oracle.psk");
        write_secret(&file, &key)?;
        if self.site.is_unprivileged() {
            std::os::unix::fs::chown(&file, Some(65_534), Some(65_534))?;
        }
        let section = self.peers.iter_mut().find(|(name, _)| *name == "oracle").context("no oracle")?;
        section.1.push_str("preshared_key_file = \"oracle.psk\"\n");
        Ok(())
    }

    /// Each mistake is reported at its place, and the text in force stays.
    fn refuses_what_is_wrong(&mut self, right: &str) -> Result<()> {
        let vienna = self.peers.iter().find(|(name, _)| *name == "vienna").context("no vienna")?.1.clone();
        let without = self.text(&["oracle"])?;
        let mistakes = [
            (without, "kyiv", 4),
            (format!("{right}\n{vienna}"), "vienna", 4),
            (right.replace("198.18.55.2:51820", "198.18.55.2"), "endpoint", 4),
            (right.replace("wroclaw-vienna.key", "vienna.key"), "vienna.key", 4),
            (right.replace("address = [\"10.66.77.2/30\"]", "adress = [\"10.66.77.2/30\"]"), "adress", 4),
            (right.replace("mtu = 1420", "mtu = 1400"), "[interface] mtu cannot change", 6),
        ];
        for (text, words, code) in mistakes {
            self.site.forwarder_config.text = text;
            self.site.forwarder_config.write()?;
            let output = command(&self.site)?.output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("{said}");
            let has_place = code != 4 || said.contains("forwarder.toml:");
            let is_refused = output.status.code() == Some(code) && said.contains(words) && has_place;
            ensure!(is_refused, "{words}: {:?} {said}", output.status);
            ensure!(self.names()? == ["kyiv", "oracle", "vienna"], "{:?}", self.names()?);
        }
        let said = self.reload(right)?;
        ensure!(!said.contains("peer"), "{said}");
        Ok(())
    }

    /// Whether nothing is shown of an edge any more.
    fn knows_nothing_of(&self, edge: &str) -> Result<()> {
        let of_peer = format!("peer=\"{edge}\"");
        let page = self.metrics()?;
        let left: Vec<&str> = page.lines().filter(|line| line.contains(&of_peer)).collect();
        ensure!(left.is_empty(), "{left:?}");
        for verb in [&["peers"][..], &["status"]] {
            let shown = self.site.ask_forwarder(verb)?.output()?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            ensure!(!shown.contains(edge), "{shown}");
        }
        let sockets = self.site.origin.run("ss -Huanp")?;
        let count = sockets.lines().filter(|line| line.contains("forwarder")).count();
        ensure!(count == 2, "{count} sockets for two edges: {sockets}");
        Ok(())
    }
}

/// A configuration without its peers, and the section of each peer.
fn sections(text: &str) -> Result<(String, Vec<(&'static str, String)>)> {
    let (mut rest, mut peers) = (String::new(), Vec::new());
    for section in text.split("\n[") {
        let Some(keys) = section.strip_prefix("[peer]]") else {
            let is_first = rest.is_empty();
            rest.push_str(if is_first { "" } else { "\n[" });
            rest.push_str(section);
            continue;
        };
        let named = ["kyiv", "oracle", "vienna"]
            .into_iter()
            .find(|name| keys.contains(&format!("name = \"{name}\"")));
        peers.push((named.context("an unknown peer")?, format!("[[peer]]{}\n", keys.trim_end())));
    }
    Ok((rest, peers))
}

fn text(rest: &str, peers: &[(&'static str, String)], names: &[&str]) -> Result<String> {
    let mut text = rest.to_owned();
    for wanted in names {
        let (_, section) = peers.iter().find(|(name, _)| name == wanted).context("no such peer")?;
        text.push('\n');
        text.push_str(section);
    }
    Ok(text)
}

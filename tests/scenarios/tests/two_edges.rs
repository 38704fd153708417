//! One origin behind two edges: every flow belongs to the edge it came by, and neither edge needs
//! the other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Counter, Lab, LeakWatch, Node, TcpServer, Topology, echo, full_counts, pattern, scenario};
use scenarios::{Caddy, Oracle, Site, download, packet_counters, serve_bulk};
use socket2::{Domain, Socket, Type};

const KYIV: &str = "192.0.2.2";
const ORACLE: &str = "198.18.66.2";
/// Where `proxy` is: the client that both edges let in.
const CLIENT: &str = "173.245.48.10";

#[test]
fn a_client_comes_through_both_edges_at_once_and_every_reply_leaves_by_the_edge_it_came_by() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let (site, oracle) = both_edges(lab)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let client = lab.node("proxy")?;
        let replies = format!("iifname gw0 ip daddr {CLIENT} tcp sport 5001");
        let by_kyiv = Counter::arriving(&site.edge, "replies", &replies)?;
        let by_oracle = Counter::arriving(&oracle.node, "replies", &replies)?;
        let leaks = LeakWatch::start(&lab.node("inet")?)?;

        // The same address and port twice: at the origin only the tunnel distinguishes these flows.
        let mut through_kyiv = connect_from(&client, 40_000, KYIV)?;
        let mut through_oracle = connect_from(&client, 40_000, ORACLE)?;
        let words = 200;
        for (stream, used, idle) in
            [(&mut through_kyiv, &by_kyiv, &by_oracle), (&mut through_oracle, &by_oracle, &by_kyiv)]
        {
            talk(stream, 1)?;
            let (used_before, idle_before) = (used.packets()?, idle.packets()?);
            talk(stream, words)?;
            let (used, idle) = (used.packets()? - used_before, idle.packets()? - idle_before);
            ensure!(used >= words, "{used} replies to {words} words came by the flow's own edge");
            ensure!(idle == 0, "{idle} replies came by the other edge");
        }
        // And at the same time.
        std::thread::scope(|scope| {
            let one = scope.spawn(|| talk(&mut through_kyiv, words));
            talk(&mut through_oracle, words)?;
            one.join().ok().context("a client's thread ended")?
        })?;
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnels", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn when_one_edge_dies_a_download_through_the_other_does_not_notice() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let (mut site, mut oracle) = both_edges(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let client = lab.node("client")?;

        let mut surviving = Download::begin(&client, KYIV)?;
        let mut doomed = Download::begin(&client, ORACLE)?;
        doomed.read_some()?;
        surviving.read_some()?;
        oracle.gateway()?.kill()?;
        oracle.node.run("ip link set eth0 down")?;
        surviving.finish().context("the download through Kyiv, after the other edge died")?;
        drop(doomed);

        oracle.node.run("ip link set eth0 up")?;
        oracle.node.run("ip route replace default via 198.18.66.1")?;
        oracle.start()?;
        oracle.wait_until_up(Duration::from_secs(60))?;
        let mut surviving = Download::begin(&client, ORACLE)?;
        surviving.read_some()?;
        site.gateway()?.kill()?;
        site.edge.run("ip link set eth0 down")?;
        surviving.finish().context("the download through the second edge, after Kyiv died")?;
        download(&client, &format!("{ORACLE}:5001"), 1 << 20)?;
        Ok(())
    })
}

#[test]
fn the_second_edge_lets_in_cloudflares_prefixes_only_and_the_first_lets_in_everyone() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let (site, oracle) = both_edges(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        let (client, proxy) = (lab.node("client")?, lab.node("proxy")?);
        for (node, edge, address) in
            [(&client, KYIV, "203.0.113.10"), (&proxy, KYIV, CLIENT), (&proxy, ORACLE, CLIENT)]
        {
            let seen = caddy.fetch(node, edge, "/whoami")?;
            ensure!(seen == address, "{address} by {edge} was seen as {seen}");
        }
        let refused = |edge: &Node| -> Result<u64> {
            let counters = packet_counters(edge)?;
            Ok(counters.get("drop_prerouting_source_not_allowed").copied().unwrap_or(0))
        };
        ensure!(refused(&oracle.node)? == 0, "something was refused before anyone tried");
        let tried = client.tcp_connect(&format!("{ORACLE}:443"), Duration::from_secs(2));
        ensure!(tried.is_err(), "a client that is not Cloudflare's was let in");
        ensure!(refused(&oracle.node)? > 0, "the refusal was not counted");
        Ok(())
    })
}

#[test]
fn an_edge_that_is_added_at_a_reload_comes_up_while_a_download_through_the_other_goes_on() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut site = Site::new(lab)?;
        let alone = site.forwarder_config.text.clone();
        let mut oracle = Oracle::add_to(&mut site, lab)?;
        let both = std::mem::replace(&mut site.forwarder_config.text, alone);
        oracle.start()?;
        site.start()?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let client = lab.node("client")?;
        let mut download_by_kyiv = Download::begin(&client, KYIV)?;
        download_by_kyiv.read_some()?;

        site.forwarder_config.text = both;
        site.forwarder_config.write()?;
        let socket = site.origin.directory().join("state/forwarder.sock").to_string_lossy().into_owned();
        let config = site.forwarder_config.path().to_string_lossy().into_owned();
        // As root: next to the state folder lies the operator's own.
        let reload = site.origin.command(lab::binary("forwarder")?);
        let reloaded = reload.args(["reload", "--config", &config, "--socket", &socket]).output()?;
        let said = String::from_utf8_lossy(&reloaded.stdout).into_owned();
        ensure!(reloaded.status.success() && said.contains("+ oracle"), "{said}: {reloaded:?}");
        oracle.wait_until_up(Duration::from_secs(30))?;
        let mut download_by_oracle = Download::begin(&client, ORACLE)?;
        download_by_oracle.read_some()?;
        download_by_kyiv.finish().context("the download that was under way")?;
        Ok(())
    })
}

fn both_edges(lab: &Lab) -> Result<(Site<'_>, Oracle<'_>)> {
    let mut site = Site::new(lab)?;
    let mut oracle = Oracle::add_to(&mut site, lab)?;
    oracle.start()?;
    site.start()?;
    oracle.wait_until_up(Duration::from_secs(30))?;
    Ok((site, oracle))
}

fn connect_from(node: &Node, port: u16, edge: &str) -> Result<TcpStream> {
    let to: SocketAddr = format!("{edge}:5001").parse()?;
    let socket = node.within(|| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
        Ok(socket)
    })?;
    let stream = TcpStream::from(socket.with_context(|| format!("from port {port} to {to}"))?);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends words, each only after the one before has come back.
fn talk(stream: &mut TcpStream, words: u64) -> Result<()> {
    for number in 0..words {
        let word = number.to_be_bytes();
        stream.write_all(&word)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        ensure!(answer == word, "another word came back");
    }
    Ok(())
}

/// A download of known content that is read piece by piece.
struct Download {
    stream: TcpStream,
    block: Vec<u8>,
    blocks: usize,
}

impl Download {
    fn begin(client: &Node, edge: &str) -> Result<Self> {
        let blocks = if full_counts() { 512 } else { 64 };
        let mut stream = client.tcp_connect(&format!("{edge}:5001"), Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let block = pattern(1, 1 << 20);
        stream.write_all(format!("down {}\n", blocks * block.len()).as_bytes())?;
        Ok(Self { stream, block, blocks })
    }

    /// Reads a quarter of what is left.
    fn read_some(&mut self) -> Result<()> {
        self.read(self.blocks / 4)
    }

    fn finish(mut self) -> Result<()> {
        self.read(self.blocks)?;
        ensure!(self.stream.read(&mut [0; 1])? == 0, "more came than was asked for");
        Ok(())
    }

    fn read(&mut self, blocks: usize) -> Result<()> {
        let mut piece = vec![0; self.block.len()];
        for _ in 0..blocks {
            self.stream.read_exact(&mut piece)?;
            ensure!(piece == self.block, "wrong bytes, {} blocks before the end", self.blocks);
            self.blocks -= 1;
        }
        Ok(())
    }
}

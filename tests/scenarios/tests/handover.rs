//! The origin is upgraded in place, while flows of every kind are carried.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::{Lab, Node, Topology, full_counts, scenario, until};
use scenarios::{
    Crowd, EchoService, Oracle, PacedFlow, Site, Way, download, raise_descriptors, serve_bulk, upload,
};
use serde_json::Value;

const BULK: &str = "192.0.2.2:5001";
const ECHO: &str = "192.0.2.2:5002";
const DATAGRAMS: &str = "192.0.2.2:5353";
/// The bulk service by the second edge.
const ORACLE: &str = "198.18.66.2:5001";
/// An edge, its own port that the origin may use, and where the origin has it.
const REACHES: [(&str, &str, &str); 2] =
    [("kyiv", "192.168.1.2:6000", "127.0.0.1:6001"), ("oracle", "10.88.99.1:6000", "127.0.0.1:6002")];
/// How long an upgrade and everything after it may take.
const LIMIT: Duration = Duration::from_secs(30);
/// `WatchdogSec=` of the unit.
const WATCHDOG: Duration = Duration::from_secs(30);
/// How long a new version is watched without a tunnel, with reduced counts: until it has notified the
/// watchdog once.
const TICK: Duration = Duration::from_secs(1);
/// What each of many transfers carries.
const CHUNK: u64 = 4 << 20;

#[test]
fn flows_of_every_kind_continue_over_upgrades_of_the_origin() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (flows, rounds, long) =
            if full_counts() { (1_000, 20, 1_000 << 20) } else { (100, 2, 100 << 20) };
        raise_descriptors(2 * flows + 500)?;
        let mut origin = Origin::start(lab)?;
        let client = lab.node("client")?;
        for round in 0..rounds {
            let crowd = Crowd::connect(&client, ECHO, flows)?;
            crowd.handle_round(LIMIT)?;
            let (ending, progress) = (AtomicBool::new(false), AtomicBool::new(false));
            let took = thread::scope(|scope| {
                let long = [
                    scope.spawn(|| download(&client, BULK, long).map(drop)),
                    scope.spawn(|| upload(&client, BULK, long).map(drop)),
                ];
                let new = scope.spawn(|| new_flows(&client, &ending, &progress));
                let upgraded =
                    until(LIMIT, "a first flow", || Ok(progress.load(Ordering::Relaxed).then_some(())))
                        .and_then(|()| origin.upgrade());
                let seen = upgraded.and_then(|took| {
                    let old = origin.old()?.context("no old process")?;
                    ensure!(old["flows"].as_u64() >= Some(flows as u64), "{old}");
                    crowd.handle_round(LIMIT).map(|longest| (took, longest))
                });
                ending.store(true, Ordering::Relaxed);
                for transfer in long {
                    transfer
                        .join()
                        .map_err(|_| anyhow!("a transfer panicked"))?
                        .context("a long transfer")?;
                }
                let opened = new.join().map_err(|_| anyhow!("new flows panicked"))?.context("a new flow")?;
                seen.map(|(took, longest)| {
                    println!(
                        "upgrade {round}: {took:?} to ready, the longest exchange of {flows}: {longest:?}, {opened} \
                         new flows meanwhile"
                    );
                })
            });
            took.with_context(|| format!("upgrade {round}"))?;
            drop(crowd);
            origin.wait_for_the_end_of_the_old_process()?;
        }
        ensure!(origin.site.peer_field("/state")? == "up");
        let history = origin.site.edge.command(lab::binary("causeway")?).args(["history", "--since", "10m"]);
        let history = history.run()?;
        for state in ["stale", "down"] {
            let outage = format!("the tunnel with wroclaw is {state}");
            ensure!(!history.contains(&outage), "the edge took an upgrade for an outage:\n{history}");
        }
        let command = origin.site.origin.command(lab::binary("causeway")?).args(["history", "--config"]);
        let history = command.arg(origin.site.forwarder_config.path()).run()?;
        ensure!(history.contains("the daemon was upgraded in place: a new process goes on"), "{history}");
        Ok(())
    })
}

#[test]
fn flows_through_each_of_two_edges_and_of_reach_entries_continue_over_upgrades() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut site = Site::new(lab)?;
        let mut oracle = Oracle::add_to(&mut site, lab)?;
        for (edge, target, listen) in REACHES {
            site.forwarder_config.append(&format!(
                "[[reach]]\nname = \"far-{edge}\"\nprotocol = [\"tcp\", \"udp\"]\nlisten = \"{listen}\"\n\
                 target = \"{target}\"\npeer = \"{edge}\""
            ));
        }
        for config in [&mut site.gateway_config, &mut oracle.config] {
            config.append(
                "[[allow]]\nname = \"far\"\nfrom = [\"peer:wroclaw\"]\nto = [\"self\"]\n\
                 protocol = [\"tcp\", \"udp\"]\nports = [\"6000\"]",
            );
        }
        oracle.start()?;
        let mut origin = Origin::start_at(site)?;
        oracle.wait_until_up(LIMIT)?;
        let [kyiv, second] = REACHES.map(|(_, target, _)| target);
        let _far = [serve_bulk(&origin.site.edge, kyiv)?, serve_bulk(&oracle.node, second)?];
        let services = [origin.site.edge.udp_socket(kyiv)?, oracle.node.udp_socket(second)?];
        let rounds = if full_counts() { 20 } else { 2 };
        for round in 1..=rounds {
            let flows = flows_of_two_edges(&origin, &lab.node("client")?)?;
            // These have no end: the process before the last one does not have to wait for it.
            let datagrams = if round == rounds { Some(datagrams_by_reach(&origin)?) } else { None };
            let ask = || {
                datagrams
                    .iter()
                    .flatten()
                    .zip(&services)
                    .try_for_each(|(socket, service)| question(socket, service, b"question").map(drop))
            };
            ask().context("datagrams of reach entries")?;
            // The new process numbers the edges in another order than the old one.
            origin.swap_edges()?;
            let took = origin.upgrade().with_context(|| format!("upgrade {round}"))?;
            let old = origin.old()?.context("no old process")?;
            ensure!(old["flows"].as_u64() >= Some(flows.len() as u64), "{old}");
            ask().context("datagrams of reach entries after the upgrade")?;
            for (node, address) in ways(&origin, &lab.node("client")?) {
                download(node, address, CHUNK).and_then(|_| upload(node, address, CHUNK))?;
            }
            for (what, flow) in flows {
                let pause = flow.finish().with_context(|| format!("{what}, upgrade {round}"))?;
                println!("upgrade {round}, ready after {took:.2?}: {what} paused for {pause:.2?} at most");
            }
            if round < rounds {
                origin.wait_for_the_end_of_the_old_process()?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_upgrade_waits_for_the_process_before_and_datagrams_keep_their_flow_until_it_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut origin = Origin::start(lab)?;
        let client = lab.node("client")?;
        let service = origin.site.origin.udp_socket("127.0.0.1:5353")?;
        let datagrams = client.udp_socket("203.0.113.10:0")?;
        datagrams.connect(DATAGRAMS)?;
        let first = question(&datagrams, &service, b"question")?;
        let crowd = Crowd::connect(&client, ECHO, 20)?;
        crowd.handle_round(LIMIT)?;
        origin.upgrade()?;
        // Whole, and in fragments.
        ensure!(question(&datagrams, &service, b"question")? == first, "the upstream sees another port");
        ensure!(question(&datagrams, &service, &[7; 4_000])? == first, "the upstream sees another port");
        // The link to the edge was one more, for a moment.
        until(LIMIT, "20 flows of TCP and one of UDP", || {
            let metrics = origin.site.origin.run("curl -s http://127.0.0.1:9587/metrics")?;
            Ok(metrics.contains("\nforwarder_handover_flows 21\n").then_some(()))
        })?;

        // Nothing is begun while there is an old process; nothing is lost either.
        origin.ask_for_an_upgrade()?;
        origin
            .site
            .forwarder()?
            .wait_for_log("the upgrade waits for the end of the process before", LIMIT)?;
        crowd.handle_round(LIMIT)?;
        drop(crowd);
        // The UDP flow has no end: the time of the old process is over.
        origin.wait_for_the_new_process()?;
        origin.wait_for_the_end_of_the_old_process()?;
        ensure!(question(&datagrams, &service, b"question")? != first, "a flow of a process that is gone");
        download(&client, BULK, CHUNK).map(drop)
    })
}

#[test]
fn a_new_version_that_ends_or_hangs_changes_nothing_and_is_shown() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("the upgrade did not happen");
        let mut origin = Origin::start(lab)?;
        let client = lab.node("client")?;
        let crowd = Crowd::connect(&client, ECHO, 20)?;
        let works = fs::read(&origin.program)?;
        for (text, why) in
            [("exit 1", "ended before it was ready"), ("exec sleep 613", "was not ready within 10 s")]
        {
            origin.install(format!("#!/bin/sh\n{text}\n").as_bytes())?;
            origin.ask_for_an_upgrade()?;
            origin.site.forwarder()?.wait_for_log(why, LIMIT)?;
            crowd.handle_round(LIMIT)?;
            let status = origin.site.ask_forwarder(&["status"])?.output()?;
            let status = String::from_utf8_lossy(&status.stdout).into_owned();
            ensure!(
                status.contains("the upgrade did not happen, and version") && status.contains(why),
                "{status}"
            );
        }
        ensure!(!runs("sleep\x00613")?, "the one that hung still runs");

        // One that refuses the configuration says why, and leaves the control socket where it is.
        origin.install(&works)?;
        let config = origin.site.forwarder_config.path().clone();
        let right = fs::read_to_string(&config)?;
        fs::write(&config, right.replace("127.0.0.1:5002\"", "127.0.0.1:0x\""))?;
        origin.ask_for_an_upgrade()?;
        origin.site.forwarder()?.wait_for_log("forwarder.toml:", LIMIT)?;
        crowd.handle_round(LIMIT)?;
        origin.site.ask_forwarder(&["status"])?.output()?;
        fs::write(&config, right)?;

        origin.upgrade()?;
        crowd.handle_round(LIMIT)?;
        let status = origin.site.ask_forwarder(&["status"])?.output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(!status.contains("the upgrade did not happen"), "{status}");
        ensure!(status.contains("upgrade: the process before this one has "), "{status}");
        Ok(())
    })
}

/// What ends by itself, does not start in time or does not answer the watchdog goes back to the version
/// before (`earlier_version.rs`): without a tunnel none of these happens.
#[test]
fn a_new_version_whose_udp_is_dropped_is_upgraded_to_kept_alive_and_started_as_with_a_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut origin = Origin::start(lab)?;
        let inet = lab.node("inet")?;
        inet.nft(
            "table inet closed { chain pass { type filter hook forward priority 0; udp dport 51820 drop; \
             udp sport 51820 drop; }\n }",
        )?;
        if full_counts() {
            lab.expect_warning("nothing came back from");
        }
        let took = origin.upgrade().context("an upgrade without a tunnel")?;
        ensure!(origin.site.forwarder()?.wait(LIMIT)?.success(), "the old process ended with an error");
        let without = Instant::now();
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while without.elapsed() < if full_counts() { Duration::from_secs(600) } else { TICK } {
            ensure!(origin.notified("STATUS=")?.starts_with("0 of 1 peers up"), "there is a tunnel");
            origin.notified("WATCHDOG=1")?;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        ensure!(longest < WATCHDOG, "the watchdog heard nothing for {longest:?}");
        // Nothing here would start it again.
        ensure!(origin.old()?.is_none(), "the old process did not end");
        println!(
            "without a tunnel: an upgrade took {took:.2?}, and the watchdog heard nothing for {longest:.2?} \
             at most in {:.0?}",
            without.elapsed()
        );

        // An upgrade by a restart.
        origin.site.origin.run(&format!("kill -s TERM {}", origin.main))?;
        until(LIMIT, "the end of both processes", || {
            Ok((origin.site.forwarder()?.log()?.matches("forwarder stopped").count() == 2).then_some(()))
        })?;
        origin.site.start_forwarder()?;
        origin.notified("READY=1").context("a start without a tunnel")?;
        inet.run("nft delete table inet closed")?;
        origin.site.wait_until_up(LIMIT)?;
        download(&lab.node("client")?, BULK, CHUNK)?;
        ensure!(origin.site.forwarder()?.stop(LIMIT)?.success(), "an end that would count as a failure");
        Ok(())
    })
}

/// The worked example, whose origin runs an installed program under something that takes systemd's
/// place.
struct Origin<'l> {
    site: Site<'l>,
    program: PathBuf,
    systemd: UnixDatagram,
    /// The main process, as systemd knows it.
    main: String,
    _echo: EchoService,
    _bulk: lab::TcpServer,
}

impl<'l> Origin<'l> {
    fn start(lab: &'l Lab) -> Result<Self> {
        Self::start_at(Site::new(lab)?)
    }

    fn start_at(mut site: Site<'l>) -> Result<Self> {
        for (name, port, protocol) in [("echo", 5002, "tcp"), ("datagrams", 5353, "udp")] {
            site.gateway_config.append(&format!(
                "[[publish]]\nname = \"{name}\"\nprotocol = [\"{protocol}\"]\nlisten = \"{port}\"\n\
                 target = \"192.168.88.2:{port}\""
            ));
            site.forwarder_config.append(&format!(
                "[[service]]\nname = \"{name}\"\nprotocol = [\"{protocol}\"]\nmatch = \"192.168.88.2:{port}\"\n\
                 upstream = \"127.0.0.1:{port}\""
            ));
        }
        let drain = if full_counts() { 60 } else { 6 };
        site.forwarder_config.append(&format!(
            "[limits]\nflows_per_client = 4096\npending_per_client = 1024\ndrain = \"{drain}s\""
        ));
        let program = site.origin.directory().join("forwarder");
        fs::copy(lab::binary("forwarder")?, &program)?;
        let path = site.origin.directory().join("notify");
        let systemd = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        systemd.set_read_timeout(Some(LIMIT))?;
        site.forwarder_program = Some(program.clone());
        let [_, environment] = &mut site.environment;
        environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        let echo = EchoService::apart(site.origin.tcp_listener("127.0.0.1:5002")?)?;
        let bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let pids = site.forwarder()?.status_field("NSpid")?;
        let main = pids.split_whitespace().last().context("no process number")?.to_owned();
        Ok(Self { site, program, systemd, main, _echo: echo, _bulk: bulk })
    }

    /// Has the first of two edges the last one in the file, which the next process reads.
    fn swap_edges(&mut self) -> Result<()> {
        let config = &mut self.site.forwarder_config;
        let mut sections: Vec<&str> = config.text.split("\n[").collect();
        let of_peers: Vec<usize> = (0..sections.len())
            .filter(|place| sections.get(*place).is_some_and(|section| section.starts_with("[peer]]")))
            .collect();
        ensure!(of_peers.len() == 2, "{} edges", of_peers.len());
        sections.swap(of_peers[0], of_peers[1]);
        let text = sections.iter().map(|section| section.trim_end()).collect::<Vec<_>>().join("\n\n[");
        config.text = format!("{text}\n");
        config.write()
    }

    /// Replaces the installed program, as a package does.
    fn install(&self, content: &[u8]) -> Result<()> {
        let new = self.program.with_extension("new");
        fs::write(&new, content)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(new, &self.program).context("the program cannot be replaced")
    }

    fn ask_for_an_upgrade(&mut self) -> Result<()> {
        self.site.origin.run(&format!("kill -s USR2 {}", self.main)).map(drop)
    }

    /// An upgrade; how long it took until systemd knew that the new process is ready.
    fn upgrade(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.ask_for_an_upgrade()?;
        self.wait_for_the_new_process()?;
        Ok(start.elapsed())
    }

    fn wait_for_the_new_process(&mut self) -> Result<()> {
        let main = self.notified("MAINPID=")?;
        ensure!(main != self.main, "the main process is the same one");
        self.main = main;
        self.notified("READY=1").map(drop)
    }

    /// What systemd is notified of that begins so.
    fn notified(&self, wanted: &str) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.systemd.recv(&mut buffer).with_context(|| format!("no {wanted}"))?;
            let words = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            if let Some(rest) = words.lines().find_map(|word| word.strip_prefix(wanted)) {
                return Ok(rest.to_owned());
            }
        }
    }

    /// What `status` shows of the old process.
    fn old(&self) -> Result<Option<Value>> {
        let text = self.site.ask_forwarder(&["status", "--json"])?.output()?.stdout;
        let status: Value = serde_json::from_slice(&text).context("no status")?;
        Ok(Some(status["handover"].clone()).filter(|old| !old.is_null()))
    }

    fn wait_for_the_end_of_the_old_process(&self) -> Result<()> {
        until(2 * LIMIT, "the old process to end", || Ok(self.old()?.is_none().then_some(())))
    }
}

/// A bulk server behind each edge, and at each by the entry of `[[reach]]`, with who connects to it.
fn ways<'a>(origin: &'a Origin<'_>, client: &'a Node) -> [(&'a Node, &'static str); 4] {
    let [kyiv, oracle] = REACHES.map(|(_, _, listen)| (&origin.site.origin, listen));
    [(client, BULK), (client, ORACLE), kyiv, oracle]
}

/// A download and an upload by each of the ways.
fn flows_of_two_edges(origin: &Origin<'_>, client: &Node) -> Result<Vec<(String, PacedFlow)>> {
    let mut flows = Vec::new();
    for (node, address) in ways(origin, client) {
        for way in [Way::Down, Way::Up] {
            flows.push((format!("{way:?} by {address}"), PacedFlow::begin(node, address.parse()?, way)?));
        }
    }
    Ok(flows)
}

/// A local client of each entry of `[[reach]]`.
fn datagrams_by_reach(origin: &Origin<'_>) -> Result<Vec<UdpSocket>> {
    let client = |(_, _, listen)| {
        let socket = origin.site.origin.udp_socket("127.0.0.1:0")?;
        socket.connect(listen)?;
        Ok(socket)
    };
    REACHES.into_iter().map(client).collect()
}

/// Opens flows one after another, each of which must work; how many.
fn new_flows(client: &Node, ending: &AtomicBool, progress: &AtomicBool) -> Result<usize> {
    let mut opened = 0;
    while !ending.load(Ordering::Relaxed) {
        download(client, BULK, CHUNK)?;
        upload(client, BULK, CHUNK)?;
        progress.store(true, Ordering::Relaxed);
        opened += 2;
    }
    Ok(opened)
}

/// Sends a datagram to the service and one back; from where it came to the service.
fn question(client: &UdpSocket, service: &UdpSocket, content: &[u8]) -> Result<SocketAddr> {
    for socket in [client, service] {
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    }
    let mut bytes = vec![0; 8_192];
    for _ in 0..20 {
        client.send(content)?;
        let Ok((length, from)) = service.recv_from(&mut bytes) else { continue };
        if bytes.get(..length) != Some(content) {
            continue;
        }
        service.send_to(content, from)?;
        if client.recv(&mut bytes).is_ok_and(|length| bytes.get(..length) == Some(content)) {
            return Ok(from);
        }
    }
    bail!("no reply")
}

/// Whether a program runs with these arguments, anywhere on this machine.
fn runs(arguments: &str) -> Result<bool> {
    let lines = fs::read_dir("/proc")?.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    Ok(lines.into_iter().any(|line| String::from_utf8_lossy(&line).starts_with(arguments)))
}

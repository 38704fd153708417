//! Two edges at one site, with keepalived and conntrackd as `gatewayctl export` writes them: whatever
//! happens to the active one, connections go on.

// What each fault cost is printed; an edge of a pair is 0 or 1.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Counter, Lab, LeakWatch, Node, Process, Signal, TcpServer, Topology, full_counts, pattern, scenario,
    until,
};
use scenarios::{Site, ahead_by, serve_bulk, shifted_clock};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Where visitors and the origin find the pair.
const SHARED: &str = "192.0.2.2";
/// How fast one flow reads or writes, in bytes a second, and how much.
const PACE: usize = 400_000;
const BYTES: usize = 1_600_000;
const PIECE: usize = 8_000;
/// What a flow may be held up before the scenario fails; what it was is printed.
const STUCK: Duration = Duration::from_secs(15);

#[test]
fn connections_outlive_a_switch_and_the_loss_of_the_active_edge() -> Result<()> {
    with_pair(&Wanted::default(), |pair| {
        let faults: &[Fault] = if full_counts() { &Fault::ALL } else { &[Fault::Switch, Fault::Power] };
        faults.iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn an_edge_that_thaws_or_comes_back_takes_no_session_away_behind_a_full_cone_nat() -> Result<()> {
    with_pair(&Wanted { nat: Nat::FullCone, ..Wanted::default() }, |pair| {
        pair.suffers(Fault::Frozen)?;
        if full_counts() {
            pair.suffers(Fault::Killed)?;
            (0..5).try_for_each(|_| pair.suffers(Fault::Switch))?;
        }
        Ok(())
    })
}

#[test]
fn messages_that_are_forged_on_the_link_between_the_edges_change_nothing() -> Result<()> {
    with_pair(&Wanted { has_keepalived: false, ..Wanted::default() }, |pair| {
        let (active, standby) = (&pair.edges[0], &pair.edges[1]);
        active.node.ip(&format!("address add {SHARED}/32 dev eth0"))?;
        until(Duration::from_secs(5), "the first edge to be active", || {
            Ok((active.role()? == "active").then_some(()))
        })?;
        until(Duration::from_secs(10), "the peer's endpoint at the standby", || {
            Ok(standby.endpoint()?.is_some().then_some(()))
        })?;
        let known = standby.endpoint()?;
        let recorded = fs::read_to_string(standby.node.directory().join("state/endpoints.json"))?;
        let before = standby.refused()?;
        // From the other edge's own address, as one who is on the cable writes it.
        let socket = active.node.udp_socket("10.9.9.1:0")?;
        for length in [0, 1, 27, 28, 44, 200, 1_400] {
            let datagram = [&b"CWS1"[..], &pattern(9, 1_400)].concat();
            socket.send_to(datagram.get(..length).unwrap_or_default(), "10.9.9.2:51898")?;
        }
        until(Duration::from_secs(5), "the forged messages to be refused", || {
            Ok((standby.refused()? >= before + 7).then_some(()))
        })?;
        ensure!(standby.endpoint()? == known && standby.role()? == "standby");
        let now = fs::read_to_string(standby.node.directory().join("state/endpoints.json"))?;
        ensure!(now == recorded, "the standby keeps another endpoint: {now}");
        // What a router has passed on is no VRRP of the other edge, nor is that of anyone else.
        let dropped = || -> Result<u64> {
            let counters = scenarios::packet_counters(&standby.node)?;
            Ok(counters.get("drop_input_wan_guard").copied().unwrap_or(0))
        };
        let vrrp = |node: &Node, to: &str, ttl: u8| {
            let code = format!(
                "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)\n\
                 s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, {ttl})\ns.sendto(bytes(20), ('{to}', 0))"
            );
            node.command("python3").args(["-c", &code]).run().map(drop)
        };
        let none = dropped()?;
        vrrp(&active.node, "10.9.9.2", 255)?;
        ensure!(dropped()? == none, "VRRP of the other edge was dropped");
        vrrp(&active.node, "10.9.9.2", 254)?;
        vrrp(&active.node, "192.0.2.12", 255)?;
        ensure!(dropped()? == none + 2, "{} of 2 forged packets were dropped", dropped()? - none);
        Ok(())
    })
}

#[test]
fn soak_connections_outlive_a_switch_between_edges_whose_clocks_are_apart() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { has_other_clock: true, ..Wanted::default() }, |pair| {
        (0..4).try_for_each(|_| pair.suffers(Fault::Switch))
    })
}

#[test]
fn soak_connections_outlive_a_switch_behind_a_symmetric_nat() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { nat: Nat::Symmetric, ..Wanted::default() }, |pair| {
        [Fault::Switch, Fault::Killed, Fault::Power].iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

/// What becomes of the active edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// An operator has the address moved.
    Switch,
    /// The daemon crashes; systemd writes that down and starts it again.
    Killed,
    /// The daemon is frozen and thaws after the take-over.
    Frozen,
    /// The cable to the router.
    LinkCut,
    /// The cable between the edges, for a while.
    SyncCut,
    /// Everything at once, without a good-bye.
    Power,
}

impl Fault {
    const ALL: [Self; 6] =
        [Self::Switch, Self::Killed, Self::Frozen, Self::LinkCut, Self::SyncCut, Self::Power];
}

/// What is in front of the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Nat {
    /// The lab's own: only who was sent to gets in.
    #[default]
    PortRestricted,
    /// Whoever sends to the mapped port gets in.
    FullCone,
    /// As the lab's own, with another port for each destination.
    Symmetric,
}

struct Wanted {
    nat: Nat,
    has_keepalived: bool,
    has_other_clock: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { nat: Nat::default(), has_keepalived: true, has_other_clock: false }
    }
}

/// One of the two edges.
struct Edge<'lab> {
    lab: &'lab Lab,
    node: Node,
    /// The port of the router that leads to it.
    port: &'static str,
    environment: Vec<(String, String)>,
    gateway: Option<Process>,
    keepalived: Option<Process>,
    conntrackd: Option<Process>,
}

impl Edge<'_> {
    fn config(&self) -> PathBuf {
        self.node.directory().join("gateway.toml")
    }

    fn health(&self) -> PathBuf {
        self.node.directory().join("state/keepalived-health")
    }

    fn start(&mut self) -> Result<()> {
        let command = self.node.command(lab::binary("gateway")?).arg("--config").arg(self.config());
        let command =
            self.environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let mut gateway = command.spawn("gateway")?;
        self.lab.judge(&gateway);
        let answered = until(Duration::from_secs(30), "the gateway's control socket", || {
            ensure!(gateway.is_running(), "the gateway ended:\n{}", gateway.log()?);
            Ok(self.role().ok())
        });
        self.gateway = Some(gateway);
        answered.map(drop)
    }

    fn start_helpers(&mut self) -> Result<()> {
        let folder = self.node.directory().to_owned();
        for what in ["keepalived", "conntrackd"] {
            let export = self.node.command(lab::binary("gatewayctl")?).args(["export", what, "--config"]);
            let text = unhurried(export.arg(self.config()).run()?);
            fs::write(folder.join(format!("{what}.conf")), text)?;
        }
        self.node.shell("mkdir -p /run/lock")?;
        let conntrackd = self.node.command("conntrackd").arg("-C").arg(folder.join("conntrackd.conf"));
        self.conntrackd = Some(conntrackd.spawn("conntrackd")?);
        let keepalived = self.node.command("keepalived").args(["-n", "-l", "-D", "-f"]);
        let keepalived =
            keepalived.arg(folder.join("keepalived.conf")).arg("-p").arg(folder.join("keepalived.pid"));
        let keepalived = keepalived.arg("-r").arg(folder.join("vrrp.pid"));
        self.keepalived = Some(keepalived.spawn("keepalived")?);
        Ok(())
    }

    fn ask(&self, what: &str) -> Result<Value> {
        let text = self.node.command(lab::binary("gatewayctl")?).args([what, "--json"]).output()?;
        serde_json::from_slice(&text.stdout).with_context(|| format!("{text:?}"))
    }

    fn role(&self) -> Result<String> {
        let role = self.ask("status")?.pointer("/standby").and_then(Value::as_str).map(str::to_owned);
        role.context("no role")
    }

    fn endpoint(&self) -> Result<Option<String>> {
        let peers = self.ask("peers")?;
        Ok(peers.pointer("/peers/0/endpoint").and_then(Value::as_str).map(str::to_owned))
    }

    /// Messages of the other edge that did not count.
    fn refused(&self) -> Result<u64> {
        let page = self.node.run("curl -s http://127.0.0.1:9586/metrics")?;
        let line =
            page.lines().find(|line| line.starts_with("gateway_standby_messages_total{result=\"refused\"}"));
        let number = line.and_then(|line| line.split(' ').next_back()).context("no such metric")?;
        Ok(number.parse::<f64>()? as u64)
    }

    fn has_address(&self) -> Result<bool> {
        Ok(self.node.run("ip -o address show dev eth0")?.contains(&format!(" {SHARED}/32 ")))
    }

    fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the gateway was not started")
    }

    /// The processes of keepalived.
    fn signal_keepalived(&self, signal: &str) -> Result<()> {
        let folder = self.node.directory();
        for file in ["keepalived.pid", "vrrp.pid"] {
            let number = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if !number.trim().is_empty() {
                self.node.shell(&format!("kill -{signal} {} 2>/dev/null || true", number.trim()))?;
            }
        }
        Ok(())
    }
}

/// The configuration as it is exported; next to other tests a process may be delayed for longer than
/// three of its adverts, so that there they are further apart.
fn unhurried(text: String) -> String {
    if full_counts() {
        return text;
    }
    let text = text.replace("advert_int 0.2", "advert_int 1").replace("timeout 1\n", "timeout 4\n");
    text.replace("timeout 0.5", "timeout 3")
}

/// Both edges, and what is around them.
struct Pair<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    edges: [Edge<'lab>; 2],
    leaks: LeakWatch,
}

fn with_pair(wanted: &Wanted, test: impl FnOnce(&mut Pair<'_>) -> Result<()>) -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut pair = Pair::build(lab, wanted)?;
        pair.start(wanted)?;
        let _bulk: TcpServer = serve_bulk(&pair.site.origin, "127.0.0.1:5001")?;
        test(&mut pair)?;
        ensure!(pair.leaks.packets()? == 0, "{} packets left outside the tunnel", pair.leaks.packets()?);
        Ok(())
    })
}

impl<'lab> Pair<'lab> {
    fn build(lab: &'lab Lab, wanted: &Wanted) -> Result<Self> {
        let site = Site::new(lab)?;
        let (inet, one, two) = (lab.node("inet")?, lab.node("edge")?, lab.add_node("twin")?);
        lab.connect((&inet, "twin0"), (&two, "eth0"))?;
        lab.connect((&one, "sync0"), (&two, "sync0"))?;
        inet.ip(
            "link add wan type bridge\nlink set edge0 master wan\nlink set twin0 master wan\nlink set wan up\n\
             address flush dev edge0\naddress add 192.0.2.1/24 dev wan",
        )?;
        one.ip(
            "address flush dev eth0\naddress add 192.0.2.11/24 dev eth0\naddress add 10.9.9.1/30 dev sync0\n\
             route replace default via 192.0.2.1",
        )?;
        two.ip("address add 192.0.2.12/24 dev eth0\naddress add 10.9.9.2/30 dev sync0\n\
             route add default via 192.0.2.1")?;
        nat(&lab.node("cgnat")?, wanted.nat)?;
        let shifted = if wanted.has_other_clock { Some(shifted_clock(lab)?) } else { None };
        fs::create_dir_all(two.directory().join("state"))?;
        for file in ["kyiv.key", "wroclaw.psk"] {
            fs::copy(one.directory().join(file), two.directory().join(file))?;
        }
        let edge = |node: &Node, other: &str, port, environment| -> Result<Edge<'lab>> {
            for switch in ["nf_conntrack_tcp_be_liberal", "nf_conntrack_events"] {
                node.sysctl(&format!("net/netfilter/{switch}"), "1")?;
            }
            let edge = Edge {
                lab,
                node: node.clone(),
                port,
                environment,
                gateway: None,
                keepalived: None,
                conntrackd: None,
            };
            fs::write(edge.config(), toml(&site.wroclaw.public, node, other))?;
            Ok(edge)
        };
        let apart = shifted.map(|library| ahead_by(&library, 20)).unwrap_or_default();
        let edges = [edge(&one, "10.9.9.2", "edge0", apart)?, edge(&two, "10.9.9.1", "twin0", Vec::new())?];
        Ok(Self { lab, site, edges, leaks: LeakWatch::start(&inet)? })
    }

    fn start(&mut self, wanted: &Wanted) -> Result<()> {
        self.edges.iter_mut().try_for_each(Edge::start)?;
        self.site.start_forwarder()?;
        if !wanted.has_keepalived {
            return Ok(());
        }
        self.edges.iter_mut().try_for_each(Edge::start_helpers)?;
        self.settle()
    }

    /// Waits until one edge is active, with a tunnel, and the other knows enough to take over.
    fn settle(&self) -> Result<()> {
        until(Duration::from_secs(30), "one active edge, one standby", || {
            let roles = [self.edges[0].role()?, self.edges[1].role()?];
            Ok((roles.contains(&"active".to_owned()) && roles.contains(&"standby".to_owned())).then_some(()))
        })?;
        let (active, standby) = self.now()?;
        until(Duration::from_secs(30), "the tunnel", || {
            let peers = self.edges[active].ask("peers")?;
            Ok((peers.pointer("/peers/0/state") == Some(&Value::from("up"))).then_some(()))
        })?;
        until(Duration::from_secs(30), "the standby to know the peer's endpoint", || {
            let known = (self.edges[active].endpoint()?, self.edges[standby].endpoint()?);
            Ok((known.0.is_some() && known.0 == known.1).then_some(()))
        })
    }

    /// The numbers of the active edge and of the standby.
    fn now(&self) -> Result<(usize, usize)> {
        match [self.edges[0].has_address()?, self.edges[1].has_address()?] {
            [true, false] => Ok((0, 1)),
            [false, true] => Ok((1, 0)),
            both => bail!("the shared address is at {both:?}"),
        }
    }

    /// Has the active edge suffer this under load; prints what it cost.
    fn suffers(&mut self, fault: Fault) -> Result<()> {
        let (active, standby) = self.now()?;
        let load = Load::begin(&self.lab.node("client")?)?;
        load.wait_until_running()?;
        let began = Instant::now();
        self.begin(fault, active)?;
        let moved = if fault == Fault::SyncCut {
            // Both have the address meanwhile; the router sends to whoever announced it last.
            std::thread::sleep(Duration::from_secs(3));
            None
        } else {
            until(Duration::from_secs(20), "the address to move", || {
                Ok(self.edges[standby].has_address()?.then_some(()))
            })?;
            Some(began.elapsed())
        };
        self.end(fault, active)?;
        let pauses = load.finish()?;
        println!("{fault:?}: the address moved after {moved:.2?}; a flow paused for {pauses:.2?}");
        self.settle()?;
        ensure!(moved.is_none() || self.now()?.0 == standby, "the address went back by itself");
        if fault == Fault::Frozen { is_silent(&self.edges[active].node) } else { Ok(()) }
    }

    fn begin(&mut self, fault: Fault, active: usize) -> Result<()> {
        let inet = self.lab.node("inet")?;
        let edge = &mut self.edges[active];
        match fault {
            Fault::Switch => fs::write(edge.health(), "-254\n")?,
            Fault::Killed => {
                edge.gateway()?.kill()?;
                // As ExecStopPost= does.
                fs::write(edge.health(), "-254\n")?;
            }
            Fault::Frozen => edge.gateway()?.signal(Signal::Stop)?,
            Fault::LinkCut => inet.ip(&format!("link set {} down", edge.port))?,
            Fault::SyncCut => edge.node.ip("link set sync0 down")?,
            Fault::Power => {
                edge.signal_keepalived("STOP")?;
                inet.ip(&format!("link set {} down", edge.port))?;
                edge.node.ip("link set sync0 down")?;
                edge.gateway()?.kill()?;
                edge.signal_keepalived("KILL")?;
                edge.conntrackd.as_mut().context("no conntrackd")?.kill()?;
            }
        }
        Ok(())
    }

    /// Repairs it.
    fn end(&mut self, fault: Fault, active: usize) -> Result<()> {
        let inet = self.lab.node("inet")?;
        let edge = &mut self.edges[active];
        match fault {
            Fault::Switch => fs::write(edge.health(), "0\n")?,
            Fault::Killed => edge.start()?,
            Fault::Frozen => edge.gateway()?.signal(Signal::Continue)?,
            Fault::LinkCut => {
                inet.ip(&format!("link set {} up", edge.port))?;
                edge.node.ip("route replace default via 192.0.2.1")?;
            }
            Fault::SyncCut => edge.node.ip("link set sync0 up")?,
            Fault::Power => {
                if edge.has_address()? {
                    edge.node.ip(&format!("address del {SHARED}/32 dev eth0"))?;
                }
                edge.node.run("conntrack -F")?;
                inet.ip(&format!("link set {} up", edge.port))?;
                edge.node.ip("link set sync0 up\nroute replace default via 192.0.2.1")?;
                edge.start()?;
                edge.start_helpers()?;
            }
        }
        Ok(())
    }
}

/// Whether the edge sends nothing of the tunnel, for longer than a handshake takes to be repeated.
fn is_silent(node: &Node) -> Result<()> {
    let sent = Counter::leaving(node, "outer", "oifname eth0 udp sport 51820")?;
    std::thread::sleep(Duration::from_secs(6));
    ensure!(
        sent.packets()? == 0,
        "an edge without the address sent {} packets of the tunnel",
        sent.packets()?
    );
    Ok(())
}

fn nat(cgnat: &Node, nat: Nat) -> Result<()> {
    match nat {
        Nat::PortRestricted => Ok(()),
        Nat::FullCone => cgnat.nft(
            "table ip cone {
               chain prerouting {
                 type nat hook prerouting priority -100;
                 iifname wan0 udp dport 1024-65535 dnat to 100.64.0.2
               }
             }
             insert rule ip cgnat forward iifname wan0 udp dport 1024-65535 accept",
        ),
        Nat::Symmetric => cgnat.nft(
            "flush chain ip cgnat postrouting;
             add rule ip cgnat postrouting oifname wan0 masquerade random,fully-random",
        ),
    }
}

fn toml(wroclaw: &str, node: &Node, other: &str) -> String {
    format!(
        r#"[interface]
address = ["10.77.88.1/30"]
private_key_file = "kyiv.key"

[wan]
interface = "eth0"
accept = ["tcp/22"]

[[peer]]
name = "wroclaw"
public_key = "{wroclaw}"
preshared_key_file = "wroclaw.psk"
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]

[[publish]]
name = "bulk"
listen = "5001"
target = "192.168.88.2:5001"

[standby]
address = "{SHARED}"
other = "{other}"

[metrics]
listen = ["127.0.0.1:9586"]

[state]
directory = "{}"
"#,
        node.directory().join("state").display()
    )
}

/// Downloads and uploads at a steady pace; each byte is compared.
struct Load {
    flows: Vec<JoinHandle<Result<Duration>>>,
    began: Instant,
}

impl Load {
    fn begin(client: &Node) -> Result<Self> {
        let (downloads, uploads) = if full_counts() { (20, 2) } else { (6, 2) };
        let mut flows = Vec::new();
        for number in 0..downloads + uploads {
            let mut stream = connect(client)?;
            flows.push(std::thread::spawn(move || {
                if number < downloads { read_paced(&mut stream) } else { write_paced(&mut stream) }
            }));
        }
        Ok(Self { flows, began: Instant::now() })
    }

    /// A quarter of the load has passed.
    fn wait_until_running(&self) -> Result<()> {
        let quarter = Duration::from_secs_f64(BYTES as f64 / PACE as f64 / 4.0);
        until(Duration::from_secs(10), "the load to run", || {
            Ok((self.began.elapsed() >= quarter).then_some(()))
        })
    }

    /// The shortest, the middle and the longest pause of the flows, all of which went on to their end.
    fn finish(self) -> Result<[Duration; 3]> {
        let mut pauses = Vec::new();
        for flow in self.flows {
            pauses.push(flow.join().ok().context("a flow's thread ended")??);
        }
        pauses.sort();
        let at = |place: usize| pauses.get(place).copied().context("no flow");
        Ok([at(0)?, at(pauses.len() / 2)?, at(pauses.len() - 1)?])
    }
}

fn connect(client: &Node) -> Result<TcpStream> {
    let to: SocketAddr = format!("{SHARED}:5001").parse()?;
    let socket = client.within(|| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Small, so that no buffer hides a pause.
        socket.set_recv_buffer_size(32 << 10)?;
        socket.set_send_buffer_size(32 << 10)?;
        socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
        Ok(socket)
    })?;
    let stream = TcpStream::from(socket.context("a new connection to the pair")?);
    stream.set_read_timeout(Some(STUCK))?;
    stream.set_write_timeout(Some(STUCK))?;
    Ok(stream)
}

/// Reads piece by piece; the longest time that one took beyond its turn.
fn read_paced(stream: &mut TcpStream) -> Result<Duration> {
    stream.write_all(format!("down {BYTES}\n").as_bytes())?;
    let content = pattern(1, 1 << 20);
    let mut piece = vec![0; PIECE];
    paced(|offset| {
        stream.read_exact(&mut piece).with_context(|| format!("a download at {offset}"))?;
        let wanted = content.iter().cycle().skip(offset % content.len()).take(PIECE);
        ensure!(piece.iter().eq(wanted), "a download has wrong bytes at {offset}");
        Ok(())
    })
}

fn write_paced(stream: &mut TcpStream) -> Result<Duration> {
    stream.write_all(b"up\n")?;
    let content = pattern(1, 1 << 20);
    let pause = paced(|offset| {
        let piece: Vec<u8> =
            content.iter().cycle().skip(offset % content.len()).take(PIECE).copied().collect();
        stream.write_all(&piece).with_context(|| format!("an upload at {offset}"))
    })?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.trim() == BYTES.to_string(), "of an upload arrived {answer:?}");
    Ok(pause)
}

fn paced(mut step: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    let turn = Duration::from_secs_f64(PIECE as f64 / PACE as f64);
    let mut longest = Duration::ZERO;
    for number in 0..BYTES / PIECE {
        let began = Instant::now();
        step(number * PIECE)?;
        let took = began.elapsed();
        longest = longest.max(took);
        std::thread::sleep(turn.saturating_sub(took));
    }
    Ok(longest)
}

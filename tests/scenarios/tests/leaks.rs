//! Nothing leaks: whatever happens to the gateway, no packet of the tunnel's networks is seen on
//! the internet.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, LeakWatch, Node, Signal, Topology, full_counts, scenario, until};
use scenarios::Site;

/// How many packets are tried in each state.
const TRIES: u64 = 10_000;

#[test]
fn nothing_leaks_while_the_gateway_is_killed_stopped_started_and_reloaded() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = site_with_datagrams(lab)?;
        let leaks = LeakWatch::start(&lab.node("inet")?)?;
        site.start()?;
        let senders = Senders::start(lab)?;
        senders.try_more(TRIES)?;
        let rounds = if full_counts() { 20 } else { 2 };
        for _ in 0..rounds {
            site.gateway()?.kill()?;
            senders.try_more(TRIES)?;
            site.start_gateway()?;
            senders.try_more(TRIES / 10)?;
            let status = site.gateway()?.stop(Duration::from_secs(10))?;
            ensure!(status.success(), "the gateway ended with {status}");
            senders.try_more(TRIES)?;
            site.start_gateway()?;
            for _ in 0..10 {
                site.gateway()?.signal(Signal::Hangup)?;
                senders.try_more(TRIES / 10)?;
            }
            ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        }
        site.wait_until_up(Duration::from_secs(15)).map(drop)
    })
}

#[test]
fn nothing_leaks_from_boot_to_the_first_start_and_all_of_it_would_without_the_guard() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = site_with_datagrams(lab)?;
        let leaks = LeakWatch::start(&lab.node("inet")?)?;
        site.gateway_config.write()?;
        boot_guard(&site)?;
        let senders = Senders::start(lab)?;
        senders.try_more(TRIES)?;
        site.start()?;
        senders.try_more(TRIES)?;
        site.gateway()?.kill()?;
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);

        // The proof that the counter would have seen them.
        take_the_guard_out(&site.edge)?;
        senders.try_more(TRIES)?;
        ensure!(leaks.packets()? > 0, "the counter that proves tightness counts nothing");
        Ok(())
    })
}

#[test]
fn gateway_down_removes_what_it_made_and_nothing_else() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        let before = kernel_state(&site.edge)?;
        site.start_gateway()?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        ensure!(site.edge.run("nft list tables")?.contains("causeway"), "stopping took the rules away");
        let command = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
        command.arg(site.gateway_config.path()).run()?;
        let after = kernel_state(&site.edge)?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

#[test]
fn gateway_down_sets_back_the_switches_that_the_daemon_changed_and_no_others() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        // The switch, its value before the daemon, the value that another program sets while it
        // runs, the value after `gateway down`.
        let switches = [
            ("net/ipv4/ip_forward", "0", None, "0"),
            ("net/ipv4/conf/all/src_valid_mark", "1", None, "1"),
            ("net/ipv4/conf/eth0/rp_filter", "0", Some("1"), "1"),
        ];
        for (name, before, ..) in switches {
            site.edge.sysctl(name, before)?;
        }
        site.start_gateway()?;
        ensure!(site.edge.read_sysctl("net/ipv4/ip_forward")? == "1", "the daemon does not forward");
        site.gateway()?.stop(Duration::from_secs(10))?;
        for (name, _, since, _) in switches {
            since.map_or(Ok(()), |value| site.edge.sysctl(name, value))?;
        }
        let command = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
        command.arg(site.gateway_config.path()).run()?;
        for (name, _, _, after) in switches {
            let found = site.edge.read_sysctl(name)?;
            ensure!(found == after, "{name} is {found} and not {after}");
        }
        Ok(())
    })
}

/// The worked example with a published UDP port and datagrams allowed from the LAN and the edge
/// itself.
fn site_with_datagrams(lab: &Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(
        "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"\n\
         [[allow]]\nname = \"datagrams-out\"\nfrom = [\"self\", \"192.168.1.0/24\"]\nto = [\"192.168.88.2\"]\n\
         protocol = [\"udp\"]\nports = [\"6000\"]",
    );
    Ok(site)
}

/// What the guard unit does before the network comes up.
fn boot_guard(site: &Site<'_>) -> Result<()> {
    let command = site.edge.command(lab::binary("gateway")?).args(["guard", "--config"]);
    command.arg(site.gateway_config.path()).run().map(drop)
}

fn take_the_guard_out(edge: &Node) -> Result<()> {
    edge.run("nft delete table inet causeway")?;
    // Without its rules and routes a tunnel prefix follows the default route.
    edge.output("ip link delete gw0")?;
    edge.shell(
        "ip rule show | sed -n 's/^\\([0-9]*\\):.*/\\1/p' | while read priority; do
           case $priority in 0|32766|32767) ;; *) ip rule delete priority $priority ;; esac
         done
         ip route show type unreachable | while read route; do ip route delete $route; done",
    )
    .map(drop)
}

fn kernel_state(edge: &Node) -> Result<String> {
    let questions = ["nft list tables", "ip -brief link", "ip rule", "ip -6 rule", "ip route show table all"];
    let answers: Result<Vec<String>> = questions.iter().map(|question| edge.run(question)).collect();
    // Link-local and multicast addresses come and go by themselves.
    let answers = answers?.join("\n");
    let fleeting = ["labwatch", "multicast", "fe80:"];
    let lines = answers.lines().filter(|line| !fleeting.iter().any(|word| line.contains(word)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Threads that send datagrams to the tunnel's networks from everywhere, until dropped.
struct Senders {
    sent: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    fn start(lab: &Lab) -> Result<Self> {
        let routes = [
            ("client", "192.0.2.2:6000"),
            ("lan", "192.168.88.2:6000"),
            ("lan", "192.168.88.9:9"),
            ("container", "192.168.88.2:6000"),
            ("edge", "192.168.88.2:6000"),
            ("edge", "10.77.88.2:6000"),
        ];
        let (sent, ending) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for (name, target) in routes {
            let socket = lab.node(name)?.udp_socket("0.0.0.0:0")?;
            let (sent, ending) = (Arc::clone(&sent), Arc::clone(&ending));
            threads.push(std::thread::spawn(move || send_until(&socket, target, &sent, &ending)));
        }
        Ok(Self { sent, ending, threads })
    }

    /// Returns once this many more packets have been tried.
    fn try_more(&self, count: u64) -> Result<()> {
        let goal = self.sent.load(Ordering::Relaxed) + count;
        until(Duration::from_secs(60), "enough packets to be tried", || {
            Ok((self.sent.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .context("the senders are stuck")
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sends about two thousand datagrams a second; one that the sender's kernel refuses counts as
/// well.
fn send_until(socket: &UdpSocket, target: &str, sent: &AtomicU64, ending: &AtomicBool) {
    while !ending.load(Ordering::Relaxed) {
        for _ in 0..20 {
            let _ = socket.send_to(b"must not be seen outside", target);
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

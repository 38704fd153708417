//! The pair in a lab, and what is around it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::{Lab, LeakWatch, Node, TcpServer, full_counts, scenario, until};
use relay::{Direction, Faults, Relay};
use scenarios::{Site, ahead_by, serve_bulk, shifted_clock};
use serde_json::Value;

use crate::edge::Edge;
use crate::place::{Nat, Place};

pub(crate) struct Wanted {
    pub(crate) nat: Nat,
    pub(crate) place: Place,
    pub(crate) has_keepalived: bool,
    pub(crate) has_other_clock: bool,
    /// Whether the origin is 20 ms away: there and back.
    pub(crate) is_far: bool,
    /// Downloads and uploads at a time.
    pub(crate) flows: (usize, usize),
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            nat: Nat::default(),
            place: Place::default(),
            has_keepalived: true,
            has_other_clock: false,
            is_far: false,
            flows: if full_counts() { (20, 2) } else { (6, 2) },
        }
    }
}

/// Both edges, and what is around them.
pub(crate) struct Pair<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) site: Site<'lab>,
    pub(crate) edges: [Edge<'lab>; 2],
    /// What both edges are plugged into.
    pub(crate) switch: Node,
    /// What an edge loses with its cable.
    pub(crate) default_routes: &'static str,
    /// Where visitors find the pair.
    pub(crate) target: SocketAddr,
    pub(crate) flows: (usize, usize),
    leaks: LeakWatch,
    /// The long way between the pair and the origin.
    _far: Option<Relay>,
}

pub(crate) fn with_pair(wanted: &Wanted, test: impl FnOnce(&mut Pair<'_>) -> Result<()>) -> Result<()> {
    scenario(wanted.place.topology(), |lab| {
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
        let (mut site, place) = (Site::new(lab)?, wanted.place);
        let (one, two) = (lab.node("edge")?, lab.add_node("twin")?);
        let switch = place.lay_out(lab, &one, &two)?;
        place.configure(&mut site)?;
        lab.connect((&one, "sync0"), (&two, "sync0"))?;
        let [near, far] = place.link();
        for (node, address) in [(&one, near), (&two, far)] {
            let (bits, more) = if address.contains(':') { (126, "nodad") } else { (30, "") };
            // A cable that is pulled takes no address of IPv6 away; a link that is set down does.
            node.sysctl("net/ipv6/conf/sync0/keep_addr_on_down", "1")?;
            node.ip(&format!("address add {address}/{bits} dev sync0 {more}"))?;
        }
        wanted.nat.set(&lab.node("cgnat")?)?;
        let shifted = if wanted.has_other_clock { Some(shifted_clock(lab)?) } else { None };
        fs::create_dir_all(two.directory().join("state"))?;
        for file in ["kyiv.key", "wroclaw.psk"] {
            fs::copy(one.directory().join(file), two.directory().join(file))?;
        }
        let edge = |node: &Node, other: &str, port, environment| -> Result<Edge<'lab>> {
            for switch in ["nf_conntrack_tcp_be_liberal", "nf_conntrack_events"] {
                node.sysctl(&format!("net/netfilter/{switch}"), "1")?;
            }
            node.sysctl("net/ipv4/ip_forward", "1")?;
            let edge = Edge::new(lab, (node.clone(), port), place.shared(), environment);
            fs::write(edge.config(), place.toml(&site.wroclaw.public, node, other))?;
            Ok(edge)
        };
        let apart = shifted.map(|library| ahead_by(&library, 20)).unwrap_or_default();
        let [first, second] = place.ports();
        let edges = [edge(&one, far, first, apart)?, edge(&two, near, second, Vec::new())?];
        let (default_routes, target) = (place.default_routes(), place.target()?);
        let (flows, leaks) = (wanted.flows, LeakWatch::start(&switch)?);
        let far = if wanted.is_far { Some(long_way(&mut site, &switch)?) } else { None };
        Ok(Self { lab, site, edges, switch, default_routes, target, flows, leaks, _far: far })
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
    pub(crate) fn settle(&self) -> Result<()> {
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
    pub(crate) fn now(&self) -> Result<(usize, usize)> {
        match [self.edges[0].has_address()?, self.edges[1].has_address()?] {
            [true, false] => Ok((0, 1)),
            [false, true] => Ok((1, 0)),
            both => bail!("the shared address is at {both:?}"),
        }
    }
}

/// Has the origin reach the pair by a relay that takes 10 ms each way.
fn long_way(site: &mut Site<'_>, inet: &Node) -> Result<Relay> {
    site.forwarder_config.replace("192.0.2.2:51820", "198.51.100.1:51820")?;
    let (near, far) = (inet.udp_socket("198.51.100.1:51820")?, inet.clone());
    let relay = Relay::start(near, "192.0.2.2:51820".parse()?, 7, move || {
        far.udp_socket("192.0.2.1:0").map_err(std::io::Error::other)
    })?;
    for direction in [Direction::Forward, Direction::Back] {
        let set = relay.set_faults(direction, Faults { delay_ms: 10, ..Faults::default() });
        ensure!(set.is_ok(), "{set:?}");
    }
    Ok(relay)
}

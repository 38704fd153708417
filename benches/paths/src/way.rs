//! The senders at the origin; the edge is ours for all of them.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use lab::{Lab, Node, Process, Topology, until};
use relay::{Direction, Relay};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use scenarios::Site;

use crate::cell::Cell;
use crate::origin;
use crate::smoltcp_cubic::SmoltcpOrigin;
use crate::transfer::{Download, download, settled_rate};

/// The relay's address for the origin.
pub(crate) const RELAY: &str = "198.51.100.1:51820";
/// The service's address for the client.
const SERVICE: &str = "192.0.2.2:5001";
/// Bytes of the relay's socket buffers, so that no burst is lost there.
const BUFFER: usize = 16 << 20;
/// How much longer a transfer may take than it is sized for.
pub(crate) const LIMIT: u64 = 2;

/// A sender at the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// The forwarder.
    Causeway,
    /// The kernel's TCP with cubic, routed through causeway-wg.
    Kernel,
    /// smoltcp with its own CUBIC.
    Smoltcp,
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Causeway => "forwarder",
            Self::Kernel => "kernel, cubic",
            Self::Smoltcp => "smoltcp, cubic",
        })
    }
}

/// A whole path that is up, its relay still perfect.
pub(crate) struct Open {
    relay: Relay,
    client: Node,
    _origin: Origin,
    // Last: the lab cannot end before its processes are reaped.
    _lab: Box<Lab>,
}

/// The processes and servers that run next to the lab; dropping it ends them.
pub(crate) struct Origin {
    pub(crate) _processes: Vec<Process>,
    pub(crate) _servers: Vec<lab::TcpServer>,
    pub(crate) _smoltcp: Option<SmoltcpOrigin>,
}

impl Way {
    /// Builds the path and waits until it carries traffic.
    pub(crate) fn open(self) -> Result<Open> {
        let topology =
            if self == Self::Kernel { Topology::standard().routed() } else { Topology::standard() };
        let lab = Box::new(Lab::build("bench-paths", topology)?);
        for node in lab.nodes() {
            node.sysctl("net/ipv4/tcp_congestion_control", "cubic")?;
            // The kernel's memory of losses on one path must not slow down the start on the next.
            node.sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
        }
        let relay = relay(&lab)?;
        let mut site = Site::new(&lab)?;
        site.start_gateway()?;
        let origin = match self {
            Self::Causeway => origin::forwarder(&mut site)?,
            Self::Kernel => origin::kernel(&site)?,
            Self::Smoltcp => origin::smoltcp(&site)?,
        };
        let processes = [site.gateway.take(), site.forwarder.take()].into_iter().flatten();
        let origin =
            Origin { _processes: origin._processes.into_iter().chain(processes).collect(), ..origin };
        let client = lab.node("client")?;
        until(Duration::from_secs(20), "the first byte", || {
            Ok(download(&client, SERVICE, 1, Duration::from_secs(3)).ok())
        })
        .with_context(|| format!("{self} does not carry"))?;
        Ok(Open { relay, client, _origin: origin, _lab: lab })
    }
}

impl Open {
    /// One download over the cell's path; what it took, or why it failed.
    ///
    /// In one repetition the same datagrams are lost for every sender: the time of the first loss
    /// in slow start is chance, and decides much of a short transfer over a long path.
    pub(crate) fn measure(&self, cell: &Cell, seconds: u64, repetition: u32) -> Result<Download> {
        let limit = Duration::from_secs(LIMIT * seconds);
        self.relay.reseed(u64::from(repetition) + 1);
        self.over(cell, || download(&self.client, SERVICE, cell.bytes(seconds), limit))
    }

    /// The rate of a long download once it has had time to find the path's rate, in Mbit/s.
    pub(crate) fn settled_rate(&self, cell: &Cell, span: (Duration, Duration)) -> Result<f64> {
        self.over(cell, || settled_rate(&self.client, SERVICE, span))
    }

    fn over<T>(&self, cell: &Cell, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.set(cell)?;
        let outcome = work();
        let perfect = Cell { loss: 0.0, round_trip: 0, reorder: 0.0, ..*cell };
        self.set(&perfect)?;
        // Datagrams that are still under way must not disturb the next download.
        std::thread::sleep(Duration::from_millis(500));
        outcome
    }

    fn set(&self, cell: &Cell) -> Result<()> {
        for (direction, is_forward) in [(Direction::Forward, true), (Direction::Back, false)] {
            let set = self.relay.set_faults(direction, cell.faults(is_forward));
            ensure!(set.is_ok(), "{set:?}");
        }
        Ok(())
    }
}

fn relay(lab: &Lab) -> Result<Relay> {
    let inet = lab.node("inet")?;
    let near = inet.udp_socket(RELAY)?;
    set_socket_recv_buffer_size_force(&near, BUFFER)?;
    let relay = Relay::start(near, "192.0.2.2:51820".parse()?, 7, move || {
        let far = inet.udp_socket("192.0.2.1:0").map_err(std::io::Error::other)?;
        set_socket_recv_buffer_size_force(&far, BUFFER)?;
        Ok(far)
    })?;
    Ok(relay)
}

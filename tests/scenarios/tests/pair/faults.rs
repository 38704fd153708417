//! What becomes of the active edge under load, and what that costs the flows.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Counter, Node, Signal, until};
use scenarios::PacedLoad;

use crate::site::Pair;

/// What becomes of the active edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
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
    pub(crate) const ALL: [Self; 6] =
        [Self::Switch, Self::Killed, Self::Frozen, Self::LinkCut, Self::SyncCut, Self::Power];
}

impl Pair<'_> {
    /// Has the active edge suffer this under load; prints what it cost.
    pub(crate) fn suffers(&mut self, fault: Fault) -> Result<()> {
        let (active, standby) = self.now()?;
        let load = PacedLoad::begin(&self.lab.node("client")?, self.target, self.flows)?;
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
        let edge = &mut self.edges[active];
        match fault {
            Fault::Switch => fs::write(edge.health(), "-254\n")?,
            Fault::Killed => {
                edge.gateway()?.kill()?;
                // As ExecStopPost= does.
                fs::write(edge.health(), "-254\n")?;
            }
            Fault::Frozen => edge.gateway()?.signal(Signal::Stop)?,
            Fault::LinkCut => self.switch.ip(&format!("link set {} down", edge.port))?,
            Fault::SyncCut => edge.node.ip("link set sync0 down")?,
            Fault::Power => {
                edge.signal_keepalived("STOP")?;
                self.switch.ip(&format!("link set {} down", edge.port))?;
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
        let edge = &mut self.edges[active];
        match fault {
            Fault::Switch => fs::write(edge.health(), "0\n")?,
            Fault::Killed => edge.start()?,
            Fault::Frozen => edge.gateway()?.signal(Signal::Continue)?,
            Fault::LinkCut => {
                self.switch.ip(&format!("link set {} up", edge.port))?;
                edge.node.ip(self.default_routes)?;
            }
            Fault::SyncCut => edge.node.ip("link set sync0 up")?,
            Fault::Power => {
                if edge.has_address()? {
                    edge.node.ip(&format!("address del {} dev eth0", edge.shared()))?;
                }
                edge.node.run("conntrack -F")?;
                self.switch.ip(&format!("link set {} up", edge.port))?;
                edge.node.ip("link set sync0 up")?;
                edge.node.ip(self.default_routes)?;
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

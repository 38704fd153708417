//! TCP flows that begin on this machine: a local client's, or the link's.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::forwarder::SourcePort;
use tunnel::packet::protocol;

use super::flow::Flow;
use super::handler::TcpHandler;
use super::open::Open;
use crate::cell::{Cell, Path};
use crate::dataplane::edge::Edge;
use crate::dataplane::owner::Owner;
use crate::dataplane::token;
use crate::flow::FlowKey;
use crate::stats::EntryStats;
use crate::upstream::{Stream, Upstream};

/// A flow that begins on this machine.
pub(crate) struct Local {
    /// Where it leads, beyond the tunnel.
    pub(crate) target: SocketAddr,
    /// From which ports.
    pub(crate) source_port: SourcePort,
    /// What it belongs to.
    pub(crate) owner: Owner,
    /// Where it counts.
    pub(crate) stats: Arc<EntryStats>,
}

impl TcpHandler<'_> {
    /// Carries a local stream into the tunnel.
    ///
    /// # Errors
    /// The stream, when there is no room for its flow.
    pub(crate) fn open_local(&mut self, edge: &Edge, flow: Local, stream: Stream) -> Result<(), Stream> {
        let Some((key, cell)) = self.prepare(edge, &flow) else { return Err(stream) };
        let is_counted = flow.owner != Owner::Link;
        let upstream = (Upstream::new(stream, Vec::new()), None);
        let open = Open::new(self.now.instant, cell, upstream, flow.owner, flow.stats);
        let Ok(id) = self.flows.table.flows.insert(key, Flow::Open(Box::new(open))) else {
            if is_counted {
                self.flows.admission.release_local();
            }
            return Ok(());
        };
        if let Some((_, open)) = self.flows.table.open_mut(id)
            && open.upstream.watch(&self.context.registry, token::flow(id)).is_err()
        {
            open.abort();
        }
        self.flows.table.mark(id);
        Ok(())
    }

    /// The name and the cell of a new flow, admitted; `None` when there is no room for it.
    fn prepare(&mut self, edge: &Edge, flow: &Local) -> Option<(FlowKey, Cell)> {
        let now = self.now.instant;
        let local = SocketAddr::new(edge.address_like(flow.target.ip())?, 0);
        let settings = self.flows.settings(edge.mtu()).filter(|_| !self.context.is_stopping)?;
        let table = &self.flows.table.flows;
        let context = &*self.context;
        let in_use = |key: &FlowKey| table.find(key).is_some() || context.is_passed(edge, protocol::TCP, key);
        let ends = (local, flow.target);
        let key = self.flows.ports.allocate(now, edge.id, ends, flow.source_port, in_use)?;
        if flow.owner != Owner::Link {
            self.flows.admission.admit_local().ok()?;
        }
        let path = Path { local: key.local, remote: key.remote };
        Some((key, Cell::connect(now, path, settings)))
    }
}

//! What the status page of the edge is made from, and where it is served.

use std::net::SocketAddr;
use std::rc::Rc;

use daemon::history::History;
use daemon::http::Requests;
use daemon::page::Source;
use daemon::status::Side;
use policy::Host;

use super::{Edge, health};
use crate::control::report::{SCHEMA, Services, side};

/// The edge, as its status page sees it.
pub struct EdgePage(pub Rc<Edge>);

impl Source for EdgePage {
    async fn side(&self) -> Side {
        let edge = &self.0;
        let status = edge.status().await;
        let read = edge.read_counters().await.unwrap_or_else(|failure| {
            tracing::debug!(%failure, "the kernel's counters cannot be read; the last ones are shown");
            None
        });
        let counters = read.unwrap_or_else(|| edge.meter.borrow().last_counters().clone());
        let peers = edge.meter.borrow_mut().peers(&edge.in_force.borrow(), &edge.plane);
        let peers = health::with_probed(edge, edge.links.with_links(peers));
        side(status, peers, Services { schema: SCHEMA, services: health::services(edge, &counters) })
    }

    fn history(&self) -> History {
        self.0.past.history.clone()
    }

    fn hosts(&self) -> Vec<Host> {
        self.0.config().policy.page.hosts.clone()
    }

    fn requests(&self) -> &Requests {
        &self.0.page_requests
    }
}

impl Edge {
    /// Where the status page is to be served now.
    #[must_use]
    pub fn page_addresses(&self) -> Vec<SocketAddr> {
        let config = self.config();
        let page = &config.policy.page;
        let lan = if page.follows_lan() {
            self.watch.borrow().machine().lan_addresses(&config.policy)
        } else {
            Vec::new()
        };
        page.addresses(&lan)
    }
}

//! What the status page of the origin is made from.

use std::sync::Arc;

use daemon::history::History;
use daemon::http::Requests;
use daemon::page::Source;
use daemon::status::Side;
use policy::Host;

use crate::control::Shared;
use crate::control::report::report;

/// The forwarder, as its status page sees it.
pub struct OriginPage(pub Arc<Shared>);

impl Source for OriginPage {
    async fn side(&self) -> Side {
        report(&self.0).into()
    }

    fn history(&self) -> History {
        self.0.history.clone()
    }

    fn hosts(&self) -> Vec<Host> {
        self.0.policy.load().page.hosts.clone()
    }

    fn requests(&self) -> &Requests {
        &self.0.page_requests
    }
}

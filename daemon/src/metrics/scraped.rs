//! The pages for Prometheus and for readiness checks.

use policy::Host;

use crate::http::{Page, Pages, Status, TEXT};

/// What is served at the addresses of `[metrics]`.
pub trait Scraped {
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> impl Future<Output = String>;
    /// Whether traffic is carried, and a line about it.
    fn readiness(&self) -> (bool, String);
    /// Names besides addresses and `localhost` under which the pages may be requested.
    fn hosts(&self) -> Vec<Host>;
}

impl<S: Scraped> Pages for S {
    const SECTION: &'static str = "metrics";
    const PATHS: &'static str = "/metrics, /healthz or /readyz";

    async fn page(&self, path: &str) -> Option<Page> {
        let text = |status, body: &str| Some(Page::new(status, TEXT, body));
        match path {
            "/metrics" => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                Some(Page::new(Status::Ok, kind, &self.metrics().await))
            }
            "/healthz" => text(Status::Ok, "ok\n"),
            "/readyz" => match self.readiness() {
                (true, line) => text(Status::Ok, &line),
                (false, line) => text(Status::Unavailable, &line),
            },
            _ => None,
        }
    }

    fn hosts(&self) -> Vec<Host> {
        Scraped::hosts(self)
    }

    fn is_for_machines(path: &str) -> bool {
        matches!(path, "/healthz" | "/readyz")
    }
}

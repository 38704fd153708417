//! What takes long: releases one apart, ports that come and go by the thousand, a day of probes;
//! the status page in a browser, which is large; and an edge with a thousand origins.
//!
//! `make soak` runs all of it. In `make test` ports come and go a few hundred times, and the rest
//! does not run.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

mod big_edge;
mod browser;
mod pairing;
mod probes;
mod publishing;
mod releases;
mod requester;

use anyhow::Result;
use lab::Node;

/// A daemon's page for Prometheus.
fn metrics(node: &Node, port: u16) -> Result<String> {
    node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/metrics"))
}

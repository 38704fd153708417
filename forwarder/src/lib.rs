//! Causeway's origin: the unprivileged peer that re-originates flows to local services.
//!
//! - Pure, without sockets or clocks: [`cell`] (a TCP endpoint inside the tunnel, with its sender),
//!   [`flow`] (keys, table, limits), [`datagram`] (fragments), [`proxy_protocol`],
//!   [`deadlines`], [`edge_keys`] (which of an edge's two keys is in use) and [`outage`] (why a peer
//!   is not up).
//! - [`dataplane`] is the data thread: it moves packets between the edges and the upstreams.
//!   [`upstream`] has its sockets to local services, [`health`] checks those and visits their names
//!   from the internet, [`arrivals`] is where both meet, [`network`] reports changes of the network.
//! - [`run`] is the daemon with its control thread; [`setup`] opens what it needs, [`reload`]
//!   applies another configuration, [`config`] reads one with its keys, [`state`] keeps the clock
//!   mark.
//! - [`stats`] are the counters, [`metrics`] the page made of them, [`status_page`] the one for people, [`control`] the requests and
//!   the report.
//! - [`cli`] has the commands, and [`places`] the folders in which both look for socket and state.

pub mod arrivals;
pub mod cell;
pub mod cli;
pub mod config;
pub mod control;
pub mod datagram;
pub mod dataplane;
pub mod deadlines;
pub mod edge_keys;
pub mod flow;
pub mod handover;
pub mod health;
pub mod link;
pub mod metrics;
pub mod network;
pub mod outage;
pub mod places;
pub mod proxy_protocol;
pub mod reload;
pub mod run;
pub mod setup;
pub mod state;
pub mod stats;
pub mod status_page;
pub mod upgrade;
pub mod upstream;

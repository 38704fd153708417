//! `causeway-agent`: a small process of its own user, for what the daemons that parse packets from
//! the internet must not do. Its secrets are files that those daemons cannot read.
//!
//! - [`dns`]: the edge's own names follow its public address.
//! - [`lists`]: lists that have an address are fetched once a day.
//! - [`notify`]: what is down, and what is over, is sent to the receivers of `[[notify]]`.
//! - [`steer`]: the name of a home with several edges leads to those that are there.
//! - [`run`] begins the tasks that the configuration asks for, and begins them again when it
//!   changes. A further task is a module next to [`dns`], with a field in `run`. [`config`] reads
//!   the configuration of either end.
//! - [`http`] and [`network`] are what tasks share: requests to APIs, and changes of this machine's
//!   network. [`cli`] is the command line.
//!
//! It reads the daemon's own configuration. For DNS it reads the kernel's addresses and asks the
//! gateway for nothing: a daemon that was taken over cannot lead a name elsewhere. Steering takes
//! addresses from the configuration, and from the forwarder only which edges are heard. For notifications
//! it reads the daemon's control socket, and sends that on as text alone.
#![cfg(target_os = "linux")]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod cli;
pub mod config;
pub mod dns;
pub mod http;
pub mod lists;
pub mod network;
pub mod notify;
pub mod run;
pub mod steer;

//! The link: the control channel between a forwarder and an edge, inside their tunnel.
//!
//! Pure but for [`shell`] and [`asking`]: bytes, values and points in time in; bytes and values out. Each role has
//! the sockets in its own crate.
//!
//! - [`frame`]: lengths in front of messages. [`message`]: the messages. [`hello`]: the proof that both ends hold their key.
//! - [`session`]: one link, as the end in either role sees it. [`links`]: all of an edge.
//! - [`publish`]: the public ports that an origin requests of an edge.
//! - [`names`]: the names of services. [`visitor`]: what an origin finds as its own visitor.
//! - [`history`]: what happened at one end, as the other may see it. [`asking`]: those who wait for it.
//! - [`shell`]: what carries the bytes of a connection.
//! - [`health`]: services as they are reported and kept. [`remote`]: what an end knows of the other.
//!   [`shown`]: what it shows.

pub mod asking;
pub mod frame;
pub mod health;
pub mod hello;
pub mod history;
pub mod links;
pub mod message;
pub mod names;
pub mod publish;
pub mod remote;
pub mod session;
pub mod shell;
pub mod shown;
pub mod visitor;

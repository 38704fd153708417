//! `stackctl`: manages the Docker Compose stacks of each site.
//!
//! Compose does the work; this crate decides files, variables, secrets and order.
//!
//! - [`cli`] reads the command line, [`verbs`] carries out each verb.
//! - [`shell`] is all that touches files, processes, the clock and random bytes. Everything else is
//!   pure:
//!   - [`config`] reads `stack.toml`; [`tree`] is the tree of locations and services.
//!   - [`envfile`], [`dotenv`], [`interpolate`] and [`vars`] read variables; [`secret`] makes and
//!     hides secret values.
//!   - [`template`], [`render`] and [`composefile`] fill templates and Compose files; [`manifest`]
//!     records what was rendered, [`difference`] compares it.
//!   - [`model`], [`overlay`], [`order`], [`invocation`], [`health`] and [`generation`] are about
//!     what Compose runs; [`inuse`] and [`first`] about a tree that is taken over.
//!   - [`fault`] has the exit codes; [`glob`], [`hygiene`] and [`nearest`] are small helpers.

pub mod cli;
pub mod composefile;
pub mod config;
pub mod difference;
pub mod dotenv;
pub mod envfile;
pub mod fault;
pub mod first;
pub mod generation;
pub mod glob;
pub mod health;
pub mod hygiene;
pub mod interpolate;
pub mod inuse;
pub mod invocation;
pub mod manifest;
pub mod model;
pub mod nearest;
pub mod order;
pub mod overlay;
pub mod render;
pub mod secret;
pub mod shell;
pub mod template;
pub mod tree;
pub mod vars;
pub mod verbs;

//! The thin companion that manages each site's Docker Compose stacks.
//!
//! Compose does the work; this crate decides files, variables, secrets and order. Everything that decides is pure
//! and takes bytes; the rest touches files and processes.

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

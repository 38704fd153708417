//! Steering: the name of a home with several edges leads to those that are there.
//!
//! - Pure: `decision` judges the edges by what the daemon counts, and decides which addresses the
//!   name has to have; `gone` remembers the addresses of edges that left the configuration.
//! - Shell: `task` asks the daemon, and has [`crate::dns::records`] carry the decisions out.

pub mod decision;
pub mod gone;
pub mod task;

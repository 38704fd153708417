//! The metrics page: its listeners, and what both ends show on it.

pub mod http;
pub mod process;

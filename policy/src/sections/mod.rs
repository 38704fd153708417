//! Sections that both configurations have: their types, and how they are read.

mod control;
mod list;
mod log;
mod metrics;
mod offload;
mod state;

pub(crate) use control::control;
pub use list::{List, parse_list};
pub(crate) use list::{allow_list, list};
pub(crate) use log::log;
pub use log::{Log, LogFormat, LogLevel};
pub use metrics::Metrics;
pub(crate) use metrics::metrics;
pub use offload::Offload;
pub(crate) use offload::offload;
pub(crate) use state::state_directory;

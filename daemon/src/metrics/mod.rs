//! The metrics page: its listeners, and what both ends show on it.

pub mod http;
mod io;
mod page;
pub mod process;
mod round_trips;

pub use io::{Boundary, call_numbers};
pub use page::{Number, page};
pub use round_trips::RoundTrips;

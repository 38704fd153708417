//! The metrics page: what both ends show on it.

mod io;
mod page;
pub mod process;
mod round_trips;
mod scraped;

pub use io::{Boundary, call_numbers};
pub use page::{Number, page};
pub use round_trips::RoundTrips;
pub use scraped::Scraped;

//! How a daemon is, in one shape for both roles, and the sentence about it that comes first.
//!
//! - `side`: what a daemon reports. `published`: the public ports that a service requests.
//! - `sentence`: what is down for visitors, since when, why, and the fix; or that all is well.

mod published;
mod sentence;
mod side;

pub use published::Published;
pub use sentence::{Headline, Summary, summary};
pub use side::{Service, Side};

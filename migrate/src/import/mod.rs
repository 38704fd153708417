//! Other products' configurations as `gateway.toml` and `forwarder.toml`.
//!
//! An import never guesses in silence: every line it reads is carried over, replaced by something
//! Causeway does itself, or reported with its number. A rule with a condition that has no
//! counterpart is not carried over at all, since a wider rule would be worse than none.

mod draft;
mod link_port;
mod mikrotik;
mod netfilter;
mod outcome;
mod routeros;
mod wg_quick;

pub use mikrotik::{Exports, mikrotik};
pub use outcome::{Derive, Finding, FindingKind, Import, ImportError, KeyFile, ListFile, MAX_BYTES};
pub use routeros::{MAX_ENTRIES, decode};
pub use wg_quick::{Role, WgQuickOptions, wg_quick, wg_quick_both};

//! Import and export of other products' configurations, with no I/O.
//!
//! - [`import`] reads wg-quick files and RouterOS exports, and writes `gateway.toml` and
//!   `forwarder.toml`.
//!   - `import::outcome` has the result: the texts, the files, and a finding for every imported
//!     line.
//!   - `import::draft` collects what was understood, writes it as text and parses that text again.
//!   - `import::wg_quick`, `import::routeros` (the grammar) and `import::mikrotik` (the meaning)
//!     read.
//! - [`export`] writes configurations for the other side of a tunnel and for the server behind the
//!   forwarder.
//!   - `export::far_end` has what all exports share: the peer as it sees itself, and the errors.
//!   - `export::wg_quick`, `export::mikrotik` and `export::caddy` write one product's text each.
//!
//! This crate depends on `policy`, never the other way round. The caller reads and writes the
//! files.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod export;
pub mod import;

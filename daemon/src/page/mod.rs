//! The status page: what is down for visitors first, then everything else, at `/` for people and
//! at `/status.json` for programs.
//!
//! - [`model`]: what is shown, from what a daemon reports and its history. [`past`]: the history,
//!   as far as it is shown. [`render`]: the same as HTML. All three are pure.
//! - `served`: the pages, made at most once a second.

pub mod model;
pub mod past;
pub mod render;
mod served;
mod time;

pub use served::{Source, StatusPage};

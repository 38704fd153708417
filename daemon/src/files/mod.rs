//! Files: configurations, lists and keys are read; state is replaced in one step.

mod folder;
mod key_pair;
mod keys;
mod replacement;
mod small;
mod texts;

pub use folder::{Lock, fix_of_write, make_folder, make_open_folder, unwritten};
pub use key_pair::{Owner, keygen};
pub use keys::{KeyFiles, misplaced_keys, read_key, read_secret};
pub use replacement::{Replacement, Target, sweep};
pub use small::{read, read_json, remove, replace, replace_json};
pub use texts::{LoadError, fix_of, load_lists, read_text, text_of};

//! Files: configurations, lists and keys are read; state is replaced in one step.

mod folder;
mod keys;
mod small;
mod texts;

pub use folder::{Lock, make_folder};
pub use keys::{KeyFiles, misplaced_keys, read_key};
pub use small::{read, remove, replace};
pub use texts::{LoadError, fix_of, load_list, read_text, text_of};

//! `[state]`: the folder of a daemon's own state.

use std::path::PathBuf;

use crate::fields;
use crate::reader::Table;

/// `[state] directory`; `Some(None)` where the file does not have it.
pub(super) fn state_directory(root: &Table<'_>) -> Option<Option<PathBuf>> {
    let Some(table) = root.table("state", "[state]") else { return Some(None) };
    let directory = table.required("directory").and_then(fields::own_folder);
    table.close();
    directory.map(Some)
}

//! `[control]`: the socket by which a daemon takes requests.
//!
//! The two daemons have types of their own for it, as the defaults of one are fixed and those of
//! the other depend on the system.

use std::path::PathBuf;

use crate::Name;
use crate::fields::{self, or_absent};
use crate::reader::{Table, Value};

/// What `[control]` says; `None` for an absent key.
#[derive(Default)]
pub(crate) struct ControlKeys {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) group: Option<String>,
}

/// `[control]`, with `group` where a daemon has that key.
pub(super) fn control(root: &Table<'_>, has_group: bool) -> Option<ControlKeys> {
    let Some(table) = root.table("control", "[control]") else { return Some(ControlKeys::default()) };
    let socket = table.optional("socket").map(fields::socket_path);
    let group = has_group.then(|| table.optional("group")).flatten().map(group);
    table.close();
    Some(ControlKeys { socket: or_absent(socket)?, group: or_absent(group)? })
}

fn group(value: Value<'_>) -> Option<String> {
    value.parse("a group name of at most 32 letters, digits, `-`, `_` and `.`", |written| {
        Name::new(written).map(|name| name.to_string())
    })
}

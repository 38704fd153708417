//! `[caddy]`: where the sites of published names are written. The forwarder itself does not use it.

use std::path::PathBuf;

use crate::change::Settings;
use crate::fields;
use crate::reader::{Table, Value};

/// Caddy's configuration, unless the file says otherwise.
const CONFIG: &str = "/etc/caddy/Caddyfile";

/// `[caddy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caddy {
    /// The folder that Caddy's configuration imports: it gets a file for each published name.
    pub sites: PathBuf,
    /// Caddy's configuration, by the path that `command` opens.
    pub config: PathBuf,
    /// How Caddy's own command is run; at least one word.
    pub command: Vec<String>,
}

/// `[caddy]`; `Some(None)` where the file does not have it.
pub(super) fn caddy(root: &Table<'_>) -> Option<Option<Caddy>> {
    let Some(table) = root.table("caddy", "[caddy]") else { return Some(None) };
    let sites = table.required("sites").and_then(fields::own_folder);
    let config = table.optional("config").map_or_else(|| Some(CONFIG.into()), fields::absolute_path);
    let command = table.optional("command").map_or_else(|| Some(vec!["caddy".to_owned()]), command);
    table.close();
    Some(Some(Caddy { sites: sites?, config: config?, command: command? }))
}

/// What another `[caddy]` changes.
pub(super) fn note_changes(old: Option<&Caddy>, new: Option<&Caddy>, changes: &mut Settings) {
    let sites = |caddy: &Caddy| caddy.sites.display().to_string();
    let config = |caddy: &Caddy| caddy.config.display().to_string();
    let command = |caddy: &Caddy| caddy.command.join(" ");
    let mut note = |what, shown: &dyn Fn(&Caddy) -> String| {
        changes.option("caddy", what, old.map(shown).as_ref(), new.map(shown).as_ref());
    };
    note("sites", &sites);
    note("config", &config);
    note("command", &command);
}

fn command(value: Value<'_>) -> Option<Vec<String>> {
    let word = |item: Value<'_>| {
        let expected = "a word of a command, such as [\"docker\", \"exec\", \"caddy\", \"caddy\"]";
        item.parse(expected, |word| (!word.is_empty() && !word.contains('\0')).then(|| word.to_owned()))
    };
    let words: Vec<_> = value.some_items("an array of words").into_iter().map(word).collect();
    words.into_iter().collect::<Option<Vec<_>>>().filter(|words| !words.is_empty())
}

//! A configuration file as a document that is edited: its entries, and how its lines end.

use toml_edit::{Decor, DocumentMut, InlineTable, Item, Key, Table, TomlError, Value};

use super::array::{self, prefix};

/// The keys of services: the second is the name that they had.
const KEYS: [&str; 2] = ["service", "inject"];

/// What the editor does not keep of a text: a byte-order mark, and line ends of two bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    has_mark: bool,
    is_crlf: bool,
}

impl Form {
    pub(super) fn of(text: &str) -> Self {
        Self { has_mark: text.starts_with('\u{feff}'), is_crlf: text.contains("\r\n") }
    }

    pub(super) fn read(self, text: &str) -> Result<DocumentMut, TomlError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if self.is_crlf { text.replace("\r\n", "\n").parse() } else { text.parse() }
    }

    pub(super) fn write(self, document: &DocumentMut) -> String {
        let text = document.to_string();
        let text = if self.is_crlf { text.replace('\n', "\r\n") } else { text };
        if self.has_mark { format!("\u{feff}{text}") } else { text }
    }
}

/// Where an entry is: its key, and which of that key's entries it is.
pub(super) type Place = (&'static str, usize);

/// An entry, in either form.
pub(super) enum Entry<'d> {
    /// Below a header.
    Table(&'d mut Table),
    /// In braces.
    Inline(&'d mut InlineTable),
}

/// Where the service of this name is.
pub(super) fn place(document: &DocumentMut, name: &str) -> Option<Place> {
    KEYS.into_iter().find_map(|key| {
        let names: Vec<Option<&str>> = match document.get(key)? {
            Item::ArrayOfTables(tables) => {
                tables.iter().map(|table| table.get("name").and_then(Item::as_str)).collect()
            }
            Item::Value(Value::Array(tables)) => {
                tables.iter().map(|value| value.as_inline_table()?.get("name")?.as_str()).collect()
            }
            Item::None | Item::Value(_) | Item::Table(_) => return None,
        };
        Some((key, names.iter().position(|found| *found == Some(name))?))
    })
}

/// The entry at a place.
pub(super) fn entry(document: &mut DocumentMut, (key, index): Place) -> Option<Entry<'_>> {
    match document.get_mut(key)? {
        Item::ArrayOfTables(tables) => tables.get_mut(index).map(Entry::Table),
        Item::Value(Value::Array(tables)) => tables.get_mut(index)?.as_inline_table_mut().map(Entry::Inline),
        Item::None | Item::Value(_) | Item::Table(_) => None,
    }
}

/// Removes the entry at a place. Comments before it that a blank line separates from it stay.
pub(super) fn remove(document: &mut DocumentMut, (key, index): Place) {
    match document.get_mut(key) {
        Some(Item::ArrayOfTables(tables)) if index < tables.len() => {
            let removed = tables.remove(index);
            if tables.is_empty() {
                document.remove(key);
            }
            let before = prefix(removed.decor());
            let kept = before.rfind("\n\n").and_then(|end| before.get(..=end)).unwrap_or_default();
            if !kept.trim().is_empty() {
                put_after(document, removed.position(), kept);
            }
        }
        Some(Item::Value(Value::Array(tables))) => array::remove(tables, index),
        Some(Item::None | Item::Value(_) | Item::Table(_) | Item::ArrayOfTables(_)) | None => {}
    }
}

/// Puts comments before the next header after `position`, or at the end of the file.
fn put_after(document: &mut DocumentMut, position: Option<isize>, comments: &str) {
    let mut next = None;
    each_table(document.as_table_mut(), &mut |table| {
        let at = table.position().filter(|at| Some(*at) > position);
        next = [next, at].into_iter().flatten().min();
    });
    if next.is_none() {
        let end = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(format!("{comments}{end}"));
        return;
    }
    each_table(document.as_table_mut(), &mut |table| {
        if table.position() == next {
            let before = prefix(table.decor());
            table.decor_mut().set_prefix(format!("{comments}{before}"));
        }
    });
}

/// Visits every table below a header.
fn each_table(table: &mut Table, visit: &mut dyn FnMut(&mut Table)) {
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(table) => {
                visit(table);
                each_table(table, visit);
            }
            Item::ArrayOfTables(tables) => {
                for table in tables.iter_mut() {
                    visit(table);
                    each_table(table, visit);
                }
            }
            Item::None | Item::Value(_) => {}
        }
    }
}

impl<'d> Entry<'d> {
    /// Whether it has a key.
    pub(super) fn has(&self, key: &str) -> bool {
        match self {
            Self::Table(table) => table.contains_key(key),
            Self::Inline(table) => table.contains_key(key),
        }
    }

    /// The value of a key.
    pub(super) fn value(&mut self, key: &str) -> Option<&mut Value> {
        match self {
            Self::Table(table) => table.get_mut(key)?.as_value_mut(),
            Self::Inline(table) => table.get_mut(key),
        }
    }

    /// Adds a key at the end, as far in as the key before it.
    pub(super) fn insert(&mut self, key: &str, value: Value) {
        match self {
            Self::Table(table) => {
                let last = table.get_values().last().and_then(|(keys, _)| keys.first().copied());
                let before = last.map(|key| prefix(key.leaf_decor())).unwrap_or_default();
                let indent = before.rfind('\n').map_or(before.as_str(), |at| before.split_at(at + 1).1);
                let key = Key::new(key).with_leaf_decor(Decor::new(indent, " "));
                table.insert_formatted(&key, Item::Value(value));
            }
            Self::Inline(table) => array::insert(table, key, value),
        }
    }

    /// Removes a key.
    pub(super) fn take(&mut self, key: &str) {
        match self {
            Self::Table(table) => drop(table.remove(key)),
            Self::Inline(table) => array::take(table, key),
        }
    }
}

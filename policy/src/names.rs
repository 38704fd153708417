//! Names that entries have been given, to find duplicates and near misses.

use std::collections::BTreeSet;

use crate::fields::name;
use crate::reader::{Table, Value, excerpt};
use crate::suggest::nearest;
use crate::{Name, Problem};

/// Names of one kind that have been given, to find duplicates and near misses.
pub(crate) struct Names {
    kind: &'static str,
    taken: BTreeSet<Name>,
    /// Whether the name of some entry could not be read: then an unknown name may be that one.
    is_incomplete: bool,
}

impl Names {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, taken: BTreeSet::new(), is_incomplete: false }
    }

    /// The names of the entries `[[kind]]`.
    pub(crate) fn of(root: &Table<'_>, kind: &'static str) -> Self {
        Self { is_incomplete: root.is_misspelt(kind, &[]), ..Self::new(kind) }
    }

    /// Notes that the names of some entries could not be read: then an unknown name is not
    /// reported.
    pub(crate) fn set_incomplete(&mut self) {
        self.is_incomplete = true;
    }

    /// Whether a name that is not here can be called unknown.
    pub(crate) const fn is_complete(&self) -> bool {
        !self.is_incomplete
    }

    /// Reads `name` of an entry; one that is taken is reported.
    pub(crate) fn claim(&mut self, table: &Table<'_>) -> Option<Name> {
        let read = table.required("name").and_then(|value| Some((value, name(value)?.value)));
        let Some((value, name)) = read else {
            self.set_incomplete();
            return None;
        };
        if !self.taken.insert(name.clone()) {
            value.report(Problem::DuplicateName { name: name.to_string(), kind: self.kind });
        }
        Some(name)
    }

    pub(crate) fn contains(&self, name: &str) -> Option<Name> {
        Name::new(name).filter(|name| self.taken.contains(name))
    }

    /// The nearest name, and all of them in one line.
    pub(crate) fn suggestions(&self, written: &str) -> (Option<String>, String) {
        let names = || self.taken.iter().map(Name::as_str);
        (nearest(written, names()).map(str::to_owned), names().take(20).collect::<Vec<_>>().join(", "))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The only name there is.
    pub(crate) fn only(&self) -> Option<Name> {
        let mut names = self.taken.iter();
        names.next().filter(|_| names.next().is_none()).cloned()
    }

    /// A peer by its name; an unknown one is reported.
    pub(crate) fn peer(&self, value: Value<'_>, written: &str) -> Option<Name> {
        let known = self.contains(written);
        if known.is_none() && self.is_complete() {
            let (nearest, known) = self.suggestions(written);
            value.report(Problem::UnknownPeer { name: excerpt(written), nearest, known });
        }
        known
    }
}

//! `[[list]]`: named prefixes, the file that holds them, and `allow`, which refers to them.

use ipnetwork::IpNetwork;

use crate::fields;
use crate::names::Names;
use crate::reader::{MAX_ITEMS, Reader, Table, Value, excerpt};
use crate::{AllowList, ConfigError, FileRef, Name, Problem, Source, prefix, text};

/// `[[list]]`: prefixes under one name, used as `@NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Unique name.
    pub name: Name,
    /// The file that holds them; the daemon reads it and calls [`List::load`].
    pub file: FileRef,
    /// Where it is fetched from, for `gatewayctl lists refresh`; none for a list that is written by
    /// hand.
    pub urls: Vec<String>,
    /// The prefixes; empty until the file is loaded, and an empty list admits no source.
    pub prefixes: Vec<IpNetwork>,
}

impl List {
    /// Takes the prefixes of the list's file.
    ///
    /// # Errors
    /// Every bad line at once; the list keeps the prefixes it had.
    pub fn load(&mut self, source: &Source<'_>) -> Result<(), Vec<ConfigError>> {
        self.prefixes = parse_list(source)?;
        Ok(())
    }
}

/// Reads a list file: one prefix per line, sorted and without doubles; host bits are an error, and
/// so is a whole address family.
///
/// # Errors
/// Every bad line at once.
pub fn parse_list(source: &Source<'_>) -> Result<Vec<IpNetwork>, Vec<ConfigError>> {
    let reader = Reader::new(source);
    let mut prefixes = Vec::new();
    let mut offset = 0;
    for line in source.text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default();
        let written = content.trim();
        if !written.is_empty() {
            let indent = content.len() - content.trim_start().len();
            match prefix(written) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => reader.report(offset + indent, problem),
            }
        }
        offset += line.len();
        if prefixes.len() > MAX_ITEMS {
            reader.report(offset, Problem::TooMany { what: "list", limit: MAX_ITEMS });
            break;
        }
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    reader.finish(Some(prefixes)).map(|(prefixes, _)| prefixes)
}

fn prefix(written: &str) -> Result<IpNetwork, Problem> {
    let prefix = text::prefix(written).ok_or_else(|| Problem::BadListLine { written: excerpt(written) })?;
    let network = prefix::network(prefix);
    if network != prefix {
        return Err(Problem::HostBits { written: prefix.to_string(), network: network.to_string() });
    }
    if prefix.prefix() == 0 {
        return Err(Problem::ListHoldsEverything { prefix: prefix.to_string() });
    }
    Ok(prefix)
}

/// One `[[list]]`.
pub(crate) fn list(table: &Table<'_>, names: &mut Names) -> Option<List> {
    let name = names.claim(table);
    let file = table.required("file").and_then(fields::file);
    let urls = table.optional("url").map(Value::one_or_many).unwrap_or_default();
    let urls =
        urls.into_iter().filter_map(|item| item.parse("an https:// address", text::fetchable)).collect();
    table.close();
    Some(List { name: name?, file: file?, urls, prefixes: Vec::new() })
}

/// Prefixes and `@NAME`s; both whole address families together are [`AllowList::Any`].
pub(crate) fn allow_list(value: Value<'_>, lists: &Names) -> Option<AllowList> {
    sources(value, |item, name| known_list(item, name, lists))
}

/// As [`allow_list`], with lists that the other end has: their names are only checked for form.
pub(crate) fn far_allow_list(value: Value<'_>) -> Option<AllowList> {
    sources(value, |item, name| Name::new(name).or_else(|| item.bad("a prefix, or @ and the name of a list")))
}

fn sources<'v>(value: Value<'v>, list: impl Fn(Value<'v>, &str) -> Option<Name>) -> Option<AllowList> {
    let (mut prefixes, mut named) = (Vec::new(), Vec::new());
    for item in value.one_or_many() {
        let written = item.string()?;
        match written.strip_prefix('@') {
            Some(name) => named.push(list(item, name)?),
            None => prefixes.push(fields::prefix(item)?.value),
        }
    }
    let whole = |v4: bool| prefixes.iter().any(|prefix| prefix.prefix() == 0 && prefix.is_ipv4() == v4);
    Some(if whole(true) && whole(false) {
        AllowList::Any
    } else {
        AllowList::Only { prefixes, lists: named }
    })
}

fn known_list(value: Value<'_>, written: &str, lists: &Names) -> Option<Name> {
    let known = lists.contains(written);
    if known.is_none() && lists.is_complete() {
        let (nearest, known) = lists.suggestions(written);
        value.report(Problem::UnknownList { name: excerpt(written), nearest, known });
    }
    known
}

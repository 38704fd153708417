//! A TOML document with the place of each value, read key by key; a key that is never read is an
//! error.
// Each reader wants one type; all others are errors alike.
#![allow(clippy::wildcard_enum_match_arm)]

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::suggest::nearest;
use crate::{ConfigError, Position, Problem, Source, Warning};

/// The most bytes a configuration may have: an edge of 100,000 prefixes needs three million.
pub(crate) const MAX_TEXT: usize = 4 << 20;
/// The most errors that are reported for one text, since finding the position of each takes time.
const MAX_ERRORS: usize = 1_000;
/// The most entries an array may have.
pub(crate) const MAX_ITEMS: usize = 65_536;

/// Turns offsets into positions, and collects errors and warnings.
pub(crate) struct Reader<'t> {
    file: Arc<Path>,
    text: &'t str,
    line_starts: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<Warning>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(source: &Source<'t>) -> Self {
        let newlines =
            source.text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self {
            file: source.name.into(),
            text: source.text,
            line_starts: std::iter::once(0).chain(newlines).collect(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Parses the whole text; `None` after any syntax error, each of which has been reported.
    pub(crate) fn document(&self) -> Option<Spanned<DeTable<'t>>> {
        if self.text.len() > MAX_TEXT {
            self.report(0, Problem::TooLarge { bytes: self.text.len(), limit: MAX_TEXT });
            return None;
        }
        let (document, faults) = DeTable::parse_recoverable(self.text);
        for fault in faults.iter().take(MAX_ERRORS) {
            let at = fault.span().map_or(0, |span| span.start);
            self.report(at, syntax_problem(fault.message(), self.slice(fault.span())));
        }
        faults.is_empty().then_some(document)
    }

    pub(crate) fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        let clamp = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Position { file: Arc::clone(&self.file), line: clamp(line.max(1)), column: clamp(column) }
    }

    pub(crate) fn report(&self, offset: usize, problem: Problem) {
        if self.has_room() {
            self.report_at(self.position(offset), problem);
        }
    }

    pub(crate) fn report_at(&self, at: Position, problem: Problem) {
        if self.has_room() {
            self.errors.borrow_mut().push(ConfigError { at, problem });
        }
    }

    fn has_room(&self) -> bool {
        self.errors.borrow().len() < MAX_ERRORS
    }

    /// How many errors there are so far: what depends on a part that has some is not checked, as
    /// its errors would only follow from the first.
    pub(crate) fn error_count(&self) -> usize {
        self.errors.borrow().len()
    }

    pub(crate) fn warn_at(&self, at: Position, message: String) {
        self.warnings.borrow_mut().push(Warning { at, message });
    }

    /// Reads a whole file by `read`, which gets its root.
    pub(crate) fn read_file<T>(
        source: &Source<'_>,
        read: impl FnOnce(&Table<'_>, &Reader<'_>) -> Option<T>,
    ) -> Result<(T, Vec<Warning>), Vec<ConfigError>> {
        let reader = Reader::new(source);
        let document = reader.document();
        let value = document.as_ref().and_then(|document| read(&Table::root(&reader, document), &reader));
        reader.finish(value)
    }

    /// The policy when there was no error, else every error in the order of the text.
    pub(crate) fn finish<T>(self, policy: Option<T>) -> Result<(T, Vec<Warning>), Vec<ConfigError>> {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| a.at.cmp(&b.at));
        match policy {
            Some(policy) if errors.is_empty() => Ok((policy, self.warnings.into_inner())),
            _ => Err(errors),
        }
    }

    fn slice(&self, span: Option<Range<usize>>) -> &str {
        span.and_then(|span| self.text.get(span)).unwrap_or("")
    }
}

fn syntax_problem(message: &str, found: &str) -> Problem {
    match message {
        "duplicate key" => Problem::DuplicateKey { key: found.to_owned() },
        _ => Problem::Syntax { message: message.to_owned() },
    }
}

/// One table of the document.
pub(crate) struct Table<'r> {
    reader: &'r Reader<'r>,
    /// Its name in messages, such as `[interface]`.
    title: &'r str,
    offset: usize,
    entries: &'r DeTable<'r>,
    asked: RefCell<Vec<&'static str>>,
    /// Required keys that are not there: reported at the end, unless another key is one of them
    /// misspelt.
    missing: RefCell<Vec<&'static str>>,
}

impl<'r> Table<'r> {
    pub(crate) fn root(reader: &'r Reader<'r>, document: &'r Spanned<DeTable<'r>>) -> Self {
        Self::new(reader, "the file", 0, document.get_ref())
    }

    fn new(reader: &'r Reader<'r>, title: &'r str, offset: usize, entries: &'r DeTable<'r>) -> Self {
        let (asked, missing) = (RefCell::default(), RefCell::default());
        Self { reader, title, offset, entries, asked, missing }
    }

    /// Where the table begins.
    pub(crate) fn at(&self) -> Position {
        self.reader.position(self.offset)
    }

    pub(crate) fn report_at(&self, at: &Position, problem: Problem) {
        self.reader.report_at(at.clone(), problem);
    }

    pub(crate) fn report(&self, problem: Problem) {
        self.reader.report(self.offset, problem);
    }

    /// The value of `key`, if the file has it.
    pub(crate) fn optional(&self, key: &'static str) -> Option<Value<'r>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value { reader: self.reader, key, value })
    }

    /// The value of `key`; its absence is reported by [`close`](Self::close).
    pub(crate) fn required(&self, key: &'static str) -> Option<Value<'r>> {
        let value = self.optional(key);
        if value.is_none() {
            self.missing.borrow_mut().push(key);
        }
        value
    }

    /// The table `key`, if the file has it.
    pub(crate) fn table(&self, key: &'static str, title: &'static str) -> Option<Self> {
        self.optional(key)?.table(title)
    }

    /// The tables `[[key]]`; none when the file has none.
    pub(crate) fn tables(&self, key: &'static str, title: &'static str) -> Vec<Self> {
        let Some(value) = self.optional(key) else { return Vec::new() };
        value.items("an array of tables").into_iter().filter_map(|item| item.table(title)).collect()
    }

    /// Whether a key that is none of `others` looks like `key`.
    pub(crate) fn is_misspelt(&self, key: &'static str, others: &[&str]) -> bool {
        let is_like = |written: &str| {
            written != key && !others.contains(&written) && nearest(written, std::iter::once(key)).is_some()
        };
        self.entries.keys().any(|written| is_like(written.get_ref()))
    }

    /// Reports every required key that is missing.
    pub(crate) fn report_missing(&self) {
        for key in self.missing.take() {
            self.report(Problem::MissingKey { key, table: self.title.to_owned() });
        }
    }

    /// Reports every key that was never read, and every required one that is missing.
    pub(crate) fn close(&self) {
        self.report_unknown();
        self.report_missing();
    }

    fn report_unknown(&self) {
        let asked = self.asked.borrow();
        for key in self.entries.keys() {
            let written = key.get_ref().as_ref();
            if !asked.contains(&written) {
                let nearest = nearest(written, asked.iter().copied());
                // A misspelt key is one mistake: the missing right one only follows from it.
                self.missing.borrow_mut().retain(|missing| Some(*missing) != nearest);
                let problem = Problem::UnknownKey {
                    key: excerpt(written),
                    table: self.title.to_owned(),
                    nearest: nearest.map(str::to_owned),
                    known: asked.join(", "),
                };
                self.reader.report(key.span().start, problem);
            }
        }
    }
}

/// One value of the document.
#[derive(Clone, Copy)]
pub(crate) struct Value<'r> {
    reader: &'r Reader<'r>,
    /// The key it belongs to; an array's items carry the array's key.
    pub(crate) key: &'static str,
    value: &'r Spanned<DeValue<'r>>,
}

impl<'r> Value<'r> {
    pub(crate) fn at(self) -> Position {
        self.reader.position(self.value.span().start)
    }

    pub(crate) fn report(self, problem: Problem) {
        self.reader.report(self.value.span().start, problem);
    }

    /// Reports that this is not `expected`.
    pub(crate) fn wrong_type<T>(self, expected: &'static str) -> Option<T> {
        let found = self.value.get_ref().type_str();
        self.report(Problem::WrongType { key: self.key, expected, found });
        None
    }

    /// Reports that what is written is not `expected`.
    pub(crate) fn bad<T>(self, expected: &'static str) -> Option<T> {
        let written = match self.value.get_ref() {
            DeValue::String(text) => excerpt(text),
            DeValue::Integer(number) => number.to_string(),
            other => other.type_str().to_owned(),
        };
        self.report(Problem::BadValue { key: self.key, written, expected });
        None
    }

    pub(crate) fn string(self) -> Option<&'r str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.wrong_type("a string"),
        }
    }

    /// A string that `parse` understands.
    pub(crate) fn parse<T>(self, expected: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.string()?;
        parse(text).or_else(|| self.bad(expected))
    }

    /// A string, or an integer taken as its digits, that `parse` understands.
    pub(crate) fn parse_number<T>(
        self,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.plain_integer() {
            Some(number) => parse(&number.to_string()).or_else(|| self.bad(expected)),
            None => self.parse(expected, parse),
        }
    }

    /// An integer inside `range`.
    pub(crate) fn integer(self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(_) = self.value.get_ref() else { return self.wrong_type("an integer") };
        let inside = self.plain_integer().filter(|number| range.contains(number));
        if inside.is_none() {
            let (low, high) = (*range.start(), *range.end());
            self.report(Problem::OutOfRange { key: self.key, low, high });
        }
        inside
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false"),
        }
    }

    /// The items of an array.
    pub(crate) fn items(self, expected: &'static str) -> Vec<Self> {
        let DeValue::Array(array) = self.value.get_ref() else {
            self.wrong_type::<()>(expected);
            return Vec::new();
        };
        if array.len() > MAX_ITEMS {
            self.report(Problem::TooMany { what: self.key, limit: MAX_ITEMS });
            return Vec::new();
        }
        array.iter().map(|value| Self { value, ..self }).collect()
    }

    /// The items of an array that must not be empty.
    pub(crate) fn some_items(self, expected: &'static str) -> Vec<Self> {
        let items = self.items(expected);
        if matches!(self.value.get_ref(), DeValue::Array(array) if array.is_empty()) {
            self.report(Problem::Empty { key: self.key });
        }
        items
    }

    /// The items of an array, or the value alone when it is a single string or number.
    pub(crate) fn one_or_many(self) -> Vec<Self> {
        match self.value.get_ref() {
            DeValue::String(_) | DeValue::Integer(_) => vec![self],
            _ => self.some_items("a string or an array of strings"),
        }
    }

    pub(crate) fn table(self, title: &'static str) -> Option<Table<'r>> {
        let DeValue::Table(entries) = self.value.get_ref() else { return self.wrong_type("a table") };
        let offset = self.value.span().start;
        Some(Table::new(self.reader, title, offset, entries))
    }

    pub(crate) fn is_table(self) -> bool {
        matches!(self.value.get_ref(), DeValue::Table(_))
    }

    pub(crate) fn warn(self, message: String) {
        self.reader.warn_at(self.at(), message);
    }

    /// Whether this is the string `text`.
    pub(crate) fn is_string(self, text: &str) -> bool {
        matches!(self.value.get_ref(), DeValue::String(written) if written == text)
    }

    /// The text of a string; `None`, and no error, for anything else.
    pub(crate) fn peek_string(self) -> Option<&'r str> {
        match self.value.get_ref() {
            DeValue::String(written) => Some(written.as_ref()),
            _ => None,
        }
    }

    /// The items of an array; none, and no error, for anything else.
    pub(crate) fn peek(self) -> Vec<Self> {
        match self.value.get_ref() {
            DeValue::Array(array) => array.iter().map(|value| Self { value, ..self }).collect(),
            _ => Vec::new(),
        }
    }

    fn plain_integer(self) -> Option<u64> {
        let DeValue::Integer(number) = self.value.get_ref() else { return None };
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }
}

/// At most 64 characters of what is written in the file.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

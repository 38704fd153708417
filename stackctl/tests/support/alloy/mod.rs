//! Alloy's configuration language, as far as the sample's files use it: blocks, attributes, strings, lists, objects and
//! references.

mod documentation;

use std::iter::Peekable;
use std::str::Chars;

pub(crate) use documentation::check;

/// A block with what is in it.
#[derive(Debug)]
pub(crate) struct Block {
    /// For example `prometheus.scrape`.
    pub(crate) kind: String,
    /// What follows in quotes; empty for a block within another.
    pub(crate) label: String,
    pub(crate) attributes: Vec<(String, Value)>,
    pub(crate) blocks: Vec<Self>,
}

/// The value of an attribute.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A number or a truth value.
    Word(String),
    /// An export of another component.
    Reference(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Block {
    /// An attribute's value.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// An attribute that is a text.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            other => panic!("{} {:?}: {name} is {other:?}", self.kind, self.label),
        }
    }
}

impl Value {
    /// One value of an object.
    pub(crate) fn entry(&self, name: &str) -> Option<&str> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find_map(|(own, value)| {
            let Self::Text(text) = value else { return None };
            (own == name).then_some(text.as_str())
        })
    }

    fn references<'v>(&'v self, into: &mut Vec<&'v str>) {
        match self {
            Self::Reference(name) => into.push(name),
            Self::List(values) => values.iter().for_each(|value| value.references(into)),
            Self::Object(entries) => entries.iter().for_each(|(_, value)| value.references(into)),
            Self::Text(_) | Self::Word(_) => {}
        }
    }
}

/// Reads a file; what is not of the language is a panic that shows the rest.
pub(crate) fn parse(text: &str) -> Vec<Block> {
    let mut reader = Reader { rest: text.chars().peekable() };
    let (attributes, blocks) = reader.body(None);
    assert!(attributes.is_empty(), "attributes outside of a component: {attributes:?}");
    blocks
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
}

impl Reader<'_> {
    fn skip(&mut self) {
        while let Some(next) = self.rest.peek().copied() {
            if next == '/' {
                // The language has no other use for a slash here.
                while self.rest.next_if(|c| *c != '\n').is_some() {}
            } else if next.is_whitespace() || next == ',' {
                self.rest.next();
            } else {
                break;
            }
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest.peek().copied()
    }

    fn take(&mut self, wanted: char) {
        let found = self.peek();
        assert!(found == Some(wanted), "{wanted:?} expected, before {:?}", self.upcoming());
        self.rest.next();
    }

    fn upcoming(&self) -> String {
        self.rest.clone().take(60).collect()
    }

    fn word(&mut self) -> String {
        self.skip();
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || "._".contains(*c)) {
            word.push(c);
        }
        assert!(!word.is_empty(), "a word expected, before {:?}", self.upcoming());
        word
    }

    fn quoted(&mut self) -> String {
        self.take('"');
        let mut text = String::new();
        loop {
            match self.rest.next().expect("a string that ends") {
                '"' => return text,
                '\\' => text.push(self.rest.next().expect("an escaped character")),
                '\n' => panic!("a string runs over the line's end: {text}"),
                c => text.push(c),
            }
        }
    }

    fn body(&mut self, end: Option<char>) -> (Vec<(String, Value)>, Vec<Block>) {
        let (mut attributes, mut blocks) = (Vec::new(), Vec::new());
        while self.peek() != end {
            let name = self.word();
            if self.peek() == Some('=') {
                self.take('=');
                attributes.push((name, self.value()));
            } else {
                let label = if self.peek() == Some('"') { self.quoted() } else { String::new() };
                self.take('{');
                let (attributes, inner) = self.body(Some('}'));
                self.take('}');
                blocks.push(Block { kind: name, label, attributes, blocks: inner });
            }
        }
        (attributes, blocks)
    }

    fn value(&mut self) -> Value {
        match self.peek() {
            Some('"') => Value::Text(self.quoted()),
            Some('[') => {
                self.take('[');
                let mut values = Vec::new();
                while self.peek() != Some(']') {
                    values.push(self.value());
                }
                self.take(']');
                Value::List(values)
            }
            Some('{') => {
                self.take('{');
                let mut entries = Vec::new();
                while self.peek() != Some('}') {
                    let name = if self.peek() == Some('"') { self.quoted() } else { self.word() };
                    self.take('=');
                    entries.push((name, self.value()));
                }
                self.take('}');
                Value::Object(entries)
            }
            _ => {
                let word = self.word();
                if word.contains('.') { Value::Reference(word) } else { Value::Word(word) }
            }
        }
    }
}

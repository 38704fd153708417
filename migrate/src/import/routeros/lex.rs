//! Characters as words: continuations, comments, quotes, escapes and brackets.

use zeroize::Zeroizing;

/// A line and a column, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A word of a command.
pub(super) struct Word {
    pub(super) at: Place,
    pub(super) key: String,
    /// What follows an `=`.
    pub(super) value: Option<Zeroizing<String>>,
    /// Whether the key was quoted or in brackets, so that it is no keyword.
    pub(super) is_quoted: bool,
}

impl Word {
    /// A word that may be a menu or a command.
    pub(super) fn is_keyword(&self) -> bool {
        self.value.is_none() && !self.is_quoted
    }
}

/// A command, or what is none.
pub(super) enum Line {
    Words(Vec<Word>),
    /// The place of something that is no command of an export, what is wrong, and the whole line.
    Bad(Place, &'static str, Zeroizing<String>),
    /// `#error exporting …`: the router left a menu out.
    LeftOut(Place, String),
}

/// The characters of one line with their places, wiped when dropped.
type Characters = (Zeroizing<Vec<char>>, Vec<Place>);

/// The commands of a text, in order.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line> {
    let mut rest = (1_u32..).zip(text.trim_start_matches('\u{feff}').split('\n'));
    let mut queued: Vec<Line> = Vec::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(line) = queued.pop() {
                return Some(line);
            }
            let (number, line) = rest.next()?;
            if let Some(comment) = line.trim_start().strip_prefix('#') {
                if let Some(what) = comment.trim_start().strip_prefix("error exporting") {
                    let place = Place { line: number, column: 1 };
                    return Some(Line::LeftOut(place, what.trim().to_owned()));
                }
                continue;
            }
            let joined = joined((number, line), &mut rest);
            queued = commands(&joined);
            queued.reverse();
        }
    })
}

/// A line with those that continue it after a final backslash, white space at their beginning left
/// out.
fn joined<'t>((number, line): (u32, &'t str), rest: &mut impl Iterator<Item = (u32, &'t str)>) -> Characters {
    let mut all: Characters =
        (Zeroizing::new(Vec::with_capacity(line.len())), Vec::with_capacity(line.len()));
    let (mut number, mut line) = (number, line);
    let mut is_first = true;
    loop {
        let content = line.trim_end_matches('\r');
        let indent = content.chars().take_while(|c| c.is_whitespace() && !is_first).count();
        for (column, character) in (1_u32..).zip(content.chars()).skip(indent) {
            all.0.push(character);
            all.1.push(Place { line: number, column });
        }
        let escapes = content.bytes().rev().take_while(|&byte| byte == b'\\').count();
        if escapes % 2 == 0 {
            return all;
        }
        all.0.pop();
        all.1.pop();
        match rest.next() {
            Some(next) => (number, line) = next,
            None => return all,
        }
        is_first = false;
    }
}

/// The commands of one line; a semicolon outside quotes ends one.
fn commands((characters, places): &Characters) -> Vec<Line> {
    let mut reader = Reader { rest: characters, places };
    let (mut found, mut words) = (Vec::new(), Vec::new());
    loop {
        reader.skip_white_space();
        let Some((character, at)) = reader.peek() else { break };
        if character == ';' {
            reader.next();
            found.extend((!words.is_empty()).then(|| Line::Words(std::mem::take(&mut words))));
            continue;
        }
        match reader.word() {
            Ok(word) => words.push(word),
            Err(what) => {
                found.push(Line::Bad(at, what, Zeroizing::new(characters.iter().collect())));
                return found;
            }
        }
    }
    found.extend((!words.is_empty()).then_some(Line::Words(words)));
    found
}

struct Reader<'c> {
    rest: &'c [char],
    places: &'c [Place],
}

impl Reader<'_> {
    fn peek(&self) -> Option<(char, Place)> {
        self.rest.first().copied().zip(self.places.first().copied())
    }

    fn next(&mut self) -> Option<char> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.places = self.places.get(1..).unwrap_or_default();
        Some(*first)
    }

    fn skip_white_space(&mut self) {
        while self.peek().is_some_and(|(c, _)| c.is_whitespace()) {
            self.next();
        }
    }

    fn word(&mut self) -> Result<Word, &'static str> {
        let Some((first, at)) = self.peek() else { return Err("an empty word") };
        let quoted = |key| Word { at, key, value: None, is_quoted: true };
        match first {
            '"' => return self.quoted().map(|text| quoted(text.to_string())),
            '[' => return self.bracketed().map(quoted),
            ':' | '{' | '}' | '(' | ')' | '$' => return Err("a script command"),
            _ => {}
        }
        let mut key = String::new();
        while let Some((character, _)) = self.peek() {
            if character.is_whitespace() || matches!(character, '=' | ';') {
                break;
            }
            key.push(character);
            self.next();
        }
        if self.peek().is_none_or(|(character, _)| character != '=') {
            return Ok(Word { at, key, value: None, is_quoted: false });
        }
        self.next();
        Ok(Word { at, key, value: Some(self.value()?), is_quoted: false })
    }

    /// A value; a negation stays in it.
    fn value(&mut self) -> Result<Zeroizing<String>, &'static str> {
        let mut value = Zeroizing::new(String::new());
        if self.peek().is_some_and(|(c, _)| c == '!') {
            self.next();
            value.push('!');
        }
        match self.peek() {
            Some(('"', _)) => value.push_str(&self.quoted()?),
            Some(('[' | '(' | '{' | '$', _)) => return Err("a value that a script computes"),
            _ => {}
        }
        while let Some((character, _)) = self.peek() {
            if character.is_whitespace() || character == ';' {
                break;
            }
            if character == '"' {
                return Err("a quote in the middle of a value");
            }
            value.push(character);
            self.next();
        }
        Ok(value)
    }

    /// The inside of `[ find … ]`, as it is written.
    fn bracketed(&mut self) -> Result<String, &'static str> {
        self.next();
        let mut inside = String::new();
        while let Some((character, _)) = self.peek() {
            match character {
                ']' => {
                    self.next();
                    return Ok(inside.trim().to_owned());
                }
                '"' => inside.push_str(&format!("{:?}", *self.quoted()?)),
                _ => inside.extend(self.next()),
            }
        }
        Err("a bracket that is not closed")
    }

    /// The text of a quote; bytes that are no UTF-8 become `�`.
    fn quoted(&mut self) -> Result<Zeroizing<String>, &'static str> {
        self.next();
        let mut value: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::new());
        while let Some(character) = self.next() {
            match character {
                '"' => return Ok(Zeroizing::new(String::from_utf8_lossy(&value).into_owned())),
                '\\' => self.escape(&mut value)?,
                '$' => return Err("a value that a script computes"),
                _ => value.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        Err("a quote that is not closed")
    }

    fn escape(&mut self, value: &mut Vec<u8>) -> Result<(), &'static str> {
        let unfinished = "an escape that is not finished";
        match self.next().ok_or(unfinished)? {
            'n' => value.push(b'\n'),
            'r' => value.push(b'\r'),
            't' => value.push(b'\t'),
            'a' => value.push(7),
            'b' => value.push(8),
            'f' => value.push(12),
            'v' => value.push(11),
            '_' => value.push(b' '),
            high @ ('0'..='9' | 'A'..='F') => {
                let low = self.next().and_then(|low| low.to_digit(16)).ok_or(unfinished)?;
                let high = high.to_digit(16).ok_or(unfinished)?;
                value.push(u8::try_from(high * 16 + low).map_err(|_| unfinished)?);
            }
            other => value.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
        Ok(())
    }
}

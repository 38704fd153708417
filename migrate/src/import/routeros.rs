//! The text of a RouterOS `/export`: menus, commands and their values, with line numbers.
//!
//! The grammar is that of MikroTik's manual ("Scripting", "Configuration Management"): a line that
//! begins with `/` names a menu, written with spaces or slashes, and may go on with a command; a
//! final `\` joins the next line; values may be quoted, with `\"`, `\\`, `\n`, `\_` and `\XX`
//! inside.

use zeroize::Zeroizing;

use policy::Source;

/// The most commands of one text that are read; the rest is reported as one finding.
pub const MAX_ENTRIES: usize = 20_000;

/// One command of an export; it may hold keys, so it has no `Debug` and its values are wiped when
/// dropped.
#[derive(Clone)]
pub(super) struct Entry {
    /// The line where it begins, from 1.
    pub(super) line: u32,
    /// The menu without its slash, words joined by spaces: `ip firewall nat`.
    pub(super) menu: String,
    /// `add`, `set` or another command.
    pub(super) command: String,
    /// What a `set` is about: a name, a number or the inside of `[ find … ]`.
    pub(super) target: String,
    values: Vec<(String, Zeroizing<String>)>,
}

impl Entry {
    /// The value of a key, the last one when it is repeated.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The keys that have a value, in the order of the line.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|(key, _)| key.as_str())
    }

    pub(super) fn is_disabled(&self) -> bool {
        self.value("disabled") == Some("yes")
    }

    pub(super) fn is(&self, menu: &str, command: &str) -> bool {
        self.menu == menu && self.command == command
    }

    /// The values of a comma-separated list; empty when the key is absent.
    pub(super) fn list(&self, key: &str) -> Vec<&str> {
        let items = self.value(key).unwrap_or_default().split(',');
        items.map(str::trim).filter(|item| !item.is_empty()).collect()
    }

    /// The command as it was written, without secrets, at most 120 characters.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("/{} {}", self.menu, self.command);
        if !self.target.is_empty() {
            text.push_str(&format!(" [{}]", self.target));
        }
        for (key, value) in &self.values {
            let secret = ["key", "password", "secret", "passphrase"].iter().any(|word| key.contains(word));
            let value = if secret { "…" } else { value.as_str() };
            text.push_str(&format!(" {key}={value}"));
        }
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut short: String = printable.clone().take(120).collect();
        if printable.count() > 120 {
            short.push('…');
        }
        short
    }
}

/// A line that is no command of an export, such as `:local` of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) line: u32,
    pub(super) text: String,
}

/// Reads a whole export.
pub(super) fn read(source: &Source<'_>) -> (Vec<Entry>, Vec<Stray>) {
    let (mut entries, mut strays) = (Vec::new(), Vec::new());
    let mut menu: Vec<String> = Vec::new();
    for (line, text) in logical_lines(source.text) {
        // Nothing behind the first `=`, which may be a key.
        let stray = || {
            let shown = text.split('=').next().unwrap_or_default();
            Stray { line, text: shown.chars().filter(|c| !c.is_control()).take(80).collect() }
        };
        if entries.len() >= MAX_ENTRIES {
            let text = format!("the rest of the file is left out: more than {MAX_ENTRIES} commands");
            strays.push(Stray { line, text });
            break;
        }
        match command(&text, &mut menu) {
            Some(Parsed::Menu) => {}
            Some(Parsed::Command(command, target, values)) => {
                entries.push(Entry { line, menu: menu.join(" "), command, target, values });
            }
            None => strays.push(stray()),
        }
    }
    (entries, strays)
}

/// Lines without comments, joined where they end in a backslash; each with the number of its first
/// line.
fn logical_lines(text: &str) -> Vec<(u32, Zeroizing<String>)> {
    let mut lines: Vec<(u32, Zeroizing<String>)> = Vec::new();
    let mut open: Option<(u32, Zeroizing<String>)> = None;
    for (number, line) in (1_u32..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim_end_matches('\r');
        let (begun, mut joined) = match open.take() {
            Some((begun, before)) => (begun, Zeroizing::new(format!("{}{}", *before, line.trim_start()))),
            None if line.trim_start().starts_with('#') => continue,
            None => (number, Zeroizing::new(line.trim().to_owned())),
        };
        let escapes = joined.bytes().rev().take_while(|&byte| byte == b'\\').count();
        if escapes % 2 == 1 {
            joined.pop();
            open = Some((begun, joined));
        } else if !joined.trim().is_empty() {
            lines.push((begun, joined));
        }
    }
    lines.extend(open.filter(|(_, text)| !text.trim().is_empty()));
    lines
}

enum Parsed {
    Menu,
    Command(String, String, Vec<(String, Zeroizing<String>)>),
}

/// Commands of exports and of scripts made for `/import`.
const COMMANDS: [&str; 8] = ["add", "set", "remove", "enable", "disable", "unset", "move", "reset"];

fn command(text: &str, menu: &mut Vec<String>) -> Option<Parsed> {
    let words = words(text)?;
    let mut words = words.into_iter().peekable();
    if let Some(first) = words.next_if(|word| word.quoted.is_none() && word.key.starts_with('/')) {
        menu.clear();
        menu.extend(first.key.split('/').filter(|part| !part.is_empty()).map(str::to_owned));
        while let Some(word) = words.next_if(|word| word.is_plain() && !is_command(&word.key)) {
            menu.extend(word.key.split('/').filter(|part| !part.is_empty()).map(str::to_owned));
        }
        // `/ip/address/add` in one word.
        if menu.last().is_some_and(|last| is_command(last)) {
            let command = menu.pop()?;
            return arguments(command, words);
        }
        if words.peek().is_none() {
            return Some(Parsed::Menu);
        }
    }
    let command = words.next().filter(|word| word.is_plain() && is_command(&word.key))?.key;
    arguments(command, words)
}

fn arguments(command: String, words: impl Iterator<Item = Word>) -> Option<Parsed> {
    let mut target = String::new();
    let mut values = Vec::new();
    for word in words {
        match word.quoted {
            Some(value) => values.push((word.key, Zeroizing::new(value))),
            // `!key` says that a value is not set.
            None if word.key.starts_with('!') => {}
            None if target.is_empty() => target = word.key,
            None => target = format!("{target} {}", word.key),
        }
    }
    Some(Parsed::Command(command, target, values))
}

fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// A word; with a value when it has the form `key=value`.
struct Word {
    key: String,
    quoted: Option<String>,
}

impl Word {
    fn is_plain(&self) -> bool {
        self.quoted.is_none()
    }
}

/// The words of a line; `None` for a script command, an unclosed quote or an unclosed bracket.
fn words(text: &str) -> Option<Vec<Word>> {
    if text.starts_with(':') || text.contains(['{', '}']) && !text.contains('"') {
        return None;
    }
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = if let Some(inside) = rest.strip_prefix('[') {
            let (inside, after) = inside.split_once(']')?;
            (Word { key: inside.trim().to_owned(), quoted: None }, after)
        } else {
            word(rest)?
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

fn word(text: &str) -> Option<(Word, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = unquote(quoted)?;
        return Some((Word { key: value, quoted: None }, after));
    }
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (key, after) = text.split_at_checked(end)?;
    let Some(value) = after.strip_prefix('=') else {
        return Some((Word { key: key.to_owned(), quoted: None }, after));
    };
    let (negation, value) = value.strip_prefix('!').map_or(("", value), |value| ("!", value));
    let (value, after) = match value.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = value.find(char::is_whitespace).unwrap_or(value.len());
            let (value, after) = value.split_at_checked(end)?;
            (value.to_owned(), after)
        }
    };
    Some((Word { key: key.to_owned(), quoted: Some(format!("{negation}{value}")) }, after))
}

/// The text up to the closing quote, and what follows; bytes that are no UTF-8 become `�`.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value: Vec<u8> = Vec::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let after = text.get(at + 1..)?;
                return Some((String::from_utf8_lossy(&value).into_owned(), after));
            }
            '\\' => escape(&mut characters, &mut value)?,
            _ => value.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    None
}

fn escape(characters: &mut std::str::CharIndices<'_>, value: &mut Vec<u8>) -> Option<()> {
    let (_, escaped) = characters.next()?;
    match escaped {
        'n' => value.push(b'\n'),
        'r' => value.push(b'\r'),
        't' => value.push(b'\t'),
        '_' => value.push(b' '),
        '0'..='9' | 'A'..='F' => {
            let (_, low) = characters.next()?;
            value.push(u8::try_from(escaped.to_digit(16)? * 16 + low.to_digit(16)?).ok()?);
        }
        other => value.extend(other.encode_utf8(&mut [0; 4]).bytes()),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_menu_holds_until_the_next_and_both_ways_to_write_it_are_one() {
        let entries = read_all(
            "/interface wireguard\nadd name=wg1 mtu=1420\n/interface/wireguard/peers\nadd interface=wg1\n\
             /ip address add address=10.0.0.1/30\n/ip/route/add dst-address=0.0.0.0/0\nadd gateway=wg1\n",
        );
        let menus: Vec<(&str, u32)> = entries.iter().map(|entry| (entry.menu.as_str(), entry.line)).collect();
        assert_eq!(
            menus,
            [
                ("interface wireguard", 2),
                ("interface wireguard peers", 4),
                ("ip address", 5),
                ("ip route", 6),
                ("ip route", 7)
            ]
        );
        assert!(entries.iter().all(|entry| entry.command == "add"));
    }

    #[test]
    fn a_line_goes_on_after_a_backslash_even_inside_a_quote() {
        let entries = read_all(
            "/ip firewall filter\r\nadd action=accept chain=forward comment=\"NFS from \\\r\n    the Mac\" dst-port=\\\r\n    \
             2049\r\nadd chain=input\r\n",
        );
        assert_eq!(entries[0].value("comment"), Some("NFS from the Mac"));
        assert_eq!(entries[0].value("dst-port"), Some("2049"));
        assert_eq!((entries[0].line, entries[1].line), (2, 5));
    }

    #[test]
    fn quotes_hold_spaces_escapes_and_bytes() {
        let entries = read_all(r#"/x add comment="a \"b\" \\ \$c \41\_d" name="e=f g""#);
        assert_eq!(entries[0].value("comment"), Some("a \"b\" \\ $c A d"));
        assert_eq!(entries[0].value("name"), Some("e=f g"));
    }

    #[test]
    fn a_set_names_its_target_in_brackets_or_bare() {
        let entries = read_all(
            "/interface ethernet\nset [ find default-name=ether1 ] name=wan\n/ip service\nset telnet disabled=yes\n",
        );
        assert_eq!(entries[0].target, "find default-name=ether1");
        assert_eq!(entries[0].value("name"), Some("wan"));
        assert_eq!(entries[1].target, "telnet");
        assert!(entries[1].is_disabled());
    }

    #[test]
    fn negation_stays_in_the_value_and_an_unset_key_has_none() {
        let entries = read_all("/x add !keepalive src-address-list=!cloudflare src-address=!\"10.0.0.0/8\"");
        assert_eq!(entries[0].value("src-address-list"), Some("!cloudflare"));
        assert_eq!(entries[0].value("src-address"), Some("!10.0.0.0/8"));
        assert_eq!(entries[0].keys().count(), 2);
    }

    #[test]
    fn what_is_no_command_is_a_stray_with_its_line() {
        let text = "# comment\n:local a 1\n/x add a=\"open\n/x\nprint\n/x add b=1\n";
        let (entries, strays) = read(&Source { name: Path::new("a.rsc"), text });
        assert_eq!(strays.iter().map(|stray| stray.line).collect::<Vec<_>>(), [2, 3, 5]);
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn the_limit_of_commands_is_reported_once() {
        let text = format!("/x\n{}", "add a=1\n".repeat(MAX_ENTRIES + 5));
        let (entries, strays) = read(&Source { name: Path::new("a.rsc"), text: &text });
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert_eq!(strays.len(), 1);
    }

    #[test]
    fn a_summary_hides_keys() {
        let entries = read_all("/x add private-key=\"secret=\" preshared-key=other name=wg");
        assert_eq!(entries[0].summary(), "/x add private-key=… preshared-key=… name=wg");
    }

    fn read_all(text: &str) -> Vec<Entry> {
        let (entries, strays) = read(&Source { name: Path::new("a.rsc"), text });
        assert_eq!(strays, []);
        entries
    }
}

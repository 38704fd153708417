//! The text of a RouterOS `/export`: menus, commands and their values, with their places.
//!
//! The grammar is that of MikroTik's manual ("Scripting", "Configuration Management"): a line that
//! begins with `/` names a menu, written with spaces or slashes, and may go on with a command; a
//! final `\` joins the next line; values may be quoted, with `\"`, `\\`, `\n`, `\_` and `\XX`
//! inside.

mod decode;
mod lex;
mod menus;

use std::rc::Rc;

use zeroize::Zeroizing;

pub use decode::decode;
pub(super) use lex::Place;
use lex::{Line, Word};
use menus::{is_no_menu, may_change};
pub(super) use menus::{is_of_a_script, is_read, is_unknown};
use policy::Source;

/// The most commands of one text that are read; the rest is reported as one finding.
pub const MAX_ENTRIES: usize = 250_000;

/// One command of an export; it may hold keys, so it has no `Debug` and its values are wiped when
/// dropped.
#[derive(Clone)]
pub(super) struct Entry {
    /// Where it begins.
    pub(super) at: Place,
    /// The menu without its slash, words joined by spaces: `ip firewall nat`.
    pub(super) menu: Rc<str>,
    /// `add`, `set` or another command.
    pub(super) command: String,
    /// What a `set` is about: a name, a number or the inside of `[ find … ]`.
    pub(super) target: String,
    values: Vec<Value>,
}

/// A property of a command.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) at: Place,
    pub(super) key: String,
    pub(super) text: Zeroizing<String>,
}

impl Entry {
    /// The value of a key, the last one when it is repeated; an empty one is not set.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let known = self.values.iter().rev().find(|value| value.key == key);
        known.map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The properties in the order of the line; empty ones are not set.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter().filter(|value| !value.text.is_empty())
    }

    pub(super) fn is_disabled(&self) -> bool {
        matches!(self.value("disabled"), Some("yes" | "true"))
    }

    pub(super) fn is(&self, menu: &str, command: &str) -> bool {
        &*self.menu == menu && self.command == command
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
        for Value { key, text: value, .. } in &self.values {
            let secret =
                ["key", "password", "secret", "passphrase", "conf"].iter().any(|word| key.contains(word));
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
    pub(super) at: Place,
    pub(super) text: String,
    /// Whether rules may be missing because of it.
    pub(super) hides_rules: bool,
}

/// Reads a whole export.
pub(super) fn read(source: &Source<'_>) -> (Vec<Entry>, Vec<Stray>) {
    let (mut entries, mut strays) = (Vec::new(), Vec::new());
    let mut menu: Rc<str> = Rc::from("");
    for line in lex::lines(source.text) {
        if entries.len() >= MAX_ENTRIES {
            let text = format!("the rest of the file is left out: more than {MAX_ENTRIES} commands");
            let at = entries.last().map(|entry: &Entry| entry.at).unwrap_or_default();
            strays.push(Stray { at, text, hides_rules: true });
            break;
        }
        match line {
            Line::Words(words) => {
                let at = words.first().map(|word| word.at).unwrap_or_default();
                // Nothing behind the first `=`, which may be a key.
                let shown: Vec<String> = words.iter().map(|word| word.key.clone()).take(4).collect();
                match command(words, &mut menu) {
                    Some(Parsed::Menu) => {}
                    Some(Parsed::Command(command, target, values)) => {
                        entries.push(Entry { at, menu: menu.clone(), command, target, values });
                    }
                    None => strays.push(Stray {
                        at,
                        text: format!("not a command of an export: {}", printable(&shown.join(" "))),
                        hides_rules: decides(&menu) || may_change(&shown.join(" ")),
                    }),
                }
            }
            Line::Bad(at, what, line) => {
                let text = format!("not a command of an export: {what}");
                strays.push(Stray { at, text, hides_rules: decides(&menu) || may_change(&line) });
            }
            Line::LeftOut(at, what) => {
                let text = format!("the router left this out of the export: {}", printable(&what));
                let path = what.trim_matches('"').trim_start_matches('/').replace('/', " ");
                strays.push(Stray { at, text, hides_rules: decides(&path) });
            }
        }
    }
    (entries, strays)
}

/// Whether a menu, or one that the words name, decides what passes.
fn decides(menu: &str) -> bool {
    is_read(menu)
        || ["ip firewall", "ipv6 firewall", "interface list"].iter().any(|start| menu.contains(start))
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

enum Parsed {
    Menu,
    Command(String, String, Vec<Value>),
}

/// Commands of exports and of scripts made for `/import`.
const COMMANDS: [&str; 8] = ["add", "set", "remove", "enable", "disable", "unset", "move", "reset"];

fn command(words: Vec<Word>, menu: &mut Rc<str>) -> Option<Parsed> {
    let mut words = words.into_iter().peekable();
    if let Some(first) = words.next_if(|word| word.is_keyword() && word.key.starts_with('/')) {
        let mut path: Vec<String> = parts(&first.key).collect();
        while let Some(word) = words.next_if(|word| word.is_keyword() && !is_command(&word.key)) {
            path.extend(parts(&word.key));
        }
        // `/ip/address/add` in one word.
        let inline = path.pop_if(|last| is_command(last));
        let joined = path.join(" ");
        if is_no_menu(&joined) {
            return None;
        }
        if **menu != *joined {
            *menu = Rc::from(joined);
        }
        if let Some(command) = inline {
            return Some(arguments(command, words));
        }
        if words.peek().is_none() {
            return Some(Parsed::Menu);
        }
    }
    let command = words.next().filter(|word| word.is_keyword() && is_command(&word.key))?.key;
    Some(arguments(command, words))
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned)
}

fn arguments(command: String, words: impl Iterator<Item = Word>) -> Parsed {
    let mut target = String::new();
    let mut values = Vec::new();
    for Word { at, key, value, .. } in words {
        match value {
            Some(text) => values.push(Value { at, key, text }),
            // `!key` says that a value is not set.
            None if key.starts_with('!') => {}
            None if target.is_empty() => target = key,
            None => target = format!("{target} {key}"),
        }
    }
    Parsed::Command(command, target, values)
}

fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
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
        let menus: Vec<(&str, u32)> = entries.iter().map(|entry| (&*entry.menu, entry.at.line)).collect();
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
        assert_eq!((entries[0].at.line, entries[1].at.line), (2, 5));
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
        assert_eq!(entries[0].values().count(), 2);
    }

    #[test]
    fn what_is_no_command_is_a_stray_with_its_line() {
        let text = "# comment\n:local a 1\n/x add a=\"open\n/x\nprint\n/x add b=1\n";
        let (entries, strays) = read(&Source { name: Path::new("a.rsc"), text });
        assert_eq!(strays.iter().map(|stray| stray.at.line).collect::<Vec<_>>(), [2, 3, 5]);
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn an_empty_value_is_not_set_and_semicolons_end_commands_outside_quotes() {
        let entries = read_all("/x add a=\"\" b= c=\"1;2\"; add d=3;add e=4");
        assert_eq!(entries.iter().map(|entry| entry.values().count()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(entries[0].value("c"), Some("1;2"));
        assert_eq!(entries[0].value("a"), None);
    }

    #[test]
    fn a_property_has_its_own_line_and_column() {
        let entries = read_all("/x\nadd a=1 \\\n    b=2 c=\\\n      3\n");
        let places: Vec<(u32, u32)> =
            entries[0].values().map(|value| (value.at.line, value.at.column)).collect();
        assert_eq!(places, [(2, 5), (3, 5), (3, 9)]);
        assert_eq!(entries[0].value("c"), Some("3"));
    }

    #[test]
    fn what_may_hide_a_rule_says_so() {
        let text =
            "#error exporting \"/ip/firewall/filter\" (timeout)\n/ip firewall nat\n:put 1\n/x\n:put 1\n";
        let (_, strays) = read(&Source { name: Path::new("a.rsc"), text });
        assert_eq!(strays.iter().map(|stray| stray.hides_rules).collect::<Vec<_>>(), [true, true, false]);
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

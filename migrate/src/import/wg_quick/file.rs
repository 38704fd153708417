//! The lines of a wg-quick file: sections, keys and values with their places, and names in comments.

use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use super::super::draft::plain_name;
use super::super::netfilter::shell::Place;
use super::super::outcome::{Finding, FindingKind};
use policy::{PublicKey, prefix, text};

/// A section in its order.
pub(super) struct Section {
    /// In lower case.
    pub(super) title: String,
    /// Names that comments next to its head give it, with their lines.
    pub(super) names: Vec<(String, u32)>,
    pub(super) values: Vec<Entry>,
}

/// `KEY = VALUE`.
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    pub(super) value: Zeroizing<String>,
    /// Where the value begins.
    pub(super) place: Place,
    /// Each character of a hook with its place; of other values, which may be keys, none.
    pub(super) hook: Vec<(char, Place)>,
}

/// The sections, and a finding for every line that belongs to none.
pub(super) fn sections(text: &str, file: &str) -> (Vec<Section>, Vec<Finding>) {
    let (mut sections, mut findings): (Vec<Section>, Vec<Finding>) = (Vec::new(), Vec::new());
    let mut above: Vec<(String, u32)> = Vec::new();
    let mut is_under_head = false;
    for line in lines(text) {
        let number = line.number;
        let (content, comment) = line.parts();
        let name = comment.as_deref().and_then(named).map(|name| (name, number));
        if content.is_empty() {
            match (sections.last_mut(), comment.is_some()) {
                (Some(section), true) if is_under_head => section.names.extend(name.clone()),
                _ => {}
            }
            // A comment is about the head that follows it at once.
            match comment {
                Some(_) => above.extend(name),
                None => above.clear(),
            }
            continue;
        }
        if let Some(title) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let title = title.trim().to_ascii_lowercase();
            // The comment above the next head is not also one under the last.
            if let Some(section) = sections.last_mut().filter(|_| is_under_head) {
                section.names.retain(|name| !above.contains(name));
            }
            above.extend(name);
            sections.push(Section { title, names: std::mem::take(&mut above), values: Vec::new() });
            is_under_head = true;
            continue;
        }
        above.clear();
        is_under_head = false;
        match (sections.last_mut(), line.entry()) {
            (Some(section), Some(entry)) => section.values.push(entry),
            _ => findings.push(Finding {
                at: Some((file.to_owned(), number)),
                column: None,
                kind: FindingKind::NoCounterpart,
                text: "a line that is neither a section nor KEY = VALUE in one".to_owned(),
            }),
        }
    }
    (one_interface(sections), findings)
}

/// What every section of the interface says, in one: wg-quick reads them as that.
fn one_interface(sections: Vec<Section>) -> Vec<Section> {
    let mut joined: Vec<Section> = Vec::new();
    for section in sections {
        let known = joined.iter_mut().find(|known| known.title == "interface");
        match known.filter(|_| section.title == "interface") {
            Some(known) => known.values.extend(section.values),
            None => joined.push(section),
        }
    }
    joined
}

/// A line; wg-quick never joins one with the next.
struct Line {
    number: u32,
    chars: Vec<(char, Place)>,
}

fn lines(text: &str) -> impl Iterator<Item = Line> {
    (1_u32..).zip(text.trim_start_matches('\u{feff}').lines()).map(|(number, line)| {
        let chars = line.chars().zip(1..).map(|(c, column)| (c, Place { line: number, column }));
        Line { number, chars: chars.collect() }
    })
}

impl Line {
    /// What is before the number sign, which ends a line even in quotes, and what is behind it.
    fn parts(&self) -> (String, Option<String>) {
        let all: String = self.chars.iter().map(|(c, _)| *c).collect();
        match all.split_once('#') {
            Some((content, comment)) => (content.trim().to_owned(), Some(comment.to_owned())),
            None => (all.trim().to_owned(), None),
        }
    }

    fn entry(&self) -> Option<Entry> {
        let end = self.chars.iter().position(|(c, _)| *c == '#').unwrap_or(self.chars.len());
        let content = self.chars.get(..end)?;
        let equals = content.iter().position(|(c, _)| *c == '=')?;
        let (key, value) = (content.get(..equals)?, content.get(equals + 1..)?);
        let begin = value.iter().position(|(c, _)| !c.is_whitespace()).unwrap_or(value.len());
        let value = value.get(begin..)?;
        let place = value.first().or_else(|| content.last()).map(|(_, place)| *place)?;
        let key = key.iter().map(|(c, _)| *c).collect::<String>().trim().to_ascii_lowercase();
        let is_hook = matches!(key.as_str(), "preup" | "postup" | "predown" | "postdown");
        let text: Zeroizing<String> = Zeroizing::new(value.iter().map(|(c, _)| *c).collect());
        let hook = if is_hook { value.to_vec() } else { Vec::new() };
        Some(Entry { key, value: Zeroizing::new(text.trim_end().to_owned()), place, hook })
    }
}

/// The name that a comment gives a peer; none when it is a sentence or a line that was disabled.
fn named(comment: &str) -> Option<String> {
    let mut words = comment.trim_matches(|c: char| c == '#' || c.is_whitespace());
    let lower = words.to_ascii_lowercase();
    for label in ["friendly_name", "name", "client", "peer", "begin"] {
        let rest = lower.strip_prefix(label).and_then(|_| words.get(label.len()..));
        let rest = rest.filter(|rest| rest.starts_with([' ', '=', ':']));
        if let Some(rest) = rest {
            words = rest.trim_start_matches([' ', '=', ':']);
            break;
        }
    }
    let is_short = words.len() <= 32 && words.split_whitespace().count() <= 3;
    let is_plain = !words.contains(['=', '[', '/', '\\', '$']) && !lower.starts_with("end ");
    plain_name(words).filter(|_| is_short && is_plain)
}

impl Section {
    pub(super) fn entries(&self, key: &'static str) -> impl DoubleEndedIterator<Item = &Entry> {
        self.values.iter().filter(move |entry| entry.key == key)
    }

    /// The last value, which is the one that counts.
    pub(super) fn value(&self, key: &'static str) -> Option<&str> {
        self.entries(key).next_back().map(|entry| entry.value.as_str())
    }

    /// Prefixes of every line with this key, host bits kept or cleared, each once.
    pub(super) fn prefixes(&self, key: &'static str, with_host: bool) -> Vec<IpNetwork> {
        let items = self.entries(key).flat_map(|entry| items(&entry.value).map(|(_, item)| item));
        let mut prefixes: Vec<IpNetwork> = Vec::new();
        let items = items.filter_map(text::prefix);
        for prefix in items.map(|prefix| if with_host { prefix } else { prefix::network(prefix) }) {
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    pub(super) fn endpoint(&self) -> Option<policy::HostPort> {
        self.value("endpoint").and_then(text::host_port)
    }

    pub(super) fn public_key(&self) -> Option<PublicKey> {
        self.value("publickey").and_then(|key| key.parse::<PublicKey>().ok())
    }

    pub(super) fn keepalive(&self) -> Option<u64> {
        self.value("persistentkeepalive")?.parse().ok().filter(|seconds| (1..=65_535).contains(seconds))
    }
}

/// The items of a list, with the columns from its start.
fn items(list: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut column = 0_u32;
    list.split(',').map(move |item| {
        let blank = item.len() - item.trim_start().len();
        let at = column.saturating_add(u32::try_from(blank).unwrap_or(0));
        column = column.saturating_add(u32::try_from(item.chars().count()).unwrap_or(0)).saturating_add(1);
        (at, item.trim())
    })
}

/// What is wrong with a value of the tunnel, and the place of it.
pub(super) fn wrong(entry: &Entry) -> Option<(Place, String)> {
    let value = entry.value.as_str();
    let number =
        |range: std::ops::RangeInclusive<u32>| value.parse().is_ok_and(|number: u32| range.contains(&number));
    let expected = match entry.key.as_str() {
        "address" | "allowedips" => {
            let bad = items(value).find(|(_, item)| !item.is_empty() && text::prefix(item).is_none());
            return bad.map(|(offset, item)| {
                let column = entry.place.column.saturating_add(offset);
                (Place { column, ..entry.place }, format!("`{item}` is no address or prefix: it is left out"))
            });
        }
        "listenport" if !number(1..=65_535) => "a port from 1 to 65535",
        "mtu" if !number(576..=65_535) => "a number from 576 to 65535",
        "publickey" if value.parse::<PublicKey>().is_err() => "a public key",
        "endpoint" if text::host_port(value).is_none() => "HOST:PORT",
        "persistentkeepalive" if value != "off" && !number(0..=65_535) => "seconds from 0 to 65535, or off",
        _ => return None,
    };
    Some((entry.place, format!("{} is not {expected}: it is left out", entry.key)))
}

/// The prefixes, where those that hold every address of a family together are one.
pub(super) fn with_defaults(prefixes: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut result: Vec<IpNetwork> = Vec::new();
    for &prefix in prefixes {
        let of_family = prefixes.iter().copied().filter(|other| other.is_ipv4() == prefix.is_ipv4());
        let wide: Vec<IpNetwork> = of_family.filter(|other| other.prefix() <= WIDE).collect();
        let is_part = prefix.prefix() <= WIDE && prefix::is_everything(&wide);
        let whole = IpNetwork::new(prefix.ip(), 0).ok().map(prefix::network);
        let prefix = whole.filter(|_| is_part).unwrap_or(prefix);
        if !result.contains(&prefix) {
            result.push(prefix);
        }
    }
    result
}

/// The longest prefix that is written as a part of everything, and not for itself.
const WIDE: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_quarters_and_wholes_are_everything() {
        let prefixes = |text: &str| text.split(' ').map(|p| p.parse().unwrap()).collect::<Vec<IpNetwork>>();
        for (written, meant) in [
            ("0.0.0.0/1 128.0.0.0/1 ::/1 8000::/1", "0.0.0.0/0 ::/0"),
            ("0.0.0.0/2 64.0.0.0/2 128.0.0.0/1", "0.0.0.0/0"),
            ("0.0.0.0/1 192.168.1.0/24", "0.0.0.0/1 192.168.1.0/24"),
            ("192.168.1.0/24 0.0.0.0/1 128.0.0.0/1", "192.168.1.0/24 0.0.0.0/0"),
            ("0.0.0.0/1 0.0.0.0/2 128.0.0.0/2", "0.0.0.0/1 0.0.0.0/2 128.0.0.0/2"),
        ] {
            assert_eq!(with_defaults(&prefixes(written)), prefixes(meant), "{written}");
        }
    }

    #[test]
    fn a_comment_next_to_the_head_of_a_section_is_its_name() {
        let text = "# the office\n[Interface]\nAddress = 10.0.0.1/24\n# Endpoint = 1.2.3.4:5\n\n### begin wroclaw ###\n\
                    [Peer]\nPublicKey = a\n# not a name of the next\n\n[Peer]\n# friendly_name = Lviv\nPublicKey = b\n# kyiv\n[Peer] # odesa\n";
        let (sections, findings) = sections(text, "f");

        assert!(findings.is_empty());
        let names: Vec<Vec<&str>> = sections
            .iter()
            .map(|section| section.names.iter().map(|(name, _)| name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["the-office"], vec!["wroclaw"], vec!["lviv"], vec!["kyiv", "odesa"]]);
    }

    #[test]
    fn a_backslash_at_the_end_of_a_line_joins_nothing() {
        let (sections, findings) = sections("[Interface]\n# kept \\\nPostUp = a \\\n  b # c\n", "f");

        assert_eq!(*sections[0].values[0].value, "a \\");
        assert_eq!(sections[0].values[0].place, Place { line: 3, column: 10 });
        assert_eq!(findings.iter().map(|finding| finding.at.as_ref().unwrap().1).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn interface_sections_are_one() {
        let (sections, _) = sections("[Interface]\nA = 1\n[Peer]\nB = 2\n[Interface]\nA = 3\n", "f");

        let titles: Vec<&str> = sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["interface", "peer"]);
        assert_eq!(sections[0].value("a"), Some("3"));
    }
}

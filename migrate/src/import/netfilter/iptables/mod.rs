//! `iptables` and `ip6tables`, in their legacy and nft forms: the words of one command.

use ipnetwork::IpNetwork;

mod values;

use self::values::ports;
pub(super) use self::values::{prefix, states, target};
use super::shell::{Place, Word};
use super::{Action, Base, ChainId, Condition, Hook, Kind, Operation, Ports, Rule, Unread};
use policy::{Protocol, text};

/// The program's tables and chains, when `name` is one of its programs; `None` for another program.
pub(in crate::import) fn space(name: &str) -> Option<&'static str> {
    match name {
        "iptables" => Some("iptables"),
        "iptables-legacy" => Some("legacy iptables"),
        "iptables-nft" => Some("nft iptables"),
        "ip6tables" => Some("ip6tables"),
        "ip6tables-legacy" => Some("legacy ip6tables"),
        "ip6tables-nft" => Some("nft ip6tables"),
        _ => None,
    }
}

/// Where the kernel calls a built-in chain.
pub(super) fn base(id: &ChainId) -> Option<Base> {
    if !id.space.ends_with("tables") {
        return None;
    }
    let (hook, is_first) = match id.name.as_str() {
        "PREROUTING" => (Hook::Prerouting, true),
        "INPUT" => (Hook::Input, false),
        "FORWARD" => (Hook::Forward, false),
        "OUTPUT" => (Hook::Output, true),
        "POSTROUTING" => (Hook::Postrouting, false),
        _ => return None,
    };
    let has_chain = match id.table.as_str() {
        "nat" => hook != Hook::Forward,
        "raw" => is_first,
        "filter" | "security" => !matches!(hook, Hook::Prerouting | Hook::Postrouting),
        _ => true,
    };
    if !has_chain {
        return None;
    }
    let (is_nat, priority) = match id.table.as_str() {
        "raw" => (false, -300),
        "mangle" => (false, -150),
        "nat" => (true, if is_first { -100 } else { 100 }),
        "security" => (false, 50),
        _ => (false, 0),
    };
    Some(Base { hook, is_nat, priority })
}

/// Reads a command of `space`; what cannot be read of a rule is in the rule.
///
/// # Errors
/// [`Unread`], when it is not known which chain is changed, or how.
pub(in crate::import) fn operation(
    space: &'static str,
    words: &[Word],
    text: &str,
) -> Result<Operation, Unread> {
    let words = separate(words);
    let place = words.first().map(|word| word.place).unwrap_or_default();
    if let Some(word) = words.iter().find(|word| word.is_expanded) {
        return Err(Unread::new(
            word.place,
            format!("`{}` depends on the shell: write the value", word.text),
        ));
    }
    let mut reader = Reader { words: &words, at: 1, space, parts: Parts::default() };
    let mut spec: Vec<String> = Vec::new();
    while let Some(word) = reader.next() {
        let start = reader.at - 1;
        reader.option(word);
        spec.extend(group(words.get(start..reader.at).unwrap_or_default()));
    }
    spec.sort();
    let Parts { table, verb, unread, .. } = &mut reader.parts;
    let table = table.take().unwrap_or_else(|| "filter".to_owned());
    if !["filter", "nat", "mangle", "raw", "security"].contains(&table.as_str()) {
        return Err(Unread::new(place, format!("there is no table `{table}`")));
    }
    let Some((verb, name, number)) = verb.take() else {
        let why = "no command such as -A or -I is in it";
        return Err(unread.take().unwrap_or_else(|| Unread::new(place, why)));
    };
    let id = name.map(|name| ChainId { space, table: table.clone(), name });
    let name = id.as_ref().map(|id| id.name.clone());
    let mut rule = reader.rule((&table, name.as_deref().unwrap_or_default()), place, text);
    rule.spec = spec;
    let needs = || Unread::new(place, "the name of a chain is missing");
    Ok(match verb {
        Verb::Append => Operation::Append(id.ok_or_else(needs)?, rule),
        Verb::Insert => Operation::Insert(id.ok_or_else(needs)?, number.unwrap_or(1).max(1) - 1, rule),
        Verb::Check => Operation::Check(id.ok_or_else(needs)?, rule),
        Verb::Delete => match number {
            Some(number) => Operation::DeleteAt(id.ok_or_else(needs)?, number.max(1) - 1),
            None => Operation::Delete(id.ok_or_else(needs)?, rule),
        },
        Verb::Refuse(refuses) => Operation::Policy(id.ok_or_else(needs)?, refuses),
        Verb::Flush => Operation::Flush(space, table, name),
        Verb::Make => Operation::Make(id.ok_or_else(needs)?, None, None),
        Verb::Remove => Operation::Remove(space, table, name),
        Verb::Look => Operation::Nothing,
    })
}

#[derive(Clone, Copy)]
enum Verb {
    Append,
    Insert,
    Delete,
    Check,
    /// Whether the policy refuses.
    Refuse(bool),
    Flush,
    Make,
    Remove,
    Look,
}

#[derive(Default)]
struct Parts {
    table: Option<String>,
    verb: Option<(Verb, Option<String>, Option<usize>)>,
    conditions: Vec<Condition>,
    is_negated: bool,
    action: Option<Action>,
    /// For `DNAT` and `SNAT`, whether it is the first.
    changes_destination: Option<bool>,
    unread: Option<Unread>,
}

/// Targets of extensions, which are no chains.
const EXTENSIONS: [&str; 24] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNPT",
    "DSCP",
    "HL",
    "HMARK",
    "MARK",
    "NETMAP",
    "NFQUEUE",
    "NOTRACK",
    "QUEUE",
    "SECMARK",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
];

/// Options with a value that say when a rule applies.
const OPTIONS: [&str; 26] = [
    "--comment",
    "-i",
    "--in-interface",
    "-o",
    "--out-interface",
    "-p",
    "--protocol",
    "--proto",
    "-s",
    "--source",
    "--src",
    "-d",
    "--destination",
    "--dst",
    "--dport",
    "--destination-port",
    "--dports",
    "--destination-ports",
    "--sport",
    "--source-port",
    "--sports",
    "--source-ports",
    "--ctstate",
    "--state",
    "--dst-type",
    "--tcp-flags",
];

struct Reader<'w> {
    words: &'w [Word],
    at: usize,
    space: &'static str,
    parts: Parts,
}

/// An option of a rule with its value; none for what is no part of the rule.
fn group(words: &[Word]) -> Option<String> {
    let (option, values) = words.split_first()?;
    let option = match option.text.as_str() {
        "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" | "-C" | "--check" | "-t" | "--table"
        | "-w" | "--wait" | "-W" | "--wait-interval" | "-v" | "--verbose" | "-n" | "--numeric" | "-4"
        | "-6" => return None,
        "--jump" => "-j",
        "--match" => "-m",
        "--protocol" | "--proto" => "-p",
        "--source" | "--src" => "-s",
        "--destination" | "--dst" => "-d",
        "--in-interface" => "-i",
        "--out-interface" => "-o",
        "--to" | "--to-dest" => "--to-destination",
        other => other,
    };
    let values: Vec<&str> = values.iter().map(|word| word.text.as_str()).collect();
    // `-p tcp` loads it as well.
    let is_implied = option == "-m" && matches!(values.as_slice(), ["tcp" | "udp"]);
    (!is_implied).then(|| format!("{option} {}", values.join(" ")).trim_end().to_owned())
}

/// `-ptcp` and `--dport=443` as two words.
fn separate(words: &[Word]) -> Vec<Word> {
    let mut separated = Vec::new();
    for word in words {
        let bytes = word.text.as_bytes();
        let split = match (bytes.first(), bytes.get(1)) {
            (Some(b'-'), Some(b'-')) => word.text.find('=').map(|at| (at, at + 1)),
            (Some(b'-'), Some(letter)) if bytes.len() > 2 && b"tpsdioj".contains(letter) => Some((2, 2)),
            _ => None,
        };
        let parts = split.and_then(|(end, start)| Some((word.text.get(..end)?, word.text.get(start..)?)));
        match parts {
            Some((option, value)) => {
                separated.push(Word { text: option.to_owned(), ..word.clone() });
                let column = word.place.column + u32::try_from(option.len()).unwrap_or(0);
                let place = Place { column, ..word.place };
                separated.push(Word { text: value.to_owned(), place, ..word.clone() });
            }
            None => separated.push(word.clone()),
        }
    }
    separated
}

impl<'w> Reader<'w> {
    fn next(&mut self) -> Option<&'w Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn unread(&mut self, word: &Word, why: impl Into<String>) {
        self.parts.unread.get_or_insert(Unread::new(word.place, why));
    }

    /// The value of an option; a `!` in front of it negates, as old versions wrote it.
    fn value(&mut self, option: &Word) -> Option<&'w Word> {
        let mut value = self.next();
        if value.is_some_and(|value| value.text == "!") {
            self.parts.is_negated = true;
            value = self.next();
        }
        if value.is_none() {
            self.unread(option, format!("`{}` has no value", option.text));
        }
        value
    }

    fn option(&mut self, word: &'w Word) {
        match word.text.as_str() {
            "!" => {
                self.parts.is_negated = true;
                return;
            }
            "-t" | "--table" => {
                let table = self.value(word).map(|table| table.text.clone());
                self.parts.table = table.or(self.parts.table.take());
            }
            "-w" | "--wait" | "-W" | "--wait-interval" => {
                // The number of seconds may be left out.
                let is_number = |word: &&Word| word.text.parse::<u32>().is_ok();
                if self.words.get(self.at).filter(is_number).is_some() {
                    self.at += 1;
                }
            }
            "-v" | "--verbose" | "-n" | "--numeric" => {}
            "-4" if !self.space.ends_with("ip6tables") => {}
            "-6" if self.space.ends_with("ip6tables") => {}
            "-j" | "--jump" | "-g" | "--goto" => self.jump(word),
            _ => {
                if !self.verb(word) && !self.condition(word) && !self.target_option(word) {
                    self.unread(word, format!("`{}` is not understood", word.text));
                }
            }
        }
        if self.parts.is_negated {
            self.unread(word, format!("`!` before `{}` is not understood", word.text));
        }
        self.parts.is_negated = false;
    }

    fn verb(&mut self, word: &'w Word) -> bool {
        let verb = match word.text.as_str() {
            "-A" | "--append" => Verb::Append,
            "-I" | "--insert" => Verb::Insert,
            "-D" | "--delete" => Verb::Delete,
            "-C" | "--check" => Verb::Check,
            "-P" | "--policy" => Verb::Refuse(true),
            "-F" | "--flush" => Verb::Flush,
            "-N" | "--new-chain" | "--new" => Verb::Make,
            "-X" | "--delete-chain" => Verb::Remove,
            "-L" | "--list" | "-S" | "--list-rules" | "-Z" | "--zero" => Verb::Look,
            _ => return false,
        };
        let is_name = |word: &&Word| !word.text.starts_with('-') && word.text != "!";
        let name = self.words.get(self.at).filter(is_name).map(|word| word.text.clone());
        self.at += usize::from(name.is_some());
        let following = self.words.get(self.at);
        let number = following.and_then(|word| word.text.parse().ok());
        self.at += usize::from(number.is_some());
        let verb = match (verb, following.map(|word| word.text.as_str())) {
            (Verb::Refuse(_), Some(policy @ ("DROP" | "ACCEPT"))) => {
                self.at += 1;
                Verb::Refuse(policy == "DROP")
            }
            (Verb::Refuse(_), _) => {
                self.unread(word, "a policy is DROP or ACCEPT");
                return true;
            }
            (verb, _) => verb,
        };
        self.parts.verb = Some((verb, name, number));
        true
    }

    fn jump(&mut self, word: &'w Word) {
        let Some(target) = self.value(word) else { return };
        let is_goto = matches!(word.text.as_str(), "-g" | "--goto");
        let action = match target.text.as_str() {
            _ if is_goto => Action::Goto(target.text.clone()),
            "ACCEPT" => Action::Accept,
            "DROP" | "REJECT" => Action::Refuse,
            "RETURN" => Action::Return,
            "LOG" | "NFLOG" => Action::Nothing,
            "TCPMSS" => Action::ClampMss,
            "MASQUERADE" => Action::Masquerade,
            "REDIRECT" => Action::Redirect(Ports::Same),
            // The address follows.
            "DNAT" | "SNAT" => {
                self.parts.changes_destination = Some(target.text == "DNAT");
                Action::Unclear
            }
            name if EXTENSIONS.contains(&name) => {
                self.unread(target, format!("the target `{name}` is not understood"));
                Action::Unclear
            }
            name => Action::Jump(name.to_owned()),
        };
        self.parts.action = Some(action);
    }

    /// An option that belongs to a target.
    fn target_option(&mut self, word: &'w Word) -> bool {
        match word.text.as_str() {
            "--to-destination" | "--to-dest" | "--to" if self.parts.changes_destination == Some(true) => {
                let Some(value) = self.value(word) else { return true };
                match target(&value.text) {
                    Some(target) => self.parts.action = Some(Action::Dnat(target)),
                    None => self.unread(
                        value,
                        format!("`{}` is no single address with a port or a range of ports", value.text),
                    ),
                }
            }
            "--to-source" if self.parts.changes_destination == Some(false) => {
                let Some(value) = self.value(word) else { return true };
                match text::address(&value.text) {
                    Some(address) => self.parts.action = Some(Action::Snat(address)),
                    None => self.unread(value, format!("`{}` is no single address", value.text)),
                }
            }
            "--to-ports" | "--to-port" if matches!(self.parts.action, Some(Action::Redirect(_))) => {
                let Some(value) = self.value(word) else { return true };
                match text::ports(&value.text) {
                    Some(ports) => {
                        self.parts.action =
                            Some(Action::Redirect(Ports::Within(ports.first(), ports.last())));
                    }
                    None => self.unread(value, format!("`{}` is no port or range of ports", value.text)),
                }
            }
            "--random" | "--random-fully" | "--persistent"
                if self.parts.changes_destination.is_some()
                    || matches!(
                        self.parts.action,
                        Some(Action::Masquerade | Action::Dnat(_) | Action::Snat(_))
                    ) => {}
            "--clamp-mss-to-pmtu" if matches!(self.parts.action, Some(Action::ClampMss)) => {}
            "--set-mss" if matches!(self.parts.action, Some(Action::ClampMss)) => {
                let _ = self.value(word);
            }
            "--reject-with" if matches!(self.parts.action, Some(Action::Refuse)) => {
                let _ = self.value(word);
            }
            "--log-prefix" | "--log-level" | "--nflog-prefix" | "--nflog-group"
                if matches!(self.parts.action, Some(Action::Nothing)) =>
            {
                let _ = self.value(word);
            }
            _ => return false,
        }
        true
    }

    fn condition(&mut self, word: &'w Word) -> bool {
        let option = word.text.as_str();
        if matches!(option, "-m" | "--match") {
            let known = ["tcp", "udp", "multiport", "comment", "conntrack", "state", "addrtype"];
            if let Some(value) = self.value(word).filter(|value| !known.contains(&value.text.as_str())) {
                self.unread(value, format!("the match `{}` is not understood", value.text));
            }
            return true;
        }
        if matches!(option, "--syn" | "-f" | "--fragment") {
            // Connection tracking joins fragments before any rule sees them.
            self.add(if option == "--syn" { Kind::Syn } else { Kind::Never });
            return true;
        }
        if !OPTIONS.contains(&option) {
            return false;
        }
        let Some(value) = self.value(word) else { return true };
        let text = value.text.as_str();
        let kind = match option {
            "--comment" => return true,
            "-i" | "--in-interface" => Some(Kind::Incoming(vec![text.to_owned()])),
            "-o" | "--out-interface" => Some(Kind::Outgoing(vec![text.to_owned()])),
            "-p" | "--protocol" | "--proto" => return self.protocol(value),
            "-s" | "--source" | "--src" => self.prefixes(text).map(Kind::Source),
            "-d" | "--destination" | "--dst" => self.prefixes(text).map(Kind::Destination),
            "--sport" | "--source-port" | "--sports" | "--source-ports" => ports(text).map(Kind::SourcePort),
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                ports(text).map(Kind::Port)
            }
            "--ctstate" | "--state" => states(text).map(Kind::State),
            "--dst-type" => Some(Kind::Local).filter(|_| text == "LOCAL"),
            _ => {
                let set = self.next().map(|word| word.text.as_str()).unwrap_or_default();
                values::flags(text, set)
            }
        };
        match kind {
            Some(kind) => self.add(kind),
            None => self.unread(value, format!("`{text}` of {option} is not understood")),
        }
        true
    }

    fn add(&mut self, kind: Kind) {
        let is_negated = std::mem::take(&mut self.parts.is_negated);
        // What comes after a word that was not understood may be part of it.
        if self.parts.unread.is_none() {
            self.parts.conditions.push(Condition { kind, is_negated });
        }
    }

    fn protocol(&mut self, value: &'w Word) -> bool {
        let protocol = match value.text.to_ascii_lowercase().as_str() {
            "all" | "0" if !self.parts.is_negated => return true,
            "tcp" | "6" => Some(Protocol::Tcp),
            "udp" | "17" => Some(Protocol::Udp),
            "icmp" | "1" | "icmpv6" | "ipv6-icmp" | "58" | "esp" | "ah" | "gre" | "sctp" => None,
            _ => {
                self.unread(value, format!("the protocol `{}` is not understood", value.text));
                return true;
            }
        };
        self.add(Kind::Protocol(vec![protocol]));
        true
    }

    fn prefixes(&self, list: &str) -> Option<Vec<IpNetwork>> {
        let is_v4 = !self.space.ends_with("ip6tables");
        let prefixes: Vec<IpNetwork> = list.split(',').map(prefix).collect::<Option<_>>()?;
        let fits = prefixes.iter().all(|prefix| prefix.is_ipv4() == is_v4);
        (fits && (prefixes.len() == 1 || !self.parts.is_negated)).then_some(prefixes)
    }

    fn rule(self, home: (&str, &str), place: Place, text: &str) -> Rule {
        let Parts { conditions, action, unread, .. } = self.parts;
        let has_ports = conditions.iter().any(|condition| matches!(condition.kind, Kind::Port(_)));
        let has_transport = conditions.iter().any(|condition| {
            matches!(&condition.kind, Kind::Protocol(protocols) if protocols.iter().all(Option::is_some))
                && !condition.is_negated
        });
        let unread = unread.or_else(|| {
            let why = "ports need `-p tcp` or `-p udp`";
            (has_ports && !has_transport).then(|| Unread::new(place, why))
        });
        let misused = misused(home, &conditions, action.as_ref());
        let unread = unread.or_else(|| misused.map(|why| Unread::new(place, why)));
        let action = match (action.unwrap_or(Action::Nothing), &unread) {
            (action @ (Action::Nothing | Action::ClampMss), _) => action,
            (_, Some(_)) => Action::Unclear,
            (action, None) => action,
        };
        Rule { conditions, action, unread, spec: Vec::new(), place, text: text.to_owned() }
    }
}

/// Why the program refuses a rule in this table and chain.
fn misused(
    (table, chain): (&str, &str),
    conditions: &[Condition],
    action: Option<&Action>,
) -> Option<&'static str> {
    let asks = |incoming: bool| {
        conditions.iter().any(|condition| match incoming {
            true => matches!(condition.kind, Kind::Incoming(_)),
            false => matches!(condition.kind, Kind::Outgoing(_)),
        })
    };
    match action {
        Some(Action::Unclear) => Some("the address that it changes to is missing"),
        Some(Action::Refuse) if table == "nat" => Some("the table nat refuses nothing: use the table filter"),
        Some(Action::Dnat(_) | Action::Redirect(_) | Action::Masquerade | Action::Snat(_))
            if table != "nat" =>
        {
            Some("addresses are changed in the table nat only: add -t nat")
        }
        _ if asks(false) && matches!(chain, "PREROUTING" | "INPUT") => {
            Some("it is not known yet by which interface a packet leaves: use -i")
        }
        _ if asks(true) && matches!(chain, "POSTROUTING" | "OUTPUT") => {
            Some("it is no longer known by which interface a packet came in: use -o")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::shell::{Body, commands};
    use super::*;

    fn rule(text: &str) -> Rule {
        let chars: Vec<(char, Place)> =
            text.chars().zip(1..).map(|(c, column)| (c, Place { line: 7, column })).collect();
        let Body::Simple { words, .. } = &commands(&chars)[0].body else { panic!("{text}") };
        match operation(space(&words[0].text).unwrap(), words, text) {
            Ok(Operation::Append(_, rule) | Operation::Insert(_, _, rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_way_to_write_a_rule_is_the_same_rule() {
        let usual = rule(
            "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 443 -j DNAT --to-destination 10.0.0.2:443",
        );
        for other in [
            "iptables-nft -w 5 -t nat -I PREROUTING 1 -i eth0 -p tcp -m tcp --dport 443 -j DNAT --to 10.0.0.2:443",
            "iptables-legacy --table nat --append PREROUTING --in-interface eth0 --protocol tcp --destination-port 443 --jump DNAT --to-destination 10.0.0.2:443",
            "iptables -tnat -A PREROUTING -ieth0 -ptcp --dport=443 -jDNAT --to-destination=10.0.0.2:443",
            "iptables -t nat -A PREROUTING -i eth0 -p 6 -m multiport --dports 443 -m comment --comment 'a; b' -j DNAT --to-destination 10.0.0.2:443",
        ] {
            let other = rule(other);
            assert_eq!((&other.conditions, &other.action), (&usual.conditions, &usual.action));
        }
    }

    #[test]
    fn a_word_that_is_not_understood_is_named_by_its_column() {
        for (text, column) in [
            ("iptables -A FORWARD -m geoip --source-country RU -j DROP", 24),
            ("iptables -A FORWARD -s example.com -j DROP", 24),
            ("iptables -A FORWARD -p tcp --dport gopher -j DROP", 36),
            ("iptables -A FORWARD -p tcp ! -m tcp -j DROP", 30),
            ("iptables -t nat -A PREROUTING -p tcp --dport 1 -j DNAT --to-destination 10.0.0.2-10.0.0.3", 73),
            ("iptables -A FORWARD -p tcp --dport 1 --frobnicate -j ACCEPT", 38),
        ] {
            let rule = rule(text);
            let unread = rule.unread.unwrap_or_else(|| panic!("{text}"));
            assert_eq!((unread.place.line, unread.place.column), (7, column), "{text}: {}", unread.why);
            assert_eq!(rule.action, Action::Unclear, "{text}");
        }
    }
}

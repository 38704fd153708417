//! What the commands of a file change on its machine, in the order in which they run.

use ipnetwork::IpNetwork;

use super::super::netfilter::shell::{Body, Command, Place, When, Word, commands};
use super::super::netfilter::{Action, ChainId, Condition, Kind, Operation, Rule, Ruleset, iptables, nft};
use super::super::outcome::FindingKind;
use super::Section;
use super::file::Entry;
use policy::text;

/// The machine after its hooks ran.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) rules: Ruleset,
    /// What is known of each command but the rules.
    pub(super) notes: Vec<Note>,
    /// Rules that a command of the file made: their numbers, in order.
    pub(super) made: Vec<usize>,
    /// Prefixes that are routed into the tunnel besides allowed-ips.
    pub(super) routes: Vec<IpNetwork>,
    /// Prefixes that are routed to other places.
    pub(super) elsewhere: Vec<IpNetwork>,
    /// Routing tables that every packet is looked up in besides the main one.
    pub(super) tables: Vec<String>,
    /// Public keys of peers whose preshared key is read from a file.
    pub(super) preshared: Vec<String>,
}

#[derive(PartialEq, Eq)]
pub(super) struct Note {
    pub(super) place: Place,
    pub(super) kind: FindingKind,
    pub(super) text: String,
}

/// Programs that change the packet filter and are not read.
const FILTERS: [&str; 15] = [
    "iptables",
    "ip6tables",
    "nft",
    "ipset",
    "ufw",
    "firewall",
    "netfilter",
    "ebtables",
    "arptables",
    "xtables",
    "shorewall",
    "ferm",
    "bpftool",
    "awall",
    "fwbuilder",
];

/// Runs the hooks of the interface; `%i` is its name.
pub(super) fn run(interface: &Section, tunnel: &str) -> Machine {
    let mut machine = Machine::default();
    for key in ["preup", "postup"] {
        for entry in interface.entries(key) {
            machine.hook(entry, tunnel);
        }
    }
    machine.rules.unsure_programs().into_iter().for_each(|number| machine.made.push(number));
    machine
}

/// Whether a command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    Yes,
    No,
    Maybe,
}

/// How far the shell of a hook has got.
struct Shell {
    /// How the command before ended; `None` when that is not known.
    status: Option<bool>,
    /// Whether it still runs.
    goes_on: Runs,
    /// Whether it ends with the first command that fails.
    ends_on_failure: bool,
}

impl Shell {
    fn runs(&self, when: When) -> Runs {
        let by_status = match (when, self.status) {
            (When::Always, _) | (When::AfterSuccess, Some(true)) | (When::AfterFailure, Some(false)) => {
                Runs::Yes
            }
            (When::AfterSuccess, Some(false)) | (When::AfterFailure, Some(true)) => Runs::No,
            (_, None) => Runs::Maybe,
        };
        match (self.goes_on, by_status) {
            (Runs::No, _) | (_, Runs::No) => Runs::No,
            (Runs::Yes, Runs::Yes) => Runs::Yes,
            _ => Runs::Maybe,
        }
    }

    /// After a command that ran, or may have.
    fn after(&mut self, command: &Command, runs: Runs, ended: Option<bool>) {
        let words = match &command.body {
            Body::Simple { words, .. } => words.iter().map(|word| word.text.as_str()).collect(),
            Body::Opaque(_) => Vec::new(),
        };
        self.status = if runs == Runs::Yes { ended } else { None };
        match words.as_slice() {
            ["exit" | "return" | "exec", ..] => self.goes_on = self.goes_on.stopped(runs),
            ["set", flags, ..] if flags.starts_with('-') && flags.contains('e') => {
                self.ends_on_failure = true
            }
            _ if self.ends_on_failure && self.status != Some(true) => {
                let fails = if self.status.is_some() { Runs::Yes } else { Runs::Maybe };
                self.goes_on = self.goes_on.stopped(fails);
            }
            _ => {}
        }
    }
}

impl Runs {
    /// Whether it still runs where something that runs like `other` ends it.
    const fn stopped(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::Yes) => Self::No,
            (_, Self::Maybe) => Self::Maybe,
            (_, Self::No) => self,
        }
    }
}

impl Machine {
    fn hook(&mut self, entry: &Entry, tunnel: &str) {
        if entry.value.ends_with('\\') {
            let why = "a line of wg-quick does not go on after a backslash: write the command in one line";
            let number = self.rules.obscure(entry.place, &entry.value, why);
            self.made.push(number);
            return;
        }
        let mut shell = Shell { status: Some(true), goes_on: Runs::Yes, ends_on_failure: false };
        for command in commands(&entry.hook) {
            let runs = shell.runs(command.when);
            if runs == Runs::No {
                let text =
                    format!("`{}`: it does not run, by how the commands before it end", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
                continue;
            }
            let ended = self.command(&command, tunnel, runs);
            shell.after(&command, runs, ended);
        }
    }

    fn note(&mut self, place: Place, kind: FindingKind, text: impl Into<String>) {
        let note = Note { place, kind, text: text.into() };
        // A block changes several things in one command.
        if self.notes.last() != Some(&note) {
            self.notes.push(note);
        }
    }

    /// Carries a command out; whether it succeeds, where that is known.
    fn command(&mut self, command: &Command, tunnel: &str, runs: Runs) -> Option<bool> {
        let (words, output) = match &command.body {
            Body::Simple { words, output } => (words, output),
            Body::Opaque(why) => {
                self.opaque(command, why);
                return None;
            }
        };
        let is_run_by = |word: &&Word| matches!(word.text.as_str(), "sudo" | "command" | "exec");
        let skipped = words.iter().take_while(is_run_by).count();
        let words: Vec<Word> = words
            .iter()
            .skip(skipped)
            .map(|word| Word { text: word.text.replace("%i", tunnel), ..word.clone() })
            .collect();
        let program = words.first().and_then(|word| word.text.rsplit('/').next()).unwrap_or_default();
        let rest: Vec<&str> = words.iter().skip(1).map(|word| word.text.as_str()).collect();
        if words.first().is_some_and(|word| word.is_expanded) {
            let why = "which program it runs depends on the shell: write its name";
            return self.unread(command, command.place, why);
        }
        if let Some(space) = iptables::space(program) {
            return match iptables::operation(space, &words, &command.text) {
                Ok(operation) => self.filter(command, operation, runs),
                Err(unread) => self.unread(command, unread.place, &unread.why),
            };
        }
        if program == "nft" {
            return match nft::operations(&words) {
                Ok(operations) => {
                    let ended: Vec<Option<bool>> =
                        operations.into_iter().map(|one| self.filter(command, one, runs)).collect();
                    ended.into_iter().try_fold(true, |all, one| Some(all && one?))
                }
                Err(unread) => self.unread(command, unread.place, &unread.why),
            };
        }
        let output = output.as_ref().map(|word| word.text.replace("%i", tunnel));
        self.other_program(command, (program, &rest), output.as_deref(), tunnel)
    }

    /// A program that is not one of the packet filter.
    fn other_program(
        &mut self,
        command: &Command,
        (program, rest): (&str, &[&str]),
        output: Option<&str>,
        tunnel: &str,
    ) -> Option<bool> {
        match program {
            "sysctl" if rest.iter().any(|word| word.contains('=')) => {
                let set = rest.iter().filter(|word| word.contains('='));
                let known = set.map(|word| self.switch(word)).fold(true, |all, one| all & one);
                self.switched(command, known)
            }
            "echo" => match output {
                Some(file) if file.starts_with("/proc/sys/") => {
                    let name = file.trim_start_matches("/proc/sys/").replace('/', ".");
                    let known = self.switch(&format!("{name}={}", rest.join(" ")));
                    self.switched(command, known)
                }
                Some(_) => self.other(command),
                None => Some(true),
            },
            "ip" if rest.contains(&"netns") => {
                self.opaque(command, "it is for another network namespace, or may be");
                None
            }
            "tc" if rest.contains(&"filter") => {
                self.unread(command, command.place, "what it drops is not read")
            }
            "ip" => self.ip(command, rest, tunnel),
            "wg" if rest.first() == Some(&"set") => self.wg(command, rest),
            "true" | ":" | "sleep" | "logger" | "set" | "exit" | "return" => Some(true),
            "iptables-save" | "ip6tables-save" => Some(true),
            "false" => Some(false),
            "resolvconf" | "resolvectl" => {
                let text = shown(&command.text);
                let text = format!("`{text}`: name servers are configured on the machine itself");
                self.note(command.place, FindingKind::Stays, text);
                None
            }
            _ => {
                self.opaque(command, "it is another program, which is not read");
                None
            }
        }
    }

    /// Something that may have changed the packet filter makes every decision unclear.
    fn opaque(&mut self, command: &Command, why: &str) {
        let is_word = |word: &str| {
            word.rsplit('/').next().is_some_and(|name| FILTERS.iter().any(|known| name.starts_with(known)))
        };
        let ends_word = |c: char| c.is_whitespace() || "'\"`;|&()={}:-$".contains(c);
        if command.text.split(ends_word).any(is_word) {
            self.unread(command, command.place, why);
        } else {
            self.other(command);
        }
    }

    fn other(&mut self, command: &Command) -> Option<bool> {
        let text = format!(
            "`{}`: what it does is not known here; compare by hand, and carry over what limits services",
            shown(&command.text)
        );
        self.note(command.place, FindingKind::NoCounterpart, text);
        None
    }

    fn unread(&mut self, command: &Command, place: Place, why: &str) -> Option<bool> {
        let number = self.rules.obscure(place, &command.text, why);
        self.made.push(number);
        None
    }

    fn filter(&mut self, command: &Command, operation: Operation, runs: Runs) -> Option<bool> {
        if runs == Runs::Maybe && !matches!(operation, Operation::Check(..) | Operation::Nothing) {
            let why = "whether it runs depends on a command that is not read";
            return self.unread(command, command.place, why);
        }
        if let Some(why) = self.rules.doubt(&operation) {
            return self.unread(command, command.place, why);
        }
        let note = described(&operation);
        let (is_done, number) = self.rules.apply(operation);
        match number {
            Some(number) => self.made.push(number),
            None => {
                self.note(command.place, FindingKind::Replaced, format!("`{}`: {note}", shown(&command.text)))
            }
        }
        Some(is_done)
    }

    /// `NAME=VALUE` of a kernel switch; whether Causeway sets it to the same itself.
    fn switch(&mut self, setting: &str) -> bool {
        let Some((name, value)) = setting.split_once('=') else { return false };
        let (name, value) = (name.trim().replace('/', "."), value.trim());
        let family = match name.as_str() {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => Some(0),
            "net.ipv6.conf.all.forwarding" => Some(1),
            _ => None,
        };
        // A switch of one interface, or of those that come later, may be the way of a service.
        let parts: Vec<&str> = name.split('.').collect();
        if let ["net", version, "conf", _, "forwarding"] = parts.as_slice()
            && family.is_none()
            && value == "0"
        {
            let family = usize::from(*version == "ipv6");
            self.rules.forwards.get_mut(family).into_iter().for_each(|forwards| *forwards = Some(false));
            return false;
        }
        if let Some(forwards) = family.and_then(|family| self.rules.forwards.get_mut(family)) {
            *forwards = Some(value != "0");
            return value == "1";
        }
        if name.ends_with(".route_localnet") {
            self.rules.routes_loopback = value == "1";
            return false;
        }
        let ends =
            [(".rp_filter", "02"), (".src_valid_mark", "1"), (".forwarding", "1"), (".proxy_arp", "0")];
        ends.iter().any(|(end, values)| name.ends_with(end) && values.contains(value))
    }

    fn switched(&mut self, command: &Command, is_known: bool) -> Option<bool> {
        let (kind, what) = match is_known {
            true => (FindingKind::Replaced, "the gateway does this itself"),
            false => (FindingKind::NoCounterpart, "this switch has no counterpart"),
        };
        self.note(command.place, kind, format!("`{}`: {what}", shown(&command.text)));
        Some(true)
    }

    /// `ip route add PREFIX dev %i` is a prefix behind the tunnel.
    fn ip(&mut self, command: &Command, rest: &[&str], tunnel: &str) -> Option<bool> {
        let rest: Vec<&str> = rest.iter().copied().filter(|word| !matches!(*word, "-4" | "-6")).collect();
        match rest.as_slice() {
            ["route" | "r" | "ro", "add" | "replace" | "append" | "change", prefix, way @ ..]
                if way.windows(2).any(|pair| pair == ["dev", tunnel])
                    && !rest.contains(&"table")
                    && text::prefix(prefix).is_some() =>
            {
                self.routes.extend(text::prefix(prefix).map(policy::prefix::network));
                let text = format!("`{}`: it is routed by allowed_ips", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
            }
            [
                "route" | "r" | "ro",
                "add" | "replace" | "append",
                "blackhole" | "unreachable" | "prohibit" | "throw",
                prefix,
                ..,
            ] if !rest.contains(&"table") => {
                match if *prefix == "default" { None } else { text::prefix(prefix) } {
                    Some(prefix) => self.refusing_route(command, policy::prefix::network(prefix)),
                    None => {
                        let why = "which packets this route refuses is not read";
                        let _ = self.unread(command, command.place, why);
                    }
                }
            }
            ["route" | "r" | "ro", "add" | "replace" | "append" | "change", prefix, "via" | "dev", ..]
                if !rest.contains(&"table") && text::prefix(prefix).is_some() =>
            {
                self.elsewhere.extend(text::prefix(prefix).map(policy::prefix::network));
                let text = format!(
                    "`{}`: what is for it is not sent into the tunnel, so nothing that leads there is published",
                    shown(&command.text)
                );
                self.note(command.place, FindingKind::NoCounterpart, text);
            }
            ["rule" | "ru", "add", ..]
                if rest.iter().any(|word| matches!(*word, "blackhole" | "unreachable" | "prohibit")) =>
            {
                let _ = self.unread(
                    command,
                    command.place,
                    "which packets this routing rule refuses is not read",
                );
            }
            ["rule" | "ru", "add", "table" | "lookup", table] => {
                self.tables.push((*table).to_owned());
                let text = format!("`{}`: routes are made of allowed_ips", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
            }
            ["route" | "rule" | "r" | "ru" | "ro", ..] => {
                let text = format!(
                    "`{}`: routes are made of allowed_ips, and replies of a flow leave by the tunnel or uplink it came by",
                    shown(&command.text)
                );
                self.note(command.place, FindingKind::NoCounterpart, text);
            }
            _ => drop(self.other(command)),
        }
        None
    }

    /// A route that refuses packets for a prefix, among them replies to clients in it.
    fn refusing_route(&mut self, command: &Command, prefix: IpNetwork) {
        let rule = Rule {
            conditions: vec![Condition { kind: Kind::Destination(vec![prefix]), is_negated: false }],
            action: Action::Refuse,
            unread: None,
            spec: Vec::new(),
            place: command.place,
            text: command.text.clone(),
        };
        let number = self.rules.refuse_on_the_way(rule);
        self.made.push(number);
    }

    fn wg(&mut self, command: &Command, rest: &[&str]) -> Option<bool> {
        match rest {
            ["set", _, "private-key", _] => {
                let text = format!("`{}`: private_key_file is that key", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
            }
            ["set", _, "peer", key, "preshared-key", _] => {
                self.preshared.push((*key).to_owned());
                let text = format!("`{}`: preshared_key_file is that key", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
            }
            _ => drop(self.other(command)),
        }
        None
    }
}

/// What a change that makes no rule means for the rules of the file.
fn described(operation: &Operation) -> String {
    let Operation::Policy(ChainId { name, .. }, refuses) = operation else {
        return "it is taken into account in the rules of this file".to_owned();
    };
    if *refuses {
        format!("what no rule of {name} accepts is refused here too: it needs an entry")
    } else {
        format!("{name} lets through what no rule refuses; here it needs an entry")
    }
}

/// Words behind which a command may hold a secret.
const SECRETS: [&str; 8] =
    ["preshared-key", "private-key", "authorization", "password", "passwd", "token", "secret", "apikey"];

/// A command as findings show it, without what may be a secret.
pub(super) fn shown(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let secret = SECRETS.iter().filter_map(|word| Some(lower.find(word)? + word.len())).min();
    // A file's name is none.
    let is_file = |end: usize| text.get(end..).is_some_and(|rest| rest.trim_start().starts_with('/'));
    let open = secret.filter(|end| !is_file(*end)).and_then(|end| text.get(..end));
    let kept = open.map_or_else(|| text.to_owned(), |open| format!("{open} …"));
    let line: String = kept.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    if kept.chars().count() > 160 { format!("{line}…") } else { line }
}

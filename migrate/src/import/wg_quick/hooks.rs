//! What the commands of a file change on its machine, in the order in which they run.

use ipnetwork::IpNetwork;

use super::super::netfilter::shell::{Body, Command, Place, When, Word, commands};
use super::super::netfilter::{ChainId, Operation, Ruleset, iptables, nft};
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
const FILTERS: [&str; 8] =
    ["iptables", "ip6tables", "nft", "ipset", "ufw", "firewall-cmd", "netfilter-persistent", "nftables"];

/// Runs the hooks of the interface; `%i` is its name.
pub(super) fn run(interface: &Section, tunnel: &str) -> Machine {
    let mut machine = Machine::default();
    for key in ["preup", "postup"] {
        for entry in interface.entries(key) {
            machine.hook(entry, tunnel);
        }
    }
    machine
}

/// Whether a command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    Yes,
    No,
    Maybe,
}

impl Machine {
    fn hook(&mut self, entry: &Entry, tunnel: &str) {
        // How the command before ended; `None` when that is not known.
        let mut status = Some(true);
        for command in commands(&entry.hook) {
            let runs = match (command.when, status) {
                (When::Always, _) | (When::AfterSuccess, Some(true)) | (When::AfterFailure, Some(false)) => {
                    Runs::Yes
                }
                (When::AfterSuccess, Some(false)) | (When::AfterFailure, Some(true)) => Runs::No,
                (_, None) => Runs::Maybe,
            };
            if runs == Runs::No {
                let text =
                    format!("`{}`: it does not run, by how the command before it ends", shown(&command.text));
                self.note(command.place, FindingKind::Replaced, text);
                continue;
            }
            let ended = self.command(&command, tunnel, runs);
            status = if runs == Runs::Yes { ended } else { None };
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
        let text = shown(&command.text);
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
        if let Some(space) = iptables::space(program) {
            return match iptables::operation(space, &words, &command.text) {
                Ok(operation) => self.filter(command, operation, runs),
                Err(unread) => self.unread(command, unread.place, &unread.why),
            };
        }
        match program {
            "nft" => match nft::operations(&words) {
                Ok(operations) => {
                    let ended: Vec<Option<bool>> =
                        operations.into_iter().map(|one| self.filter(command, one, runs)).collect();
                    ended.into_iter().try_fold(true, |all, one| Some(all && one?))
                }
                Err(unread) => self.unread(command, unread.place, &unread.why),
            },
            "sysctl" if rest.iter().any(|word| word.contains('=')) => {
                let set = rest.iter().filter(|word| word.contains('='));
                let known = set.map(|word| self.switch(word)).fold(true, |all, one| all & one);
                self.switched(command, known)
            }
            "echo" => match output.as_ref().map(|word| word.text.replace("%i", tunnel)) {
                Some(file) if file.starts_with("/proc/sys/") => {
                    let name = file.trim_start_matches("/proc/sys/").replace('/', ".");
                    let known = self.switch(&format!("{name}={}", rest.join(" ")));
                    self.switched(command, known)
                }
                Some(_) => self.other(command),
                None => Some(true),
            },
            "ip" => self.ip(command, &rest, tunnel),
            "wg" if rest.first() == Some(&"set") => self.wg(command, &rest),
            "true" | ":" | "sleep" | "logger" => Some(true),
            "false" => Some(false),
            "resolvconf" | "resolvectl" => {
                self.note(
                    command.place,
                    FindingKind::Stays,
                    format!("`{text}`: name servers are configured on the machine itself"),
                );
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
        if command.text.split(|c: char| c.is_whitespace() || "'\"`;|&()".contains(c)).any(is_word) {
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
            ["route" | "r" | "ro", "add" | "replace" | "append", prefix, "dev", device, ..]
                if *device == tunnel && !rest.contains(&"table") && text::prefix(prefix).is_some() =>
            {
                self.routes.extend(text::prefix(prefix).map(policy::prefix::network));
                let text = format!("`{}`: it is routed by allowed_ips", shown(&command.text));
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

/// A command as findings show it.
pub(super) fn shown(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    if text.chars().count() > 160 { format!("{line}…") } else { line }
}

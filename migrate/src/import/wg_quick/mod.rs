//! `wg-quick` files, of either end or of both, as both configurations.
//!
//! - `file` reads lines and values, `hooks` runs the commands on a model of the machine.
//! - `role` decides whose file it is, `ends` writes the tunnel, `both` joins two files.
//! - `path` follows a flow through the edge and the origin, `services` finds what is published,
//!   `carry` writes it, `remarks` says for every command what became of it.

mod both;
mod carry;
mod cells;
mod ends;
mod file;
mod hooks;
mod kinds;
mod path;
mod remarks;
mod role;
mod services;
#[cfg(test)]
mod tests;

use super::draft::{Draft, stem};
use super::netfilter::evaluate::is_interface;
use super::netfilter::{Action, Hook, Kind, Rule};
use super::outcome::{Derive, Finding, FindingKind, Import, ImportError, MAX_BYTES};
use both::Beyond;
use file::{Section, sections, wrong};
use hooks::{Machine, Note};
use kinds::is_virtual;
use policy::{ConfigError, Source};
pub use role::Role;

/// What the operator says about a file, where the file leaves it open.
#[derive(Clone, Debug, Default)]
pub struct WgQuickOptions {
    /// Whose file it is.
    pub role: Option<Role>,
    /// The edge's interface towards the internet.
    pub wan: Option<String>,
    /// Names of the peers, in the order of the file.
    pub names: Vec<String>,
    /// The name of the tunnel's interface, where it is not that of the file.
    pub interface: Option<String>,
}

/// Reads a `wg-quick` file and writes both configurations; the public keys of private keys that it
/// holds come from `derive`.
///
/// # Errors
/// [`ImportError`], when there is no tunnel in it, or the role is not known.
pub fn wg_quick(
    source: &Source<'_>,
    options: &WgQuickOptions,
    derive: Derive<'_>,
) -> Result<Import, ImportError> {
    let text = FileText::read(source)?;
    let reader = text.reader(options, derive)?;
    let (mut draft, role) = reader.convert()?;
    reader.lines(&text, role, &mut draft);
    let (gateway, forwarder) = draft.texts();
    draft.finish().map_err(|error| {
        let ImportError::Contradiction { error } = error else { return error };
        located(&error, [&gateway, &forwarder], [source, source])
    })
}

/// Reads the edge's file and the origin's, and writes both configurations: what is published passes
/// the rules of both.
///
/// # Errors
/// [`ImportError`], when they are not the two ends of one tunnel.
pub fn wg_quick_both(
    edge: &Source<'_>,
    origin: &Source<'_>,
    options: &WgQuickOptions,
    derive: Derive<'_>,
) -> Result<Import, ImportError> {
    let texts = [FileText::read(edge)?, FileText::read(origin)?];
    let [near, far] = &texts;
    let its_own = WgQuickOptions::default();
    let (mut reader, mut beyond) = (near.reader(options, derive)?, far.reader(&its_own, derive)?);
    if reader.stem == beyond.stem {
        reader.stem.push_str("-edge");
        beyond.stem.push_str("-origin");
    }
    (reader.is_alone, beyond.is_alone) = (false, false);
    reader.beyond = Some(Box::new(both::join(&reader, beyond)?));
    let mut draft = reader.edge();
    if let Some(beyond) = &reader.beyond {
        beyond.add_to(&mut draft)?;
        reader.carry(&mut draft);
        reader.lines(near, Role::Edge, &mut draft);
        beyond.reader.lines(far, Role::Origin, &mut draft);
    }
    let (gateway, forwarder) = draft.texts();
    draft.finish().map_err(|error| {
        let ImportError::Contradiction { error } = error else { return error };
        located(&error, [&gateway, &forwarder], [edge, origin])
    })
}

/// The sections of a file.
struct FileText {
    file: String,
    /// The name of the tunnel's interface.
    tunnel: String,
    stem: String,
    sections: Vec<Section>,
    findings: Vec<Finding>,
}

impl FileText {
    fn read(source: &Source<'_>) -> Result<Self, ImportError> {
        let file = source.name.display().to_string();
        if source.text.len() > MAX_BYTES {
            return Err(ImportError::TooLarge { file, bytes: source.text.len() });
        }
        let (sections, findings) = sections(source.text, &file);
        let tunnel = source.name.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Ok(Self { file, tunnel: tunnel.unwrap_or_default(), stem: stem(source.name), sections, findings })
    }

    /// Refuses rules that name a tunnel, and never the one that the file's name says.
    fn is_named(&self, machine: &Machine) -> Result<(), ImportError> {
        let conditions = machine.rules.rules.iter().flat_map(|rule| &rule.conditions);
        let mut names: Vec<&String> = Vec::new();
        for condition in conditions {
            let (Kind::Incoming(of) | Kind::Outgoing(of)) = &condition.kind else { continue };
            names.extend(of);
        }
        let is_own = |name: &&&String| is_interface(name, &self.tunnel);
        let is_tunnel = |name: &&&String| ["wg", "awg", "tun"].iter().any(|stem| name.starts_with(stem));
        let Some(other) = names.iter().find(is_tunnel).filter(|_| !names.iter().any(|name| is_own(&name)))
        else {
            return Ok(());
        };
        let what = format!(
            "its rules name {other}, and never {}, which its name says is its interface: say which one it is with --interface \
             {other} or --interface {}",
            self.tunnel, self.tunnel
        );
        Err(ImportError::Ambiguous { at: self.file.clone(), what })
    }

    fn reader<'a>(
        &'a self,
        options: &'a WgQuickOptions,
        derive: Derive<'a>,
    ) -> Result<Reader<'a>, ImportError> {
        let missing = |part| ImportError::NotWgQuick { file: self.file.clone(), part };
        let interface = self.sections.iter().find(|section| section.title == "interface");
        let interface = interface.filter(|section| !section.prefixes("address", true).is_empty());
        let interface = interface.ok_or_else(|| missing("[Interface] with an address"))?;
        let peers: Vec<&Section> = self.sections.iter().filter(|section| section.title == "peer").collect();
        if peers.is_empty() {
            return Err(missing("[Peer]"));
        }
        let tunnel = options.interface.clone().unwrap_or_else(|| self.tunnel.clone());
        let mut machine = hooks::run(interface, &tunnel);
        let placed = machine.rules.place_chains();
        if options.interface.is_none() {
            self.is_named(&machine)?;
        }
        let sides = sides(&machine, &tunnel, options);
        Ok(Reader {
            file: &self.file,
            tunnel,
            stem: self.stem.clone(),
            interface,
            peers,
            derive,
            options,
            machine,
            sides,
            placed,
            is_alone: true,
            beyond: None,
        })
    }
}

/// Keys of a peer.
const OF_PEER: [&str; 5] = ["publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive"];

/// Where connections from outside arrive.
struct Sides {
    /// The interface towards the internet.
    wan: String,
    /// Whether the operator named it.
    is_stated: bool,
    /// Whether rules name it.
    is_named: bool,
    /// Other interfaces that rules name, but the tunnel.
    others: Vec<String>,
}

/// One file and all that its rules say, which each step of the import asks: the ends (`ends`), what
/// becomes public (`carry`) and the remarks (`remarks`). The steps are methods of one type because
/// they write into one draft in one order, and have nothing of their own.
struct Reader<'a> {
    file: &'a str,
    /// The name of the tunnel's interface.
    tunnel: String,
    stem: String,
    interface: &'a Section,
    peers: Vec<&'a Section>,
    derive: Derive<'a>,
    options: &'a WgQuickOptions,
    machine: Machine,
    sides: Sides,
    /// Chains that got their place by a sign.
    placed: Vec<(usize, &'static str)>,
    /// Whether the other end's file was not given.
    is_alone: bool,
    /// The origin's file, where this is the edge's.
    beyond: Option<Box<Beyond<'a>>>,
}

/// The interface towards the internet is the one that rules name and that is no bridge or tunnel.
fn sides(machine: &Machine, tunnel: &str, options: &WgQuickOptions) -> Sides {
    let mut named: Vec<String> = Vec::new();
    let conditions = machine.rules.rules.iter().flat_map(|rule| &rule.conditions);
    for condition in conditions {
        let (Kind::Incoming(names) | Kind::Outgoing(names)) = &condition.kind else { continue };
        for name in names.iter().map(|name| name.replace('+', "0")) {
            if name != tunnel && !named.contains(&name) {
                named.push(name);
            }
        }
    }
    let first = named.iter().find(|name| !is_virtual(name)).cloned();
    let is_named = first.is_some();
    let wan = options.wan.clone().or(first).unwrap_or_else(|| "eth0".to_owned());
    named.retain(|name| *name != wan);
    Sides { wan, is_stated: options.wan.is_some(), is_named, others: named }
}

impl Reader<'_> {
    /// The role, and the signs that lead to it in words.
    fn role(&self) -> Result<(Role, String), String> {
        role::role(self.interface, &self.peers, (self.publishes(), self.forwards()))
    }

    fn convert(&self) -> Result<(Draft, Role), ImportError> {
        let (role, signs) = match self.options.role {
            Some(role) => (role, None),
            None => {
                let asked = |signs| ImportError::UnknownRole { file: self.file.to_owned(), signs };
                let (role, signs) = self.role().map_err(asked)?;
                (role, Some(signs))
            }
        };
        let mut draft = match role {
            Role::Edge => {
                let mut draft = self.edge();
                self.carry(&mut draft);
                draft
            }
            Role::Origin => {
                let mut draft = self.origin()?;
                self.remarks_of_origin(&mut draft);
                draft
            }
        };
        if let Some(signs) = signs {
            let end = if role == Role::Edge { "edge" } else { "origin" };
            draft.note(
                FindingKind::Assumed,
                format!("this is the {end}'s file, since {signs}; --role says otherwise"),
            );
        }
        self.guesses(role, &mut draft);
        Ok((draft, role))
    }

    /// Says which addresses are guessed.
    fn guesses(&self, role: Role, draft: &mut Draft) {
        let (allowed, used, file) = match role {
            Role::Edge => {
                let is_of = |name: &str| draft.origin.key_file == format!("{name}-origin.key");
                let of = draft.edge.peers.iter().find(|peer| is_of(&peer.name));
                (of.map(|peer| peer.allowed_ips.clone()), &draft.origin.address, "forwarder.toml")
            }
            Role::Origin => {
                let of = draft.origin.peers.first().map(|peer| peer.allowed_ips.clone());
                (of, &draft.edge.address, "gateway.toml")
            }
        };
        let guessed = self.guessed_addresses(&allowed.unwrap_or_default());
        // In the order of our own addresses, as they were guessed.
        let settled = used.iter().filter(|used| {
            guessed.iter().any(|guessed| used.contains(*guessed) && used.is_ipv4() == guessed.is_ipv4())
        });
        for address in settled.map(|used| used.ip()).collect::<Vec<_>>() {
            let text =
                format!("[interface] address {address} in {file}: the file does not have the other end's");
            draft.note(FindingKind::Assumed, text);
        }
    }

    /// Whether a rule leads connections from outside to a peer.
    fn publishes(&self) -> bool {
        let allowed = self.peers.iter().flat_map(|peer| peer.prefixes("allowedips", false));
        let routed: Vec<_> = allowed.filter(|prefix| !policy::prefix::is_default(*prefix)).collect();
        self.machine.rules.rules.iter().any(|rule| {
            let Action::Dnat(target) = &rule.action else { return false };
            let from_tunnel = rule.conditions.iter().any(|condition| {
                matches!(&condition.kind, Kind::Incoming(names) if names.contains(&self.tunnel))
                    && !condition.is_negated
            });
            !from_tunnel && routed.iter().any(|prefix| prefix.contains(target.address))
        })
    }

    /// Whether a rule of a forward chain names the tunnel.
    fn forwards(&self) -> bool {
        let rules = self.machine.rules.rules.iter().enumerate();
        let names_tunnel = |rule: &Rule| {
            rule.conditions.iter().any(|condition| {
                matches!(&condition.kind, Kind::Incoming(names) | Kind::Outgoing(names) if names.contains(&self.tunnel))
            })
        };
        let mut named = rules.filter(|(_, rule)| names_tunnel(rule));
        named.any(|(number, _)| {
            let base = self.machine.rules.home(number).and_then(|chain| chain.base);
            base.is_some_and(|base| base.hook == Hook::Forward)
        })
    }

    /// One finding for every line that is not simply a value of the tunnel, and for every command.
    fn lines(&self, text: &FileText, role: Role, draft: &mut Draft) {
        draft.findings.extend(text.findings.iter().cloned());
        for Note { place, kind, text } in &self.machine.notes {
            draft.findings.push(self.finding(place.line, None, *kind, text.clone()));
        }
        let entries =
            text.sections.iter().flat_map(|section| section.values.iter().map(move |entry| (section, entry)));
        for (section, entry) in entries {
            let line = entry.place.line;
            if let Some((place, text)) = wrong(entry) {
                let finding = self.finding(place.line, Some(place.column), FindingKind::NoCounterpart, text);
                draft.findings.push(finding);
                continue;
            }
            let (kind, text) = match entry.key.as_str() {
                key if section.title == "peer" && !OF_PEER.contains(&key) => (
                    FindingKind::NoCounterpart,
                    format!("{key} in [Peer], where `wg` refuses it: it is not read"),
                ),
                "mtu" if self.has_low_mtu() => {
                    let text =
                        format!("mtu {} is below the 1280 that IPv6 needs: it is left out", *entry.value);
                    (FindingKind::NoCounterpart, text)
                }
                "endpoint" if role == Role::Edge && self.is_saved() => {
                    let text =
                        "SaveConfig wrote where the peer was when it was saved: the edge waits for it".into();
                    (FindingKind::Replaced, text)
                }
                "privatekey"
                | "address"
                | "listenport"
                | "mtu"
                | "publickey"
                | "presharedkey"
                | "allowedips"
                | "endpoint"
                | "persistentkeepalive"
                | "postup"
                | "preup" => continue,
                "postdown" | "predown" => {
                    (FindingKind::Replaced, "`gateway down` removes what the edge created".into())
                }
                "dns" => (FindingKind::Stays, "name servers are configured on the machine itself".into()),
                "table" | "fwmark" => {
                    (FindingKind::Replaced, "routes and marks are set in [kernel], which has defaults".into())
                }
                "saveconfig" => {
                    (FindingKind::Replaced, "the daemons never write their configurations".into())
                }
                other => (FindingKind::NoCounterpart, format!("{other} in [{}] is unknown", section.title)),
            };
            draft.findings.push(self.finding(line, None, kind, text));
        }
    }

    fn is_saved(&self) -> bool {
        self.interface.value("saveconfig").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn finding(&self, line: u32, column: Option<u32>, kind: FindingKind, text: String) -> Finding {
        Finding { at: Some((self.file.to_owned(), line)), column, kind, text }
    }
}

/// The first contradiction, at the line of the imported file that the refused value comes from.
fn located(error: &ConfigError, texts: [&String; 2], sources: [&Source<'_>; 2]) -> ImportError {
    let position = &error.at;
    let is_gateway = position.file.as_os_str() == "gateway.toml";
    let ([gateway, forwarder], [edge, origin]) = (texts, sources);
    let (text, source) = if is_gateway { (gateway, edge) } else { (forwarder, origin) };
    let line = usize::try_from(position.line).ok().and_then(|line| text.lines().nth(line.checked_sub(1)?));
    let column = usize::try_from(position.column).unwrap_or(1);
    let rest: String = line.unwrap_or_default().chars().skip(column.saturating_sub(1)).collect();
    let value = rest.trim_start_matches('"').split(['"', ',', ']']).next().unwrap_or_default().trim();
    let stem = value.split('/').next().unwrap_or_default();
    let found = [value, stem].into_iter().filter(|value| !value.is_empty()).find_map(|value| {
        (1_u32..).zip(source.text.lines()).find(|(_, line)| line.contains(value)).map(|(number, _)| number)
    });
    ImportError::Refused {
        file: source.name.display().to_string(),
        line: found.unwrap_or(1),
        why: error.problem.to_string(),
    }
}

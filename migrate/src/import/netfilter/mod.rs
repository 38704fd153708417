//! The packet filter of a Linux machine, as the commands of its hooks set it up.
//!
//! - `shell` reads words, `iptables` and `nft` read what they change.
//! - [`Ruleset`] carries the changes out in order, as the kernel would.
//! - `evaluate` decides about one packet. A rule that cannot be read makes the decision about what
//!   reaches it unclear, never wider.

pub(in crate::import) mod evaluate;
pub(in crate::import) mod iptables;
pub(in crate::import) mod nft;
pub(in crate::import) mod shell;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use self::shell::Place;
use policy::Protocol;

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct Condition {
    pub(in crate::import) kind: Kind,
    pub(in crate::import) is_negated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) enum Kind {
    /// The interface it comes in by; a final `+` matches any rest.
    Incoming(Vec<String>),
    /// The interface it leaves by.
    Outgoing(Vec<String>),
    Source(Vec<IpNetwork>),
    Destination(Vec<IpNetwork>),
    /// `None` is a protocol other than TCP and UDP.
    Protocol(Vec<Option<Protocol>>),
    /// Ports, first and last.
    SourcePort(Vec<(u16, u16)>),
    Port(Vec<(u16, u16)>),
    State(Vec<State>),
    /// The first packet of a TCP connection.
    Syn,
    /// A TCP packet with SYN, which the first reply has as well.
    AnySyn,
    /// The destination is an address of the machine itself.
    Local,
    IsIpv6,
    /// Of a packet that no connection has: a fragment, or TCP flags that contradict each other.
    Never,
}

impl Kind {
    /// The ports that are asked for.
    pub(in crate::import) fn ports(&self) -> Option<&[(u16, u16)]> {
        if let Self::Port(ports) = self { Some(ports) } else { None }
    }

    /// The source ports that are asked for.
    pub(in crate::import) fn source_ports(&self) -> Option<&[(u16, u16)]> {
        if let Self::SourcePort(ports) = self { Some(ports) } else { None }
    }

    /// The destinations that are asked for.
    pub(in crate::import) const fn of_destination(&self) -> Option<&Vec<IpNetwork>> {
        if let Self::Destination(prefixes) = self { Some(prefixes) } else { None }
    }

    /// Both ends: a reply's destination is the client.
    pub(in crate::import) const fn of_either_end(&self) -> Option<&Vec<IpNetwork>> {
        if let Self::Source(prefixes) | Self::Destination(prefixes) = self { Some(prefixes) } else { None }
    }
}

/// A state of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) enum State {
    New,
    Established,
    /// Its destination was changed.
    Dnat,
    /// Its source was changed.
    Snat,
    /// No flow of a service is ever in it.
    Other,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) enum Action {
    Accept,
    /// `DROP` and `REJECT`.
    Refuse,
    Return,
    Jump(String),
    Goto(String),
    Dnat(Target),
    /// To a port of the machine itself.
    Redirect(Ports),
    Masquerade,
    Snat(IpAddr),
    /// The MSS is clamped.
    ClampMss,
    /// It is counted or logged.
    Nothing,
    /// It could be anything.
    Unclear,
}

/// Where a destination is changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) struct Target {
    pub(in crate::import) address: IpAddr,
    pub(in crate::import) ports: Ports,
}

/// What happens to the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) enum Ports {
    Same,
    One(u16),
    /// From a range to another: the first of each, and the last of the first.
    Shifted {
        from: u16,
        last: u16,
        to: u16,
    },
    /// A port in this range is kept, and another leads to one that the kernel picks.
    Within(u16, u16),
}

/// What could not be read in a rule, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct Unread {
    pub(in crate::import) place: Place,
    pub(in crate::import) why: String,
}

impl Unread {
    pub(in crate::import) fn new(place: Place, why: impl Into<String>) -> Self {
        Self { place, why: why.into() }
    }
}

#[derive(Clone, Debug)]
pub(in crate::import) struct Rule {
    pub(in crate::import) conditions: Vec<Condition>,
    pub(in crate::import) action: Action,
    /// What could not be read; the action is then unclear, unless it changes nothing.
    pub(in crate::import) unread: Option<Unread>,
    /// The words that make it for `iptables`, which compares them.
    pub(in crate::import) spec: Vec<String>,
    pub(in crate::import) place: Place,
    /// The command as it is written.
    pub(in crate::import) text: String,
}

impl Rule {
    /// The chain that it goes on in.
    fn jump(&self) -> Option<&str> {
        if let Action::Jump(name) | Action::Goto(name) = &self.action { Some(name) } else { None }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    /// Whether it may be the same in other words.
    fn may_be_like(&self, other: &Self) -> bool {
        let is_commented = |rule: &Self| rule.spec.iter().any(|word| word.starts_with("--comment "));
        let target = |rule: &Self| rule.spec.iter().find(|word| word.starts_with("-j ")).cloned();
        let both_read = self.unread.is_none() && other.unread.is_none();
        !self.is_like(other)
            && target(self) == target(other)
            && is_commented(self) == is_commented(other)
            && (!both_read || self.conditions == other.conditions && self.action == other.action)
    }
}

/// Where a chain is called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// A chain by the program and family that it belongs to, its table and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct ChainId {
    /// `iptables`, `ip6tables`, or `nft` and a family.
    pub(in crate::import) space: &'static str,
    pub(in crate::import) table: String,
    pub(in crate::import) name: String,
}

/// A place at which the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) struct Base {
    pub(in crate::import) hook: Hook,
    pub(in crate::import) is_nat: bool,
    pub(in crate::import) priority: i32,
}

#[derive(Clone, Debug)]
pub(in crate::import) struct Chain {
    pub(in crate::import) id: ChainId,
    /// `None` for a chain that only rules jump to.
    pub(in crate::import) base: Option<Base>,
    pub(in crate::import) refuses: bool,
    /// Their numbers.
    pub(in crate::import) rules: Vec<usize>,
    /// Whether a command of this file made it.
    is_made: bool,
}

impl Chain {
    fn is_used(&self) -> bool {
        self.refuses || !self.rules.is_empty()
    }
}

/// A change of the packet filter.
#[derive(Clone, Debug)]
pub(in crate::import) enum Operation {
    Append(ChainId, Rule),
    /// At this place, from 0.
    Insert(ChainId, usize, Rule),
    Delete(ChainId, Rule),
    DeleteAt(ChainId, usize),
    Check(ChainId, Rule),
    /// Whether what no rule decides is refused.
    Policy(ChainId, bool),
    /// Every chain of the table without a name.
    Flush(&'static str, String, Option<String>),
    /// Where it is called from, and whether what no rule decides is refused, as far as that is
    /// written.
    Make(ChainId, Option<Base>, Option<bool>),
    Remove(&'static str, String, Option<String>),
    Nothing,
}

/// What the commands of a file made, and nothing that was there before.
#[derive(Clone, Debug, Default)]
pub(in crate::import) struct Ruleset {
    /// Every rule that was ever made, by number.
    pub(in crate::import) rules: Vec<Rule>,
    pub(in crate::import) chains: Vec<Chain>,
    /// Whether packets are forwarded, where a command says so: IPv4, IPv6.
    pub(in crate::import) forwards: [Option<bool>; 2],
    /// Whether packets from outside may be for loopback addresses.
    pub(in crate::import) routes_loopback: bool,
}

impl Ruleset {
    /// Carries a change out; whether the command succeeds, and the number of the rule it made.
    pub(in crate::import) fn apply(&mut self, operation: Operation) -> (bool, Option<usize>) {
        match operation {
            Operation::Append(id, rule) => {
                let number = self.add(rule);
                self.chain(&id).rules.push(number);
                (true, Some(number))
            }
            Operation::Insert(id, at, rule) => {
                let number = self.add(rule);
                let rules = &mut self.chain(&id).rules;
                rules.insert(at.min(rules.len()), number);
                (true, Some(number))
            }
            Operation::Delete(id, rule) => {
                let found = self.find(&id, &rule);
                let rules = &mut self.chain(&id).rules;
                if let Some(at) = found {
                    rules.remove(at);
                }
                (found.is_some(), None)
            }
            Operation::DeleteAt(id, at) => {
                let rules = &mut self.chain(&id).rules;
                let is_there = at < rules.len();
                if is_there {
                    rules.remove(at);
                }
                (is_there, None)
            }
            Operation::Check(id, rule) => (self.find(&id, &rule).is_some(), None),
            Operation::Policy(id, refuses) => {
                self.chain(&id).refuses = refuses;
                (true, None)
            }
            Operation::Flush(space, table, name) => {
                self.of(space, &table, name.as_deref()).for_each(|chain| chain.rules.clear());
                (true, None)
            }
            Operation::Make(id, base, refuses) => {
                let is_program = id.space.ends_with("tables");
                let is_known = self.chains.iter().any(|chain| chain.id == id && chain.is_made);
                let chain = self.chain(&id);
                chain.is_made = true;
                chain.base = chain.base.or(base);
                chain.refuses = refuses.unwrap_or(chain.refuses);
                (!(is_program && is_known), None)
            }
            Operation::Remove(space, table, name) => (self.remove(space, &table, name.as_deref()), None),
            Operation::Nothing => (true, None),
        }
    }

    /// A rule of the file that stops every decision, where it is not known what a command did.
    pub(in crate::import) fn obscure(&mut self, place: Place, text: &str, why: &str) -> usize {
        let id = ChainId { space: "unread", table: String::new(), name: String::new() };
        let base = Base { hook: Hook::Prerouting, is_nat: false, priority: i32::MIN };
        self.apply(Operation::Make(id.clone(), Some(base), None));
        let rule = Rule {
            conditions: Vec::new(),
            action: Action::Unclear,
            unread: Some(Unread::new(place, why)),
            spec: Vec::new(),
            place,
            text: text.to_owned(),
        };
        self.apply(Operation::Append(id, rule)).1.unwrap_or_default()
    }

    /// A rule that refuses what is routed, from this machine or through it; its number.
    pub(in crate::import) fn refuse_on_the_way(&mut self, rule: Rule) -> usize {
        let number = self.add(rule);
        for (name, hook) in [("through", Hook::Forward), ("from", Hook::Output)] {
            let id = ChainId { space: "routes", table: String::new(), name: name.to_owned() };
            let base = Base { hook, is_nat: false, priority: i32::MIN };
            self.apply(Operation::Make(id.clone(), Some(base), None));
            self.chain(&id).rules.push(number);
        }
        number
    }

    /// Why it is not known what a change does here.
    pub(in crate::import) fn doubt(&self, operation: &Operation) -> Option<&'static str> {
        let chain = |id: &ChainId| self.chains.iter().find(|chain| chain.id == *id);
        match operation {
            Operation::Delete(id, rule) | Operation::Check(id, rule) => {
                let rules = chain(id)?.rules.iter().filter_map(|number| self.rule(*number));
                let mut known = rules.clone();
                let is_there = known.any(|known| known.is_like(rule));
                (!is_there && rules.into_iter().any(|known| known.may_be_like(rule))).then_some(
                    "whether it is about a rule above, in other words, is not known: write the same words",
                )
            }
            Operation::Policy(id, _) => {
                let has_base =
                    iptables::base(id).is_some() || chain(id).is_some_and(|chain| chain.base.is_some());
                (!has_base).then_some("it sets the policy of a chain that the file does not make")
            }
            Operation::Append(..)
            | Operation::Insert(..)
            | Operation::DeleteAt(..)
            | Operation::Flush(..)
            | Operation::Make(..)
            | Operation::Remove(..)
            | Operation::Nothing => None,
        }
    }

    /// Rules that say so where one file uses the plain `iptables` and one of its variants, which may
    /// be the same program or another.
    pub(in crate::import) fn unsure_programs(&mut self) -> Vec<usize> {
        let of = |space: &'static str| {
            self.chains.iter().filter(move |chain| chain.id.space == space && chain.is_used())
        };
        // Rules that only change addresses may be in one chain or in two.
        let decides = |chain: &Chain| {
            let mut rules = chain.rules.iter().filter_map(|number| self.rules.get(*number));
            chain.refuses
                || rules.any(|rule| {
                    !matches!(
                        rule.action,
                        Action::Dnat(_)
                            | Action::Masquerade
                            | Action::Snat(_)
                            | Action::Nothing
                            | Action::ClampMss
                    )
                })
        };
        let may_be_one = |one: &Chain, other: &Chain| {
            (&one.id.table, &one.id.name) == (&other.id.table, &other.id.name)
                && (decides(one) || decides(other))
        };
        let pairs = [
            ("iptables", ["legacy iptables", "nft iptables"]),
            ("ip6tables", ["legacy ip6tables", "nft ip6tables"]),
        ];
        let unsure = pairs.into_iter().filter(|(plain, variants)| {
            let mut others = variants.iter().flat_map(|variant| of(variant));
            others.any(|other| of(plain).any(|one| may_be_one(one, other)))
        });
        let count = unsure.count();
        let why = "whether iptables is iptables-legacy, or iptables-nft and so the tables of nft, is not known: use one name in \
                   the whole file";
        let first = self.rules.first().map(|rule| (rule.place, rule.text.clone()));
        let obscured = (0..count).filter_map(|_| first.clone());
        obscured
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(place, text)| self.obscure(place, &text, why))
            .collect()
    }

    /// Whether a removal succeeds; `iptables` keeps a chain that has rules or is jumped to.
    fn remove(&mut self, space: &str, table: &str, name: Option<&str>) -> bool {
        let is_program = space.ends_with("tables");
        let of_table = |chain: &Chain| chain.id.space == space && chain.id.table == table;
        let targets: Vec<String> = self
            .chains
            .iter()
            .filter(|chain| of_table(chain))
            .flat_map(|chain| &chain.rules)
            .filter_map(|number| self.rules.get(*number)?.jump().map(str::to_owned))
            .collect();
        let is_gone = |chain: &Chain| {
            let is_meant = of_table(chain) && name.is_none_or(|name| *name == chain.id.name);
            let is_free = chain.base.is_none() && chain.rules.is_empty() && !targets.contains(&chain.id.name);
            is_meant && (!is_program || is_free)
        };
        let before = self.chains.len();
        self.chains.retain(|chain| !is_gone(chain));
        !is_program || name.is_none() || self.chains.len() < before
    }

    pub(in crate::import) fn rule(&self, number: usize) -> Option<&Rule> {
        self.rules.get(number)
    }

    /// The chain that holds a rule.
    pub(in crate::import) fn home(&self, number: usize) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.rules.contains(&number))
    }

    /// Gives chains that the file uses but does not make the place that their name or rules imply;
    /// their number and the sign, for those that have one.
    pub(in crate::import) fn place_chains(&mut self) -> Vec<(usize, &'static str)> {
        self.resolve_jumps();
        let jumps: Vec<String> = self.rules.iter().filter_map(Rule::jump).map(str::to_owned).collect();
        let mut placed = Vec::new();
        for (number, chain) in self.chains.iter_mut().enumerate() {
            // What `-N` makes may have been there before, with a way to it, as Docker's chain is.
            let is_lost = chain.id.space.ends_with("tables") && chain.is_used();
            let has_place = chain.base.is_some() || jumps.contains(&chain.id.name);
            if has_place || chain.is_made && !is_lost {
                continue;
            }
            let rules: Vec<&Rule> = chain.rules.iter().filter_map(|&rule| self.rules.get(rule)).collect();
            let changes = rules.iter().any(|rule| matches!(rule.action, Action::Dnat(_)));
            let comes_in = |rule: &&Rule| {
                let mut conditions = rule.conditions.iter();
                conditions.any(|condition| matches!(condition.kind, Kind::Incoming(_)))
            };
            let is_nft = chain.id.space.starts_with("nft");
            let named = hook_named(&chain.id.name).filter(|_| is_nft);
            let (hook, sign) = match named {
                Some(hook) => (hook, "its name"),
                None if chain.id.name == "DOCKER-USER" => (Hook::Forward, "its name, which Docker gives it"),
                None if is_nft && changes && rules.iter().all(comes_in) => (
                    Hook::Prerouting,
                    "its rules, which ask for the incoming interface and change the destination",
                ),
                None => {
                    let unclear = Base { hook: Hook::Prerouting, is_nat: false, priority: i32::MIN };
                    chain.base = Some(unclear);
                    for number in chain.rules.clone() {
                        let Some(rule) = self.rules.get_mut(number) else { continue };
                        let why = "the file does not say where this chain is called from: add the command that makes it";
                        rule.unread.get_or_insert(Unread::new(rule.place, why));
                        rule.action = Action::Unclear;
                    }
                    continue;
                }
            };
            let is_nat = changes || chain.id.table == "nat";
            // It was there before this file's own chains.
            chain.base = Some(Base { hook, is_nat, priority: if is_nat { -101 } else { -1 } });
            placed.push((number, sign));
        }
        placed
    }

    /// A jump to a chain that the file does not make leads to what is not known.
    fn resolve_jumps(&mut self) {
        for chain in &self.chains {
            for number in &chain.rules {
                let Some(rule) = self.rules.get_mut(*number) else { continue };
                let Some(name) = rule.jump() else { continue };
                let is_made = self.chains.iter().any(|known| {
                    known.is_made
                        && (known.id.space, &known.id.table) == (chain.id.space, &chain.id.table)
                        && known.id.name == name
                });
                if !is_made {
                    let why = format!(
                        "`{name}` is neither a target that is understood nor a chain that the file makes"
                    );
                    rule.unread.get_or_insert(Unread::new(rule.place, why));
                    rule.action = Action::Unclear;
                }
            }
        }
    }

    fn add(&mut self, rule: Rule) -> usize {
        self.rules.push(rule);
        self.rules.len() - 1
    }

    fn find(&self, id: &ChainId, rule: &Rule) -> Option<usize> {
        let chain = self.chains.iter().find(|chain| chain.id == *id)?;
        let is_like = |number: &usize| self.rules.get(*number).is_some_and(|known| known.is_like(rule));
        chain.rules.iter().position(is_like)
    }

    fn of(
        &mut self,
        space: &'static str,
        table: &str,
        name: Option<&str>,
    ) -> impl Iterator<Item = &mut Chain> {
        self.chains.iter_mut().filter(move |chain| {
            chain.id.space == space
                && chain.id.table == table
                && name.is_none_or(|name| name == chain.id.name)
        })
    }

    fn chain(&mut self, id: &ChainId) -> &mut Chain {
        let at = self.chains.iter().position(|chain| chain.id == *id).unwrap_or_else(|| {
            let (id, base) = (id.clone(), iptables::base(id));
            let is_made = base.is_some();
            self.chains.push(Chain { id, base, refuses: false, rules: Vec::new(), is_made });
            self.chains.len() - 1
        });
        // The position was just found or made.
        #[allow(clippy::indexing_slicing)]
        &mut self.chains[at]
    }
}

/// The hook that has this name, in capitals or not.
fn hook_named(name: &str) -> Option<Hook> {
    let hooks = [
        ("prerouting", Hook::Prerouting),
        ("input", Hook::Input),
        ("forward", Hook::Forward),
        ("output", Hook::Output),
        ("postrouting", Hook::Postrouting),
    ];
    hooks.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, hook)| hook)
}

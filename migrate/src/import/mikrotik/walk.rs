//! What a router's chains do with flows, rule by rule.

use std::collections::BTreeSet;

use super::flows::{Flow, Flows};
use super::rule::{Action, Rule};

/// What is true of all flows of a walk.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Whether a dst-nat has changed them.
    pub(super) is_translated: bool,
    /// Whether they are for an address of the router itself.
    pub(super) is_local: bool,
}

/// How flows left a chain that lets them go on.
pub(super) struct Ending {
    /// The rule; `None` at the end of the chain.
    pub(super) rule: Option<usize>,
    pub(super) flows: Flows,
}

/// What a walk through one chain found.
pub(super) struct Walk<'r> {
    rules: &'r [Rule],
    state: State,
    /// Whether a rule that may or may not apply leaves its flows to those that follow: true of
    /// filters, where another accept means the same, and not of NAT.
    falls_through: bool,
    pub(super) endings: Vec<Ending>,
    /// Positions of rules that refused something, or may have.
    pub(super) refused_by: BTreeSet<usize>,
    /// How many more jumps are followed.
    jumps: usize,
}

/// Chains that jump deeper than this are refused.
const DEEPEST: u8 = 16;
/// What jumps after this many chains is refused, and earlier where there are many rules to visit.
const MOST_JUMPS: usize = 4_096;
const MOST_VISITS: usize = 2_000_000;

impl<'r> Walk<'r> {
    /// Flows through a chain of filters: those that certainly pass.
    pub(super) fn filter(rules: &'r [Rule], chain: &str, flows: &Flows, state: State) -> Self {
        Self::new(rules, state, true).run(chain, flows)
    }

    /// Flows through a chain of NAT: those of which it is certain what becomes of them.
    pub(super) fn nat(rules: &'r [Rule], chain: &str, flows: &Flows, state: State) -> Self {
        Self::new(rules, state, false).run(chain, flows)
    }

    const fn new(rules: &'r [Rule], state: State, falls_through: bool) -> Self {
        let by_visits = MOST_VISITS / if rules.is_empty() { 1 } else { rules.len() };
        let jumps = if by_visits < MOST_JUMPS { by_visits } else { MOST_JUMPS };
        Self { rules, state, falls_through, endings: Vec::new(), refused_by: BTreeSet::new(), jumps }
    }

    fn run(mut self, chain: &str, flows: &Flows) -> Self {
        let rest = self.chain(chain, flows.clone(), false, 0);
        self.end(None, rest);
        self
    }

    /// Everything that goes on, whatever let it.
    pub(super) fn passed(&self) -> Flows {
        let mut all = Flows::empty();
        self.endings.iter().for_each(|ending| all.add(ending.flows.clone()));
        all
    }

    fn end(&mut self, rule: Option<usize>, flows: Flows) {
        if !flows.is_empty() {
            self.endings.push(Ending { rule, flows });
        }
    }

    fn refuse(&mut self, at: usize, flows: &Flows, what: &Flow) -> Flows {
        if !flows.and(what).is_empty() {
            self.refused_by.insert(at);
        }
        flows.minus(what)
    }

    /// What comes out at the end of a chain, or returns from it.
    fn chain(&mut self, name: &str, flows: Flows, in_doubt: bool, depth: u8) -> Flows {
        let rules = self.rules;
        let (mut flows, mut returned) = (flows, Flows::empty());
        let of_chain = rules.iter().enumerate().filter(|(_, rule)| rule.chain == name);
        for (at, rule) in of_chain {
            if flows.is_empty() {
                break;
            }
            if rule.passes_by(self.state.is_translated, self.state.is_local) {
                continue;
            }
            match &rule.action {
                Action::Continue => {}
                Action::Drop | Action::Other => flows = self.refuse(at, &flows, &rule.possible),
                Action::Accept | Action::Translate(_) | Action::Hide(_) => {
                    flows = self.decide(at, flows, in_doubt);
                }
                Action::Return => {
                    if !in_doubt {
                        returned.add(flows.and(&rule.certain));
                        flows = flows.minus(&rule.certain);
                    }
                    flows = self.refuse(at, &flows, &rule.possible);
                }
                Action::Jump(target) if depth < DEEPEST && self.jumps > 0 => {
                    flows = self.jump(at, target, flows, in_doubt, depth + 1);
                }
                Action::Jump(_) => flows = self.refuse(at, &flows, &rule.possible),
            }
        }
        flows.add(returned);
        flows
    }

    /// A rule that ends the walk for what it applies to.
    fn decide(&mut self, at: usize, flows: Flows, in_doubt: bool) -> Flows {
        let Some(rule) = self.rules.get(at) else { return flows };
        if !in_doubt {
            self.end(Some(at), flows.and(&rule.certain));
        }
        match (self.falls_through, in_doubt) {
            (true, true) => flows,
            (true, false) => flows.minus(&rule.certain),
            (false, _) => {
                let left = if in_doubt { flows } else { flows.minus(&rule.certain) };
                self.refuse(at, &left, &rule.possible)
            }
        }
    }

    fn jump(&mut self, at: usize, target: &str, flows: Flows, in_doubt: bool, depth: u8) -> Flows {
        let Some(rule) = self.rules.get(at) else { return flows };
        self.jumps -= 1;
        let into = flows.and(&rule.possible);
        let certain = if in_doubt { Flows::empty() } else { flows.and(&rule.certain) };
        let doubtful = if in_doubt { into } else { into.minus(&rule.certain) };
        let mut left = flows.minus(&rule.possible);
        for (flows, in_doubt) in [(certain, false), (doubtful, true)] {
            if !flows.is_empty() {
                left.add(self.chain(target, flows, in_doubt, depth));
            }
        }
        left
    }
}

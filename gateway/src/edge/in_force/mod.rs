//! The configuration in force: what plan, apply, reload and rollback read and replace.

mod blueprint;
mod changes;
mod ended;
mod fingerprint;
mod granting;
mod installer;
mod undone;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::metrics::Number;
use policy::gateway::{Peer, Policy, Requests};
use policy::plan::{Change, Conditions};
use policy::ruleset::{Ruleset, ServiceMark};
use policy::sections::List;
use policy::trust::{Listener, closed_between, taken};
use policy::{AllowList, Mtu};
use tunnel::key::PublicKey;

use super::machine::Machine;
use crate::config::Config;
use changes::{Side, changes};

use blueprint::Unwritable;
pub use blueprint::guards;
pub(super) use blueprint::{Blueprint, Installed};
pub(super) use changes::grants as granted_changes;
use granting::Before;
pub(super) use granting::Granting;
pub(super) use installer::Installer;
pub(super) use undone::Left;

/// The age from which a fetched list is a problem; the timer fetches every day.
const STALE_LIST: Duration = Duration::from_secs(7 * 86_400);

/// The configuration in force, what it put into the kernel, and how changes of it ended.
pub(super) struct InForce {
    config: Arc<Config>,
    blueprint: Arc<Blueprint>,
    installed: Installed,
    /// The sockets of the link that the daemon owns, as the rules know them.
    pub(super) link: Vec<SocketAddr>,
    /// The address of the temporary peer of a pairing.
    pub(super) pairing: Option<IpAddr>,
    /// What peers request to publish.
    pub(super) grants: Granting,
    /// The marks of what peers publish at the other edge of the pair, whose flows may come here.
    other_marks: Vec<ServiceMark>,
    /// An MTU of the paths that the kernel did not take.
    pub(super) refused_mtu: Option<u16>,
    /// Configurations applied and refused since the start.
    generation: u64,
    failed_applies: u64,
    last_apply_ok: bool,
    /// Why the file was not taken when it was last read again.
    not_taken: Option<String>,
}

impl InForce {
    /// The first configuration since the start.
    pub(super) const fn new(
        config: Arc<Config>,
        blueprint: Arc<Blueprint>,
        installed: Installed,
        grants: Granting,
    ) -> Self {
        Self {
            config,
            blueprint,
            installed,
            link: Vec::new(),
            pairing: None,
            grants,
            other_marks: Vec::new(),
            refused_mtu: None,
            generation: 1,
            failed_applies: 0,
            last_apply_ok: true,
            not_taken: None,
        }
    }

    /// The configuration.
    pub(super) const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What it says.
    pub(super) fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// What it says, with what is granted to peers.
    pub(super) fn served(&self) -> &Policy {
        self.blueprint.served()
    }

    /// The MTU of the tunnel's device.
    pub(super) fn mtu(&self) -> u16 {
        self.blueprint.plan.routing.device.mtu
    }

    /// The rules.
    pub(super) fn ruleset(&self) -> &Ruleset {
        &self.blueprint.plan.ruleset
    }

    /// What is in the kernel, and the fingerprint of its table.
    pub(super) fn in_kernel(&self) -> (Arc<Blueprint>, Option<u64>) {
        (Arc::clone(&self.blueprint), self.installed.fingerprint)
    }

    /// The blueprint of a policy on this machine, with what it grants to peers; services and uplinks
    /// that are in force keep their numbers.
    pub(super) fn next(&self, policy: &Policy, machine: &Machine, mtu: Option<u16>) -> Blueprint {
        Blueprint::new(self.grants.judge(policy), self.conditions(policy, machine, mtu))
    }

    fn conditions(&self, policy: &Policy, machine: &Machine, mtu: Option<u16>) -> Conditions {
        let (marks, uplinks) = self.blueprint.in_force();
        let is_new =
            |mark: &&ServiceMark| marks.iter().all(|own| own.name != mark.name && own.mark != mark.mark);
        let marks: Vec<_> = marks.iter().chain(self.other_marks.iter().filter(is_new)).cloned().collect();
        let conditions = machine.conditions(policy, mtu, (&marks, uplinks));
        Conditions { link: self.link.clone(), pairing: self.pairing, ..conditions }
    }

    /// Takes what peers request at the other edge of the pair, and the marks of what they were
    /// granted there; what was before.
    pub(super) fn take_over(&mut self, requests: Requests, marks: Vec<ServiceMark>) -> Before {
        self.other_marks = marks;
        self.grants.take_over(requests)
    }

    /// The blueprint of the policy in force now that the machine or what is granted has changed;
    /// `None` if that is in place.
    pub(super) fn due(&self, machine: &Machine) -> Option<Blueprint> {
        let before = &self.blueprint.conditions;
        let conditions = self.conditions(self.policy(), machine, before.mtu);
        let same = conditions.trust == before.trust
            && conditions.uplinks == before.uplinks
            && conditions.is_only_way == before.is_only_way
            && conditions.rule_priority == before.rule_priority
            && conditions.link == before.link
            && conditions.pairing == before.pairing;
        let judged = self.grants.judge(self.policy());
        let is_in_place = same && judged.served == *self.served();
        (!is_in_place).then(|| Blueprint::new(judged, conditions))
    }

    /// The MTU that the device should get, when the paths were `found` to carry another size that was not refused.
    pub(super) fn due_mtu(&self, found: Option<u16>) -> Option<u16> {
        let found = found.filter(|_| self.policy().interface.mtu == Mtu::Auto)?;
        (found != self.mtu() && self.refused_mtu != Some(found)).then_some(found)
    }

    /// Refuses what cannot change while the daemon runs.
    ///
    /// # Errors
    /// [`Exit::Conflict`]
    pub(super) fn refuse_what_needs_a_restart(&self, next: &Policy) -> Result<(), ExitError> {
        match self.policy().needs_restart(next) {
            None => Ok(()),
            Some(key) => Err(ExitError::new(Exit::Conflict, cannot_change(key))),
        }
    }

    /// What a configuration would change, line by line; first of all what cannot change while the daemon runs.
    pub(super) fn plan(
        &self,
        config: &Config,
        (machine, mtu): (&Machine, Option<u16>),
        listeners: &[Listener],
    ) -> Vec<Change> {
        let needs_restart = self.policy().needs_restart(&config.policy);
        let restart = needs_restart.map(|key| Change { part: "restart", line: cannot_change(key) });
        let next = self.next(&config.policy, machine, mtu);
        restart.into_iter().chain(self.changes(config, &next, machine, listeners)).collect()
    }

    /// The changes of the plan, of settings and keys; and which of these listening ports the guard closes with them, or are
    /// published as well.
    pub(super) fn changes(
        &self,
        config: &Config,
        next: &Blueprint,
        machine: &Machine,
        listeners: &[Listener],
    ) -> Vec<Change> {
        let (now, policy) = (&self.config, &config.policy);
        let old = Side { policy: &now.policy, keys: &now.keys, blueprint: &self.blueprint };
        let mut changes = changes(&old, &Side { policy, keys: &config.keys, blueprint: next });
        let trust = (&self.blueprint.conditions.trust, &next.conditions.trust);
        let closed = closed_between(policy, machine.system(), trust, listeners);
        let lines = closed.into_iter().chain(taken(policy, listeners));
        changes.extend(lines.map(|line| Change { part: "guard", line }));
        changes
    }

    /// Conntrack marks of services that another blueprint does not have, or has otherwise.
    pub(super) fn ended(&self, next: &Blueprint) -> Vec<u32> {
        let (old, new) = (&self.ruleset().services, &next.plan.ruleset.services);
        ended::ended(self.served(), old, next.served(), new)
    }

    /// Puts another configuration in the place of this one; whether other switches than before could not be written.
    pub(super) fn replace(
        &mut self,
        config: Arc<Config>,
        blueprint: Arc<Blueprint>,
        installed: Installed,
    ) -> bool {
        let is_news = installed.unwritable != self.installed.unwritable;
        self.config = config;
        self.follow(blueprint, installed);
        is_news
    }

    /// Takes what the same configuration puts into the kernel now.
    pub(super) fn follow(&mut self, blueprint: Arc<Blueprint>, installed: Installed) {
        self.grants.handle_in_force(&blueprint.judged);
        self.blueprint = blueprint;
        self.installed = installed;
    }

    /// Takes what a check of the kernel put back; a switch that a person has set since is no problem any more.
    pub(super) fn handle_repair(&mut self, fingerprint: Option<u64>, unwritable: Vec<Unwritable>) {
        let fingerprint = fingerprint.or(self.installed.fingerprint);
        self.installed = Installed { unwritable, fingerprint };
    }

    /// Counts an apply.
    pub(super) fn handle_apply(&mut self, ok: bool) {
        self.last_apply_ok = ok;
        if ok {
            self.generation += 1;
            self.not_taken = None;
        } else {
            self.failed_applies += 1;
        }
    }

    /// The file was read again, and refused for this reason or taken.
    pub(super) fn handle_reload(&mut self, refused: Option<&ExitError>) {
        self.not_taken = refused.map(|refused| first_line(&refused.message));
    }

    /// Configurations applied since the start, and whether the last one was.
    pub(super) const fn applies(&self) -> (u64, bool) {
        (self.generation, self.last_apply_ok)
    }

    /// Why the file is not in force, when it was read again and not taken.
    pub(super) fn not_taken(&self) -> Option<String> {
        let (file, reason) = (self.config.path.display(), self.not_taken.as_ref()?);
        Some(format!("{file} was read again and not taken, the configuration before is in force: {reason}"))
    }

    /// Switches that could not be written, each with its fix.
    pub(super) fn unwritable(&self) -> impl Iterator<Item = String> {
        self.installed.unwritable.iter().map(|switch| {
            format!(
                "{} should be {} and cannot be written ({}); run: sysctl -w {}={}",
                switch.path,
                switch.value,
                switch.reason,
                switch.path.replace('/', "."),
                switch.value
            )
        })
    }

    /// The peer's name in the configuration, or the beginning of its key.
    pub(super) fn name_of(&self, key: &PublicKey) -> String {
        let is_it = |peer: &&Peer| peer.public_key.as_bytes() == key.as_bytes();
        let named = self.policy().peers.iter().find(is_it);
        named.map_or_else(|| key.to_string().chars().take(8).collect(), |peer| peer.name.to_string())
    }

    /// How applies ended, for Prometheus.
    pub(super) fn numbers(&self) -> [Number; 4] {
        #[expect(clippy::cast_precision_loss, reason = "a count of switches")]
        let unwritable = self.installed.unwritable.len() as f64;
        [
            Number::flag(
                "gateway_config_last_apply_success",
                "Whether the last configuration was applied.",
                self.last_apply_ok,
            ),
            Number::counter(
                "gateway_config_applies_total",
                "Configurations applied since the start.",
                self.generation,
            ),
            Number::counter(
                "gateway_config_failed_applies_total",
                "Configurations refused or rolled back since the start.",
                self.failed_applies,
            ),
            Number::gauge(
                "gateway_kernel_unwritable_switches",
                "Switches under /proc/sys that could not be set.",
                unwritable,
            ),
        ]
    }
}

fn cannot_change(key: &str) -> String {
    format!(
        "{key} cannot change while the daemon runs; stop the daemon, run `gateway down` with the old file, and start \
         it with the new one"
    )
}

fn first_line(message: &str) -> String {
    let more = message.lines().count().saturating_sub(1);
    let first = message.lines().next().unwrap_or_default();
    if more == 0 { first.to_owned() } else { format!("{first} (and {more} more)") }
}

/// Lists that should have been fetched again.
pub(super) fn stale_lists(policy: &Policy) -> impl Iterator<Item = String> {
    policy.lists.iter().filter_map(list_age)
}

/// Published ports that let in lists alone, all of which are empty: no client can
/// connect.
pub(super) fn closed_by_lists(policy: &Policy) -> impl Iterator<Item = String> {
    policy.publish.iter().filter_map(|publish| {
        let AllowList::Only { prefixes, lists } = &publish.allow else { return None };
        let named: Vec<&List> = policy.lists.iter().filter(|list| lists.contains(&list.name)).collect();
        let first = named.first().filter(|_| prefixes.is_empty())?;
        named.iter().all(|list| list.prefixes.is_empty()).then(|| {
            format!(
                "{} lets in only @{}, which is empty, so that no client can connect; write the sources into its file, then \
                 run: gatewayctl reload",
                publish.name, first.name
            )
        })
    })
}

/// The problem that a list has not been fetched for long.
fn list_age(list: &List) -> Option<String> {
    let path = list.file.path(None).ok().filter(|_| !list.urls.is_empty())?;
    let age = std::fs::metadata(path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    (age > STALE_LIST).then(|| {
        let days = age.as_secs() / 86_400;
        format!("@{} was last fetched {days} days ago; see: systemctl status causeway-agent", list.name)
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use policy::Source;
    use policy::system::{Link, LinkKind, LinkRoute, System};
    use tunnel::key::PrivateKey;

    use super::*;
    use crate::config::Keys;

    const TEXT: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"kyiv.key\"\nmtu = \"auto\"\n\
        [wan]\ninterface = \"eth0\"\n[[peer]]\nname = \"wroclaw\"\nallowed_ips = [\"10.77.88.2/32\"]\n\
        public_key = \"j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=\"\n";

    #[test]
    fn a_file_that_was_not_taken_is_a_problem_until_an_apply_or_a_reload_is_taken() {
        let mut in_force = started(TEXT);
        let refused = ExitError::new(Exit::Invalid, "gateway.toml:3:1: wrong\nand more\nand more");
        in_force.handle_apply(false);
        in_force.handle_reload(Some(&refused));
        assert_eq!(in_force.applies(), (1, false));
        let problem = in_force.not_taken().unwrap();
        assert!(problem.ends_with("gateway.toml:3:1: wrong (and 2 more)"), "{problem}");

        in_force.handle_apply(true);
        assert_eq!((in_force.applies(), in_force.not_taken()), ((2, true), None));
        in_force.handle_reload(Some(&refused));
        in_force.handle_reload(None);
        assert_eq!(in_force.not_taken(), None);
    }

    #[test]
    fn a_check_that_leaves_the_table_alone_leaves_its_fingerprint_and_says_which_switches_are_wrong_now() {
        let mut in_force = started(TEXT);
        let switch = Unwritable {
            path: "net/ipv4/ip_forward".to_owned(),
            value: "1".to_owned(),
            reason: "read-only".to_owned(),
        };
        in_force.handle_repair(Some(7), vec![switch]);
        assert_eq!(in_force.in_kernel().1, Some(7));
        let problems: Vec<_> = in_force.unwritable().collect();
        assert!(problems[0].ends_with("run: sysctl -w net.ipv4.ip_forward=1"), "{problems:?}");
        in_force.handle_repair(None, Vec::new());
        assert_eq!((in_force.in_kernel().1, in_force.unwritable().count()), (Some(7), 0));
    }

    #[test]
    fn the_device_follows_its_paths_only_when_its_mtu_is_not_fixed() {
        let auto = started(TEXT);
        assert_eq!(auto.due_mtu(Some(1400)), Some(1400));
        assert_eq!((auto.due_mtu(None), auto.due_mtu(Some(auto.mtu()))), (None, None));
        let mut refused = started(TEXT);
        refused.refused_mtu = Some(1400);
        assert_eq!((refused.due_mtu(Some(1400)), refused.due_mtu(Some(1380))), (None, Some(1380)));
        let fixed = started(&TEXT.replace("\"auto\"", "1420"));
        assert_eq!(fixed.due_mtu(Some(1400)), None);
    }

    #[test]
    fn what_cannot_change_while_the_daemon_runs_is_first_in_the_plan_and_refused_by_an_apply() {
        let in_force = started(TEXT);
        let next = config(&TEXT.replace("[interface]", "[interface]\nname = \"gw1\""));
        let planned = in_force.plan(&next, (&Machine::default(), None), &[]);
        assert_eq!(planned[0].part, "restart");
        let refused = in_force.refuse_what_needs_a_restart(&next.policy).unwrap_err();
        assert_eq!((refused.exit, &refused.message), (Exit::Conflict, &planned[0].line));
        let same = config(TEXT);
        assert!(in_force.refuse_what_needs_a_restart(&same.policy).is_ok());
        assert_eq!(in_force.plan(&same, (&Machine::default(), None), &[]), []);
    }

    #[test]
    fn the_kernel_is_changed_only_when_the_machine_makes_a_difference() {
        let in_force = started(TEXT);
        assert!(in_force.due(&Machine::default()).is_none());
        let default = LinkRoute {
            destination: "0.0.0.0/0".parse().unwrap(),
            link: 2,
            gateway: Some("192.0.2.1".parse().unwrap()),
            table: 254,
            metric: 100,
            protocol: 16,
        };
        let eth0 = Link {
            index: 2,
            name: "eth0".to_owned(),
            kind: LinkKind::Other,
            master: None,
            addresses: vec!["192.0.2.2/24".parse().unwrap()],
        };
        let system = System { links: vec![eth0], routes: vec![default], ..System::default() };
        let with_uplink = Machine::at_apply(in_force.policy(), system, &[]);
        let due = in_force.due(&with_uplink).unwrap();
        assert_eq!(due.conditions.uplinks.len(), 1);
    }

    #[test]
    fn the_port_of_the_link_is_open_while_the_daemon_owns_a_socket_that_the_policy_has_for_it() {
        let mut in_force = started(TEXT);
        let machine = Machine::default();
        let accepts = |blueprint: &Blueprint| {
            let lines = blueprint.plan.ruleset.lines();
            lines.iter().any(|line| line.starts_with("link: ") && line.ends_with(" accept"))
        };
        assert!(!accepts(&in_force.in_kernel().0));
        in_force.link = vec!["10.77.88.1:51899".parse().unwrap()];
        let due = in_force.due(&machine).unwrap();
        assert!(accepts(&due));
        in_force.follow(Arc::new(due), Installed::default());
        assert!(in_force.due(&machine).is_none());
        assert!(accepts(&in_force.next(in_force.policy(), &machine, None)), "an apply keeps it open");
        let moved = config(&format!("{TEXT}[link]\nport = 51900\n"));
        assert!(!accepts(&in_force.next(&moved.policy, &machine, None)), "the socket has the old port");
        in_force.link = Vec::new();
        assert!(!accepts(&in_force.due(&machine).unwrap()));
    }

    fn started(text: &str) -> InForce {
        let config = config(text);
        let conditions = Machine::default().conditions(&config.policy, None, (&[], &[]));
        let grants = Granting::default();
        let blueprint = Blueprint::new(grants.judge(&config.policy), conditions);
        InForce::new(Arc::new(config), Arc::new(blueprint), Installed::default(), grants)
    }

    fn config(text: &str) -> Config {
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap();
        let keys = Keys { private: PrivateKey::from_bytes([1; 32]), preshared: [].into() };
        Config { path: PathBuf::from("gateway.toml"), text: text.to_owned(), policy, keys }
    }
}

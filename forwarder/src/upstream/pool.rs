//! The upstreams of one entry: which of them is tried first, and how many flows each has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use daemon::health::{CheckFailure, State, Tries};
use parking_lot::Mutex;
use policy::Name;
use policy::forwarder::{Health, Policy, ProxyProtocol, Service, Upstream};
use tunnel::time::Instant;

use super::watched::Watched;

/// How long an upstream that failed a dial comes after the others.
const REST: Duration = Duration::from_secs(5);
/// How long a connection that was made for a client says that the upstream works.
const DIAL_COUNTS: Duration = Duration::from_secs(10);

/// One upstream of an entry.
#[derive(Debug)]
pub struct Member {
    /// Where it is.
    pub upstream: Upstream,
    /// How its health is checked.
    pub health: Option<Health>,
    /// The header it expects, a health check's included.
    pub proxy_protocol: ProxyProtocol,
    /// The first port that its entry matches.
    pub first_port: u16,
    flows: AtomicU64,
    failures: AtomicU64,
    is_down: AtomicBool,
    /// The health checks so far; for the control plane alone.
    tries: Mutex<Tries>,
    /// When a connection was last made for a client, in nanoseconds since boot; 0 once one failed.
    connected: AtomicU64,
    /// Until when it comes after the others; nanoseconds since boot.
    rests_until: AtomicU64,
}

/// The pools by the names of their entries.
pub type ByEntry = BTreeMap<Name, Arc<Pool>>;

/// The pool of each `[[service]]` of the configuration in force; the data thread picks from them,
/// the health checks and the control plane look at them.
#[derive(Debug)]
pub struct Pools(ArcSwap<ByEntry>);

impl Pools {
    /// The pools of a configuration.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self(ArcSwap::from_pointee(of(policy, &ByEntry::new())))
    }

    /// Takes the upstreams of a new configuration; those that stay keep what is known of them.
    /// Returns those that left it.
    pub fn adopt(&self, policy: &Policy) -> Vec<Arc<Member>> {
        let before = self.0.load_full();
        let after = of(policy, &before);
        let kept: Vec<_> = members(&after).collect();
        let is_kept = |old: &&Arc<Member>| kept.iter().any(|kept| Arc::ptr_eq(kept, old));
        let removed = members(&before).filter(|old| !is_kept(old)).map(Arc::clone).collect();
        drop(kept);
        self.0.store(Arc::new(after));
        removed
    }

    /// Every pool by the name of its entry.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<ByEntry>> {
        self.0.load()
    }
}

fn of(policy: &Policy, before: &ByEntry) -> ByEntry {
    let pool = |entry: &Service| {
        let pool = Pool::new(entry, before.get(&entry.name).map(|pool| &**pool));
        (entry.name.clone(), Arc::new(pool))
    };
    policy.services.iter().map(pool).collect()
}

fn members(pools: &ByEntry) -> impl Iterator<Item = &Arc<Member>> {
    pools.values().flat_map(|pool| pool.members())
}

/// The upstreams of one entry.
#[derive(Debug, Default)]
pub struct Pool {
    members: Vec<Arc<Member>>,
    names: Vec<Arc<Watched>>,
    turn: AtomicUsize,
}

impl Pool {
    /// The upstreams of an entry; those that were there before keep what is known of them.
    #[must_use]
    pub fn new(entry: &Service, before: Option<&Self>) -> Self {
        let known = before.map(|pool| pool.members.as_slice()).unwrap_or_default();
        let member = |upstream: &Upstream| {
            let new = Member::new(entry, upstream);
            known.iter().find(|old| old.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new))
        };
        let members: Vec<_> = entry.upstreams.iter().map(member).collect();
        let known = before.map(|pool| pool.names.as_slice()).unwrap_or_default();
        let names = Watched::of(entry, &members, known);
        Self { members, names, turn: AtomicUsize::new(0) }
    }

    /// What is watched of the names of the entry, in the order of the file.
    #[must_use]
    pub fn names(&self) -> &[Arc<Watched>] {
        &self.names
    }

    /// Every upstream, in the order of the file.
    #[must_use]
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Every upstream in the order in which a new flow tries them: those that work first, among
    /// them the one with the fewest flows, among equals each in turn.
    #[must_use]
    pub fn order(&self, now: Instant) -> Vec<Arc<Member>> {
        if let [only] = self.members.as_slice() {
            return vec![Arc::clone(only)];
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len().max(1);
        let (first, last) = self.members.split_at_checked(turn).unwrap_or_default();
        let mut order: Vec<Arc<Member>> = last.iter().chain(first).map(Arc::clone).collect();
        order.sort_by_key(|member| (!member.is_up(), member.is_resting(now), member.flows()));
        order
    }
}

impl Member {
    fn new(entry: &Service, upstream: &Upstream) -> Self {
        Self {
            upstream: upstream.clone(),
            health: entry.health.clone(),
            proxy_protocol: entry.proxy_protocol,
            first_port: entry.ports.first(),
            flows: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            tries: Mutex::default(),
            connected: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.upstream, &self.health, self.proxy_protocol, self.first_port)
            == (&other.upstream, &other.health, other.proxy_protocol, other.first_port)
    }

    /// Whether its last checks were answered; true without health checks.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.is_down.load(Ordering::Relaxed)
    }

    /// Flows that it has.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Dials to it that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// A dial failed: for a while the others come first.
    pub fn handle_failure(&self, now: Instant) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.connected.store(0, Ordering::Relaxed);
        self.rests_until.store(nanos(now.after(REST)), Ordering::Relaxed);
    }

    /// A connection was made for a client.
    pub fn handle_connected(&self, now: Instant) {
        self.connected.store(nanos(now), Ordering::Relaxed);
    }

    /// Until when the last connection that was made for a client counts as a check; `None` when it does not.
    #[must_use]
    pub fn vouched_until(&self, now: Instant) -> Option<Instant> {
        let connected = self.connected.load(Ordering::Relaxed);
        let until = Instant::from_boot(Duration::from_nanos(connected)).after(DIAL_COUNTS);
        (connected > 0 && now < until).then_some(until)
    }

    /// A health check came to an end; whether what is known of the upstream changed by it.
    pub fn handle_check(&self, result: Result<(), CheckFailure>) -> bool {
        if result.is_ok() {
            self.rests_until.store(0, Ordering::Relaxed);
        }
        let mut tries = self.tries.lock();
        let changed = tries.handle_probe(result);
        self.is_down.store(tries.state() == State::Failing, Ordering::Relaxed);
        changed
    }

    /// What its health checks say.
    #[must_use]
    pub fn state(&self) -> State {
        self.tries.lock().state()
    }

    /// Whether the next health check decides about a first failure.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.tries.lock().is_in_doubt()
    }

    /// Why its last health check failed.
    #[must_use]
    pub fn failure(&self) -> Option<CheckFailure> {
        self.tries.lock().failure().cloned()
    }

    fn is_resting(&self, now: Instant) -> bool {
        nanos(now) < self.rests_until.load(Ordering::Relaxed)
    }
}

fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

/// A flow's claim on an upstream, counted while it lives.
#[derive(Debug)]
pub struct Lease(Arc<Member>);

impl Lease {
    /// One more flow of this upstream.
    #[must_use]
    pub fn new(member: Arc<Member>) -> Self {
        member.flows.fetch_add(1, Ordering::Relaxed);
        Self(member)
    }

    /// The upstream.
    #[must_use]
    pub const fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::link::message::{Evidence, Reason};
    use policy::Source;
    use std::path::Path;

    #[test]
    fn the_upstream_with_the_fewest_flows_is_tried_first() {
        let pool = pool("\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"");
        let mut leases = Vec::new();
        for _ in 0..9 {
            leases.push(Lease::new(pool.order(at(0)).remove(0)));
        }
        assert!(pool.members().iter().all(|member| member.flows() == 3));
        leases.retain(|lease| lease.member().upstream.to_string() != "127.0.0.1:2");
        assert_eq!(first(&pool, 0), "127.0.0.1:2");
    }

    #[test]
    fn one_that_is_down_comes_last_and_is_still_tried_when_nothing_else_is_left() {
        let pool = pool("\"127.0.0.1:1\", \"127.0.0.1:2\"");
        let lease = Lease::new(Arc::clone(&pool.members()[1]));
        let refused = || Err(CheckFailure { reason: Reason::Refused, evidence: Evidence::of("refused") });
        pool.members()[0].handle_check(Ok(()));
        assert!(!pool.members()[0].handle_check(refused()), "one lost reply is none");
        assert!(pool.members()[0].is_up() && pool.members()[0].handle_check(refused()));
        assert_eq!(first(&pool, 0), "127.0.0.1:2");
        assert_eq!(pool.order(at(0)).len(), 2);
        assert!(!pool.members()[0].handle_check(refused()));
        assert!(pool.members()[0].handle_check(Ok(())));
        assert_eq!(first(&pool, 0), "127.0.0.1:1");
        drop(lease);
    }

    #[test]
    fn one_that_failed_a_dial_rests_for_five_seconds() {
        let pool = pool("\"127.0.0.1:1\", \"127.0.0.1:2\"");
        let _busy = Lease::new(Arc::clone(&pool.members()[1]));
        pool.members()[0].handle_failure(at(0));
        assert_eq!(first(&pool, 4), "127.0.0.1:2");
        assert_eq!(first(&pool, 5), "127.0.0.1:1");
    }

    #[test]
    fn a_connection_for_a_client_counts_for_ten_seconds_unless_one_failed_since() {
        let member = pool("\"127.0.0.1:1\"").members()[0].clone();
        assert_eq!(member.vouched_until(at(0)), None);
        member.handle_connected(at(0));
        assert_eq!(member.vouched_until(at(9)), Some(at(10)));
        assert_eq!(member.vouched_until(at(10)), None);
        member.handle_failure(at(5));
        assert_eq!(member.vouched_until(at(6)), None);
    }

    #[test]
    fn an_upstream_that_stays_keeps_what_is_known_of_it() {
        let old = pool("\"127.0.0.1:1\", \"127.0.0.1:2\"");
        let _busy = Lease::new(Arc::clone(&old.members()[1]));
        let new = Pool::new(&entry("\"127.0.0.1:2\", \"unix:/run/caddy.sock\""), Some(&old));
        assert!(Arc::ptr_eq(&old.members()[1], &new.members()[0]));
        assert_eq!(first(&new, 0), "unix:/run/caddy.sock");
    }

    #[test]
    fn the_upstreams_that_left_the_configuration_are_returned_and_no_others() {
        let pools = Pools::new(&policy("\"127.0.0.1:1\", \"127.0.0.1:2\""));
        let removed = pools.adopt(&policy("\"127.0.0.1:2\", \"127.0.0.1:3\""));
        let removed: Vec<_> = removed.iter().map(|member| member.upstream.to_string()).collect();
        assert_eq!(removed, ["127.0.0.1:1"]);
        assert_eq!(pools.load().values().next().unwrap().members().len(), 2);
    }

    fn first(pool: &Pool, second: u64) -> String {
        pool.order(at(second))[0].upstream.to_string()
    }

    fn pool(upstreams: &str) -> Pool {
        Pool::new(&entry(upstreams), None)
    }

    fn entry(upstreams: &str) -> Service {
        policy(upstreams).services.remove(0)
    }

    fn policy(upstreams: &str) -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = [{upstreams}]\n"
        );
        let source = Source { name: Path::new("forwarder.toml"), text: &text };
        policy::forwarder::parse(&source).unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds + 1_000))
    }
}

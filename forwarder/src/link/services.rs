//! How the services are, as the link reports them.

use std::io;

use daemon::health::{CheckFailure, State};
use daemon::link::health::Seen;
use daemon::link::message::{Evidence, Matches, Ports, Reason, State as Reported};
use daemon::link::names::SeenName;
use daemon::local_network::Program;
use ipnetwork::IpNetwork;
use policy::forwarder::{Policy, Upstream};
use policy::{Host, Protocol};
use tunnel::time::Instant;

use crate::stats::Dialled;
use crate::upstream::{self, ByEntry, Pool};

/// Every entry of the policy: up when an upstream replies to its checks, failing when none does,
/// else unknown.
#[must_use]
pub(crate) fn services(now: Instant, policy: &Policy, pools: &ByEntry) -> Vec<Seen> {
    let seen = |entry: &policy::forwarder::Service| {
        let (state, failure) = pools.get(&entry.name).map_or((Reported::Unknown, None), |pool| state(pool));
        Seen {
            name: entry.name.clone(),
            state,
            reason: failure.as_ref().map(|failure| failure.reason),
            evidence: failure.map(|failure| failure.evidence),
            matches: Matches {
                addresses: reported_addresses(entry),
                ports: Ports(entry.ports),
                tcp: entry.protocols.contains(Protocol::Tcp),
                udp: entry.protocols.contains(Protocol::Udp),
            },
            peers: entry.peers.clone(),
            names: pools.get(&entry.name).map_or_else(Vec::new, |pool| names(now, pool)),
        }
    };
    policy.services.iter().map(seen).collect()
}

/// The names of an entry.
#[must_use]
pub(crate) fn names(now: Instant, pool: &Pool) -> Vec<SeenName> {
    pool.names().iter().filter_map(|name| name.seen(now)).collect()
}

/// The addresses that an entry takes; any when there are more than a report may have.
fn reported_addresses(entry: &policy::forwarder::Service) -> Vec<IpNetwork> {
    if entry.addresses.len() > Matches::MAX_ADDRESSES { Vec::new() } else { entry.addresses.clone() }
}

/// How the upstreams of an entry are together: it works while one of them does, and one of the
/// names.
#[must_use]
pub(crate) fn state(pool: &Pool) -> (Reported, Option<CheckFailure>) {
    let of_members = state_of_members(pool);
    let names = pool.names();
    let is_failing = !names.is_empty() && names.iter().all(|name| name.state() == State::Failing);
    match of_members {
        (Reported::Up | Reported::Unknown, _) if is_failing => {
            (Reported::Failing, names.first().and_then(|name| name.failure()))
        }
        of_members => of_members,
    }
}

fn state_of_members(pool: &Pool) -> (Reported, Option<CheckFailure>) {
    let states: Vec<State> = pool.members().iter().map(|member| member.state()).collect();
    if states.contains(&State::Ok) {
        return (Reported::Up, None);
    }
    if states.is_empty() || states.contains(&State::Unknown) {
        return (Reported::Unknown, None);
    }
    (Reported::Failing, pool.members().iter().find_map(|member| member.failure()))
}

/// What a failed check says.
#[must_use]
pub(crate) fn check_failure(upstream: &Upstream, error: &io::Error) -> CheckFailure {
    CheckFailure { reason: reason(upstream, error), evidence: evidence(Program::this(), upstream, error) }
}

fn evidence(program: Program, upstream: &Upstream, error: &io::Error) -> Evidence {
    let advice = match upstream {
        Upstream::Unix(_) => None,
        Upstream::Network { host: Host::Address(address), .. } => program.advice(error, Some(*address)),
        Upstream::Network { host: Host::Name(_), .. } => program.advice(error, None),
    };
    let advice = advice.map(|advice| format!(": {advice}")).unwrap_or_default();
    Evidence::of(&format!("{error}{advice}"))
}

fn reason(upstream: &Upstream, error: &io::Error) -> Reason {
    let kind = error.kind();
    if kind == io::ErrorKind::TimedOut {
        return Reason::TimedOut;
    }
    if matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
        return Reason::BadReply;
    }
    let has_name = matches!(upstream, Upstream::Network { host: Host::Name(_), .. });
    if has_name && error.raw_os_error().is_none() {
        // The resolver's errors have no number of the system's.
        return Reason::Unresolved;
    }
    match upstream::failure(error) {
        Dialled::Refused => Reason::Refused,
        Dialled::TimedOut => Reason::TimedOut,
        Dialled::Exhausted => Reason::Exhausted,
        Dialled::Unresolved => Reason::Unresolved,
        Dialled::Unreachable => Reason::Unreachable,
        Dialled::Connected | Dialled::Down | Dialled::Abandoned => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use policy::Source;

    use super::*;
    use crate::upstream::{Found, Pools, Speech, Watched};

    #[test]
    fn an_entry_is_unknown_until_it_is_checked_and_failing_when_every_upstream_is() {
        let policy = policy("upstream = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nhealth = { check = \"tcp\" }\n");
        let pools = Pools::new(&policy);
        let now = || services(at(0), &policy, &pools.load()).remove(0);
        let members = pools.load().values().next().unwrap().members().to_vec();
        assert_eq!((now().state, now().reason), (Reported::Unknown, None));
        for member in &members {
            member.handle_check(Ok(()));
        }
        assert_eq!(now().state, Reported::Up);
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        for (member, state) in members.iter().zip([Reported::Up, Reported::Failing]) {
            for _ in 0..2 {
                member.handle_check(Err(check_failure(&member.upstream, &refused)));
            }
            assert_eq!(now().state, state);
        }
        assert_eq!(now().reason, Some(Reason::Refused));
        assert!(now().evidence.unwrap().as_str().contains("refused"));
        members[0].handle_check(Ok(()));
        assert_eq!((now().state, now().reason, now().evidence), (Reported::Up, None, None));
    }

    #[test]
    fn an_entry_without_checks_is_unknown_and_reports_what_it_takes() {
        let policy = policy("upstream = \"127.0.0.1:1\"\nhealth = \"off\"\n");
        let seen = services(at(0), &policy, &Pools::new(&policy).load()).remove(0);
        assert_eq!(seen.state, Reported::Unknown);
        assert_eq!((seen.matches.ports.0.first(), seen.matches.tcp, seen.matches.udp), (443, true, false));
        assert_eq!(seen.peers.len(), 1);
    }

    #[test]
    fn a_name_fails_alone_and_when_every_name_does_so_does_the_entry() {
        let entry = "upstream = \"127.0.0.1:1\"\nnames = [\"a.example.com\", \"b.example.com\"]\n";
        let policy = policy(entry);
        let pools = Pools::new(&policy);
        let pool = pools.load().values().next().unwrap().clone();
        pool.members()[0].handle_check(Ok(()));
        pool.names().iter().for_each(|name| name.begin(at(0)));
        let fail = |name: &Watched| {
            for second in [1, 6] {
                let failure = CheckFailure { reason: Reason::NoSite, evidence: Evidence::of("421") };
                let found = Found { result: Err(failure), certificate: None, speech: Speech::Tls };
                name.handle_look(at(second), found);
            }
        };
        let now = || services(at(0), &policy, &pools.load()).remove(0);
        fail(&pool.names()[0]);
        assert_eq!((now().state, now().reason), (Reported::Up, None));
        let states: Vec<_> = now().names.iter().map(|name| (name.state, name.reason)).collect();
        assert_eq!(states, [(Reported::Failing, Some(Reason::NoSite)), (Reported::Unknown, None)]);
        fail(&pool.names()[1]);
        assert_eq!((now().state, now().reason), (Reported::Failing, Some(Reason::NoSite)));
        assert!(pool.members()[0].is_up(), "flows still go to it");
        pools.adopt(&policy);
        assert_eq!(now().names[0].state, Reported::Failing, "a reload forgets nothing");
    }

    #[test]
    fn each_error_has_its_reason() {
        let policy =
            policy("upstream = [\"127.0.0.1:1\", \"caddy.example.com:2\", \"unix:/run/caddy.sock\"]\n");
        let upstreams = &policy.services[0].upstreams;
        let system = io::Error::from_raw_os_error;
        let cases = [
            (0, system(libc::ECONNREFUSED), Reason::Refused),
            (2, system(libc::ENOENT), Reason::Refused),
            (0, system(libc::ENETUNREACH), Reason::Unreachable),
            (0, system(libc::EMFILE), Reason::Exhausted),
            (0, io::ErrorKind::TimedOut.into(), Reason::TimedOut),
            (0, io::ErrorKind::UnexpectedEof.into(), Reason::BadReply),
            (0, io::Error::new(io::ErrorKind::InvalidData, "it replied: HTTP/1.1 500"), Reason::BadReply),
            (1, io::Error::other("failed to lookup address information"), Reason::Unresolved),
        ];
        for (upstream, error, expected) in cases {
            assert_eq!(reason(&upstreams[upstream], &error), expected, "{error}");
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn on_a_mac_an_upstream_of_the_lan_without_a_route_shows_the_setting_that_may_deny_it() {
        let policy = policy("upstream = [\"192.168.88.20:1\", \"127.0.0.1:1\", \"unix:/run/caddy.sock\"]\n");
        let agent = Program { is_mac: true, uid: 501 };
        let seen = |error: i32| {
            let error = io::Error::from_raw_os_error(error);
            let seen = |upstream| evidence(agent, upstream, &error).as_str().contains("Local Network");
            policy.services[0].upstreams.iter().map(seen).collect::<Vec<_>>()
        };
        assert_eq!(seen(65), [true, false, false]);
        assert_eq!(seen(61), [false, false, false], "refused");
    }

    fn policy(entry: &str) -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\n{entry}"
        );
        policy::forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap()
    }
}

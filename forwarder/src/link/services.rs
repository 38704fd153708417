//! How the services are, as the link reports them.

use std::io;
use std::sync::Arc;

use daemon::link::health::Seen;
use daemon::link::message::{Evidence, Reason, State};
use policy::Host;
use policy::forwarder::{Policy, Upstream};

use crate::stats::Dialled;
use crate::upstream::{self, ByEntry, CheckFailure, Member, Pool};

/// Every entry of the policy: up when an upstream replies to its checks, failing when none does, unknown without checks.
#[must_use]
pub(crate) fn services(policy: &Policy, pools: &ByEntry) -> Vec<Seen> {
    let seen = |entry: &policy::forwarder::Service| {
        let (state, failure) = pools.get(&entry.name).map_or((State::Unknown, None), |pool| state(pool));
        Seen {
            name: entry.name.clone(),
            state,
            reason: failure.as_ref().map(|failure| failure.reason),
            evidence: failure.map(|failure| failure.evidence),
        }
    };
    policy.services.iter().map(seen).collect()
}

fn state(pool: &Pool) -> (State, Option<CheckFailure>) {
    let checked: Vec<&Arc<Member>> = pool.members().iter().filter(|member| member.is_checked()).collect();
    match checked.as_slice() {
        [] => (State::Unknown, None),
        some if some.iter().any(|member| member.is_up()) => (State::Up, None),
        all => (State::Failing, all.iter().find_map(|member| member.last_failure())),
    }
}

/// What a failed check says.
#[must_use]
pub(crate) fn check_failure(upstream: &Upstream, error: &io::Error) -> CheckFailure {
    CheckFailure { reason: reason(upstream, error), evidence: Evidence::of(&error.to_string()) }
}

fn reason(upstream: &Upstream, error: &io::Error) -> Reason {
    let has_name = matches!(upstream, Upstream::Network { host: Host::Name(_), .. });
    match error.kind() {
        io::ErrorKind::TimedOut => Reason::TimedOut,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Reason::BadReply,
        // The resolver's errors have no number of the system's.
        _ if has_name && error.raw_os_error().is_none() => Reason::Unresolved,
        _ => match upstream::failure(error) {
            Dialled::Refused => Reason::Refused,
            Dialled::TimedOut => Reason::TimedOut,
            Dialled::Exhausted => Reason::Exhausted,
            Dialled::Unresolved => Reason::Unresolved,
            Dialled::Unreachable => Reason::Unreachable,
            Dialled::Connected | Dialled::Down | Dialled::Abandoned => Reason::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;
    use crate::upstream::Pools;

    #[test]
    fn an_entry_is_unknown_until_it_is_checked_and_failing_when_every_upstream_is() {
        let policy = policy("upstream = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nhealth = { check = \"tcp\" }\n");
        let pools = Pools::new(&policy);
        let now = || services(&policy, &pools.load()).remove(0);
        let members = pools.load().values().next().unwrap().members().to_vec();
        assert_eq!((now().state, now().reason), (State::Unknown, None));
        for member in &members {
            member.handle_check(true);
        }
        assert_eq!(now().state, State::Up);
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        for (member, state) in members.iter().zip([State::Up, State::Failing]) {
            member.note_failure(check_failure(&member.upstream, &refused));
            member.handle_check(false);
            member.handle_check(false);
            assert_eq!(now().state, state);
        }
        assert_eq!(now().reason, Some(Reason::Refused));
        assert!(now().evidence.unwrap().as_str().contains("refused"));
        members[0].handle_check(true);
        assert_eq!((now().state, now().reason, now().evidence), (State::Up, None, None));
    }

    #[test]
    fn an_entry_without_checks_is_unknown() {
        let policy = policy("upstream = \"127.0.0.1:1\"\n");
        assert_eq!(services(&policy, &Pools::new(&policy).load())[0].state, State::Unknown);
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

    fn policy(entry: &str) -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\n{entry}"
        );
        policy::forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap()
    }
}

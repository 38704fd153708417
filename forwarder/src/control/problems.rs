//! What a person should look at although flows are carried: sentences for `status` and the log,
//! each with its fix.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::diagnosis::{Cause, Problem};
use policy::Name;
use policy::forwarder::Policy;
use tunnel::time::{Instant, Now};

use super::{EdgeView, Shared};
use crate::stats::Stats;

/// How long a lack of descriptors is shown after the last flow was refused for it.
const SHOWN: Duration = Duration::from_secs(300);

/// The problems that there are now.
#[must_use]
pub fn problems(shared: &Shared, policy: &Policy, now: Now) -> Vec<Problem> {
    let not_taken = shared.not_taken.lock().clone();
    let edges = shared.edges.load();
    let outages = edges.iter().zip(&policy.peers).filter_map(|(edge, peer)| edge.problem(&peer.endpoint));
    let went_back = shared.operator.went_back().map(|noted| noted.problem("forwarder"));
    let not_upgraded = shared.not_upgraded.lock().clone();
    let of_each: [(Cause, Vec<String>); 8] = [
        (Cause::Upgrade, went_back.into_iter().chain(not_upgraded).collect()),
        (Cause::Configuration, not_taken.into_iter().collect()),
        (Cause::PeerDown, outages.collect()),
        (Cause::Clock, clock(shared, now).into_iter().collect()),
        (Cause::Descriptors, descriptors(&shared.stats, now.instant).into_iter().collect()),
        (Cause::SharedKey, shared_keys(shared, now)),
        (Cause::History, shared.history.problem().into_iter().collect()),
        (Cause::PublishRefused, edges.iter().flat_map(refused_ports).collect()),
    ];
    of_each.into_iter().flat_map(|(cause, lines)| Problem::all(cause, lines)).collect()
}

/// The wall clock is one for all edges; each node knows what it used of it.
fn clock(shared: &Shared, now: Now) -> Option<String> {
    shared.edges.load().iter().find_map(|edge| edge.node.clock_fault(now)).map(|fault| fault.to_string())
}

/// The problem that flows were refused because no descriptor was free.
#[must_use]
pub fn descriptors(stats: &Stats, now: Instant) -> Option<String> {
    let refused = stats.no_descriptor.load(Ordering::Relaxed);
    let at = stats.no_descriptor_at()?;
    (now.since(at) < SHOWN).then(|| {
        format!(
            "{refused} connections were refused since the start because every file descriptor was in use; raise the \
             limit of open files (LimitNOFILE= of the unit, NumberOfFiles of the plist) above [limits] flows"
        )
    })
}

fn shared_keys(shared: &Shared, now: Now) -> Vec<String> {
    let is_shared = |edge: &&Arc<EdgeView>| {
        let by_sessions = edge.node.peers(now).iter().any(|peer| peer.shared_key.is_some());
        by_sessions || edge.link.lock().has_shared_key(now.instant)
    };
    shared.edges.load().iter().filter(is_shared).map(|edge| shared_key(&edge.name)).collect()
}

/// The public ports that an edge refuses, each with what to do about it.
fn refused_ports(edge: &Arc<EdgeView>) -> Vec<String> {
    let publishing = edge.publishing.lock();
    let refused = publishing.states().filter_map(|(port, answer)| {
        let (answer, name) = (answer?, &edge.name);
        let (public, service, reason, fix) =
            (port.public(), &port.service, answer.label(), answer.fix(port)?);
        Some(format!("{name} refuses the public port {public} of {service} ({reason}): {fix}"))
    });
    refused.collect()
}

/// The message about sessions that work and are lost every few seconds.
#[must_use]
pub fn shared_key(peer: &Name) -> String {
    format!(
        "the session with {peer} works and is lost every few seconds: another machine uses this machine's key, which \
         `gatewayctl status` at the edge shows; stop one of them, or give it a key of its own"
    )
}

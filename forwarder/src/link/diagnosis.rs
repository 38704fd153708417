//! What is wrong, for `causeway doctor`: at this origin in words, at the edges as they reply over
//! their links; and what an edge that asks is replied.

use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use daemon::diagnosis::{
    Cause, Diagnosis, Far, FarAnswer, Found, Half, MAX_FOUND, MAX_PROBES, Probed, SCHEMA,
};
use daemon::link::message::{Evidence, Reply, Request};
use policy::forwarder::Service;
use policy::{Name, Protocol};

use super::Links;
use super::end::End;
use crate::control::report::wrong;
use crate::upstream::Pool;

/// How long an edge may take.
const WITHIN: Duration = Duration::from_secs(5);

impl Links {
    /// What is wrong with this origin, and with what the edges see.
    pub async fn diagnosis(&self, service: Option<&str>) -> Diagnosis {
        let (_, problems) = wrong(&self.shared);
        let probed = self.probe(service).await;
        let names: Vec<Name> = self.shared.edges.load().iter().map(|edge| edge.name.clone()).collect();
        let mut far = Vec::new();
        for name in names {
            far.push(self.ask(&name).await);
        }
        let uptime_seconds = self.shared.uptime().as_secs();
        Diagnosis { schema: SCHEMA, uptime_seconds, problems, probed, far }
    }

    /// Tries the service of this name, or the first few; one diagnosis after the other.
    async fn probe(&self, service: Option<&str>) -> Vec<Probed> {
        let policy = self.shared.policy.load_full();
        let is_wanted = |entry: &&Service| service.is_none_or(|service| entry.name.as_str() == service);
        let is_tcp = |entry: &&Service| entry.protocols.contains(Protocol::Tcp);
        let wanted = policy.services.iter().filter(is_wanted).filter(is_tcp).take(MAX_PROBES);
        let _turn = self.diagnosing.lock().await;
        let mut probed = Vec::new();
        for entry in wanted {
            let pool = self.shared.pools.load().get(&entry.name).cloned();
            if let Some(pool) = pool {
                probed.push(self.prober.probe(&entry.name, &pool).await);
            }
        }
        probed
    }

    async fn ask(&self, edge: &Name) -> Far {
        let open = self.open.borrow().iter().filter_map(Weak::upgrade).find(|end| end.is_open_to(edge));
        let Some(end) = open else { return Far::without(edge.to_string(), FarAnswer::NoLink) };
        match end.question(Request::Diagnose, WITHIN).await {
            Ok(Reply::Diagnosis { half }) => Far {
                peer: edge.to_string(),
                answer: FarAnswer::Answered,
                found: half.found,
                probed: Vec::new(),
            },
            Ok(_) => Far::without(edge.to_string(), FarAnswer::TooOld),
            Err(answer) => Far::without(edge.to_string(), answer),
        }
    }

    /// What concerns the edges: services have reports of their own.
    pub(super) fn half(&self) -> Half {
        let (_, problems) = wrong(&self.shared);
        let concerns = |cause| {
            matches!(
                cause,
                Cause::Configuration | Cause::Clock | Cause::Descriptors | Cause::SharedKey | Cause::Socket
            )
        };
        let found = problems.iter().filter(|problem| concerns(problem.cause)).map(|problem| {
            let (what, _) = problem.halves();
            Found { cause: problem.cause, service: None, evidence: Some(Evidence::of(what)) }
        });
        Half { found: found.take(MAX_FOUND).collect() }
    }

    /// The upstreams of an entry that an edge may have tried: one that takes flows of its.
    pub(super) fn entry_of(&self, edge: &Name, service: &Name) -> Option<Arc<Pool>> {
        let policy = self.shared.policy.load();
        let entry = policy.services.iter().find(|entry| entry.name == *service);
        entry.filter(|entry| entry.peers.contains(edge))?;
        self.shared.pools.load().get(service).cloned()
    }
}

impl End {
    fn is_open_to(&self, edge: &Name) -> bool {
        self.is_to(edge) && self.is_open()
    }
}

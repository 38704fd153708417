//! The history across links: what an edge may see of this end's, and what the edges reply of theirs.

use std::rc::{Rc, Weak};

use daemon::history::wall_millis;
use daemon::link::asking::{ask, obstacle};
use daemon::link::history::{FarHistory, HistoryAsked, HistoryPart, part, query};
use policy::Name;
use tokio::sync::oneshot::Receiver;
use tokio::task::spawn_local;
use tunnel::io::clock;

use super::Links;

impl Links {
    /// What happened at every edge that has a link, or had one, in so many seconds until now.
    pub async fn far_history(self: &Rc<Self>, seconds: u64) -> Vec<FarHistory> {
        let mut asked = Vec::new();
        for edge in self.shared.edges.load().iter() {
            let links = Rc::clone(self);
            let (peer, obstacle, has_link) = {
                let remote = edge.link.lock();
                (edge.name.clone(), obstacle(&remote), remote.shown(clock::instant()).is_some())
            };
            if has_link {
                asked.push(spawn_local(async move {
                    match obstacle {
                        Some(missing) => missing_of(&peer, missing),
                        None => ask(peer.clone(), seconds, |asked| links.ask_edge(&peer, asked)).await,
                    }
                }));
            }
        }
        let mut found = Vec::new();
        for task in asked {
            found.extend(task.await.ok());
        }
        found
    }

    fn ask_edge(&self, edge: &Name, asked: HistoryAsked) -> Option<Receiver<HistoryPart>> {
        let open = self.open.borrow();
        let mut ends = open.iter().filter_map(Weak::upgrade).filter(|end| end.is_to(edge));
        let id = ends.find_map(|end| end.ask_history(clock::instant(), asked))?;
        Some(self.replies.expect(edge, id))
    }

    /// What the edge of this name may see: its own services, and the tunnel to it.
    pub(super) fn history_for(&self, edge: &Name, asked: &HistoryAsked) -> HistoryPart {
        let (now, policy) = (wall_millis(), self.shared.policy.load());
        let records = self.shared.history.lately(&query(now, asked));
        let sees = |service: &str, _: Option<&str>| {
            let entry = policy.services.iter().find(|entry| entry.name.as_str() == service);
            entry.is_some_and(|entry| entry.peers.contains(edge))
        };
        part(now, &records, edge, &sees)
    }
}

fn missing_of(peer: &Name, missing: String) -> FarHistory {
    FarHistory { peer: peer.to_string(), missing: Some(missing), ..FarHistory::default() }
}

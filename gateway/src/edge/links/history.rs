//! The history across links: what a peer may see of the edge's, and what the peers reply of theirs.

use std::rc::Rc;

use daemon::history::wall_millis;
use daemon::link::asking::{ask, obstacle};
use daemon::link::history::{FarHistory, HistoryAsked, HistoryPart, part, query};
use policy::Name;
use tokio::sync::oneshot::Receiver;
use tokio::task::spawn_local;
use tunnel::io::clock;

use super::EdgeLinks;

impl EdgeLinks {
    /// What happened at every peer that has a link, or had one, in so many seconds until now.
    pub(in super::super) async fn far_history(self: &Rc<Self>, seconds: u64) -> Vec<FarHistory> {
        let mut asked = Vec::new();
        for (peer, obstacle) in self.with_histories() {
            let links = Rc::clone(self);
            asked.push(spawn_local(async move {
                match obstacle {
                    Some(missing) => {
                        FarHistory { peer: peer.to_string(), missing: Some(missing), ..FarHistory::default() }
                    }
                    None => ask(peer.clone(), seconds, |asked| links.ask_peer(&peer, asked)).await,
                }
            }));
        }
        let mut found = Vec::new();
        for task in asked {
            found.extend(task.await.ok());
        }
        found
    }

    /// The peers that have a link, or had one, and why one cannot be asked.
    fn with_histories(&self) -> Vec<(Name, Option<String>)> {
        let (links, now) = (self.links.borrow(), clock::instant());
        let linked = links.remotes().filter(|(_, remote)| remote.shown(now).is_some());
        linked.map(|(name, remote)| (name.clone(), obstacle(remote))).collect()
    }

    fn ask_peer(&self, peer: &Name, asked: HistoryAsked) -> Option<Receiver<HistoryPart>> {
        let id = self.links.borrow_mut().ask_history(clock::instant(), peer, asked)?;
        let reply = self.replies.expect(peer, id);
        self.handle_changes();
        Some(reply)
    }

    /// Replies to what peers ask of the history, and hands over what they replied.
    pub(super) fn handle_histories(&self) {
        let mut links = self.links.borrow_mut();
        while let Some(asked) = links.poll_history_asked() {
            let part = self.history_for(&asked.peer, &asked.asked);
            links.tell_history(clock::instant(), &asked, part);
        }
        while let Some(told) = links.poll_history() {
            self.replies.handle_reply(&told.peer, told.id, told.part);
        }
    }

    /// What a peer may see: the services behind it, and the tunnel to it.
    fn history_for(&self, peer: &Name, asked: &HistoryAsked) -> HistoryPart {
        let now = wall_millis();
        let records = self.history.lately(&query(now, asked));
        part(now, &records, peer, &|_, behind| behind == Some(peer.as_str()))
    }
}

//! What peers ask of this end's history, and what they reply of theirs.

use std::collections::VecDeque;

use policy::Name;
use tunnel::time::Instant;

use super::{LinkId, Links};
use crate::link::history::{HistoryAsked, HistoryPart};
use crate::link::session::Event;

/// Questions and replies that wait to be taken; the oldest goes for a new one.
const MAX_WAITING: usize = 64;

/// A peer asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryOfHere {
    /// Who asks.
    pub peer: Name,
    /// What is asked for.
    pub asked: HistoryAsked,
    link: LinkId,
    id: u32,
}

/// A peer replied.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryOf {
    /// Who replied.
    pub peer: Name,
    /// To which question.
    pub id: u32,
    /// What.
    pub part: HistoryPart,
}

#[derive(Debug)]
pub(super) struct Histories {
    asked: VecDeque<HistoryOfHere>,
    told: VecDeque<HistoryOf>,
}

impl Histories {
    pub(super) const fn new() -> Self {
        Self { asked: VecDeque::new(), told: VecDeque::new() }
    }

    /// Only the open link of a peer counts.
    pub(super) fn handle_event(&mut self, open: Option<LinkId>, link: LinkId, peer: Name, event: Event) {
        match event {
            Event::HistoryAsked(id, asked) if open == Some(link) => {
                push(&mut self.asked, HistoryOfHere { peer, asked, link, id });
            }
            Event::History(id, part) if open == Some(link) => {
                push(&mut self.told, HistoryOf { peer, id, part })
            }
            _ => {}
        }
    }
}

fn push<T>(queue: &mut VecDeque<T>, new: T) {
    if queue.len() == MAX_WAITING {
        queue.pop_front();
    }
    queue.push_back(new);
}

impl Links {
    /// The next question of a peer about this end's history.
    pub fn poll_history_asked(&mut self) -> Option<HistoryOfHere> {
        self.histories.asked.pop_front()
    }

    /// The next reply of a peer about its own.
    pub fn poll_history(&mut self) -> Option<HistoryOf> {
        self.histories.told.pop_front()
    }

    /// Replies to a question, if its link is still there.
    pub fn tell_history(&mut self, now: Instant, asked: &HistoryOfHere, part: HistoryPart) {
        if let Some(connection) = self.connections.get_mut(&asked.link) {
            connection.session.tell_history(now, asked.id, part);
            self.touched.push(asked.link);
        }
    }

    /// Asks a peer; the id of the question, `None` without a link.
    pub fn ask_history(&mut self, now: Instant, peer: &Name, asked: HistoryAsked) -> Option<u32> {
        let link = self.peers.get(peer)?.open?;
        let id = self.connections.get_mut(&link)?.session.ask_history(now, asked)?;
        self.touched.push(link);
        Some(id)
    }
}

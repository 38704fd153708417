//! Questions between this edge and its peers: those that it asked, and those that it is asked.

use std::collections::{BTreeSet, VecDeque};

use policy::Name;
use tunnel::time::Instant;

use super::{LinkId, Links};
use crate::link::message::{Reply, Request};

/// Most questions that wait for a reply, and most of peers that wait to be taken.
const MAX_WAITING: usize = 64;

/// One question on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    link: LinkId,
    id: u32,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Questions {
    asked: BTreeSet<Question>,
    replies: VecDeque<(Question, Reply)>,
    incoming: VecDeque<(Name, Question)>,
}

impl Questions {
    /// None.
    pub(super) const fn new() -> Self {
        Self { asked: BTreeSet::new(), replies: VecDeque::new(), incoming: VecDeque::new() }
    }
}

impl Links {
    /// Asks a peer something; `None` without a link to it, and while too many questions wait.
    pub fn ask(&mut self, now: Instant, peer: &Name, request: Request) -> Option<Question> {
        let link = self.peers.get(peer)?.open?;
        if self.questions.asked.len() >= MAX_WAITING {
            return None;
        }
        let id = self.connections.get_mut(&link)?.session.ask_question(now, request)?;
        let question = Question { link, id };
        self.questions.asked.insert(question);
        self.touched.push(link);
        Some(question)
    }

    /// The next reply to a question of this edge's.
    pub fn poll_reply(&mut self) -> Option<(Question, Reply)> {
        self.questions.replies.pop_front()
    }

    /// A question's reply is no longer waited for.
    pub fn forget_question(&mut self, question: &Question) {
        self.questions.asked.remove(question);
    }

    /// The next peer that asks what is wrong with what concerns it.
    pub fn poll_question(&mut self) -> Option<(Name, Question)> {
        self.questions.incoming.pop_front()
    }

    /// Replies to a question of a peer, if its link is still there.
    pub fn reply(&mut self, now: Instant, question: &Question, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&question.link) {
            connection.session.reply(now, question.id, reply);
            self.touched.push(question.link);
        }
    }

    /// A peer asks: only its open link may.
    pub(super) fn handle_question(&mut self, link: LinkId, peer: &Name, id: u32) {
        let is_open = self.peers.get(peer).is_some_and(|known| known.open == Some(link));
        if is_open && self.questions.incoming.len() < MAX_WAITING {
            self.questions.incoming.push_back((peer.clone(), Question { link, id }));
        }
    }

    /// A peer replied; what was not asked is dropped.
    pub(super) fn handle_reply(&mut self, link: LinkId, id: u32, reply: Reply) {
        let question = Question { link, id };
        if self.questions.asked.remove(&question) {
            self.questions.replies.push_back((question, reply));
        }
    }
}

//! Questions between this edge and its peers, around [`Links`](daemon::link::links::Links).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use daemon::diagnosis::FarAnswer;
use daemon::link::links::Question;
use daemon::link::message::{Reply, Request};
use policy::Name;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tunnel::io::clock;

use super::EdgeLinks;

/// Who waits for replies, and who asked.
#[derive(Default)]
pub(super) struct Questions {
    waiting: RefCell<BTreeMap<Question, oneshot::Sender<Reply>>>,
    asked: RefCell<VecDeque<(Name, Question)>>,
    come: Notify,
}

impl EdgeLinks {
    /// Asks a peer something.
    ///
    /// # Errors
    /// Why there is no reply.
    pub(in crate::edge) async fn ask(
        &self,
        peer: &Name,
        request: Request,
        within: Duration,
    ) -> Result<Reply, FarAnswer> {
        let question = self.links.borrow_mut().ask(clock::instant(), peer, request);
        let question = question.ok_or(FarAnswer::NoLink)?;
        let (sender, receiver) = oneshot::channel();
        self.questions.waiting.borrow_mut().insert(question, sender);
        self.handle_changes();
        let reply = timeout(within, receiver).await;
        self.questions.waiting.borrow_mut().remove(&question);
        self.links.borrow_mut().forget_question(&question);
        match reply {
            Ok(Ok(Reply::UnknownRequest)) => Err(FarAnswer::TooOld),
            Ok(Ok(Reply::Busy)) => Err(FarAnswer::Busy),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(FarAnswer::NoReply),
        }
    }

    /// Waits for the next question of a peer.
    pub(in crate::edge) async fn next_question(&self) -> (Name, Question) {
        loop {
            let next = self.questions.asked.borrow_mut().pop_front();
            match next {
                Some(next) => return next,
                None => self.questions.come.notified().await,
            }
        }
    }

    /// Replies to a question of a peer.
    pub(in crate::edge) fn reply(&self, question: &Question, reply: Reply) {
        self.links.borrow_mut().reply(clock::instant(), question, reply);
        self.handle_changes();
    }

    /// Takes what came: each session and [`Links`](daemon::link::links::Links) bound how much.
    pub(super) fn take_questions(&self) {
        while let Some((question, reply)) = self.next_reply() {
            if let Some(waiting) = self.questions.waiting.borrow_mut().remove(&question) {
                // Whoever asked may have gone away.
                let _ = waiting.send(reply);
            }
        }
        while let Some(asked) = self.next_asked() {
            let mut all = self.questions.asked.borrow_mut();
            all.retain(|(peer, _)| *peer != asked.0);
            all.push_back(asked);
            self.questions.come.notify_one();
        }
    }

    fn next_reply(&self) -> Option<(Question, Reply)> {
        self.links.borrow_mut().poll_reply()
    }

    fn next_asked(&self) -> Option<(Name, Question)> {
        self.links.borrow_mut().poll_question()
    }
}

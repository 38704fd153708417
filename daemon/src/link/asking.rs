//! Questions about the other ends' history, and those who wait for the replies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use policy::Name;
use tokio::sync::oneshot::{Receiver, Sender, channel};
use tokio::time::timeout;
use tunnel::io::clock;

use super::history::{Asking, FarHistory, HistoryAsked, HistoryPart};
use super::remote::Remote;
use crate::history::wall_millis;

/// How long one reply is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Replies that are waited for at a time.
const MAX_WAITING: usize = 256;

/// Those who wait, by peer and the id of the question.
#[derive(Debug, Default)]
pub struct Replies(RefCell<BTreeMap<(Name, u32), Sender<HistoryPart>>>);

impl Replies {
    /// Waits for the reply to a question that was just sent.
    pub fn expect(&self, peer: &Name, id: u32) -> Receiver<HistoryPart> {
        let (sender, receiver) = channel();
        let mut waiting = self.0.borrow_mut();
        waiting.retain(|_, sender| !sender.is_closed());
        if waiting.len() < MAX_WAITING {
            waiting.insert((peer.clone(), id), sender);
        }
        receiver
    }

    /// A reply came; one that nobody waits for is dropped.
    pub fn handle_reply(&self, peer: &Name, id: u32, part: HistoryPart) {
        if let Some(sender) = self.0.borrow_mut().remove(&(peer.clone(), id)) {
            // Whoever waited may have given up.
            let _ = sender.send(part);
        }
    }
}

/// Why a peer cannot be asked; `None` when it can, or is a plain WireGuard peer.
#[must_use]
pub fn obstacle(remote: &Remote) -> Option<String> {
    match remote.far() {
        Some(far) if far.about.tells_history() => None,
        Some(_) => Some("its release does not report its history; update it".to_owned()),
        None => Some("the link with it is down".to_owned()),
    }
}

/// Asks a peer for its history of so many seconds, part after part; `ask` sends one question.
pub async fn ask(
    peer: Name,
    seconds: u64,
    ask: impl Fn(HistoryAsked) -> Option<Receiver<HistoryPart>>,
) -> FarHistory {
    let mut asking = Asking::new(peer, seconds);
    while let Some(asked) = asking.next() {
        let (at, began) = (wall_millis(), clock::instant());
        let Some(reply) = ask(asked) else {
            return asking.found(Some("the link with it is down".to_owned()));
        };
        match timeout(PATIENCE, reply).await {
            Ok(Ok(part)) => asking.handle_part(at, clock::instant().since(began), part),
            Ok(Err(_)) | Err(_) => {
                return asking.found(Some(format!("it did not reply within {} s", PATIENCE.as_secs())));
            }
        }
    }
    asking.found(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_reply_goes_to_who_waits_for_it_and_to_nobody_else() {
        let (replies, peer) = (Replies::default(), Name::new("kyiv").unwrap());
        let found = run(ask(peer.clone(), 60, |_| {
            let receiver = replies.expect(&peer, 7);
            replies.handle_reply(
                &Name::new("other").unwrap(),
                7,
                HistoryPart { now: 1, ..HistoryPart::default() },
            );
            replies.handle_reply(&peer, 8, HistoryPart { now: 2, ..HistoryPart::default() });
            replies.handle_reply(&peer, 7, HistoryPart { now: wall_millis(), ..HistoryPart::default() });
            Some(receiver)
        }));
        assert_eq!(found.missing, None);
        assert!(found.ahead_ms.abs() < 1_000, "{}", found.ahead_ms);
    }

    #[test]
    fn who_cannot_be_asked_is_said_and_the_number_of_those_who_wait_is_limited() {
        let peer = Name::new("kyiv").unwrap();
        let found = run(ask(peer.clone(), 60, |_| None));
        assert_eq!(found.missing.as_deref(), Some("the link with it is down"));
        let replies = Replies::default();
        let waiting: Vec<_> = (0..MAX_WAITING as u32 + 9).map(|id| replies.expect(&peer, id)).collect();
        assert_eq!(replies.0.borrow().len(), MAX_WAITING);
        drop(waiting);
        let _last = replies.expect(&peer, 1);
        assert_eq!(replies.0.borrow().len(), 1);
    }
}

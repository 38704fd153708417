//! Messages that are not delivered yet.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::text::Message;

/// The most messages that wait; a further one takes the place of the oldest, which is reported.
pub const MAX: usize = 64;
/// How long a message is tried, in milliseconds: a day.
pub const LIFE: u64 = 86_400_000;
/// The first pause after a failure, doubled by each further one.
const PAUSE: u64 = 5_000;
/// The longest pause: ten minutes.
const LONGEST_PAUSE: u64 = 600_000;

/// A message, and who has not got it yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    message: Message,
    receivers: Vec<String>,
}

/// How a receiver is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Attempts {
    failures: u32,
    next: u64,
    /// Why the last one failed.
    #[serde(skip)]
    why: Option<String>,
    #[serde(skip)]
    is_busy: bool,
}

/// What is to be delivered, in order for each receiver.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outbox {
    waiting: VecDeque<Waiting>,
    attempts: BTreeMap<String, Attempts>,
    /// Messages that were dropped since one was delivered last.
    dropped: u64,
}

/// A message to be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub receiver: String,
    /// What.
    pub message: Message,
}

impl Outbox {
    /// Takes a message for these receivers; the subject of one that was dropped for it.
    #[must_use]
    pub fn push(&mut self, mut message: Message, receivers: &[String]) -> Option<String> {
        let replaced = message.replaces.take();
        // Whoever has not got the message that it began needs it no more.
        self.waiting.retain(|waiting| Some(&waiting.message.id) != replaced.as_ref());
        self.waiting.push_back(Waiting { message, receivers: receivers.to_vec() });
        (self.waiting.len() > MAX).then(|| self.drop_oldest()).flatten()
    }

    fn drop_oldest(&mut self) -> Option<String> {
        let oldest = self.waiting.pop_front()?;
        self.dropped += 1;
        Some(oldest.message.subject)
    }

    /// Forgets receivers that the configuration does not have any more.
    pub fn handle_receivers(&mut self, receivers: &[String]) {
        for waiting in &mut self.waiting {
            waiting.receivers.retain(|receiver| receivers.contains(receiver));
        }
        self.waiting.retain(|waiting| !waiting.receivers.is_empty());
        self.attempts.retain(|receiver, _| receivers.contains(receiver));
        self.attempts.values_mut().for_each(|attempts| *attempts = Attempts::default());
    }

    /// The subjects of messages that were tried for a day; they are given up.
    pub fn expire(&mut self, now: u64) -> Vec<String> {
        let mut expired = Vec::new();
        while let Some(oldest) = self.waiting.front()
            && now.saturating_sub(oldest.message.at) > LIFE
        {
            expired.extend(self.drop_oldest());
        }
        expired
    }

    /// What is to be sent now; one message to a receiver at a time.
    pub fn poll_delivery(&mut self, now: u64) -> Option<Delivery> {
        for waiting in &self.waiting {
            for receiver in &waiting.receivers {
                let attempts = self.attempts.entry(receiver.clone()).or_default();
                // A clock that was set back makes no pause longer.
                let is_due = attempts.next <= now || attempts.next > now + LONGEST_PAUSE;
                if is_due && !attempts.is_busy {
                    attempts.is_busy = true;
                    let mut message = waiting.message.clone();
                    if self.dropped > 0 {
                        message.body +=
                            &format!("{} earlier messages were lost: no receiver took them.\n", self.dropped);
                    }
                    return Some(Delivery { receiver: receiver.clone(), message });
                }
            }
        }
        None
    }

    /// A receiver has the message.
    pub fn handle_delivered(&mut self, receiver: &str, id: &str) {
        self.attempts.insert(receiver.to_owned(), Attempts::default());
        self.dropped = 0;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.message.id == id) {
            waiting.receivers.retain(|other| other != receiver);
        }
        self.waiting.retain(|waiting| !waiting.receivers.is_empty());
    }

    /// A receiver has not got it; it wants to be left alone for `pause` milliseconds. Whether this
    /// failure is to be reported: it is the first, or has another reason than the one before.
    pub fn handle_failed(&mut self, now: u64, receiver: &str, why: &str, pause: Option<u64>) -> bool {
        let attempts = self.attempts.entry(receiver.to_owned()).or_default();
        attempts.is_busy = false;
        let doubled = PAUSE.saturating_mul(1 << attempts.failures.min(16));
        let pause = pause.unwrap_or(0).max(doubled).min(LONGEST_PAUSE);
        attempts.failures = attempts.failures.saturating_add(1);
        attempts.next = now.saturating_add(pause);
        attempts.why.replace(why.to_owned()).as_deref() != Some(why)
    }

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::incidents::Kind;
    use super::*;

    #[test]
    fn each_receiver_gets_every_message_once_and_in_order() {
        let mut outbox = Outbox::default();
        let both = ["a".to_owned(), "b".to_owned()];
        assert_eq!(outbox.push(message(1), &both), None);
        assert_eq!(outbox.push(message(2), &both), None);
        let first: Vec<_> = std::iter::from_fn(|| outbox.poll_delivery(0)).collect();
        assert_eq!(first.iter().map(id).collect::<Vec<_>>(), ["a 1", "b 1"]);
        outbox.handle_delivered("a", "1");
        assert!(outbox.handle_failed(0, "b", "refused", None));
        assert_eq!(outbox.poll_delivery(0).as_ref().map(id).unwrap(), "a 2");
        outbox.handle_delivered("a", "2");
        assert_eq!(outbox.poll_delivery(PAUSE - 1), None);
        assert_eq!(outbox.poll_delivery(PAUSE).as_ref().map(id).unwrap(), "b 1");
        outbox.handle_delivered("b", "1");
        assert_eq!(outbox.poll_delivery(PAUSE).as_ref().map(id).unwrap(), "b 2");
        outbox.handle_delivered("b", "2");
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_receiver_that_is_away_is_tried_less_and_less_often() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(message(1), &["a".to_owned()]), None);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..9 {
            let begun = now;
            while outbox.poll_delivery(now).is_none() {
                now += 1_000;
            }
            pauses.push((now - begun) / 1_000);
            let is_first = pauses.len() == 1;
            assert_eq!(outbox.handle_failed(now, "a", "refused", None), is_first);
        }
        assert_eq!(pauses, [0, 5, 10, 20, 40, 80, 160, 320, 600]);
        assert!(outbox.handle_failed(now, "a", "wrong password", Some(u64::MAX)), "another reason");
        assert!(outbox.poll_delivery(now + LONGEST_PAUSE).is_some());
    }

    #[test]
    fn the_sixty_fifth_takes_the_place_of_the_oldest_and_the_next_one_says_so() {
        let mut outbox = Outbox::default();
        let to = ["a".to_owned()];
        for number in 0..64 {
            assert_eq!(outbox.push(message(number), &to), None);
        }
        assert_eq!(outbox.push(message(64), &to), Some("subject 0".to_owned()));
        assert_eq!(outbox.len(), MAX);
        let delivery = outbox.poll_delivery(0).unwrap();
        assert_eq!(delivery.message.id, "1");
        assert!(delivery.message.body.contains("1 earlier messages were lost"), "{}", delivery.message.body);
        assert_eq!(outbox.expire(LIFE).len(), 0);
        assert_eq!(outbox.expire(LIFE + 65).len(), 64);
    }

    #[test]
    fn what_is_over_before_anybody_knew_is_one_message() {
        let over = Message { replaces: Some("1".to_owned()), ..message(2) };
        let both = ["a".to_owned(), "b".to_owned()];
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(message(1), &both), None);
        assert_eq!(outbox.push(over, &both), None);
        assert_eq!(outbox.poll_delivery(0).as_ref().map(id).unwrap(), "a 2");
    }

    #[test]
    fn a_receiver_that_is_configured_no_more_gets_nothing() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(message(1), &["a".to_owned()]), None);
        outbox.handle_receivers(&["b".to_owned()]);
        assert!(outbox.is_empty());
    }

    fn id(delivery: &Delivery) -> String {
        format!("{} {}", delivery.receiver, delivery.message.id)
    }

    fn message(number: u64) -> Message {
        Message {
            id: number.to_string(),
            kind: Kind::Down,
            replaces: None,
            at: number,
            subject: format!("subject {number}"),
            body: "body\n".to_owned(),
            down: Vec::new(),
            hop: None,
        }
    }
}

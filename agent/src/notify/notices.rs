//! What other tasks of the agent have to say to the receivers.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::Notify;

use super::text::Message;

/// The most messages that wait to be taken; a further one takes the place of the oldest.
pub const MAX: usize = 16;

/// Messages on their way to the task that sends them, if there is one.
#[derive(Debug, Default)]
pub struct Notices {
    waiting: RefCell<VecDeque<Message>>,
    added: Notify,
}

impl Notices {
    /// Takes a message.
    pub fn push(&self, message: Message) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == MAX {
            waiting.pop_front();
        }
        waiting.push_back(message);
        self.added.notify_one();
    }

    /// Waits for a message.
    pub async fn next(&self) -> Message {
        loop {
            let first = self.waiting.borrow_mut().pop_front();
            match first {
                Some(message) => return message,
                None => self.added.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sixteen_messages_wait_and_the_oldest_makes_room() {
        let notices = Notices::default();
        for number in 0..=MAX {
            notices.push(Message::steered("wroclaw", 0, &number.to_string(), ""));
        }
        for number in 1..=MAX {
            assert_eq!(notices.next().await.body.lines().next(), Some(format!("{number}.").as_str()));
        }
        assert!(notices.waiting.borrow().is_empty());
    }
}

//! Events on their way to the caller.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::status::Event;

/// Events that may wait; then the oldest are dropped.
const CAPACITY: usize = 1024;

/// A bounded queue of events, oldest first.
#[derive(Default)]
pub(super) struct EventQueue {
    waiting: Mutex<VecDeque<Event>>,
    /// Whether any wait: a thread that carries packets reads it after every batch.
    any: AtomicBool,
    dropped: AtomicU64,
}

impl EventQueue {
    /// Adds an event; a full queue loses its oldest.
    pub(super) fn push(&self, event: Event) {
        let mut waiting = self.waiting.lock();
        if waiting.len() == CAPACITY {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(event);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Adds the events that there are.
    pub(super) fn extend(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.push(event));
    }

    /// Takes the oldest event.
    pub(super) fn pop(&self) -> Option<Event> {
        let mut waiting = self.waiting.lock();
        let event = waiting.pop_front();
        self.any.store(!waiting.is_empty(), Ordering::SeqCst);
        event
    }

    /// Whether events wait.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Events lost because they were not taken in time.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::PeerId;

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let queue = EventQueue::default();
        for peer in 0..1030 {
            queue.push(Event::Handshake { peer: PeerId(peer) });
        }

        assert_eq!(queue.dropped(), 6);
        assert_eq!(queue.pop(), Some(Event::Handshake { peer: PeerId(6) }));
    }

    #[test]
    fn it_shows_whether_events_wait() {
        let queue = EventQueue::default();
        assert!(!queue.any());

        queue.push(Event::Handshake { peer: PeerId(1) });
        queue.push(Event::Handshake { peer: PeerId(2) });
        assert!(queue.any());

        queue.pop();
        assert!(queue.any());
        queue.pop();
        assert!(!queue.any());
    }
}

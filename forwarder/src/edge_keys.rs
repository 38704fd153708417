//! Which of the two keys of an edge is in use, while the edge is about to change its own.
//!
//! An edge has one key at a time, and only its replies show which: the forwarder uses one of the
//! two, and tries the other when handshakes by it stay without an answer. Once the next key is in
//! use, the one before does not come back while the edge replies.

use std::time::Duration;

use tunnel::key::PublicKey;
use tunnel::time::Instant;

/// How long an edge does not answer handshakes by one key before the other is tried.
const TURN: Duration = Duration::from_secs(10);

/// The keys of a `[[peer]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Its `public_key`.
    pub current: PublicKey,
    /// Its `next_public_key`.
    pub next: Option<PublicKey>,
}

/// The key that is in use, of those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeKeys {
    keys: Keys,
    in_use: PublicKey,
    has_worked: bool,
}

impl EdgeKeys {
    /// Begins with the current key.
    #[must_use]
    pub const fn new(keys: Keys) -> Self {
        Self { keys, in_use: keys.current, has_worked: false }
    }

    /// The keys that there are.
    #[must_use]
    pub const fn keys(&self) -> Keys {
        self.keys
    }

    /// The key in use.
    #[must_use]
    pub const fn in_use(&self) -> PublicKey {
        self.in_use
    }

    /// Whether it is the next one.
    #[must_use]
    pub fn is_next(&self) -> bool {
        self.keys.next == Some(self.in_use)
    }

    /// Whether a session was agreed by the key in use.
    #[must_use]
    pub const fn has_worked(&self) -> bool {
        self.has_worked
    }

    /// The key that is not in use, if there are two.
    #[must_use]
    pub fn other(&self) -> Option<PublicKey> {
        let next = self.keys.next?;
        Some(if self.in_use == next { self.keys.current } else { next })
    }

    /// Takes the keys of another configuration: the key in use stays if it is one of them.
    pub fn configure(&mut self, keys: Keys) {
        self.keys = keys;
        if self.in_use != keys.current && !self.is_next() {
            self.take(keys.current);
        }
    }

    /// A session was agreed by the key in use; whether it is the first by the next key.
    pub fn handle_session(&mut self) -> bool {
        !std::mem::replace(&mut self.has_worked, true) && self.is_next()
    }

    /// The holder of this key begins a handshake; whether the key is in use now. Only the next one
    /// is taken up at once: whoever has the key before is perhaps the edge no more.
    pub fn handle_initiation(&mut self, key: PublicKey) -> bool {
        let is_taken = self.keys.next == Some(key) && self.in_use != key;
        if is_taken {
            self.take(key);
        }
        is_taken
    }

    /// Takes the other key when handshakes by the one in use are not answered, as far as is known
    /// since `unanswered`; whether it does.
    pub fn handle_timeout(&mut self, now: Instant, unanswered: Option<Instant>) -> bool {
        let is_over = unanswered.is_some_and(|since| now.since(since) >= TURN);
        let Some(other) = self.other().filter(|_| is_over) else { return false };
        self.take(other);
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self, unanswered: Option<Instant>) -> Option<Instant> {
        self.keys.next.and(unanswered).map(|since| since.after(TURN))
    }

    const fn take(&mut self, key: PublicKey) {
        self.in_use = key;
        self.has_worked = false;
    }
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn the_other_key_is_tried_after_ten_seconds_without_an_answer_again_and_again() {
        let mut keys = both();
        assert_eq!(keys.poll_timeout(Some(at(0))), Some(at(10)));
        for (second, since, expected) in
            [(9, 0, key(1)), (10, 0, key(2)), (15, 10, key(2)), (20, 10, key(1)), (30, 20, key(2))]
        {
            let before = keys.in_use();
            assert_eq!(keys.handle_timeout(at(second), Some(at(since))), expected != before, "{second}");
            assert_eq!(keys.in_use(), expected, "{second}");
        }
    }

    #[test]
    fn a_key_that_is_answered_stays_in_use() {
        let mut keys = both();
        assert!(!keys.handle_timeout(at(1_000), None));
        assert_eq!((keys.in_use(), keys.poll_timeout(None)), (key(1), None));
    }

    #[test]
    fn an_edge_with_one_key_never_gets_another() {
        let mut keys = EdgeKeys::new(Keys { current: key(1), next: None });
        assert!(!keys.handle_timeout(at(1_000), Some(at(0))) && !keys.handle_initiation(key(2)));
        assert_eq!((keys.in_use(), keys.other()), (key(1), None));
        assert_eq!(keys.poll_timeout(Some(at(0))), None);
    }

    #[test]
    fn the_next_key_is_taken_up_at_once_when_its_holder_comes_and_the_one_before_is_not() {
        let mut keys = both();
        assert!(!keys.handle_initiation(key(3)));
        assert!(keys.handle_initiation(key(2)) && keys.is_next());
        assert!(!keys.handle_initiation(key(2)), "it is in use already");
        assert!(keys.handle_session());
        assert!(!keys.handle_initiation(key(1)), "a thief has the key before");
        assert_eq!(keys.in_use(), key(2));
        assert!(keys.handle_timeout(at(10), Some(at(0))), "the edge has gone back to it");
        assert_eq!(keys.in_use(), key(1));
    }

    #[test]
    fn the_first_session_by_the_next_key_is_news_and_no_other_is() {
        let mut keys = both();
        assert!(!keys.handle_session() && keys.has_worked());
        keys.handle_timeout(at(10), Some(at(0)));
        assert!(!keys.has_worked());
        assert!(keys.handle_session() && !keys.handle_session());
    }

    #[test]
    fn another_configuration_keeps_the_key_in_use_if_it_has_it() {
        let mut keys = both();
        keys.handle_initiation(key(2));
        keys.handle_session();
        keys.configure(Keys { current: key(2), next: None });
        assert!(keys.in_use() == key(2) && keys.has_worked() && !keys.is_next());
        keys.configure(Keys { current: key(2), next: Some(key(3)) });
        assert!(keys.in_use() == key(2) && keys.has_worked(), "the next change begins");
        keys.configure(Keys { current: key(4), next: Some(key(3)) });
        assert!(keys.in_use() == key(4) && !keys.has_worked());
    }

    fn both() -> EdgeKeys {
        EdgeKeys::new(Keys { current: key(1), next: Some(key(2)) })
    }

    fn key(byte: u8) -> PublicKey {
        PrivateKey::from_bytes([byte; 32]).public()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}

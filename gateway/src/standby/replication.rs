//! Which messages of the other edge are new.
//!
//! Each edge has a challenge, and a message counts only if it repeats the receiver's: what was
//! recorded before the receiver's start never does. The challenge changes when the other edge was
//! started again, so that nothing of its earlier life counts either; within one life the counter
//! must rise.

use std::time::Duration;

use tunnel::time::Instant;

use super::message::{Body, Challenge, Message};
use super::seal::{BOOT, Seal};

/// After so long without a message that counts, a challenge is learned from one that does not.
const UNHEARD: Duration = Duration::from_secs(3);
/// Between two answers to messages that taught something.
const ANSWERS: Duration = Duration::from_millis(100);

/// Why a datagram changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was not sealed with the pair's key, or is none of its messages.
    #[error("it is not sealed with the key of this pair; give both edges the same private key")]
    Unauthentic,
    /// It is this edge's own.
    #[error("it is this edge's own message; `other` must be the address of the other edge")]
    Own,
    /// It does not repeat this edge's challenge: a recording, or the first one after a start.
    #[error("it does not answer this edge")]
    Unanswering,
    /// Its counter was there before.
    #[error("it came before")]
    Repeated,
}

/// A message that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub body: Body,
}

/// The other edge, since it was last started.
#[derive(Clone, Copy, Debug)]
struct Far {
    boot: [u8; BOOT],
    highest: u64,
}

/// One end of the replication.
pub struct Replication {
    seal: Seal,
    boot: [u8; BOOT],
    counter: u64,
    own: Challenge,
    /// What the other edge's messages must have repeated to them.
    theirs: Challenge,
    far: Option<Far>,
    heard: Option<Instant>,
    answered: Option<Instant>,
    /// Whether what was learned is to be sent at once.
    owes_answer: bool,
}

impl Replication {
    /// An end that was started now; `random` has 32 bytes that were never used before.
    #[must_use]
    pub fn new(seal: Seal, random: [u8; 32]) -> Self {
        let (boot, own) = halves(random);
        Self {
            seal,
            boot,
            counter: 0,
            own: Challenge(own),
            theirs: Challenge::default(),
            far: None,
            heard: None,
            answered: None,
            owes_answer: false,
        }
    }

    /// The datagram that brings the other edge `body`; `None` when that is too long for one.
    pub fn datagram(&mut self, body: Body) -> Option<Vec<u8>> {
        self.counter += 1;
        let message = Message { mine: self.own, yours: self.theirs, body };
        self.seal.seal(&self.boot, self.counter, &message.to_bytes())
    }

    /// Takes a datagram; `random` gives bytes that were never used before.
    ///
    /// # Errors
    /// [`Refused`], when nothing of it counts.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
        random: impl FnOnce() -> [u8; 16],
    ) -> Result<Received, Refused> {
        let (boot, counter, message) = self.seal.open(datagram).ok_or(Refused::Unauthentic)?;
        if boot == self.boot {
            return Err(Refused::Own);
        }
        let message = Message::parse(&message).ok_or(Refused::Unauthentic)?;
        if message.yours != self.own {
            if self.silence(now).is_none_or(|silence| silence >= UNHEARD) {
                self.learn(message.mine);
            }
            return Err(Refused::Unanswering);
        }
        match &mut self.far {
            Some(far) if far.boot == boot && counter <= far.highest => return Err(Refused::Repeated),
            Some(far) if far.boot == boot => far.highest = counter,
            _ => {
                self.far = Some(Far { boot, highest: counter });
                self.own = Challenge(random());
                self.owes_answer = true;
            }
        }
        self.learn(message.mine);
        self.heard = Some(now);
        Ok(Received { body: message.body })
    }

    fn learn(&mut self, theirs: Challenge) {
        self.owes_answer |= self.theirs != theirs;
        self.theirs = theirs;
    }

    /// Whether a message is to be sent before its second is over, so that the other edge learns the
    /// challenge; true ten times a second at most.
    pub fn poll_answer(&mut self, now: Instant) -> bool {
        let is_time = self.answered.is_none_or(|at| now.since(at) >= ANSWERS);
        let answers = self.owes_answer && is_time;
        if answers {
            (self.owes_answer, self.answered) = (false, Some(now));
        }
        answers
    }

    /// How long the other edge was not heard; `None` if it never was.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        self.heard.map(|at| now.since(at))
    }
}

fn halves(random: [u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    let (one, other) = random.split_at(16);
    first.copy_from_slice(one);
    second.copy_from_slice(other);
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tunnel::key::PrivateKey;

    use super::*;

    const ALIVE: Body = Body::Alive { active: true };

    #[test]
    fn two_ends_hear_each_other_within_three_messages() {
        let (mut one, mut two) = (end(1), end(2));
        assert_eq!(pass(&mut one, &mut two, 0), Err(Refused::Unanswering));
        assert!(two.poll_answer(at(0)));
        assert_eq!(pass(&mut two, &mut one, 0), Ok(ALIVE));
        assert!(one.poll_answer(at(0)));
        assert_eq!(pass(&mut one, &mut two, 0), Ok(ALIVE));
        // Each has changed its challenge once, since the other was new.
        two.poll_answer(at(200));
        assert_eq!(pass(&mut two, &mut one, 200), Ok(ALIVE));
        assert!(one.poll_answer(at(200)), "the challenge of the other has changed");
        assert_eq!(pass(&mut one, &mut two, 200), Ok(ALIVE));
        assert_eq!(two.silence(at(700)), Some(Duration::from_millis(500)));
        assert!(!one.poll_answer(at(900)) && !two.poll_answer(at(900)), "nothing is new");
    }

    #[test]
    fn nothing_counts_twice_and_nothing_of_ones_own_counts() {
        let (mut one, mut two) = introduced();
        let datagram = one.datagram(ALIVE).unwrap();
        assert!(two.handle_datagram(at(1_000), &datagram, || [7; 16]).is_ok());
        assert_eq!(two.handle_datagram(at(1_001), &datagram, || [7; 16]), Err(Refused::Repeated));
        assert_eq!(one.handle_datagram(at(1_001), &datagram, || [7; 16]), Err(Refused::Own));
    }

    #[test]
    fn what_was_recorded_before_either_start_never_counts() {
        let (mut one, mut two) = introduced();
        let recorded: Vec<_> = (0..5).map(|_| one.datagram(ALIVE).unwrap()).collect();
        // The sender is started again: its earlier messages are none of its new life.
        let mut again = end(3);
        for _ in 0..3 {
            let _ = pass(&mut again, &mut two, 10_000);
            let _ = pass(&mut two, &mut again, 10_000);
        }
        assert_eq!(pass(&mut again, &mut two, 11_000), Ok(ALIVE));
        let theirs = two.theirs;
        for datagram in &recorded {
            assert_eq!(two.handle_datagram(at(11_500), datagram, || [7; 16]), Err(Refused::Unanswering));
        }
        assert_eq!(two.theirs, theirs, "a recording teaches nothing while the other edge is heard");
        // The receiver is started again.
        let mut fresh = end(4);
        for datagram in &recorded {
            assert_eq!(fresh.handle_datagram(at(0), datagram, || [7; 16]), Err(Refused::Unanswering));
        }
    }

    #[test]
    fn recordings_that_taught_a_wrong_challenge_hold_the_other_edge_up_for_one_message() {
        let (mut one, _) = introduced();
        let recorded = one.datagram(ALIVE).unwrap();
        let (mut one, mut two) = (end(5), end(6));
        let _ = two.handle_datagram(at(0), &recorded, || [7; 16]);
        let _ = pass(&mut one, &mut two, 0);
        assert_eq!(pass(&mut two, &mut one, 0), Ok(ALIVE));
    }

    #[test]
    fn answers_are_ten_a_second_at_most() {
        let (mut one, mut two) = (end(1), end(2));
        let mut answers = 0;
        for milliseconds in 0..1_000 {
            // Each time another edge that was never heard.
            let mut other = end(u8::try_from(milliseconds % 80).unwrap() + 10);
            let _ = pass(&mut other, &mut two, milliseconds);
            answers += usize::from(two.poll_answer(at(milliseconds)));
        }
        assert!((2..=10).contains(&answers), "{answers}");
        assert_eq!(pass(&mut two, &mut one, 1_000), Err(Refused::Unanswering));
    }

    proptest! {
        #[test]
        fn no_bytes_that_the_other_edge_did_not_seal_change_anything(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            (place, bit) in (any::<usize>(), 0..8_u8),
        ) {
            let (mut one, mut two) = introduced();
            prop_assert_eq!(two.handle_datagram(at(1_000), &bytes, || [7; 16]), Err(Refused::Unauthentic));
            let mut changed = one.datagram(ALIVE).unwrap();
            let place = place % changed.len();
            changed[place] ^= 1 << bit;
            prop_assert_eq!(two.handle_datagram(at(1_000), &changed, || [7; 16]), Err(Refused::Unauthentic));
            prop_assert_eq!(pass(&mut one, &mut two, 1_000), Ok(ALIVE));
        }

        #[test]
        fn each_message_counts_at_most_once_and_in_order_however_they_are_repeated(
            order in proptest::collection::vec(0..8_usize, 0..40),
        ) {
            let (mut one, mut two) = introduced();
            let sent: Vec<_> = (0..8).map(|_| one.datagram(ALIVE).unwrap()).collect();
            let counts = |number: &usize| two.handle_datagram(at(1_000), &sent[*number], || [7; 16]).is_ok();
            let counted: Vec<usize> = order.into_iter().filter(counts).collect();
            prop_assert!(counted.windows(2).all(|pair| pair[0] < pair[1]), "{counted:?}");
        }
    }

    fn introduced() -> (Replication, Replication) {
        let (mut one, mut two) = (end(1), end(2));
        for _ in 0..3 {
            let _ = pass(&mut one, &mut two, 0);
            let _ = pass(&mut two, &mut one, 0);
        }
        (one, two)
    }

    fn pass(from: &mut Replication, to: &mut Replication, milliseconds: u64) -> Result<Body, Refused> {
        let datagram = from.datagram(ALIVE).unwrap();
        let random = [u8::try_from(to.counter % 100).unwrap() + 100; 16];
        to.handle_datagram(at(milliseconds), &datagram, || random).map(|received| received.body)
    }

    fn end(number: u8) -> Replication {
        Replication::new(Seal::new(PrivateKey::from_bytes([1; 32])), [number; 32])
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }
}

//! The beginning of a link: each end sends a nonce, then proves who it is.

use tunnel::time::Instant;

use super::{Ended, Far, HELLO_TIME, MAX_BEFORE_HELLO};
use crate::link::hello::{Greetings, Identity, Proof, Role};
use crate::link::message::{About, Greeting, Hello, Message};

/// A link whose ends do not know each other yet.
pub(super) struct Opening {
    identity: Identity,
    own: Greeting,
    far: Option<Greeting>,
    taken: usize,
    /// Until when the other end has to be known.
    pub(super) until: Instant,
}

/// What follows from a message.
pub(super) enum Step {
    /// This end's proof is to be sent.
    Prove(Hello),
    /// The other end is known.
    Known(Far),
}

impl Opening {
    pub(super) const fn new(now: Instant, identity: Identity, own: Greeting) -> Self {
        Self { identity, own, far: None, taken: 0, until: now.after(HELLO_TIME) }
    }

    /// Counts bytes that are taken; whether they are too many.
    pub(super) const fn count(&mut self, taken: usize) -> bool {
        self.taken += taken;
        self.taken > MAX_BEFORE_HELLO
    }

    /// A message came; `role` and `about` are of this end.
    ///
    /// # Errors
    /// Why the link ends.
    pub(super) fn handle_message(
        &mut self,
        role: Role,
        about: &About,
        message: Message,
    ) -> Result<Step, Ended> {
        match (self.far, message) {
            (None, Message::Nonce(greeting)) => self.greet(role, about, greeting).map(Step::Prove),
            (Some(far), Message::Hello(hello)) => self.judge(role, far, hello).map(Step::Known),
            _ => Err(Ended::Early),
        }
    }

    /// The other end's nonce came: this end's proof can be made.
    fn greet(&mut self, role: Role, about: &About, greeting: Greeting) -> Result<Hello, Ended> {
        if greeting.nonce == self.own.nonce {
            return Err(Ended::WrongKey);
        }
        self.far = Some(greeting);
        let greetings = Greetings { own: self.own, far: greeting };
        if greetings.schema().is_none() {
            return Err(Ended::Schema);
        }
        let mac = Proof { identity: &self.identity, role, greetings: &greetings }.make(about);
        Ok(Hello { mac, about: about.clone() })
    }

    /// The other end's proof came.
    fn judge(&self, role: Role, far: Greeting, hello: Hello) -> Result<Far, Ended> {
        let greetings = Greetings { own: self.own, far };
        let proof = Proof { identity: &self.identity, role, greetings: &greetings };
        match greetings.schema() {
            Some(schema) if proof.is_right(&hello.about, &hello.mac) => {
                Ok(Far { about: hello.about, schema })
            }
            Some(_) => Err(Ended::WrongKey),
            None => Err(Ended::Schema),
        }
    }
}

//! The rounds with the edge, until both ends have what was agreed.

use std::io;
use std::time::{Duration, Instant};

use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::pairing::code::Code;
use daemon::pairing::joiner::{JoinEvent, JoinFault, JoinPairing};
use daemon::pairing::message::{Failure, Terms};
use daemon::pairing::words::Words;
use policy::HostPort;
use tunnel::key::PublicKey;

use super::client::{Client, Reached};
use super::endpoints::Endpoints;
use super::signals::Signals;
use super::silence;
use crate::lines::{Answer, Lines};
use crate::machine;

/// Longest time without something to do.
const STEP: Duration = Duration::from_millis(200);
/// After so long without an answer, what that means is reported.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last message may take to arrive.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// How long the edge may take to keep the new peer.
const KEPT_WITHIN: Duration = Duration::from_secs(20);
/// What the operator here is asked.
const QUESTION: &str = "does the edge show the same four words? yes or no";

/// The rounds with the edge.
pub(super) struct Course {
    client: Client,
    pairing: JoinPairing,
    signals: Signals,
    began: Instant,
    is_reported: bool,
}

impl Course {
    /// Begins to reach the edge of a code, for the holder of `key`.
    ///
    /// # Errors
    /// From the system.
    pub(super) fn begin(code: &Code, key: PublicKey, endpoints: &Endpoints) -> Result<Self, ExitError> {
        let client = Client::open(code, endpoints.addresses())
            .map_err(|error| ExitError::new(Exit::of(&error), error))?;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| ExitError::new(Exit::Failed, error))?;
        let pairing =
            JoinPairing::new(code.clone(), key, nonce, machine::name_or("origin")?, machine::version()?);
        let signals = Signals::handle().map_err(|error| ExitError::new(Exit::Failed, error))?;
        Ok(Self { client, pairing, signals, began: Instant::now(), is_reported: false })
    }

    /// Waits until the edge has opened its terms.
    ///
    /// # Errors
    /// Why there is no pairing.
    pub(super) fn wait_for_terms(
        &mut self,
        timeout: Duration,
        endpoints: &Endpoints,
    ) -> Result<(Box<Terms>, Words), ExitError> {
        loop {
            match self.round()? {
                Some(JoinEvent::Offered { terms, words }) => return Ok((terms, words)),
                Some(JoinEvent::Accepted | JoinEvent::Kept) | None => {}
                Some(JoinEvent::Ended(fault)) => return Err(ended(fault)),
            }
            let silence = self.began.elapsed();
            let tried = endpoints.addresses();
            if silence >= SILENCE && !self.is_reported {
                self.is_reported = true;
                print_to_stderr(&silence::meaning(self.client.reached(), &tried, self.client.denied()));
            }
            if silence >= timeout {
                let meaning = silence::meaning(self.client.reached(), &tried, self.client.denied());
                return Err(ExitError::new(Exit::Failed, format!("gave up: {meaning}")));
            }
        }
    }

    /// Waits until the edge has accepted, and the operator here as well where there is one to ask.
    ///
    /// # Errors
    /// Why there is no pairing.
    pub(super) fn wait_for_decision(&mut self, operator: Option<&Lines>) -> Result<(), ExitError> {
        if let Some(lines) = operator {
            lines.forget();
            print_to_stderr(QUESTION);
        }
        let (mut asked, mut is_accepted) = (operator, false);
        while !is_accepted || asked.is_some() {
            match self.round()? {
                Some(JoinEvent::Accepted) => is_accepted = true,
                Some(JoinEvent::Offered { .. } | JoinEvent::Kept) | None => {}
                Some(JoinEvent::Ended(JoinFault::Gone)) => {
                    let fix = "if the edge took this machine, pair again, else nothing was changed";
                    let message = format!("{}; {fix}", JoinFault::Gone);
                    return Err(ExitError::new(Exit::Failed, message));
                }
                Some(JoinEvent::Ended(fault)) => return Err(ended(fault)),
            }
            match asked.and_then(|lines| lines.answer(QUESTION)) {
                Some(Answer::Yes) => {
                    asked = None;
                    if !is_accepted {
                        print_to_stderr("now say yes at the edge as well");
                    }
                }
                Some(Answer::No) => {
                    self.give_up(Failure::Declined);
                    return Err(ExitError::new(Exit::Failed, "refused: nothing was changed here"));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Reports that the configuration is written, and waits until the edge keeps the new peer;
    /// whether it does.
    pub(super) fn wait_until_kept(&mut self) -> bool {
        self.pairing.written();
        let begun = Instant::now();
        while begun.elapsed() < KEPT_WITHIN {
            match self.carry() {
                Ok(Some(JoinEvent::Kept)) => return true,
                Ok(Some(JoinEvent::Ended(_))) | Err(_) => return false,
                Ok(Some(JoinEvent::Offered { .. } | JoinEvent::Accepted) | None) => {}
            }
        }
        false
    }

    /// Ends the pairing; the edge gets the reason where it can.
    pub(super) fn give_up(&mut self, reason: Failure) {
        self.pairing.fail(reason);
        if self.client.reached() == Reached::Gateway {
            self.flush();
        }
    }

    /// Keeps the connection alive while something else takes its time.
    pub(super) fn step(&mut self) {
        drop(self.client.step(STEP));
    }

    /// The endpoint that answered, as the code has it.
    pub(super) fn endpoint(&self, endpoints: &Endpoints) -> HostPort {
        endpoints.named(self.client.answered())
    }

    /// One round, unless a signal ends the command: the edge then gets that reason, so that it does
    /// not take the next attempt for a second machine.
    fn round(&mut self) -> Result<Option<JoinEvent>, ExitError> {
        if self.signals.came() {
            self.give_up(Failure::Ended);
            return Err(ExitError::new(Exit::Failed, "ended by a signal; nothing was changed here"));
        }
        self.carry()
    }

    /// Waits for something, carries messages both ways, and returns what happened.
    fn carry(&mut self) -> Result<Option<JoinEvent>, ExitError> {
        let failed = |error: io::Error| ExitError::new(Exit::Failed, error);
        if let Some(event) = self.pairing.poll_event() {
            return Ok(Some(event));
        }
        self.send();
        self.client.step(STEP).map_err(failed)?;
        while let Some(frame) = self.client.receive().map_err(failed)? {
            self.pairing.handle_frame(&frame);
        }
        if self.client.is_over() {
            self.pairing.handle_disconnected();
        }
        self.send();
        Ok(self.pairing.poll_event())
    }

    fn send(&mut self) {
        while let Some(frame) = self.pairing.poll_frame() {
            self.client.send(&frame);
        }
    }

    /// Gives the last message time to arrive.
    fn flush(&mut self) {
        self.send();
        let begun = Instant::now();
        while begun.elapsed() < FLUSH_WITHIN && !self.client.is_flushed() && self.client.step(STEP).is_ok() {}
    }
}

fn ended(fault: JoinFault) -> ExitError {
    ExitError::new(Exit::Failed, format!("{fault}; nothing was changed here"))
}

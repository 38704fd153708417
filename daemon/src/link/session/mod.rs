//! One link as its end sees it: bytes and time in, bytes and events out.
//!
//! Whoever owns a session reads while [`Session::wants_input`], gives it what came, takes events,
//! sends what [`Session::poll_output`] has, and calls [`Session::handle_timeout`] when
//! [`Session::poll_timeout`] has come. After [`Event::Closed`] it closes its connection: nothing
//! comes any more.

mod opening;
mod output;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use tunnel::bucket::Bucket;
use tunnel::time::Instant;

use super::frame::{FrameReader, MAX_FRAME, frame};
use super::hello::{Identity, Role};
use super::history::{HistoryAsked, HistoryPart};
use super::message::{About, Bytes, Greeting, Health, Message, Notice, Reply, Request, SCHEMA};
use super::publish::{Answer, Asked};
use opening::{Opening, Step};
pub use output::MAX_OUTPUT;
use output::Output;

/// How long the other end has to prove who it is.
pub const HELLO_TIME: Duration = Duration::from_secs(5);
/// The most bytes that are taken before it has.
pub const MAX_BEFORE_HELLO: usize = 4 << 10;
/// After how long a silence an edge asks whether its origin is there.
const PING_AFTER: Duration = Duration::from_secs(8);
/// And an origin its edge: the sooner, so that not both ask.
const ORIGIN_PING_AFTER: Duration = Duration::from_secs(7);
/// After how long a silence it is not.
pub const SILENCE: Duration = Duration::from_secs(13);
/// Events that may wait; while as many do, nothing is read.
pub const MAX_UNREAD: usize = 4;
/// Frames that are taken per second, and at once.
const PACE: (u32, u32) = (20, 64);
/// Questions of the other end that its owner is asked: one in this time, and so many at once.
const QUESTION_PACE: (Duration, u32) = (Duration::from_millis(250), 16);
/// While more than this waits to be sent, nothing is read: who does not take replies gets no more.
const READ_BELOW: usize = 16 << 10;
/// Memory that a message takes for each byte of its frame, at most.
const DECODED: usize = 4;

/// What an end reports to its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The other end has proved who it is.
    Opened(Far),
    /// It reports services.
    Health(Health),
    /// It announces something.
    Notice(Notice),
    /// An origin requests public ports; the reply has this id.
    Asked(u32, Asked),
    /// An edge replied to the request with this id.
    Answers(u32, Vec<Answer>),
    /// It asks what happened here; the reply has this id.
    HistoryAsked(u32, HistoryAsked),
    /// It replied to the question with this id what happened there.
    History(u32, HistoryPart),
    /// The other end asks something that its owner replies to with this id.
    Question(u32, Request),
    /// The other end replied to the question with this id.
    Replied(u32, Reply),
    /// The link is over.
    Closed(Ended),
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Far {
    /// Who it is.
    pub about: About,
    /// The schema that both ends use.
    pub schema: u32,
}

macro_rules! ended {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// Why a link ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Ended { $($(#[$doc])* $variant,)+ }

        impl Ended {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// In one word.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

ended! {
    /// The other end closed the connection, or it failed.
    Hangup = "hangup",
    /// The other end did not prove who it is in time.
    HelloLate = "hello_late",
    /// The proof is wrong: another key, another preshared key, or an altered or repeated hello.
    WrongKey = "wrong_key",
    /// There is no schema that both ends know.
    Schema = "schema",
    /// Another message came before the proof.
    Early = "before_hello",
    /// A frame is longer than allowed, or too much came before the proof.
    TooLong = "too_long",
    /// A frame holds no message, or one that cannot come at that moment.
    Malformed = "malformed",
    /// Nothing came for too long.
    Silent = "silent",
    /// The other end does not read.
    NotReading = "not_reading",
    /// Another link of the same peer took its place.
    Replaced = "replaced",
    /// All links together hold too much memory, and this one most of it.
    Memory = "memory",
    /// The peer's key, preshared key or prefixes changed, or it left the configuration.
    Reconfigured = "reconfigured",
    /// This end stops.
    Stopping = "stopping",
}

impl Ended {
    /// Whether the other end was refused, as opposed to a link that is simply over.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        !matches!(self, Self::Hangup | Self::Silent | Self::Replaced | Self::Reconfigured | Self::Stopping)
    }
}

const fn ping_after(role: Role) -> Duration {
    match role {
        Role::Origin => ORIGIN_PING_AFTER,
        Role::Edge => PING_AFTER,
    }
}

/// Where a link is.
enum Phase {
    /// Neither end is known yet.
    Opening(Opening),
    /// Both are.
    Open,
    /// It is over.
    Closed,
}

/// One end of a link.
pub struct Session {
    role: Role,
    about: About,
    phase: Phase,
    reader: FrameReader,
    output: Output,
    /// With the length of the frame that each came in.
    events: VecDeque<(usize, Event)>,
    pace: Bucket,
    questions: Bucket,
    paced_until: Option<Instant>,
    heard: Instant,
    is_pinged: bool,
    next_id: u32,
    /// Why it ends once everything was sent.
    finishing: Option<Ended>,
}

impl Session {
    /// The end in a role of a link that has just been connected; `nonce` is random and used once.
    #[must_use]
    pub fn new(now: Instant, role: Role, identity: Identity, about: About, nonce: [u8; 32]) -> Self {
        let own = Greeting { nonce: Bytes(nonce), schema: SCHEMA };
        let phase = Phase::Opening(Opening::new(now, identity, own));
        let mut session = Self {
            role,
            about,
            phase,
            reader: FrameReader::new(MAX_BEFORE_HELLO),
            output: Output::default(),
            events: VecDeque::new(),
            pace: Bucket::new(PACE.0, PACE.1),
            questions: Bucket::every(QUESTION_PACE.0, QUESTION_PACE.1),
            paced_until: None,
            heard: now,
            is_pinged: false,
            next_id: 0,
            finishing: None,
        };
        session.queue(now, &Message::Nonce(own));
        session
    }

    /// Whether it takes input now. Otherwise the connection is not to be read.
    #[must_use]
    pub fn wants_input(&self, now: Instant) -> bool {
        !self.is_closed()
            && self.events.len() < MAX_UNREAD
            && self.output.pending().len() <= READ_BELOW
            && self.pace.ready_at() <= now
    }

    /// Takes bytes that came; returns how many it took. It takes fewer than all when it no longer
    /// [wants input](Self::wants_input): the rest is to be given again.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.wants_input(now) {
            let before = rest.len();
            let taken = self.reader.take(&mut rest);
            let is_too_much = match &mut self.phase {
                Phase::Opening(opening) => opening.count(before - rest.len()),
                Phase::Open | Phase::Closed => false,
            };
            match taken {
                Err(_) => self.close(Ended::TooLong),
                Ok(_) if is_too_much => self.close(Ended::TooLong),
                Ok(Some(body)) => self.handle_frame(now, &body),
                Ok(None) => {}
            }
        }
        self.paced_until = Some(self.pace.ready_at()).filter(|ready| *ready > now);
        bytes.len() - rest.len()
    }

    /// The connection was closed by the other end, or failed.
    pub fn handle_hangup(&mut self) {
        self.close(Ended::Hangup);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.paced_until = self.paced_until.filter(|ready| *ready > now);
        match &self.phase {
            Phase::Opening(opening) if opening.until <= now => self.close(Ended::HelloLate),
            Phase::Open if self.heard.after(SILENCE) <= now => self.close(Ended::Silent),
            Phase::Open if self.output.deadline(SILENCE).is_some_and(|due| due <= now) => {
                self.close(Ended::NotReading);
            }
            Phase::Open if !self.is_pinged && self.heard.after(ping_after(self.role)) <= now => {
                self.is_pinged = true;
                self.next_id = self.next_id.wrapping_add(1);
                self.queue(now, &Message::Request { id: self.next_id, request: Request::Ping });
            }
            Phase::Opening(_) | Phase::Open | Phase::Closed => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Opening(opening) => Some(opening.until),
            Phase::Open => {
                let silent = self.heard.after(if self.is_pinged { SILENCE } else { ping_after(self.role) });
                [Some(silent), self.output.deadline(SILENCE), self.paced_until].into_iter().flatten().min()
            }
            Phase::Closed => None,
        }
    }

    /// The bytes that are to be sent next.
    #[must_use]
    pub fn poll_output(&self) -> &[u8] {
        self.output.pending()
    }

    /// So many bytes of [`poll_output`](Self::poll_output) were sent.
    pub fn handle_sent(&mut self, now: Instant, count: usize) {
        self.output.advance(now, count);
        if let Some(reason) = self.finishing.filter(|_| self.output.pending().is_empty()) {
            self.close(reason);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().map(|(_, event)| event)
    }

    /// Whether there is room for a message of any length now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.is_open() && self.output.pending().len() <= READ_BELOW
    }

    /// Reports services to the other end; `false` while it is not known, and once the link is over.
    pub fn send_health(&mut self, now: Instant, health: Health) -> bool {
        self.send(now, &Message::Health(health))
    }

    /// Announces something to the other end; `false` as for [`send_health`](Self::send_health).
    pub fn send_notice(&mut self, now: Instant, notice: Notice) -> bool {
        self.send(now, &Message::Notice(notice))
    }

    /// Requests public ports of an edge; the id of the request, `None` as `false` for
    /// [`send_health`](Self::send_health).
    pub fn ask(&mut self, now: Instant, asked: Asked) -> Option<u32> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.send(now, &Message::Request { id, request: Request::Publish(asked) }).then_some(id)
    }

    /// Replies to the request with this id; `false` as for [`send_health`](Self::send_health).
    pub fn answer(&mut self, now: Instant, id: u32, answers: Vec<Answer>) -> bool {
        self.send(now, &Message::Reply { id, reply: Reply::Publish { answers } })
    }

    /// Asks what happened at the other end; the id, as for [`ask`](Self::ask).
    pub fn ask_history(&mut self, now: Instant, asked: HistoryAsked) -> Option<u32> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.send(now, &Message::Request { id, request: Request::History(asked) }).then_some(id)
    }

    /// Replies what happened here; `false` as for [`send_health`](Self::send_health).
    pub fn send_history(&mut self, now: Instant, id: u32, part: HistoryPart) -> bool {
        self.send(now, &Message::Reply { id, reply: Reply::History(part) })
    }

    /// Asks the other end something; the id of the question, `None` as `false` for
    /// [`send_health`](Self::send_health).
    pub fn ask_question(&mut self, now: Instant, request: Request) -> Option<u32> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.send(now, &Message::Request { id, request }).then_some(id)
    }

    /// Replies to the question with this id; `false` as for [`send_health`](Self::send_health).
    pub fn reply(&mut self, now: Instant, id: u32, reply: Reply) -> bool {
        self.send(now, &Message::Reply { id, reply })
    }

    /// Ends it for a reason of its owner's once what waits was sent; at once when the other end is
    /// not known.
    pub fn finish(&mut self, reason: Ended) {
        if self.is_open() && !self.output.pending().is_empty() {
            self.finishing = Some(reason);
        } else {
            self.close(reason);
        }
    }

    /// Ends it for a reason of its owner's.
    pub fn close(&mut self, reason: Ended) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.reader = FrameReader::new(0);
        self.output = Output::default();
        self.events.push_back((0, Event::Closed(reason)));
    }

    /// Whether the other end has proved who it is.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        let events: usize = self.events.iter().map(|(length, _)| length * DECODED).sum();
        size_of::<Self>() + self.reader.held() + self.output.held() + events
    }

    fn handle_frame(&mut self, now: Instant, body: &[u8]) {
        self.pace.take(now);
        let Ok(message) = serde_json::from_slice::<Message>(body) else {
            return self.close(Ended::Malformed);
        };
        self.heard = now;
        self.is_pinged = false;
        match &mut self.phase {
            Phase::Opening(opening) => {
                let step = opening.handle_message(self.role, &self.about, message);
                self.go_on(now, step);
            }
            Phase::Open => self.handle_message(now, body.len(), message),
            Phase::Closed => {}
        }
    }

    fn go_on(&mut self, now: Instant, step: Result<Step, Ended>) {
        match step {
            Ok(Step::Prove(hello)) => {
                self.queue(now, &Message::Hello(hello));
            }
            Ok(Step::Known(far)) => {
                self.phase = Phase::Open;
                self.reader.set_limit(MAX_FRAME);
                self.events.push_back((0, Event::Opened(far)));
            }
            Err(reason) => self.close(reason),
        }
    }

    fn handle_message(&mut self, now: Instant, length: usize, message: Message) {
        match message {
            Message::Request { id, request } => self.handle_request(now, length, id, request),
            Message::Reply { id, reply: Reply::Publish { answers } } => {
                self.events.push_back((length, Event::Answers(id, answers)));
            }
            Message::Reply { id, reply: Reply::History(part) } => {
                self.events.push_back((length, Event::History(id, part)));
            }
            Message::Health(health) => self.events.push_back((length, Event::Health(health))),
            Message::Notice(notice) => self.events.push_back((length, Event::Notice(notice))),
            Message::Nonce(_) | Message::Hello(_) => self.close(Ended::Malformed),
            Message::Reply { id, reply } => {
                // That it came is all that a reply to a ping says.
                if reply != Reply::Pong {
                    self.events.push_back((length, Event::Replied(id, reply)));
                }
            }
            Message::Unknown => {}
        }
    }

    fn handle_request(&mut self, now: Instant, length: usize, id: u32, request: Request) {
        let reply = match request {
            Request::Publish(asked) if self.role == Role::Edge => {
                return self.events.push_back((length, Event::Asked(id, asked)));
            }
            Request::History(asked) => {
                return self.events.push_back((length, Event::HistoryAsked(id, asked)));
            }
            Request::Diagnose => return self.handle_question(now, length, id, request),
            Request::Probe { .. } if self.role == Role::Origin => {
                return self.handle_question(now, length, id, request);
            }
            Request::Ping => Reply::Pong,
            Request::Publish(_) | Request::Probe { .. } | Request::Unknown => Reply::UnknownRequest,
        };
        self.queue(now, &Message::Reply { id, reply });
    }

    /// Each question is work for the owner: more than a few at once are refused.
    fn handle_question(&mut self, now: Instant, length: usize, id: u32, request: Request) {
        if self.questions.take(now) {
            self.events.push_back((length, Event::Question(id, request)));
        } else {
            self.queue(now, &Message::Reply { id, reply: Reply::Busy });
        }
    }

    fn send(&mut self, now: Instant, message: &Message) -> bool {
        self.is_open() && self.queue(now, message)
    }

    /// Puts a message behind what waits to be sent. When there is no room, the other end does not
    /// read.
    fn queue(&mut self, now: Instant, message: &Message) -> bool {
        let Some(frame) = serde_json::to_vec(message).ok().and_then(|body| frame(&body)) else {
            return false;
        };
        let has_room = self.output.push(now, &frame);
        if !has_room {
            self.close(Ended::NotReading);
        }
        has_room
    }
}

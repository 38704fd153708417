//! The origin's end of one link.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use daemon::diagnosis::FarAnswer;
use daemon::link::health::DIGEST_EVERY;
use daemon::link::history::HistoryAsked;
use daemon::link::message::{Health, Notice, Reply, ReportedHop, Request};
use daemon::link::publish::{Answer, Port};
use daemon::link::remote::Change;
use daemon::link::session::{Ended, Event, Session};
use daemon::link::shell::LinkEnd;
use policy::Name;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tunnel::io::clock;
use tunnel::time::Instant;

use super::Links;
use crate::control::EdgeView;

/// Parts of a report that may wait; beyond it everything is reported again.
const MAX_WAITING: usize = 64;
/// Services that an edge has tried at a time.
const MAX_TRIES: usize = 2;
/// How long this end is away when it stops, as far as it announces.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(300);

/// One connection to an edge.
pub(super) struct End {
    /// Itself, for what goes on after a call.
    own: Weak<Self>,
    links: Rc<Links>,
    view: Arc<EdgeView>,
    session: RefCell<Session>,
    /// Notified when there is something to send for another reason than the connection.
    pub(super) touched: Notify,
    /// Reports that are still to be sent.
    waiting: RefCell<VecDeque<Health>>,
    /// When everything is reported again; `None` while the edge is not known, or does not read
    /// reports.
    digest_at: Cell<Option<Instant>>,
    was_open: Cell<bool>,
    has_heard: Cell<bool>,
    /// Who waits for the edge's replies to questions.
    questions: RefCell<BTreeMap<u32, oneshot::Sender<Reply>>>,
    /// How many services the edge may have tried at a time.
    tries: Arc<Semaphore>,
}

impl End {
    /// A connection that was just begun.
    pub(super) fn new(links: Rc<Links>, view: Arc<EdgeView>, session: Session) -> Rc<Self> {
        Rc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            links,
            view,
            session: RefCell::new(session),
            touched: Notify::new(),
            waiting: RefCell::default(),
            digest_at: Cell::default(),
            was_open: Cell::default(),
            has_heard: Cell::default(),
            questions: RefCell::default(),
            tries: Arc::new(Semaphore::new(MAX_TRIES)),
        })
    }

    /// Whether it is to the edge of this name.
    pub(super) fn is_to(&self, edge: &Name) -> bool {
        self.view.name == *edge
    }

    /// Whether it is a link now.
    pub(super) fn is_open(&self) -> bool {
        self.session.borrow().is_open()
    }

    /// Whether it became a link.
    pub(super) const fn was_open(&self) -> bool {
        self.was_open.get()
    }

    /// Reports what changed.
    pub(super) fn report(&self, now: Instant, reports: &[Health]) {
        if self.digest_at.get().is_none() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.extend(self.links.parts_of(&self.view.name, reports));
        if waiting.len() > MAX_WAITING {
            *waiting = self.links.digest(now, &self.view.name).into();
        }
        self.touched.notify_one();
    }

    /// Requests what the configuration requests now.
    pub(super) fn publish(&self) {
        self.touched.notify_one();
    }

    /// Asks what happened at the edge; the id of the question, `None` while there is no link.
    pub(super) fn ask_history(&self, now: Instant, asked: HistoryAsked) -> Option<u32> {
        let id = self.session.borrow_mut().ask_history(now, asked)?;
        self.touched.notify_one();
        Some(id)
    }

    fn send_history(&self, now: Instant, id: u32, asked: &HistoryAsked) {
        let part = self.links.history_for(&self.view.name, asked);
        self.session.borrow_mut().send_history(now, id, part);
        self.touched.notify_one();
    }

    /// Announces that the agent of this end reported what fails at a hop.
    pub(super) fn announce_reported(&self, now: Instant, hop: ReportedHop) {
        self.session.borrow_mut().send_notice(now, Notice::Reported { hop });
        self.touched.notify_one();
    }

    /// Announces that this end stops, and ends the link once that was sent.
    pub(super) fn stop(&self, now: Instant) {
        let seconds = u32::try_from(BACK_WITHIN.as_secs()).unwrap_or(u32::MAX);
        self.session.borrow_mut().send_notice(now, Notice::Stopping { seconds });
        self.finish(now, Ended::Stopping);
    }

    /// Ends the link once what waits was sent.
    pub(super) fn finish(&self, now: Instant, reason: Ended) {
        self.session.borrow_mut().finish(reason);
        self.handle_events(now);
        self.touched.notify_one();
    }

    /// Ends the link at once: the connection is closed.
    pub(super) fn hang_up(&self, now: Instant) {
        self.session.borrow_mut().handle_hangup();
        self.handle_events(now);
    }

    fn handle_events(&self, now: Instant) {
        while let Some(event) = self.next_event() {
            self.handle_event(now, event);
        }
    }

    fn handle_answers(&self, now: Instant, id: u32, answers: &[Answer]) {
        let news = self.view.publishing.lock().handle_answers(now, id, answers);
        news.iter().for_each(|(port, answer)| log_answer(&self.view, port, *answer));
    }

    /// Requests what is due.
    fn ask(&self, now: Instant, session: &mut Session) {
        let mut publishing = self.view.publishing.lock();
        if let Some(asked) = publishing.take_due(now)
            && let Some(id) = session.ask(now, asked.clone())
        {
            publishing.handle_asked(id, asked);
        }
    }

    fn next_event(&self) -> Option<Event> {
        self.session.borrow_mut().poll_event()
    }

    /// Asks the edge something.
    ///
    /// # Errors
    /// Why there is no reply.
    pub(super) async fn question(&self, request: Request, within: Duration) -> Result<Reply, FarAnswer> {
        let asked = self.session.borrow_mut().ask_question(clock::instant(), request);
        let id = asked.ok_or(FarAnswer::NoLink)?;
        let (sender, receiver) = oneshot::channel();
        self.questions.borrow_mut().insert(id, sender);
        self.touched.notify_one();
        let reply = timeout(within, receiver).await;
        self.questions.borrow_mut().remove(&id);
        match reply {
            Ok(Ok(Reply::UnknownRequest)) => Err(FarAnswer::TooOld),
            Ok(Ok(Reply::Busy)) => Err(FarAnswer::Busy),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(FarAnswer::NoReply),
        }
    }

    fn reply(&self, id: u32, reply: Reply) {
        self.session.borrow_mut().reply(clock::instant(), id, reply);
        self.touched.notify_one();
    }

    /// The edge asks; what it may have tried are its own entries.
    fn handle_question(&self, id: u32, request: &Request) {
        let Request::Probe { service } = request else {
            return self.reply(id, Reply::Diagnosis { half: self.links.half() });
        };
        let Some(pool) = self.links.entry_of(&self.view.name, service) else {
            return self.reply(id, Reply::UnknownRequest);
        };
        let turn = Arc::clone(&self.tries).try_acquire_owned().ok();
        let (Some(turn), Some(end)) = (turn, self.own.upgrade()) else {
            return self.reply(id, Reply::Busy);
        };
        let service = service.clone();
        drop(spawn_local(async move {
            let probed = end.links.prober.probe(&service, &pool).await;
            end.reply(id, Reply::Probed { probed });
            drop(turn);
        }));
    }

    fn handle_reply(&self, id: u32, reply: &Reply) {
        if let Some(waiting) = self.questions.borrow_mut().remove(&id) {
            // Whoever asked may have gone away.
            let _ = waiting.send(reply.clone());
        }
    }

    fn handle_event(&self, now: Instant, event: Event) {
        match &event {
            Event::Opened(far) => {
                self.was_open.set(true);
                self.view.publishing.lock().handle_up(far.about.grants());
                if far.about.reads_health() {
                    self.digest_at.set(Some(now.after(DIGEST_EVERY)));
                    *self.waiting.borrow_mut() = self.links.digest(now, &self.view.name).into();
                }
            }
            // A peer that sends nothing at all is a plain WireGuard peer.
            Event::Closed(Ended::HelloLate) if !self.has_heard.get() => return,
            Event::Closed(reason) if reason.is_refusal() => self.links.count_refused(*reason),
            Event::Notice(Notice::Grants) => self.view.publishing.lock().handle_notice(),
            Event::HistoryAsked(id, asked) => return self.send_history(now, *id, asked),
            Event::History(id, part) => {
                return self.links.replies.handle_reply(&self.view.name, *id, part.clone());
            }
            Event::Answers(id, answers) => return self.handle_answers(now, *id, answers),
            Event::Question(id, request) => return self.handle_question(*id, request),
            Event::Replied(id, reply) => return self.handle_reply(*id, reply),
            Event::Health(_) | Event::Notice(_) | Event::Asked(..) | Event::Closed(_) => {}
        }
        if self.was_open.get() && matches!(event, Event::Closed(_)) {
            self.view.publishing.lock().handle_down();
        }
        let mut remote = self.view.link.lock();
        let before = remote.fault();
        let change = remote.handle_event(now, event);
        let is_known = before == remote.fault();
        drop(remote);
        if let Some(change) = change {
            if matches!(change, Change::Stopping) {
                self.links.note_notice(&self.view.name);
            }
            log(&self.view, &change, is_known);
        }
    }
}

/// Logs what an edge refuses, and what it grants.
fn log_answer(view: &EdgeView, port: &Port, answer: Answer) {
    let (peer, service, public) = (&view.name, &port.service, port.public());
    match answer.fix(port) {
        None => tracing::info!(%peer, %service, port = %public, "the edge opened a public port"),
        Some(fix) => {
            let reason = answer.label();
            tracing::warn!(%peer, %service, port = %public, reason, "the edge refuses a public port: {fix}");
        }
    }
}

/// Logs a change; a refusal only when it is another than before.
fn log(view: &EdgeView, change: &Change, is_known: bool) {
    let peer = &view.name;
    match change {
        Change::Up(far) => {
            let (machine, version) = (&far.about.name, &far.about.version);
            tracing::info!(%peer, %machine, %version, "the link is up");
        }
        Change::Down(reason) => tracing::info!(%peer, reason = reason.label(), "the link is down"),
        Change::Refused(reason) if reason.is_refusal() && !is_known => {
            tracing::info!(%peer, reason = reason.label(), "there is no link: the other end was refused");
        }
        Change::Refused(reason) => tracing::debug!(%peer, reason = reason.label(), "no link so far"),
        Change::Stopping => tracing::info!(%peer, "the edge announced that it stops"),
        Change::Reported(hop) => {
            tracing::info!(%peer, hop = hop.label(), "the edge's agent reported an outage")
        }
        // Shown as a problem; sessions that alternate are what is warned of.
        Change::SharedKey => tracing::info!(%peer, "two machines with the edge's key have links in turn"),
    }
}

impl LinkEnd for End {
    fn wants_input(&self, now: Instant) -> bool {
        self.session.borrow().wants_input(now)
    }

    fn handle_input(&self, now: Instant, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.has_heard.set(true);
            let more = self.session.borrow_mut().handle_input(now, rest);
            if more == 0 {
                break;
            }
            taken += more;
            self.view.link.lock().bytes.0 += more as u64;
            self.handle_events(now);
        }
        taken
    }

    fn output(&self, now: Instant, most: usize, into: &mut Vec<u8>) {
        let mut session = self.session.borrow_mut();
        while session.has_room()
            && let Some(report) = self.waiting.borrow_mut().pop_front()
        {
            session.send_health(now, report);
        }
        if session.has_room() {
            self.ask(now, &mut session);
        }
        let output = session.poll_output();
        into.extend_from_slice(output.get(..most).unwrap_or(output));
    }

    fn handle_sent(&self, now: Instant, count: usize) {
        self.session.borrow_mut().handle_sent(now, count);
        self.view.link.lock().bytes.1 += count as u64;
        self.handle_events(now);
    }

    fn handle_hangup(&self, now: Instant) {
        self.session.borrow_mut().handle_hangup();
        self.handle_events(now);
    }

    fn handle_timeout(&self, now: Instant) {
        self.session.borrow_mut().handle_timeout(now);
        self.handle_events(now);
        if self.digest_at.get().is_some_and(|due| due <= now) {
            self.digest_at.set(Some(now.after(DIGEST_EVERY)));
            self.report(now, &self.links.digest(now, &self.view.name));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let session = self.session.borrow();
        let publish = self.view.publishing.lock().poll_timeout().filter(|_| session.has_room());
        [session.poll_timeout(), self.digest_at.get(), publish].into_iter().flatten().min()
    }

    fn is_over(&self) -> bool {
        self.session.borrow().is_closed()
    }
}

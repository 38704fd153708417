//! The life of notifications, as long as one configuration is in force.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::agent::{Quiet as QuietShown, Reply, Request, Tested};
use daemon::control::server::{Access, Answer, Socket as ControlSocket};
use daemon::exit::{Exit, ExitError};
use daemon::files::Lock;
use daemon::history::{Page, Query};
use policy::sections::Notify as Receiver;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::daemon::{Answer as Answered, AskError, Socket};
use super::incidents::Kind;
use super::notices::Notices;
use super::outbox::Delivery;
use super::quiet::{LONGEST, Quiet};
use super::seen::End;
use super::send::{NotTaken, Origin, Sender};
use super::state::{State, file_in};
use super::text::Message;
use super::wall_clock;

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Records that are read at once, at most.
const PAGES: usize = 16;
/// What happened before the agent's first start is read back so far, in milliseconds.
const BACK: u64 = 600_000;

/// Where the agent has its socket and its state.
#[derive(Clone, Debug)]
pub struct Places {
    /// The control socket.
    pub socket: PathBuf,
    /// The folder of the state.
    pub state: PathBuf,
}

/// Sends what is to be sent to the receivers of a configuration.
pub struct Task {
    socket: Socket,
    from: Origin,
    senders: Vec<Arc<Sender>>,
    places: Places,
    notices: Rc<Notices>,
}

impl Task {
    /// With the secrets from their files.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(
        socket: Socket,
        receivers: &[Receiver],
        machine: &str,
        places: &Places,
        notices: Rc<Notices>,
    ) -> Result<Self, ExitError> {
        let senders: Result<_, _> =
            receivers.iter().map(|receiver| Sender::open(receiver).map(Arc::new)).collect();
        let from = Origin { machine: machine.to_owned(), end: socket.end() };
        Ok(Self { socket, from, senders: senders?, places: places.clone(), notices })
    }

    /// Runs until `stop` is notified; what is being sent is waited for.
    pub async fn run(self, stop: Rc<Notify>) {
        let lock = Lock::claim(&self.places.state, "causeway-agent");
        let control = ControlSocket::bind(&self.places.socket, Access::Owner);
        let (_lock, control) = match (lock, control) {
            (Ok(lock), Ok(control)) => (lock, control),
            (lock, control) => {
                let errors = [lock.err().map(|it| it.message), control.err().map(|it| it.to_string())];
                for error in errors.into_iter().flatten() {
                    tracing::error!("no notifications are sent: {error}");
                }
                return stop.notified().await;
            }
        };
        let keeper = Rc::new(Keeper::new(self));
        let answer = Rc::clone(&keeper);
        let serving = spawn_local(async move {
            if let Err(error) = control.serve(answer).await {
                tracing::error!(%error, "the agent takes no requests");
            }
        });
        keeper.run(&stop).await;
        serving.abort();
        drop(serving.await);
    }
}

/// What runs: the state, and what the control socket shares of it.
struct Keeper {
    task: Task,
    state: RefCell<State>,
    file: PathBuf,
    /// Sent when the daemon is to be asked at once.
    wake: Notify,
    is_saved: RefCell<bool>,
    is_denied: RefCell<bool>,
}

type Sent = (Delivery, Result<(), NotTaken>);

impl Keeper {
    fn new(task: Task) -> Self {
        let file = file_in(&task.places.state);
        let mut state = State::load(&file, task.from.end);
        let names: Vec<String> = task.senders.iter().map(|sender| sender.name.clone()).collect();
        state.outbox.handle_receivers(&names);
        Self {
            task,
            state: RefCell::new(state),
            file,
            wake: Notify::new(),
            is_saved: RefCell::new(true),
            is_denied: RefCell::new(false),
        }
    }

    async fn run(&self, stop: &Notify) {
        let mut sending: JoinSet<Sent> = JoinSet::new();
        let mut asking: Option<JoinHandle<Result<Answered, AskError>>> = None;
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.notified() => break,
                () = sleep_until(next) => {
                    next = Instant::now() + INTERVAL;
                    self.ask(&mut asking).await;
                }
                () = self.wake.notified() => next = Instant::now(),
                message = self.task.notices.next() => {
                    self.hand_over(message);
                    self.save();
                }
                Some(sent) = sending.join_next() => {
                    if let Ok((delivery, result)) = sent { self.handle_sent(&delivery, result) }
                }
            }
            self.state.borrow_mut().incidents.advance(wall_clock());
            self.settle();
            while let Some(sending_now) = self.poll_delivery() {
                sending.spawn_blocking(sending_now);
            }
        }
        while let Some(sent) = sending.join_next().await {
            if let Ok((delivery, result)) = sent {
                self.handle_sent(&delivery, result);
            }
        }
        self.save();
    }

    /// Asks the daemon for what is new; it counts as silent when it takes too long.
    async fn ask(&self, asking: &mut Option<JoinHandle<Result<Answered, AskError>>>) {
        for _ in 0..PAGES {
            let pending = asking.get_or_insert_with(|| {
                let (socket, query, now) = (self.task.socket.clone(), self.query(), wall_clock());
                spawn_blocking(move || socket.ask(now, query))
            });
            let Ok(answered) = timeout(PATIENCE, pending).await else {
                let error = format!("it has not answered for {} seconds", PATIENCE.as_secs());
                return self.state.borrow_mut().incidents.handle_silence(wall_clock(), &error);
            };
            *asking = None;
            match answered {
                Ok(Ok(answer)) => {
                    if !self.handle_answer(answer) {
                        return;
                    }
                }
                Ok(Err(AskError::Silent(error))) => {
                    tracing::debug!("the daemon does not answer: {error}");
                    return self.state.borrow_mut().incidents.handle_silence(wall_clock(), &error);
                }
                Ok(Err(AskError::Denied(error))) => {
                    if !self.is_denied.replace(true) {
                        tracing::error!(
                            "nothing is known of the daemon: {error}; give the agent's unit its group (SupplementaryGroups=)"
                        );
                    }
                    return;
                }
                Err(error) => return tracing::error!(%error, "the daemon could not be asked"),
            }
        }
    }

    fn query(&self) -> Query {
        let state = self.state.borrow();
        let after = state.ring.is_some().then_some(state.last);
        let since = after.is_none().then(|| wall_clock().saturating_sub(BACK));
        Query { after, since, limit: None, no_minutes: true }
    }

    /// Takes an answer; whether there are more records.
    fn handle_answer(&self, Answered { page, seen }: Answered) -> bool {
        self.is_denied.replace(false);
        let mut state = self.state.borrow_mut();
        let is_more = page.is_some_and(|page| state.handle_page(page));
        if !is_more {
            state.incidents.handle_seen(wall_clock(), seen);
        }
        is_more
    }

    /// Puts what is to be sent into the outbox, and saves it before it is sent.
    fn settle(&self) {
        let now = wall_clock();
        let mut state = self.state.borrow_mut();
        let receivers = self.receivers();
        let mut has_changed = state.incidents.poll_changed();
        while let Some(report) = state.incidents.poll_report() {
            let message = Message::of(&self.task.from.machine, &report);
            hand_over(&mut state, message, &receivers);
            has_changed = true;
        }
        while let Some(hop) = state.incidents.poll_held() {
            self.announce(hop);
        }
        for lost in state.outbox.expire(now) {
            tracing::warn!("no receiver took it for a day; it is dropped: {lost}");
            has_changed = true;
        }
        drop(state);
        if has_changed {
            self.save();
        }
    }

    fn receivers(&self) -> Vec<String> {
        self.task.senders.iter().map(|sender| sender.name.clone()).collect()
    }

    fn hand_over(&self, message: Message) {
        hand_over(&mut self.state.borrow_mut(), message, &self.receivers());
    }

    fn save(&self) {
        let saved = self.state.borrow().save(&self.file);
        let was_saved = self.is_saved.replace(saved.is_ok());
        if let Err(error) = saved
            && was_saved
        {
            let fix = daemon::files::fix_of_write(&error, "give the agent's user the folder");
            tracing::warn!(
                "{}: {error}; messages may be sent again after a restart; {fix}",
                self.file.display()
            );
        }
    }

    fn poll_delivery(&self) -> Option<impl FnOnce() -> Sent + Send + 'static> {
        let delivery = self.state.borrow_mut().outbox.poll_delivery(wall_clock())?;
        let sender = self.task.senders.iter().find(|sender| sender.name == delivery.receiver).cloned()?;
        let from = self.task.from.clone();
        Some(move || {
            let result = sender.send(&from, &delivery.message);
            (delivery, result)
        })
    }

    fn handle_sent(&self, Delivery { receiver, message }: &Delivery, result: Result<(), NotTaken>) {
        let mut state = self.state.borrow_mut();
        match result {
            Ok(()) => {
                state.outbox.handle_delivered(receiver, &message.id);
                drop(state);
                self.save();
                tracing::info!(receiver, "sent: {}", message.subject);
                self.announce_reported(message);
            }
            Err(NotTaken { why, pause }) => {
                if state.outbox.handle_failed(wall_clock(), receiver, &why, pause) {
                    tracing::warn!(receiver, "not sent, to be tried again: {why}");
                } else {
                    tracing::debug!(receiver, "not sent, to be tried again: {why}");
                }
            }
        }
    }

    fn announce_reported(&self, message: &Message) {
        let is_new = matches!(message.kind, Kind::Down | Kind::Flapping | Kind::StillDown);
        if let Some(hop) = message.hop.clone().filter(|_| is_new) {
            self.announce(hop);
        }
    }

    /// Says that the other end need not report what fails at this hop.
    fn announce(&self, hop: String) {
        let socket = self.task.socket.clone();
        drop(spawn_blocking(move || {
            if let Err(error) = socket.announce_reported(&hop) {
                tracing::debug!("the other end may report this as well: {error}");
            }
        }));
    }

    async fn test(&self) -> Reply {
        let end: End = self.task.from.end;
        let message = Message::test(&self.task.from.machine, end, wall_clock());
        let mut tests = Vec::new();
        for sender in &self.task.senders {
            let (sender, from, message) = (Arc::clone(sender), self.task.from.clone(), message.clone());
            let name = sender.name.clone();
            tests.push((name, spawn_blocking(move || sender.send(&from, &message))));
        }
        let mut tested = Vec::new();
        for (name, test) in tests {
            let error = match test.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.why),
                Err(error) => Some(error.to_string()),
            };
            tested.push(Tested { name, error });
        }
        Reply::Tested(tested)
    }

    fn quiets(&self) -> Reply {
        let now = wall_clock();
        let shown = |quiet: &Quiet| QuietShown {
            name: quiet.name.clone(),
            seconds: quiet.until.saturating_sub(now) / 1_000,
        };
        Reply::Quiets(self.state.borrow().incidents.quiets().iter().map(shown).collect())
    }

    fn set_quiet(&self, seconds: u64, name: Option<String>) -> Result<Reply, ExitError> {
        if !(1..=LONGEST).contains(&seconds) {
            return Err(ExitError::new(Exit::Usage, "a time from 1s to 30d"));
        }
        let until = wall_clock().saturating_add(seconds * 1_000);
        let set = self.state.borrow_mut().incidents.set_quiet(Quiet { name, until });
        set.map_err(|error| ExitError::new(Exit::Usage, error))?;
        self.save();
        Ok(self.quiets())
    }

    fn end_quiet(&self, name: Option<&str>) -> Result<Reply, ExitError> {
        if !self.state.borrow_mut().incidents.end_quiet(name) && name.is_some() {
            return Err(ExitError::new(Exit::Usage, "nothing is quiet by that name; see `causeway quiet`"));
        }
        self.save();
        self.wake.notify_one();
        Ok(self.quiets())
    }
}

/// Puts a message into the outbox.
fn hand_over(state: &mut State, message: Message, receivers: &[String]) {
    tracing::info!("to be sent: {}", message.subject);
    if let Some(lost) = state.outbox.push(message, receivers) {
        tracing::warn!("64 messages wait; the oldest is dropped: {lost}");
    }
}

impl State {
    /// Takes records; whether there may be more of them.
    fn handle_page(&mut self, Page { records, newest, ring }: Page) -> bool {
        let is_first = self.ring.is_none();
        if self.ring.as_ref().is_some_and(|known| *known != ring) {
            // Another ring: its records are read from the beginning of what is of interest.
            (self.ring, self.last) = (None, 0);
            return true;
        }
        for record in &records {
            // What was before the agent's first start is no news.
            if is_first { self.incidents.note(record) } else { self.incidents.handle_record(record) }
        }
        self.ring = Some(ring);
        let last = records.last().map_or(self.last, |record| record.number);
        let is_more = !records.is_empty() && last < newest && !is_first;
        self.last = if is_first { newest } else { last };
        is_more
    }
}

impl Answer for Keeper {
    type Request = Request;
    type Reply = Reply;

    fn is_privileged(request: &Request) -> bool {
        !matches!(request, Request::Quiets)
    }

    async fn answer(&self, request: Request) -> Result<Reply, ExitError> {
        match request {
            Request::Test => Ok(self.test().await),
            Request::Quiets => Ok(self.quiets()),
            Request::Quiet { seconds, name } => self.set_quiet(seconds, name),
            Request::QuietOff { name } => self.end_quiet(name.as_deref()),
        }
    }
}

//! The daemon's side: permanent changes, and changes that are rolled back unless they are confirmed
//! in time.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use policy::plan::Change;
use tokio::sync::MutexGuard;

use super::operator::OperatorState;
use super::pending::{Moment, Outcome, Pending, Trial, Trials};
use super::{ChangeReply, ChangeRequest, Changes, Confirmation};
use crate::exit::{Exit, ExitError};
use crate::files::unwritten;
use crate::history::{History, applied};

/// The longest time that a change may wait for its confirmation.
const LONGEST_CONFIRM: Duration = Duration::from_secs(86_400);
/// Between two attempts to roll a change back, while that is refused.
const RETRY: Duration = Duration::from_secs(5);

/// A configuration with the text that it was read from.
pub trait Text {
    /// The text.
    fn text(&self) -> &str;
}

/// What a daemon does to change its configuration.
pub trait Applies {
    /// A configuration with the files that it names.
    type Config: Text;

    /// The daemon's own file.
    fn config_path(&self) -> &Path;

    /// Reads the daemon's own file.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(&self) -> Result<Self::Config, ExitError>;

    /// Takes `text` for the content of the daemon's own file; errors name the file `shown`, in
    /// which the operator wrote it.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(&self, shown: &Path, text: String) -> Result<Self::Config, ExitError>;

    /// Waits for its turn: one change at a time.
    fn turn(&self) -> impl Future<Output = MutexGuard<'_, ()>>;

    /// What `config` would change.
    fn plan(&self, config: &Self::Config) -> Vec<Change>;

    /// Puts `config` in force as a whole, or not at all; the caller holds the turn.
    ///
    /// # Errors
    /// What was refused.
    fn apply(&self, config: Self::Config) -> impl Future<Output = Result<Vec<Change>, ExitError>>;

    /// Notes that a text was refused before it was tried.
    fn note_refused(&self) {}

    /// Notes that the daemon's own file was read again, and refused for this reason or taken.
    fn note_reload(&self, refused: Option<&ExitError>);

    /// The text that is in force.
    fn text_in_force(&self) -> String;

    /// Changes that wait for their confirmation.
    fn confirmable(&self) -> &Confirmable;
}

/// A change that waits for its confirmation.
#[derive(Debug)]
struct Waiting {
    pending: Pending,
    /// After an attempt to roll it back that failed: none before this.
    not_before: Option<Moment>,
}

impl Waiting {
    fn is_over(&self, now: &Moment) -> bool {
        let tried = self.not_before.as_ref().is_some_and(|then| now.since_boot < then.since_boot);
        self.pending.remaining(now).is_none() && !tried
    }
}

/// Which change a daemon starts with.
#[derive(Debug, Default)]
pub struct Startup {
    waiting: Option<Pending>,
    rolled_back: bool,
}

/// The configuration to start with: the file, or an unconfirmed change in its place.
///
/// The change is in the operator's folder, which the daemon only reads; its outcome is in the
/// daemon's own state folder. Until its time is over, the change is put in force again. If the file
/// already holds the unconfirmed text, the text before it takes the file's place afterwards.
pub fn resume<C: Text>(
    file: C,
    path: &Path,
    (operator, trials): (&OperatorState, &Trials),
    load: impl Fn(String) -> Result<C, ExitError>,
) -> (C, Startup) {
    let Some(trial) = trials.last() else { return (file, Startup::default()) };
    let Some(pending) = operator.pending().filter(|pending| pending.id == trial.id) else {
        return (file, Startup::default());
    };
    match trial.outcome {
        Outcome::Confirmed => (with_confirmed(file, pending, load), Startup::default()),
        Outcome::RolledBack => (file, Startup { waiting: None, rolled_back: true }),
        Outcome::Begun => resume_begun(file, path, pending, trials, load),
    }
}

fn resume_begun<C: Text>(
    file: C,
    path: &Path,
    pending: Pending,
    trials: &Trials,
    load: impl Fn(String) -> Result<C, ExitError>,
) -> (C, Startup) {
    if let Some(left) = pending.remaining(&Moment::now()) {
        match load(pending.text.clone()) {
            Ok(config) => {
                tracing::info!(
                    seconds = left.as_secs(),
                    "starting with an unconfirmed change; confirm keeps it"
                );
                return (config, Startup { waiting: Some(pending), rolled_back: false });
            }
            Err(error) => tracing::info!("the unconfirmed change cannot be read again: {error}"),
        }
    }
    tracing::warn!(
        "a change was not confirmed in time: {} is in force as before; see what it cut off",
        path.display()
    );
    note(trials, &pending.id, Outcome::RolledBack);
    // The file, unless it holds the change that was rolled back.
    let config = if file.text() == pending.text { load(pending.previous).unwrap_or(file) } else { file };
    (config, Startup { waiting: None, rolled_back: true })
}

/// The change that was confirmed, although the command was killed before the file held it.
fn with_confirmed<C: Text>(file: C, pending: Pending, load: impl Fn(String) -> Result<C, ExitError>) -> C {
    if file.text() == pending.text || file.text() != pending.previous {
        return file;
    }
    tracing::info!("starting with a confirmed change that the file does not hold yet; confirm writes it");
    load(pending.text).unwrap_or(file)
}

fn note(trials: &Trials, id: &str, outcome: Outcome) {
    if let Err(error) = trials.keep(&Trial { id: id.to_owned(), outcome }) {
        warn_of_state(&error);
    }
}

fn warn_of_state(error: &std::io::Error) {
    tracing::warn!("the state folder cannot be written ({error}); free disk space or fix its permissions");
}

/// The change that waits for its confirmation, if one does, and what became of the last one.
#[derive(Debug)]
pub struct Confirmable {
    /// The program whose commands confirm and roll back.
    program: &'static str,
    waiting: RefCell<Option<Waiting>>,
    rolled_back: Cell<bool>,
    operator: OperatorState,
    trials: Trials,
    history: Option<History>,
}

impl Confirmable {
    /// As the daemon started; `program` has the commands that confirm and roll back.
    #[must_use]
    pub fn new(program: &'static str, startup: Startup, operator: OperatorState, trials: Trials) -> Self {
        let waiting = startup.waiting.map(|pending| Waiting { pending, not_before: None });
        Self {
            program,
            waiting: RefCell::new(waiting),
            rolled_back: Cell::new(startup.rolled_back),
            operator,
            trials,
            history: None,
        }
    }

    /// The same; what is applied from now on is noted in `history`.
    #[must_use]
    pub fn noted_in(self, history: History) -> Self {
        Self { history: Some(history), ..self }
    }

    fn note(&self, how: &str, changes: &[Change]) {
        if let Some(history) = &self.history {
            history.note(applied(how, changes));
        }
    }

    /// Whether a change waits.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.borrow().is_some()
    }

    /// How long a change still waits; `None` when none does.
    #[must_use]
    pub fn waits(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        waiting.as_ref().map(|waiting| waiting.pending.remaining(&Moment::now()).unwrap_or_default())
    }

    /// Whether the time of a waiting change is over.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.waiting.borrow().as_ref().is_some_and(|waiting| waiting.is_over(&Moment::now()))
    }

    /// Refuses a change while another waits: it would not be clear which one to roll back to.
    ///
    /// # Errors
    /// [`Exit::Conflict`]
    fn refuse_while_waiting(&self) -> Result<(), ExitError> {
        let Some(left) = self.waits() else { return Ok(()) };
        Err(still_waits(self.program, left.as_secs()))
    }

    /// Reads the daemon's own file again and applies it.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was. [`Exit::Conflict`] while a change waits for its
    /// confirmation.
    pub async fn reload<A: Applies>(&self, role: &A) -> Result<Vec<Change>, ExitError> {
        let reload = async {
            let config = role.load().inspect_err(|_| role.note_refused())?;
            let _turn = role.turn().await;
            self.refuse_while_waiting()?;
            self.apply_permanently(role, config, "reload").await
        };
        let applied = reload.await;
        role.note_reload(applied.as_ref().err());
        applied
    }

    /// Applies a configuration permanently; the caller holds the turn.
    async fn apply_permanently<A: Applies>(
        &self,
        role: &A,
        config: A::Config,
        how: &str,
    ) -> Result<Vec<Change>, ExitError> {
        let changes = role.apply(config).await?;
        self.rolled_back.set(false);
        if !changes.is_empty() {
            self.note(how, &changes);
        }
        Ok(changes)
    }

    /// Applies `text` as the daemon's own file; messages name it `shown`.
    ///
    /// With a `confirmation` it is rolled back automatically unless it is confirmed in time.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was.
    async fn apply_text<A: Applies>(
        &self,
        role: &A,
        shown: &Path,
        text: String,
        confirmation: Option<Confirmation>,
    ) -> Result<Vec<Change>, ExitError> {
        let config = role.read(shown, text).inspect_err(|_| role.note_refused())?;
        let _turn = role.turn().await;
        self.refuse_while_waiting()?;
        match confirmation {
            Some(confirmation) => self.apply_unconfirmed(role, config, confirmation).await,
            None => self.apply_permanently(role, config, "apply").await,
        }
    }

    async fn apply_unconfirmed<A: Applies>(
        &self,
        role: &A,
        config: A::Config,
        confirmation: Confirmation,
    ) -> Result<Vec<Change>, ExitError> {
        let Confirmation { id, seconds } = confirmation;
        let (text, previous) = (config.text().to_owned(), role.text_in_force());
        if text != previous && file_holds(role, &text) {
            let message = "the daemon's own file holds this text already, so that there would be no way back; \
                           put the old text back and apply a copy";
            return Err(ExitError::new(Exit::Conflict, message));
        }
        self.refuse_unkept(&id, &text)?;
        let confirm_within = Duration::from_secs(seconds).min(LONGEST_CONFIRM);
        let pending = Pending { id, text, previous, applied: Moment::now(), confirm_within };
        // Before the change: a daemon that is killed in the middle of it must know how to roll
        // back.
        let begun = Trial { id: pending.id.clone(), outcome: Outcome::Begun };
        self.trials.keep(&begun).map_err(|error| unwritten(&error))?;
        let applied = role.apply(config).await;
        match &applied {
            Ok(changes) => {
                self.rolled_back.set(false);
                self.note("apply", changes);
                let pending = Pending { applied: Moment::now(), ..pending };
                *self.waiting.borrow_mut() = Some(Waiting { pending, not_before: None });
            }
            Err(_) => {
                if let Err(error) = self.trials.forget() {
                    warn_of_state(&error);
                }
            }
        }
        applied
    }

    /// Refuses a change that the operator's folder does not hold: a restart would not find it.
    fn refuse_unkept(&self, id: &str, text: &str) -> Result<(), ExitError> {
        let pending = self.operator.pending();
        if pending.is_some_and(|pending| pending.id == id && pending.text == text) {
            return Ok(());
        }
        let folder = self.operator.folder().display();
        let message = format!(
            "{folder}: the daemon cannot read the change there; the folder must be root's, with the daemon's group: \
             chgrp causeway {folder}"
        );
        Err(ExitError::new(Exit::Permission, message))
    }

    /// Keeps the change that waits, which the operator's command calls `id`.
    ///
    /// # Errors
    /// [`Exit::RolledBack`] when it came too late, [`Exit::Failed`] when nothing waits.
    async fn confirm<A: Applies>(&self, role: &A, id: Option<&str>) -> Result<(), ExitError> {
        let _turn = role.turn().await;
        let waits = |waiting: &mut Waiting| {
            !waiting.is_over(&Moment::now()) && id.is_none_or(|id| waiting.pending.id == id)
        };
        let waiting = self.waiting.borrow_mut().take_if(waits);
        let Some(waiting) = waiting else { return self.settled(id) };
        let confirmed = Trial { id: waiting.pending.id.clone(), outcome: Outcome::Confirmed };
        if let Err(error) = self.trials.keep(&confirmed) {
            *self.waiting.borrow_mut() = Some(waiting);
            return Err(unwritten(&error));
        }
        tracing::info!("the change was confirmed");
        self.note("confirm", &[]);
        Ok(())
    }

    /// The answer to a confirmation when no change waits: it was confirmed before, rolled back, or
    /// never made.
    fn settled(&self, id: Option<&str>) -> Result<(), ExitError> {
        let confirmed = self.trials.last().filter(|trial| trial.outcome == Outcome::Confirmed);
        if confirmed.is_some_and(|trial| id == Some(&trial.id)) {
            return Ok(());
        }
        Err(if self.rolled_back.get() || self.is_waiting() {
            let message = "too late: the change was not confirmed in time and was rolled back";
            ExitError::new(Exit::RolledBack, message)
        } else {
            ExitError::new(Exit::Failed, "no change waits for a confirmation")
        })
    }

    /// Rolls back the change that waits for its confirmation; whether one did.
    async fn roll_back<A: Applies>(&self, role: &A) -> Result<bool, ExitError> {
        let _turn = role.turn().await;
        if !self.is_waiting() {
            return Ok(false);
        }
        self.roll_back_waiting(role).await?;
        tracing::info!("the unconfirmed change was rolled back on request");
        Ok(true)
    }

    /// Rolls the waiting change back, if its time is still over.
    pub async fn roll_back_overdue<A: Applies>(&self, role: &A) {
        let _turn = role.turn().await;
        if !self.is_overdue() {
            return;
        }
        match self.roll_back_waiting(role).await {
            Ok(()) => {
                self.rolled_back.set(true);
                tracing::warn!(
                    "the change was not confirmed in time and was rolled back; see what it cut off"
                );
            }
            Err(error) => {
                tracing::error!("an unconfirmed change cannot be rolled back yet: {error}");
                if let Some(waiting) = self.waiting.borrow_mut().as_mut() {
                    let now = Moment::now();
                    waiting.not_before = Some(Moment { since_boot: now.since_boot + RETRY, ..now });
                }
            }
        }
    }

    async fn roll_back_waiting<A: Applies>(&self, role: &A) -> Result<(), ExitError> {
        let previous = self.waiting.borrow().as_ref().map(|waiting| waiting.pending.previous.clone());
        let Some(previous) = previous else { return Ok(()) };
        let config = role.read(role.config_path(), previous)?;
        let changes = role.apply(config).await?;
        self.note("rollback", &changes);
        if let Some(waiting) = self.waiting.borrow_mut().take() {
            note(&self.trials, &waiting.pending.id, Outcome::RolledBack);
        }
        Ok(())
    }

    /// Answers a request.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was.
    pub async fn answer<A: Applies>(
        &self,
        role: &A,
        request: ChangeRequest,
    ) -> Result<ChangeReply, ExitError> {
        let changes = |changes| ChangeReply::Changes(Changes::of(changes));
        match request {
            ChangeRequest::OwnFile => Ok(ChangeReply::OwnFile {
                path: role.config_path().to_owned(),
                in_force: is_file_in_force(role),
                waits_seconds: self.waits().map(|left| left.as_secs()),
            }),
            ChangeRequest::Plan { name, text } => {
                let config = role.read(&name, text)?;
                Ok(changes(role.plan(&config)))
            }
            ChangeRequest::Apply { name, text, confirm } => {
                self.apply_text(role, &name, text, confirm).await.map(changes)
            }
            ChangeRequest::Confirm { id } => {
                self.confirm(role, id.as_deref()).await.map(|()| ChangeReply::Confirmed)
            }
            ChangeRequest::RollBack => {
                let was_waiting = self.roll_back(role).await?;
                Ok(ChangeReply::RolledBack { was_waiting })
            }
            ChangeRequest::Reload => self.reload(role).await.map(changes),
        }
    }
}

/// Whether the daemon's file holds what is in force.
#[must_use]
pub fn is_file_in_force(role: &impl Applies) -> bool {
    file_holds(role, &role.text_in_force())
}

fn file_holds(role: &impl Applies, text: &str) -> bool {
    crate::files::read_text(role.config_path()).is_ok_and(|file| file == text)
}

pub(super) fn still_waits(program: &str, seconds: u64) -> ExitError {
    let message = format!(
        "a change waits {seconds} s more for its confirmation; {program} confirm or {program} rollback first"
    );
    ExitError::new(Exit::Conflict, message)
}

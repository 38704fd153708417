//! Changes from `gatewayctl`: for good, or until they are not confirmed in time; and the way back.

use std::path::Path;
use std::time::Duration;

use policy::plan::Change;

use super::Edge;
use crate::config::{self, Config};
use crate::control::protocol::Confirmation;
use crate::root_state::RootState;
use crate::state::{Moment, Outcome, Pending, State, Trial};
use daemon::exit::{Exit, ExitError};

/// The longest time that a change may wait for its confirmation.
const LONGEST_PATIENCE: Duration = Duration::from_secs(86_400);
/// Between two tries to take a change back, when the kernel refuses.
const RETRY: Duration = Duration::from_secs(5);

/// A change that waits for its confirmation.
#[derive(Debug)]
pub(super) struct Waiting {
    pending: Pending,
    /// No earlier try than this, after one that failed.
    not_before: Option<Moment>,
}

impl Waiting {
    pub(super) const fn new(pending: Pending) -> Self {
        Self { pending, not_before: None }
    }

    fn is_over(&self, now: &Moment) -> bool {
        let tried = self.not_before.as_ref().is_some_and(|then| now.since_boot < then.since_boot);
        self.pending.remaining(now).is_none() && !tried
    }
}

/// What a daemon starts with.
#[derive(Debug)]
pub struct Beginning {
    /// Whether a change still waits for its confirmation.
    pub(super) waiting: Option<Waiting>,
    /// Whether a change was taken back while no daemon ran.
    pub(super) taken_back: bool,
}

/// What to start with: the file, or what an unconfirmed change makes of it.
///
/// The change is root's, from the folder that this daemon only reads; what became of it this daemon has noted itself.
/// Before its time is over it is in force again; afterwards it is not. A file that already holds the
/// unconfirmed text counts for what was in force before it.
#[must_use]
pub fn begin(file: Config, state: &State) -> (Config, Beginning) {
    let beginning = |taken_back| Beginning { waiting: None, taken_back };
    let Some(trial) = state.trial() else { return (file, beginning(false)) };
    let pending = RootState::beside(&file.policy.state_directory).pending();
    let Some(pending) = pending.filter(|pending| pending.id == trial.id) else {
        return (file, beginning(false));
    };
    match trial.outcome {
        Outcome::Confirmed => (with_confirmed(file, pending), beginning(false)),
        Outcome::TakenBack => (file, beginning(true)),
        Outcome::Begun => begun(file, pending, state),
    }
}

fn begun(file: Config, pending: Pending, state: &State) -> (Config, Beginning) {
    let path = file.path.clone();
    if let Some(left) = pending.remaining(&Moment::now()) {
        match config::load_text(&path, pending.text.clone()) {
            Ok(config) => {
                tracing::info!(
                    seconds = left.as_secs(),
                    "starting with an unconfirmed change; gatewayctl confirm keeps it"
                );
                let waiting = Some(Waiting::new(pending));
                return (config, Beginning { waiting, taken_back: false });
            }
            Err(error) => tracing::info!("the unconfirmed change cannot be read again: {error}"),
        }
    }
    tracing::warn!(
        "a change was not confirmed in time: {} is in force as before; see what it cut off",
        path.display()
    );
    note(state, &pending.id, Outcome::TakenBack);
    (without(file, pending), Beginning { waiting: None, taken_back: true })
}

/// The file, unless it holds the change that was taken back.
fn without(file: Config, pending: Pending) -> Config {
    if file.text == pending.text {
        config::load_text(&file.path.clone(), pending.previous).unwrap_or(file)
    } else {
        file
    }
}

/// The change that was confirmed, although the command was killed before the file held it.
fn with_confirmed(file: Config, pending: Pending) -> Config {
    if file.text == pending.text || file.text != pending.previous {
        return file;
    }
    tracing::info!(
        "starting with a confirmed change that the file does not hold yet; gatewayctl confirm writes it"
    );
    config::load_text(&file.path.clone(), pending.text).unwrap_or(file)
}

fn note(state: &State, id: &str, outcome: Outcome) {
    if let Err(error) = state.keep_trial(&Trial { id: id.to_owned(), outcome }) {
        tracing::warn!(
            "the state folder cannot be written ({error}); free the disk or change its permissions"
        );
    }
}

impl Edge {
    /// Applies `text` as the daemon's own file; messages call it `said`.
    ///
    /// With a `confirmation` it goes back by itself unless [`confirm`](Self::confirm) is called in time.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was.
    pub async fn apply_text(
        &self,
        said: &Path,
        text: String,
        confirmation: Option<Confirmation>,
    ) -> Result<Vec<Change>, ExitError> {
        let config =
            config::load_draft(&self.config_path, said, text).inspect_err(|_| self.note_apply(false))?;
        let _turn = self.applying.lock().await;
        self.refuse_while_waiting()?;
        match confirmation {
            Some(confirmation) => self.apply_for_now(config, confirmation).await,
            None => self.apply_for_good(config).await,
        }
    }

    pub(super) async fn apply_for_good(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        let changes = self.apply_in_turn(config).await?;
        self.taken_back.set(false);
        Ok(changes)
    }

    async fn apply_for_now(
        &self,
        config: Config,
        confirmation: Confirmation,
    ) -> Result<Vec<Change>, ExitError> {
        let Confirmation { id, seconds } = confirmation;
        let previous = self.text_in_force();
        if config.text != previous && self.file_holds(&config.text) {
            let message = "the daemon's own file holds this text already, so that there would be no way back; \
                           put the old text back and apply a copy";
            return Err(ExitError::new(Exit::Conflict, message));
        }
        self.refuse_unkept(&id, &config.text)?;
        let patience = Duration::from_secs(seconds).min(LONGEST_PATIENCE);
        let pending = Pending { id, text: config.text.clone(), previous, applied: Moment::now(), patience };
        // Before the change: a daemon that is killed in the middle of it must find the way back.
        let begun = Trial { id: pending.id.clone(), outcome: Outcome::Begun };
        self.state.keep_trial(&begun).map_err(|error| unwritten(&error))?;
        let applied = self.apply_in_turn(config).await;
        match &applied {
            Ok(_) => {
                self.taken_back.set(false);
                *self.waiting.borrow_mut() =
                    Some(Waiting::new(Pending { applied: Moment::now(), ..pending }));
            }
            Err(_) => {
                if let Err(error) = self.state.forget_trial() {
                    tracing::warn!(
                        "the state folder cannot be written ({error}); free the disk or change its permissions"
                    );
                }
            }
        }
        applied
    }

    /// Refuses a change that root's folder does not hold: a restart would not find it.
    fn refuse_unkept(&self, id: &str, text: &str) -> Result<(), ExitError> {
        let root = RootState::beside(&self.current.borrow().policy.state_directory);
        if root.pending().is_some_and(|pending| pending.id == id && pending.text == text) {
            return Ok(());
        }
        let folder = root.folder().display();
        let message = format!(
            "{folder}: the daemon cannot read the change there; the folder must be root's, with the daemon's group: chgrp causeway {folder}"
        );
        Err(ExitError::new(Exit::Permission, message))
    }

    /// Keeps the change that waits, which root's command calls `id`.
    ///
    /// # Errors
    /// [`Exit::RolledBack`] when it came too late, [`Exit::Failed`] when nothing waits.
    pub async fn confirm(&self, id: Option<&str>) -> Result<(), ExitError> {
        let _turn = self.applying.lock().await;
        let waits = |waiting: &mut Waiting| {
            !waiting.is_over(&Moment::now()) && id.is_none_or(|id| waiting.pending.id == id)
        };
        let waiting = self.waiting.borrow_mut().take_if(waits);
        let Some(waiting) = waiting else { return self.settled(id) };
        let confirmed = Trial { id: waiting.pending.id.clone(), outcome: Outcome::Confirmed };
        if let Err(error) = self.state.keep_trial(&confirmed) {
            *self.waiting.borrow_mut() = Some(waiting);
            return Err(unwritten(&error));
        }
        tracing::info!("the change was confirmed");
        Ok(())
    }

    /// The answer to a confirmation when no change waits: it was confirmed before, taken back, or never made.
    fn settled(&self, id: Option<&str>) -> Result<(), ExitError> {
        let confirmed = self.state.trial().filter(|trial| trial.outcome == Outcome::Confirmed);
        if confirmed.is_some_and(|trial| id == Some(&trial.id)) {
            return Ok(());
        }
        Err(if self.taken_back.get() || self.waiting.borrow().is_some() {
            let message = "too late: the change was not confirmed in time and was taken back";
            ExitError::new(Exit::RolledBack, message)
        } else {
            ExitError::new(Exit::Failed, "no change waits for a confirmation")
        })
    }

    /// Takes back the change that waits for its confirmation; whether one did.
    ///
    /// # Errors
    /// When what was before cannot be applied any more: then everything is as it was.
    pub async fn take_back(&self) -> Result<bool, ExitError> {
        let _turn = self.applying.lock().await;
        if self.waiting.borrow().is_none() {
            return Ok(false);
        }
        self.take_back_waiting().await?;
        tracing::info!("the unconfirmed change was taken back, as was asked");
        Ok(true)
    }

    /// Whether the time of a waiting change is over.
    #[must_use]
    pub fn is_confirmation_overdue(&self) -> bool {
        self.waiting.borrow().as_ref().is_some_and(|waiting| waiting.is_over(&Moment::now()))
    }

    /// Takes the waiting change back, if its time is over still.
    pub async fn take_back_overdue(&self) {
        let _turn = self.applying.lock().await;
        if !self.is_confirmation_overdue() {
            return;
        }
        match self.take_back_waiting().await {
            Ok(()) => {
                self.taken_back.set(true);
                tracing::warn!(
                    "the change was not confirmed in time and was taken back; see what it cut off"
                );
            }
            Err(stop) => {
                tracing::error!("an unconfirmed change cannot be taken back yet: {stop}");
                if let Some(waiting) = self.waiting.borrow_mut().as_mut() {
                    let now = Moment::now();
                    waiting.not_before = Some(Moment { since_boot: now.since_boot + RETRY, ..now });
                }
            }
        }
    }

    async fn take_back_waiting(&self) -> Result<(), ExitError> {
        let previous = self.waiting.borrow().as_ref().map(|waiting| waiting.pending.previous.clone());
        let Some(previous) = previous else { return Ok(()) };
        let config = config::load_text(&self.config_path, previous)?;
        self.apply_in_turn(config).await?;
        if let Some(waiting) = self.waiting.borrow_mut().take() {
            note(&self.state, &waiting.pending.id, Outcome::TakenBack);
        }
        Ok(())
    }

    /// Refuses a change while another waits: what would the way back be?
    pub(super) fn refuse_while_waiting(&self) -> Result<(), ExitError> {
        match self.confirm_within() {
            None => Ok(()),
            Some(left) => {
                let left = left.as_secs();
                let message = format!(
                    "a change waits {left} s more for its confirmation; gatewayctl confirm or gatewayctl rollback first"
                );
                Err(ExitError::new(Exit::Conflict, message))
            }
        }
    }

    /// How long a change still waits for its confirmation; `None` when none does.
    #[must_use]
    pub fn confirm_within(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        waiting.as_ref().map(|waiting| waiting.pending.remaining(&Moment::now()).unwrap_or_default())
    }

    /// Whether the daemon's file holds what is in force.
    #[must_use]
    pub fn is_file_in_force(&self) -> bool {
        self.file_holds(&self.current.borrow().text)
    }

    fn file_holds(&self, text: &str) -> bool {
        daemon::files::read_text(&self.config_path).is_ok_and(|file| file == text)
    }

    fn text_in_force(&self) -> String {
        self.current.borrow().text.clone()
    }
}

fn unwritten(error: &std::io::Error) -> ExitError {
    let message = format!("the state folder cannot be written: {error}; give the daemon's user permission");
    ExitError::new(Exit::Permission, message)
}

//! Changes from `gatewayctl`: for good, or until they are not confirmed in time; and the way back.

use std::path::Path;
use std::time::Duration;

use policy::plan::Change;
use tunnel::time::Now;

use super::Edge;
use crate::config::{self, Config};
use crate::exit::{Exit, Stop};
use crate::state::{Moment, Pending, State};

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
/// Before its time is over the change is in force again; afterwards it is forgotten. A file that already holds the
/// unconfirmed text counts for what was in force before it.
#[must_use]
pub fn begin(file: Config, state: &State) -> (Config, Beginning) {
    let nothing = Beginning { waiting: None, taken_back: false };
    let Some(pending) = state.pending() else { return (file, nothing) };
    let path = file.path.clone();
    if let Some(left) = pending.remaining(&moment()) {
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
    let config = if file.text == pending.text {
        config::load_text(&path, pending.previous).unwrap_or(file)
    } else {
        file
    };
    if let Err(error) = state.forget_pending() {
        tracing::warn!("the state folder cannot be written ({error}); mend its permissions");
    }
    (config, Beginning { waiting: None, taken_back: true })
}

impl Edge {
    /// Applies `text` as the daemon's own file; messages call it `said`.
    ///
    /// With `patience` it goes back by itself unless [`confirm`](Self::confirm) is called in time.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was.
    pub async fn apply_text(
        &self,
        said: &Path,
        text: String,
        patience: Option<Duration>,
    ) -> Result<Vec<Change>, Stop> {
        let config =
            config::load_draft(&self.config_path, said, text).inspect_err(|_| self.note_apply(false))?;
        let _turn = self.applying.lock().await;
        self.refuse_while_waiting()?;
        match patience {
            Some(patience) => self.apply_for_now(config, patience).await,
            None => self.apply_for_good(config).await,
        }
    }

    pub(super) async fn apply_for_good(&self, config: Config) -> Result<Vec<Change>, Stop> {
        let (before, after) = (self.text_in_force(), config.text.clone());
        let changes = self.apply_in_turn(config).await?;
        if before != after {
            self.keep_previous(&before);
        }
        self.taken_back.set(false);
        Ok(changes)
    }

    async fn apply_for_now(&self, config: Config, patience: Duration) -> Result<Vec<Change>, Stop> {
        let previous = self.text_in_force();
        if config.text != previous && self.file_holds(&config.text) {
            let message = "the daemon's own file holds this text already, so that there would be no way back; \
                           put the old text back and apply a copy";
            return Err(Stop::new(Exit::Conflict, message));
        }
        let patience = patience.min(LONGEST_PATIENCE);
        let pending = Pending { text: config.text.clone(), previous, applied: moment(), patience };
        // Before the change: a daemon that is killed in the middle of it must find the way back.
        self.state.keep_pending(&pending).map_err(|error| unwritten(&error))?;
        let applied = self.apply_in_turn(config).await;
        match &applied {
            Ok(_) => {
                self.taken_back.set(false);
                *self.waiting.borrow_mut() = Some(Waiting::new(Pending { applied: moment(), ..pending }));
            }
            Err(_) => self.forget_pending(),
        }
        applied
    }

    /// Keeps the change that waits; the text that the daemon's file is to hold.
    ///
    /// # Errors
    /// [`Exit::RolledBack`] when it came too late, [`Exit::Failed`] when nothing waits.
    pub async fn confirm(&self) -> Result<String, Stop> {
        let _turn = self.applying.lock().await;
        let waiting = self.waiting.borrow_mut().take_if(|waiting| !waiting.is_over(&moment()));
        let Some(waiting) = waiting else {
            let late = self.taken_back.get() || self.waiting.borrow().is_some();
            return Err(if late {
                let message = "too late: the change was not confirmed in time and was taken back";
                Stop::new(Exit::RolledBack, message)
            } else {
                Stop::new(Exit::Failed, "no change waits for a confirmation")
            });
        };
        if let Err(error) = self.state.forget_pending() {
            *self.waiting.borrow_mut() = Some(waiting);
            return Err(unwritten(&error));
        }
        if waiting.pending.previous != waiting.pending.text {
            self.keep_previous(&waiting.pending.previous);
        }
        tracing::info!("the change was confirmed");
        Ok(waiting.pending.text)
    }

    /// Goes back to the configuration before; the text that the daemon's file is to hold, if that is another now.
    ///
    /// # Errors
    /// When there is none, or it cannot be applied any more: then everything is as it was.
    pub async fn roll_back(&self) -> Result<Option<String>, Stop> {
        let _turn = self.applying.lock().await;
        if self.waiting.borrow().is_some() {
            self.take_back_waiting().await?;
            tracing::info!("the unconfirmed change was taken back, as was asked");
            return Ok(None);
        }
        let Some(previous) = self.state.previous() else {
            return Err(Stop::new(Exit::Failed, "there is no configuration before this one"));
        };
        let config = config::load_text(&self.config_path, previous.clone())?;
        let before = self.text_in_force();
        self.apply_in_turn(config).await?;
        self.keep_previous(&before);
        Ok(Some(previous))
    }

    /// Whether the time of a waiting change is over.
    #[must_use]
    pub fn is_confirmation_overdue(&self) -> bool {
        self.waiting.borrow().as_ref().is_some_and(|waiting| waiting.is_over(&moment()))
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
                    let now = moment();
                    waiting.not_before = Some(Moment { since_boot: now.since_boot + RETRY, ..now });
                }
            }
        }
    }

    async fn take_back_waiting(&self) -> Result<(), Stop> {
        let previous = self.waiting.borrow().as_ref().map(|waiting| waiting.pending.previous.clone());
        let Some(previous) = previous else { return Ok(()) };
        let config = config::load_text(&self.config_path, previous)?;
        self.apply_in_turn(config).await?;
        self.waiting.borrow_mut().take();
        self.forget_pending();
        Ok(())
    }

    /// Refuses a change while another waits: what would the way back be?
    pub(super) fn refuse_while_waiting(&self) -> Result<(), Stop> {
        match self.confirm_within() {
            None => Ok(()),
            Some(left) => {
                let left = left.as_secs();
                let message = format!(
                    "a change waits {left} s more for its confirmation; gatewayctl confirm or gatewayctl rollback first"
                );
                Err(Stop::new(Exit::Conflict, message))
            }
        }
    }

    /// How long a change still waits for its confirmation; `None` when none does.
    #[must_use]
    pub fn confirm_within(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        waiting.as_ref().map(|waiting| waiting.pending.remaining(&moment()).unwrap_or_default())
    }

    /// Whether the daemon's file holds what is in force.
    #[must_use]
    pub fn is_file_in_force(&self) -> bool {
        self.file_holds(&self.current.borrow().text)
    }

    fn file_holds(&self, text: &str) -> bool {
        config::read_text(&self.config_path).is_ok_and(|file| file == text)
    }

    fn text_in_force(&self) -> String {
        self.current.borrow().text.clone()
    }

    fn keep_previous(&self, text: &str) {
        if let Err(error) = self.state.keep_previous(text) {
            tracing::warn!(
                "gatewayctl rollback will not find the configuration before this one ({error}); mend the state folder"
            );
        }
    }

    fn forget_pending(&self) {
        if let Err(error) = self.state.forget_pending() {
            tracing::warn!("the state folder cannot be written ({error}); mend its permissions");
        }
    }
}

fn unwritten(error: &std::io::Error) -> Stop {
    let message = format!("the state folder cannot be written: {error}; give the daemon's user permission");
    Stop::new(Exit::Permission, message)
}

fn moment() -> Moment {
    let Now { instant, wall } = tunnel::io::clock::now();
    // Where there is no such file every start counts as the same boot, by the clock since boot alone.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Moment { boot: boot.trim().to_owned(), since_boot: instant.since_boot(), wall }
}

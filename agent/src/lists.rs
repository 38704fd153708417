//! The task that fetches lists once a day. What comes replaces a list only where it is plausible, as
//! `gatewayctl lists refresh` judges it; the gateway sees the new file and takes it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::files::{make_folder, read_json, replace_json};
use gateway::fetch::Client;
use gateway::lists::refresh_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::notify::wall_clock;

/// The name of the file that says when lists were fetched last.
const NAME: &str = "lists.json";
/// From one refresh to the next, in milliseconds: a day.
const EVERY: u64 = 86_400_000;
/// Spread over so much more, so that not everybody asks at the same time.
const SPREAD: u64 = 6 * 3_600_000;
/// After a failure.
const AGAIN: u64 = 3_600_000;
/// The longest sleep: the clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// When lists are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Schedule {
    /// The next refresh, in Unix milliseconds; 0 before the first.
    next: u64,
}

impl Schedule {
    /// How long until the next refresh; nothing where it is due, or the clock was set back far.
    const fn wait(self, now: u64) -> u64 {
        let wait = self.next.saturating_sub(now);
        if wait > EVERY + SPREAD { 0 } else { wait }
    }

    /// The one after a refresh; `late` is less than [`SPREAD`], another one each time.
    const fn after(now: u64, has_failed: bool, late: u64) -> Self {
        let wait = if has_failed { AGAIN } else { EVERY + late };
        Self { next: now.saturating_add(wait) }
    }
}

/// Fetches the lists of a configuration.
pub struct Task {
    config: PathBuf,
    file: PathBuf,
    client: Arc<Client>,
}

impl Task {
    /// For the configuration in this file; when lists are due is in a file of the folder `state`.
    ///
    /// # Errors
    /// Where this machine trusts no certificate.
    pub fn new(config: &Path, state: &Path) -> Result<Self, ExitError> {
        let client = Arc::new(Client::new(None)?);
        Ok(Self { config: config.to_owned(), file: state.join(NAME), client })
    }

    /// Runs until `stop` is notified; what is being fetched is given up.
    pub async fn run(self, stop: Rc<Notify>) {
        let mut schedule: Schedule = read_json(&self.file).unwrap_or_default();
        loop {
            let wait = Duration::from_millis(schedule.wait(wall_clock()));
            tokio::select! {
                () = stop.notified() => return,
                () = sleep(wait.min(LONGEST_SLEEP)) => {}
            }
            if schedule.wait(wall_clock()) > 0 {
                continue;
            }
            let (config, client) = (self.config.clone(), Arc::clone(&self.client));
            let fetched = spawn_blocking(move || refresh_all(&config, &[], |url| client.text(url)));
            let result = tokio::select! {
                () = stop.notified() => return,
                result = fetched => result,
            };
            let result = result.unwrap_or_else(|error| Err(ExitError::new(Exit::Failed, error)));
            schedule = Schedule::after(wall_clock(), result.is_err(), fastrand::u64(..SPREAD));
            report(result);
            self.save(schedule);
        }
    }

    fn save(&self, schedule: Schedule) {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        if let Err(error) = make_folder(folder).and_then(|()| replace_json(&self.file, &schedule)) {
            tracing::info!("lists are fetched again at the next start: {}: {error}", self.file.display());
        }
    }
}

fn report(result: Result<Vec<String>, ExitError>) {
    match result {
        Ok(lines) => lines.iter().for_each(|line| tracing::info!("list {line}")),
        Err(error) => {
            error.message.lines().for_each(|line| tracing::warn!("a list could not be renewed: {line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_796_008_325_000;

    #[test]
    fn lists_are_due_at_the_first_start_then_daily_and_an_hour_after_a_failure() {
        assert_eq!(Schedule::default().wait(NOW), 0);
        let next = Schedule::after(NOW, false, SPREAD / 2);
        assert_eq!(next.wait(NOW), EVERY + SPREAD / 2);
        assert_eq!(next.wait(NOW + EVERY + SPREAD / 2), 0);
        assert_eq!(Schedule::after(NOW, true, SPREAD / 2).wait(NOW), AGAIN);
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_keep_lists_old() {
        assert_eq!(Schedule { next: NOW + 1_000 * EVERY }.wait(NOW), 0);
    }
}

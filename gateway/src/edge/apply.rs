//! The edge as the daemon's changes see it.

use std::path::Path;

use daemon::changes::{Applies, Confirmable, OperatorState, Startup, Text, Trusted};
use daemon::exit::ExitError;
use policy::plan::Change;
use tokio::sync::MutexGuard;

use super::Edge;
use crate::config::{self, Config};
use crate::state::State;

impl Text for Config {
    fn text(&self) -> &str {
        &self.text
    }
}

impl Applies for Edge {
    type Config = Config;

    fn config_path(&self) -> &Path {
        &self.config_path
    }

    fn read(&self, said: &Path, text: String) -> Result<Config, ExitError> {
        Ok(config::load_draft(&self.config_path, said, text)?)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    fn plan(&self, config: &Config) -> Vec<Change> {
        self.changes_to(config)
    }

    async fn apply(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        self.apply_in_turn(config).await
    }

    fn note_refused(&self) {
        self.note_apply(false);
    }

    fn text_in_force(&self) -> String {
        self.current.borrow().text.clone()
    }

    fn confirmable(&self) -> &Confirmable {
        &self.confirmable
    }
}

/// What the edge starts with: the file, or what an unconfirmed change makes of it.
#[must_use]
pub fn resume(file: Config, state: &State) -> (Config, Confirmable) {
    let operator = OperatorState::next_to(&file.policy.state_directory, Trusted::OthersOnly);
    let (path, trials) = (file.path.clone(), state.trials());
    let load = |text| Ok(config::load_text(&path, text)?);
    let (config, startup): (Config, Startup) =
        daemon::changes::resume(file, &path, (&operator, &trials), load);
    (config, Confirmable::new("gatewayctl", startup, operator, trials))
}

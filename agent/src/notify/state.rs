//! What a restart must not lose: what is down, what was sent, what is still to be delivered.

use std::io;
use std::path::{Path, PathBuf};

use daemon::files::{read_json, replace_json};
use serde::{Deserialize, Serialize};

use super::incidents::Incidents;
use super::outbox::Outbox;
use super::seen::End;

/// The version of the file; another one is not read.
const SCHEMA: u32 = 1;
/// Its name in the folder of the agent's state.
const NAME: &str = "notify.json";

/// Where it is.
#[must_use]
pub fn file_in(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// All of it, in one file that is either old or new.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    schema: u32,
    /// The ring whose records have been read.
    pub ring: Option<String>,
    /// The number of the last one.
    pub last: u64,
    /// What is down.
    pub incidents: Incidents,
    /// What is to be delivered.
    pub outbox: Outbox,
}

impl State {
    /// Nothing is known.
    #[must_use]
    pub fn new(end: End) -> Self {
        Self {
            schema: SCHEMA,
            ring: None,
            last: 0,
            incidents: Incidents::new(end),
            outbox: Outbox::default(),
        }
    }

    /// As it was saved; as new where there is none of this end.
    #[must_use]
    pub fn load(file: &Path, end: End) -> Self {
        let saved: Option<Self> = read_json(file);
        let is_right = |state: &Self| state.schema == SCHEMA && state.incidents.end() == end;
        saved.filter(is_right).unwrap_or_else(|| Self::new(end))
    }

    /// Saves it.
    ///
    /// # Errors
    /// From the file system; then the file is as it was.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        replace_json(file, self)
    }
}

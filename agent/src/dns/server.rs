//! A zone at a name server that takes dynamic updates.

use std::time::{SystemTime, UNIX_EPOCH};

use policy::HostPort;

use super::exchange::exchange;
use super::failure::Failure;
use super::record::{Change, Found};
use super::tsig::UpdateKey;
use super::update::{question, update};

/// A name server and the key for the zone.
pub struct Server {
    /// Where it is.
    pub server: HostPort,
    /// The zone.
    pub zone: String,
    /// What signs updates.
    pub key: UpdateKey,
}

impl Server {
    pub(super) fn read(&self, name: &str) -> Result<Found, Failure> {
        let request = question(name, fastrand::u16(..), false)?;
        request.found(name, &exchange(&self.server, &request.bytes)?)
    }

    pub(super) fn change(&self, name: &str, change: &Change) -> Result<(), Failure> {
        let update = update(&self.zone, name, change, &self.key, (fastrand::u16(..), seconds()))?;
        let answer = exchange(&self.server, &update.request.bytes)?;
        update.outcome(&answer, (&self.zone, &self.key), seconds())
    }
}

/// The wall clock, which signatures have in them.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

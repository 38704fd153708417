//! What outlives the daemon, in its state folder.
//!
//! | file | holds |
//! |---|---|
//! | `endpoints.json` | each peer's last authenticated endpoint, dialled at the next start |
//! | `clock.json` | the highest wall clock a handshake was stamped with |
//! | `sysctls.json` | the switches that the daemon changed, with the values before and after, for `gateway down` |
//! | `guard.json` | the drop table of the last good configuration, for a boot with a bad one |
//! | `guard-minimal.json` | a smaller one, for a kernel that refuses that |
//! | `applied.json` | what `gateway down` must take away although the configuration has changed since |
//! | `lan.json` | the LAN's interfaces by name, since they may come up after the daemon |
//! | `grants.json` | what peers requested to publish, and the names and numbers of what they were granted |
//! | `trial.json` | what became of the change that waits, or waited, for `gatewayctl confirm` |
//! | `totals.json` | what was carried with each peer, from an orderly end to the next start; see `daemon::totals` |
//! | `history/` | what happened, in a ring of 8 MiB; see `daemon::history` |
//! | `lock` | held by the running daemon |

mod grants;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use daemon::changes::Trials;
use daemon::clock_mark::ClockMark;
use daemon::exit::ExitError;
use daemon::files::{Lock, make_folder, read, read_json, remove, replace, replace_json};
use daemon::history::History;
use daemon::totals::Totals;
use ipnetwork::IpNetwork;
use policy::gateway::{Policy, Requests};
use policy::ruleset::{Ruleset, ServiceMark};
use policy::trust::KeptPin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use grants::KeptGrants;

/// The file of what peers request to publish.
const GRANTS: &str = "grants.json";

/// The state folder.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

/// Last authenticated endpoints by public key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Base64 key to address and port.
    pub peers: BTreeMap<String, SocketAddr>,
}

/// What was put into the kernel, for the command that takes it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Name of the TUN device.
    pub device: String,
    /// Protocol number of our routes and rules.
    pub protocol: u8,
}

/// A switch that the daemon changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// What it was.
    pub before: String,
    /// What the daemon made it.
    pub set: String,
}

/// The drop tables of a configuration, as transactions for `nft`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// The policy without its services.
    pub whole: Option<String>,
    /// One that needs little of the kernel.
    pub minimal: Option<String>,
}

impl State {
    /// The state in `folder`, which is made (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        make_folder(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The state in `folder` as it is; nothing is made.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Claims the state for one daemon.
    ///
    /// # Errors
    /// As [`Lock::claim`].
    pub fn claim(&self) -> Result<Lock, ExitError> {
        Lock::claim(&self.folder, "gateway")
    }

    /// Whether a daemon holds this state now.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        Lock::is_held(&self.folder)
    }

    /// The endpoints kept; none when the file is missing or unreadable, since they are only a hint.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.load("endpoints.json").unwrap_or_default()
    }

    /// Keeps the endpoints.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_endpoints(&self, endpoints: &Endpoints) -> io::Result<()> {
        self.keep("endpoints.json", endpoints)
    }

    /// The highest wall clock that a handshake was stamped with.
    #[must_use]
    pub fn clock_mark(&self) -> ClockMark {
        ClockMark::of(&self.folder)
    }

    /// The switches that the daemon changed, by path.
    #[must_use]
    pub fn switches(&self) -> BTreeMap<String, Switched> {
        self.load("sysctls.json").unwrap_or_default()
    }

    /// Notes switches that were changed. Where a switch still had the value that was set earlier,
    /// the value before that stays noted.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn note_switches(&self, changed: impl IntoIterator<Item = (String, Switched)>) -> io::Result<()> {
        let mut noted = self.switches();
        let known = noted.clone();
        for (path, mut change) in changed {
            if let Some(earlier) = noted.get(&path).filter(|earlier| earlier.set == change.before) {
                change.before.clone_from(&earlier.before);
            }
            noted.insert(path, change);
        }
        if noted == known { Ok(()) } else { self.keep("sysctls.json", &noted) }
    }

    /// What became of changes that waited for their confirmation.
    #[must_use]
    pub fn trials(&self) -> Trials {
        Trials::of(&self.folder)
    }

    /// What happened, as the daemon noted it.
    #[must_use]
    pub fn history(&self) -> History {
        History::open(&self.folder)
    }

    /// What was carried with each peer, as an orderly end kept it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::of(&self.folder)
    }

    /// The drop tables of the last configuration that was good.
    #[must_use]
    pub fn guards(&self) -> Guards {
        let text = |name| String::from_utf8(read(&self.folder.join(name)).ok()??).ok();
        Guards { whole: text("guard.json"), minimal: text("guard-minimal.json") }
    }

    /// Keeps the drop tables.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_guards(&self, guards: &Guards) -> io::Result<()> {
        let kept = self.guards();
        let files = [
            ("guard.json", &guards.whole, &kept.whole),
            ("guard-minimal.json", &guards.minimal, &kept.minimal),
        ];
        let changed = files.into_iter().filter(|(_, new, old)| new != old);
        changed
            .filter_map(|(name, new, _)| Some((name, new.as_ref()?)))
            .try_for_each(|(name, ruleset)| replace(&self.folder.join(name), ruleset.as_bytes()))
    }

    /// What the daemon last put into the kernel.
    #[must_use]
    pub fn applied(&self) -> Option<Applied> {
        self.load("applied.json")
    }

    /// Keeps what is being put into the kernel.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_applied(&self, applied: &Applied) -> io::Result<()> {
        if self.applied().as_ref() == Some(applied) { Ok(()) } else { self.keep("applied.json", applied) }
    }

    /// The LAN's interfaces that the last apply found.
    #[must_use]
    pub fn pins(&self) -> Vec<KeptPin> {
        let kept: BTreeMap<String, Vec<IpNetwork>> = self.load("lan.json").unwrap_or_default();
        // The names are shown to root, who must not trust this file.
        let is_plain = |name: &String| name.len() < libc::IFNAMSIZ && !name.chars().any(char::is_control);
        let plain = kept.into_iter().filter(|(name, _)| is_plain(name));
        plain.map(|(name, prefixes)| KeptPin { name, prefixes }).collect()
    }

    /// Keeps the LAN's interfaces.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_pins(&self, pins: &[KeptPin]) -> io::Result<()> {
        if self.pins() == pins {
            return Ok(());
        }
        let kept: BTreeMap<&str, &[IpNetwork]> =
            pins.iter().map(|pin| (pin.name.as_str(), pin.prefixes.as_slice())).collect();
        self.keep("lan.json", &kept)
    }

    /// What peers had requested to publish, and the marks of what they were granted.
    #[must_use]
    pub fn grants(&self, ct_mark: u32) -> (Requests, Vec<ServiceMark>) {
        self.load::<KeptGrants>(GRANTS).map(|kept| kept.read(ct_mark)).unwrap_or_default()
    }

    /// Keeps what peers request to publish, and the marks of what this policy and these rules grant.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_grants(&self, requests: &Requests, policy: &Policy, rules: &Ruleset) -> io::Result<()> {
        let new = KeptGrants::of(requests, policy, rules);
        let kept: KeptGrants = self.load(GRANTS).unwrap_or_default();
        if kept == new { Ok(()) } else { self.keep(GRANTS, &new) }
    }

    /// Forgets what `gateway down` has undone; endpoints and the clock stay.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn forget_applied(&self) -> io::Result<()> {
        let names = ["sysctls.json", "applied.json", "guard.json", "guard-minimal.json", "lan.json"];
        names.into_iter().try_for_each(|name| self.forget(name))
    }

    fn forget(&self, name: &str) -> io::Result<()> {
        remove(&self.folder.join(name))
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        read_json(&self.folder.join(name))
    }

    fn keep(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        replace_json(&self.folder.join(name), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("a/b")).unwrap();
        let mut endpoints = Endpoints::default();
        endpoints.peers.insert("key".to_owned(), "198.51.100.7:40213".parse().unwrap());
        state.keep_endpoints(&endpoints).unwrap();
        assert_eq!(state.endpoints(), endpoints);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("endpoints.json"), "{\"peers\":").unwrap();
        assert_eq!(State::at(folder.path()).endpoints(), Endpoints::default());
    }

    #[test]
    fn a_switch_goes_back_to_what_it_was_before_the_daemon_not_to_what_the_daemon_set() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let path = "net/ipv4/conf/eth0/rp_filter".to_owned();
        let note = |before: &str, set: &str| {
            let change = Switched { before: before.to_owned(), set: set.to_owned() };
            state.note_switches([(path.clone(), change)]).unwrap();
            state.switches().remove(&path).unwrap().before
        };
        assert_eq!(note("0", "2"), "0");
        assert_eq!(note("2", "1"), "0", "what was found is the daemon's own");
        assert_eq!(note("3", "1"), "3", "what was found is another's");
    }
}

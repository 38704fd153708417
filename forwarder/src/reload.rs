//! SIGHUP: the file is read again, and applied as a whole or not at all.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use daemon::exit::{Exit, ExitError};
use daemon::log;
use policy::forwarder::Policy;

use crate::config::{self, Loaded};
use crate::control::Shared;
use crate::dataplane::{Change, Command, Commands, Listeners};
use crate::flow::EdgeId;
use crate::setup;

/// Reads the file again and hands the change to the data thread; the changes, a line each.
///
/// # Errors
/// What is wrong; then the old configuration stays.
pub fn from_file(file: &Path, shared: &Shared, commands: &Commands) -> Result<Vec<String>, ExitError> {
    let old = shared.policy.load_full();
    let prepared = config::load(file).map_err(ExitError::from).and_then(|loaded| {
        prepare(&old, &loaded, shared).map_err(|message| ExitError::new(Exit::Failed, message))
    });
    *shared.not_taken.lock() = prepared.as_ref().err().map(|error| not_taken(file, &error.message));
    let (change, renewed) = prepared?;
    log::change(change.policy.log);
    let changes: Vec<String> = old.changes(&change.policy).iter().map(ToString::to_string).collect();
    // Another own key cuts the peer off until it has the new one.
    for line in &renewed {
        tracing::warn!("{line}");
    }
    for line in &changes {
        tracing::info!("{line}");
    }
    shared.policy.store(Arc::clone(&change.policy));
    commands.send(Command::Reload(Box::new(change)));
    Ok(renewed.into_iter().chain(changes).collect())
}

fn not_taken(file: &Path, error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    format!("{} was read again and not taken, the configuration before is in force: {first}", file.display())
}

/// The change, and a line for each peer that has to be given another key of ours.
fn prepare(old: &Policy, loaded: &Loaded, shared: &Shared) -> Result<(Change, Vec<String>), String> {
    let new = &loaded.policy;
    if let Some(what) = old.needs_restart(new) {
        return Err(format!("{what} changed, which needs a restart"));
    }
    let (mut peers, mut keys, mut renewed) = (Vec::new(), Vec::new(), Vec::new());
    for (place, edge) in shared.edges.iter().enumerate() {
        let id = EdgeId(u32::try_from(place).unwrap_or(u32::MAX));
        let before = edge.node.private_key().map(|key| key.public());
        if let Some((now, before)) = loaded.keys.get(place).map(|keys| &keys.private).zip(before)
            && now.public() != before
        {
            let after = now.public();
            renewed.push(format!(
                "private key: {before} → {after}; peer {} must be given the new public key",
                edge.name
            ));
            keys.push((id, now.clone()));
        }
        let mut config = loaded.peer_config(place)?;
        let unmoved = old.peers.get(place).map(|peer| &peer.endpoint)
            == new.peers.get(place).map(|peer| &peer.endpoint);
        if unmoved {
            // Where the edge roamed to stays.
            config.endpoint = None;
        }
        peers.push((id, config));
    }
    Ok((Change { policy: Arc::clone(new), keys, peers, bound: bind_new(old, new)? }, renewed))
}

/// Binds what is new; an entry that changed on the address it had would clash with itself and needs a restart.
fn bind_new(old: &Policy, new: &Policy) -> Result<Listeners, String> {
    let bound: HashSet<_> = old.reach.iter().map(|entry| entry.listen).collect();
    let added: Vec<_> = new.reach.iter().filter(|entry| !old.reach.contains(entry)).collect();
    if let Some(clash) = added.iter().find(|entry| bound.contains(&entry.listen)) {
        return Err(format!(
            "[[reach]] {} changed on the address it listens on, which needs a restart",
            clash.name
        ));
    }
    setup::listeners(added.into_iter())
}

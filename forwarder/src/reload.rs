//! SIGHUP: the file is read again, and applied as a whole or not at all.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use policy::forwarder::Policy;

use crate::config::{self, Loaded};
use crate::control::Shared;
use crate::dataplane::{Change, Command, Commands, Listeners};
use crate::flow::EdgeId;
use crate::setup;

/// Reads the file again and hands the change to the data thread; with any error the old configuration stays.
pub fn from_file(file: &Path, shared: &Shared, commands: &Commands) {
    let old = shared.policy.load_full();
    let prepared = config::load(file)
        .map_err(|error| error.to_string())
        .and_then(|loaded| prepare(&old, &loaded, shared));
    match prepared {
        Ok(change) => {
            shared.policy.store(Arc::clone(&change.policy));
            commands.send(Command::Reload(Box::new(change)));
        }
        Err(error) => {
            for line in error.lines() {
                tracing::error!("not reloaded, the old configuration stays: {line}");
            }
        }
    }
}

fn prepare(old: &Policy, loaded: &Loaded, shared: &Shared) -> Result<Change, String> {
    let new = &loaded.policy;
    if let Some(what) = needs_restart(old, new) {
        return Err(format!("{what} changed, which needs a restart"));
    }
    let mut peers = Vec::new();
    for (place, edge) in shared.edges.iter().enumerate() {
        let own = edge.node.private_key().map(|key| key.public());
        let keys = loaded.keys.get(place).map(|keys| keys.private.public());
        if own != keys {
            return Err(format!("the private key of {} changed, which needs a restart", edge.name));
        }
        let id = EdgeId(u32::try_from(place).unwrap_or(u32::MAX));
        let mut config = loaded.peer_config(place)?;
        let unmoved = old.peers.get(place).map(|peer| &peer.endpoint)
            == new.peers.get(place).map(|peer| &peer.endpoint);
        if unmoved {
            // Where the edge roamed to stays.
            config.endpoint = None;
        }
        peers.push((id, config));
    }
    Ok(Change { policy: Arc::clone(new), peers, bound: bind_new(old, new)? })
}

/// What of a change cannot be made while the daemon runs.
fn needs_restart(old: &Policy, new: &Policy) -> Option<&'static str> {
    let identity = |policy: &Policy| -> Vec<_> {
        policy.peers.iter().map(|peer| (peer.name.clone(), peer.public_key, peer.address.clone())).collect()
    };
    let checks = [
        (identity(old) != identity(new), "a peer's name, key, address or place"),
        (old.interface.mtu != new.interface.mtu, "the mtu"),
        (old.interface.listen_port != new.interface.listen_port, "listen_port"),
        (old.metrics != new.metrics, "[metrics]"),
        (old.control != new.control, "[control]"),
        (old.state_directory != new.state_directory, "[state]"),
        (old.log != new.log, "[log]"),
        (old.offload != new.offload, "[offload]"),
    ];
    checks.into_iter().find(|(changed, _)| *changed).map(|(_, what)| what)
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

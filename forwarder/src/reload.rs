//! Another configuration while traffic flows: applied as a whole or not at all.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use daemon::changes::{Applies, Confirmable, Text};
use daemon::exit::{Exit, ExitError};
use daemon::log;
use policy::forwarder::Policy;
use policy::{Name, plan};
use tokio::sync::MutexGuard;
use tunnel::io::clock;
use tunnel::io::udp::Backend;

use crate::config::{self, Loaded};
use crate::control::{EdgeView, Shared};
use crate::dataplane::{Change, Command, Listeners};
use crate::flow::EdgeId;
use crate::handover::Descriptors;
use crate::link;
use crate::run::Origin;
use crate::setup;

impl Text for Loaded {
    fn text(&self) -> &str {
        &self.text
    }
}

impl Applies for Origin {
    type Config = Loaded;

    fn config_path(&self) -> &Path {
        &self.config
    }

    fn load(&self) -> Result<Loaded, ExitError> {
        Ok(config::load(&self.config)?)
    }

    fn read(&self, shown: &Path, text: String) -> Result<Loaded, ExitError> {
        Ok(config::load_draft(&self.config, shown, text)?)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    fn plan(&self, config: &Loaded) -> Vec<plan::Change> {
        let old = self.shared.policy.load();
        let restart = old.needs_restart(&config.policy).map(|what| plan::Change {
            part: "restart",
            line: format!("{what} cannot change while the daemon runs; restart it"),
        });
        restart.into_iter().chain(changed(&old, config, &self.shared)).collect()
    }

    async fn apply(&self, config: Loaded) -> Result<Vec<plan::Change>, ExitError> {
        let old = self.shared.policy.load_full();
        let changes = changed(&old, &config, &self.shared);
        let change = prepare(&old, &config, self)?;
        self.listen(&change.policy)?;
        log::change(change.policy.log);
        for line in &changes {
            // Another own key cuts the peer off until it has the new one.
            if line.part == "key" {
                tracing::warn!("{line}");
            } else {
                tracing::info!("{line}");
            }
        }
        let targets = link::targets(&config);
        let edges = views(&change, &self.shared.edges.load());
        for edge in &edges {
            edge.node.probe_closely(change.policy.steer.is_some(), clock::now());
        }
        self.shared.edges.store(Arc::new(edges));
        self.shared.policy.store(Arc::clone(&change.policy));
        *self.text.borrow_mut() = config.text;
        *self.shared.not_taken.lock() = None;
        self.follow_page();
        self.commands.send(Command::Reload(Box::new(change)));
        self.links.follow(targets);
        Ok(changes)
    }

    fn note_reload(&self, refused: Option<&ExitError>) {
        *self.shared.not_taken.lock() = refused.map(|error| not_taken(&self.config, &error.message));
    }

    fn text_in_force(&self) -> String {
        self.text.borrow().clone()
    }

    fn confirmable(&self) -> &Confirmable {
        &self.confirmable
    }
}

fn not_taken(file: &Path, error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    format!("{} was read again and not taken, the configuration before is in force: {first}", file.display())
}

/// The changes of the policy, and a line for each peer that has to be given another key of ours.
fn changed(old: &Policy, new: &Loaded, shared: &Shared) -> Vec<plan::Change> {
    let edges = shared.edges.load();
    let renewed = new.policy.peers.iter().zip(&new.keys).filter_map(|(peer, keys)| {
        let edge = edges.iter().find(|edge| edge.name == peer.name)?;
        let (before, after) = (edge.node.private_key()?.public(), keys.private.public());
        (before != after).then(|| plan::Change {
            part: "key",
            line: format!(
                "~ private key: {before} → {after}; peer {} must be given the new public key",
                edge.name
            ),
        })
    });
    renewed.chain(old.changes(&new.policy)).collect()
}

/// The edges of a change, in the order of the configuration.
fn views(change: &Change, before: &[Arc<EdgeView>]) -> Vec<Arc<EdgeView>> {
    let kept = before.iter().filter(|edge| !change.removed.contains(&edge.id)).map(Arc::clone);
    let edges = kept.chain(change.added.iter().map(|edge| Arc::new(EdgeView::of(edge))));
    let edges: HashMap<Name, Arc<EdgeView>> = edges.map(|edge| (edge.name.clone(), edge)).collect();
    change.policy.peers.iter().filter_map(|peer| edges.get(&peer.name).cloned()).collect()
}

/// Everything that can be refused, done before anything changes.
fn prepare(old: &Policy, loaded: &Loaded, origin: &Origin) -> Result<Change, ExitError> {
    let shared = &origin.shared;
    let failed = |message: String| ExitError::new(Exit::Failed, message);
    let new = &loaded.policy;
    if let Some(what) = old.needs_restart(new) {
        let message = format!("{what} cannot change while the daemon runs; restart it");
        return Err(ExitError::new(Exit::Conflict, message));
    }
    let edges = shared.edges.load();
    let mut removed: Vec<EdgeId> = edges.iter().map(|edge| edge.id).collect();
    let (mut peers, mut keys, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for (place, peer) in new.peers.iter().enumerate() {
        let before = old.peers.iter().find(|before| before.is_same_tunnel(peer));
        let edge = edges.iter().find(|edge| edge.name == peer.name);
        let Some((edge, before)) = edge.zip(before) else {
            let at_start = (origin.mark.read(), Backend::Auto);
            let ids = &mut origin.edge_ids.borrow_mut();
            added.push(setup::edge(loaded, place, ids, at_start, None).map_err(failed)?);
            continue;
        };
        removed.retain(|id| *id != edge.id);
        let own_before = edge.node.private_key().map(|key| key.public());
        let own = loaded.keys.get(place).map(|keys| &keys.private);
        keys.extend(own.filter(|own| Some(own.public()) != own_before).map(|own| (edge.id, own.clone())));
        let edge_keys = loaded.edge_keys(place).map_err(failed)?;
        let mut config = loaded.peer_config(place).map_err(failed)?;
        if before.endpoint == peer.endpoint {
            // Where the edge roamed to stays.
            config.endpoint = None;
        }
        peers.push((edge.id, edge_keys, config));
    }
    let bound = bind_new(old, new).map_err(failed)?;
    Ok(Change { policy: Arc::clone(new), removed, keys, added, peers, bound })
}

/// Binds what is not bound yet: a listener that there is goes on with what its entry is now.
fn bind_new(old: &Policy, new: &Policy) -> Result<Listeners, String> {
    let listeners = |policy| -> HashSet<_> {
        setup::listened(policy).map(|(entry, protocol)| (entry.listen, protocol)).collect()
    };
    let bound = listeners(old);
    setup::listeners(
        setup::listened(new).filter(|(entry, protocol)| !bound.contains(&(entry.listen, *protocol))),
        &mut Descriptors::default(),
    )
}

//! Another configuration while traffic flows: applied as a whole or not at all.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use daemon::changes::{Applies, Confirmable, Text};
use daemon::exit::{Exit, ExitError};
use daemon::log;
use policy::forwarder::Policy;
use policy::plan;
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
        let mut edges = Vec::clone(&self.shared.edges.load());
        let view = |edge| Arc::new(EdgeView::of(edge, &self.shared.round_trips));
        edges.extend(change.added.iter().map(view));
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
    let renewed = edges.iter().zip(&new.keys).filter_map(|(edge, keys)| {
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

/// Everything that can be refused, done before anything changes.
fn prepare(old: &Policy, loaded: &Loaded, origin: &Origin) -> Result<Change, ExitError> {
    let shared = &origin.shared;
    let failed = |message: String| ExitError::new(Exit::Failed, message);
    let new = &loaded.policy;
    if let Some(what) = old.needs_restart(new) {
        let message = format!("{what} cannot change while the daemon runs; restart it");
        return Err(ExitError::new(Exit::Conflict, message));
    }
    let (mut peers, mut keys) = (Vec::new(), Vec::new());
    for (place, edge) in shared.edges.load().iter().enumerate() {
        let id = EdgeId(u32::try_from(place).unwrap_or(u32::MAX));
        let before = edge.node.private_key().map(|key| key.public());
        let own = loaded.keys.get(place).map(|keys| &keys.private);
        keys.extend(own.filter(|own| Some(own.public()) != before).map(|own| (id, own.clone())));
        let edge_keys = loaded.edge_keys(place).map_err(failed)?;
        let mut config = loaded.peer_config(place).map_err(failed)?;
        let unmoved = old.peers.get(place).map(|peer| &peer.endpoint)
            == new.peers.get(place).map(|peer| &peer.endpoint);
        if unmoved {
            // Where the edge roamed to stays.
            config.endpoint = None;
        }
        peers.push((id, edge_keys, config));
    }
    let added =
        setup::edges_from(loaded, old.peers.len(), origin.mark.read(), Backend::Auto).map_err(failed)?;
    let bound = bind_new(old, new).map_err(failed)?;
    Ok(Change { policy: Arc::clone(new), keys, added, peers, bound })
}

/// Binds what is new; an entry that changed on the address it had would clash with itself and needs
/// a restart.
fn bind_new(old: &Policy, new: &Policy) -> Result<Listeners, String> {
    let bound: HashSet<_> = old.reach.iter().map(|entry| entry.listen).collect();
    let added: Vec<_> = new.reach.iter().filter(|entry| !old.reach.contains(entry)).collect();
    if let Some(clash) = added.iter().find(|entry| bound.contains(&entry.listen)) {
        return Err(format!(
            "[[reach]] {} changed on the address it listens on, which needs a restart",
            clash.name
        ));
    }
    setup::listeners(added.into_iter(), &mut Descriptors::default())
}

//! What another configuration changes, as it is shown: the plan's lines, and those of settings and
//! keys.

use policy::gateway::{Policy, Publish};
use policy::plan::Change;

use super::blueprint::Blueprint;
use crate::config::Keys;

/// The parts of a configuration whose changes are reported.
pub(super) struct Side<'a> {
    pub(super) policy: &'a Policy,
    pub(super) keys: &'a Keys,
    pub(super) blueprint: &'a Blueprint,
}

/// Every change from one configuration to another, a line each.
pub(super) fn changes(old: &Side<'_>, new: &Side<'_>) -> Vec<Change> {
    let mut changes = keys(old, new);
    changes.extend(old.blueprint.plan.diff(&new.blueprint.plan));
    changes.extend(old.policy.changed_settings(new.policy));
    changes.extend(grants(old.blueprint.served(), new.blueprint.served()));
    changes
}

/// What peers publish by themselves and another configuration closes, changes or opens.
pub(in crate::edge) fn grants<'p>(old: &'p Policy, new: &'p Policy) -> impl Iterator<Item = Change> + 'p {
    let missing = |from: &'p Policy, of: &'p Policy, sign: char| {
        let granted = of.publish.iter().filter(|publish| publish.name.is_granted());
        let missing = granted.filter(move |publish| !from.publish.contains(publish));
        missing.map(move |publish| Change { part: "grant", line: format!("{sign} {}", described(publish)) })
    };
    missing(new, old, '-').chain(missing(old, new, '+'))
}

fn described(publish: &Publish) -> String {
    let ports = publish.protocols.iter().map(|protocol| format!("{protocol}/{}", publish.ports));
    let targets = publish.targets.iter().map(|target| format!("{} port {}", target.address, target.ports));
    let join = |parts: &mut dyn Iterator<Item = String>| parts.collect::<Vec<_>>().join(", ");
    format!("{}: {} to {}", publish.name, join(&mut ports.into_iter()), join(&mut targets.into_iter()))
}

/// Keys whose files hold others than before.
fn keys(old: &Side<'_>, new: &Side<'_>) -> Vec<Change> {
    let (before, after) = (old.keys.private.public(), new.keys.private.public());
    let own = (before != after).then(|| Change {
        part: "key",
        line: format!("~ private key: {before} → {after}; peers must be given the new public key"),
    });
    let is_other = |peer: &&policy::gateway::Peer| {
        let key = |side: &Side<'_>| side.keys.preshared.get(&peer.public_key).cloned();
        key(old).zip(key(new)).is_some_and(|(old, new)| old != new)
    };
    let preshared = new.policy.peers.iter().filter(is_other).map(|peer| Change {
        part: "key",
        line: format!("~ preshared key of {}; the other end needs the same one", peer.name),
    });
    own.into_iter().chain(preshared).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;
    use policy::plan::Conditions;
    use tunnel::key::{PresharedKey, PrivateKey};

    use super::*;
    use crate::edge::in_force::Granting;

    const TEXT: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"kyiv.key\"\n\
        [wan]\ninterface = \"eth0\"\n[[peer]]\nname = \"wroclaw\"\nallowed_ips = [\"10.77.88.2/32\"]\n\
        public_key = \"j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=\"\npreshared_key_file = \"wroclaw.psk\"\n";

    #[test]
    fn a_key_file_with_another_key_is_a_change_that_says_what_to_do() {
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: TEXT }).unwrap();
        let blueprint = Blueprint::new(Granting::default().judge(&policy), Conditions::default());
        let keys = |private: u8, preshared: u8| Keys {
            private: PrivateKey::from_bytes([private; 32]),
            preshared: [(policy.peers[0].public_key, PresharedKey::from_bytes([preshared; 32]))].into(),
        };
        let lines = |old: Keys, new: Keys| -> Vec<String> {
            let side = |keys| Side { policy: &policy, keys, blueprint: &blueprint };
            changes(&side(&old), &side(&new)).iter().map(ToString::to_string).collect()
        };
        let public = |private: u8| keys(private, 0).private.public();

        assert_eq!(lines(keys(1, 3), keys(1, 3)), [""; 0]);
        let own = format!(
            "key: ~ private key: {} → {}; peers must be given the new public key",
            public(1),
            public(2)
        );
        assert_eq!(lines(keys(1, 3), keys(2, 3)), [own]);
        let preshared = "key: ~ preshared key of wroclaw; the other end needs the same one";
        assert_eq!(lines(keys(1, 3), keys(1, 4)), [preshared]);
    }
}

//! What another configuration changes at a running edge, besides its plan.

use super::dns;
use super::model::{Peer, Policy};
use super::standby::Standby;
use crate::Mtu;
use crate::change::{Change, Settings};
use crate::sections::{List, Notify};

impl Policy {
    /// The key of which `next` has another value and which cannot change while the daemon runs.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> Option<&'static str> {
        let fixed = [
            ("[interface] name", self.interface.name != next.interface.name),
            ("[control]", self.control != next.control),
            ("[state] directory", self.state_directory != next.state_directory),
            ("[kernel] route_table", self.kernel.route_table != next.kernel.route_table),
            ("[kernel] route_protocol", self.kernel.route_protocol != next.kernel.route_protocol),
        ];
        fixed.into_iter().find(|(_, changed)| *changed).map(|(key, _)| key)
    }

    /// What `next` changes besides the plan: settings of the daemon itself, which the kernel does
    /// not have.
    #[must_use]
    pub fn changed_settings(&self, next: &Self) -> Vec<Change> {
        let mut changes = Settings::default();
        let (old, new) = (&self.interface, &next.interface);
        changes.field("device", "listen port", &old.listen_port.to_string(), &new.listen_port.to_string());
        if (old.mtu == Mtu::Auto) != (new.mtu == Mtu::Auto) {
            // Two fixed sizes are in the plan.
            changes.field("device", "mtu", &size(old.mtu), &size(new.mtu));
        }
        let files = (&old.private_key_file.location, &new.private_key_file.location);
        changes.field("key", "private key file", &files.0.to_string(), &files.1.to_string());
        for (old, new) in pairs(&self.peers, &next.peers, |peer: &Peer| &peer.name) {
            changes.field("peer", &format!("{} probe", old.name), &old.probe_text(), &new.probe_text());
            let entries = |peer: &Peer| peer.may_publish.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (before, after) = (entries(old), entries(new));
            changes.values("peer", &format!("{} may_publish", old.name), &before, &after);
            let file = |peer: &Peer| peer.preshared_key_file.as_ref().map(|file| file.location.to_string());
            let (before, after) = (file(old), file(new));
            let what = format!("{} preshared key file", old.name);
            changes.option("peer", &what, before.as_ref(), after.as_ref());
        }
        changes.option("device", "[wan] name", self.wan.name.as_ref(), next.wan.name.as_ref());
        changes.values("guard", "[lan] interfaces", &self.lan_interfaces, &next.lan_interfaces);
        changes.values(
            "guard",
            "[containers] interfaces",
            &self.container_interfaces,
            &next.container_interfaces,
        );
        changes.lists(&self.lists, &next.lists);
        dns::note_changes(self.dns.as_ref(), next.dns.as_ref(), &mut changes);
        Notify::note_changes(&self.notify, &next.notify, &mut changes);
        self.metrics.note_changes(&next.metrics, &mut changes);
        self.page.note_changes(&next.page, &mut changes);
        self.link.note_changes(next.link, &mut changes);
        Standby::note_changes(self.standby.as_ref(), next.standby.as_ref(), &mut changes);
        self.log.note_changes(next.log, &mut changes);
        for ((key, old), (_, new)) in self.offload.switches().into_iter().zip(next.offload.switches()) {
            changes.field("offload", key, old.as_str(), new.as_str());
        }
        changes.field("reload", "watch", &self.watch.to_string(), &next.watch.to_string());
        changes.lines
    }
}

impl Settings {
    fn lists(&mut self, old: &[List], new: &[List]) {
        let has = |lists: &[List], name| lists.iter().any(|list| list.name == name);
        for list in old.iter().filter(|list| !has(new, list.name.clone())) {
            self.lines.push(Change { part: "list", line: format!("- @{}", list.name) });
        }
        for list in new.iter().filter(|list| !has(old, list.name.clone())) {
            self.lines.push(Change { part: "list", line: format!("+ @{}", list.name) });
        }
        for (old, new) in pairs(old, new, |list: &List| &list.name) {
            let name = &old.name;
            let (before, after) = (old.file.location.to_string(), new.file.location.to_string());
            self.field("list", &format!("@{name} file"), &before, &after);
            self.values("list", &format!("@{name} url"), &old.urls, &new.urls);
        }
    }
}

/// The entries that both have, by name.
fn pairs<'a, T, N: PartialEq>(
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&T) -> &N + Copy,
) -> impl Iterator<Item = (&'a T, &'a T)> {
    old.iter().filter_map(move |old| Some((old, new.iter().find(|new| name(new) == name(old))?)))
}

fn size(mtu: Mtu) -> String {
    match mtu {
        Mtu::Fixed(bytes) => bytes.to_string(),
        Mtu::Auto => "auto".to_owned(),
    }
}

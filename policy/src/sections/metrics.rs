//! `[metrics]`: where metrics are served.

use std::net::SocketAddr;

use crate::change::Settings;
use crate::fields::{self, At};
use crate::reader::{Table, Value};
use crate::{Host, text};

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Addresses to serve on; none by default.
    pub listen: Vec<SocketAddr>,
    /// Host names under which the pages may be requested, besides addresses and `localhost`.
    pub hosts: Vec<Host>,
}

impl Metrics {
    /// Notes what `next` has otherwise.
    pub(crate) fn note_changes(&self, next: &Self, changes: &mut Settings) {
        changes.values("metrics", "listen", &self.listen, &next.listen);
        changes.values("metrics", "hosts", &self.hosts, &next.hosts);
    }
}

/// `[metrics]`, and where its addresses are.
pub(super) fn metrics(root: &Table<'_>) -> (Metrics, Vec<At<SocketAddr>>) {
    let Some(table) = root.table("metrics", "[metrics]") else { return Default::default() };
    let many = |key| table.optional(key).map(Value::one_or_many).unwrap_or_default().into_iter();
    let read = |item: Value<'_>| Some(At::new(fields::socket_address(item)?, item.at()));
    let listen: Vec<_> = many("listen").filter_map(read).collect();
    let hosts = many("hosts").filter_map(host_name).collect();
    table.close();
    (Metrics { listen: listen.iter().map(|listen| listen.value).collect(), hosts }, listen)
}

pub(super) fn host_name(value: Value<'_>) -> Option<Host> {
    value.parse("a name, such as \"host.docker.internal\"; addresses need no entry", |written| {
        text::host(written).filter(|host| matches!(host, Host::Name(_)))
    })
}

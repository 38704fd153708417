//! `[limits]`: bounds on what flows may take.

use std::time::Duration;

use crate::forwarder::model::Limits;
use crate::reader::{Table, Value};
use crate::{fields, text};

/// `[limits]`.
pub(super) fn limits(root: &Table<'_>) -> Limits {
    let default = Limits::default();
    let Some(table) = root.table("limits", "[limits]") else { return default };
    let count = |key, most: u64, default: u32| {
        let value = table.optional(key).and_then(|value| value.integer(1..=most));
        value.and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    let limits = Limits {
        flows: count("flows", 1_000_000, default.flows),
        pending_dials: count("pending_dials", 100_000, default.pending_dials),
        flows_per_client: count("flows_per_client", 1_000_000, default.flows_per_client),
        pending_per_client: count("pending_per_client", 100_000, default.pending_per_client),
        udp_flows: count("udp_flows", 100_000, default.udp_flows),
        udp_flows_per_client: count("udp_flows_per_client", 100_000, default.udp_flows_per_client),
        udp_timeout: table.optional("udp_timeout").and_then(udp_timeout).unwrap_or(default.udp_timeout),
        buffer_bytes: table.optional("buffers").and_then(buffers).unwrap_or(default.buffer_bytes),
        dial_timeout: fields::duration(&table, "dial_timeout", default.dial_timeout),
        drain: fields::duration(&table, "drain", default.drain),
    };
    table.close();
    limits
}

/// RFC 4787 REQ-5: no mapping may end before it was silent for two minutes.
fn udp_timeout(value: Value<'_>) -> Option<Duration> {
    let bounds = Duration::from_secs(120)..=Duration::from_secs(24 * 3600);
    value.parse("a duration from \"2m\" to \"24h\"", |written| {
        text::duration(written).filter(|duration| bounds.contains(duration))
    })
}

fn buffers(value: Value<'_>) -> Option<u64> {
    let bounds = (1 << 20)..=(1 << 40);
    value.parse("a size from \"1MiB\" to \"1024GiB\"", |written| {
        text::bytes(written).filter(|bytes| bounds.contains(bytes))
    })
}

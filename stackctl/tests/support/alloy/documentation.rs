//! What Alloy's documentation allows its configuration to have. Alloy itself has no package here.

use std::collections::BTreeSet;

use super::Block;

/// What a block may have: its path, required arguments, other arguments, blocks, exports. From the component reference of
/// Alloy's documentation.
struct Allowed {
    path: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
    blocks: &'static [&'static str],
    exports: &'static [&'static str],
}

const RULE: &[&str] =
    &["action", "modulus", "regex", "replacement", "separator", "source_labels", "target_label"];

/// Blocks whose documentation asks for `--stability.level=experimental`.
const EXPERIMENTAL: [&str; 2] = ["loki.write/wal", "loki.write/endpoint/queue_config"];

const SCHEMA: &[Allowed] = &[
    allowed(
        "prometheus.exporter.unix",
        &[],
        &[
            "disable_collectors",
            "enable_collectors",
            "include_exporter_metrics",
            "procfs_path",
            "rootfs_path",
            "set_collectors",
            "sysfs_path",
            "udev_data_path",
        ],
        &["filesystem", "netdev", "textfile"],
        &["targets"],
    ),
    allowed(
        "prometheus.exporter.cadvisor",
        &[],
        &[
            "allowlisted_container_labels",
            "containerd_host",
            "disabled_metrics",
            "docker_host",
            "docker_only",
            "enabled_metrics",
            "storage_duration",
            "store_container_labels",
        ],
        &[],
        &["targets"],
    ),
    allowed(
        "prometheus.exporter.blackbox",
        &[],
        &["config_file", "config", "probe_timeout_offset", "targets"],
        &["target"],
        &["targets"],
    ),
    allowed("prometheus.exporter.blackbox/target", &["name", "address"], &["labels", "module"], &[], &[]),
    allowed(
        "prometheus.scrape",
        &["targets", "forward_to"],
        &[
            "job_name",
            "scrape_interval",
            "scrape_timeout",
            "metrics_path",
            "scheme",
            "params",
            "honor_labels",
            "honor_timestamps",
            "sample_limit",
        ],
        &["basic_auth", "tls_config", "clustering"],
        &[],
    ),
    allowed("prometheus.relabel", &["forward_to"], &["max_cache_size"], &["rule"], &["receiver", "rules"]),
    allowed("prometheus.relabel/rule", &[], RULE, &[], &[]),
    allowed("prometheus.remote_write", &[], &["external_labels"], &["endpoint", "wal"], &["receiver"]),
    allowed(
        "prometheus.remote_write/endpoint",
        &["url"],
        &[
            "name",
            "remote_timeout",
            "headers",
            "send_exemplars",
            "send_native_histograms",
            "enable_http2",
            "follow_redirects",
        ],
        &["basic_auth", "tls_config", "queue_config", "metadata_config", "write_relabel_config"],
        &[],
    ),
    allowed(
        "prometheus.remote_write/endpoint/queue_config",
        &[],
        &[
            "batch_send_deadline",
            "capacity",
            "max_backoff",
            "max_samples_per_send",
            "max_shards",
            "min_backoff",
            "min_shards",
            "retry_on_http_429",
            "sample_age_limit",
        ],
        &[],
        &[],
    ),
    allowed(
        "prometheus.remote_write/wal",
        &[],
        &["truncate_frequency", "min_keepalive_time", "max_keepalive_time"],
        &[],
        &[],
    ),
    allowed(
        "discovery.docker",
        &["host"],
        &["host_networking_host", "match_first_network", "port", "refresh_interval"],
        &["filter"],
        &["targets"],
    ),
    allowed("discovery.relabel", &["targets"], &[], &["rule"], &["output", "rules"]),
    allowed("discovery.relabel/rule", &[], RULE, &[], &[]),
    allowed(
        "loki.source.docker",
        &["host", "targets", "forward_to", "labels"],
        &["refresh_interval", "relabel_rules"],
        &["client"],
        &[],
    ),
    allowed("loki.write", &[], &["external_labels", "max_streams"], &["endpoint", "wal"], &["receiver"]),
    allowed(
        "loki.write/endpoint",
        &["url"],
        &[
            "name",
            "batch_size",
            "batch_wait",
            "headers",
            "max_backoff_period",
            "max_backoff_retries",
            "min_backoff_period",
            "remote_timeout",
            "retry_on_http_429",
            "tenant_id",
        ],
        &["basic_auth", "tls_config", "queue_config"],
        &[],
    ),
    allowed(
        "loki.write/wal",
        &[],
        &["drain_timeout", "enabled", "max_read_frequency", "max_segment_age", "min_read_frequency"],
        &[],
        &[],
    ),
];

const fn allowed(
    path: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
    blocks: &'static [&'static str],
    exports: &'static [&'static str],
) -> Allowed {
    Allowed { path, required, optional, blocks, exports }
}

/// What in a file the documentation does not allow, and which of its blocks are experimental.
pub(crate) fn check(components: &[Block]) -> (Vec<String>, Vec<&'static str>) {
    let (mut faults, mut experimental) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for component in components {
        if component.label.is_empty() {
            faults.push(format!("{} has no label", component.kind));
        }
        if !names.insert((&component.kind, &component.label)) {
            faults.push(format!("{} {:?} is there twice", component.kind, component.label));
        }
        check_block(component, &component.kind, &mut faults, &mut experimental);
    }
    for component in components {
        check_references(component, components, &mut faults);
    }
    (faults, experimental)
}

fn check_block(block: &Block, path: &str, faults: &mut Vec<String>, experimental: &mut Vec<&'static str>) {
    let Some(allowed) = SCHEMA.iter().find(|allowed| allowed.path == path) else {
        return faults.push(format!("{path} is no component or block that is known here"));
    };
    experimental.extend(EXPERIMENTAL.iter().filter(|own| **own == path));
    for required in allowed.required {
        if block.get(required).is_none() {
            faults.push(format!("{path} {:?} has no {required}", block.label));
        }
    }
    let mut seen = BTreeSet::new();
    for (name, _) in &block.attributes {
        if !allowed.required.contains(&name.as_str()) && !allowed.optional.contains(&name.as_str()) {
            faults.push(format!("{path} {:?} has an unknown argument {name}", block.label));
        }
        if !seen.insert(name) {
            faults.push(format!("{path} {:?} has {name} twice", block.label));
        }
    }
    for inner in &block.blocks {
        if allowed.blocks.contains(&inner.kind.as_str()) {
            check_block(inner, &format!("{path}/{}", inner.kind), faults, experimental);
        } else {
            faults.push(format!("{path} {:?} has an unknown block {}", block.label, inner.kind));
        }
    }
}

/// Every reference is to an export that its component has, and of the kind that the argument takes.
fn check_references(block: &Block, components: &[Block], faults: &mut Vec<String>) {
    for (argument, value) in &block.attributes {
        let mut references = Vec::new();
        value.references(&mut references);
        for reference in references {
            let exported = components.iter().find_map(|component| {
                let rest = reference.strip_prefix(&format!("{}.{}.", component.kind, component.label))?;
                let allowed = SCHEMA.iter().find(|allowed| allowed.path == component.kind)?;
                allowed.exports.iter().find(|own| **own == rest).map(|export| (component, *export))
            });
            let fits = exported.is_some_and(|(component, export)| match argument.as_str() {
                "forward_to" => {
                    let family = |kind: &str| kind.split('.').next().map(str::to_owned);
                    export == "receiver" && family(&component.kind) == family(&block.kind)
                }
                "targets" => ["targets", "output"].contains(&export),
                _ => true,
            });
            if !fits {
                faults.push(format!("{} {:?}: {argument} names {reference}", block.kind, block.label));
            }
        }
    }
    block.blocks.iter().for_each(|inner| check_references(inner, components, faults));
}

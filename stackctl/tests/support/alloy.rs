//! Alloy's configuration language, as far as the sample's files use it: blocks, attributes, strings, lists, objects and
//! references. Alloy itself has no package here; what it allows is written down in `SCHEMA`, from its documentation.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// A block with what is in it.
#[derive(Debug)]
pub(crate) struct Block {
    /// For example `prometheus.scrape`.
    pub(crate) kind: String,
    /// What follows in quotes; empty for a block within another.
    pub(crate) label: String,
    pub(crate) attributes: Vec<(String, Value)>,
    pub(crate) blocks: Vec<Block>,
}

/// The value of an attribute.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A number or a truth value.
    Word(String),
    /// An export of another component.
    Reference(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Block {
    /// An attribute's value.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// An attribute that is a text.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            other => panic!("{} {:?}: {name} is {other:?}", self.kind, self.label),
        }
    }
}

impl Value {
    /// One value of an object.
    pub(crate) fn entry(&self, name: &str) -> Option<&str> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find_map(|(own, value)| match value {
            Self::Text(text) if own == name => Some(text.as_str()),
            _ => None,
        })
    }

    fn references<'v>(&'v self, into: &mut Vec<&'v str>) {
        match self {
            Self::Reference(name) => into.push(name),
            Self::List(values) => values.iter().for_each(|value| value.references(into)),
            Self::Object(entries) => entries.iter().for_each(|(_, value)| value.references(into)),
            Self::Text(_) | Self::Word(_) => {}
        }
    }
}

/// Reads a file; what is not of the language is a panic that shows the rest.
pub(crate) fn parse(text: &str) -> Vec<Block> {
    let mut reader = Reader { rest: text.chars().peekable() };
    let (attributes, blocks) = reader.body(None);
    assert!(attributes.is_empty(), "attributes outside of a component: {attributes:?}");
    blocks
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
}

impl Reader<'_> {
    fn skip(&mut self) {
        while let Some(next) = self.rest.peek().copied() {
            if next == '/' {
                // The language has no other use for a slash here.
                while self.rest.next_if(|c| *c != '\n').is_some() {}
            } else if next.is_whitespace() || next == ',' {
                self.rest.next();
            } else {
                break;
            }
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest.peek().copied()
    }

    fn take(&mut self, wanted: char) {
        let found = self.peek();
        assert!(found == Some(wanted), "{wanted:?} expected, before {:?}", self.upcoming());
        self.rest.next();
    }

    fn upcoming(&self) -> String {
        self.rest.clone().take(60).collect()
    }

    fn word(&mut self) -> String {
        self.skip();
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || "._".contains(*c)) {
            word.push(c);
        }
        assert!(!word.is_empty(), "a word expected, before {:?}", self.upcoming());
        word
    }

    fn quoted(&mut self) -> String {
        self.take('"');
        let mut text = String::new();
        loop {
            match self.rest.next().expect("a string that ends") {
                '"' => return text,
                '\\' => text.push(self.rest.next().expect("an escaped character")),
                '\n' => panic!("a string runs over the line's end: {text}"),
                c => text.push(c),
            }
        }
    }

    fn body(&mut self, end: Option<char>) -> (Vec<(String, Value)>, Vec<Block>) {
        let (mut attributes, mut blocks) = (Vec::new(), Vec::new());
        while self.peek() != end {
            let name = self.word();
            if self.peek() == Some('=') {
                self.take('=');
                attributes.push((name, self.value()));
            } else {
                let label = if self.peek() == Some('"') { self.quoted() } else { String::new() };
                self.take('{');
                let (attributes, inner) = self.body(Some('}'));
                self.take('}');
                blocks.push(Block { kind: name, label, attributes, blocks: inner });
            }
        }
        (attributes, blocks)
    }

    fn value(&mut self) -> Value {
        match self.peek() {
            Some('"') => Value::Text(self.quoted()),
            Some('[') => {
                self.take('[');
                let mut values = Vec::new();
                while self.peek() != Some(']') {
                    values.push(self.value());
                }
                self.take(']');
                Value::List(values)
            }
            Some('{') => {
                self.take('{');
                let mut entries = Vec::new();
                while self.peek() != Some('}') {
                    let name = if self.peek() == Some('"') { self.quoted() } else { self.word() };
                    self.take('=');
                    entries.push((name, self.value()));
                }
                self.take('}');
                Value::Object(entries)
            }
            _ => {
                let word = self.word();
                if word.contains('.') { Value::Reference(word) } else { Value::Word(word) }
            }
        }
    }
}

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

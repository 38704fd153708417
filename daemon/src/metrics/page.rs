//! The page in Prometheus' text format, made from plain numbers.
//!
//! Every page is made by a recorder of its own, so that a series whose labels changed is gone from
//! the next one. No label holds a client's address; `endpoint` is a peer's, as dashboards for the
//! WireGuard exporters expect it.

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

/// One series with its help and its value, so that everything about a metric is in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    name: String,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Counter(u64),
    Gauge(f64),
}

impl Number {
    /// A counter, which only grows; its name ends with `_total`.
    #[must_use]
    pub fn counter(name: impl Into<String>, help: &'static str, value: u64) -> Self {
        Self { name: name.into(), help, labels: Vec::new(), value: Value::Counter(value) }
    }

    /// A gauge, which rises and falls.
    #[must_use]
    pub fn gauge(name: impl Into<String>, help: &'static str, value: f64) -> Self {
        Self { name: name.into(), help, labels: Vec::new(), value: Value::Gauge(value) }
    }

    /// A gauge of how many there are now.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "no table here holds 2^53 entries")]
    pub fn count(name: impl Into<String>, help: &'static str, value: u64) -> Self {
        Self::gauge(name, help, value as f64)
    }

    /// 1 for yes, 0 for no.
    #[must_use]
    pub fn flag(name: impl Into<String>, help: &'static str, is_on: bool) -> Self {
        Self::gauge(name, help, f64::from(u8::from(is_on)))
    }

    /// With another label.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((label, value.into()));
        self
    }
}

/// The page of these numbers, and of the process itself.
#[must_use]
pub fn page(numbers: impl IntoIterator<Item = Number>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    with_local_recorder(&recorder, || {
        numbers.into_iter().for_each(record);
        super::process::record();
    });
    handle.render()
}

fn record(number: Number) {
    let Number { name, help, labels, value } = number;
    match value {
        Value::Counter(value) => {
            describe_counter!(name.clone(), help);
            counter!(name, &labels).absolute(value);
        }
        Value::Gauge(value) => {
            describe_gauge!(name.clone(), help);
            gauge!(name, &labels).set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_a_help_and_a_type() {
        let numbers = [
            Number::counter("a_total", "Things.", 7).with("kind", "x").with("of", "y"),
            Number::flag("b", "Whether.", true),
        ];
        let page = page(numbers);
        for line in
            ["# HELP a_total Things.", "# TYPE a_total counter", "a_total{kind=\"x\",of=\"y\"} 7", "b 1"]
        {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }
}

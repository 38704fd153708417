//! The measurements, compared with the goals.

use std::fmt::Write as _;

use super::contender::Contender::{
    self, Boringtun, CausewayWg, CausewayWgEdge, CausewayWgOrigin, Gateway, GatewayUnwatched, GatewayWatched,
    Gotatun, Onetun, RatholeNoise, WireguardGo,
};

/// Whether a value must be above or below the goal.
#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}
use Goal::{AtLeast, AtMost};

impl Goal {
    fn is_reached(self, value: f64) -> bool {
        match self {
            AtLeast(goal) => value >= goal,
            AtMost(goal) => value <= goal,
        }
    }

    fn text(self) -> String {
        match self {
            AtLeast(goal) => format!("≥ {goal}"),
            AtMost(goal) => format!("≤ {goal}"),
        }
    }
}

/// Ours over theirs, in one metric.
const RATIOS: &[(&str, Contender, Contender, &str, Goal)] = &[
    ("TCP down, 1 stream", CausewayWg, WireguardGo, "bulk_down_1", AtLeast(2.5)),
    ("TCP down, 4 streams", CausewayWg, WireguardGo, "bulk_down_4", AtLeast(2.5)),
    ("TCP up, 1 stream", CausewayWg, WireguardGo, "bulk_up_1", AtLeast(2.5)),
    ("TCP up, 4 streams", CausewayWg, WireguardGo, "bulk_up_4", AtLeast(2.5)),
    ("TCP down, 1 stream", CausewayWg, RatholeNoise, "bulk_down_1", AtLeast(1.7)),
    ("TCP down, 4 streams", CausewayWg, RatholeNoise, "bulk_down_4", AtLeast(1.7)),
    ("TCP up, 1 stream", CausewayWg, RatholeNoise, "bulk_up_1", AtLeast(1.7)),
    ("TCP up, 4 streams", CausewayWg, RatholeNoise, "bulk_up_4", AtLeast(1.7)),
    ("CPU s/GB, edge, down", CausewayWg, WireguardGo, "cpu_edge_down_1", AtMost(0.36)),
    ("CPU s/GB, origin, down", CausewayWg, WireguardGo, "cpu_origin_down_1", AtMost(0.36)),
    ("CPU s/GB, edge, up", CausewayWg, WireguardGo, "cpu_edge_up_1", AtMost(0.36)),
    ("CPU s/GB, origin, up", CausewayWg, WireguardGo, "cpu_origin_up_1", AtMost(0.36)),
    ("TCP down, our edge", CausewayWgEdge, WireguardGo, "bulk_down_1", AtLeast(1.4)),
    ("TCP up, our edge", CausewayWgEdge, WireguardGo, "bulk_up_1", AtLeast(1.4)),
    ("TCP down, our origin", CausewayWgOrigin, WireguardGo, "bulk_down_1", AtLeast(1.4)),
    ("TCP up, our origin", CausewayWgOrigin, WireguardGo, "bulk_up_1", AtLeast(1.4)),
    ("TCP down, daemons", Gateway, RatholeNoise, "bulk_down_1", AtLeast(1.2)),
    ("TCP up, daemons", Gateway, RatholeNoise, "bulk_up_1", AtLeast(1.2)),
    ("TCP down, daemons", Gateway, WireguardGo, "bulk_down_1", AtLeast(1.6)),
    ("TCP up, daemons", Gateway, WireguardGo, "bulk_up_1", AtLeast(1.6)),
    ("TCP down, daemons", Gateway, Onetun, "bulk_down_1", AtLeast(25.0)),
    ("TCP up, daemons", Gateway, Onetun, "bulk_up_1", AtLeast(25.0)),
    ("TCP down, daemons that are watched", GatewayWatched, GatewayUnwatched, "bulk_down_1", AtLeast(0.99)),
    ("TCP up, daemons that are watched", GatewayWatched, GatewayUnwatched, "bulk_up_1", AtLeast(0.99)),
    ("request-response, idle, p50", CausewayWg, Boringtun, "rr_p50", AtMost(0.85)),
    ("request-response, idle, p99", CausewayWg, Boringtun, "rr_p99", AtMost(0.85)),
    ("UDP 200 B, up", CausewayWg, Gotatun, "udp_up_200", AtLeast(1.6)),
    ("UDP 200 B, down", CausewayWg, Gotatun, "udp_down_200", AtLeast(1.6)),
    ("new connections, 16 at a time", CausewayWg, Gotatun, "crr16_rate", AtLeast(1.4)),
    ("new connections, 16 at a time", Gateway, RatholeNoise, "crr16_rate", AtLeast(2.0)),
    ("new connections, 16 at a time", Gateway, Onetun, "crr16_rate", AtLeast(3.0)),
];

/// One metric over another of the same contender.
const KEPT: &[(&str, Contender, &str, &str, Goal)] = &[
    (
        "UDP 200 B up that arrives of twice the best rate",
        CausewayWg,
        "udp_overload_up_200",
        "udp_up_200",
        AtLeast(0.95),
    ),
    (
        "UDP 200 B down that arrives of twice the best rate",
        CausewayWg,
        "udp_overload_down_200",
        "udp_down_200",
        AtLeast(0.95),
    ),
    ("bulk kept during requests", CausewayWg, "loaded_bulk", "loaded_alone", AtLeast(0.95)),
    ("bulk kept during requests", Gateway, "loaded_bulk", "loaded_alone", AtLeast(0.95)),
];

/// Values by themselves: the metric, by how much it is divided, its unit.
const VALUES: &[(&str, Contender, &str, f64, &str, Goal)] = &[
    ("request-response under bulk, p50", CausewayWg, "loaded_p50", 1e3, "ms", AtMost(1.0)),
    ("request-response under bulk, p99", CausewayWg, "loaded_p99", 1e3, "ms", AtMost(3.0)),
    ("request-response under bulk, p50", Gateway, "loaded_p50", 1e3, "ms", AtMost(1.0)),
    ("request-response under bulk, p99", Gateway, "loaded_p99", 1e3, "ms", AtMost(3.0)),
    ("resident in bulk, edge", CausewayWg, "rss_edge", 1.0, "MB", AtMost(10.0)),
    ("resident in bulk, edge", Gateway, "rss_edge", 1.0, "MB", AtMost(10.0)),
    ("resident with 100 flows, forwarder", Gateway, "rss_origin_100", 1.0, "MB", AtMost(64.0)),
    ("5,000 idle connections: answered", Gateway, "many_answered_again", 1.0, "", AtLeast(5000.0)),
    ("5,000 idle connections: resident, edge", Gateway, "many_rss_edge", 1.0, "MB", AtMost(20.0)),
    ("idle CPU, edge", CausewayWg, "idle_cpu_edge", 1.0, "%", AtMost(0.03)),
    ("idle CPU, edge", Gateway, "idle_cpu_edge", 1.0, "%", AtMost(0.03)),
    ("start to first answer", CausewayWg, "start_s", 1.0, "s", AtMost(0.3)),
    ("start to first answer", Gateway, "start_s", 1.0, "s", AtMost(0.3)),
];

/// Both sides against the cipher alone.
const CIPHER_MOST: Goal = AtMost(2.0);
const CIPHER: &[(&str, &str, &str)] = &[
    ("CPU over the cipher alone, edge, down", "cpu_edge_down_1", "open"),
    ("CPU over the cipher alone, origin, down", "cpu_origin_down_1", "seal"),
    ("CPU over the cipher alone, edge, up", "cpu_edge_up_1", "seal"),
    ("CPU over the cipher alone, origin, up", "cpu_origin_up_1", "open"),
];

/// The table; rows without figures are left out. `median` and `cipher` give a figure by contender
/// and metric.
pub(crate) fn table(
    median: impl Fn(Contender, &str) -> Option<f64>,
    cipher: impl Fn(&str) -> Option<f64>,
) -> String {
    let mut text =
        "\n## Compared with the goals\n\n| what | whose | over | figure | goal | reached |\n|---|---|---|---|---|---|\n".to_owned();
    let mut row = |what: &str, whose: Contender, over: &str, value: Option<f64>, unit: &str, goal: Goal| {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let reached = if goal.is_reached(value) { "yes" } else { "no" };
        let decimals = if value >= 100.0 { 0 } else { 2 + usize::from(value < 0.1) };
        let space = if unit.is_empty() { "" } else { " " };
        let figure = format!("{value:.decimals$}{space}{unit}");
        let _ = writeln!(
            text,
            "| {what} | {whose} | {over} | {figure} | {}{space}{unit} | {reached} |",
            goal.text()
        );
    };
    for &(what, ours, theirs, metric, goal) in RATIOS {
        let ratio = median(ours, metric).zip(median(theirs, metric)).map(|(own, other)| own / other);
        row(what, ours, &theirs.to_string(), ratio, "", goal);
    }
    for &(what, metric, part) in CIPHER {
        let ratio = median(CausewayWg, metric).zip(cipher(part)).map(|(own, alone)| own / alone);
        row(what, CausewayWg, part, ratio, "", CIPHER_MOST);
    }
    for &(what, whose, part, whole, goal) in KEPT {
        let ratio = median(whose, part).zip(median(whose, whole)).map(|(part, whole)| part / whole);
        row(what, whose, "–", ratio, "", goal);
    }
    for &(what, whose, metric, divisor, unit, goal) in VALUES {
        row(what, whose, "–", median(whose, metric).map(|value| value / divisor), unit, goal);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_on_its_good_side_only() {
        let figures = |contender: Contender, metric: &str| match (contender, metric) {
            (CausewayWg, "bulk_down_1") => Some(6.0),
            (WireguardGo, "bulk_down_1") => Some(2.0),
            (CausewayWg, "loaded_p50") => Some(1500.0),
            _ => None,
        };
        let text = table(figures, |_| None);
        assert!(text.contains("| TCP down, 1 stream | causeway-wg | wireguard-go | 3.00 | ≥ 2.5 | yes |"));
        assert!(
            text.contains("| request-response under bulk, p50 | causeway-wg | – | 1.50 ms | ≤ 1 ms | no |")
        );
        let rows = text.lines().filter(|line| line.starts_with("| ")).count();
        assert_eq!(rows, 1 + 2, "a heading, and what was measured: {text}");
    }
}

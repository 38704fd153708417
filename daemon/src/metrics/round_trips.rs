//! Round trips as a histogram: it accumulates over time, unlike the page, which is made from one
//! snapshot.

use metrics::{describe_histogram, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds in seconds: a LAN, a city, a continent, an ocean, and worse.
const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// Round trips of peers, since the start or since the peers last changed.
pub struct RoundTrips {
    name: String,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl RoundTrips {
    /// None yet; the name begins with `role`.
    #[must_use]
    pub fn new(role: &str) -> Self {
        let name = format!("{role}_peer_rtt_seconds");
        let builder = PrometheusBuilder::new();
        // The only error is an empty list of bounds.
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_histogram!(name.clone(), "Round trip of the probes inside the tunnel.");
        });
        Self { name, recorder, handle }
    }

    /// Counts one round trip of a peer, in seconds.
    pub fn record(&self, peer: &str, seconds: f64) {
        metrics::with_local_recorder(&self.recorder, || {
            histogram!(self.name.clone(), "peer" => peer.to_owned()).record(seconds);
        });
    }

    /// The part of the page.
    #[must_use]
    pub fn page(&self) -> String {
        self.handle.render()
    }

    /// As [`page`](Self::page), for the peers of all of these; what the metric is comes once.
    #[must_use]
    pub fn joined<'a>(all: impl IntoIterator<Item = &'a Self>) -> String {
        let mut page = String::new();
        for trips in all {
            let part = trips.page();
            let is_first = page.is_empty();
            for line in part.lines().filter(|line| is_first || !line.starts_with('#')) {
                page.push_str(line);
                page.push('\n');
            }
        }
        page
    }

    /// Puts what was recorded into the buckets, which otherwise waits for the next page; call every
    /// few minutes.
    pub fn settle(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_lands_in_its_bucket() {
        let trips = RoundTrips::new("gateway");
        trips.record("wroclaw", 0.0234);
        let page = trips.page();
        for line in [
            "gateway_peer_rtt_seconds_bucket{peer=\"wroclaw\",le=\"0.02\"} 0",
            "gateway_peer_rtt_seconds_bucket{peer=\"wroclaw\",le=\"0.03\"} 1",
            "gateway_peer_rtt_seconds_count{peer=\"wroclaw\"} 1",
            "# TYPE gateway_peer_rtt_seconds histogram",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_peers_of_several_pages_are_one_metric() {
        let of = |peer: Option<&str>| {
            let trips = RoundTrips::new("forwarder");
            peer.iter().for_each(|peer| trips.record(peer, 0.01));
            trips
        };
        let page = RoundTrips::joined(&[of(None), of(Some("kyiv")), of(Some("oracle"))]);
        let count = |start: &str| page.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((count("# TYPE"), count("# HELP")), (1, 1), "{page}");
        for peer in ["kyiv", "oracle"] {
            assert_eq!(count(&format!("forwarder_peer_rtt_seconds_count{{peer=\"{peer}\"}} 1")), 1, "{page}");
        }
    }
}

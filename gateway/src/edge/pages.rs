//! The page that Prometheus reads, and readiness.

use daemon::metrics::{Number, Scraped, page};
use policy::Host;

use super::meter::{ROLE, device_numbers, drop_numbers, io_numbers, leaked, service_numbers};
use super::{Edge, health};

impl Scraped for Edge {
    async fn metrics(&self) -> String {
        let read = self.read_counters().await.unwrap_or_else(|failure| {
            tracing::debug!(%failure, "the kernel's counters cannot be read; the last ones are shown");
            None
        });
        let counters = read.unwrap_or_else(|| self.meter.borrow().last_counters().clone());
        let services = health::services(self, &counters);
        let (in_force, meter, device) = (self.in_force.borrow(), self.meter.borrow(), self.plane.device());
        let peers = self.links.with_links(meter.peers_as_sampled(&in_force, &self.plane));
        let mut numbers = peers.numbers(ROLE);
        numbers.extend(self.links.numbers());
        numbers.extend(self.standby.numbers());
        numbers.extend(self.past.history.numbers(ROLE));
        numbers.extend(self.probing.probes.borrow().numbers());
        numbers.extend(services.iter().flat_map(service_numbers));
        numbers.extend(drop_numbers(device, in_force.ruleset(), &counters));
        numbers.extend(io_numbers(device));
        let version = Number::gauge("gateway_build_info", "The daemon's version.", 1.0);
        numbers.push(version.with("version", env!("CARGO_PKG_VERSION")));
        let help = "Whether the daemon's threads and its helper run.";
        numbers.push(Number::flag("gateway_up", help, self.fault().is_none()));
        numbers.extend(in_force.numbers());
        let help = "Events of the data plane that were lost because the queue was full.";
        numbers.push(Number::counter("gateway_events_lost_total", help, device.node().events_dropped()));
        numbers.extend(self.watch.borrow().numbers());
        numbers.extend(meter.numbers());
        numbers.extend(self.page_requests.numbers("gateway_page_requests_total"));
        let help = "Packets of the tunnel's networks that would have left another way and were dropped.";
        let leaked = leaked(in_force.ruleset(), &counters);
        numbers.push(Number::counter("gateway_leak_packets_total", help, leaked));
        numbers.extend(device_numbers(device.stats()));
        page(numbers) + &meter.round_trips_page()
    }

    fn readiness(&self) -> (bool, String) {
        let (ready, line) = self.headline();
        match self.fault() {
            Some(fault) => (false, fault + "\n"),
            None => (ready, line + "\n"),
        }
    }

    fn hosts(&self) -> Vec<Host> {
        self.config().policy.metrics.hosts.clone()
    }
}

//! What checks of kernel and data plane found: what another program changed, what is not as
//! configured, and what failed.

mod contention;
mod debounce;
mod failing;
mod notifications;
mod path_check;
mod refused;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::diagnosis::{Cause, Problem};
use daemon::metrics::Number;
use policy::gateway::Policy;
use tokio::sync::Notify;
use tunnel::device::{CallLog, Device};
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::node::Node;
use tunnel::time::Now;

use super::machine::Machine;
use contention::Contention;
use debounce::Debounce;
use failing::Failing;
use refused::Warned;

pub(super) use failing::FIRST_PAUSE;
pub(super) use notifications::{SETTLE, watch_for_changes};
pub(super) use path_check::path_faults;
pub(super) use refused::mistakes;

/// The longest time between two checks, when no change is reported.
pub(super) const POLL: Duration = Duration::from_secs(10);
/// How long what is not as configured must last before it is logged: while a machine starts,
/// interfaces come up one by one.
const SETTLED: Duration = Duration::from_secs(30);

/// The results of the checks so far.
pub(super) struct Watch {
    machine: Machine,
    /// Packets that would take a wrong way, as of the last check.
    path_faults: Debounce,
    remarks: Debounce,
    contention: Contention,
    /// Checks that failed.
    failing: Failing,
    /// Which calls of the data threads keep failing.
    calls: CallLog,
    /// Refused handshakes that were warned of.
    warned: Warned,
    /// Starts the next check at once.
    wakeup: Arc<Notify>,
}

/// When the next check is due, if nothing is reported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextCheck {
    /// The last one failed: after this time, and however many changes are reported not at once.
    Retry(Duration),
    /// Something was found that does not count before another check finds it too.
    Again(Duration),
    /// All is well.
    Poll(Duration),
}

impl Watch {
    /// No check so far; the machine is as the first apply found it.
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            path_faults: Debounce::new(path_check::LEAST),
            remarks: Debounce::new(SETTLED),
            contention: Contention::default(),
            failing: Failing::default(),
            calls: CallLog::default(),
            warned: Warned::default(),
            wakeup: Arc::new(Notify::new()),
        }
    }

    /// The machine as it was at the last check.
    pub(super) const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Takes the machine as it is now, or as a configuration was applied on it.
    pub(super) fn handle_machine(&mut self, machine: Machine) {
        self.machine = machine;
    }

    /// What starts the next check at once.
    pub(super) fn wakeup(&self) -> Arc<Notify> {
        Arc::clone(&self.wakeup)
    }

    /// Starts the next check at once.
    pub(super) fn wake(&self) {
        self.wakeup.notify_one();
    }

    /// Logs what is not as the configuration says, once it has lasted.
    pub(super) fn warn_of_remarks(&mut self, policy: &Policy, now: Instant) {
        for remark in self.remarks.handle_check(now, self.machine.remarks(policy)) {
            tracing::warn!("{remark}");
        }
    }

    /// Takes the wrong ways that a check found, and logs once what stays wrong.
    pub(super) fn handle_paths(&mut self, now: Instant, faults: Vec<String>) {
        for fault in self.path_faults.handle_check(now, faults) {
            tracing::warn!("{fault}");
        }
    }

    /// Takes what a check put back; contention is logged once.
    pub(super) fn handle_repair(&mut self, now: Instant, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let lines = lines.join("; ");
        if self.contention.handle_repair(now) {
            tracing::warn!(
                "another program keeps changing what the edge needs ({lines}); find out which: another firewall or network \
                 manager?"
            );
        } else {
            tracing::info!("repaired what another program changed: {lines}");
        }
    }

    /// Takes a check that failed for this reason, after so long.
    pub(super) fn handle_failure(&mut self, reason: String, lasted: Duration) {
        let warn = self.failing.handle_failure(reason, lasted);
        match self.failing.problem() {
            Some(problem) if warn => tracing::warn!("{problem}"),
            Some(problem) => tracing::debug!("{problem}"),
            None => {}
        }
    }

    /// Takes a check that did not fail.
    pub(super) fn handle_success(&mut self) {
        if self.failing.handle_success() {
            tracing::info!("rules, routes and switches are checked and put back again");
        }
    }

    /// Logs when calls of the data threads keep failing, and when they work again.
    pub(super) fn check_calls(&mut self, device: &Device) {
        self.calls.check(device, clock::instant());
    }

    /// Warns of handshakes that look like a mistake, of each once.
    pub(super) fn warn_of_refused_handshakes(&mut self, node: &Node, used: Option<PublicKey>, now: Now) {
        for (mistake, line) in mistakes(node, used, now) {
            if self.warned.is_new(mistake, now.instant) {
                tracing::warn!("{line}");
            }
        }
    }

    /// The pause after a check: none, or longer with each repair during contention.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        self.contention.pause(now)
    }

    /// When the next check is due, if nothing is reported before.
    pub(super) fn next_check(&self) -> NextCheck {
        match self.failing.pause() {
            Some(pause) => NextCheck::Retry(pause),
            None if self.path_faults.is_settling() => NextCheck::Again(path_check::LEAST),
            None => NextCheck::Poll(POLL),
        }
    }

    /// Whether the last check failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.failing.is_on()
    }

    /// Why rules, routes or switches cannot be checked or put back.
    pub(super) fn failing_problem(&self) -> Option<String> {
        self.failing.problem()
    }

    /// What is wrong with the way of packets to a target.
    pub(super) fn route_fault(&self, target: IpAddr) -> Option<String> {
        let what = path_check::packets_for(target) + " ";
        self.path_faults.lines().iter().find(|line| line.starts_with(&what)).cloned()
    }

    /// What is not as it has to be, as far as it lasts.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let contention = self.contention.is_on.then(|| {
            let text = "another program keeps changing rules, routes or switches; see the log for which";
            Problem::new(Cause::Contention, text)
        });
        let path = |fault: &String| {
            let is_to_target = fault.starts_with(path_check::PACKETS_FOR);
            Problem::new(if is_to_target { Cause::OtherRoute } else { Cause::ReplyRoute }, fault)
        };
        contention.into_iter().chain(self.path_faults.lines().iter().map(path)).collect()
    }

    /// What checks of the kernel found and did, for Prometheus.
    pub(super) fn numbers(&self) -> [Number; 4] {
        [
            Number::counter(
                "gateway_reconcile_repairs_total",
                "Times that rules, routes or switches were put back after another program changed them.",
                self.contention.total,
            ),
            Number::flag(
                "gateway_reconcile_fought",
                "Whether another program keeps changing rules, routes or switches of the edge.",
                self.contention.is_on,
            ),
            Number::counter(
                "gateway_reconcile_failures_total",
                "Checks of rules, routes and switches, or repairs of them, that failed.",
                self.failing.total,
            ),
            Number::flag(
                "gateway_reconcile_failing",
                "Whether rules, routes and switches cannot be checked or put back.",
                self.failing.is_on(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_failed_is_repeated_soon_and_a_fault_that_settles_is_checked_again_first() {
        let (mut watch, start) = (Watch::new(Machine::default()), Instant::now());
        assert_eq!(watch.next_check(), NextCheck::Poll(POLL));
        let fault = vec!["replies would go by lo".to_owned()];
        watch.handle_paths(start, fault.clone());
        assert_eq!(watch.next_check(), NextCheck::Again(path_check::LEAST));
        assert!(watch.problems().is_empty(), "it does not count yet");
        watch.handle_failure("nft hangs".to_owned(), Duration::ZERO);
        assert_eq!(watch.next_check(), NextCheck::Retry(FIRST_PAUSE));
        assert!(watch.is_failing() && watch.failing_problem().is_some());
        watch.handle_success();
        watch.handle_paths(start + path_check::LEAST, fault.clone());
        let problem = Problem::new(Cause::ReplyRoute, "replies would go by lo");
        assert_eq!((watch.next_check(), watch.problems()), (NextCheck::Poll(POLL), vec![problem]));
    }

    #[test]
    fn the_fault_of_a_targets_way_is_found_by_its_address() {
        let (mut watch, start) = (Watch::new(Machine::default()), Instant::now());
        let target: IpAddr = "192.168.88.2".parse().unwrap();
        let fault = format!("{} would go by eth0: see `ip rule`", path_check::packets_for(target));
        for second in [0, 60] {
            watch.handle_paths(start + Duration::from_secs(second), vec![fault.clone()]);
        }
        assert_eq!(watch.route_fault(target), Some(fault));
        assert_eq!(watch.route_fault("192.168.88.20".parse().unwrap()), None);
        assert_eq!(watch.route_fault("192.168.88.1".parse().unwrap()), None);
    }

    #[test]
    fn repairs_that_another_program_keeps_undoing_are_a_problem_until_it_stops() {
        let (mut watch, start) = (Watch::new(Machine::default()), Instant::now());
        let line = ["~ table inet causeway".to_owned()];
        for second in 0..12 {
            assert!(watch.problems().is_empty());
            watch.handle_repair(start + Duration::from_secs(second), &[]);
            watch.handle_repair(start + Duration::from_secs(second), &line);
        }
        assert_eq!(watch.problems().len(), 1);
        assert!(watch.pause(start + Duration::from_secs(12)) > Duration::ZERO);
        assert_eq!(watch.pause(start + Duration::from_secs(120)), Duration::ZERO);
        assert!(watch.problems().is_empty());
    }
}

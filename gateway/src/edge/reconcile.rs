//! What another program changed is put back at once; repeated interference is logged once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::plan::Conditions;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::watch::{FIRST_PAUSE, NextCheck, POLL, SETTLE, path_faults, watch_for_changes};
use super::{Edge, diagnosis, grants, probes, standby};
use crate::kernel::{Failure, FailureKind};
use crate::memory;

/// Reading the rules starts a program: without a notification, only every sixth check includes
/// them, once a minute.
const RULES_EVERY: u32 = 6;

impl Edge {
    /// Watches and repairs until the daemon cannot go on; why.
    pub async fn reconcile(self: Rc<Self>) -> String {
        let wakeup = self.watch.borrow().wakeup();
        if let Err(failure) = watch_for_changes(self.helper.clone(), Arc::clone(&wakeup)).await {
            tracing::info!("changes by others are only found every {} s: {failure}", POLL.as_secs());
        }
        let mut polls = 0_u32;
        // The first check also finds what changed before the watch began.
        let mut rules_too = true;
        drop(spawn_local(grants::serve(Rc::clone(&self))));
        drop(spawn_local(diagnosis::serve(Rc::clone(&self))));
        drop(spawn_local(probes::serve(Rc::clone(&self))));
        drop(spawn_local(standby::serve(Rc::clone(&self))));
        loop {
            if let Err(fault) = self.check(rules_too).await {
                return fault;
            }
            let pause = self.watch.borrow_mut().pause(Instant::now());
            sleep(pause).await;
            let next = self.watch.borrow().next_check();
            let is_notified = wait(next, &wakeup).await;
            polls = match next {
                NextCheck::Retry(_) => polls,
                NextCheck::Again(_) | NextCheck::Poll(_) if is_notified => 0,
                NextCheck::Again(_) | NextCheck::Poll(_) => polls + 1,
            };
            rules_too =
                !matches!(next, NextCheck::Poll(_)) || is_notified || polls.is_multiple_of(RULES_EVERY);
        }
    }

    /// Checks once, and puts back what differs; an error when the daemon cannot go on.
    async fn check(&self, rules_too: bool) -> Result<(), String> {
        let _turn = self.applying.lock().await;
        let begun = Instant::now();
        if rules_too {
            grants::look(self).await;
        }
        let followed = self.follow_machine().await;
        let repaired = self.repair(rules_too).await;
        let is_sound = repaired.as_ref().is_ok_and(|lines| *lines == 0) && followed.is_ok();
        let failed = repaired.map(drop).and(followed).err();
        if let Some(fault) = self.helper.fault() {
            return Err(format!("the kernel helper is lost: {fault}"));
        }
        let config = self.config();
        {
            let mut watch = self.watch.borrow_mut();
            match failed {
                Some(failure) if failure.kind == FailureKind::Gone => {
                    return Err(self.plane.give_up_device(config.policy.interface.name.as_str()));
                }
                Some(failure) => watch.handle_failure(failure.message, begun.elapsed()),
                None => watch.handle_success(),
            }
            watch.warn_of_remarks(&config.policy, Instant::now());
        }
        // As often as the rules: after every change, and once a minute.
        if rules_too {
            self.check_paths(is_sound).await;
            if is_sound {
                // It was compared just now.
                self.health.has_table.set(true);
                self.note_conntrack().await;
            }
            // The listing of a table, read into values, is many times as large as what is kept.
            memory::trim_heap();
        }
        Ok(())
    }

    /// Reads the interfaces, and makes the table follow what changed of them, of the link, of a
    /// pairing, or of what peers publish; the caller holds the turn.
    pub(super) async fn follow_machine(&self) -> Result<(), Failure> {
        let before = self.watch.borrow().machine().clone();
        let machine = self.installer.machine_now(self.config(), before).await?;
        let due = self.in_force.borrow().due(&machine);
        let trusted = machine.trusted(&self.config().policy);
        self.watch.borrow_mut().handle_machine(machine);
        let Some(new) = due.map(Arc::new) else { return Ok(()) };
        let before = self.in_force.borrow().in_kernel().0;
        let conditions = before.conditions.clone();
        let followed = new.conditions.clone();
        let ended = self.in_force.borrow().ended(&new);
        let installed = self.change_kernel(&new).await.map_err(|stop| {
            let message = format!(
                "the table does not follow a change of the interfaces, of the link, of a pairing or of what peers \
                 publish: {}",
                stop.message
            );
            Failure::new(FailureKind::Kernel, message)
        })?;
        grants::log_changes(before.served(), new.served());
        self.past.handle_grants(before.served(), new.served());
        self.in_force.borrow_mut().follow(new, installed);
        self.installer.end_flows(ended).await;
        grants::handle_change(self);
        if followed.link != conditions.link {
            tracing::info!(sockets = ?followed.link, "the table follows the sockets of the link");
        }
        let (marks, pairing) = (conditions.marks.clone(), conditions.pairing);
        if (Conditions { link: conditions.link.clone(), marks, pairing, ..followed }) != conditions {
            tracing::info!("the table follows the interfaces; trusted: {}", trusted.join("; "));
        }
        Ok(())
    }

    /// Puts back what differs; how many lines that were.
    async fn repair(&self, rules_too: bool) -> Result<usize, Failure> {
        let in_kernel = self.in_force.borrow().in_kernel();
        let repair = self.installer.repair(in_kernel, rules_too).await?;
        self.in_force.borrow_mut().handle_repair(repair.fingerprint, repair.unwritable);
        self.past.handle_repair(&repair.lines);
        self.watch.borrow_mut().handle_repair(Instant::now(), &repair.lines);
        Ok(repair.lines.len())
    }

    /// Notes how full conntrack is, also when nothing asks for a report.
    async fn note_conntrack(&self) {
        match self.reader.flows().await {
            Ok(flows) => self.meter.borrow_mut().handle_flows(flows),
            Err(failure) => tracing::debug!(%failure, "how full conntrack is cannot be read"),
        }
    }

    /// Checks by which way packets go, and keeps what stays wrong for `status`; logs it once.
    ///
    /// If rules or routes were wrong (`is_sound` is false), ways are wrong for that reason, which
    /// is reported already.
    pub(super) async fn check_paths(&self, is_sound: bool) {
        let faults = if is_sound {
            let (blueprint, _) = self.in_force.borrow().in_kernel();
            path_faults(blueprint).await
        } else {
            Vec::new()
        };
        self.watch.borrow_mut().handle_paths(Instant::now(), faults);
    }
}

/// Waits until the next check is due; whether a change was reported.
async fn wait(next: NextCheck, wakeup: &Notify) -> bool {
    let notified = async |time: Duration| timeout(time, wakeup.notified()).await.is_ok();
    match next {
        NextCheck::Retry(pause) => {
            // However many changes are reported.
            sleep(FIRST_PAUSE).await;
            notified(pause.saturating_sub(FIRST_PAUSE)).await
        }
        NextCheck::Again(time) | NextCheck::Poll(time) => {
            let is_notified = notified(time).await;
            if is_notified {
                sleep(SETTLE).await;
            }
            is_notified
        }
    }
}

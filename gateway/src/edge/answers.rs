//! What control clients are answered.

use std::rc::Rc;
use std::time::Instant;

use daemon::exit::ExitError;
use tunnel::io::clock;

use super::blocking::blocking;
use super::meter::Counters;
use super::{Edge, bans, diagnosis, flows, health, pairing};
use crate::control::protocol::{Reply, Request};
use crate::control::report::{SCHEMA, Services};
use crate::kernel::Failure;

impl Edge {
    /// Answers a request.
    ///
    /// # Errors
    /// What is wrong with it, and what the kernel refused.
    pub async fn answer(self: &Rc<Self>, request: Request) -> Result<Reply, ExitError> {
        let config = self.config();
        let policy = &config.policy;
        match request {
            Request::Peers => {
                let peers = self.meter.borrow_mut().peers(&self.in_force.borrow(), &self.plane);
                Ok(Reply::Peers(health::with_probed(self, self.links.with_links(peers))))
            }
            Request::Dump { show_keys } => {
                Ok(Reply::Dump(self.plane.dump(policy.interface.name.as_str(), show_keys)))
            }
            Request::Services => {
                let counters = self.read_counters().await?.unwrap_or_default();
                Ok(Reply::Services(Services { schema: SCHEMA, services: health::services(self, &counters) }))
            }
            Request::Diagnose { service } => {
                Ok(Reply::Diagnosis(diagnosis::diagnosis(self, service.as_deref()).await))
            }
            Request::Status => Ok(Reply::Status(self.status().await)),
            Request::Flows { service, address, limit } => {
                let query = flows::query(&self.in_force.borrow(), service.as_deref(), address, limit)?;
                let helper = self.helper.clone();
                let found = blocking(move || helper.flows(query)).await?;
                Ok(Reply::Flows(flows::report(&self.in_force.borrow(), found, clock::now().wall)))
            }
            Request::Offloads => Ok(Reply::Offloads(self.plane.offloads(policy))),
            Request::SetOffloads { switches } => {
                self.plane.set_offloads(policy, &switches).map(Reply::Offloads)
            }
            Request::Bans => Ok(Reply::Bans(bans::list(&self.helper).await?)),
            Request::Ban { address, seconds } => {
                bans::ban(&self.helper, address, seconds).await.map(|()| Reply::Done)
            }
            Request::Unban { address } => {
                Ok(bans::unban(&self.helper, address).await.map(|()| Reply::Done)?)
            }
            Request::History(query) => {
                let history = self.past.history.clone();
                Ok(Reply::History(blocking(move || Ok(history.read(&query))).await?))
            }
            Request::FarHistory { seconds } => Ok(Reply::FarHistory(self.links.far_history(seconds).await)),
            Request::Pairing(request) => pairing::answer(self, request).await.map(Reply::Pairing),
            Request::Change(request) => self.confirmable.answer(&**self, request).await.map(Reply::Change),
        }
    }

    /// The kernel's named counters, a few seconds old at most. `None` when there is no table.
    pub(super) async fn read_counters(&self) -> Result<Option<Counters>, Failure> {
        let fresh = self.meter.borrow().fresh_counters(Instant::now()).cloned();
        if fresh.is_some() {
            return Ok(fresh);
        }
        let read = self.reader.counters().await?;
        self.health.has_table.set(read.is_some());
        let Some((named, flows)) = read else { return Ok(None) };
        self.meter.borrow_mut().handle_counters(Instant::now(), named.clone(), flows);
        Ok(Some(named))
    }
}

//! Reads from the kernel for reports, one reading at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::counters::{Counters, parse_counters};
use crate::edge::blocking::blocking;
use crate::kernel::{Failure, FailureKind, Helper, Listing};

/// How long a report waits for what it reads from the kernel.
const READING: Duration = Duration::from_secs(5);
/// Switches that hold how many flows conntrack follows, and the most it will.
const FLOWS: [&str; 2] = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];

/// Flows that conntrack follows, and the most it will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) struct ConntrackFlows {
    pub(in crate::edge) held: u64,
    pub(in crate::edge) most: u64,
}

/// Reads from the kernel for reports, one reading after the other.
pub(in crate::edge) struct Reader {
    helper: Helper,
    turn: Arc<Semaphore>,
}

impl Reader {
    /// Reads through this helper.
    pub(in crate::edge) fn new(helper: Helper) -> Self {
        Self { helper, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The kernel's named counters and how full conntrack is; `None` when there is no table.
    pub(in crate::edge) async fn counters(
        &self,
    ) -> Result<Option<(Counters, Option<ConntrackFlows>)>, Failure> {
        let (flows, listing) =
            self.read(|helper| Ok((flows(helper)?, helper.list(Listing::Counters)?))).await?;
        Ok((!listing.is_empty()).then(|| (parse_counters(&listing), flows)))
    }

    /// How full conntrack is, without the program that reading counters starts; `None` when the
    /// kernel does not show it.
    pub(in crate::edge) async fn flows(&self) -> Result<Option<ConntrackFlows>, Failure> {
        self.read(flows).await
    }

    /// Part of the ruleset as JSON.
    pub(in crate::edge) async fn list(&self, what: Listing) -> Result<String, Failure> {
        self.read(move |helper| helper.list(what)).await
    }

    /// Waits only for a limited time; one reading at a time, so that a reading that hangs delays
    /// only other readings.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Helper) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (helper, turn) = (self.helper.clone(), Arc::clone(&self.turn));
        let reading = async {
            let turn = turn.acquire_owned().await;
            let read = move || {
                let _turn = turn;
                read(&helper)
            };
            blocking(read).await
        };
        timeout(READING, reading).await.unwrap_or_else(|_| {
            let message =
                format!("nft has not answered for {} s; does `nft list tables` end?", READING.as_secs());
            Err(Failure::new(FailureKind::Kernel, message))
        })
    }
}

fn flows(helper: &Helper) -> Result<Option<ConntrackFlows>, Failure> {
    let values = helper.read_sysctls(FLOWS.map(str::to_owned).to_vec())?;
    let mut numbers = values.into_iter().map(|value| value?.parse().ok());
    let numbers = numbers.next().flatten().zip(numbers.next().flatten());
    Ok(numbers.map(|(held, most)| ConntrackFlows { held, most }))
}

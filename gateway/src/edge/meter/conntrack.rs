//! Whether conntrack's table is nearly full, and who has most of its flows.

use policy::ruleset::ServiceMark;

use super::reader::ConntrackFlows;
use crate::edge::blocking::blocking;
use crate::kernel::{FlowQuery, Helper};

/// Percent of the table from which on it counts as nearly full, and below which it no longer does.
const NEARLY_FULL: u64 = 80;
/// See [`NEARLY_FULL`].
const ROOM_AGAIN: u64 = 70;
/// Most services whose flows are counted: each costs a walk through the table.
const MOST_SERVICES: usize = 32;

/// Whether the table is nearly full; one that was stays so until it is below [`ROOM_AGAIN`].
const fn is_nearly_full(was: bool, held: u64, most: u64) -> bool {
    let least = if was { ROOM_AGAIN } else { NEARLY_FULL };
    most > 0 && held.saturating_mul(100) >= most.saturating_mul(least)
}

/// Judges again whether the table is nearly full, and logs a change once; one that cannot be read
/// counts as before.
pub(super) fn judge_conntrack(was: bool, flows: Option<ConntrackFlows>) -> bool {
    let Some(ConntrackFlows { held, most }) = flows else { return was };
    let is_nearly_full = is_nearly_full(was, held, most);
    match (was, is_nearly_full) {
        (false, true) => tracing::warn!(held, most, "conntrack is nearly full; see gatewayctl status"),
        (true, false) => tracing::info!(held, most, "conntrack has room again"),
        _ => {}
    }
    is_nearly_full
}

/// How many flows a service has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    /// `None` for flows that are no service's.
    service: Option<ServiceMark>,
    flows: u64,
}

/// Who has most flows: one of the services, or all others together.
fn greatest(services: Vec<(ServiceMark, u64)>, held: u64) -> Holder {
    let of_services: u64 = services.iter().map(|(_, flows)| flows).sum();
    let others = Holder { service: None, flows: held.saturating_sub(of_services) };
    let first = services.into_iter().max_by_key(|(_, flows)| *flows);
    let first = first.map(|(service, flows)| Holder { service: Some(service), flows });
    first.filter(|first| first.flows >= others.flows).unwrap_or(others)
}

fn described(held: u64, most: u64, holder: &Holder) -> String {
    let whose = match &holder.service {
        Some(ServiceMark { name, mark, .. }) => format!(
            "of {name}: see `gatewayctl flows --service {name}`, end them with `conntrack -D --mark {mark}`"
        ),
        None => {
            format!("of no service, or of one after the first {MOST_SERVICES}: see `conntrack -L`")
        }
    };
    let flows = holder.flows;
    format!(
        "conntrack holds {held} of at most {most} flows, and new ones fail when it is full; most ({flows}) are {whose}, \
         or raise net.netfilter.nf_conntrack_max"
    )
}

/// The problem of a nearly full table, naming who has most of its flows.
pub(in crate::edge) async fn conntrack_problem(
    helper: Helper,
    flows: ConntrackFlows,
    services: &[ServiceMark],
) -> String {
    let ConntrackFlows { held, most } = flows;
    let services: Vec<_> = services.iter().take(MOST_SERVICES).cloned().collect();
    let counted = blocking(move || {
        let count = |service: ServiceMark| {
            let query =
                FlowQuery { mark: service.mark, mask: u32::MAX, marks: Vec::new(), address: None, limit: 1 };
            let (_, flows) = helper.flows(query)?;
            Ok((service, u64::try_from(flows).unwrap_or(u64::MAX)))
        };
        services.into_iter().map(count).collect()
    });
    let holder = match counted.await {
        Ok(counted) => greatest(counted, held),
        Err(failure) => {
            tracing::debug!(%failure, "flows could not be counted");
            Holder { service: None, flows: held }
        }
    };
    described(held, most, &holder)
}

#[cfg(test)]
mod tests {
    use policy::Name;
    use policy::ruleset::ServiceKind;

    use super::*;

    #[test]
    fn four_fifths_are_nearly_full_and_stay_so_down_to_seven_tenths() {
        assert!(!is_nearly_full(false, 799, 1_000) && is_nearly_full(false, 800, 1_000));
        assert!(is_nearly_full(true, 799, 1_000) && is_nearly_full(true, 700, 1_000));
        assert!(!is_nearly_full(true, 699, 1_000) && !is_nearly_full(false, 700, 1_000));
        assert!(!is_nearly_full(false, 0, 0) && !is_nearly_full(true, 0, 0));
        assert!(is_nearly_full(false, u64::MAX, 262_144));
    }

    #[test]
    fn who_holds_most_is_named_with_the_fix() {
        let https = service("https", 0x4357_0001);
        let counted = || vec![(https.clone(), 150), (service("nfs", 0x4357_8001), 20)];

        let service = described(210, 262, &greatest(counted(), 210));
        let others = described(400, 500, &greatest(counted(), 400));

        assert!(
            service.contains("most (150) are of https: see `gatewayctl flows --service https`"),
            "{service}"
        );
        assert!(service.contains("`conntrack -D --mark 1129775105`"), "{service}");
        assert!(others.contains("most (230) are of no service"), "{others}");
        assert_eq!(greatest(Vec::new(), 7), Holder { service: None, flows: 7 });
    }

    fn service(name: &str, mark: u32) -> ServiceMark {
        ServiceMark { name: Name::new(name).unwrap(), kind: ServiceKind::Publish, mark }
    }
}

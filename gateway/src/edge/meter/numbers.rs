//! What threads, sockets, services and the kernel counted, as Prometheus reads it.

use daemon::health::NameShown;
use daemon::metrics::{Boundary, Number, call_numbers};
use policy::ruleset::Ruleset;
use tunnel::device::{Call, Device, DeviceStats};
use tunnel::io::clock;
use tunnel::reason::DropReason;

use super::counters::Counters;
use crate::control::report::Service;

/// What our own metrics begin with.
pub(in crate::edge) const ROLE: &str = "gateway";

/// Packets that were dropped by the node, by the kernel's rules and at the sockets.
pub(in crate::edge) fn drop_numbers(device: &Device, ruleset: &Ruleset, counters: &Counters) -> Vec<Number> {
    let node = device.node();
    let of_node =
        DropReason::ALL.iter().map(|&reason| (reason.stage(), reason.label(), node.dropped(reason)));
    let of_kernel = ruleset.drops.iter().map(|drop| {
        let packets = counters.get(&drop.counter()).map_or(0, |counter| counter.1);
        (drop.stage, drop.reason, packets)
    });
    let (tun, socket) = (device.tun().stats(), device.socket());
    socket.sample_queue_drops();
    let of_io = [
        ("tun", "write_refused", tun.write_errors.read()),
        ("tun", "bad_header", tun.bad_headers.read()),
        ("receive", "too_long", socket.stats().receive_truncated.read()),
        ("send", "refused", socket.stats().send_errors.read()),
        ("send", "standby", socket.stats().withheld.read()),
        ("receive", "socket_buffer_full", socket.stats().receive_queue_drops.read()),
    ];
    let number = |(stage, reason, packets)| {
        Number::counter(
            "gateway_dropped_packets_total",
            "Packets dropped, by the stage and the reason.",
            packets,
        )
        .with("stage", stage)
        .with("reason", reason)
    };
    of_node.chain(of_kernel).chain(of_io).map(number).collect()
}

/// Packets of the tunnel's networks that would have left another way and were dropped.
pub(in crate::edge) fn leaked(ruleset: &Ruleset, counters: &Counters) -> u64 {
    let leaks = ruleset.drops.iter().filter(|drop| drop.reason == "leak");
    leaks.filter_map(|drop| counters.get(&drop.counter())).map(|counter| counter.1).sum()
}

/// What the threads of the device count.
pub(in crate::edge) fn device_numbers(stats: &DeviceStats) -> [Number; 4] {
    [
        Number::counter(
            "gateway_socket_rebinds_total",
            "Times the outer socket was replaced by a new one.",
            stats.rebinds.read(),
        ),
        Number::counter(
            "gateway_busy_polls_total",
            "Waits of the data thread that began by busy-polling.",
            stats.busy_polls.read(),
        ),
        Number::counter(
            "gateway_busy_poll_misses_total",
            "Busy-poll periods that ended without work.",
            stats.busy_poll_misses.read(),
        ),
        Number::counter(
            "gateway_unreachable_answers_total",
            "ICMP unreachable messages sent for packets that have no peer.",
            stats.tx_unreachable.read(),
        ),
    ]
}

/// The metrics of a name: whether it works, the time of its certificate, and whether its path from
/// the internet is proven.
const NAMES: [&str; 5] = [
    "gateway_service_name_up",
    "gateway_service_certificate_days",
    "gateway_service_certificate_lifetime_days",
    "gateway_service_name_path_proven",
    "gateway_service_name_path_failing",
];

/// What a service carried, whether it works, and whether its peers are up.
pub(in crate::edge) fn service_numbers(service: &Service) -> Vec<Number> {
    let own = |number: Number| number.with("service", &service.name);
    let mut numbers = vec![own(Number::flag(
        "gateway_service_up",
        "0 if a hop of the service, from the rules to the upstream, is failing, else 1.",
        service.health.failing.is_none(),
    ))];
    let help = "Whether every peer that the service needs is up.";
    numbers.push(own(Number::flag("gateway_service_peer_up", help, service.state == "up")));
    if let Some(failing) = &service.health.failing {
        let help = "1 for the hop that keeps a service from working, with the reason.";
        let number = own(Number::flag("gateway_service_failing_hop", help, true)).with("hop", &failing.hop);
        numbers.push(number.with("reason", failing.reason.as_deref().unwrap_or_default()));
    }
    if service.names.iter().any(|name| name.visitor.is_some()) {
        let help = "1 while the origin got through to the service from the internet within 180 s, else 0.";
        let is_proven = service.names.iter().any(NameShown::is_proven);
        numbers.push(own(Number::flag("gateway_service_path_proven", help, is_proven)));
    }
    numbers.extend(service.names.iter().flat_map(|name| name.numbers(NAMES, &service.name)));
    let directions =
        [("rx", service.bytes_in, service.packets_in), ("tx", service.bytes_out, service.packets_out)];
    for (direction, bytes, packets) in directions {
        let help = "Bytes of a service; rx goes towards its target.";
        let bytes = Number::counter("gateway_service_bytes_total", help, bytes);
        let help = "Packets of a service; rx goes towards its target.";
        let packets = Number::counter("gateway_service_packets_total", help, packets);
        numbers.extend([bytes, packets].map(|number| own(number).with("direction", direction)));
    }
    numbers
}

/// What crossed the boundaries of a running device, and how its calls end.
pub(in crate::edge) fn io_numbers(device: &Device) -> Vec<Number> {
    let (tun, socket) = (device.tun().stats(), device.socket());
    let udp = socket.stats();
    let boundary = |path, joined, single, fallbacks| Boundary { path, joined, single, fallbacks };
    let boundaries = [
        boundary("tun_read", tun.read_bytes_super.read(), tun.read_bytes_plain.read(), 0),
        boundary(
            "tun_write",
            tun.written_bytes_super.read(),
            tun.written_bytes_plain.read(),
            tun.write_fallbacks.read(),
        ),
        boundary(
            "udp_send",
            udp.sent_bytes_segmented.read(),
            udp.sent_bytes_plain.read(),
            udp.segment_fallbacks.read(),
        ),
        boundary("udp_receive", udp.received_bytes_joined.read(), udp.received_bytes_plain.read(), 0),
    ];
    let now = clock::instant();
    let calls = Call::ALL.into_iter().flat_map(|call| {
        let (errors, failing) = device.call(call, now);
        call_numbers(ROLE, call.label(), (errors, failing.is_some()), |number| number)
    });
    let crossed = boundaries.into_iter().flat_map(|boundary| boundary.numbers(ROLE, |number| number));
    crossed.chain(calls).collect()
}

//! The process's own figures, under the names that every Prometheus client uses.

use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tunnel::io::clock;

/// What the kernel counts a process's figures in.
struct Units {
    ticks_per_second: f64,
    page_size: f64,
}

static UNITS: OnceLock<Units> = OnceLock::new();

/// Reads what does not change while the process lives. Must run before the process makes itself
/// unreadable: then a kernel before 6.4 does not give these numbers any more.
pub fn read_units() {
    UNITS.get_or_init(|| Units {
        ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
        page_size: rustix::param::page_size() as f64,
    });
}

/// Sets the `process_*` metrics that this system gives.
pub fn record() {
    // Absent only in tests, which never make themselves unreadable.
    read_units();
    let Some(&Units { ticks_per_second: ticks, page_size }) = UNITS.get() else { return };
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return };
    // The second field is the program's name in parentheses and may hold anything.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return };
    let field = |number: usize| rest.split(' ').nth(number - 3).and_then(|value| value.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        describe_counter!("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the exporter counts in whole units"
        )]
        counter!("process_cpu_seconds_total").absolute(((user + system) / ticks) as u64);
    }
    if let Some(pages) = field(24) {
        describe_gauge!("process_resident_memory_bytes", "Resident memory size in bytes.");
        gauge!("process_resident_memory_bytes").set(pages * page_size);
    }
    if let Some(bytes) = field(23) {
        describe_gauge!("process_virtual_memory_bytes", "Virtual memory size in bytes.");
        gauge!("process_virtual_memory_bytes").set(bytes);
    }
    if let Some(started) = field(22) {
        let since_boot = started / ticks;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let boot = wall - clock::instant().since_boot().as_secs_f64();
        describe_gauge!(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds."
        );
        gauge!("process_start_time_seconds").set((boot + since_boot).round());
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        describe_gauge!("process_open_fds", "Number of open file descriptors.");
        gauge!("process_open_fds").set(open.count() as f64);
    }
}

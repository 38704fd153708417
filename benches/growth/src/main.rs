//! How cost grows: what a packet, a handshake, a new flow, an apply and the memory cost with more
//! and more peers, allowed-ips, flows and services.
//!
//! - `subjects`: what there is more and more of, and what is counted. `heap`: memory in use.
//! - `run`: counts everything, writes table, curves and JSON.
//!
//! Where there is no glibc, whose allocator counts, it only reports that it does not run there.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod heap;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod run;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod subjects;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() -> anyhow::Result<()> {
    run::run()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() -> std::process::ExitCode {
    eprintln!("bench-growth runs on Linux with glibc only");
    std::process::ExitCode::FAILURE
}

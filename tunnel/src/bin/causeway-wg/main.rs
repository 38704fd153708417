//! `causeway-wg [-f] NAME`: the tunnel alone, as a plain userspace WireGuard interface that `wg`
//! and `wg-quick` set up.
//!
//! Without `-f` it starts itself again in the background and exits 0 once that one answers on its
//! socket. It ends when its link is deleted, on SIGTERM and on SIGINT.

#[cfg(target_os = "linux")]
mod follow;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod signals;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("causeway-wg needs Linux: a TUN device with a virtio header");
    std::process::ExitCode::FAILURE
}

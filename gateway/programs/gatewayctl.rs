//! The program `gatewayctl`. On another system than Linux it only reports that it does not run there.

#[cfg(target_os = "linux")]
#[path = "../src/bin/gatewayctl/main.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("gatewayctl runs on Linux only; this machine can be an origin, with forwarder and causeway");
    std::process::ExitCode::FAILURE
}

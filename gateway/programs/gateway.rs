//! The program `gateway`. On another system than Linux it only reports that it does not run there.

#[cfg(target_os = "linux")]
#[path = "../src/main.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("gateway runs on Linux only; this machine can be an origin, with forwarder and causeway");
    std::process::ExitCode::FAILURE
}

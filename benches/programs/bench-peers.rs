//! The program `bench-peers`. On another system than Linux it only reports that it does not run there.

#[cfg(target_os = "linux")]
#[path = "../src/bin/bench-peers/main.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("bench-peers runs on Linux only");
    std::process::ExitCode::FAILURE
}

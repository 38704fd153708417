//! `causeway-agent`: what the daemons that parse packets must not do. On another system than Linux it
//! only reports that it does not run there.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    agent::cli::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "causeway-agent runs on Linux only; this machine can be an origin, with forwarder and causeway"
    );
    std::process::ExitCode::FAILURE
}

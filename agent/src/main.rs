//! `causeway-agent`: what the daemons that parse packets must not do.

fn main() -> std::process::ExitCode {
    agent::cli::run()
}

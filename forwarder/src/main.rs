//! The program `forwarder`; everything is in the library of the same name.

fn main() -> std::process::ExitCode {
    forwarder::cli::main()
}

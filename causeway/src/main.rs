//! The program `causeway`; everything is in the library of the same name.

fn main() -> std::process::ExitCode {
    causeway::cli::main()
}

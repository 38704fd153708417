//! The command `causeway`: one for people, on both machines. It asks the daemon that runs there.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}

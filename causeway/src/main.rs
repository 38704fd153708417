//! The command `causeway`: one for people, on both machines. It asks the daemon that runs there.

mod cli;
mod origin;
mod publish;
mod status;

fn main() -> std::process::ExitCode {
    cli::main()
}

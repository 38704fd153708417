//! The command `causeway`: one for people, on both machines. It asks the daemon that runs there.

mod cli;
mod join;
mod machine;
#[cfg(target_os = "linux")]
mod pair;

fn main() -> std::process::ExitCode {
    cli::main()
}

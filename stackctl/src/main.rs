//! `stackctl`: the thin companion that manages each site's Docker Compose stacks.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    ExitCode::from(stackctl::cli::run(words))
}

//! What the command lines of `gateway` and `gatewayctl` accept. The programs parse with these types;
//! man pages and shell completions are generated from them.

pub mod gateway;
pub mod gatewayctl;

use clap::CommandFactory as _;

/// The command lines of both programs.
#[must_use]
pub fn commands() -> [clap::Command; 2] {
    [gateway::Arguments::command(), gatewayctl::Arguments::command()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_lines_are_consistent() {
        for command in super::commands() {
            command.debug_assert();
        }
    }
}

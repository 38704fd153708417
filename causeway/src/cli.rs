//! The command line.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use daemon::command_line::end;

use crate::agent::{self, Notify, Quiet};
use crate::backup::{Backup, Restore, backup, restore};
use crate::doctor::{Doctor, doctor};
use crate::history::{self, History};
use crate::join::{Join, join};
#[cfg(target_os = "linux")]
use crate::pair::{Pair, pair};
use crate::publish::{self, Publish, Unpublish};
#[cfg(target_os = "linux")]
use crate::setup::{Setup, setup};
use crate::status::{self, Status};

/// Sets up an edge, pairs the two machines, publishes services and shows how they are.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 configuration invalid, \
    5 permission, 6 conflict, 7 rolled back, 10 something is failing or missing, 11 that is not known";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is down for visitors and how to fix it, then peers and services of this machine;
    /// exits 10 when something is failing.
    Status(Status),
    /// Show what happened at both ends, each outage with its cause first.
    ///
    /// The other end's records come over the link, and are shown in this machine's time. What an
    /// outage comes from is what changed just before it, or the first failing hop; what followed
    /// from it is indented.
    History(History),
    /// Show every hop from a visitor to the upstream in order, with what was seen of it, and the
    /// first failing one with its fix; both ends' halves while there is a link.
    ///
    /// Exits 10 when a hop is failing, and 11 when that is not known, as when this user may not
    /// ask the daemon.
    Doctor(Doctor),
    /// Publish a host name or a port of this machine (at the origin).
    ///
    /// `causeway publish emby.example.com 8096` adds the name to the service on port 443 and leads
    /// it to the local port 8096 by a site in Caddy. `causeway publish game 27015/udp --upstream
    /// 127.0.0.1:27015` makes a service of its own. Exits 10 while something is missing that can
    /// become true later, such as a DNS record; what every edge refuses is taken back.
    Publish(Publish),
    /// Withdraw what `publish` published (at the origin).
    Unpublish(Unpublish),
    /// Make this machine an edge: propose a gateway.toml for it, write it, and start the gateway;
    /// root only.
    ///
    /// It looks at interfaces, routes, ports in use, other firewalls and the clock, asks for the
    /// public name, makes the key pair, checks as `gateway check` does, and prints what the router
    /// has to forward. A file that is there is never overwritten: it is compared. Exits 10 while
    /// something is missing, such as a DNS record, and 6 when the file is not as the answers say.
    #[cfg(target_os = "linux")]
    Setup(Setup),
    /// Add a peer to this edge, or give one another key, by a code for the other machine; root
    /// only.
    #[cfg(target_os = "linux")]
    Pair(Pair),
    /// Make this machine a peer of an edge, by the code that `causeway pair` printed there.
    Join(Join),
    /// Save what this machine needs to serve again on new hardware: configuration, keys, lists and
    /// the sites of published names, in one file that is sealed by a passphrase.
    Backup(Backup),
    /// Make this machine the one that a backup was made of, and start its daemon; the other end
    /// needs no change. Files that are there are never overwritten.
    Restore(Restore),
    /// Test the receivers of `[[notify]]`, to which causeway-agent reports outages.
    Notify(Notify),
    /// Send no notifications for some time, about everything or one name; root only.
    Quiet(Quiet),
}

/// The command line, as man page and shell completions show it.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    end(match &command {
        Command::Status(arguments) => status::status(arguments),
        Command::History(arguments) => history::history(arguments),
        Command::Doctor(arguments) => doctor(arguments),
        Command::Publish(arguments) => publish::publish(arguments),
        Command::Unpublish(arguments) => publish::unpublish(arguments),
        #[cfg(target_os = "linux")]
        Command::Setup(arguments) => setup(arguments),
        #[cfg(target_os = "linux")]
        Command::Pair(arguments) => pair(arguments),
        Command::Join(arguments) => join(arguments),
        Command::Backup(arguments) => backup(arguments),
        Command::Restore(arguments) => restore(arguments),
        Command::Notify(arguments) => agent::notify(arguments),
        Command::Quiet(arguments) => agent::quiet(arguments),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}

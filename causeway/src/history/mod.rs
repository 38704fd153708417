//! `causeway history`: what happened at both ends, each outage as one block with its cause first.
//!
//! - `near`: this machine's daemons. `text`: blocks for people.

mod near;
mod text;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use daemon::command_line::{document, print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::history::outages::{Block, Entry, Side, blocks, merged};
use daemon::history::{What, wall_millis};
use daemon::link::history::FarHistory;
use daemon::text::{Style, lasting};
use serde::Serialize;

use self::near::{Near, Where};

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Show what happened within this time until now: 90s, 45m, 2h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = lasting)]
    since: Duration,
    /// Show the round trip, loss and bytes of every minute as well.
    #[arg(long)]
    minutes: bool,
    /// Print JSON instead of text, every record of it.
    #[arg(long)]
    json: bool,
    /// Do not ask the other ends.
    #[arg(long)]
    local: bool,
    /// Use FILE as the forwarder's configuration file, to find its control socket.
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Connect to this control socket, of either daemon.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// `history --json`
#[derive(Serialize)]
struct Document<'a> {
    /// The version of the schema.
    schema: u32,
    /// Every record, oldest first, in this machine's time.
    records: &'a [Entry],
    /// The same as blocks, without minutes and without what only ends an outage.
    blocks: &'a [Block],
    /// How far the clock of each other end is ahead of this one, in milliseconds.
    clocks: Vec<Clock<'a>>,
    /// What could not be asked, and why.
    missing: &'a [String],
}

#[derive(Serialize)]
struct Clock<'a> {
    peer: &'a str,
    ahead_ms: i64,
}

/// The version of [`Document`].
const SCHEMA: u32 = 1;

/// `causeway history`
pub(crate) fn history(arguments: &History) -> Result<Exit, ExitError> {
    let place = Where { config: arguments.config.as_deref(), socket: arguments.socket.as_deref() };
    let since = wall_millis().saturating_sub(u64::try_from(arguments.since.as_millis()).unwrap_or(u64::MAX));
    let (nears, mut missing) = near::ask(&place, since, arguments.minutes || arguments.json)?;
    let fars =
        if arguments.local { Vec::new() } else { fars(&nears, arguments.since.as_secs(), &mut missing) };
    let clocks = fars.iter().map(|(_, far)| Clock { peer: &far.peer, ahead_ms: far.ahead_ms }).collect();
    let ends = nears.iter().map(|near| (side(near.role, None), 0, near.records.clone()));
    let far_ends =
        fars.iter().map(|(role, far)| (side(role, Some(&far.peer)), far.ahead_ms, far.records.clone()));
    let records = merged(ends.chain(far_ends).collect());
    let shown = records.iter().filter(|entry| arguments.minutes || !entry.record.what.is_minute());
    let blocks = blocks(shown.filter(|entry| entry.record.what != What::Unknown).cloned().collect());
    let whole = Document { schema: SCHEMA, records: &records, blocks: &blocks, clocks, missing: &missing };
    let has_both = nears.len() > 1;
    print(&document(arguments.json, &whole, || {
        text::text(&blocks, (arguments.since, has_both), Style::of_stdout())
    })?)?;
    if !arguments.json {
        fars.iter().filter_map(|(_, far)| text::clock_line(far)).for_each(|line| print_to_stderr(&line));
        missing.iter().for_each(|line| print_to_stderr(line));
    }
    Ok(Exit::Ok)
}

/// The other ends' histories with their roles; what is missing of them is said.
fn fars(nears: &[Near], seconds: u64, missing: &mut Vec<String>) -> Vec<(&'static str, FarHistory)> {
    let mut fars = Vec::new();
    for near in nears {
        match near.ask_far(seconds) {
            Ok(histories) => fars.extend(histories.into_iter().map(|far| (near.far_role(), far))),
            Err(error) => missing.push(format!("the history of the other end is missing: {error}")),
        }
    }
    let of_far = |(_, far): &(_, FarHistory)| {
        let why = far.missing.as_ref()?;
        Some(format!("the history of {} is missing, or not whole: {why}", far.peer))
    };
    missing.extend(fars.iter().filter_map(of_far));
    fars
}

fn side(role: &'static str, peer: Option<&str>) -> Side {
    Side { role, peer: peer.map(str::to_owned) }
}

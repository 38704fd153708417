//! `causeway doctor`: every hop between a visitor and the upstream in order, with what was seen,
//! and the first failing one with its fix.
//!
//! - `ask` reads what the daemons of this machine report, `public_name` compares the edge's name with
//!   its addresses, `before` looks at the machine for a configuration that has not run yet.
//! - All else is pure: `near` and `far` make findings of what this end and the others report,
//!   `finding` puts them in order, `text` shows them.

mod ask;
mod before;
mod far;
mod finding;
mod near;
#[cfg(target_os = "linux")]
mod public_name;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use clap::Args;
use daemon::command_line::{document, print};
use daemon::exit::{Exit, ExitError};
use daemon::health::HopName;
use daemon::text::Style;
use serde::Serialize;

use ask::{Reports, Seen};
use finding::{Finding, Verdict, ordered};
use near::Near;

use daemon::status::Service;

/// What is looked at.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Look at this service, or at this name of one, alone.
    #[arg(value_name = "SERVICE|NAME")]
    only: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    /// At the origin, visit every name from the internet first; takes up to 30 seconds, and needs
    /// root or the daemon's user.
    #[arg(long)]
    now: bool,
    /// Examine this machine for FILE, a gateway.toml or forwarder.toml, before its daemon runs.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "now", "only"])]
    config: Option<PathBuf>,
    /// Connect to this control socket, of either daemon.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// `doctor --json`
#[derive(Serialize)]
struct Document<'a> {
    /// The version of the schema.
    schema: u32,
    /// `ok`, `failing`, or `unknown` when this end could not be asked.
    state: &'static str,
    /// The first failing hop.
    failing: Option<&'a Finding>,
    /// Everything that was found, in the order of the hops.
    findings: &'a [Finding],
}

/// The version of [`Document`].
const SCHEMA: u32 = 1;

/// `causeway doctor`
pub(crate) fn doctor(arguments: &Doctor) -> Result<Exit, ExitError> {
    let findings = ordered(match &arguments.config {
        Some(config) => before::findings(config)?,
        None => of_daemons(arguments)?,
    });
    let verdict = Verdict::of(&findings);
    let failing = match verdict {
        Verdict::Failing(first) => Some(first),
        Verdict::Unseen(_) | Verdict::Well => None,
    };
    let shown = Document { schema: SCHEMA, state: verdict.label(), failing, findings: &findings };
    print(&document(arguments.json, &shown, || text::text(&findings, Style::of_stdout()))?)?;
    Ok(match verdict {
        Verdict::Failing(_) => Exit::Degraded,
        Verdict::Unseen(_) => Exit::Broken,
        Verdict::Well => Exit::Ok,
    })
}

/// What the daemons of this machine report.
fn of_daemons(arguments: &Doctor) -> Result<Vec<Finding>, ExitError> {
    let (socket, only) = (arguments.socket.as_deref(), arguments.only.as_deref());
    let seen = ask::both(socket, only, arguments.now);
    let has_answer = seen.iter().any(|seen| seen.reports.is_ok());
    let mut is_known = only.is_none();
    let mut findings = Vec::new();
    for Seen { role, reports } in &seen {
        match reports {
            Ok(reports) => {
                let (found, knows) = of_reports(reports, only);
                is_known |= knows;
                findings.extend(found);
            }
            // Most machines have one of the two.
            Err(error) if has_answer && (socket.is_some() || error.exit == Exit::Unreachable) => {}
            Err(error) if is_expected(role, socket, has_answer) => {
                findings.push(unanswered(role, error));
                findings.extend(around(role, socket));
            }
            Err(_) => {}
        }
    }
    if findings.is_empty() {
        return Err(ExitError::new(Exit::Broken, nothing_here(&seen)));
    }
    if has_answer && !is_known {
        return Err(ExitError::new(Exit::Usage, unknown_service(&seen, only.unwrap_or_default())));
    }
    Ok(findings)
}

/// What one daemon's reports come to, and whether it has the service or name that is asked for.
fn of_reports(reports: &Reports, only: Option<&str>) -> (Vec<Finding>, bool) {
    let Reports { side, diagnosis, .. } = reports;
    let is_wanted = |service: &&Service| {
        let has = |name| service.name == name || service.names.iter().any(|own| own.name == name);
        only.is_none_or(has)
    };
    let services: Vec<_> = side.services.iter().filter(is_wanted).collect();
    let is_known = !services.is_empty();
    // A service's name is not one of its host names.
    let name = only.filter(|only| !services.iter().any(|service| service.name == **only));
    let near = Near { side, diagnosis: diagnosis.as_ref(), services, name };
    let mut findings = near::findings(&near);
    let far = diagnosis.iter().flat_map(|diagnosis| far::findings(side.role, &diagnosis.far));
    findings.extend(far);
    let own = diagnosis.iter().flat_map(|diagnosis| &diagnosis.probed);
    findings.extend(own.map(|probed| far::of_probe(None, probed)));
    #[cfg(target_os = "linux")]
    findings.extend(reports.config.as_deref().and_then(public_name::finding));
    (findings, is_known)
}

/// Whether a daemon in this role is to run here: a socket was named, or its file is there.
fn is_expected(role: &str, socket: Option<&Path>, has_answer: bool) -> bool {
    match socket {
        Some(socket) => !has_answer && is_its_socket(role, socket, |role| configuration(role).is_some()),
        None => configuration(role).is_some(),
    }
}

/// Whether a socket that does not answer would be that of this role: one socket is that of one
/// daemon. Where its name does not say which, the machine does, or else it is an origin's.
fn is_its_socket(role: &str, socket: &Path, is_configured: impl Fn(&str) -> bool) -> bool {
    let path = socket.to_string_lossy();
    match (path.contains("gateway"), path.contains("forwarder")) {
        (true, false) => role == "edge",
        (false, true) => role == "origin",
        _ => is_configured(role) || role == "origin" && !is_configured("edge"),
    }
}

/// What the machine has to do with a daemon that does not run, by its usual file.
fn around(role: &str, socket: Option<&Path>) -> Vec<Finding> {
    let file = configuration(role).filter(|_| socket.is_none());
    let found = file.map(|file| before::findings(&file));
    let wrong = |error: ExitError| {
        let what = error.message.replace('\n', ", ");
        vec![Finding::failing(HopName::Daemon, role, "configuration", what).fix("correct the file")]
    };
    let is_news = |finding: &Finding| finding.hop != HopName::Daemon || finding.fix.is_some();
    found.map(|found| found.unwrap_or_else(wrong)).unwrap_or_default().into_iter().filter(is_news).collect()
}

/// The usual file of a role, where it is there.
fn configuration(role: &str) -> Option<PathBuf> {
    let files = match role {
        "edge" => vec![PathBuf::from("/etc/causeway/gateway.toml")],
        _ => forwarder::places::Environment::of_process().configs(),
    };
    files.into_iter().find(|file| file.exists())
}

/// A daemon that did not answer.
fn unanswered(role: &str, error: &ExitError) -> Finding {
    let what = format!("the daemon of the {role} does not answer: {}", error.message.replace('\n', ", "));
    let unit = if role == "edge" { "gateway" } else { "forwarder" };
    if error.exit == Exit::Permission {
        let denied = Finding::unknown(HopName::Daemon, role, "denied", what);
        return denied.fix("run it as root: sudo causeway doctor");
    }
    if error.exit == Exit::Unreachable {
        return Finding::failing(HopName::Daemon, role, "no_answer", what).fix(format!(
            "run: systemctl start {unit}; if it does not stay up, journalctl -u {unit} names why"
        ));
    }
    Finding::unknown(HopName::Daemon, role, "not_understood", what)
        .fix(format!("see that `causeway` and the {unit} are of one version"))
}

fn nothing_here(seen: &[Seen; 2]) -> String {
    let lines = seen.iter().filter_map(|seen| {
        let error = seen.reports.as_ref().err()?;
        Some(format!("{}: {}", seen.role, error.message))
    });
    let lines: Vec<String> = lines.collect();
    format!(
        "neither a gateway nor a forwarder is set up on this machine; begin with `causeway setup` or `causeway join`, or \
         name a daemon with --socket\n{}",
        lines.join("\n")
    )
}

fn unknown_service(seen: &[Seen; 2], only: &str) -> String {
    let sides = seen.iter().filter_map(|seen| seen.reports.as_ref().ok());
    let mut known: Vec<&str> = Vec::new();
    for service in sides.flat_map(|reports| &reports.side.services) {
        known.push(&service.name);
        known.extend(service.names.iter().map(|name| name.name.as_str()));
    }
    known.dedup();
    format!("there is no service or name {only} here; there are: {}", known.join(", "))
}

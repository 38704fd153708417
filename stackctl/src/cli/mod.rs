//! The command line.

mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::fault::Fault;
use crate::shell::process::{notify, say};
use crate::verbs::clean::Consent;
use crate::verbs::session::{Options, Session};
use crate::verbs::up::How;
use crate::verbs::{
    Report, actions, adopt, clean, diff, doctor, remote, rollback, secrets, setup, status, up,
};

/// Manages each site's Docker Compose stacks.
#[derive(Parser, Debug)]
#[command(name = "stackctl", version, about, after_help = EXITS)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

const EXITS: &str = "SERVICE ACTION runs an action declared in stack.toml; SERVICE VERB is VERB SERVICE; all-VERB means every \
service.\n\
Exit codes: 0 ok, 1 failed, 2 usage, 3 Docker or a machine not reachable, 4 configuration invalid, 5 permission or \
key-file mode, 6 conflict, 7 rolled back, 8 stale, 10 degraded, 11 broken.";

#[derive(Args, Debug)]
struct Common {
    /// Root of the tree [default: found from the current folder]
    #[arg(long, global = true)]
    root: Option<PathBuf>,
    /// Location name [default: the current folder's, or the only one]
    #[arg(long, global = true)]
    location: Option<String>,
    /// Print one JSON object on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Show what would change and change nothing.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Break another operator's lock if it is at least ten minutes old.
    #[arg(long, global = true)]
    break_lock: bool,
    /// Accepted for older scripts: env files that others can read are always closed.
    #[arg(long, global = true, hide = true)]
    fix_permissions: bool,
    /// Overwrite rendered files that were edited by hand.
    #[arg(long, global = true)]
    overwrite: bool,
    /// Work on this machine even where stack.toml names another.
    #[arg(long, global = true)]
    here: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Select the service that verbs work on by default.
    Select {
        /// Service name [default: the variable SERVICE, or the selected one]
        service: Option<String>,
    },
    /// Let verbs work on all services again.
    Unselect,
    /// Make missing secrets and render templates.
    Setup(Which),
    /// Start services, wait until they are healthy, keep the state as a generation.
    Up(UpArgs),
    /// Stop and remove containers.
    Down(Which),
    /// Recreate the containers that changed and restart the rest.
    Restart(UpArgs),
    /// Show logs: the last 50 lines, or follow with -f.
    Logs {
        #[command(flatten)]
        which: Which,
        /// Follow.
        #[arg(short, long)]
        follow: bool,
    },
    /// Compare what is configured with what runs.
    Status {
        #[command(flatten)]
        which: Which,
        /// Show one table of every location.
        #[arg(long)]
        all_locations: bool,
    },
    /// Delete what [clean] lists.
    Clean(CleanArgs),
    /// Run setup for every service.
    AllSetup,
    /// Run up for every service, in the order of `[depends]`.
    AllUp(HowArgs),
    /// Run down for every service, in the reverse order.
    AllDown,
    /// Run restart for every service.
    AllRestart(HowArgs),
    /// Show the logs of every service.
    AllLogs,
    /// Show the status of every service.
    AllStatus,
    /// Run clean for every service.
    AllClean(ConsentArgs),
    /// Render templates.
    Render {
        #[command(flatten)]
        which: Which,
        /// Write nothing; exit 8 when a file is older than its template.
        #[arg(long)]
        check: bool,
    },
    /// Show what rendering and up would change.
    Diff(Which),
    /// List, show or rotate secrets.
    #[command(subcommand)]
    Secrets(SecretVerb),
    /// Go back to an earlier generation.
    Rollback {
        #[command(flatten)]
        which: Which,
        /// Number of the generation [default: the one before what runs]
        #[arg(long)]
        to: Option<u64>,
    },
    /// Check the configuration and this machine for problems.
    Doctor(Which),
    /// Print the docker command behind a verb.
    PrintCommand {
        #[command(flatten)]
        which: Which,
        /// Compose verb and its arguments [default: `up --detach`]
        #[arg(last = true)]
        compose: Vec<String>,
    },
    /// Compare an existing tree with what stackctl would make of it, and write a first stack.toml.
    Adopt,
    /// Hash a password from standard input: argon2id, pbkdf2-sha512 or bcrypt.
    Hash {
        /// The kind of hash.
        kind: String,
    },
    /// A target of the Makefile shim.
    #[command(hide = true)]
    Make {
        /// `up`, `all-up`, `authelia-get-code`…
        target: String,
        /// Options for the verb.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Run an action that stack.toml declares: SERVICE ACTION.
    #[command(external_subcommand)]
    Action(Vec<String>),
}

impl Verb {
    /// The service a verb names or leaves to the selection, for verbs that do.
    fn which(&self) -> Option<&Which> {
        if let Self::Setup(which) | Self::Down(which) | Self::Diff(which) | Self::Doctor(which) = self {
            return Some(which);
        }
        if let Self::Up(UpArgs { which, .. }) | Self::Restart(UpArgs { which, .. }) = self {
            return Some(which);
        }
        if let Self::Clean(CleanArgs { which, .. }) | Self::Rollback { which, .. } = self {
            return Some(which);
        }
        if let Self::Logs { which, .. } | Self::Status { which, .. } | Self::Render { which, .. } = self {
            return Some(which);
        }
        None
    }
}

#[derive(Args, Debug, Clone, Default)]
struct Which {
    /// Service name [default: the selected one, or all]
    service: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
struct HowArgs {
    /// Go back to the previous generation when a service does not become healthy.
    #[arg(long)]
    rollback: bool,
    /// Seconds that a service may take to become healthy.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: Option<u64>,
}

#[derive(Args, Debug, Clone)]
struct UpArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Args, Debug, Clone, Default)]
struct ConsentArgs {
    /// Delete data too.
    #[arg(long)]
    yes: bool,
    /// Delete this volume too; may be given several times.
    #[arg(long)]
    volume: Vec<String>,
}

#[derive(Args, Debug, Clone)]
struct CleanArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    consent: ConsentArgs,
}

#[derive(Subcommand, Debug)]
enum SecretVerb {
    /// List names, kinds and where the values are; never a value.
    List,
    /// Print one value.
    Show {
        /// Its name.
        name: String,
    },
    /// Make a new value and its hashes, and restart the services that use them.
    Rotate {
        /// Its name.
        name: String,
        /// Rotate although volumes were made with the old value.
        #[arg(long)]
        accept_data_loss: bool,
    },
}

/// Runs one command line (without the program's name); the exit code.
#[must_use]
pub fn run(words: Vec<String>) -> u8 {
    let parsed = Cli::try_parse_from(std::iter::once("stackctl".to_owned()).chain(words.iter().cloned()));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match dispatch(&cli, &words) {
        Ok(code) => code,
        Err(fault) => failed(&fault, cli.common.json),
    }
}

fn failed(fault: &Fault, json: bool) -> u8 {
    notify(&format!("stackctl: {fault}"));
    if json {
        let value = serde_json::json!({"schema": 1, "error": fault.to_string(), "exit": fault.exit_code()});
        say(&format!("{value}\n"));
    }
    fault.exit_code()
}

fn dispatch(cli: &Cli, words: &[String]) -> Result<u8, Fault> {
    if let Verb::Hash { kind } = &cli.verb {
        return Ok(print(&cli.common, actions::hash_password(kind)?));
    }
    let session = open(&cli.common)?;
    if let Verb::Make { target, rest } = &cli.verb {
        if target == "help" {
            say(&words::help(&session));
            return Ok(0);
        }
        return Ok(run(words::of_target(&session, &cli.common, target, rest)?));
    }
    if let Verb::Action(list) = &cli.verb
        && let [service, word, extra @ ..] = list.as_slice()
        && words::of_service(&session, service, word).first() != Some(service)
    {
        return Ok(run(words::as_verb(words, service, word, extra)));
    }
    let stays =
        matches!(cli.verb, Verb::Select { .. } | Verb::Unselect | Verb::Status { all_locations: true, .. });
    if let (Some(machine), false) = (remote::machine(&session), stays) {
        return remote::run(&session, machine, &words::far(&session, cli.verb.which(), words));
    }
    match report(&session, &cli.verb)? {
        Some(report) => Ok(print(&cli.common, report)),
        None => Ok(0),
    }
}

fn open(common: &Common) -> Result<Session, Fault> {
    let options = Options {
        root: common.root.clone(),
        location: common.location.clone(),
        dry_run: common.dry_run,
        break_lock: common.break_lock,
        overwrite: common.overwrite,
        here: common.here,
    };
    let caller = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let here = std::env::current_dir().map_err(|error| Fault::Failed(format!("current folder: {error}")))?;
    Session::open(options, caller.collect(), &here)
}

fn print(common: &Common, report: Report) -> u8 {
    let Report { text, json, fault } = report;
    if common.json {
        say(&format!("{}\n", with_exit(json, fault.as_ref())));
    } else {
        say(&text);
    }
    fault.map_or(0, |fault| {
        notify(&format!("stackctl: {fault}"));
        fault.exit_code()
    })
}

fn with_exit(mut json: Value, fault: Option<&Fault>) -> Value {
    if let (Some(fault), Some(fields)) = (fault, json.as_object_mut()) {
        fields.insert("exit".into(), fault.exit_code().into());
    }
    json
}

fn report(session: &Session, verb: &Verb) -> Result<Option<Report>, Fault> {
    let chosen = |which: &Which| session.services(which.service.as_deref());
    let all = || session.every_service();
    Ok(Some(match verb {
        Verb::Select { service } => {
            let name = service.clone().or_else(|| session.selected());
            let name = name.ok_or_else(|| Fault::Usage("which service? select SERVICE".into()))?;
            actions::select(session, Some(&name))?
        }
        Verb::Unselect => actions::select(session, None)?,
        Verb::Setup(which) => setup::setup(session, &chosen(which)?)?,
        Verb::AllSetup => setup::setup(session, &all()?)?,
        Verb::Up(args) => up::up(session, &chosen(&args.which)?, &how(&args.how, false))?,
        Verb::AllUp(args) => up::up(session, &all()?, &how(args, false))?,
        Verb::Restart(args) => up::up(session, &chosen(&args.which)?, &how(&args.how, true))?,
        Verb::AllRestart(args) => up::up(session, &all()?, &how(args, true))?,
        Verb::Down(which) => up::down(session, &chosen(which)?)?,
        Verb::AllDown => up::down(session, &all()?)?,
        Verb::Logs { which, follow } => {
            actions::logs(session, &chosen(which)?, *follow)?;
            return Ok(None);
        }
        Verb::AllLogs => {
            actions::logs(session, &all()?, false)?;
            return Ok(None);
        }
        Verb::Status { all_locations: true, .. } => status::everywhere(session)?,
        Verb::Status { which, .. } => status::status(session, &chosen(which)?)?,
        Verb::AllStatus => status::status(session, &all()?)?,
        Verb::Clean(args) => clean::clean(session, &chosen(&args.which)?, &consent(&args.consent))?,
        Verb::AllClean(args) => clean::clean(session, &all()?, &consent(args))?,
        Verb::Render { which, check } => setup::render(session, &chosen(which)?, *check)?,
        Verb::Diff(which) => diff::diff(session, &chosen(which)?)?,
        Verb::Secrets(SecretVerb::List) => secrets::list(session)?,
        Verb::Secrets(SecretVerb::Show { name }) => secrets::show(session, name)?,
        Verb::Secrets(SecretVerb::Rotate { name, accept_data_loss }) => {
            secrets::rotate(session, name, *accept_data_loss)?
        }
        Verb::Rollback { which, to } => {
            let services = chosen(which)?;
            let [service] = services.as_slice() else {
                return Err(Fault::Usage("which service? rollback SERVICE".into()));
            };
            rollback::rollback(session, service, *to)?
        }
        Verb::Doctor(which) => doctor::doctor(session, &chosen(which)?)?,
        Verb::PrintCommand { which, compose } => actions::print_command(session, &chosen(which)?, compose)?,
        Verb::Adopt => adopt::adopt(session, &all()?)?,
        Verb::Action(words) => return action(session, words),
        Verb::Hash { .. } | Verb::Make { .. } => return Ok(None),
    }))
}

fn action(session: &Session, words: &[String]) -> Result<Option<Report>, Fault> {
    let [service, action, extra @ ..] = words else {
        let word = words.first().map_or("", String::as_str);
        session
            .services(Some(word))
            .map_err(|_| Fault::Usage(format!("{word} is neither a verb nor a service (see --help)")))?;
        return Err(Fault::Usage(format!("which action of {word}? {word} ACTION")));
    };
    actions::act(session, service, action, extra)
}

fn how(args: &HowArgs, restart: bool) -> How {
    How { rollback: args.rollback, wait: args.wait.map(Duration::from_secs), restart }
}

fn consent(args: &ConsentArgs) -> Consent {
    Consent { data: args.yes, volumes: args.volume.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_service_and_its_action_are_words_of_their_own() {
        let cli = Cli::try_parse_from(["stackctl", "--location", "kyiv", "authelia", "get-code", "-x"])
            .expect("parsed");
        assert!(matches!(cli.verb, Verb::Action(words) if words == ["authelia", "get-code", "-x"]));
    }
}

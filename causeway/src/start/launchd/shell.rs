//! Looks at the machine, and carries out what `plan` decided. Type-checked only; it has not been
//! run on a Mac.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::{Owner, Replacement, Target};
use forwarder::places::{Environment, MAC_FOLDER};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, open};

use super::Domain;
use super::accounts::Accounts;
use super::plan::{self, Job, Obstacle, Step};
use crate::start::Started;

/// How long launchd may take to end a job: its `ExitTimeOut`, and some.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// How long a new job may be refused after that.
const LOADED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(200);

/// Makes what the forwarder of `config` needs before it has a key: as root its user, and a folder of
/// that user's own.
///
/// # Errors
/// What is missing, or what the system refuses.
pub(crate) fn prepare_forwarder(config: &Path) -> Result<(), ExitError> {
    let Some(domain) = domain(config) else { return Ok(()) };
    program(&domain)?;
    if domain == Domain::System {
        let folder = fs::symlink_metadata(MAC_FOLDER).ok().filter(|found| found.is_dir());
        let folder = folder.filter(|found| found.permissions().mode() & 0o7777 == 0o700);
        let folder = folder.map(|found| Owner { uid: found.uid(), gid: found.gid() });
        carry_out(&plan::prepared(&accounts()?, folder).map_err(refused)?)?;
    }
    Ok(())
}

/// Starts the forwarder of `config`, now and at each boot or login, or says how it is started.
///
/// # Errors
/// What is missing, or what launchd refuses, with what is left to run.
pub(crate) fn start_forwarder(config: &Path) -> Result<Started, ExitError> {
    let Some(domain) = domain(config) else {
        return Ok(Started::By(format!("forwarder --config {}", config.display())));
    };
    let job = job(&domain)?;
    if job.is_foreign() {
        print_to_stderr(&format!(
            "{} is not of causeway's making, and is kept; remove it and run this again to have it replaced",
            domain.plist().display()
        ));
    }
    let (steps, started) = plan::started(&domain, &program(&domain)?, config, &job);
    let fix = |error: ExitError| {
        let fix = format!("{}; fix that, then run: {}", error.message, domain.bootstrap());
        ExitError::new(error.exit, fix)
    };
    carry_out(&steps).map_err(fix)?;
    Ok(started)
}

/// The daemon's user, for its key; a user's own forwarder has none.
pub(crate) fn forwarder_user() -> Option<Owner> {
    rustix::process::geteuid().is_root().then(|| accounts().ok()?.owner()).flatten()
}

fn domain(config: &Path) -> Option<Domain> {
    Domain::of(config, &Environment::of_process())
}

fn program(domain: &Domain) -> Result<PathBuf, ExitError> {
    let own = env::current_exe().map_err(|error| ExitError::new(Exit::Failed, error))?;
    let is_there = |program: &Path| fs::metadata(program).is_ok_and(|found| found.is_file());
    plan::program(domain, &plan::programs(&own), &is_there).map_err(refused)
}

fn refused(obstacle: Obstacle) -> ExitError {
    ExitError::new(Exit::Failed, obstacle)
}

fn accounts() -> Result<Accounts, ExitError> {
    let list = |record: &str, key: &str| {
        let output = done(&["/usr/bin/dscl", ".", "-list", record, key].map(str::to_owned))?;
        Ok::<String, ExitError>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    Ok(Accounts::parse(&list("/Users", "UniqueID")?, &list("/Groups", "PrimaryGroupID")?))
}

fn job(domain: &Domain) -> Result<Job, ExitError> {
    let description = match fs::read_to_string(domain.plist()) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&domain.plist(), &error)),
    };
    let printed = output(&["/bin/launchctl".to_owned(), "print".to_owned(), domain.job()]);
    let loaded = printed.ok().filter(|output| output.status.success());
    let is_running = loaded.as_ref().is_some_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == "state = running")
    });
    let has_domain = output(&["/bin/launchctl".to_owned(), "print".to_owned(), domain.target()])
        .is_ok_and(|output| output.status.success());
    Ok(Job { description, is_loaded: loaded.is_some(), is_running, has_domain })
}

fn carry_out(steps: &[Step]) -> Result<(), ExitError> {
    for step in steps {
        print_to_stderr(&step.to_string());
        match step {
            Step::Run(words) => drop(done(words)?),
            Step::Load(words) => load(words)?,
            Step::Folder { path, owner } => {
                make_folder(path, *owner).map_err(|error| failed(path, &error))?;
            }
            Step::Write { path, text } => write(path, text).map_err(|error| failed(path, &error))?,
            Step::AwaitGone(job) => await_gone(job)?,
        }
    }
    Ok(())
}

/// Makes a folder of its owner alone; a link in its place is not followed.
fn make_folder(path: &Path, owner: Owner) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let folder = open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    fchown(&folder, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    fchmod(&folder, Mode::RWXU)?;
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    Replacement::prepare(path, Target::own(0o644), text.as_bytes())?.finish()
}

fn await_gone(job: &str) -> Result<(), ExitError> {
    let (begun, words) = (Instant::now(), ["/bin/launchctl", "print", job].map(str::to_owned));
    while output(&words).is_ok_and(|output| output.status.success()) {
        if begun.elapsed() > GONE_WITHIN {
            let message = format!("launchd has not ended {job} within {} s", GONE_WITHIN.as_secs());
            return Err(ExitError::new(Exit::Failed, message));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn load(words: &[String]) -> Result<(), ExitError> {
    let begun = Instant::now();
    loop {
        match done(words) {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > LOADED_WITHIN => return Err(error),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn output(words: &[String]) -> io::Result<Output> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(arguments).stdin(Stdio::null()).output()
}

/// Runs a command that must succeed.
fn done(words: &[String]) -> Result<Output, ExitError> {
    let command = words.join(" ");
    let output =
        output(words).map_err(|error| ExitError::new(Exit::of(&error), format!("{command}: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ExitError::new(Exit::Failed, format!("{command} failed ({}): {printed}", output.status)))
}

fn failed(path: &Path, error: &io::Error) -> ExitError {
    ExitError::new(Exit::of(error), format!("{}: {error}", path.display()))
}

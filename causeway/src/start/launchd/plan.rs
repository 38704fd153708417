//! What is to be done on this machine, as values.

use std::fmt;
use std::path::{Path, PathBuf};

use daemon::files::Owner;
use forwarder::places::MAC_FOLDER;

use super::Domain;
use super::accounts::Accounts;
use super::plist::{self, MARK};
use crate::start::Started;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Run a command, which must succeed.
    Run(Vec<String>),
    /// Make a folder that only its owner may look into.
    Folder {
        /// Where.
        path: PathBuf,
        /// Whose.
        owner: Owner,
    },
    /// Write a file that everyone may read.
    Write {
        /// Where.
        path: PathBuf,
        /// The whole text.
        text: String,
    },
    /// Run a command, again for some seconds while it fails: after the end of a job launchd may
    /// refuse another of its name for a moment.
    Load(Vec<String>),
    /// Wait until launchd has no such job any more.
    AwaitGone(String),
}

impl Step {
    /// A command with its arguments.
    pub(super) fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn launchctl(verb: &str, job: &str) -> Self {
        Self::run(&["/bin/launchctl", verb, job])
    }
}

/// As the user sees it when it is done.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(words) | Self::Load(words) => write!(f, "+ {}", words.join(" ")),
            Self::Folder { path, owner } => {
                write!(f, "+ folder {} (mode 0700, user {})", path.display(), owner.uid)
            }
            Self::Write { path, .. } => write!(f, "+ file {}", path.display()),
            Self::AwaitGone(job) => write!(f, "+ wait for the end of {job}"),
        }
    }
}

/// Why the forwarder cannot be started on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// Every number for an account is taken.
    #[error(
        "every number from 200 to 400 is taken by a user or a group: make a user and a group _causeway by hand"
    )]
    NoNumber,
    /// There is no forwarder.
    #[error("there is no forwarder in {}: install it there, and run this again", .0.display())]
    NoProgram(PathBuf),
    /// The program is where the daemon's user cannot run it.
    #[error(
        "{} is in a home folder, where the daemon's user cannot run it; sudo install -m 0755 {} /usr/local/bin/ \
         installs it for the machine, and so for causeway; then run /usr/local/bin/causeway", .0.display(), .0.display()
    )]
    InHome(PathBuf),
}

/// Where the forwarder may be that belongs to this `causeway`, best first: Homebrew's link, which an
/// upgrade moves on, then next to this program.
pub(super) fn programs(own: &Path) -> Vec<PathBuf> {
    let cellar = own.ancestors().find(|folder| folder.ends_with("Cellar"));
    let linked = cellar.and_then(Path::parent).map(|prefix| prefix.join("bin/forwarder"));
    linked.into_iter().chain([own.with_file_name("forwarder")]).collect()
}

/// The first of these programs that is there and that the domain's user can run.
pub(super) fn program(
    domain: &Domain,
    candidates: &[PathBuf],
    is_there: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, Obstacle> {
    let found = candidates.iter().find(|program| is_there(program));
    let folder = || candidates.last().and_then(|program| program.parent()).unwrap_or(Path::new("/"));
    let program = found.ok_or_else(|| Obstacle::NoProgram(folder().to_owned()))?;
    if *domain == Domain::System && program.starts_with("/Users") {
        return Err(Obstacle::InHome(program.clone()));
    }
    Ok(program.clone())
}

/// What a daemon needs before it has a key: its user, and a folder that belongs to it. `folder` is
/// whose that is now.
pub(super) fn prepared(accounts: &Accounts, folder: Option<Owner>) -> Result<Vec<Step>, Obstacle> {
    let (owner, mut steps) = accounts.complete().ok_or(Obstacle::NoNumber)?;
    if folder != Some(owner) {
        steps.push(Step::Folder { path: MAC_FOLDER.into(), owner });
    }
    Ok(steps)
}

/// The job as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// The text of its description, where there is one.
    pub(super) description: Option<String>,
    /// Whether launchd has it.
    pub(super) is_loaded: bool,
    /// Whether it runs.
    pub(super) is_running: bool,
    /// Whether its domain is there: that of a user only while that user is logged in.
    pub(super) has_domain: bool,
}

impl Job {
    /// Whether its description is another hand's, and is kept.
    pub(super) fn is_foreign(&self) -> bool {
        self.description.as_ref().is_some_and(|text| !text.contains(MARK))
    }
}

/// What starts the forwarder, now and whenever its domain begins, and how it runs then.
pub(super) fn started(domain: &Domain, program: &Path, config: &Path, job: &Job) -> (Vec<Step>, Started) {
    let text = plist::text(domain, program, config);
    let is_new = !job.is_foreign() && job.description.as_ref() != Some(&text);
    let (mut steps, name) = (Vec::new(), domain.job());
    if is_new && job.is_loaded {
        steps.push(Step::launchctl("bootout", &name));
        steps.push(Step::AwaitGone(name.clone()));
    }
    if is_new {
        steps.push(Step::Write { path: domain.plist(), text });
    }
    if job.has_domain && (is_new || !job.is_loaded) {
        // A job that was disabled before cannot be loaded.
        steps.push(Step::launchctl("enable", &name));
        let description = domain.plist().display().to_string();
        let words = ["/bin/launchctl".to_owned(), "bootstrap".to_owned(), domain.target(), description];
        steps.push(Step::Load(words.to_vec()));
    } else if job.is_loaded && !job.is_running {
        // It waits after a failed start; the configuration is there now.
        steps.push(Step::launchctl("kickstart", &name));
    }
    let started = match domain {
        Domain::System if steps.is_empty() => Started::Running,
        Domain::System => Started::Now,
        Domain::User { .. } => Started::AtLogin { runs: job.has_domain },
    };
    (steps, started)
}

//! Writes a backup's files where they belong, and starts what they are for.

use std::fs;
use std::io;
use std::path::Path;

use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, fix_of_write};

use super::contents::{Plan, Planned, Role};
use super::users;
use crate::join::keys::folder_of;
use crate::start::{Started, prepare_forwarder, start_forwarder};

/// Whether nothing else is where the files belong. What is there already, as it is in the backup,
/// stays.
///
/// # Errors
/// [`Exit::Conflict`] with every file that is another one.
pub(super) fn is_free(plan: &Plan<'_>) -> Result<(), ExitError> {
    let mut others = Vec::new();
    for planned in plan.files.iter().chain(&plan.sites) {
        let is_link = fs::symlink_metadata(&planned.path).is_ok_and(|found| !found.is_file());
        match fs::read(&planned.path) {
            Ok(there) if !is_link && there == planned.kept.text.as_bytes() => {}
            Err(error) if !is_link && error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => others.push(planned.path.display().to_string()),
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    let message = format!(
        "nothing is restored: {} is there already and is another one; move it away first",
        others.join(" and ")
    );
    Err(ExitError::new(Exit::Conflict, message))
}

/// Writes the files of one daemon, and starts it.
///
/// # Errors
/// What the system says. The configuration is the last file, so that a daemon never starts with half
/// of it; the command can be run again.
pub(super) fn end(role: Role, config: &Path, plan: &Plan<'_>) -> Result<(), ExitError> {
    if role == Role::Origin {
        prepare_forwarder(config)?;
    }
    for planned in &plan.files {
        write(planned)?;
    }
    let mut sites = 0;
    for planned in &plan.sites {
        match write(planned) {
            Ok(()) => sites += 1,
            // Caddy is not there yet.
            Err(error) => print_to_stderr(&format!("a site is not restored: {error}")),
        }
    }
    let count = plan.files.len() + sites;
    print(&format!(
        "the {} has its configuration again: {count} files, with {}\n",
        role.label(),
        config.display()
    ))?;
    for path in &plan.missing {
        print_to_stderr(&format!(
            "{} is named in it and was not in the backup: put it there",
            path.display()
        ));
    }
    print(&started(role, config)?)
}

fn started(role: Role, config: &Path) -> Result<String, ExitError> {
    let (daemon, started) = match role {
        #[cfg(target_os = "linux")]
        Role::Edge => ("gateway", crate::setup::start_gateway(config)?),
        #[cfg(not(target_os = "linux"))]
        Role::Edge => return Err(ExitError::new(Exit::Usage, "an edge runs on Linux only")),
        Role::Origin => ("forwarder", start_forwarder(config)?),
    };
    Ok(match started {
        Started::Running => format!("the {daemon} runs already: have it take this by a reload\n"),
        Started::Now => format!("the {daemon} runs, and starts at each boot\n"),
        Started::AtLogin { .. } => format!("the {daemon} starts when you log in\n"),
        Started::By(command) => format!("start it: {command}\n"),
    })
}

fn write(planned: &Planned<'_>) -> Result<(), ExitError> {
    let Planned { path, kept } = planned;
    let owner = kept.owner.as_deref().and_then(users::owner).filter(|_| rustix::process::geteuid().is_root());
    let target = Target {
        owner: owner.map(|owner| owner.uid),
        group: owner.map(|owner| owner.gid),
        mode: kept.mode & 0o644,
    };
    let folder = folder_of(path);
    let written = daemon::files::make_open_folder(folder)
        .and_then(|()| Replacement::prepare(path, target, kept.text.as_bytes()))
        .and_then(Replacement::finish);
    written.map_err(|error| {
        let fix = fix_of_write(&error, "run the command as root, or as the owner of the configuration");
        ExitError::new(Exit::of(&error), format!("{}: {error}; {fix}", path.display()))
    })
}

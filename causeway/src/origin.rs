//! The forwarder of this machine, as the commands ask it and edit its file.

use std::path::{Path, PathBuf};

use daemon::changes::{ChangeRequest, Changes, Commands, Trusted};
use daemon::exit::{Exit, ExitError};
use forwarder::control::client::{ask_change, ask_report, needs};
use forwarder::control::report::Report;
use forwarder::places::{Environment, Place};
use policy::forwarder::Policy;

/// Which forwarder, and which file.
pub(crate) struct Origin {
    /// Its configuration file.
    pub(crate) config: PathBuf,
    places: Vec<Place>,
}

impl Origin {
    /// The forwarder of `config`, else of the usual file; `socket` is where it listens, unless the
    /// file says so.
    ///
    /// # Errors
    /// [`Exit::Invalid`] when there is no such file.
    pub(crate) fn find(config: Option<&Path>, socket: Option<&Path>) -> Result<Self, ExitError> {
        let config = match config {
            Some(config) => config.to_owned(),
            None => usual_file()?,
        };
        let places = match socket {
            Some(socket) => vec![Place::at(socket.to_owned())],
            None => Environment::of_process().client_sockets(forwarder::config::read(&config).ok().as_ref()),
        };
        Ok(Self { config, places })
    }

    /// What the file says now.
    ///
    /// # Errors
    /// Every error in it.
    pub(crate) fn policy(&self) -> Result<Policy, ExitError> {
        Ok(forwarder::config::read(&self.config)?)
    }

    /// What the daemon reports.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn report(&self) -> Result<Report, ExitError> {
        ask_report(&self.places)
    }

    /// Applies what `edit` makes of the file's text; the file then holds it.
    ///
    /// # Errors
    /// What `edit` or the daemon refuses; the file and what is in force are then unchanged.
    pub(crate) fn edit(
        &self,
        edit: &mut dyn FnMut(&Path, &str) -> Result<String, ExitError>,
    ) -> Result<Changes, ExitError> {
        let ask = |request: &ChangeRequest| ask_change(&self.places, request);
        let trusted = Trusted::by_owner_of(&self.config);
        Commands { program: "forwarder", ask: &ask, needs, trusted }.edit(&self.config, edit)
    }
}

/// The first of the usual places that has a file.
fn usual_file() -> Result<PathBuf, ExitError> {
    let places = usual_places(&Environment::of_process());
    places.iter().find(|file| file.exists()).cloned().ok_or_else(|| {
        let tried: Vec<_> = places.iter().map(|file| file.display().to_string()).collect();
        let message = format!(
            "there is no forwarder.toml in {}: run this at the origin, or name the file with --config FILE",
            tried.join(" or ")
        );
        ExitError::new(Exit::Invalid, message)
    })
}

/// The file that a command writes: the first of the usual places that has one, else the first.
///
/// # Errors
/// [`Exit::Permission`] when that is the machine's, and this user may not write it.
pub(crate) fn file_to_write() -> Result<PathBuf, ExitError> {
    let may_write = |file: &Path| {
        let folder = file.parent().unwrap_or(Path::new("/"));
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
    };
    to_write(&Environment::of_process(), &|file| file.exists(), &may_write)
}

fn to_write(
    environment: &Environment,
    exists: &dyn Fn(&Path) -> bool,
    may_write: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, ExitError> {
    let places = usual_places(environment);
    let is_lost = environment.uid != 0 && environment.home.is_none();
    match places.iter().find(|file| exists(file)) {
        Some(file) if !may_write(file) => {
            let message = format!(
                "{} is this machine's, and this user may not write it: run this as root, or name another file with \
                 --config FILE",
                file.display()
            );
            Err(ExitError::new(Exit::Permission, message))
        }
        Some(file) => Ok(file.clone()),
        None if is_lost => Err(ExitError::new(Exit::Usage, daemon::command_line::NAME_IT)),
        None => places
            .into_iter()
            .next()
            .ok_or_else(|| ExitError::new(Exit::Usage, daemon::command_line::NAME_IT)),
    }
}

/// Where forwarder.toml is, as README has it: a user's own, then the machine's.
pub(crate) fn usual_places(environment: &Environment) -> Vec<PathBuf> {
    own_file(environment).into_iter().chain([machines_file(environment)]).collect()
}

/// A user's own forwarder.toml; root's is the machine's.
pub(crate) fn own_file(environment: &Environment) -> Option<PathBuf> {
    let home = environment.home.as_ref().filter(|_| environment.uid != 0);
    home.map(|home| home.join(".config/causeway/forwarder.toml"))
}

/// The machine's forwarder.toml.
pub(crate) fn machines_file(environment: &Environment) -> PathBuf {
    let folder = if environment.is_mac { "/usr/local/etc/causeway" } else { "/etc/causeway" };
    Path::new(folder).join("forwarder.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_file_comes_before_the_machines() {
        let user = Environment { uid: 1000, home: Some("/home/kyiv".into()), ..Environment::default() };
        let own = Path::new("/home/kyiv/.config/causeway/forwarder.toml");
        assert_eq!(usual_places(&user), [own, Path::new("/etc/causeway/forwarder.toml")]);
        let root = Environment { uid: 0, ..user };
        assert_eq!(usual_places(&root), [Path::new("/etc/causeway/forwarder.toml")]);
        let mac = Environment { is_mac: true, ..root };
        assert_eq!(usual_places(&mac), [Path::new("/usr/local/etc/causeway/forwarder.toml")]);
    }

    #[test]
    fn a_user_writes_the_machines_file_where_that_is_the_one_and_no_second_one_next_to_it() {
        let user = Environment { uid: 1000, home: Some("/home/kyiv".into()), ..Environment::default() };
        let (own, system) = (
            Path::new("/home/kyiv/.config/causeway/forwarder.toml"),
            Path::new("/etc/causeway/forwarder.toml"),
        );
        let chosen = |environment: &Environment, there: &[&Path], may_write: bool| {
            to_write(environment, &|file| there.contains(&file), &|_| may_write).map_err(|error| error.exit)
        };
        assert_eq!(chosen(&user, &[], true), Ok(own.to_owned()));
        assert_eq!(chosen(&user, &[own, system], true), Ok(own.to_owned()));
        assert_eq!(chosen(&user, &[system], true), Ok(system.to_owned()));
        assert_eq!(chosen(&user, &[system], false), Err(Exit::Permission));
        let homeless = Environment { home: None, ..user.clone() };
        assert_eq!(chosen(&homeless, &[], true), Err(Exit::Usage));
        let root = Environment { uid: 0, ..user };
        assert_eq!(chosen(&root, &[own], true), Ok(system.to_owned()));
    }
}

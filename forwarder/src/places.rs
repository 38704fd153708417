//! Where the control socket and the state are, and where the commands look for the socket.
//!
//! A daemon that systemd starts has folders of its own; one that a person starts must find some
//! that this person may write, with or without a login session, on Linux and on macOS. Daemon and
//! commands try the same list in the same order.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use daemon::control::server::{Access, BindError, Socket, group_id};
use daemon::exit::{Exit, ExitError};
use policy::forwarder::Policy;

use crate::handover::{self, Descriptors};

/// The socket's name in its folder.
const SOCKET: &str = "forwarder.sock";
/// The folder's name below `/run` and `/var/lib`, as the unit has it.
const SYSTEM: &str = "causeway-forwarder";
/// Where the daemon that launchd starts keeps everything; also root's state on macOS, which has no
/// `/var/lib`.
pub const MAC_FOLDER: &str = "/usr/local/var/causeway";

/// What decides: the user, the system and the environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The effective user.
    pub uid: u32,
    /// Whether this is macOS.
    pub is_mac: bool,
    /// `$RUNTIME_DIRECTORY`, as systemd sets it.
    pub runtime_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, as systemd sets it.
    pub state_directory: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$TMPDIR`.
    pub tmpdir: Option<PathBuf>,
}

/// A place for the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The socket.
    pub socket: PathBuf,
    /// Whose folder it must be, open to no other user: set where others may write the folder above.
    pub only_for: Option<u32>,
}

impl Environment {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        // The XDG specification has relative paths ignored, and none of the others is ever
        // relative.
        let variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        // systemd separates several folders by colons.
        let first = |name| env::split_paths(&env::var_os(name)?).next().filter(|path| path.is_absolute());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            is_mac: cfg!(target_os = "macos"),
            runtime_directory: first("RUNTIME_DIRECTORY"),
            state_directory: first("STATE_DIRECTORY"),
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            xdg_state_home: variable("XDG_STATE_HOME"),
            home: variable("HOME"),
            tmpdir: variable("TMPDIR"),
        }
    }

    /// The folder for the daemon's state: that of the configuration, else systemd's, else root's or
    /// the user's own.
    #[must_use]
    pub fn state_folder(&self, policy: Option<&Policy>) -> PathBuf {
        if let Some(folder) = policy.and_then(|policy| policy.state_directory.clone()) {
            return folder;
        }
        if let Some(folder) = &self.state_directory {
            return folder.clone();
        }
        let of_user = || {
            let home = self.home.as_ref().map(|home| home.join(".local/state"));
            Some(self.xdg_state_home.clone().or(home)?.join("causeway"))
        };
        let own = if self.uid == 0 { None } else { of_user() };
        let of_system = if self.is_mac { MAC_FOLDER.into() } else { Path::new("/var/lib").join(SYSTEM) };
        own.unwrap_or(of_system)
    }

    /// Where the daemon makes its socket: in the first of these that it can.
    #[must_use]
    pub fn sockets(&self, policy: Option<&Policy>) -> Vec<Place> {
        if let Some(socket) = policy.and_then(|policy| policy.control.socket.clone()) {
            return vec![Place::at(socket)];
        }
        let mut places: Vec<Place> =
            self.runtime_directory.iter().map(|folder| Place::at(folder.join(SOCKET))).collect();
        if self.uid == 0 {
            places.push(Place::at(self.system_socket()));
        } else {
            let of_session = self.xdg_runtime_dir.iter().map(|folder| folder.join("causeway").join(SOCKET));
            places.extend(of_session.map(Place::at));
            let folder = format!("causeway-{}", self.uid);
            let of_tmpdir = self.tmpdir.iter().map(|tmpdir| tmpdir.join(&folder).join(SOCKET));
            places.extend(of_tmpdir.map(|socket| Place { socket, only_for: Some(self.uid) }));
        }
        places.push(Place::at(self.state_folder(policy).join(SOCKET)));
        places
    }

    /// Where a command looks for the daemon: where this user's own would be, then where the
    /// machine's is.
    #[must_use]
    pub fn client_sockets(&self, policy: Option<&Policy>) -> Vec<Place> {
        let mut places = self.sockets(policy);
        if policy.is_some_and(|policy| policy.control.socket.is_some()) {
            return places;
        }
        let launchd = self.is_mac.then(|| Path::new(MAC_FOLDER).join(SOCKET));
        for socket in std::iter::once(self.system_socket()).chain(launchd) {
            if places.iter().all(|place| place.socket != socket) {
                places.push(Place::at(socket));
            }
        }
        places
    }

    /// Where forwarder.toml is, as README has it: a user's own, then the machine's.
    #[must_use]
    pub fn configs(&self) -> Vec<PathBuf> {
        self.own_config().into_iter().chain([self.machines_config()]).collect()
    }

    /// The first of [`Self::configs`] that has a file.
    #[must_use]
    pub fn config(&self) -> Option<PathBuf> {
        self.configs().into_iter().find(|file| file.exists())
    }

    /// A user's own forwarder.toml; root's is the machine's.
    #[must_use]
    pub fn own_config(&self) -> Option<PathBuf> {
        let home = self.home.as_ref().filter(|_| self.uid != 0);
        home.map(|home| home.join(".config/causeway/forwarder.toml"))
    }

    /// The machine's forwarder.toml.
    #[must_use]
    pub fn machines_config(&self) -> PathBuf {
        let folder = if self.is_mac { "/usr/local/etc/causeway" } else { "/etc/causeway" };
        Path::new(folder).join("forwarder.toml")
    }

    fn system_socket(&self) -> PathBuf {
        let run = if self.is_mac { "/var/run" } else { "/run" };
        Path::new(run).join(SYSTEM).join(SOCKET)
    }
}

/// Who may read: this user and root, and as the unit's user the unit's group, which the agent has.
/// The group of a person may be everybody's.
fn access() -> Access<'static> {
    let own = rustix::process::getegid().as_raw();
    let is_units = !cfg!(target_os = "macos") && group_id(SYSTEM) == Some(own);
    if is_units { Access::Group(SYSTEM) } else { Access::Owner }
}

/// Takes the socket that an old process passed, or binds it in the first of these places where the
/// system allows it.
///
/// # Errors
/// [`Exit::Conflict`] for another daemon in a place, which ends the search; [`Exit::Permission`] or
/// [`Exit::Failed`] with every place when none can be used.
pub fn bind_first(places: &[Place], passed: &mut Descriptors) -> Result<Socket, ExitError> {
    for Place { socket, .. } in places {
        if let Some(descriptor) = passed.take(&handover::control(socket)) {
            return Ok(Socket::passed(socket, descriptor));
        }
    }
    let mut errors = Vec::new();
    for place in places {
        let system = |error| BindError::System { path: place.socket.clone(), error };
        let made = place.make_folder().map_err(system);
        match made.and_then(|()| Socket::bind(&place.socket, access())) {
            Ok(socket) => return Ok(socket),
            Err(error @ BindError::System { .. }) => errors.push(error),
            Err(error @ (BindError::Taken(_) | BindError::NoSocket(_))) => {
                return Err(ExitError::new(error.exit(), error));
            }
        }
    }
    let is_denied = errors.iter().any(|error| error.exit() == Exit::Permission);
    let exit = if is_denied { Exit::Permission } else { Exit::Failed };
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Err(ExitError::new(exit, lines.join("\n")))
}

impl Place {
    /// A socket in a folder that is taken as it is.
    #[must_use]
    pub const fn at(socket: PathBuf) -> Self {
        Self { socket, only_for: None }
    }

    /// Makes the folder when it is missing.
    ///
    /// # Errors
    /// From the system; `PermissionDenied` for a folder that must be this user's alone and is not.
    pub fn make_folder(&self) -> io::Result<()> {
        let Some(folder) = self.socket.parent() else { return Ok(()) };
        let mode = if self.only_for.is_some() { 0o700 } else { 0o755 };
        if self.only_for.is_none() {
            return DirBuilder::new().recursive(true).mode(mode).create(folder);
        }
        match DirBuilder::new().mode(mode).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.check_folder(),
        }
    }

    /// Whether the folder may be trusted: it must be there, and its user's alone where others could
    /// have made it.
    ///
    /// # Errors
    /// As [`Self::make_folder`].
    pub fn check_folder(&self) -> io::Result<()> {
        let (Some(folder), Some(uid)) = (self.socket.parent(), self.only_for) else { return Ok(()) };
        let found = fs::symlink_metadata(folder)?;
        if found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0 {
            return Ok(());
        }
        let message = format!("{} is not a folder of this user alone (mode 0700)", folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const UNIT: &str = "/run/causeway-forwarder/forwarder.sock";

    #[test]
    fn a_users_own_file_comes_before_the_machines() {
        let user = Environment { uid: 1000, home: Some("/home/kyiv".into()), ..Environment::default() };
        let own = Path::new("/home/kyiv/.config/causeway/forwarder.toml");
        assert_eq!(user.configs(), [own, Path::new("/etc/causeway/forwarder.toml")]);
        let root = Environment { uid: 0, ..user };
        assert_eq!(root.configs(), [Path::new("/etc/causeway/forwarder.toml")]);
        let mac = Environment { is_mac: true, ..root };
        assert_eq!(mac.configs(), [Path::new("/usr/local/etc/causeway/forwarder.toml")]);
    }

    #[test]
    fn under_systemd_both_folders_are_systemds() {
        let unit = Environment {
            uid: 998,
            runtime_directory: Some("/run/causeway-forwarder".into()),
            state_directory: Some("/var/lib/causeway-forwarder".into()),
            home: Some("/var/lib/causeway-forwarder".into()),
            ..Environment::default()
        };
        assert_eq!(paths(&unit.sockets(None)).first().map(String::as_str), Some(UNIT));
        assert_eq!(unit.state_folder(None), Path::new("/var/lib/causeway-forwarder"));
    }

    #[test]
    fn root_uses_the_units_folders_whatever_session_it_came_from() {
        let root = Environment { uid: 0, ..kyivs_user() };
        assert_eq!(paths(&root.sockets(None)), [UNIT, "/var/lib/causeway-forwarder/forwarder.sock"]);
        let mac = Environment { is_mac: true, ..root };
        let expected =
            ["/var/run/causeway-forwarder/forwarder.sock", "/usr/local/var/causeway/forwarder.sock"];
        assert_eq!(paths(&mac.sockets(None)), expected);
    }

    #[test]
    fn a_user_with_a_session_uses_its_folder_and_without_one_the_next() {
        let session = kyivs_user();
        let tmpdir = "/tmp/causeway-1000/forwarder.sock";
        let state = "/home/kyiv/.local/state/causeway/forwarder.sock";
        assert_eq!(paths(&session.sockets(None)), ["/run/user/1000/causeway/forwarder.sock", tmpdir, state]);
        let without = Environment { xdg_runtime_dir: None, ..session };
        assert_eq!(paths(&without.sockets(None)), [tmpdir, state]);
        assert_eq!(paths(&Environment { tmpdir: None, ..without }.sockets(None)), [state]);
    }

    #[test]
    fn only_a_folder_below_one_that_others_write_is_checked() {
        let checked: Vec<_> =
            kyivs_user().sockets(None).iter().map(|place| place.only_for.is_some()).collect();
        assert_eq!(checked, [false, true, false]);
    }

    #[test]
    fn a_command_looks_where_the_users_own_daemon_is_and_then_where_the_machines_is() {
        let user = kyivs_user();
        let tried = paths(&user.client_sockets(None));
        assert!(tried.starts_with(&paths(&user.sockets(None))));
        assert_eq!(tried.last().map(String::as_str), Some(UNIT));
        let root = Environment { uid: 0, ..user };
        assert_eq!(root.client_sockets(None), root.sockets(None));
    }

    #[test]
    fn the_state_is_where_the_specification_says_and_somewhere_even_without_a_home() {
        let user = kyivs_user();
        let state = Environment { xdg_state_home: Some("/data/state".into()), ..user.clone() };
        assert_eq!(state.state_folder(None), Path::new("/data/state/causeway"));
        let homeless = Environment { home: None, ..user };
        assert_eq!(homeless.state_folder(None), Path::new("/var/lib/causeway-forwarder"));
    }

    #[test]
    fn a_folder_that_another_user_prepared_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let place =
            |name: &str, uid| Place { socket: tmp.path().join(name).join(SOCKET), only_for: Some(uid) };
        let own = place("own", uid);
        own.make_folder().unwrap();
        own.make_folder().unwrap();
        assert_eq!(fs::metadata(tmp.path().join("own")).unwrap().mode() & 0o777, 0o700);
        symlink(tmp.path().join("own"), tmp.path().join("link")).unwrap();
        fs::create_dir(tmp.path().join("open")).unwrap();
        fs::set_permissions(tmp.path().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
        for refused in [place("link", uid), place("open", uid), place("own", uid + 1)] {
            let error = refused.make_folder().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{refused:?}");
        }
    }

    fn kyivs_user() -> Environment {
        Environment {
            uid: 1000,
            xdg_runtime_dir: Some("/run/user/1000".into()),
            home: Some("/home/kyiv".into()),
            tmpdir: Some("/tmp".into()),
            ..Environment::default()
        }
    }

    fn paths(places: &[Place]) -> Vec<String> {
        places.iter().map(|place| place.socket.display().to_string()).collect()
    }

    /// A folder that not even root can make.
    const NOWHERE: &str = "/proc/causeway/forwarder.sock";

    #[test]
    fn the_first_place_that_can_be_used_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path().join("new/forwarder.sock"));
        let bound =
            bind_first(&[Place::at(NOWHERE.into()), place.clone()], &mut Descriptors::default()).unwrap();
        assert_eq!(bound.path(), place.socket);
    }

    #[test]
    fn another_daemon_is_never_passed_over_for_the_next_place() {
        let folder = tempfile::tempdir().unwrap();
        let places = ["first", "second"].map(|name| Place::at(folder.path().join(name).join("a.sock")));
        let _running = bind_first(&places, &mut Descriptors::default()).unwrap();
        let error = bind_first(&places, &mut Descriptors::default()).unwrap_err();
        assert_eq!(error.exit, Exit::Conflict, "{error}");
    }

    #[test]
    fn a_daemon_without_any_place_names_each_and_the_key_that_fixes_it() {
        let places = [NOWHERE, "/proc/other/forwarder.sock"].map(|path| Place::at(path.into()));
        let said = bind_first(&places, &mut Descriptors::default()).unwrap_err().to_string();
        assert!(said.contains("[control] socket"), "{said}");
        assert!(said.contains("/proc/causeway") && said.contains("/proc/other"), "{said}");
    }
}

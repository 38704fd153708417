//! The commands' side of the control socket.

use std::path::Path;

use daemon::changes::{ChangeReply, ChangeRequest};
use daemon::control::client::{self, AskError};
use daemon::exit::{Exit, ExitError};
use daemon::history::{Page, Query};
use daemon::link::history::FarHistory;

use super::protocol::{Reply, Request};

/// Where the daemon listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/causeway/gateway.sock";

/// Sends the daemon one request.
///
/// # Errors
/// [`daemon::exit::Exit::Unreachable`] when no daemon answers, [`daemon::exit::Exit::Permission`]
/// when this user may not ask, else the daemon's own error.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, ExitError> {
    client::ask(socket, request).map_err(|error| {
        let fix = match &error {
            AskError::Unreachable { .. } if error.is_denied() => {
                "; run it as root, or join the group: usermod -aG causeway $USER"
            }
            AskError::Unreachable { .. } => {
                "; is the daemon running? systemctl status gateway, or --socket PATH for another one"
            }
            AskError::NotUnderstood(_) | AskError::Failed(_) => "",
        };
        ExitError::new(error.exit(), format!("{error}{fix}"))
    })
}

/// Sends the daemon a request about changes of the configuration.
///
/// # Errors
/// As for [`ask`].
pub fn ask_change(socket: &Path, request: &ChangeRequest) -> Result<ChangeReply, ExitError> {
    match ask(socket, &Request::Change(request.clone()))? {
        Reply::Change(reply) => Ok(reply),
        _ => Err(ExitError::new(Exit::Failed, "the daemon sent the answer to another request")),
    }
}

/// What happened at the daemon's end.
///
/// # Errors
/// As for [`ask`].
pub fn ask_history(socket: &Path, query: Query) -> Result<Page, ExitError> {
    match ask(socket, &Request::History(query))? {
        Reply::History(page) => Ok(page),
        _ => Err(ExitError::new(Exit::Failed, "the daemon sent the answer to another request")),
    }
}

/// What happened at the peers in so many seconds until now.
///
/// # Errors
/// As for [`ask`].
pub fn ask_far_history(socket: &Path, seconds: u64) -> Result<Vec<FarHistory>, ExitError> {
    match ask(socket, &Request::FarHistory { seconds })? {
        Reply::FarHistory(histories) => Ok(histories),
        _ => Err(ExitError::new(Exit::Failed, "the daemon sent the answer to another request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_exit_three_with_a_hint() {
        let error = ask(Path::new("/nonexistent/gateway.sock"), &Request::Peers).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.message.contains("--socket"));
    }
}

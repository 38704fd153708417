//! The edge's own key pair: the one that is there, or a new one.

use std::path::Path;

use daemon::exit::ExitError;
use tunnel::key::PublicKey;

use crate::join::keys::{daemon_user, folder_of, read_or_make};

use super::text::KEY;

/// The daemon's user.
const USER: &str = "causeway";

/// The public half of the key next to this configuration, which is made if it is not there; and
/// whether it was.
///
/// # Errors
/// What the file system says, or the mode of the file.
pub(super) fn read_or_make_next_to(config: &Path) -> Result<(PublicKey, bool), ExitError> {
    let path = folder_of(config).join(KEY);
    let is_new = !path.exists();
    Ok((read_or_make(&path, daemon_user(USER))?, is_new))
}

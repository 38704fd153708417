//! Rules for files that hold secrets: closed to others, ours, and unknown to git.

/// What is wrong with a secret file, and the command that fixes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileError {
    /// Group or others may read or write it.
    #[error("{path} has mode {mode:04o}, so others can read it: chmod 600 {path}")]
    Open {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{path} belongs to uid {owner}, not to you ({me}): sudo chown {me} {path}")]
    Foreign {
        /// The file.
        path: String,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        me: u32,
    },
    /// git has it in its index or in HEAD.
    #[error("{path} is tracked by git: git rm --cached {path}")]
    Tracked {
        /// The file.
        path: String,
    },
}

/// Judges a secret file's mode and owner; root may read those of every user.
#[must_use]
pub fn judge(path: &str, mode: u32, owner: u32, me: u32) -> Option<SecretFileError> {
    if mode & 0o077 != 0 {
        return Some(SecretFileError::Open { path: path.to_owned(), mode: mode & 0o7777 });
    }
    (me != 0 && owner != me).then(|| SecretFileError::Foreign { path: path.to_owned(), owner, me })
}

/// The lines a location's `.gitignore` lacks; `ignored` says what git ignores already.
#[must_use]
pub fn missing_ignores(present: &str, rendered: &[&str], ignored: &dyn Fn(&str) -> bool) -> Vec<String> {
    let fixed = ["/.env.user", "/.env.generated", "/.stack/"].map(str::to_owned);
    let outputs = rendered.iter().map(|path| format!("/{path}"));
    fixed
        .into_iter()
        .chain(outputs)
        .filter(|line| !present.lines().any(|there| there.trim() == line))
        .filter(|line| !ignored(line.trim_start_matches('/')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_closed_and_ours() {
        assert_eq!(judge("f", 0o600, 1000, 1000), None);
        assert_eq!(judge("f", 0o400, 1000, 0), None);
        let open = judge("f", 0o100_640, 1000, 1000).map(|c| c.to_string());
        assert_eq!(open.as_deref(), Some("f has mode 0640, so others can read it: chmod 600 f"));
        assert!(matches!(judge("f", 0o600, 0, 1000), Some(SecretFileError::Foreign { .. })));
    }

    #[test]
    fn only_missing_lines_are_added_to_gitignore() {
        let missing = missing_ignores("/.stack/\n*.log\n", &["caddy/Caddyfile", "x.log"], &|path| {
            path.ends_with(".log")
        });
        assert_eq!(missing, ["/.env.user", "/.env.generated", "/caddy/Caddyfile"]);
    }
}

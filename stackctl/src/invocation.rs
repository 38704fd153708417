//! The command line and environment with which Compose is called.

use std::path::{Path, PathBuf};

use crate::vars::Vars;

/// What a child process may know of the caller's environment.
const PASSED: [&str; 10] = [
    "PATH",
    "HOME",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "TMPDIR",
];

/// One service's Compose project: which files, variables and folders it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The project's name, which is the service's.
    pub name: String,
    /// The folder of the first file.
    pub project_dir: PathBuf,
    /// Base, override, and the labels when there are any.
    pub files: Vec<PathBuf>,
    /// The env files, later ones winning; without any, Compose looks for its own `.env`.
    pub env_files: Vec<PathBuf>,
    /// The location: working directory and `PWD`.
    pub workdir: PathBuf,
}

impl Project {
    /// `docker` arguments that run a Compose verb on this project.
    #[must_use]
    pub fn arguments(&self, verb: &[&str]) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut argv = vec!["compose".to_owned(), "--project-name".into(), self.name.clone()];
        argv.extend(["--project-directory".into(), path(&self.project_dir)]);
        for file in &self.env_files {
            argv.extend(["--env-file".into(), path(file)]);
        }
        for file in &self.files {
            argv.extend(["--file".into(), path(file)]);
        }
        argv.extend(verb.iter().map(|word| (*word).to_owned()));
        argv
    }

    /// The command as a person would type it.
    #[must_use]
    pub fn shown(&self, verb: &[&str]) -> String {
        let words = self.arguments(verb);
        let quoted = words.iter().map(|word| quote_for_shell(word));
        let command = std::iter::once("docker".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ");
        let dir = quote_for_shell(&self.workdir.to_string_lossy());
        format!("cd {dir} && env -i PATH=\"$PATH\" HOME=\"$HOME\" PWD={dir} {command}")
    }
}

/// The environment of a child: a few of the caller's variables, `PWD`, and nothing that an env file defines.
///
/// Compose lets the process environment win over env files, so whatever passed here would change the project.
/// `PATH` alone stays even then, since without it no program is found.
pub fn environment(
    caller: impl IntoIterator<Item = (String, String)>,
    vars: &Vars,
    workdir: &Path,
) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = caller
        .into_iter()
        .filter(|(name, _)| PASSED.contains(&name.as_str()))
        .filter(|(name, _)| name == "PATH" || vars.find(name).is_none())
        .collect();
    kept.push(("PWD".into(), workdir.to_string_lossy().into_owned()));
    kept.sort();
    kept
}

/// A word that `sh` reads back as it is.
#[must_use]
pub fn quote_for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Stack, envfile};

    #[test]
    fn files_come_in_order_and_the_project_is_the_service() {
        let project = Project {
            name: "caddy".into(),
            project_dir: "/t/_base".into(),
            files: vec!["/t/_base/caddy.yaml".into(), "/t/wroclaw/caddy.yaml".into()],
            env_files: vec!["/t/wroclaw/.stack/caddy/compose.env".into()],
            workdir: "/t/wroclaw".into(),
        };
        assert_eq!(
            project.arguments(&["up", "-d"]).join(" "),
            "compose --project-name caddy --project-directory /t/_base --env-file /t/wroclaw/.stack/caddy/compose.env \
             --file /t/_base/caddy.yaml --file /t/wroclaw/caddy.yaml up -d"
        );
        assert!(project.shown(&["ps"]).starts_with("cd /t/wroclaw && env -i "));
    }

    #[test]
    fn nothing_of_the_caller_reaches_compose_but_what_docker_itself_needs() {
        let vars = Vars::join(&envfile::parse("HOME=/x\n").expect("readable"), &[], &Stack::default())
            .expect("joined");
        let caller = [
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("TAG", "evil"),
            ("DOCKER_HOST", "unix:///d"),
            ("PWD", "/old"),
        ];
        let caller = caller.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let kept = environment(caller, &vars, Path::new("/t/kyiv"));
        let names: Vec<_> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["DOCKER_HOST=unix:///d", "PATH=/bin", "PWD=/t/kyiv"]);
    }

    #[test]
    fn words_are_quoted_only_where_the_shell_would_change_them() {
        assert_eq!(quote_for_shell("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quote_for_shell("it's $x"), "'it'\\''s $x'");
        assert_eq!(quote_for_shell(""), "''");
    }
}

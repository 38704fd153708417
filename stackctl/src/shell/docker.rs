//! Docker and its Compose v2 plugin, driven through their command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use serde::Deserialize;
use serde_json::Value;

use super::process::{Call, error_output};
use crate::fault::Fault;
use crate::health::{Look, seconds_of};
use crate::invocation::Project;
use crate::model::Model;

/// Docker, as the given environment reaches it.
pub struct Docker {
    environment: Vec<(String, String)>,
}

/// A container as Docker knows it.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct Running {
    /// Its whole id.
    pub id: String,
    /// Its name, with a slash before it.
    pub name: String,
    /// The id of the image it runs.
    pub image: String,
    /// Its labels and its image's name.
    pub config: RunningConfig,
    /// What it does now.
    pub state: State,
    /// What happens when it ends.
    pub host_config: HostConfig,
    /// How often Docker started it again since it was made or started by hand.
    #[serde(default)]
    pub restart_count: u64,
    /// What is mounted where.
    #[serde(default)]
    pub mounts: Vec<Mounted>,
}

/// One mount of a container.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct Mounted {
    /// The path on this machine.
    #[serde(default)]
    pub source: String,
    /// Where the container sees it.
    #[serde(default)]
    pub destination: String,
}

/// The part of a container's definition that stackctl looks at.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct RunningConfig {
    /// The image's name.
    #[serde(default)]
    pub image: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its environment, each as `NAME=value`.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Its command.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
}

/// What a container does now.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    /// `running`, `exited`, `restarting`…
    pub status: String,
    /// Its last exit code.
    #[serde(default)]
    pub exit_code: i64,
    /// Its health, when it has a check.
    #[serde(default)]
    pub health: Option<Health>,
    /// When it was last started.
    #[serde(default)]
    pub started_at: String,
    /// Why Docker could not start it.
    #[serde(default)]
    pub error: String,
}

/// A container's health.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
}

/// The part of the host's settings that stackctl looks at.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    /// When it is started again.
    #[serde(default)]
    pub restart_policy: Option<RestartPolicy>,
    /// Published ports: by `PORT/PROTOCOL`, the addresses of this machine.
    #[serde(default)]
    pub port_bindings: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

/// One address of this machine on which a container's port is published.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct Binding {
    /// The address; empty for all.
    #[serde(default)]
    pub host_ip: String,
    /// The port.
    #[serde(default)]
    pub host_port: String,
}

/// When a container is started again.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped` or `on-failure`.
    #[serde(default)]
    pub name: String,
    /// After how many restarts `on-failure` gives up; 0 for never.
    #[serde(default)]
    pub maximum_retry_count: u64,
}

impl Running {
    /// A label's value.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// The Compose service it belongs to.
    #[must_use]
    pub fn service(&self) -> &str {
        self.label("com.docker.compose.service").unwrap_or_default()
    }

    /// Whether it is one of `docker compose run`, which no `up` asks for.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        self.label("com.docker.compose.oneoff").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Whether Docker starts it again after it ended as it did.
    #[must_use]
    pub fn restarts(&self) -> bool {
        let Some(policy) = &self.host_config.restart_policy else { return false };
        let given_up = policy.maximum_retry_count > 0 && self.restart_count >= policy.maximum_retry_count;
        match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => self.state.exit_code != 0 && !given_up,
            _ => false,
        }
    }

    /// What the health judgement needs of it, at `now` in seconds since 1970.
    #[must_use]
    pub fn look(&self, now: u64) -> Look<'_> {
        Look {
            service: self.service(),
            status: &self.state.status,
            health: self.health(),
            exit_code: self.state.exit_code,
            error: &self.state.error,
            restarts: self.restarts(),
            restarted: self.restart_count,
            up_for: seconds_of(&self.state.started_at).map(|started| now.saturating_sub(started)),
        }
    }

    /// Its health in one word: `healthy`, `unhealthy`, `starting`, or `-` without a check.
    #[must_use]
    pub fn health(&self) -> &str {
        self.state.health.as_ref().map_or("-", |health| health.status.as_str())
    }
}

impl Docker {
    /// Docker as `environment` reaches it.
    #[must_use]
    pub fn new(environment: Vec<(String, String)>) -> Self {
        Self { environment }
    }

    /// The environment every call gets.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Checks that Compose v2 is there and the engine answers; the versions of both.
    pub fn versions(&self, dir: &Path) -> Result<(String, String), Fault> {
        let compose = self.compose_version(dir)?;
        let engine = self.say(dir, &["version", "--format", "{{.Server.Version}}"])?;
        if !engine.status.success() {
            let hint = if cfg!(target_os = "macos") { " (start it with: open -a Docker)" } else { "" };
            return Err(Fault::Unreachable(format!(
                "Docker does not answer{hint}: {}",
                error_output(&engine)
            )));
        }
        Ok((compose, String::from_utf8_lossy(&engine.stdout).trim().to_owned()))
    }

    /// Checks that Compose v2 is there; its version.
    pub fn compose_version(&self, dir: &Path) -> Result<String, Fault> {
        let plugin = self.say(dir, &["compose", "version", "--short"])?;
        let version = String::from_utf8_lossy(&plugin.stdout).trim().trim_start_matches('v').to_owned();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if plugin.status.success() && major.is_some_and(|major| major >= 2) {
            return Ok(version);
        }
        let arguments = ["version".to_owned(), "--short".to_owned()];
        let old = Call {
            program: "docker-compose",
            arguments: &arguments,
            environment: &self.environment,
            workdir: dir,
        };
        let old = old.capture().ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Err(Fault::Failed(match old.filter(|version| version.starts_with("1.")) {
            Some(version) => format!(
                "docker-compose {version} is Compose v1, which cannot do what stackctl needs: install the Compose v2 plugin, so that `docker compose version` answers"
            ),
            None => "the Compose v2 plugin is missing: install it, so that `docker compose version` answers"
                .into(),
        }))
    }

    /// A project's model; an invalid one is exit 4, with what Compose says of it.
    pub fn model(&self, project: &Project) -> Result<Model, Fault> {
        let output = self.compose(project, &["config", "--format", "json"])?;
        if !output.status.success() {
            return Err(Fault::Invalid(format!(
                "{}: Compose refuses it: {}",
                project.name,
                error_output(&output)
            )));
        }
        let mut model = Model::parse(&output.stdout)
            .map_err(|error| Fault::Failed(format!("docker compose config: {error}")))?;
        model.unset = crate::model::unset(&String::from_utf8_lossy(&output.stderr));
        Ok(model)
    }

    /// A project's model as Compose prints it.
    pub fn config(&self, project: &Project, options: &[&str]) -> Result<Result<Value, String>, Fault> {
        let verb: Vec<&str> = ["config", "--format", "json"].iter().chain(options).copied().collect();
        let output = self.compose(project, &verb)?;
        if !output.status.success() {
            return Ok(Err(error_output(&output)));
        }
        let value = serde_json::from_slice(&output.stdout);
        value.map(Ok).map_err(|error| Fault::Failed(format!("docker compose config: {error}")))
    }

    /// The names of the containers that Compose would make again, by its own word; `None` when it has none.
    ///
    /// Its `config --hash` is no such word: it leaves out what an `env_file` says and whose network a container is in.
    pub fn would_recreate(&self, project: &Project) -> Result<Option<BTreeSet<String>>, Fault> {
        let mut arguments = project.arguments(&["create", "--pull", "never"]);
        arguments.insert(1, "--dry-run".to_owned());
        let output = self.call(&arguments, &project.workdir).capture().map_err(no_docker)?;
        if !output.status.success() {
            return Ok(None);
        }
        let said = [output.stdout, output.stderr].concat();
        Ok(Some(recreated(&String::from_utf8_lossy(&said))))
    }

    /// The hash Compose would give each container of a project whose definitions are resolved.
    pub fn wanted_hashes(&self, project: &Project) -> Result<BTreeMap<String, String>, Fault> {
        let output = self.compose(project, &["config", "--hash", "*"])?;
        if !output.status.success() {
            return Err(Fault::Invalid(format!(
                "{}: Compose refuses it: {}",
                project.name,
                error_output(&output)
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(n, h)| (n.to_owned(), h.trim().to_owned()))
            .collect())
    }

    /// The containers of a project (or of every project), running or not.
    pub fn containers(&self, dir: &Path, project: Option<&str>) -> Result<Vec<Running>, Fault> {
        let label = "label=com.docker.compose.project";
        let filter = project.map_or_else(|| label.to_owned(), |name| format!("{label}={name}"));
        let listed = self.good(dir, &["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])?;
        let ids: Vec<&str> = listed.lines().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let arguments: Vec<&str> = ["container", "inspect"].into_iter().chain(ids).collect();
        // A container that ended between the two calls makes inspect fail, yet it prints the others.
        let output = self.say(dir, &arguments)?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Fault::Failed(format!("docker inspect: {error}")))
    }

    /// The names of a project's volumes.
    pub fn volumes(&self, dir: &Path, project: &str) -> Result<Vec<String>, Fault> {
        let filter = format!("label=com.docker.compose.project={project}");
        let listed = self.good(dir, &["volume", "ls", "--quiet", "--filter", &filter])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Whether a volume of exactly this name exists; an engine that does not answer is no "no".
    pub fn has_volume(&self, dir: &Path, name: &str) -> Result<bool, Fault> {
        let filter = format!("name={name}");
        let listed = self.good(dir, &["volume", "ls", "--quiet", "--filter", &filter])?;
        Ok(listed.lines().any(|line| line == name))
    }

    /// The content's name of a local image.
    pub fn image_id(&self, dir: &Path, name: &str) -> Option<String> {
        let output = self.say(dir, &["image", "inspect", "--format", "{{.Id}}", name]).ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A container's last lines: those since its last start, else the last of all.
    pub fn last_lines(&self, dir: &Path, container: &Running, count: usize) -> String {
        let tail = count.to_string();
        let logs = |since: &[&str]| {
            let words: Vec<&str> = ["logs", "--tail", &tail]
                .iter()
                .chain(since)
                .copied()
                .chain([container.id.as_str()])
                .collect();
            let output = self.say(dir, &words);
            let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let recent = logs(&["--since", &container.state.started_at]);
        if recent.trim().is_empty() { last_of_each(&logs(&[])) } else { recent }
    }

    /// Runs a Compose verb and keeps what it says.
    pub fn compose(&self, project: &Project, verb: &[&str]) -> Result<Output, Fault> {
        let arguments = project.arguments(verb);
        self.call(&arguments, &project.workdir).capture().map_err(no_docker)
    }

    /// Runs a Compose verb whose progress belongs on standard error; failure is exit 1.
    pub fn compose_aside(&self, project: &Project, verb: &[&str]) -> Result<(), Fault> {
        let arguments = project.arguments(verb);
        let status = self.call(&arguments, &project.workdir).run_aside().map_err(no_docker)?;
        let word = verb.first().copied().unwrap_or_default();
        if status.success() {
            Ok(())
        } else {
            Err(Fault::Failed(format!("docker compose {word} ended with {status}")))
        }
    }

    /// As [`Self::compose_aside`], but ends it as soon as `look` finds a fault.
    pub fn compose_watched(
        &self,
        project: &Project,
        verb: &[&str],
        look: &mut dyn FnMut() -> Option<Fault>,
    ) -> Result<(), Fault> {
        let arguments = project.arguments(verb);
        let mut found = None;
        let status = self
            .call(&arguments, &project.workdir)
            .run_watched(&mut || {
                found = look();
                found.is_some()
            })
            .map_err(no_docker)?;
        let word = verb.first().copied().unwrap_or_default();
        match found {
            Some(fault) => Err(fault),
            None if status.success() => Ok(()),
            None => Err(Fault::Failed(format!("docker compose {word} ended with {status}"))),
        }
    }

    /// Runs a Compose verb with the terminal as its own.
    pub fn compose_in_front(&self, project: &Project, verb: &[&str]) -> Result<(), Fault> {
        let arguments = project.arguments(verb);
        let status = self.call(&arguments, &project.workdir).run().map_err(no_docker)?;
        let word = verb.first().copied().unwrap_or_default();
        if status.success() {
            Ok(())
        } else {
            Err(Fault::Failed(format!("docker compose {word} ended with {status}")))
        }
    }

    /// Runs a plain docker command that must succeed; its output.
    pub fn good(&self, dir: &Path, arguments: &[&str]) -> Result<String, Fault> {
        let output = self.say(dir, arguments)?;
        if !output.status.success() {
            let text = error_output(&output);
            let unreachable =
                text.contains("annot connect to the Docker daemon") || text.contains("error during connect");
            return Err(if unreachable { Fault::Unreachable(text) } else { Fault::Failed(text) });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn say(&self, dir: &Path, arguments: &[&str]) -> Result<Output, Fault> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.call(&arguments, dir).capture().map_err(no_docker)
    }

    fn call<'c>(&'c self, arguments: &'c [String], workdir: &'c Path) -> Call<'c> {
        Call { program: "docker", arguments, environment: &self.environment, workdir }
    }
}

/// The lines of a text, each that comes again only where it comes last.
fn last_of_each(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let again = |at: usize, line: &str| lines.iter().skip(at + 1).any(|later| *later == line);
    let kept = lines.iter().enumerate().filter(|(at, line)| !again(*at, line));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// The containers that a dry run of Compose says it would make again.
fn recreated(said: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let mut words = line.split("Container ").nth(1)?.split_whitespace();
        let (name, what) = (words.next()?, words.next()?);
        what.starts_with("Recreate").then(|| name.to_owned())
    };
    said.lines().filter_map(line).collect()
}

fn no_docker(error: std::io::Error) -> Fault {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Fault::Unreachable(
            "there is no docker on the PATH: install Docker with the Compose v2 plugin".into(),
        );
    }
    Fault::Failed(format!("docker: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_life_of_a_container_says_is_shown_once() {
        assert_eq!(last_of_each("start 1\nboom\nstart 2\nboom\n"), "start 1\nstart 2\nboom\n");
    }

    #[test]
    fn composes_dry_run_names_what_it_would_make_again() {
        let said = " DRY-RUN MODE -  Container web-web-1  Running\n DRY-RUN MODE -  Container web-db-1  Recreate\n \
                    DRY-RUN MODE -  Container web-db-1  Recreated\n DRY-RUN MODE -  Network web_default  Creating\n";
        assert_eq!(recreated(said), ["web-db-1".to_owned()].into());
    }
}

//! What `docker compose config --format json` says of a project, as far as stackctl needs it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroizing;

/// A whole project; keys that are not listed here are none of stackctl's business.
#[derive(Deserialize)]
pub struct Model {
    /// Its containers' definitions.
    #[serde(default)]
    pub services: BTreeMap<String, Container>,
    /// Top-level configs.
    #[serde(default)]
    pub configs: BTreeMap<String, FileObject>,
    /// Top-level secrets.
    #[serde(default)]
    pub secrets: BTreeMap<String, FileObject>,
    /// Top-level volumes.
    #[serde(default)]
    pub volumes: BTreeMap<String, Volume>,
    /// Top-level networks.
    #[serde(default)]
    pub networks: BTreeMap<String, Volume>,
    /// Variables that have neither a value nor a default: Compose made them empty.
    #[serde(skip)]
    pub unset: Vec<String>,
    /// Names of `{{NAME}}` that are left in it.
    #[serde(skip)]
    pub left: Vec<String>,
    /// Compose's answer itself: the definition with everything in it that Compose read.
    #[serde(skip)]
    pub json: Zeroizing<Vec<u8>>,
}

/// One container's definition.
#[derive(Deserialize, Default)]
pub struct Container {
    /// The image's name.
    #[serde(default)]
    pub image: Option<String>,
    /// Its mounts.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Configs it uses.
    #[serde(default)]
    pub configs: Vec<Used>,
    /// Secrets it uses.
    #[serde(default)]
    pub secrets: Vec<Used>,
    /// How many of it run; absent means one.
    #[serde(default)]
    pub scale: Option<u32>,
    /// How it is deployed.
    #[serde(default)]
    pub deploy: Option<Deploy>,
    /// Its environment; a variable without value is none.
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
}

/// The part of `deploy` that stackctl looks at.
#[derive(Deserialize)]
pub struct Deploy {
    /// How many of it run; absent means one.
    #[serde(default)]
    pub replicas: Option<u32>,
}

impl Container {
    /// Whether one of it is to run at all.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let replicas = self.deploy.as_ref().and_then(|deploy| deploy.replicas);
        self.scale.or(replicas) != Some(0)
    }
}

/// One mount of a container.
#[derive(Deserialize)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A path for a bind mount, a volume's key for a volume.
    #[serde(default)]
    pub source: String,
    /// Where the container sees it.
    #[serde(default)]
    pub target: String,
    /// Whether the container may not write.
    #[serde(default)]
    pub read_only: bool,
}

/// A config or secret that a container uses.
#[derive(Deserialize)]
pub struct Used {
    /// Its key at the top level.
    #[serde(default)]
    pub source: String,
}

/// A top-level config or secret.
#[derive(Deserialize)]
pub struct FileObject {
    /// The file it is made of, if it is made of one.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The variable it is made of, if it is made of one.
    #[serde(default)]
    pub environment: Option<String>,
}

/// A top-level volume or network.
#[derive(Deserialize)]
pub struct Volume {
    /// The name Docker knows it by.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether something else makes it.
    #[serde(default)]
    pub external: bool,
}

/// The variables that Compose says are not set, from its warnings.
#[must_use]
pub fn unset(warnings: &str) -> Vec<String> {
    let name = |before: &str| {
        let word = before.trim_end().rsplit(' ').next()?.trim_matches(['\\', '"']);
        crate::envfile::is_name(word).then(|| word.to_owned())
    };
    let mut names: Vec<String> = Vec::new();
    for line in warnings.lines() {
        let Some((before, _)) = line.split_once("variable is not set") else { continue };
        names.extend(name(before).filter(|name| !names.contains(name)));
    }
    names
}

/// A path of this machine whose content a container sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// The path on this machine.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: String,
    /// Whether the container may not write there.
    pub read_only: bool,
}

impl Model {
    /// Reads Compose's answer.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut model: Self = serde_json::from_slice(json)?;
        let names = crate::template::placeholders(json).into_iter().map(|found| found.name.to_owned());
        model.left = names.collect();
        model.json = Zeroizing::new(json.to_vec());
        Ok(model)
    }

    /// Every path of this machine that a container of this definition sees, in a fixed order.
    #[must_use]
    pub fn seen_by(&self, container: &Container) -> Vec<Seen> {
        let binds = container.volumes.iter().filter(|mount| mount.kind == "bind").map(|mount| Seen {
            source: PathBuf::from(&mount.source),
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
        let objects = [(&container.configs, &self.configs), (&container.secrets, &self.secrets)];
        let files = objects.into_iter().flat_map(|(used, all)| {
            used.iter().filter_map(|used| {
                let source = all.get(&used.source)?.file.clone()?;
                Some(Seen { source, target: used.source.clone(), read_only: true })
            })
        });
        let mut seen: Vec<Seen> = binds.chain(files).collect();
        seen.sort();
        seen
    }

    /// The variables that configs and secrets are made of: the definition has their names, not their values.
    pub fn variables_of_objects(&self) -> impl Iterator<Item = &str> {
        let objects = self.configs.values().chain(self.secrets.values());
        objects.filter_map(|object| object.environment.as_deref())
    }

    /// The names of the project's own volumes, as Docker knows them.
    pub fn volume_names(&self) -> impl Iterator<Item = &str> {
        self.volumes.values().filter(|volume| !volume.external).filter_map(|volume| volume.name.as_deref())
    }

    /// Where a container keeps data: volumes by their name, folders by their path.
    #[must_use]
    pub fn data_of(&self, container: &Container) -> Vec<String> {
        let writable = container.volumes.iter().filter(|mount| !mount.read_only && !mount.source.is_empty());
        let place = |mount: &Mount| match mount.kind.as_str() {
            "volume" => self.volumes.get(&mount.source).and_then(|volume| volume.name.clone()),
            // A target with an ending is a file: configuration, a socket, a device.
            "bind" if !mount.target.rsplit('/').next().is_some_and(|last| last.contains('.')) => {
                Some(mount.source.clone())
            }
            _ => None,
        };
        writable.filter_map(place).collect()
    }

    /// The names of networks and volumes that others must have made.
    #[must_use]
    pub fn external_names(&self) -> Vec<&str> {
        let all = self.networks.values().chain(self.volumes.values());
        all.filter(|one| one.external).filter_map(|one| one.name.as_deref()).collect()
    }

    /// Whether the project makes a network or volume of one of these names.
    #[must_use]
    pub fn owns(&self, names: &[&str]) -> bool {
        let mut all = self.networks.values().chain(self.volumes.values());
        all.any(|one| !one.external && one.name.as_deref().is_some_and(|name| names.contains(&name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composes_warnings_name_the_variables_without_value() {
        let said = "time=\"2026-11-29T19:48:33Z\" level=warning msg=\"The \\\"AAA\\\" variable is not set. Defaulting to a blank string.\"\n\
                    WARN[0000] The \"BBB\" variable is not set. Defaulting to a blank string. \nother\n";
        assert_eq!(unset(said), ["AAA", "BBB"]);
    }

    #[test]
    fn what_is_scaled_to_nothing_is_not_wanted() {
        let parse = |json: &str| serde_json::from_str::<Container>(json).expect("readable").is_wanted();
        assert!(parse("{}") && parse(r#"{"deploy":{}}"#) && parse(r#"{"scale":2}"#));
        assert!(!parse(r#"{"scale":0}"#) && !parse(r#"{"deploy":{"replicas":0}}"#));
    }

    #[test]
    fn binds_configs_and_secrets_are_what_a_container_sees() {
        let model = Model::parse(
            br#"{"name":"m","services":{"a":{"image":"x","environment":{"A":"1"},
              "volumes":[{"type":"volume","source":"data","target":"/data"},{"type":"bind","source":"/t/f","target":"/etc/f","read_only":true}],
              "configs":[{"source":"c"}],"secrets":[{"source":"s"}]}},
              "configs":{"c":{"name":"m_c","file":"/t/c"}},"secrets":{"s":{"environment":"X"}},"volumes":{"data":{"name":"m_data"}}}"#,
        )
        .expect("readable");
        let seen: Vec<_> = model.seen_by(&model.services["a"]).into_iter().map(|s| s.source).collect();
        assert_eq!(seen, [PathBuf::from("/t/c"), PathBuf::from("/t/f")]);
        assert_eq!(model.volume_names().collect::<Vec<_>>(), ["m_data"]);
    }
}

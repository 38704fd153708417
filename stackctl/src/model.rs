//! What `docker compose config --format json` says of a project, as far as stackctl needs it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

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
}

/// A top-level volume.
#[derive(Deserialize)]
pub struct Volume {
    /// The name Docker knows it by.
    #[serde(default)]
    pub name: Option<String>,
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
        serde_json::from_slice(json)
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

    /// The names of the project's volumes, as Docker knows them.
    pub fn volume_names(&self) -> impl Iterator<Item = &str> {
        self.volumes.values().filter_map(|volume| volume.name.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

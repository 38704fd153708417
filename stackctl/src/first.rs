//! The first `stack.toml` of a tree: kinds from values and names, volumes and order from Compose's models, actions from
//! images and scripts.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::envfile::literal_line;
use crate::model::{Container, Model};
use crate::secret::{HashKind, Hidden, named_like_a_secret, verify};

/// What a service of the tree is made of.
#[derive(Default)]
pub struct Facts {
    /// Its model, where Compose could make one.
    pub model: Option<Model>,
    /// The variables of each container's environment: container, key, variable.
    pub environment: Vec<(String, String, String)>,
    /// The variables of its rendered files: path on this machine, variable.
    pub rendered: Vec<(String, String)>,
    /// Its scripts, below the location.
    pub scripts: Vec<String>,
    /// A path that its files call the notification file.
    pub notification: Option<String>,
    /// Its Compose project, when that is not called after it.
    pub project: Option<String>,
}

/// A variable to declare: its value, when it has one.
pub type Declared = (String, Option<Hidden>);

/// Writes the file; no value is part of it.
#[must_use]
pub fn stack_toml(
    declared: &[Declared],
    users: &BTreeMap<String, BTreeSet<String>>,
    services: &BTreeMap<String, Facts>,
) -> String {
    let mut text = String::from(
        "# Made by `stackctl adopt` from what is here. Existing values are never changed: look through it, then commit it.\n",
    );
    text.push_str(&secrets(declared, users, services));
    let projects = services.iter().filter_map(|(name, facts)| Some((name, facts.project.as_ref()?)));
    let projects: String = projects.map(|(name, project)| format!("{name} = \"{project}\"\n")).collect();
    if !projects.is_empty() {
        text.push_str(&format!("\n# The Compose projects these run as already.\n[project]\n{projects}"));
    }
    for (service, facts) in services {
        let with_secrets = declared.iter().any(|(name, _)| owner(name, users) == Some(service));
        let lines = actions(service, facts, with_secrets);
        if !lines.is_empty() {
            text.push_str(&format!("\n[actions.{service}]\n{lines}"));
        }
    }
    for (service, facts) in services {
        let volumes: Vec<&str> = facts.model.iter().flat_map(Model::volume_names).collect();
        if !volumes.is_empty() {
            text.push_str(&format!("\n[clean.{service}]\nvolumes = {volumes:?}\n"));
        }
    }
    let needs: String = services.iter().filter_map(|(name, facts)| depends(name, facts, services)).collect();
    if !needs.is_empty() {
        text.push_str(&format!("\n# Whose networks and volumes must be there first.\n[depends]\n{needs}"));
    }
    text
}

fn owner<'u>(name: &str, users: &'u BTreeMap<String, BTreeSet<String>>) -> Option<&'u String> {
    users.get(name).and_then(|services| services.first())
}

fn secrets(
    declared: &[Declared],
    users: &BTreeMap<String, BTreeSet<String>>,
    services: &BTreeMap<String, Facts>,
) -> String {
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in declared {
        // A database's own service before those that only log in.
        let maker =
            services.iter().find(|(_, facts)| !made_in(name, facts).is_empty()).map(|(service, _)| service);
        let of_hash = || {
            let mut hashes =
                declared.iter().filter(|(hash, _)| hashed_name(hash, declared).as_ref() == Some(name));
            hashes.find_map(|(hash, _)| owner(hash, users))
        };
        let service = maker.or(owner(name, users)).or_else(of_hash).map_or("unused", String::as_str);
        let kind = match value {
            Some(value) => kind_of_value(name, value, declared),
            None => kind_of_name(name, declared),
        };
        let line = match kind {
            Some(kind) => {
                let volumes = made_with(name, services);
                let volumes =
                    if volumes.is_empty() { String::new() } else { format!(", volumes = {volumes:?}") };
                format!("{name} = {{ {kind}{volumes} }}")
            }
            // A value that cannot be made again is only named, never replaced.
            None => format!("# {name} = {{ kind = \"…\" }}   # its kind is not to be seen from its value"),
        };
        sections.entry(service).or_default().push(line);
    }
    let section =
        |(service, lines): (&str, Vec<String>)| format!("\n[secrets.{service}]\n{}\n", lines.join("\n"));
    sections.into_iter().map(section).collect()
}

fn kind_of_value(name: &str, value: &Hidden, declared: &[Declared]) -> Option<String> {
    let text = value.expose();
    let all = |test: fn(u8) -> bool| !text.is_empty() && text.bytes().all(test);
    let length = text.len();
    if text.contains("BEGIN RSA PRIVATE KEY")
        || crate::secret::as_pem(text).is_ok_and(|pem| pem.expose().len() > 1000)
    {
        Some("kind = \"rsa\"".into())
    } else if crate::secret::as_pem(text).is_ok() {
        Some("kind = \"ed25519\"".into())
    } else if text.starts_with('$') {
        hash_of_value(name, text, declared)
    } else if length == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        Some("kind = \"uuid\"".into())
    } else if all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && (16..=2048).contains(&length)
        && length.is_multiple_of(2)
    {
        Some(format!("kind = \"hex\", bytes = {}", length / 2))
    } else if let Some(bytes) = STANDARD
        .decode(text)
        .ok()
        .map(|b| b.len())
        .filter(|n| (16..=1024).contains(n) && text.contains(['=', '+', '/']))
    {
        Some(format!("kind = \"base64\", bytes = {bytes}"))
    } else if all(|b| b.is_ascii_graphic()) && (8..=256).contains(&length) {
        Some(format!("kind = \"password\", length = {length}"))
    } else {
        None
    }
}

/// The password that a hash is of, looked for where its name says it should be.
fn hash_of_value(name: &str, hashed: &str, declared: &[Declared]) -> Option<String> {
    let (kind, word) = if hashed.starts_with("$argon2id$") {
        (HashKind::Argon2id, "argon2id")
    } else if hashed.starts_with("$pbkdf2-sha512$") {
        (HashKind::Pbkdf2Sha512, "pbkdf2-sha512")
    } else if hashed.starts_with("$2") {
        (HashKind::Bcrypt, "bcrypt")
    } else {
        return None;
    };
    let of = hashed_name(name, declared)?;
    let (_, password) = declared.iter().find(|(other, _)| *other == of)?;
    let same = password.as_ref().is_some_and(|password| verify(kind, password.expose(), hashed));
    same.then(|| format!("kind = \"{word}\", of = \"{of}\""))
}

fn hashed_name(name: &str, declared: &[Declared]) -> Option<String> {
    let stem = ["_HASH", "_DIGEST", "_HASHED"].iter().find_map(|ending| name.strip_suffix(ending))?;
    declared.iter().find(|(other, _)| other == stem).map(|(other, _)| other.clone())
}

/// A kind for a secret that has no value yet, by what it is called.
fn kind_of_name(name: &str, declared: &[Declared]) -> Option<String> {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let kind = if let Some(of) = hashed_name(name, declared) {
        format!("kind = \"argon2id\", of = \"{of}\"")
    } else if name.contains("JWK") || name.contains("RSA") || ends(&["PRIVATE_KEY", "PRIVATE_PEM"]) {
        "kind = \"rsa\"".into()
    } else if ends(&["_UUID"]) {
        "kind = \"uuid\"".into()
    } else if ends(&["_KEY"]) {
        "kind = \"hex\", bytes = 32".into()
    } else if ends(&["_SECRET", "_TOKEN"]) {
        "kind = \"password\", length = 48".into()
    } else if ends(&["PASSWORD", "_PASS"]) {
        "kind = \"password\", length = 24".into()
    } else {
        return None;
    };
    Some(kind)
}

/// Whether a variable without value is a secret that `setup` could make, by its name.
#[must_use]
pub fn can_be_made(name: &str) -> bool {
    let hash = ["_HASH", "_DIGEST", "_HASHED"].iter().any(|ending| name.ends_with(ending));
    (named_like_a_secret(name) || hash) && !name.contains("PUBLIC")
}

/// The volumes, and the folders outside of volumes, that hold data made with a variable's value.
///
/// A database takes its passwords only when its data is made, and what is encrypted opens with its key alone.
#[must_use]
pub fn made_with(name: &str, services: &BTreeMap<String, Facts>) -> Vec<String> {
    let volumes: BTreeSet<String> = services.values().flat_map(|facts| made_in(name, facts)).collect();
    volumes.into_iter().collect()
}

/// Those of one service.
fn made_in(name: &str, facts: &Facts) -> BTreeSet<String> {
    let Some(model) = &facts.model else { return BTreeSet::new() };
    let initial = facts.environment.iter().filter(|(_, key, variable)| variable == name && is_initial(key));
    let containers = initial.filter_map(|(container, _, _)| model.services.get(container));
    let by_file = model.services.values().filter(|container| gets_by_file(facts, model, container, name));
    let mut volumes: BTreeSet<String> =
        containers.chain(by_file).flat_map(|container| model.data_of(container)).collect();
    if name.contains("ENCRYPTION") {
        let sees = |container: &&Container| sees(facts, model, container, name);
        volumes.extend(model.services.values().filter(sees).flat_map(|container| model.data_of(container)));
    }
    volumes
}

/// Whether a container reads the variable as an initial password out of one of its secrets.
fn gets_by_file(facts: &Facts, model: &Model, container: &Container, name: &str) -> bool {
    let mut keys = container.environment.keys();
    let rendered = |path: &std::path::Path| {
        facts.rendered.iter().any(|(other, variable)| variable == name && std::path::Path::new(other) == path)
    };
    let of_it = |secret: &crate::model::FileObject| {
        secret.environment.as_deref() == Some(name) || secret.file.as_deref().is_some_and(rendered)
    };
    keys.any(|key| key.strip_suffix("_FILE").is_some_and(is_initial))
        && container.secrets.iter().filter_map(|used| model.secrets.get(&used.source)).any(of_it)
}

fn sees(facts: &Facts, model: &Model, container: &Container, name: &str) -> bool {
    let own = |service: &String| model.services.get(service).is_some_and(|one| std::ptr::eq(one, container));
    let in_environment =
        facts.environment.iter().any(|(service, _, variable)| variable == name && own(service));
    let files = model.seen_by(container);
    let rendered = facts.rendered.iter().filter(|(_, variable)| variable == name);
    let mut mounted = rendered.map(|(path, _)| std::path::Path::new(path));
    in_environment || mounted.any(|path| files.iter().any(|seen| path.starts_with(&seen.source)))
}

/// Whether an image reads a key of its environment only while it makes its data.
fn is_initial(key: &str) -> bool {
    const KEYS: [&str; 9] = [
        "POSTGRES_PASSWORD",
        "POSTGRESQL_PASSWORD",
        "MYSQL_ROOT_PASSWORD",
        "MYSQL_PASSWORD",
        "MARIADB_ROOT_PASSWORD",
        "MARIADB_PASSWORD",
        "MONGO_INITDB_ROOT_PASSWORD",
        "DOCKER_INFLUXDB_INIT_PASSWORD",
        "COUCHDB_PASSWORD",
    ];
    KEYS.contains(&key)
}

fn actions(service: &str, facts: &Facts, with_secrets: bool) -> String {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |name: &str, words: &[&str]| {
        if !lines.iter().any(|(known, _)| known == name) {
            lines.push((name.to_owned(), words.iter().map(|word| (*word).to_owned()).collect()));
        }
    };
    if with_secrets {
        add("generate-secrets", &["@stackctl", "setup", service]);
    }
    for (name, container) in facts.model.iter().flat_map(|model| &model.services) {
        let exec = ["@compose", "exec", "-T", name.as_str()];
        let with =
            |words: &[&'static str]| exec.iter().copied().chain(words.iter().copied()).collect::<Vec<_>>();
        match image_name(container.image.as_deref().unwrap_or_default()) {
            "caddy" => {
                let validate = ["caddy", "caddy", "validate", "--config", "/etc/caddy/Caddyfile"];
                let run = ["@compose", "run", "--rm", "--no-deps", name.as_str()];
                add("validate", &[&run[..], &validate[1..]].concat());
                add("reload", &with(&["caddy", "reload", "--config", "/etc/caddy/Caddyfile"]));
            }
            "authelia" => {
                add("generate-password", &["@stackctl", "hash", "argon2id"]);
                if let Some(path) = &facts.notification {
                    add("get-code", &[&exec[..], &["cat", path]].concat());
                }
            }
            "postgres" => {
                let user = container.environment.get("POSTGRES_USER").and_then(Option::as_deref);
                add("backup", &[&exec[..], &["pg_dumpall", "-U", user.unwrap_or("postgres")]].concat());
            }
            "victoria-metrics" => {
                let url = "http://127.0.0.1:8428/snapshot/create";
                add("backup", &with(&["wget", "-q", "-O", "-", url]));
            }
            _ => {}
        }
    }
    for script in &facts.scripts {
        let file = script.rsplit('/').next().unwrap_or_default();
        add(file.strip_suffix(".sh").unwrap_or(file), &["sh", script]);
    }
    lines.iter().map(|(name, words)| format!("{name} = {words:?}\n")).collect()
}

/// The last part of an image's name, without registry, tag and digest.
fn image_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

fn depends(name: &str, facts: &Facts, services: &BTreeMap<String, Facts>) -> Option<String> {
    let wanted = facts.model.as_ref()?.external_names();
    let owns = |other: &Facts| other.model.as_ref().is_some_and(|model| model.owns(&wanted));
    let others: Vec<&String> = services
        .iter()
        .filter(|(other, facts)| *other != name && owns(facts))
        .map(|(other, _)| other)
        .collect();
    (!others.is_empty()).then(|| format!("{name} = {others:?}\n"))
}

/// How a value that is taken over is written into `.env.generated`; `None` when no line reads back as it.
#[must_use]
pub fn line_of(name: &str, value: &str) -> Option<String> {
    // A key of several lines becomes one, as `setup` keeps its own.
    let single = value.starts_with("-----BEGIN ").then(|| STANDARD.encode(format!("{}\n", value.trim_end())));
    let written = single.as_deref().unwrap_or(value);
    let line = literal_line(name, written);
    let read = crate::envfile::parse(&line).ok()?;
    let [entry] = read.as_slice() else { return None };
    (entry.value.expose() == written).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_value_is_seen_and_the_file_is_valid() {
        let key = crate::secret::new_ed25519(&[3; 32]);
        let hashed = crate::secret::hash(HashKind::Bcrypt, "abcDEF123456", [1; 16]).expect("hashed");
        let values = [
            ("PASS", "abcDEF123456"),
            ("PASS_HASH", &hashed),
            ("OTHER_HASH", "$argon2id$v=19$x"),
            ("HEXX", "00112233445566778899aabbccddeeff"),
            ("B64", "MDEyMzQ1Njc4OWFiY2RlZg=="),
            ("UID_X", "123e4567-e89b-42d3-a456-426614174000"),
            ("JWK", key.expose()),
        ];
        let declared: Vec<Declared> =
            values.iter().map(|(n, v)| ((*n).to_owned(), Some(Hidden::new((*v).to_owned())))).collect();
        // The password itself is used nowhere, its hash is.
        let users = [("PASS_HASH".to_owned(), ["emby".to_owned()].into())].into();
        let text = stack_toml(&declared, &users, &BTreeMap::new());
        let stack = crate::config::parse(&text).expect("valid");
        let kinds: BTreeMap<_, _> =
            stack.secrets.iter().map(|(name, secret)| (name.as_str(), secret.kind.word())).collect();
        let wanted = [
            ("PASS", "password"),
            ("PASS_HASH", "bcrypt"),
            ("HEXX", "hex"),
            ("B64", "base64"),
            ("UID_X", "uuid"),
            ("JWK", "ed25519"),
        ];
        assert_eq!(kinds, wanted.into());
        assert_eq!(stack.secrets["PASS"].service, "emby");
        assert!(text.contains("# OTHER_HASH"));
    }

    #[test]
    fn volumes_actions_and_order_come_from_the_models() {
        let immich = facts(
            r#"{"services":{"db":{"image":"ghcr.io/immich-app/postgres:14@sha256:0","environment":{"POSTGRES_USER":"immich"},
                "volumes":[{"type":"volume","source":"data","target":"/var/lib/postgresql/data"},
                           {"type":"bind","source":"/etc/x","target":"/x","read_only":true}]},
                "server":{"image":"s","environment":{}}},
                "networks":{"web":{"name":"web","external":true}},"volumes":{"data":{"name":"immich_data"}}}"#,
        );
        let immich = Facts {
            environment: vec![
                ("db".into(), "POSTGRES_PASSWORD".into(), "DB_PASSWORD".into()),
                ("server".into(), "DB_PASSWORD".into(), "DB_PASSWORD".into()),
            ],
            scripts: vec!["immich/bootstrap-admin.sh".into()],
            ..immich
        };
        let authelia = facts(
            r#"{"services":{"authelia":{"image":"authelia/authelia:4","volumes":[{"type":"bind","source":"/t/c.yml","target":"/c.yml"},
                {"type":"bind","source":"/t/data","target":"/data"}]}},"networks":{"web":{"name":"web"}}}"#,
        );
        let authelia = Facts {
            rendered: vec![("/t/c.yml".into(), "STORAGE_ENCRYPTION_KEY".into())],
            notification: Some("/data/notification.txt".into()),
            project: Some("home".into()),
            ..authelia
        };
        let services = [("immich".to_owned(), immich), ("authelia".to_owned(), authelia)].into();
        let users = [("DB_PASSWORD".to_owned(), ["immich".to_owned()].into())].into();
        let declared = [("DB_PASSWORD".to_owned(), None), ("STORAGE_ENCRYPTION_KEY".to_owned(), None)];
        let text = stack_toml(&declared, &users, &services);
        let stack = crate::config::parse(&text).expect("valid");
        assert_eq!(stack.secrets["DB_PASSWORD"].volumes, ["immich_data"]);
        assert_eq!(stack.secrets["STORAGE_ENCRYPTION_KEY"].volumes, ["/t/data"]);
        let named = |service: &str| stack.actions[service].keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(named("immich"), ["backup", "bootstrap-admin", "generate-secrets"]);
        assert_eq!(named("authelia"), ["generate-password", "get-code"]);
        assert!(stack.actions["immich"]["backup"].ends_with(&["-U".to_owned(), "immich".to_owned()]));
        assert_eq!(stack.depends["immich"], ["authelia"]);
        assert_eq!(stack.clean["immich"].volumes, ["immich_data"]);
        assert_eq!(stack.projects["authelia"], "home");
    }

    #[test]
    fn a_password_that_a_database_reads_from_a_secret_made_its_volume() {
        let text = r#"{"services":{"db":{"image":"postgres:16","environment":{"POSTGRES_PASSWORD_FILE":"/run/secrets/pw"},
            "secrets":[{"source":"pw"}],"volumes":[{"type":"volume","source":"data","target":"/data"}]}},
            "secrets":{"pw":{"environment":"DB_PASSWORD"}},"volumes":{"data":{"name":"x_data"}}}"#;
        let services = [("x".to_owned(), facts(text))].into();
        assert_eq!(made_with("DB_PASSWORD", &services), ["x_data"]);
        assert!(made_with("OTHER", &services).is_empty());
    }

    #[test]
    fn a_secret_without_value_gets_a_kind_by_its_name() {
        let declared: Vec<Declared> =
            ["ADMIN_PASSWORD", "ADMIN_PASSWORD_HASH", "OIDC_JWKS_KEY", "A_KEY", "B_SECRET", "ODD"]
                .map(|name| (name.to_owned(), None))
                .into();
        let text = stack_toml(&declared, &BTreeMap::new(), &BTreeMap::new());
        let stack = crate::config::parse(&text).expect("valid");
        let kinds: Vec<&str> = stack.secrets.values().map(|secret| secret.kind.word()).collect();
        assert_eq!(kinds, ["password", "argon2id", "hex", "password", "rsa"]);
        assert!(can_be_made("DB_PASSWORD") && !can_be_made("WG_PUBLIC_KEY") && !can_be_made("TZ"));
    }

    #[test]
    fn a_value_that_is_taken_over_reads_back_as_it_is() {
        for value in ["plain", "a$b #c", "it's", "\"q\"", "-----BEGIN X-----\nAA\n-----END X-----"] {
            let line = line_of("NAME", value).expect("written");
            let read = crate::envfile::parse(&line).expect("readable").remove(0).value.expose().to_owned();
            let same = read == value || crate::secret::as_pem(&read).is_ok_and(|pem| pem.expose() == value);
            assert!(same, "{value}");
        }
        assert_eq!(line_of("NAME", "two\nA=1"), None);
    }

    fn facts(model: &str) -> Facts {
        Facts { model: Some(Model::parse(model.as_bytes()).expect("readable")), ..Facts::default() }
    }
}

//! The values that running containers and rendered files have in use.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fault::Fault;
use crate::inuse::{Use, of_file, of_text, refers};
use crate::invocation::Project;
use crate::secret::Hidden;
use crate::shell::discover;
use crate::shell::docker::{Docker, Running};
use crate::shell::files;
use crate::shell::store::Store;
use crate::template::placeholders;
use crate::vars::Vars;
use crate::verbs::prepare::Stage;
use crate::verbs::session::Session;

/// What a service has in use.
#[derive(Default)]
pub struct InUse {
    /// Values of variables.
    pub uses: Vec<Use>,
    /// What else runs otherwise than it is defined now.
    pub differences: Vec<String>,
    /// The variables of each container's environment: container, key, variable.
    pub environment: Vec<(String, String, String)>,
    /// The variables of its rendered files: path, variable.
    pub rendered: Vec<(String, String)>,
}

/// Reads what a service has in use out of its rendered files and its containers.
pub fn read(
    session: &Session,
    docker: &Docker,
    store: &Store,
    vars: &Vars,
    service: &str,
    running: &[Running],
) -> Result<InUse, Fault> {
    let mut found = InUse::default();
    for source in discover::templates(&session.tree.root, &session.location, service)? {
        let path = session.location.dir.join(&source.path);
        let on_disk = files::read(&path).map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?;
        let shown = path.to_string_lossy().into_owned();
        let names = placeholders(&source.text).into_iter().map(|p| (shown.clone(), p.name.to_owned()));
        found.rendered.extend(names);
        let values = on_disk.map(|file| of_file(&source.text, &file.bytes)).unwrap_or_default();
        found.add(&values, &source.path);
    }
    let vars = session.vars_of(vars, service)?;
    let stage = Stage(store.dir().join("next").join(service));
    let project = bare(session, store, &vars, service, &stage)?;
    let Ok(raw) = docker.config(&project, &["--no-interpolate"])? else { return Ok(found) };
    let resolved = docker.config(&project, &[])?.ok();
    for (name, definition) in raw.get("services").and_then(Value::as_object).into_iter().flatten() {
        let resolved = resolved.as_ref().and_then(|model| model.get("services")?.get(name));
        for (key, template) in pairs(definition.get("environment")) {
            let names = crate::interpolate::names(&template);
            let entries = names.into_iter().map(|variable| (name.clone(), key.clone(), variable));
            found.environment.extend(entries);
        }
        for container in running.iter().filter(|container| container.service() == name) {
            let place = format!("{service}/{name}");
            Compared { definition, resolved, container, place: &place }.read(&mut found);
        }
    }
    Ok(found)
}

/// The service's Compose files, every placeholder as a reference, with the variables there are.
fn bare(
    session: &Session,
    store: &Store,
    vars: &Vars,
    service: &str,
    stage: &Stage,
) -> Result<Project, Fault> {
    let of_service = session.location.services.get(service);
    let mut files = Vec::new();
    for (index, path) in of_service.into_iter().flat_map(|files| files.in_order()).enumerate() {
        let text = files::read(path).map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?;
        let bytes = text.map(|found| found.bytes.to_vec()).unwrap_or_default();
        let copy = stage.0.join(format!("used-{index}.yaml"));
        store.put(&copy, &as_references(&bytes))?;
        files.push(copy);
    }
    let env = stage.0.join("used.env");
    store.put(&env, vars.compose_env().expose().as_bytes())?;
    let project_dir = of_service.and_then(|files| files.project_dir()).unwrap_or(&session.location.dir);
    Ok(Project {
        name: session.project(service).to_owned(),
        project_dir: project_dir.to_path_buf(),
        files,
        env_files: vec![env],
        workdir: session.workdir(service).to_path_buf(),
    })
}

fn as_references(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for placeholder in placeholders(text) {
        out.extend_from_slice(text.get(copied..placeholder.start).unwrap_or_default());
        out.extend_from_slice(format!("${{{}}}", placeholder.name).as_bytes());
        copied = placeholder.end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

impl InUse {
    fn add(&mut self, values: &BTreeMap<String, String>, place: &str) {
        for (name, value) in values {
            // A placeholder that was never one of ours is in use as it is written.
            if *value != format!("{{{{{name}}}}}") {
                let value = Hidden::new(value.clone());
                self.uses.push(Use { name: name.clone(), value, place: place.to_owned() });
            }
        }
    }

    /// Notes the variables of `template` when what runs is not what is wanted.
    fn note(&mut self, template: &str, wanted: Option<&str>, actual: &str, place: &str, what: &str) {
        if wanted == Some(actual) {
            return;
        }
        let values = of_text(template, actual);
        match values {
            Some(values) if refers(template).unwrap_or_default() => self.add(&values, place),
            _ if wanted.is_some() || !refers(template).unwrap_or(true) => {
                let other = wanted.unwrap_or(template);
                let how = crate::inuse::describe(actual, other, "by the files");
                self.differences.push(format!("{place}: {what}: {how}"));
            }
            _ => {}
        }
    }
}

/// A definition and a container made of it, or of an older one.
struct Compared<'c> {
    definition: &'c Value,
    resolved: Option<&'c Value>,
    container: &'c Running,
    place: &'c str,
}

impl Compared<'_> {
    fn read(&self, found: &mut InUse) {
        self.environment(found);
        self.labels(found);
        self.image(found);
        self.command(found);
        self.ports(found);
        self.volumes(found);
    }

    fn resolved(&self, key: &str) -> Option<&Value> {
        self.resolved.and_then(|resolved| resolved.get(key))
    }

    fn environment(&self, found: &mut InUse) {
        let actual: BTreeMap<&str, &str> =
            self.container.config.env.iter().flatten().filter_map(|pair| pair.split_once('=')).collect();
        let wanted: BTreeMap<String, String> = resolved_pairs(self.resolved("environment"));
        let templates = pairs(self.definition.get("environment"));
        for (key, template) in &templates {
            let Some(actual) = actual.get(key.as_str()) else {
                if wanted.contains_key(key) {
                    found.differences.push(format!("{}: environment {key}: not in use", self.place));
                }
                continue;
            };
            let what = format!("environment {key}");
            found.note(template, wanted.get(key).map(String::as_str), actual, self.place, &what);
        }
        for (key, wanted) in wanted.iter().filter(|(key, _)| !templates.contains_key(*key)) {
            let how = match actual.get(key.as_str()) {
                Some(actual) if actual == wanted => continue,
                Some(actual) => crate::inuse::describe(actual, wanted, "in the env_file"),
                None => "not in use".to_owned(),
            };
            found.differences.push(format!("{}: environment {key}: {how}", self.place));
        }
    }

    fn labels(&self, found: &mut InUse) {
        let wanted = resolved_pairs(self.resolved("labels"));
        for (key, template) in pairs(self.definition.get("labels")) {
            let Some(actual) = self.container.label(&key) else { continue };
            found.note(
                &template,
                wanted.get(&key).map(String::as_str),
                actual,
                self.place,
                &format!("label {key}"),
            );
        }
    }

    fn image(&self, found: &mut InUse) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(unescaped);
        let Some(template) = self.definition.get("image").and_then(Value::as_str) else { return };
        let (wanted, actual) = (text(self.resolved("image")), &self.container.config.image);
        let values = of_text(template, actual).filter(|_| refers(template).unwrap_or_default());
        match (&wanted, values) {
            (Some(wanted), _) if wanted == actual => {}
            (_, Some(values)) => found.add(&values, self.place),
            (Some(wanted), None) => {
                found.differences.push(format!("{}: image: {actual} runs, {wanted} is wanted", self.place));
            }
            (None, None) => {}
        }
    }

    fn command(&self, found: &mut InUse) {
        let words = |value: Option<&Value>| -> Option<Vec<String>> {
            value?.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect()
        };
        let (Some(templates), Some(actual)) =
            (words(self.definition.get("command")), &self.container.config.cmd)
        else {
            return;
        };
        let wanted = words(self.resolved("command")).unwrap_or_default();
        if templates.len() != actual.len() {
            found.differences.push(format!("{}: command: another runs", self.place));
            return;
        }
        for (index, (template, actual)) in templates.iter().zip(actual).enumerate() {
            let wanted = wanted.get(index).map(|word| unescaped(word));
            let what = format!("word {} of the command", index + 1);
            found.note(template, wanted.as_deref(), actual, self.place, &what);
        }
    }

    fn ports(&self, found: &mut InUse) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let templates = list(self.definition.get("ports"));
        let wanted = list(self.resolved("ports"));
        for (index, port) in wanted.iter().enumerate() {
            let text = |key: &str| port.get(key).and_then(Value::as_str).unwrap_or_default();
            let target = port.get("target").and_then(Value::as_u64).unwrap_or_default();
            let key =
                format!("{target}/{}", if text("protocol").is_empty() { "tcp" } else { text("protocol") });
            let bindings = self.container.host_config.port_bindings.as_ref();
            let bound = bindings.and_then(|all| all.get(&key)).and_then(Option::as_ref);
            let same = |one: &&crate::shell::docker::Binding| {
                one.host_port == text("published") && one.host_ip == text("host_ip")
            };
            if bound.is_some_and(|list| list.iter().any(|one| same(&one))) {
                continue;
            }
            let [actual] = bound.map(Vec::as_slice).unwrap_or_default() else {
                found.differences.push(format!("{}: port {key}: not published as it is defined", self.place));
                continue;
            };
            // A range is several ports of one definition.
            let short = templates.get(index).filter(|_| templates.len() == wanted.len());
            let values = short.and_then(Value::as_str).and_then(|short| port_values(short, actual));
            match values {
                Some(values) => found.add(&values, self.place),
                None => found.differences.push(format!(
                    "{}: port {key}: {} in use, {} is wanted",
                    self.place,
                    address(&actual.host_ip, &actual.host_port),
                    address(text("host_ip"), text("published"))
                )),
            }
        }
    }

    fn volumes(&self, found: &mut InUse) {
        let all = self.resolved("volumes").and_then(Value::as_array).into_iter().flatten();
        for wanted in all {
            let text = |key: &str| wanted.get(key).and_then(Value::as_str).unwrap_or_default();
            let mounted = self.container.mounts.iter().find(|mount| mount.destination == text("target"));
            let Some(mounted) = mounted else {
                found.differences.push(format!("{}: mount {}: not in use", self.place, text("target")));
                continue;
            };
            if text("type") == "bind" && mounted.source != text("source") {
                found.differences.push(format!(
                    "{}: mount {}: {} in use, {} is wanted",
                    self.place,
                    text("target"),
                    mounted.source,
                    text("source")
                ));
            }
        }
    }
}

/// Which values make a short port definition the given binding.
fn port_values(short: &str, actual: &crate::shell::docker::Binding) -> Option<BTreeMap<String, String>> {
    let mut parts = split_outside_braces(short);
    parts.pop()?;
    let published = parts.pop()?;
    let mut values = of_text(published, &actual.host_port)?;
    if let Some(address) = parts.pop() {
        values.extend(of_text(address, &actual.host_ip)?);
    }
    (!values.is_empty()).then_some(values)
}

fn split_outside_braces(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut outside = |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ':' && depth == 0
    };
    text.split(&mut outside).collect()
}

fn address(ip: &str, port: &str) -> String {
    if ip.is_empty() { port.to_owned() } else { format!("{ip}:{port}") }
}

/// A model's map or list of pairs, as it is written; a name alone is taken from the environment.
fn pairs(value: Option<&Value>) -> BTreeMap<String, String> {
    let of_text = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.to_owned(), format!("${{{text}}}")),
    };
    let of_value = |name: &String, value: &Value| match value.as_str() {
        Some(text) => (name.clone(), text.to_owned()),
        None if value.is_null() => (name.clone(), format!("${{{name}}}")),
        None => (name.clone(), value.to_string()),
    };
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(of_text).collect(),
        Some(Value::Object(map)) => map.iter().map(|(name, value)| of_value(name, value)).collect(),
        _ => BTreeMap::new(),
    }
}

fn resolved_pairs(value: Option<&Value>) -> BTreeMap<String, String> {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), unescaped(value.as_str()?)))).collect()
}

/// Compose prints every `$` doubled.
fn unescaped(text: &str) -> String {
    text.replace("$$", "$")
}

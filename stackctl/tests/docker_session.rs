//! The sample tree against a real Docker engine and Compose v2: the session a person would have.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::{Completed, Engine, Tree, changed, privileged, stackctl};

#[test]
fn the_sample_tree_lives_through_changes_and_failures() {
    if !privileged() {
        return;
    }
    let site = Site::start();
    let run = |words: &[&str]| site.run(words);
    setting_up_twice_changes_nothing(&site.engine, &site.tree, &run);
    site.watch.learn(&site.tree);
    status_and_logs_show_what_runs(&run);
    an_edited_template_recreates_only_its_consumer(&site.engine, &site.tree, &run);
    a_killed_container_is_drift_until_up_repairs_it(&site.engine, &run);
    an_unhealthy_change_goes_back(&site.engine, &site.tree, &run);
    site.watch.end();
}

#[test]
fn the_sample_tree_keeps_its_secrets_and_its_data() {
    if !privileged() {
        return;
    }
    let site = Site::start();
    let run = |words: &[&str]| site.run(words);
    run(&["all-setup"]).expect(0);
    site.watch.learn(&site.tree);
    run(&["all-up"]).expect(0);
    a_rotated_secret_restarts_only_its_consumers(&site.engine, &site.tree, &run);
    site.watch.learn(&site.tree);
    an_interrupted_change_is_finished(&site.engine, &site.tree, &run);
    a_project_of_another_folder_is_not_taken_over(&site.engine);
    a_lost_secret_is_not_replaced_over_its_volume(&site.tree, &run);
    down_and_clean_take_only_what_they_may(&site.engine, &site.tree, &run);
    site.watch.end();
}

/// The sample tree, an engine, and a watch that looks for secrets.
struct Site {
    engine: Engine,
    tree: Tree,
    watch: std::sync::Arc<Watch>,
}

impl Site {
    fn start() -> Self {
        let engine = Engine::start();
        engine.load_images();
        let tree = Tree::sample(engine.dir.path(), "docker-compose");
        Self { engine, tree, watch: Watch::begin() }
    }

    fn run(&self, words: &[&str]) -> Completed {
        let said = stackctl(&self.engine, &self.tree, "wroclaw", words);
        self.watch.heard(&said);
        said
    }
}

type Run<'r> = dyn Fn(&[&str]) -> Completed + 'r;

fn setting_up_twice_changes_nothing(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    let first = run(&["all-setup"]).expect(0);
    assert!(first.out.contains("AUTHELIA_ADMIN_PASSWORD (shown only now): "), "{}", first.out);
    let after_setup = tree.fingerprint();
    run(&["all-setup"]).expect(0);
    assert!(after_setup == tree.fingerprint(), "the second setup changed a file");

    let start = Instant::now();
    let up = run(&["all-up", "--json"]).expect(0);
    println!("all-up of 6 services: {:.1} s", start.elapsed().as_secs_f64());
    let order: Vec<String> = up.json()["services"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["service"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(order, ["authelia", "caddy", "emby", "monitoring", "forwarder", "immich"]);
    let (files, ids) = (tree.fingerprint(), engine.ids());
    let start = Instant::now();
    run(&["all-up"]).expect(0);
    println!("all-up again: {:.1} s", start.elapsed().as_secs_f64());
    assert!(files == tree.fingerprint(), "the second up changed a file");
    assert_eq!(changed(&ids, &engine.ids()), [] as [&str; 0], "the second up recreated a container");
}

fn status_and_logs_show_what_runs(run: &Run<'_>) {
    let status = run(&["status", "--json"]).expect(0).json();
    let rows = status["containers"].as_array().expect("rows").clone();
    assert_eq!(rows.len(), 14, "{status}");
    for row in &rows {
        assert_eq!(
            (row["state"].as_str(), row["drift"].as_array().map(Vec::len)),
            (Some("running"), Some(0)),
            "{row}"
        );
    }
    assert!(run(&["logs", "caddy"]).expect(0).out.contains("serving"));
    run(&["select", "caddy"]).expect(0);
    assert_eq!(run(&["status", "--json"]).expect(0).json()["containers"].as_array().map(Vec::len), Some(1));
    assert!(run(&["caddy", "validate"]).expect(0).out.contains("Valid configuration"));
    run(&["unselect"]).expect(0);
}

fn an_edited_template_recreates_only_its_consumer(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    let before = engine.ids();
    tree.edit("caddy/Caddyfile.tmpl", "email ", "# an edit\n\temail ");
    let drift = run(&["status", "caddy", "--json"]).expect(0).json();
    assert!(drift.to_string().contains("template newer than render"), "{drift}");
    assert!(run(&["diff", "caddy"]).expect(0).out.contains("caddy: up would recreate caddy"));
    run(&["render", "--check", "caddy"]).expect(8);
    run(&["restart", "caddy"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["caddy-caddy-1"]);

    let before = engine.ids();
    tree.edit("wroclaw/monitoring/alertmanager.yml.tmpl", "route:", "# an edit\nroute:");
    run(&["restart", "monitoring"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["monitoring-alertmanager-1"]);
}

fn a_killed_container_is_drift_until_up_repairs_it(engine: &Engine, run: &Run<'_>) {
    let before = engine.ids();
    engine.docker(&["rm", "--force", "immich-redis-1"]);
    engine.docker(&["stop", "--time", "1", "emby-emby-1"]);
    let status = run(&["status", "--json"]).expect(10).json();
    let state = |name: &str| {
        let rows = status["containers"].as_array().expect("rows").clone();
        let row = rows.into_iter().find(|row| row["container"] == name).expect("a row");
        row["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!((state("redis").as_str(), state("emby").as_str()), ("missing", "exited"));
    assert!(
        status["containers"]
            .as_array()
            .expect("rows")
            .iter()
            .filter(|row| row["drift"] != serde_json::json!([]))
            .count()
            == 2
    );
    run(&["all-up"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["immich-redis-1"]);
    let repaired = run(&["status", "emby", "--json"]).expect(0).json();
    assert_eq!(repaired["containers"][0]["state"], "running");
}

fn an_unhealthy_change_goes_back(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    let good = tree.read("wroclaw/caddy/Caddyfile");
    tree.edit("caddy/Caddyfile.tmpl", "# an edit", "# STANDIN_BROKEN");
    let failed = run(&["up", "caddy", "--wait", "6"]).expect(1);
    assert!(failed.err.contains("serving nothing"), "the failing container's last lines: {}", failed.err);
    let back = run(&["up", "caddy", "--rollback", "--wait", "6"]).expect(7);
    assert!(back.err.contains("runs again"), "{}", back.err);
    assert_eq!(tree.read("wroclaw/caddy/Caddyfile"), good);
    let inside = engine.docker(&["exec", "caddy-caddy-1", "cat", "/etc/caddy/Caddyfile"]);
    assert_eq!(inside, good, "the container sees the file that is on disk");
    assert!(run(&["status", "caddy"]).expect(0).out.contains("healthy"));
    tree.edit("caddy/Caddyfile.tmpl", "# STANDIN_BROKEN", "# an edit");
    run(&["up", "caddy"]).expect(0);

    // By hand, and although the present template cannot be rendered.
    let now = tree.read("wroclaw/caddy/Caddyfile");
    tree.edit("caddy/Caddyfile.tmpl", "# an edit", "# a second edit");
    run(&["up", "caddy"]).expect(0);
    tree.edit("caddy/Caddyfile.tmpl", "# a second edit", "{{NOT_THERE}}");
    run(&["up", "caddy"]).expect(4);
    run(&["rollback", "caddy"]).expect(0);
    assert_eq!(tree.read("wroclaw/caddy/Caddyfile"), now);
    tree.edit("caddy/Caddyfile.tmpl", "{{NOT_THERE}}", "# an edit");
    let before = engine.ids();
    run(&["up", "caddy"]).expect(0);
    assert_eq!(before, engine.ids(), "what the template says runs already");
}

fn a_rotated_secret_restarts_only_its_consumers(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    let (before, old) = (engine.ids(), tree.read("wroclaw/.env.generated"));
    let rotated = run(&["secrets", "rotate", "GRAFANA_OIDC_SECRET", "--json"]).expect(0).json();
    assert_eq!(rotated["rotated"], serde_json::json!(["GRAFANA_OIDC_SECRET", "GRAFANA_OIDC_SECRET_HASH"]));
    // Authelia has the hash, Grafana the secret itself: two projects, and no other.
    assert_eq!(changed(&before, &engine.ids()), ["authelia-authelia-1", "monitoring-grafana-1"]);
    let new = tree.read("wroclaw/.env.generated");
    let differing = old.lines().filter(|line| !new.contains(*line)).count();
    assert_eq!(differing, 2, "the secret and its hash, and nothing else");

    let before = engine.ids();
    run(&["secrets", "rotate", "GRAFANA_ADMIN_PASSWORD"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["monitoring-grafana-1"]);
    run(&["secrets", "rotate", "IMMICH_DB_PASSWORD"]).expect(6);
    let before = engine.ids();
    run(&["secrets", "rotate", "IMMICH_DB_PASSWORD", "--accept-data-loss"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["immich-postgres-1", "immich-server-1"]);
}

fn an_interrupted_change_is_finished(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    tree.edit("caddy/Caddyfile.tmpl", "email ", "# another edit\n\temail ");
    let pending = tree.root.join("wroclaw/.stack/services/caddy/pending");
    let mut child = engine
        .command(support::STACKCTL)
        .args(["up", "caddy"])
        .current_dir(tree.root.join("wroclaw"))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("stackctl runs");
    let start = Instant::now();
    while !pending.exists() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(pending.exists());
    let finished = run(&["up", "caddy"]).expect(0);
    assert!(finished.err.contains("the last change was interrupted; finishing it"), "{}", finished.err);
    let inside = engine.docker(&["exec", "caddy-caddy-1", "cat", "/etc/caddy/Caddyfile"]);
    assert!(inside.contains("# another edit") && !pending.exists());
}

fn a_project_of_another_folder_is_not_taken_over(engine: &Engine) {
    let other = Tree::sample(engine.dir.path(), "other");
    let before = engine.ids();
    let refused = stackctl(engine, &other, "wroclaw", &["setup", "emby"]).expect(0);
    assert!(refused.err.is_empty(), "{}", refused.err);
    let refused = stackctl(engine, &other, "wroclaw", &["up", "emby"]).expect(6);
    assert!(refused.err.contains("already runs from"), "{}", refused.err);
    stackctl(engine, &other, "wroclaw", &["down", "emby"]).expect(6);
    assert_eq!(before, engine.ids());
}

fn a_lost_secret_is_not_replaced_over_its_volume(tree: &Tree, run: &Run<'_>) {
    let whole = tree.read("wroclaw/.env.generated");
    let without: String = whole
        .lines()
        .filter(|line| !line.starts_with("IMMICH_DB_PASSWORD="))
        .map(|l| format!("{l}\n"))
        .collect();
    // What runs still has it.
    tree.write("wroclaw/.env.generated", &without);
    let taken = run(&["setup", "immich"]).expect(0);
    assert!(taken.err.contains("took IMMICH_DB_PASSWORD over"), "{}", taken.err);
    let sorted =
        |text: &str| text.lines().filter(|l| l.contains('=')).map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&tree.read("wroclaw/.env.generated")), sorted(&whole));
    run(&["down", "immich"]).expect(0);
    tree.write("wroclaw/.env.generated", &without);
    let refused = run(&["setup", "immich"]).expect(6);
    assert!(refused.err.contains("immich_postgres_data"), "{}", refused.err);
    tree.write("wroclaw/.env.generated", &whole);
    run(&["up", "immich"]).expect(0);
}

fn down_and_clean_take_only_what_they_may(engine: &Engine, tree: &Tree, run: &Run<'_>) {
    tree.write("wroclaw/immich/upload/photo.jpg", "precious");
    tree.write("wroclaw/immich/cache/x", "cheap");
    run(&["clean", "immich", "--volume", "immich_postgres_data"]).expect(6);
    run(&["all-down"]).expect(0);
    assert!(engine.ids().is_empty());
    let kept = run(&["clean", "immich"]).expect(0);
    assert!(kept.out.contains("kept immich/upload/photo.jpg (data: --yes"), "{}", kept.out);
    assert!(!tree.root.join("wroclaw/immich/cache/x").exists());
    assert!(tree.root.join("wroclaw/immich/upload/photo.jpg").exists());
    run(&["clean", "immich", "--volume", "caddy_data"]).expect(2);
    run(&["clean", "immich", "--yes", "--volume", "immich_postgres_data"]).expect(0);
    assert!(!tree.root.join("wroclaw/immich/upload/photo.jpg").exists());
    let volumes = engine.docker(&["volume", "ls", "--quiet"]);
    assert!(!volumes.contains("immich_postgres_data") && volumes.contains("authelia_data"), "{volumes}");
    assert!(
        !tree.read("wroclaw/.env.generated").contains("IMMICH_DB_PASSWORD"),
        "the secret goes with its volume"
    );
    run(&["setup", "immich"]).expect(0);
}

/// Watches every process: no secret may be printed, nor be in the arguments or the environment of
/// a tool.
struct Watch {
    secrets: std::sync::Mutex<BTreeSet<String>>,
    heard: std::sync::Mutex<String>,
}

impl Watch {
    fn begin() -> std::sync::Arc<Self> {
        let watch = std::sync::Arc::new(Self { secrets: Default::default(), heard: Default::default() });
        let weak = std::sync::Arc::downgrade(&watch);
        std::thread::spawn(move || {
            while let Some(watch) = weak.upgrade() {
                watch.look_at_processes();
                drop(watch);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        watch
    }

    fn learn(&self, tree: &Tree) {
        let text = tree.read("wroclaw/.env.generated");
        let values = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(_, value)| value.trim_matches('\'').to_owned());
        self.secrets.lock().expect("held").extend(values.filter(|value| value.len() >= 8));
    }

    fn heard(&self, said: &Completed) {
        let once = said.out.lines().chain(said.err.lines()).filter(|line| !line.contains("(shown only now)"));
        let mut heard = self.heard.lock().expect("held");
        for line in once {
            heard.push_str(line);
            heard.push('\n');
        }
    }

    fn look_at_processes(&self) {
        let secrets = self.secrets.lock().expect("held").clone();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let dir = entry.path();
            let name = std::fs::read_to_string(dir.join("comm")).unwrap_or_default();
            let read = |file: &str| {
                String::from_utf8_lossy(&std::fs::read(dir.join(file)).unwrap_or_default()).into_owned()
            };
            let tool = ["stackctl", "docker", "docker-compose", "git", "sh"].contains(&name.trim());
            let seen = if tool { read("cmdline") + &read("environ") } else { read("cmdline") };
            // The stand-ins' own shells are the containers that declare the secret.
            let own = tool && seen.contains("/bin/serve");
            if let Some(secret) = secrets.iter().find(|secret| !own && seen.contains(secret.as_str())) {
                self.heard
                    .lock()
                    .expect("held")
                    .push_str(&format!("{} {name} shows {secret}\n", dir.display()));
            }
        }
    }

    fn end(&self) {
        let heard = self.heard.lock().expect("held");
        for secret in self.secrets.lock().expect("held").iter() {
            let line = heard.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "a secret was seen: {line:?}");
        }
    }
}

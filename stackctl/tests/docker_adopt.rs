//! `adopt`, `status` and `rotate` against containers that really run.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::time::{Duration, Instant};

use support::{Completed, Engine, Tree, privileged, stackctl};

/// 43 characters, as a script left them that took the line apart at each `=`.
const IN_USE: &str = "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY";

#[test]
fn what_runs_today_is_what_stackctl_compares_with() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    engine.load_standin();
    values_in_use_are_taken_over_and_stay(&engine);
    no_form_of_a_definition_is_drift_right_after_up(&engine);
    a_crash_loop_is_reported_in_seconds(&engine);
    what_docker_cannot_start_is_reported_with_its_reason(&engine);
}

fn values_in_use_are_taken_over_and_stay(engine: &Engine) {
    let tree = Tree::of(
        &engine.dir.path().join("old"),
        &[
            (
                "home/db.yaml",
                "services:\n  db:\n    image: standin:1\n    environment: { POSTGRES_PASSWORD: \"${DB_PASSWORD:?x}\" }\n    volumes: [\"data:/var/lib/postgresql/data\"]\n    ports: [\"127.0.0.1:${DB_PORT:-7000}:80\"]\nvolumes: { data: {} }\n",
            ),
            (
                "home/app.yaml",
                "services:\n  app:\n    image: standin:1\n    environment: [\"URL=http://u:${DB_PASSWORD}@db/x\", FROM_SHELL]\n",
            ),
            ("home/app/c.conf.tmpl", "jwt = {{JWT_SECRET}}\n"),
            ("home/app/c.conf", "jwt = in-a-file-since-2023\n"),
            ("home/.env.generated", &format!("DB_PASSWORD={IN_USE}=\n")),
            ("home/.env.user", "OTHER=1\n"),
        ],
    );
    let run = |words: &[&str]| stackctl(engine, &tree, "home", words);
    let start = |project: &str, file: &str| {
        let mut command = engine.command("docker");
        command.args(["compose", "--project-name", project, "--file", file, "up", "--detach"]);
        command.env("DB_PASSWORD", IN_USE).env("DB_PORT", "7001").env("FROM_SHELL", "of-the-shell");
        Completed::of(&command.current_dir(tree.root.join("home")).output().expect("docker runs")).expect(0);
    };
    start("oldname", "db.yaml");
    start("app", "app.yaml");
    let volume = engine.docker(&["volume", "ls", "--quiet"]);
    let before = environment(engine, "oldname-db-1");

    let said = run(&["adopt"]).expect(0);
    let line = "DB_PASSWORD: 43 characters in use, 44 in .env.generated: a trailing = is missing";
    assert!(said.out.contains(line), "{}", said.out);
    for part in
        ["JWT_SECRET: in use by app/c.conf", "DB_PORT: in use by db/db", "FROM_SHELL: in use by app/app"]
    {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(said.out.contains("db: runs as the Compose project oldname: it stays that"), "{}", said.out);
    for secret in [IN_USE, "in-a-file-since-2023", "of-the-shell"] {
        assert!(!said.out.contains(secret) && !said.err.contains(secret), "a value was printed");
    }
    let stack = tree.read("stack.toml");
    for part in [
        "[project]\ndb = \"oldname\"",
        "DB_PASSWORD = { kind = \"password\", length = 43, volumes = [\"oldname_data\"] }",
    ] {
        assert!(stack.contains(part), "{part}: {stack}");
    }
    run(&["setup"]).expect(0);
    assert_eq!(tree.read("home/app/c.conf"), "jwt = in-a-file-since-2023\n");
    run(&["up"]).expect(0);
    assert_eq!(environment(engine, "oldname-db-1"), before, "no value in use changes");
    assert!(environment(engine, "app-app-1").contains("FROM_SHELL=of-the-shell"));
    assert_eq!(engine.docker(&["volume", "ls", "--quiet"]), volume, "no volume is left behind");
    let ports = engine.docker(&["inspect", "--format", "{{json .HostConfig.PortBindings}}", "oldname-db-1"]);
    assert!(ports.contains("\"7001\""), "{ports}");
    run(&["adopt"]).expect(0);
    run(&["status"]).expect(0);
    what_runs_or_was_made_with_a_secret_keeps_it(&tree, &run);
    run(&["all-down"]).expect(0);
}

fn what_runs_or_was_made_with_a_secret_keeps_it(tree: &Tree, run: &dyn Fn(&[&str]) -> Completed) {
    // A lost value that runs somewhere is taken over, not made again.
    let whole = tree.read("home/.env.generated");
    let lost: String =
        whole.lines().filter(|line| !line.starts_with("DB_PASSWORD=")).map(|l| format!("{l}\n")).collect();
    tree.write("home/.env.generated", &lost);
    let said = run(&["setup"]).expect(0);
    assert!(said.err.contains("took DB_PASSWORD over"), "{}", said.err);
    assert!(tree.read("home/.env.generated").contains(&format!("DB_PASSWORD={IN_USE}\n")));

    // Declared or not, a database's password is not rotated by accident.
    for declared in [true, false] {
        if !declared {
            tree.edit("stack.toml", ", volumes = [\"oldname_data\"]", "");
        }
        let refused = run(&["secrets", "rotate", "DB_PASSWORD"]).expect(6);
        assert!(refused.err.contains("oldname_data was made with DB_PASSWORD"), "{}", refused.err);
    }
}

fn no_form_of_a_definition_is_drift_right_after_up(engine: &Engine) {
    let tree = Tree::of(
        &engine.dir.path().join("forms"),
        &[
            ("home/.env.user", "\u{feff}HOLE_VAR=h$x\r\n"),
            (
                "home/web.yml",
                "\u{feff}services:\r\n  web:\r\n    image: standin:1\r\n    environment: { HOLE: \"{{HOLE_VAR}}\" }\r\n    env_file:\r\n      - one.env\r\n      - { path: none.env, required: false }\r\n      - { path: raw.env, format: raw }\r\n",
            ),
            ("home/one.env", "\u{feff}A=1\r\nM=\"l1\nl2\"\r\nD=${HOLE_VAR}-${NOPE:-def}\r\n"),
            ("home/raw.env", "R=a$b #c\n"),
            (
                "home/main.yaml",
                "include: [inc/part.yaml]\nservices:\n  app:\n    extends: { file: inc/common.yaml, service: base }\n    environment: { E: \"${EXT:-${NOPE:-nested}}\", DD: \"a$$b\" }\n  tail: { image: \"standin:1\", network_mode: \"service:app\" }\n  from: { image: \"standin:1\", volumes_from: [app], pid: \"service:app\", env_file: one.env }\n  none: { image: \"standin:1\", deploy: { replicas: 0 } }\n  job: { image: \"standin:1\", entrypoint: [\"/bin/echo\"], command: [done] }\nvolumes: { data: {} }\n",
            ),
            (
                "home/inc/common.yaml",
                "services:\n  base: { image: \"standin:1\", env_file: [c.env], volumes: [\"data:/data\"] }\n",
            ),
            (
                "home/inc/part.yaml",
                "services:\n  part: { image: \"standin:1\", environment: { P: \"${PART_VALUE}\" }, env_file: c.env }\n",
            ),
            ("home/inc/.env", "PART_VALUE=7\n"),
            ("home/inc/c.env", "CE=5\n"),
        ],
    );
    let run = |words: &[&str]| stackctl(engine, &tree, "home", words);
    run(&["setup"]).expect(0);
    run(&["up"]).expect(0);
    let seen = environment(engine, "web-web-1");
    for value in ["HOLE=h$x", "A=1", "D=h$x-def", "R=a$b #c", "M=l1\nl2"] {
        assert!(seen.contains(value), "{value}: {seen}");
    }
    let drift = |status: &serde_json::Value| -> Vec<String> {
        let rows = status["containers"].as_array().expect("rows").iter();
        let drifting = rows.filter(|row| row["drift"] != serde_json::json!([]));
        drifting.map(|row| row["container"].as_str().expect("a name").to_owned()).collect()
    };
    let status = run(&["status", "--json"]).expect(0).json();
    assert_eq!(drift(&status), [] as [&str; 0], "{status}");
    assert_eq!(run(&["diff", "--json"]).expect(0).json()["changes"], serde_json::json!([]));
    let ids = engine.ids();
    run(&["up"]).expect(0);
    assert_eq!(ids, engine.ids());
    // What really changed is seen.
    tree.write("home/raw.env", "R=other\n");
    assert_eq!(drift(&run(&["status", "--json"]).expect(0).json()), ["web"]);
    assert!(run(&["diff"]).expect(0).out.contains("web: up would recreate web"));
    let adopted = run(&["adopt"]).expect(10);
    assert!(
        adopted.out.contains("web/web: environment R: 6 characters in use, 5 in the env_file"),
        "{}",
        adopted.out
    );
    run(&["all-down"]).expect(0);
}

fn a_crash_loop_is_reported_in_seconds(engine: &Engine) {
    let tree = Tree::of(
        &engine.dir.path().join("crash"),
        &[
            ("home/.env.user", "WORD_PASSWORD=hidden-word\n"),
            (
                "home/loop.yaml",
                "services:\n  web:\n    image: standin:1\n    entrypoint: [/bin/sh, -c, \"printf 'begin\\\\nboom %s\\\\n' ${WORD_PASSWORD}; exit 3\"]\n    restart: unless-stopped\n    healthcheck: { test: [CMD, \"true\"], interval: 60s }\n  later:\n    image: standin:1\n    depends_on: { web: { condition: service_healthy } }\n",
            ),
            (
                "home/slow.yaml",
                "services:\n  web: { image: \"standin:1\", entrypoint: [/bin/sh, -c, \"sleep 2; exit 4\"], restart: always }\n",
            ),
        ],
    );
    let run = |words: &[&str]| stackctl(engine, &tree, "home", words);
    let start = Instant::now();
    let failed = run(&["up", "loop"]).expect(1);
    let took = start.elapsed();
    println!("a crash loop was reported after {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(failed.err.contains("loop/web: it crashes again and again"), "{}", failed.err);
    assert_eq!(failed.err.matches("  boom <WORD_PASSWORD>").count(), 1, "{}", failed.err);
    let status = run(&["status"]).expect(11);
    assert!(status.out.contains("loop/web: it crashes again and again"), "{}", status.out);
    // It has crashed once more since, perhaps.
    assert!(status.out.contains("  boom <WORD_PASSWORD>"), "{}", status.out);
    assert!(status.err.contains("not running: loop/later, slow/web"), "{}", status.err);
    run(&["down", "loop"]).expect(0);
    run(&["status", "loop"]).expect(10);
    // One that lives for two seconds each time looks fine for as long.
    let failed = run(&["up", "slow"]).expect(1);
    assert!(failed.err.contains("it crashes again and again"), "{}", failed.err);
    run(&["all-down"]).expect(0);
}

fn what_docker_cannot_start_is_reported_with_its_reason(engine: &Engine) {
    let tree = Tree::of(
        &engine.dir.path().join("refused"),
        &[
            ("home/.env.user", "LISTEN=192.0.2.77\n"),
            (
                "home/web.yaml",
                "services:\n  web:\n    image: standin:1\n    ports: [\"${LISTEN}:80:80\"]\n  later:\n    image: standin:1\n    depends_on: [web]\n",
            ),
        ],
    );
    let run = |words: &[&str]| stackctl(engine, &tree, "home", words);
    let reason = "web/web: Docker cannot start it: listen tcp4 192.0.2.77:80: bind: cannot assign requested address (this machine has no such address";
    let failed = run(&["all-up"]).expect(1);
    assert!(failed.err.contains(reason), "{}", failed.err);
    let status = run(&["status"]).expect(11);
    assert!(status.out.contains(reason), "{}", status.out);
    tree.write("home/.env.user", "LISTEN=127.0.0.7\n");
    run(&["up"]).expect(0);
    let restarted = run(&["restart"]).expect(0);
    assert!(restarted.out.contains("web: restarted later, web"), "{}", restarted.out);
    run(&["status"]).expect(0);
    run(&["down"]).expect(0);
}

fn environment(engine: &Engine, container: &str) -> String {
    engine.docker(&["inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", container])
}

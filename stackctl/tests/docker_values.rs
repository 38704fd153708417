//! Every printable character reaches a container as it is in the env file, through real Compose.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use support::{Engine, Tree, alone, changed, packages, privileged, stackctl};

#[test]
fn every_printable_character_reaches_the_container_on_every_way() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    engine.load_images();
    let tree = tree(engine.dir.path().join("tree").as_path());
    stackctl(&engine, &tree, "here", &["up", "echo"]).expect(0);
    let environment = engine.docker(&["exec", "echo-echo-1", "env"]);
    let rendered = engine.docker(&["exec", "echo-echo-1", "cat", "/etc/value"]);
    let mut checked = 0;
    for (name, value) in values() {
        for way in ["ENV", "HOLE"] {
            let line = format!("{way}_{name}={value}");
            assert!(environment.lines().any(|seen| seen == line), "{line} is not in\n{environment}");
        }
        let line = format!("{name}={value}");
        assert!(rendered.lines().any(|seen| seen == line), "{line} is not in\n{rendered}");
        checked += 1;
    }
    let evil = engine
        .command(support::STACKCTL)
        .args(["up", "echo", "--json"])
        .env("C36", "evil")
        .current_dir(tree.root.join("here"))
        .output();
    let said = support::Completed::of(&evil.expect("stackctl runs")).expect(0).json();
    assert_eq!(
        said["services"][0]["result"]["unchanged"],
        serde_json::json!(["echo"]),
        "the caller's environment is scrubbed"
    );
    println!("{checked} values reached the container on three ways each");
    a_single_file_mount_sees_a_rendering_without_a_restart(&engine, &tree);
    a_container_in_anothers_network_follows_it(&engine, &tree);
    hooks_warn_unless_they_are_fatal(&engine, &tree);
    the_printed_command_works_as_it_is(&engine, &tree);
    all_of_them_come_up_but_the_one_that_cannot(&engine, &tree);
    stackctl(&engine, &tree, "here", &["down", "echo"]).expect(0);
    labels_recreate_a_foreign_start_once(&engine, &tree);
    stackctl(&engine, &tree, "here", &["down", "echo"]).expect(0);
}

fn a_single_file_mount_sees_a_rendering_without_a_restart(engine: &Engine, tree: &Tree) {
    let before = engine.ids();
    tree.edit("here/.env.user", "M97=xay", "M97=changed");
    stackctl(engine, tree, "here", &["render", "echo"]).expect(0);
    let seen = engine.docker(&["exec", "echo-echo-1", "grep", "^M97=", "/etc/value"]);
    assert_eq!((seen.as_str(), &before), ("M97=changed\n", &engine.ids()));
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    assert_eq!(changed(&before, &engine.ids()), ["echo-echo-1"], "and up notices the change");
}

fn a_container_in_anothers_network_follows_it(engine: &Engine, tree: &Tree) {
    tree.write(
        "here/echo.yaml",
        "services:\n  tail:\n    image: standin:1\n    network_mode: service:echo\n",
    );
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    tree.edit("here/.env.user", "M98=xby", "M98=changed");
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    let mode = engine.docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.NetworkMode}} {{.State.Status}}",
        "echo-tail-1",
    ]);
    assert_eq!(mode.trim(), format!("container:{} running", engine.ids()["echo-echo-1"]));
    let again = engine.ids();
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    assert_eq!(again, engine.ids());
    let status = stackctl(engine, tree, "here", &["status", "echo"]).expect(0);
    assert!(!status.out.contains("definition changed"), "{}", status.out);
    tree.write("here/echo.yaml", "services: {}\n");
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    assert!(!engine.ids().contains_key("echo-tail-1"), "what no file defines any more goes");
}

fn hooks_warn_unless_they_are_fatal(engine: &Engine, tree: &Tree) {
    for (failure, code) in [("warn", 0), ("fatal", 1)] {
        let text = format!(
            "[hooks.echo]\npost_up = [{{ run = \"echo hooked; exit 3\", cwd = \"echo\", on_failure = \"{failure}\" }}]\n"
        );
        tree.write("stack.toml", &text);
        let said = stackctl(engine, tree, "here", &["up", "echo"]).expect(code);
        assert!(said.err.contains("hook echo hooked; exit 3 ended with exit status: 3"), "{}", said.err);
    }
    tree.write("stack.toml", "");
}

fn the_printed_command_works_as_it_is(engine: &Engine, tree: &Tree) {
    let printed =
        stackctl(engine, tree, "here", &["print-command", "echo", "--", "ps", "--services"]).expect(0);
    // A person's shell reaches Docker by its own variables; here they precede the command.
    let host = engine
        .environment()
        .into_iter()
        .filter(|(name, _)| name.starts_with("DOCKER"))
        .map(|(n, v)| format!(" {n}={v}"))
        .collect::<String>();
    let line = printed.out.replace("env -i", &format!("env -i{host}"));
    let output = engine.command("sh").args(["-c", &line]).output().expect("sh runs");
    assert_eq!(support::Completed::of(&output).expect(0).out, "echo\n");
}

fn all_of_them_come_up_but_the_one_that_cannot(engine: &Engine, tree: &Tree) {
    stackctl(engine, tree, "here", &["down", "echo"]).expect(0);
    // No such image, and no registry to ask.
    tree.write("here/absent.yaml", "services:\n  absent:\n    image: nowhere.invalid/absent:1\n");
    let said = stackctl(engine, tree, "here", &["all-up"]).expect(10);
    assert!(said.out.contains("absent: failed (exit 1)"), "{}", said.out);
    assert!(said.out.contains("up: 1 of 2 services succeeded"), "{}", said.out);
    assert!(engine.ids().contains_key("echo-echo-1"), "{}", said.err);
    std::fs::remove_file(tree.root.join("here/absent.yaml")).expect("removed");
}

fn labels_recreate_a_foreign_start_once(engine: &Engine, tree: &Tree) {
    let env = tree.root.join("here/.stack/services/echo/compose.env");
    let file = tree.root.join("here/.stack/services/echo/compose-0.yaml");
    let base = tree.root.join("_base").display().to_string();
    let mut command = engine.command("docker");
    command
        .args(["compose", "--project-name", "echo", "--project-directory", &base, "--env-file"])
        .arg(env)
        .arg("--file")
        .arg(file);
    let started = command
        .args(["up", "--detach"])
        .env("PWD", tree.root.join("here"))
        .current_dir(tree.root.join("here"))
        .output();
    support::Completed::of(&started.expect("docker runs")).expect(0);
    let before = engine.ids();
    let said = stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    assert!(
        said.err.contains("this first up adds labels, which recreates its containers once"),
        "{}",
        said.err
    );
    assert_eq!(changed(&before, &engine.ids()), ["echo-echo-1"]);
    let after = engine.ids();
    stackctl(engine, tree, "here", &["up", "echo"]).expect(0);
    assert_eq!(after, engine.ids());
}

#[test]
fn the_doctor_lists_every_value_that_compose_itself_would_read_otherwise() {
    let plugins = packages("docker").join("usr/libexec/docker/cli-plugins");
    let dir = tempfile::tempdir().expect("a folder");
    let tree = tree(&dir.path().canonicalize().expect("there"));
    let listed = alone(&tree, "here", None, &["doctor", "--json"]).expect(11).out;
    let mut differing = 0;
    for (name, value) in values() {
        let env = tree.root.join("one.env");
        std::fs::write(&env, format!("{name}={value}\n")).expect("written");
        let file = tree.root.join("one.yaml");
        std::fs::write(
            &file,
            format!("services:\n  a:\n    image: x\n    environment: [\"X=${{{name}}}\"]\n"),
        )
        .expect("written");
        let output = std::process::Command::new(plugins.join("docker-compose"))
            .args(["--env-file".as_ref(), env.as_os_str(), "--file".as_ref(), file.as_os_str()])
            .args(["--project-name", "x", "config", "--format", "json"])
            .env_clear()
            .env("HOME", dir.path())
            .output()
            .expect("compose runs");
        let read: Option<String> =
            serde_json::from_slice::<serde_json::Value>(&output.stdout).ok().and_then(|model| {
                let text = model["services"]["a"]["environment"]["X"].as_str()?.replace("$$", "$");
                Some(text)
            });
        if read.as_deref() != Some(value.as_str()) {
            differing += 1;
            assert!(
                listed.contains(&format!(" {name} is read literally")),
                "{name}={value}: Compose reads {read:?}"
            );
        }
    }
    println!("Compose itself reads {differing} of {} values otherwise; all are listed", values().len());
    assert!(differing > 0);
}

/// Each printable character alone, between letters, and all of them at once.
fn values() -> Vec<(String, String)> {
    let printable = || (33..127u8).map(char::from);
    let mut values: Vec<(String, String)> =
        printable().map(|c| (format!("C{}", u32::from(c)), format!("{c}"))).collect();
    values.extend((32..127u8).map(char::from).map(|c| (format!("M{}", u32::from(c)), format!("x{c}y"))));
    values.push(("ALL_OF_THEM".into(), printable().collect()));
    values.push(("LOOKS_LIKE".into(), "a${C65}b$C66c{{C67}}&d\\n#e 'f' \"g\" %h `i` !j $$k".into()));
    values
}

fn tree(root: &std::path::Path) -> Tree {
    let mut compose = String::from(
        "services:\n  echo:\n    image: standin:1\n    volumes: [\"${PWD}/echo/value:/etc/value:ro\"]\n    environment:\n",
    );
    let (mut env, mut template) = (String::new(), String::new());
    for (name, value) in values() {
        compose.push_str(&format!("      ENV_{name}: ${{{name}}}\n      HOLE_{name}: {{{{{name}}}}}\n"));
        env.push_str(&format!("{name}={value}\n"));
        template.push_str(&format!("{name}={{{{{name}}}}}\n"));
    }
    Tree::of(
        root,
        &[
            ("_base/echo.yaml", &compose),
            ("here/.env.user", &env),
            ("here/echo/value.tmpl", &template),
            ("here/echo.yaml", "services: {}\n"),
        ],
    )
}

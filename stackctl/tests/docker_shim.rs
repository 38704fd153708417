//! The Makefile shim against a real engine: the same session, with the old fingers.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::path::Path;

use support::{Completed, Engine, Tree, changed, link, privileged};

#[test]
fn make_does_the_same_session() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    engine.load_images();
    let tree = Tree::sample(engine.dir.path(), "docker-compose");
    let bin = engine.dir.path().join("bin");
    link(Path::new(support::STACKCTL), &bin.join("stackctl"));
    std::fs::remove_file(tree.root.join("wroclaw/Makefile")).expect("removed");
    link(Path::new("../scripts/Makefile"), &tree.root.join("wroclaw/Makefile"));
    let make = |words: &[&str]| -> Completed {
        let path = engine.environment()[0].1.clone();
        let mut command = engine.command("timeout");
        command.args(["300", "make"]).args(words).env("PATH", format!("{}:{path}", bin.display()));
        Completed::of(&command.current_dir(tree.root.join("wroclaw")).output().expect("make runs"))
    };

    make(&["select", "SERVICE=authelia"]).expect(0);
    make(&["authelia-generate-secrets"]).expect(0);
    assert!(make(&["setup"]).expect(0).out.contains("everything is set up"));
    make(&["up"]).expect(0);
    let (files, ids) = (tree.fingerprint(), engine.ids());
    make(&["setup"]).expect(0);
    make(&["up"]).expect(0);
    assert!(files == tree.fingerprint() && ids == engine.ids(), "the second setup and up change nothing");
    assert!(make(&["status"]).expect(0).out.contains("healthy"));
    assert!(make(&["logs"]).expect(0).out.contains("serving"));

    engine.docker(&["exec", "authelia-authelia-1", "sh", "-c", "echo 'code 42' >/data/notification.txt"]);
    assert_eq!(make(&["authelia-get-code"]).expect(0).out, "code 42\n");
    engine.docker(&["exec", "authelia-authelia-1", "touch", "/data/db.sqlite3"]);
    make(&["authelia-clean-db"]).expect(0);
    let data = engine.docker(&["exec", "authelia-authelia-1", "ls", "/data"]);
    assert_eq!(data.trim(), "notification.txt");

    tree.edit("authelia/configuration.yml.tmpl", "level: info", "level: debug");
    make(&["restart"]).expect(0);
    assert_eq!(changed(&ids, &engine.ids()), ["authelia-authelia-1"]);
    engine.docker(&["rm", "--force", "authelia-authelia-1"]);
    let missing = make(&["authelia-status"]).expect(2);
    assert!(missing.out.contains("missing") && missing.err.contains("Error 10"), "{}", missing.err);
    make(&["up"]).expect(0);
    tree.edit("authelia/configuration.yml.tmpl", "level: debug", "level: STANDIN_BROKEN");
    // make turns every failure into its own code 2 and says ours.
    let back = make(&["up", "ARGS=--rollback --wait 6"]).expect(2);
    assert!(back.err.contains("runs again") && back.err.contains("Error 7"), "{}", back.err);
    assert!(tree.read("wroclaw/authelia/configuration.yml").contains("level: debug"));

    make(&["down"]).expect(0);
    assert!(make(&["clean"]).expect(0).out.contains("kept volume authelia_data"));
    make(&["clean", "VOLUMES=authelia_data"]).expect(0);
    assert!(!tree.read("wroclaw/.env.generated").contains("AUTHELIA_STORAGE_ENCRYPTION_KEY"));
    assert!(make(&["unselect"]).expect(0).out.contains("verbs mean all"));
}

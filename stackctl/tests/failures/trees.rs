//! Which files are services, and what is said of those that are none.

use std::fs;

use super::site::Site;
use super::support::{Tree, alone};

#[test]
fn files_that_end_in_yml_and_folders_are_services_too() {
    let site = Site::new();
    fs::rename(site.path("_base/caddy.yaml"), site.path("_base/caddy.yml")).expect("renamed");
    fs::rename(site.path("wroclaw/caddy.yaml"), site.path("wroclaw/caddy.yml")).expect("renamed");
    site.tree.write("wroclaw/immich/docker-compose.yml", "\u{feff}name: photos\r\nservices: {}\r\n");
    site.tree.write("wroclaw/immich/docker-compose.override.yml", "services: {}\n");
    site.tree.write("wroclaw/prometheus.yml", "scrape_configs: []\n");
    let said = site.run(&["print-command", "--json"]).expect(0).json();
    let commands: Vec<&str> =
        said["commands"].as_array().expect("rows").iter().filter_map(|row| row["command"].as_str()).collect();
    let [caddy, immich] = commands.as_slice() else { panic!("{said}") };
    assert!(caddy.contains("/_base ") && caddy.contains("/wroclaw/caddy.yml"), "{caddy}");
    assert!(immich.contains("--project-name photos ") && immich.contains("override.yml"), "{immich}");
    assert!(immich.starts_with(&format!("cd {}", site.path("wroclaw/immich").display())), "{immich}");
    site.tree.write("wroclaw/caddy.yaml", "services: {}\n");
    let said = site.run(&["status"]).expect(4);
    assert!(said.err.contains("are both the same service"), "{}", said.err);
}

#[test]
fn a_tree_of_folders_needs_no_location() {
    let site = Site::new();
    let root = site.dir.path().canonicalize().expect("there").join("flat");
    let tree = Tree::of(
        &root,
        &[
            ("caddy/compose.yaml", "services: {}\n"),
            ("caddy/.env", "TAG=1\n"),
            ("emby/compose.yml", "services: {}\n"),
            ("notes/x.txt", ""),
        ],
    );
    for place in ["", "caddy"] {
        let said = alone(&tree, place, Some(&site.bin()), &["print-command"]).expect(0);
        assert_eq!(said.out.lines().count(), 2, "{}", said.out);
        assert!(said.out.contains("--project-name caddy ") && said.out.contains("emby/compose.yml"));
    }
    let lone = Tree::of(&site.dir.path().join("lone"), &[("x/y.txt", "")]);
    assert!(alone(&lone, "", Some(&site.bin()), &["status"]).expect(2).err.contains("no tree at or above"));
}

#[test]
fn a_location_without_services_says_what_is_not_used_and_how_to_arrange_it() {
    let site = Site::new();
    site.tree.write("kyiv/.env.user", "");
    site.tree.write("kyiv/old/stack.yml", "services: {}\n");
    for verb in ["setup", "all-up", "status", "adopt"] {
        let said = alone(&site.tree, "kyiv", Some(&site.bin()), &[verb]).expect(4);
        assert!(
            said.err.contains("kyiv has no services: each is kyiv/SERVICE.yaml (or .yml)"),
            "{}",
            said.err
        );
        let line =
            "kyiv/old/stack.yml looks like a Compose file and is not used: a service is kyiv/SERVICE.yaml";
        assert!(said.err.contains(line), "{}", said.err);
    }
    site.tree.write("_base/emby.yml", "services: {}\n");
    let said = site.run(&["adopt"]).expect(0);
    assert!(said.out.contains("_base/emby.yml looks like a Compose file and is not used"), "{}", said.out);
    assert!(said.out.contains("add wroclaw/emby.yml, or [place] wroclaw = [\"emby\"]"), "{}", said.out);
}

#[test]
fn two_services_of_one_project_are_refused() {
    let site = Site::new();
    site.tree.write("wroclaw/emby.yaml", "name: caddy\nservices: {}\n");
    let said = site.run(&["status"]).expect(4);
    assert!(said.err.contains("caddy and emby are both the Compose project caddy"), "{}", said.err);
    site.tree.write("stack.toml", "[project]\nemby = \"media\"\n");
    assert!(site.run(&["print-command"]).expect(0).out.contains("--project-name media"));
}

#[test]
fn where_no_stack_toml_exists_setup_offers_the_one_it_would_write() {
    let site = Site::new();
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{SESSION_SECRET}} {{ADMIN_PASSWORD}}\n");
    let before = site.tree.fingerprint();
    let said = site.run(&["setup"]).expect(4);
    assert!(said.err.contains("how ADMIN_PASSWORD, SESSION_SECRET are made"), "{}", said.err);
    assert!(
        said.err.contains("[secrets.caddy]\nADMIN_PASSWORD = { kind = \"password\", length = 24 }"),
        "{}",
        said.err
    );
    site.unchanged_since(&before);
    site.run(&["adopt"]).expect(10);
    site.run(&["setup"]).expect(0);
    assert!(site.tree.read("wroclaw/.env.generated").contains("SESSION_SECRET="));
}

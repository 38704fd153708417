//! A rollback brings back everything that a healthy service was made of, whatever files Compose read for it.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // A scenario that cannot go on stops.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use support::{Completed, Engine, Tree, privileged, stackctl};

const WEB: &str = "include: [more.yaml]
services:
  web:
    extends: { file: ../parts/common.yaml, service: common }
    image: standin:1
    env_file: [app.env, { path: ../parts/also.env, required: false }]
    volumes:
      - ./web/single.conf:/etc/single.conf:ro
      - ./web/folder:/etc/folder:ro
      - ./web/state.json:/state.json
      - ./web:/whole
      - /etc/hostname:/etc/hostname.of.machine:ro
    secrets: [token]
secrets: { token: { file: ./web/token } }
";

/// Files that Compose alone reads: they are kept by what they say.
const READ: [(&str, &str, &str); 4] = [
    ("home/app.env", "FROM_FILE=old$5'x\n", "FROM_FILE=new\n"),
    ("parts/also.env", "FROM_SECOND=old\n", "FROM_SECOND=new\n"),
    (
        "home/more.yaml",
        "services: { more: { image: standin:1, env_file: more.env } }\n",
        "services: { more: { image: standin:1, environment: [X=new] } }\n",
    ),
    (
        "parts/common.yaml",
        "services: { common: { environment: { EXTENDED: 'old$$1' } } }\n",
        "services: { common: { environment: { EXTENDED: new } } }\n",
    ),
];

/// Files that the containers mount.
const MOUNTED: [&str; 3] = ["home/web/single.conf", "home/web/folder/a.conf", "home/web/token"];

#[test]
fn a_rollback_brings_back_what_compose_read_and_what_containers_mount() {
    if !privileged() {
        return;
    }
    let site = Site::start();
    site.run(&["up", "web"]).expect(0);
    let old = site.seen();
    assert!(old.contains("FROM_FILE=old$5'x\n") && old.contains("EXTENDED=old$1\n"), "{old}");
    assert!(old.contains("MORE=old"), "{old}");
    site.change();
    site.run(&["up", "web"]).expect(0);
    assert_ne!(site.seen(), old);

    let back = site.run(&["rollback", "web"]).expect(0);
    assert_eq!(site.seen(), old);
    for path in MOUNTED {
        assert_eq!(site.tree.read(path), "old\n", "{path}");
        let mode = fs::metadata(site.tree.root.join(path)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
        let line = format!("put back: {path}; what it replaced is home/.stack/");
        let at = back.out.split(&line).nth(1).unwrap_or_else(|| panic!("{path}: {}", back.out));
        let aside = format!("home/.stack/{}", at.lines().next().expect("a path"));
        assert_eq!(site.tree.read(&aside), "new\n");
    }
    for (path, _, new) in READ {
        assert_eq!(site.tree.read(path), new, "the sources are their owner's");
    }
    assert_eq!(site.tree.read("home/web/state.json"), "new\n", "it may be data");
    assert!(
        back.out.contains("not put back: home/web/state.json: its container may write it"),
        "{}",
        back.out
    );
    assert!(
        back.out.contains("not kept, so as they are now: /etc/hostname (outside of the tree)"),
        "{}",
        back.out
    );

    let none = site.run(&["rollback", "web"]).expect(2);
    assert!(
        none.err.contains("web has no generation before the one that runs: there are 1, 2"),
        "{}",
        none.err
    );

    // Nothing is made again when the sources say the same as what runs.
    for (path, old, _) in READ {
        site.tree.write(path, old);
    }
    let before = site.engine.ids();
    site.run(&["up", "web"]).expect(0);
    assert_eq!(before, site.engine.ids());
    // What the service does not use, and what a container writes, makes no new generation.
    site.tree.write("home/.env.user", "OF_NOTHING_HERE=1\n");
    fs::write(site.tree.root.join("home/web/state.json"), "newer\n").expect("written");
    let up = site.run(&["up", "web"]).expect(0);
    assert!(!up.err.contains("generation"), "the same is no new generation: {}", up.err);
}

#[test]
fn a_rollback_needs_none_of_the_files_that_compose_read() {
    if !privileged() {
        return;
    }
    let site = Site::start();
    site.run(&["up", "web"]).expect(0);
    let old = site.seen();
    site.change();
    site.run(&["up", "web"]).expect(0);
    for path in READ.map(|(path, ..)| path).into_iter().chain(MOUNTED) {
        fs::remove_file(site.tree.root.join(path)).expect("removed");
    }
    site.tree.write("home/web.yaml", "services: [\n");
    site.run(&["up", "web"]).expect(4);
    site.run(&["rollback", "web", "--to", "1"]).expect(0);
    assert_eq!(site.seen(), old);
    let down = site.run(&["down", "web"]).expect(0);
    assert!(down.err.contains("web: its files are wrong, so generation 2 says what to stop"), "{}", down.err);
    assert!(site.engine.ids().is_empty(), "{:?}", site.engine.ids());
    for path in MOUNTED {
        assert_eq!(site.tree.read(path), "old\n", "{path}");
    }
}

#[test]
fn what_is_too_large_or_holds_more_than_the_service_is_not_kept_and_that_is_reported() {
    if !privileged() {
        return;
    }
    let site = Site::start();
    let path = site.tree.root.join("home/web/folder/big");
    fs::File::create(&path).and_then(|file| file.set_len(5 << 20)).expect("made");
    site.tree.write(
        "home/web.yaml",
        &WEB.replace("./web:/whole", "./:/whole:ro")
            .replace("/etc/hostname:/etc/hostname.of.machine:ro", "./web/folder/big:/big:ro"),
    );
    site.run(&["up", "web"]).expect(0);
    site.change();
    site.run(&["up", "web"]).expect(0);
    let back = site.run(&["rollback", "web"]).expect(0);
    for part in ["home (a folder with Compose files)", "home/web/folder/big (larger than 4 MiB)"] {
        assert!(back.out.contains(part), "{part}: {}", back.out);
    }
    assert_eq!(site.tree.read("home/web/state.json"), "new\n");
}

struct Site {
    engine: Engine,
    tree: Tree,
}

impl Site {
    fn start() -> Self {
        let engine = Engine::start();
        engine.load_standin();
        let files = [
            ("home/.env.user", ""),
            ("home/web.yaml", WEB),
            ("home/more.env", "MORE=old\n"),
            ("home/web/state.json", "old\n"),
        ];
        let tree = Tree::of(&engine.dir.path().join("tree"), &files);
        for (path, old, _) in READ {
            tree.write(path, old);
        }
        for path in MOUNTED {
            tree.write(path, "old\n");
            fs::set_permissions(tree.root.join(path), Permissions::from_mode(0o600)).expect("closed");
        }
        Self { engine, tree }
    }

    fn run(&self, words: &[&str]) -> Completed {
        stackctl(&self.engine, &self.tree, "home", words)
    }

    fn change(&self) {
        for (path, _, new) in READ {
            self.tree.write(path, new);
        }
        for path in MOUNTED.into_iter().chain(["home/web/state.json"]) {
            fs::remove_file(self.tree.root.join(path)).expect("removed");
            self.tree.write(path, "new\n");
        }
    }

    /// The variables and the configuration that both containers see.
    fn seen(&self) -> String {
        let mut seen = String::new();
        for container in ["web-web-1", "web-more-1"] {
            let all = self.engine.docker(&["exec", container, "env"]);
            // Docker gives them in any order.
            let ours: BTreeSet<&str> = all.lines().filter(|line| !line.starts_with("HOSTNAME=")).collect();
            seen.push_str(&ours.into_iter().map(|line| format!("{line}\n")).collect::<String>());
        }
        let paths = ["/etc/single.conf", "/etc/folder/a.conf", "/run/secrets/token"];
        seen + &self.engine.docker(&[&["exec", "web-web-1", "cat"][..], &paths].concat())
    }
}

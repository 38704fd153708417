//! Every failure has its exit code, says how to fix it, and changes nothing. No Docker is needed
//! here: a stand-in on the `PATH` answers for Compose, and there is no engine.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod site;
#[path = "../support/mod.rs"]
mod support;
mod trees;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use site::{COMPOSE, FAKE_DOCKER, Site};
use support::{Completed, alone, executable, link, privileged};

#[test]
fn missing_variables_are_all_named_at_once_and_nothing_is_written() {
    let site = Site::new();
    site.tree.write("wroclaw/caddy/b.conf.tmpl", "x\n  {{MAIL_ADRESS}} {{OTHER_ONE}}\n");
    site.tree.write("caddy/a.conf.tmpl", "{{THIRD_ONE}}\n");
    let before = site.tree.fingerprint();
    let said = site.run(&["setup"]).expect(4);
    for line in [
        "\ngive each a value in wroclaw/.env.user, or declare it as a secret in stack.toml",
        "wroclaw/caddy/b.conf.tmpl:2:3: {{MAIL_ADRESS}} has no value (did you mean MAIL_ADDRESS?)",
        "wroclaw/caddy/b.conf.tmpl:2:19: {{OTHER_ONE}} has no value",
        "caddy/a.conf.tmpl:1:1: {{THIRD_ONE}} has no value",
    ] {
        assert!(said.err.contains(line), "{}", said.err);
    }
    site.unchanged_since(&before);
}

#[test]
fn an_unknown_key_of_stack_toml_has_its_place() {
    let site = Site::new();
    site.tree.write("stack.toml", "[secrets.caddy]\nTOKEN = { kind = \"pasword\" }\n");
    let said = site.run(&["setup"]).expect(4);
    assert!(
        said.err.contains("stack.toml:2:18: unknown kind \"pasword\" (did you mean password?)"),
        "{}",
        said.err
    );
}

#[test]
fn an_env_file_that_is_not_ours_to_read_is_never_taken_for_empty() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    open_to_all(site.dir.path());
    let said = site.run_unprivileged(&["render", "--check"]).expect(5);
    assert!(said.err.contains(".env.user") && said.err.contains("uid 0"), "{}", said.err);
}

#[test]
fn an_env_file_open_to_others_is_closed_and_that_is_said_once() {
    let site = Site::new();
    let path = site.path("wroclaw/.env.user");
    let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("opened");
    let said = site.run(&["setup", "--dry-run"]).expect(0);
    assert!(said.err.contains("would close wroclaw/.env.user: it has mode 0644"), "{}", said.err);
    assert_eq!(mode(), 0o644);
    let said = site.run(&["setup"]).expect(0);
    let line = "closed wroclaw/.env.user: it had mode 0644, so others could read it; now 0600";
    assert_eq!(said.err.matches("closed wroclaw/.env.user").count(), 1, "{}", said.err);
    assert!(said.err.contains(line) && mode() == 0o600, "{}", said.err);
    assert!(!site.run(&["setup"]).expect(0).err.contains("closed"));
}

#[test]
fn an_open_env_file_of_another_user_is_refused() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    open_to_all(site.dir.path());
    let path = site.path("wroclaw/.env.user");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("opened");
    let said = site.run_unprivileged(&["render", "--check"]).expect(5);
    assert!(said.err.contains("has mode 0644") && said.err.contains("chmod 600"), "{}", said.err);
}

#[test]
fn a_secret_file_that_git_tracks_is_refused_and_others_are_ignored() {
    let site = Site::new();
    site.git(&["init", "-q"]);
    site.git(&["add", "-f", "wroclaw/.env.user"]);
    let said = site.run(&["setup"]).expect(5);
    assert!(said.err.contains("git rm --cached .env.user"), "{}", said.err);
    site.git(&["rm", "-q", "--cached", "wroclaw/.env.user"]);
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{MAIL_ADDRESS}}\n");
    site.run(&["setup"]).expect(0);
    let ignored = site.tree.read("wroclaw/.gitignore");
    assert_eq!(ignored, "/.env.user\n/.env.generated\n/.stack/\n/caddy/a.conf\n");
    site.run(&["setup"]).expect(0);
    assert_eq!(site.tree.read("wroclaw/.gitignore"), ignored);
}

#[test]
fn a_service_or_location_that_is_not_there_says_where_it_is() {
    let site = Site::new();
    site.tree.write("kyiv/transmission.yaml", "services: {}\n");
    site.tree.write("kyiv/.env.user", "");
    let said = site.run(&["up", "transmission"]).expect(2);
    assert!(said.err.contains("transmission is not at wroclaw; it exists at kyiv"), "{}", said.err);
    let said = alone(&site.tree, "", Some(&site.bin()), &["status"]).expect(2);
    assert!(said.err.contains("kyiv, wroclaw"), "{}", said.err);
    assert!(site.run(&["cady"]).expect(2).err.contains("neither a verb nor a service"));
    let said = site.run(&["caddy", "validat"]).expect(2).err;
    assert!(said.contains("caddy has no verb or action validat; its actions are: none"), "{said}");
    for (target, near) in [
        ("caddy-statsu", "status"),
        ("cady-status", "caddy-status"),
        ("statsu", "status"),
        ("all-upp", "all-up"),
    ] {
        let said = site.run(&["make", target]).expect(2).err;
        assert!(said.contains(&format!("(did you mean {near}")), "{target}: {said}");
    }
    site.run(&["select", "transmision"]).expect(2);
    site.run(&["up", "--nonsense"]).expect(2);
}

#[test]
fn a_service_named_by_the_environment_wins_over_the_selected_one() {
    let site = Site::new();
    site.tree.write("wroclaw/emby.yaml", "services: {}\n");
    site.run(&["select", "caddy"]).expect(0);
    let output = Command::new(support::STACKCTL)
        .args(["print-command", "--json"])
        .env("SERVICE", "emby")
        .env("PATH", format!("{}:/usr/bin:/bin", site.bin().display()))
        .current_dir(site.path("wroclaw"))
        .output();
    let said = Completed::of(&output.expect("stackctl runs")).expect(0).json();
    let services: Vec<_> =
        said["commands"].as_array().expect("rows").iter().map(|row| &row["service"]).collect();
    assert_eq!(services, ["emby"]);
}

#[test]
fn the_samples_hook_keeps_what_is_secret_out_of_a_commit() {
    let site = Site::new();
    site.git(&["init", "-q"]);
    let hook = support::project().join("configs/stack/scripts/pre-commit");
    fs::copy(hook, site.path(".git/hooks/pre-commit")).expect("copied");
    let commit = |message: &str| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", message]);
        Completed::of(&command.current_dir(&site.tree.root).output().expect("git runs"))
    };
    site.tree.write("wroclaw/forwarder/wroclaw.key", "private");
    site.git(&["add", "-A", "-f"]);
    let said = commit("everything").expect(1);
    for path in ["wroclaw/.env.user", "wroclaw/forwarder/wroclaw.key"] {
        assert!(said.err.contains(&format!("git rm --cached {path}")), "{}", said.err);
        site.git(&["rm", "-q", "--cached", path]);
    }
    commit("the rest").expect(0);
}

#[test]
fn a_template_newer_than_its_rendering_fails_the_check() {
    let site = Site::new();
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{MAIL_ADDRESS}}\n");
    let said = site.run(&["render", "--check", "--json"]).expect(8);
    assert_eq!(said.json()["stale"], serde_json::json!(["caddy/a.conf"]));
    assert!(!site.path("wroclaw/caddy/a.conf").exists());
    site.run(&["render"]).expect(0);
    site.run(&["render", "--check"]).expect(0);
}

#[test]
fn a_file_edited_by_hand_is_not_overwritten() {
    let site = Site::new();
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "mail {{MAIL_ADDRESS}}\n");
    site.run(&["render"]).expect(0);
    site.tree.write("wroclaw/caddy/a.conf", "mail by hand\n");
    let said = site.run(&["setup"]).expect(6);
    assert!(said.err.contains("caddy/a.conf") && said.err.contains("--overwrite"), "{}", said.err);
    let diff = site.run(&["diff"]).expect(0);
    assert!(diff.out.contains("-mail by hand") && diff.out.contains("+mail me@example.com"), "{}", diff.out);
    assert_eq!(site.tree.read("wroclaw/caddy/a.conf"), "mail by hand\n");
    site.run(&["setup", "--overwrite"]).expect(0);
    assert_eq!(site.tree.read("wroclaw/caddy/a.conf"), "mail me@example.com\n");
}

#[test]
fn a_locations_own_file_wins_over_a_shared_template() {
    let site = Site::new();
    site.tree.write("caddy/a.conf.tmpl", "shared {{MAIL_ADDRESS}}\n");
    site.tree.write("caddy/b.conf.tmpl", "shared {{MAIL_ADDRESS}}\n");
    site.tree.write("wroclaw/caddy/b.conf.tmpl", "own {{MAIL_ADDRESS}}\n");
    site.tree.write("caddy/c.conf.tmpl", "shared\n");
    site.tree.write("wroclaw/caddy/c.conf", "own file\n");
    site.run(&["setup"]).expect(0);
    assert_eq!(site.tree.read("wroclaw/caddy/a.conf"), "shared me@example.com\n");
    assert_eq!(site.tree.read("wroclaw/caddy/b.conf"), "own me@example.com\n");
    assert_eq!(site.tree.read("wroclaw/caddy/c.conf"), "own file\n");
}

#[test]
fn a_project_that_compose_refuses_changes_nothing() {
    let site = Site::new();
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{MAIL_ADDRESS}}\n");
    site.tree.write("wroclaw/caddy.yaml", &format!("{COMPOSE}# REFUSED\n"));
    let before = site.tree.fingerprint();
    let said = site.run(&["setup"]).expect(4);
    assert!(said.err.contains("services.caddy is refused"), "{}", said.err);
    site.unchanged_since(&before);
}

#[test]
fn no_engine_is_exit_three_and_compose_one_is_refused() {
    let site = Site::new();
    let said = site.run(&["up"]).expect(3);
    assert!(said.err.contains("Docker does not answer"), "{}", said.err);
    site.run(&["status"]).expect(3);
    executable(
        &site.bin().join("docker"),
        "#!/bin/sh\necho \"docker: 'compose' is not a docker command.\" >&2\nexit 1\n",
    );
    executable(&site.bin().join("docker-compose"), "#!/bin/sh\necho 1.29.2\n");
    let said = site.run(&["up"]).expect(1);
    assert!(said.err.contains("docker-compose 1.29.2 is Compose v1"), "{}", said.err);
}

#[test]
fn the_second_operator_learns_who_holds_the_lock() {
    let site = Site::new();
    site.run(&["setup"]).expect(0);
    let lock = fs::File::options().write(true).open(site.path("wroclaw/.stack/lock")).expect("a lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("held");
    fs::write(site.path("wroclaw/.stack/lock"), "pid 7 on mac 1000").expect("written");
    let said = site.run(&["setup"]).expect(6);
    assert!(said.err.contains("pid 7 on mac has been working here"), "{}", said.err);
    site.run(&["setup", "--break-lock"]).expect(0);
}

#[test]
fn a_lost_secret_is_not_made_again_while_its_volume_cannot_be_seen() {
    let site = Site::new();
    site.tree
        .write("stack.toml", "[secrets.caddy]\nDB_TOKEN = { kind = \"uuid\", volumes = [\"caddy_data\"] }\n");
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{DB_TOKEN}}\n");
    site.run(&["setup"]).expect(0);
    fs::remove_file(site.path("wroclaw/caddy/a.conf")).expect("removed");
    site.tree.write("wroclaw/.env.generated", "");
    let said = site.run(&["setup"]).expect(3);
    assert!(
        said.err.contains("DB_TOKEN is gone, and whether its volumes remain cannot be seen"),
        "{}",
        said.err
    );
    assert_eq!(site.tree.read("wroclaw/.env.generated"), "");
    assert!(!site.path("wroclaw/caddy/a.conf").exists());
}

#[test]
fn a_full_disk_leaves_the_old_files() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "small {{MAIL_ADDRESS}}\n");
    let script = format!(
        "cp -a {tree}/wroclaw {tree}/copy && mount -t tmpfs -o size=96k tmpfs {tree}/wroclaw && cp -a {tree}/copy/. {tree}/wroclaw/ && \
         cd {tree}/wroclaw && {bin} render && head -c 120000 /dev/zero | tr '\\0' x >../big && \
         {{ mkdir -p ../caddy; cp ../big ../caddy/big.conf.tmpl; }} && {bin} render; code=$?; cat caddy/a.conf; ls caddy .stack/next 2>/dev/null; exit $code",
        tree = site.tree.root.display(),
        bin = support::STACKCTL,
    );
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().expect("unshare runs");
    let said = Completed::of(&output).expect(1);
    assert!(said.err.contains("big.conf: No space left on device"), "{}", said.err);
    assert!(said.out.contains("small me@example.com") && !said.out.contains("stackctl-new"), "{}", said.out);
}

#[test]
fn an_unreachable_location_does_not_hide_the_others() {
    let site = Site::new();
    site.tree.write("kyiv/.env.user", "");
    site.tree.write("kyiv/emby.yaml", "services: {}\n");
    site.tree.write("stack.toml", "[location.kyiv]\nhost = \"ssh://pi@nowhere.invalid\"\npath = \"/srv\"\n");
    executable(
        &site.bin().join("ssh"),
        "#!/bin/sh\necho 'ssh: connect to host nowhere.invalid: Connection refused' >&2\nexit 255\n",
    );
    executable(
        &site.bin().join("docker"),
        &FAKE_DOCKER.replace(
            "  *)",
            "  version*) echo 20.10 ;;\n  ps*) ;;\n  compose*hash*) echo 'caddy abc' ;;\n  *)",
        ),
    );
    let said = site.run(&["status", "--all-locations", "--json"]).expect(10);
    assert_eq!(said.json()["unreachable"][0]["location"], "kyiv");
    assert_eq!(said.json()["containers"][0]["state"], "missing");
    let said = alone(&site.tree, "kyiv", Some(&site.bin()), &["up"]).expect(3);
    assert!(said.err.contains("kyiv does not answer"), "{}", said.err);
}

#[test]
fn a_dry_run_changes_nothing() {
    let site = Site::new();
    site.tree.write("stack.toml", "[secrets.caddy]\nNEW_TOKEN = { kind = \"uuid\", show_once = true }\n");
    site.tree.write("wroclaw/caddy/a.conf.tmpl", "{{NEW_TOKEN}}\n");
    let before = site.tree.fingerprint();
    let said = site.run(&["setup", "--dry-run", "--json"]).expect(0);
    assert_eq!(said.json()["secrets_made"], serde_json::json!(["NEW_TOKEN"]));
    site.run(&["render", "--dry-run"]).expect(4);
    site.unchanged_since(&before);
    site.run(&["setup"]).expect(0);
    assert_eq!(
        fs::metadata(site.path("wroclaw/caddy/a.conf")).map(|m| m.permissions().mode() & 0o777).ok(),
        Some(0o600)
    );
}

#[test]
fn the_doctor_lists_what_reads_otherwise_and_what_passes_through() {
    let site = Site::new();
    site.tree.write("wroclaw/.env.user", "MAIL_ADDRESS=me@example.com\nODD=a$b\nTWICE=1\n");
    site.tree.write("wroclaw/.env.generated", "TWICE=2\n");
    let said = site.run(&["doctor", "--json"]).expect(11);
    let text = said.out.clone();
    for finding in [
        "ODD is read literally",
        "_base/caddy.yaml:4:49: {{PORTS}} is no variable",
        "TWICE is in both",
        "Docker does not answer",
    ] {
        assert!(text.contains(finding), "{finding}: {text}");
    }
}

#[test]
fn a_password_is_hashed_from_standard_input() {
    for (kind, start) in
        [("argon2id", "$argon2id$"), ("pbkdf2-sha512", "$pbkdf2-sha512$310000$"), ("bcrypt", "$2b$12$")]
    {
        let mut child = Command::new(support::STACKCTL)
            .args(["hash", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("stackctl runs");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"pa$$word\n").expect("written");
        let said = Completed::of(&child.wait_with_output().expect("ended")).expect(0);
        assert!(said.out.starts_with(start), "{}", said.out);
    }
}

#[test]
fn fifty_services_of_twenty_templates_render_and_are_found_unchanged() {
    let site = Site::new();
    for service in 0..50 {
        site.tree.write(&format!("wroclaw/s{service}.yaml"), "services: {}\n");
        for template in 0..20 {
            let text = "line {{MAIL_ADDRESS}} and {{y}}\n".repeat(40);
            site.tree.write(&format!("wroclaw/s{service}/t{template}.conf.tmpl"), &text);
        }
    }
    site.run(&["render"]).expect(0);
    let best = (0..5)
        .map(|_| {
            let start = std::time::Instant::now();
            site.run(&["render", "--check"]).expect(0);
            start.elapsed()
        })
        .min()
        .expect("five runs");
    println!("50 services x 20 templates rendered and compared in {} ms", best.as_millis());
}

#[test]
fn the_makefile_shim_finds_verbs_services_and_actions() {
    let site = Site::new();
    site.tree.write(
        "stack.toml",
        "[actions.caddy]\nvalidate = [\"echo\", \"validated\"]\nget-code = [\"echo\", \"code 42\"]\n",
    );
    fs::create_dir_all(site.path("scripts")).expect("made");
    fs::copy(support::project().join("configs/Makefile.stack"), site.path("scripts/Makefile"))
        .expect("copied");
    link(Path::new("../scripts/Makefile"), &site.path("wroclaw/Makefile"));
    link(Path::new(support::STACKCTL), &site.bin().join("stackctl"));
    let make = |words: &[&str]| {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", site.bin().display());
        let output = Command::new("make")
            .args(words)
            .env_clear()
            .env("PATH", path)
            .current_dir(site.path("wroclaw"))
            .output();
        Completed::of(&output.expect("make runs"))
    };
    assert_eq!(make(&["select", "SERVICE=caddy"]).expect(0).out, "selected caddy\n");
    assert_eq!(site.tree.read("scripts/.service"), "caddy\n");
    assert_eq!(make(&["caddy-validate"]).expect(0).out, "validated\n");
    assert_eq!(make(&["caddy-get-code"]).expect(0).out, "code 42\n");
    let help = make(&["help"]).expect(0).out;
    for target in ["make all-VERB", "as caddy-status", "services at wroclaw: caddy", "make caddy-get-code"] {
        assert!(help.contains(target), "{target}: {help}");
    }
    for verb in ["setup", "render", "doctor", "print-command"] {
        let code = if verb == "doctor" { 2 } else { 0 };
        make(&[&format!("caddy-{verb}")]).expect(code);
        site.run(&["caddy", verb, "--json"]).expect(if verb == "doctor" { 11 } else { 0 });
    }
    assert!(make(&["caddy-status"]).expect(2).err.contains("Docker does not answer"));
    assert!(make(&["setup"]).expect(0).out.contains("everything is set up"));
    make(&["all-setup"]).expect(0);
    assert!(make(&["unselect"]).expect(0).out.contains("verbs mean all"));
    assert!(make(&["up"]).expect(2).err.contains("Docker does not answer"));
    assert!(make(&["caddy-nonsense"]).expect(2).err.contains("no verb or action nonsense"));
}

#[test]
fn secrets_are_made_once_listed_without_values_and_shown_only_when_asked() {
    let site = Site::new();
    let stack = "[secrets.caddy]\nNEW_TOKEN = { kind = \"hex\", bytes = 16 }\nOLD_KEY = { kind = \"ed25519\" }\nMAIL_ADDRESS = { kind = \"uuid\" }\n";
    site.tree.write("stack.toml", stack);
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----";
    site.tree.write("wroclaw/.env.generated", &format!("FOREIGN=kept\nOLD_KEY=\"{pem}\"\n"));
    site.tree.write("wroclaw/caddy/key.tmpl", "  {{OLD_KEY}}\n");
    site.run(&["setup"]).expect(0);
    assert_eq!(site.tree.read("wroclaw/caddy/key"), format!("  {}\n", pem.replace('\n', "\n  ")));
    let generated = site.tree.read("wroclaw/.env.generated");
    assert!(
        generated.starts_with("FOREIGN=kept\n")
            && generated.lines().all(|l| l.is_empty() || l.starts_with('#') || l.contains('=')),
        "{generated}"
    );
    assert!(!generated.contains("MAIL_ADDRESS"), "what .env.user gives is not made");
    site.run(&["setup"]).expect(0);
    assert_eq!(site.tree.read("wroclaw/.env.generated"), generated);
    let token = generated.lines().find_map(|line| line.strip_prefix("NEW_TOKEN=")).expect("made").to_owned();
    let list = site.run(&["secrets", "list"]).expect(0).out;
    assert!(list.contains("NEW_TOKEN") && !list.contains(&token), "{list}");
    assert_eq!(site.run(&["secrets", "show", "NEW_TOKEN"]).expect(0).out, format!("{token}\n"));
    site.run(&["secrets", "show", "NEW_TOKN"]).expect(2);
    site.run(&["secrets", "rotate", "MAIL_ADDRESS"]).expect(6);
}

#[test]
fn a_declared_secret_never_passes_through_a_compose_file_as_text() {
    let site = Site::new();
    let stack = "[secrets.other]\nADMIN_SECRET = { kind = \"uuid\" }\nADMIN_HASH = { kind = \"bcrypt\", of = \"ADMIN_SECRET\" }\n";
    site.tree.write("stack.toml", stack);
    site.tree.edit("_base/caddy.yaml", "{{MAIL_ADDRESS}}", "{{ADMIN_HASH}}");
    let said = site.run(&["render"]).expect(4);
    assert!(said.err.contains("_base/caddy.yaml:4:25: {{ADMIN_HASH}} has no value yet"), "{}", said.err);
    // Setting up the service that uses it makes it, although another one declares it.
    site.run(&["setup", "caddy"]).expect(0);
    let generated = site.tree.read("wroclaw/.env.generated");
    assert!(
        generated.contains("# --- other ---\nADMIN_HASH='$2b$12$") && generated.contains("ADMIN_SECRET="),
        "{generated}"
    );
}

#[test]
fn a_placed_service_needs_no_override_and_its_project_lies_in_base() {
    let site = Site::new();
    site.tree.write("stack.toml", "[place]\nkyiv = [\"caddy\"]\n");
    site.tree.write("kyiv/.env.user", "MAIL_ADDRESS=x\n");
    let said = alone(&site.tree, "kyiv", Some(&site.bin()), &["print-command", "--json"]).expect(0).json();
    let argv: Vec<&str> = said["commands"][0]["argv"]
        .as_array()
        .expect("argv")
        .iter()
        .filter_map(|word| word.as_str())
        .collect();
    let base = site.path("_base").display().to_string();
    let copy = site.path("kyiv/.stack/services/caddy/compose-0.yaml").display().to_string();
    assert!(argv.windows(2).any(|pair| pair == ["--project-directory", base.as_str()]), "{argv:?}");
    assert!(argv.windows(2).any(|pair| pair == ["--file", copy.as_str()]), "{argv:?}");
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("opened");
}

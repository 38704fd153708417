use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use daemon::files::Owner;

use super::accounts::{Accounts, NAME};
use super::plan::{Job, Obstacle, Step, prepared, program, programs, started};
use super::*;
use crate::start::Started;

/// A part of what `dscl` prints on a new Mac.
const USERS: &str = "_amavisd                 83\n_appleevents             55\nnobody                   -2\n\
                     root                     0\nwroclaw                  501\n";
const GROUPS: &str = "_amavisd                 83\nadmin                    80\nnobody                   -2\n\
                      staff                    20\nwheel                    0\n";
const PROGRAM: &str = "/usr/local/bin/forwarder";
const CONFIGURATION: &str = "/usr/local/etc/causeway/forwarder.toml";

#[test]
fn the_forwarder_is_the_machines_for_root_and_the_users_without() {
    let own = Path::new("/Users/wroclaw/.config/causeway/forwarder.toml");
    let root = Environment { uid: 0, ..person() };
    assert_eq!(Domain::of(Path::new(CONFIGURATION), &root), Some(Domain::System));
    assert_eq!(Domain::of(own, &person()), Some(agent()));
    for (config, environment) in [
        (Path::new("/opt/causeway/forwarder.toml"), root.clone()),
        (own, root),
        (Path::new(CONFIGURATION), person()),
        (own, Environment { home: None, ..person() }),
    ] {
        assert_eq!(Domain::of(config, &environment), None, "{}", config.display());
    }
}

#[test]
fn a_new_mac_gets_a_user_with_a_free_number_that_cannot_log_in() {
    let steps = prepared(&Accounts::parse(USERS, GROUPS), None).unwrap();
    assert_eq!(
        shown(&steps),
        [
            "+ /usr/bin/dscl . -create /Groups/_causeway RealName Causeway",
            "+ /usr/bin/dscl . -create /Groups/_causeway PrimaryGroupID 400",
            "+ /usr/bin/dscl . -create /Users/_causeway RealName Causeway",
            "+ /usr/bin/dscl . -create /Users/_causeway Password *",
            "+ /usr/bin/dscl . -create /Users/_causeway UserShell /usr/bin/false",
            "+ /usr/bin/dscl . -create /Users/_causeway NFSHomeDirectory /var/empty",
            "+ /usr/bin/dscl . -create /Users/_causeway IsHidden 1",
            "+ /usr/bin/dscl . -create /Users/_causeway PrimaryGroupID 400",
            "+ /usr/bin/dscl . -create /Users/_causeway UniqueID 400",
            "+ folder /usr/local/var/causeway (mode 0700, user 400)",
        ]
    );
}

#[test]
fn a_number_that_a_user_or_a_group_has_is_not_taken() {
    let ids = |users: &str, groups: &str| {
        let (owner, _) = Accounts::parse(users, groups).complete().unwrap();
        (owner.uid, owner.gid)
    };
    assert_eq!(ids("_a 400\n", "_b 399\n"), (398, 398));
    assert_eq!(ids("_causeway 390\n", ""), (390, 390), "the group that is missing gets the user's");
    assert_eq!(ids("_causeway 390\n", "_b 390\n"), (390, 400), "unless another has it");
    assert_eq!(ids("_b 390\n", "_causeway 390\n"), (400, 390));
    let full: String = (200..=400).map(|number| format!("_{number} {number}\n")).collect();
    assert_eq!(prepared(&Accounts::parse(&full, ""), None), Err(Obstacle::NoNumber));
}

#[test]
fn an_attempt_that_was_cut_off_anywhere_is_completed_by_the_next_one() {
    let all = prepared(&Accounts::parse(USERS, GROUPS), None).unwrap();
    for cut in 0..=all.len() {
        let mut mac = Mac::new();
        mac.carry_out(&all[..cut]);
        mac.carry_out(&mac.prepared());
        assert_eq!(mac.prepared(), [], "after {cut} steps");
        assert_eq!(mac.accounts.owner(), mac.folder, "the key's owner is the folder's");
        let whole: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
        let done: BTreeSet<_> = mac.done.iter().map(ToString::to_string).collect();
        assert_eq!(done, whole, "after {cut} steps");
    }
}

#[test]
fn the_daemon_is_described_enabled_and_loaded() {
    let (steps, how) = started(&Domain::System, Path::new(PROGRAM), Path::new(CONFIGURATION), &boot());
    assert_eq!(
        shown(&steps),
        [
            "+ file /Library/LaunchDaemons/com.causeway.forwarder.plist",
            "+ /bin/launchctl enable system/com.causeway.forwarder",
            "+ /bin/launchctl bootstrap system /Library/LaunchDaemons/com.causeway.forwarder.plist",
        ]
    );
    assert_eq!(how, Started::Now);
}

#[test]
fn the_agent_of_a_user_who_is_not_logged_in_is_described_only() {
    let own = Path::new("/Users/wroclaw/.config/causeway/forwarder.toml");
    let over_ssh = Job { has_domain: false, ..boot() };
    let (steps, how) = started(&agent(), Path::new(PROGRAM), own, &over_ssh);
    assert_eq!(shown(&steps), ["+ file /Users/wroclaw/Library/LaunchAgents/com.causeway.forwarder.plist"]);
    assert_eq!(how, Started::AtLogin { runs: false });
    let (steps, how) = started(&agent(), Path::new(PROGRAM), own, &boot());
    assert_eq!(
        shown(&steps)[2],
        format!("+ /bin/{}", agent().bootstrap()),
        "what is left to run when it fails"
    );
    assert_eq!(how, Started::AtLogin { runs: true });
}

#[test]
fn joining_again_changes_nothing_and_a_program_that_moved_is_started_from_its_new_place() {
    let (steps, _) = started(&Domain::System, Path::new(PROGRAM), Path::new(CONFIGURATION), &boot());
    let description = steps.iter().find_map(|step| match step {
        Step::Write { text, .. } => Some(text.clone()),
        Step::Run(_) | Step::Load(_) | Step::Folder { .. } | Step::AwaitGone(_) => None,
    });
    let running = Job { description, is_loaded: true, is_running: true, has_domain: true };
    let again = |program: &str, job: &Job| {
        let (steps, how) = started(&Domain::System, Path::new(program), Path::new(CONFIGURATION), job);
        (shown(&steps), how)
    };
    assert_eq!(again(PROGRAM, &running), (vec![], Started::Running));
    let failed = Job { is_running: false, ..running.clone() };
    assert_eq!(again(PROGRAM, &failed).0, ["+ /bin/launchctl kickstart system/com.causeway.forwarder"]);
    let (moved, _) = again("/opt/homebrew/bin/forwarder", &running);
    assert_eq!(moved[0], "+ /bin/launchctl bootout system/com.causeway.forwarder");
    assert_eq!(moved[1], "+ wait for the end of system/com.causeway.forwarder");
    assert_eq!(moved.len(), 5, "and then as the first time: {moved:?}");
}

#[test]
fn a_description_by_another_hand_is_kept_and_loaded() {
    let by_hand = Job { description: Some("<plist/>".to_owned()), ..boot() };
    assert!(by_hand.is_foreign() && !boot().is_foreign());
    let (steps, how) = started(&Domain::System, Path::new(PROGRAM), Path::new(CONFIGURATION), &by_hand);
    assert!(!steps.iter().any(|step| matches!(step, Step::Write { .. })), "{steps:?}");
    assert_eq!((steps.len(), how), (2, Started::Now));
}

#[test]
fn the_forwarder_is_homebrews_link_or_the_one_next_to_causeway() {
    let candidates = |own: &str| programs(Path::new(own));
    let next_to = [PathBuf::from(PROGRAM)];
    assert_eq!(candidates("/usr/local/bin/causeway"), next_to);
    assert_eq!(
        candidates("/opt/homebrew/Cellar/causeway/0.1.0/bin/causeway"),
        [
            PathBuf::from("/opt/homebrew/bin/forwarder"),
            PathBuf::from("/opt/homebrew/Cellar/causeway/0.1.0/bin/forwarder")
        ]
    );
    let found = |domain: &Domain, own: &str| program(domain, &candidates(own), &|_| true);
    assert_eq!(found(&Domain::System, "/usr/local/bin/causeway"), Ok(PathBuf::from(PROGRAM)));
    let built = "/Users/wroclaw/causeway/target/release/causeway";
    let in_home = found(&Domain::System, built).unwrap_err().to_string();
    assert!(
        in_home.contains("sudo install -m 0755 /Users/wroclaw/causeway/target/release/forwarder"),
        "{in_home}"
    );
    assert!(found(&agent(), built).is_ok(), "an agent is the user's own");
    let none = program(&Domain::System, &next_to, &|_| false).unwrap_err().to_string();
    assert!(none.contains("no forwarder in /usr/local/bin"), "{none}");
}

#[test]
fn what_join_writes_is_what_the_examples_show() {
    let own = Path::new("/Users/wroclaw/.config/causeway/forwarder.toml");
    for (domain, config, example) in [
        (
            Domain::System,
            Path::new(CONFIGURATION),
            include_str!("../../../../configs/launchd/com.causeway.forwarder.plist"),
        ),
        (agent(), own, include_str!("../../../../configs/launchd/agent/com.causeway.forwarder.plist")),
    ] {
        let text = plist::text(&domain, Path::new(PROGRAM), config);
        let body = |text: &str| text.split_once("<plist ").unwrap().1.to_owned();
        assert_eq!(body(&text), body(example));
    }
}

#[test]
fn another_program_reads_the_descriptions_as_they_are_meant() {
    let strange = Path::new("/opt/a & <b>/forwarder");
    let own = plist::text(&agent(), strange, Path::new("/Users/wroclaw/\"c\".toml"));
    let system = plist::text(&Domain::System, Path::new(PROGRAM), Path::new(CONFIGURATION));
    let read = read(&[
        &own,
        &system,
        include_str!("../../../../configs/launchd/com.causeway.nfs-mount.plist"),
        include_str!("../../../../configs/launchd/com.causeway.media-server.plist"),
    ]);
    let [own, system, examples @ ..] = read.as_slice() else { panic!("{read:?}") };
    let arguments = &own["ProgramArguments"];
    assert_eq!(arguments[0], "/opt/a & <b>/forwarder");
    assert_eq!(arguments[2], "/Users/wroclaw/\"c\".toml");
    assert_eq!(own["UserName"], serde_json::Value::Null);
    assert_eq!((&system["Label"], &system["UserName"]), (&LABEL.into(), &NAME.into()));
    assert_eq!((&system["KeepAlive"], &system["RunAtLoad"]), (&true.into(), &true.into()));
    assert_eq!(system["EnvironmentVariables"]["STATE_DIRECTORY"], MAC_FOLDER);
    assert_eq!(examples.len(), 2);
    assert!(examples.iter().all(|example| example["ProgramArguments"].is_array()));
}

/// Property lists as Python reads them.
fn read(plists: &[&str]) -> Vec<serde_json::Value> {
    let script = "import json, plistlib, sys\n\
                  print(json.dumps([plistlib.loads(text.encode()) for text in json.load(sys.stdin)]))";
    let mut command = Command::new("python3");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("python3: scripts/packages test installs it");
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(plists).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{plists:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A Mac, as far as preparing it goes.
struct Mac {
    accounts: Accounts,
    folder: Option<Owner>,
    done: Vec<Step>,
}

impl Mac {
    fn new() -> Self {
        Self { accounts: Accounts::parse(USERS, GROUPS), folder: None, done: Vec::new() }
    }

    fn prepared(&self) -> Vec<Step> {
        prepared(&self.accounts, self.folder).unwrap()
    }

    fn carry_out(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Run(words) => self.set(words),
                Step::Folder { owner, .. } => self.folder = Some(*owner),
                Step::Load(_) | Step::Write { .. } | Step::AwaitGone(_) => panic!("{step}"),
            }
            self.done.push(step.clone());
        }
    }

    /// `dscl` lists an account once it has a number.
    fn set(&mut self, words: &[String]) {
        let [_, _, _, record, key, value] = words else { panic!("{words:?}") };
        let name = record.rsplit('/').next().unwrap().to_owned();
        match key.as_str() {
            "UniqueID" => drop(self.accounts.users.insert(name, value.parse().unwrap())),
            "PrimaryGroupID" if record.starts_with("/Groups") => {
                self.accounts.groups.insert(name, value.parse().unwrap());
            }
            _ => {}
        }
    }
}

fn person() -> Environment {
    Environment { uid: 501, is_mac: true, home: Some("/Users/wroclaw".into()), ..Environment::default() }
}

fn agent() -> Domain {
    let state = "/Users/wroclaw/.local/state/causeway".into();
    Domain::User { uid: 501, home: "/Users/wroclaw".into(), state }
}

/// No job yet, in a domain that is there.
fn boot() -> Job {
    Job { has_domain: true, ..Job::default() }
}

fn shown(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

use tempfile::TempDir;

use super::*;

/// A command that adapts, validates and reloads as Caddy does: its sites are lines such as
/// `https://NAME {`, and a name that occurs twice at one port is refused.
pub(in crate::publish) const CADDY: &str = r#"
    read=$3
    grep -q '^import sites' "$3" && read="$3 $(ls "${3%/*}"/sites/*.caddy 2>/dev/null)"
    sites=$(cat $read | sed -n 's|^\(http[^ ]*\) {$|\1|p')
    twice=$(echo "$sites" | sort | uniq -d)
    [ -z "$twice" ] || { echo "Error: ambiguous site definition: $twice" >&2; exit 1; }
    ! grep -q nonsense $read || { printf 'Error: \033]0;x\007nonsense\n' >&2; exit 1; }
    [ "$1" = adapt ] || exit 0
    names=$(echo "$sites" | sed 's|^[a-z]*://||; s|:.*||; s|.*|"&",|')
    programs=$(cat $read | sed -n 's|^\treverse_proxy ||p')
    printf '{"sites": "%s %s", "host": [%s ""]}' "$(echo $sites)" "$(echo $programs)" "$(echo $names)"
"#;

const EMBY: &str = "emby.example.com";

#[test]
fn a_site_is_written_replaced_and_taken_back() {
    let place = Place::new("import sites/*.caddy\n");
    let changed = place.write(&text(8096)).unwrap();
    assert!(changed.is_changed());
    assert!(!place.write(&text(8096)).unwrap().is_changed(), "the same is there");
    let replaced = place.write(&text(9096)).unwrap();
    assert_eq!(place.site(), Some(text(9096)));
    replaced.take_back().unwrap();
    assert_eq!(place.site(), Some(text(8096)));
    changed.take_back().unwrap();
    assert_eq!(place.site(), None);
}

#[test]
fn a_site_that_its_owner_edited_is_not_replaced() {
    let place = Place::new("import sites/*.caddy\n");
    let edited = text(8096).replace("\treverse", "\tbasic_auth {\n\t\tme hash\n\t}\n\treverse");
    fs::write(place.file(), &edited).unwrap();
    for port in [8096, 9096] {
        let error = place.write(&text(port)).err().unwrap();
        assert_eq!((error.exit, place.site()), (Exit::Conflict, Some(edited.clone())));
        assert!(error.message.contains("was edited since causeway wrote it and stays as it is"), "{error}");
    }
    let own = "emby.example.com {\n}\n";
    fs::write(place.file(), own).unwrap();
    let error = place.write(&text(8096)).err().unwrap();
    assert_eq!((error.exit, place.site()), (Exit::Conflict, Some(own.to_owned())));
}

#[test]
fn a_site_that_caddy_does_not_read_is_refused_although_it_has_one_of_that_name() {
    let place = Place::new("");
    let error = place.write(&text(8096)).err().unwrap();
    assert!(error.exit == Exit::Failed && error.message.contains("does not import"), "{error}");
    // One elsewhere, which leads elsewhere.
    for config in
        ["https://emby.example.com {\n}\n", "import sites/*.caddy\nhttps://emby.example.com:8443 {\n}\n"]
    {
        let place = Place::new(config);
        let error = place.write(&text(8096)).err().unwrap();
        assert_eq!((error.exit, place.site()), (Exit::Conflict, None));
        assert!(error.message.contains("Caddy has another site for emby.example.com"), "{error}");
    }
    // Its redirect on port 80 is not in the way.
    let place = Place::new("import sites/*.caddy\nhttp://emby.example.com {\n}\n");
    assert!(place.write(&text(8096)).is_ok());
    // A replaced site that is no longer read.
    fs::write(place.folder.path().join("Caddyfile"), "https://emby.example.com {\n}\n").unwrap();
    let error = place.write(&text(9096)).err().unwrap();
    assert!(error.exit == Exit::Failed && place.site() == Some(text(8096)), "{error}");
}

#[test]
fn what_caddy_prints_is_quoted_and_what_it_refuses_is_taken_back() {
    let place = Place::new("import sites/*.caddy\nnonsense\n");
    let error = place.write(&text(8096)).err().unwrap();
    assert!(error.message.contains(r#"refuses: "Error: \u{1b}]0;x\u{7}nonsense""#), "{error}");
    assert_eq!((error.exit, place.site()), (Exit::Failed, None));
}

#[test]
fn root_does_not_run_caddy_on_what_others_may_write() {
    let place = Place::new("import sites/*.caddy\n");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = place.caddy.sites.clone();
    let others = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&folder, others).unwrap();
    let error = place.write(&text(8096)).err().unwrap();
    assert_eq!((error.exit, place.site()), (Exit::Permission, None));
    let fix = format!("chown root {0} && chmod go-w {0}", folder.display());
    assert!(error.message.contains(&fix) && error.message.contains("runuser"), "{error}");
    // In a container it is not root of this machine.
    let mut caddy = place.caddy.clone();
    caddy.command = ["docker", "exec", "caddy", "caddy"].map(str::to_owned).into();
    assert!(Sites::of(&caddy, &place.folder.path().join("Caddyfile")).is_ok());
}

#[test]
fn a_program_on_loopback_behind_a_caddy_in_a_container_is_noted() {
    let place = Place::new("");
    let note = |command: &[&str], upstream: &str| {
        let caddy =
            Caddy { command: command.iter().map(|&word| word.to_owned()).collect(), ..place.caddy.clone() };
        loopback_note(&caddy, EMBY, upstream)
    };
    let docker = ["docker", "exec", "caddy", "caddy"];
    for upstream in ["127.0.0.1:8096", "[::1]:8096", "localhost:8096"] {
        let note = note(&docker, upstream).unwrap();
        assert!(
            note.contains(upstream) && note.contains("causeway publish emby.example.com HOST:PORT"),
            "{note}"
        );
    }
    assert_eq!(note(&docker, "emby:8096"), None);
    assert_eq!(note(&["caddy"], "127.0.0.1:8096"), None);
}

fn text(port: u16) -> String {
    format!(
        "# Written by `causeway publish`; `causeway unpublish {EMBY}` removes it.\nhttps://{EMBY}:8443 {{\n\
         \tbind 127.0.0.1\n\treverse_proxy 127.0.0.1:{port}\n}}\n"
    )
}

struct Place {
    folder: TempDir,
    caddy: Caddy,
}

impl Place {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sites, file) = (folder.path().join("sites"), folder.path().join("Caddyfile"));
        fs::create_dir(&sites).unwrap();
        fs::write(&file, config).unwrap();
        let command = ["sh", "-c", CADDY, "caddy"].map(str::to_owned).into();
        Self { folder, caddy: Caddy { sites, config: file, command } }
    }

    fn file(&self) -> PathBuf {
        self.caddy.sites.join(file_name(EMBY))
    }

    fn write(&self, text: &str) -> Result<Changed<'_>, ExitError> {
        // Any file of this user's is its configuration.
        Sites::of(&self.caddy, &self.caddy.config)?.write(EMBY, text)
    }

    fn site(&self) -> Option<String> {
        fs::read_to_string(self.file()).ok()
    }
}

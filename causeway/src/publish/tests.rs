use std::fs;

use tempfile::TempDir;

use super::*;

#[test]
fn a_refused_name_that_the_file_had_before_loses_the_site_that_this_command_wrote() {
    let place = Place::new("[caddy]");
    let changed = place.site(8096);
    let site = changed.path().to_owned();
    let error = applied("same", "same").taken_back(&place.origin(), EMBY, Some(changed), &refused());
    assert!(!site.exists(), "the site is still there");
    assert_eq!(error.exit, Exit::RolledBack, "{error}");
    assert!(
        error.message.contains("had it before and is unchanged; ")
            && error.message.contains(".caddy is as it was")
    );

    // One that was there before, with another program, is back.
    let before = fs::read_to_string(place.site(8096).path()).unwrap();
    let error = applied("same", "same").taken_back(&place.origin(), EMBY, Some(place.site(9096)), &refused());
    assert_eq!(fs::read_to_string(&site).unwrap(), before, "{error}");

    // Nothing was changed, so nothing is taken back.
    let error = applied("same", "same").taken_back(&place.origin(), EMBY, Some(place.site(8096)), &refused());
    assert_eq!((error.exit, fs::read_to_string(&site).unwrap()), (Exit::Failed, before));
}

#[test]
fn a_site_stays_while_its_name_cannot_be_taken_out_of_the_file() {
    let place = Place::new("[caddy]");
    let changed = place.site(8096);
    let site = changed.path().to_owned();
    // No daemon answers.
    let error = applied("before", "after").taken_back(&place.origin(), EMBY, Some(changed), &refused());
    assert!(site.exists() && error.message.contains("kyiv refuses 443\nnot taken back: "), "{error}");
    assert_eq!(error.exit, Exit::Unreachable);
}

#[test]
fn a_service_is_withdrawn_by_its_name_as_it_is_written_and_a_host_name_in_any_case() {
    let place = Place::new(
        "[[service]]\nname = \"Game.v2\"\npublish = \"27015/udp\"\nupstream = \"127.0.0.1:27015\"\n\
         [[service]]\nname = \"Mail.example.com\"\npublish = 25\nupstream = \"127.0.0.1:2525\"\n\
         names = [\"mail.example.com\"]\n",
    );
    let policy = place.origin().policy().unwrap();
    for (written, name, is_host) in [
        ("Game.v2", "Game.v2", false),
        ("game.v2", "game.v2", true),
        ("Emby.Example.com.", EMBY, true),
        // The name goes before the service that has it.
        ("Mail.example.com", "mail.example.com", true),
        ("https", "https", false),
        // Its site is removed although the file no longer has it.
        ("gone.example.com", "gone.example.com", true),
    ] {
        assert_eq!(withdrawn(&policy, written), Withdrawn { name: name.to_owned(), is_host }, "{written}");
    }
    let config = place.origin().config;
    let text = fs::read_to_string(&config).unwrap();
    let edited = edit::remove(&Source { name: &config, text: &text }, "Game.v2").unwrap();
    assert!(!edited.text.contains("Game.v2"));
}

const EMBY: &str = "emby.example.com";

fn applied(before: &str, after: &str) -> Applied {
    Applied { before: before.to_owned(), after: after.to_owned(), services: vec!["https".to_owned()] }
}

fn refused() -> Progress {
    Progress { refused: vec!["kyiv refuses 443".to_owned()], ..Progress::default() }
}

/// A folder with forwarder.toml and a Caddy that has every site.
struct Place {
    folder: TempDir,
    policy: Policy,
}

impl Place {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        let more = more.replace(
            "[caddy]",
            &format!(
                "[caddy]\nsites = {:?}\nconfig = {:?}\ncommand = [\"sh\", \"-c\", {:?}, \"caddy\"]\n",
                here("sites"),
                here("Caddyfile"),
                caddy::tests::CADDY
            ),
        );
        fs::create_dir(here("sites")).unwrap();
        fs::write(here("Caddyfile"), "import sites/*.caddy\n").unwrap();
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"https\"\npublish = 443\nupstream = \"127.0.0.1:8443\"\nnames = [\"{EMBY}\"]\n{more}"
        );
        fs::write(here("forwarder.toml"), text).unwrap();
        let policy = forwarder::config::read(&here("forwarder.toml")).unwrap();
        Self { folder, policy }
    }

    fn origin(&self) -> Origin {
        let here = |name: &str| self.folder.path().join(name);
        Origin::find(Some(&here("forwarder.toml")), Some(&here("no.sock"))).unwrap()
    }

    /// The site of [`EMBY`], as `publish` writes it.
    fn site(&self, port: u16) -> Changed<'_> {
        let text = site::site(EMBY, &format!("127.0.0.1:{port}"), &self.policy.services[0]);
        let sites = Sites::of(self.policy.caddy.as_ref().unwrap(), &self.origin().config).unwrap();
        sites.write(EMBY, &text).unwrap()
    }
}

//! Every file here is valid, and so is every file that an edit makes of it.

use std::path::Path;

use policy::{Name, PublicPorts};

use super::*;

pub(super) const HEAD: &str = "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n\n[[peer]]\n\
    name = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n";
const EXAMPLE: &str = include_str!("../../../../configs/forwarder.toml");
const EMBY: &str = "emby.example.com";

#[test]
fn a_name_is_added_as_the_file_is_written_and_all_else_stays() {
    for (before, after) in [
        // No names yet: at the end of the entry, as far in as the key before.
        ("publish = [443]   # visitors\n", "publish = [443]   # visitors\nnames = [\"emby.example.com\"]\n"),
        ("  publish = [443]\n", "  publish = [443]\n  names = [\"emby.example.com\"]\n"),
        (
            "publish = [443]\n# the end\n\n[metrics]\nlisten = [\"127.0.0.1:9587\"]\n",
            "publish = [443]\nnames = [\"emby.example.com\"]\n# the end\n\n[metrics]\nlisten = [\"127.0.0.1:9587\"]\n",
        ),
        (
            "publish = [443]\n[service.health]\ncheck = \"tcp\"\n",
            "publish = [443]\nnames = [\"emby.example.com\"]\n[service.health]\ncheck = \"tcp\"\n",
        ),
        // A single name, a list on one line, on several, with comments.
        (
            "publish = [443]\nnames = \"a.example.com\" # one\n",
            "publish = [443]\nnames = [\"a.example.com\", \"emby.example.com\"] # one\n",
        ),
        (
            "names = [\"a.example.com\"] # visited\npublish = [443]\n",
            "names = [\"a.example.com\", \"emby.example.com\"] # visited\npublish = [443]\n",
        ),
        (
            "publish = [443]\nnames = [\n    # the first\n    \"a.example.com\", # music\n]\n",
            "publish = [443]\nnames = [\n    # the first\n    \"a.example.com\", # music\n    \"emby.example.com\",\n]\n",
        ),
        // Published by the edge's own file.
        ("match = \"192.168.88.2:443\"\n", "match = \"192.168.88.2:443\"\nnames = [\"emby.example.com\"]\n"),
        ("publish.ports = [443]\n", "publish.ports = [443]\nnames = [\"emby.example.com\"]\n"),
    ] {
        let (before, after) = (web(before), web(after));
        assert_eq!(added(&before), after);
        assert_eq!(added(&after), after, "a name that is there changes nothing");
        if !before.contains("names = \"") {
            assert_eq!(removed(&after, EMBY), before);
        }
    }
}

#[test]
fn entries_in_braces_are_edited_as_well() {
    let file = |entry: &str| format!("service = [\n  {{ {entry} }}, # web\n]\n{HEAD}");
    let before = "name = \"https\", upstream = \"127.0.0.1:8443\", publish = 443";
    let after = file(&format!("{before}, names = [\"emby.example.com\"]"));
    assert_eq!(added(&file(before)), after);
    assert_eq!(removed(&after, EMBY), file(before));
    let game = with_game(&file(before)).unwrap();
    assert!(
        game.contains(
            "# web\n  { name = \"game\", upstream = \"127.0.0.1:27015\", publish = [\"27015/udp\"] },\n]"
        ),
        "{game}"
    );
    assert_eq!(removed(&game, "game"), file(before));
}

#[test]
fn an_entry_by_its_former_name_is_edited_where_it_is() {
    let file = web("publish = [443]\n").replace("[[service]]", "[[inject]]");
    let expected =
        web("publish = [443]\nnames = [\"emby.example.com\"]\n").replace("[[service]]", "[[inject]]");
    assert_eq!(added(&file), expected);
}

#[test]
fn line_ends_and_a_byte_order_mark_stay() {
    let before = format!("\u{feff}{}", web("publish = [443]\n").replace('\n', "\r\n"));
    let after =
        format!("\u{feff}{}", web("publish = [443]\nnames = [\"emby.example.com\"]\n").replace('\n', "\r\n"));
    assert_eq!(added(&before), after);
}

#[test]
fn the_annotated_example_is_the_same_to_the_byte_after_publishing_and_back() {
    let file = EXAMPLE;
    let wiki = "wiki.example.com";
    let named = edit(file, |file| add_name(file, wiki, None)).unwrap();
    assert_ne!(named, file);
    assert_eq!(removed(&named, wiki), file);
    let game = with_game(file).unwrap();
    assert_eq!(removed(&game, "game"), file);
    let lost: Vec<_> = file.lines().filter(|line| !game.lines().any(|kept| kept == *line)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_service_comes_after_the_last_one() {
    let before = format!("{}\n# What is reached.\n[[reach]]\n{REACH}", web("publish = [443]\n"));
    let after = format!("{}\n{GAME}\n# What is reached.\n[[reach]]\n{REACH}", web("publish = [443]\n"));
    assert_eq!(with_game(&before).unwrap(), after);
    assert_eq!(with_game(&after).unwrap(), after, "the same service changes nothing");
    assert_eq!(removed(&after, "game"), before);
    // The first service of all.
    assert_eq!(with_game(HEAD).unwrap(), format!("{HEAD}\n{GAME}"));
    // A file without a final line end.
    let cut = web("publish = [443]");
    assert_eq!(with_game(&cut).unwrap(), format!("{cut}\n\n{GAME}"));
}

#[test]
fn a_removed_service_takes_its_own_comments_and_no_others() {
    let before = format!(
        "{}\n# All about games.\n\n# The game.\n{GAME}\n[[reach]]\n{REACH}",
        web("publish = [443]\n")
    );
    let after = format!("{}\n# All about games.\n\n[[reach]]\n{REACH}", web("publish = [443]\n"));
    assert_eq!(removed(&before, "game"), after);
    let last =
        format!("{}\n# All about games.\n\n# The game.\n{GAME}\n# The end.\n", web("publish = [443]\n"));
    let after = format!("{}\n# All about games.\n\n# The end.\n", web("publish = [443]\n"));
    assert_eq!(removed(&last, "game"), after);
}

#[test]
fn a_service_that_serves_more_than_visitors_only_loses_what_it_publishes() {
    let before = web("match = \"192.168.88.2:443\"\npublish = [443]\nproxy_protocol = \"v2\"\n");
    assert_eq!(removed(&before, "https"), web("match = \"192.168.88.2:443\"\nproxy_protocol = \"v2\"\n"));
}

#[test]
fn a_service_that_loses_what_it_publishes_keeps_its_protocols() {
    for (publish, protocol) in [
        ("publish = [\"27015/udp\"]\n", "protocol = [\"udp\"]\n"),
        ("publish = [443, \"443/udp\"]\n", "protocol = [\"tcp\", \"udp\"]\n"),
        ("publish = [443]\n", ""),
        ("protocol = \"udp\"\npublish = [443]\n", "protocol = \"udp\"\n"),
    ] {
        let port = if publish.contains("27015") { 27_015 } else { 443 };
        let matched = format!("match = \"192.168.88.2:{port}\"\n");
        let before = web(&format!("{matched}{publish}"));
        let after = removed(&before, "https");
        assert_eq!(after, web(&format!("{matched}{protocol}")));
        assert_eq!(protocols(&after), protocols(&before));
        let braces = |rest: &str| {
            format!("service = [{{ name = \"https\", upstream = \"127.0.0.1:8443\", {rest} }}]\n{HEAD}")
        };
        let before = braces(&format!("{matched}{publish}").trim_end().replace('\n', ", "));
        assert_eq!(protocols(&removed(&before, "https")), protocols(&before));
    }
}

#[test]
fn the_same_service_is_the_same_however_its_upstream_is_written() {
    for (ports, upstream, again) in [
        (&["5000-5010/udp"][..], "127.0.0.1:5000-5010", "127.0.0.1:5000-5010"),
        (&["5000-5010"], "127.0.0.1:6000-6010", "127.0.0.1:6000-6010"),
        (&["25"], "[fd00:0:0:0::1]:25", "[FD00::1]:25"),
        (&["25"], "mail:*", "mail:*"),
        (&["25"], "unix:/run/mail.sock", "unix:/run/mail.sock"),
        (&["443", "443/udp"], "127.0.0.1:8443", "127.0.0.1:8443"),
    ] {
        let game = new("game", ports, upstream, ProxyProtocol::Off);
        let text = edit(HEAD, |file| add_service(file, &game)).unwrap();
        let reversed: Vec<&str> = ports.iter().rev().copied().collect();
        let game = new("game", &reversed, again, ProxyProtocol::Off);
        assert_eq!(edit(&text, |file| add_service(file, &game)).unwrap(), text);
        for (ports, upstream) in [(ports, "127.0.0.1:1"), (&["1"], upstream), (&[ports[0], "1"], upstream)] {
            let other = new("game", ports, upstream, ProxyProtocol::Off);
            let error = edit(&text, |file| add_service(file, &other)).unwrap_err();
            assert!(error.contains("causeway unpublish game"), "{error}");
        }
    }
}

#[test]
fn a_header_and_tcp_ports_are_written_as_numbers_and_words() {
    let mail = new("mail", &["25"], "127.0.0.1:2525", ProxyProtocol::V2);
    let text = edit(HEAD, |file| add_service(file, &mail)).unwrap();
    let expected = "\n[[service]]\nname = \"mail\"\nupstream = \"127.0.0.1:2525\"\npublish = [25]\nproxy_protocol = \"v2\"\n";
    assert_eq!(text, format!("{HEAD}{expected}"));
}

#[test]
fn of_two_services_on_443_one_has_to_be_chosen_unless_one_has_the_name() {
    let second = "\n[[service]]\nname = \"other\"\nupstream = \"127.0.0.1:9443\"\nmatch = \"10.77.88.2:9443\"\npublish = [443]\n";
    let file = format!("{}{second}", web("match = \"10.77.88.2:8443\"\npublish = [443]\n"));
    let error = edit(&file, |file| add_name(file, EMBY, None)).unwrap_err();
    assert!(error.contains("https, other") && error.contains("--service NAME"), "{error}");
    let chosen = edit(&file, |file| add_name(file, EMBY, Some("other"))).unwrap();
    assert_eq!(chosen, format!("{file}names = [\"emby.example.com\"]\n"));
    assert_eq!(added(&chosen), chosen, "it is there already");
}

#[test]
fn what_cannot_be_edited_is_refused_with_the_fix_and_nothing_is_changed() {
    let game = |file: &str| with_game(file).unwrap_err();
    let name =
        |file: &str, wanted: Option<&str>| edit(file, |file| add_name(file, EMBY, wanted)).unwrap_err();
    let gone = |file: &str, name: &str| edit(file, |file| remove(file, name)).unwrap_err();
    let https = web("publish = [443]\n");
    let taken =
        format!("{https}\n[[service]]\nname = \"g\"\nupstream = \"127.0.0.1:1\"\npublish = \"27015/udp\"\n");
    for (error, expected) in [
        (game(&format!("{HEAD}[[service]]\nname = 3\n")), "forwarder.toml:10:8: "),
        (game("not toml"), "forwarder.toml:1:"),
        (game(&taken), "with this change it would not be valid"),
        (game(&https.replace("https", "game")), "causeway unpublish game"),
        (name(HEAD, None), "causeway publish https 443 --upstream"),
        (name(&https, Some("game")), "it has: https"),
        (gone(&https, EMBY), "it publishes: https"),
        (gone(&web("match = \"192.168.88.2:443\"\n"), "https"), "it publishes: nothing"),
        (gone(&added(&https), "https"), "has names (emby.example.com)"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_name_is_the_same_in_capitals_and_with_a_final_dot() {
    let file = web("publish = [443]\nnames = [\"Emby.Example.com.\", \"a.example.com\"]\n");
    assert_eq!(added(&file), file);
    assert_eq!(removed(&file, EMBY), web("publish = [443]\nnames = [\"a.example.com\"]\n"));
}

const GAME: &str =
    "[[service]]\nname = \"game\"\nupstream = \"127.0.0.1:27015\"\npublish = [\"27015/udp\"]\n";
const REACH: &str = "name = \"nfs\"\nlisten = \"127.0.0.1:2049\"\ntarget = \"192.168.1.2:2049\"\n";

pub(super) fn web(rest: &str) -> String {
    format!("{HEAD}\n# The web server.\n[[service]]\nname = \"https\"\nupstream = \"127.0.0.1:8443\"\n{rest}")
}

pub(super) fn added(text: &str) -> String {
    edit(text, |file| add_name(file, EMBY, None)).unwrap()
}

pub(super) fn removed(text: &str, name: &str) -> String {
    edit(text, |file| remove(file, name)).unwrap()
}

fn protocols(text: &str) -> Protocols {
    parse(&Source { name: Path::new("f"), text }).unwrap().services[0].protocols
}

fn with_game(text: &str) -> Result<String, String> {
    let game = new("game", &["27015/udp"], "127.0.0.1:27015", ProxyProtocol::Off);
    edit(text, |file| add_service(file, &game))
}

fn new(name: &str, ports: &[&str], upstream: &str, proxy_protocol: ProxyProtocol) -> NewService {
    let ports = ports.iter().map(|port| PublicPorts::parse(port).unwrap()).collect();
    NewService { name: Name::new(name).unwrap(), ports, upstream: upstream.to_owned(), proxy_protocol }
}

fn edit(text: &str, change: impl FnOnce(&Source<'_>) -> Result<Edited, EditError>) -> Result<String, String> {
    let edited = change(&Source { name: Path::new("forwarder.toml"), text });
    edited.map(|edited| edited.text).map_err(|error| error.to_string())
}

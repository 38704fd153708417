//! One mistake in a valid file is one error: its consequences are not reported as well.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::Path;

use policy::{ConfigError, KnownKeys, Problem, Source, forwarder, gateway, misplaced_keys};

const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const NO_NEXT_KEY: &str = "# next_public_key = \"CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
const BASE_POINT: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[derive(Clone, Copy, Debug)]
enum File {
    Gateway,
    Forwarder,
}

#[test]
fn a_wrong_value_is_one_error() {
    let order_one = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let order_zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for key in ["", "wroclaw", &KEY[1..], order_one, order_zero] {
        is_one_error(File::Gateway, KEY, key);
        is_one_error(File::Forwarder, KEY, key);
    }
    for (old, new) in [
        ("\"10.77.88.1/30\"", "\"10.77.88.0/30\""),
        ("\"10.77.88.1/30\"", "\"10.77.88.3/30\""),
        ("\"10.77.88.1/30\"", "\"10.77.88.1/33\""),
        ("\"10.77.88.1/30\"", "\"127.0.0.1/30\""),
        ("\"10.77.88.2/32\"", "\"10.77.88.3/32\""),
        ("\"10.77.88.2/32\"", "\"10.77.88.2/31\", \"10.77.88.2/31\""),
        ("\"192.168.88.0/24\"]   # required", "\"192.168.88.7/24\"] # required"),
        ("\"192.168.88.0/24\"]   # required", "\"192.168.88/24\"] # required"),
        ("\"192.168.88.0/24\"]   # required", "\"192.168.1.0/24\"] # required"),
        ("\"192.168.88.2:443\"", "\"192.168.89.2:443\""),
        ("\"192.168.88.2:443\"", "\"224.0.0.1:443\""),
        ("\"192.168.88.2:443\"", "\"127.0.0.1:443\""),
        ("\"192.168.88.2:443\"", "\"0.0.0.0:443\""),
        ("\"192.168.88.2:443\"", "\"10.77.88.3:443\""),
        ("\"192.168.88.2:443\"", "\"192.168.88.2:443-444\""),
        ("# probe = \"auto\"", "probe = \"10.77.88.0\" #"),
        ("prefixes = [\"192.168.1.0/24\"]", "prefixes = [\"192.168.1.2/24\"]"),
        ("prefixes = [\"192.168.1.0/24\"]", "prefixes = [\"192.168.2.0/33\"]"),
        ("name = \"wroclaw\"", "name = \"wroc law\""),
        ("name = \"partners\"", "name = \"part/ners\""),
        ("[\"@partners\"]", "[\"@partner\"]"),
        ("[\"peer:wroclaw\"]", "[\"peer:wroclav\"]"),
        ("protocol = [\"icmp\"]", "protocol = [\"icpm\"]"),
        ("listen = \"8883\"", "listen = \"443\""),
        ("mtu = 1420", "mtu = 99"),
    ] {
        is_one_error(File::Gateway, old, new);
    }
    for (old, new) in [
        ("\"10.77.88.2/30\"", "\"10.77.88.0/30\""),
        ("\"192.168.1.2:2049\"", "\"10.77.88.3:2049\""),
        ("\"192.168.1.2:2049\"", "\"224.0.0.1:2049\""),
        ("name = \"kyiv\"", "name = \"ky iv\""),
        ("peer = [\"kyiv\"]", "peer = [\"kiyv\"]"),
        ("\"kyiv.example.com:51820\"", "\"kyiv.example.com\""),
        ("# probe = \"auto\"", "probe = \"10.77.88.3\" #"),
        ("# address = [\"10.88.99.2/30\"]", "address = [\"10.88.99.3/30\"] #"),
        ("name = \"cloudflare\"", "name = \"cloud flare\""),
        (NO_NEXT_KEY, "next_public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\""),
        (NO_NEXT_KEY, "next_public_key = \"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\""),
    ] {
        is_one_error(File::Forwarder, old, new);
    }
}

#[test]
fn a_misspelt_key_or_section_is_one_error() {
    for file in [File::Gateway, File::Forwarder] {
        each_line(file, |line| {
            if let Some(section) = line.strip_prefix('[') {
                let name = section.trim_start_matches('[').split(']').next().unwrap();
                return Some(line.replacen(name, &format!("{name}{}", &name[name.len() - 1..]), 1));
            }
            let (key, rest) = line.split_once(" = ")?;
            // Of two letters nothing is recognized; a table's required key of that length is
            // missing as well.
            (key.len() > 2).then(|| format!("{key}{} = {rest}", &key[key.len() - 1..]))
        });
    }
}

#[test]
fn a_value_of_another_type_is_one_error() {
    for file in [File::Gateway, File::Forwarder] {
        each_line(file, |line| {
            let (key, _) = line.split_once(" = ").filter(|_| !line.starts_with('['))?;
            Some(format!("{key} = 3.5"))
        });
    }
}

#[test]
fn the_same_key_at_two_peers_is_one_error() {
    let second = format!(
        "[[peer]]\nname = \"other\"\npublic_key = \"{KEY}\"\nallowed_ips = [\"10.9.0.0/16\"]\nendpoint = \"192.0.2.9:51820\"\n"
    );
    // The annotated forwarder has entries that need no peer's name while there is one only.
    let text = format!("{}\n{second}", text(File::Forwarder));
    assert_eq!(errors(File::Forwarder, &text).len(), 1, "{:?}", errors(File::Forwarder, &text));
    let text = format!("{}\n{second}", self::text(File::Gateway));
    assert_eq!(errors(File::Gateway, &text).len(), 1, "{:?}", errors(File::Gateway, &text));
}

#[test]
fn an_own_or_a_secret_key_as_a_peers_is_one_error_at_its_place() {
    let text = text(File::Gateway).replace(KEY, BASE_POINT);
    let source = Source { name: Path::new("gateway.toml"), text: &text };
    let peers: Vec<_> =
        gateway::parse(&source).unwrap().peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
    let written: Vec<_> = peers.iter().copied().map(Some).collect();
    let line = 1 + text.lines().position(|line| line.starts_with("public_key")).unwrap();

    let own = KnownKeys { own: peers.clone(), ..KnownKeys::default() };
    let secret = KnownKeys { secrets: vec![(Path::new("kyiv.key"), &peers[0])], ..KnownKeys::default() };
    for (known, problem) in
        [(own, Problem::OwnPublicKey), (secret, Problem::SecretAsPublicKey { file: "kyiv.key".to_owned() })]
    {
        let errors = misplaced_keys(&source, ("public_key", &written), &known);
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].at.line as usize, errors[0].at.column), (line, 14));
        assert_eq!(errors[0].problem, problem);
    }
    assert!(misplaced_keys(&source, ("public_key", &written), &KnownKeys::default()).is_empty());
}

/// Changes each line of a file for which `change` returns another, one at a time.
fn each_line(file: File, change: impl Fn(&str) -> Option<String>) {
    let text = text(file);
    let mut tried = 0;
    let mut wrong = String::new();
    for (number, line) in text.lines().enumerate() {
        let Some(changed) = change(line).filter(|_| !line.trim_start().starts_with('#')) else { continue };
        let lines = text.lines().enumerate().map(|(at, line)| if at == number { &changed } else { line });
        let errors = errors(file, &lines.collect::<Vec<_>>().join("\n"));
        if errors.len() != 1 {
            writeln!(wrong, "{file:?} {}: {changed}\n  {errors:#?}", number + 1).unwrap();
        }
        tried += 1;
    }
    assert!(tried > 20, "only {tried} lines were tried");
    assert!(wrong.is_empty(), "{wrong}");
}

fn is_one_error(file: File, old: &str, new: &str) {
    let text = text(file);
    assert!(text.contains(old), "{old}");
    let errors = errors(file, &text.replacen(old, new, 1));
    assert_eq!(errors.len(), 1, "{new}: {errors:#?}");
}

fn text(file: File) -> String {
    let name = match file {
        File::Gateway => "gateway.toml",
        File::Forwarder => "forwarder.toml",
    };
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)).unwrap()
}

fn errors(file: File, text: &str) -> Vec<ConfigError> {
    let source = Source { name: Path::new("a.toml"), text };
    let errors = match file {
        File::Gateway => gateway::parse(&source).err(),
        File::Forwarder => forwarder::parse(&source).err(),
    };
    errors.unwrap_or_default()
}

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::server::Server;
use super::*;
use crate::node::PeerConfig;

const A: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
const B: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

#[test]
fn every_key_that_wg_writes_is_read() {
    let set = parse(&format!(
        "private_key={A}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\n\
         public_key={B}\nupdate_only=true\npreshared_key={A}\nendpoint=[2001:db8::1]:443\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.5/24\n\
         allowed_ip=-fd00::/8\nprotocol_version=1\npublic_key={A}\nremove=true\n"
    ))
    .unwrap();
    assert!(set.private_key.flatten().is_some() && set.replace_peers);
    assert_eq!((set.listen_port, set.fwmark), (Some(51_820), Some(51_820)));
    let [first, second] = &set.peers[..] else { panic!("two peers") };
    assert!(first.update_only && first.replace_allowed_ips && !first.remove && second.remove);
    assert!(first.preshared_key.as_ref().is_some_and(Option::is_some));
    assert_eq!((first.keepalive, first.endpoint), (Some(25), Some("[2001:db8::1]:443".parse().unwrap())));
    assert_eq!(
        first.allowed_ips,
        [AllowedIp::Add("10.0.0.0/24".parse().unwrap()), AllowedIp::Remove("fd00::/8".parse().unwrap())]
    );
}

#[test]
fn a_key_of_zeros_unsets() {
    let zeros = "0".repeat(64);
    let set = parse(&format!("private_key={zeros}\npublic_key={A}\npreshared_key={zeros}\n")).unwrap();
    assert!(matches!(set.private_key, Some(None)));
    assert!(matches!(set.peers[0].preshared_key, Some(None)));
}

#[test]
fn what_is_not_the_protocol_is_refused_by_kind() {
    for (text, errno) in [
        ("listen_port".to_owned(), Errno::Protocol),
        ("colour=red".to_owned(), Errno::Protocol),
        ("endpoint=1.2.3.4:5".to_owned(), Errno::Protocol),
        ("listen_port=65536".to_owned(), Errno::Invalid),
        ("replace_peers=false".to_owned(), Errno::Invalid),
        (format!("private_key={}", &A[1..]), Errno::Invalid),
        (format!("private_key={}g", &A[1..]), Errno::Invalid),
        (format!("public_key={A}\nprotocol_version=2"), Errno::Invalid),
        (format!("public_key={A}\nallowed_ip=10.0.0.0/33"), Errno::Invalid),
        (format!("public_key={A}\nendpoint=example.com:1"), Errno::Invalid),
        (format!("public_key={A}\npersistent_keepalive_interval=65536"), Errno::Invalid),
        (format!("public_key={A}\nprivate_key={A}"), Errno::Protocol),
        (format!("public_key={}", "0".repeat(64)), Errno::Invalid),
        (format!("listen_port={}", "1".repeat(MAX_LINE)), Errno::TooBig),
    ] {
        assert_eq!(parse(&text).err(), Some(errno), "{text}");
    }
}

#[test]
fn a_peer_changes_only_in_what_is_named() {
    let before = [config(A, &["10.0.0.0/8"])];
    let set =
        parse(&format!("public_key={A}\npersistent_keepalive_interval=9\nallowed_ip=fd00::/8")).unwrap();
    let change = Change::of(&set, None, &before);
    assert_eq!(change.upsert[0].keepalive, Some(Duration::from_secs(9)));
    assert_eq!(prefixes(&change.upsert[0]), ["10.0.0.0/8", "fd00::/8"]);
    assert!(change.upsert[0].endpoint.is_some() && change.remove.is_empty());
}

#[test]
fn prefixes_are_removed_one_by_one_and_given_to_the_last_who_asks() {
    let before = [config(A, &["10.0.0.0/8", "192.168.0.0/16"])];
    let text = format!(
        "public_key={A}\nallowed_ip=-10.0.0.0/8\nallowed_ip=172.16.0.0/12\npublic_key={B}\nallowed_ip=172.16.0.0/12"
    );
    let change = Change::of(&parse(&text).unwrap(), None, &before);
    assert_eq!(prefixes(&change.upsert[0]), ["192.168.0.0/16"]);
    assert_eq!(prefixes(&change.upsert[1]), ["172.16.0.0/12"]);
}

#[test]
fn update_only_adds_no_peer_and_a_removed_peer_may_come_back_fresh() {
    let before = [config(A, &["10.0.0.0/8"])];
    let set = parse(&format!("public_key={B}\nupdate_only=true\nallowed_ip=10.0.0.0/8")).unwrap();
    assert!(Change::of(&set, None, &before).upsert.is_empty());
    let set = parse(&format!("public_key={A}\nremove=true\npublic_key={A}\nallowed_ip=fd00::/8")).unwrap();
    let change = Change::of(&set, None, &before);
    assert_eq!(prefixes(&change.upsert[0]), ["fd00::/8"]);
    assert!(change.remove.is_empty() && change.upsert[0].endpoint.is_none());
}

#[test]
fn replacing_peers_removes_those_not_named() {
    let before = [config(A, &["10.0.0.0/8"]), config(B, &[])];
    let set = parse(&format!("replace_peers=true\npublic_key={B}\nallowed_ip=10.0.0.0/8")).unwrap();
    let change = Change::of(&set, None, &before);
    assert_eq!(change.remove, [before[0].public_key]);
    assert_eq!((change.upsert.len(), prefixes(&change.upsert[0])), (1, vec!["10.0.0.0/8".to_owned()]));
}

#[test]
fn the_nodes_own_key_is_no_peer_and_removes_the_peer_that_had_it() {
    let before = [config(A, &["10.0.0.0/8"])];
    let set = parse(&format!("public_key={A}\nallowed_ip=fd00::/8")).unwrap();
    let change = Change::of(&set, Some(before[0].public_key), &before);
    assert!(change.upsert.is_empty());
    assert_eq!(change.remove, [before[0].public_key]);
}

#[test]
fn the_answer_to_get_has_what_wg_reads() {
    let text = Snapshot {
        private_key: parse(&format!("private_key={A}")).unwrap().private_key.flatten(),
        listen_port: 51_820,
        fwmark: 7,
        peers: vec![PeerSnapshot {
            public_key: config(B, &[]).public_key,
            preshared_key: None,
            endpoint: Some("198.51.100.7:40213".parse().unwrap()),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: vec!["10.77.88.2/32".parse().unwrap(), "fd00::/64".parse().unwrap()],
            latest_handshake: Some(Duration::new(1_700_000_000, 5)),
            rx_bytes: 148,
            tx_bytes: 92,
        }],
    }
    .write();
    let zeros = "0".repeat(64);
    assert_eq!(
        text.as_str(),
        format!(
            "private_key={A_CLAMPED}\nlisten_port=51820\nfwmark=7\npublic_key={B}\npreshared_key={zeros}\n\
             protocol_version=1\nendpoint=198.51.100.7:40213\nlast_handshake_time_sec=1700000000\n\
             last_handshake_time_nsec=5\ntx_bytes=92\nrx_bytes=148\npersistent_keepalive_interval=25\n\
             allowed_ip=10.77.88.2/32\nallowed_ip=fd00::/64\n"
        )
    );
}

const A_CLAMPED: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";

#[test]
fn a_hundred_thousand_prefixes_are_applied_in_under_a_second() {
    let mut text = format!("public_key={A}\n");
    for i in 0..130_560u32 {
        text += &format!("allowed_ip={}/32\n", std::net::Ipv4Addr::from(0x0a00_0000 + i));
    }
    let start = std::time::Instant::now();
    let change = Change::of(&parse(&text).unwrap(), None, &[]);
    assert_eq!(change.upsert[0].allowed_ips.len(), 130_560);
    // Generous for an unoptimised build on a busy machine.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn the_socket_answers_several_requests_and_always_ends_with_errno() {
    let directory = tempfile::tempdir().unwrap();
    let device = Arc::new(Fake::default());
    let server = Server::at(directory.path().join("gw0.sock"), device.clone()).unwrap();
    let mode = std::fs::metadata(server.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = UnixStream::connect(server.path()).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "get=1\n\n"), "listen_port=9\nerrno=0\n\n");
    }
    // A request that comes in pieces.
    client.write_all(b"set=1\nlisten").unwrap();
    assert_eq!(ask(&mut client, "_port=7\n\n"), "errno=0\n\n");
    assert_eq!(ask(&mut client, "set=1\nlisten_port=x\n\n"), format!("errno={}\n\n", -libc::EINVAL));
    assert_eq!(*device.ports.lock(), [Some(7)]);
    assert_eq!(ask(&mut client, "put=1\n\n"), format!("errno={}\n\n", -libc::EPROTO));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gw0.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let device = || Arc::new(Fake::default());
    let server = Server::at(path.clone(), device()).unwrap();
    let taken = Server::at(path.clone(), device()).err().map(|error| error.kind());
    assert_eq!(taken, Some(std::io::ErrorKind::AddrInUse));
    assert!(server.is_reachable());
    drop(server);
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    let refused = Server::at(path.clone(), device()).err().map(|error| error.kind());
    assert_eq!(refused, Some(std::io::ErrorKind::AlreadyExists));
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

#[test]
fn a_socket_that_can_be_seen_answers() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..300 {
        let path = directory.path().join(format!("gw{round}.sock"));
        let seen = path.clone();
        let client = std::thread::spawn(move || {
            loop {
                match UnixStream::connect(&seen) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => return other.map(drop),
                }
            }
        });
        let server = Server::at(path, Arc::new(Fake::default())).unwrap();
        client.join().unwrap().unwrap();
        drop(server);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_seventeenth_client_is_disconnected() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::at(directory.path().join("gw0.sock"), Arc::new(Fake::default())).unwrap();
    let mut clients: Vec<_> = (0..16).map(|_| UnixStream::connect(server.path()).unwrap()).collect();
    for client in &mut clients {
        assert!(ask(client, "get=1\n\n").ends_with("errno=0\n\n"));
    }
    let mut extra = UnixStream::connect(server.path()).unwrap();
    let mut answer = Vec::new();
    let _ = extra.write_all(b"get=1\n\n");
    let _ = extra.read_to_end(&mut answer);
    assert!(answer.is_empty());
}

#[derive(Default)]
struct Fake {
    ports: Mutex<Vec<Option<u16>>>,
}

impl Configure for Fake {
    fn snapshot(&self) -> Snapshot {
        Snapshot { private_key: None, listen_port: 9, fwmark: 0, peers: Vec::new() }
    }

    fn apply(&self, set: Set) -> Result<(), Errno> {
        self.ports.lock().push(set.listen_port);
        Ok(())
    }
}

fn ask(client: &mut UnixStream, request: &str) -> String {
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\n\n") {
        let mut chunk = [0; 4096];
        let read = client.read(&mut chunk).unwrap();
        assert!(read > 0, "hung up after {answer:?}");
        answer += std::str::from_utf8(&chunk[..read]).unwrap();
    }
    answer
}

fn parse(text: &str) -> Result<Set, Errno> {
    parse_set(text)
}

fn config(key: &str, allowed_ips: &[&str]) -> PeerConfig {
    let set = parse(&format!("public_key={key}")).unwrap();
    PeerConfig {
        public_key: set.peers[0].public_key,
        preshared_key: None,
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        keepalive: None,
        allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        probe: None,
        initiate: false,
    }
}

fn prefixes(config: &PeerConfig) -> Vec<String> {
    config.allowed_ips.iter().map(ToString::to_string).collect()
}

//! The sockets of this machine that wait for connections or datagrams, as `/proc/net` lists them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use policy::Protocol;
use policy::trust::Listener;

/// States of waiting sockets (`tcp_states.h`).
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// Every waiting socket; none of a kind whose file cannot be read.
#[must_use]
pub fn listeners() -> Vec<Listener> {
    let mut found: Vec<Listener> = sockets().into_iter().map(|(listener, _)| listener).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The names of the programs that have waiting sockets, by socket, as far as this user may see
/// them: root sees all.
#[must_use]
pub fn programs() -> BTreeMap<Listener, String> {
    let sockets = sockets().into_iter().filter_map(|(listener, inode)| Some((inode?, listener)));
    let sockets: BTreeMap<u64, Listener> = sockets.collect();
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let opened = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let held = opened.filter_map(|file| socket_inode(&fs::read_link(file.path()).ok()?));
        let mut held = held.filter_map(|inode| sockets.get(&inode)).peekable();
        if held.peek().is_some()
            && let Ok(name) = fs::read_to_string(process.path().join("comm"))
        {
            for listener in held {
                found.entry(*listener).or_insert_with(|| name.trim().to_owned());
            }
        }
    }
    found
}

/// The number of a socket, by what its descriptor in `/proc` leads to.
fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Every waiting socket with its number, which sockets of the kernel do not have.
fn sockets() -> Vec<(Listener, Option<u64>)> {
    let lines = |file: &str| {
        let opened = File::open(Path::new("/proc/self/net").join(file));
        opened.into_iter().flat_map(|file| BufReader::new(file).lines().skip(1)).map_while(Result::ok)
    };
    let with_inode = |line: &str, listener| (listener, inode(line));
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        // Sockets that listen come first (proc_net_tcp.rst); the connections, which may be many,
        // are not read.
        found.extend(lines(file).map_while(|line| {
            listener(&line, Protocol::Tcp, LISTENING).map(|listener| with_inode(&line, listener))
        }));
    }
    for file in ["udp", "udp6"] {
        found.extend(lines(file).filter_map(|line| {
            listener(&line, Protocol::Udp, UNCONNECTED).map(|listener| with_inode(&line, listener))
        }));
    }
    found
}

/// The number of the socket in a line: its tenth word.
fn inode(line: &str) -> Option<u64> {
    line.split_whitespace().nth(9)?.parse().ok().filter(|&inode| inode != 0)
}

/// One line: its number, the local end, the remote end, the state, and more.
fn listener(line: &str, protocol: Protocol, waiting: &str) -> Option<Listener> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == waiting).then_some(Listener { protocol, address: self::address(address)?, port })
}

/// Words of 32 bits in the machine's order of bytes.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?)));
    }
    let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_that_wait_are_listed_and_connected_ones_are_not() {
        let (tcp, early) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let _connections = [(); 50].map(|()| TcpStream::connect(early.local_addr().unwrap()).unwrap());
        let late = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();

        let found = listeners();

        let has = |protocol, at: std::net::SocketAddr| {
            found.contains(&Listener { protocol, address: at.ip(), port: at.port() })
        };
        for tcp in [tcp, early, late] {
            assert!(has(Protocol::Tcp, tcp.local_addr().unwrap()));
        }
        assert!(has(Protocol::Udp, udp.local_addr().unwrap()));
        assert!(!has(Protocol::Udp, connected.local_addr().unwrap()));
    }

    #[test]
    fn a_waiting_socket_is_listed_with_its_program() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let programs = programs();
        let found = programs.get(&Listener { protocol: Protocol::Tcp, address: at.ip(), port: at.port() });
        assert_eq!(found.map(String::as_str), Some(own.trim()));
    }

    #[test]
    fn a_damaged_line_is_no_socket() {
        for line in
            ["", "0:", "0: 0100007F", "0: xx:1F90 0:0 0A", "0: 0100:1F90 0:0 0A", "0: 0100007F:99999 0:0 0A"]
        {
            assert_eq!(listener(line, Protocol::Tcp, "0A"), None, "{line:?}");
        }
    }
}

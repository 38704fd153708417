//! Input that is wrong, by mistake or on purpose.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Node, Signal, Topology, full_counts, scenario};
use relay::Random;
use scenarios::{PlainPeer, Site, WireGuardGo, download, preshared_key, serve_bulk, table};

/// A change to the good `gateway.toml`, and what the error must say.
const MISTAKES: [(&str, &str, &str); 14] = [
    ("listen_port = 51820", "listen_port = \"many\"", "listen_port"),
    ("mtu = 1420", "mtu = 1420\nmut = 1420", "mtu"),
    ("mtu = 1420", "mtu = 99", "mtu"),
    ("listen = \"5001\"", "listen = \"443\"", "443"),
    ("target = \"192.168.88.2:443\"", "target = \"192.168.99.2:443\"", "192.168.99.2"),
    ("target = \"192.168.88.2:443\"", "target = \"192.168.88.2:443443\"", "443443"),
    ("\"192.168.88.0/24\"]", "\"192.168.88.0/33\"]", "192.168.88.0/33"),
    ("\"192.168.88.0/24\"]", "\"192.168.88.7/24\"]", "192.168.88.7"),
    ("name = \"bulk\"", "name = \"https\"", "https"),
    ("name = \"bulk\"", "name = \"bu;lk\"", "bu;lk"),
    ("from = [\"peer:wroclaw\"]", "from = [\"peer:wroclav\"]", "wroclaw"),
    ("preshared_key_file = \"wroclaw.psk\"", "preshared_key_file = \"missing.psk\"", "missing.psk"),
    ("[metrics]", "[metric]", "metrics"),
    ("protocol = [\"tcp\"]", "protocol = [\"tpc\"]", "tpc"),
];

#[test]
fn every_mistake_is_answered_with_its_place_and_its_fix_and_exit_code_four() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let good = Site::new(lab)?;
        good.gateway_config.write()?;
        let (code, said) = check(&good.edge)?;
        ensure!(code == Some(0), "the good file is refused: {said}");
        for (old, new, error) in MISTAKES {
            let mut site = Site::new(lab)?;
            site.gateway_config.replace(old, new)?.write()?;
            refused(&site.edge, new, error)?;
        }
        let mut site = Site::new(lab)?;
        // The point of order 1: anyone could compute the keys of such a session.
        let low = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let public = site.wroclaw.public.clone();
        site.gateway_config.replace(&public, low)?.write()?;
        refused(&site.edge, "a low-order key", "low")?;
        let mut site = Site::new(lab)?;
        let peer = format!(
            "[[peer]]\nname = \"other\"\npublic_key = \"{}\"\nallowed_ips = [\"192.168.88.0/24\"]",
            scenarios::KeyPair::of("other").public
        );
        site.gateway_config.append(&peer).write()?;
        refused(&site.edge, "the same prefix twice", "192.168.88.0/24")
    })
}

#[test]
fn an_edge_that_is_its_own_peer_is_refused_by_check_and_before_anything_is_changed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let (kyiv, wroclaw) = (site.kyiv.public.clone(), site.wroclaw.public.clone());
        site.gateway_config.replace(&wroclaw, &kyiv)?.write()?;
        refused(&site.edge, "the edge's own key", "own public key")?;
        let state = |site: &Site<'_>| -> Result<String> {
            site.edge.shell("nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip link; sysctl -a -r 'ip_forward|rp_filter|conntrack_acct' 2>&1")
        };
        let before = state(&site)?;
        let daemon = site.edge.command(lab::binary("gateway")?).arg("--config");
        let output = daemon.arg(site.gateway_config.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(4) && said.contains("own public key"),
            "{}: {said}",
            output.status
        );
        ensure!(state(&site)? == before, "something was changed:\n{}", state(&site)?);
        Ok(())
    })
}

#[test]
fn every_file_of_the_bad_corpus_is_refused_in_the_words_that_are_committed_next_to_it() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("anywhere")?;
        let mut tried = 0;
        for entry in fs::read_dir(lab::workspace().join("policy/tests/bad"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(daemon) = ["gateway", "forwarder"].into_iter().find(|daemon| name.starts_with(daemon))
            else {
                continue;
            };
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let output =
                node.command(lab::binary(daemon)?).args(["check", "--config"]).arg(&path).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(matches!(output.status.code(), Some(4 | 5)), "{name}: {}: {said}", output.status);
            for line in fs::read_to_string(path.with_extension("txt"))?.lines() {
                let words = line.split_once(".toml:").map_or(line, |(_, words)| words);
                ensure!(said.contains(words), "{name} lacks {words:?}: {said}");
            }
            tried += 1;
        }
        ensure!(tried >= 40, "only {tried} bad files");
        Ok(())
    })
}

#[test]
fn a_key_file_that_others_may_read_is_refused_with_exit_code_five() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        let key = site.edge.directory().join("kyiv.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
        let (code, said) = check(&site.edge)?;
        ensure!(code == Some(5), "exit code {code:?}: {said}");
        ensure!(said.contains("kyiv.key") && said.contains("gateway.toml:"), "{said}");
        Ok(())
    })
}

#[test]
fn a_running_gateway_keeps_its_policy_when_it_is_given_a_bad_one() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let rules = table(&site.edge)?;
        let good = site.gateway_config.clone();
        for (old, new, _) in MISTAKES {
            site.gateway_config = good.clone();
            site.gateway_config.replace(old, new)?.write()?;
            let path = site.gateway_config.path().to_string_lossy().into_owned();
            let output = site.gatewayctl(&["apply", &path])?.output()?;
            ensure!(output.status.code() == Some(4), "{new}: {}", String::from_utf8_lossy(&output.stderr));
        }
        ensure!(table(&site.edge)? == rules, "a bad file changed the rules");
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20)?;
        // When it reloads a bad file it warns and goes on.
        lab.expect_warning("gateway.toml:");
        site.gateway()?.signal(Signal::Hangup)?;
        site.gateway()?.wait_for_log("gateway.toml:", Duration::from_secs(5))?;
        ensure!(table(&site.edge)? == rules, "a bad file changed the rules");
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20).map(drop)
    })
}

#[test]
fn random_datagrams_are_never_answered_and_disturb_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let answers =
            Counter::arriving(&lab.node("inet")?, "answers", "ip daddr 203.0.113.10 udp sport 51820")?;
        let arrived = Counter::arriving(&site.edge, "arrived", "ip saddr 203.0.113.10 udp dport 51820")?;
        let count = if full_counts() { 10_000_000 } else { 100_000 };
        let socket = client.udp_socket("0.0.0.0:0")?;
        socket.connect("192.0.2.2:51820")?;
        let mut random = Random::new(51_820);
        let mut sent = 0_u64;
        for _ in 0..count {
            // An error means that the sender's own queue is full: the datagram was not sent.
            sent += u64::from(socket.send(&datagram(&mut random)).is_ok());
        }
        ensure!(arrived.packets()? >= sent * 9 / 10, "{} of {sent} arrived", arrived.packets()?);
        ensure!(answers.packets()? == 0, "{} answers to an unauthenticated source", answers.packets()?);
        download(&client, "192.0.2.2:5001", 1 << 20)?;
        ensure!(site.gateway()?.is_running());
        Ok(())
    })
}

#[test]
fn malformed_packets_of_a_peer_harm_neither_the_gateway_nor_other_peers() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let origin = lab.node("origin")?;
        let far = plain(&origin, &site.wroclaw.private, None, &site.kyiv.public, Some("192.0.2.2:51820"))?;
        far.bring_up(&["10.77.88.2/30"], &["192.168.1.0/24"])?;
        site.wait_until_up(Duration::from_secs(15))?;
        send_malformed(&origin, [10, 77, 88, 2], [10, 77, 88, 1])?;
        ensure!(site.gateway()?.is_running());
        ensure!(site.state()? == "up");
        Ok(())
    })
}

#[test]
fn malformed_packets_of_an_edge_do_not_harm_the_forwarder() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let edge = lab.node("edge")?;
        let near = plain(&edge, &site.kyiv.private, Some(51_820), &site.wroclaw.public, None)?;
        near.bring_up(&["10.77.88.1/30"], &["192.168.88.0/24"])?;
        site.start_forwarder()?;
        lab::until(Duration::from_secs(15), "the tunnel", || {
            download(&edge, "192.168.88.2:5001", 1).map(Some)
        })?;
        send_malformed(&edge, [10, 77, 88, 1], [192, 168, 88, 2])?;
        ensure!(site.forwarder()?.is_running());
        download(&edge, "192.168.88.2:5001", 1 << 20).map(drop)
    })
}

fn check(edge: &Node) -> Result<(Option<i32>, String)> {
    let config = edge.directory().join("gateway.toml");
    let output = edge.command(lab::binary("gateway")?).args(["check", "--config"]).arg(config).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn refused(edge: &Node, mistake: &str, error: &str) -> Result<()> {
    let (code, said) = check(edge)?;
    ensure!(code == Some(4), "{mistake}: exit code {code:?}: {said}");
    ensure!(said.contains(error), "{mistake}: {said}");
    let place = said.split("gateway.toml:").nth(1).unwrap_or_default();
    let mut numbers = place.split(':').map(|number| number.trim().parse::<u32>().is_ok());
    ensure!(
        numbers.next() == Some(true) && numbers.next() == Some(true),
        "{mistake}: no line and column: {said}"
    );
    ensure!(said.contains(';'), "{mistake}: no fix: {said}");
    Ok(())
}

/// A datagram of random bytes; half of them begin like a WireGuard message.
fn datagram(random: &mut Random) -> Vec<u8> {
    let lengths = [148, 92, 64, 32, usize::try_from(random.below(1500)).unwrap_or(0)];
    let length = lengths.get(usize::try_from(random.below(5)).unwrap_or(0)).copied().unwrap_or(0);
    let mut bytes = bytes(random, length);
    if random.chance(0.5) {
        let kind = u8::try_from(1 + random.below(4)).unwrap_or(1);
        bytes.iter_mut().zip([kind, 0, 0, 0]).for_each(|(byte, header)| *byte = header);
    }
    bytes
}

fn bytes(random: &mut Random, length: usize) -> Vec<u8> {
    let words = length.div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Sends IPv4 packets with valid addresses, so that they pass the tunnel, and random bytes
/// otherwise.
fn send_malformed(node: &Node, from: [u8; 4], to: [u8; 4]) -> Result<()> {
    let count = if full_counts() { 1_000_000 } else { 20_000 };
    let socket = node.packet_socket("wg0", None)?;
    let mut random = Random::new(4);
    for _ in 0..count {
        let length = usize::try_from(20 + random.below(1380)).unwrap_or(20);
        let mut packet = bytes(&mut random, length);
        let total = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        // Half of them have a valid header, so that what follows it is parsed.
        let header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 6, 0, 0];
        let honest = random.chance(0.5);
        let addresses = from.into_iter().chain(to);
        for (position, byte) in packet.iter_mut().enumerate().take(20) {
            match position {
                0 => *byte = if honest { 0x45 } else { 0x40 | (*byte & 0x0f) },
                1..12 if honest => *byte = header.get(position).copied().unwrap_or(0),
                _ => {}
            }
        }
        packet.iter_mut().skip(12).zip(addresses).for_each(|(byte, address)| *byte = address);
        // The interface's own queue may be full, which is no fault of a daemon.
        let _ = socket.send(&packet);
    }
    Ok(())
}

fn plain(
    node: &Node,
    private: &str,
    port: Option<u16>,
    public: &str,
    endpoint: Option<&str>,
) -> Result<WireGuardGo> {
    let interface = WireGuardGo::start(node, "wg0")?;
    interface.configure(&PlainPeer {
        private_key: private,
        listen_port: port,
        public_key: public,
        preshared_key: Some(&preshared_key("wroclaw")),
        allowed_ips: "0.0.0.0/0",
        endpoint,
        keepalive: endpoint.map(|_| 5),
    })?;
    Ok(interface)
}

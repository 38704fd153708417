//! The main job with offloads on, off and falling back in mid-traffic: every byte is right, in
//! order, and takes the expected path.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Counter, Lab, TcpServer, Topology, UdpServer, full_counts, pattern, scenario, until};
use scenarios::{
    Caddy, Carried, KeyPair, NfsServer, Offload, PlainPeer, Site, WireGuardGo, download, growth,
    packet_counters, preshared_key, read_nfs, serve_bulk, sha256, upload,
};

/// The boundaries of the edge's engine that bulk in both directions crosses.
const PATHS: [&str; 4] = ["tun_read", "tun_write", "udp_send", "udp_receive"];
/// And those of the forwarder's, which has no device.
const SOCKET: [&str; 2] = ["udp_send", "udp_receive"];

#[test]
fn with_offloads_the_main_job_is_done_joined() -> Result<()> {
    if Offload::chosen()? != Offload::On {
        return Ok(());
    }
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let job = MainJob::prepare(&site)?;
        site.start()?;
        let (edge, origin) = job.done(lab, &mut site)?;
        for (carried, paths) in [(edge, &PATHS[..]), (origin, &SOCKET[..])] {
            for path in paths {
                let joined = carried.joined(path).context("too little was carried")?;
                ensure!(joined >= 0.9, "{path}: only {:.0} % went joined: {carried:?}", joined * 100.0);
            }
            ensure!(carried.fallbacks == 0.0, "{carried:?}");
        }
        Ok(())
    })
}

#[test]
fn without_offloads_the_main_job_is_done_packet_by_packet() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        if Offload::chosen()? != Offload::Off {
            site.without_offloads();
        }
        let job = MainJob::prepare(&site)?;
        site.start()?;
        let (edge, origin) = job.done(lab, &mut site)?;
        for (carried, paths) in [(edge, &PATHS[..]), (origin, &SOCKET[..])] {
            for path in paths {
                let joined = carried.joined(path).context("too little was carried")?;
                ensure!(joined <= 0.1, "{path}: {:.0} % went joined: {carried:?}", joined * 100.0);
            }
        }
        Ok(())
    })
}

#[test]
fn when_the_kernel_refuses_segmented_sends_in_mid_traffic_both_ends_go_on_one_by_one() -> Result<()> {
    if Offload::chosen()? != Offload::On {
        return Ok(());
    }
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let job = MainJob::prepare(&site)?;
        site.start()?;
        let client = lab.node("client")?;
        // One transfer in each direction is under way when it happens.
        let mut down = Half::begin(client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?)?;
        down.read()?;
        site.refuse_segmented_sends((&lab.node("inet")?, "edge0"), (&lab.node("cgnat")?, "lan0"))?;
        down.read().context("the download that was under way")?;
        let (carried, origin) = job.done(lab, &mut site)?;
        for side in [&carried, &origin] {
            let joined = side.joined("udp_send").context("too little was sent")?;
            ensure!(joined <= 0.1, "udp_send: {:.0} % went joined: {side:?}", joined * 100.0);
            ensure!(side.fallbacks > 0.0, "no fallback was counted: {side:?}");
        }
        // The other boundaries are not concerned. How much can be joined before the TUN is written
        // depends on what arrives at once.
        let joined = carried.joined("tun_read").context("too little was read")?;
        ensure!(joined >= 0.9, "tun_read: only {:.0} % went joined: {carried:?}", joined * 100.0);
        Ok(())
    })
}

#[test]
fn offloads_are_switched_off_and_on_again_under_a_download() -> Result<()> {
    if Offload::chosen()? != Offload::On {
        return Ok(());
    }
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let with = site.gateway_config.text.clone();
        for round in 0..if full_counts() { 10 } else { 2 } {
            let mut down = Half::begin(client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?)?;
            down.read()?;
            if round % 2 == 0 {
                site.gateway_config.append(
                    "[offload]\ntun_gso = \"off\"\ntun_gro = \"off\"\nudp_gso = \"off\"\nudp_gro = \"off\"",
                );
            } else {
                site.gateway_config.text.clone_from(&with);
            }
            site.gateway_config.write()?;
            site.gateway()?.signal(lab::Signal::Hangup)?;
            down.read()?;
            // Once the change is in force everything takes the other path.
            let wanted = if round % 2 == 0 { 0.0..=0.1 } else { 0.9..=1.0 };
            until(Duration::from_secs(20), "the switched offloads", || {
                let before = site.carried()?;
                download(&client, "192.0.2.2:5001", 8 << 20)?;
                upload(&client, "192.0.2.2:5001", 8 << 20)?;
                let carried = site.carried()?.since(&before);
                Ok(PATHS[..3]
                    .iter()
                    .all(|path| carried.joined(path).is_some_and(|joined| wanted.contains(&joined)))
                    .then_some(()))
            })?;
        }
        Ok(())
    })
}

#[test]
fn nothing_is_reordered_within_a_flow() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let seen = lab.capture(&site.edge, "gw0")?;
        let bytes = 24 << 20;
        std::thread::scope(|scope| {
            let downs = [(); 3].map(|()| scope.spawn(|| download(&client, "192.0.2.2:5001", bytes)));
            upload(&client, "192.0.2.2:5001", bytes)?;
            downs.into_iter().try_for_each(|down| down.join().ok().context("a thread ended")?.map(drop))
        })?;
        // The capture writes each packet as it comes.
        let flows = until(Duration::from_secs(10), "the capture", || {
            let flows = flows(&fs::read(&seen)?)?;
            Ok((flows.values().filter(|flow| flow.bytes > 1 << 20).count() >= 4).then_some(flows))
        })?;
        for ((from, to), flow) in &flows {
            ensure!(
                flow.late == 0,
                "{from:x?} to {to:x?}: {} of {} packets came late",
                flow.late,
                flow.packets
            );
        }
        Ok(())
    })
}

#[test]
fn a_damaged_packet_stays_damaged_next_to_sound_ones() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(
            "[[allow]]\nname = \"numbers\"\nfrom = [\"peer:wroclaw\"]\nto = [\"192.168.1.50\"]\n\
             protocol = [\"udp\"]\nports = [\"7000\"]",
        );
        site.start_gateway()?;
        let _far = plain_far_end(&site)?;
        let (origin, lan) = (lab.node("origin")?, lab.node("lan")?);
        let numbers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&numbers);
        let _server = UdpServer::start(lan.udp_socket("192.168.1.50:7000")?, move |_, bytes| {
            kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(bytes.to_vec());
            Vec::new()
        })?;
        let arrived = Counter::arriving(&site.edge, "damaged", "iifname gw0 udp dport 7000 @ih,0,16 0x6261")?;
        let before = packet_counters(&site.edge)?;
        let socket = origin.packet_socket("wg0", None)?;
        let count: u32 = if full_counts() { 21_000 } else { 2_100 };
        let delivered = || numbers.lock().map(|numbers| numbers.len()).unwrap_or(0);
        for number in 0..count {
            // Every third is damaged after its checksum was made: its "go" becomes "ba".
            socket.send(&numbered(number, number % 3 == 2)?)?;
            if number % 30 == 29 {
                let sound = ((number + 1) / 3 * 2) as usize;
                until(Duration::from_secs(20), "the sound ones to arrive", || {
                    Ok((delivered() >= sound).then_some(()))
                })?;
            }
        }
        let bad = u64::from(count / 3);
        until(Duration::from_secs(20), "the damaged ones to arrive", || {
            Ok((arrived.packets()? >= bad).then_some(()))
        })?;
        let numbers = numbers.lock().map(|numbers| numbers.clone()).unwrap_or_default();
        ensure!(numbers.iter().all(|bytes| bytes.starts_with(b"go")), "a damaged packet was delivered");
        let order: Vec<&[u8]> = numbers.iter().filter_map(|bytes| bytes.get(2..6)).collect();
        ensure!(order.is_sorted(), "datagrams of one flow were reordered");
        // The edge's own conntrack drops them as invalid; if it did not, the receiver would.
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.get("drop_forward_invalid") == Some(&bad), "{bad} were damaged, counted: {grown:?}");
        Ok(())
    })
}

/// A page, a film from the edge's NFS, and bulk in both directions.
struct MainJob {
    caddy: Caddy,
    _nfs: NfsServer,
    _bulk: TcpServer,
}

impl MainJob {
    fn prepare(site: &Site<'_>) -> Result<Self> {
        let caddy = Caddy::start(&site.origin)?;
        let nfs = NfsServer::start(&site.edge)?;
        fs::write(caddy.root().join("film"), pattern(31, 4 << 20))?;
        fs::write(nfs.export().join("film"), pattern(32, 4 << 20))?;
        Ok(Self { caddy, _nfs: nfs, _bulk: serve_bulk(&site.origin, "127.0.0.1:5001")? })
    }

    /// Does it, and answers what it sent across the boundaries of the edge's engine and the
    /// origin's.
    fn done(&self, lab: &Lab, site: &mut Site<'_>) -> Result<(Carried, Carried)> {
        let client = lab.node("client")?;
        let before = (site.carried()?, site.carried_at_the_origin()?);
        ensure!(self.caddy.fetch(&client, "192.0.2.2", "/whoami")? == "203.0.113.10");
        let copy = client.directory().join("copy");
        self.caddy.curl(&client, "192.0.2.2", &["-o", &copy.to_string_lossy()], "/film")?;
        ensure!(sha256(&client, &copy)? == sha256(&client, &self.caddy.root().join("film"))?);
        ensure!(read_nfs(&site.origin, "127.0.0.1", 2049, "film")? == pattern(32, 4 << 20));
        let bytes = if full_counts() { 1 << 30 } else { 64 << 20 };
        download(&client, "192.0.2.2:5001", bytes)?;
        upload(&client, "192.0.2.2:5001", bytes)?;
        Ok((site.carried()?.since(&before.0), site.carried_at_the_origin()?.since(&before.1)))
    }
}

/// A download that is read in two halves.
struct Half {
    stream: TcpStream,
    expected: Vec<u8>,
}

impl Half {
    const BLOCKS: usize = 16;

    fn begin(mut stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let expected = pattern(1, 1 << 20);
        stream.write_all(format!("down {}\n", 2 * Self::BLOCKS * expected.len()).as_bytes())?;
        Ok(Self { stream, expected })
    }

    fn read(&mut self) -> Result<()> {
        let mut block = vec![0; self.expected.len()];
        for number in 0..Self::BLOCKS {
            self.stream.read_exact(&mut block)?;
            ensure!(block == self.expected, "wrong bytes in block {number}");
        }
        Ok(())
    }
}

/// One direction of a TCP connection in a capture.
#[derive(Debug, Default)]
struct Flow {
    packets: u64,
    bytes: u64,
    /// Packets whose bytes came for the first time but after later ones, and that the receiver had
    /// not reported missing.
    late: u64,
    next: Option<u32>,
    holes: Vec<(u32, u32)>,
    /// The end of the furthest bytes that the receiver said it has beyond a hole (SACK).
    reported: Option<u32>,
}

impl Flow {
    fn take(&mut self, sequence: u32, length: u32) {
        self.packets += 1;
        self.bytes += u64::from(length);
        let next = *self.next.get_or_insert(sequence);
        let end = sequence.wrapping_add(length);
        if end.wrapping_sub(next).cast_signed() > 0 {
            if sequence.wrapping_sub(next).cast_signed() > 0 {
                self.holes.push((next, sequence));
            }
            self.next = Some(end);
        } else if self.holes.iter().any(|&(from, to)| {
            sequence.wrapping_sub(from).cast_signed() >= 0 && to.wrapping_sub(sequence).cast_signed() > 0
        }) && self.reported.is_none_or(|edge| edge.wrapping_sub(sequence).cast_signed() <= 0)
        {
            self.late += 1;
        }
    }

    fn report(&mut self, edge: u32) {
        if self.reported.is_none_or(|known| edge.wrapping_sub(known).cast_signed() > 0) {
            self.reported = Some(edge);
        }
    }
}

/// The right edges of the SACK blocks among the options of a TCP header (RFC 2018).
fn sack_edges(mut options: &[u8]) -> Vec<u32> {
    let mut edges = Vec::new();
    while let Some((&kind, rest)) = options.split_first() {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(*rest.first().unwrap_or(&0)).max(2),
        };
        if kind == 5 {
            let blocks = options.get(2..length).unwrap_or_default().chunks_exact(8);
            edges.extend(
                blocks.filter_map(|block| Some(u32::from_be_bytes(block.get(4..)?.try_into().ok()?))),
            );
        }
        options = options.get(length..).unwrap_or_default();
    }
    edges
}

type Ends = ([u8; 6], [u8; 6]);

/// The TCP flows of a capture on a TUN: packets with no link header.
fn flows(pcap: &[u8]) -> Result<BTreeMap<Ends, Flow>> {
    let mut flows: BTreeMap<Ends, Flow> = BTreeMap::new();
    let mut rest = pcap.get(24..).context("no capture yet")?;
    while let Some((record, after)) = rest.split_at_checked(16) {
        let kept = u32::from_le_bytes(record.get(8..12).context("a record")?.try_into()?) as usize;
        let Some((packet, after)) = after.split_at_checked(kept) else { break };
        rest = after;
        if packet.first() != Some(&0x45) || packet.get(9) != Some(&6) {
            continue;
        }
        let word = |at: usize| -> Result<u16> {
            Ok(u16::from_be_bytes(packet.get(at..at + 2).context("a short packet")?.try_into()?))
        };
        let end = |address: usize, port: usize| -> Result<[u8; 6]> {
            let parts = [packet.get(address..address + 4), packet.get(port..port + 2)];
            parts.map(Option::unwrap_or_default).concat().try_into().ok().context("a short packet")
        };
        let header = usize::from(packet.get(32).context("a short packet")? >> 4) * 4;
        let length = u32::from(word(2)?).saturating_sub(20 + u32::try_from(header)?);
        let sequence = u32::from(word(24)?) << 16 | u32::from(word(26)?);
        let (from, to) = (end(12, 20)?, end(16, 22)?);
        for edge in sack_edges(packet.get(40..20 + header).unwrap_or_default()) {
            flows.entry((to, from)).or_default().report(edge);
        }
        if length > 0 {
            flows.entry((from, to)).or_default().take(sequence, length);
        }
    }
    Ok(flows)
}

/// A datagram of 1,000 bytes from 10.77.88.2 to the LAN host, with a checksum that fits the
/// undamaged one.
fn numbered(number: u32, damaged: bool) -> Result<Vec<u8>> {
    let mut payload = b"go".to_vec();
    payload.extend(number.to_be_bytes());
    payload.resize(1_000, 7);
    let mut packet = scenarios::forge::datagram(
        "10.77.88.2".parse()?,
        "192.168.1.50".parse()?,
        (40_000, 7_000),
        &payload,
    )?;
    if damaged {
        packet.get_mut(28..30).context("a short packet")?.copy_from_slice(b"ba");
    }
    Ok(packet)
}

/// wireguard-go as the far end: it sends each packet as it gets it.
fn plain_far_end(site: &Site<'_>) -> Result<WireGuardGo> {
    let far = WireGuardGo::start(&site.origin, "wg0")?;
    far.configure(&PlainPeer {
        private_key: &KeyPair::of("wroclaw").private,
        listen_port: None,
        public_key: &site.kyiv.public,
        preshared_key: Some(&preshared_key("wroclaw")),
        allowed_ips: "0.0.0.0/0",
        endpoint: Some("192.0.2.2:51820"),
        keepalive: Some(5),
    })?;
    far.bring_up(&["10.77.88.2/30"], &["192.168.1.0/24"])?;
    until(Duration::from_secs(15), "the tunnel", || site.origin.run("ping -c 1 -W 1 10.77.88.1").map(Some))?;
    Ok(far)
}

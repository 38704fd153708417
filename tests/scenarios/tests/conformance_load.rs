//! A `causeway-wg` that unknown peers flood with handshake initiations.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, PacketSocket, Topology, full_counts, scenario, until};
use scenarios::forge::datagram;
use scenarios::{Pair, Plain, initiations};

#[test]
fn under_load_an_honest_peer_connects_by_its_cookie_and_an_old_session_goes_on() -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let pair = Pair::start(lab)?;
        let flooder = lab.add_node("flooder")?;
        lab.connect((&pair.two.node, "eth1"), (&flooder, "eth0"))?;
        pair.two.node.ip("address add 198.51.100.2/24 dev eth1\nroute add default via 198.51.100.1")?;
        flooder.ip("address add 198.51.100.1/24 dev eth0")?;
        flooder.sysctl("net/ipv4/ip_forward", "1")?;
        pair.two.node.shell("for i in all eth1; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done")?;
        pair.two.node.nft(COUNTERS)?;
        pair.pings()?;
        let late = Plain::start(lab, &pair.one.node, "wg1", "late")?;
        late.set(&format!("peer {} allowed-ips 10.7.0.2/32 endpoint 192.0.2.2:5002", pair.two.keys.public))?;
        late.bring_up(&["10.7.0.1/32"])?;
        late.node.run("ip route add 10.7.0.2/32 dev wg1")?;
        pair.two.set(&format!("peer {} allowed-ips 10.7.0.1/32", late.keys.public))?;
        pair.two.node.ip("address add 10.7.0.2/32 dev wg0\nroute add 10.7.0.1/32 dev wg0")?;

        let socket = flooder.packet_socket("eth0", Some((&pair.two.node, "eth1")))?;
        let initiations = initiations(&pair.two.keys.public, 32)?;
        let ending = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&socket, &initiations, &ending));
            let outcome = during_flood(&pair, &late);
            ending.store(true, Ordering::Relaxed);
            let asked = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
            outcome?;
            let (cookies, responses) = (counted(&pair, "cookies")?, counted(&pair, "others")?);
            println!("{asked} initiations from unknown peers, {cookies} cookies");
            ensure!(cookies > 0 && cookies <= asked, "{asked} initiations, {cookies} cookies");
            ensure!(responses == 0, "{responses} unknown peers got something else");
            Ok(())
        })
    })
}

fn during_flood(pair: &Pair, late: &Plain) -> Result<()> {
    until(Duration::from_secs(20), "the first cookie reply", || {
        Ok((counted(pair, "cookies")? > 0).then_some(()))
    })?;
    // Its first initiation is answered with a cookie, which the next one carries.
    late.reaches("10.7.0.2")?;
    let (mut answered, start) = (0, Instant::now());
    let length = Duration::from_secs(if full_counts() { 30 } else { 3 });
    let mut asked = 0;
    while start.elapsed() < length {
        asked += 1;
        answered += u32::from(pair.one.answers("10.9.0.2")?);
    }
    ensure!(answered * 10 >= asked * 9, "{answered} of {asked} were answered under load");
    Ok(())
}

/// About a thousand initiations a second, each from another address; how many there were.
fn flood(socket: &PacketSocket, initiations: &[Vec<u8>], ending: &AtomicBool) -> Result<u64> {
    let mut sent = 0_u32;
    while !ending.load(Ordering::Relaxed) {
        for initiation in initiations {
            // 10.64.0.0/10 holds more addresses than there are packets.
            let source = Ipv4Addr::from_bits(0x0a40_0000 + sent % (1 << 22));
            let target = Ipv4Addr::new(198, 51, 100, 2);
            socket.send(&datagram(source, target, (4000, 5002), initiation)?)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(sent.into())
}

/// Counts what is sent to unknown peers: cookie replies (type 3, 64 bytes) and anything else.
const COUNTERS: &str = "table inet load {
       counter cookies { }
       counter others { }
       chain postrouting { type filter hook postrouting priority 0;
         ip daddr 10.64.0.0/10 udp length 72 @th,64,8 3 counter name cookies accept;
         ip daddr 10.64.0.0/10 counter name others;
       }
     }";

fn counted(pair: &Pair, name: &str) -> Result<u64> {
    let node: &Node = &pair.two.node;
    let text = node.run(&format!("nft list counter inet load {name}"))?;
    let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(packets.context("no packets in the counter")?.parse()?)
}

//! The main job with both ends in containers, on the images of the Dockerfile and the Compose
//! services of the sample tree, in front of a real Caddy; and what is in those images.
//!
//! Each site has a Docker engine of its own in its machine's network. The gateway's container has
//! that network itself, so nothing between the public port and the gateway can change a client's
//! address.

#![allow(clippy::print_stdout)] // Sizes and versions are what a person looks for.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::{Completed, Engine, Network, Source, Tree};
use lab::{Lab, LeakWatch, Node, TcpServer, Topology, scenario, until};
use scenarios::KeyPair;

/// What the images may weigh as a registry would send them, in bytes.
const LIMITS: [(&str, usize); 2] = [("gateway", 30_000_000), ("forwarder", 15_000_000)];

/// Who the forwarder's image runs as.
const FORWARDER: u32 = 65_532;

#[test]
fn a_page_of_a_caddy_among_containers_reaches_an_internet_client_through_both_ends_in_containers()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "a Docker engine needs the machine's root").map(drop);
        }
        let leaks = LeakWatch::start(&lab.node("inet")?)?;
        let sites = Sites::start(lab)?;
        the_images_are_small(&sites.wroclaw);
        sites.up()?;
        the_page_arrives_with_the_clients_address(&sites, lab)?;
        no_other_container_speaks_for_a_client(&sites)?;
        neighbours_of_caddy_reach_its_metrics_and_not_its_admin_endpoint(&sites)?;
        services_of_the_monitoring_network_are_reached_by_name(&sites)?;
        containers_reach_the_other_site_by_the_forwarders_name(&sites)?;
        the_gateway_holds_one_capability_and_the_forwarder_none(&sites)?;
        neither_logged_a_warning(&sites)?;
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn the_images_are_built_from_source_for_both_architectures_in_the_full_run() -> Result<()> {
    if !lab::full_counts() {
        println!("built from source in the full run only: make soak");
        return Ok(());
    }
    let engine = Engine::start_in(&Network::Machine);
    engine.load_debian(Source::Archive);
    rust_image(&engine)?;
    for architecture in ["amd64", "arm64"] {
        for (image, _) in LIMITS {
            let name = format!("causeway/{image}:{architecture}");
            let start = Instant::now();
            let platform = format!("linux/{architecture}");
            let build =
                ["build", "--network", "host", "--platform", &platform, "--target", image, "-t", &name];
            engine.docker(&[&build[..], &[&engine::project().display().to_string()]].concat());
            println!("{name} from source: {} s", start.elapsed().as_secs());
            weigh(&engine, image, &name);
            its_programs_run(&engine, image, &name, architecture)?;
        }
    }
    Ok(())
}

fn the_images_are_small(engine: &Engine) {
    for (image, _) in LIMITS {
        weigh(engine, image, &format!("causeway/{image}:latest"));
    }
}

fn the_page_arrives_with_the_clients_address(sites: &Sites, lab: &Lab) -> Result<()> {
    let client = lab.node("client")?;
    let authority = client.directory().join("authority.crt");
    fs::write(&authority, sites.wroclaw.docker(&["exec", "caddy-caddy-1", "cat", AUTHORITY]))?;
    let page = until(Duration::from_secs(60), "the page", || {
        let command = client.command("curl").args(["-sS", "--fail", "--max-time", "10"]);
        let command = command.args(["--resolve", "emby.example.com:443:192.0.2.2", "--cacert"]);
        Ok(Some(command.arg(&authority).arg("https://emby.example.com/System/Ping").run()?))
    })?;
    ensure!(page == "ok\n", "{page:?}");
    let log = log_of(&sites.wroclaw, "caddy-caddy-1");
    ensure!(log.contains(r#""remote_ip":"203.0.113.10""#), "{log}");
    let peers = sites.kyiv.docker(&["exec", GATEWAY, "gatewayctl", "peers"]);
    println!("docker exec {GATEWAY} gatewayctl peers\n{peers}");
    ensure!(peers.contains("wroclaw") && peers.contains("198.51.100.7:"), "{peers}");
    for (engine, container) in [(&sites.kyiv, GATEWAY), (&sites.wroclaw, "forwarder-forwarder-1")] {
        until(Duration::from_secs(60), &format!("{container} to be healthy"), || {
            let state = engine.docker(&["inspect", "--format", "{{json .State.Health}}", container]);
            ensure!(state.contains(r#""Status":"healthy""#), "{state}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// A connection of this machine to the published port must have a PROXY header; a connection of
/// another container must not.
fn no_other_container_speaks_for_a_client(sites: &Sites) -> Result<()> {
    let url = "https://emby.example.com:8443/System/Ping";
    let curl = || sites.origin.command("curl").args(["-sS", "-k", "--max-time", "10"]);
    let command = curl().args(["--resolve", "emby.example.com:8443:127.0.0.1", url]);
    ensure!(!command.output()?.status.success(), "served without a header");
    let command = curl().args(["--haproxy-protocol", "--resolve", "emby.example.com:8443:127.0.0.1", url]);
    ensure!(command.run()? == "ok\n");
    // Caddy answers plain HTTP after a header it believes, and closes after one it does not.
    let script = "printf 'PROXY TCP4 198.18.0.1 192.0.2.2 1234 443\r\nGET / HTTP/1.0\r\n\r\n' | /bin/busybox nc -w 5 caddy 8443";
    let forged = Completed::of(&sites.wroclaw.try_docker(&["exec", "emby-emby-1", "sh", "-c", script]));
    ensure!(forged.out.is_empty(), "another container was believed: {forged:?}");
    let mut believed = sites.origin.tcp_connect("127.0.0.1:8443", Duration::from_secs(5))?;
    believed.set_read_timeout(Some(Duration::from_secs(10)))?;
    believed.write_all(b"PROXY TCP4 198.18.0.1 192.0.2.2 1234 443\r\nGET / HTTP/1.0\r\n\r\n")?;
    let answer = String::from_utf8_lossy(&lab::read_all(&mut believed, 4096)?).into_owned();
    ensure!(answer.contains("400 Bad Request"), "{answer:?}");
    Ok(())
}

/// Whoever reaches the admin endpoint can replace the whole configuration.
fn neighbours_of_caddy_reach_its_metrics_and_not_its_admin_endpoint(sites: &Sites) -> Result<()> {
    let ask = |port: u16, path: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nHost: caddy\r\n\r\n");
        let script = format!("printf '{request}' | /bin/busybox nc -w 5 caddy {port}");
        Completed::of(&sites.wroclaw.try_docker(&["exec", "emby-emby-1", "sh", "-c", &script]))
    };
    let refused = ask(2019, "/config/");
    ensure!(refused.code != 0 && refused.err.contains("refused"), "{refused:?}");
    let metrics = ask(2020, "/metrics");
    ensure!(metrics.out.contains("caddy_http_requests_total"), "{metrics:?}");
    let other = ask(2020, "/config/");
    ensure!(!other.out.contains("apps"), "{other:?}");
    Ok(())
}

fn services_of_the_monitoring_network_are_reached_by_name(sites: &Sites) -> Result<()> {
    let run =
        ["run", "--detach", "--network", "monitoring", "--network-alias", "victoria-metrics", "standin:1"];
    sites.wroclaw.docker(&run);
    until(Duration::from_secs(30), "the store, as Kyiv reaches it", || {
        let answer = sites.edge.run("curl -sS --fail --max-time 5 http://192.168.88.2:8428/health")?;
        Ok((answer == "ok\n").then_some(()))
    })
}

fn containers_reach_the_other_site_by_the_forwarders_name(sites: &Sites) -> Result<()> {
    let _disk = TcpServer::start(sites.edge.tcp_listener("192.168.1.2:2049")?, lab::echo)?;
    let script = "echo a film from Kyiv | /bin/busybox nc -w 5 forwarder 2049";
    let answer = sites.wroclaw.docker(&["exec", "emby-emby-1", "sh", "-c", script]);
    ensure!(answer == "a film from Kyiv\n", "{answer:?}");
    Ok(())
}

fn the_gateway_holds_one_capability_and_the_forwarder_none(sites: &Sites) -> Result<()> {
    let net_admin = 1 << 12;
    // While the helper runs nft, two processes hold it.
    until(Duration::from_secs(30), "the helper to hold it alone", || {
        let gateway = processes(&sites.kyiv, GATEWAY)?;
        ensure!(gateway.iter().any(|process| process.name == "gateway"), "{gateway:?}");
        ensure!(gateway.iter().all(|process| process.bounding == net_admin), "{gateway:?}");
        let holders: Vec<_> = gateway.iter().filter(|process| process.effective != 0).collect();
        ensure!(holders.iter().all(|holder| holder.effective == net_admin), "{gateway:?}");
        Ok((holders.len() == 1).then_some(()))
    })?;
    let refused = sites.kyiv.try_docker(&["exec", GATEWAY, "gatewayctl", "keygen", "/etc"]);
    let said = Completed::of(&refused);
    ensure!(said.code != 0 && said.err.contains("Read-only file system"), "{said:?}");

    let forwarder = processes(&sites.wroclaw, "forwarder-forwarder-1")?;
    ensure!(!forwarder.is_empty());
    for process in &forwarder {
        ensure!(process.effective == 0 && process.bounding == 0 && process.user == FORWARDER, "{process:?}");
    }
    Ok(())
}

fn neither_logged_a_warning(sites: &Sites) -> Result<()> {
    for (engine, container) in [(&sites.kyiv, GATEWAY), (&sites.wroclaw, "forwarder-forwarder-1")] {
        let log = log_of(engine, container);
        let bad: Vec<_> =
            log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        ensure!(bad.is_empty(), "{container}: {bad:?}");
    }
    Ok(())
}

fn log_of(engine: &Engine, container: &str) -> String {
    let said = Completed::of(&engine.try_docker(&["logs", container]));
    said.out + &said.err
}

const GATEWAY: &str = "gateway-gateway-1";

/// Where the sample's Caddy keeps the certificate of its own authority.
const AUTHORITY: &str = "/data/caddy/pki/authorities/local/root.crt";

/// Both machines with their engines and their copy of the sample tree.
struct Sites {
    edge: Node,
    origin: Node,
    kyiv: Engine,
    wroclaw: Engine,
    kyiv_tree: Tree,
    wroclaw_tree: Tree,
}

impl Sites {
    fn start(lab: &Lab) -> Result<Self> {
        let (edge, origin) = (lab.node("edge")?, lab.node("origin")?);
        // What configs/sysctl and Docker set on a real edge; a container may read these and not
        // write them.
        for (switch, value) in [
            ("ip_forward", "1"),
            ("conf/all/src_valid_mark", "1"),
            ("conf/all/rp_filter", "2"),
            ("conf/default/rp_filter", "2"),
            ("conf/eth0/rp_filter", "2"),
        ] {
            edge.sysctl(&format!("net/ipv4/{switch}"), value)?;
        }
        for (switch, value) in [("acct", "1"), ("timestamp", "1"), ("tcp_timeout_established", "7440")] {
            edge.sysctl(&format!("net/netfilter/nf_conntrack_{switch}"), value)?;
        }
        let wroclaw = Engine::start_in(&Network::Existing(origin.network_path()));
        wroclaw.load_images();
        wroclaw.load_caddy(&lab::newer("caddy")?);
        wroclaw.load_debian(Source::Folder);
        build_from_what_is_built(&wroclaw, lab)?;
        let kyiv = Engine::start_in(&Network::Existing(edge.network_path()));
        kyiv.load_images();
        hand_over(&wroclaw, &kyiv, "causeway/gateway:latest")?;
        let (kyiv_tree, wroclaw_tree) = trees(&kyiv, &wroclaw)?;
        Ok(Self { edge, origin, kyiv, wroclaw, kyiv_tree, wroclaw_tree })
    }

    fn up(&self) -> Result<()> {
        let kyiv = |words: &[&str]| stackctl(&self.kyiv, &self.kyiv_tree, "kyiv", words);
        let wroclaw = |words: &[&str]| stackctl(&self.wroclaw, &self.wroclaw_tree, "wroclaw", words);
        kyiv(&["setup", "gateway"])?;
        // The edge becomes healthy only with its peer, which starts next.
        let compose = kyiv(&["print-command", "gateway", "--", "up", "--detach", "--pull", "never"])?;
        start_without_waiting(&self.kyiv, &compose.out)?;
        self.wroclaw.docker(&["network", "create", "monitoring"]);
        for service in ["authelia", "caddy", "emby", "forwarder"] {
            wroclaw(&["setup", service])?;
            wroclaw(&["up", service])?;
        }
        Ok(())
    }
}

/// Copies of the sample tree with keys, and with certificates that need no authority outside.
fn trees(kyiv: &Engine, wroclaw: &Engine) -> Result<(Tree, Tree)> {
    let (edge, origin) = (KeyPair::of("kyiv"), KeyPair::of("wroclaw"));
    let kyiv_tree = Tree::sample(kyiv.dir.path(), "docker-compose");
    let sample = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    kyiv_tree.edit("kyiv/.env.user", sample, &origin.public);
    edge.write(&kyiv_tree.root.join("kyiv/gateway/kyiv.key"))?;

    let wroclaw_tree = Tree::sample(wroclaw.dir.path(), "docker-compose");
    wroclaw_tree.edit("wroclaw/.env.user", sample, &edge.public);
    wroclaw_tree.edit("wroclaw/.env.user", "kyiv.example.com:51820", "192.0.2.2:51820");
    let key = wroclaw_tree.root.join("wroclaw/forwarder/wroclaw.key");
    origin.write(&key)?;
    chown(&key, Some(FORWARDER), Some(FORWARDER))?;
    let offline = "local_certs\n\tskip_install_trust\n\temail ";
    wroclaw_tree.edit("caddy/Caddyfile.tmpl", "email ", offline);
    let logging = "https://emby.{{DOMAIN}}:8443 {\n\tlog\n";
    wroclaw_tree.edit("caddy/Caddyfile.tmpl", "https://emby.{{DOMAIN}}:8443 {\n", logging);
    Ok((kyiv_tree, wroclaw_tree))
}

fn stackctl(engine: &Engine, tree: &Tree, location: &str, words: &[&str]) -> Result<Completed> {
    let mut command = engine.command("timeout");
    let command = command.arg("200").arg(lab::binary("stackctl")?).args(words);
    let said = Completed::of(&command.current_dir(tree.root.join(location)).output()?);
    ensure!(said.code == 0, "stackctl {words:?}: {said:?}");
    Ok(said)
}

/// Runs a command line of `stackctl print-command`, which names no engine, on this engine.
fn start_without_waiting(engine: &Engine, line: &str) -> Result<()> {
    let variables = engine.environment().into_iter().filter(|(name, _)| name.starts_with("DOCKER"));
    let host: String = variables.map(|(name, value)| format!(" {name}={value}")).collect();
    let output =
        engine.command("sh").args(["-c", &line.replace("env -i", &format!("env -i{host}"))]).output()?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Builds the images from packages, and those from the programs next to this test.
fn build_from_what_is_built(engine: &Engine, lab: &Lab) -> Result<()> {
    let context = lab.directory().join("context");
    let programs = lab.directory().join("programs");
    fs::create_dir_all(&programs)?;
    let built = lab::binary("manual")?;
    symlink(built.parent().context("a folder")?, programs.join(architecture()))?;
    let start = Instant::now();
    let mut packages = Command::new(engine::project().join("packaging/build"));
    packages.env("PROGRAMS", &programs).env("OUT", context.join("target/packages"));
    packages.env("ARCHITECTURES", architecture()).env("FORMATS", "deb");
    let output = packages.env("VERSION", "0.0.1-1").env("SOURCE_DATE_EPOCH", "1764500000").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("packages from what is built: {} s", start.elapsed().as_secs());
    fs::copy(engine::project().join("Dockerfile"), context.join("Dockerfile"))?;
    let context = context.display().to_string();
    for (image, _) in LIMITS {
        let name = format!("causeway/{image}:latest");
        engine.docker(&[
            "build",
            "--build-arg",
            "BINARIES=packages",
            "--target",
            image,
            "-t",
            &name,
            &context,
        ]);
    }
    Ok(())
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn hand_over(from: &Engine, to: &Engine, image: &str) -> Result<()> {
    let file = from.dir.path().join("image.tar").display().to_string();
    from.docker(&["save", "--output", &file, image]);
    to.docker(&["load", "--input", &file]);
    fs::remove_file(file).context("the image's file")
}

/// The whole image as a registry would send it: its layers under gzip.
fn weigh(engine: &Engine, image: &str, name: &str) {
    let limit = LIMITS.iter().find(|(known, _)| *known == image).map_or(0, |(_, limit)| *limit);
    let weigh = engine.command("sh").args(["-c", &format!("docker save {name} | gzip | wc -c")]).output();
    let said =
        weigh.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let bytes: usize = said.parse().unwrap_or(usize::MAX);
    println!("{name}: {:.1} MB compressed", bytes as f64 / 1e6);
    assert!(bytes > 1_000_000 && bytes < limit, "{name} has {said} bytes");
}

/// One process of a container, with its capabilities.
#[derive(Debug)]
struct Process {
    name: String,
    user: u32,
    effective: u64,
    bounding: u64,
}

/// The processes of a container, read by a stand-in that shares their namespace: the images have no
/// shell.
fn processes(engine: &Engine, container: &str) -> Result<Vec<Process>> {
    let namespace = format!("container:{container}");
    // A check of health is a process that may end between its name and its status.
    let script = "for p in /proc/[0-9]*; do echo; cat $p/status 2>/dev/null || true; done";
    let look = ["run", "--rm", "--pid", &namespace, "--entrypoint", "/bin/sh", "standin:1", "-c", script];
    let all = engine.docker(&look);
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).unwrap_or_default()
    };
    let parse = |status: &str| {
        let user = field(status, "Uid:");
        Ok(Process {
            name: field(status, "Name:"),
            user: user.split_whitespace().next().context("a uid")?.parse()?,
            effective: u64::from_str_radix(&field(status, "CapEff:"), 16)?,
            bounding: u64::from_str_radix(&field(status, "CapBnd:"), 16)?,
        })
    };
    let own = |status: &&str| !["sh", "cat", ""].contains(&field(status, "Name:").as_str());
    all.split("\n\n").filter(own).map(parse).collect()
}

/// A stand-in for `rust:1.95-bookworm`: this machine's toolchain on the Debian stand-in.
fn rust_image(engine: &Engine) -> Result<()> {
    let context = engine.dir.path().join("rust");
    fs::create_dir_all(&context)?;
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let (copied, text) = (context.join("toolchain"), RUST_STANDIN);
    let status = Command::new("cp").arg("-r").arg(&sysroot).arg(&copied).status()?;
    ensure!(status.success(), "{}", sysroot.display());
    let _ = fs::remove_dir_all(copied.join("share"));
    fs::write(context.join("Dockerfile"), text)?;
    let context = context.display().to_string();
    engine.docker(&["build", "--network", "host", "-t", "rust:1.95-bookworm", &context]);
    fs::remove_dir_all(context).context("the toolchain's copy")
}

const RUST_STANDIN: &str = "FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev ca-certificates && update-ca-certificates
COPY toolchain /usr/local/cargo
ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo
";

/// Runs an image's programs outside of a container, those of another architecture by qemu's
/// emulation of a process.
fn its_programs_run(engine: &Engine, image: &str, name: &str, architecture: &str) -> Result<()> {
    let rootfs = engine.dir.path().join(format!("rootfs-{image}-{architecture}"));
    fs::create_dir_all(&rootfs)?;
    let unpack = format!(
        "id=$(docker create --platform linux/{architecture} {name}) && docker export $id | tar -C {} -x && docker rm $id",
        rootfs.display()
    );
    let output = engine.command("sh").args(["-euc", &unpack]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let programs: &[&str] = match image {
        "gateway" => &["usr/bin/gateway", "usr/bin/gatewayctl", "usr/sbin/nft"],
        _ => &["usr/bin/forwarder"],
    };
    for program in programs {
        let said = version(&rootfs, program, architecture)?;
        println!("{name}: {program} --version: {}", said.trim());
    }
    Ok(())
}

fn version(rootfs: &Path, program: &str, architecture: &str) -> Result<String> {
    let (libraries, loader) = match architecture {
        "arm64" => ("usr/lib/aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"),
        _ => ("usr/lib/x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"),
    };
    // The image's own loader and libraries, and nothing of this machine's.
    let mut command = match architecture == self::architecture() {
        true => Command::new(rootfs.join(loader)),
        false => {
            let mut command = Command::new("qemu-aarch64-static");
            command.arg(rootfs.join(loader));
            command
        }
    };
    command.arg("--library-path").arg(rootfs.join(libraries));
    // Under qemu nft has no netlink socket and cannot run: check only that its libraries are there.
    if program.ends_with("nft") && architecture != self::architecture() {
        command.arg("--list").arg(rootfs.join(program));
    } else {
        command.arg(rootfs.join(program)).arg("--version");
    }
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

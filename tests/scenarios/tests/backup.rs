//! `causeway backup` and `restore`: a machine whose disk is empty serves again, and the other one
//! is not touched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, echo, scenario, until};
use scenarios::{Config, Site};

/// What a client asks for.
const SERVICE: &str = "192.0.2.2:5001";
/// How soon a page must be there again.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_edge_with_an_empty_disk_serves_again_from_file_and_passphrase() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _server) = served(lab)?;
        let saved = Saved::of(&site.edge, &site.gateway_config)?;
        saved.is_sealed(&[&site.kyiv.private, "[interface]"])?;
        site.gateway()?.kill()?;
        site.gateway = None;
        saved.wipe()?;

        // What is refused changes nothing.
        let words = saved.passphrase.replacen(' ', "  ", 2);
        for (file, passphrase, exit, says) in [
            (&saved.file, "correct horse battery staple", 5, "not its passphrase"),
            (&saved.altered()?, words.as_str(), 4, "damaged"),
            (&saved.config, words.as_str(), 1, "No such file"),
        ] {
            let refused = saved.restore(&site.edge, file, passphrase)?;
            let exits = refused.status.code() == Some(exit);
            ensure!(exits && said(&refused).contains(says), "{says}: {}", said(&refused));
            ensure!(saved.files()?.is_empty(), "something was written: {:?}", saved.files()?);
        }
        fs::write(&saved.config, "# another one\n")?;
        let refused = saved.restore(&site.edge, &saved.file, &words)?;
        ensure!(
            refused.status.code() == Some(6) && said(&refused).contains("move it away"),
            "{}",
            said(&refused)
        );
        ensure!(
            saved.files()? == ["gateway.toml"] && fs::read_to_string(&saved.config)? == "# another one\n"
        );
        fs::remove_file(&saved.config)?;

        let restored = saved.restore(&site.edge, &saved.file, &words)?;
        ensure!(
            restored.status.success() && said(&restored).contains("start it: gateway"),
            "{}",
            said(&restored)
        );
        ensure!(saved.files()? == saved.before, "{:?} instead of {:?}", saved.files()?, saved.before);
        let again = saved.restore(&site.edge, &saved.file, &words)?;
        ensure!(again.status.success(), "a second run: {}", said(&again));
        site.start_gateway()?;
        page(lab)?;
        ensure!(site.forwarder()?.is_running(), "the origin was touched");
        Ok(())
    })
}

#[test]
fn an_origin_with_an_empty_disk_serves_again_from_file_and_passphrase() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _server) = served(lab)?;
        let saved = Saved::of(&site.origin, &site.forwarder_config)?;
        site.forwarder()?.kill()?;
        site.forwarder = None;
        saved.wipe()?;
        let restored = saved.restore(&site.origin, &saved.file, &saved.passphrase)?;
        ensure!(
            restored.status.success() && said(&restored).contains("start it: forwarder"),
            "{}",
            said(&restored)
        );
        ensure!(saved.files()? == saved.before, "{:?} instead of {:?}", saved.files()?, saved.before);
        site.start_forwarder()?;
        page(lab)
    })
}

/// A backup, and what it is a backup of.
struct Saved {
    folder: PathBuf,
    config: PathBuf,
    file: PathBuf,
    passphrase: String,
    /// The files of the configuration, with their modes.
    before: Vec<String>,
}

impl Saved {
    fn of(node: &Node, config: &Config) -> Result<Self> {
        let config = config.path().clone();
        let folder = config.parent().context("no folder")?.to_owned();
        let file = lab_folder(node)?.join("machine.backup");
        let output = causeway(node, &["backup", &shown(&file), "--config", &shown(&config)])?.output()?;
        let text = said(&output);
        ensure!(output.status.success(), "{text}");
        let words = text.lines().find_map(|line| line.split_once("written nowhere else: "));
        let passphrase = words.context("no passphrase")?.1.trim().to_owned();
        ensure!(passphrase.split(' ').count() == 6, "{passphrase}");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let mut saved = Self { folder, config, file, passphrase, before: Vec::new() };
        saved.before = saved.files()?;
        Ok(saved)
    }

    /// The file has nothing of this in plain text.
    fn is_sealed(&self, secrets: &[&str]) -> Result<()> {
        let bytes = fs::read(&self.file)?;
        let has = |text: &&&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        ensure!(!secrets.iter().any(|text| has(&text)), "it can be read without the passphrase");
        Ok(())
    }

    /// A copy with one bit that is another.
    fn altered(&self) -> Result<PathBuf> {
        let (mut bytes, path) = (fs::read(&self.file)?, self.file.with_extension("altered"));
        let last = bytes.last_mut().context("it is empty")?;
        *last ^= 1;
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Configuration and keys, by name; state is the daemon's own.
    fn files(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if [".toml", ".key", ".pub"].iter().any(|end| name.ends_with(end)) && !name.starts_with("wg-") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// An empty disk.
    fn wipe(&self) -> Result<()> {
        for name in self.files()? {
            fs::remove_file(self.folder.join(name))?;
        }
        // The folders themselves are the unit's.
        for state in ["state", "state-root"].map(|name| self.folder.join(name)) {
            if state.is_dir() {
                fs::remove_dir_all(&state)?;
                fs::create_dir(&state)?;
            }
        }
        Ok(())
    }

    fn restore(&self, node: &Node, file: &Path, passphrase: &str) -> Result<Output> {
        let path = lab_folder(node)?.join("passphrase");
        fs::write(&path, format!("{passphrase}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let (file, config, path) = (shown(file), shown(&self.config), shown(&path));
        causeway(node, &["restore", &file, "--config", &config, "--passphrase-file", &path])?.output()
    }
}

/// A folder that a wiped machine does not have: a stick, or another machine.
fn lab_folder(node: &Node) -> Result<PathBuf> {
    let folder = node.directory().join("stick");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn causeway(node: &Node, arguments: &[&str]) -> Result<lab::NodeCommand> {
    Ok(node.command(lab::binary("causeway")?).args(arguments))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn served(lab: &Lab) -> Result<(Site<'_>, TcpServer)> {
    let mut site = Site::new(lab)?;
    let server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
    site.start()?;
    page(lab)?;
    Ok((site, server))
}

fn page(lab: &Lab) -> Result<()> {
    let client = lab.node("client")?;
    until(SOON, "a reply through the edge", || {
        let mut stream = client.tcp_connect(SERVICE, Duration::from_secs(5))?;
        std::io::Write::write_all(&mut stream, b"through the edge")?;
        let mut back = [0; 16];
        std::io::Read::read_exact(&mut stream, &mut back)?;
        Ok((back == *b"through the edge").then_some(()))
    })
}

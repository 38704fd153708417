//! A certificate authority and a name server of the internet's: pebble and knot.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use lab::{Node, Process, until};

use crate::web::wait_for_port;

/// The address of the node that both run on, as every topology has it for `client`.
const ADDRESS: &str = "203.0.113.10";
/// How long pebble may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// An authority that issues certificates for 90 days, by ACME (RFC 8555), and checks a name for each
/// of them; and the name server of `example.com`, whose names lead to 192.0.2.2.
#[derive(Debug)]
pub struct Authority {
    /// The authority's server.
    pub pebble: Process,
    /// The name server.
    pub knot: Process,
    folder: PathBuf,
}

impl Authority {
    /// The URL of its ACME directory.
    pub const DIRECTORY: &str = "https://acme.example.com/dir";
    /// The key by which `_acme-challenge.example.com` can be changed (RFC 2136, RFC 8945), in base64.
    pub const SECRET: &str = "Y2VydGlmaWNhdGVzIG9mIGEgdGVzdCBhbG9uZS4uLi4=";

    /// Starts both on the node `client`.
    pub fn start(node: &Node) -> Result<Self> {
        let folder = node.directory().join("acme");
        for part in ["zones", "database"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("zones/example.com.zone"), ZONE)?;
        fs::write(folder.join("knot.conf"), knot_conf(&folder))?;
        fs::write(folder.join("pebble.json"), pebble_json(&folder))?;
        let request =
            ["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2", "-subj", "/CN=acme.example.com"];
        let command =
            node.command("openssl").args(request).args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        let command = command.args(["-addext", "subjectAltName=DNS:acme.example.com"]);
        command.arg("-keyout").arg(folder.join("acme.key")).arg("-out").arg(folder.join("acme.crt")).run()?;
        let knot = node.command("knotd").arg("-c").arg(folder.join("knot.conf")).spawn("knot")?;
        wait_for_port(node, &format!("{ADDRESS}:53"))?;
        node.shadow_file("/etc/resolv.conf", &Self::resolver())?;
        let pebble = node.command("pebble").arg("-config").arg(folder.join("pebble.json"));
        let pebble = pebble.args(["-dnsserver", &format!("{ADDRESS}:53")]);
        // Checks begin at once, every name is checked, and no request is refused by chance.
        let pebble = pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let pebble = pebble.env("PEBBLE_WFE_NONCEREJECT", "0").spawn("pebble")?;
        let authority = Self { pebble, knot, folder };
        until(START_LIMIT, "pebble's root certificate", || {
            let url = "https://acme.example.com:15000/roots/0";
            let command = node.command("curl").args(["-sS", "--fail", "--max-time", "5", "--cacert"]);
            let root = command.arg(authority.certificate()).arg(url).run()?;
            Ok(Some(fs::write(authority.root(), root)?))
        })?;
        Ok(authority)
    }

    /// `/etc/resolv.conf` of a machine that uses the name server.
    pub fn resolver() -> String {
        format!("nameserver {ADDRESS}\n")
    }

    /// The certificate of the ACME server itself.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("acme.crt")
    }

    /// The root of the certificates that it issues.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.crt")
    }
}

const ZONE: &str = "example.com. 60 SOA ns.example.com. admin.example.com. 1 60 60 60 1
example.com. 60 NS ns.example.com.
example.com. 60 A 192.0.2.2
ns.example.com. 60 A 203.0.113.10
acme.example.com. 60 A 203.0.113.10
emby.example.com. 60 A 192.0.2.2
photos.example.com. 60 A 192.0.2.2
";

fn knot_conf(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "server:
    rundir: \"{folder}\"
    listen: {ADDRESS}@53
    udp-workers: 1
    tcp-workers: 2
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: \"{folder}/database\"
key:
  - id: acme
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: acme
    key: acme
    action: update
    update-type: TXT
    update-owner: name
    update-owner-match: equal
    update-owner-name: _acme-challenge
template:
  - id: default
    storage: \"{folder}/zones\"
    zonefile-sync: -1
    journal-content: changes
zone:
  - domain: example.com
    file: example.com.zone
    acl: acme
",
        secret = Authority::SECRET
    )
}

fn pebble_json(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"{{"pebble": {{
  "listenAddress": "{ADDRESS}:443", "managementListenAddress": "{ADDRESS}:15000",
  "certificate": "{folder}/acme.crt", "privateKey": "{folder}/acme.key", "httpPort": 80, "tlsPort": 443,
  "ocspResponderURL": "", "externalAccountBindingRequired": false, "certificateValidityPeriod": 7776000
}}}}"#
    )
}

//! Real web servers on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, NodeCommand, Process, until};

/// How long a server may take to open its ports.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A Caddy that ends TLS on port 443 for its own network, and on 8443 of loopback. Only the latter
/// believes PROXY headers, and it requires them.
#[derive(Debug)]
pub struct Caddy {
    /// The running server.
    pub process: Process,
    folder: PathBuf,
}

impl Caddy {
    /// Starts it on a node; `/whoami` answers the client's address, everything else comes from
    /// [`Caddy::root`].
    pub fn start(node: &Node) -> Result<Self> {
        Self::run(node, caddyfile)
    }

    /// As [`Caddy::start`], but it takes no key exchange that is not post-quantum (X25519MLKEM768),
    /// and so no ClientHello that fits into one segment.
    pub fn start_post_quantum(node: &Node) -> Result<Self> {
        Self::run(node, |folder| {
            caddyfile(folder).replace("tls internal", "tls internal {\n        curves x25519mlkem768\n    }")
        })
    }

    /// Starts it with the sample tree's Caddyfile and no site; its sites are files below
    /// [`Caddy::sites`].
    pub fn start_sample(node: &Node) -> Result<Self> {
        Self::start_sample_with(node, OWN_AUTHORITY)
    }

    /// As [`Caddy::start_sample`], with these global options in place of an authority of its own.
    pub fn start_sample_with(node: &Node, options: &str) -> Result<Self> {
        let folder = node.directory().join("caddy");
        fs::create_dir_all(folder.join("sites"))?;
        let file = folder.join("Caddyfile");
        fs::write(&file, sample(&folder, options)?)?;
        let process = Self::command(node, &folder)?.args(["run", "--config"]).arg(&file).spawn("caddy")?;
        wait_for_port(node, "127.0.0.1:8080")?;
        Ok(Self { process, folder })
    }

    /// The sample tree's Caddyfile with an authority of its own, as there is no other in a lab.
    pub fn sample(folder: &Path) -> Result<String> {
        sample(folder, OWN_AUTHORITY)
    }

    /// Caddy's command, with nothing of this machine's own.
    pub fn command(node: &Node, folder: &Path) -> Result<NodeCommand> {
        let command = node.command(lab::newer("caddy")?).env("HOME", folder).env("XDG_DATA_HOME", folder);
        Ok(command.env("XDG_CONFIG_HOME", folder))
    }

    /// The folder of the sample's sites.
    pub fn sites(&self) -> PathBuf {
        self.folder.join("sites")
    }

    /// Its configuration.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("Caddyfile")
    }

    /// Starts it with exported global options; `/whoami` answers the connection's address and the
    /// client's.
    pub fn start_exported(node: &Node, options: &str) -> Result<Self> {
        Self::run(node, |folder| {
            let ours = format!(
                "{{\n    admin off\n    storage file_system {}\n    local_certs\n    skip_install_trust\n    \
                 auto_https disable_redirects\n",
                folder.display()
            );
            let sites = sites(folder, "{http.request.remote.host} {client_ip}");
            format!("{}\n{sites}", options.replacen("{\n", &ours, 1))
        })
    }

    /// Starts it with other sites, all on port 8443 of loopback, whose listener requires PROXY headers
    /// or takes none.
    pub fn start_sites(node: &Node, requires_header: bool, sites: &str) -> Result<Self> {
        let before = node.directory().join("caddy");
        if before.exists() {
            fs::remove_dir_all(&before)?;
        }
        Self::run(node, |folder| {
            let listener = if requires_header { PROXY_LISTENER } else { "" };
            format!("{}{sites}", options(folder, listener))
        })
    }

    fn run(node: &Node, configuration: impl Fn(&Path) -> String) -> Result<Self> {
        let folder = node.directory().join("caddy");
        fs::create_dir_all(folder.join("root"))?;
        let file = folder.join("Caddyfile");
        fs::write(&file, configuration(&folder))?;
        let command = node.command(lab::newer("caddy")?).args(["run", "--adapter", "caddyfile", "--config"]);
        let command = command.arg(&file).env("HOME", &folder).env("XDG_DATA_HOME", &folder);
        // Debian's build has Go's older defaults.
        let command = command.env("GODEBUG", "tlsmlkem=1");
        let mut process = command.spawn("caddy")?;
        process.wait_for_log("certificate obtained successfully", START_LIMIT)?;
        wait_for_port(node, "127.0.0.1:8443")?;
        Ok(Self { process, folder })
    }

    /// The folder it serves.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The certificate of the authority that signed its own.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("pki/authorities/local/root.crt")
    }

    /// Waits until its access log holds `text`: a server writes it after it has answered.
    pub fn logs(&self, text: &str) -> Result<()> {
        wait_for_log(|| self.access_log(), text)
    }

    /// Its access log, one JSON object per line.
    pub fn access_log(&self) -> Result<String> {
        let path = self.folder.join("access.log");
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Fetches a path as a client of `https://emby.example.com`, whose name leads to `address`.
    pub fn fetch(&self, client: &Node, address: &str, path: &str) -> Result<String> {
        self.curl(client, address, &[], path)
    }

    /// As [`Caddy::fetch`], with further arguments for curl.
    pub fn curl(&self, client: &Node, address: &str, arguments: &[&str], path: &str) -> Result<String> {
        let resolve = format!("emby.example.com:443:{address}");
        let command =
            client.command("curl").args(["-sS", "--fail", "--max-time", "600", "--resolve", &resolve]);
        let command = command.arg("--cacert").arg(self.certificate()).args(arguments);
        let command = command.arg(format!("https://emby.example.com{path}"));
        command.limit(Duration::from_secs(620)).run()
    }
}

/// Global options of a Caddy that signs its certificates itself.
const OWN_AUTHORITY: &str = "local_certs\n\tskip_install_trust";

fn sample(folder: &Path, options: &str) -> Result<String> {
    let text = fs::read_to_string(lab::workspace().join("configs/caddy/Caddyfile"))?;
    let ours = format!("\n{{\n\tstorage file_system {}\n\t{options}\n", folder.display());
    ensure!(text.contains("\n{\n"), "the sample has no global options");
    Ok(text.replacen("\n{\n", &ours, 1))
}

/// Lets the forwarder's listener require PROXY headers.
const PROXY_LISTENER: &str = "listener_wrappers {
            proxy_protocol {
                timeout 2s
                fallback_policy require
            }
            tls
        }";

fn caddyfile(folder: &Path) -> String {
    let sites = sites(folder, "{http.request.remote.host}");
    format!("{}{sites}", options(folder, PROXY_LISTENER))
}

fn options(folder: &Path, listener: &str) -> String {
    let folder = folder.display();
    format!(
        "{{
    admin off
    storage file_system {folder}
    local_certs
    skip_install_trust
    auto_https disable_redirects
    servers 127.0.0.1:8443 {{
        {listener}
        protocols h1 h2
    }}
    servers :443 {{
        protocols h1 h2
    }}
}}
"
    )
}

/// The site on the forwarder's listener, on the public port, and where HTTP/3 is served.
fn sites(folder: &Path, whoami: &str) -> String {
    let folder = folder.display();
    format!(
        "(site) {{
    tls internal
    root * {folder}/root
    log {{
        output file {folder}/access.log
        format json
    }}
    respond /whoami \"{whoami}\"
    file_server
}}
https://emby.example.com:8443 {{
    bind 127.0.0.1
    import site
}}
https://emby.example.com:443 {{
    import site
}}
https://emby.example.com:9443 {{
    bind 127.0.0.1
    import site
}}
"
    )
}

/// A client whose TLS is that of a current browser: a Caddy that forwards each request to its
/// loopback port 8080 to `https://emby.example.com` at an edge, over a new connection. Its
/// ClientHello offers a post-quantum key share first, as Go does by default.
#[derive(Debug)]
pub struct ModernClient {
    /// The running program.
    pub process: Process,
    node: Node,
}

impl ModernClient {
    /// Starts it on a node; `address` is where the site's name leads, and `site` the server whose
    /// certificate is known.
    pub fn start(node: &Node, address: &str, site: &Caddy) -> Result<Self> {
        let folder = node.directory().join("modern");
        fs::create_dir_all(&folder)?;
        let file = folder.join("Caddyfile");
        let text = format!(
            "{{
    admin off
    storage file_system {}
}}
http://127.0.0.1:8080 {{
    reverse_proxy https://{address}:443 {{
        header_up Host emby.example.com
        transport http {{
            tls_server_name emby.example.com
            tls_trust_pool file {}
            keepalive off
            dial_timeout 10s
        }}
    }}
}}
",
            folder.display(),
            site.certificate().display()
        );
        fs::write(&file, text)?;
        let command = node.command(lab::newer("caddy")?).args(["run", "--adapter", "caddyfile", "--config"]);
        let command = command.arg(&file).env("HOME", &folder).env("XDG_DATA_HOME", &folder);
        // Debian's build has Go's older defaults.
        let command = command.env("GODEBUG", "tlsmlkem=1");
        let process = command.spawn("modern")?;
        wait_for_port(node, "127.0.0.1:8080")?;
        Ok(Self { process, node: node.clone() })
    }

    /// Fetches a path over a connection of its own.
    pub fn fetch(&self, path: &str) -> Result<String> {
        let command = self.node.command("curl").args(["-sS", "--fail", "--max-time", "20"]);
        command.arg(format!("http://127.0.0.1:8080{path}")).run()
    }
}

fn wait_for_log(log: impl Fn() -> Result<String>, text: &str) -> Result<()> {
    until(Duration::from_secs(5), "the access log", || {
        let log = log()?;
        ensure!(log.contains(text), "{text} is not in the access log: {log}");
        Ok(Some(()))
    })
}

/// An nginx that ends TLS on loopback port 8443 and believes PROXY headers from loopback only.
#[derive(Debug)]
pub struct Nginx {
    /// The running server.
    pub process: Process,
    folder: PathBuf,
}

impl Nginx {
    /// Starts it on a node: `/whoami` answers the client's address, `PUT` below `/upload/` stores,
    /// everything else comes from [`Nginx::root`].
    pub fn start(node: &Node) -> Result<Self> {
        let folder = node.directory().join("nginx");
        for part in ["root/upload", "tmp"] {
            fs::create_dir_all(folder.join(part))?;
        }
        certificate(node, &folder)?;
        let file = folder.join("nginx.conf");
        fs::write(&file, nginx_conf(&folder))?;
        let command = node.command("nginx").arg("-p").arg(&folder).arg("-c").arg(&file);
        let process = command.spawn("nginx")?;
        wait_for_port(node, "127.0.0.1:8443")?;
        Ok(Self { process, folder })
    }

    /// The folder it serves.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("site.crt")
    }

    /// Waits until its access log holds `text`: a server writes it after it has answered.
    pub fn logs(&self, text: &str) -> Result<()> {
        wait_for_log(|| self.access_log(), text)
    }

    /// Its access log: client address, client port, and the request, one per line.
    pub fn access_log(&self) -> Result<String> {
        let path = self.folder.join("access.log");
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Runs curl against `https://emby.example.com`, whose name leads to `address`.
    pub fn curl(&self, client: &Node, address: &str, arguments: &[&str], path: &str) -> Result<String> {
        let resolve = format!("emby.example.com:443:{address}");
        let command =
            client.command("curl").args(["-sS", "--fail", "--max-time", "600", "--resolve", &resolve]);
        let command = command.arg("--cacert").arg(self.certificate()).args(arguments);
        let command = command.arg(format!("https://emby.example.com{path}"));
        command.limit(Duration::from_secs(620)).run()
    }
}

fn nginx_conf(folder: &Path) -> String {
    let user = if lab::has_real_root() { "user root;" } else { "" };
    let folder = folder.display();
    format!(
        "{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format seen '$proxy_protocol_addr $proxy_protocol_port $remote_addr \"$request\" $status';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    sendfile on;
    server {{
        listen 127.0.0.1:8443 ssl proxy_protocol;
        server_name emby.example.com;
        ssl_certificate {folder}/site.crt;
        ssl_certificate_key {folder}/site.key;
        set_real_ip_from 127.0.0.0/8;
        real_ip_header proxy_protocol;
        root {folder}/root;
        location = /whoami {{ default_type text/plain; return 200 $remote_addr; }}
        location /upload/ {{ dav_methods PUT; client_max_body_size 0; create_full_put_path on; }}
    }}
}}
"
    )
}

fn certificate(node: &Node, folder: &Path) -> Result<()> {
    let command = node.command("openssl").args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "90"]);
    let command = command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=emby.example.com"]);
    let command = command.args(["-addext", "subjectAltName=DNS:emby.example.com"]);
    let command =
        command.arg("-keyout").arg(folder.join("site.key")).arg("-out").arg(folder.join("site.crt"));
    command.run().map(drop)
}

/// Waits until something listens.
pub(crate) fn wait_for_port(node: &Node, address: &str) -> Result<()> {
    until(START_LIMIT, &format!("{address} on {} to listen", node.name()), || {
        Ok(node.tcp_connect(address, Duration::from_secs(1)).is_ok().then_some(()))
    })
}

/// Makes `old.crt` and `old.key` in the folder of a node: a certificate for `old.example.com` that expired
/// in 2025.
pub fn expired_certificate(origin: &Node) -> Result<()> {
    origin.shell(&format!(
        "cd {}
         printf '[ca]\\ndefault_ca = own\\n[own]\\ndatabase = index.txt\\nserial = serial\\nnew_certs_dir = .\\n\
             default_md = sha256\\npolicy = any\\ncopy_extensions = copy\\n[any]\\ncommonName = supplied\\n' >ca.cnf
         : >index.txt
         echo 01 >serial
         openssl req -newkey ec -nodes -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=old.example.com \
             -addext subjectAltName=DNS:old.example.com -keyout old.key -out old.csr
         openssl ca -batch -selfsign -config ca.cnf -in old.csr -keyfile old.key -notext -out old.crt \
             -startdate 20250101000000Z -enddate 20250201000000Z",
        origin.directory().display()
    ))?;
    Ok(())
}

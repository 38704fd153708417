//! What takes messages: a mail server, and a receiver of webhooks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use lab::{Node, Process, TcpServer, time_until, until};
use scenarios::write_secret;

use crate::place::REPORTED;

/// A mail server of Debian with a certificate that the agents trust; mail to anyone at
/// `example.com` is delivered into the folder `mail`.
pub(crate) struct MailServer {
    /// It ends with this value.
    pub(crate) process: Process,
    /// Its `[[notify]]`.
    pub(crate) section: String,
}

impl MailServer {
    /// Exim, which demands STARTTLS and a password. Its deliveries need a user of their own: where
    /// root is not real it is aiosmtpd, which demands STARTTLS alone.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        fs::write(node.directory().join("openssl.cnf"), CERTIFICATE)?;
        node.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -config openssl.cnf -keyout mail-key.pem -out mail.pem",
        )?;
        let (process, section) = match lab::has_real_root() {
            true => (exim(node)?, format!("{MAIL}user = \"causeway\"\npassword_file = \"mail.password\"\n")),
            false => (aiosmtpd(node)?, MAIL.to_owned()),
        };
        until(Duration::from_secs(10), "the mail server", || {
            Ok(node.tcp_connect("127.0.0.1:2525", Duration::from_secs(1)).ok())
        })?;
        Ok(Self { process, section })
    }
}

fn exim(node: &Node) -> Result<Process> {
    write_secret(&node.directory().join("mail.password"), "top-secret\n")?;
    let folder = node.directory().display().to_string();
    fs::write(node.directory().join("exim.conf"), EXIM.replace("FOLDER", &folder))?;
    node.run("mkdir -p mail exim")?;
    node.run("chown Debian-exim: mail exim mail-key.pem")?;
    restart_exim(node)
}

/// Starts Exim again, with the files that are there.
pub(crate) fn restart_exim(node: &Node) -> Result<Process> {
    let command = node.command("/usr/sbin/exim4").arg("-C").arg(node.directory().join("exim.conf"));
    command.arg("-bdf").spawn("exim4")
}

fn aiosmtpd(node: &Node) -> Result<Process> {
    let command = node.command("/usr/bin/aiosmtpd").args(["-n", "-l", "127.0.0.1:2525"]);
    let command = command.args(["--tlscert", "mail.pem", "--tlskey", "mail-key.pem"]);
    command.args(["-c", "aiosmtpd.handlers.Mailbox", "mail"]).spawn("aiosmtpd")
}

const MAIL: &str = r#"
[[notify]]
name = "mail"
kind = "smtp"
server = "127.0.0.1:2525"
from = "causeway@example.com"
to = "you@example.com"
"#;

/// A password is asked for once the line is encrypted, and nothing is relayed.
const EXIM: &str = r"
spool_directory = FOLDER/exim
log_file_path = FOLDER/exim/%slog
pid_file_path = FOLDER/exim/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = 2525
primary_hostname = mail.example.com
keep_environment =
tls_advertise_hosts = *
tls_certificate = FOLDER/mail.pem
tls_privatekey = FOLDER/mail-key.pem
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
acl_smtp_rcpt = rcpt
deliver_drop_privilege = true
begin acl
rcpt:
  accept encrypted = *
         authenticated = *
         domains = example.com
  deny
begin routers
all:
  driver = accept
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = FOLDER/mail
  maildir_format
  user = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${if and{{eq{$auth2}{causeway}}{eq{$auth3}{top-secret}}}}
  server_set_id = $auth2
";

const CERTIFICATE: &str = "[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = mail
[extensions]
subjectAltName = IP:127.0.0.1
basicConstraints = critical,CA:FALSE
";

/// A receiver of webhooks on the loopback interface of a node.
pub(crate) struct Requests {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    _server: TcpServer,
}

impl Requests {
    pub(crate) fn serve(node: &Node) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&seen);
        let server = TcpServer::start(node.tcp_listener("127.0.0.1:8099")?, move |mut stream| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
            stream.read_exact(&mut body)?;
            let body = String::from_utf8_lossy(&body).into_owned();
            taken.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        })?;
        Ok(Self { seen, _server: server })
    }

    pub(crate) fn all(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(_, body)| body.clone()).collect()
    }

    pub(crate) fn headers(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(head, _)| head.clone()).collect()
    }

    pub(crate) fn wait_for(&self, count: usize) -> Result<Duration> {
        time_until(REPORTED, &format!("request {count}"), || Ok(self.all().len() >= count))
    }
}

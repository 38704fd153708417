//! Port 80 next to a name on port 443: certificate authorities check the name there (HTTP-01), and
//! a browser that is given no scheme may come there first.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use forwarder::proxy_protocol;
use policy::forwarder::{Policy, ProxyProtocol, Service, Upstream, UpstreamPort};
use policy::{HostPort, Source, text};

use super::edit::{self, EditError, Edited};

/// How long the program may take to accept a connection, and to reply.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most of a reply that is read.
const MAX_HEAD: usize = 16 << 10;

/// `--with-http`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum WithHttp {
    /// To the port next to the service's, if what is there redirects to HTTPS.
    #[default]
    Found,
    /// To this program, `HOST:PORT`.
    At(String),
    /// Not.
    Off,
}

/// Reads `HOST:PORT`, `PORT` or `off`.
pub(super) fn with_http(written: &str) -> Result<WithHttp, String> {
    if written == "off" {
        return Ok(WithHttp::Off);
    }
    let port = text::port(written).map(|port| format!("127.0.0.1:{port}"));
    let there = port.or_else(|| text::host_port(written).map(|there| there.to_string()));
    there.map(WithHttp::At).ok_or_else(|| "HOST:PORT, a port of this machine, or off".to_owned())
}

/// What `publish` does about port 80.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Http {
    /// The upstream of a service that is to be added.
    add: Option<String>,
    /// What the operator should know.
    pub(super) note: Option<String>,
}

impl Http {
    /// Of a name of the service `web`; it looks at the web server.
    pub(super) fn of(wanted: &WithHttp, policy: &Policy, web: &Service, name: &str) -> Self {
        let there = edit::http_service(policy);
        match (wanted, there) {
            (WithHttp::Off, _) | (WithHttp::Found, Some(_)) => Self::default(),
            (WithHttp::At(upstream), None) => Self { add: Some(upstream.clone()), note: None },
            (WithHttp::At(_), Some(there)) => {
                let note = format!("[[service]] {} has port 80 already and stays as it is", there.name);
                Self { add: None, note: Some(note) }
            }
            // Another port, or one that the edge publishes by its own file.
            (WithHttp::Found, None) if web.publish.is_none() || !web.is_on(edit::HTTPS) => Self::default(),
            (WithHttp::Found, None) => Self::found(web, name),
        }
    }

    /// What is at the port next to the service's. Only a program that redirects to HTTPS is
    /// published without being named: another one may be there that is for this machine alone.
    fn found(web: &Service, name: &str) -> Self {
        let not_published = |why: &str| {
            let note = format!(
                "port 80 is not published, {why}: where certificates need it (docs/CERTIFICATES.md), name the web \
                 server's port for it by --with-http HOST:PORT; --with-http off leaves this out"
            );
            Self { add: None, note: Some(note) }
        };
        let Some(upstream) = next_to(web) else {
            return not_published("as the web server's port for it is not known");
        };
        match head(&upstream, web.proxy_protocol, name) {
            Ok(head) if is_redirect(&head) => Self { add: Some(upstream), note: None },
            Ok(_) => not_published(&format!("as {upstream} does not redirect to HTTPS")),
            Err(error) => not_published(&format!("as {upstream} does not reply ({error})")),
        }
    }

    /// Adds the service to a file that has the name already.
    ///
    /// # Errors
    /// When the file would not be valid.
    pub(super) fn add(&self, file: &Source<'_>, web: &Service, named: Edited) -> Result<Edited, EditError> {
        let Some(upstream) = &self.add else { return Ok(named) };
        let text = edit::add_http(&Source { name: file.name, text: &named.text }, web, upstream)?.text;
        Ok(Edited { text, ..named })
    }
}

/// Where a web server has its port for HTTP, by where it has that for HTTPS.
fn next_to(web: &Service) -> Option<String> {
    let [Upstream::Network { host, port }] = web.upstreams.as_slice() else { return None };
    let port = match port {
        UpstreamPort::Keep | UpstreamPort::From(443) => 80,
        UpstreamPort::From(8443) => 8080,
        UpstreamPort::From(_) => return None,
    };
    Some(HostPort { host: host.clone(), port }.to_string())
}

/// The head of the reply to a request for the name's page.
fn head(upstream: &str, proxy: ProxyProtocol, name: &str) -> io::Result<Vec<u8>> {
    let address: Option<SocketAddr> = upstream.to_socket_addrs()?.next();
    let address = address.ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request =
        format!("HEAD / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: causeway\r\nConnection: close\r\n\r\n");
    stream.write_all(&[proxy_protocol::own(proxy), request.into_bytes()].concat())?;
    let mut head = Vec::new();
    let mut part = [0; 1_024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => break,
            length => head.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    Ok(head)
}

/// Whether a reply sends a visitor to HTTPS.
fn is_redirect(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5));
    let is_https = |line: &str| {
        let location = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("location"));
        location.is_some_and(|(_, to)| to.trim_start().starts_with("https://"))
    };
    matches!(status, Some("301" | "302" | "303" | "307" | "308")) && lines.any(is_https)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;
    use std::thread;

    use policy::forwarder::parse;

    use super::*;

    #[test]
    fn only_a_reply_that_leads_to_https_is_a_redirect() {
        for (head, expected) in [
            ("HTTP/1.1 308 Permanent Redirect\r\nLocation: https://emby.example.com/\r\n\r\n", true),
            ("HTTP/1.0 301 Moved\r\nServer: nginx\r\nlocation:https://emby.example.com/\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\nLocation: http://emby.example.com/login\r\n\r\n", false),
            ("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nLocation: https://emby.example.com/\r\n\r\n", false),
            ("HTTP/1.1 301 Moved\r\n\r\nLocation: https://in.the.body/", false),
            ("SSH-2.0-OpenSSH_9.2\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_redirect(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn the_port_for_http_is_known_next_to_the_usual_ports_for_https() {
        for (upstream, expected) in [
            ("127.0.0.1:8443", Some("127.0.0.1:8080")),
            ("[fd00::1]:443", Some("[fd00::1]:80")),
            ("caddy:*", Some("caddy:80")),
            ("127.0.0.1:9443", None),
            ("unix:/run/caddy.sock", None),
        ] {
            assert_eq!(next_to(&policy(upstream, "").services[0]).as_deref(), expected, "{upstream}");
        }
    }

    #[test]
    fn a_program_that_is_no_web_server_of_the_name_is_not_published_unless_it_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap().to_string();
        let serve = thread::spawn(move || {
            let mut seen = Vec::new();
            for reply in [
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://emby.example.com/\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                seen.push(request[..length].to_vec());
                stream.write_all(reply.as_bytes()).unwrap();
            }
            seen
        });
        let heads = [ProxyProtocol::Off, ProxyProtocol::V2]
            .map(|proxy| head(&there, proxy, "emby.example.com").unwrap());
        assert_eq!(heads.map(|head| is_redirect(&head)), [false, true]);
        let seen = serve.join().unwrap();
        assert!(seen[0].starts_with(b"HEAD / HTTP/1.1\r\nHost: emby.example.com\r\n"));
        assert!(seen[1].starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    }

    #[test]
    fn what_the_file_or_the_operator_has_decided_is_not_looked_for() {
        let of = |wanted: &WithHttp, policy: &Policy| {
            Http::of(wanted, policy, &policy.services[0], "emby.example.com")
        };
        let at = WithHttp::At("127.0.0.1:8081".to_owned());
        let web = policy("127.0.0.1:9443", "");
        assert_eq!(of(&WithHttp::Off, &web), Http::default());
        assert_eq!(of(&at, &web).add.as_deref(), Some("127.0.0.1:8081"));
        let unknown = of(&WithHttp::Found, &web);
        assert!(unknown.add.is_none() && unknown.note.unwrap().contains("--with-http HOST:PORT"));
        let both = policy(
            "127.0.0.1:8443",
            "[[service]]\nname = \"plain\"\nupstream = \"127.0.0.1:1\"\npublish = 80\n",
        );
        assert_eq!(of(&WithHttp::Found, &both), Http::default());
        assert!(of(&at, &both).note.unwrap().contains("[[service]] plain has port 80 already"));
    }

    #[test]
    fn the_option_takes_a_place_a_port_or_off() {
        let at = |there: &str| Ok(WithHttp::At(there.to_owned()));
        assert_eq!(with_http("caddy:80"), at("caddy:80"));
        assert_eq!(with_http("8080"), at("127.0.0.1:8080"));
        assert_eq!(with_http("off"), Ok(WithHttp::Off));
        assert!(with_http("no").is_err() && with_http("0").is_err());
    }

    fn policy(upstream: &str, more: &str) -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
             [[service]]\nname = \"https\"\npublish = 443\nupstream = \"{upstream}\"\n{more}"
        );
        parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap()
    }
}

//! A request for a name's page, and what the head of a reply shows (RFC 9110, RFC 9112).

/// Fields that proxies add to what they pass on.
const PROXIES: [&str; 5] = ["via", "cf-ray", "x-amz-cf-id", "x-served-by", "x-cache"];
/// The most bytes of a head that are read.
pub(in crate::health) const MAX_HEAD: usize = 16 << 10;

/// The request: the head of the name's first page.
pub(in crate::health) fn request(name: Option<&str>) -> Vec<u8> {
    let name = name.unwrap_or("localhost");
    format!("HEAD / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: causeway-forwarder\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// As [`request`], with a mark that no other request has.
pub(in crate::health) fn marked_request(name: &str, mark: &str) -> Vec<u8> {
    let mut marked = format!("HEAD / HTTP/1.1\r\nCauseway-Probe: {mark}\r\n").into_bytes();
    let request = request(Some(name));
    let line = request.windows(2).position(|end| end == b"\r\n").map_or(0, |at| at + 2);
    marked.extend_from_slice(request.get(line..).unwrap_or_default());
    marked
}

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::health) struct Head {
    /// Its status.
    pub(in crate::health) status: u16,
    /// Whether the server itself made it, and Caddy at that.
    origin: Origin,
    has_content: bool,
    is_proxied: bool,
}

/// Who made a reply, as far as it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An application or a page.
    Site,
    /// The server: nothing in it is of a page.
    Server,
    /// Caddy, which writes what it replies by itself as plain text.
    Caddy,
}

impl Head {
    /// Reads the head, once it is complete or the most of it is there; `None` if it is not HTTP.
    pub(in crate::health) fn read(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let (mut has_content, mut is_plain, mut is_caddy, mut is_site) = (false, false, false, false);
        let mut is_proxied = false;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            is_proxied |= PROXIES.iter().any(|known| name.eq_ignore_ascii_case(known));
            match name.to_ascii_lowercase().as_str() {
                "content-type" if value.starts_with("text/plain") => is_plain = true,
                "content-type" | "location" | "via" | "etag" | "set-cookie" => is_site = true,
                "content-length" => has_content = value != "0",
                "server" => is_caddy = value == "Caddy",
                _ => {}
            }
        }
        let origin = match (is_site, is_caddy) {
            (false, true) => Origin::Caddy,
            (false, false) if !is_plain && !has_content => Origin::Server,
            (true | false, _) => Origin::Site,
        };
        Some(Self { status, origin, has_content, is_proxied })
    }

    /// Whether there is no site for the name: the server says so, or replies as Caddy does when no
    /// site has taken the request.
    pub(in crate::health) fn is_without_site(self) -> bool {
        match self.status {
            421 => true,
            404 => self.origin != Origin::Site,
            200 => self.origin == Origin::Caddy && !self.has_content,
            _ => false,
        }
    }

    /// Whether a field shows that a proxy passed the request on (RFC 9110 §7.6.3, and those of
    /// content delivery networks).
    pub(in crate::health) const fn is_proxied(self) -> bool {
        self.is_proxied
    }

    /// Whether a proxy replied for an application that it cannot reach (RFC 9110 §15.6.3).
    pub(in crate::health) const fn is_without_application(self) -> bool {
        matches!(self.status, 502..=504)
    }
}

/// Whether the bytes have a whole head.
pub(in crate::health) fn is_complete(bytes: &[u8]) -> bool {
    bytes.len() >= MAX_HEAD || bytes.windows(4).any(|window| window == b"\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_a_redirection_and_a_refusal_of_an_application_are_a_site() {
        for reply in [
            "200 OK\r\nServer: Caddy\r\nContent-Length: 1\r\n\r\n",
            "200 OK\r\nServer: Caddy\r\nVia: 1.1 Caddy\r\nContent-Length: 0\r\n\r\n",
            "308 Permanent Redirect\r\nServer: Caddy\r\nLocation: https://emby.example.com/\r\n\r\n",
            "401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            "404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n",
            "404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\n",
            "405 Method Not Allowed\r\nAllow: GET\r\n\r\n",
            "200 OK\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n",
        ] {
            let head = Head::read(format!("HTTP/1.1 {reply}").as_bytes()).unwrap();
            assert!(!head.is_without_site() && !head.is_without_application(), "{reply}");
        }
    }

    #[test]
    fn what_caddy_replies_for_a_name_without_a_site_is_none() {
        for reply in [
            "421 Misdirected Request\r\nContent-Type: text/plain\r\n\r\n",
            "404 Not Found\r\nServer: Caddy\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 9\r\n\r\n",
            "404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "404 Not Found\r\nServer: Caddy\r\nDate: Mon, 30 Nov 2026 03:29:40 GMT\r\n\r\n",
            "200 OK\r\nServer: Caddy\r\nContent-Length: 0\r\n\r\n",
        ] {
            let head = Head::read(format!("HTTP/1.1 {reply}").as_bytes()).unwrap();
            assert!(head.is_without_site(), "{reply}");
        }
        assert!(Head::read(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").unwrap().is_without_application());
    }

    #[test]
    fn a_reply_that_a_proxy_passed_on_shows_it() {
        for (field, is_proxied) in
            [("Via: 1.1 Caddy", true), ("CF-RAY: 8f-WAW", true), ("Server: Caddy", false)]
        {
            let head = Head::read(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.is_proxied(), is_proxied, "{field}");
        }
    }

    #[test]
    fn a_marked_request_has_its_mark_among_its_first_bytes() {
        let marked = String::from_utf8(marked_request("emby.example.com", "0123456789abcdef")).unwrap();
        assert!(marked.starts_with(
            "HEAD / HTTP/1.1\r\nCauseway-Probe: 0123456789abcdef\r\nHost: emby.example.com\r\n"
        ));
        assert!(marked.ends_with("\r\n\r\n"));
    }

    #[test]
    fn what_is_not_http_has_no_head() {
        for other in
            ["", "220 mail.example.com ESMTP\r\n", "HTTP/1.", "HTTP/1.1 abc\r\n\r\n", "\u{16}\u{3}\u{1}"]
        {
            assert_eq!(Head::read(other.as_bytes()), None, "{other}");
        }
    }
}

use super::names::tests::{Server, certificate};
use super::*;
use crate::upstream::Pool;
use daemon::health::{CheckFailure, Tries};
use daemon::link::message::{Evidence, Reason};
use policy::Source;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

#[test]
fn a_connection_is_enough_for_tcp_and_none_is_not() {
    let (server, port) = server(Vec::new());
    assert!(checked(&format!("127.0.0.1:{port}"), "{ check = \"tcp\" }", "off").is_ok());
    drop(server);
    assert!(checked("127.0.0.1:1", "{ check = \"tcp\" }", "off").is_err());
}

#[test]
fn an_answer_below_400_is_success_and_an_error_page_is_not() {
    for (status, is_success) in
        [("200 OK", true), ("301 Moved", true), ("404 No", false), ("503 Busy", false)]
    {
        let (_server, port) = server(format!("HTTP/1.1 {status}\r\n\r\n").into_bytes());
        let health = "{ check = \"http\", name = \"emby.example.com\" }";
        assert_eq!(checked(&format!("127.0.0.1:{port}"), health, "off").is_ok(), is_success, "{status}");
    }
}

#[test]
fn a_server_that_begins_a_session_is_up_and_one_that_alerts_is_not() {
    let health = "{ check = \"tls\", name = \"emby.example.com\" }";
    // Its certificate has expired, which is not what is checked.
    let begins = Server::tls(certificate("emby.example.com", 2020, 2021)).start();
    assert!(checked(&format!("127.0.0.1:{}", begins.0), health, "off").is_ok());
    for answer in [[21, 3, 3, 0, 2, 2, 80].as_slice(), b"220 mail.example.com", b""] {
        let (_server, port) = server(answer.to_vec());
        assert!(checked(&format!("127.0.0.1:{port}"), health, "off").is_err());
    }
}

#[test]
fn a_check_of_a_listener_that_wants_a_header_brings_one_of_its_own() {
    let (server, port) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    let health = "{ check = \"http\", name = \"emby.example.com\", path = \"/health\" }";
    checked(&format!("127.0.0.1:{port}"), health, "v2").unwrap();
    let question = server.join().unwrap();
    assert!(question.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /health HTTP/1.1\r\n"), "{question:?}");
}

#[test]
fn a_unix_socket_is_checked_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("caddy.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let upstream = format!("unix:{}", path.display());
    assert!(checked(&upstream, "{ check = \"tcp\" }", "off").is_ok());
    drop(listener);
    assert!(checked(&upstream, "{ check = \"tcp\" }", "off").is_err());
}

#[test]
fn a_first_failure_is_confirmed_at_once_and_a_clients_connection_puts_the_next_check_off() {
    let default = Health::DEFAULT;
    assert_eq!(pause(&default, false, None), Duration::from_secs(5));
    assert_eq!(pause(&default, true, None), CONFIRM_AFTER);
    assert_eq!(pause(&default, false, Some(Duration::from_secs(9))), Duration::from_secs(5));
    assert_eq!(pause(&default, false, Some(Duration::from_secs(2))), Duration::from_secs(2));
    let own = Health { counts_dials: false, every: Duration::from_secs(60), ..default };
    assert_eq!(pause(&own, true, None), Duration::from_secs(60), "as the file says");
}

#[test]
fn a_hundred_days_of_replies_with_a_long_tail_have_no_false_alarm() {
    let mut late = 0;
    for seed in 0..100 {
        let mut day = Day::of(seed);
        while day.now < Duration::from_secs(86_400) {
            day.check();
            assert_ne!(day.tries.state(), State::Failing, "seed {seed}, after {:?}", day.now);
        }
        late += day.late;
    }
    assert!(late > 100, "only {late} checks were late");
}

#[test]
fn an_upstream_that_hangs_is_failing_after_two_checks() {
    let mut day = Day::of(1);
    day.check();
    (day.next_stall, day.longest) = (day.now, Duration::MAX);
    day.stall_until = day.now + Duration::from_secs(60);
    day.check();
    assert_eq!(day.tries.state(), State::Ok);
    day.check();
    assert_eq!(day.tries.state(), State::Failing);
}

/// An upstream under a load, on virtual time: the times of its replies have a long tail, and every
/// few minutes it stalls, mostly for a moment and at most for as long as no check may notice twice.
struct Day {
    now: Duration,
    random: u64,
    next_stall: Duration,
    stall_until: Duration,
    longest: Duration,
    tries: Tries,
    /// Checks without a reply in time.
    late: u32,
}

impl Day {
    fn of(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            next_stall: Duration::ZERO,
            stall_until: Duration::ZERO,
            longest: Health::DEFAULT.timeout + CONFIRM_AFTER,
            tries: Tries::default(),
            late: 0,
        }
    }

    fn check(&mut self) {
        let health = Health::DEFAULT;
        while self.next_stall <= self.now {
            let (begin, length) = (self.next_stall, self.pareto(0.05, 0.7).min(self.longest));
            self.stall_until = self.stall_until.max(begin + length);
            self.next_stall = begin + self.pareto(60.0, 1.2);
        }
        let took = self.stall_until.saturating_sub(self.now) + self.pareto(0.000_2, 1.1);
        let result = if took < health.timeout { Ok(()) } else { Err(failure()) };
        self.late += u32::from(result.is_err());
        self.tries.handle_probe(result);
        self.now += took.min(health.timeout) + pause(&health, self.tries.is_in_doubt(), None);
    }

    /// Seconds of a Pareto distribution; the smaller `shape`, the longer its tail.
    fn pareto(&mut self, least: f64, shape: f64) -> Duration {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = ((self.random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        Duration::from_secs_f64((least / unit.powf(1.0 / shape)).min(1e6))
    }
}

fn failure() -> CheckFailure {
    CheckFailure { reason: Reason::TimedOut, evidence: Evidence::of("no reply") }
}

/// A server that reads one request and sends this reply; it returns the request.
fn server(answer: Vec<u8>) -> (std::thread::JoinHandle<Vec<u8>>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = vec![0; 2_048];
        let length = stream.read(&mut question).unwrap();
        question.truncate(length);
        // The client may be gone, as after a check by connection alone.
        let _ = stream.write_all(&answer);
        question
    });
    (server, port)
}

fn checked(upstream: &str, health: &str, proxy: &str) -> io::Result<()> {
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
         [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = \"{upstream}\"\nhealth = {health}\n\
         proxy_protocol = \"{proxy}\"\n"
    );
    let source = Source { name: Path::new("forwarder.toml"), text: &text };
    let pool = Pool::new(&policy::forwarder::parse(&source).unwrap().services[0], None);
    let member = &pool.members()[0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let check = async {
        let client = Client::new().unwrap();
        timeout(Duration::from_secs(5), check(&client, member, member.health.as_ref().unwrap())).await
    };
    runtime.block_on(check).unwrap()
}

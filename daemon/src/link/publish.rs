//! The public ports that an origin requests of an edge: as they cross the link, and what an origin
//! knows of the replies.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use policy::gateway::{Refusal, Requested};
use policy::{AllowList, Name, Protocol, PublicPorts};
use serde::{Deserialize, Serialize};
use tunnel::bucket::Bucket;
use tunnel::time::Instant;

use super::frame::MAX_FRAME;
use super::message::Ports;

/// The most ports or ranges that one origin requests of an edge.
pub const MAX_ASKED: usize = 64;
/// What a request takes besides its ports.
const ENVELOPE: usize = 256;
/// An origin requests at most once in this time.
const PACE: Duration = Duration::from_secs(1);
/// Answers that are logged: after twice what an origin may request, one in this time.
const REPORT_PACE: (Duration, u32) = (Duration::from_secs(60), 2 * MAX_ASKED as u32);
/// When an origin requests again what the edge's kernel did not take.
const AGAIN: Duration = Duration::from_secs(60);

/// All that an origin requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AsSent")]
pub struct Asked {
    ports: Vec<Port>,
}

/// [`Asked`] as it comes.
#[derive(Deserialize)]
struct AsSent {
    ports: Vec<Port>,
}

impl TryFrom<AsSent> for Asked {
    type Error = &'static str;

    fn try_from(AsSent { ports }: AsSent) -> Result<Self, Self::Error> {
        if ports.len() > MAX_ASKED { Err("more than 64 ports are requested") } else { Ok(Self { ports }) }
    }
}

impl Asked {
    /// The first of these ports, as many as a request may have and a frame holds.
    #[must_use]
    pub fn first_of(ports: &[Port]) -> Self {
        let mut left = MAX_FRAME - ENVELOPE;
        let fits = |port: &&Port| {
            let length = serde_json::to_vec(port).map_or(usize::MAX, |text| text.len() + 1);
            let fits = length <= left;
            left = left.saturating_sub(length);
            fits
        };
        Self { ports: ports.iter().take(MAX_ASKED).take_while(fits).cloned().collect() }
    }

    /// What is requested.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }
}

/// One request: a service of the origin with its public ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The service at the origin.
    pub service: Name,
    /// The public ports.
    pub ports: Ports,
    /// Whether they are of UDP; else of TCP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub udp: bool,
    /// Where packets go.
    pub target: IpAddr,
    /// Where those of IPv6 go, if `target` is of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target6: Option<Ipv6Addr>,
    /// To which ports, as many as are public; the same ones when they are not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ports: Option<Ports>,
    /// Which clients may connect; all when this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
}

/// Which clients may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct From {
    /// Those in these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<IpNetwork>,
    /// Those in these lists of the edge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Name>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "it is what serde gives")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Port {
    /// The public ports, as they are written.
    #[must_use]
    pub const fn public(&self) -> PublicPorts {
        let protocol = if self.udp { Protocol::Udp } else { Protocol::Tcp };
        PublicPorts { protocol, ports: self.ports.0 }
    }

    /// Where packets go: one address, or one of each family.
    fn targets(&self) -> Vec<IpAddr> {
        let other = self.target6.map(IpAddr::V6).filter(|_| self.target.is_ipv4());
        std::iter::once(self.target).chain(other).collect()
    }
}

impl Port {
    /// What a service requests; `None` for one that leads nowhere.
    #[must_use]
    pub fn of(requested: &Requested) -> Option<Self> {
        let Requested { service, port, targets, target_ports, allow } = requested.clone();
        let target = *targets.first()?;
        let target6 = targets.iter().find_map(|other| match other {
            IpAddr::V6(address) => Some(*address).filter(|_| target.is_ipv4()),
            IpAddr::V4(_) => None,
        });
        let from = match allow {
            AllowList::Any => None,
            AllowList::Only { prefixes, lists } => Some(From { prefixes, lists }),
        };
        Some(Self {
            service,
            ports: Ports(port.ports),
            udp: port.protocol == Protocol::Udp,
            target,
            target6,
            target_ports: (target_ports != port.ports).then_some(Ports(target_ports)),
            from,
        })
    }
}

impl std::convert::From<&Port> for Requested {
    fn from(port: &Port) -> Self {
        let allow = port.from.clone().map_or(AllowList::Any, |From { prefixes, lists }| {
            let prefixes = prefixes.into_iter().map(policy::prefix::network).collect();
            AllowList::Only { prefixes, lists }
        });
        Self {
            service: port.service.clone(),
            port: port.public(),
            targets: port.targets(),
            target_ports: port.target_ports.unwrap_or(port.ports).0,
            allow,
        }
    }
}

macro_rules! answers {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// The reply for one request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", from = "String")]
        pub enum Answer { $($(#[$doc])* $variant,)+ }

        impl Answer {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// In one word.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

answers! {
    /// The port is open.
    Granted = "granted",
    /// The edge does not let this origin open it.
    NotAllowed = "not_allowed",
    /// The edge uses it itself.
    InUse = "in_use",
    /// An earlier request of the same origin has it.
    RequestedTwice = "requested_twice",
    /// The edge routes the target to another peer, or to none.
    TargetElsewhere = "target_elsewhere",
    /// There are more or fewer ports at the target.
    OtherCount = "other_count",
    /// The edge has no list of that name.
    UnknownList = "unknown_list",
    /// The edge or the link has no room for more.
    TooMany = "too_many",
    /// The edge's kernel did not take it.
    Failed = "failed",
    /// The edge's release grants nothing.
    Unsupported = "unsupported",
    /// For another reason, which this version does not know.
    Other = "other",
}

impl std::convert::From<String> for Answer {
    fn from(word: String) -> Self {
        Self::ALL.iter().copied().find(|answer| answer.label() == word).unwrap_or(Self::Other)
    }
}

impl std::convert::From<Result<(), Refusal>> for Answer {
    fn from(reply: Result<(), Refusal>) -> Self {
        match reply {
            Ok(()) => Self::Granted,
            Err(Refusal::NotAllowed) => Self::NotAllowed,
            Err(Refusal::InUse) => Self::InUse,
            Err(Refusal::RequestedTwice) => Self::RequestedTwice,
            Err(Refusal::TargetElsewhere) => Self::TargetElsewhere,
            Err(Refusal::OtherCount) => Self::OtherCount,
            Err(Refusal::UnknownList) => Self::UnknownList,
            Err(Refusal::TooMany) => Self::TooMany,
        }
    }
}

impl Answer {
    /// What to do at the edge about a refusal of these ports, for people at the origin; `None` when
    /// there is nothing to be done.
    #[must_use]
    pub fn fix(self, port: &Port) -> Option<String> {
        let public = port.public();
        let fix = match self {
            Self::Granted => return None,
            Self::NotAllowed => format!(
                "at the edge, add \"{public}\" to may_publish of this machine's [[peer]] in gateway.toml, then run: sudo gatewayctl \
                 reload"
            ),
            Self::InUse => format!(
                "the edge uses {public} itself; see there: gatewayctl services, and ss -lntup; or request another port"
            ),
            Self::RequestedTwice => {
                format!(
                    "another [[service]] of this file requests a port of {public} as well; leave it to one of them"
                )
            }
            Self::TargetElsewhere => format!(
                "at the edge, add \"{}/{}\" to allowed_ips of this machine's [[peer]] in gateway.toml, then run: sudo gatewayctl reload",
                port.target,
                if port.target.is_ipv6() { 128 } else { 32 }
            ),
            Self::OtherCount => "write as many ports in `publish` as `match` has".to_owned(),
            Self::UnknownList => {
                let lists = port.from.iter().flat_map(|from| &from.lists).map(|list| format!("@{list}"));
                let lists = lists.collect::<Vec<_>>().join(", ");
                format!(
                    "at the edge, add a [[list]] for each of {lists} to gateway.toml, then run: sudo gatewayctl reload"
                )
            }
            Self::TooMany => "request fewer ports, or ranges: an edge grants 64 to an origin".to_owned(),
            Self::Failed => "see at the edge: gatewayctl status, and journalctl -u gateway".to_owned(),
            Self::Unsupported => format!(
                "upgrade the edge, or publish {public} there: a [[publish]] in gateway.toml with target = \"{}\"",
                std::net::SocketAddr::new(port.target, port.target_ports.unwrap_or(port.ports).0.first())
            ),
            Self::Other => {
                "see at the edge: gatewayctl status; this machine's release does not know its reason"
                    .to_owned()
            }
        };
        Some(fix)
    }
}

/// What an origin requests of one edge, and what it was replied.
#[derive(Debug)]
pub struct Publishing {
    wanted: Vec<(Port, Option<Answer>)>,
    link: LinkState,
    /// Whether something is to be requested.
    is_due: bool,
    /// Whether the edge may reply something else than it did, so that a refusal no longer counts.
    is_outdated: bool,
    next: Instant,
    /// When it is requested again although nothing changed.
    again: Option<Instant>,
    /// The request that is not replied to yet.
    asked: Option<(u32, Asked)>,
    reports: Bucket,
}

impl Default for Publishing {
    fn default() -> Self {
        Self {
            wanted: Vec::new(),
            link: LinkState::default(),
            is_due: false,
            is_outdated: false,
            next: Instant::default(),
            again: None,
            asked: None,
            reports: Bucket::every(REPORT_PACE.0, REPORT_PACE.1),
        }
    }
}

/// What the link lets be requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LinkState {
    #[default]
    Down,
    /// With an edge whose release grants nothing.
    Unsupported,
    Up,
}

impl Publishing {
    /// Takes what the configuration requests; whether that is something else than before. What was
    /// requested before keeps its answer until the next one.
    pub fn set_wanted(&mut self, ports: Vec<Port>) -> bool {
        if self.wanted.iter().map(|(port, _)| port).eq(&ports) {
            return false;
        }
        let before = std::mem::take(&mut self.wanted);
        let answer =
            |port: &Port| before.iter().find(|(known, _)| known == port).and_then(|(_, answer)| *answer);
        self.wanted = ports.into_iter().map(|port| (port.clone(), answer(&port))).collect();
        self.is_due = true;
        self.mark_unsupported();
        true
    }

    /// The link is up; whether its edge grants ports.
    pub fn handle_up(&mut self, grants: bool) {
        self.link = if grants { LinkState::Up } else { LinkState::Unsupported };
        // Also without any: the edge may hold what was requested before a restart.
        (self.is_due, self.is_outdated) = (true, true);
        self.asked = None;
        self.mark_unsupported();
    }

    /// The link is down: what is granted stays so.
    pub fn handle_down(&mut self) {
        self.link = LinkState::Down;
        self.asked = None;
    }

    /// The edge grants something else than it replied last.
    pub const fn handle_notice(&mut self) {
        (self.is_due, self.is_outdated) = (true, true);
    }

    /// What to request now, if anything is due.
    pub fn take_due(&mut self, now: Instant) -> Option<Asked> {
        if self.poll_timeout()? > now {
            return None;
        }
        (self.is_due, self.again) = (false, None);
        self.next = now.after(PACE);
        let ports: Vec<Port> = self.wanted.iter().map(|(port, _)| port.clone()).collect();
        Some(Asked::first_of(&ports))
    }

    /// When something is to be requested.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = if self.is_due { Some(self.next) } else { self.again };
        due.filter(|_| self.link == LinkState::Up)
    }

    /// It was requested, by a request with this id.
    pub fn handle_asked(&mut self, id: u32, asked: Asked) {
        self.asked = Some((id, asked));
    }

    /// The edge replied; the answers that are others than before, to be logged: an edge whose answers
    /// go back and forth causes a line a minute.
    pub fn handle_answers(&mut self, now: Instant, id: u32, answers: &[Answer]) -> Vec<(Port, Answer)> {
        let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == id) else { return Vec::new() };
        self.is_outdated = false;
        self.again = answers.contains(&Answer::Failed).then(|| now.after(AGAIN));
        let before = self.wanted.clone();
        for (port, answer) in &mut self.wanted {
            match asked.ports.iter().position(|asked| asked == port) {
                Some(at) => *answer = Some(answers.get(at).copied().unwrap_or(Answer::Other)),
                // It came to the configuration since.
                None if self.is_due => {}
                None => *answer = Some(Answer::TooMany),
            }
        }
        let news = self.wanted.iter().filter(|state| !before.contains(state));
        let news = news.filter_map(|(port, answer)| Some((port.clone(), (*answer)?)));
        news.filter(|_| self.reports.take(now)).collect()
    }

    /// What is requested, each with its answer; `None` while the edge has not replied, or is asked
    /// again about what it refused.
    pub fn states(&self) -> impl Iterator<Item = (&Port, Option<Answer>)> {
        let counts =
            |answer: &Answer| !self.is_outdated || matches!(answer, Answer::Granted | Answer::Unsupported);
        self.wanted.iter().map(move |(port, answer)| (port, answer.filter(counts)))
    }

    fn mark_unsupported(&mut self) {
        if self.link == LinkState::Unsupported {
            self.wanted.iter_mut().for_each(|(_, answer)| *answer = Some(Answer::Unsupported));
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::PortRange;

    use super::*;

    #[test]
    fn a_list_is_requested_when_the_link_comes_up_when_it_changes_and_when_the_edge_has_news() {
        let mut publishing = Publishing::default();
        assert!(publishing.set_wanted(vec![port(443)]) && !publishing.set_wanted(vec![port(443)]));
        assert_eq!((publishing.take_due(at(0)), states(&publishing)), (None, vec![None]));
        publishing.handle_up(true);
        reply(&mut publishing, at(0), &[Answer::Granted]);
        assert_eq!(states(&publishing), [Some(Answer::Granted)]);
        assert_eq!(publishing.take_due(at(100)), None);

        assert!(publishing.set_wanted(vec![port(80), port(443)]));
        assert_eq!(states(&publishing), [None, Some(Answer::Granted)], "what stays keeps its answer");
        reply(&mut publishing, at(101), &[Answer::NotAllowed, Answer::Granted]);
        publishing.handle_notice();
        assert_eq!(publishing.take_due(at(101)), None, "at most once a second");
        assert_eq!(publishing.poll_timeout(), Some(at(102)));
        let unsure = [None, Some(Answer::Granted)];
        assert_eq!(states(&publishing), unsure, "what was refused may be granted by now");
        reply(&mut publishing, at(102), &[Answer::Granted, Answer::NotAllowed]);
        publishing.handle_down();
        let known = [Some(Answer::Granted), Some(Answer::NotAllowed)];
        assert_eq!(states(&publishing), known, "what was replied stays without the link");
        assert_eq!(publishing.poll_timeout(), None);
        publishing.handle_up(true);
        assert_eq!(states(&publishing), [Some(Answer::Granted), None]);
        assert!(publishing.take_due(at(200)).is_some());
    }

    #[test]
    fn what_the_kernel_of_the_edge_did_not_take_is_requested_again_after_a_minute() {
        let mut publishing = Publishing::default();
        publishing.set_wanted(vec![port(443)]);
        publishing.handle_up(true);
        reply(&mut publishing, at(0), &[Answer::Failed]);
        assert_eq!(publishing.take_due(at(59)), None);
        assert_eq!(publishing.poll_timeout(), Some(at(60)));
        reply(&mut publishing, at(60), &[Answer::Granted]);
        assert_eq!((publishing.poll_timeout(), states(&publishing)), (None, vec![Some(Answer::Granted)]));
    }

    #[test]
    fn answers_that_go_back_and_forth_are_logged_once_a_minute() {
        let mut publishing = Publishing::default();
        publishing.set_wanted(vec![port(443)]);
        publishing.handle_up(true);
        let mut logged = 0;
        for second in 0..3_600 {
            publishing.handle_notice();
            let asked = publishing.take_due(at(second)).unwrap();
            publishing.handle_asked(1, asked);
            let answer = if second % 2 == 0 { Answer::Granted } else { Answer::InUse };
            logged += publishing.handle_answers(at(second), 1, &[answer]).len();
        }
        assert!((128..=190).contains(&logged), "{logged}");
    }

    #[test]
    fn an_origin_that_publishes_nothing_withdraws_what_the_edge_may_still_hold() {
        let mut publishing = Publishing::default();
        publishing.handle_up(true);
        assert_eq!(publishing.take_due(at(0)), Some(Asked::default()));
    }

    #[test]
    fn a_late_reply_and_one_for_a_list_that_changed_are_no_answer_for_what_came_since() {
        let mut publishing = Publishing::default();
        publishing.set_wanted(vec![port(80)]);
        publishing.handle_up(true);
        let asked = publishing.take_due(at(0)).unwrap();
        publishing.handle_asked(1, asked);
        publishing.set_wanted(vec![port(80), port(81)]);
        assert_eq!(publishing.handle_answers(at(0), 7, &[Answer::Granted]), []);
        assert_eq!(publishing.handle_answers(at(0), 1, &[Answer::Granted]), [(port(80), Answer::Granted)]);
        assert_eq!(states(&publishing), [Some(Answer::Granted), None]);
    }

    #[test]
    fn an_edge_that_grants_nothing_is_not_asked_and_its_refusal_says_what_to_do() {
        let mut publishing = Publishing::default();
        publishing.set_wanted(vec![port(443)]);
        publishing.handle_up(false);
        assert_eq!(
            (publishing.take_due(at(0)), states(&publishing)),
            (None, vec![Some(Answer::Unsupported)])
        );
        assert!(Answer::Unsupported.fix(&port(443)).unwrap().contains("target = \"10.77.88.2:443\""));
        assert!(Answer::NotAllowed.fix(&port(443)).unwrap().contains("add \"443\" to may_publish"));
    }

    #[test]
    fn every_refusal_has_a_fix_and_an_unknown_word_is_one_too() {
        for answer in Answer::ALL {
            assert_eq!(answer.fix(&port(443)).is_none(), *answer == Answer::Granted, "{answer:?}");
            let written = serde_json::to_string(answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&written).unwrap(), *answer);
        }
        assert_eq!(serde_json::from_str::<Answer>("\"moon\"").unwrap(), Answer::Other);
    }

    #[test]
    fn a_list_fits_into_a_frame_and_what_does_not_is_refused_at_the_origin() {
        let prefixes =
            (0..255).map(|byte| IpNetwork::new([198, 51, 100, byte].into(), 32).unwrap()).collect();
        let wide = |number| Port { from: Some(From { prefixes, lists: Vec::new() }), ..port(number) };
        let ports = vec![wide(1)].into_iter().cycle().take(10).collect::<Vec<_>>();
        let asked = Asked::first_of(&ports);
        assert!((1..10).contains(&asked.ports().len()));
        assert!(serde_json::to_vec(&asked).unwrap().len() <= MAX_FRAME - ENVELOPE / 2);

        let mut publishing = Publishing::default();
        publishing.set_wanted((1..=65).map(port).collect());
        publishing.handle_up(true);
        reply(&mut publishing, at(0), &[Answer::Granted; MAX_ASKED]);
        assert_eq!(states(&publishing)[63..], [Some(Answer::Granted), Some(Answer::TooMany)]);
        let longer = serde_json::json!({"ports": vec![port(1); MAX_ASKED + 1]});
        assert!(serde_json::from_value::<Asked>(longer).is_err());
    }

    #[test]
    fn what_is_requested_is_read_as_it_was_meant() {
        for text in [
            r#"{"service":"a","ports":[443,443],"target":"10.77.88.2"}"#,
            r#"{"service":"a","ports":[443,443],"target":"10.77.88.2","target6":"fd77::2"}"#,
            r#"{"service":"a","ports":[1,9],"udp":true,"target":"fd77::2","target_ports":[11,19],"from":{"lists":["cloudflare"]}}"#,
        ] {
            let port: Port = serde_json::from_str(text).unwrap();
            assert_eq!(Port::of(&Requested::from(&port)).unwrap(), port);
            assert_eq!(serde_json::to_string(&port).unwrap(), text);
        }
    }

    fn reply(publishing: &mut Publishing, now: Instant, answers: &[Answer]) {
        let asked = publishing.take_due(now).unwrap();
        publishing.handle_asked(1, asked);
        publishing.handle_answers(now, 1, answers);
    }

    fn states(publishing: &Publishing) -> Vec<Option<Answer>> {
        publishing.states().map(|(_, answer)| answer).collect()
    }

    fn port(number: u16) -> Port {
        Port {
            service: Name::new("web").unwrap(),
            ports: Ports(PortRange::new(number, number).unwrap()),
            udp: false,
            target: [10, 77, 88, 2].into(),
            target6: None,
            target_ports: None,
            from: None,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}

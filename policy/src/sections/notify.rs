//! `[[notify]]`: to whom `causeway-agent` reports outages.

use std::net::IpAddr;

use crate::change::Settings;
use crate::names::Names;
use crate::prefix::is_private;
use crate::reader::{Table, Value};
use crate::{FileRef, Host, HostPort, Name, Problem, fields, text};

/// The most receivers of one end.
const MAX_RECEIVERS: usize = 8;
/// The most addresses of one receiver of mail.
const MAX_ADDRESSES: usize = 8;
/// The longest mail address (RFC 5321 §4.5.3.1.3).
const MAX_MAIL_ADDRESS: usize = 254;
/// The port of SMTP over TLS (RFC 8314 §3.3).
const SMTPS: u16 = 465;
/// How urgent a message may be for ntfy.
const PRIORITIES: [&str; 5] = ["min", "low", "default", "high", "max"];

/// `[[notify]]`: one receiver. Its secrets are files that `causeway-agent` alone may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Unique name.
    pub name: Name,
    /// How it is reached.
    pub receiver: Receiver,
}

/// How a receiver is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// JSON by POST.
    Webhook {
        /// The address.
        url: String,
        /// A file with the token that is sent as `Authorization: Bearer`.
        token_file: Option<FileRef>,
    },
    /// A topic of an ntfy server.
    Ntfy {
        /// The server's address with the topic.
        url: String,
        /// A file with the access token.
        token_file: Option<FileRef>,
        /// `min`, `low`, `default`, `high` or `max`; of messages about an outage.
        priority: String,
    },
    /// Mail.
    Smtp(Mail),
}

/// Mail by way of a server that accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The server.
    pub server: HostPort,
    /// How the connection is encrypted.
    pub tls: MailTls,
    /// User and file with the password, where the server asks for them.
    pub login: Option<(String, FileRef)>,
    /// The sender's address.
    pub from: String,
    /// Whose mail it is; 1 to 8.
    pub to: Vec<String>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// From its first byte.
    Tls,
    /// After STARTTLS, which the server must offer.
    StartTls,
    /// Not at all: only to this machine or a private network, without a password.
    Off,
}

impl MailTls {
    const ALL: [Self; 3] = [Self::Tls, Self::StartTls, Self::Off];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::StartTls => "starttls",
            Self::Off => "off",
        }
    }
}

impl Notify {
    /// The file with its token or password.
    #[must_use]
    pub const fn secret(&self) -> Option<&FileRef> {
        match &self.receiver {
            Receiver::Webhook { token_file, .. } | Receiver::Ntfy { token_file, .. } => token_file.as_ref(),
            Receiver::Smtp(Mail { login: Some((_, password)), .. }) => Some(password),
            Receiver::Smtp(_) => None,
        }
    }

    /// Every key with its values as they are written, in the order of the file.
    pub(crate) fn keys(&self) -> Vec<(&'static str, Vec<String>)> {
        let one = |value: &dyn ToString| vec![value.to_string()];
        let file = |file: &Option<FileRef>| file.as_ref().map(|file| ("token_file", one(&file.location)));
        let mut keys = vec![("name", one(&self.name))];
        match &self.receiver {
            Receiver::Webhook { url, token_file } => {
                keys.extend([("kind", one(&"webhook")), ("url", one(url))]);
                keys.extend(file(token_file));
            }
            Receiver::Ntfy { url, token_file, priority } => {
                keys.extend([("kind", one(&"ntfy")), ("url", one(url)), ("priority", one(priority))]);
                keys.extend(file(token_file));
            }
            Receiver::Smtp(mail) => {
                keys.extend([("kind", one(&"smtp")), ("server", one(&mail.server))]);
                keys.push(("tls", one(&mail.tls.as_str())));
                if let Some((user, password)) = &mail.login {
                    keys.extend([("user", one(user)), ("password_file", one(&password.location))]);
                }
                keys.extend([("from", one(&mail.from)), ("to", mail.to.clone())]);
            }
        }
        keys
    }

    /// Notes the receivers that go, come or differ; an address may have a secret in it and is not
    /// shown.
    pub(crate) fn note_changes(old: &[Self], new: &[Self], changes: &mut Settings) {
        let of = |all: &[Self], name: &Name| all.iter().find(|entry| entry.name == *name).cloned();
        for entry in old {
            let state = match of(new, &entry.name) {
                None => "none",
                Some(next) if next == *entry => continue,
                Some(_) => "changed",
            };
            changes.field("notify", entry.name.as_str(), "configured", state);
        }
        for entry in new.iter().filter(|entry| of(old, &entry.name).is_none()) {
            changes.field("notify", entry.name.as_str(), "none", "configured");
        }
    }
}

/// Every `[[notify]]`; `None` after an error in one.
pub(super) fn notify(root: &Table<'_>) -> Option<Vec<Notify>> {
    let tables = root.tables("notify", "[[notify]]");
    if let Some(table) = tables.get(MAX_RECEIVERS) {
        table.report(Problem::TooMany { what: "notify", limit: MAX_RECEIVERS });
    }
    let mut names = Names::of(root, "notify");
    tables.iter().take(MAX_RECEIVERS).map(|table| entry(table, &mut names)).collect()
}

fn entry(table: &Table<'_>, names: &mut Names) -> Option<Notify> {
    let name = names.claim(table);
    let kind = table.required("kind").map(|value| {
        value.parse("\"webhook\", \"ntfy\" or \"smtp\"", |kind| {
            ["webhook", "ntfy", "smtp"].into_iter().find(|known| *known == kind)
        })
    });
    let receiver = match kind {
        Some(Some("webhook")) => closed(table, webhook(table)),
        Some(Some("ntfy")) => closed(table, ntfy(table)),
        Some(Some(_)) => {
            let mail = mail(table);
            table.close();
            mail.map(Receiver::Smtp)
        }
        // Which keys it may have is not known.
        Some(None) => None,
        None => {
            table.report_missing();
            None
        }
    };
    Some(Notify { name: name?, receiver: receiver? })
}

fn closed(table: &Table<'_>, receiver: Option<Receiver>) -> Option<Receiver> {
    table.close();
    receiver
}

fn webhook(table: &Table<'_>) -> Option<Receiver> {
    let url = table.required("url").and_then(url);
    let token_file = table.optional("token_file").map(fields::file);
    Some(Receiver::Webhook { url: url?, token_file: fields::or_absent(token_file)? })
}

fn ntfy(table: &Table<'_>) -> Option<Receiver> {
    let url = table.required("url").and_then(|value| {
        let url = url(value)?;
        let topic = url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
        let is_topic = |topic: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte);
            !topic.is_empty() && !topic.ends_with('/') && topic.bytes().all(is_plain)
        };
        if is_topic(&topic) {
            Some(url)
        } else {
            value.bad("the address of an ntfy server with a topic, such as \"https://ntfy.sh/TOPIC\"")
        }
    });
    let token_file = table.optional("token_file").map(fields::file);
    let priority = table.optional("priority").map_or(Some("high"), |value| {
        value.parse("\"min\", \"low\", \"default\", \"high\" or \"max\"", |written| {
            PRIORITIES.into_iter().find(|priority| *priority == written)
        })
    });
    let token_file = fields::or_absent(token_file);
    Some(Receiver::Ntfy { url: url?, token_file: token_file?, priority: priority?.to_owned() })
}

fn url(value: Value<'_>) -> Option<String> {
    let expected = "an https:// address, or the http:// address of a machine in a private network";
    value.parse(expected, text::private_or_tls)
}

fn mail(table: &Table<'_>) -> Option<Mail> {
    let expected = "a mail server with its port, such as \"mail.example.com:587\"";
    let server = table.required("server").and_then(|value| value.parse(expected, text::host_port));
    let tls = table.optional("tls").map(|value| {
        let tls = value.parse("\"tls\", \"starttls\" or \"off\"", |written| {
            MailTls::ALL.into_iter().find(|tls| tls.as_str() == written)
        });
        (value, tls)
    });
    let user = table.optional("user").map(|value| value.string().map(str::to_owned));
    let password_file = if user.is_some() {
        table.required("password_file").map(fields::file)
    } else {
        table.optional("password_file").map(fields::file)
    };
    let from = table.required("from").and_then(mail_address);
    let to = table.required("to").and_then(recipients);
    let server = server?;
    let by_port = if server.port == SMTPS { MailTls::Tls } else { MailTls::StartTls };
    let tls_is = tls.map_or(Some(by_port), |(_, tls)| tls)?;
    let is_clear = tls_is == MailTls::Off && !(is_near(&server.host) && user.is_none());
    if let Some((value, _)) = tls.filter(|_| is_clear) {
        return value.bad(
            "\"tls\" or \"starttls\"; \"off\" is for a server at localhost or a private address, without a user",
        );
    }
    let login = match (fields::or_absent(user)?, fields::or_absent(password_file)?) {
        (Some(user), Some(file)) => Some((user, file)),
        (None, None) => None,
        (None, Some(_)) => {
            // A misspelt `user` is reported by itself.
            let _ = table.required("user");
            return None;
        }
        (Some(_), None) => return None,
    };
    Some(Mail { server, tls: tls_is, login, from: from?, to: to? })
}

/// Whether nothing on the way to it is the internet.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Name(name) => **name == *"localhost",
        Host::Address(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Host::Address(address) => address.is_loopback() || is_private((*address).into()),
    }
}

fn recipients(value: Value<'_>) -> Option<Vec<String>> {
    let items = value.one_or_many();
    if items.len() > MAX_ADDRESSES {
        value.report(Problem::TooMany { what: "to", limit: MAX_ADDRESSES });
        return None;
    }
    let read: Option<Vec<_>> = items.into_iter().map(mail_address).collect();
    read.filter(|addresses| !addresses.is_empty())
}

fn mail_address(value: Value<'_>) -> Option<String> {
    value.parse("a mail address, such as \"you@example.com\"", |written| {
        let (local, domain) = written.rsplit_once('@')?;
        let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
        let is_dotted = !local.starts_with('.') && !local.ends_with('.') && !local.contains("..");
        let is_right = written.len() <= MAX_MAIL_ADDRESS
            && !local.is_empty()
            && local.len() <= 64
            && is_dotted
            && local.bytes().all(is_local)
            && matches!(text::host(domain), Some(Host::Name(_)));
        is_right.then(|| written.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Source, forwarder, gateway};

    const REST: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n";
    const ALL: &str = r#"
        [[notify]]
        name = "hook"
        kind = "webhook"
        url = "https://example.com/hook?id=7"
        token_file = "hook.token"
        [[notify]]
        name = "phone"
        kind = "ntfy"
        url = "http://192.168.1.5:8080/causeway"
        priority = "max"
        [[notify]]
        name = "mail"
        kind = "smtp"
        server = "mail.example.com:587"
        user = "causeway"
        password_file = "mail.password"
        from = "causeway@example.com"
        to = ["you@example.com", "me@example.net"]
    "#;

    #[test]
    fn both_ends_read_every_kind_alike_and_the_edge_writes_it_again() {
        let edge = of_edge(ALL).unwrap();
        assert_eq!(edge.notify.len(), 3);
        let Receiver::Smtp(mail) = &edge.notify[2].receiver else { panic!("no mail") };
        assert_eq!((mail.tls, mail.to.len()), (MailTls::StartTls, 2));
        let again = edge.to_toml();
        let source = Source { name: Path::new("/etc/causeway/gateway.toml"), text: &again };
        assert_eq!(gateway::parse(&source).unwrap().notify, edge.notify, "{again}");
        let text = format!("{REST}{ALL}[[peer]]\nname = \"e\"\npublic_key = \"{KEY}\"\nendpoint = \"e:1\"\n");
        let source = Source { name: Path::new("/etc/causeway/forwarder.toml"), text: &text };
        assert_eq!(forwarder::parse(&source).unwrap().notify, edge.notify);
    }

    #[test]
    fn port_465_is_encrypted_from_the_first_byte_and_every_other_one_by_starttls() {
        let tls = |server: &str, rest: &str| {
            let policy = of_edge(&mail_with(&format!("server = \"{server}\"\n{rest}")));
            policy.map(|policy| {
                let Receiver::Smtp(mail) = &policy.notify[0].receiver else { panic!("no mail") };
                mail.tls
            })
        };
        assert_eq!(tls("mail.example.com:465", "").unwrap(), MailTls::Tls);
        assert_eq!(tls("mail.example.com:25", "").unwrap(), MailTls::StartTls);
        assert_eq!(tls("127.0.0.1:25", "tls = \"off\"").unwrap(), MailTls::Off);
        assert_eq!(tls("mail.example.com:25", "tls = \"off\"").unwrap_err().len(), 1);
        let user = "tls = \"off\"\nuser = \"u\"\npassword_file = \"p\"";
        assert_eq!(tls("127.0.0.1:25", user).unwrap_err().len(), 1);
    }

    #[test]
    fn one_mistake_is_one_error_with_its_place() {
        let entry = |text: &str| format!("[[notify]]\nname = \"a\"\n{text}");
        for (text, expected) in [
            (entry(""), "kind"),
            (entry("kind = \"pager\"\nurl = \"https://a/\""), "webhook"),
            (entry("kind = \"webhook\""), "url"),
            (entry("kind = \"webhook\"\nurl = \"http://example.com/\""), "https://"),
            (entry("kind = \"webhook\"\nurl = \"https://a/\"\ntoken = \"secret\""), "token_file"),
            (entry("kind = \"ntfy\"\nurl = \"https://ntfy.sh/\""), "TOPIC"),
            (entry("kind = \"ntfy\"\nurl = \"https://ntfy.sh/t\"\npriority = \"urgent\""), "max"),
            (mail_with("server = \"mail.example.com\""), "port"),
            (mail_with("server = \"mail.example.com:25\"\nuser = \"u\""), "password_file"),
            (mail_with("server = \"mail.example.com:25\"\npassword_file = \"p\""), "user"),
            (mail_with("server = \"mail.example.com:25\"").replace("you@", "you at "), "mail address"),
        ] {
            let errors = of_edge(&text).unwrap_err();
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            let said = errors[0].to_string();
            assert!(said.starts_with("/etc/causeway/gateway.toml:") && said.contains(expected), "{said}");
        }
    }

    #[test]
    fn nine_receivers_and_two_of_one_name_are_refused() {
        let entry = |name: &str| {
            format!("[[notify]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"https://example.com/\"\n")
        };
        let many = |count: usize| (0..count).map(|n| entry(&format!("n{n}"))).collect::<String>();
        assert_eq!(of_edge(&many(8)).unwrap().notify.len(), 8);
        assert!(of_edge(&many(9)).unwrap_err()[0].to_string().contains("most is 8"));
        assert_eq!(of_edge(&format!("{}{}", entry("a"), entry("a"))).unwrap_err().len(), 1);
    }

    #[test]
    fn a_change_is_noted_without_the_address() {
        let (old, new) = (of_edge(ALL).unwrap(), of_edge(&ALL.replace("id=7", "id=8")).unwrap());
        let lines: Vec<_> = old.changed_settings(&new).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["notify: ~ hook configured → changed"]);
    }

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn mail_with(rest: &str) -> String {
        let addresses = "from = \"c@example.com\"\nto = \"you@example.com\"";
        format!("[[notify]]\nname = \"m\"\nkind = \"smtp\"\n{addresses}\n{rest}\n")
    }

    fn of_edge(text: &str) -> Result<gateway::Policy, Vec<crate::ConfigError>> {
        let text = format!("{REST}{text}");
        gateway::parse(&Source { name: Path::new("/etc/causeway/gateway.toml"), text: &text })
    }
}

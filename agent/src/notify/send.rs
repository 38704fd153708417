//! Delivery: JSON to a webhook, a topic of ntfy, mail by SMTP.

use std::time::Duration;

use daemon::exit::ExitError;
use daemon::files::{LoadError, read_secret};
use lettre::message::Mailbox;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport as _};
use policy::sections::{Mail, MailTls, Notify, Receiver};
use policy::{FileRef, Problem};
use serde_json::json;
use zeroize::Zeroizing;

use super::incidents::Kind;
use super::seen::End;
use super::text::Message;
use crate::http::Http;

/// For each step of a dialogue with a mail server.
const SMTP_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// What happened; no secret and no path of an address is in it.
    pub why: String,
    /// How long the receiver asks to be left alone, in milliseconds.
    pub pause: Option<u64>,
}

impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        Self { why, pause: None }
    }
}

/// Who sends, for the text of a webhook and the id of mail.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The machine's name.
    pub machine: String,
    /// Its end.
    pub end: End,
}

/// A receiver with its secret.
pub struct Sender {
    /// Its name.
    pub name: String,
    way: Way,
}

enum Way {
    Webhook { url: String, http: Http },
    Ntfy { server: String, topic: String, priority: u8, http: Http },
    Smtp { mail: Mail, password: Option<Zeroizing<String>> },
}

impl Sender {
    /// With the secret from its file.
    ///
    /// # Errors
    /// What is wrong with the file, at the place that names it.
    pub fn open(notify: &Notify) -> Result<Self, ExitError> {
        let way = match &notify.receiver {
            Receiver::Webhook { url, token_file } => {
                let http = Http::new(url, token(token_file.as_ref())?)?;
                Way::Webhook { url: url.clone(), http }
            }
            Receiver::Ntfy { url, token_file, priority } => {
                let http = Http::new(url, token(token_file.as_ref())?)?;
                let (server, topic) = url.rsplit_once('/').unwrap_or((url, ""));
                let priority = match priority.as_str() {
                    "min" => 1,
                    "low" => 2,
                    "default" => 3,
                    "max" => 5,
                    _ => 4,
                };
                Way::Ntfy { server: format!("{server}/"), topic: topic.to_owned(), priority, http }
            }
            Receiver::Smtp(mail) => {
                let password = mail.login.as_ref().map(|(_, file)| secret(file)).transpose()?;
                Way::Smtp { mail: mail.clone(), password }
            }
        };
        Ok(Self { name: notify.name.to_string(), way })
    }

    /// Sends a message. It blocks.
    ///
    /// # Errors
    /// Why the receiver has not taken it.
    pub fn send(&self, from: &Origin, message: &Message) -> Result<(), NotTaken> {
        match &self.way {
            Way::Webhook { url, http } => posted(http, url, &webhook(from, message)),
            Way::Ntfy { server, topic, priority, http } => {
                let is_urgent = matches!(message.kind, Kind::Down | Kind::Flapping | Kind::StillDown);
                let priority = if is_urgent { *priority } else { 3.min(*priority) };
                posted(http, server, &ntfy(topic, priority, message))
            }
            Way::Smtp { mail, password } => mailed(mail, password.as_ref(), from, message),
        }
    }
}

fn secret(file: &FileRef) -> Result<Zeroizing<String>, ExitError> {
    let text = read_secret(file).map_err(|error| LoadError::Invalid(vec![error]))?;
    let secret = Zeroizing::new(text.trim().to_owned());
    if secret.is_empty() || !secret.chars().all(|char| char.is_ascii_graphic() || char == ' ') {
        let reason = "it holds no token or password; write it into the file, as one line".to_owned();
        let problem = Problem::MalformedSecretFile { file: file.location.to_string(), reason };
        return Err(LoadError::Invalid(vec![file.error(problem)]).into());
    }
    Ok(secret)
}

fn token(file: Option<&FileRef>) -> Result<Option<Zeroizing<String>>, ExitError> {
    file.map(secret).transpose()
}

fn webhook(from: &Origin, message: &Message) -> serde_json::Value {
    json!({
        "id": message.id,
        "kind": message.kind.label(),
        "machine": from.machine,
        "end": from.end,
        "at": message.at / 1_000,
        "subject": message.subject,
        "text": message.body,
        "down": message.down,
        "hop": message.hop,
    })
}

fn ntfy(topic: &str, priority: u8, message: &Message) -> serde_json::Value {
    let tag = match message.kind {
        Kind::Down | Kind::StillDown => "rotating_light",
        Kind::Flapping | Kind::Steered => "warning",
        Kind::Over | Kind::Test => "white_check_mark",
    };
    // A message that is sent again takes the place of the first, with a server that knows this.
    json!({
        "topic": topic,
        "title": message.subject,
        "message": message.body,
        "priority": priority,
        "tags": [tag],
        "sequence_id": message.id,
    })
}

fn posted(http: &Http, url: &str, body: &serde_json::Value) -> Result<(), NotTaken> {
    let answer = http.send("POST", url, Some(body.to_string()))?;
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let pause = answer.retry_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let fix = match answer.status {
        401 | 403 => "; check the token in `token_file`, and what it may do",
        404 => "; check `url`",
        300..=399 => "; it leads elsewhere: write that address as `url`",
        _ => "",
    };
    Err(NotTaken { why: format!("the server replied with status {}{fix}", answer.status), pause })
}

fn mailed(
    mail: &Mail,
    password: Option<&Zeroizing<String>>,
    from: &Origin,
    message: &Message,
) -> Result<(), NotTaken> {
    let transport = transport(mail, password, from).map_err(|error| mail_error(mail, &error))?;
    let letter = letter(mail, from, message)?;
    transport.send(&letter).map(drop).map_err(|error| mail_error(mail, &error).into())
}

fn mail_error(mail: &Mail, error: &lettre::transport::smtp::Error) -> String {
    let mut text = format!("{}: {error}", mail.server);
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text += &format!(": {inner_text}");
        }
        source = inner.source();
    }
    // RFC 4954 §6
    text + match error.status().map(u16::from) {
        Some(530) => "; the server wants a user: write `user` and `password_file`",
        Some(534 | 535) => "; check `user`, and the password in `password_file`",
        _ => "",
    }
}

fn transport(
    mail: &Mail,
    password: Option<&Zeroizing<String>>,
    from: &Origin,
) -> Result<SmtpTransport, lettre::transport::smtp::Error> {
    let host = match &mail.server.host {
        policy::Host::Name(name) => name.to_string(),
        policy::Host::Address(address) => address.to_string(),
    };
    let tls = match mail.tls {
        MailTls::Off => Tls::None,
        MailTls::Tls => Tls::Wrapper(TlsParameters::new(host.clone())?),
        MailTls::StartTls => Tls::Required(TlsParameters::new(host.clone())?),
    };
    let mut builder = SmtpTransport::builder_dangerous(host)
        .port(mail.server.port)
        .tls(tls)
        .timeout(Some(SMTP_TIMEOUT))
        .hello_name(ClientId::Domain(from.machine.clone()));
    if let (Some((user, _)), Some(password)) = (&mail.login, password) {
        builder = builder.credentials(Credentials::new(user.clone(), password.to_string()));
    }
    Ok(builder.build())
}

fn letter(mail: &Mail, from: &Origin, message: &Message) -> Result<lettre::Message, String> {
    let mailbox = |address: &str| -> Result<Mailbox, String> {
        address.parse().map_err(|error| format!("{address} is no mail address: {error}"))
    };
    let domain = mail.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let mut builder = lettre::Message::builder()
        .from(mailbox(&mail.from)?)
        .subject(&message.subject)
        .date(std::time::UNIX_EPOCH + Duration::from_millis(message.at))
        .message_id(Some(format!("<{}.{}.causeway@{domain}>", message.id, from.machine)));
    for to in &mail.to {
        builder = builder.to(mailbox(to)?);
    }
    let mut letter = builder.body(message.body.clone()).map_err(|error| error.to_string())?;
    // RFC 3834 §5: nothing is to answer by itself.
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    letter.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
    Ok(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_has_a_stable_id_and_is_no_reason_for_a_reply() {
        let mail = Mail {
            server: policy::text::host_port("127.0.0.1:25").unwrap(),
            tls: MailTls::Off,
            login: None,
            from: "causeway@example.com".to_owned(),
            to: vec!["you@example.com".to_owned(), "me@example.net".to_owned()],
        };
        let from = Origin { machine: "kyiv".to_owned(), end: End::Edge };
        let message = Message { at: 1_796_008_325_000, ..Message::test("kyiv", End::Edge, 7) };
        let text = String::from_utf8(letter(&mail, &from, &message).unwrap().formatted()).unwrap();
        for line in [
            "From: causeway@example.com",
            "To: you@example.com, me@example.net",
            "Subject: causeway kyiv: test",
            "Message-ID: <7-test.kyiv.causeway@example.com>",
            "Auto-Submitted: auto-generated",
            "Date: Mon, 30 Nov 2026 03:12:05 +0000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_message_for_ntfy_names_its_topic_and_is_urgent_only_while_something_is_down() {
        let message = Message::test("kyiv", End::Edge, 7);
        let value = ntfy("causeway", 3, &message);
        assert_eq!((value["topic"].as_str(), value["priority"].as_u64()), (Some("causeway"), Some(3)));
        assert_eq!(value["sequence_id"], "7-test");
    }
}

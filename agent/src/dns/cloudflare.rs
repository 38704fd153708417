//! A zone at Cloudflare, changed through its API (version 4).
//!
//! A record of a name that has one is changed in place: one PATCH of its content, which leaves
//! proxy, TTL, comment and tags as they are. Among several, records are made and removed by one
//! batch, which the API carries out completely or not at all, and in which a record that stays is
//! named: so it fails where that is gone, and no name is left without a record. Where a call fails
//! at any point, reading the records again shows what has to be done.

use std::net::Ipv4Addr;

use daemon::exit::ExitError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::record::{Change, Found, NEW_TTL, Record};
use crate::http::{Answer, Http};

/// Where the API is.
pub const API: &str = "https://api.cloudflare.com/client/v4";
/// The code of a record that does not exist.
const NO_RECORD: u32 = 81_044;
/// The most characters of a message that are repeated.
const MAX_MESSAGE: usize = 200;

/// A zone, by its name.
pub struct Cloudflare {
    http: Http,
    api: String,
    zone: String,
    zone_id: Option<String>,
    /// Whether the records that were read last are behind its proxy.
    is_proxied: bool,
}

#[derive(Deserialize)]
struct Envelope<T> {
    success: bool,
    #[serde(default = "Vec::new")]
    errors: Vec<ApiError>,
    result: Option<T>,
}

#[derive(Deserialize)]
struct ApiError {
    code: u32,
    message: String,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    content: String,
    ttl: u32,
    #[serde(default)]
    proxied: bool,
}

/// Of an answer to a change nothing matters but that it is complete.
#[derive(Deserialize)]
struct Done {
    #[serde(rename = "id")]
    _id: String,
}

/// The same of a batch.
#[derive(Deserialize)]
struct BatchDone {
    #[serde(rename = "posts", default)]
    _posts: Option<Vec<Done>>,
}

impl Cloudflare {
    /// A zone that `token` may change, through the API at `api`.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub fn new(api: &str, zone: &str, token: Zeroizing<String>) -> Result<Self, ExitError> {
        let http = Http::new(api, Some(token))?;
        Ok(Self { http, api: api.to_owned(), zone: zone.to_owned(), zone_id: None, is_proxied: false })
    }

    /// What the zone has for a name.
    ///
    /// # Errors
    /// [`Failure`]
    pub fn read(&mut self, name: &str) -> Result<Found, Failure> {
        let path = format!("{}?name={name}&per_page=100", self.records()?);
        let listed: Vec<Listed> = self.ask("GET", &path, None)?;
        let of_name = |kind: &'static str| {
            listed.iter().filter(move |listed| listed.kind == kind && listed.name.eq_ignore_ascii_case(name))
        };
        if of_name("CNAME").next().is_some() {
            return Ok(Found::Alias);
        }
        self.is_proxied = of_name("A").any(|listed| listed.proxied);
        let record = |listed: &Listed| {
            let address = listed.content.parse();
            let address = address.map_err(|_| Failure::unavailable("a record of the API has no address"))?;
            Ok(Record { address, ttl: listed.ttl, id: listed.id.clone() })
        };
        of_name("A").map(record).collect::<Result<_, Failure>>().map(Found::records)
    }

    /// Makes a change of a name, by one call.
    ///
    /// # Errors
    /// [`Failure`]; then the change may have been made or not.
    pub fn change(&mut self, name: &str, change: &Change) -> Result<(), Failure> {
        let records = self.records()?;
        let done: Result<Done, Failure> = match change {
            Change::Create(address) => {
                let body =
                    json!({"type": "A", "name": name, "content": address, "ttl": NEW_TTL, "proxied": false});
                self.ask("POST", &records, Some(body.to_string()))
            }
            Change::Replace { from, to } => {
                let id = segment(&from.id)?;
                self.ask("PATCH", &format!("{records}/{id}"), Some(json!({"content": to}).to_string()))
            }
            Change::Among { from, added, removed } => {
                let batch = batch(name, (from, added, removed), self.is_proxied)?;
                let path = format!("{records}/batch");
                return self.ask("POST", &path, Some(batch.to_string())).map(|_: BatchDone| ());
            }
        };
        done.map(drop)
    }

    /// The path of the zone's records.
    fn records(&mut self) -> Result<String, Failure> {
        let id = match &self.zone_id {
            Some(id) => id.clone(),
            None => {
                let zones: Vec<Zone> = self.ask("GET", &format!("/zones?name={}", self.zone), None)?;
                let zone = zones.into_iter().next().ok_or_else(|| {
                    Failure::Refused(format!(
                        "the API token sees no zone {}; give it Zone:Read and DNS:Edit of this zone, or correct `zone`",
                        self.zone
                    ))
                })?;
                segment(&zone.id)?;
                self.zone_id = Some(zone.id.clone());
                zone.id
            }
        };
        Ok(format!("/zones/{id}/dns_records"))
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<T, Failure> {
        let answer = self.http.send(method, &format!("{}{path}", self.api), body);
        let answer = answer.map_err(Failure::unavailable)?;
        let envelope: Result<Envelope<T>, _> = serde_json::from_str(&answer.text);
        match envelope {
            Ok(Envelope { success: true, result: Some(result), .. }) if answer.status < 300 => Ok(result),
            Ok(envelope) => Err(self.refused(&answer, &envelope.errors)),
            // A refusal may have a result of another form.
            Err(_) if answer.status >= 300 => {
                let refused: Option<Envelope<Value>> = serde_json::from_str(&answer.text).ok();
                let errors = refused.map(|refused| refused.errors).unwrap_or_default();
                Err(self.refused(&answer, &errors))
            }
            Err(error) => Err(Failure::unavailable(format!("the API's answer is not complete: {error}"))),
        }
    }

    fn refused(&mut self, answer: &Answer, errors: &[ApiError]) -> Failure {
        let messages: Vec<String> = errors
            .iter()
            .take(3)
            .map(|error| format!("{} ({})", shown(&error.message), error.code))
            .collect();
        let status = answer.status;
        let said = if messages.is_empty() { String::new() } else { format!(": {}", messages.join(", ")) };
        match status {
            401 | 403 => Failure::Refused(format!(
                "the API refuses the token, status {status}{said}; make one with Zone:Read and DNS:Edit of {}",
                self.zone
            )),
            404 => {
                self.zone_id = None;
                Failure::Outdated
            }
            // A batch that names a record which is no longer there.
            400 if errors.iter().any(|error| error.code == NO_RECORD) => Failure::Outdated,
            408 | 429 | 500.. | 0..=299 => Failure::Unavailable {
                reason: format!("the API answered with status {status}{said}"),
                retry_after: answer.retry_after,
            },
            _ => Failure::Refused(format!("the API refuses, status {status}{said}")),
        }
    }
}

/// The batch that makes and removes records of a name. What is made is as what is there: proxied or
/// not, and of its TTL. One that neither comes nor goes is named, without a change of it.
fn batch(
    name: &str,
    (from, added, removed): (&[Record], &[Ipv4Addr], &[Ipv4Addr]),
    is_proxied: bool,
) -> Result<Value, Failure> {
    let ttl = from.first().map_or(NEW_TTL, |record| record.ttl);
    let made =
        |address| json!({"type": "A", "name": name, "content": address, "ttl": ttl, "proxied": is_proxied});
    let (mut deletes, mut patches) = (Vec::new(), Vec::new());
    for record in from {
        let id = segment(&record.id)?;
        if removed.contains(&record.address) {
            deletes.push(json!({"id": id}));
        } else if patches.is_empty() {
            patches.push(json!({"id": id, "content": record.address}));
        }
    }
    let posts: Vec<Value> = added.iter().map(made).collect();
    Ok(json!({"deletes": deletes, "patches": patches, "posts": posts}))
}

/// An identifier of the API, which goes into a path.
fn segment(id: &str) -> Result<&str, Failure> {
    let is_plain = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain { Ok(id) } else { Err(Failure::unavailable("the API's answer has a damaged identifier")) }
}

/// What can be logged of a text from outside.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_MESSAGE).collect()
}

//! Who holds the zone: a name server, or a provider by its API.

use daemon::exit::ExitError;
use daemon::files::{LoadError, read_secret};
use policy::{FileRef, Problem};
use zeroize::Zeroizing;

use super::cloudflare::{API, Cloudflare};
use super::failure::Failure;
use super::keeper::Action;
use super::record::{Change, Found};
use super::server::Server;
use super::tsig::UpdateKey;

/// The authority of a zone, with what it believes.
pub enum Authority {
    /// A name server.
    Server(Box<Server>),
    /// Cloudflare's API.
    Cloudflare(Cloudflare),
}

/// What came of a step.
pub enum Outcome {
    /// Of reading.
    Read(Result<Found, Failure>),
    /// Of a change.
    Changed(Change, Result<(), Failure>),
}

impl Authority {
    /// The authority that the configuration names, with the secret from its file.
    ///
    /// # Errors
    /// What is wrong with the file, at the place that names it.
    pub fn open(named: &policy::Authority, zone: &str, key_file: &FileRef) -> Result<Self, ExitError> {
        let invalid = |problem| ExitError::from(LoadError::Invalid(vec![key_file.error(problem)]));
        let secret = read_secret(key_file).map_err(|error| LoadError::Invalid(vec![error]))?;
        let bad = |reason: String| {
            let file = key_file.location.to_string();
            invalid(Problem::MalformedSecretFile { file, reason })
        };
        match named {
            policy::Authority::Server(server) => {
                let key = UpdateKey::parse(&secret).map_err(|error| bad(error.to_string()))?;
                let (server, zone) = (server.clone(), zone.to_owned());
                Ok(Self::Server(Box::new(Server { server, zone, key })))
            }
            policy::Authority::Cloudflare => {
                let token = Zeroizing::new(secret.trim().to_owned());
                if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    let reason = "it holds no API token; write the token into it, as one line";
                    return Err(bad(reason.to_owned()));
                }
                Ok(Self::Cloudflare(Cloudflare::new(API, zone, token)?))
            }
        }
    }

    /// Carries out a step. It blocks.
    pub fn carry_out(&mut self, name: &str, action: Action) -> Outcome {
        match (self, action) {
            (Self::Server(server), Action::Read) => Outcome::Read(server.read(name)),
            (Self::Cloudflare(api), Action::Read) => Outcome::Read(api.read(name)),
            (Self::Server(server), Action::Change(change)) => {
                let result = server.change(name, &change);
                Outcome::Changed(change, result)
            }
            (Self::Cloudflare(api), Action::Change(change)) => {
                let result = api.change(name, &change);
                Outcome::Changed(change, result)
            }
        }
    }
}

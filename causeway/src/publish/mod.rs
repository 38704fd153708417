//! `causeway publish` and `unpublish`: a host name or a port, from the origin to its visitors.
//!
//! - `request`: what the arguments mean. `edit`: what becomes of forwarder.toml.
//! - `http`: port 80 next to a name on port 443.
//! - `site`: Caddy's site as text; `caddy` writes it and has Caddy take it.
//! - `progress`: what is granted, refused and missing; `settle` waits for it.

mod caddy;
mod edit;
mod http;
mod progress;
mod request;
mod settle;
mod site;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::read_text;
use daemon::text::time;
use forwarder::control::report::{Published, Report};
use policy::Source;
use policy::forwarder::{Policy, ProxyProtocol, Service};

use self::caddy::{Changed, Sites};
use self::edit::{EditError, Edited};
use self::http::{Http, WithHttp, with_http};
use self::progress::Progress;
use self::request::{NewService, Request};
use crate::origin::Origin;

/// What is published.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Publish this host name on port 443; with --upstream, a service of its own by this name.
    name: String,
    /// Lead a host name to this local port, or to HOST:PORT, by a site in Caddy; a service is
    /// given its public ports: 25, 27015/udp, 5000-5010.
    #[arg(value_name = "PORT")]
    ports: Vec<String>,
    /// Carry the service's flows to this program.
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Option<String>,
    /// Send the service's program the visitor's address: v1 or v2.
    #[arg(long, value_name = "VERSION", value_parser = version, default_value = "off")]
    proxy_protocol: ProxyProtocol,
    /// Add the host name to this service, if several have port 443.
    #[arg(long, value_name = "NAME", conflicts_with = "upstream")]
    service: Option<String>,
    /// Publish port 80 as well, to this program or port, or "off". Default with a host name on port
    /// 443: to Caddy's port for HTTP, if what is there redirects to HTTPS.
    #[arg(long, value_name = "HOST:PORT", value_parser = with_http, conflicts_with = "upstream")]
    with_http: Option<WithHttp>,
    /// Wait until nothing is missing any more, at most TIME (default: 5m).
    #[arg(long, value_name = "TIME", value_parser = time, num_args = 0..=1, default_missing_value = "5m")]
    wait: Option<Duration>,
    #[command(flatten)]
    own: Own,
}

/// What is withdrawn.
#[derive(Debug, Args)]
pub(crate) struct Unpublish {
    /// Withdraw this host name or service.
    name: String,
    #[command(flatten)]
    own: Own,
}

/// Which forwarder.
#[derive(Debug, Args)]
struct Own {
    /// Use FILE as the forwarder's own configuration file; no other is ever written.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connect to this control socket of the forwarder.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Own {
    fn origin(&self) -> Result<Origin, ExitError> {
        Origin::find(self.config.as_deref(), self.socket.as_deref())
    }
}

fn version(text: &str) -> Result<ProxyProtocol, String> {
    match text {
        "off" => Ok(ProxyProtocol::Off),
        "v1" => Ok(ProxyProtocol::V1),
        "v2" => Ok(ProxyProtocol::V2),
        _ => Err("v1, v2 or off".to_owned()),
    }
}

/// `causeway publish`
pub(crate) fn publish(arguments: &Publish) -> Result<Exit, ExitError> {
    let Publish { name, ports, upstream, proxy_protocol, .. } = arguments;
    let request = request::read(name, ports, upstream.as_deref(), *proxy_protocol)
        .map_err(|error| ExitError::new(Exit::Usage, error))?;
    let origin = arguments.own.origin()?;
    match request {
        Request::Name { name, upstream } => publish_name(&origin, arguments, &name, upstream.as_deref()),
        Request::Service(new) => publish_service(&origin, arguments, &new),
    }
}

fn publish_service(origin: &Origin, arguments: &Publish, new: &NewService) -> Result<Exit, ExitError> {
    // An error in the file comes before a daemon that does not answer.
    origin.policy()?;
    let applied = apply(origin, &|file| edit::add_service(file, new))?;
    if let Some(warning) = new.warning() {
        print_to_stderr(&warning);
    }
    let service = applied.service(origin)?;
    let progress = settle::settle(arguments.wait, &|| {
        let mut progress = progress::of_service(&origin.report()?, &service, &|_| true);
        progress.add(if new.is_tcp() { settle::program(&new.upstream) } else { Progress::default() });
        Ok(progress)
    })?;
    if !progress.refused.is_empty() {
        return Err(applied.taken_back(origin, new.name.as_str(), None, &progress));
    }
    report(&format!("{} is published as [[service]] {}", list(&new.ports), new.name), &progress)
}

fn publish_name(
    origin: &Origin,
    arguments: &Publish,
    name: &str,
    upstream: Option<&str>,
) -> Result<Exit, ExitError> {
    let wanted = arguments.service.as_deref();
    let with_http = arguments.with_http.clone().unwrap_or_default();
    let begin = begin(upstream.is_some() && wanted.is_none());
    // What the file refuses, it refuses before Caddy is touched.
    let Named { policy, service, is_first } = with_name(origin, &begin, name, wanted)?;
    let first = is_first.then(|| first_note(&origin.config, &service));
    let text = upstream.map(|upstream| site::site(name, upstream, &service));
    let changed = match (&policy.caddy, &text) {
        (Some(caddy), Some(text)) => Some(Sites::of(caddy, &origin.config)?.write(name, text)?),
        _ => None,
    };
    let http = Http::of(&with_http, &policy, &service, name);
    let applied = apply(origin, &|file| {
        let begun = begin(file)?.text;
        http.add(file, &service, edit::add_name(&Source { name: file.name, text: &begun }, name, wanted)?)
    });
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => return Err(without_site(changed, error)),
    };
    let policy = origin.policy()?;
    let port_80 = edit::http_service(&policy).filter(|_| with_http != WithHttp::Off);
    let naming = Naming { name, upstream, policy: &policy, service: &service, port_80 };
    let progress = settle::settle(arguments.wait, &|| {
        let mut progress = naming.progress(&origin.report()?);
        if let Some(changed) = &changed {
            progress.add(Progress::proven(format!("Caddy has its site, {}", changed.path().display())));
        }
        progress.notes.extend(http.note.clone());
        progress.notes.extend(first.clone());
        Ok(progress)
    })?;
    if !progress.refused.is_empty() {
        return Err(applied.taken_back(origin, name, changed, &progress));
    }
    naming.leave_refused_http(origin)?;
    let by_hand = text.filter(|_| changed.is_none());
    let exit = report(&format!("{name} is published by [[service]] {}", service.name), &progress)?;
    if let Some(site) = by_hand {
        print(&format!("add this site to Caddy, unless it has one, and reload it:\n\n{site}"))?;
    }
    Ok(exit)
}

/// Whether `publish` wrote a site with this text.
pub(crate) fn is_site(text: &str) -> bool {
    site::is_ours(text)
}

/// A host name that is in the file.
struct Naming<'a> {
    name: &'a str,
    /// The program that its site leads to.
    upstream: Option<&'a str>,
    policy: &'a Policy,
    service: &'a Service,
    /// The service on port 80.
    port_80: Option<&'a Service>,
}

impl Naming<'_> {
    /// How far it has come, as the daemon and this machine show it.
    fn progress(&self, report: &Report) -> Progress {
        let Self { name, policy, service, .. } = self;
        let mut progress = of_name(report, service, name);
        if let Some(port_80) = self.port_80 {
            progress.add(progress::of_http(report, port_80));
        }
        progress.notes.extend(report.notes.iter().cloned());
        if let Some(upstream) = self.upstream {
            progress.add(settle::program(upstream));
            let note = policy.caddy.as_ref().and_then(|caddy| caddy::loopback_note(caddy, name, upstream));
            progress.notes.extend(note);
        }
        let record = progress::record(name, policy, &service.peers, &report.peers);
        progress.add(settle::addresses(name, &report.peers, record.as_deref()));
        progress
    }

    /// Requests port 80 no longer when every edge refuses it; the name does without.
    fn leave_refused_http(&self, origin: &Origin) -> Result<(), ExitError> {
        let Some(port_80) = self.port_80 else { return Ok(()) };
        if progress::is_refused(&origin.report()?, port_80) {
            apply(origin, &edit::remove_http)?;
        }
        Ok(())
    }
}

/// What the daemon's report shows of a service and its name.
fn of_name(report: &Report, service: &Service, name: &str) -> Progress {
    // Names are asked for over TCP; HTTP/3 is more than they need.
    let is_needed = |port: &Published| !port.ports.ends_with("/udp");
    let mut progress = progress::of_service(report, service, &is_needed);
    progress.add(progress::of_name(report, service, name));
    progress
}

/// An error after which a site is as it was before.
fn without_site(changed: Option<Changed<'_>>, error: ExitError) -> ExitError {
    match changed.map_or(Ok(()), Changed::take_back) {
        Ok(()) => error,
        Err(kept) => {
            ExitError::new(error.exit, format!("{error}\nthe site in Caddy is not taken back: {kept}"))
        }
    }
}

/// `causeway unpublish`
pub(crate) fn unpublish(arguments: &Unpublish) -> Result<Exit, ExitError> {
    let origin = arguments.own.origin()?;
    let policy = origin.policy()?;
    let Withdrawn { name, is_host } = withdrawn(&policy, &arguments.name);
    let removed = match &policy.caddy {
        Some(caddy) if is_host => Sites::of(caddy, &origin.config)?.remove(&name)?,
        _ => None,
    };
    match apply(&origin, &|file| edit::remove(file, &name)) {
        Ok(_) => {}
        // A command before this one was ended between its two steps.
        Err(error) if removed.is_some() && error.exit == Exit::Failed => {}
        Err(error) => return Err(without_site(removed, error)),
    }
    let removed = removed.map(|site| format!(", and {} is removed", site.path().display()));
    let has_http = |policy: &Policy| edit::http_service(policy).is_some();
    let closed =
        if has_http(&policy) && !has_http(&origin.policy()?) { "; port 80 is closed with it" } else { "" };
    print(&format!("{name} is not published any more{}{closed}\n", removed.unwrap_or_default()))?;
    Ok(Exit::Ok)
}

/// What `unpublish` withdraws.
#[derive(Debug, PartialEq, Eq)]
struct Withdrawn {
    name: String,
    /// Whether it is a host name, which has a site.
    is_host: bool,
}

/// A host name, whose case does not matter, unless only a service is published by that name as it
/// is written.
fn withdrawn(policy: &Policy, written: &str) -> Withdrawn {
    let host = request::known_name(written);
    let has_name = |host: &String| {
        policy.services.iter().any(|service| service.names.iter().any(|name| **name == **host))
    };
    let is_service = policy.services.iter().any(|service| service.name.as_str() == written);
    match host.filter(|host| has_name(host) || !is_service) {
        Some(name) => Withdrawn { name, is_host: true },
        None => Withdrawn { name: written.to_owned(), is_host: false },
    }
}

/// A change of forwarder.toml that is in force.
struct Applied {
    before: String,
    after: String,
    services: Vec<String>,
}

/// Edits forwarder.toml and applies it.
fn apply(
    origin: &Origin,
    edit: &dyn Fn(&Source<'_>) -> Result<Edited, EditError>,
) -> Result<Applied, ExitError> {
    let mut applied = None;
    origin.edit(&mut |file, text| {
        let edited = edit(&Source { name: file, text })?;
        applied =
            Some(Applied { before: text.to_owned(), after: edited.text.clone(), services: edited.services });
        Ok(edited.text)
    })?;
    applied.ok_or_else(|| ExitError::new(Exit::Failed, "the file was not edited"))
}

impl Applied {
    /// The service that the change is about, as it is now.
    fn service(&self, origin: &Origin) -> Result<Service, ExitError> {
        find(&origin.policy()?, &self.services)
    }

    /// Takes everything back that an edge refused; the error that says so.
    fn taken_back(
        &self,
        origin: &Origin,
        name: &str,
        site: Option<Changed<'_>>,
        progress: &Progress,
    ) -> ExitError {
        let refused = progress.refused.join("\n");
        let (config, is_edited) = (origin.config.display(), self.before != self.after);
        let changed_site = site.as_ref().filter(|site| site.is_changed()).map(|site| site.path().to_owned());
        let undone = if is_edited { self.undo(origin, name) } else { Ok(()) };
        if let Err(error) = undone.and_then(|()| site.map_or(Ok(()), Changed::take_back)) {
            return ExitError::new(error.exit, format!("{refused}\nnot taken back: {error}"));
        }
        let file = if is_edited {
            format!("{config} is as it was before; publish again after that")
        } else {
            format!("{config} had it before and is unchanged")
        };
        let exit = if is_edited || changed_site.is_some() { Exit::RolledBack } else { Exit::Failed };
        let site = changed_site.filter(|_| !is_edited);
        let site = site.map(|site| format!("; {} is as it was before", site.display())).unwrap_or_default();
        ExitError::new(exit, format!("{refused}\n{file}{site}"))
    }

    fn undo(&self, origin: &Origin, name: &str) -> Result<(), ExitError> {
        let undone = origin.edit(&mut |file, text| {
            if text == self.after {
                return Ok(self.before.clone());
            }
            // It was edited since: only this change is taken back.
            Ok(edit::remove(&Source { name: file, text }, name)?.text)
        });
        undone.map(drop)
    }
}

/// What a file needs before its first name, where Caddy is as the sample has it.
fn begin(may: bool) -> impl Fn(&Source<'_>) -> Result<Edited, EditError> {
    let is_as_sample = may && Path::new(edit::SITES).is_dir();
    move |file| match is_as_sample {
        true => edit::add_first(file),
        false => Ok(Edited { text: file.text.to_owned(), services: Vec::new() }),
    }
}

/// What the operator should know of what [`begin`] wrote.
fn first_note(config: &Path, service: &Service) -> String {
    let (config, name, sites) = (config.display(), &service.name, edit::SITES);
    format!("{config} has [[service]] {name} for Caddy now, and {sites} as [caddy] sites")
}

/// A file as it will be with a host name.
struct Named {
    policy: Policy,
    /// The service that the name is added to.
    service: Service,
    /// Whether that is new.
    is_first: bool,
}

/// What the file will be with the name.
fn with_name(
    origin: &Origin,
    begin: &dyn Fn(&Source<'_>) -> Result<Edited, EditError>,
    name: &str,
    wanted: Option<&str>,
) -> Result<Named, ExitError> {
    let config: &Path = &origin.config;
    let text = read_text(config).map_err(|error| ExitError::new(Exit::of(&error), error))?;
    let begun = begin(&Source { name: config, text: &text })?;
    let file = Source { name: config, text: &begun.text };
    let policy = edit::read(&file)?;
    let service = find(&policy, &edit::add_name(&file, name, wanted)?.services)?;
    Ok(Named { policy, service, is_first: !begun.services.is_empty() })
}

fn find(policy: &Policy, names: &[String]) -> Result<Service, ExitError> {
    let is_named = |service: &&Service| names.iter().any(|name| service.name.as_str() == name);
    let changed = || ExitError::new(Exit::Conflict, "forwarder.toml was changed meanwhile; run this again");
    policy.services.iter().find(is_named).cloned().ok_or_else(changed)
}

/// Prints how far it has come; the exit code for that.
fn report(title: &str, progress: &Progress) -> Result<Exit, ExitError> {
    let kinds = [("ok", &progress.proven), ("note", &progress.notes), ("missing", &progress.missing)];
    let lines =
        kinds.iter().flat_map(|(kind, lines)| lines.iter().map(move |line| format!("  {kind}: {line}\n")));
    let lines: String = lines.collect();
    print(&format!("{title}\n{lines}"))?;
    Ok(if progress.missing.is_empty() { Exit::Ok } else { Exit::Degraded })
}

fn list(ports: &[policy::PublicPorts]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<EditError> for ExitError {
    fn from(error: EditError) -> Self {
        let exit = match error {
            EditError::Invalid(_) | EditError::WouldBeInvalid { .. } | EditError::Unreadable { .. } => {
                Exit::Invalid
            }
            EditError::NoWebService { .. }
            | EditError::SeveralWebServices { .. }
            | EditError::NoSuchService { .. } => Exit::Usage,
            EditError::Exists { .. } | EditError::HasNames { .. } => Exit::Conflict,
            EditError::NotPublished { .. } => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests;

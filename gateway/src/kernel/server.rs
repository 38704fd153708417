//! The helper's side: one request after the other, until the daemon is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rtnetlink::Handle;

use super::netlink::{Changes, Netlink};
use super::protocol::{Failure, FailureKind, Numbered, Reply, Request, Routing};
use super::scope::{Removal, Scope};
use super::{conntrack, devices, flows, frame, links, nft, routes, sysctl, texts, watch};
use crate::memory;

/// A plan with the device, the protocol number and the table that the scope gives it.
pub(super) struct Placed<'a> {
    pub(super) scope: &'a Scope,
    pub(super) routing: &'a Routing,
}

/// Serves the daemon at the other end of `socket`, returning when it closes.
///
/// # Errors
/// When netlink or the socket fails, or the daemon does not keep to the order of requests; the
/// helper then ends, and the daemon with it.
pub fn serve(socket: &UnixStream) -> std::io::Result<()> {
    let netlink = Netlink::connect()?;
    let Some((mut scope, mut last)) = begin(socket)? else { return Ok(()) };
    while let Some((Numbered { sequence, body: request }, fds)) = frame::receive::<Numbered<Request>>(socket)?
    {
        if sequence <= last {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a request out of order"));
        }
        last = sequence;
        let is_large = matches!(
            request,
            Request::CheckRuleset { .. } | Request::ApplyRuleset { .. } | Request::List { .. }
        );
        let answer = scope.judge(request).and_then(|request| {
            answer(&netlink, &mut scope, request, (fds.into_iter().next(), nft::HELPERS))
        });
        let (body, fds) = answer.unwrap_or_else(|failure| (Reply::Failed(failure), Vec::new()));
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let reply = Numbered { sequence, body };
        frame::send(socket, &reply, &fds)?;
        // Rulesets are large, and rare.
        if is_large {
            drop(reply);
            memory::trim_heap();
        }
    }
    Ok(())
}

/// The scope, from the first request, and that request's number.
fn begin(socket: &UnixStream) -> std::io::Result<Option<(Scope, u64)>> {
    let refused = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    match frame::receive::<Numbered<Request>>(socket)? {
        None => Ok(None),
        Some((Numbered { sequence, body: Request::Begin { scope } }, _)) => {
            let scope = scope.checked().map_err(|failure| refused(failure.message))?;
            frame::send(socket, &Numbered { sequence, body: Reply::Done }, &[])?;
            Ok(Some((scope, sequence)))
        }
        Some(_) => Err(refused("the first request must set the scope".to_owned())),
    }
}

/// Does one request at once, for commands that need no daemon; there is no time limit for `nft`.
///
/// # Errors
/// What the request itself fails with, and [`FailureKind::Refused`] outside the scope.
pub fn answer_once(scope: &Scope, request: Request) -> Result<Reply, Failure> {
    let request = scope.judge(request)?;
    let netlink =
        Netlink::connect().map_err(|error| Failure::new(FailureKind::Kernel, format!("netlink: {error}")))?;
    answer(&netlink, &mut scope.clone(), request, (None, None)).map(|(reply, _)| reply)
}

fn answer(
    netlink: &Netlink,
    scope: &mut Scope,
    request: Request,
    (fd, limit): (Option<OwnedFd>, nft::Limit),
) -> Result<(Reply, Vec<OwnedFd>), Failure> {
    let reply = match request {
        Request::Begin { .. } => Ok(Reply::Done),
        Request::Widen => {
            texts::widen(scope);
            Ok(Reply::Scope(scope.clone()))
        }
        Request::Probe => devices::probe().map(|()| Reply::Done),
        Request::CheckRuleset { ruleset } => nft::check(&ruleset, limit).map(|()| Reply::Done),
        Request::ApplyRuleset { ruleset } => nft::apply(&ruleset, limit).map(|()| Reply::Done),
        Request::List { what } => nft::list(what, limit).map(|json| Reply::Listed { json }),
        Request::OpenTun => {
            return devices::open_tun(&scope.device).map(|fd| (Reply::Descriptors, vec![fd]));
        }
        Request::OpenUdp { port, mark } => {
            return devices::open_udp(port, mark).map(|fd| (Reply::Descriptors, vec![fd]));
        }
        Request::MarkUdp { mark } => match fd {
            Some(socket) => devices::mark_udp(socket, mark).map(|()| Reply::Done),
            None => Err(Failure::new(FailureKind::Refused, "no socket came with the request")),
        },
        Request::Watch => return watch::open().map(|fds| (Reply::Descriptors, fds)),
        Request::AddRouting { routing } => add_routing(netlink, &Placed { scope, routing: &routing }),
        Request::ApplyRouting { routing } => apply_routing(netlink, &Placed { scope, routing: &routing }),
        Request::RemoveRouting => remove_routing(netlink, scope),
        Request::FollowUplinks { uplinks } => super::uplinks::follow(netlink, scope, &uplinks),
        Request::Resolve { neighbours } => links::resolve(netlink, &neighbours).map(|()| Reply::Done),
        Request::ForgetFlows { marks } => conntrack::forget(&marks).map(|()| Reply::Done),
        Request::Flows { query } => {
            flows::list(&query).map(|(flows, matched)| Reply::Flows { flows, matched })
        }
        Request::ReadSysctls { paths } => sysctl::read(&paths).map(|values| Reply::Sysctls { values }),
        Request::WriteSysctls { values } => {
            sysctl::write(&values).map(|switches| Reply::Unwritable { switches })
        }
    };
    reply.map(|reply| (reply, Vec::new()))
}

fn add_routing(netlink: &Netlink, placed: &Placed<'_>) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        match add_missing(handle, placed, &mut changes).await {
            Ok(_) => Ok(Reply::Changed { lines: changes.lines }),
            Err(failure) => match changes.undo_all(handle).await {
                Ok(()) => Err(failure),
                Err(worse) => Err(Failure::new(failure.kind, format!("{failure}; {worse}"))),
            },
        }
    })
}

async fn add_missing(handle: &Handle, placed: &Placed<'_>, changes: &mut Changes) -> Result<u32, Failure> {
    let index = links::configure(handle, placed, changes).await?;
    routes::add_missing(handle, index, placed, changes).await?;
    Ok(index)
}

fn apply_routing(netlink: &Netlink, placed: &Placed<'_>) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        let index = add_missing(handle, placed, &mut changes).await?;
        routes::remove_superfluous(handle, placed, &mut changes).await?;
        if links::remove_superfluous(handle, index, placed, &mut changes).await? {
            // What the kernel removed along with it is added again as it was, which is no change.
            add_missing(handle, placed, &mut Changes::default()).await?;
        }
        Ok(Reply::Changed { lines: changes.lines })
    })
}

fn remove_routing(netlink: &Netlink, scope: &Scope) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        let is_shown = routes::lead_into(handle, scope).await?;
        routes::remove(handle, scope, &mut changes).await?;
        if scope.removal == Removal::Shown && !is_shown {
            changes.lines.push(format!(
                "  device {} was left alone: nothing shows that it is the gateway's",
                scope.device
            ));
        } else {
            links::remove(handle, &scope.device, &mut changes).await?;
        }
        Ok(Reply::Changed { lines: changes.lines })
    })
}

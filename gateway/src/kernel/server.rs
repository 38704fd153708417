//! The helper's side: one wish after the other, until the daemon is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rtnetlink::Handle;

use super::netlink::{Changes, Netlink};
use super::protocol::{Failure, FailureKind, Reply, Request, Routing};
use super::{conntrack, devices, flows, frame, links, nft, routes, sysctl, watch};
use crate::memory;

/// Serves the daemon at the other end of `socket`, returning when it closes.
///
/// # Errors
/// When netlink or the socket fails; the helper then ends, and the daemon with it.
pub fn serve(socket: &UnixStream) -> std::io::Result<()> {
    let netlink = Netlink::connect()?;
    while let Some((request, fds)) = frame::receive::<Request>(socket)? {
        let is_large = matches!(
            request,
            Request::CheckRuleset { .. } | Request::ApplyRuleset { .. } | Request::List { .. }
        );
        let (reply, fds) = match answer(&netlink, request, fds.into_iter().next(), nft::OF_HELPER) {
            Ok(answer) => answer,
            Err(failure) => (Reply::Failed(failure), Vec::new()),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        frame::send(socket, &reply, &fds)?;
        // Rulesets are large, and rare.
        if is_large {
            drop(reply);
            memory::give_back();
        }
    }
    Ok(())
}

/// Does one wish at once, for commands that need no daemon; `nft` may take as long as it takes.
///
/// # Errors
/// What the wish itself fails with.
pub fn answer_once(request: Request) -> Result<Reply, Failure> {
    let netlink =
        Netlink::connect().map_err(|error| Failure::new(FailureKind::Kernel, format!("netlink: {error}")))?;
    answer(&netlink, request, None, None).map(|(reply, _)| reply)
}

fn answer(
    netlink: &Netlink,
    request: Request,
    fd: Option<OwnedFd>,
    limit: nft::Limit,
) -> Result<(Reply, Vec<OwnedFd>), Failure> {
    let reply = match request {
        Request::Probe => devices::probe().map(|()| Reply::Done),
        Request::CheckRuleset { ruleset } => nft::check(&ruleset, limit).map(|()| Reply::Done),
        Request::ApplyRuleset { ruleset } => nft::apply(&ruleset, limit).map(|()| Reply::Done),
        Request::List { what } => nft::list(what, limit).map(|json| Reply::Listed { json }),
        Request::OpenTun { name } => {
            return devices::open_tun(&name).map(|fd| (Reply::Descriptors, vec![fd]));
        }
        Request::OpenUdp { port, mark } => {
            return devices::open_udp(port, mark).map(|fd| (Reply::Descriptors, vec![fd]));
        }
        Request::MarkUdp { mark } => match fd {
            Some(socket) => devices::mark_udp(socket, mark).map(|()| Reply::Done),
            None => Err(Failure::new(FailureKind::Refused, "no socket came with the request")),
        },
        Request::Watch => return watch::open().map(|fds| (Reply::Descriptors, fds)),
        Request::AddRouting { routing } => add_routing(netlink, &routing),
        Request::ApplyRouting { routing } => apply_routing(netlink, &routing),
        Request::RemoveRouting { device, protocol } => remove_routing(netlink, &device, protocol),
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

fn add_routing(netlink: &Netlink, routing: &Routing) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        match add_missing(handle, routing, &mut changes).await {
            Ok(_) => Ok(Reply::Changed { lines: changes.lines }),
            Err(failure) => match changes.take_back(handle).await {
                Ok(()) => Err(failure),
                Err(worse) => Err(Failure::new(failure.kind, format!("{failure}; {worse}"))),
            },
        }
    })
}

async fn add_missing(handle: &Handle, routing: &Routing, changes: &mut Changes) -> Result<u32, Failure> {
    let index = links::configure(handle, routing, changes).await?;
    routes::add_missing(handle, index, routing, changes).await?;
    Ok(index)
}

fn apply_routing(netlink: &Netlink, routing: &Routing) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        let index = add_missing(handle, routing, &mut changes).await?;
        routes::remove_superfluous(handle, routing, &mut changes).await?;
        links::remove_superfluous(handle, index, routing, &mut changes).await?;
        Ok(Reply::Changed { lines: changes.lines })
    })
}

fn remove_routing(netlink: &Netlink, device: &str, protocol: u8) -> Result<Reply, Failure> {
    netlink.run(async |handle| {
        let mut changes = Changes::default();
        routes::remove(handle, device, protocol, &mut changes).await?;
        links::remove(handle, device, &mut changes).await?;
        Ok(Reply::Changed { lines: changes.lines })
    })
}

//! Ends the flows of a service, by the conntrack mark that all of them carry.

use std::io;

use rtnetlink::sys::Socket;

use super::ctnetlink::{ERROR, Order, connect, message, outcome, request};
use super::protocol::{Failure, FailureKind};

/// Deletes every conntrack entry with one of `marks`; entries of others are left alone.
pub(super) fn forget(marks: &[u32]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(FailureKind::Kernel, format!("ending flows: {error}"));
    if marks.contains(&0) {
        // Unmarked flows belong to other programs.
        return Err(Failure::new(FailureKind::Refused, "flows without a mark are not ours to end"));
    }
    let socket = connect().map_err(failed)?;
    for &mark in marks {
        delete(&socket, mark).map_err(failed)?;
    }
    Ok(())
}

fn delete(socket: &Socket, mark: u32) -> io::Result<()> {
    socket.send(&request(Order::Delete, mark, u32::MAX), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    match message(&answer) {
        Some((ERROR, body, _)) => outcome(body).or_else(|error| {
            // There was no such flow.
            if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_others_are_refused() {
        assert_eq!(forget(&[0x4357_0001, 0]).unwrap_err().kind, FailureKind::Refused);
    }
}

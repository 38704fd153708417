//! One DNS message and its answer over TCP (RFC 7766), where no answer is cut off and none comes
//! from a forged source.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use policy::{Host, HostPort};

use super::failure::Failure;

/// For the connection, and then for each read and write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most addresses of a server that are tried.
const MOST: usize = 4;

/// Sends a message to a server and waits for the answer. It blocks, for 20 s at most where the
/// server's name has addresses that do not answer.
///
/// # Errors
/// [`Failure::Unavailable`]
pub(super) fn exchange(server: &HostPort, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::unavailable(format!("{server}: {error}"));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses(server).map_err(failed)?.into_iter().take(MOST) {
        match with(address, message) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn addresses(server: &HostPort) -> io::Result<Vec<SocketAddr>> {
    match &server.host {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, server.port)]),
        Host::Name(name) => Ok((name.as_ref(), server.port).to_socket_addrs()?.collect()),
    }
}

fn with(address: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

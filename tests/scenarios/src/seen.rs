//! Servers that answer with the client's address as they see it, and clients that ask them.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Node, TcpServer, UdpServer, read_all, until};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Answers every connection with the client's address and the port it came to: `203.0.113.10 7000`.
pub fn serve_seen_tcp(node: &Node, address: &str) -> Result<TcpServer> {
    TcpServer::start(node.tcp_listener(address)?, |mut stream| {
        let (client, port) = (stream.peer_addr()?.ip(), stream.local_addr()?.port());
        stream.write_all(format!("{client} {port}").as_bytes())
    })
}

/// A program behind Caddy that replies with the client's address, as Caddy reports it.
pub fn forwarded_for(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
    let header = request.lines().find_map(|line| line.strip_prefix("X-Forwarded-For: "));
    let body = header.unwrap_or("none");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let is_head = request.starts_with("HEAD ");
    stream.write_all(if is_head { head } else { format!("{head}{body}") }.as_bytes())
}

/// As [`serve_seen_tcp`], by UDP.
pub fn serve_seen_udp(node: &Node, address: &str) -> Result<UdpServer> {
    let socket = node.udp_socket(address)?;
    let port = socket.local_addr()?.port();
    UdpServer::start(socket, move |from, _| format!("{} {port}", from.ip()).into_bytes())
}

/// What such a server answers over TCP.
pub fn ask_tcp(node: &Node, address: &str) -> Result<String> {
    let mut stream = node.tcp_connect(address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(String::from_utf8(read_all(&mut stream, 128)?)?)
}

/// What such a server answers over UDP; the question is repeated until an answer comes.
pub fn ask_udp(node: &Node, address: &str) -> Result<String> {
    let socket = node.udp_socket(if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    until(LIMIT, &format!("an answer of {address}"), || ask(&socket, address).map(Some))
}

fn ask(socket: &UdpSocket, address: &str) -> Result<String> {
    socket.send_to(b"who?", address)?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8(buffer.get(..length).context("a long answer")?.to_vec())?)
}

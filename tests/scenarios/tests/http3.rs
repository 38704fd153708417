//! HTTP/3 from an internet client to Caddy: QUIC over udp/443 through the edge, the tunnel and the forwarder.

use std::fs;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Buf;
use h3_quinn::quinn;
use lab::{Lab, Node, Topology, pattern, scenario};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use scenarios::{Caddy, Site};

const ADDRESS: &str = "192.0.2.2:443";

#[test]
fn a_browser_fetches_pages_and_films_over_http3() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, caddy) = site_with_http3(lab)?;
        let film = pattern(1, 3_000_000);
        fs::write(caddy.root().join("film"), &film)?;
        site.start()?;
        let client = lab.node("client")?;
        let pages = fetch(&client, &caddy.certificate(), &["/whoami", "/film", "/whoami"])?;
        // No header names the client to Caddy: there is no PROXY protocol for QUIC.
        ensure!(pages.first().is_some_and(|page| page == b"127.0.0.1"), "{:?}", pages.first());
        ensure!(pages.get(1) == Some(&film), "the film came wrong");
        Ok(())
    })
}

#[test]
fn the_same_page_comes_by_tcp_and_by_quic() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, caddy) = site_with_http3(lab)?;
        site.start()?;
        let client = lab.node("client")?;
        ensure!(caddy.fetch(&client, "192.0.2.2", "/whoami")? == "203.0.113.10");
        fetch(&client, &caddy.certificate(), &["/whoami"]).map(drop)
    })
}

/// The worked example whose edge publishes udp/443 as well, and whose Caddy speaks HTTP/3 behind it.
fn site_with_http3(lab: &Lab) -> Result<(Site<'_>, Caddy)> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(
        "[[publish]]\nname = \"http3\"\nprotocol = [\"udp\"]\nlisten = \"443\"\ntarget = \"192.168.88.2:443\"",
    );
    site.forwarder_config.append(
        "[[service]]\nname = \"http3\"\nprotocol = [\"udp\"]\nmatch = \"192.168.88.2:443\"\nupstream = \"127.0.0.1:9443\"",
    );
    let caddy = Caddy::start(&site.origin)?;
    Ok((site, caddy))
}

/// Fetches paths over one QUIC connection, one after another.
fn fetch(client: &Node, certificate: &Path, paths: &[&str]) -> Result<Vec<Vec<u8>>> {
    let socket = client.udp_socket("0.0.0.0:0")?;
    let config = quic_config(certificate)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime)?;
        let fetched = fetch_over(&endpoint, config, paths);
        tokio::time::timeout(Duration::from_secs(60), fetched).await.context("no answer within a minute")?
    })
}

async fn fetch_over(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    paths: &[&str],
) -> Result<Vec<Vec<u8>>> {
    let to: SocketAddr = ADDRESS.parse()?;
    let connection = endpoint.connect_with(config, to, "emby.example.com")?.await?;
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let driven = tokio::spawn(async move { poll_fn(|context| driver.poll_close(context)).await });
    let mut pages = Vec::new();
    for path in paths {
        let request = http::Request::get(format!("https://emby.example.com{path}")).body(())?;
        let mut stream = requests.send_request(request).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        ensure!(status.is_success(), "{path}: {status}");
        let mut page = Vec::new();
        while let Some(mut data) = stream.recv_data().await? {
            page.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        pages.push(page);
    }
    drop(requests);
    driven.abort();
    Ok(pages)
}

fn quic_config(certificate: &Path) -> Result<quinn::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut tls = versions.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

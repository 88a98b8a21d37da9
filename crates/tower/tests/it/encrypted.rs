//! The feed over TLS: a terminator in front of the feed server.
use crate::server::{Server, soon};
use portcullis_tower::wire::{SessionId, Target};
use portcullis_tower::{Config, Rule, Verifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const CA: &[u8] = include_bytes!("tls/ca.pem");
const LEAF: &[u8] = include_bytes!("tls/leaf.pem");
const KEY: &[u8] = include_bytes!("tls/leaf.key");

/// Takes TLS off; returns its port.
async fn terminator(server: &Server) -> u16 {
    let leaf = vec![CertificateDer::from_pem_slice(LEAF).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf, PrivateKeyDer::from_pem_slice(KEY).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = server.issuer.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    port
}

fn trusting(ca: &[u8]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn follows_over_tls_and_only_whom_it_trusts() {
    let server = Server::start().await;
    let port = terminator(&server).await;
    let at = |host: &str| {
        let config: Config = server.config();
        config.feed_url(format!("https://{host}:{port}/v1/feed"))
    };
    for host in ["localhost", "127.0.0.1"] {
        let verifier = Verifier::start(at(host).tls(trusting(CA))).unwrap();
        assert!(verifier.wait_fresh(Duration::from_secs(5)).await, "{host}");
        let token = server.token(1);
        assert!(verifier.verify(&token, &Rule::default()).await.is_ok());
        let rev = server.end(Target::Session(SessionId::from_bits(1)));
        soon("applied", || verifier.readiness().applied == rev).await;
        assert!(verifier.verify(&token, &Rule::default()).await.is_err());
    }
    // the public roots do not vouch for it
    let stranger = Verifier::start(at("localhost")).unwrap();
    assert!(!stranger.wait_fresh(Duration::from_millis(300)).await);
    assert!(!stranger.readiness().connected);
}

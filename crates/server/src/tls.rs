//! The server's own certificate: read, checked, and read again while it serves.
//!
//! A file that is broken when the server starts keeps it from starting. One that is broken later changes nothing but the log:
//! the certificate in force goes on. Files are looked at every [`LOOK`], and at once on SIGHUP, and taken when their bytes
//! differ; so whatever renews certificates needs to know nothing of the server.
use portcullis_app::real;
use portcullis_http::{Tls, Traffic};
use portcullis_wire::{Digest, Time};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use x509_cert::der::Decode as _;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// The largest file that is read, in bytes; a chain is a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// So long before its end a certificate is warned of, in milliseconds.
const WARN_BEFORE: i64 = 14 * 24 * 3_600_000;
/// How often it is warned of, in rounds of [`LOOK`]: every six hours.
const WARN_ROUNDS: u32 = 720;

/// The two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate and its chain (PEM, leaf first).
    pub cert: PathBuf,
    /// Its private key (PEM: PKCS#8, SEC1 or PKCS#1).
    pub key: PathBuf,
}

/// What is wrong with a certificate or its key, in words.
#[derive(Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for TlsError {}

/// What the files hold.
pub struct Loaded {
    config: ServerConfig,
    /// When the leaf expires.
    pub expires: Time,
    /// Of both files' bytes.
    digest: Digest,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Files {
    /// Reads and checks both.
    ///
    /// # Errors
    /// A file that cannot be read or holds nothing of its kind, a key that is not the certificate's, a leaf that has expired.
    pub fn load(&self) -> Result<Loaded, TlsError> {
        let (cert, key) = (read("tls_cert", &self.cert)?, read("tls_key", &self.key)?);
        let digest = Digest::of(&[&Digest::of(&cert).0[..], &Digest::of(&key).0[..]].concat());
        let wrong = |setting: &str, path: &PathBuf, why: &dyn fmt::Display| {
            TlsError(format!("{setting} = {}: {why}", path.display()))
        };
        let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&cert).collect();
        let chain = chain.map_err(|error| wrong("tls_cert", &self.cert, &error))?;
        let leaf = chain.first().ok_or_else(|| {
            wrong(
                "tls_cert",
                &self.cert,
                &"there is no certificate in it; PEM is expected (-----BEGIN CERTIFICATE-----)",
            )
        })?;
        let expires = expiry(leaf).map_err(|why| wrong("tls_cert", &self.cert, &why))?;
        if expires <= real::wall() {
            return Err(wrong("tls_cert", &self.cert, &format!("the certificate expired at {expires}; renew it")));
        }
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| match error {
            pem::Error::NoItemsFound => wrong(
                "tls_key",
                &self.key,
                &"there is no private key in it; PEM is expected, without a passphrase (-----BEGIN PRIVATE KEY-----)",
            ),
            other => wrong("tls_key", &self.key, &other),
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        // TLS 1.2 and 1.3, with the suites that rustls holds for safe.
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| TlsError(error.to_string()))?;
        let config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong("tls_key", &self.key, &format!("it is not the key of the certificate in {}", self.cert.display()))
            }
            other => wrong("tls_key", &self.key, &other),
        })?;
        Ok(Loaded { config, expires, digest })
    }

    /// Puts a renewed certificate in the place of the one in force, for as long as the server runs.
    pub async fn follow(self, tls: Tls, mut digest: Digest, mut expires: Time, traffic: Arc<Traffic>) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be received; certificates are looked at by time alone");
                return self.follow_by_time(tls, digest, expires, traffic).await;
            }
        };
        let mut rounds = 0;
        loop {
            warn_of_end(expires, rounds);
            rounds += 1;
            let told = tokio::time::timeout(LOOK, hangup.recv()).await.is_ok();
            (digest, expires) = self.look(&tls, digest, expires, &traffic, told).await;
        }
    }

    async fn follow_by_time(self, tls: Tls, mut digest: Digest, mut expires: Time, traffic: Arc<Traffic>) {
        for rounds in 0.. {
            warn_of_end(expires, rounds);
            tokio::time::sleep(LOOK).await;
            (digest, expires) = self.look(&tls, digest, expires, &traffic, false).await;
        }
    }

    /// One look; what is in force after it.
    async fn look(&self, tls: &Tls, digest: Digest, expires: Time, traffic: &Traffic, told: bool) -> (Digest, Time) {
        let files = self.clone();
        let loaded = tokio::task::spawn_blocking(move || files.load()).await;
        match loaded {
            Ok(Ok(loaded)) if loaded.digest == digest => {
                if told {
                    tracing::info!(%expires, "the certificate on disk is the one in force");
                }
                (digest, expires)
            }
            Ok(Ok(loaded)) => {
                let in_force = (loaded.digest, loaded.expires);
                tracing::info!(expires = %loaded.expires, "a new certificate is in force");
                loaded.serve_by(tls, traffic);
                in_force
            }
            Ok(Err(why)) => {
                tracing::error!(%why, "the certificate on disk cannot be used; the old one stays in force");
                (digest, expires)
            }
            Err(error) => {
                tracing::error!(%error, "the certificate could not be looked at");
                (digest, expires)
            }
        }
    }
}

impl Loaded {
    /// Serves with it from the beginning, and what [`Files::follow`] needs to go on from there.
    pub fn begin(self, traffic: &Traffic) -> (Tls, Digest, Time) {
        traffic.certificate_expires_at_s.store(self.expires.secs(), Ordering::Relaxed);
        (Tls::new(self.config), self.digest, self.expires)
    }

    fn serve_by(self, tls: &Tls, traffic: &Traffic) {
        traffic.certificate_expires_at_s.store(self.expires.secs(), Ordering::Relaxed);
        tls.replace(self.config);
    }
}

/// Whether a certificate that ends then is to be warned of now, in this round.
fn ends_soon(expires: Time, now: Time, rounds: u32) -> bool {
    rounds.is_multiple_of(WARN_ROUNDS) && expires.since(now) < WARN_BEFORE
}

fn warn_of_end(expires: Time, rounds: u32) {
    if ends_soon(expires, real::wall(), rounds) {
        tracing::warn!(%expires, "the TLS certificate expires soon: renew it; the files are looked at every 30 s");
    }
}

fn read(setting: &str, path: &PathBuf) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE => {
            Err(TlsError(format!("{setting} = {}: larger than 1 MiB, which no certificate or key is", path.display())))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(TlsError(format!("{setting} = {}: cannot be read: {error}", path.display()))),
    }
}

/// `notAfter` of a certificate (RFC 5280 §4.1.2.5).
fn expiry(leaf: &CertificateDer<'_>) -> Result<Time, String> {
    let parsed = x509_cert::Certificate::from_der(leaf).map_err(|error| format!("it is no certificate: {error}"))?;
    let since = parsed.tbs_certificate.validity.not_after.to_unix_duration();
    Ok(Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
    }

    #[test]
    fn an_end_is_warned_of_for_two_weeks_and_not_every_time() {
        let (now, day) = (Time(1_800_000_000_000), 86_400_000);
        for (days, soon) in [(-1, true), (0, true), (13, true), (14, false), (90, false)] {
            assert_eq!(ends_soon(now.plus(days * day), now, 0), soon, "{days}");
        }
        assert_eq!((0..1441).filter(|round| ends_soon(now, now, *round)).count(), 3, "every six hours of rounds");
    }

    /// What a renewal does, step by step: the look that comes every 30 s is this one.
    #[tokio::test]
    async fn a_look_takes_what_is_new_and_good() {
        let dir = std::env::temp_dir().join(format!("portcullis-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let files = Files { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        let put = |cert: &str, key: &str| {
            std::fs::copy(fixture(cert), &files.cert).unwrap();
            std::fs::copy(fixture(key), &files.key).unwrap();
        };
        put("one.pem", "one.key");
        let traffic = Traffic::default();
        let (tls, first, expires) = files.load().unwrap().begin(&traffic);
        assert_eq!(files.look(&tls, first, expires, &traffic, false).await, (first, expires), "nothing is new");
        put("two.pem", "one.key");
        assert_eq!(files.look(&tls, first, expires, &traffic, false).await, (first, expires), "half-way");
        put("expired.pem", "one.key");
        assert_eq!(files.look(&tls, first, expires, &traffic, false).await, (first, expires), "expired");
        put("two.pem", "two.key");
        let (second, expires) = files.look(&tls, first, expires, &traffic, false).await;
        assert_ne!(second, first);
        assert_eq!(traffic.certificate_expires_at_s.load(Ordering::Relaxed), expires.secs());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_way_to_be_wrong_has_its_words() {
        let files = |cert: &str, key: &str| Files { cert: fixture(cert), key: fixture(key) };
        assert!(files("one.pem", "one.key").load().unwrap().expires > Time(4_000_000_000_000));
        assert!(files("two.pem", "two.key").load().is_ok(), "an RSA key, PKCS#1");
        assert!(files("one.pem", "one-sec1.key").load().is_ok(), "the same key, SEC1");
        for (cert, key, words) in [
            ("nothing.pem", "one.key", "tls_cert = "),
            ("one.pem", "nothing.key", "cannot be read"),
            ("one.key", "one.key", "there is no certificate in it"),
            ("one.pem", "one.pem", "there is no private key in it"),
            ("one.pem", "two.key", "it is not the key of the certificate"),
            ("expired.pem", "one.key", "the certificate expired at 2001-"),
            ("broken.pem", "one.key", "tls_cert = "),
        ] {
            let why = files(cert, key).load().unwrap_err().to_string();
            assert!(why.contains(words), "{cert} {key}: {why}");
        }
    }
}

//! Whose word counts about who a called server is, besides the authorities that browsers trust.
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::fmt;

/// More certificates in one file than this are no list of an organisation's own authorities.
const MAX_CERTIFICATES: usize = 256;

/// Certificates of private authorities.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

impl Authorities {
    /// No other.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of a PEM file (RFC 7468 §5): one certificate or more, each of which can be an authority.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        let mut found = vec![];
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bytes) {
            let certificate = certificate.map_err(|error| format!("it does not read as PEM: {error}"))?;
            roots
                .add(certificate.clone())
                .map_err(|error| format!("it has a certificate that does not read: {error}"))?;
            found.push(certificate);
            if found.len() > MAX_CERTIFICATES {
                return Err(format!("it has more than {MAX_CERTIFICATES} certificates"));
            }
        }
        if found.is_empty() {
            return Err("there is no certificate in it; PEM is expected".into());
        }
        Ok(Self(found))
    }

    /// Them, in DER.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|certificate| certificate.to_vec()).collect()
    }

    /// The authorities that browsers trust (Mozilla's), and these.
    pub(crate) fn with_public(&self) -> Result<rustls::RootCertStore, String> {
        let mut roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        for certificate in &self.0 {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &[u8] = include_bytes!("../../testkit/src/tls/ca.pem");

    #[test]
    fn a_file_has_one_or_more_and_nothing_broken() {
        let one = Authorities::from_pem(PEM).unwrap();
        let two = Authorities::from_pem(&[PEM, PEM].concat()).unwrap();
        assert_eq!((format!("{one:?}"), format!("{two:?}")), ("Authorities(1)".into(), "Authorities(2)".into()));
        let public = Authorities::none().with_public().unwrap().len();
        assert_eq!(one.with_public().unwrap().len(), public + 1);
        let broken = String::from_utf8_lossy(PEM).replacen("MII", "MIJ", 1);
        for (wrong, why) in [
            (&b""[..], "no certificate"),
            (b"nonsense", "no certificate"),
            (broken.as_bytes(), "does not read"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA", "does not read"),
            (&PEM.repeat(257), "more than 256"),
        ] {
            let said = Authorities::from_pem(wrong).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}

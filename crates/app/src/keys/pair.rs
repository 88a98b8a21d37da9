//! Key pairs of the three algorithms, behind one face.
use super::KeyError;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use portcullis_wire::jws::{Algorithm, Jwk};
use portcullis_wire::{KeyId, SecretBytes};
use std::fmt;

/// A private key, ready to sign.
pub(super) enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?})", self.algorithm())
    }
}

/// A new private key as PKCS#8 (RFC 5208, RFC 5958). RSA keys have 3072 bits and take up to seconds: never to be made by a
/// task that serves requests.
pub(super) fn generate(algorithm: Algorithm) -> Result<SecretBytes, KeyError> {
    let (random, library) = (SystemRandom::new(), |_| KeyError::Library);
    Ok(match algorithm {
        Algorithm::Es256 => {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(library)?;
            SecretBytes::new(made.as_ref())
        }
        Algorithm::Rs256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa3072).map_err(library)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(library)?;
            SecretBytes::new(der.as_ref())
        }
        Algorithm::Ed25519 => {
            let made = Ed25519KeyPair::generate_pkcs8(&random).map_err(library)?;
            SecretBytes::new(made.as_ref())
        }
    })
}

impl Pair {
    pub(super) fn open(algorithm: Algorithm, pkcs8: &SecretBytes) -> Option<Self> {
        let pkcs8 = pkcs8.expose();
        Some(match algorithm {
            Algorithm::Es256 => Self::Es256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?),
            Algorithm::Rs256 => Self::Rs256(RsaKeyPair::from_pkcs8(pkcs8).ok()?),
            Algorithm::Ed25519 => Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).ok()?),
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Es256(_) => Algorithm::Es256,
            Self::Rs256(_) => Algorithm::Rs256,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The public half.
    pub(super) fn jwk(&self, kid: KeyId) -> Option<Jwk> {
        match self {
            Self::Es256(pair) => Jwk::es256(kid, pair.public_key().as_ref()),
            Self::Rs256(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref())?;
                Jwk::rs256(kid, modulus, exponent)
            }
            Self::Ed25519(pair) => Jwk::ed25519(kid, pair.public_key().as_ref()),
        }
    }

    pub(super) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (random, library) = (SystemRandom::new(), |_| KeyError::Library);
        Ok(match self {
            Self::Es256(pair) => pair.sign(&random, input).map_err(library)?.as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).map_err(library)?;
                signature
            }
            Self::Ed25519(pair) => pair.try_sign(input).map_err(library)?.as_ref().to_vec(),
        })
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 appendix A.1.1, in DER), without zeros in front.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (both, rest) = element(der, 0x30)?;
    let (modulus, both) = element(both, 0x02)?;
    let (exponent, both) = element(both, 0x02)?;
    let plain = |number: &[u8]| number.iter().take_while(|byte| **byte == 0).count();
    (rest.is_empty() && both.is_empty()).then(|| (&modulus[plain(modulus)..], &exponent[plain(exponent)..]))
}

/// The content of the DER element with this tag, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, der) = der.split_first()?;
    let (length, der) = der.split_first()?;
    let (length, der) = match length {
        0..=0x7f => (usize::from(*length), der),
        0x81..=0x83 => {
            let (bytes, der) = der.split_at_checked(usize::from(length - 0x80))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), der)
        }
        _ => return None,
    };
    (*found == tag).then(|| der.split_at_checked(length))?
}

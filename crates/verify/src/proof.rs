//! Who shows a token: whether they hold the key that it is bound to (RFC 9449).
//!
//! [`Holder`] is an argument of every judgement, so that nobody forgets to ask. [`Holder::Key`] takes a [`ProvenKey`], and those are made here
//! alone: by a proof whose signature, request and age were checked.
use crate::Reason;
use crate::keys::parse_one;
use portcullis_feed::Mono;
use portcullis_wire::claims::Confirmation;
use portcullis_wire::dpop::{BadProof, Call, Proof, REMEMBERED};
use portcullis_wire::{Digest, Time, b64};
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

/// The thumbprint of a key whose private part signed a proof for this very request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenKey(Digest);

impl ProvenKey {
    /// Its thumbprint (RFC 7638).
    pub fn thumbprint(&self) -> Digest {
        self.0
    }
}

/// How a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// By `Authorization: Bearer`: whoever has it, may use it, unless it is bound to a key.
    Bearer,
    /// By `Authorization: DPoP`, with a proof of this key.
    Key(ProvenKey),
    /// Not at all: somebody asks about it (introspection) or ends it (revocation), and serves nobody by it.
    AskedAbout,
}

impl Holder {
    /// Whether a token that is bound like this may be shown so (RFC 9449 §7.1, §7.2): a bound one only with a proof of its key, and one that is
    /// not bound only as what it is.
    ///
    /// # Errors
    /// [`Reason::Bound`], [`Reason::NotItsKey`].
    pub fn fits(&self, bound: Option<&Confirmation>) -> Result<(), Reason> {
        match (self, bound) {
            (Self::Bearer, None) | (Self::AskedAbout, _) => Ok(()),
            (Self::Bearer, Some(_)) => Err(Reason::Bound),
            (Self::Key(key), Some(bound)) if b64::decode_array(&bound.jkt).map(Digest) == Some(key.0) => Ok(()),
            (Self::Key(_), _) => Err(Reason::NotItsKey),
        }
    }
}

/// A proof that was signed by its key for this request; whether it is of now, and the first of its id, is yet to be asked.
#[derive(Debug)]
pub struct Signed<'a> {
    proof: Proof<'a>,
}

/// Reads a proof, and checks its signature and its request (RFC 9449 §4.3, all but the age and the replay).
///
/// # Errors
/// [`BadProof`].
pub fn signed<'a>(text: &'a str, call: &Call<'_>) -> Result<Signed<'a>, BadProof> {
    let proof = Proof::parse(text)?;
    proof.fits(call)?; // what is cheap comes first
    let key = parse_one(proof.key.as_jwk()).ok_or(BadProof::Signature)?;
    if !key.verifies(proof.key.algorithm(), proof.signing_input.as_bytes(), &proof.signature) {
        return Err(BadProof::Signature);
    }
    Ok(Signed { proof })
}

/// A key that was proven, and the id that must not come again.
#[derive(Debug, Clone, Copy)]
#[must_use = "a proof counts once: `once` must be remembered"]
pub struct Proven {
    /// The key.
    pub key: ProvenKey,
    /// The digest of key and id.
    pub once: Digest,
}

impl Signed<'_> {
    /// Proven, when its maker's clock says that it is young.
    ///
    /// # Errors
    /// [`BadProof::Age`].
    pub fn by_its_time(self, now: Time) -> Result<Proven, BadProof> {
        self.proof.is_young(now)?;
        Ok(self.proven())
    }

    /// Proven, when it has a nonce that `counts`: a server's own time takes the place of the client's (RFC 9449 §8).
    ///
    /// # Errors
    /// [`BadProof::Nonce`].
    pub fn by_nonce(self, counts: impl FnOnce(&str) -> bool) -> Result<Proven, BadProof> {
        if !self.proof.nonce.as_deref().is_some_and(counts) {
            return Err(BadProof::Nonce);
        }
        Ok(self.proven())
    }

    fn proven(&self) -> Proven {
        Proven { key: ProvenKey(self.proof.key.thumbprint()), once: self.proof.once() }
    }
}

/// Whether a signature over `input` is of this key, by the one algorithm that it may be used with.
pub fn verifies(
    key: &portcullis_wire::jwk::PublicKey,
    alg: portcullis_wire::jws::Algorithm,
    input: &[u8],
    signature: &[u8],
) -> bool {
    parse_one(key.as_jwk()).is_some_and(|parsed| parsed.verifies(alg, input, signature))
}

/// The proofs that one instance has seen (RFC 9449 §11.1), for as long as they would be young enough. Bounded: while it is full nothing is let
/// through, for what is forgotten too early could be shown again.
#[derive(Debug)]
pub struct SeenProofs {
    seen: BTreeSet<[u8; 32]>,
    /// How many of each key, by its thumbprint.
    of_key: BTreeMap<[u8; 32], usize>,
    /// The same by when they may be forgotten, with their keys.
    until: BTreeMap<Mono, Vec<[[u8; 32]; 2]>>,
    most: usize,
}

/// Whether a proof may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// It is the first of its id.
    Yes,
    /// It was shown before.
    No,
    /// Too many are remembered, in all or of this key.
    Full,
}

impl SeenProofs {
    /// None yet; at most `most` are remembered at once, and of one key a quarter of that: one holder of a token shuts out nobody else.
    pub fn with_limit(most: usize) -> Self {
        Self { seen: BTreeSet::new(), of_key: BTreeMap::new(), until: BTreeMap::new(), most }
    }

    /// Remembers the id of a proof by this key that was young at `now`.
    pub fn first(&mut self, once: &Digest, key: &Digest, now: Mono) -> First {
        while let Some(entry) = self.until.first_entry().filter(|entry| *entry.key() <= now) {
            for [gone, key] in entry.remove() {
                self.seen.remove(&gone);
                if let Entry::Occupied(mut of_key) = self.of_key.entry(key) {
                    *of_key.get_mut() -= 1;
                    if *of_key.get() == 0 {
                        of_key.remove();
                    }
                }
            }
        }
        if self.seen.contains(&once.0) {
            return First::No;
        }
        let of_key = self.of_key.get(&key.0).copied().unwrap_or_default();
        if self.seen.len() >= self.most || of_key >= (self.most / 4).max(1) {
            return First::Full;
        }
        self.seen.insert(once.0);
        self.of_key.insert(key.0, of_key + 1);
        self.until.entry(now.plus(REMEMBERED)).or_default().push([once.0, key.0]);
        First::Yes
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_and_is_forgotten_when_its_proof_is_too_old() {
        let mut seen = SeenProofs::with_limit(2);
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let (k, l) = (Digest::of(b"key"), Digest::of(b"other key"));
        assert_eq!(seen.first(&a, &k, Mono(0)), First::Yes);
        assert_eq!(seen.first(&a, &k, Mono(REMEMBERED - 1)), First::No);
        assert_eq!(seen.first(&b, &l, Mono(REMEMBERED - 1)), First::Yes);
        assert_eq!(seen.first(&c, &k, Mono(REMEMBERED - 1)), First::Full);
        assert_eq!(seen.first(&c, &k, Mono(REMEMBERED)), First::Yes, "the oldest went");
        assert_eq!(seen.first(&b, &l, Mono(REMEMBERED)), First::No);
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn one_key_has_a_share_and_no_more() {
        let mut seen = SeenProofs::with_limit(8);
        let once = |n: u8| Digest::of(&[n]);
        let (k, l) = (Digest::of(b"key"), Digest::of(b"other key"));
        let mut come = |n, key, at| seen.first(&once(n), key, Mono(at));
        assert_eq!([1, 2, 3].map(|n| come(n, &k, 0)), [First::Yes, First::Yes, First::Full]);
        assert_eq!([4, 5, 6].map(|n| come(n, &l, 0)), [First::Yes, First::Yes, First::Full], "another one has its own");
        assert_eq!([7, 8, 9].map(|n| come(n, &k, REMEMBERED)), [First::Yes, First::Yes, First::Full], "as they go");
    }

    #[test]
    fn a_token_is_shown_as_what_it_is() {
        let key = ProvenKey(Digest::of(b"key"));
        let bound = Confirmation { jkt: b64::encode(&Digest::of(b"key").0) };
        let other = Confirmation { jkt: b64::encode(&Digest::of(b"other").0) };
        let garbage = Confirmation { jkt: "garbage".into() };
        assert_eq!(Holder::Bearer.fits(None), Ok(()));
        assert_eq!(Holder::Key(key).fits(Some(&bound)), Ok(()));
        assert_eq!(Holder::AskedAbout.fits(Some(&bound)), Ok(()));
        for (holder, bound) in [
            (Holder::Bearer, Some(&bound)),
            (Holder::Key(key), None),
            (Holder::Key(key), Some(&other)),
            (Holder::Key(key), Some(&garbage)),
        ] {
            assert!(holder.fits(bound).is_err());
        }
    }
}

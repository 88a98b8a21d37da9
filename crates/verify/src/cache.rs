//! Tokens whose signature was verified already: claims, never verdicts (DESIGN §4.8).
//!
//! A table of fixed size: a token may stand in one of eight places, and a newer one takes the place of one that is over, or of each in turn. No lock: readers
//! and writers swap pointers.
//!
//! What is kept of a token is its text up to the last 55 bytes, and of those the digest. They are the end of the signature, and without them nothing
//! can be presented. A token is the one that was verified when both are the same: the text byte for byte, the end by SHA-256. The digest of the
//! whole token would say no more, and costs ten times as much: 55 bytes are what SHA-256 takes in one step
//! (docs/decisions/0054-what-a-verifier-keeps-of-a-token.md).
use crate::{Authentic, Keys, Reason, authenticate};
use arc_swap::ArcSwapOption;
use portcullis_wire::Digest;
use portcullis_wire::jws::MAX_TOKEN_BYTES;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// In how many places a token may stand.
const WAYS: usize = 8;

/// How many bytes at the end of a token are kept as a digest only. A signature by ES256 or Ed25519 is 86 bytes of text, and by RS256 more.
const END: usize = 55;

/// One verified token.
struct Kept {
    text: Box<[u8]>,
    end: Digest,
    token: Arc<Authentic>,
}

/// The places of tokens that fall together, and of each the beginning of the digest that stands there: those are looked at first.
struct Bucket {
    tags: [AtomicU32; WAYS],
    /// Whose turn it is to go.
    turn: AtomicU32,
    places: [ArcSwapOption<Kept>; WAYS],
}

impl Bucket {
    fn empty() -> Self {
        Self {
            tags: Default::default(),
            turn: AtomicU32::new(0),
            places: std::array::from_fn(|_| ArcSwapOption::empty()),
        }
    }
}

/// How a token is looked for: made once for both questions.
struct Shown<'a> {
    text: &'a [u8],
    end: Digest,
}

impl<'a> Shown<'a> {
    /// `None` for what is too short to be a token, and so never stands in a cache.
    fn of(token: &'a str) -> Option<Self> {
        let (text, end) = token.as_bytes().split_last_chunk::<END>()?;
        Some(Self { text, end: Digest::of(end) })
    }

    fn is(&self, kept: &Kept) -> bool {
        // Not in constant time: whoever finds out how far a digest agrees is no nearer to a text that has it.
        kept.end.0 == self.end.0 && *kept.text == *self.text
    }

    /// The place in the table, and the tag there.
    fn numbers(&self) -> (u64, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.end.0;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([i, j, k, l]))
    }
}

/// Verified tokens, as many as there is room for.
pub struct Cache {
    buckets: Vec<Bucket>,
}

impl Cache {
    /// Room for `slots` tokens, rounded up to whole buckets; 0: for none.
    pub fn new(slots: usize) -> Self {
        Self { buckets: (0..slots.div_ceil(WAYS)).map(|_| Bucket::empty()).collect() }
    }

    /// As [`authenticate`], unless the same token was authentic before; and whether it was found. What is kept is as true of keys that
    /// came and went meanwhile: whether a key is dead is asked at each judgement.
    ///
    /// # Errors
    /// Those of [`authenticate`].
    pub fn authenticate(&self, keys: &Keys, token: &str) -> Result<(Arc<Authentic>, bool), Reason> {
        // What is longer than a token may be is refused there, and costs no digest here.
        let shown = Some(token).filter(|token| token.len() <= MAX_TOKEN_BYTES).and_then(Shown::of);
        if let Some(known) = shown.as_ref().and_then(|shown| self.get(shown)) {
            return Ok((known, true));
        }
        let token = Arc::new(authenticate(keys, token)?);
        if let Some(shown) = shown {
            self.put(&shown, token.clone());
        }
        Ok((token, false))
    }

    /// Keeps a token that nobody has verified, for measurements: from then on it is taken for authentic.
    pub fn insert_without_signature(&self, token: &str, known: Arc<Authentic>) {
        if let Some(shown) = Shown::of(token) {
            self.put(&shown, known);
        }
    }

    fn bucket(&self, shown: &Shown<'_>) -> Option<(&Bucket, u32)> {
        let (number, tag) = shown.numbers();
        let len = u64::try_from(self.buckets.len()).ok().filter(|len| *len > 0)?;
        Some((self.buckets.get(usize::try_from(number % len).ok()?)?, tag))
    }

    fn get(&self, shown: &Shown<'_>) -> Option<Arc<Authentic>> {
        let (bucket, tag) = self.bucket(shown)?;
        // A tag that belongs to another token by now costs a look and nothing else: what stands there is compared.
        let places = bucket.tags.iter().zip(&bucket.places).filter(|(at, _)| at.load(Ordering::Relaxed) == tag);
        places
            .filter_map(|(_, place)| {
                let kept = place.load();
                kept.as_ref().filter(|kept| shown.is(kept)).map(|kept| kept.token.clone())
            })
            .next()
    }

    fn put(&self, shown: &Shown<'_>, token: Arc<Authentic>) {
        let Some((bucket, tag)) = self.bucket(shown) else { return };
        // What expired before this one was made is over. Where all live, they go in turn: were it always the one that expires first, two
        // old tokens that are asked about all the time would push each other out for ever, beside six that nobody asks about any more.
        let made = token.claims().iat;
        let over =
            |place: &ArcSwapOption<Kept>| place.load().as_ref().is_none_or(|kept| kept.token.claims().exp <= made);
        let free = bucket.places.iter().position(over);
        let number = free.unwrap_or_else(|| bucket.turn.fetch_add(1, Ordering::Relaxed) as usize % WAYS);
        if let (Some(at), Some(place)) = (bucket.tags.get(number), bucket.places.get(number)) {
            place.store(Some(Arc::new(Kept { text: shown.text.into(), end: shown.end, token })));
            at.store(tag, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} slots)", self.buckets.len() * WAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Shown, WAYS};
    use crate::Authentic;
    use portcullis_wire::claims::Audience;
    use portcullis_wire::*;
    use std::sync::Arc;

    fn token(n: u128, iat: i64, exp: i64) -> Arc<Authentic> {
        let claims = AccessClaims {
            cnf: None,
            via: vec![],
            from: vec![],
            iss: "i".into(),
            sub: AccountId::from_bits(n),
            aud: Audience(vec!["a".into()]),
            client_id: ClientId::FIRST_PARTY,
            exp,
            iat,
            jti: TokenId::from_bits(n),
            scope: String::new(),
            auth_time: 0,
            acr: "1".into(),
            amr: vec![],
            sid: SessionId::from_bits(n),
            rev: Rev(0),
            epoch: Epoch(0),
            gid: None,
            roles: vec![],
            act: None,
        };
        Arc::new(Authentic::insecure_without_signature(claims, None))
    }

    fn found(cache: &Cache, text: &str) -> Option<TokenId> {
        cache.get(&Shown::of(text)?).map(|token| token.claims().jti)
    }

    fn text(n: u128) -> String {
        format!("header.claims.{n:086}")
    }

    #[test]
    fn a_token_is_found_by_every_byte_of_it_and_by_no_other() {
        let cache = Cache::new(64);
        let text = text(1);
        cache.put(&Shown::of(&text).unwrap(), token(1, 0, 10));
        assert_eq!(found(&cache, &text), Some(TokenId::from_bits(1)));
        // Whoever holds a good token changes what it says, and keeps the signature; or the other way round.
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] ^= 1;
            assert_eq!(found(&cache, std::str::from_utf8(&other).unwrap()), None, "byte {at}");
        }
        for other in ["", &text[1..], &text[..text.len() - 1], &text[text.len() - 55..], &format!("{text}A")] {
            assert_eq!(found(&cache, other), None, "{other}");
        }
    }

    #[test]
    fn nothing_of_what_is_kept_can_be_presented() {
        let text = text(7);
        let shown = Shown::of(&text).unwrap();
        assert!(shown.text.len() + 55 == text.len() && text.as_bytes().starts_with(shown.text));
        let (_, signature) = text.rsplit_once('.').unwrap();
        assert!(shown.text.ends_with(&signature.as_bytes()[..86 - 55]), "the end of the signature is not there");
    }

    #[test]
    fn it_holds_as_many_as_it_may_and_gives_up_what_is_over() {
        let cache = Cache::new(1);
        let put = |n: u128, made: i64, exp: i64| cache.put(&Shown::of(&text(n)).unwrap(), token(n, made, exp));
        for n in 0..WAYS as u128 {
            put(n, 0, 100 - n as i64);
        }
        assert_eq!((0..WAYS as u128).filter(|n| found(&cache, &text(*n)).is_some()).count(), WAYS);
        put(20, 93, 200);
        assert_eq!(found(&cache, &text(7)), None, "over when the new one was made");
        assert!((0..7).all(|n| found(&cache, &text(n)).is_some()) && found(&cache, &text(20)).is_some());
        let none = Cache::new(0);
        none.put(&Shown::of(&text(1)).unwrap(), token(1, 0, 1));
        assert_eq!(found(&none, &text(1)), None);
    }

    #[test]
    fn old_tokens_that_are_asked_about_do_not_push_each_other_out() {
        let cache = Cache::new(1);
        let ask = |n: u128, exp: i64| {
            let known = found(&cache, &text(n)).is_some();
            if !known {
                cache.put(&Shown::of(&text(n)).unwrap(), token(n, 0, exp));
            }
            known
        };
        // Many that live longer, and are asked about once.
        for n in 100..140 {
            ask(n, 1_000);
        }
        let seen: Vec<bool> = (0..12).map(|round| ask(round % 3, 500)).collect();
        assert_eq!(seen.iter().filter(|seen| !**seen).count(), 3, "{seen:?}");
    }
}

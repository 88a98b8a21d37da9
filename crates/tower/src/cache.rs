//! Tokens whose signature was verified already: claims, never verdicts (DESIGN §4.8).
//!
//! A table of fixed size, one token per place; a newer one takes the place of an older. What is kept of a token is its digest,
//! so that no cache holds anything that could be presented. No lock: readers and writers swap pointers.
use arc_swap::ArcSwapOption;
use portcullis_verify::Authentic;
use portcullis_wire::Digest;
use std::fmt;
use std::sync::Arc;

pub(crate) struct Cache {
    slots: Vec<ArcSwapOption<(Digest, Arc<Authentic>)>>,
}

impl Cache {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| ArcSwapOption::empty()).collect() }
    }

    fn slot(&self, digest: &Digest) -> Option<&ArcSwapOption<(Digest, Arc<Authentic>)>> {
        let start = digest.0.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let len = u64::try_from(self.slots.len()).ok().filter(|len| *len > 0)?;
        self.slots.get(usize::try_from(start % len).ok()?)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Authentic>> {
        let kept = self.slot(digest)?.load();
        kept.as_ref().filter(|kept| kept.0 == *digest).map(|kept| kept.1.clone())
    }

    pub(crate) fn put(&self, digest: Digest, token: Arc<Authentic>) {
        if let Some(slot) = self.slot(&digest) {
            slot.store(Some(Arc::new((digest, token))));
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} slots)", self.slots.len())
    }
}

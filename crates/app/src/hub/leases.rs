//! Leases: proof of freshness by a round trip (DESIGN §4.4).
use super::Hub;
use crate::{AppError, real};
use portcullis_domain::view::Stamp;
use portcullis_feed::Mono;
use portcullis_wire::frame::{AckAnswer, AckRequest};
use portcullis_wire::{ClientId, Code, Epoch, InstanceId, Rev, SecretString};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The longest nonce, in bytes.
const MAX_NONCE: usize = 128;
/// The most entries that an answer carries; beyond that the verifier pulls a snapshot.
pub(super) const MAX_TAIL: usize = 1000;

impl Hub {
    /// A read of the committed head that begins after this call: one read serves all that wait for it.
    pub(crate) async fn read_after_now(&self) -> Result<(Stamp, Mono), AppError> {
        let mut reads = self.inner.reads.subscribe();
        let wanted = self.inner.begun.load(Ordering::Acquire) + 1;
        self.wake();
        let limit = Duration::from_millis(u64::try_from(self.bound_ms() / 4).unwrap_or(1000).max(50));
        let done = tokio::time::timeout(limit, reads.wait_for(|read| read.number >= wanted)).await;
        match done {
            Ok(Ok(read)) => match read.stamp {
                Some(stamp) => Ok((stamp, read.began)),
                None => Err(AppError::Fault("the log could not be read for a lease".into())),
            },
            _ => Err(AppError::Fault("the log was not read in time for a lease".into())),
        }
    }

    /// Resolves when tokens are judged here by everything that was committed up to this snapshot; nearly always at once. Who was
    /// told that a token is revoked may ask about it in the same breath, at another node too.
    pub(crate) async fn caught_up(&self, of: Epoch, head: Rev) -> Result<(), AppError> {
        let (epoch, applied) = {
            let view = self.inner.view.load();
            (view.known.epoch, view.known.applied)
        };
        if (epoch, applied) >= (of, head) {
            return Ok(());
        }
        self.read_after_now().await.map(drop)
    }

    /// Whether this client has this instance, and knows its secret.
    ///
    /// # Errors
    /// [`Code::InstanceGone`]; faults.
    pub(crate) async fn is_instance(
        &self,
        client: ClientId,
        instance: InstanceId,
        secret: &SecretString,
    ) -> Result<(), AppError> {
        self.meet(instance).await?;
        let state = self.state();
        let known = state.secrets.get(&instance).is_some_and(|(owner, digest)| {
            *owner == client && *digest == secret.digest() && !state.closed_clients.contains_key(&client)
        });
        if known {
            return Ok(());
        }
        Err(AppError::Bad(Code::InstanceGone, "open the feed again to get a new instance".into()))
    }

    /// Takes an acknowledgement and gives a lease. The answer's head comes from a read begun after this call, so its age is 0.
    pub async fn acknowledge(&self, client: ClientId, request: &AckRequest) -> Result<AckAnswer, AppError> {
        let arrived = real::mono();
        let answer = self.lease(client, request, arrived).await;
        let stats = &self.inner.stats;
        let count = if answer.is_ok() { &stats.leases } else { &stats.leases_refused };
        count.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// What a verifier has applied is true whether it gets a lease or not: who waits for it need not wait for the read as well. Not
    /// where another history may have been shown, which is looked into first, and not among several nodes, where a silenced one must not speak.
    fn hear(&self, request: &AckRequest, witness: Option<&super::Position>) {
        if self.is_shared() || witness.is_some_and(|at| self.agrees(at, MAX_TAIL) != Some(true)) {
            return;
        }
        let applied = request.applied.min(request.enforced.unwrap_or(request.applied));
        let mut state = self.state();
        let ours = request.epoch == state.publisher.epoch() && request.applied <= state.publisher.head();
        if !ours || state.fleet.must_return(request.instance) || self.inner.rolled_back.load().is_some() {
            return;
        }
        let applied = state.publisher.confirmed(applied, request.keys.as_deref());
        let news = state.fleet.ack(request.instance, applied, real::mono()).unwrap_or(false);
        drop(state);
        if news {
            self.inner.acks.send_modify(|n| *n += 1);
        }
    }

    async fn lease(&self, client: ClientId, request: &AckRequest, arrived: Mono) -> Result<AckAnswer, AppError> {
        let bad = |detail: &str| AppError::Bad(Code::Malformed, detail.into());
        if request.nonce.is_empty() || request.nonce.len() > MAX_NONCE {
            return Err(bad("nonce: give 1 to 128 bytes, fresh for every request"));
        }
        let gone = || AppError::Bad(Code::InstanceGone, "open the feed again to get a new instance".into());
        let witness = match request.position.as_str() {
            "" => None,
            text => Some(self.parse_position(text).ok_or_else(|| bad("position: give the last `id` as it came"))?),
        };
        self.meet(request.instance).await?;
        {
            let mut state = self.state();
            let (owner, secret) = state.secrets.get(&request.instance).ok_or_else(gone)?;
            if *owner != client
                || *secret != request.instance_secret.digest()
                || state.closed_clients.contains_key(&client)
            {
                return Err(gone());
            }
            // Counted from now on, not from when the read is done: what is committed and asked about meanwhile must wait for
            // the lease that this read may give without it.
            state.fleet.lease_granted(request.instance, arrived, real::mono()).map_err(|_| gone())?;
        }
        self.hear(request, witness.as_ref());
        let (stamp, began) = self.read_after_now().await?;
        if let Some(at) = witness {
            let beyond = (at.epoch, at.rev) > (stamp.epoch, stamp.head);
            if beyond || self.agrees(&at, MAX_TAIL) == Some(false) {
                self.prove_by(&request.instance, &at, stamp.now);
            }
        }
        if !self.within_the_fence(arrived.min(began)) {
            return Err(AppError::Fault("this node has not shown the others in time that it lives".into()));
        }
        if let Some(why) = self.rolled_back() {
            return Err(AppError::Fault(format!("rolled back: {}", why.what).into()));
        }
        let now = real::mono();
        let mut state = self.state();
        if !state.fleet.may_lease(request.instance, began) {
            return Err(gone());
        }
        let applied = request.applied.min(request.enforced.unwrap_or(request.applied)).min(stamp.head);
        let applied = state.publisher.confirmed(applied, request.keys.as_deref());
        let news = request.epoch == stamp.epoch
            && request.applied <= stamp.head
            && state.fleet.ack(request.instance, applied, now).map_err(|_| gone())?;
        let entries = state.publisher.tail(request.epoch, request.applied, MAX_TAIL);
        // Who holds a lease knows the keys, also when its stream is held up.
        let keys = state.publisher.keys_unless(request.keys.as_deref());
        let (head, chain, epoch) = (state.publisher.head(), state.publisher.chain(), state.publisher.epoch());
        // The publisher has applied at least what the read saw; its head is committed too.
        let position = Some(self.position_here(&mut state));
        drop(state);
        if news {
            self.inner.acks.send_modify(|n| *n += 1);
        }
        Ok(AckAnswer {
            nonce: request.nonce.clone(),
            epoch,
            head,
            chain,
            horizon_floor: stamp.floor,
            age_ms: 0,
            time: Some(stamp.now),
            position,
            entries,
            keys,
        })
    }
}

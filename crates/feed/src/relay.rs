//! A relay: one follower of the log that serves it to many (DESIGN §4.4, §9).
//!
//! Two rules make it safe, and both are here. **It passes on the age of its own freshness and never makes its own**
//! ([`age_ms`]): its lease says that everything committed before some moment is applied; a question that arrives later is
//! answered with that much age. Whoever asked at t0 is then fresh as of a moment that is no later than the relay's own, so
//! without the server everyone's lease below ends within B of the relay's last true read. **It acknowledges only what
//! everyone below has acknowledged who may hold a lease** ([`Relay::enforced`]), or whose lease has ended by the arithmetic of
//! [`crate::fleet`]. What it gives from now on carries its whole head, which is no less than what it ever acknowledged.
//!
//! Past [`oldest`] it gives no leases, ends its streams and is not ready. A lease of that age would not last until the next
//! renewal: 0.99 B − B/2 is more than B/3, and that is how often a verifier renews, while beyond it there is nothing left to
//! renew in time, and a relay or server elsewhere may be fresher. As it renews every B/8, three relays in a row stay below.
//!
//! The relay of a relay is a verifier like any other: `enforced` of its question is its word for all below it.
use crate::fleet::{Full, Instance, StreamNumber, Unknown};
use crate::knowledge::{Anchor, Lease};
use crate::publisher::{Limits, Publisher};
use crate::subscriber::News;
use crate::{Fleet, Mono, Subscriber};
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use portcullis_wire::frame::{AckAnswer, AckRequest};
use portcullis_wire::time::Millis;
use portcullis_wire::{InstanceId, Rev, Time};

/// The most entries that an answer carries; beyond that the verifier pulls a snapshot.
pub const MAX_TAIL: usize = 1000;

/// The age of an answer to a question that arrived then, by a relay that is fresh as of `from`. The clock's milliseconds are cut
/// off, so one is added; 0 says that it is younger than the question.
pub fn age_ms(from: Mono, arrived: Mono) -> u64 {
    if from > arrived { 0 } else { u64::try_from(arrived.since(from)).unwrap_or(u64::MAX).saturating_add(1) }
}

/// How old the freshness of a relay may be that still serves, in milliseconds.
pub const fn oldest(bound_ms: Millis) -> Millis {
    bound_ms / 2
}

/// Why a question brings no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The instance is not known, or must introduce itself anew.
    Gone,
    /// The relay is not fresh enough itself.
    NotFresh,
}

/// A relay; see the [module](self).
#[derive(Debug)]
pub struct Relay {
    log: Option<Publisher>,
    fleet: Fleet,
    lease: Option<Lease>,
    time: Option<Anchor>,
    max_life_s: u64,
    /// The last name that a position has upstream, and that position when it is one of what is handed on now.
    position: Option<(Option<Rev>, String)>,
    generation: u64,
    keys_version: u64,
    prompt: Rev,
    told: Rev,
    /// Those that have not come back since what is handed on began anew: what they have may be of another history.
    away: BTreeSet<InstanceId>,
    limits: Limits,
}

impl Relay {
    /// Nothing known yet. `stream_grace_ms`: for how long open connections below may outlive a lease; `limit`: the most
    /// instances.
    pub fn new(stream_grace_ms: Millis, limit: usize, limits: Limits) -> Self {
        Self::of(Fleet::new(0, stream_grace_ms, limit), limits)
    }

    /// Nothing known yet, for those that this fleet takes in.
    pub fn of(fleet: Fleet, limits: Limits) -> Self {
        Self {
            log: None,
            fleet,
            lease: None,
            time: None,
            max_life_s: 0,
            position: None,
            generation: 0,
            keys_version: 0,
            prompt: Rev::ZERO,
            told: Rev::ZERO,
            away: BTreeSet::new(),
            limits,
        }
    }

    // ---- what it knows ----

    /// Takes over what its own follower has learned, and says what that was.
    pub fn learn(&mut self, from: &mut Subscriber, now: Mono) -> News {
        let mut news = from.take_news();
        let known = from.knowledge();
        (self.lease, self.time, self.max_life_s) = (known.lease, known.time, known.max_life_s);
        if known.bound_ms > 0 && known.bound_ms != self.fleet.bound_ms() {
            self.fleet.set_bound(known.bound_ms, now);
        }
        let at = from.link().filter(|_| known.synced).map(|link| (known.applied, link));
        let (Some(log), Some(at)) = (known.log, at) else {
            self.begins_anew(None);
            return News { anew: true, entries: Vec::new() };
        };
        // The keys first: who has applied an entry knows the keys of its commit.
        let continues = self.log.as_mut().filter(|_| !news.anew).is_some_and(|log| {
            self.keys_version += u64::from(log.set_keys(known.keys.to_vec()));
            log.append(&news.entries, at.1, now).is_ok() && log.head() == at.0
        });
        if !continues {
            let floor = known.floor.map_or(Time::ZERO, |floor| floor.time);
            let mut log = Publisher::of_set(log, known.epoch, at, floor, known.set.clone(), self.limits);
            log.set_keys(known.keys.to_vec());
            self.begins_anew(Some(log));
            news = News { anew: true, entries: Vec::new() };
        }
        if let (Some(log), Some(floor)) = (&mut self.log, known.floor) {
            log.set_floor(floor.time);
        }
        // A position is named when it is the applied one, and the name is kept while that moves on.
        let name = from.position().filter(|name| self.position.as_ref().is_none_or(|(_, known)| known != name));
        self.position = name.map(|name| (Some(at.0), name.to_string())).or(self.position.take());
        news
    }

    fn begins_anew(&mut self, log: Option<Publisher>) {
        if self.log.is_some() || log.is_some() {
            self.generation += 1;
        }
        // Whoever is below comes back by a stream, and is placed then. Until that it acknowledges nothing, and gets no lease.
        self.fleet.forget_acknowledgements();
        self.away = self.fleet.ids().collect();
        // An old name is not that of the new head.
        self.position.iter_mut().for_each(|(rev, _)| *rev = None);
        self.log = log;
    }

    /// Whether it is fresh enough to serve: the age of what it knows is within [`oldest`], and no clock says otherwise.
    pub fn is_ready(&self, now: Mono, wall: Time) -> bool {
        let oldest = oldest(self.fleet.bound_ms());
        self.log.is_some() && self.lease.is_some_and(|lease| lease.holds(now, wall) && now.since(lease.from) <= oldest)
    }

    // ---- what it says to those below ----

    /// The answer to a question that arrived then, from an instance whose secret was right: what it acknowledges is taken, and
    /// the lease counts from now on.
    ///
    /// # Errors
    /// [`Refused`]: no lease.
    pub fn answer(&mut self, asked: &AckRequest, arrived: Mono, now: Mono, wall: Time) -> Result<AckAnswer, Refused> {
        if self.fleet.must_return(asked.instance) {
            return Err(Refused::Gone);
        }
        if self.away.contains(&asked.instance) {
            return Err(Refused::NotFresh);
        }
        let ready = self.is_ready(now, wall);
        let (Some(log), Some(lease)) = (&self.log, self.lease) else { return Err(Refused::NotFresh) };
        let (epoch, head) = (log.epoch(), log.head());
        if asked.epoch == epoch && asked.applied <= head {
            let applied = asked.applied.min(asked.enforced.unwrap_or(asked.applied));
            let _ = self.fleet.ack(asked.instance, log.confirmed(applied, asked.keys.as_deref()), now);
        }
        if !ready {
            return Err(Refused::NotFresh);
        }
        self.fleet.lease_granted(asked.instance, lease.from.min(arrived), now).map_err(|_| Refused::Gone)?;
        Ok(AckAnswer {
            nonce: asked.nonce.clone(),
            epoch,
            head,
            chain: log.chain(),
            horizon_floor: log.floor(),
            age_ms: age_ms(lease.from, arrived),
            time: self.time.map(|time| time.at(now)),
            position: self.position().map(ToString::to_string),
            entries: log.tail(asked.epoch, asked.applied, MAX_TAIL),
            keys: log.keys_unless(asked.keys.as_deref()),
        })
    }

    /// The name that the server gave to the head, when it gave one.
    pub fn position(&self) -> Option<&str> {
        let head = self.log.as_ref()?.head();
        self.position.as_ref().filter(|(rev, _)| *rev == Some(head)).map(|(_, name)| &**name)
    }

    /// An instance introduces itself; it is told the bound that comes back.
    ///
    /// # Errors
    /// [`Full`] at a limit.
    pub fn introduce(&mut self, mut instance: Instance, now: Mono) -> Result<Millis, Full> {
        let told = self.fleet.bound_ms();
        instance.bound_ms = Some(instance.bound_ms.map_or(told, |own| own.min(told)));
        self.fleet.known(instance, now).map(|()| told)
    }

    /// A stream of this instance opened, from a position that fits what is handed on, or with a snapshot.
    ///
    /// # Errors
    /// [`Unknown`] when it never introduced itself.
    pub fn stream_opened(&mut self, id: InstanceId, now: Mono) -> Result<StreamNumber, Unknown> {
        let number = self.fleet.stream_opened(id, now)?;
        self.away.remove(&id);
        Ok(number)
    }

    /// As [`Fleet::prune`].
    pub fn prune(&mut self, quiet_ms: Millis, now: Mono) -> Vec<InstanceId> {
        let longest_life_ms = Millis::try_from(self.max_life_s.saturating_mul(1000)).unwrap_or(Millis::MAX);
        let gone = self.fleet.prune(quiet_ms, longest_life_ms, now);
        gone.iter().for_each(|id| _ = self.away.remove(id));
        gone
    }

    // ---- what it says to the server ----

    /// What may be acknowledged for everyone below and for the relay itself.
    pub fn enforced(&mut self, now: Mono) -> Rev {
        self.fleet.all_acknowledged(self.log.as_ref().map_or(Rev::ZERO, Publisher::head), now)
    }

    /// As [`Relay::enforced`], and it is told from now on.
    pub fn tells(&mut self, now: Mono) -> Rev {
        let enforced = self.enforced(now);
        self.told = enforced;
        enforced
    }

    /// Somebody waits at the server: everyone below is to speak at once.
    pub fn prompted(&mut self) {
        self.prompt = self.prompt.max(self.log.as_ref().map_or(Rev::ZERO, Publisher::head));
    }

    /// Whether there is something to tell that somebody waits for.
    pub fn has_to_tell(&mut self, now: Mono) -> bool {
        self.told < self.prompt && self.enforced(now) > self.told
    }

    // ---- what is asked of it ----

    /// The log as it is handed on; `None` before the first snapshot.
    pub fn log(&self) -> Option<&Publisher> {
        self.log.as_ref()
    }
    /// Who is below.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }
    /// Who is below, for streams that open and end.
    pub fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }
    /// Another number whenever what is handed on does not continue what was before: streams of an earlier one must end.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// Another number whenever the list of keys is another.
    pub fn keys_version(&self) -> u64 {
        self.keys_version
    }
    /// The newest position that everyone was asked to acknowledge.
    pub fn prompt(&self) -> Rev {
        self.prompt
    }
    /// The longest life of a token, in seconds.
    pub fn max_life_s(&self) -> u64 {
        self.max_life_s
    }
    /// How old its freshness is; `None` without any.
    pub fn age_now(&self, now: Mono) -> Option<Millis> {
        self.lease.map(|lease| now.since(lease.from))
    }
    /// Whether it knows this instance.
    pub fn knows(&self, id: InstanceId) -> bool {
        self.fleet.contains(id)
    }
}

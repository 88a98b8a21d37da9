//! Whose turn it is, of those who are to be told something.
//!
//! Calls go to addresses that others chose, and each takes as long as the other side likes, up to a limit. There are a few places for
//! calls that are under way; whoever answers slowly, not at all or has never answered yet gets only some of them, so that the rest
//! is always there for those who are quick. And nobody takes all that is left: a place that becomes free goes to whom the
//! fewest calls are under way, and then to who waits the longest for a turn, however old anybody's messages are.
use crate::outbox::{Message, wait_after};
use crate::{Chance, outbox};
use alloc::{collections::BTreeMap, vec::Vec};
use portcullis_wire::{ClientId, Millis, Time};

/// How many calls are under way at once.
pub const PLACES: usize = 16;
/// How many of them to one client.
pub const EACH: usize = 4;
/// How many to all those together whose calls fail or take long; each of them gets one.
pub const FOR_SLOW: usize = 4;
/// How many to all those together who were never called; each of them gets one.
pub const FOR_NEW: usize = 4;
/// A call that takes longer is a slow one, in milliseconds.
pub const SLOW: Millis = 2_000;
/// Who was slow is quick again after so many quick calls, one after another.
pub const QUICK_AGAIN: u32 = 8;
/// A client whose calls fail is left alone for longer and longer, up to this: one that is down must not be hammered with all that
/// waits for it. In milliseconds.
pub const LONGEST_REST: Millis = 60_000;
/// After so many calls in vain, one after another, nothing is held up for a client any more.
pub const FAILING: u32 = 3;
/// How many clients are remembered; beyond that who had a turn the longest ago is new again.
pub const MOST_KNOWN: usize = 10_000;

/// How the calls to a client went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Receiver {
    in_flight: usize,
    /// In vain, one after another.
    failures: u32,
    /// How many quick calls are missing until it counts as quick; `None`: it was never called.
    owes: Option<u32>,
    /// Left alone until then.
    rests_until: Time,
    /// When it had its last turn, in turns.
    turn: u64,
}

/// What a client gets a place as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quick,
    Slow,
    New,
}

impl Receiver {
    fn kind(&self) -> Kind {
        match self.owes {
            None => Kind::New,
            Some(0) if self.failures == 0 => Kind::Quick,
            Some(_) => Kind::Slow,
        }
    }
    fn most(&self) -> usize {
        if self.kind() == Kind::Quick { EACH } else { 1 }
    }
}

/// The clients that were called lately.
#[derive(Debug, Clone, Default)]
pub struct Receivers {
    known: BTreeMap<ClientId, Receiver>,
    turns: u64,
    in_flight: usize,
}

impl Receivers {
    /// Nobody was called yet.
    pub const fn new() -> Self {
        Self { known: BTreeMap::new(), turns: 0, in_flight: 0 }
    }

    /// How many places are free.
    pub fn free(&self) -> usize {
        PLACES.saturating_sub(self.in_flight)
    }

    /// Whether its calls fail, one after another.
    pub fn is_failing(&self, client: ClientId) -> bool {
        self.known.get(&client).is_some_and(|one| one.failures >= FAILING)
    }

    /// Who gets no call now.
    pub fn busy(&self, now: Time) -> Vec<ClientId> {
        self.known.keys().filter(|client| !self.may_be_called(Some(**client), now)).copied().collect()
    }

    /// Whether there is a place for a call to it. What is for no client at all counts as one that is quick.
    pub fn may_be_called(&self, client: Option<ClientId>, now: Time) -> bool {
        let one = client.map(|client| self.known.get(&client).copied().unwrap_or_default());
        let room_of = |kind, most| {
            self.known.values().filter(|one| one.kind() == kind).map(|one| one.in_flight).sum::<usize>() < most
        };
        self.free() > 0
            && one.is_none_or(|one| {
                one.in_flight < one.most()
                    && one.rests_until <= now
                    && match one.kind() {
                        Kind::Quick => true,
                        Kind::Slow => room_of(Kind::Slow, FOR_SLOW),
                        Kind::New => room_of(Kind::New, FOR_NEW),
                    }
            })
    }

    /// Puts what is due, one message of each client, in the order of turns.
    pub fn in_turn(&self, mut due: Vec<Message>) -> Vec<Message> {
        let standing =
            |message: &Message| message.client.and_then(|client| self.known.get(&client)).copied().unwrap_or_default();
        due.sort_by_key(|message| {
            let one = standing(message);
            (one.in_flight, one.turn, message.next_at, message.id)
        });
        due
    }

    /// A call begins.
    pub fn left(&mut self, client: Option<ClientId>) {
        self.in_flight += 1;
        self.turns += 1;
        let Some(client) = client else { return };
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&client) {
            let idle = self.known.iter().filter(|(_, one)| one.in_flight == 0);
            if let Some(longest) = idle.min_by_key(|(_, one)| one.turn).map(|(client, _)| *client) {
                self.known.remove(&longest);
            }
        }
        let one = self.known.entry(client).or_default();
        one.in_flight += 1;
        one.turn = self.turns;
    }

    /// A call has come to an end after so many milliseconds; `worked`: it was answered.
    pub fn arrived(
        &mut self,
        client: Option<ClientId>,
        worked: bool,
        took: Millis,
        now: Time,
        chance: &mut dyn Chance,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(one) = client.and_then(|client| self.known.get_mut(&client)) else { return };
        one.in_flight = one.in_flight.saturating_sub(1);
        one.owes = match one.owes {
            _ if took > SLOW => Some(QUICK_AGAIN),
            owes if !worked => Some(owes.unwrap_or(0)),
            owes => Some(owes.unwrap_or(0).saturating_sub(1)),
        };
        if worked {
            one.failures = 0;
        } else {
            one.failures = one.failures.saturating_add(1);
            one.rests_until = now.plus(wait_after(one.failures, chance).min(LONGEST_REST));
        }
    }
}

/// What waits for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queue {
    /// How many messages.
    pub waiting: u64,
    /// Since when the one is due that is due the longest.
    pub due_since: Option<Time>,
}

/// How many messages may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// For one client, while few wait in all.
    pub each: u64,
    /// In all: from half of that on each client has a tenth, beyond it a hundredth.
    pub all: u64,
    /// For how long the end of many sessions is held up by a client that takes its messages, in milliseconds.
    pub held_up: Millis,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { each: 10_000, all: 100_000, held_up: 600_000 }
    }
}

/// What becomes of one more message for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It waits with the others.
    Free,
    /// It is made later: the client takes what waits for it.
    Later,
    /// It is given up at once, which an administrator sees and can have tried again: too many wait for a client that does not take them.
    None,
}

impl QueueLimits {
    /// What becomes of one more message. `all`: how many wait in all; `failing`: see [`Receivers::is_failing`].
    ///
    /// An end of many sessions is turned into messages no faster than their receiver takes them; one of a single session goes on at
    /// once as long as there is room for twice as many, so that it never waits behind a large one.
    pub fn room(self, queue: Queue, all: u64, failing: bool, what: outbox::Ending, now: Time) -> Room {
        let part = if all >= self.all {
            100
        } else if all >= self.all / 2 {
            10
        } else {
            1
        };
        let single = matches!(what, outbox::Ending::Session(_) | outbox::Ending::Grant { .. });
        let most = (self.each / part).max(1) * if single { 2 } else { 1 };
        let stands = queue.due_since.is_some_and(|since| since.plus(self.held_up) <= now);
        if queue.waiting < most {
            Room::Free
        } else if single || failing || stands {
            Room::None
        } else {
            Room::Later
        }
    }
}

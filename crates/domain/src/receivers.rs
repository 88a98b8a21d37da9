//! Whose turn it is, of those who are to be told something.
//!
//! Calls go to addresses that others chose, and each takes as long as the other side likes, up to a limit. There are a few places for
//! calls that are under way; whoever answers slowly, not at all or has never answered yet gets only some of them, so that the rest
//! is always there for those who are quick. And nobody takes all that is left: a place that becomes free goes to whom the
//! fewest calls are under way, and then to who waits the longest for a turn, however old anybody's messages are.
use crate::outbox::{Message, wait_after};
use crate::{Chance, outbox};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use portcullis_wire::{ClientId, Millis, Time};

/// How many calls are under way at once.
pub const PLACES: usize = 16;
/// How many of them to one client.
pub const EACH: usize = 4;
/// How many to all those together whose calls fail or take long; each of them gets one.
pub const FOR_SLOW: usize = 4;
/// How many to all those together who were never called; each of them gets one.
pub const FOR_NEW: usize = 4;
/// How many of those for slow and for new ones to all together that registered themselves and that nobody vouches for: of such
/// there may be as many as somebody likes, and none of them needs to answer.
pub const FOR_STRANGERS: usize = 2;
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
    /// Nobody vouches for it.
    stranger: bool,
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

/// Which places are taken.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    all: usize,
    /// By slow ones, and by strangers among them.
    slow: (usize, usize),
    /// By new ones, and by strangers among them.
    new: (usize, usize),
}

impl Taken {
    fn has_place_for(&self, one: Receiver, now: Time) -> bool {
        let fits = |(all, strangers), most| all < most && (!one.stranger || strangers < FOR_STRANGERS);
        self.all < PLACES
            && one.in_flight < one.most()
            && one.rests_until <= now
            && match one.kind() {
                Kind::Quick => true,
                Kind::Slow => fits(self.slow, FOR_SLOW),
                Kind::New => fits(self.new, FOR_NEW),
            }
    }
}

/// A look around all clients for which something waits, some at a time. Were it always at those that wait the longest, as many that
/// take nothing would hide all others.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    begun_after: Option<ClientId>,
    after: Option<ClientId>,
    turned: bool,
}

impl Round {
    /// After which client to look on.
    pub fn after(&self) -> Option<ClientId> {
        self.after
    }
    /// It was looked as far as this (`None`: to the last one); whether that was all the way around.
    pub fn went_to(&mut self, next: Option<ClientId>) -> bool {
        self.after = next;
        let at_the_end = next.is_none();
        if at_the_end && (self.turned || self.begun_after.is_none()) || self.turned && next >= self.begun_after {
            return true;
        }
        self.turned |= at_the_end;
        false
    }
}

/// The clients that were called lately.
#[derive(Debug, Clone, Default)]
pub struct Receivers {
    known: BTreeMap<ClientId, Receiver>,
    turns: u64,
    in_flight: usize,
    /// Whom a call is under way to: of all that are known a few.
    called: BTreeSet<ClientId>,
    /// The client after which the next look begins.
    from: Option<ClientId>,
}

impl Receivers {
    /// Nobody was called yet.
    pub const fn new() -> Self {
        Self { known: BTreeMap::new(), turns: 0, in_flight: 0, called: BTreeSet::new(), from: None }
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
        let taken = self.taken();
        self.known.iter().filter(|(_, one)| !taken.has_place_for(**one, now)).map(|(client, _)| *client).collect()
    }

    /// Whether there is a place for a call to it. What is for no client at all counts as one that is quick.
    pub fn may_be_called(&self, client: Option<ClientId>, now: Time) -> bool {
        let one = client.map(|client| self.known.get(&client).copied().unwrap_or_default());
        let taken = self.taken();
        one.map_or(taken.all < PLACES, |one| taken.has_place_for(one, now))
    }

    fn taken(&self) -> Taken {
        let mut taken = Taken { all: self.in_flight, ..Taken::default() };
        for one in self.called.iter().filter_map(|client| self.known.get(client)) {
            let of = match one.kind() {
                Kind::Quick => continue,
                Kind::Slow => &mut taken.slow,
                Kind::New => &mut taken.new,
            };
            of.0 += one.in_flight;
            of.1 += if one.stranger { one.in_flight } else { 0 };
        }
        taken
    }

    /// A look that begins where the last one stopped.
    pub fn looks_on(&self) -> Round {
        Round { begun_after: self.from, after: self.from, turned: false }
    }
    /// A look has stopped there.
    pub fn looked(&mut self, round: Round) {
        self.from = round.after;
    }

    /// Whether it is known who it is, so that there is nothing to [`meet`](Self::meets).
    pub fn knows(&self, client: Option<ClientId>) -> bool {
        client.is_none_or(|client| self.known.contains_key(&client))
    }
    /// Who a client is that was never called.
    pub fn meets(&mut self, client: ClientId, stranger: bool) {
        self.make_room_for(client);
        self.known.entry(client).or_default().stranger = stranger;
    }

    /// Puts what is due, one message of each client, in the order of turns. Of two that had none the one comes first of which nothing
    /// was tried in vain, as far as the database knows.
    pub fn in_turn(&self, mut due: Vec<Message>) -> Vec<Message> {
        let standing =
            |message: &Message| message.client.and_then(|client| self.known.get(&client)).copied().unwrap_or_default();
        due.sort_by_key(|message| {
            let one = standing(message);
            (one.in_flight, one.turn, message.tries > 0, message.next_at, message.id)
        });
        due
    }

    /// A call begins.
    pub fn left(&mut self, client: Option<ClientId>) {
        self.in_flight += 1;
        self.turns += 1;
        let Some(client) = client else { return };
        self.make_room_for(client);
        let one = self.known.entry(client).or_default();
        one.in_flight += 1;
        one.turn = self.turns;
        self.called.insert(client);
    }

    fn make_room_for(&mut self, client: ClientId) {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&client) {
            let idle = self.known.iter().filter(|(_, one)| one.in_flight == 0);
            if let Some(longest) = idle.min_by_key(|(_, one)| one.turn).map(|(client, _)| *client) {
                self.known.remove(&longest);
            }
        }
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
        let Some((client, one)) = client.and_then(|client| Some((client, self.known.get_mut(&client)?))) else {
            return;
        };
        one.in_flight = one.in_flight.saturating_sub(1);
        if one.in_flight == 0 {
            self.called.remove(&client);
        }
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

//! Open connections at verifiers' services, and newer tokens shown on them (I14). The real `renewal` and the real judgement; the
//! waiting around them, which `tower`'s guard has with real timers, is written again as events.
use crate::clock::At;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::verifiers::Judged;
use crate::world::{Event, World, tell};
use portcullis_verify::{Reason, Shown, renewal};
use portcullis_wire::AccessClaims;

/// Guards look at the clocks at least this often.
const LOOK_MS: i64 = 1_000;

/// Every connection that there was.
#[derive(Debug)]
pub struct Streams {
    /// A source of its own, so that what else happens in a world does not depend on its connections.
    rng: Rng,
    all: Vec<Connection>,
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0x5f3c_a6d1_77e1_0b2d), all: Vec::new() }
    }
}

/// An open connection.
#[derive(Debug)]
struct Connection {
    verifier: usize,
    life: u32,
    /// The token that the guard stands on.
    on: usize,
    /// The truth: which tokens of its own session were shown and accepted.
    shown: Vec<usize>,
    over: bool,
    /// Of its timer.
    seq: u64,
}

impl World {
    fn drawn(&mut self, from: i64, to: i64) -> i64 {
        self.streams.rng.range(from, to)
    }

    /// One of the youngest tokens.
    fn young_token(&mut self) -> Option<usize> {
        let len = self.truth.tokens.len();
        (len > 0).then(|| len - 1 - self.streams.rng.index(len.min(20)))
    }

    /// Somebody opens a connection.
    pub fn connect(&mut self) {
        let pause = self.drawn(800, 3_000);
        self.after(pause, Event::Connect);
        let verifier = self.streams.rng.index(self.verifiers.len());
        let Some(token) = self.young_token().filter(|_| self.verifiers[verifier].suspended.is_none()) else { return };
        if !self.carries(verifier, token) {
            return;
        }
        self.counts.add("connections opened");
        let (connection, life) = (self.streams.all.len(), self.verifiers[verifier].life);
        let opened = Connection { verifier, life, on: token, shown: vec![token], over: false, seq: 0 };
        self.streams.all.push(opened);
        tell!(self, "connection {connection}: opened at verifier {verifier} with token {token}");
        self.look(connection);
        let (item, inspection, renewal) = (self.drawn(50, 3_000), self.drawn(50, 3_000), self.drawn(500, 12_000));
        self.after(item, Event::Item { connection });
        self.after(inspection, Event::Inspect { connection });
        self.after(renewal, Event::ShowToken { connection });
    }

    /// Whether a token is accepted. Requests do the catching up: what else happens in a world does not depend on connections.
    fn carries(&mut self, verifier: usize, token: usize) -> bool {
        self.judge_alone(verifier, token).0 == Judged::Accepted
    }

    /// It is open: its process lives, and its guard has not said that it is over.
    fn is_open(&self, connection: usize) -> bool {
        let c = &self.streams.all[connection];
        !c.over && self.verifiers[c.verifier].life == c.life
    }

    /// Whether it is open and its process runs; the event comes again when a suspended one goes on.
    fn runs(&mut self, connection: usize, again: impl FnOnce() -> Event) -> bool {
        if !self.is_open(connection) {
            return false;
        }
        let until = self.verifiers[self.streams.all[connection].verifier].suspended.map(|(_, until)| until);
        until.map(|until| self.at(until + 1, again())).is_none()
    }

    /// Guards are woken by each new view.
    pub fn wake_guards(&mut self, verifier: usize) {
        for connection in 0..self.streams.all.len() {
            if self.streams.all[connection].verifier == verifier && self.is_open(connection) {
                self.streams.all[connection].seq += 1;
                let seq = self.streams.all[connection].seq;
                self.after(0, Event::Look { connection, seq });
            }
        }
    }

    /// A guard's timer.
    pub fn guard_looks(&mut self, connection: usize, seq: u64) {
        if self.streams.all[connection].seq == seq && self.runs(connection, || Event::Look { connection, seq }) {
            self.look(connection);
        }
    }

    /// The guard judges what it stands on, and waits until something could end by itself.
    fn look(&mut self, connection: usize) {
        let (verifier, on) = (self.streams.all[connection].verifier, self.streams.all[connection].on);
        if self.has(Mutant::GuardLooksOnce) {
            return;
        }
        if let Judged::Refused(reason) = self.judge_alone(verifier, on).0 {
            self.streams.all[connection].over = true;
            self.counts.add(match reason {
                Reason::Expired => "connections ended: expired",
                Reason::NotFresh => "connections ended: not fresh",
                Reason::Stale { .. } => "connections ended: stale",
                _ => "connections ended: revoked",
            });
            tell!(self, "connection {connection}: over, {}", reason.as_str());
            return;
        }
        let v = &self.verifiers[verifier];
        let (now, wall) = (v.clock.now(self.now), v.wall.now(self.now));
        let known = &v.shown.known;
        let until_exp = self.truth.tokens[on].claims.expires_at().since(known.clock(now, wall));
        let until_lost = known.lease.map_or(LOOK_MS, |lease| lease.until.since(now));
        let at = v.clock.when(now.plus(until_exp.min(until_lost).clamp(1, LOOK_MS)));
        self.streams.all[connection].seq += 1;
        let seq = self.streams.all[connection].seq;
        self.at(at.max(self.now + 1), Event::Look { connection, seq });
    }

    /// The service sends something: judged before.
    pub fn item(&mut self, connection: usize) {
        if self.runs(connection, || Event::Item { connection }) {
            self.look(connection);
            self.check_open(connection, 0);
            let pause = self.drawn(50, 3_000);
            self.after(pause, Event::Item { connection });
        }
    }

    /// Whether it is open is seen by its client, too, while nothing is sent.
    pub fn inspect(&mut self, connection: usize) {
        if self.runs(connection, || Event::Inspect { connection }) {
            // What woke at this very moment has its turn first.
            self.check_open(connection, 5);
            let pause = self.drawn(50, 3_000);
            self.after(pause, Event::Inspect { connection });
        }
    }

    /// The client shows a token: mostly the newest of its session, sometimes an old one, sometimes somebody else's.
    pub fn show_token(&mut self, connection: usize) {
        if !self.runs(connection, || Event::ShowToken { connection }) {
            return;
        }
        let pause = self.drawn(500, 12_000);
        self.after(pause, Event::ShowToken { connection });
        let c = &self.streams.all[connection];
        let (first, on) = (&self.truth.tokens[c.shown[0]], &self.truth.tokens[c.on].claims);
        // What an application has under the same session is another one's, and is shown among those of anybody.
        let own = |token: &usize| is_its_own(&self.truth.tokens[*token].claims, &first.claims);
        let own: Vec<usize> = (0..self.truth.tokens.len()).filter(own).collect();
        // Made later, and yet over sooner: lives differ by chance. Whoever has one stands on it.
        let sooner = own.iter().rev().copied().find(|token| {
            let claims = &self.truth.tokens[*token].claims;
            claims.iat > on.iat && claims.exp < on.exp
        });
        let token = match self.drawn(0, 9) {
            0 | 1 => self.young_token(),
            2 => Some(own[self.streams.rng.index(own.len())]),
            _ => sooner.or(own.last().copied()),
        };
        if let Some(token) = token {
            self.renew(connection, token);
        }
    }

    fn renew(&mut self, connection: usize, token: usize) {
        let verifier = self.streams.all[connection].verifier;
        self.look(connection);
        if !self.is_open(connection) || !self.carries(verifier, token) {
            return;
        }
        let c = &mut self.streams.all[connection];
        let (on, shown) = (&self.truth.tokens[c.on], &self.truth.tokens[token]);
        // What an application has under the same session is another one's.
        let first = &self.truth.tokens[c.shown[0]];
        if is_its_own(&shown.claims, &first.claims) {
            c.shown.push(token);
        }
        let taken = match renewal(&on.claims, &shown.claims) {
            Err(_) if self.mutant == Some(Mutant::RenewalByAnyone) => true,
            Ok(_) if self.mutant == Some(Mutant::RenewalByLongest) => shown.claims.exp > on.claims.exp,
            Ok(shown) => shown == Shown::Newest,
            Err(_) => {
                self.counts.add("renewals refused: another's token");
                false
            }
        };
        if taken {
            self.streams.all[connection].on = token;
            self.counts.add("connections renewed");
            tell!(self, "connection {connection}: stands on token {token}");
            self.look(connection);
        }
    }

    /// I14: it lives no longer than the newest token shown on it, and no longer than the bound allows after that one's end.
    fn check_open(&mut self, connection: usize, turn: At) {
        if !self.is_open(connection) {
            return;
        }
        let c = &self.streams.all[connection];
        let (v, now, bound) = (&self.verifiers[c.verifier], self.now, self.settings.bound);
        let shown = || c.shown.iter().map(|token| &self.truth.tokens[*token]);
        // Of those made in one second nothing tells which is newer.
        let newest = shown().max_by_key(|token| (token.claims.iat, token.claims.exp));
        let (Some(fact), Some(first)) = (newest, shown().map(|token| token.left).min()) else { return };
        if now <= v.resumed + turn {
            return;
        }
        let mut wrong = None;
        for act in self.truth.acts.iter().filter(|act| act.kills(fact)) {
            if let Some(at) = act.acked.filter(|at| now > at + bound + turn) {
                let (late, door, rev) = (now - at, act.door, act.rev);
                wrong = Some(format!("open {late} ms after {door:?} at {rev} was acknowledged; B is {bound}"));
            }
        }
        // How far a verifier's clock may be behind: by its drift, see the check of refusals; and by how long the answer was on its
        // way, after which nobody would have waited for it.
        let drift = (now - v.answered + 60_000) / 100 + bound / 2 + turn;
        let clocks_stood = !self.database.was_set_since(first - 5_000);
        if clocks_stood && fact.claims.expires_at() < self.database.now(now).plus(-drift) {
            wrong = Some(format!("open at {}, its newest token's exp is {}", self.database.now(now), fact.claims.exp));
        }
        let mono = v.clock.now(now);
        if v.shown.known.lease.is_some_and(|lease| mono.since(lease.until) > turn) {
            wrong = Some("open without a lease".into());
        }
        if let Some(detail) = wrong {
            let detail = format!("connection {connection} at verifier {} of {}: {detail}", c.verifier, fact.session);
            self.violate("I14", detail);
        }
    }
}

/// Whether a token is of the same session, for the same client, through the same hands.
fn is_its_own(shown: &AccessClaims, first: &AccessClaims) -> bool {
    let hands = shown.act == first.act && shown.via == first.via;
    (shown.sid, shown.client_id) == (first.sid, first.client_id) && hands
}

//! Verifiers: the real `Subscriber` and the real `judge_claims`, on clocks that are too fast, too slow, set, or suspended.
use crate::clock::{At, Dates, Ticks};
use crate::mutant::Mutant;
use crate::net::{ToServer, ToVerifier};
use crate::truth::matches;
use crate::world::{Event, World, tell};
use portcullis_feed::knowledge::{Knowledge, Lease};
use portcullis_feed::mono::shortened;
use portcullis_feed::subscriber::{Action, Config, Frame, Input, Now, Subscriber, Trouble};
use portcullis_feed::{Mono, Policy};
use portcullis_verify::{AheadRecord, Authentic, Decision, Expect, Holder, Reason, View, judge_claims, unauthentic};
use portcullis_wire::frame::{AckAnswer, Snapshot};
use portcullis_wire::jws::{ACCESS_TOKEN_TYP, Algorithm, assemble, signing_input};
use portcullis_wire::{AccessClaims, KeyId, Rev, Time};

/// What reaches a verifier.
#[derive(Debug, Clone)]
pub enum Reach {
    Frame {
        conn: u64,
        frame: Frame,
        id: Option<String>,
    },
    /// The stream could not be opened, or ended.
    Ended {
        conn: u64,
    },
    Answer(AckAnswer),
    AskFailed {
        nonce: String,
        gone: bool,
    },
    /// No answer came in time.
    AskTimeout {
        nonce: String,
    },
    Page(Snapshot),
    PullFailed {
        conflict: bool,
    },
}

/// A verifier.
#[derive(Debug)]
pub struct Verifier {
    pub life: u32,
    pub clock: Ticks,
    pub wall: Dates,
    /// Drift of the clock, in millionths.
    pub ppm: i64,
    /// Whether its suspensions are seen by the monotonic clock (as `CLOCK_BOOTTIME` does).
    pub counts_suspension: bool,
    pub suspended: Option<(At, At)>,
    /// When it went on last.
    pub resumed: At,
    pub subscriber: Subscriber,
    /// What the request path reads.
    pub shown: View,
    /// When the current answer to a question arrived last, for checks of `exp`.
    pub answered: At,
    conn: u64,
    ticks: u64,
    ahead: AheadRecord,
    was_fresh: bool,
    /// Everything up to here was once seen to be in force.
    pub seen: Rev,
    /// For planted bugs: a lease that was not earned, and what was taken out of order.
    false_lease: Option<Lease>,
    taken: Option<Knowledge>,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    Accepted,
    Refused(Reason),
}

impl World {
    pub fn add_verifier(&mut self) {
        let verifier = self.verifiers.len();
        let ppm = self.rng.pick(&[-9_000, -200, 0, 200, 9_000]);
        let mut wall = Dates::default();
        wall.step(self.rng.range(-60_000, 60_000), 0);
        let counts_suspension = self.rng.chance(500);
        let subscriber = Subscriber::new(Config::default());
        let shown = View::new(subscriber.knowledge().clone());
        let start = self.rng.range(0, 1_000_000_000);
        self.verifiers.push(Verifier {
            life: 0,
            clock: Ticks::new(0, start, ppm),
            wall,
            ppm,
            counts_suspension,
            suspended: None,
            resumed: 0,
            subscriber,
            shown,
            answered: 0,
            conn: 0,
            ticks: 0,
            ahead: AheadRecord::default(),
            was_fresh: false,
            seen: Rev::ZERO,
            false_lease: None,
            taken: None,
        });
        let first = self.rng.range(10, 1_500);
        self.after(first, Event::Tick { verifier, life: 0, seq: 0 });
        self.after(first + 500, Event::Probe { verifier });
    }

    fn verifier_now(&mut self, verifier: usize) -> Now {
        let chance = self.rng.word();
        let v = &self.verifiers[verifier];
        Now { mono: v.clock.now(self.now), wall: v.wall.now(self.now), chance }
    }

    /// Whether it is suspended; the event comes again when it goes on.
    fn sleeps(&mut self, verifier: usize, again: impl FnOnce() -> Event) -> bool {
        if let Some((_, until)) = self.verifiers[verifier].suspended {
            self.at(until + 1, again());
            return true;
        }
        false
    }

    pub fn at_verifier(&mut self, message: ToVerifier) {
        let ToVerifier { verifier, life, ref what } = message;
        if self.verifiers[verifier].life != life {
            return;
        }
        if self.verifiers[verifier].suspended.is_some() {
            self.sleeps(verifier, || Event::AtVerifier(Box::new(message)));
            return;
        }
        let current = self.verifiers[verifier].conn;
        let input = match what.clone() {
            Reach::Frame { conn, frame, id } if conn == current => {
                self.count_gap(verifier, &frame);
                self.planted_by_frame(verifier, &frame);
                Input::Frame(frame, id)
            }
            Reach::Ended { conn } if conn == current => Input::StreamEnded,
            Reach::Frame { .. } | Reach::Ended { .. } => return,
            Reach::Answer(answer) => {
                self.verifiers[verifier].answered = self.now;
                Input::Answer(answer)
            }
            Reach::AskFailed { nonce, gone } => Input::AskFailed { nonce, gone },
            Reach::AskTimeout { nonce } => Input::AskFailed { nonce, gone: false },
            Reach::Page(page) => Input::Page(page),
            Reach::PullFailed { conflict } => Input::PullFailed { conflict },
        };
        let answered = matches!(input, Input::Answer(_));
        let before = self.verifiers[verifier].subscriber.knowledge().lease.map(|lease| lease.until);
        self.verifier_handles(verifier, input);
        let lease = self.verifiers[verifier].subscriber.knowledge().lease;
        if answered && self.has(Mutant::LeaseFromArrival) && lease.map(|lease| lease.until) > before {
            self.renew_falsely(verifier);
        }
    }

    fn count_gap(&mut self, verifier: usize, frame: &Frame) {
        let known = self.verifiers[verifier].subscriber.knowledge();
        let next = known.applied.next();
        if let Frame::Entries(frame) = frame
            && known.synced
            && frame.entries.first().map(|entry| entry.rev) > next
        {
            self.counts.add("gaps met");
        }
    }

    pub fn verifier_tick(&mut self, verifier: usize, life: u32, seq: u64) {
        let v = &self.verifiers[verifier];
        if v.life != life || v.ticks != seq || self.sleeps(verifier, || Event::Tick { verifier, life, seq }) {
            return;
        }
        self.verifier_handles(verifier, Input::Tick);
    }

    fn verifier_handles(&mut self, verifier: usize, input: Input) {
        let now = self.verifier_now(verifier);
        let actions = self.verifiers[verifier].subscriber.handle(input, now);
        for action in actions {
            self.verifier_does(verifier, action);
        }
        self.note_freshness(verifier);
        let v = &mut self.verifiers[verifier];
        v.ticks += 1;
        if let Some(wake) = v.subscriber.wake_at() {
            let at = v.clock.when(wake).max(self.now + 1);
            let (life, seq) = (v.life, v.ticks);
            self.at(at, Event::Tick { verifier, life, seq });
        }
    }

    fn verifier_does(&mut self, verifier: usize, action: Action) {
        match action {
            Action::Connect { identity, position } => {
                self.close_conn(verifier);
                let conn = self.fresh();
                self.verifiers[verifier].conn = conn;
                let identity = identity.map(|me| (me.instance, me.secret));
                self.verifier_sends(verifier, ToServer::Open { verifier, conn, identity, position });
                // A stream that does not open fails after a while.
                let life = self.verifiers[verifier].life;
                let what = Reach::Ended { conn };
                if !self.verifiers[verifier].subscriber.connected() {
                    let give_up = Event::AtVerifier(Box::new(ToVerifier { verifier, life, what }));
                    self.after(30_000, give_up);
                }
            }
            Action::Disconnect => self.close_conn(verifier),
            Action::Ask(ask) => {
                let (life, nonce) = (self.verifiers[verifier].life, ask.nonce.clone());
                let what = Reach::AskTimeout { nonce };
                let timeout = self.settings.bound / 2;
                self.after(timeout, Event::AtVerifier(Box::new(ToVerifier { verifier, life, what })));
                self.verifier_sends(verifier, ToServer::Ask { verifier, ask });
            }
            Action::Pull { part, rev, .. } => self.verifier_sends(verifier, ToServer::Pull { verifier, part, rev }),
            Action::Publish => {
                if self.has(Mutant::AckBeforeApply) {
                    let (life, delay) = (self.verifiers[verifier].life, self.rng.range(50, 400));
                    self.after(delay, Event::Show { verifier, life });
                } else {
                    self.show(verifier);
                }
            }
            Action::Report(trouble) => {
                tell!(self, "verifier {verifier}: reports {trouble}");
                if matches!(trouble, Trouble::Fork | Trouble::OtherLog | Trouble::OlderEpoch | Trouble::Rollback) {
                    self.violate("I4", format!("verifier {verifier} reports {trouble}"));
                }
            }
        }
    }

    fn close_conn(&mut self, verifier: usize) {
        let conn = std::mem::take(&mut self.verifiers[verifier].conn);
        if conn != 0 {
            self.after(20, Event::AtServer(Box::new(ToServer::Close { conn })));
        }
    }

    pub fn verifier_show(&mut self, verifier: usize, life: u32) {
        if self.verifiers[verifier].life == life {
            self.show(verifier);
        }
    }

    /// What is known becomes what requests are judged by.
    fn show(&mut self, verifier: usize) {
        let mono = self.verifiers[verifier].clock.now(self.now);
        let wall = self.verifiers[verifier].wall.now(self.now);
        let v = &mut self.verifiers[verifier];
        let mut known = v.subscriber.knowledge().clone();
        if let Some(taken) = v.taken.as_ref().filter(|taken| taken.applied > known.applied) {
            (known.set, known.applied) = (taken.set.clone(), taken.applied);
        } else {
            v.taken = None;
        }
        if let Some(lease) = v.false_lease.filter(|lease| lease.until > mono && known.synced) {
            known.lease = Some(lease);
        }
        if self.mutant == Some(Mutant::VerifierForgetsByOwnClock) {
            known.set.forget(wall);
        }
        let applied = known.applied;
        let newer = applied > v.shown.known.applied;
        v.shown = v.shown.next(known);
        self.wake_guards(verifier);
        if newer {
            self.note(4, applied.0 << 8 | verifier as u64);
            self.check_applied(verifier);
        }
    }

    // ---- planted bugs ----

    fn renew_falsely(&mut self, verifier: usize) {
        let v = &mut self.verifiers[verifier];
        let known = v.subscriber.knowledge();
        let from = v.clock.now(self.now);
        if let Some(lease) = known.lease {
            v.false_lease = Some(Lease { from, until: from.plus(shortened(known.bound_ms)), ..lease });
        }
        self.show(verifier);
    }

    fn planted_by_frame(&mut self, verifier: usize, frame: &Frame) {
        if self.has(Mutant::HeartbeatRenews) {
            self.renew_falsely(verifier);
        }
        if self.has(Mutant::SkipGap)
            && let Frame::Entries(entries) = frame
        {
            let mono = self.verifiers[verifier].clock.now(self.now);
            let v = &mut self.verifiers[verifier];
            let mut known = v.taken.take().unwrap_or_else(|| v.subscriber.knowledge().clone());
            for entry in &entries.entries {
                if !known.synced || entry.rev <= known.applied {
                    continue;
                }
                known.set.apply(entry, mono);
                known.applied = entry.rev;
                v.taken = Some(known.clone());
            }
            self.show(verifier);
        }
    }

    // ---- requests ----

    /// Whether it calls itself fresh now.
    pub fn is_fresh(&self, verifier: usize) -> bool {
        let v = &self.verifiers[verifier];
        v.shown.known.fresh(v.clock.now(self.now), v.wall.now(self.now))
    }

    fn note_freshness(&mut self, verifier: usize) {
        let fresh = self.is_fresh(verifier);
        if self.verifiers[verifier].was_fresh && !fresh {
            self.counts.add("leases lost");
        }
        self.verifiers[verifier].was_fresh = fresh;
        self.check_freshness(verifier);
    }

    /// A request with some token: mostly a young one, sometimes one that something was done to.
    pub fn probe(&mut self, verifier: usize) {
        let pause = self.rng.range(60, 400);
        self.after(pause, Event::Probe { verifier });
        let len = self.truth.tokens.len();
        if len > 0 {
            let back = self.rng.pick(&[6, 20, 60]).min(len);
            let token = len - 1 - self.rng.index(back);
            self.probe_token(verifier, token);
        }
    }

    pub fn probe_token(&mut self, verifier: usize, token: usize) {
        if self.verifiers[verifier].suspended.is_some() {
            return;
        }
        let judged = self.judge(verifier, token);
        self.check_judged(verifier, token, judged);
    }

    /// Judges as a request would be judged, and catches up where the verdict asks for it.
    pub fn judge(&mut self, verifier: usize, token: usize) -> Judged {
        let (judged, catch_up) = self.judge_alone(verifier, token);
        if catch_up {
            self.verifier_handles(verifier, Input::CatchUp);
        }
        judged
    }

    /// The judgement, and whether it asks for a catch-up.
    pub fn judge_alone(&mut self, verifier: usize, token: usize) -> (Judged, bool) {
        let (claims, key) = (self.truth.tokens[token].claims.clone(), self.truth.tokens[token].key);
        let (mono, wall) = {
            let v = &self.verifiers[verifier];
            (v.clock.now(self.now), v.wall.now(self.now))
        };
        if self.has(Mutant::IatInsteadOfRev) {
            return (self.judge_by_iat(verifier, &claims, mono, wall), false);
        }
        self.verdict(verifier, claims, key)
    }

    /// A token by this key. Whether the signature is right is no question here; whether the key is known is.
    pub fn judge_signed(&mut self, verifier: usize, claims: AccessClaims, key: KeyId) -> Judged {
        let (judged, catch_up) = self.verdict(verifier, claims, key);
        if catch_up {
            self.verifier_handles(verifier, Input::CatchUp);
        }
        judged
    }

    fn verdict(&mut self, verifier: usize, claims: AccessClaims, key: KeyId) -> (Judged, bool) {
        let expect =
            Expect { issuer: self.settings.rules.issuer.clone(), audience: self.settings.rules.audience.clone() };
        let v = &mut self.verifiers[verifier];
        let (mono, wall) = (v.clock.now(self.now), v.wall.now(self.now));
        let verdict = if v.shown.known.keys.iter().any(|jwk| jwk.kid == key) {
            let token = Authentic::insecure_without_signature(claims, Some(key));
            judge_claims(&v.shown, &token, &Holder::Bearer, &expect, Policy::Closed, mono, wall)
        } else {
            let input = signing_input(Algorithm::Es256, key, ACCESS_TOKEN_TYP, &claims).unwrap_or_default();
            unauthentic(&v.shown, &assemble(input, &[0; 64]), Reason::UnknownKey, Policy::Closed, mono, wall)
        };
        let judged = match (verdict.decision, verdict.ahead) {
            (Decision::Accept, Some(rev)) => {
                self.counts.add("tokens ahead of the verifier");
                match v.ahead.check(rev, &v.shown.known, mono) {
                    Ok(()) => Judged::Accepted,
                    Err(reason) => Judged::Refused(reason),
                }
            }
            (Decision::Accept | Decision::AcceptUnproven, _) => Judged::Accepted,
            (Decision::Introspect, _) => Judged::Refused(Reason::NotFresh),
            (Decision::Refuse(reason), _) => Judged::Refused(reason),
        };
        (judged, verdict.catch_up)
    }

    /// A bug: what was issued in or after the second of an entry is spared by it.
    fn judge_by_iat(&mut self, verifier: usize, claims: &AccessClaims, mono: Mono, wall: Time) -> Judged {
        let known = &self.verifiers[verifier].shown.known;
        if claims.expires_at() <= known.clock(mono, wall) {
            return Judged::Refused(Reason::Expired);
        }
        let entries = self.truth.log.iter().zip(&self.truth.committed_at).rev();
        for (entry, at) in entries.filter(|(entry, _)| entry.rev <= known.applied) {
            if matches(entry, claims) && claims.iat < at.secs() {
                return Judged::Refused(Reason::Ended { rev: entry.rev });
            }
        }
        if known.fresh(mono, wall) { Judged::Accepted } else { Judged::Refused(Reason::NotFresh) }
    }

    // ---- what happens to it ----

    /// It stands still for a while; its clock counts that, or does not.
    pub fn suspend(&mut self, verifier: usize, length: i64) {
        let until = self.now + length;
        if self.verifiers[verifier].suspended.is_none() {
            self.verifiers[verifier].suspended = Some((self.now, until));
            let kind = if self.verifiers[verifier].counts_suspension {
                "suspensions counted by the clock"
            } else {
                "suspensions not counted by the clock"
            };
            self.counts.add(kind);
            tell!(self, "verifier {verifier}: suspended for {length} ms");
            self.at(until, Event::Resume { verifier });
        }
    }

    pub fn verifier_resumes(&mut self, verifier: usize) {
        let now = self.now;
        let v = &mut self.verifiers[verifier];
        let Some((from, _)) = v.suspended.take() else { return };
        v.resumed = now;
        if !v.counts_suspension {
            v.clock.missed(from, now);
        }
        // Requests that waited are judged before anything else is heard.
        for back in 0..4.min(self.truth.tokens.len()) {
            let token = self.truth.tokens.len() - 1 - back;
            self.probe_token(verifier, token);
        }
        self.verifier_handles(verifier, Input::Tick);
    }

    /// It dies and starts with nothing.
    pub fn verifier_restarts(&mut self, verifier: usize) {
        self.counts.add("verifier restarts");
        self.close_conn(verifier);
        let ppm = self.verifiers[verifier].ppm;
        let start = self.rng.range(0, 1_000_000_000);
        let now = self.now;
        let v = &mut self.verifiers[verifier];
        v.life += 1;
        v.subscriber = Subscriber::new(Config::default());
        v.shown = View::new(v.subscriber.knowledge().clone());
        v.clock = Ticks::new(now, start, ppm);
        (v.suspended, v.seen, v.was_fresh) = (None, Rev::ZERO, false);
        (v.false_lease, v.taken, v.ahead) = (None, None, AheadRecord::default());
        tell!(self, "verifier {verifier}: restarts");
        let (life, seq) = (self.verifiers[verifier].life, self.verifiers[verifier].ticks);
        self.after(50, Event::Tick { verifier, life, seq });
    }
}

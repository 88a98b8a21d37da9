//! Somebody who guesses at one account's password, many at once and from many networks; and the proof that no more are looked
//! at than the budget allows, and that a known device of that account never pays for it.
use crate::clock::At;
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::net::From;
use crate::server::{Reply, Request, Stage};
use crate::world::{Event, World, tell};
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::throttle::{ACCOUNT, Attempt, BucketKey, DEVICE, Verdict};
use portcullis_store::CommitError;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The slot of the account that is guessed at. It is never deleted.
const TARGET: usize = 0;
/// From so many networks.
const NETWORKS: i64 = 250;

/// Where a sign-in comes from, and what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which network.
    pub network: u16,
    /// The device, when it has the mark of a known one.
    pub known: Option<u128>,
    /// Whether the password is the right one.
    pub right: bool,
}

impl Origin {
    pub fn ip(self) -> IpAddr {
        let [high, low] = self.network.to_be_bytes();
        IpAddr::from([10, high, low, 1])
    }
}

/// What is known of guesses in truth.
#[derive(Debug, Default)]
pub struct Guesses {
    /// How many were looked at, and since when there were any.
    checked: i64,
    began: Option<At>,
    /// What each known device took and was not given back, by its bucket.
    taken: BTreeMap<BucketKey, i64>,
    /// The same at the commit that throttled it last: until that is told, some of it may be given back.
    at_throttle: BTreeMap<BucketKey, i64>,
}

impl World {
    /// A burst of guesses.
    pub fn guesser_acts(&mut self) {
        let pause = self.rng.range(1_000, 6_000) * if self.settings.slow { 6 } else { 1 };
        self.after(pause, Event::Guesser);
        for _ in 0..self.rng.pick(&[1, 5, 45]) {
            let network = 1000 + self.rng.range(0, NETWORKS - 1) as u16;
            let origin = Origin { network, known: None, right: false };
            let call = self.fresh();
            let request = Request::SignIn { account: TARGET, agent: "curl/8".into(), cookie: false, origin };
            self.call(From::Guesser, call, request);
        }
    }

    fn attempt(&self, request: &Request) -> Option<Attempt> {
        let Request::SignIn { account, origin, .. } = request else { return None };
        let mut origin = *origin;
        if self.has(Mutant::StrangersChargeTheDevice) && origin.known.take().is_some() {
            origin.network = 60_000;
        }
        Some(Attempt::of(&self.mac, &self.accounts[*account].1, Some(origin.ip()), origin.known))
    }

    /// An attempt is taken from its budgets, in a commit of its own, before the account is loaded.
    pub fn take_attempt(&mut self, id: u64) {
        let Some(attempt) = self.ops.get(&id).and_then(|op| self.attempt(&op.request)) else { return };
        let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        if self.has(Mutant::LookBeforeTaking) {
            // It looks whether there is something to take, and takes it when the password was looked at.
            let seen = self.disk.visible.clone().commit(changes.clone(), self.database.now(self.now));
            self.submit(Owner::Nobody, changes, About::default());
            return self.attempt_taken(id, seen);
        }
        if let Some(op) = self.ops.get_mut(&id) {
            (op.stage, op.attempt) = (Stage::Taking, Some(attempt));
        }
        self.submit(Owner::Take(id), changes, About::default());
    }

    /// The attempt was taken, or throttled, or nobody knows.
    pub fn attempt_taken(&mut self, id: u64, result: Result<Committed, CommitError>) {
        let verdict = result.ok().and_then(|committed| committed.attempt);
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.verdict = verdict;
        let (request, attempt) = (op.request.clone(), op.attempt);
        let Some(verdict) = verdict else { return self.op_fails(id) };
        self.check_attempt(&request, attempt, verdict);
        self.next(id, Stage::Load, 0);
    }

    fn check_attempt(&mut self, request: &Request, attempt: Option<Attempt>, verdict: Verdict) {
        let Request::SignIn { origin, .. } = request else { return };
        match (origin.right, origin.known, verdict) {
            (false, _, Verdict::Throttled) => self.counts.add("guesses throttled"),
            (false, ..) => {
                self.counts.add("guesses looked at");
                self.guesses.checked += 1;
                let began = *self.guesses.began.get_or_insert(self.now);
                // By the database's time, as far as it was set forward.
                let most = ACCOUNT.most_in(self.now - began + self.database.forwarded()) + 1;
                if self.guesses.checked > most {
                    let detail = format!("{} guesses were looked at, at most {most} may be", self.guesses.checked);
                    self.violate("I12", detail);
                }
            }
            // A known device is throttled by what it took itself, and by nothing else.
            (true, Some(device), Verdict::Throttled) => {
                let bucket = attempt.and_then(|attempt| attempt.device);
                let own = bucket.and_then(|bucket| self.guesses.at_throttle.get(&bucket)).copied().unwrap_or(0);
                if own < DEVICE.burst {
                    self.violate("I11", format!("device {device} is throttled, and took {own} itself"));
                }
            }
            (true, None, Verdict::Throttled) => self.counts.add("sign-ins throttled at an unknown device"),
            (true, _, Verdict::Stranger) => self.counts.add("sign-ins at an unknown device"),
            (true, _, Verdict::Network) => self.counts.add("sign-ins from a known network"),
            (true, _, Verdict::Device) => self.counts.add("sign-ins from a known device"),
        }
    }

    /// What commits on disk took, and gave back.
    pub fn truth_of_attempts(&mut self, changes: &Changes, committed: Committed) {
        for step in &changes.steps {
            if let (Change::TakeAttempt(attempt), Some(Verdict::Throttled)) = (step, committed.attempt)
                && let Some(bucket) = attempt.device
            {
                let own = self.guesses.taken.get(&bucket).copied().unwrap_or(0);
                self.guesses.at_throttle.insert(bucket, own);
            }
            let (attempt, by) = match step {
                Change::TakeAttempt(attempt) if committed.attempt == Some(Verdict::Device) => (attempt, 1),
                Change::GiveBack { attempt, verdict: Verdict::Device } => (attempt, -1),
                _ => continue,
            };
            if let Some(bucket) = attempt.device {
                *self.guesses.taken.entry(bucket).or_default() += by;
            }
        }
    }

    /// A bug: budgets live in the process.
    pub fn forget_budgets(&mut self) {
        tell!(self, "server: budgets for guesses are forgotten");
        let steps = vec![Change::PruneAttempts { keep: 0, most: u64::MAX }];
        self.disk.set_up(Changes { steps, ..Changes::default() }, self.database.now(self.now));
    }

    /// A guesser is answered.
    pub fn at_guesser(&mut self, reply: &Reply) {
        if let Reply::Tokens { .. } = reply {
            self.violate("I7", "a guess that is wrong got tokens".into());
        }
    }
}

//! What an account may have, and how long things are kept: the limit of sessions, blocks that lift themselves, deletions with a
//! grace period, rows that go some time after their end. And the proof that no more live than may, and that nothing is forgotten
//! while it can still be asked for.
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::truth::{Act, TokenFact};
use crate::world::{World, tell};
use portcullis_domain::changes::{Change, Changes, Committed, Expect, Revoke};
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::model::{Session, SessionKind};
use portcullis_domain::retention::{self, Retention};
use portcullis_domain::session_limit::{self, AtLimit, SessionLimit};
use portcullis_domain::sign_in::Issued;
use portcullis_domain::view::Dead;
use portcullis_domain::{Decision, account};
use portcullis_wire::{AccountId, Millis, Rev, SessionId, Target, Time, Verb};

/// The settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How many sessions an account may have.
    pub limit: Option<SessionLimit>,
    /// How long a deletion can be taken back.
    pub grace: Millis,
    /// For how long what is kept.
    pub keep: Retention,
}

impl Policy {
    pub fn choose(rng: &mut Rng, idle_ttl: Millis) -> Self {
        let limit = match rng.range(0, 9) {
            0..=4 => Some(SessionLimit { most: rng.pick(&[1, 2]), at_limit: AtLimit::EndOldest }),
            5 => Some(SessionLimit { most: 2, at_limit: AtLimit::Refuse }),
            _ => None,
        };
        let keep = Retention { ended: rng.pick(&[0, 15_000, 40_000]), addresses: 60_000, events: None, idle_ttl };
        Self { limit, grace: rng.pick(&[0, 12_000]), keep }
    }
}

impl World {
    /// Puts the limit into a sign-in that was decided.
    pub fn limited(&mut self, account: AccountId, decision: Decision<Issued>) -> Decision<Issued> {
        let Some(limit) = self.settings.policy.limit else { return decision };
        let was_right = decision.outcome.is_ok();
        let now = self.database.now(self.now);
        let mut live = self.disk.visible.list_sessions(account, session_limit::MAX_LOOKED_AT, now);
        if self.has(Mutant::LimitEndsApplications) {
            live.iter_mut().for_each(|view| view.session.kind = SessionKind::App);
        }
        let idle_ttl = self.settings.rules.idle_ttl;
        let mut decision = session_limit::apply(decision, &live, limit, idle_ttl, &mut self.rng);
        if was_right && decision.outcome.is_err() {
            self.counts.add("sign-ins refused: limit");
        }
        if self.has(Mutant::LimitUncounted) {
            decision.changes.expects.retain(|expect| !matches!(expect, Expect::LiveSessions { .. }));
        }
        decision
    }

    /// I12: no more sessions of an account live than it may have. And what the limit ended is an act like any other.
    pub fn truth_of_limit(&mut self, changes: &Changes, committed: Committed) {
        let ends: Vec<(SessionId, AccountId, Rev)> = crate::suspicion::revs_of(changes, committed)
            .into_iter()
            .filter_map(|(revoke, rev)| limit_end(revoke, changes).map(|(session, account)| (session, account, rev)))
            .collect();
        let signs_in = |step: &Change| matches!(step, Change::InsertSession(row) if row.client.is_none());
        if changes.steps.iter().any(signs_in) {
            let view = |session: &SessionId| self.disk.durable.load_session(*session, Time::ZERO);
            let theirs = |(session, ..): &&(SessionId, AccountId, Rev)| {
                view(session).is_some_and(|v| v.session.client.is_some())
            };
            if let Some((session, ..)) = ends.iter().find(theirs) {
                return self.violate("I11", format!("{session} of an application ended to make room for a sign-in"));
            }
        }
        for (session, account, rev) in &ends {
            let rev = *rev;
            let scope = Scope::Session { account: *account, session: *session };
            let act = Act { rev, ..Act::of(Door::SessionLimit, scope) };
            self.counts.add("end: session_limit");
            self.truth.by_rev.insert(rev, self.truth.acts.len());
            self.truth.acts.push(act);
        }
        let Some(limit) = self.settings.policy.limit else { return };
        // At the latest time that the database ever told: what was dead then is not revived by a clock that was set back.
        let now = self.database.highest(self.now);
        for step in &changes.steps {
            // A connected app or a key neither counts nor makes room.
            let Change::InsertSession(session) = step else { continue };
            let is_own = |one: &Session| one.client.is_none() && one.kind != SessionKind::ApiKey;
            if !is_own(session) {
                continue;
            }
            let live = self.disk.durable.list_sessions(session.account, 100, now);
            let own = live.iter().filter(|view| is_own(&view.session));
            let live = own.filter(|view| view.dead(self.settings.rules.idle_ttl).is_none()).count();
            if live > limit.most as usize {
                let detail = format!("{live} sessions of {} live, at most {} may", session.account, limit.most);
                return self.violate("I12", detail);
            }
        }
    }

    /// Now and then: what is due, and what may go.
    pub fn keep_policy(&mut self) {
        let now = self.database.now(self.now);
        for id in self.disk.visible.list_due_accounts(10, now) {
            let Some(view) = self.disk.visible.load_account(id, now) else { continue };
            let Decision { changes, .. } = account::due(&view, &mut self.rng);
            if !changes.is_empty() {
                self.counts.add("accounts due");
                self.submit(Owner::Nobody, changes, About::default());
            }
        }
        if !self.node.rounds.is_multiple_of(3) {
            return;
        }
        let mut keep = self.settings.policy.keep;
        let found = self.disk.visible.list_prunable(&keep, None, 1000, now);
        let mut sessions = found.sessions;
        if self.has(Mutant::PruneWhatIsCut) {
            // What a cut killed is dead, so away with it.
            keep.idle_ttl = i64::MIN / 2;
            sessions = self.cut_sessions();
        }
        let oldest = self.disk.visible.list_notices(1);
        if retention::must_wait(oldest.first(), now) && !self.has(Mutant::PruneBeforeTold) {
            return self.counts.add("nothing deleted: somebody is still to be told");
        }
        if !sessions.is_empty() {
            tell!(self, "server: deletes {} sessions", sessions.len());
            for _ in &sessions {
                self.counts.add("sessions pruned");
            }
            let steps = vec![Change::PruneSessions { sessions, keep }];
            self.submit(Owner::Nobody, Changes { steps, ..Changes::default() }, About::default());
        }
        let steps = vec![Change::PruneGrants { most: 100 }];
        self.submit(Owner::Nobody, Changes { steps, ..Changes::default() }, About::default());
    }

    fn cut_sessions(&self) -> Vec<SessionId> {
        let now = self.database.now(self.now);
        let all = self.truth.sessions.keys().filter_map(|id| self.disk.visible.load_session(*id, now));
        let cut = all.filter(|view| matches!(view.dead(i64::MAX), Some(Dead::Cut { .. })));
        cut.map(|view| view.session.id).collect()
    }

    /// I6: a refresh token may be answered as one that nobody remembers only when its session has ended, all that was ever given
    /// out under it has expired, and the time is over for which more was promised.
    pub fn check_forgotten(&mut self, presented: &Presented) {
        self.counts.add("refresh tokens of forgotten sessions");
        let grant = presented.grant();
        let tokens = self.truth.tokens.iter().filter(|token| token.grant == grant);
        let (mut last_left, mut lives, mut goes_on) = (0, false, false);
        for token in tokens {
            last_left = last_left.max(token.left);
            lives |= self.lives_by_rule(token);
            goes_on |= self.disk.durable.load_session(token.session, Time::ZERO).is_some();
        }
        let kept = self.settings.policy.keep.ended;
        // By true time, as far as the database's clock was not set.
        // A grant that ended under a session that goes on is kept as long as the log names it, and no time is promised.
        let too_soon = !goes_on && self.now - last_left + self.database.forwarded() < kept;
        if lives || too_soon {
            let detail =
                format!("the session of {grant} is forgotten; a token of it lives: {lives}, too soon: {too_soon}");
            self.violate("I6", detail);
        }
    }

    /// Whether a token lives. While the database's clock is set back, tokens are issued ahead of it and outlive the idle end of
    /// their session, which is told by that clock alone: of those nothing is said here.
    fn lives_by_rule(&self, token: &TokenFact) -> bool {
        let highest = self.database.highest(self.now);
        let set_back = self.database.now(self.now) < highest || self.database.was_set_since(token.left);
        token.claims.expires_at() > highest && !set_back
    }

    /// I9: a sign-out by a token that has not expired finds its session, dead or alive.
    pub fn check_found(&mut self, session: SessionId) {
        let mut tokens = self.truth.tokens.iter().filter(|token| token.session == session);
        if let Some(token) = tokens.find(|token| self.lives_by_rule(token)) {
            let exp = token.claims.expires_at();
            self.violate("I9", format!("{session} was not found for its sign-out; a token of it lives until {exp}"));
        }
    }
}

fn limit_end(revoke: &Revoke, changes: &Changes) -> Option<(SessionId, AccountId)> {
    let (Verb::End, Target::Session(session)) = (&revoke.verb, &revoke.target) else { return None };
    let of = |event: &&portcullis_domain::NewEvent| event.session == Some(*session);
    let account = changes.events.iter().find(of).and_then(|event| event.account)?;
    (revoke.reason == Door::SessionLimit.as_str()).then_some((*session, account))
}

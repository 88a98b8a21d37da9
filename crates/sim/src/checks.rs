//! The invariants of DESIGN §3, each read from the truth: what really happened, never what somebody in the world believes.
use crate::decide::Facts;
use crate::disk::About;
use crate::net::From;
use crate::server::{Op, Reply, Request};
use crate::truth::{SessionFact, Step as FamilyStep, TokenFact};
use crate::verifiers::Judged;
use crate::world::{Event, World, tell};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::model::UNPROVEN;
use portcullis_domain::refresh::Outcome as Move;
use portcullis_domain::refused::Refused;
use portcullis_domain::sign_in::Issued;
use portcullis_domain::view::RefreshView;
use portcullis_feed::set::{RevokedSet, Subject, Verdict};
use portcullis_verify::Reason;
use portcullis_wire::frame::Snapshot;
use portcullis_wire::{AccountId, ClientId, Code, KeyId, Rev, SessionId, Target, Time};

/// An invariant that did not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which (DESIGN §3).
    pub invariant: &'static str,
    /// How.
    pub detail: String,
    /// When, in true time.
    pub at: i64,
}

impl World {
    /// An invariant does not hold: the run ends.
    pub fn violate(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            tell!(self, "VIOLATION of {invariant}: {detail}");
            self.violation = Some(Violation { invariant, detail, at: self.now });
        }
    }

    // ---- what becomes true ----

    /// A commit is on disk.
    pub fn truth_of_commit(&mut self, about: About, changes: &Changes, committed: Committed) {
        let read = self.disk.durable.read_log(self.truth.head(), u32::MAX, committed.at);
        for entry in read.entries {
            // I4: positions without a gap, in commit order.
            if Some(entry.rev) != self.truth.head().next() {
                self.violate("I4", format!("{} was written after {}", entry.rev, self.truth.head()));
            }
            tell!(self, "disk: rev {} {} {:?} except {:?}", entry.rev, entry.verb.name(), entry.target, entry.except);
            self.note(1, entry.rev.0);
            self.truth.log.push(entry);
            self.truth.committed_at.push(committed.at);
        }
        for step in &changes.steps {
            match step {
                Change::InsertSession(session) => {
                    let fact = SessionFact { account: session.account, proof: about.facts, client: session.client };
                    self.truth.sessions.insert(session.id, fact);
                    self.proven(session.id, session.auth_time, &session.amr);
                    if let Some(browser) = session.allowed_in {
                        self.told.allowed_in.insert(session.id, browser);
                    }
                }
                Change::SetAuthTime { session, at, amr } => {
                    self.counts.add("proofs made again");
                    self.proven(*session, *at, amr);
                }
                Change::Unprove { session, .. } => {
                    self.counts.add("proofs asked for");
                    self.proven(*session, UNPROVEN, &Amr::unknown());
                }
                Change::InsertAccount(account) => self.account_made(account),
                _ => self.truth_of_family(step),
            }
        }
        self.truth_of_codes(&about, changes);
        // Whoever is asked first whether they want an account has not come through.
        let comes = changes.steps.iter().any(|step| matches!(step, Change::InsertSession(_)));
        if let Some(arrival) = about.arrival.as_ref().filter(|_| comes) {
            self.check_arrival(arrival);
        }
        self.truth_of_upstream(changes);
        self.truth_of_attempts(changes, committed);
        self.truth_of_imports(changes);
        self.truth_of_limit(changes, committed);
        self.truth_of_letters(&about, changes, committed);
        let ruled = about.ruled;
        let mut act = about.act;
        self.truth_of_filters(changes, act.as_mut(), committed.rev);
        if let (Some(mut act), Some(rev)) = (act, committed.rev) {
            self.counts.add(end_kind(act.door));
            act.rev = rev;
            // A withdrawal ends one by one, and whoever asks later is told the rev of what they ask about.
            let ends = changes.steps.iter().filter(|step| matches!(step, Change::Revoke(_))).count() as u64;
            for n in 1..ends {
                self.truth.by_rev.entry(Rev(rev.0 - n)).or_insert(self.truth.acts.len());
            }
            self.truth.by_rev.insert(rev, self.truth.acts.len());
            self.truth.acts.push(act);
        }
        self.truth_of_rules(ruled.as_ref(), changes, committed);
    }

    fn truth_of_family(&mut self, step: &Change) {
        let Some((grant, step)) = FamilyStep::of(step) else { return };
        let (now, window, database) = (self.now, self.settings.rules.retry_window, &self.database);
        let family = self.truth.families.entry(grant).or_default();
        family.written(now, step, window, |since| database.was_set_since(since));
    }

    /// A token is about to leave.
    pub fn register_token(&mut self, issued: &Issued, facts: Rev) -> usize {
        let claims = issued.claims.clone();
        self.note(2, claims.jti.bits() as u64 ^ claims.rev.0);
        let (session, account, grant) = (issued.session.id, issued.account.id, issued.current.0);
        let of_code = self.truth.grants.get(&grant).copied();
        let of_session = self.truth.sessions.get(&session).map(|session| session.proof);
        let proof = of_code.or(of_session).unwrap_or(facts);
        let (left, key) = (self.now, self.node.rota.signs.unwrap_or(KeyId(0)));
        let (client, hands) = (claims.client_id, Vec::new());
        let allowed = self.truth.allowed.get(&grant).copied().unwrap_or(proof);
        self.truth.tokens.push(TokenFact {
            claims,
            facts,
            left,
            session,
            account,
            grant,
            client,
            hands,
            proof,
            allowed,
            key,
        });
        let token = self.truth.tokens.len() - 1;
        // The first tokens of a key go everywhere at once: whoever may be fresh must know it.
        if self.truth.tokens.iter().rev().take(8).filter(|token| token.key == key).count() < 6 {
            for verifier in 0..self.verifiers.len() {
                self.after(1, Event::ProbeToken { verifier, token });
                self.after(40, Event::ProbeToken { verifier, token });
            }
        }
        token
    }

    // ---- answers ----

    /// An answer leaves the server.
    pub fn check_reply(&mut self, op: &Op, reply: &Reply) {
        if op.faulted && !matches!(reply, Reply::Unavailable) {
            return self.violate("I9", format!("a fault was answered with {reply:?}"));
        }
        if let Request::App(request) = &op.request {
            self.check_app_reply(op, request, reply);
        }
        if let Request::Upstream(request) = &op.request {
            self.check_upstream_reply(op, request, reply);
        }
        if let Request::Letter(request) = &op.request {
            self.check_letter_reply(op, request, reply);
        }
        self.check_ruled_reply(op, reply);
        match reply {
            Reply::Code(_) | Reply::Begun(_) | Reply::Away(_) => {}
            Reply::Tokens { issued, token, .. } => self.check_tokens(op, issued, *token),
            Reply::Revoked { rev } => self.check_revoked(op, *rev),
            Reply::Refused(refused) => self.check_refused(op, refused),
            Reply::Done => match op.request {
                Request::Unblock { .. } => self.counts.add("unblocks"),
                Request::Roles { .. } if op.committed.is_some() => self.counts.add("roles changed"),
                _ => {}
            },
            Reply::Unauthenticated { code } => self.check_unauthenticated(op, *code),
            Reply::Imported(lines) => self.check_imported(lines),
            Reply::Unavailable => {}
        }
    }

    /// I11 at the server: an acting session that is refused is dead, or was when it was looked at.
    fn check_unauthenticated(&mut self, op: &Op, code: Code) {
        let Request::End { actor, .. } = &op.request else { return };
        let now = self.database.highest(self.now);
        let view = self.disk.durable.load_session(actor.1, now);
        if view.is_some_and(|view| view.dead(self.settings.rules.idle_ttl).is_none()) && !self.was_blocked(actor.0) {
            self.violate("I11", format!("{} lives and was answered {code}", actor.1));
        }
    }

    fn was_blocked(&self, account: AccountId) -> bool {
        self.truth.acts.iter().any(|act| act.is_block() && act.scope == Scope::Account(account))
    }

    fn check_tokens(&mut self, op: &Op, issued: &Issued, token: usize) {
        let fact = self.truth.tokens[token].clone();
        // I3: the stamp is the head of the snapshot that the facts came from.
        if fact.claims.rev != op.facts_head {
            let (stamp, facts) = (fact.claims.rev, op.facts_head);
            return self
                .violate("I3", format!("a token of {} is stamped {stamp}; its facts are of {facts}", fact.session));
        }
        self.check_proof(&fact);
        // I9: what is answered is on disk.
        let now = self.database.now(self.now);
        let row = self.disk.durable.load_refresh(fact.grant, now);
        if row.is_none_or(|view| view.grant.family.counter < issued.current.1) {
            return self.violate("I9", format!("tokens of {} left; the disk does not know them", fact.session));
        }
        // I16: no token outlives the horizon.
        let horizon = self.disk.durable.stamp(now).horizon;
        if fact.claims.expires_at() > horizon {
            return self.violate("I16", format!("a token lives until {}, beyond {horizon}", fact.claims.expires_at()));
        }
        // I12: an application under a browser's session is not the person at it; its tokens end with the session at the latest.
        let above = self.disk.durable.load_session(fact.session, now);
        if let Some(view) = above.filter(|view| !view.session.is_used_by(fact.claims.client_id)) {
            let idle_end = view.used_at().plus(self.settings.rules.idle_ttl);
            if fact.claims.expires_at() > idle_end {
                let (session, exp) = (fact.session, fact.claims.expires_at());
                let detail = format!(
                    "an application's token of {session} lives until {exp}, the session idles out at {idle_end}"
                );
                return self.violate("I12", detail);
            }
        }
        // I7 (and I1): no path leads from before an end to a token after it.
        let passed = self.truth.acts.iter().find(|act| act.was_passed_by(&fact));
        if let Some(act) = passed {
            let (invariant, door, rev) = (if act.is_block() { "I7" } else { "I1" }, act.door, act.rev);
            let detail = format!("{} was ended by {door:?} at {rev}, and got a token at {}", fact.session, fact.facts);
            return self.violate(invariant, detail);
        }
        match &op.request {
            Request::Refresh { by, .. } => {
                self.counts.add("refreshes");
                self.check_whose(*by, issued);
                self.check_successor(op, issued);
            }
            Request::App(_) => {}
            _ => self.counts.add("sign-ins"),
        }
    }

    /// I5 and I6: one successor, and no two who go on for long.
    fn check_successor(&mut self, op: &Op, issued: &Issued) {
        let Some(Facts::Refresh(view, presented)) = &op.facts else { return };
        let (grant, counter) = (issued.current.0, presented.counter());
        let (now, window) = (view.stamp.now, self.settings.rules.retry_window);
        let is_thief = matches!(op.from, From::Thief(_));
        let since = now.since(view.grant.family.handed_at.max(view.grant.family.made_at));
        let too_late = since >= self.patience(&op.request, view);
        let family = self.truth.families.entry(grant).or_default();
        let text = issued.refresh.expose().to_owned();
        let cookie_again = issued.current.1 == counter;
        let mut wrong = None;
        if !cookie_again {
            // Across a setting of the database's clock its times say nothing about each other.
            if let Some((before, handed, at)) = family.handed.get(&counter)
                && *before != text
                && now.since(*handed) < window
                && !self.database.was_set_since(*at - 2 * window)
            {
                wrong = Some(("I5", format!("two successors of {counter} of {grant} within {window} ms")));
            }
            let before = family.handed.get(&counter).filter(|(before, ..)| *before == text);
            let handed = before.map_or(now, |(_, handed, _)| now.max(*handed));
            family.handed.insert(counter, (text, handed, self.now));
        }
        match op.judged {
            Some(Move::Rotate) => {
                if family.rotated.is_some_and(|last| last >= counter) {
                    wrong = Some(("I5", format!("{counter} of {grant} was rotated twice: two live leaves")));
                }
                family.rotated = Some(counter);
                family.moves.push(is_thief);
            }
            // The same token once more: its answer was lost, and nobody went on by it.
            Some(Move::Skip) if too_late => {
                wrong = Some(("I6", format!("{counter} of {grant} came later than that from elsewhere")));
            }
            Some(Move::Skip) if family.presented[usize::from(is_thief)] == Some(counter) => {}
            Some(Move::Skip) => family.moves.push(is_thief),
            _ => family.moves.clear(),
        }
        if matches!(op.judged, Some(Move::Rotate | Move::Skip)) {
            family.presented[usize::from(is_thief)] = Some(counter);
        }
        // What counts begins with the thief's first move: thief, owner, thief is possible (a predecessor can be used again), and
        // then the owner's next refresh is noticed.
        family.moves.dedup();
        if family.moves.first() == Some(&false) {
            family.moves.remove(0);
        }
        if family.moves.len() >= 4 {
            wrong = Some(("I6", format!("a thief and the owner of {grant} take turns and nobody notices")));
        }
        if is_thief {
            self.counts.add("thief let in");
        }
        if let Some((invariant, detail)) = wrong {
            self.violate(invariant, detail);
        }
    }

    /// I9: an acknowledged end is in the log, and it is the one that was asked for.
    fn check_revoked(&mut self, op: &Op, rev: Rev) {
        let act = self.truth.by_rev.get(&rev).copied();
        let about = act.is_some_and(|n| {
                let act = &self.truth.acts[n];
                match (&op.request, asked_session(&op.request)) {
                    (_, Some(session)) => {
                        let account = self.truth.sessions.get(&session).map(|session| session.account);
                        // By what it names, or because what it names reaches that session.
                        act.door == Door::ConsentWithdrawn || matches!(act.scope, Scope::Session { session: named, .. } | Scope::Grant { session: named, .. } if named == session)
                            || account.is_some_and(|account| {
                                act.is_about(account, session, portcullis_wire::GrantId::from_bits(0))
                            })
                    }
                    (Request::AdminEnd { scope, .. }, None) => act.scope == *scope,
                    (Request::Filter { key, .. }, None) => act.door == Door::Filter && act.key.as_ref() == Some(key),
                    (Request::RevokeKey { id, .. }, None) => act.scope == Scope::Key(*id),
                    (Request::End { actor, .. }, None) => act.scope == Scope::Account(actor.0),
                    (Request::Upstream(_), None) => act.door == Door::UpstreamLogout,
                    (Request::Letter(_), None) => act.door == Door::PasswordReset,
                    (Request::App(_), None) => {
                        matches!(act.door, Door::ClientOff | Door::TokenRevoked | Door::ConsentWithdrawn)
                    }
                    (Request::Block { account, .. } | Request::Delete { account, .. }, None) => {
                        act.scope == Scope::Account(*account)
                    }
                    _ => false,
                }
            });
        if !about || rev > self.truth.head() {
            return self.violate(
                "I9",
                format!("{:?} was answered with rev {rev}, which the log does not have so", op.request),
            );
        }
        let Some(n) = act else { return };
        if self.truth.acts[n].acked.is_none() {
            self.truth.acts[n].acked = Some(self.now);
            let bound = self.settings.bound;
            self.probe_killed_by(n, bound);
            if self.rng.chance(500) {
                self.wait_enforced(n, rev);
            }
        }
    }

    fn check_refused(&mut self, op: &Op, refused: &Refused) {
        // By a rule, and what that ends is an act of its own.
        if op.ruled.as_ref().is_some_and(|ruled| ruled.stopped) {
            return;
        }
        match (&op.request, refused) {
            (Request::SignIn { .. }, Refused::AccountBlocked { .. }) => self.counts.add("sign-ins refused: blocked"),
            (Request::End { actor, session: Some(session), .. }, Refused::NotFound) if actor.1 == *session => {
                self.check_found(*session);
            }
            // Shown by another client: refused, and nothing else is said of it.
            (Request::Refresh { by, token, .. }, Refused::RefreshInvalid) if *by != ClientId::FIRST_PARTY => {
                let view = Presented::parse(token).and_then(|p| self.disk.durable.load_refresh(p.grant(), Time::ZERO));
                if view.is_some_and(|view| view.grant.client == *by) {
                    return self.violate("I6", format!("{by} was refused its own token"));
                }
                self.counts.add("refreshes refused: another's token");
            }
            (Request::Refresh { token, .. }, refused) => {
                let Some(presented) = Presented::parse(token) else { return };
                self.application_refused(token, refused);
                if *refused == Refused::RefreshForgotten {
                    return self.check_forgotten(&presented);
                }
                self.check_refresh_refused(op, &presented, refused);
            }
            _ => {}
        }
    }

    /// How late whoever asks may come: longer where the session was last, with the browser that it was made with.
    fn patience(&self, request: &Request, view: &RefreshView) -> i64 {
        let rules = &self.settings.rules;
        let Request::Refresh { agent, network, .. } = request else { return rules.late_retry };
        let alike = portcullis_domain::device::family(Some(agent)) == view.session.agent;
        if alike && self.is_at_home(view, *network) { rules.late_retry_at_home } else { rules.late_retry }
    }

    /// I6, and I11 for sessions: nobody loses one for nothing.
    fn check_refresh_refused(&mut self, op: &Op, presented: &Presented, refused: &Refused) {
        let grant = presented.grant();
        let fact = self.truth.families.get(&grant);
        let (stolen, hurried) = fact.map_or((false, false), |family| (family.stolen, family.was_hurried()));
        let Some(Facts::Refresh(view, _)) = &op.facts else {
            return self.violate("I6", format!("a real refresh token of {grant} was refused unseen: {refused:?}"));
        };
        let (family, rules, now) = (&view.grant.family, &self.settings.rules, view.stamp.now);
        let wrong = match refused {
            Refused::RefreshReused => {
                if stolen {
                    self.counts.add("thefts caught");
                }
                let too_late = family.predecessor == Some(presented.counter())
                    && now.since(family.handed_at.max(family.made_at)) >= self.patience(&op.request, view);
                !stolen && !too_late && !hurried
            }
            Refused::RefreshExpired => {
                self.counts.add("sessions expired");
                let used = view.used_at();
                now < used.plus(rules.idle_ttl) && now.plus(1000) < view.session.absolute_expires_at
            }
            Refused::SessionEnded { .. } => {
                let (account, session, client) = (view.account.id, view.session.id, view.grant.client);
                let about = |act: &&crate::truth::Act| {
                    let only = act.only.as_ref().is_none_or(|only| only.contains(&session));
                    act.rev <= op.facts_head && only && act.is_about_grant(account, session, grant, client)
                };
                !self.truth.acts.iter().any(|act| about(&act))
            }
            Refused::RefreshInvalid => matches!(op.from, From::Device(_)),
            _ => false,
        };
        if wrong {
            let detail =
                format!("{} of {} lost its session for nothing: {refused:?}", presented.counter(), view.session.id);
            self.violate("I6", detail);
        }
    }

    // ---- the disk ----

    /// I16: F may rise only over entries that no living token needs.
    pub fn check_floor(&mut self, to: Time) {
        let gone: Vec<_> = self.disk.durable.read_live(to).1.into_iter().filter(|entry| entry.until < to).collect();
        if gone.is_empty() {
            return;
        }
        for _ in &gone {
            self.counts.add("entries forgotten");
        }
        let alive = self.truth.tokens.iter().filter(|token| token.claims.expires_at() > to);
        let needed = alive
            .flat_map(|token| gone.iter().map(move |entry| (token, entry)))
            .find(|(token, entry)| entry.rev > token.facts && crate::truth::matches(entry, &token.claims));
        if let Some((token, entry)) = needed {
            let (rev, exp) = (entry.rev, token.claims.expires_at());
            self.violate(
                "I16",
                format!("F rises to {to} and forgets {rev}; a token that it matches lives until {exp}"),
            );
        }
    }

    /// I9 after a crash: what was acknowledged is there.
    pub fn check_after_crash(&mut self) {
        let now = self.database.now(self.now);
        let stamp = self.disk.durable.stamp(now);
        if stamp.head != self.truth.head() || self.disk.visible.stamp(now) != stamp {
            self.violate("I9", format!("after a crash the head is {}, it was {}", stamp.head, self.truth.head()));
        }
        let acks = self.truth.acts.iter().filter(|act| act.acked.is_some());
        if let Some(lost) = acks.map(|act| act.rev).find(|rev| self.truth.entry(*rev).is_none()) {
            self.violate("I9", format!("the acknowledged rev {lost} was lost by a crash"));
        }
    }

    /// At the end: every session that an act was about is dead in the database, and every act is recorded once.
    pub fn check_end(&mut self) {
        let now = self.database.now(self.now);
        for act in &self.truth.acts {
            let grant = portcullis_wire::GrantId::from_bits(0);
            let killed =
                self.truth.sessions.iter().filter(|(id, s)| act.is_about(s.account, **id, grant) && s.proof < act.rev);
            let alive = killed
                .filter_map(|(id, _)| self.disk.durable.load_session(*id, now))
                .find(|v| v.dead(i64::MAX).is_none());
            if let Some(view) = alive {
                let (invariant, door) = (if act.is_block() { "I7" } else { "I1" }, act.door);
                let detail =
                    format!("{} was ended by {door:?} at {} and lives in the database", view.session.id, act.rev);
                return self.violate(invariant, detail);
            }
        }
        self.check_grants_at_the_end();
        self.check_told_at_the_end();
        let mut keys: Vec<&String> = self.truth.acts.iter().filter_map(|act| act.key.as_ref()).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        if keys.len() != all {
            self.violate("I9", "one key acted twice".into());
        }
    }

    // ---- verifiers ----

    /// Requests with tokens that this act killed, at every verifier, from `after` on.
    pub fn probe_killed_by(&mut self, act: usize, after: i64) {
        let Some(rev) = self.truth.acts.get(act).map(|act| act.rev) else { return };
        let act = &self.truth.acts[act];
        let now = self.database.now(self.now);
        let recent = self.truth.tokens.iter().enumerate().rev().take(120);
        let killed = recent.filter(|(_, token)| act.kills(token) && token.claims.expires_at() > now).map(|(n, _)| n);
        let tokens: Vec<usize> = killed.take(4).collect();
        self.note(3, rev.0);
        for token in tokens {
            for verifier in 0..self.verifiers.len() {
                for delay in [1, 30, 300] {
                    self.after(after + delay, Event::ProbeToken { verifier, token });
                }
            }
        }
    }

    /// A lease by this head is given. What comes after it and was said to be true everywhere must be so at who gets it, too.
    pub fn probe_enforced_after(&mut self, head: Rev) {
        let late = self.truth.acts.iter().enumerate().rev().take(8);
        let late = late.filter(|(_, act)| act.rev > head && act.enforced.is_some()).map(|(n, _)| n);
        let late: Vec<usize> = late.collect();
        for act in late {
            for after in [5, 10, 20, 50, 100] {
                self.probe_killed_by(act, after);
            }
        }
    }

    /// I2: who calls itself fresh has applied all that could be read B ago.
    pub fn check_freshness(&mut self, verifier: usize) {
        if self.violation.is_some() || !self.is_fresh(verifier) {
            return;
        }
        let applied = self.verifiers[verifier].shown.known.applied;
        let due = self.truth.head_at(self.now - self.settings.bound);
        if applied < due {
            self.violate(
                "I2",
                format!("verifier {verifier} calls itself fresh at {applied}; {due} could be read B ago"),
            );
        }
    }

    /// I4: what it says that it applied is committed, and all of it is in force.
    pub fn check_applied(&mut self, verifier: usize) {
        let v = &self.verifiers[verifier];
        let (known, seen, mono) = (&v.shown.known, v.seen, v.clock.now(self.now));
        let applied = known.applied;
        if applied > self.truth.head() {
            let detail = format!("verifier {verifier} applied {applied}; the log ends at {}", self.truth.head());
            return self.violate("I4", detail);
        }
        let floor = known.floor.map_or(Time::ZERO, |floor| floor.time);
        let first = usize::try_from(seen.0).unwrap_or(usize::MAX).min(self.truth.log.len());
        let last = usize::try_from(applied.0).unwrap_or(0);
        let mut missed = None;
        for entry in self.truth.log.get(first..last).unwrap_or_default().iter().filter(|entry| entry.until >= floor) {
            let about = self.truth.tokens.iter().rev().take(80).filter(|token| token.claims.rev < entry.rev);
            let mut about = about.filter(|token| crate::truth::matches(entry, &token.claims));
            if let Target::Key(key) = entry.target
                && !known.set.key_is_dead(key)
            {
                missed = Some(("I4", entry.rev));
            }
            let live = |set: &RevokedSet, token: &TokenFact| {
                set.verdict(&Subject::of(&token.claims, None), mono) == Verdict::Live
            };
            if let Some(token) = about.find(|token| live(&known.set, token)) {
                // What the follower has and the request path has not was forgotten on the way.
                let forgotten = !live(&v.subscriber.knowledge().set, token);
                missed = Some((if forgotten { "I16" } else { "I4" }, entry.rev));
            }
        }
        if let Some((invariant, rev)) = missed {
            return self.violate(
                invariant,
                format!("verifier {verifier} says it applied {applied}, and {rev} is not in force"),
            );
        }
        self.verifiers[verifier].seen = applied.max(seen);
    }

    /// I16: a snapshot holds whatever a living token is matched by.
    pub fn check_snapshot(&mut self, parts: &[Snapshot]) {
        let Some(first) = parts.first() else { return };
        let mut set = RevokedSet::with_limit(100_000);
        let mono = self.node_now();
        parts.iter().flat_map(|part| &part.entries).for_each(|entry| set.apply(entry, mono));
        let (rev, floor) = (first.rev, first.horizon_floor);
        let alive = self.truth.tokens.iter().filter(|token| token.claims.expires_at() > floor);
        let missed =
            alive.map(|token| (self.truth.verdict(&token.claims, rev), token)).find(|((ended, stale), token)| {
                ended.or(*stale).is_some() && set.verdict(&Subject::of(&token.claims, None), mono) == Verdict::Live
            });
        if let Some(((ended, stale), token)) = missed {
            let (entry, exp) = (ended.or(stale).unwrap_or_default(), token.claims.expires_at());
            let detail = format!("the snapshot of {rev} forgot {entry}; a token that it matches lives until {exp}");
            self.violate("I16", detail);
        }
    }

    /// A request was judged.
    pub fn check_judged(&mut self, verifier: usize, token: usize, judged: Judged) {
        self.check_freshness(verifier);
        self.note(5, (token as u64) << 8 | verifier as u64);
        match judged {
            Judged::Accepted => {
                self.counts.add("accepted");
                self.check_accepted(verifier, token);
            }
            Judged::Refused(reason) => self.check_refusal(verifier, token, reason),
        }
    }

    /// I1, I4, I7, I16: what must not be accepted.
    fn check_accepted(&mut self, verifier: usize, token: usize) {
        let known = &self.verifiers[verifier].shown.known;
        let (applied, seen) = (known.applied, self.verifiers[verifier].seen);
        let fact = &self.truth.tokens[token];
        let (bound, now) = (self.settings.bound, self.now);
        let mut wrong = None;
        for act in self.truth.acts.iter().filter(|act| act.kills(fact)) {
            let (door, rev) = (act.door, act.rev);
            if let Some(at) = act.acked.filter(|at| now > at + bound) {
                let late = now - at;
                wrong =
                    Some(("I1", format!("accepted {late} ms after {door:?} at {rev} was acknowledged; B is {bound}")));
            }
            if act.enforced.is_some_and(|at| now > at) {
                wrong = Some(("I1", format!("accepted after {door:?} at {rev} was said to be true everywhere")));
            }
            if act.is_block() && rev <= applied {
                wrong = Some(("I7", format!("accepted for a blocked account; {door:?} at {rev} was applied")));
            }
        }
        if let Some(rev) = self.truth.death(fact.key).filter(|rev| *rev <= applied) {
            wrong = Some(("I1", format!("accepted at {applied}, although {} is dead since {rev}", fact.key)));
        }
        let (ended, stale) = self.truth.verdict(&fact.claims, applied);
        // What it knew and forgot is told as that, though it may break a promise of time as well.
        if let Some(rev) = ended.or(stale)
            && (wrong.is_none() || rev <= seen)
        {
            let mono = self.verifiers[verifier].clock.now(now);
            let in_force = known.set.verdict(&Subject::of(&fact.claims, None), mono) != Verdict::Live;
            let invariant = match (in_force, rev <= seen) {
                (true, _) => "I1", // it knows, and accepts
                (_, true) => "I16",
                _ => "I4",
            };
            wrong = Some((invariant, format!("accepted at {applied}, although {rev} matches it")));
        }
        if let Some((invariant, detail)) = wrong {
            let detail =
                format!("verifier {verifier}, a token of {} stamped {}: {detail}", fact.session, fact.claims.rev);
            self.violate(invariant, detail);
        }
    }

    /// I11: what must not be refused.
    fn check_refusal(&mut self, verifier: usize, token: usize, reason: Reason) {
        let known = &self.verifiers[verifier].shown.known;
        let fact = &self.truth.tokens[token];
        let (ended, stale) = self.truth.verdict(&fact.claims, known.applied);
        let wrong = match reason {
            Reason::NotFresh => {
                self.counts.add("refused: not fresh");
                false
            }
            Reason::Ended { .. } => {
                self.counts.add("refused: ended");
                ended.is_none()
            }
            Reason::Stale { .. } => {
                self.counts.add("refused: stale");
                stale.is_none() && ended.is_none()
            }
            // In every life of a verifier the list comes no later than the entry, perhaps earlier: then the key is unknown.
            Reason::KeyDead | Reason::UnknownKey => {
                self.counts.add(if reason == Reason::KeyDead { "refused: key dead" } else { "refused: unknown key" });
                // Or F has passed it: that it has ended may reach a verifier later than that its key is gone.
                let passed = fact.claims.expires_at() <= self.disk.durable.stamp(Time::ZERO).floor;
                self.truth.death(fact.key).is_none() && !(passed && reason == Reason::UnknownKey)
            }
            Reason::Expired => {
                self.counts.add("refused: expired");
                // The clock here may run ahead of the database's by its drift since the answer that it counts from, which is
                // at most a minute older than the last one.
                let drift = (self.now - self.verifiers[verifier].answered + 60_000) / 100 + 50;
                let not_yet = fact.claims.expires_at() > self.database.highest(self.now).plus(drift);
                // Wherever the database's clock was set back to, a token lives about as long as it says; a verifier may count
                // on from what it was told for another minute by its clock, which may miss suspensions.
                let life = (fact.claims.exp - fact.claims.iat) * 1000;
                let too_early = self.now < fact.left + life - 100_000
                    && !self.database.was_set_since(self.now - 100_000)
                    && !self.database.was_set_forward_since(fact.left - 5_000);
                (not_yet || too_early) && self.is_fresh(verifier)
            }
            // The database's clock was set by minutes: forward, and this verifier has not been told since; or back, and the
            // token is of before. Either looks like a forgery; its holder refreshes and goes on.
            Reason::TooLong => {
                self.counts.add("refused: too long, by a clock that was set");
                !self.database.was_set_since((fact.left - 5_000).min(self.now - self.settings.bound))
            }
            _ => true,
        };
        if wrong {
            let detail = format!(
                "verifier {verifier} refuses a living token of {} ({}), exp {}, database {}",
                fact.session,
                reason.as_str(),
                fact.claims.expires_at(),
                self.database.now(self.now)
            );
            self.violate("I11", detail);
        }
    }
}

fn asked_session(request: &Request) -> Option<SessionId> {
    match request {
        Request::End { session, .. } => *session,
        Request::AdminEnd { scope: Scope::Session { session, .. }, .. } => Some(*session),
        _ => None,
    }
}

fn end_kind(door: portcullis_domain::kernel::Door) -> &'static str {
    match door {
        Door::SignOut => "end: signed_out",
        Door::EndOne => "end: ended_by_user",
        Door::EndOthers => "end: others_ended",
        Door::EndAll => "end: all_ended",
        Door::PasswordChange => "end: password_changed",
        Door::AdminEndSession => "end: ended_by_admin",
        Door::AdminEndAccount => "end: all_ended_by_admin",
        Door::Block => "end: blocked",
        Door::Delete => "end: deleted",
        Door::Everyone => "end: everyone",
        Door::Replay => "end: refresh_reused",
        Door::ClientOff => "end: client_disabled",
        Door::Filter => "end: revoked_by_filter",
        Door::Refound => "end: refounded",
        Door::KeyRevoked => "end: key_revoked",
        Door::SessionLimit => "end: session_limit",
        Door::CodeReplay => "end: code_reused",
        Door::TokenRevoked => "end: revoked_by_client",
        Door::ConsentWithdrawn => "end: consent_withdrawn",
        Door::RpLogout => "end: signed_out_by_application",
        Door::GlobalRevocation => "end: revoked_globally",
        Door::UpstreamLogout => "end: signed_out_upstream",
        Door::LinkRemoved => "end: link_removed",
        Door::RiskRule => "end: risk_rule",
        Door::PasswordReset => "end: password_reset",
        Door::NotMe => "end: not_me",
    }
}

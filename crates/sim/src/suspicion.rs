//! Rules about suspicious activity: a policy of the world's own, chosen by its seed, that is asked about sign-ins, refreshes, new passwords and
//! what somebody outside says of an account. What is seen (`domain::risk::observe`) and what a verdict does (`enforce`) is the product's.
//!
//! And the proof that what a rule ended is in the log and nothing else is; that a refused act does nothing of what was asked; that no rule
//! shortens a block; and that no more accounts are blocked than may be.
use crate::clock::At as Moment;
use crate::decide::{Facts, Outcome as Decided};
use crate::guesses::Origin as Whence;
use crate::mutant::Mutant;
use crate::net::From;
use crate::rng::Rng;
use crate::server::{Op, Reply, Request};
use crate::truth::Act as Taken;
use crate::world::{Event, World, tell};
use portcullis_domain::Decision;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Committed, Expect};
use portcullis_domain::event::EventKind;
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::model::{Account, Status, UNPROVEN};
use portcullis_domain::refresh::{self, How};
use portcullis_domain::risk::enforce::{At, Cap, Judged, Kept, enforce, word};
use portcullis_domain::risk::{
    Act, ExternalKind, Guesses, Hit, Judge, Made, Memory, Origin, Outcome, RefreshSeen, Seen, Signals, Verdict, What,
    observe,
};
use portcullis_domain::throttle::{Attempt, BucketKey};
use portcullis_domain::view::{RefreshView, Stamp};
use portcullis_wire::{AccountId, ClientId, Rev, SessionId, Target, Time, Verb};
use std::collections::BTreeMap;

/// So many accounts may be blocked by rules at once, and a minute.
const BLOCKS: u32 = 2;
const CAP: BucketKey = BucketKey([0xb1; 16]);

/// What each rule of a world does.
#[derive(Debug, Clone)]
struct Policy {
    stranger: Vec<Outcome>,
    elsewhere: Vec<Outcome>,
    theft: Vec<Outcome>,
    changed: Vec<Outcome>,
    leaked: Vec<Outcome>,
    lost: Vec<Outcome>,
    fraud: Vec<Outcome>,
    /// Chance of this one act: rules hold now and then.
    dice: u64,
}

impl Policy {
    fn choose(rng: &mut Rng) -> Self {
        use Outcome::{Block, EndAll, EndSession, Notify, StepUp, Throttle};
        let block = |ms| Block { for_ms: Some(ms) };
        let mut of = |all: &[&[Outcome]]| all[rng.index(all.len())].to_vec();
        Self {
            stranger: of(&[&[StepUp], &[EndSession], &[EndAll], &[block(6_000)], &[Throttle, Notify], &[Notify]]),
            elsewhere: of(&[&[StepUp, Notify], &[EndSession], &[EndAll], &[block(8_000), EndAll], &[Throttle]]),
            theft: of(&[&[Notify], &[EndSession], &[EndAll], &[Block { for_ms: None }]]),
            changed: of(&[&[StepUp], &[EndSession], &[EndAll], &[Notify]]),
            leaked: of(&[&[Notify], &[StepUp], &[Throttle]]),
            lost: of(&[&[EndAll], &[EndSession, Notify], &[block(5_000)]]),
            fraud: of(&[&[Block { for_ms: None }], &[block(10_000), EndAll]]),
            dice: 0,
        }
    }
    /// Whether the n-th rule looks at this one act.
    fn looks(&self, n: u32, per_mille: u64) -> bool {
        (self.dice >> (n * 9)) % 1000 < per_mille
    }
}

impl Judge for Policy {
    fn judge(&self, said: &Signals) -> Verdict {
        let (act, what) = (said.act.as_ref(), said.what.as_ref());
        let moved = act == "refresh" && said.moved && said.new_network;
        let mut hits = Vec::new();
        let mut rule = |holds: bool, rule: &str, outcomes: &[Outcome], shadow: bool| {
            if holds {
                let (rule, outcomes) = (rule.to_owned(), outcomes.to_vec());
                hits.push(Hit { rule, outcomes, reason: "an exercise".into(), shadow });
            }
        };
        rule(self.looks(0, 60), "let-be", &[Outcome::Allow], false);
        rule(moved, "would-block", &[Outcome::Block { for_ms: None }], true);
        let stranger = act == "sign_in" && said.new_device && said.sign_ins > 1 && self.looks(1, 250);
        rule(stranger, "stranger", &self.stranger, false);
        rule(moved && self.looks(2, 600), "elsewhere", &self.elsewhere, false);
        rule(what == "theft" && self.looks(3, 600), "theft", &self.theft, false);
        rule(act == "change" && self.looks(4, 600), "changed", &self.changed, false);
        rule(what == "credential_leaked", "told-leaked", &self.leaked, false);
        rule(what == "device_lost", "told-lost", &self.lost, false);
        rule(what == "fraud", "told-fraud", &self.fraud, false);
        Verdict { version: self.version().into(), hits }
    }
    fn version(&self) -> &str {
        "of this world"
    }
}

/// What a verdict does to an operation.
#[derive(Debug, Clone)]
pub struct Ruled {
    account: AccountId,
    at: At,
    does: Option<(String, Outcome)>,
    /// The act was right, and a rule refuses it.
    pub stopped: bool,
    /// The rules for refresh tokens had ended the session already.
    over: bool,
    /// Of an account that is being deleted nothing is left to be blocked.
    deleting: bool,
}

impl Ruled {
    /// What must end by it, through which door, sparing whom: told by the rule's outcome, not by what was written.
    fn must_end(&self) -> Option<(Scope, Option<SessionId>)> {
        let account = self.account;
        let whole = Some((Scope::Account(account), None));
        match (self.does.as_ref()?.1, self.at) {
            (Outcome::EndSession, At::Session(..)) if self.over => None,
            (Outcome::EndSession, At::Session(session, _)) => Some((Scope::Session { account, session }, None)),
            (Outcome::EndSession, At::SignIn(_)) => None,
            (Outcome::EndAll, At::SignIn(session)) => Some((Scope::Account(account), Some(session))),
            (Outcome::EndAll, _) | (Outcome::EndSession, At::Account) => whole,
            (Outcome::Block { .. }, _) if !self.deleting => whole,
            _ => None,
        }
    }
}

/// The rules of this world, and what they did in truth.
#[derive(Debug)]
pub struct Suspicion {
    /// In half of the worlds nobody judges.
    pub on: bool,
    rng: Rng,
    policy: Policy,
    statuses: BTreeMap<AccountId, Status>,
    blocks: i64,
    began: Option<Moment>,
}

impl Suspicion {
    /// By a source of its own, so that the other worlds are what they are without it.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x7215_4f0e_88c3_d100);
        let (on, policy) = (rng.chance(500), Policy::choose(&mut rng));
        Self { on, rng, policy, statuses: BTreeMap::new(), blocks: 0, began: None }
    }
}

/// What is judged of an operation.
struct Case<'a> {
    stamp: Stamp,
    account: &'a Account,
    at: At,
    act: Act,
    network: Option<u16>,
    agent: String,
    made: Option<Made>,
}

impl World {
    pub fn make_suspicion(&mut self) {
        if self.suspicion.on {
            self.after(7_000, Event::Outside);
        }
    }

    /// From which network a device refreshes: now and then it is out.
    pub fn network_of_device(&mut self, device: usize) -> u16 {
        let out = self.suspicion.on && self.suspicion.rng.chance(120);
        device as u16 + if out { 600 } else { 0 }
    }

    /// Somebody outside says something of an account.
    pub fn outside_tells(&mut self) {
        let rng = &mut self.suspicion.rng;
        let pause = rng.range(3_000, 14_000) * if self.settings.slow { 4 } else { 1 };
        let slot = rng.index(self.accounts.len());
        let kinds = [ExternalKind::CredentialLeaked, ExternalKind::DeviceLost, ExternalKind::Fraud];
        let kind = rng.pick(&kinds);
        self.after(pause, Event::Outside);
        let (account, call) = (self.accounts[slot].0, self.fresh());
        self.call(From::Admin, call, Request::Signal { account, kind });
    }

    // ---- the server ----

    /// What the rules make of what was decided.
    pub fn judged(&mut self, op: &mut Op, facts: &Facts, base: Decision<Decided>) -> Decision<Decided> {
        op.ruled = None;
        if !self.suspicion.on {
            return base;
        }
        let Some(case) = self.case(&op.request, facts, &base) else { return base };
        let account = case.account.id;
        let attempt = op.attempt.unwrap_or_else(|| {
            let name = case.account.email.clone().unwrap_or_default();
            Attempt::of(&self.mac, &name, None, None)
        });
        let view = self.disk.visible.load_risk(account, &[CAP]);
        let memory = view.memory.as_deref().map(Memory::read).unwrap_or_default();
        let from = case.network.map(|network| {
            let ip = Whence { network, known: None, right: true }.ip();
            Origin::somewhere(Origin::network_of(&self.mac, account, ip))
        });
        let session = match case.at {
            At::SignIn(session) | At::Session(session, _) => Some(session),
            At::Account | At::SignUp | At::Asked | At::Reset => None,
        };
        let (guesses, build) = (Guesses::default(), portcullis_domain::device::Build::default());
        let (now, act, made) = (case.stamp.now, case.act, case.made.clone());
        let seen = Seen { at: now, act, session, made, from, agent: case.agent.clone(), build, guesses };
        let (signals, after) = observe(&memory, &seen);
        let judge = Policy { dice: self.suspicion.rng.word(), ..self.suspicion.policy.clone() };
        let verdict = judge.judge(&signals);
        let forgotten = self.has(Mutant::CapForgotten);
        let row = view.buckets.first().copied().flatten().filter(|_| !forgotten);
        let stands = case.account.clone();
        let is_blocked = matches!(stands.status, Status::Blocked(_));
        let shown = match self.mutant {
            Some(Mutant::RuleShortensBlock) if is_blocked => Account { status: Status::Active, ..stands },
            _ => stands,
        };
        let judged = Judged {
            stamp: &case.stamp,
            account: &shown,
            at: case.at,
            ip: None,
            network: from.map(|from| from.network),
            attempt: Some(&attempt),
            verdict: &verdict,
            kept: Kept {
                version: view.version,
                plain: after.write(),
                doubted: after.doubted(&memory).write(),
                refused: after.refused(&memory, &seen, true).write(),
            },
            cap: Cap { bucket: CAP, budget: Cap::budget(BLOCKS), row },
            mail: None,
            tells: &|_| true,
        };
        let (right, asked) = (base.outcome.is_ok(), base.changes.clone());
        let ended = |step: &Change| matches!((step, session), (Change::Revoke(what), Some(id)) if what.target == Target::Session(id));
        let over = asked.steps.iter().any(ended);
        let (mut decision, plan) = enforce(base, &judged, &mut self.rng);
        if plan.capped {
            self.counts.add("rules: held back by the cap");
        }
        if verdict.hits.iter().any(|hit| hit.outcomes.contains(&Outcome::Allow)) {
            self.counts.add("rules: allowed");
        }
        let ruled = Ruled {
            account,
            at: case.at,
            does: plan.does.map(|(hit, outcome)| (hit.rule, outcome)),
            stopped: right && decision.outcome.is_err(),
            over,
            deleting: matches!(case.account.status, Status::Deleting { .. } | Status::Deleted { .. }),
        };
        tell!(self, "rules: {:?} of {account}: {:?}", case.act, ruled.does);
        self.ruled_wrongly(&mut decision.changes, &asked, &ruled);
        if let Ok(Decided::Issued(issued)) = &mut decision.outcome
            && asks_for_proof(&decision.changes)
            && !self.has(Mutant::StepUpForgotten)
        {
            let unknown = Amr::unknown();
            (issued.claims.auth_time, issued.claims.amr) = (UNPROVEN.secs(), unknown.methods());
            (issued.session.auth_time, issued.session.amr) = (UNPROVEN, unknown);
        }
        op.ruled = Some(ruled);
        decision
    }

    /// Planted bugs.
    fn ruled_wrongly(&self, changes: &mut Changes, asked: &Changes, ruled: &Ruled) {
        let by_rule = |step: &Change| matches!(step, Change::Revoke(what) if what.reason == Door::RiskRule.as_str());
        match self.mutant {
            Some(Mutant::RuleDropsItsEnd) => changes.steps.retain(|step| !by_rule(step)),
            Some(Mutant::CapForgotten) => changes.steps.retain(|step| !matches!(step, Change::Draw { .. })),
            Some(Mutant::RefusedActIsDone) if ruled.stopped => {
                changes.expects.splice(0..0, asked.expects.clone());
                changes.steps.splice(0..0, asked.steps.clone());
            }
            Some(Mutant::RuleEndsTooMuch) => {
                for step in changes.steps.iter_mut().filter(|step| by_rule(step)) {
                    if let Change::Revoke(what) = step {
                        what.target = Target::Account(ruled.account);
                    }
                }
                changes.expects.retain(|expect| !matches!(expect, Expect::SessionNotEnded(_)));
            }
            _ => {}
        }
    }

    fn case<'a>(&self, request: &Request, facts: &'a Facts, base: &Decision<Decided>) -> Option<Case<'a>> {
        match (request, facts) {
            (Request::SignIn { agent, origin, .. }, Facts::SignIn(view)) => {
                let Ok(Decided::Issued(issued)) = &base.outcome else { return None };
                let act = Act::SignIn { known_device: origin.known.is_some(), breached: false };
                let (at, network) = (At::SignIn(issued.session.id), Some(origin.network));
                let agent = portcullis_domain::device::family(Some(agent));
                let account = view.account.as_ref()?;
                Some(Case { stamp: view.stamp, account, at, act, network, agent, made: None })
            }
            (Request::Refresh { agent, cookie, by, network, .. }, Facts::Refresh(view, presented)) => {
                let act = Act::Refresh(self.says(view, presented, agent, *cookie, *by, *network)?);
                let agent = portcullis_domain::device::family(Some(agent));
                let made = Some(Made {
                    at: view.session.created_at,
                    agent: view.session.agent.clone(),
                    token_at: Some(view.grant.family.made_at),
                });
                let at = At::Session(view.session.id, Some(view.grant.id));
                let (account, network) = (&view.account, Some(*network));
                Some(Case { stamp: view.stamp, account, at, act, network, agent, made })
            }
            (Request::End { door: Door::PasswordChange, actor, .. }, Facts::Account(view)) => {
                let (at, act) = (At::Session(actor.1, None), Act::Change(What::Password));
                let (account, agent) = (&view.account, String::new());
                Some(Case { stamp: view.stamp, account, at, act, network: None, agent, made: None })
            }
            (Request::Signal { kind, .. }, Facts::Account(view)) => {
                let (at, act) = (At::Account, Act::External(*kind));
                let gone = matches!(view.account.status, Status::Deleted { .. });
                let (account, agent) = (&view.account, String::new());
                (!gone).then_some(Case { stamp: view.stamp, account, at, act, network: None, agent, made: None })
            }
            _ => None,
        }
    }

    /// Whether a refresh says something, as `app` asks it.
    fn says(
        &self,
        view: &RefreshView,
        presented: &Presented,
        agent: &str,
        cookie: bool,
        by: ClientId,
        network: u16,
    ) -> Option<RefreshSeen> {
        let at_home = self.is_at_home(view, network);
        let (user_agent, proven) = (Some(agent.to_owned()), by != ClientId::FIRST_PARTY);
        if proven {
            return None;
        }
        let how = How { cookie, user_agent, ip: None, client: by, proven, sender: None, at_home };
        RefreshSeen::of(refresh::seen(view, presented, &how, &self.settings.rules, &self.mac).ok()?, at_home)
    }

    /// Whether a late one comes from where its grant was last. Here it is the same network or none: what is remembered of an account is asked
    /// about by the tests of `rules`.
    pub fn is_at_home(&self, view: &RefreshView, network: u16) -> bool {
        let ip = Whence { network, known: None, right: true }.ip();
        view.grant.network == Some(Origin::network_of(&self.mac, view.account.id, ip))
    }

    // ---- what really happened ----

    /// What a commit on disk did of what a rule decided. I1: what it ends is in the log. I11: nothing else is. I7: no block is shorter by
    /// it. I12: the cap.
    pub fn truth_of_rules(&mut self, ruled: Option<&Ruled>, changes: &Changes, committed: Committed) {
        if let Some(ruled) = ruled {
            self.check_ruled(ruled, changes, committed);
        }
        for step in &changes.steps {
            if let Change::SetStatus { account, status } = step {
                self.suspicion.statuses.insert(*account, status.clone());
            }
        }
    }

    fn check_ruled(&mut self, ruled: &Ruled, changes: &Changes, committed: Committed) {
        let account = ruled.account;
        let remembered = |step: &Change| matches!(step, Change::PutMemory { account: of, .. } if *of == account);
        let recorded = changes.events.iter().any(|event| event.kind == EventKind::RiskDecided);
        let does = ruled.does.as_ref().map(|(_, outcome)| *outcome);
        if !changes.steps.iter().any(remembered) || does.is_some_and(|does| does != Outcome::Notify) && !recorded {
            return self.violate("I9", format!("what was judged of {account} is not written down: {does:?}"));
        }
        if let Some(does) = does {
            self.counts.add(match word(does) {
                "notify" => "rules: notify",
                "throttle" => "rules: throttle",
                "step_up" => "rules: step_up",
                "end_session" => "rules: end_session",
                "end_all" => "rules: end_all",
                _ => "rules: block",
            });
        }
        // I11: an act that a rule refuses does nothing of what was asked.
        if ruled.stopped {
            self.counts.add("rules: an act was refused");
            if let Some(step) = changes.steps.iter().find(|step| is_asked_for(step)) {
                return self.violate("I11", format!("a rule refused an act of {account}, and it did {step:?}"));
            }
        }
        self.check_block(ruled, changes, committed);
        // The rule's own ends, with the revs that they got.
        let mut found = None;
        for (revoke, rev) in revs_of(changes, committed) {
            let blocks = matches!(does, Some(Outcome::Block { .. })) && revoke.reason == Door::Block.as_str();
            if revoke.verb != Verb::End || !(blocks || revoke.reason == Door::RiskRule.as_str()) {
                continue;
            }
            let scope = match &revoke.target {
                Target::Session(session) => Scope::Session { account, session: *session },
                Target::Account(of) => Scope::Account(*of),
                other => return self.violate("I11", format!("a rule ended {other:?}")),
            };
            if ruled.must_end() != Some((scope, revoke.except)) {
                let detail = format!("{does:?} of {:?} ended {scope:?} but {:?}", ruled.at, revoke.except);
                return self.violate("I11", detail);
            }
            found = Some((if blocks { Door::Block } else { Door::RiskRule }, scope, revoke.except, rev));
        }
        match (ruled.must_end(), found) {
            (Some((scope, _)), None) => {
                self.violate("I1", format!("a rule ended {scope:?} by {does:?}, and the log has nothing of it"));
            }
            (_, Some((door, scope, except, rev))) => {
                self.counts.add(if door == Door::Block { "end: blocked by a rule" } else { "end: risk_rule" });
                let act = Taken { except, rev, ..Taken::of(door, scope) };
                self.truth.by_rev.insert(rev, self.truth.acts.len());
                self.truth.acts.push(act);
            }
            (None, None) => {}
        }
    }

    fn check_block(&mut self, ruled: &Ruled, changes: &Changes, committed: Committed) {
        let account = ruled.account;
        let blocked = changes.steps.iter().find_map(|step| match step {
            Change::SetStatus { account: of, status: Status::Blocked(block) } if *of == account => Some(block.until),
            _ => None,
        });
        let before = match self.suspicion.statuses.get(&account) {
            Some(Status::Blocked(block)) if block.until.is_none_or(|until| until > committed.at) => Some(block.until),
            _ => None,
        };
        let Some(until) = blocked else {
            if before.is_some() && matches!(ruled.does, Some((_, Outcome::Block { .. }))) {
                self.counts.add("rules: a block stands for longer");
            }
            return;
        };
        // A clock that was set between the view and the commit: then it was not in force.
        let set = self.database.was_set_since(self.now - 30_000);
        let longer = |before: Time| until.is_some_and(|until| until < before);
        if let Some(before) = before
            && (before.is_none() && until.is_some() || before.is_some_and(longer))
            && !set
        {
            return self
                .violate("I7", format!("{account} was blocked until {before:?}, and by a rule until {until:?}"));
        }
        self.suspicion.blocks += 1;
        let began = *self.suspicion.began.get_or_insert(self.now);
        // By the database's time, as far as it was set forward.
        let most = Cap::budget(BLOCKS).most_in(self.now - began + self.database.forwarded()) + 1;
        if self.suspicion.blocks > most {
            let blocks = self.suspicion.blocks;
            self.violate("I12", format!("rules blocked {blocks} accounts, at most {most} may be"));
        }
    }

    /// An answer about a judged act leaves: what a rule ended is true everywhere within the bound from now on.
    pub fn check_ruled_reply(&mut self, op: &Op, reply: &Reply) {
        let (Some(ruled), Some(committed)) = (&op.ruled, op.committed) else { return };
        if matches!(reply, Reply::Unavailable) {
            return;
        }
        if ruled.stopped && !matches!(reply, Reply::Refused(_)) {
            let does = &ruled.does;
            return self.violate("I1", format!("a rule refused an act by {does:?}, and it was answered {reply:?}"));
        }
        // I3: whoever must prove anew has proven nothing.
        if let Reply::Tokens { issued, .. } = reply
            && asks_for_proof(&op.changes)
            && issued.claims.auth_time != UNPROVEN.secs()
        {
            let (session, at) = (issued.session.id, issued.claims.auth_time);
            return self.violate("I3", format!("a rule asks for a proof in {session}, whose token says {at}"));
        }
        let act = committed.rev.filter(|_| ruled.must_end().is_some());
        let Some(n) = act.and_then(|rev| self.truth.by_rev.get(&rev).copied()) else { return };
        if matches!(self.truth.acts[n].door, Door::RiskRule | Door::Block) && self.truth.acts[n].acked.is_none() {
            self.truth.acts[n].acked = Some(self.now);
            let bound = self.settings.bound;
            self.probe_killed_by(n, bound);
        }
    }

    /// How an account stands in truth.
    pub fn stands(&self, account: AccountId) -> Option<&Status> {
        self.suspicion.statuses.get(&account)
    }
}

/// What nobody may do whom a rule has refused.
fn is_asked_for(step: &Change) -> bool {
    matches!(
        step,
        Change::InsertSession(_)
            | Change::InsertGrant(_)
            | Change::SetFamily { .. }
            | Change::HandOut { .. }
            | Change::SetPassword { .. }
            | Change::SetAuthTime { .. }
            | Change::SetNetwork { .. }
            | Change::InsertTicket(_)
            | Change::KnowNetwork { .. }
    )
}

fn asks_for_proof(changes: &Changes) -> bool {
    changes.steps.iter().any(|step| matches!(step, Change::Unprove { .. }))
}

/// The entries that a commit wrote, with their revs.
pub fn revs_of(changes: &Changes, committed: Committed) -> Vec<(&portcullis_domain::changes::Revoke, Rev)> {
    let all = changes.steps.iter().filter_map(|step| match step {
        Change::Revoke(revoke) => Some(revoke),
        _ => None,
    });
    let all: Vec<_> = all.collect();
    let (count, last) = (all.len() as u64, committed.rev.map_or(0, |rev| rev.0));
    all.into_iter().zip(1..).map(|(revoke, n)| (revoke, Rev((last + n).saturating_sub(count)))).collect()
}

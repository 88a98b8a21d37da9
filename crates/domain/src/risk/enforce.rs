//! What a verdict does: from the hits of the rules to what is committed with the act that they were asked about.
//!
//! One commit has all of it: the act or its refusal, the end of sessions or the block (by the kernel, through a door like any other),
//! the audit record, and what is remembered. There are three kinds of acts: a sign-in, whose session does not exist yet; something
//! done in a session; and something that is about an account, which may not exist yet, or whose owner has shown no more than a link.
use super::{Hit, Outcome, Verdict, strongest};
use crate::account;
use crate::authorize;
use crate::changes::{Change, Changes, Expect};
use crate::device_code;
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::MacKey;
use crate::kernel::{self, By, Door, Scope};
use crate::mail::{self, Letter, Template};
use crate::model::{Account, Block, SessionKind, UNPROVEN};
use crate::throttle::{self, Attempt, Bucket, BucketKey, Budget};
use crate::ticket::TicketKind;
use crate::view::{AccountView, Stamp};
use crate::{Chance, Decision, Refused};
use alloc::{format, string::String, vec, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{AccountId, EventId, GrantId, SessionId, Time};

/// In which act something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A sign-in that makes this session.
    SignIn(SessionId),
    /// Something in this session; a refresh with this grant.
    Session(SessionId, Option<GrantId>),
    /// Something that was said about the account.
    Account,
    /// A sign-up that makes it: there is nothing yet that could end or be remembered.
    SignUp,
    /// A link to a new password that was asked for, by anybody: no more can be taken by it than the link.
    Asked,
    /// A new password by a link.
    Reset,
}

impl At {
    /// Whether a block refuses the act and blocks nobody.
    const fn blocks_nobody(self) -> bool {
        matches!(self, Self::SignUp | Self::Asked)
    }
}

/// What is to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// How often it was written before.
    pub version: u32,
    /// When the act stands.
    pub plain: String,
    /// When a rule has ended something by it: then place and device stay new to the account.
    pub doubted: String,
    /// When a rule has refused it: then it has not happened, besides.
    pub refused: String,
}

/// How many accounts rules may block by themselves, the whole server together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// The bucket that counts them.
    pub bucket: BucketKey,
    /// So many at once and a minute.
    pub budget: Budget,
    /// As it was loaded.
    pub row: Option<Bucket>,
}

impl Cap {
    /// So many a minute, at least one.
    pub const fn budget(per_minute: u32) -> Budget {
        let most = if per_minute == 0 { 1 } else { per_minute as i64 };
        Budget { burst: most, every: 60_000 / most }
    }
    fn allows(&self, now: Time) -> bool {
        throttle::draw(self.budget, self.row, now).is_some()
    }
}

/// How mails about what rules did are written, and the buckets that they take from.
#[derive(Debug, Clone, Copy)]
pub struct Mails<'a> {
    /// The key that links are derived by.
    pub key: &'a MacKey,
    /// The account's buckets, one for each of [`Mails::KINDS`]; `None` where there may be no more now.
    pub buckets: [Option<BucketKey>; 3],
}

impl<'a> Mails<'a> {
    /// Which mails these are. Each has a bucket of its own: who makes sign-ins that are refused does not use up what tells of a session
    /// that has ended, and who makes sessions end not what tells of a block.
    pub const KINDS: [Template; 3] = [Template::SignInRefused, Template::SessionEnded, Template::AccountBlocked];

    /// The buckets of an account.
    pub fn buckets_of(key: &MacKey, account: AccountId) -> [BucketKey; 3] {
        Self::KINDS.map(|template| Attempt::of_mail(key, template, account).account)
    }
    /// Which there may be more of, by the buckets as they were loaded.
    pub fn may(key: &'a MacKey, buckets: [BucketKey; 3], rows: [Option<Bucket>; 3], now: Time) -> Self {
        let may = |n: usize| throttle::draw(throttle::MAILS, rows[n], now).map(|_| buckets[n]);
        Self { key, buckets: [may(0), may(1), may(2)] }
    }
    /// The bucket that a mail takes from, where there may be one more.
    fn bucket(&self, template: Template) -> Option<BucketKey> {
        Self::KINDS.iter().position(|kind| *kind == template).and_then(|n| self.buckets[n])
    }
}

/// An act that was judged.
#[allow(missing_debug_implementations, reason = "it holds a question to the caller")]
pub struct Judged<'a> {
    /// Of which snapshot.
    pub stamp: &'a Stamp,
    /// Whose account.
    pub account: &'a Account,
    /// In which act.
    pub at: At,
    /// From where.
    pub ip: Option<IpAddr>,
    /// From which network, when it is the user's own.
    pub network: Option<[u8; 8]>,
    /// The buckets that a throttled act is charged to.
    pub attempt: Option<&'a Attempt>,
    /// What the rules said.
    pub verdict: &'a Verdict,
    /// What is remembered from now on.
    pub kept: Kept,
    /// How many may be blocked.
    pub cap: Cap,
    /// By what the account's owner is told by mail; `None`: no mail is sent.
    pub mail: Option<Mails<'a>>,
    /// Whether something by this name is to be recorded, which need not be told each time.
    pub tells: &'a dyn Fn(&str) -> bool,
}

/// What is done of a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rule, and what it does.
    pub does: Option<(Hit, Outcome)>,
    /// More accounts would have been blocked than may be.
    pub capped: bool,
}

/// What is done of a verdict: the strongest outcome. Beyond the cap a block is the end of the session, so that whoever has the cap used
/// up is not let in by it; what stands beside it is done, and the act is refused whatever that is.
pub fn plan(verdict: &Verdict, cap: &Cap, now: Time) -> Plan {
    match chosen(verdict) {
        Some((_, Outcome::Block { .. })) if !cap.allows(now) => {
            let mut rest = verdict.clone();
            let blocks = |outcome: &&mut Outcome| matches!(outcome, Outcome::Block { .. });
            let all = rest.hits.iter_mut().flat_map(|hit| &mut hit.outcomes);
            all.filter(blocks).for_each(|outcome| *outcome = Outcome::EndSession);
            Plan { does: chosen(&rest), capped: true }
        }
        does => Plan { does, capped: false },
    }
}

fn chosen(verdict: &Verdict) -> Option<(Hit, Outcome)> {
    strongest(verdict).map(|(hit, outcome)| (hit.clone(), outcome))
}

/// The act as it was decided, with what the verdict does to it. What it refuses is not done: its changes are left out, unless it was
/// refused before, for then they are what that refusal takes away.
pub fn enforce<T>(base: Decision<T>, judged: &Judged<'_>, chance: &mut dyn Chance) -> (Decision<T>, Plan) {
    let plan = match judged.at.blocks_nobody() {
        true => Plan { does: chosen(judged.verdict), capped: false },
        false => plan(judged.verdict, &judged.cap, judged.stamp.now),
    };
    let (refused, mut own) = carried_out(&base.changes, &plan, judged, chance);
    if judged.at != At::SignUp {
        let Kept { version, plain, doubted, refused: not_done } = judged.kept.clone();
        let ends = plan.does.as_ref().is_some_and(|(_, outcome)| outcome.ends());
        let memory = match refused.is_some() {
            true => not_done,
            // A password that was set is another one, whatever else has ended.
            false if ends && judged.at != At::Reset => doubted,
            false => plain,
        };
        own.steps.push(Change::PutMemory { account: judged.account.id, version, memory });
    }
    own.events.extend(records(&plan, refused.is_some(), judged, chance));
    let mail = told(&plan, &own, judged, chance);
    own.steps.extend(mail);
    match (refused, base.outcome) {
        (Some(refused), Ok(_)) => {
            // Whoever acts must still be there: of a session that has ended meanwhile nothing is left to be ended.
            let alive = base.changes.expects.into_iter().filter(|expect| matches!(expect, Expect::Alive { .. }));
            own.expects.splice(0..0, alive);
            (Decision { outcome: Err(refused), changes: own }, plan)
        }
        (_, outcome) => {
            let mut changes = base.changes;
            remember_network(&mut changes, outcome.is_ok(), judged);
            // What is taken from the session is not handed on by what is given out in it.
            if own.steps.iter().any(|step| matches!(step, Change::Unprove { .. })) {
                changes.steps.iter_mut().for_each(unprove);
            }
            changes.expects.append(&mut own.expects);
            changes.steps.append(&mut own.steps);
            changes.events.append(&mut own.events);
            (Decision { outcome, changes }, plan)
        }
    }
}

/// Why the act is refused, if it is, and what happens besides.
fn carried_out(
    base: &Changes,
    plan: &Plan,
    judged: &Judged<'_>,
    chance: &mut dyn Chance,
) -> (Option<Refused>, Changes) {
    let Some((hit, outcome)) = &plan.does else { return (None, Changes::default()) };
    let account = judged.account.id;
    let words = words(&hit.reason);
    let by = By { ip: judged.ip, reason: Some(&words), ..By::SYSTEM };
    let ended = |door: Door| Some(Refused::SessionEnded { reason: door.as_str().into() });
    match (outcome, judged.at) {
        (Outcome::Allow | Outcome::Notify, _) => (None, Changes::default()),
        (Outcome::StepUp, At::Account | At::SignUp | At::Asked | At::Reset) => (None, Changes::default()),
        // Whoever proves anew is not asked again for it: they would never get past the question.
        (Outcome::StepUp, _) if base.steps.iter().any(|step| matches!(step, Change::SetAuthTime { .. })) => {
            (None, Changes::default())
        }
        (Outcome::StepUp, At::SignIn(session)) => {
            let step = Change::Unprove { session, grant: None };
            (None, Changes { steps: vec![step], ..Changes::default() })
        }
        (Outcome::StepUp, At::Session(session, grant)) => {
            let step = Change::Unprove { session, grant };
            (None, Changes { steps: vec![step], ..Changes::default() })
        }
        (Outcome::Throttle, _) => {
            let charged = judged.attempt.map(|attempt| Change::TakeAttempt(*attempt));
            (None, Changes { steps: charged.into_iter().collect(), ..Changes::default() })
        }
        // Nobody is there yet, or anybody may be: the act is refused, and no more.
        (Outcome::EndSession | Outcome::EndAll | Outcome::Block { .. }, At::SignUp | At::Asked)
        | (Outcome::EndSession, At::Reset) => (Some(Refused::ByRule { reason: words.clone() }), Changes::default()),
        // Beyond the cap it stands beside a block, which refuses.
        (Outcome::EndAll, At::SignIn(_)) if plan.capped => {
            (ended(Door::RiskRule), end(Scope::Account(account), None, &by, chance))
        }
        (Outcome::EndAll, At::Reset) if plan.capped => {
            (Some(Refused::ByRule { reason: words.clone() }), end(Scope::Account(account), None, &by, chance))
        }
        // A new password ends everything by itself.
        (Outcome::EndAll, At::Reset) => (None, Changes::default()),
        // There is no session yet, and there will be none.
        (Outcome::EndSession, At::SignIn(_)) => (ended(Door::RiskRule), Changes::default()),
        (Outcome::EndSession, At::Session(session, _)) => {
            // A theft that the rules for refresh tokens have seen has ended it already.
            let over = base.steps.iter().any(
                |step| matches!(step, Change::Revoke(what) if what.target == portcullis_wire::Target::Session(session)),
            );
            let scope = Scope::Session { account, session };
            let changes = if over { Changes::default() } else { end(scope, None, &by, chance) };
            (ended(Door::RiskRule), changes)
        }
        // All that was before ends, and this one is made: the cut spares it.
        (Outcome::EndAll, At::SignIn(session)) => (None, end(Scope::Account(account), Some(session), &by, chance)),
        (Outcome::EndAll, At::Session(..)) => (ended(Door::RiskRule), end(Scope::Account(account), None, &by, chance)),
        (Outcome::EndAll | Outcome::EndSession, At::Account) => (None, end(Scope::Account(account), None, &by, chance)),
        (Outcome::Block { for_ms }, at) => {
            let until = for_ms.map(|span| judged.stamp.now.plus(span.max(1)));
            // A block that stands for longer stays as it is, with its reason and who made it.
            let longer = |block: &&Block| match (block.until, until) {
                (None, _) => true,
                (Some(theirs), Some(ours)) => theirs >= ours,
                (Some(_), None) => false,
            };
            if let Some(block) = judged.account.block_at(judged.stamp.now).filter(longer) {
                let (reason, until) = (block.reason.clone(), block.until);
                let refused = match at {
                    At::SignIn(_) | At::Reset => Some(Refused::AccountBlocked { reason, until }),
                    At::Session(..) => ended(Door::Block),
                    At::Account | At::SignUp | At::Asked => None,
                };
                return (refused, end(Scope::Account(account), None, &by, chance));
            }
            let view = AccountView {
                stamp: *judged.stamp,
                account: judged.account.clone(),
                all_ended: judged.account.cut.rev,
            };
            let mut blocked = account::block(&view, &words, until, &by, chance);
            if blocked.outcome.is_err() {
                return (None, Changes::default()); // it is being deleted, and nothing is left of it that could be used
            }
            blocked.changes.steps.push(Change::Draw { bucket: judged.cap.bucket, budget: judged.cap.budget });
            let refused = match at {
                At::SignIn(_) | At::Reset => Some(Refused::AccountBlocked { reason: words.clone(), until }),
                At::Session(..) => ended(Door::Block),
                At::Account | At::SignUp | At::Asked => None,
            };
            (refused, blocked.changes)
        }
    }
}

/// The mail about what a rule did to a session or an account. Also where the act is refused: what it would have told is left out with
/// it, and who guessed a password right would be told of less than who was let in.
fn told(plan: &Plan, own: &Changes, judged: &Judged<'_>, chance: &mut dyn Chance) -> Vec<Change> {
    let (Some((_, outcome)), Some(mails)) = (&plan.does, &judged.mail) else { return vec![] };
    let blocks = own.steps.iter().any(|step| matches!(step, Change::SetStatus { .. }));
    let letter = |template| Letter::of(template, judged.account);
    let letter = match (outcome, judged.at) {
        (Outcome::EndSession, At::SignIn(_)) => letter(Template::SignInRefused),
        (Outcome::EndSession, At::Session(session, _)) => letter(Template::SessionEnded).about(session),
        (Outcome::EndSession | Outcome::EndAll, _) => letter(Template::SessionEnded),
        (Outcome::Block { .. }, _) if blocks => letter(Template::AccountBlocked),
        _ => return vec![],
    };
    let Some(bucket) = mails.bucket(letter.template) else { return vec![] };
    let mut steps = mail::write(letter, judged.stamp, mails.key, chance);
    if !steps.is_empty() {
        steps.push(Change::Draw { bucket, budget: throttle::MAILS });
    }
    steps
}

/// An end through the door of the rules.
fn end(scope: Scope, spared: Option<SessionId>, by: &By<'_>, chance: &mut dyn Chance) -> Changes {
    let mut changes = kernel::end(Door::RiskRule, scope, spared, by, chance);
    if matches!(scope, Scope::Account(_)) {
        changes.events.iter_mut().for_each(|event| event.kind = EventKind::SessionsEnded);
        // The session that is spared is made in the same commit, and was not there before.
        changes.expects.retain(|expect| !matches!(expect, Expect::Alive { .. }));
    }
    changes
}

/// What is recorded besides: what was decided, by which rule of which policy; whom to tell; what would have been; and that the cap was
/// reached.
fn records(plan: &Plan, refused: bool, judged: &Judged<'_>, chance: &mut dyn Chance) -> Vec<NewEvent> {
    let mut out = vec![];
    let session = match judged.at {
        At::Session(session, _) => Some(session),
        // One that is refused is nowhere.
        At::SignIn(session) if !refused => Some(session),
        _ => None,
    };
    // Nor is an account that was not made.
    let made = !(judged.at == At::SignUp && refused);
    let mut record = |kind: EventKind, words: String| {
        let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &Actor::System);
        let event = NewEvent { session, ..event.ip(judged.ip).reason(words) };
        out.push(if made { event.account(judged.account.id) } else { event });
    };
    let version = &judged.verdict.version;
    if let Some((hit, outcome)) = &plan.does
        && *outcome != Outcome::Notify
    {
        record(EventKind::RiskDecided, format!("{} ({}, policy {version}): {}", hit.rule, word(*outcome), hit.reason));
    }
    if let Some(hit) = judged.verdict.notifies() {
        record(EventKind::RiskNoticed, format!("{} (policy {version}): {}", hit.rule, hit.reason));
    }
    for hit in judged.verdict.hits.iter().filter(|hit| hit.shadow && (judged.tells)(&hit.rule)) {
        record(EventKind::RiskShadow, format!("{} (policy {version}): {}", hit.rule, hit.reason));
    }
    if plan.capped && (judged.tells)(EventKind::RiskAlarm.as_str()) {
        let most = judged.cap.budget.burst;
        record(
            EventKind::RiskAlarm,
            format!("rules would block more than {most} accounts a minute: nobody was blocked"),
        );
    }
    out
}

/// A rule's reason as an account's block may have it.
fn words(reason: &str) -> String {
    let plain: String = reason.chars().filter(|c| !c.is_control()).take(account::MAX_TEXT).collect();
    let plain = plain.trim();
    if plain.is_empty() { "by a rule about suspicious activity".into() } else { plain.into() }
}

/// What is done, in a word.
pub const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Notify => "notify",
        Outcome::StepUp => "step_up",
        Outcome::Throttle => "throttle",
        Outcome::EndSession => "end_session",
        Outcome::EndAll => "end_all",
        Outcome::Block { .. } => "block",
    }
}

/// A grant remembers where it is used: one that is made, and one that was refreshed from another network.
fn remember_network(changes: &mut Changes, done: bool, judged: &Judged<'_>) {
    let Some(network) = judged.network.filter(|_| done) else { return };
    for step in &mut changes.steps {
        if let Change::InsertGrant(grant) = step {
            grant.network = Some(network);
        }
    }
    if let At::Session(_, Some(grant)) = judged.at {
        changes.steps.push(Change::SetNetwork { grant, network });
    }
}

/// What carries a proof to whoever redeems it carries none.
fn unprove(step: &mut Change) {
    // An API key that is made says when whoever made it had proved who they are.
    if let Change::InsertSession(session) = step
        && session.kind == SessionKind::ApiKey
    {
        session.auth_time = UNPROVEN;
    }
    let (Change::InsertTicket(ticket) | Change::UpdateTicket(ticket)) = step else { return };
    match ticket.kind {
        TicketKind::Code => authorize::unprove(ticket),
        TicketKind::Device => device_code::unprove(ticket),
        _ => {}
    }
}

//! What happens on accounts is looked at, and the rules of risk are asked what to do about it. What is seen and what a verdict does are
//! pure (`domain::risk`); here are the rules in force, the database of places, and what happened since the start.
//!
//! Most refreshes are looked at by one comparison: the family's current token, from the network that the grant was used from before,
//! says nothing. Everything else costs one read, and one more row in the commit that the act has anyway.
use crate::callers::Caller;
use crate::guessing::Counted;
use crate::{Acted, Admin, App, AppError, RepeatKey, Revoked};
use arc_swap::ArcSwapOption;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::{MacKey, Presented};
use portcullis_domain::model::{Account, Grant, Session, Status, UNPROVEN};
use portcullis_domain::refresh::{self, How};
use portcullis_domain::risk::enforce::{At, Cap, Judged, Kept, Mails, Plan, enforce, word};
use portcullis_domain::risk::{
    Act, ExternalKind, Guesses, Judge, Made, Memory, Origin, Place, RefreshSeen, Seen, Signals, Verdict, observe,
    strongest,
};
use portcullis_domain::sign_in::Issued;
use portcullis_domain::throttle::{self, Attempt, Bucket, BucketKey, Name};
use portcullis_domain::turned::{Turned, turned};
use portcullis_domain::view::{RefreshView, RiskView, Stamp};
use portcullis_domain::{Chance, Decision, Refused, device};
use portcullis_wire::{AccountId, EventId, SessionId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// So much is remembered of what need not be told again within an hour.
const MAX_TOLD: usize = 10_000;
const HOUR_MS: i64 = 3_600_000;
/// Whom nothing is remembered of.
const NOBODY: AccountId = AccountId::from_bits(0);

/// Where addresses are, as far as a database of places says.
pub trait Places: Send + Sync {
    /// Where this one is.
    fn of(&self, ip: IpAddr) -> Place;
}

/// How often a rule has said something since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHits {
    /// Its name.
    pub rule: String,
    /// Whether it only watches.
    pub shadow: bool,
    /// How often.
    pub hits: u64,
    /// When last.
    pub last_at: Time,
}

/// What the rules have done since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesState {
    /// Of the policy in force; `None`: there is none.
    pub version: Option<String>,
    /// Acts that were looked at.
    pub observed: u64,
    /// Blocks that the cap has held back.
    pub capped: u64,
    /// The rules that have said something.
    pub rules: Vec<RuleHits>,
}

/// Something about an account that was told from outside.
#[derive(Debug, Clone)]
pub struct Told {
    /// Whose.
    pub account: AccountId,
    /// What.
    pub kind: ExternalKind,
    /// More, in words.
    pub detail: Option<String>,
}

/// The rules in force, and what they did.
#[derive(Default)]
pub(crate) struct Risk {
    judge: ArcSwapOption<Box<dyn Judge>>,
    places: ArcSwapOption<Box<dyn Places>>,
    hits: Mutex<BTreeMap<(String, bool), (u64, Time)>>,
    told: Mutex<(i64, BTreeSet<(AccountId, String)>)>,
    observed: AtomicU64,
    capped: AtomicU64,
}

/// An act that is to be judged: who asks, and all that was loaded for it.
#[derive(Clone)]
pub(crate) struct Look {
    judge: Arc<Box<dyn Judge>>,
    view: RiskView,
    memory: Memory,
    cap: Cap,
    guesses: Guesses,
    attempt: Attempt,
    origin: Option<Origin>,
    /// The names of that network, today's first, then those under earlier keys.
    names: Vec<[u8; 8]>,
    agent: String,
    build: device::Build,
    made: Option<Made>,
    ip: Option<IpAddr>,
    /// By what mails are written, and the bucket that they take from, where mail is sent.
    mail: Option<(MacKey, [BucketKey; 3], [Option<Bucket>; 3])>,
}

/// What came of it, to be counted and told once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Mutex<Option<Came>>);

#[derive(Debug)]
struct Came {
    account: AccountId,
    /// Under whom what was told is remembered.
    told_of: AccountId,
    verdict: Verdict,
    plan: Plan,
}

impl Verdicts {
    /// Another try begins: what was said in the one before was not done.
    pub(crate) fn anew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Who does something, in words that a look needs.
pub(crate) struct Who<'a> {
    pub(crate) account: AccountId,
    /// The address of somebody who has no account yet.
    pub(crate) newcomer: Option<&'a str>,
    pub(crate) ip: Option<IpAddr>,
    /// Whether the address is the user's own, and not an application's server.
    pub(crate) own: bool,
    pub(crate) user_agent: Option<&'a str>,
    /// What the row says of the session that it is done in.
    pub(crate) made: Option<Made>,
    /// The attempt that was taken for it, if one was.
    pub(crate) counted: Option<&'a Counted>,
}

impl App {
    /// Has these rules asked from now on; `None`: none.
    pub fn set_judge(&self, judge: Option<Box<dyn Judge>>) {
        self.inner.risk.judge.store(judge.map(Arc::new));
    }

    /// Whether there are rules that are asked.
    pub(crate) fn asks_rules(&self) -> bool {
        self.inner.risk.judge.load().is_some()
    }

    /// Has this database of places asked from now on; `None`: none.
    pub fn set_places(&self, places: Option<Box<dyn Places>>) {
        self.inner.risk.places.store(places.map(Arc::new));
    }

    /// What the rules have done since the start.
    pub async fn admin_rules(&self, admin: &Admin) -> Result<RulesState, AppError> {
        let state = self.rules_state();
        self.still_admin(admin).await?;
        Ok(state)
    }

    /// Since the start: acts that the rules have looked at, how often one of them said something (shadows too), and blocks that the cap
    /// has held back.
    pub fn risk_counts(&self) -> [u64; 3] {
        let state = self.rules_state();
        [state.observed, state.rules.iter().map(|rule| rule.hits).sum(), state.capped]
    }

    fn rules_state(&self) -> RulesState {
        let risk = &self.inner.risk;
        let hits = risk.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = hits.iter().map(|((rule, shadow), (hits, last_at))| RuleHits {
            rule: rule.clone(),
            shadow: *shadow,
            hits: *hits,
            last_at: *last_at,
        });
        RulesState {
            version: risk.judge.load().as_ref().map(|judge| judge.version().to_owned()),
            observed: risk.observed.load(Ordering::Relaxed),
            capped: risk.capped.load(Ordering::Relaxed),
            rules: rules.collect(),
        }
    }

    /// Takes what somebody outside says of an account, and does at once what the rules say. What they ended, if they did; of a repeated
    /// call that of the first one.
    ///
    /// # Errors
    /// There is no such account; faults.
    pub async fn admin_signal(
        &self,
        admin: &Admin,
        told: &Told,
        repeat: Option<&RepeatKey>,
    ) -> Result<Option<Revoked>, AppError> {
        let by = admin.by(told.detail.as_deref());
        let load = || async {
            let view = self.account_view(told.account).await?;
            let who = Who {
                account: told.account,
                newcomer: None,
                ip: None,
                own: false,
                user_agent: None,
                made: None,
                counted: None,
            };
            Ok((self.look(&who).await?, view))
        };
        let verdicts = Verdicts::default();
        let acted = self
            .act(&by.actor.text(), repeat, load, |(look, view), chance| {
                verdicts.anew();
                if matches!(view.account.status, Status::Deleted { .. }) {
                    return Decision::refuse(Refused::NotFound);
                }
                let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::RiskSignal, &by.actor);
                let words = match &told.detail {
                    Some(detail) => format!("{}: {detail}", kind_word(told.kind)),
                    None => kind_word(told.kind).into(),
                };
                let event = event.account(told.account).ip(by.ip).reason(words);
                let changes =
                    Changes { expects: by.expects().into_iter().collect(), events: vec![event], ..Changes::default() };
                let base = Decision { outcome: Ok(()), changes };
                let Some(look) = look else { return base };
                let act = Act::External(told.kind);
                look.judge(self, base, &view.stamp, &view.account, At::Account, act, &verdicts, chance)
            })
            .await?;
        match acted {
            Acted::Done((), committed) => {
                self.judged(&verdicts);
                committed.rev.map(|_| Revoked::of(committed)).transpose()
            }
            Acted::Answered(()) => Err(AppError::Fault("a signal without a record".into())),
            Acted::Before(before) => before.rev.map(|_| Revoked::remembered(&before)).transpose(),
        }
    }

    /// What is to be remembered of an account that gets another password without being judged; `None`: what is.
    pub(crate) async fn memory_with_new_password(&self, account: AccountId) -> Result<Option<Change>, AppError> {
        let view = self.store().load_risk(account, &[]).await.map_err(|e| self.fault(e.into()))?;
        let memory = view.memory.as_deref().and_then(|text| Memory::read(text).with_new_password());
        Ok(memory.map(|memory| Change::PutMemory { account, version: view.version, memory: memory.write() }))
    }

    /// What there is to know before an act is judged; `None` where nobody judges.
    pub(crate) async fn look(&self, who: &Who<'_>) -> Result<Option<Look>, AppError> {
        let Some(judge) = self.inner.risk.judge.load_full() else { return Ok(None) };
        let keys = self.keys();
        let attempt = match who.counted {
            Some(counted) => counted.attempt,
            None => {
                let account = Some(who.account).filter(|account| *account != NOBODY);
                let name = Name::of(account, who.newcomer.unwrap_or_default());
                Attempt::of(keys.mac(), name.now(), who.ip, None)
            }
        };
        let bucket = BucketKey(keys.mac().tag(b"blocks by rules", &[]));
        let mails = Mails::buckets_of(keys.mac(), who.account);
        let asked = [bucket, attempt.account, attempt.prefix, mails[0], mails[1], mails[2]];
        let before = [attempt.account, attempt.prefix].map(|key| self.inner.under_way.standing(key));
        let view = self.store().load_risk(who.account, &asked).await.map_err(|e| self.fault(e.into()))?;
        let row = |n: usize| view.buckets.get(n).copied().flatten();
        let verdict = who.counted.map_or(throttle::Verdict::Throttled, |counted| counted.verdict);
        let owed = throttle::owed_before(verdict, [row(1), row(2)], self.now());
        // Who is just being looked at is not wrong: a class that signs in at the same moment guesses at nobody.
        let others = before.map(|before| self.inner.under_way.others(&before, who.counted));
        let [account, prefix] = [0, 1].map(|n| owed[n].saturating_sub(others[n]));
        let cap = Cap { bucket, budget: Cap::budget(self.settings().policy.max_blocks_per_minute), row: row(0) };
        let ip = who.ip.filter(|_| who.own);
        let mail = self.mailer().map(|_| (keys.mac().clone(), mails, [row(3), row(4), row(5)]));
        let names: Option<Vec<[u8; 8]>> = ip.map(|ip| names_of(keys.macs(), who.account, ip).collect());
        Ok(Some(Look {
            judge,
            mail,
            memory: self.remembered_of(view.memory.as_deref(), names.as_deref()),
            view,
            cap,
            guesses: Guesses { account, prefix },
            attempt,
            origin: ip.zip(names.as_ref()).map(|(ip, names)| Origin { network: names[0], place: self.place_of(ip) }),
            names: names.unwrap_or_default(),
            agent: if who.own { device::family(who.user_agent) } else { String::new() },
            build: if who.own { device::build(who.user_agent) } else { device::Build::default() },
            made: who.made.clone(),
            ip: who.ip,
        }))
    }

    /// Whether a refresh says something that the rules may want to know, and what. `None`: no.
    pub(crate) fn tells(
        &self,
        view: &RefreshView,
        presented: &Presented,
        how: &How,
        key: &MacKey,
    ) -> Option<RefreshSeen> {
        self.inner.risk.judge.load().as_ref()?;
        // Where an application's server stands says nothing of its user.
        let own = how.ip.filter(|_| !how.proven);
        // A name that was given under a key of before is the same network, and stays: that key is there for as long as the session.
        let keys = self.keys();
        let known = |network: [u8; 8]| view.grant.network == Some(network);
        let same = own.is_none_or(|ip| names_of(keys.macs(), view.account.id, ip).any(known));
        let made = view.grant.agent.as_deref().unwrap_or(&view.session.agent);
        let calm = same && (how.proven || turned(made, &device::family(how.user_agent.as_deref())) == Turned::No);
        if calm && presented.counter() == view.grant.family.counter {
            return None;
        }
        RefreshSeen::of(refresh::seen(view, presented, how, &self.settings().rules, key).ok()?, calm)
    }

    /// A memory as an act is judged by it: with today's name of the network that it comes from, and without what is kept no longer.
    fn remembered_of(&self, text: Option<&str>, names: Option<&[[u8; 8]]>) -> Memory {
        let memory = text.map(Memory::read).unwrap_or_default();
        let memory = match names {
            Some([today, before @ ..]) if !before.is_empty() => memory.renamed(*today, before),
            _ => memory,
        };
        memory.faded(self.now(), self.settings().policy.address_retention)
    }

    fn place_of(&self, ip: IpAddr) -> Place {
        self.inner.risk.places.load().as_ref().map_or_else(Place::default, |places| places.of(ip))
    }

    /// A look at somebody who wants an account: there is none yet of which anything could be remembered.
    pub(crate) async fn look_at_sign_up(
        &self,
        email: &str,
        ip: Option<IpAddr>,
        user_agent: Option<&str>,
    ) -> Result<Option<Look>, AppError> {
        let newcomer = Some(email);
        let who = Who { account: NOBODY, newcomer, ip, own: true, user_agent, made: None, counted: None };
        self.look(&who).await
    }

    /// A look at somebody who has shown no more than a link, or nothing at all.
    pub(crate) async fn look_at_recovery(
        &self,
        account: Option<&Account>,
        ip: Option<IpAddr>,
    ) -> Result<Option<Look>, AppError> {
        let account = account.map_or(NOBODY, |account| account.id);
        let who = Who { account, newcomer: None, ip, own: true, user_agent: None, made: None, counted: None };
        self.look(&who).await
    }

    /// Counts and tells what came of a look, once it is committed. Whether something was done.
    pub(crate) fn judged(&self, verdicts: &Verdicts) -> bool {
        let Some(came) = verdicts.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
        let Came { account, told_of, verdict, plan } = came;
        let (risk, now) = (&self.inner.risk, self.now());
        risk.observed.fetch_add(1, Ordering::Relaxed);
        for hit in verdict.hits.iter().filter(|hit| hit.shadow) {
            self.has_told(told_of, &hit.rule);
        }
        if plan.capped {
            self.has_told(told_of, EventKind::RiskAlarm.as_str());
        }
        if !verdict.hits.is_empty() {
            let mut hits = risk.hits.lock().unwrap_or_else(PoisonError::into_inner);
            for hit in &verdict.hits {
                let (count, last) = hits.entry((hit.rule.clone(), hit.shadow)).or_insert((0, now));
                (*count, *last) = (*count + 1, now);
            }
        }
        if plan.capped {
            risk.capped.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%account, "rules of risk would block more accounts a minute than they may: nobody is blocked");
        }
        match &plan.does {
            None => false,
            Some((hit, outcome)) => {
                self.mail_waits();
                tracing::info!(%account, rule = hit.rule, does = word(*outcome), "a rule of risk");
                true
            }
        }
    }

    /// Whether this has not been recorded of this account within the hour. Each node asks for itself.
    pub(crate) fn tells_now(&self, account: AccountId, what: &str) -> bool {
        let told = self.inner.risk.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.0 != self.now().0.div_euclid(HOUR_MS) || !told.1.contains(&(account, what.to_owned()))
    }

    /// It has been recorded: the record is committed.
    pub(crate) fn has_told(&self, account: AccountId, what: &str) {
        let hour = self.now().0.div_euclid(HOUR_MS);
        let mut told = self.inner.risk.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0 != hour || told.1.len() >= MAX_TOLD {
            *told = (hour, BTreeSet::new());
        }
        told.1.insert((account, what.to_owned()));
    }

    /// A look at what a caller does in their session.
    pub(crate) async fn look_at(&self, caller: &Caller, counted: Option<&Counted>) -> Result<Option<Look>, AppError> {
        let account = &caller.view.account;
        let who = Who {
            account: account.id,
            newcomer: None,
            ip: caller.ip,
            own: true,
            user_agent: None,
            made: Some(made(&caller.view.session, None)),
            counted,
        };
        Ok(self.look(&who).await?.map(|look| Look { agent: caller.view.session.agent.clone(), ..look }))
    }
}

impl Look {
    /// Whether a token that is shown late comes from where its grant was last ([`Memory::is_at_home`]).
    pub(crate) fn is_at_home(&self, view: &RefreshView) -> bool {
        let seen = || self.seen(&view.stamp, Some(view.session.id), Act::Refresh(RefreshSeen::Theft));
        // A grant keeps the name that its network had when it came there, under the key of then.
        let renamed = |last| last != Origin::NOWHERE && self.names.contains(&last);
        let today = |last| if renamed(last) { self.names[0] } else { last };
        view.grant.network.is_some_and(|last| self.memory.is_at_home(today(last), &seen()))
    }

    /// What the rules say of this, and what is to be remembered of it, where there is something.
    pub(crate) fn hears(
        &self,
        stamp: &Stamp,
        account: AccountId,
        session: SessionId,
        act: Act,
    ) -> (Verdict, Option<Change>) {
        let (signals, after) = observe(&self.memory, &self.seen(stamp, Some(session), act));
        let put = || Change::PutMemory { account, version: self.view.version, memory: after.write() };
        (self.judge.judge(&signals), (after != self.memory).then(put))
    }

    fn seen(&self, stamp: &Stamp, session: Option<SessionId>, act: Act) -> Seen {
        Seen {
            at: stamp.now,
            act,
            session,
            made: self.made.clone(),
            from: self.origin,
            agent: self.agent.clone(),
            build: self.build,
            guesses: self.guesses,
        }
    }

    /// Whether what is said here ends something, and would if nobody had guessed. Guesses are free, and others' guesses may keep an owner
    /// out for as long as they last, and no longer.
    fn ends_without_guesses(&self, signals: &Signals, verdict: &Verdict) -> bool {
        let ends = |verdict: &Verdict| strongest(verdict).is_some_and(|(_, outcome)| outcome.ends());
        let guessed = signals.guesses_account > 0 || signals.guesses_prefix > 0;
        let without = || Signals { guesses_account: 0, guesses_prefix: 0, ..signals.clone() };
        ends(verdict) && (!guessed || ends(&self.judge.judge(&without())))
    }

    /// The same, with other budgets that a throttled act is charged to.
    pub(crate) fn charged_to(&self, attempt: Attempt) -> Self {
        Self { attempt, ..self.clone() }
    }

    /// Of an act in which no password was shown: wrong ones say nothing of it.
    pub(crate) fn without_guesses(self) -> Self {
        Self { guesses: Guesses::default(), ..self }
    }

    /// The decision with what the rules say of it.
    #[allow(clippy::too_many_arguments, reason = "an act, where it stands, and what is written down of it")]
    pub(crate) fn judge<T>(
        &self,
        app: &App,
        base: Decision<T>,
        stamp: &Stamp,
        account: &Account,
        at: At,
        act: Act,
        verdicts: &Verdicts,
        chance: &mut dyn Chance,
    ) -> Decision<T> {
        let session: Option<SessionId> = match at {
            At::SignIn(session) | At::Session(session, _) => Some(session),
            At::Account | At::SignUp | At::Asked | At::Reset => None,
        };
        // An account that is being made is another one each time.
        let told_of = if at == At::SignUp { NOBODY } else { account.id };
        let seen = self.seen(stamp, session, act);
        let (signals, memory) = observe(&self.memory, &seen);
        let verdict = self.judge.judge(&signals);
        let kept = Kept {
            version: self.view.version,
            plain: memory.write(),
            doubted: memory.doubted(&self.memory).write(),
            refused: memory.refused(&self.memory, &seen, self.ends_without_guesses(&signals, &verdict)).write(),
        };
        let tells = |what: &str| app.tells_now(told_of, what);
        let judged = Judged {
            stamp,
            account,
            at,
            ip: self.ip,
            network: self.origin.as_ref().map(|origin| origin.network),
            attempt: Some(&self.attempt),
            verdict: &verdict,
            kept,
            cap: self.cap,
            mail: self.mail.as_ref().map(|(key, buckets, rows)| Mails::may(key, *buckets, *rows, stamp.now)),
            tells: &tells,
        };
        let (decision, plan) = enforce(base, &judged, chance);
        let came = Came { account: account.id, told_of, verdict, plan };
        *verdicts.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(came);
        decision
    }
}

/// How a network is called at an account: today's name, and those under keys of before. The address that nobody has is no network.
fn names_of(keys: &[MacKey], account: AccountId, ip: IpAddr) -> impl Iterator<Item = [u8; 8]> {
    let keys = if ip.is_unspecified() { &[] } else { keys };
    let names = keys.iter().rev().map(move |key| Origin::network_of(key, account, ip));
    names.chain(ip.is_unspecified().then_some(Origin::NOWHERE))
}

/// What the rows say of how a session was made, or got the grant that has a browser and system of its own.
pub(crate) fn made(session: &Session, grant: Option<&Grant>) -> Made {
    let agent = grant.and_then(|grant| grant.agent.as_ref()).unwrap_or(&session.agent);
    Made { at: session.created_at, agent: agent.clone(), token_at: grant.map(|grant| grant.family.made_at) }
}

/// What was told, in a word.
pub fn kind_word(kind: ExternalKind) -> &'static str {
    match kind {
        ExternalKind::CredentialLeaked => "credential_leaked",
        ExternalKind::DeviceLost => "device_lost",
        ExternalKind::Fraud => "fraud",
    }
}

/// From that word.
pub fn parse_kind(text: &str) -> Option<ExternalKind> {
    let all = [ExternalKind::CredentialLeaked, ExternalKind::DeviceLost, ExternalKind::Fraud];
    all.into_iter().find(|kind| kind_word(*kind) == text)
}

/// Where a rule asks for a fresh proof, what is issued with it says that there is none.
pub(crate) fn without_proof(issued: &mut Issued, changes: &Changes) {
    let asked = |step: &Change| matches!(step, Change::Unprove { .. });
    if changes.steps.iter().any(asked) {
        let unknown = Amr::unknown();
        (issued.claims.auth_time, issued.claims.amr) = (UNPROVEN.secs(), unknown.methods());
        (issued.session.auth_time, issued.session.amr) = (UNPROVEN, unknown);
    }
}

//! Revocation by filter: what no single scope expresses (DESIGN §4.10).
//!
//! The commit that asks for it writes one [`Standing`] rule, and from then on every way in asks it: a session that it
//! [`kills`](Standing::kills) is dead whatever its row says, and none that it kills can be born any more. A job then marks the
//! rows in bounded commits, and the commit that marks the last one takes the rule away. The rule has a rev of its own, for its
//! commit always appends one entry: with `now` a `stale` of everything, which makes it true at every verifier at once (live
//! sessions refresh and go on, the others cannot); without it an `end` of a token that does not exist, which only moves the
//! log on. So "born below the rule" decides, and no clock.
//!
//! A sign-in may be under way all the while: its view older than the rule, its commit later than the job's last. So the store
//! keeps the rev of the newest rule that was taken away, and a session born below that is not inserted: the sign-in is
//! decided anew on a new view, and is then born above it.
use crate::changes::{Change, Changes, Revoke};
use crate::event::{EventKind, NewEvent};
use crate::kernel::{By, Door, Scope};
use crate::model::Session;
use crate::view::Stamp;
use crate::{Chance, Decision, Refused};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use portcullis_wire::{AccountId, ClientId, EventId, JobId, Rev, SessionId, Target, Time, TokenId, Verb};

/// The most ids in one list of a filter.
pub const MAX_IDS: usize = 1000;
/// The most rules that stand at once. Each costs every refresh a comparison while its job runs.
pub const MAX_STANDING: u32 = 16;
/// As many entries about single sessions a job writes into the log; then one `stale` of everything stands for the rest
/// (DESIGN §4.3: nobody fills every verifier's memory).
pub const MAX_ENTRIES: u64 = 10_000;

/// Which sessions. Every member that is given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of one of these accounts; sorted. Empty: of any.
    pub accounts: Vec<AccountId>,
    /// Of one of these clients; sorted. Empty: of any. A sign-in on a device is the built-in client's;
    /// a connected app's session is that client's own.
    pub clients: Vec<ClientId>,
    /// Made before this.
    pub created_before: Option<Time>,
    /// Signed in from there.
    pub network: Option<Network>,
}

impl Filter {
    /// Whether it names nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is about this session, whenever that was made.
    pub fn matches(&self, session: &Session) -> bool {
        (self.accounts.is_empty() || self.accounts.binary_search(&session.account).is_ok())
            && (self.clients.is_empty() || self.clients.contains(&session.client.unwrap_or(ClientId::FIRST_PARTY)))
            && self.created_before.is_none_or(|before| session.created_at < before)
            && self.network.is_none_or(|network| session.ip.is_some_and(|ip| network.contains(ip)))
    }

    /// The scopes that say the same, when entries of the log can say it: accounts alone, or clients alone.
    pub fn scopes(&self) -> Option<Vec<Scope>> {
        let alone = self.created_before.is_none() && self.network.is_none();
        match (alone, self.accounts.is_empty(), self.clients.is_empty()) {
            (true, false, true) => Some(self.accounts.iter().copied().map(Scope::Account).collect()),
            // What is the built-in client's are the sessions themselves, which a cut of the client does not reach.
            (true, true, false) if !self.clients.contains(&ClientId::FIRST_PARTY) => {
                Some(self.clients.iter().copied().map(Scope::Client).collect())
            }
            _ => None,
        }
    }
}

/// An address range: CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3), or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address lies in it. An IPv4 address in IPv6 form is the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                same_head(base.to_bits().into(), ip.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => same_head(base.to_bits(), ip.to_bits(), 128, self.prefix),
            _ => false,
        }
    }
}

fn same_head(a: u128, b: u128, width: u8, prefix: u8) -> bool {
    prefix == 0 || (a ^ b) >> (width - prefix.min(width)) == 0
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// A text that is no address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseNetworkError;

impl fmt::Display for ParseNetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "must be an address or a range such as 203.0.113.0/24 or 2001:db8::/48, with no bits behind the prefix",
        )
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;
    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse::<u8>().ok().filter(|n| *n <= width).ok_or(ParseNetworkError)?
            }
            Some(_) => return Err(ParseNetworkError),
        };
        let bits = match base {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        // `10.1.2.3/8` is a slip of the hand, and which of its two readings was meant is not ours to guess.
        if prefix < 128 && bits << prefix != 0 {
            return Err(ParseNetworkError);
        }
        Ok(Self { base, prefix })
    }
}

/// A rule that stands while its job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The entry that its commit appended.
    pub rev: Rev,
    /// Which sessions.
    pub filter: Filter,
    /// The one session that it spares.
    pub except: Option<SessionId>,
}

impl Standing {
    /// The rule: made before it, matched, and not spared.
    pub fn kills(&self, session: &Session) -> bool {
        session.born < self.rev && self.except != Some(session.id) && self.filter.matches(session)
    }
}

/// The rules that stand in a snapshot; `None`, nearly always, when there is none.
pub type Rules = Option<Arc<[Standing]>>;

/// The first of `rules` that kills this session.
pub fn killed_by<'a>(rules: &'a Rules, session: &Session) -> Option<&'a Standing> {
    rules.as_ref()?.iter().find(|rule| rule.kills(session))
}

/// A revocation by filter, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The rule, which stands until the job is done. Its rev is filled in by the store.
    pub rule: Standing,
    /// Whether a `stale` of everything went with it.
    pub now: bool,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was asked for.
    pub created_at: Time,
    /// When it was done.
    pub finished_at: Option<Time>,
    /// The session up to which rows were looked at, in the order of ids.
    pub cursor: Option<SessionId>,
    /// Rows looked at.
    pub scanned: u64,
    /// Live sessions ended.
    pub ended: u64,
    /// Entries about single sessions written into the log.
    pub entries: u64,
    /// Whether it writes no entries any more: one `stale` of everything stands for them.
    pub silent: bool,
    /// The newest entry that it wrote; at first the rule's.
    pub last: Rev,
}

impl Job {
    /// One that was just asked for. With `now` it writes no entries of its own: the `stale` of everything says it all.
    pub fn new(id: JobId, rule: Standing, now: bool, actor: String, reason: &str, created_at: Time) -> Self {
        Self {
            id,
            rule,
            now,
            actor,
            reason: reason.to_owned(),
            created_at,
            finished_at: None,
            cursor: None,
            scanned: 0,
            ended: 0,
            entries: 0,
            silent: now,
            last: Rev::ZERO,
        }
    }
}

/// One step of a job: rows looked at, and those among them that its rule kills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStep {
    /// The job.
    pub job: JobId,
    /// Where it stood when the rows were read: a Conflict when it has gone on since.
    pub from: Option<SessionId>,
    /// Where it stands afterwards; `None` when every row was looked at: the job is done, and its rule is taken away.
    pub to: Option<SessionId>,
    /// Rows looked at.
    pub scanned: u64,
    /// Rows to be marked as ended; what is ended already stays as it is.
    pub sessions: Vec<SessionId>,
    /// Whether each gets an entry of its own in the log; else its row carries the rev of the newest entry of the job.
    pub log: bool,
    /// No more entries from now on.
    pub silent: bool,
}

/// A found batch: what [`step`] decides about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows that the rule kills.
    pub sessions: Vec<SessionId>,
    /// Rows looked at.
    pub scanned: u64,
    /// The last row looked at; `None` when there are no more rows.
    pub next: Option<SessionId>,
}

/// Decides a revocation by filter: one rule, one entry, one job, one record.
pub fn create(
    stamp: &Stamp,
    filter: &Filter,
    except: Option<SessionId>,
    now: bool,
    reason: &str,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<JobId> {
    if filter.is_empty() {
        let detail = "names nothing; to end every session use {\"everyone\": true}".to_owned();
        return Decision::refuse(Refused::InvalidValue { field: "filter", detail });
    }
    let id = JobId::from_bits(chance.bits());
    let (verb, target) = match now {
        true => (Verb::Stale, Target::All),
        false => (Verb::End, Target::Token(TokenId::from_bits(chance.bits()))),
    };
    let entry =
        Revoke { verb, target, except: None, spread_ms: None, owner: None, reason: Door::Filter.as_str().into() };
    let rule = Standing { rev: Rev::ZERO, filter: filter.clone(), except };
    let job = Job::new(id, rule, now, by.actor.text(), reason, stamp.now);
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::SessionsRevoked, &by.actor);
    let spared = except.map(|session| crate::Expect::Alive { session, role: None });
    let changes = Changes {
        expects: by.expects().into_iter().chain(spared).chain([crate::Expect::StandingBelow(MAX_STANDING)]).collect(),
        steps: vec![Change::Revoke(entry), Change::InsertJob(job)],
        events: vec![event.ip(by.ip).reason(format!("{id}: {reason}"))],
        ..Changes::default()
    };
    Decision { outcome: Ok(id), changes }
}

/// The next step of a job over what was found. Entries about single sessions are written up to [`MAX_ENTRIES`]; the step that
/// would go beyond writes one `stale` of everything instead, and stands for all that follow.
pub fn step(job: &Job, batch: Batch, chance: &mut dyn Chance) -> Changes {
    let found = batch.sessions.len() as u64;
    let falls_silent = !job.silent && job.entries.saturating_add(found) > MAX_ENTRIES;
    let silent = job.silent || falls_silent;
    let done = batch.next.is_none();
    let mut steps = vec![];
    if falls_silent {
        let reason = Door::Filter.as_str().into();
        let (verb, target) = (Verb::Stale, Target::All);
        steps.push(Change::Revoke(Revoke { verb, target, except: None, spread_ms: None, owner: None, reason }));
    }
    steps.push(Change::StepJob(JobStep {
        job: job.id,
        from: job.cursor,
        to: batch.next,
        scanned: batch.scanned,
        sessions: batch.sessions,
        log: !silent,
        silent,
    }));
    let mut events = vec![];
    if done {
        let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::JobFinished, &crate::Actor::System);
        events.push(event.reason(job.id.to_string()));
    }
    Changes { steps, events, ..Changes::default() }
}

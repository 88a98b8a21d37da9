//! Signing in with an account at another provider ("continue with").
//!
//! Who of another provider is which account stands in a *link*: by issuer and subject, the only two claims that stay (OpenID
//! Connect Core §5.7), never by an address. Without a link there are three ways. Whoever is signed in adds one to their own
//! account. Somebody new gets a new account, once they have said that they want one. And where an account has the address that the provider has verified, whoever comes
//! must prove once, by that account's password, that it is theirs: an account whose address nobody verified here may have been
//! made by somebody else to wait for them (pre-hijacking), and a provider that does not verify addresses lets anybody claim one.
//!
//! A link is the credential that is verified (I3): the commit of a session uses it up to the row, which must not have gone, or
//! been signed out at the provider, since the sign-in began. What began before an end above is born below its cut, and dead.
use crate::amr::Amr;
use crate::changes::{Change, Changes, Expect};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::MacKey;
use crate::model::{Account, Session, SessionKind, Status, UNPROVEN};
use crate::sign_in::{Issued, Proving, SignIn, entitled, proven, started};
use crate::ticket::{self, Ticket, TicketKind};
use crate::view::{AccountView, Stamp};
use crate::{Chance, Cut, Decision, Refused, Rules};
use alloc::{format, string::String, vec, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{AccountId, Digest, Epoch, EventId, LinkId, Millis, Rev, SessionId, Time};
use serde::{Deserialize, Serialize};

/// The most links of an account.
pub const MAX_LINKS: usize = 16;
/// The longest issuer, in bytes.
pub const MAX_ISSUER: usize = 512;
/// When a link that is being removed was signed out: later than any sign-in may begin, so nobody comes by it any more.
pub const CLOSED: Time = Time(253_402_300_799_999);
/// The longest subject (OpenID Connect Core §2), and session at the provider, in bytes.
pub const MAX_SUBJECT: usize = 255;
/// For how long somebody may be away at the provider, and as long once more for a question that they are asked then, in milliseconds.
pub const LIFE: Millis = 600_000;
/// For how long after its beginning a sign-in may come through, in milliseconds.
pub const LONGEST: Millis = 2 * LIFE;

/// Who of another provider is which account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its id: a link that goes and is made anew is another one.
    pub id: LinkId,
    /// The provider.
    pub issuer: String,
    /// Who, there.
    pub subject: String,
    /// Who, here.
    pub account: AccountId,
    /// The provider's id in the configuration, when the link was made.
    pub upstream: String,
    /// What its owner knows it by: an address or a name there.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When somebody last signed in by it.
    pub used_at: Time,
    /// When the provider last said that this person signed out; [`CLOSED`] when it is being removed.
    pub out_at: Option<Time>,
}

impl Link {
    /// Whether it is being removed: it opens nothing any more, and goes when what came by it has ended.
    pub fn is_closed(&self) -> bool {
        self.out_at == Some(CLOSED)
    }
}

/// From where a session came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The session.
    pub session: SessionId,
    /// The provider.
    pub issuer: String,
    /// Who, there.
    pub subject: String,
    /// Which session, there (OpenID Connect Front-Channel Logout §3), if the provider says.
    pub sid: Option<String>,
}

/// Sessions that came from somewhere: of this person, of this session there, or of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameFrom {
    /// The provider.
    pub issuer: String,
    /// Who, there.
    pub subject: Option<String>,
    /// Which session, there.
    pub sid: Option<String>,
}

/// A link with its account, if there is one.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// Both.
    pub found: Option<(Link, Account)>,
}

/// Whom the other provider sent, after everything that it signed was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's id in the configuration.
    pub upstream: String,
    /// The provider.
    pub issuer: String,
    /// Who, there.
    pub subject: String,
    /// Which session, there.
    pub sid: Option<String>,
    /// Their address, when the provider says that it verified it; normalised.
    pub email: Option<String>,
    /// What they call themselves.
    pub name: Option<String>,
    /// When they proved who they are, there, if the provider says.
    #[serde(with = "in_ms")]
    pub auth_time: Option<Time>,
    /// By which methods, there, if the provider says.
    pub amr: Amr,
}

/// A time as a number: what a provider says may be none that a date is written of.
mod in_ms {
    use portcullis_wire::Time;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Option<Time>, out: S) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(out)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Time>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(Time))
    }
}

impl Identity {
    fn link(&self, account: AccountId, now: Time, chance: &mut dyn Chance) -> Link {
        Link {
            id: LinkId::from_bits(chance.bits()),
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            account,
            upstream: self.upstream.clone(),
            label: self.email.clone().or_else(|| self.name.clone()),
            created_at: now,
            used_at: now,
            out_at: None,
        }
    }
}

/// The first step of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The head then: what it leads to is born there.
    pub born: Rev,
    /// The generation.
    pub epoch: Epoch,
    /// When.
    pub at: Time,
}

impl Begun {
    /// When somebody proved at the provider who they are, of whom it says `told`. `fresh`: it was asked to have them prove it anew, and
    /// its word that they did was accepted within the skew of clocks; by our clock, which what comes of it is compared by, that was
    /// not before this sign-in began.
    pub fn proven(self, told: Option<Time>, fresh: bool) -> Option<Time> {
        told.map(|at| if fresh { at.max(self.at) } else { at })
    }
}

/// When whoever uses this session proved who they are, for what only they may do to their own account (`step_up_max_age`).
///
/// Of a session that came from a provider which does not say ([`UNPROVEN`]) that is not known: it may have sent the browser back without
/// a word to its user. Then the account's password proves it, and counts. An account without one has no better proof than such a
/// sign-in, and could never be deleted or linked by its owner if that did not count.
pub fn proven_at(account: &Account, session: &Session) -> Time {
    let nothing_better = session.kind == SessionKind::Browser && account.password_hash.is_none();
    if session.auth_time == UNPROVEN && nothing_better { session.created_at } else { session.auth_time }
}

fn conflict<T>(detail: &str) -> Decision<T> {
    Decision::refuse(Refused::Conflict { detail: detail.into() })
}

/// Signs in by a link. The session is born when the sign-in began; its token is stamped by the view.
#[allow(clippy::too_many_arguments, reason = "facts, rules, key and chance, as everywhere")]
pub fn sign_in(
    stamp: &Stamp,
    link: &Link,
    account: &Account,
    from: &Identity,
    begun: Begun,
    request: &SignIn,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Issued> {
    if let Err(refused) = entitled(account, stamp.now) {
        return Decision::refuse(refused);
    }
    if begun.epoch != stamp.epoch || begun.born < stamp.worked_off || link.out_at.is_some_and(|out| out >= begun.at) {
        return conflict("access was taken away while this sign-in was under way; sign in again");
    }
    let Decision { outcome, mut changes } = started(stamp, account, begun.born, request, rules, key, chance);
    let mut issued = match outcome {
        Ok(issued) => issued,
        Err(refused) => return Decision::refuse(refused),
    };
    // Never younger than what the provider saw: a silent sign-in there proves nothing anew. What it does not say, nobody knows.
    let auth_time = from.auth_time.map_or(UNPROVEN, |at| at.clamp(UNPROVEN, stamp.now));
    issued.session.auth_time = auth_time;
    issued.claims.auth_time = auth_time.secs();
    issued.session.amr.clone_from(&from.amr);
    issued.claims.amr = from.amr.methods();
    for step in &mut changes.steps {
        if let Change::InsertSession(session) = step {
            session.auth_time = auth_time;
            session.amr.clone_from(&from.amr);
        }
    }
    let origin = Origin {
        session: issued.session.id,
        issuer: from.issuer.clone(),
        subject: from.subject.clone(),
        sid: from.sid.clone(),
    };
    let used = Change::UseLink { link: link.id, begun: begun.at, at: stamp.now };
    changes.steps.extend([Change::InsertOrigin(origin), used]);
    changes.events = changes.events.into_iter().map(|event| event.reason(format!("by {}", from.upstream))).collect();
    Decision { outcome: Ok(issued), changes }
}

/// Whoever uses a browser's session proves by a link of its account who they are once more: the same session goes on, with another
/// cookie. Only with a provider that says when its user did.
pub fn prove_again(
    stamp: &Stamp,
    link: &Link,
    proving: &Proving,
    from: &Identity,
    begun: Begun,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let Some(at) = from.auth_time.map(|at| at.clamp(UNPROVEN, stamp.now)) else {
        return conflict("this provider does not say when its user proved who they are");
    };
    if link.out_at.is_some_and(|out| out >= begun.at) {
        return conflict("access was taken away while this sign-in was under way; sign in again");
    }
    let (account, session) = (link.account, proving.session.id);
    let event = NewEvent::new(
        EventId::from_bits(chance.bits()),
        EventKind::SessionProven,
        &Actor::Account { account, session },
    )
    .account(account)
    .session(session)
    .ip(proving.ip)
    .reason(format!("by {}", from.upstream));
    let changes = Changes {
        expects: vec![Expect::Alive { session, role: None }],
        steps: [Change::UseLink { link: link.id, begun: begun.at, at: stamp.now }]
            .into_iter()
            .chain(proven(proving, at, stamp.now, &from.amr, rules))
            .collect(),
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// Makes an account for somebody new. It has no password; and an address only when the provider verified it.
pub fn new_account(stamp: &Stamp, from: &Identity, ip: Option<IpAddr>, chance: &mut dyn Chance) -> Decision<AccountId> {
    let account = Account {
        id: AccountId::from_bits(chance.bits()),
        email: from.email.clone(),
        name: from.name.clone(),
        password_hash: None,
        password_version: 1,
        email_verified_at: None,
        roles: vec![],
        status: Status::Active,
        created_at: stamp.now,
        cut: Cut::default(),
        version: 1,
    };
    let id = account.id;
    let event = |kind, chance: &mut dyn Chance| {
        NewEvent::new(EventId::from_bits(chance.bits()), kind, &Actor::Anonymous)
            .account(id)
            .ip(ip)
            .reason(format!("by {}", from.upstream))
    };
    let events = vec![event(EventKind::AccountCreated, chance), event(EventKind::LinkAdded, chance)];
    let link = from.link(id, stamp.now, chance);
    let steps = vec![Change::InsertAccount(account), Change::InsertLink(link)];
    let expects = from.email.clone().map(Expect::EmailFree).into_iter().collect();
    Decision { outcome: Ok(id), changes: Changes { expects, steps, events, ..Changes::default() } }
}

/// Adds a link to the account of `view`, whose session `session` is. Nothing happens when it is there already.
pub fn add(
    view: &AccountView,
    session: SessionId,
    there: Option<&Link>,
    links: &[Link],
    from: &Identity,
    ip: Option<IpAddr>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let Account { id: account, version, name, roles, .. } = view.account.clone();
    match there {
        Some(link) if link.is_closed() => return conflict("this is being removed; remove it once more, then link it"),
        Some(link) if link.account == account => return Decision::answer(()),
        Some(_) => return conflict("this is another account's already; remove it there first"),
        None if links.len() >= MAX_LINKS => return conflict("this account has as many links as it may have"),
        None => {}
    }
    let actor = Actor::Account { account, session };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::LinkAdded, &actor)
        .account(account)
        .session(session)
        .ip(ip)
        .reason(format!("by {}", from.upstream));
    let changes = Changes {
        expects: vec![Expect::Alive { session, role: None }, Expect::AccountVersion { account, version }],
        steps: vec![Change::InsertLink(from.link(account, view.stamp.now, chance)), counted(account, name, roles)],
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// The account's row is what the number of its links is counted under: written as it is, its version is raised.
fn counted(account: AccountId, name: Option<String>, roles: Vec<String>) -> Change {
    Change::SetProfile { account, name, roles }
}

/// Begins the removal of a link: from now on nobody comes in by it. Once what had come by it has ended, the row goes
/// ([`Change::RemoveLink`]); until then it can be removed again, which goes on where it stopped. The last one of an account that
/// has no password stays: nobody could sign in any more.
pub fn close(
    view: &AccountView,
    session: SessionId,
    links: &[Link],
    link: LinkId,
    ip: Option<IpAddr>,
    chance: &mut dyn Chance,
) -> Decision<Link> {
    let Some(row) = links.iter().find(|row| row.id == link) else { return Decision::refuse(Refused::NotFound) };
    if row.is_closed() {
        return Decision::answer(row.clone());
    }
    let others = links.iter().filter(|other| other.id != link && !other.is_closed()).count();
    if view.account.password_hash.is_none() && others == 0 {
        return conflict("this is the only way to sign in to this account; give it a password or another link first");
    }
    let Account { id: account, version, name, roles, .. } = view.account.clone();
    let event =
        NewEvent::new(EventId::from_bits(chance.bits()), EventKind::LinkRemoved, &Actor::Account { account, session })
            .account(account)
            .session(session)
            .ip(ip)
            .reason(row.upstream.clone());
    let changes = Changes {
        expects: vec![Expect::Alive { session, role: None }, Expect::AccountVersion { account, version }],
        steps: vec![
            Change::SignOutLink { issuer: row.issuer.clone(), subject: row.subject.clone(), at: CLOSED },
            counted(account, name, roles),
        ],
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(row.clone()), changes }
}

/// That somebody signed out at a provider, as it is kept for as long as a sign-in that began before may come back: of a person
/// without a link, and of a session there from which none has come yet, no row knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOut {
    /// When we were told.
    pub at: i64,
}

impl SignedOut {
    /// The ids of the tickets that may say it of this person, and of this session there.
    pub fn ids(issuer: &str, subject: Option<&str>, sid: Option<&str>) -> Vec<Digest> {
        let named = [("sub", subject), ("sid", sid)];
        let id = |(what, name)| ticket::id(TicketKind::Upstream, &format!("out:{what}\n{issuer}\n{name}"));
        named.into_iter().filter_map(|(what, name)| Some((what, name?))).map(id).collect()
    }
    /// Whether what began then must not come through.
    pub fn stops(&self, begun: Begun) -> bool {
        self.at >= begun.at.0
    }
}

/// What a sign-in under way keeps in its ticket. No secret: those are derived from what the browser holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// The provider's id in the configuration.
    pub upstream: String,
    /// The provider that the browser was sent to (RFC 9207: no answer of another one counts).
    pub issuer: String,
    /// Digest of the browser's secret, in hexadecimal.
    pub browser: String,
    /// Where to go afterwards.
    pub return_to: String,
    /// When it began.
    pub at: i64,
    /// Whether the provider was asked to have its user prove who they are anew.
    pub fresh: bool,
    /// The session whose account is to be linked, if that is what it is for.
    pub link: Option<SessionId>,
}

/// What waits for somebody to prove that an account is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The provider's id in the configuration.
    pub upstream: String,
    /// The provider.
    pub issuer: String,
    /// Who, there.
    pub subject: String,
    /// The address of the account.
    pub email: String,
    /// Digest of the browser's secret, in hexadecimal.
    pub browser: String,
    /// Where to go afterwards.
    pub return_to: String,
}

impl Waiting {
    /// Whom the provider sent.
    pub fn identity(&self) -> Identity {
        Identity {
            upstream: self.upstream.clone(),
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            sid: None,
            email: Some(self.email.clone()),
            name: None,
            auth_time: None,
            amr: Amr::unknown(),
        }
    }
}

/// Somebody new, who is asked whether an account is to be made for them: whom the provider sent, and the sign-in that they came by. When
/// that began stands in the ticket (`born`, `epoch`). It has another shape than [`UnderWay`], and is never read as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// Whom the provider sent.
    pub identity: Identity,
    /// Digest of the browser's secret, in hexadecimal.
    pub browser: String,
    /// Where to go afterwards.
    pub return_to: String,
    /// When the sign-in began.
    pub at: i64,
    /// Whether the provider was asked to have its user prove who they are anew.
    pub fresh: bool,
}

impl Newcomer {
    /// The question as it is kept, until it is answered once or its time is over: that of a sign-in under way, and no longer than a
    /// sign-in may take in all.
    pub fn ticket(&self, id: Digest, begun: Begun, now: Time) -> Ticket {
        Ticket {
            id,
            kind: TicketKind::Upstream,
            account: None,
            session: None,
            client: None,
            born: begun.born,
            epoch: begun.epoch,
            expires_at: now.plus(LIFE).min(begun.at.plus(LONGEST)),
            body: Ticket::write(self),
            version: 1,
            used: None,
        }
    }
}

/// A text that came from elsewhere: what is empty or too long is none.
pub fn bounded(text: Option<String>, most: usize) -> Option<String> {
    text.filter(|text| !text.is_empty() && text.len() <= most)
}

//! Who is told that something has ended: notices, and the messages that are made of them.
//!
//! A store writes a [`Notice`] in the very transaction that ends a session, a grant, or everything under an account, a client
//! or the whole (I9): one row, however many sessions. A task of its own turns notices into [`Message`]s, page by page, and sends
//! those until they are taken or given up. Nobody is missed; in rare races (a session ended twice in different ways at once)
//! somebody is told twice, which logout tokens allow for.
use crate::cut::Cut;
use crate::kernel::Door;
use crate::mail::MailBody;
use crate::model::{Session, SessionKind};
use crate::{Chance, changes::Revoke};
use alloc::{borrow::ToOwned, format, string::String, vec, vec::Vec};
use portcullis_wire::{AccountId, ClientId, GrantId, MessageId, Millis, Rev, SessionId, Target, Time, TokenId, Verb};
use serde::{Deserialize, Serialize};

/// For how long a message is tried, in milliseconds: a service that is down over night still hears of it.
pub const PATIENCE: Millis = 24 * 3_600_000;
/// How often at most.
pub const MAX_TRIES: u32 = 40;
/// How long a claim lasts: longer than a call may take, so that only a dead node's claims lapse.
pub const CLAIM: Millis = 60_000;
/// How long a node has sent before it gives up what is past its time without a try: what had to wait for a server is tried first.
pub const SETTLE_AFTER: Millis = 600_000;
/// How long messages are kept that were taken, and that were given up, in milliseconds.
pub const KEEP_DONE: Millis = 7 * 86_400_000;
/// The same for those that were given up.
pub const KEEP_DEAD: Millis = 30 * 86_400_000;
/// The longest explanation that is kept of a failure, in bytes.
pub const MAX_ERROR: usize = 300;

const FIRST_WAIT: Millis = 5_000;
const LONGEST_WAIT: Millis = 3_600_000;

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One session.
    Session(SessionId),
    /// One grant under a session that goes on.
    Grant {
        /// The session.
        session: SessionId,
        /// The grant.
        grant: GrantId,
    },
    /// Every session of an account but one.
    Account {
        /// The account.
        account: AccountId,
        /// The one.
        except: Option<SessionId>,
    },
    /// Everything of a client.
    Client(ClientId),
    /// Every session but one.
    All {
        /// The one.
        except: Option<SessionId>,
    },
}

/// That somebody may have to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// In the order of commits.
    pub seq: u64,
    /// Of what.
    pub what: Ending,
    /// The entry that ended it.
    pub rev: Rev,
    /// The cut that stood there before: who died by that has been told.
    pub before: Cut,
    /// When.
    pub at: Time,
    /// The session up to which messages were made, in the order of ids.
    pub cursor: Option<SessionId>,
}

/// Whether others are told of a revocation. Of a grant under a session that goes on its client is told, but not of what it gave up
/// itself (RFC 7009), nor of its oldest one that went for a newer one: a logout names the session, under which that one lives.
pub fn is_told(what: &Revoke) -> bool {
    let quiet = [Door::TokenRevoked, Door::SessionLimit].iter().any(|door| door.as_str() == what.reason);
    match (&what.verb, &what.target) {
        (Verb::End, Target::Grant(_)) => !quiet,
        (Verb::End, Target::Session(_) | Target::Account(_) | Target::Client(_) | Target::All) => true,
        _ => false,
    }
}

/// A grant as far as a notice asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderGrant {
    /// Which.
    pub id: GrantId,
    /// Whose.
    pub client: ClientId,
    /// Set once it was ended by itself.
    pub ended: Option<Rev>,
}

/// The session of an application that was allowed in a session that a notice is about, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub client: ClientId,
    /// The stamp of the first step of its making.
    pub born: Rev,
}

/// A session that a notice may be about, with what is under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under {
    /// The session.
    pub session: Session,
    /// The latest use of a refresh token under it.
    pub refreshed_at: Option<Time>,
    /// What was ended for its account.
    pub account_cut: Cut,
    /// Its grants but those of the built-in client.
    pub grants: Vec<UnderGrant>,
    /// What was allowed in it and had not ended by itself; asked for of a notice of one session alone.
    pub allowed: Vec<Allowed>,
}

/// The next sessions that a notice may be about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The sessions.
    pub found: Vec<Under>,
    /// What was ended for everything.
    pub all: Cut,
    /// The last one looked at; `None` when there are no more.
    pub next: Option<SessionId>,
}

/// Which clients are to be told, each once of a session: those that had something living under it when it ended; and of theirs those
/// whose own sessions were allowed in it, for their user has signed out, though their access goes on (OpenID Connect Back-Channel
/// Logout §2.3, §2.7). The end of an account or of everything ends those too, and is told with each of them.
pub fn clients_told(notice: &Notice, under: &Under, all: Cut, idle_ttl: Millis) -> Vec<(ClientId, SessionId)> {
    let session = &under.session;
    // Nobody is signed in anywhere by a service's session or a key.
    if !matches!(session.kind, SessionKind::Browser | SessionKind::App | SessionKind::Connected) {
        return vec![];
    }
    let used_at = under.refreshed_at.unwrap_or(session.last_seen_at).max(session.last_seen_at);
    let expired = session.absolute_expires_at <= notice.at || used_at.plus(idle_ttl) <= notice.at;
    let dead_by = |cut: Cut, born: Rev, id: SessionId| cut.rev < notice.rev && cut.kills(born, id);
    let earlier = |cut: Cut| dead_by(cut, session.born, session.id);
    let lived = || {
        let ended = session.ended.as_ref().is_some_and(|ended| ended.rev < notice.rev);
        !(ended || earlier(notice.before) || earlier(under.account_cut) || earlier(all))
    };
    let dies = match notice.what {
        Ending::Session(id) => id == session.id,
        Ending::Grant { session: id, .. } => id == session.id,
        Ending::Account { except, .. } | Ending::All { except } => {
            session.born < notice.rev && except != Some(session.id) && lived()
        }
        Ending::Client(_) => lived(),
    };
    if expired || !dies {
        return vec![];
    }
    let ends = |grant: &&UnderGrant| {
        let lived = grant.ended.is_none_or(|rev| rev >= notice.rev);
        lived
            && match notice.what {
                Ending::Grant { grant: id, .. } => grant.id == id,
                Ending::Client(client) => grant.client == client,
                _ => true,
            }
    };
    let mut told: Vec<_> = under.grants.iter().filter(ends).map(|grant| (grant.client, session.id)).collect();
    if let Ending::Session(_) = notice.what {
        let lived = |app: &&Allowed| ![under.account_cut, all].iter().any(|cut| dead_by(*cut, app.born, app.session));
        told.extend(under.allowed.iter().filter(lived).map(|app| (app.client, app.session)));
    }
    told.sort();
    told.dedup();
    told
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// A logout token to a client (OpenID Connect Back-Channel Logout §2.5).
    Logout,
    /// An audit record to a webhook ([`crate::webhook`]).
    Webhook,
    /// A mail to the owner of an account (see [`crate::mail`]).
    Mail,
}

impl MessageKind {
    /// The word in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Webhook => "webhook",
            Self::Mail => "mail",
        }
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Logout, Self::Webhook, Self::Mail].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It is tried, or tried again.
    Waiting,
    /// It was taken.
    Done,
    /// It was given up.
    Dead,
}

impl MessageState {
    /// The word in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Done, Self::Dead].into_iter().find(|state| state.as_str() == text)
    }
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id; later ones are greater.
    pub id: MessageId,
    /// What it is.
    pub kind: MessageKind,
    /// To whom, when it is for a client; of a message to a webhook the id of that in this form ([`crate::webhook::receiver`]). Who is to
    /// be told gets their turn by this.
    pub client: Option<ClientId>,
    /// What else its kind knows, as JSON. No secret is in it: what is sent is made when it is sent.
    pub body: String,
    /// When it was made.
    pub created_at: Time,
    /// When it is tried next; while it is claimed, when the claim lapses.
    pub next_at: Time,
    /// It is given up after this.
    pub give_up_at: Time,
    /// How often it was tried.
    pub tries: u32,
    /// How far it is.
    pub state: MessageState,
    /// When it was taken or given up.
    pub settled_at: Option<Time>,
    /// What went wrong the last time.
    pub last_error: Option<String>,
    /// Raised with every change.
    pub version: u32,
}

/// The body of a [`MessageKind::Logout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutBody {
    /// Whose session.
    pub account: AccountId,
    /// Which.
    pub session: SessionId,
}

/// A logout for a client, by the session that its ID tokens name.
pub fn logout(client: ClientId, account: AccountId, session: SessionId, now: Time, chance: &mut dyn Chance) -> Message {
    let body = LogoutBody { account, session };
    // Two ids always have a JSON form.
    let body = serde_json::to_string(&body).unwrap_or_default();
    Message::new(MessageKind::Logout, Some(client), body, now, chance)
}

/// The time in front, so that lists by id are lists by age.
fn message_id(now: Time, chance: &mut dyn Chance) -> MessageId {
    let ms = u128::try_from(now.0).unwrap_or(0);
    MessageId::from_bits((ms << 80) | (chance.bits() >> 48))
}

impl Message {
    /// A new one, which is due at once.
    pub fn new(kind: MessageKind, client: Option<ClientId>, body: String, now: Time, chance: &mut dyn Chance) -> Self {
        Self {
            id: message_id(now, chance),
            kind,
            client,
            body,
            created_at: now,
            next_at: now,
            give_up_at: now.plus(PATIENCE),
            tries: 0,
            state: MessageState::Waiting,
            settled_at: None,
            last_error: None,
            version: 1,
        }
    }

    /// What is kept of a mail; `None` when it is none.
    pub fn mail_body(&self) -> Option<MailBody> {
        (self.kind == MessageKind::Mail).then(|| serde_json::from_str(&self.body).ok())?
    }

    /// What was read of the body; `None` when it has another shape.
    pub fn logout_body(&self) -> Option<LogoutBody> {
        serde_json::from_str(&self.body).ok()
    }

    /// The `jti` of each token that is made for it: a receiver that gets it twice sees that it is the same (RFC 8417 §2.2, whose
    /// tokens logout tokens are).
    pub fn jti(&self) -> TokenId {
        TokenId::from_bits(self.id.bits())
    }

    /// The same in the hands of one who sends it: nobody else does until the claim lapses.
    pub fn claimed(&self, now: Time) -> Self {
        Self { next_at: now.plus(CLAIM), tries: self.tries.saturating_add(1), ..self.clone() }
    }

    /// The same, taken.
    pub fn done(&self, now: Time) -> Self {
        // The address of an account that is gone is not kept longer than it is needed.
        let body = match self.mail_body() {
            Some(mail) if mail.to.is_some() => MailBody { to: None, ..mail }.write(),
            _ => self.body.clone(),
        };
        Self { state: MessageState::Done, settled_at: Some(now), last_error: None, body, ..self.clone() }
    }

    /// The same, given up.
    pub fn dead(&self, now: Time, why: &str) -> Self {
        Self { state: MessageState::Dead, settled_at: Some(now), last_error: Some(shortened(why)), ..self.clone() }
    }

    /// The same after a try that failed: later once more, or given up.
    pub fn failed(&self, now: Time, why: &str, chance: &mut dyn Chance) -> Self {
        if self.tries >= MAX_TRIES || now >= self.give_up_at {
            return self.dead(now, why);
        }
        let next_at = now.plus(wait_after(self.tries, chance));
        Self { next_at, last_error: Some(shortened(why)), ..self.clone() }
    }

    /// The same as [`failed`](Self::failed), where whoever is told asks to be left alone for so long.
    pub fn failed_for(&self, now: Time, why: &str, wait: Millis, chance: &mut dyn Chance) -> Self {
        let next = self.failed(now, why, chance);
        match next.state {
            MessageState::Waiting => Self { next_at: next.next_at.max(now.plus(wait)), ..next },
            _ => next,
        }
    }

    /// The same, given up without another try because its time is over: its client takes nothing, or too slowly.
    pub fn expired(&self, now: Time) -> Self {
        let last = self.last_error.as_deref().unwrap_or("it was not tried");
        self.dead(now, &format!("its time is over; {last}"))
    }

    /// The same, tried anew from the beginning because somebody says so.
    pub fn again(&self, now: Time) -> Self {
        let (state, settled_at) = (MessageState::Waiting, None);
        Self { state, settled_at, tries: 0, next_at: now, give_up_at: now.plus(PATIENCE), ..self.clone() }
    }
}

/// How long to wait after so many tries: twice as long each time, up to an hour, and half of it left to chance, so that what failed
/// together does not come back together.
pub fn wait_after(tries: u32, chance: &mut dyn Chance) -> Millis {
    let whole = FIRST_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(LONGEST_WAIT);
    let half = whole / 2;
    let jitter = i64::try_from(chance.bits() % u128::try_from(half.max(1)).unwrap_or(1)).unwrap_or(0);
    half + jitter
}

fn shortened(why: &str) -> String {
    let mut end = why.len().min(MAX_ERROR);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].to_owned()
}

/// A step over a notice: the messages that come of it, and where it stands afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoticeStep {
    /// Which.
    pub seq: u64,
    /// Where it stood: a Conflict when it has gone on since.
    pub from: Option<SessionId>,
    /// Where it stands afterwards; `None`: everybody is told, and it goes.
    pub to: Option<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ended;
    use portcullis_wire::Epoch;

    struct Counting(u128);
    impl Chance for Counting {
        fn bits(&mut self) -> u128 {
            self.0 = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d_8765_4321).wrapping_add(977);
            self.0
        }
    }

    const APP: ClientId = ClientId::from_bits(7);
    const OTHER: ClientId = ClientId::from_bits(8);

    fn under(born: u64) -> Under {
        let session = Session {
            id: SessionId::from_bits(1),
            account: AccountId::from_bits(2),
            kind: SessionKind::Browser,
            client: None,
            device_name: "a browser".into(),
            agent: "a browser".into(),
            ip: None,
            created_at: Time(0),
            auth_time: Time(0),
            amr: crate::amr::Amr::default(),
            last_seen_at: Time(0),
            absolute_expires_at: Time(1_000),
            born: Rev(born),
            epoch: Epoch(1),
            cookie: None,
            old_cookie: None,
            allowed_in: None,
            ended: None,
        };
        let grant = |n, client| UnderGrant { id: GrantId::from_bits(n), client, ended: None };
        let grants = vec![grant(1, OTHER), grant(2, APP), grant(3, APP)];
        Under { session, refreshed_at: None, account_cut: Cut::default(), grants, allowed: vec![] }
    }

    fn notice(what: Ending) -> Notice {
        Notice { seq: 1, what, rev: Rev(10), before: Cut::default(), at: Time(100), cursor: None }
    }

    fn told(what: Ending, change: impl FnOnce(&mut Notice, &mut Under)) -> Vec<ClientId> {
        let (mut notice, mut under) = (notice(what), under(5));
        change(&mut notice, &mut under);
        let told = clients_told(&notice, &under, Cut::default(), 500);
        told.into_iter().map(|(client, _)| client).collect()
    }

    const ONE: Ending = Ending::Session(SessionId::from_bits(1));
    const OF_ALL: Ending = Ending::All { except: None };
    const OF_ACCOUNT: Ending = Ending::Account { account: AccountId::from_bits(2), except: None };

    #[test]
    fn every_client_that_had_something_living_is_told_once() {
        for what in [ONE, OF_ACCOUNT, OF_ALL] {
            assert_eq!(told(what, |_, _| {}), [APP, OTHER], "{what:?}");
            // A grant that ended before is no business of this end; one that ended with it is.
            assert_eq!(told(what, |_, under| under.grants[0].ended = Some(Rev(9))), [APP], "{what:?}");
            assert_eq!(told(what, |_, under| under.grants[0].ended = Some(Rev(10))), [APP, OTHER], "{what:?}");
            // Time had ended it already: that is no door.
            assert!(told(what, |_, under| under.session.absolute_expires_at = Time(100)).is_empty());
            assert!(told(what, |notice, _| notice.at = Time(600)).is_empty(), "idle");
            assert_eq!(
                told(what, |notice, under| {
                    notice.at = Time(600);
                    under.refreshed_at = Some(Time(200));
                }),
                [APP, OTHER]
            );
            assert!(told(what, |_, under| under.session.kind = SessionKind::ApiKey).is_empty());
        }
        let grant = Ending::Grant { session: SessionId::from_bits(1), grant: GrantId::from_bits(1) };
        assert_eq!(told(grant, |_, under| under.grants[0].ended = Some(Rev(10))), [OTHER]);
        assert_eq!(told(Ending::Client(APP), |_, _| {}), [APP]);
    }

    #[test]
    fn who_was_allowed_in_it_is_told_by_its_own_session() {
        let own = SessionId::from_bits(9);
        let about = |what: Ending, change: &dyn Fn(&mut Under)| {
            let mut under = under(5);
            under.grants.truncate(1);
            under.allowed = vec![Allowed { session: own, client: APP, born: Rev(6) }];
            change(&mut under);
            clients_told(&notice(what), &under, Cut::default(), 500)
        };
        let under_it = (OTHER, SessionId::from_bits(1));
        assert_eq!(about(ONE, &|_| {}), [(APP, own), under_it]);
        // Ended with everything of the account, before or with this: told with its own row.
        for what in [OF_ACCOUNT, OF_ALL, Ending::Client(OTHER)] {
            assert_eq!(about(what, &|_| {}), [under_it], "{what:?}");
        }
        let spares = |rev| Cut { rev: Rev(rev), except: Some(SessionId::from_bits(1)) };
        assert_eq!(about(ONE, &|under| under.account_cut = spares(9)), [under_it]);
        assert_eq!(about(ONE, &|under| under.account_cut = spares(5)), [(APP, own), under_it], "allowed since");
        assert_eq!(about(ONE, &|under| under.account_cut = spares(11)), [(APP, own), under_it], "lived until then");
        assert!(about(ONE, &|under| under.session.absolute_expires_at = Time(100)).is_empty());
    }

    #[test]
    fn who_died_before_was_told_before() {
        for what in [OF_ACCOUNT, OF_ALL] {
            let spared = Some(SessionId::from_bits(1));
            assert!(told(what, |_, under| under.session.born = Rev(10)).is_empty(), "born afterwards");
            assert!(told(what, |notice, _| notice.before = Cut { rev: Rev(6), except: None }).is_empty());
            assert_eq!(told(what, |notice, _| notice.before = Cut { rev: Rev(6), except: spared }), [APP, OTHER]);
            assert!(told(what, |_, under| under.account_cut = Cut { rev: Rev(9), except: None }).is_empty());
            // A later cut says nothing of how it was then.
            assert_eq!(told(what, |_, under| under.account_cut = Cut { rev: Rev(11), except: None }), [APP, OTHER]);
            let ended = |rev| Some(Ended { rev: Rev(rev), reason: "x".into(), at: Time(1) });
            assert!(told(what, |_, under| under.session.ended = ended(9)).is_empty());
            assert_eq!(told(what, |_, under| under.session.ended = ended(11)), [APP, OTHER]);
        }
        let spared = Ending::All { except: Some(SessionId::from_bits(1)) };
        assert!(told(spared, |_, _| {}).is_empty());
        // What a cut killed is told with the cut, and by what lived then: whatever ended by itself since, a grant that its client gave
        // up, too.
        for what in [OF_ACCOUNT, OF_ALL] {
            let since = |under: &mut Under| {
                under.session.ended = Some(Ended { rev: Rev(12), reason: "x".into(), at: Time(2_000) });
                under.grants.iter_mut().for_each(|grant| grant.ended = Some(Rev(11)));
                under.account_cut = Cut { rev: Rev(13), except: None };
            };
            assert_eq!(told(what, |_, under| since(under)), [APP, OTHER], "{what:?}");
        }
        // A row that a silent job marked carries an older rev.
        assert_eq!(
            told(ONE, |_, u| u.session.ended = Some(Ended { rev: Rev(3), reason: "x".into(), at: Time(1) })),
            [APP, OTHER]
        );
    }

    #[test]
    fn a_grant_that_goes_on_in_another_is_no_logout() {
        let (session, grant) = (SessionId::from_bits(1), GrantId::from_bits(2));
        let ends = [
            (Target::Grant(grant), Door::ConsentWithdrawn, true),
            (Target::Grant(grant), Door::CodeReplay, true),
            (Target::Grant(grant), Door::Replay, true),
            (Target::Grant(grant), Door::TokenRevoked, false),
            (Target::Grant(grant), Door::SessionLimit, false),
            (Target::Session(session), Door::SessionLimit, true),
            (Target::Session(session), Door::TokenRevoked, true),
            (Target::Token(portcullis_wire::TokenId::from_bits(3)), Door::TokenRevoked, false),
        ];
        for (target, door, told) in ends {
            let reason = door.as_str().into();
            let what = Revoke { verb: Verb::End, target, except: None, spread_ms: None, owner: None, reason };
            assert_eq!(is_told(&what), told, "{what:?}");
            assert!(!is_told(&Revoke { verb: Verb::Stale, ..what }));
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let mut chance = Counting(1);
        let mut spans = (1..=MAX_TRIES).map(|tries| wait_after(tries, &mut chance));
        let first = spans.next().unwrap();
        assert!((FIRST_WAIT / 2..FIRST_WAIT).contains(&first), "{first}");
        assert!(spans.skip(10).all(|wait| (LONGEST_WAIT / 2..LONGEST_WAIT).contains(&wait)));
        let fresh = logout(APP, AccountId::from_bits(2), SessionId::from_bits(1), Time(1_000), &mut chance);
        let claimed = fresh.claimed(Time(2_000));
        assert_eq!((claimed.tries, claimed.next_at), (1, Time(2_000 + CLAIM)));
        let failed = claimed.failed(Time(3_000), &"é".repeat(400), &mut chance);
        assert_eq!(failed.state, MessageState::Waiting);
        assert_eq!(failed.last_error.as_ref().map(String::len), Some(MAX_ERROR));
        let late = claimed.failed(fresh.give_up_at, "down", &mut chance);
        assert_eq!((late.state, late.settled_at), (MessageState::Dead, Some(fresh.give_up_at)));
        let often = Message { tries: MAX_TRIES, ..fresh.clone() }.failed(Time(3_000), "down", &mut chance);
        assert_eq!(often.state, MessageState::Dead);
        let again = often.again(Time(9_000));
        assert_eq!(
            (again.state, again.tries, again.next_at, again.settled_at),
            (MessageState::Waiting, 0, Time(9_000), None)
        );
        assert_eq!(
            fresh.logout_body(),
            Some(LogoutBody { account: AccountId::from_bits(2), session: SessionId::from_bits(1) })
        );
        assert!(
            logout(APP, AccountId::from_bits(2), SessionId::from_bits(1), Time(1_001), &mut chance).id > fresh.id,
            "later ones are greater"
        );
    }
}

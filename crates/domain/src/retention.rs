//! How long what has ended is kept, and when it may be deleted.
//!
//! A session's row is asked for after its end: by a sign-out that is repeated with the dead token, by a client that comes back
//! with its refresh token and is told why it is signed out, by the rule that counts how many ends of an account stand in the log.
//! It may go when none of them can come any more: when its tokens have expired everywhere (F has passed its end), when the log
//! has forgotten every entry about it, and when the time has passed for which answers were promised.
use crate::model::{Account, Client, Session, Status};
use crate::outbox::Notice;
use portcullis_wire::{Millis, Rev, Time};

/// Tickets are kept for so long after their end, in milliseconds: one that was used and is shown again soon tells of a theft.
pub const TICKETS: Millis = 600_000;

/// How old the oldest notice may be while sessions are deleted, in milliseconds: there is nearly always a young one.
const BEHIND: Millis = 1_000;

/// For how long what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Sessions after their end, in milliseconds.
    pub ended: Millis,
    /// Addresses in sessions and audit records, in milliseconds.
    pub addresses: Millis,
    /// Audit records, in milliseconds; `None`: for ever.
    pub events: Option<Millis>,
    /// Sessions unused for so long are dead, in milliseconds.
    pub idle_ttl: Millis,
}

/// Where the database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The highest rev whose entry was forgotten.
    pub forgotten: Rev,
    /// F.
    pub floor: Time,
    /// The database's time.
    pub now: Time,
}

/// Since when a session is dead at the latest, by itself: its own end, or the end that time brings. One that a cut above it
/// killed is not used any more, and so reaches its idle end.
pub fn dead_since(session: &Session, used_at: Time, idle_ttl: Millis) -> Time {
    let idle_end = used_at.max(session.last_seen_at).plus(idle_ttl);
    let by_time = session.absolute_expires_at.min(idle_end);
    session.ended.as_ref().map_or(by_time, |ended| by_time.min(ended.at))
}

/// Whether a session's row and those of its grants may be deleted. One that time ended has no living token: none outlives the
/// idle or the absolute end (only a database clock that was set back by most of `idle_ttl` could make one do so). `used_at` is the latest use of a refresh token under it,
/// `grant_end` the newest end of a grant of it.
pub fn may_go(session: &Session, used_at: Time, grant_end: Option<Rev>, at: &Standing, keep: &Retention) -> bool {
    let since = dead_since(session, used_at, keep.idle_ttl);
    let own_end = session.ended.as_ref().map(|ended| ended.rev);
    let forgotten = own_end.max(grant_end).is_none_or(|rev| rev <= at.forgotten);
    forgotten && since < at.floor && since.plus(keep.ended) <= at.now
}

/// Whether the row of a grant that was ended by itself may be deleted while its session goes on. It is asked for as long as
/// something that it gave could be shown and would have to be told from what nobody ever gave: its access tokens, which the log
/// names until they have expired everywhere. A refresh token of it says `invalid_grant` with the row and without it, and a code
/// that it came of is forgotten sooner ([`TICKETS`]).
pub fn grant_may_go(ended: Rev, at: &Standing) -> bool {
    ended <= at.forgotten
}

/// Whether the row of a client may be deleted: it registered itself, nobody vouches for it (or it was deleted by itself), and it has been
/// there for `unused` without ever being used. `held`: whether a consent, a grant, a session of its own or a ticket of it is there.
///
/// No entry goes into the log, for there is nothing that one could match (I16). Whoever nobody vouches for gets a token only after somebody
/// said yes, and a consent stays as long as its account does, withdrawn ones too. An account that goes takes the consent with it and ends
/// what it gave; what was given then has the row of its grant until the log has forgotten that end, which it does when the last token of it
/// has expired everywhere. So without any of these rows no token of it lives, and what is on its way to become one is a ticket.
/// What an administrator gave an account of its own ([`crate::service`]) may act without any of this, and stays.
pub fn client_may_go(client: &Client, held: bool, now: Time, unused: Millis) -> bool {
    let profile = &client.profile;
    let nobodys = (profile.is_stranger() || profile.deleted) && profile.service_account.is_none();
    nobodys && !held && client.created_at.plus(unused) <= now
}

/// Whether an account may be deleted, as far as its row tells: its address was never proved, and nobody did anything with it in `keep`.
/// Besides, somebody must have signed up for it by themselves, and nobody ever signed in to it.
pub fn unverified_may_go(account: &Account, now: Time, keep: Millis) -> bool {
    let plain = account.status == Status::Active && account.roles.is_empty();
    // Sign-ups give an address and a password; whoever comes by another provider has a session at once.
    let by_password = account.email.is_some() && account.password_hash.is_some();
    plain && by_password && account.email_verified_at.is_none() && account.created_at.plus(keep) <= now
}

/// Whether nothing of sessions may be deleted now. Who is told of an end is read of its session, so none goes while that has not been
/// done, however late it is done and wherever the clock is set to meanwhile. `oldest` is the oldest notice, and is read after what may go
/// was found: then the notice of whatever was found is there, or its work is done.
pub fn must_wait(oldest: Option<&Notice>, now: Time) -> bool {
    oldest.is_some_and(|notice| notice.at.plus(BEHIND) < now)
}

/// Whether the address that a session signed in from may be deleted.
pub fn address_may_go(session: &Session, now: Time, keep: &Retention) -> bool {
    session.ip.is_some() && session.created_at.plus(keep.addresses) <= now
}

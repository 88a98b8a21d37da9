//! What a presented refresh token may still do (DESIGN §4.6, I5, I6).
//!
//! "Use" means a refresh with it: offline verification cannot be seen. [`outcome`] is the rule itself, on one screen;
//! [`refresh`] turns it into an answer and changes.
use crate::changes::{Change, Changes, Expect};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::{Family, MacKey, Presented};
use crate::kernel::{self, By, Door, Scope};
use crate::sign_in::Issued;
use crate::view::{Dead, RefreshView, Stamp, session_dead};
use crate::{Chance, Decision, Refused, Rules, device, issue::issue};
use alloc::{string::String, vec};
use core::net::IpAddr;
use portcullis_wire::{ClientId, Digest, EventId, Millis, Time};

/// How often a cookie's current token is handed out again before it rotates after all.
pub const MAX_COOKIE_HANDOUTS: u32 = 16;

/// How a token was presented.
#[derive(Debug, Clone)]
pub struct How {
    /// By cookie: several tabs share one token and cannot tell each other.
    pub cookie: bool,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Which client presents it.
    pub client: ClientId,
    /// Whether that client proved who it is; a public one cannot.
    pub proven: bool,
    /// The thumbprint of the key that was proven to be held (RFC 9449 §4.3).
    pub sender: Option<Digest>,
    /// Whether it comes from where the grant was last, as far as anybody knows, and with nothing that speaks against it
    /// ([`crate::risk::Memory::is_at_home`]). It is asked of a late one alone.
    pub at_home: bool,
}

/// What a presented token of a living family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The current one: a successor is made.
    Rotate,
    /// The current one or the predecessor, shortly after a hand-out: the current one again.
    Again,
    /// The predecessor, late, and its successor was never used: a new successor, and the unused one dies.
    Skip,
    /// The predecessor, late, from another kind of device: refused, and nothing ends.
    OtherDevice,
    /// Only a copy explains it: refused, and the family ends.
    Theft,
    /// A number that was never given out: the row is older than the token (a rollback).
    Ahead,
}

/// How much whoever shows a token looks like the one who would have lost an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Another browser or system than the session was made with.
    Other,
    /// The same ones.
    Same,
    /// The same ones, where they were last ([`How::at_home`]).
    AtHome,
}

/// The rule. `presented` is a number whose MAC and derivation were right.
pub fn outcome(
    family: &Family,
    presented: u64,
    how_cookie: bool,
    likeness: Likeness,
    now: Time,
    rules: &Rules,
) -> Outcome {
    // Both windows count from the last hand-out: an answer may have been lost each time, and is repeated after that.
    let since = now.since(family.handed_at.max(family.made_at));
    let shortly = since < rules.retry_window;
    if presented > family.counter {
        return Outcome::Ahead;
    }
    if presented == family.counter {
        let again = how_cookie && shortly && family.handouts < MAX_COOKIE_HANDOUTS;
        return if again { Outcome::Again } else { Outcome::Rotate };
    }
    if family.predecessor != Some(presented) {
        return Outcome::Theft;
    }
    if shortly {
        return Outcome::Again;
    }
    let at_home = likeness == Likeness::AtHome;
    let limit = if at_home { rules.late_retry_at_home.max(rules.late_retry) } else { rules.late_retry };
    if since >= limit {
        return Outcome::Theft;
    }
    if likeness == Likeness::Other { Outcome::OtherDevice } else { Outcome::Skip }
}

/// What a presented token is to this view, before anything is decided about it.
///
/// # Errors
/// It is not of this family, not this client's, or nothing lives there any more.
pub fn seen(
    view: &RefreshView,
    presented: &Presented,
    how: &How,
    rules: &Rules,
    key: &MacKey,
) -> Result<Outcome, Refused> {
    let (grant, session, stamp) = (&view.grant, &view.session, &view.stamp);
    let family = &grant.family;
    if !presented.is_derived(key, &family.secret) {
        return Err(Refused::RefreshInvalid);
    }
    if presented.epoch() != stamp.epoch || family.epoch != stamp.epoch {
        return Err(Refused::RefreshExpired);
    }
    // Another client, or one without the key: refused, and nothing ends, or a leaked log would be a weapon (DESIGN §4.6).
    if grant.client != how.client || grant.sender.is_some_and(|key| how.sender != Some(key)) {
        return Err(Refused::RefreshInvalid);
    }
    if let Some(refused) = why_dead(view, view.stamp.now, rules) {
        return Err(refused);
    }
    let agent = grant.agent.as_deref().unwrap_or(&session.agent);
    let bound = grant.sender.is_some();
    let likeness = match how.proven || bound || device::family(how.user_agent.as_deref()) == agent {
        false => Likeness::Other,
        true if how.at_home => Likeness::AtHome,
        true => Likeness::Same,
    };
    // Nobody but the holder of the key comes late: the idle end is the limit.
    let patient = bound.then(|| Rules { late_retry: Millis::MAX, ..rules.clone() });
    let rules = patient.as_ref().unwrap_or(rules);
    Ok(outcome(family, presented.counter(), how.cookie, likeness, stamp.now, rules))
}

/// Decides a refresh. `view` is of the grant that the token names, `key` the MAC key that it names and `current_key` the one
/// that new tokens are made with.
pub fn refresh(
    view: &RefreshView,
    presented: &Presented,
    how: &How,
    rules: &Rules,
    key: &MacKey,
    current_key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Issued> {
    let (grant, session, stamp) = (&view.grant, &view.session, &view.stamp);
    let family = &grant.family;
    let outcome = match seen(view, presented, how, rules, key) {
        Ok(outcome) => outcome,
        Err(refused) => return Decision::refuse(refused),
    };
    let now = stamp.now;
    let expects = Expect::Family { grant: grant.id, counter: family.counter, predecessor: family.predecessor };
    let next = match outcome {
        Outcome::Rotate => Family {
            counter: family.counter + 1,
            key: current_key.id,
            made_at: now,
            handed_at: now,
            handouts: 0,
            predecessor: Some(family.counter),
            ..family.clone()
        },
        // The predecessor stays, and the window begins anew.
        Outcome::Skip => Family {
            counter: family.counter + 1,
            key: current_key.id,
            made_at: now,
            handed_at: now,
            handouts: 0,
            ..family.clone()
        },
        Outcome::Again => Family { handed_at: now, handouts: family.handouts + 1, ..family.clone() },
        Outcome::OtherDevice => return Decision::refuse(Refused::RefreshInvalid),
        Outcome::Ahead => {
            return Decision::refuse(Refused::Unavailable {
                detail: "a refresh token is ahead of its row: the database may have been rolled back".into(),
            });
        }
        Outcome::Theft => return theft(view, how, expects, chance),
    };
    let claims = match issue(stamp, rules, &view.account, session, grant, view.access_ttl, view.idle_since(), chance) {
        Ok(claims) => claims,
        Err(refused) => return Decision::refuse(refused),
    };
    let step = match outcome {
        Outcome::Again => Change::HandOut { grant: grant.id, counter: family.counter, at: now },
        _ => Change::SetFamily {
            grant: grant.id,
            counter: family.counter,
            predecessor: family.predecessor,
            family: next.clone(),
        },
    };
    let mut changes = Changes { steps: vec![step], ..Changes::default() };
    if outcome == Outcome::Skip {
        changes.expects.push(Expect::Handouts { grant: grant.id, handouts: family.handouts });
        let actor = Actor::Account { account: view.account.id, session: session.id };
        changes.events.push(
            NewEvent::new(EventId::from_bits(chance.bits()), EventKind::RefreshSkipped, &actor)
                .account(view.account.id)
                .session(session.id)
                .ip(how.ip),
        );
    }
    // When the current token is handed out again, it is the row's key that made it.
    let made_with = if next.key == current_key.id { current_key } else { key };
    if next.key != made_with.id {
        return Decision::refuse(Refused::Unavailable {
            detail: "the key of the current refresh token is not loaded".into(),
        });
    }
    let refresh = next.current_token(made_with, grant.id);
    let current = (grant.id, next.counter);
    let issued = Issued { session: session.clone(), account: view.account.clone(), claims, refresh, current };
    Decision { outcome: Ok(issued), changes }
}

/// Whether nothing under this grant lives any more, by its rows.
pub fn is_dead(view: &RefreshView, rules: &Rules) -> bool {
    is_dead_at(view, view.stamp.now, rules)
}

/// The same at a time after that of the view.
pub fn is_dead_at(view: &RefreshView, now: Time, rules: &Rules) -> bool {
    why_dead(view, now, rules).is_some()
}

/// Why nothing under this grant lives any more, if so.
fn why_dead(view: &RefreshView, now: Time, rules: &Rules) -> Option<Refused> {
    let (grant, session, stamp) = (&view.grant, &view.session, Stamp { now, ..view.stamp });
    let ended = |reason: &str| Some(Refused::SessionEnded { reason: reason.into() });
    match session_dead(&stamp, &view.standing, session, &view.account, view.used_at(), rules.idle_ttl) {
        Some(Dead::Ended { reason, .. }) => return ended(&reason),
        Some(Dead::Cut { above, .. }) => return ended(above),
        Some(Dead::Standing { .. }) => return ended(Door::Filter.as_str()),
        Some(Dead::Account) => return ended("account"),
        Some(Dead::Expired | Dead::OldEpoch) => return Some(Refused::RefreshExpired),
        None => {}
    }
    if grant.ended.is_some() {
        return ended("grant");
    }
    if view.client_disabled || view.client_cut.kills(grant.born, session.id) {
        return ended("client");
    }
    None
}

/// The family's grant ends, and the session with it when the family is the session's own.
fn theft(view: &RefreshView, how: &How, expects: Expect, chance: &mut dyn Chance) -> Decision<Issued> {
    let (account, session, grant) = (view.account.id, view.session.id, view.grant.id);
    let own = view.grant.client == ClientId::FIRST_PARTY || view.session.client == Some(view.grant.client);
    let scope = if own { Scope::Session { account, session } } else { Scope::Grant { account, session, grant } };
    let by = By { ip: how.ip, ..By::SYSTEM };
    let mut changes = kernel::end(Door::Replay, scope, None, &by, chance);
    changes.expects.push(expects);
    Decision { outcome: Err(Refused::RefreshReused), changes }
}

//! How many sessions one account may have at once: sign-ins of its user on devices and in browsers. A connected app, an API key or
//! a service is no device that somebody forgot to sign out of: such sessions are not counted and never end to make room, and have
//! limits of their own ([`crate::code::MAX_GRANTS`] for each application, [`crate::api_key::MAX_KEYS`]).
//!
//! What is decided here rests on a list that may be old by the time of the commit. So the commit counts again under the store's
//! lock ([`Expect::LiveSessions`]): however many sign in at the same moment, no more live than the limit allows, and whoever
//! comes too late decides anew.
use crate::changes::{Counted, Expect};
use crate::kernel::{self, By, Door, Scope};
use crate::sign_in::Issued;
use crate::view::SessionView;
use crate::{Chance, Decision, Refused};
use alloc::{format, vec::Vec};
use portcullis_wire::{Millis, SessionId};

/// How many sessions one sign-in ends at most. Only a limit that was lowered makes it more than one; what is left over then
/// ends with the next sign-ins.
pub const MAX_ENDED_AT_ONCE: usize = 32;
/// How many live sessions of the account are looked at.
pub const MAX_LOOKED_AT: u32 = 4096;

/// What happens at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    /// The session that was not used for longest ends.
    EndOldest,
    /// The sign-in is refused.
    Refuse,
}

/// The limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimit {
    /// How many sessions an account may have; at least 1.
    pub most: u32,
    /// What happens to who would have more.
    pub at_limit: AtLimit,
}

/// The sign-ins that must end for one more to fit: the least recently used first, and of those used at one moment the oldest.
pub fn to_end(live: &[SessionView], idle_ttl: Millis, most: u32) -> Vec<SessionId> {
    let alive = live.iter().filter(|view| Counted::SignIns.counts(view.session.kind) && view.dead(idle_ttl).is_none());
    let mut by_use: Vec<_> =
        alive.map(|view| (view.used_at(), view.session.created_at, view.session.born, view.session.id)).collect();
    by_use.sort();
    let too_many = (by_use.len() + 1).saturating_sub(most as usize);
    by_use.into_iter().take(too_many).map(|(.., id)| id).collect()
}

/// Adds the limit to a sign-in that was decided. `live` are sessions of the account, loaded after the view of the sign-in; at
/// most [`MAX_LOOKED_AT`]. A refusal is said to who gave the right password only: others are refused already.
///
/// The new token's stamp stays that of the view it was decided on, never the rev of the end that this adds (DESIGN §4.2).
pub fn apply(
    mut decision: Decision<Issued>,
    live: &[SessionView],
    limit: SessionLimit,
    idle_ttl: Millis,
    chance: &mut dyn Chance,
) -> Decision<Issued> {
    let Ok(issued) = &decision.outcome else { return decision };
    let (account, ip) = (issued.account.id, issued.session.ip);
    let mut ending = to_end(live, idle_ttl, limit.most);
    if !ending.is_empty() && limit.at_limit == AtLimit::Refuse {
        let most = limit.most;
        let detail = format!("this account has {most} sessions already, and may have no more; end one of them first");
        return Decision::refuse(Refused::Conflict { detail });
    }
    // What may live besides those that end. After the limit was lowered more may be left than it allows, but never more than now.
    let excess = ending.len().saturating_sub(MAX_ENDED_AT_ONCE) as u64;
    ending.truncate(MAX_ENDED_AT_ONCE);
    let all_seen = live.len() < MAX_LOOKED_AT as usize;
    let at_most = if all_seen { u64::from(limit.most.saturating_sub(1)) + excess } else { u64::MAX };
    let by = By { ip, ..By::SYSTEM };
    let (mut steps, mut events) = (Vec::new(), Vec::new());
    for session in &ending {
        let end = kernel::end(Door::SessionLimit, Scope::Session { account, session: *session }, None, &by, chance);
        decision.changes.expects.extend(end.expects);
        steps.extend(end.steps);
        events.extend(end.events);
    }
    decision.changes.expects.push(Expect::LiveSessions {
        account,
        counted: Counted::SignIns,
        besides: ending,
        at_most,
    });
    // The ends first: their records are what is found under their revs.
    steps.append(&mut decision.changes.steps);
    events.append(&mut decision.changes.events);
    (decision.changes.steps, decision.changes.events) = (steps, events);
    decision
}

//! What must still be true, checked under the writer's lock.
use super::{Act, Stop};
use crate::cells::{Id, any, one};
use crate::{apps, reads};
use portcullis_domain::changes::Conflict;
use portcullis_domain::mass;
use portcullis_domain::model::{Account, Session};
use portcullis_domain::view::{SessionView, session_dead};
use portcullis_domain::{Cut, Expect};
use portcullis_wire::{AccountId, ClientId, Rev, SessionId};

/// The first expectation that does not hold stops the act.
pub(super) fn check(act: &Act<'_>, expect: &Expect) -> Result<(), Stop> {
    let db = act.db;
    match expect {
        Expect::Alive { session, role } => {
            let alive = match session_with_account(act, *session)? {
                Some(view) => {
                    role.is_none_or(|role| view.account.has_role(role))
                        && act.alive(&view.session, &view.account, view.refreshed_at, &view.standing)
                }
                None => false,
            };
            holds(alive, Conflict::NotAlive(*session))
        }
        Expect::Unborn { account, client, born, under } => {
            holds(may_be_born(act, *account, *client, *born, *under)?, Conflict::BornDead)
        }
        Expect::Unended { account, born } => {
            let view = reads::account(db, *account, act.now)?.filter(|view| view.account.usable_at(act.now));
            let held = view.is_some_and(|view| *born >= view.all_ended && !act.meta.all.kills_unborn(*born));
            holds(held, Conflict::BornDead)
        }
        Expect::WebhooksBelow(limit) => {
            let count = one(db, "SELECT count(*) FROM webhooks", [], |cells| cells.get::<i64>())?.unwrap_or(0);
            holds(count < i64::from(*limit), Conflict::Moved)
        }
        Expect::AccountVersion { account, version } => {
            let row = reads::account_row(db, *account)?.ok_or(Stop::Conflict(Conflict::Missing))?;
            holds(row.version == *version, Conflict::Moved)
        }
        Expect::PasswordVersion { account, version } => {
            let row = reads::account_row(db, *account)?.ok_or(Stop::Conflict(Conflict::Missing))?;
            holds(row.password_version == *version, Conflict::Moved)
        }
        Expect::Family { grant, counter, predecessor } => {
            let found = reads::family_position(db, *grant)?.ok_or(Stop::Conflict(Conflict::Missing))?;
            holds(found == (*counter, *predecessor), Conflict::Moved)
        }
        Expect::Handouts { grant, handouts } => {
            const SQL: &str = "SELECT 1 FROM grants WHERE id = ?1 AND handouts = ?2";
            if any(db, SQL, rusqlite::params![grant.blob(), handouts])? {
                return Ok(());
            }
            let there = any(db, "SELECT 1 FROM grants WHERE id = ?1", [grant.blob()])?;
            Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
        }
        Expect::GrantNotEnded(grant) => {
            const SQL: &str = "SELECT 1 FROM grants WHERE id = ?1 AND ended_rev IS NULL";
            if any(db, SQL, [grant.blob()])? {
                return Ok(());
            }
            let there = any(db, "SELECT 1 FROM grants WHERE id = ?1", [grant.blob()])?;
            Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
        }
        Expect::SessionNotEnded(session) => {
            const SQL: &str = "SELECT 1 FROM sessions WHERE id = ?1 AND ended_rev IS NULL";
            if any(db, SQL, [session.blob()])? {
                return Ok(());
            }
            let there = any(db, SESSION, [session.blob()])?;
            Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
        }
        Expect::LiveSessions { account, counted, besides, at_most } => {
            let Some(account) = reads::account_row(db, *account)? else { return Ok(()) };
            let standing = crate::jobs::standing(db, &act.meta)?;
            let others = reads::unended_sessions(db, account.id)?.into_iter().filter(|(session, used_at)| {
                counted.counts(session.kind)
                    && !besides.contains(&session.id)
                    && act.alive(session, &account, *used_at, &standing)
            });
            holds(others.count() as u64 <= *at_most, Conflict::Moved)
        }
        Expect::EmailFree(email) => holds(!reads::email_taken(db, email)?, Conflict::EmailTaken),
        Expect::StandingBelow(limit) => holds(act.meta.standing < *limit, Conflict::TooMany),
        Expect::ClientVersion { client, version } => {
            const SQL: &str = "SELECT c.version = ?2 FROM clients c WHERE c.id = ?1";
            let same = one(db, SQL, rusqlite::params![client.blob(), version], |cells| cells.get())?;
            holds(same.ok_or(Stop::Conflict(Conflict::Missing))?, Conflict::Moved)
        }
        Expect::Consent { account, client, generation } => {
            holds(apps::generation(db, *account, *client)? == *generation, Conflict::Moved)
        }
        Expect::NoOtherGrants { account, client, besides } => {
            let grants = apps::living_grants(db, &act.meta, *account, *client, act.now)?;
            holds(grants.iter().all(|grant| besides.contains(grant)), Conflict::Moved)
        }
        Expect::NoAccounts => holds(!any(db, "SELECT 1 FROM accounts LIMIT 1", [])?, Conflict::Moved),
    }
}

pub(super) const SESSION: &str = "SELECT 1 FROM sessions WHERE id = ?1";

pub(super) fn holds(held: bool, otherwise: Conflict) -> Result<(), Stop> {
    if held { Ok(()) } else { Err(Stop::Conflict(otherwise)) }
}

/// A session with its account, when its family was last used, and the rules that stand.
pub(super) fn session_with_account(act: &Act<'_>, session: SessionId) -> Result<Option<SessionView>, Stop> {
    // The counter's row is written last: what this transaction changed of the rules is told by `jobs` alone.
    let mut view = reads::session(act.db, session, act.now)?;
    if let Some(view) = &mut view {
        view.standing = crate::jobs::standing(act.db, &act.meta)?;
    }
    Ok(view)
}

impl Act<'_> {
    /// Whether a session is alive: the rule that every way in asks, under the counter's row as this transaction has it.
    pub(super) fn alive(
        &self,
        session: &Session,
        account: &Account,
        used_at: Option<portcullis_wire::Time>,
        standing: &mass::Rules,
    ) -> bool {
        let used_at = used_at.unwrap_or(session.last_seen_at);
        let idle_ttl = self.idle_ttl.unwrap_or(i64::MAX);
        session_dead(&self.meta.stamp(self.now), standing, session, account, used_at, idle_ttl).is_none()
    }
}

fn may_be_born(
    act: &Act<'_>,
    account: AccountId,
    client: ClientId,
    born: Rev,
    under: Option<SessionId>,
) -> Result<bool, Stop> {
    let Some(account) = reads::account_row(act.db, account)?.filter(|account| account.usable_at(act.now)) else {
        return Ok(false);
    };
    let Some(client_cut) = reads::client_cut(act.db, client)? else { return Ok(false) };
    let kills = |cut: &Cut| under.map_or(cut.kills_unborn(born), |session| cut.kills(born, session));
    Ok(![account.cut, act.meta.all, client_cut].iter().any(kills))
}

//! Roles of many accounts at once.
//!
//! Each account is a commit of its own, some of them under way at the same time, so that they share transactions and nobody waits
//! for long: the roles and the one `stale` entry that tells services. What somebody else does to an account meanwhile is a
//! conflict for that account alone, and is decided anew on what is there then: nothing is lost.
use crate::{Acted, Admin, App, AppError, RepeatKey};
use portcullis_domain::account::{self, Roles};
use portcullis_domain::changes::{Changes, Conflict};
use portcullis_domain::view::AccountView;
use portcullis_domain::{Chance, Refused};
use portcullis_store::CommitError;
use portcullis_wire::{AccountId, Rev};
use tokio::task::JoinSet;

/// How many accounts one call may name.
pub const MAX_ACCOUNTS: usize = 1000;
/// How many commits are under way at once.
const AT_ONCE: usize = 16;

/// A change of roles, already parsed.
#[derive(Debug, Clone)]
pub struct RoleChange {
    /// Whose.
    pub accounts: Vec<AccountId>,
    /// Roles that they get.
    pub add: Vec<String>,
    /// Roles that they lose.
    pub remove: Vec<String>,
    /// Over how many milliseconds the refreshes that follow are spread.
    pub spread_ms: Option<u64>,
    /// Why, in words.
    pub reason: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolesChanged {
    /// How many accounts were changed.
    pub changed: u64,
    /// How many had the wanted roles already.
    pub unchanged: u64,
    /// Accounts that do not exist any more, or never did.
    pub missing: Vec<AccountId>,
    /// The newest entry that was written.
    pub rev: Option<Rev>,
}

impl App {
    /// Changes the roles of many accounts. When it stops midway, repeating it does the rest: who is changed already stays so. With
    /// a repeat key each account's change is remembered by itself, in its own commit: a repeated call answers as the first one
    /// did, and takes back nothing that somebody else has done to these accounts since.
    ///
    /// # Errors
    /// `invalid_value`, also for a repeat key of another call; who is no administrator (any more); faults.
    pub async fn admin_change_roles(
        &self,
        admin: &Admin,
        change: RoleChange,
        repeat: Option<&RepeatKey>,
    ) -> Result<RolesChanged, AppError> {
        let wrong = |field, detail: &str| AppError::from(Refused::InvalidValue { field, detail: detail.into() });
        let RoleChange { mut accounts, add, remove, spread_ms, reason } = change;
        accounts.sort();
        accounts.dedup();
        if accounts.is_empty() || accounts.len() > MAX_ACCOUNTS {
            return Err(wrong("account_ids", &format!("must name 1 to {MAX_ACCOUNTS} accounts")));
        }
        let (add, remove) = (account::check_roles(add)?, account::check_roles(remove)?);
        if add.is_empty() && remove.is_empty() {
            return Err(wrong("add", "give at least one role in add or in remove"));
        }
        if add.iter().any(|role| remove.contains(role)) {
            return Err(wrong("remove", "a role stands in add and in remove"));
        }
        account::check_spread(spread_ms)?;
        let reason = reason.map(|reason| account::check_text("reason", &reason)).transpose()?;
        if let Some(repeat) = repeat {
            self.one_call(&admin.by(None).actor.text(), repeat).await?;
        }
        let roles = Roles::Alter { add, remove };
        let (mut out, mut waiting, mut under_way) = (RolesChanged::default(), accounts.into_iter(), JoinSet::new());
        let mut failed = None;
        loop {
            while failed.is_none() && under_way.len() < AT_ONCE {
                let Some(id) = waiting.next() else { break };
                let (app, admin, roles, reason) = (self.clone(), admin.clone(), roles.clone(), reason.clone());
                let repeat = repeat.map(|repeat| repeat.of(id));
                under_way.spawn(async move {
                    let reason = reason.as_deref();
                    (id, app.change_roles_of(&admin, id, &roles, spread_ms, reason, repeat.as_ref()).await)
                });
            }
            match under_way.join_next().await {
                None => break,
                Some(Ok((_, Ok(None)))) => out.unchanged += 1,
                Some(Ok((_, Ok(Some(rev))))) => {
                    out.changed += 1;
                    out.rev = out.rev.max(Some(rev));
                }
                Some(Ok((id, Err(AppError::Refused(Refused::NotFound))))) => out.missing.push(id),
                Some(Ok((_, Err(error)))) => failed = failed.or(Some(error)),
                Some(Err(error)) => failed = Some(self.fault(AppError::Fault(error.to_string().into()))),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        out.missing.sort();
        self.still_admin(admin).await?;
        Ok(out)
    }

    /// The key is this call's from now on, whichever accounts it comes to.
    async fn one_call(&self, actor: &str, repeat: &RepeatKey) -> Result<(), AppError> {
        if self.remembered(actor, repeat).await?.is_some() {
            return Ok(());
        }
        let changes = Changes { idempotency: Some(self.remember(actor, repeat)), ..Changes::default() };
        match self.store().commit(changes).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict(Conflict::Repeated)) => self.remembered(actor, repeat).await.map(drop),
            Err(error) => Err(self.fault(error.into())),
        }
    }

    async fn change_roles_of(
        &self,
        admin: &Admin,
        id: AccountId,
        roles: &Roles,
        spread_ms: Option<u64>,
        reason: Option<&str>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Option<Rev>, AppError> {
        let by = admin.by(reason);
        let load = || self.account_view(id);
        let decide =
            |view: &AccountView, chance: &mut dyn Chance| account::change(view, None, roles, spread_ms, &by, chance);
        match self.act(&by.actor.text(), repeat, load, decide).await? {
            Acted::Done((), committed) => Ok(committed.rev),
            Acted::Answered(()) => Ok(None),
            Acted::Before(before) => Ok(before.rev),
        }
    }
}

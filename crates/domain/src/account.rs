//! Accounts: making, blocking, unblocking, changing, deleting.
use crate::changes::{Change, Changes, Expect, Revoke};
use crate::event::{EventKind, NewEvent};
use crate::kernel::{self, By, Door, Scope};
use crate::model::{Account, Block, Status};
use crate::view::{AccountView, Stamp};
use crate::{Chance, Cut, Decision, Refused};
use alloc::{borrow::ToOwned, format, string::String, vec, vec::Vec};
use portcullis_wire::{AccountId, EventId, Millis, Rev, SessionId, Target, Time, Verb};

/// Longest address, in bytes (RFC 5321 §4.5.3.1.3).
pub const MAX_EMAIL: usize = 254;
/// Shortest password, in characters (NIST SP 800-63B, OWASP ASVS 5.0 §6.2.1).
pub const MIN_PASSWORD: usize = 8;
/// Longest password, in bytes: far beyond any passphrase, and cheap to refuse.
pub const MAX_PASSWORD: usize = 1024;
/// Longest display name and longest reason, in characters.
pub const MAX_TEXT: usize = 200;

/// An e-mail address as a sign-in name: trimmed, lower case, plausible. Two spellings of one address are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Reads an address; says what is wrong otherwise.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let wrong = |detail: &str| Refused::InvalidValue { field: "email", detail: detail.to_owned() };
        let text = text.trim();
        if text.len() > MAX_EMAIL {
            return Err(wrong("an address has at most 254 bytes"));
        }
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(wrong("an address looks like name@example.org"));
        };
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[],;:\\\"@".contains(c);
        let label = |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-');
        if local.is_empty() || local.len() > 64 || !local.chars().all(plain) {
            return Err(wrong("the part before @ is empty, too long, or has characters that do not belong there"));
        }
        let host = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
        if !domain.chars().all(host) || !domain.split('.').all(label) {
            return Err(wrong("the part after @ is not a domain name"));
        }
        Ok(Self(text.to_lowercase()))
    }
    /// The normalised address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a new password may be used for an account with this address.
pub fn check_password(password: &str, email: &Email) -> Result<(), Refused> {
    let wrong = |detail: String| Err(Refused::InvalidValue { field: "password", detail });
    if password.chars().count() < MIN_PASSWORD {
        return wrong(format!("a password has at least {MIN_PASSWORD} characters"));
    }
    if password.len() > MAX_PASSWORD {
        return wrong(format!("a password has at most {MAX_PASSWORD} bytes"));
    }
    if password.eq_ignore_ascii_case(email.as_str()) {
        return wrong("a password must not be the address itself".into());
    }
    Ok(())
}

/// A text for people (a name, a reason): trimmed, 1 to [`MAX_TEXT`] characters, no control characters.
pub fn check_text(field: &'static str, text: &str) -> Result<String, Refused> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        let detail = format!("must have 1 to {MAX_TEXT} characters and no control characters");
        return Err(Refused::InvalidValue { field, detail });
    }
    Ok(text.to_owned())
}

/// Roles, sorted and each once; each of 1 to 64 of `a-z0-9_:-`, at most 32 of them.
pub fn check_roles(mut roles: Vec<String>) -> Result<Vec<String>, Refused> {
    let fits = |r: &String| {
        (1..=64).contains(&r.len())
            && r.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:-".contains(&b))
    };
    if roles.len() > 32 || !roles.iter().all(fits) {
        let detail = "at most 32 roles, each of 1 to 64 characters of a-z, 0-9, _, : and -".into();
        return Err(Refused::InvalidValue { field: "roles", detail });
    }
    roles.sort();
    roles.dedup();
    Ok(roles)
}

/// A new account, as asked for (already checked).
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The address.
    pub email: Email,
    /// The PHC string of the password, if it has one.
    pub password_hash: Option<String>,
    /// What it calls itself.
    pub name: Option<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// Whether somebody answers for it that the address is theirs.
    pub verified: bool,
}

/// Makes an account. `by` is the administrator, or nobody for a sign-up.
pub fn create(stamp: &Stamp, new: NewAccount, by: &By<'_>, chance: &mut dyn Chance) -> Decision<Account> {
    let account = Account {
        id: AccountId::from_bits(chance.bits()),
        email: Some(new.email.as_str().to_owned()),
        name: new.name,
        password_hash: new.password_hash,
        password_version: 1,
        email_verified_at: new.verified.then_some(stamp.now),
        roles: new.roles,
        status: Status::Active,
        created_at: stamp.now,
        cut: Cut::default(),
        version: 1,
    };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AccountCreated, &by.actor)
        .account(account.id)
        .ip(by.ip);
    let changes = Changes {
        expects: by.expects().into_iter().chain([Expect::EmailFree(new.email.as_str().to_owned())]).collect(),
        steps: vec![Change::InsertAccount(account.clone()), Change::SetUnused { account: account.id, unused: true }],
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(account), changes }
}

fn deleted(account: &Account) -> bool {
    matches!(account.status, Status::Deleted { .. })
}

/// Blocks an account: no sign-in until it is lifted, and everything it has ends now. A repeated block takes the new reason and
/// writes a new cut, since something may have been in flight.
pub fn block(
    view: &AccountView,
    reason: &str,
    until: Option<Time>,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let account = &view.account;
    if deleted(account) {
        return Decision::refuse(Refused::NotFound);
    }
    if matches!(account.status, Status::Deleting { .. }) {
        let detail = "this account is being deleted, and nothing can sign in to it; to keep it, lift that first".into();
        return Decision::refuse(Refused::Conflict { detail });
    }
    if matches!(by.actor, crate::Actor::Account { account: own, .. } if own == account.id) {
        let detail = "an administrator cannot block their own account; another one can".into();
        return Decision::refuse(Refused::InvalidValue { field: "id", detail });
    }
    if until.is_some_and(|until| until <= view.stamp.now) {
        return Decision::refuse(Refused::InvalidValue { field: "until", detail: "must lie in the future".into() });
    }
    let reason = match check_text("reason", reason) {
        Ok(reason) => reason,
        Err(refused) => return Decision::refuse(refused),
    };
    let by = By { reason: Some(&reason), ..*by };
    let mut changes = kernel::end(Door::Block, Scope::Account(account.id), None, &by, chance);
    let block = Block { reason: reason.clone(), actor: by.actor.text(), at: view.stamp.now, until };
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    changes.steps.push(Change::SetStatus { account: account.id, status: Status::Blocked(block) });
    Decision { outcome: Ok(()), changes }
}

/// Lifts a block, or takes a deletion back that has not become final. Revives nothing: what the block ended stays ended (I10).
pub fn unblock(view: &AccountView, by: &By<'_>, chance: &mut dyn Chance) -> Decision<()> {
    let account = &view.account;
    match &account.status {
        Status::Deleted { .. } => Decision::refuse(Refused::NotFound),
        Status::Active => Decision::answer(()),
        Status::Blocked(_) | Status::Deleting { .. } => {
            let restored = matches!(account.status, Status::Deleting { .. });
            let kind = if restored { EventKind::AccountRestored } else { EventKind::AccountUnblocked };
            let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).account(account.id).ip(by.ip);
            let event = match by.reason {
                Some(reason) => event.reason(reason),
                None => event,
            };
            let version = Expect::AccountVersion { account: account.id, version: account.version };
            let changes = Changes {
                expects: by.expects().into_iter().chain([version]).collect(),
                steps: vec![Change::SetStatus { account: account.id, status: Status::Active }],
                events: vec![event],
                ..Changes::default()
            };
            Decision { outcome: Ok(()), changes }
        }
    }
}

/// Does what has become due: lifts a block whose end has passed, makes a tombstone of an account whose grace period has. By the
/// server itself, some time after that moment; the block is not in force since then.
pub fn due(view: &AccountView, chance: &mut dyn Chance) -> Decision<()> {
    let (account, now) = (&view.account, view.stamp.now);
    let (kind, status, reason) = match &account.status {
        Status::Blocked(Block { until: Some(until), .. }) if *until <= now => {
            (EventKind::AccountUnblocked, Status::Active, "the block's end has passed")
        }
        Status::Deleting { until, rev, .. } if *until <= now => {
            (EventKind::AccountDeleted, Status::Deleted { at: now, rev: *rev }, "the grace period has passed")
        }
        _ => return Decision::answer(()),
    };
    let id = EventId::from_bits(chance.bits());
    let event = NewEvent::new(id, kind, &crate::Actor::System).account(account.id).reason(reason);
    let changes = Changes {
        expects: vec![Expect::AccountVersion { account: account.id, version: account.version }],
        steps: vec![Change::SetStatus { account: account.id, status }],
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// Deletes an account, at once or, with a grace period (milliseconds), when it has passed: everything it has ends now, and
/// nothing can sign in. A tombstone stays, and the address becomes free. Repeated: the old rev, no change.
pub fn delete(view: &AccountView, grace: Millis, by: &By<'_>, chance: &mut dyn Chance) -> Decision<Option<Rev>> {
    let account = &view.account;
    if let Status::Deleted { rev, .. } | Status::Deleting { rev, .. } = account.status {
        return Decision::answer(Some(rev));
    }
    if matches!(by.actor, crate::Actor::Account { account: own, .. } if own == account.id && by.role.is_some()) {
        let detail = "an administrator cannot delete their own account; another one can".into();
        return Decision::refuse(Refused::InvalidValue { field: "id", detail });
    }
    let mut changes = kernel::end(Door::Delete, Scope::Account(account.id), None, by, chance);
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    let (at, rev) = (view.stamp.now, Rev::ZERO);
    let status = if grace > 0 {
        changes.events.iter_mut().for_each(|event| event.kind = EventKind::AccountDeleting);
        Status::Deleting { at, until: at.plus(grace), rev }
    } else {
        Status::Deleted { at, rev }
    };
    changes.steps.push(Change::SetStatus { account: account.id, status });
    Decision { outcome: Ok(None), changes }
}

/// Puts the hash of another password in the place of the one that `view` has. Every session of the account but `keep`, which
/// must be alive, ends in the same commit; so do sign-ins under way whose password was right until now.
pub fn change_password(
    view: &AccountView,
    hash: String,
    keep: SessionId,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let account = &view.account;
    let mut changes = kernel::end(Door::PasswordChange, Scope::Account(account.id), Some(keep), by, chance);
    // The proof was of one password, and of an account that may be used.
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    changes.expects.push(Expect::PasswordVersion { account: account.id, version: account.password_version });
    changes.steps.push(Change::SetPassword { account: account.id, hash, rehash: false });
    Decision { outcome: Ok(()), changes }
}

/// Over how long a `stale` may be spread, in milliseconds.
pub const MAX_SPREAD_MS: u64 = 3_600_000;

/// What is to become of an account's roles.
#[derive(Debug, Clone, Default)]
pub enum Roles {
    /// They stay.
    #[default]
    Same,
    /// These, and no others.
    Set(Vec<String>),
    /// Those it has, with some more and without some; what stands in both goes.
    Alter {
        /// More.
        add: Vec<String>,
        /// Fewer.
        remove: Vec<String>,
    },
}

impl Roles {
    fn of(&self, account: &Account) -> Vec<String> {
        match self {
            Self::Same => account.roles.clone(),
            Self::Set(roles) => roles.clone(),
            Self::Alter { add, remove } => {
                account.roles.iter().chain(add).filter(|role| !remove.contains(role)).cloned().collect()
            }
        }
    }
}

/// Whether a `stale` may be spread over so long.
pub fn check_spread(spread_ms: Option<u64>) -> Result<(), Refused> {
    if spread_ms.is_some_and(|spread| spread > MAX_SPREAD_MS) {
        let detail = format!("must be at most {MAX_SPREAD_MS} (an hour)");
        return Err(Refused::InvalidValue { field: "spread_ms", detail });
    }
    Ok(())
}

/// New name and roles. When roles change, tokens that carry the old ones become `stale`: their holders refresh and go on, at
/// once or spread over `spread_ms`.
pub fn change(
    view: &AccountView,
    name: Option<Option<String>>,
    roles: &Roles,
    spread_ms: Option<u64>,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let account = &view.account;
    if deleted(account) {
        return Decision::refuse(Refused::NotFound);
    }
    let roles = match check_spread(spread_ms).and_then(|()| check_roles(roles.of(account))) {
        Ok(roles) => roles,
        Err(refused) => return Decision::refuse(refused),
    };
    let name = name.unwrap_or_else(|| account.name.clone());
    if name == account.name && roles == account.roles {
        return Decision::answer(());
    }
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AccountChanged, &by.actor)
        .account(account.id)
        .ip(by.ip);
    let event = match by.reason {
        Some(reason) => event.reason(reason),
        None => event,
    };
    let mut steps = vec![];
    if roles != account.roles {
        steps.push(Change::Revoke(Revoke {
            verb: Verb::Stale,
            target: Target::Account(account.id),
            except: None,
            spread_ms: spread_ms.filter(|spread| *spread > 0),
            owner: None,
            reason: "roles".into(),
        }));
    }
    steps.push(Change::SetProfile { account: account.id, name, roles });
    let version = Expect::AccountVersion { account: account.id, version: account.version };
    let changes = Changes {
        expects: by.expects().into_iter().chain([version]).collect(),
        steps,
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (given, kept) in [
            ("Ada@Example.ORG ", "ada@example.org"),
            ("a.b+c@d-e.f", "a.b+c@d-e.f"),
            ("o'x@localhost", "o'x@localhost"),
        ] {
            assert_eq!(Email::parse(given).unwrap().as_str(), kept);
        }
        let long = alloc::format!("{}@example.org", "a".repeat(300));
        for wrong in
            ["", "ada", "@example.org", "ada@", "a b@c.d", "a@b@c.d", "a@-b.c", "a@b..c", "a\n@b.c", "<a@b.c>", &long]
        {
            assert!(Email::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords() {
        let email = Email::parse("someone@example.org").unwrap();
        assert!(check_password("correct horse", &email).is_ok());
        for wrong in ["", "short", "Someone@Example.org", &"x".repeat(1025)] {
            assert!(check_password(wrong, &email).is_err());
        }
    }
}

//! Accounts as lines: what `portcullis export` writes and `portcullis import` reads, one JSON object for each.
//!
//! The same function checks a line where the file is read (so that a dry run needs no server to find most mistakes) and where
//! it is written. What only the database knows (whose an address or id is) is decided by [`settle`].
use crate::account::{Email, check_roles, check_text};
use crate::changes::{Change, Changes, Expect};
use crate::event::{EventKind, NewEvent};
use crate::family::MacKey;
use crate::kernel::By;
use crate::model::{Account, Block, Status};
use crate::stored_hash;
use crate::view::Stamp;
use crate::{Chance, Cut, Refused};
use alloc::{borrow::ToOwned, boxed::Box, collections::BTreeSet, format, string::String, string::ToString, vec::Vec};
use portcullis_wire::{AccountId, EventId, SecretString, Time};
use serde::Deserialize;

/// At most so many accounts in one call.
pub const MAX_BATCH: usize = 100;

/// A line as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The account's id; made from the address when it is missing.
    pub id: Option<String>,
    /// The address.
    pub email: String,
    /// Whether somebody knows that the address is theirs.
    #[serde(default)]
    pub email_verified: bool,
    /// What it calls itself.
    pub name: Option<String>,
    /// Roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// When it was made, RFC 3339; now when it is missing.
    pub created_at: Option<String>,
    /// Whether it is blocked.
    pub blocked: Option<BlockedLine>,
    /// Its password's hash; without one it cannot sign in by password.
    pub password_hash: Option<HashLine>,
}

/// Why and how long an account is blocked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockedLine {
    /// Why.
    pub reason: String,
    /// Until when, RFC 3339; for good when it is missing.
    pub until: Option<String>,
}

/// A password's hash: a text, or Firebase's parts.
#[derive(Debug)]
pub enum HashLine {
    /// As [`stored_hash::parse`] reads it.
    Text(SecretString),
    /// Firebase's parts.
    Firebase(Box<FirebaseLine>),
}

impl<'de> Deserialize<'de> for HashLine {
    /// By hand, so that an error says what is wrong instead of "no variant matched", and shows nothing of the hash.
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = HashLine;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("a text, or an object with Firebase's parts, for `password_hash`")
            }
            fn visit_str<E>(self, text: &str) -> Result<HashLine, E> {
                Ok(HashLine::Text(SecretString::new(text)))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<HashLine, A::Error> {
                let parts = FirebaseLine::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(HashLine::Firebase(Box::new(parts)))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Firebase's scrypt: what its export says of a user, and what its page says of the project.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirebaseLine {
    /// `firebase-scrypt`.
    pub scheme: String,
    /// `passwordHash`, base64.
    pub hash: SecretString,
    /// `salt`, base64.
    pub salt: String,
    /// `base64_signer_key` of the project.
    pub signer_key: Option<SecretString>,
    /// `base64_salt_separator` of the project.
    pub salt_separator: Option<String>,
    /// `rounds` of the project.
    pub rounds: Option<u32>,
    /// `mem_cost` of the project.
    pub mem_cost: Option<u32>,
}

/// What Firebase's page says of a project, for lines that do not say it themselves.
#[derive(Debug, Clone, Default)]
pub struct FirebaseProject {
    /// `base64_signer_key`.
    pub signer_key: Option<SecretString>,
    /// `base64_salt_separator`.
    pub salt_separator: Option<String>,
    /// `rounds`.
    pub rounds: Option<u32>,
    /// `mem_cost`.
    pub mem_cost: Option<u32>,
}

/// A line that is right by itself.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The id, when the line says one.
    pub id: Option<AccountId>,
    /// The address.
    pub email: Email,
    /// Whether it is verified.
    pub email_verified: bool,
    /// The name.
    pub name: Option<String>,
    /// Roles, sorted, each once.
    pub roles: Vec<String>,
    /// When it was made.
    pub created_at: Option<Time>,
    /// Why and until when it is blocked.
    pub blocked: Option<(String, Option<Time>)>,
    /// Its password's hash, as it is kept.
    pub password_hash: Option<String>,
}

/// What a parser says, in our words, and without the texts that it found: one of them may be a hash.
pub fn without_values(error: &str) -> String {
    let mut text = error.replace("unknown field", "unknown member").replace("missing field", "missing member");
    if let Some(from) = text.find(": string \"")
        && let Some(to) = text.rfind("\", expected")
        && from < to
    {
        text.replace_range(from..=to, ": a text");
    }
    text
}

fn wrong<T>(field: &'static str, detail: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::InvalidValue { field, detail: detail.into() })
}

/// Checks a line by itself.
pub fn check(line: Line, project: &FirebaseProject) -> Result<Checked, Refused> {
    let time = |field, text: &str| {
        let read = text.parse::<Time>();
        read.or_else(|_| wrong(field, "must be a time such as 2024-05-17T09:30:00.000Z (RFC 3339)"))
    };
    let id = match line.id.as_deref().map(str::parse::<AccountId>) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return wrong("id", "must be an id of this server (acc_…); leave it out to have one made"),
    };
    let email = Email::parse(&line.email)?;
    let name = line.name.map(|name| check_text("name", &name)).transpose()?;
    let roles = check_roles(line.roles)?;
    let created_at = line.created_at.map(|text| time("created_at", &text)).transpose()?;
    if created_at.is_some_and(|at| at < Time::ZERO) {
        return wrong("created_at", "must not lie before 1970");
    }
    let blocked = match line.blocked {
        None => None,
        Some(BlockedLine { reason, until }) => {
            let until = until.map(|text| time("blocked.until", &text)).transpose()?;
            let reason = check_text("blocked.reason", &reason)?;
            Some((reason, until))
        }
    };
    let password_hash = line.password_hash.map(|hash| hash_text(hash, project)).transpose()?;
    let email_verified = line.email_verified;
    Ok(Checked { id, email, email_verified, name, roles, created_at, blocked, password_hash })
}

fn hash_text(hash: HashLine, project: &FirebaseProject) -> Result<String, Refused> {
    let text = match hash {
        HashLine::Text(text) => stored_hash::parse(text.expose()).map(|_| text.expose().to_owned()),
        HashLine::Firebase(parts) if parts.scheme != "firebase-scrypt" => {
            Err("the scheme of an object is `firebase-scrypt`; other hashes are texts".to_owned())
        }
        HashLine::Firebase(parts) => {
            let signer_key = parts.signer_key.as_ref().or(project.signer_key.as_ref()).map(SecretString::expose);
            let separator = parts.salt_separator.as_deref().or(project.salt_separator.as_deref());
            let (rounds, mem_cost) = (parts.rounds.or(project.rounds), parts.mem_cost.or(project.mem_cost));
            match (signer_key, separator, rounds, mem_cost) {
                (Some(signer_key), Some(separator), Some(rounds), Some(mem_cost)) => {
                    stored_hash::firebase(parts.hash.expose(), &parts.salt, signer_key, separator, rounds, mem_cost)
                }
                _ => Err(
                    "Firebase's signer_key, salt_separator, rounds and mem_cost are needed, in the line or for all \
                     lines (portcullis import --firebase-…)"
                        .to_owned(),
                ),
            }
        }
    };
    text.or_else(|why| wrong("password_hash", why))
}

/// The id of an account whose line says none: the same for the same address, so that a line that is imported again is known;
/// and a secret of this server, so that an id does not tell whose it is.
pub fn id_of(key: &MacKey, email: &Email) -> AccountId {
    AccountId::from_bits(u128::from_be_bytes(key.tag(b"imported account", &[email.as_str().as_bytes()])))
}

/// What the database holds about a line.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The account with its id.
    pub by_id: Option<Account>,
    /// The account with its address.
    pub by_email: Option<AccountId>,
}

/// What becomes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is made.
    Made(AccountId),
    /// It is there already, and stays as it is. What the line says otherwise is named.
    There(AccountId, Vec<&'static str>),
    /// It cannot be.
    Refused(Refused),
}

/// Decides a batch: each line by what was found of it, and what to commit. `stamp` is of the snapshot of the last of `found`;
/// what was taken meanwhile is a conflict of the commit, and then it is decided anew.
pub fn settle(
    stamp: &Stamp,
    lines: &[(Checked, AccountId, Found)],
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> (Vec<Fate>, Changes) {
    let (mut ids, mut emails) = (BTreeSet::new(), BTreeSet::new());
    let (mut fates, mut made) = (Vec::with_capacity(lines.len()), Vec::new());
    for (line, id, found) in lines {
        let twice = !ids.insert(*id) | !emails.insert(line.email.as_str());
        let fate = match fate(stamp, line, *id, found) {
            Fate::Made(_) if twice => {
                Fate::Refused(Refused::Conflict { detail: "another line before it has the same id or address".into() })
            }
            fate => fate,
        };
        if let Fate::Made(_) = fate {
            made.push(account(stamp, line, *id, by));
        }
        fates.push(fate);
    }
    if made.is_empty() {
        return (fates, Changes::default());
    }
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AccountsImported, &by.actor)
        .ip(by.ip)
        .reason(format!("{} accounts, from {} to {}", made.len(), made[0].id, made[made.len() - 1].id));
    let free = made.iter().filter_map(|account| account.email.clone()).map(Expect::EmailFree);
    let changes = Changes {
        expects: by.expects().into_iter().chain(free).collect(),
        steps: made.into_iter().map(Change::InsertAccount).collect(),
        events: [event].into(),
        ..Changes::default()
    };
    (fates, changes)
}

fn fate(stamp: &Stamp, line: &Checked, id: AccountId, found: &Found) -> Fate {
    let conflict = |detail: &str| Fate::Refused(Refused::Conflict { detail: detail.to_owned() });
    if let Some(there) = &found.by_id {
        return match (&there.status, &there.email) {
            (Status::Deleted { .. }, _) => conflict(
                "this account was deleted, and ids are never used again; give the line another id to make a new one",
            ),
            (_, Some(email)) if email == line.email.as_str() => Fate::There(id, differences(there, line)),
            _ => conflict("this id belongs to an account with another address; leave the id out, or give another"),
        };
    }
    if found.by_email.is_some() {
        return Fate::Refused(Refused::EmailTaken);
    }
    if line.created_at.is_some_and(|at| at > stamp.now) {
        return match wrong::<()>("created_at", "lies in the future") {
            Err(refused) => Fate::Refused(refused),
            Ok(()) => Fate::Made(id),
        };
    }
    Fate::Made(id)
}

/// What a line says otherwise than the account that is there. Its password may have changed since, and blocks come and go.
fn differences(there: &Account, line: &Checked) -> Vec<&'static str> {
    let mut out = Vec::new();
    if there.name != line.name {
        out.push("name");
    }
    if there.roles != line.roles {
        out.push("roles");
    }
    if line.email_verified && there.email_verified_at.is_none() {
        out.push("email_verified");
    }
    if line.created_at.is_some_and(|at| at != there.created_at) {
        out.push("created_at");
    }
    out
}

fn account(stamp: &Stamp, line: &Checked, id: AccountId, by: &By<'_>) -> Account {
    // A block that has passed is none.
    let block = line.blocked.as_ref().filter(|(_, until)| until.is_none_or(|until| until > stamp.now));
    let status = match block {
        None => Status::Active,
        Some((reason, until)) => {
            let (reason, actor) = (reason.clone(), by.actor.text());
            Status::Blocked(Block { reason, actor, at: stamp.now, until: *until })
        }
    };
    Account {
        id,
        email: Some(line.email.as_str().to_owned()),
        name: line.name.clone(),
        password_hash: line.password_hash.clone(),
        password_version: 1,
        email_verified_at: line.email_verified.then_some(stamp.now),
        roles: line.roles.clone(),
        status,
        created_at: line.created_at.unwrap_or(stamp.now),
        cut: Cut::default(),
        version: 1,
    }
}

/// A line for an account, as [`Line`] reads it; `None` for tombstones and what is to become one.
pub fn line_of(account: &Account, with_hash: bool, now: Time) -> Option<serde_json::Value> {
    let email = account
        .email
        .as_ref()
        .filter(|_| !matches!(account.status, Status::Deleted { .. } | Status::Deleting { .. }))?;
    let mut out = serde_json::Map::new();
    out.insert("id".into(), account.id.to_string().into());
    out.insert("email".into(), email.as_str().into());
    if account.email_verified_at.is_some() {
        out.insert("email_verified".into(), true.into());
    }
    if let Some(name) = &account.name {
        out.insert("name".into(), name.as_str().into());
    }
    if !account.roles.is_empty() {
        out.insert("roles".into(), account.roles.clone().into());
    }
    out.insert("created_at".into(), account.created_at.to_string().into());
    if let Some(block) = account.block_at(now) {
        let mut blocked = serde_json::Map::new();
        blocked.insert("reason".into(), block.reason.as_str().into());
        if let Some(until) = block.until {
            blocked.insert("until".into(), until.to_string().into());
        }
        out.insert("blocked".into(), blocked.into());
    }
    if let Some(hash) = account.password_hash.as_ref().filter(|_| with_hash) {
        out.insert("password_hash".into(), hash.as_str().into());
    }
    Some(out.into())
}

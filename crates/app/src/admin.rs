//! What administrators and operators do. Every act checks its actor alive, and still an administrator, in its own
//! transaction; every read checks it after the data were read, so the answer is as of a moment when it held.
use crate::callers::Caller;
use crate::oauth::{has_secret, new_secret};
use crate::{Acted, App, AppError, RepeatKey, Revoked, real};
use portcullis_domain::account::{self, Email};
use portcullis_domain::changes::{Change, Changes, Expect, Idempotency};
use portcullis_domain::client::{Profile, SubjectType};
use portcullis_domain::email;
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::family::MacKey;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{ADMIN, Account, Client, ClientKind};
use portcullis_domain::upstream::Link;
use portcullis_domain::view::{AccountView, SessionView};
use portcullis_domain::{Chance, Decision, Refused, service};
use portcullis_store::{EventFilter, EventRow, LiveCount, Page};
use portcullis_wire::{AccountId, ClientId, EventId, Rev, SecretString, SessionId, Time};
use std::net::IpAddr;

/// Somebody who may administer: an administrator by token, or whoever can reach the admin socket.
#[derive(Debug, Clone)]
pub struct Admin {
    actor: Actor,
    ip: Option<IpAddr>,
}

impl Admin {
    /// An administrator by token; see [`App::admin_caller`], which has checked scope and role.
    pub fn by_token(caller: &Caller) -> Self {
        Self { actor: caller.actor(), ip: caller.ip }
    }
    /// Whoever can reach the admin socket (mode 0600) in the data directory.
    pub fn operator() -> Self {
        Self { actor: Actor::Operator, ip: None }
    }
    /// The session that acts, if one does.
    pub fn session(&self) -> Option<SessionId> {
        self.actor.session()
    }
    /// Whether this is whoever can reach the admin socket.
    pub fn is_operator(&self) -> bool {
        self.actor == Actor::Operator
    }
    pub(crate) fn by<'a>(&self, reason: Option<&'a str>) -> By<'a> {
        By { actor: self.actor, role: Some(ADMIN), ip: self.ip, reason }
    }
}

/// A client that was just registered; the secret is shown once.
#[derive(Debug)]
pub struct Registered {
    /// The client.
    pub client: Client,
    /// Its secret.
    pub secret: Option<SecretString>,
}

/// What to change of an account.
#[derive(Debug, Clone, Default)]
pub struct AccountPatch {
    /// A new name, or none.
    pub name: Option<Option<String>>,
    /// New roles.
    pub roles: Option<Vec<String>>,
    /// Over how many milliseconds the refreshes that new roles cause are spread.
    pub spread_ms: Option<u64>,
    /// Another address.
    pub email: Option<String>,
    /// Whether its address, the new one if there is one, is verified.
    pub email_verified: Option<bool>,
}

impl App {
    /// Whether the administrator still is one; called after the data of a read were loaded.
    pub(crate) async fn still_admin(&self, admin: &Admin) -> Result<(), AppError> {
        let Some(session) = admin.session() else { return Ok(()) };
        let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
        let alive = view.is_some_and(|v| v.dead(self.settings().rules.idle_ttl).is_none() && v.account.has_role(ADMIN));
        if alive { Ok(()) } else { Err(AppError::Unauthenticated(portcullis_wire::Code::TokenRevoked)) }
    }

    pub(crate) async fn account_view(&self, id: AccountId) -> Result<AccountView, AppError> {
        let view = self.store().load_account(id).await.map_err(|e| self.fault(e.into()))?;
        view.ok_or_else(|| Refused::NotFound.into())
    }

    /// Accounts by id, after `cursor`.
    pub async fn admin_accounts(
        &self,
        admin: &Admin,
        prefix: Option<&str>,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Result<Page<Account>, AppError> {
        let page = self.store().list_accounts(prefix, cursor, limit).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(page)
    }

    /// One account, tombstones too.
    pub async fn admin_account(&self, admin: &Admin, id: AccountId) -> Result<AccountView, AppError> {
        let view = self.account_view(id).await?;
        self.still_admin(admin).await?;
        Ok(view)
    }

    /// Makes an account.
    #[allow(clippy::too_many_arguments, reason = "what an account is made of")]
    pub async fn admin_create_account(
        &self,
        admin: &Admin,
        email: &str,
        password: Option<SecretString>,
        name: Option<&str>,
        roles: Vec<String>,
        verified: bool,
        repeat: Option<&RepeatKey>,
    ) -> Result<Account, AppError> {
        if let Some(password) = &password {
            self.refuse_breached("password", password).await?;
        }
        self.create_account(email, password, name, roles, verified, &admin.by(None), repeat).await
    }

    /// Changes name and roles. Changed roles make tokens with the old ones `stale`. The rev, when an entry was written.
    pub async fn admin_change_account(
        &self,
        admin: &Admin,
        id: AccountId,
        patch: AccountPatch,
    ) -> Result<Account, AppError> {
        let name = match patch.name {
            Some(Some(name)) => Some(Some(account::check_text("name", &name)?)),
            other => other,
        };
        account::check_spread(patch.spread_ms)?;
        let to = patch.email.as_deref().map(Email::parse).transpose()?;
        let notice = self.mailer().map(|_| self.keys().mac().clone());
        let by = admin.by(None);
        let roles = patch.roles.map_or(account::Roles::Same, account::Roles::Set);
        self.act(
            "",
            None,
            || self.account_view(id),
            |view, chance| {
                let decision = account::change(view, name.clone(), &roles, patch.spread_ms, &by, chance);
                if decision.outcome.is_err() {
                    return decision;
                }
                let about = match (&to, patch.email_verified) {
                    (Some(to), verified) => email::set(view, to, verified, &by, notice.as_ref(), chance),
                    (None, Some(verified)) => email::mark(view, verified, &by, chance),
                    (None, None) => return decision,
                };
                with(decision, about)
            },
        )
        .await?;
        if to.is_some() {
            self.mail_waits();
        }
        let view = self.account_view(id).await?;
        self.still_admin(admin).await?; // nothing was committed, and so checked, when nothing had to change
        Ok(view.account)
    }

    /// Blocks an account and ends everything it has.
    pub async fn admin_block(
        &self,
        admin: &Admin,
        id: AccountId,
        reason: &str,
        until: Option<Time>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let by = admin.by(Some(reason));
        let notice = self.may_mail(Template::AccountBlocked, id).await?;
        let acted = self
            .act(
                &admin.actor.text(),
                repeat,
                || self.account_view(id),
                |view, chance| {
                    let decision = account::block(view, reason, until, &by, chance);
                    told(decision, Template::AccountBlocked, view, notice.as_ref(), chance)
                },
            )
            .await?;
        self.mail_waits();
        match acted {
            Acted::Done((), committed) => Revoked::of(committed),
            Acted::Answered(()) => Err(AppError::Fault("a block without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }

    /// Lifts a block. Revives nothing.
    pub async fn admin_unblock(&self, admin: &Admin, id: AccountId, reason: Option<&str>) -> Result<Account, AppError> {
        let by = admin.by(reason);
        let notice = self.may_mail(Template::AccountUnblocked, id).await?;
        let unblock = |view: &AccountView, chance: &mut dyn Chance| {
            let blocked = view.account.block_at(view.stamp.now).is_some();
            let notice = notice.as_ref().filter(|_| blocked);
            told(account::unblock(view, &by, chance), Template::AccountUnblocked, view, notice, chance)
        };
        self.act("", None, || self.account_view(id), unblock).await?;
        self.mail_waits();
        let view = self.account_view(id).await?;
        self.still_admin(admin).await?;
        Ok(view.account)
    }

    /// Deletes an account. Repeated: the old rev, and nothing ended.
    pub async fn admin_delete(
        &self,
        admin: &Admin,
        id: AccountId,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let (by, grace) = (admin.by(None), self.settings().policy.deletion_grace);
        let notice = self.may_tell_of_deletion(&self.account_view(id).await?.account).await?;
        let acted = self
            .act(
                &admin.actor.text(),
                repeat,
                || self.account_view(id),
                |view, chance| {
                    let decision = account::delete(view, grace, &by, chance);
                    told(decision, Template::AccountDeleted, view, notice.as_ref(), chance)
                },
            )
            .await?;
        self.mail_waits();
        self.still_admin(admin).await?;
        match acted {
            Acted::Done(_, committed) => Revoked::of(committed),
            Acted::Answered(Some(rev)) => Ok(Revoked { rev, ended: Some(0), at: self.store().now() }),
            Acted::Answered(None) => Err(AppError::Fault("a deletion without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }

    /// The living sessions of an account.
    pub async fn admin_sessions(&self, admin: &Admin, id: AccountId) -> Result<Vec<SessionView>, AppError> {
        self.account_view(id).await?;
        let sessions = self.live_sessions(id).await?;
        self.still_admin(admin).await?;
        Ok(sessions)
    }

    /// Who of other providers may sign in to an account.
    pub async fn admin_links(&self, admin: &Admin, id: AccountId) -> Result<Vec<Link>, AppError> {
        self.account_view(id).await?;
        let links = self.links_of(id).await?;
        self.still_admin(admin).await?;
        Ok(links)
    }

    /// Ends one session of anybody.
    pub async fn admin_end_session(
        &self,
        admin: &Admin,
        session: SessionId,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let by = admin.by(None);
        let revoked = self.end_session(Door::AdminEndSession, session, None, &by, &admin.actor.text(), repeat).await?;
        if revoked.ended == Some(0) {
            self.still_admin(admin).await?; // nothing was committed, so nothing has checked it
        }
        Ok(revoked)
    }

    /// Ends all sessions of an account.
    pub async fn admin_end_account(
        &self,
        admin: &Admin,
        id: AccountId,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        self.account_view(id).await?;
        self.end_scope(Door::AdminEndAccount, Scope::Account(id), None, &admin.by(None), repeat).await
    }

    /// Signs everyone out by one entry, the named session excepted.
    pub async fn admin_end_everyone(
        &self,
        admin: &Admin,
        except: Option<SessionId>,
        reason: &str,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let reason = account::check_text("reason", reason)?;
        let ended = self.end_scope(Door::Everyone, Scope::All, except, &admin.by(Some(&reason)), repeat).await;
        if let Err(AppError::Unauthenticated(_)) = &ended
            && except.is_some()
            && self.still_admin(admin).await.is_ok()
        {
            return Err(not_alive("except")); // it was the spared session that is dead, not the caller's
        }
        ended
    }

    /// How many sessions an "everyone" would end, and of how many accounts; refuses what that would refuse.
    pub async fn admin_count_live(
        &self,
        admin: &Admin,
        except: Option<SessionId>,
        reason: &str,
    ) -> Result<LiveCount, AppError> {
        account::check_text("reason", reason)?;
        let mut count = self.store().count_live().await.map_err(|e| self.fault(e.into()))?;
        if let Some(session) = except {
            let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
            let idle_ttl = self.settings().rules.idle_ttl;
            let view = view.filter(|view| view.dead(idle_ttl).is_none()).ok_or_else(|| not_alive("except"))?;
            let alone = self.live_sessions(view.account.id).await?.len() == 1;
            count.sessions = count.sessions.saturating_sub(1);
            count.accounts = count.accounts.saturating_sub(u64::from(alone));
        }
        self.still_admin(admin).await?;
        Ok(count)
    }

    /// Audit records, newest first.
    pub async fn admin_events(
        &self,
        admin: &Admin,
        filter: &EventFilter,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Result<Page<EventRow>, AppError> {
        let page = self.store().list_events(filter, cursor, limit).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(page)
    }

    /// The act that wrote `rev`.
    pub async fn admin_revocation(&self, admin: &Admin, rev: Rev) -> Result<EventRow, AppError> {
        let row = self.store().load_revocation(rev).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        row.ok_or_else(|| Refused::NotFound.into())
    }

    /// One client.
    pub async fn admin_client(&self, admin: &Admin, id: ClientId) -> Result<Client, AppError> {
        let view = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(view.filter(|view| !view.client.profile.deleted).ok_or(Refused::NotFound)?.client)
    }

    /// Clients by id, after `cursor`.
    pub async fn admin_clients(
        &self,
        admin: &Admin,
        cursor: Option<ClientId>,
        limit: u32,
    ) -> Result<Page<Client>, AppError> {
        let page = self.store().list_clients(cursor, limit).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(page)
    }

    /// Registers a client that serves no people, without a repeat key.
    pub async fn admin_create_client(
        &self,
        admin: &Admin,
        name: &str,
        kind: ClientKind,
    ) -> Result<Registered, AppError> {
        self.admin_register_client(admin, name, kind, Profile::default(), None).await
    }

    /// Registers a client. Its secret has 256 random bits and is kept as a digest only; so a repeated call gives the client
    /// that the first one made, without the secret: who lost the first answer makes another client.
    pub async fn admin_register_client(
        &self,
        admin: &Admin,
        name: &str,
        kind: ClientKind,
        profile: Profile,
        repeat: Option<&RepeatKey>,
    ) -> Result<Registered, AppError> {
        let name = account::check_text("name", name)?;
        let profile = self.checked_profile(kind, profile, None)?;
        if profile.sector_identifier_uri.is_some() || profile.subject_type != SubjectType::Public {
            self.still_admin(admin).await?; // before anything is called or made in their name
        }
        self.vet_sector(&profile, None, false).await?;
        self.ensure_key_of_names(&profile).await?;
        let secret = kind.has_secret(profile.token_endpoint_auth_method).then(new_secret);
        let mut profile = profile;
        let account = service::account_for(&name, &profile, self.store().now(), &mut real::RealChance);
        profile.service_account = account.as_ref().map(|account| account.id);
        let client = Client::new(
            ClientId::from_bits(real::RealChance.bits()),
            name,
            kind,
            secret.as_ref().map(SecretString::digest),
            profile,
            self.store().now(),
        );
        let by = admin.by(None);
        let actor = by.actor.text();
        let decide = |(): &(), chance: &mut dyn Chance| {
            let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::ClientCreated, &by.actor);
            let (made, insert) = (Some(client.id.to_string()), Change::InsertClient(client.clone()));
            let changes = Changes {
                expects: by.expects().into_iter().collect(),
                steps: account.clone().map(Change::InsertAccount).into_iter().chain([insert]).collect(),
                events: vec![event.client(client.id).ip(by.ip)],
                idempotency: repeat.map(|repeat| Idempotency { made, ..self.remember(&actor, repeat) }),
                ..Changes::default()
            };
            Decision { outcome: Ok(()), changes }
        };
        match self.act(&actor, repeat, || async { Ok(()) }, decide).await? {
            Acted::Done((), _) | Acted::Answered(()) => {
                self.ensure_id_key(&client.profile).await?;
                Ok(Registered { client, secret })
            }
            Acted::Before(before) => {
                let id: ClientId = before.made.and_then(|id| id.parse().ok()).ok_or(Refused::NotFound)?;
                Ok(Registered { client: self.admin_client(admin, id).await?, secret: None })
            }
        }
    }

    /// Switches a client off (a door: everything given to it ends, its feed connections close) or on again. The rev, when
    /// it is off; repeated: the old one.
    pub async fn admin_set_client_disabled(
        &self,
        admin: &Admin,
        id: ClientId,
        disabled: bool,
    ) -> Result<(Client, Option<Revoked>), AppError> {
        // To its end even if the caller hangs up: what is committed must also close the client's streams.
        let (app, admin) = (self.clone(), admin.clone());
        let done = tokio::spawn(async move { app.set_client_disabled(&admin, id, disabled).await });
        done.await.unwrap_or_else(|error| Err(self.fault(AppError::Fault(error.to_string().into()))))
    }

    async fn set_client_disabled(
        &self,
        admin: &Admin,
        id: ClientId,
        disabled: bool,
    ) -> Result<(Client, Option<Revoked>), AppError> {
        let load = || async {
            let view = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?;
            // One that was deleted is never switched on again.
            view.filter(|view| !view.client.profile.deleted).ok_or_else(|| Refused::NotFound.into())
        };
        if id == ClientId::FIRST_PARTY {
            let detail = "the built-in client cannot be switched off; use a revocation of everyone instead".into();
            return Err(Refused::InvalidValue { field: "client_id", detail }.into());
        }
        let by = admin.by(None);
        let acted = self
            .act("", None, load, |view: &portcullis_domain::view::ClientView, chance| {
                if view.client.disabled == disabled {
                    return Decision::answer(());
                }
                let mut changes = if disabled {
                    client_off(&view.client, &by, chance)
                } else {
                    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::ClientEnabled, &by.actor);
                    let expects: Vec<Expect> = by.expects().into_iter().collect();
                    Changes { expects, events: vec![event.client(id).ip(by.ip)], ..Changes::default() }
                };
                changes.steps.push(Change::SetClientDisabled { client: id, disabled });
                Decision { outcome: Ok(()), changes }
            })
            .await?;
        let done = match acted {
            Acted::Done((), committed) if committed.rev.is_some() => Some(Revoked::of(committed)?),
            _ => None,
        };
        let client = load().await?.client;
        match client.disabled {
            true => self.hub().close_client(id, client.cut.rev),
            false => self.hub().client_is_on(&client),
        }
        let revoked = match done {
            None if client.disabled => self.switched_off(&client).await?,
            done => done,
        };
        self.still_admin(admin).await?;
        Ok((client, revoked))
    }

    /// What switched a client off: for who asks again because the answer got lost.
    async fn switched_off(&self, client: &Client) -> Result<Option<Revoked>, AppError> {
        let row = self.store().load_revocation(client.cut.rev).await.map_err(|e| self.fault(e.into()))?;
        Ok(row.map(|row| Revoked { rev: client.cut.rev, ended: row.ended, at: row.at }))
    }

    /// A client by its id and secret (RFC 6749 §2.3.1); `None` when they are not right or it is switched off.
    pub async fn authenticate_client(&self, id: &str, secret: &SecretString) -> Result<Option<Client>, AppError> {
        let Ok(id) = id.parse::<ClientId>() else { return Ok(None) };
        let view = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?;
        let now = self.now();
        let client = view.map(|view| view.client).filter(|client| has_secret(client, secret, now) && !client.disabled);
        if let Some(client) = &client {
            self.hub().client_is_on(client);
        }
        Ok(client)
    }

    /// As [`App::authenticate_client`], for calls that come again and again: by its row as of at most a second ago, while nothing
    /// was read that switched it off.
    pub async fn authenticate_again(&self, id: &str, secret: &SecretString) -> Result<Option<Client>, AppError> {
        let recent = id.parse().ok().and_then(|id| self.hub().recent_client(id, &secret.digest()));
        if recent.is_some() {
            return Ok(recent);
        }
        let began = real::mono();
        let client = self.authenticate_client(id, secret).await?;
        if let Some(client) = &client {
            self.hub().remember_client(client, began);
        }
        Ok(client)
    }
}

/// Everything that a client has ends: what it got for others, and by its own entry its service account's, so that no session
/// is left in lists that can do nothing, and whoever it acts for is rid of it, too.
pub(crate) fn client_off(client: &Client, by: &By<'_>, chance: &mut dyn Chance) -> Changes {
    let mut changes = kernel::end(Door::ClientOff, Scope::Client(client.id), None, by, chance);
    if let Some(account) = client.profile.service_account {
        let end = kernel::end(Door::ClientOff, Scope::Account(account), None, by, chance);
        // The client's own entry is the last one: its rev is the act's.
        changes.steps.splice(0..0, end.steps);
    }
    changes
}

pub(crate) fn not_alive(field: &'static str) -> AppError {
    Refused::InvalidValue { field, detail: "this session is not alive, so it cannot be spared".into() }.into()
}

/// Two decisions about one account, of the same view, as one.
fn with(mut one: Decision<()>, other: Decision<()>) -> Decision<()> {
    if other.outcome.is_err() {
        return other;
    }
    for expect in other.changes.expects {
        if !one.changes.expects.contains(&expect) {
            one.changes.expects.push(expect);
        }
    }
    one.changes.steps.extend(other.changes.steps);
    one.changes.events.extend(other.changes.events);
    one
}

/// A decision about an account of which its owner is told by a mail.
pub(crate) fn told<T>(
    mut decision: Decision<T>,
    template: Template,
    view: &AccountView,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) -> Decision<T> {
    if let (Ok(_), Some(key), false) = (&decision.outcome, notice, decision.changes.is_empty()) {
        let letter = Letter::of(template, &view.account);
        // Of an account that is deleted nothing else says where it goes.
        let letter = match (&view.account.email, template) {
            (Some(email), Template::AccountDeleted) => letter.to(email),
            _ => letter,
        };
        decision.changes.steps.extend(mail::write(letter, &view.stamp, key, chance));
    }
    decision
}

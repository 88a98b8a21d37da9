//! What people do with accounts and sessions: sign up, sign in, refresh, look at their devices, end them.
use crate::callers::{Caller, cookie_text};
use crate::guessing::{Counted, Taken};
use crate::oauth::{Less, narrow_audience, narrowed};
use crate::password::PoolError;
use crate::risk::{self, Verdicts, Who};
use crate::{Acted, App, AppError, RepeatKey, real};
use portcullis_domain::account::{self, Email};
use portcullis_domain::changes::{Change, Changes, Committed, Expect};
use portcullis_domain::event::{Actor, EventKind};
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{Account, Session, SessionKind};
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, RefreshSeen};
use portcullis_domain::sign_in::{Issued, Proving, SignIn, awaits_proof, prove_again, sign_in};
use portcullis_domain::throttle::{Name, Verdict};
use portcullis_domain::view::{Dead, SessionView, SignInView};
use portcullis_domain::{Chance as _, Decision, Refused, device, page_cookie, session_limit, stored_hash, time_rules};
use portcullis_store::{EventFilter, Remembered};
use portcullis_wire::claims::Confirmation;
use portcullis_wire::{AccountId, ClientId, Code, Digest, GrantId, Rev, SecretBytes, SecretString, SessionId, Time};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// What a sign-in or refresh gives.
#[derive(Debug)]
pub struct Tokens {
    /// The session.
    pub session: Session,
    /// Whose.
    pub account: Account,
    /// The signed access token.
    pub access_token: SecretString,
    /// Seconds that it lives.
    pub expires_in: i64,
    /// Its scopes.
    pub scope: String,
    /// The refresh token.
    pub refresh_token: SecretString,
    /// The cookie for pages, when a page signed in.
    pub page_cookie: Option<SecretString>,
    /// The marks of this device as a known one, when it signed in.
    pub device: Option<SecretString>,
    current: (GrantId, u64),
}

/// What a browser gets when its user has signed in.
#[derive(Debug)]
pub struct PageEntry {
    /// The cookie that it has from now on.
    pub cookie: SecretString,
    /// Whose that is: a new session, or the one that goes on.
    pub session: Session,
    /// The marks of this device as a known one.
    pub device: SecretString,
}

/// What a right password led to.
enum Signed {
    In(Box<Issued>),
    Again(Box<Session>),
}

/// A browser that is signed in already.
struct Present {
    account: AccountId,
    session: SessionId,
    secret: SecretBytes,
}

struct Entered {
    signed: Signed,
    cookie: Option<SecretString>,
    device: SecretString,
}

/// What a revoking call committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The entry.
    pub rev: Rev,
    /// How many live sessions it ended; `None` when that is not counted in the act.
    pub ended: Option<u64>,
    /// When it was committed.
    pub at: Time,
}

impl Revoked {
    pub(crate) fn of(committed: Committed) -> Result<Self, AppError> {
        let rev = committed.rev.ok_or_else(|| AppError::Fault("a revocation was committed without an entry".into()))?;
        Ok(Self { rev, ended: committed.ended, at: committed.at })
    }

    pub(crate) fn remembered(before: &Remembered) -> Result<Self, AppError> {
        let rev = before.rev.ok_or_else(|| {
            let detail = "belongs to a call of another kind; take a new one".into();
            AppError::from(Refused::InvalidValue { field: "Idempotency-Key", detail })
        })?;
        Ok(Self { rev, ended: before.ended, at: before.at })
    }
}

/// How a page or an API call signs in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The address.
    pub identifier: String,
    /// The password.
    pub password: SecretString,
    /// The marks of a known device, as they came.
    pub device: Option<SecretString>,
}

impl App {
    /// Signs in by password. One hash is computed whatever the address; "blocked" is said only after the right password.
    /// With `page` the session also gets a page cookie.
    pub async fn sign_in(&self, credentials: Credentials, request: SignIn, page: bool) -> Result<Tokens, AppError> {
        let entered = self.enter(credentials, request, page, None).await?;
        match entered.signed {
            Signed::In(issued) => self.tokens(*issued, entered.cookie, Some(entered.device)),
            Signed::Again(_) => Err(AppError::Fault("a sign-in without a session went on with one".into())),
        }
    }

    /// Signs a browser in, or lets whoever uses it already prove once more who they are: then its session goes on, with another
    /// cookie.
    pub async fn page_sign_in(
        &self,
        credentials: Credentials,
        request: SignIn,
        present: Option<&Caller>,
    ) -> Result<PageEntry, AppError> {
        let present = present.and_then(|caller| {
            let (account, session) = (caller.view.account.id, caller.view.session.id);
            caller.page.clone().map(|secret| Present { account, session, secret })
        });
        let entered = self.enter(credentials, request, true, present).await?;
        let cookie = entered.cookie.ok_or_else(|| AppError::Fault("a page signed in without a cookie".into()))?;
        let session = match entered.signed {
            Signed::In(issued) => issued.session,
            Signed::Again(session) => *session,
        };
        Ok(PageEntry { cookie, session, device: entered.device })
    }

    /// What a proof by who has shown the page cookie with this secret is decided by, and the cookie that they get; `None` when
    /// there is no such session any more.
    pub(crate) async fn proving(
        &self,
        session: SessionId,
        secret: &SecretBytes,
        ip: Option<IpAddr>,
    ) -> Result<Option<(Proving, SecretString)>, AppError> {
        let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
        let secret: Option<&[u8; 32]> = secret.expose().try_into().ok();
        let Some((view, secret)) = view.zip(secret) else { return Ok(None) };
        let next = page_cookie::next_secret(self.keys().mac(), session, secret);
        let proving = Proving { session: view.session, shown: Digest::of(secret), next: Digest::of(&next), ip };
        Ok(Some((proving, cookie_text(session, &next))))
    }

    async fn enter(
        &self,
        credentials: Credentials,
        request: SignIn,
        page: bool,
        present: Option<Present>,
    ) -> Result<Entered, AppError> {
        let began = real::mono();
        let result = self.try_sign_in(credentials, request, page, present).await;
        let counts = self.counts();
        if let Err(AppError::Refused(_)) = &result {
            self.hold_back(began).await;
        }
        let count = if result.is_ok() { &counts.sign_ins } else { &counts.sign_ins_refused };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Waits for the end of a step, so that the time of the answer tells nothing.
    pub(crate) async fn hold_until_step(&self, began: portcullis_feed::Mono) {
        let (took, step) = (real::mono().since(began), self.settings().policy.failed_sign_in_step);
        let wait = time_rules::answered_after(took, step).saturating_sub(took);
        if let Ok(wait @ 1..) = u64::try_from(wait) {
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        }
    }

    /// A refusal waits until it tells nothing of the time that its hash took: imported ones take longer than ours, or less.
    async fn hold_back(&self, began: portcullis_feed::Mono) {
        let (took, step) = (real::mono().since(began), self.settings().policy.failed_sign_in_step);
        if step > 0 && took > step {
            self.counts().sign_ins_beyond_step.fetch_add(1, Ordering::Relaxed);
        }
        self.hold_until_step(began).await;
    }

    /// The attempt is taken from its budgets first; then one hash is computed, whatever the verdict, the address or the
    /// account; and what was right is given back in the commit of the session.
    async fn try_sign_in(
        &self,
        credentials: Credentials,
        mut request: SignIn,
        page: bool,
        present: Option<Present>,
    ) -> Result<Entered, AppError> {
        let secret = page.then(|| real::RealChance.secret());
        request.cookie = secret.map(|secret| Digest::of(&secret));
        self.ensure_horizon().await?;
        let Credentials { identifier, password, device } = credentials;
        // An address that cannot be one is looked up like any other: nothing is found, and one hash is computed.
        let email = Email::parse(&identifier).map_or_else(|_| String::new(), |email| email.as_str().into());
        // A password that is too long to be one costs no more than others, and is none.
        let fits = password.expose().len() <= account::MAX_PASSWORD;
        let password = if fits { password } else { SecretString::new("") };
        let load = || async {
            self.store().load_sign_in(&email, ClientId::FIRST_PARTY).await.map_err(|e| self.fault(e.into()))
        };
        let mut view = load().await?;
        // What is counted is counted at the account, whatever address it has.
        let name = Name::of(view.account.as_ref().map(|account| account.id), &identifier);
        let Taken { place, ours } = self.take_attempt(name, request.ip, device.as_ref()).await?;
        // What a better hash is made of, should the stored one be worse than what new passwords get.
        let (hashing, again) = (self.settings().hashing, password.clone());
        let phc = view.account.as_ref().and_then(|account| account.password_hash.clone());
        let compare = ours.verdict.is_checked() && fits;
        let matches = match self.passwords().check(place, password, phc, compare).await {
            Ok(matches) => matches,
            Err(error) => {
                self.untake(ours.attempt, ours.verdict).await;
                return Err(pool_error(error));
            }
        };
        if !ours.verdict.is_checked() {
            return Err(Refused::InvalidCredentials.into());
        }
        // Who signed up with an address that they cannot read is told nothing by their own password; the rest is told by mail.
        let waits = |account: &&Account| matches && present.is_none() && awaits_proof(account, &self.settings().rules);
        if let Some(account) = view.account.as_ref().filter(waits) {
            tokio::spawn(self.clone().remind_to_verify(account.id));
            return Err(Refused::InvalidCredentials.into());
        }
        let (keys, proven) = (self.keys(), view.account.as_ref().map(|account| (account.id, account.password_version)));
        let limit = self.settings().policy.session_limit;
        // Of a wrong one nothing is said.
        let breached = matches && present.is_none() && self.asks_rules() && self.is_breached(&again).await;
        let owner = view.account.as_ref().filter(|_| matches && present.is_none());
        let notice = match owner {
            Some(account) if self.is_new_device(&view, &request, &ours).await? => {
                self.may_mail(Template::NewDevice, account.id).await?
            }
            _ => None,
        };
        for _ in 0..crate::MAX_TRIES {
            let rules = &self.settings().rules;
            // Only who gave the right password makes the server look.
            let live = match (limit, &view.account) {
                (Some(_), Some(account)) if matches => {
                    let listed = self.store().list_sessions(account.id, session_limit::MAX_LOOKED_AT).await;
                    listed.map_err(|e| self.fault(e.into()))?
                }
                _ => vec![],
            };
            let owner = view.account.as_ref().map(|account| account.id);
            let proving = match present.as_ref().filter(|present| matches && owner == Some(present.account)) {
                Some(present) => self.proving(present.session, &present.secret, request.ip).await?,
                None => None,
            };
            let look = match &view.account {
                Some(account) if matches => {
                    let who = Who {
                        account: account.id,
                        newcomer: None,
                        ip: request.ip,
                        own: true,
                        user_agent: request.user_agent.as_deref(),
                        made: proving.as_ref().map(|(proving, _)| risk::made(&proving.session, None)),
                        counted: Some(&ours),
                    };
                    self.look(&who).await?
                }
                _ => None,
            };
            let verdicts = Verdicts::default();
            let decide = |view: &SignInView, chance: &mut dyn portcullis_domain::Chance| {
                let mut decision = match &proving {
                    Some((proving, _)) => {
                        let Decision { outcome, changes } = prove_again(view, matches, proving, rules, chance);
                        Decision {
                            outcome: outcome.map(|()| Signed::Again(Box::new(proving.session.clone()))),
                            changes,
                        }
                    }
                    None => {
                        let mut decision = sign_in(view, matches, &request, rules, keys.mac(), chance);
                        if let (Ok(issued), Some(key)) = (&decision.outcome, &notice) {
                            let letter = Letter::of(Template::NewDevice, &issued.account).about(issued.session.id);
                            let mail = mail::write(letter, &view.stamp, key, chance);
                            decision.changes.steps.extend(mail);
                        }
                        if let Some(limit) = limit {
                            decision = session_limit::apply(decision, &live, limit, rules.idle_ttl, chance);
                        }
                        Decision {
                            outcome: decision.outcome.map(|issued| Signed::In(Box::new(issued))),
                            changes: decision.changes,
                        }
                    }
                };
                let seen = match &decision.outcome {
                    Ok(Signed::In(issued)) => {
                        let act = Act::SignIn { known_device: ours.device.is_some(), breached };
                        Some((At::SignIn(issued.session.id), act))
                    }
                    Ok(Signed::Again(session)) => Some((At::Session(session.id, None), Act::Prove { ok: true })),
                    Err(_) => None,
                };
                let right = decision.outcome.is_ok();
                if let (Some(look), Some(account), Some((at, act))) = (&look, &view.account, seen) {
                    decision = look.judge(self, decision, &view.stamp, account, at, act, &verdicts, chance);
                    if let Ok(Signed::In(issued)) = &mut decision.outcome {
                        risk::without_proof(issued, &decision.changes);
                    }
                }
                match decision.outcome {
                    Ok(_) => decision.changes.steps.extend(ours.succeeded()),
                    // What a rule refuses was no wrong guess all the same; the network does not become a known one.
                    Err(_) if right => decision.changes.steps.push(ours.given_back()),
                    Err(_) => {}
                }
                decision
            };
            // One try per view: when rows have moved, another view must be loaded.
            let acted = self.act_once(|| async { Ok(view.clone()) }, decide).await;
            if matches!(acted, Ok(Some(_)) | Err(AppError::Refused(_))) {
                self.judged(&verdicts);
            }
            // Whoever has a session proves it again: they are told what is missing, and sent it.
            if let (Err(AppError::Refused(Refused::EmailNotVerified)), Some(account)) = (&acted, &view.account) {
                self.untake(ours.attempt, ours.verdict).await;
                if let Err(error) = self.send_verification(account.id).await {
                    tracing::warn!(%error, account = %account.id, "a link to prove an address could not be sent");
                }
            }
            if let Some(signed) = acted? {
                let worse = |account: &Account| {
                    let stored = account.password_hash.as_deref().and_then(|text| stored_hash::parse(text).ok());
                    stored.is_some_and(|stored| stored.is_worse_than(hashing.memory_kib, hashing.passes))
                };
                if let Some(account) = view.account.filter(worse) {
                    tokio::spawn(self.clone().upgrade_password(account, again));
                }
                if notice.is_some() {
                    self.mail_waits();
                }
                let cookie = match &signed {
                    Signed::In(issued) => secret.map(|secret| cookie_text(issued.session.id, &secret)),
                    Signed::Again(_) => proving.map(|(_, cookie)| cookie),
                };
                return Ok(Entered { signed, cookie, device: self.marks(&ours, device.as_ref()) });
            }
            view = load().await?;
            // The proof is of one password. What was right of one that has been changed since is right no longer.
            if view.account.as_ref().map(|account| (account.id, account.password_version)) != proven {
                return Err(Refused::InvalidCredentials.into());
            }
        }
        Err(AppError::Overloaded)
    }

    /// Whether this sign-in is one that its account's owner would want to hear of: on a device without a mark, of an account that
    /// somebody signed in to before. What holds its refresh token itself keeps no marks; there a network that is not known counts.
    async fn is_new_device(&self, view: &SignInView, request: &SignIn, ours: &Counted) -> Result<bool, AppError> {
        let app = request.kind == SessionKind::App;
        let known = ours.device.is_some() || app && ours.verdict != Verdict::Stranger;
        if known || view.unused || self.mailer().is_none() {
            return Ok(false);
        }
        Ok(!app || !self.was_known_by_address(ours, request.ip).await?)
    }

    /// Whether somebody has signed in to this account before, as far as audit records are kept.
    pub(crate) async fn was_signed_in_to(&self, account: AccountId) -> Result<bool, AppError> {
        let kind = Some(EventKind::SessionStarted.as_str().into());
        let filter = EventFilter { account: Some(account), kind, ..EventFilter::default() };
        let before = self.store().list_events(&filter, None, 1).await.map_err(|e| self.fault(e.into()))?;
        Ok(!before.rows.is_empty())
    }

    /// Puts a hash as new passwords get it in the place of a worse one, after its password was right. Best effort, after the
    /// answer: when the pool is full or the account was changed meanwhile, the next sign-in does it.
    async fn upgrade_password(self, account: Account, password: SecretString) {
        let Ok(hash) = self.passwords().upgrade(password).await else { return };
        let changes = Changes {
            expects: vec![
                // Also raised by a deletion: no tombstone gets a hash.
                Expect::AccountVersion { account: account.id, version: account.version },
                Expect::PasswordVersion { account: account.id, version: account.password_version },
            ],
            steps: vec![Change::SetPassword { account: account.id, hash, rehash: true }],
            ..Changes::default()
        };
        if let Err(error) = self.store().commit(changes).await {
            tracing::debug!(%error, account = %account.id, "a password's hash was not upgraded; the next sign-in does it");
        }
    }

    /// Exchanges a refresh token.
    pub async fn refresh(&self, token: &SecretString, how: How) -> Result<Tokens, AppError> {
        let issued = self.counted_refresh(token, how, Less::default()).await?;
        self.tokens(issued, None, None)
    }

    /// A refresh, by whichever client. `asked`: what of the grant the access token is to have.
    pub(crate) async fn counted_refresh(
        &self,
        token: &SecretString,
        how: How,
        asked: Less<'_>,
    ) -> Result<Issued, AppError> {
        let result = self.try_refresh(token, how, asked).await;
        let counts = self.counts();
        match &result {
            Ok(_) => counts.refreshes.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                if error.code() == Code::RefreshReused {
                    counts.thefts.fetch_add(1, Ordering::Relaxed);
                }
                counts.refreshes_refused.fetch_add(1, Ordering::Relaxed)
            }
        };
        result
    }

    /// A refresh that was held up (a paused server, a slow disk) is refused with 503 instead of acting late: what it would
    /// decide on may be about a client that has long repeated itself, and a late hand-out would look like theft (I6).
    async fn try_refresh(&self, token: &SecretString, how: How, asked: Less<'_>) -> Result<Issued, AppError> {
        let latest = real::mono().plus((self.settings().rules.retry_window / 2).max(1000));
        let in_time = || if real::mono() < latest { Ok(()) } else { Err(AppError::Overloaded) };
        let invalid = || AppError::from(Refused::RefreshInvalid);
        let presented = Presented::parse(token).ok_or_else(invalid)?;
        let Some(key) = self.mac_key(&presented).await? else {
            if presented.epoch() < self.hub().at().0 {
                return Err(Refused::RefreshExpired.into()); // its key went with its epoch, and so would it
            }
            return Err(invalid()); // no key of ours, and the list was read just now
        };
        let (key, keys) = (&key, self.keys());
        if !presented.is_ours(key) {
            return Err(invalid());
        }
        self.ensure_horizon().await?;
        let load = || async {
            in_time()?;
            let view = self.store().load_refresh(presented.grant()).await.map_err(|e| self.fault(e.into()))?;
            in_time()?; // the load may have waited
            // The MAC is ours and the row is not there: its session ended long ago and was forgotten. It may also be that the
            // database is older than the token, so this clears no cookie.
            let view = view.ok_or(Refused::RefreshForgotten)?;
            let mut how = how.clone();
            let look = match self.tells(&view, &presented, &how, key) {
                None => None,
                Some(mut seen) => {
                    let who = Who {
                        account: view.account.id,
                        newcomer: None,
                        ip: how.ip,
                        own: !how.proven,
                        user_agent: how.user_agent.as_deref(),
                        made: Some(risk::made(&view.session, Some(&view.grant))),
                        counted: None,
                    };
                    // Few are looked at: what it takes is not part of every refresh.
                    let look = Box::pin(self.look(&who)).await?.map(Box::new);
                    in_time()?;
                    // What is too late to be anybody's is asked about where it comes from (decision 0055).
                    how.at_home =
                        seen == RefreshSeen::Theft && look.as_ref().is_some_and(|look| look.is_at_home(&view));
                    if how.at_home {
                        seen = self.tells(&view, &presented, &how, key).unwrap_or(seen);
                    }
                    look.map(|look| (look, seen))
                }
            };
            Ok((view, how, look))
        };
        let verdicts = Verdicts::default();
        let rules = &self.settings().rules;
        let acted = self
            .act("", None, load, |(view, how, look), chance| {
                verdicts.anew();
                let narrowed = match narrowed(&view.grant.scope, asked.scope) {
                    Ok(narrowed) => narrowed,
                    Err(refused) => return Decision::refuse(refused),
                };
                let mut decision = refresh(view, &presented, how, rules, key, keys.mac(), chance);
                if let Ok(issued) = &mut decision.outcome {
                    if let Err(refused) = narrow_audience(&mut issued.claims, asked.resources) {
                        return Decision::refuse(refused);
                    }
                    issued.claims.scope = narrowed.unwrap_or_else(|| std::mem::take(&mut issued.claims.scope));
                    // A grant that is bound to no key still gives tokens that are, to who shows one (RFC 9449 §5).
                    issued.claims.cnf = issued.claims.cnf.take().or(how.sender.map(Confirmation::of));
                }
                if let Some((look, seen)) = look {
                    let at = At::Session(view.session.id, Some(view.grant.id));
                    let act = Act::Refresh(*seen);
                    decision = look.judge(self, decision, &view.stamp, &view.account, at, act, &verdicts, chance);
                    if let Ok(issued) = &mut decision.outcome {
                        risk::without_proof(issued, &decision.changes);
                    }
                }
                decision
            })
            .await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        if let Err(AppError::Refused(Refused::Unavailable { detail })) = &acted {
            tracing::error!(%detail, grant = %presented.grant(), "refresh refused for now");
            self.refresh_ahead(&presented).await?;
        }
        let acted = acted?;
        in_time()?; // it is committed; the client repeats and gets the same successor
        match acted {
            Acted::Done(issued, _) | Acted::Answered(issued) => Ok(issued),
            Acted::Before(_) => Err(AppError::Fault("a refresh has no repeat key".into())),
        }
    }

    /// A refresh token of ours that is ahead of its row proves that the database is older than it was.
    async fn refresh_ahead(&self, presented: &Presented) -> Result<(), AppError> {
        let view = self.store().load_refresh(presented.grant()).await.map_err(|e| self.fault(e.into()))?;
        if let Some(view) = view
            && presented.epoch() == view.stamp.epoch
            && presented.counter() > view.grant.family.counter
        {
            let (grant, shown, row) = (presented.grant(), presented.counter(), view.grant.family.counter);
            let what = format!("a refresh token of {grant} has the number {shown}, its row {row}");
            self.hub().prove(crate::high_water::Proof::by_other_means(what, &view.stamp));
        }
        Ok(())
    }

    fn tokens(
        &self,
        issued: Issued,
        page_cookie: Option<SecretString>,
        device: Option<SecretString>,
    ) -> Result<Tokens, AppError> {
        let keys = self.keys();
        if !self.may_sign(&keys) {
            return Err(AppError::Overloaded); // a key was revoked this very moment; the client repeats
        }
        let access_token =
            keys.sign(&issued.claims).map_err(|error| self.fault(AppError::Fault(error.to_string().into())))?;
        Ok(Tokens {
            session: issued.session,
            account: issued.account,
            access_token,
            expires_in: issued.claims.exp - issued.claims.iat,
            scope: issued.claims.scope,
            refresh_token: issued.refresh,
            page_cookie,
            device,
            current: issued.current,
        })
    }

    /// Whether the refresh token of `tokens` is still the current one: a cookie is set only then, so that a late response
    /// does not put an older token over a newer one.
    pub async fn is_current(&self, tokens: &Tokens) -> bool {
        let (grant, counter) = tokens.current;
        matches!(self.store().load_refresh(grant).await, Ok(Some(view)) if view.grant.family.counter == counter)
    }

    /// The living sessions of the caller's account, newest first.
    pub async fn my_sessions(&self, caller: &Caller) -> Result<Vec<SessionView>, AppError> {
        self.live_sessions(caller.view.account.id).await
    }

    pub(crate) async fn live_sessions(&self, account: AccountId) -> Result<Vec<SessionView>, AppError> {
        const MAX_LISTED: u32 = 1000;
        let rows = self.store().list_sessions(account, MAX_LISTED).await.map_err(|e| self.fault(e.into()))?;
        let idle_ttl = self.settings().rules.idle_ttl;
        Ok(rows.into_iter().filter(|view| view.dead(idle_ttl).is_none()).collect())
    }

    /// Gives one of the caller's living sessions another name; 404 for another's, and for one that has ended.
    pub async fn rename_mine(&self, caller: &Caller, session: SessionId, name: &str) -> Result<SessionView, AppError> {
        let detail = "must have a visible character; what is longer than 80 is cut off".to_owned();
        let device_name = device::clean_name(name).ok_or(Refused::InvalidValue { field: "device_name", detail })?;
        let load = || async {
            let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
            let idle_ttl = self.settings().rules.idle_ttl;
            let mine = |view: &SessionView| view.account.id == caller.view.account.id && view.dead(idle_ttl).is_none();
            view.filter(mine).ok_or_else(|| Refused::NotFound.into())
        };
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        self.act("", None, load, |_: &SessionView, _| Decision {
            outcome: Ok(()),
            changes: Changes {
                expects: by.expects().into_iter().chain([Expect::SessionNotEnded(session)]).collect(),
                steps: vec![Change::RenameSession { session, device_name: device_name.clone() }],
                ..Changes::default()
            },
        })
        .await?;
        load().await
    }

    /// Ends one of the caller's sessions; 404 for another's. Repeated: the old rev, and nothing ended.
    pub async fn end_mine(
        &self,
        caller: &Caller,
        session: SessionId,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let door = if session == caller.view.session.id { Door::SignOut } else { Door::EndOne };
        // A session that signs itself out needs no other proof of life; a dead one may not end others.
        let actor = caller.actor();
        let by = By { actor, role: None, ip: caller.ip, reason: None };
        let by = if door == Door::SignOut { By { actor: Actor::System, ..by } } else { by };
        let repeat = repeat.map(|repeat| repeat.about(session));
        self.end_session(door, session, Some(caller.view.account.id), &by, &actor.text(), repeat.as_ref()).await
    }

    /// What a repeated revoking call came to the first time, when the end that it asked for has killed the caller's own
    /// session since: the lost answer of an "end all" is asked for with a dead token. `None` when it was never done.
    pub async fn ended_before(&self, token: Option<&str>, repeat: &RepeatKey) -> Result<Option<Revoked>, AppError> {
        let caller = self.caller_dead_or_alive(token, None).await?;
        let actor = caller.actor().text();
        let before = match self.remembered(&actor, repeat).await {
            // Not as it stands; then perhaps as a call about the caller's own session.
            Err(AppError::Refused(Refused::InvalidValue { .. })) => {
                self.remembered(&actor, &repeat.about(caller.view.session.id)).await?
            }
            before => before?,
        };
        before.map(|before| Revoked::remembered(&before)).transpose()
    }

    pub(crate) async fn end_session(
        &self,
        door: Door,
        session: SessionId,
        owner: Option<AccountId>,
        by: &By<'_>,
        actor: &str,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let load = || async {
            let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
            let view = view.filter(|view| owner.is_none_or(|owner| view.account.id == owner));
            view.ok_or_else(|| Refused::NotFound.into())
        };
        let acted = self
            .act(actor, repeat, load, |view: &SessionView, chance| {
                // By the rows alone: an idle session is still there to be ended.
                match view.dead(i64::MAX) {
                    Some(Dead::Ended { rev, .. } | Dead::Cut { rev, .. }) => {
                        Decision::answer(Some((rev, view.stamp.now)))
                    }
                    _ => {
                        let scope = Scope::Session { account: view.account.id, session };
                        let mut changes = kernel::end(door, scope, None, by, chance);
                        if matches!(door, Door::SignOut | Door::RpLogout) {
                            for event in &mut changes.events {
                                event.actor = actor.to_owned();
                            }
                        }
                        Decision { outcome: Ok(None), changes }
                    }
                }
            })
            .await?;
        match acted {
            Acted::Done(_, committed) => Revoked::of(committed),
            Acted::Answered(Some((rev, at))) => Ok(Revoked { rev, ended: Some(0), at }),
            Acted::Answered(None) => Err(AppError::Fault("an end without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }

    /// Ends all sessions of the caller's account, or all but the one that calls.
    pub async fn end_all_mine(
        &self,
        caller: &Caller,
        except_current: bool,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let door = if except_current { Door::EndOthers } else { Door::EndAll };
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let except = except_current.then_some(caller.view.session.id);
        let repeat = match except {
            Some(session) => repeat.map(|repeat| repeat.about(session)),
            None => repeat.cloned(),
        };
        self.end_scope(door, Scope::Account(caller.view.account.id), except, &by, repeat.as_ref()).await
    }

    /// Ends an account, a client or everything; always a new cut, for something may be in flight.
    pub(crate) async fn end_scope(
        &self,
        door: Door,
        scope: Scope,
        except: Option<SessionId>,
        by: &By<'_>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let acted = self
            .act(
                &by.actor.text(),
                repeat,
                || async { Ok(()) },
                |(), chance| Decision { outcome: Ok(()), changes: kernel::end(door, scope, except, by, chance) },
            )
            .await?;
        match acted {
            Acted::Done((), committed) => Revoked::of(committed),
            Acted::Answered(()) => Err(AppError::Fault("an end without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }
}

pub(crate) fn pool_error(error: PoolError) -> AppError {
    match error {
        PoolError::Overloaded => AppError::Overloaded,
        PoolError::Failed => AppError::Fault("the password pool failed".into()),
    }
}

//! The token endpoint, userinfo, introspection and revocation.
use super::{Known, as_grant_error, refuse};
use crate::{Acted, App, AppError};
use portcullis_domain::authorize::{CodeBody, is_offline};
use portcullis_domain::code::{Granted, Redeem, redeem};
use portcullis_domain::event::EventKind;
use portcullis_domain::family::{MacKey, Presented};
use portcullis_domain::id_token::{self, IdClaims, UserInfo};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::refresh::{How, is_dead_at};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::sign_in::Issued;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{GrantView, RefreshView, Stamp, TicketView};
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_store::Peeked;
use portcullis_verify::{Authentic, Holder};
use portcullis_wire::{AccessClaims, ClientId, Code, Digest, GrantId, SecretString};
use std::net::IpAddr;
use std::sync::Arc;

/// What the token endpoint answers (RFC 6749 §5.1).
#[derive(Debug)]
pub struct OAuthTokens {
    /// The signed access token.
    pub access_token: SecretString,
    /// `Bearer`, or `DPoP` when it is bound to a key (RFC 9449 §5).
    pub token_type: &'static str,
    /// Seconds that it lives.
    pub expires_in: i64,
    /// Its scopes.
    pub scope: String,
    /// The refresh token, when the client gets one.
    pub refresh_token: Option<SecretString>,
    /// The ID token, when the scope `openid` is there.
    pub id_token: Option<SecretString>,
}

/// What userinfo tells, as the client wants it.
#[derive(Debug)]
pub enum ToldUser {
    /// In JSON.
    Plain(UserInfo),
    /// As a JWT.
    Signed(SecretString),
}

/// An access token that lives, with the rows behind it.
#[derive(Debug)]
pub struct Bearer {
    /// The token.
    pub token: Arc<Authentic>,
    /// Its grant with everything above it.
    pub view: Arc<RefreshView>,
}

impl Bearer {
    /// What it says.
    pub fn claims(&self) -> &AccessClaims {
        self.token.claims()
    }
}

impl App {
    /// Redeems an authorization code.
    ///
    /// # Errors
    /// `invalid_grant` and what else RFC 6749 §5.2 names; faults.
    pub async fn redeem_code(
        &self,
        known: &Known,
        code: &SecretString,
        presented: &Redeem,
        resources: &[String],
    ) -> Result<OAuthTokens, AppError> {
        self.ensure_horizon().await?;
        self.ensure_may_sign_ids(&known.client.profile).await?;
        let id = ticket::id(TicketKind::Code, code.expose());
        let load = || async {
            let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
            let view: TicketView =
                view.ok_or_else(|| refuse(OAuthError::InvalidGrant, "there is no such code (any more)"))?;
            let given = match view.ticket.used.and_then(|used| used.grant) {
                None => None,
                Some(grant) => {
                    let above = self.store().load_refresh(grant).await.map_err(|e| self.fault(e.into()))?;
                    above.filter(|above| !portcullis_domain::refresh::is_dead(above, &self.settings().rules))
                }
            };
            let given = given.map(|above| above.session);
            let others = self.others_beside(&view).await?;
            Ok((view, given, others))
        };
        let (keys, rules) = (self.keys(), &self.settings().rules);
        let lasts = |ticket: &Ticket| ticket.read::<CodeBody>().is_some_and(|body| is_offline(&body.scope));
        let notice = self.may_tell_of_app(id, lasts).await?;
        let acted = self
            .act_on_ticket("", None, load, |(view, given, others), chance| {
                let mut decision = redeem(view, given.as_ref(), others, presented, rules, keys.mac(), chance);
                if let Ok(granted) = &mut decision.outcome
                    && let Err(refused) = narrow_audience(&mut granted.issued.claims, resources)
                {
                    return Decision::refuse(refused); // and the code is as it was
                }
                tell_of_app(&mut decision, &view.stamp, notice.as_ref(), chance);
                decision
            })
            .await;
        if notice.is_some() {
            self.mail_waits();
        }
        match acted.map_err(as_grant_error)? {
            Acted::Done(granted, _) | Acted::Answered(granted) => self.oauth_tokens(known, granted),
            Acted::Before(_) => Err(AppError::Fault("a code has no repeat key".into())),
        }
    }

    /// The key by which the owner of a code's account is told that an application keeps its access, if that is what the code is for;
    /// `None` when it had that already.
    pub(super) async fn may_tell_of_app(
        &self,
        code: Digest,
        lasts: impl Fn(&Ticket) -> bool,
    ) -> Result<Option<MacKey>, AppError> {
        if self.mailer().is_none() {
            return Ok(None);
        }
        let view = self.store().load_ticket(code).await.map_err(|e| self.fault(e.into()))?;
        let open = |view: &TicketView| view.ticket.is_open(view.stamp.epoch, view.stamp.now) && lasts(&view.ticket);
        let Some(view) = view.filter(open) else { return Ok(None) };
        let Some(account) = view.ticket.account else { return Ok(None) };
        let others = self.others_beside(&view).await?;
        if others.iter().any(|one| one.session.client == view.ticket.client) {
            return Ok(None);
        }
        self.may_mail(Template::AppConnected, account).await
    }

    /// What else the client of a ticket holds of its account.
    pub(super) async fn others_beside(&self, view: &TicketView) -> Result<Vec<GrantView>, AppError> {
        let (Some(account), Some(client)) = (view.ticket.account, view.ticket.client) else { return Ok(vec![]) };
        let listed = self.store().list_grants(account, Some(client), super::grants::MAX_GRANTS).await;
        listed.map_err(|e| self.fault(e.into()))
    }

    /// Exchanges a refresh token of a client other than the built-in one. It may ask for less (RFC 6749 §6, RFC 8707 §2.2).
    ///
    /// # Errors
    /// `invalid_grant`, `invalid_scope`; faults.
    pub async fn refresh_for(
        &self,
        known: &Known,
        token: &SecretString,
        asked: Less<'_>,
        how: How,
    ) -> Result<OAuthTokens, AppError> {
        self.ensure_may_sign_ids(&known.client.profile).await?;
        let mut issued = self.counted_refresh(token, how, asked).await.map_err(as_grant_error)?;
        self.still_may(known, &mut issued.claims)?;
        let openid = issued.claims.has_scope(portcullis_domain::client::OPENID);
        let id = openid.then(|| id_token::claims(&issued.claims, &issued.account, None));
        let with_refresh = known.client.profile.has(portcullis_domain::client::GrantType::RefreshToken);
        self.oauth_tokens(known, Granted { issued, id, with_refresh })
    }

    /// Nothing goes into a token that its client has lost since it was granted.
    fn still_may(&self, known: &Known, claims: &mut AccessClaims) -> Result<(), AppError> {
        Ok(known.client.profile.still_may(claims, &self.settings().rules.audience)?)
    }

    pub(super) fn oauth_tokens(&self, known: &Known, granted: Granted) -> Result<OAuthTokens, AppError> {
        let Granted { issued: Issued { mut claims, refresh, .. }, id, with_refresh } = granted;
        self.still_may(known, &mut claims)?;
        let id = id.filter(|_| claims.has_scope(portcullis_domain::client::OPENID));
        let keys = self.keys();
        if !self.may_sign(&keys) {
            return Err(AppError::Overloaded); // a key was revoked this very moment; the client repeats
        }
        let fault = |error: crate::keys::KeyError| self.fault(AppError::Fault(error.to_string().into()));
        let access_token = keys.sign(&claims).map_err(fault)?;
        let id_token = match id {
            None => None,
            Some(id) => {
                let sub = self.name_at(&known.client, claims.sub)?;
                let at_hash = |algorithm| Some(id_token::at_hash(access_token.expose(), algorithm));
                let purpose = known.client.profile.id_keys(keys.id_algorithm());
                let signed =
                    keys.sign_id_token(purpose, |algorithm| IdClaims { at_hash: at_hash(algorithm), sub, ..id });
                Some(signed.map_err(fault)?)
            }
        };
        Ok(OAuthTokens {
            token_type: if claims.cnf.is_some() { "DPoP" } else { "Bearer" },
            expires_in: claims.exp - claims.iat,
            scope: claims.scope,
            refresh_token: with_refresh.then_some(refresh),
            access_token,
            id_token,
        })
    }

    /// The token of an application, if it lives by its grant's rows and by the log, and may be shown as it is shown. The rows are those
    /// to write by.
    ///
    /// # Errors
    /// [`AppError::Unauthenticated`]; faults.
    pub async fn bearer(&self, token: Option<&str>, holder: &Holder) -> Result<Bearer, AppError> {
        let (token, grant) = self.granted(token).await?;
        let rows = self.rows_of(grant).await?;
        self.lives(token, rows, holder).await
    }

    /// The same for whoever looks and writes nothing: the rows may be behind of when they were used.
    ///
    /// # Errors
    /// As [`App::bearer`].
    pub(crate) async fn bearer_seen(&self, token: Option<&str>, holder: &Holder) -> Result<Bearer, AppError> {
        let (token, grant) = self.granted(token).await?;
        let peeked = self.store().peek_refresh(grant).await.map_err(|e| self.fault(e.into()))?.ok_or_else(gone)?;
        let seems_dead = is_dead_at(&peeked.view, peeked.now, &self.settings().rules);
        let rows = if seems_dead { self.rows_of(grant).await? } else { peeked };
        self.lives(token, rows, holder).await
    }

    /// A token of ours, and the grant that it comes of.
    async fn granted(&self, token: Option<&str>) -> Result<(Arc<Authentic>, GrantId), AppError> {
        let token = self.authentic(token)?;
        self.not_ahead(token.claims()).await?;
        let grant = token.claims().gid.ok_or_else(gone)?;
        Ok((token, grant))
    }

    /// The grant with everything above it, as the database has it now.
    async fn rows_of(&self, grant: GrantId) -> Result<Peeked, AppError> {
        let view = self.store().load_refresh(grant).await.map_err(|e| self.fault(e.into()))?.ok_or_else(gone)?;
        Ok(Peeked::now(view))
    }

    /// The token, if it lives by these rows and by the log.
    async fn lives(
        &self,
        token: Arc<Authentic>,
        Peeked { view, now, head }: Peeked,
        holder: &Holder,
    ) -> Result<Bearer, AppError> {
        let claims = token.claims();
        if view.account.id != claims.sub || view.session.id != claims.sid || view.grant.client != claims.origin() {
            return Err(AppError::Unauthenticated(Code::TokenMalformed));
        }
        if is_dead_at(&view, now, &self.settings().rules) || !self.hands_are_clean(claims).await? {
            return Err(gone());
        }
        // An access token that was revoked by itself has no row that says so: the log does.
        self.hub().caught_up(view.stamp.epoch, head).await.map_err(|error| self.fault(error))?;
        match self.hub().judge_for_any(&token, holder) {
            Ok(()) => Ok(Bearer { token, view }),
            Err(Code::NotFresh) => Err(self.fault(AppError::Fault("this node's view of the log is too old".into()))),
            Err(code) => Err(AppError::Unauthenticated(code)),
        }
    }

    /// What userinfo tells the holder of this token (OpenID Connect Core §5.3), beginning with the name that its client knows, as in
    /// its ID tokens (§5.3.2). It is a resource like others: a token that was made for
    /// another one alone is refused, or whoever runs that one could ask here with it (RFC 9068 §4, RFC 9700 §4.10.2).
    ///
    /// # Errors
    /// [`AppError::Unauthenticated`]; 403 without the scope `openid`; overloaded, until the key of the client's algorithm may sign; faults.
    pub async fn userinfo(&self, token: Option<&str>, holder: &Holder) -> Result<ToldUser, AppError> {
        let bearer = self.bearer_seen(token, holder).await?;
        if !bearer.claims().aud.contains(&self.settings().rules.audience) {
            return Err(AppError::Unauthenticated(Code::TokenMalformed));
        }
        if !bearer.claims().has_scope(portcullis_domain::client::OPENID) {
            let detail = "userinfo takes a token with the scope openid".into();
            return Err(AppError::NeedsScope { scope: portcullis_domain::client::OPENID, detail });
        }
        let account = &bearer.view.account;
        let client = self.store().peek_client(bearer.claims().client_id).await.map_err(|e| self.fault(e.into()))?;
        let client = client.ok_or_else(gone)?;
        let (sub, about) = (self.name_at(&client, account.id)?, id_token::about(account, &bearer.claims().scope));
        if client.profile.userinfo_signed_response_alg.is_none() {
            return Ok(ToldUser::Plain(UserInfo { iss: None, aud: None, sub, about }));
        }
        let (iss, aud) = (Some(self.settings().rules.issuer.clone()), Some(client.id.to_string()));
        self.ensure_may_sign_by(client.profile.userinfo_keys(self.keys().id_algorithm())).await?;
        let keys = self.keys();
        if !self.may_sign(&keys) {
            return Err(AppError::Overloaded); // as for tokens
        }
        let purpose = client.profile.userinfo_keys(keys.id_algorithm());
        let signed = keys.sign_userinfo(purpose, &UserInfo { iss, aud, sub, about });
        signed.map(ToldUser::Signed).map_err(|error| self.fault(AppError::Fault(error.to_string().into())))
    }

    /// Revokes a token for the client that holds it (RFC 7009): a refresh token ends its grant, and the session when that is
    /// the application's own; an access token ends itself, at every verifier. What is not this client's, or is dead
    /// already, changes nothing, and is no error (§2.2). An access token that is bound to a key of a public client is given up with a
    /// proof of that key (`sender`): it is shown to services, and whoever finds it in the log of one could take it away. A refresh
    /// token is shown to nobody but us, and clients' libraries revoke it without a proof.
    ///
    /// # Errors
    /// `invalid_dpop_proof`; faults.
    pub async fn revoke_token(
        &self,
        known: &Known,
        sender: Option<Digest>,
        token: &SecretString,
        ip: Option<IpAddr>,
    ) -> Result<(), AppError> {
        let client = known.client.id;
        if let Some(presented) = Presented::parse(token) {
            if !self.mac_key(&presented).await?.is_some_and(|key| presented.is_ours(&key)) {
                return Ok(());
            }
            return self.revoke_grant(client, &presented, ip).await;
        }
        let holds = |key: Option<Digest>| known.proven || key.is_none() || key == sender;
        match self.authentic(Some(token.expose())) {
            Ok(token) => self.revoke_access_token(client, &token, holds, ip).await,
            Err(AppError::Unauthenticated(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn revoke_grant(&self, client: ClientId, presented: &Presented, ip: Option<IpAddr>) -> Result<(), AppError> {
        let load = || async { self.store().load_refresh(presented.grant()).await.map_err(|e| self.fault(e.into())) };
        let by = By { ip, ..By::SYSTEM };
        let decide = |view: &Option<RefreshView>, chance: &mut dyn portcullis_domain::Chance| {
            let mine = |view: &&RefreshView| {
                let derived = self
                    .keys()
                    .mac_by_id(presented.key())
                    .is_some_and(|key| presented.is_derived(key, &view.grant.family.secret));
                view.grant.client == client && derived && view.grant.ended.is_none() && view.session.ended.is_none()
            };
            let Some(view) = view.as_ref().filter(mine) else { return Decision::answer(()) };
            let (account, session, grant) = (view.account.id, view.session.id, view.grant.id);
            let scope = if view.session.client == Some(client) {
                Scope::Session { account, session }
            } else {
                Scope::Grant { account, session, grant }
            };
            Decision { outcome: Ok(()), changes: kernel::end(Door::TokenRevoked, scope, None, &by, chance) }
        };
        self.act("", None, load, decide).await.map(|_| ())
    }

    async fn revoke_access_token(
        &self,
        client: ClientId,
        token: &Authentic,
        holds: impl Fn(Option<Digest>) -> bool,
        ip: Option<IpAddr>,
    ) -> Result<(), AppError> {
        let claims = token.claims();
        // What does not live needs no entry: nobody fills the log with dead tokens. A node that does not know says nothing false,
        // and writes one.
        let dead = self.hub().judge_for_any(token, &Holder::AskedAbout).is_err_and(|code| code != Code::NotFresh);
        if claims.client_id != client || dead {
            return Ok(());
        }
        // A key that does not read fits nobody.
        let key =
            claims.cnf.as_ref().map(|bound| Digest(portcullis_wire::b64::decode_array(&bound.jkt).unwrap_or_default()));
        if !holds(key) {
            return Err(not_its_holder().into());
        }
        let by = By { ip, ..By::SYSTEM };
        let scope = Scope::Token { account: claims.sub, session: claims.sid, token: claims.jti };
        let decide = |(): &(), chance: &mut dyn portcullis_domain::Chance| Decision {
            outcome: Ok(()),
            changes: kernel::end(Door::TokenRevoked, scope, None, &by, chance),
        };
        self.act("", None, || async { Ok(()) }, decide).await.map(|_| ())
    }
}

fn gone() -> AppError {
    AppError::Unauthenticated(Code::TokenRevoked)
}

fn not_its_holder() -> Refused {
    let detail = "this token is bound to a key: send a proof of it in the DPoP header".into();
    Refused::OAuth { error: OAuthError::InvalidDpopProof, detail }
}

/// What of a grant an access token is to have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Less<'a> {
    /// These scopes; `None`: all.
    pub scope: Option<&'a str>,
    /// For these resources; none: for all.
    pub resources: &'a [String],
}

/// An access token may be for some of the resources that were granted, and for no others (RFC 8707 §2.2).
pub(crate) fn narrow_audience(claims: &mut AccessClaims, resources: &[String]) -> Result<(), Refused> {
    if resources.is_empty() {
        return Ok(());
    }
    if resources.iter().any(|resource| !claims.aud.contains(resource)) {
        let detail = "a token may be for resources that were granted, and no others".into();
        return Err(Refused::OAuth { error: OAuthError::InvalidTarget, detail });
    }
    claims.aud.0.retain(|name| resources.contains(name));
    Ok(())
}

/// A refresh may ask for less than was granted, never for more (RFC 6749 §6).
pub(crate) fn narrowed(granted: &str, asked: Option<&str>) -> Result<Option<String>, Refused> {
    let Some(asked) = asked else { return Ok(None) };
    let words: Vec<&str> = asked.split(' ').filter(|word| !word.is_empty()).collect();
    if words.is_empty() || words.iter().any(|word| !granted.split(' ').any(|known| known == *word)) {
        let detail = "a refresh may ask for scopes that were granted, and no others".into();
        return Err(Refused::OAuth { error: OAuthError::InvalidScope, detail });
    }
    Ok(Some(words.join(" ")))
}

/// Where an application was given access that lasts, its user is told by a mail.
pub(super) fn tell_of_app(
    decision: &mut Decision<Granted>,
    stamp: &Stamp,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) {
    let (Ok(granted), Some(key)) = (&decision.outcome, notice) else { return };
    if decision.changes.events.iter().any(|event| event.kind == EventKind::AppConnected) {
        let Issued { session, account, .. } = &granted.issued;
        let letter = Letter::of(Template::AppConnected, account).about(session.id);
        decision.changes.steps.extend(mail::write(letter, stamp, key, chance));
    }
}

//! API keys, by `domain::api_key`: making them, listing them, and the tokens that they are exchanged for.
use crate::risk::Verdicts;
use crate::{Acted, App, AppError, Caller, RepeatKey};
use portcullis_domain::api_key::{self, Wanted};
use portcullis_domain::changes::Idempotency;
use portcullis_domain::model::{Session, SessionKind};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::{Refused, session_limit};
use portcullis_wire::{ClientId, Code, SecretString, SessionId, Time};

/// The most grants that are looked through for the scopes of keys.
const MAX_GRANTS: u32 = 1000;

/// A key as its owner sees it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its session.
    pub session: Session,
    /// Its scopes, separated by spaces.
    pub scope: String,
    /// When a token was last asked for with it.
    pub last_used_at: Option<Time>,
    /// The key itself, when it was just made.
    pub key: Option<SecretString>,
}

/// A token that a key was exchanged for.
#[derive(Debug)]
pub struct KeyToken {
    /// The signed access token.
    pub access_token: SecretString,
    /// Seconds that it lives.
    pub expires_in: i64,
    /// Its scopes.
    pub scope: String,
}

impl App {
    /// Makes a key for the caller. A repeated call gives the key's row without the key itself.
    ///
    /// # Errors
    /// 401 `step_up_required`, or what a rule about suspicious activity says; 422 naming the member; 409 when there are too many.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        wanted: &Wanted,
        repeat: Option<&RepeatKey>,
    ) -> Result<ApiKey, AppError> {
        let (settings, keys, actor) = (self.settings(), self.keys(), caller.actor().text());
        let load = || async {
            let listed = self.store().list_sessions(caller.view.account.id, session_limit::MAX_LOOKED_AT).await;
            let mut live = listed.map_err(|e| self.fault(e.into()))?;
            live.retain(|view| view.dead(settings.rules.idle_ttl).is_none());
            Ok((live, self.look_at(caller, None).await?))
        };
        let verdicts = Verdicts::default();
        let acted = self
            .act(&actor, repeat, load, |(live, look), chance| {
                verdicts.anew();
                let (allowed, max_age) = (&settings.clients.api_key_scopes, settings.policy.step_up_max_age);
                let view = &caller.view;
                let mut decision =
                    api_key::create(view, live, wanted, allowed, max_age, &settings.rules, keys.mac(), chance);
                if let (Ok(made), Some(repeat)) = (&decision.outcome, repeat) {
                    let made = Some(made.session.id.to_string());
                    decision.changes.idempotency = Some(Idempotency { made, ..self.remember(&actor, repeat) });
                }
                let Some(look) = look.as_ref().filter(|_| decision.outcome.is_ok()) else { return decision };
                let (at, act) = (At::Session(view.session.id, None), Act::Change(What::Key));
                look.judge(self, decision, &view.stamp, &view.account, at, act, &verdicts, chance)
            })
            .await;
        if matches!(acted, Ok(Acted::Done(..)) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        match acted? {
            Acted::Done(made, _) | Acted::Answered(made) => {
                let api_key::Made { session, scope, key } = made;
                Ok(ApiKey { session, scope, last_used_at: None, key: Some(key) })
            }
            Acted::Before(before) => {
                let id: SessionId = before.made.and_then(|id| id.parse().ok()).ok_or(Refused::NotFound)?;
                let own = self.my_api_keys(caller).await?.into_iter().find(|key| key.session.id == id);
                own.ok_or_else(|| Refused::NotFound.into())
            }
        }
    }

    /// The caller's living keys, newest first.
    pub async fn my_api_keys(&self, caller: &Caller) -> Result<Vec<ApiKey>, AppError> {
        let account = caller.view.account.id;
        let mut views = self.live_sessions(account).await?;
        views.retain(|view| view.session.kind == SessionKind::ApiKey);
        if views.is_empty() {
            return Ok(vec![]);
        }
        let grants = self.store().list_grants(account, Some(ClientId::FIRST_PARTY), MAX_GRANTS).await;
        let grants = grants.map_err(|e| self.fault(e.into()))?;
        let mut keys: Vec<ApiKey> = Vec::new();
        for view in views {
            let grant = grants.iter().find(|grant| grant.session.id == view.session.id).map(|grant| &grant.grant);
            let last_used_at = grant.filter(|grant| grant.family.handouts > 0).map(|grant| grant.family.handed_at);
            let scope = grant.map(|grant| grant.scope.clone()).unwrap_or_default();
            keys.push(ApiKey { session: view.session, scope, last_used_at, key: None });
        }
        keys.sort_by_key(|key| std::cmp::Reverse((key.session.created_at, key.session.id)));
        Ok(keys)
    }

    /// An access token for a key.
    ///
    /// # Errors
    /// [`AppError::Unauthenticated`]: no key, an unknown or wrong one, one that has expired or was ended; faults.
    pub async fn api_key_token(&self, key: Option<&str>) -> Result<KeyToken, AppError> {
        let key = key.ok_or(AppError::Unauthenticated(Code::TokenMissing))?;
        let unknown = || AppError::Unauthenticated(Code::TokenMalformed);
        let (grant, secret) = api_key::parse(key).ok_or_else(unknown)?;
        self.ensure_horizon().await?;
        let load = || async {
            let view = self.store().load_refresh(grant).await.map_err(|e| self.fault(e.into()))?.ok_or_else(unknown)?;
            let (rules, chance) = (&self.settings().rules, &mut crate::real::RealChance);
            api_key::token(&view, secret, rules, chance).map_err(AppError::Unauthenticated)
        };
        let acted = self.act("", None, load, |decided, _| decided.clone()).await?;
        let claims = match acted {
            Acted::Done(claims, _) | Acted::Answered(claims) => claims,
            Acted::Before(_) => return Err(AppError::Fault("a token has no repeat key".into())),
        };
        let token = self.access_only(claims)?;
        Ok(KeyToken { access_token: token.access_token, expires_in: token.expires_in, scope: token.scope })
    }
}

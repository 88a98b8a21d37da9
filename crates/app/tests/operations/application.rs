//! An application that gets codes and tokens, without HTTP.
use crate::world::bearer;
use portcullis_app::oauth::{Known, Less, OAuthTokens, Proof};
use portcullis_app::{Admin, App, AppError, Caller};
use portcullis_domain::authorize::Asked;
use portcullis_domain::client::{OFFLINE, OPENID, Profile};
use portcullis_domain::code::Redeem;
use portcullis_domain::model::{Client, ClientKind};
use portcullis_domain::refresh::How;
use portcullis_wire::{Digest, SecretString, b64};

pub const REDIRECT: &str = "https://app.example.org/cb";
const VERIFIER: &str = "a-code-verifier-that-is-long-enough-for-rfc7636";

/// A registered application.
pub struct Application {
    pub client: Client,
    secret: SecretString,
}

impl Application {
    pub async fn register(app: &App, name: &str) -> Self {
        let profile = Profile {
            redirect_uris: vec![REDIRECT.into()],
            scopes: vec![OPENID.into(), OFFLINE.into(), "read".into()],
            ..Profile::default()
        };
        let (admin, kind) = (Admin::operator(), ClientKind::Confidential);
        let made = app.admin_register_client(&admin, name, kind, profile, None).await.unwrap();
        Self { client: made.client, secret: made.secret.unwrap() }
    }

    /// A code for this scope, which the caller allows.
    pub async fn code(&self, app: &App, caller: &Caller, scope: &str) -> Result<SecretString, AppError> {
        // As its row stands now: a request is checked against that.
        let row = app.store().load_client(self.client.id).await?.unwrap().client;
        let asked = Asked { version: row.version, ..asked(scope) };
        app.grant_code(caller, self.client.id, &asked, true, None).await
    }

    pub async fn redeem(&self, app: &App, code: &SecretString) -> Result<OAuthTokens, AppError> {
        app.redeem_code(&self.itself(), code, &self.presented(), &[]).await
    }

    /// As who it is once that was proven.
    pub fn itself(&self) -> Known {
        Known { client: self.client.clone().into(), proven: true }
    }

    pub async fn granted(&self, app: &App, caller: &Caller, scope: &str) -> Result<OAuthTokens, AppError> {
        self.redeem(app, &self.code(app, caller, scope).await?).await
    }

    /// As the token endpoint does it: who asks is asked who it is first.
    pub async fn refresh(&self, app: &App, token: &SecretString) -> Result<OAuthTokens, AppError> {
        let known = self.known(app).await?;
        app.refresh_for(&known, token, Less::default(), self.how()).await
    }

    pub async fn known(&self, app: &App) -> Result<Known, AppError> {
        app.known_client(&Proof::Post(self.client.id.to_string(), self.secret.clone())).await
    }

    pub fn how(&self) -> How {
        How { client: self.client.id, proven: true, ..bearer() }
    }

    pub fn presented(&self) -> Redeem {
        Redeem {
            client: self.client.id,
            proven: true,
            redirect_uri: Some(REDIRECT.into()),
            verifier: Some(VERIFIER.into()),
            sender: None,
            user_agent: None,
            ip: None,
        }
    }
}

/// What a checked request for this scope asks.
pub fn asked(scope: &str) -> Asked {
    Asked {
        version: 1,
        pushed: None,
        redirect_uri: REDIRECT.into(),
        scope: scope.split(' ').map(str::to_owned).collect(),
        state: None,
        nonce: None,
        challenge: b64::encode(&Digest::of(VERIFIER.as_bytes()).0),
        prompt: portcullis_domain::authorize::Prompt::default(),
        max_age: None,
        login_hint: None,
        id_token_hint: None,
        audience: None,
        sender: None,
    }
}

/// A tool that may end everything of anybody.
pub async fn governance(app: &App) -> Known {
    let profile = Profile { global_token_revocation: true, ..Profile::default() };
    let (admin, kind) = (Admin::operator(), ClientKind::Confidential);
    let made = app.admin_register_client(&admin, "governance", kind, profile, None).await.unwrap();
    app.known_client(&Proof::Post(made.client.id.to_string(), made.secret.unwrap())).await.unwrap()
}

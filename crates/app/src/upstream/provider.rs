//! Another provider as it is called: what it says about itself, its keys, its token endpoint. Everything that comes back is
//! hostile until it was looked at, and every address that it names goes through [`portcullis_outgoing`].
use super::jwt::{self, Expected, IdToken, KeySet, LogoutToken, Wrong};
use crate::real;
use crate::settings::{UpstreamKind, UpstreamSettings};
use portcullis_outgoing::{Outgoing, Response};
use portcullis_wire::{SecretString, b64};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};

/// The longest document about a provider, in bytes.
const MAX_METADATA: usize = 64 << 10;
/// The longest key set.
const MAX_KEYS: usize = 128 << 10;
/// The longest answer of a token endpoint, or about a user.
const MAX_ANSWER: usize = 64 << 10;
/// For how long metadata and keys are used before they are fetched again, in milliseconds.
const KEEP: i64 = 3_600_000;
/// How soon a key that is not known may cause the set to be fetched again: a token names any key that it likes.
const FETCH_AGAIN: i64 = 30_000;
/// How soon a provider that could not be reached is called again.
const REST: i64 = 2_000;
/// How many sign-ins may call one provider at once; others are told to come again.
const AT_ONCE: usize = 16;

/// Why a provider did not do what was asked; for the log.
#[derive(Debug)]
pub(super) struct Failed(pub(super) String);

impl<T: std::fmt::Display> From<T> for Failed {
    fn from(why: T) -> Self {
        Self(why.to_string())
    }
}

/// What is used of a provider's metadata (OpenID Connect Discovery §3, RFC 8414 §2).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: Option<String>,
    userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

#[derive(Debug, Default)]
struct Cache {
    metadata: Option<(i64, Metadata)>,
    keys: Option<(i64, Arc<KeySet>)>,
    /// When it could not be reached.
    failed_at: Option<i64>,
    /// When its keys could not be fetched.
    keys_failed_at: Option<i64>,
}

/// A provider.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) settings: UpstreamSettings,
    cache: Mutex<Cache>,
    calls: Semaphore,
}

/// What a token endpoint answers.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) access_token: Option<String>,
    pub(super) id_token: Option<String>,
    error: Option<String>,
}

impl Provider {
    pub(super) fn new(settings: UpstreamSettings) -> Self {
        Self { settings, cache: Mutex::default(), calls: Semaphore::new(AT_ONCE) }
    }

    /// A place among those who call it.
    pub(super) fn place(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.calls.try_acquire().ok()
    }

    /// What it says about itself. Its issuer is the one that was configured, to the letter (Discovery §4.3): a document of
    /// somebody else leads nobody's code there (mix-up, RFC 9700 §4.4).
    pub(super) async fn metadata(&self, outgoing: &Outgoing) -> Result<Metadata, Failed> {
        let issuer = &self.settings.issuer;
        if self.settings.kind == UpstreamKind::GitHub {
            return Ok(Metadata {
                issuer: issuer.clone(),
                authorization_endpoint: format!("{issuer}/login/oauth/authorize"),
                token_endpoint: format!("{issuer}/login/oauth/access_token"),
                jwks_uri: None,
                userinfo_endpoint: None,
                token_endpoint_auth_methods_supported: Some(vec!["client_secret_post".into()]),
                authorization_response_iss_parameter_supported: false,
            });
        }
        let mut cache = self.cache.lock().await;
        let now = real::mono().0;
        if let Some((at, metadata)) = &cache.metadata
            && now - at < KEEP
        {
            return Ok(metadata.clone());
        }
        if cache.failed_at.is_some_and(|at| now - at < REST) {
            return Err("it could not be reached a moment ago".into());
        }
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let fetched = async { read_metadata(&outgoing.get_json(&url, MAX_METADATA).await?, issuer) }.await;
        // By the clock after the call: those who waited for it are told at once, and not made to wait one after another.
        cache.failed_at = fetched.is_err().then(|| real::mono().0);
        let metadata = fetched?;
        cache.metadata = Some((now, metadata.clone()));
        Ok(metadata)
    }

    /// Its keys; with `again`, not those that are known, unless they were fetched just now.
    async fn keys(&self, outgoing: &Outgoing, again: bool) -> Result<Arc<KeySet>, Failed> {
        let metadata = self.metadata(outgoing).await?;
        let url = metadata.jwks_uri.ok_or("it has no keys")?;
        let mut cache = self.cache.lock().await;
        let now = real::mono().0;
        if let Some((at, keys)) = &cache.keys
            && now - at < if again { FETCH_AGAIN } else { KEEP }
        {
            return Ok(keys.clone());
        }
        if cache.keys_failed_at.is_some_and(|at| now - at < REST) {
            return Err("its keys could not be fetched a moment ago".into());
        }
        let fetched = async {
            let answer = ok(outgoing.get_json(&url, MAX_KEYS).await?)?;
            KeySet::parse(&answer.body).ok_or(Failed::from("its keys do not read"))
        }
        .await;
        cache.keys_failed_at = fetched.is_err().then(|| real::mono().0);
        let keys = Arc::new(fetched?);
        cache.keys = Some((now, keys.clone()));
        Ok(keys)
    }

    /// Verifies with the keys that are known, and once more with those that it has now when the key is not among them.
    async fn verified<T>(
        &self,
        outgoing: &Outgoing,
        verify: impl Fn(&KeySet) -> Result<T, Wrong>,
    ) -> Result<T, Failed> {
        let tell = |wrong| match wrong {
            Wrong::Key => Failed("it is signed with a key that is not its issuer's".into()),
            Wrong::Else(why) => Failed(why.into()),
        };
        match verify(&*self.keys(outgoing, false).await?) {
            Err(Wrong::Key) => verify(&*self.keys(outgoing, true).await?).map_err(tell),
            verified => verified.map_err(tell),
        }
    }

    pub(super) async fn id_token(
        &self,
        outgoing: &Outgoing,
        token: &str,
        expected: &Expected<'_>,
    ) -> Result<IdToken, Failed> {
        self.verified(outgoing, |keys| jwt::id_token(token, keys, expected)).await
    }

    pub(super) async fn logout_token(&self, outgoing: &Outgoing, token: &str, now: i64) -> Result<LogoutToken, Failed> {
        let (issuer, client) = (&self.settings.issuer, &self.settings.client_id);
        self.verified(outgoing, |keys| jwt::logout_token(token, keys, issuer, client, now)).await
    }

    /// Exchanges a code (RFC 6749 §4.1.3), with the verifier that only this sign-in has (RFC 7636 §4.5).
    pub(super) async fn exchange(
        &self,
        outgoing: &Outgoing,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
    ) -> Result<TokenAnswer, Failed> {
        let metadata = self.metadata(outgoing).await?;
        let UpstreamSettings { client_id, client_secret, .. } = &self.settings;
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let methods = &metadata.token_endpoint_auth_methods_supported;
        let by_basic = methods.as_ref().is_none_or(|all| all.iter().any(|one| one == "client_secret_basic"));
        let authorization = by_basic.then(|| {
            let pair = format!("{}:{}", encoded(client_id), encoded(client_secret.expose()));
            SecretString::new(format!("Basic {}", base64(pair.as_bytes())))
        });
        if !by_basic {
            pairs.extend([("client_id", client_id.as_str()), ("client_secret", client_secret.expose())]);
        }
        let form: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let authorization = authorization.as_ref().map(SecretString::expose);
        let answer = outgoing.post_form_as(&metadata.token_endpoint, form.join("&"), authorization).await?;
        let told: TokenAnswer = document(&answer.body)?;
        if let Some(error) = &told.error {
            // Only characters that the error may have (RFC 6749 §5.2): it goes into the log.
            let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
            return Err(format!("its token endpoint refused: {error}").into());
        }
        ok(answer)?;
        Ok(told)
    }

    /// A document about whoever this access token is of.
    pub(super) async fn about<T: DeserializeOwned>(
        &self,
        outgoing: &Outgoing,
        url: &str,
        token: &str,
    ) -> Result<T, Failed> {
        let authorization = format!("Bearer {token}");
        document(&ok(outgoing.get_json_as(url, &authorization, MAX_ANSWER).await?)?.body)
    }
}

impl Metadata {
    /// Where a browser is sent.
    pub(super) fn authorization(&self) -> &str {
        &self.authorization_endpoint
    }
    /// Where more is told about a user.
    pub(super) fn userinfo(&self) -> Option<&str> {
        self.userinfo_endpoint.as_deref()
    }
    /// Whether an answer with this `iss` is this provider's (RFC 9207 §2.4).
    pub(super) fn sent(&self, iss: Option<&str>) -> bool {
        match iss {
            Some(iss) => iss == self.issuer,
            None => !self.authorization_response_iss_parameter_supported,
        }
    }
}

fn read_metadata(answer: &Response, issuer: &str) -> Result<Metadata, Failed> {
    if answer.status != 200 {
        return Err(format!("its metadata was answered with {}", answer.status).into());
    }
    let metadata: Metadata = document(&answer.body)?;
    if metadata.issuer != issuer {
        return Err("its metadata names another issuer".into());
    }
    // A browser goes there: by TLS, or on this machine.
    let place = &metadata.authorization_endpoint;
    let loopback = ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"];
    let reachable = place.starts_with("https://") || loopback.iter().any(|start| place.starts_with(start));
    let plain = place.len() <= 2048 && place.bytes().all(|b| b.is_ascii_graphic()) && !place.contains('#');
    if !reachable || !plain {
        return Err("its authorization endpoint is no address of the web".into());
    }
    Ok(metadata)
}

fn ok(answer: Response) -> Result<Response, Failed> {
    if answer.status == 200 { Ok(answer) } else { Err(format!("it answered {}", answer.status).into()) }
}

fn document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failed> {
    // Members that are not used may be anything; those that are, come once.
    portcullis_wire::json::from_slice(bytes).map_err(|_| "its answer does not read".into())
}

/// A word of a form or a query.
pub(super) fn encoded(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Base64 as HTTP Basic has it (RFC 7617 §2).
fn base64(bytes: &[u8]) -> String {
    let mut text = b64::encode(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

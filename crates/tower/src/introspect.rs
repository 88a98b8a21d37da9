//! Asking the server about one token (RFC 7662): only on routes under `introspect`, only while not fresh.
//!
//! No answer is kept: each request asks anew, so an answer never counts longer than its request (DESIGN §4.9 allows B).
use crate::http1::{Client, Failed, percent};
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use portcullis_verify::{Authentic, Expect};
use portcullis_wire::jws::{ACCESS_TOKEN_TYP, Compact};
use portcullis_wire::{AccessClaims, Code};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many questions may wait for an answer; further requests are refused as `not_fresh`.
const AT_ONCE: usize = 64;
const WAIT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Introspection {
    url: Uri,
    client: Arc<Client>,
    places: Semaphore,
}

#[derive(Deserialize)]
struct Answer {
    active: bool,
}

impl Introspection {
    pub(crate) fn new(url: Uri, client: Arc<Client>) -> Self {
        Self { url, client, places: Semaphore::new(AT_ONCE) }
    }

    /// The claims of an active token: the verified ones, else those that the server vouches for by calling this very token
    /// active. A token for somebody else is refused without asking.
    pub(crate) async fn ask(
        &self,
        token: &str,
        claims: Option<Arc<Authentic>>,
        expect: &Expect,
    ) -> Result<Arc<Authentic>, Code> {
        let claims = match claims {
            Some(claims) => claims,
            None => {
                let compact = Compact::parse(token, ACCESS_TOKEN_TYP).map_err(|_| Code::TokenMalformed)?;
                let claims: AccessClaims = compact.claims().map_err(|_| Code::TokenMalformed)?;
                Arc::new(Authentic::insecure_without_signature(claims, Some(compact.kid)))
            }
        };
        if claims.claims().iss != expect.issuer || !claims.claims().aud.contains(&expect.audience) {
            return Err(Code::TokenMalformed);
        }
        let _place = self.places.try_acquire().map_err(|_| Code::NotFresh)?;
        let form = format!("token={}&token_type_hint=access_token", percent(token));
        let mut request =
            Request::post(self.url.clone()).body(Full::new(Bytes::from(form))).map_err(|_| Code::NotFresh)?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, form);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.client.call(request, WAIT, ANSWER_LIMIT).await;
        let answer = answer.inspect_err(|error: &Failed| tracing::warn!(%error, "introspection failed"));
        let answer: Answer =
            serde_json::from_slice(&answer.map_err(|_| Code::NotFresh)?).map_err(|_| Code::NotFresh)?;
        if answer.active { Ok(claims) } else { Err(Code::TokenRevoked) }
    }
}

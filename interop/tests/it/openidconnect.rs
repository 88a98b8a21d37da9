//! The crate `openidconnect`: its typed reading of our metadata, keys, tokens and errors.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and ends")]
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreIdToken, CoreIdTokenVerifier, CoreProviderMetadata,
    CoreTokenResponse, CoreUserInfoClaims,
};
use openidconnect::{
    AccessToken, AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IntrospectionUrl, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError,
    RevocationUrl, Scope, StandardErrorResponse, TokenIntrospectionResponse as _, TokenResponse as _,
};
use portcullis_testkit::TestServer;
use portcullis_testkit::application::{Application, REDIRECT, parameter};
use serde_json::json;
use std::convert::Infallible;

const ADA: &str = "ada@example.test";

type Ready = CoreClient<EndpointSet, EndpointNotSet, EndpointSet, EndpointSet, EndpointMaybeSet, EndpointMaybeSet>;

/// A server, an application at it, a signed-in browser, and the crate's client, made from what it discovered.
struct World {
    server: TestServer,
    cookie: String,
    client: Ready,
}

/// As the crate calls: any request, sent by the kit's client.
async fn send(server: &TestServer, request: HttpRequest) -> Result<HttpResponse, Infallible> {
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let mut call = server.client.call(request.method().clone(), path);
    for name in ["accept", "authorization"] {
        if let Some(value) = request.headers().get(name) {
            call = call.header(name, value);
        }
    }
    if !request.body().is_empty() {
        assert_eq!(request.headers()["content-type"], "application/x-www-form-urlencoded");
        call = call.form(&String::from_utf8_lossy(request.body()));
    }
    let answer = call.send().await;
    let mut response = HttpResponse::new(answer.body.to_vec());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}

impl World {
    async fn start() -> Self {
        let server = TestServer::usual().await;
        server.sign_up(ADA).await;
        let cookie = server.page_sign_in(ADA).await;
        let app = server.application("confidential", json!({})).await;
        let client = Self::client(&server, &app).await;
        Self { server, cookie, client }
    }

    async fn client(server: &TestServer, app: &Application) -> Ready {
        let issuer = IssuerUrl::new(server.issuer.clone()).expect("an address");
        let http = |request| send(server, request);
        let metadata = CoreProviderMetadata::discover_async(issuer, &http).await.expect("metadata");
        assert!(metadata.userinfo_endpoint().is_some() && !metadata.jwks().keys().is_empty());
        let at = |path: &str| format!("{}{path}", server.issuer);
        // The crate revokes by HTTPS only, on loopback too (RFC 7009 §2); the kit takes the path from it.
        let revocation = at("/oauth2/revoke").replacen("http:", "https:", 1);
        let secret = Some(ClientSecret::new(app.secret.clone()));
        CoreClient::from_provider_metadata(metadata, ClientId::new(app.id.clone()), secret)
            .set_redirect_uri(RedirectUrl::new(REDIRECT.into()).expect("an address"))
            .set_introspection_url(IntrospectionUrl::new(at("/oauth2/introspect")).expect("an address"))
            .set_revocation_url(RevocationUrl::new(revocation).expect("an address"))
    }

    /// The code for a new request, with what its answer is checked by.
    async fn code(&self) -> (AuthorizationCode, PkceCodeVerifier, Nonce) {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (address, state, nonce) = self
            .client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
            .add_scope(Scope::new("email".into()))
            .add_scope(Scope::new("profile".into()))
            .set_pkce_challenge(challenge)
            .url();
        let path = address[openidconnect::url::Position::BeforePath..].to_owned();
        let cookie = format!("__Host-portcullis_session={}", self.cookie);
        let mut answer = self.server.client.get(path).header("cookie", cookie).send().await;
        if answer.status == 200 {
            answer = self.server.decide(&answer.text(), &self.cookie, "allow").await;
        }
        let place = answer.expect(303).header("location").to_owned();
        assert_eq!(parameter(&place, "state").as_ref(), Some(state.secret()));
        assert_eq!(parameter(&place, "iss").as_ref(), Some(&self.server.issuer));
        (AuthorizationCode::new(parameter(&place, "code").expect("a code")), verifier, nonce)
    }

    async fn signed_in(&self) -> (CoreTokenResponse, Nonce) {
        let (code, verifier, nonce) = self.code().await;
        let http = |request| send(&self.server, request);
        let request = self.client.exchange_code(code).expect("a token endpoint").set_pkce_verifier(verifier);
        (request.request_async(&http).await.expect("tokens"), nonce)
    }

    async fn refresh(&self, token: &RefreshToken) -> Result<CoreTokenResponse, CoreErrorResponseType> {
        let http = |request| send(&self.server, request);
        let request = self.client.exchange_refresh_token(token).expect("a token endpoint");
        request.request_async(&http).await.map_err(refused)
    }

    async fn is_active(&self, token: &AccessToken) -> bool {
        let http = |request| send(&self.server, request);
        self.client.introspect(token).request_async(&http).await.expect("an answer").active()
    }
}

fn refused<E: std::error::Error>(
    error: RequestTokenError<E, StandardErrorResponse<CoreErrorResponseType>>,
) -> CoreErrorResponseType {
    match error {
        RequestTokenError::ServerResponse(said) => said.error().clone(),
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn signs_in_and_reads_who_it_is() {
    let world = World::start().await;
    let (tokens, nonce) = world.signed_in().await;
    let id_token: &CoreIdToken = tokens.id_token().expect("an ID token");
    let verifier: CoreIdTokenVerifier<'_> = world.client.id_token_verifier();
    let claims = id_token.claims(&verifier, &nonce).expect("claims");
    assert_eq!(claims.email().map(|email| email.as_str()), Some(ADA));
    let algorithm = id_token.signing_alg().expect("an algorithm");
    let hash =
        AccessTokenHash::from_token(tokens.access_token(), algorithm, id_token.signing_key(&verifier).expect("a key"));
    assert_eq!(claims.access_token_hash(), hash.ok().as_ref(), "OpenID Connect Core §3.1.3.6");
    let http = |request| send(&world.server, request);
    let subject = Some(claims.subject().clone());
    let about = world.client.user_info(tokens.access_token().clone(), subject).expect("userinfo");
    let about: CoreUserInfoClaims = about.request_async(&http).await.expect("claims");
    assert_eq!(about.email().map(|email| email.as_str()), Some(ADA));
}

#[tokio::test]
async fn an_id_token_for_another_nonce_client_or_with_a_bad_signature_is_refused() {
    let world = World::start().await;
    let (tokens, nonce) = world.signed_in().await;
    let id_token = tokens.id_token().expect("an ID token");
    assert!(id_token.claims(&world.client.id_token_verifier(), &Nonce::new_random()).is_err());
    let other = world.server.application("confidential", json!({})).await;
    let other = World::client(&world.server, &other).await;
    assert!(id_token.claims(&other.id_token_verifier(), &nonce).is_err());
    let text = id_token.to_string();
    let (signed, signature) = text.rsplit_once('.').expect("a signature");
    let flipped: String = signature.chars().rev().collect();
    let unsigned = format!("{}.{}.", b64_none(), signed.split('.').nth(1).expect("claims"));
    for bad in [format!("{signed}.{flipped}"), format!("{signed}."), unsigned] {
        let read: Result<CoreIdToken, _> = bad.parse();
        let refused = read.map_or(true, |token| token.claims(&world.client.id_token_verifier(), &nonce).is_err());
        assert!(refused, "{bad}");
    }
    // An access token is no ID token: another audience.
    let access: Result<CoreIdToken, _> = tokens.access_token().secret().parse();
    assert!(access.map_or(true, |token| token.claims(&world.client.id_token_verifier(), &nonce).is_err()));
}

/// `{"alg":"none"}`.
fn b64_none() -> &'static str {
    "eyJhbGciOiJub25lIn0"
}

#[tokio::test]
async fn refresh_introspection_and_revocation() {
    let world = World::start().await;
    let (tokens, _) = world.signed_in().await;
    let first = tokens.refresh_token().expect("a refresh token").clone();
    let second = world.refresh(&first).await.expect("tokens");
    assert_ne!(second.refresh_token().expect("a refresh token").secret(), first.secret());
    assert!(world.is_active(second.access_token()).await);
    let http = |request| send(&world.server, request);
    let last = second.refresh_token().expect("a refresh token").clone();
    let revoke = world.client.revoke_token(last.clone().into()).expect("a revocation endpoint");
    revoke.request_async(&http).await.expect("done");
    assert!(!world.is_active(second.access_token()).await);
    assert_eq!(world.refresh(&last).await.expect_err("dead"), CoreErrorResponseType::InvalidGrant);
}

#[tokio::test]
async fn refusals_are_those_that_it_knows() {
    let world = World::start().await;
    let http = |request| send(&world.server, request);
    let (code, _, _) = world.code().await;
    let (_, other) = PkceCodeChallenge::new_random_sha256();
    let wrong = world.client.exchange_code(code).expect("a token endpoint").set_pkce_verifier(other);
    assert_eq!(refused(wrong.request_async(&http).await.expect_err("refused")), CoreErrorResponseType::InvalidGrant);
    let app = world.server.application("confidential", json!({})).await;
    let thief = World::client(&world.server, &Application { secret: "wrong".into(), ..app }).await;
    let (code, verifier, _) = world.code().await;
    let stolen = thief.exchange_code(code).expect("a token endpoint").set_pkce_verifier(verifier);
    assert_eq!(refused(stolen.request_async(&http).await.expect_err("refused")), CoreErrorResponseType::InvalidClient);
}

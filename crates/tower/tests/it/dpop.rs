//! Tokens that are bound to a key (RFC 9449 §7), at a service.
use crate::server::{Server, unix_ms};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request};
use axum::{Router, routing::get};
use portcullis_tower::wire::claims::Confirmation;
use portcullis_tower::wire::jwk::PublicKey;
use portcullis_tower::wire::{Digest, b64};
use portcullis_tower::{Address, Policy, Rule, Verified, Verifier, VerifyLayer};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const HERE: &str = "https://api.example/v2";

struct Holder(Ed25519KeyPair);

impl Holder {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }
    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64::encode(self.0.public_key().as_ref()) })
    }
    fn thumbprint(&self) -> Digest {
        PublicKey::from_json(&self.jwk()).unwrap().thumbprint()
    }
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| b64::encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        format!("{input}.{}", b64::encode(self.0.sign(input.as_bytes()).as_ref()))
    }
    fn claims(token: &str, id: &str) -> Value {
        let ath = b64::encode(&Digest::of(token.as_bytes()).0);
        json!({ "jti": id, "htm": "GET", "htu": "https://API.example:443/v2/me?x=1", "iat": unix_ms() / 1000, "ath": ath })
    }
    fn proof(&self, claims: &Value) -> String {
        self.sign(&json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.jwk() }), claims)
    }
}

async fn whoami(verified: Verified) -> String {
    verified.claims().sub.to_string()
}

fn app(verifier: &Verifier) -> Router {
    let layer = || VerifyLayer::new(verifier.clone());
    let here = Address::parse(HERE).unwrap();
    Router::new()
        .route("/me", get(whoami).post(whoami).layer(layer().address(here.clone())))
        .route("/ask", get(whoami).layer(layer().policy(Policy::Introspect).address(here)))
        .route("/nowhere", get(whoami).layer(layer()))
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    code: String,
}

impl Answer {
    fn challenges(&self) -> Vec<&str> {
        self.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect()
    }
}

async fn send(verifier: &Verifier, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = Request::builder().method(method).uri(path).header("host", "api.example");
    let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
    let (parts, body) = app(verifier).oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
    let body: Value = serde_json::from_slice(&to_bytes(body, 10_000).await.unwrap()).unwrap_or_default();
    let code = body["code"].as_str().unwrap_or_default().to_owned();
    Answer { status: parts.status.as_u16(), headers: parts.headers, code }
}

async fn with(verifier: &Verifier, path: &str, token: &str, proof: &str) -> Answer {
    send(verifier, Method::GET, path, &[("authorization", &format!("DPoP {token}")), ("dpop", proof)]).await
}

fn bound(server: &Server, holder: &Holder) -> String {
    let mut claims = server.claims(1);
    claims.cnf = Some(Confirmation::of(holder.thumbprint()));
    server.signer.sign(&claims)
}

#[tokio::test]
async fn a_bound_token_is_its_holders() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let token = bound(&server, &holder);
    let claims = |id: &str| Holder::claims(&token, id);
    assert_eq!(with(&verifier, "/me", &token, &holder.proof(&claims("1"))).await.status, 200);
    // Once (RFC 9449 §11.1), and another one goes on: nothing has ended.
    let again = with(&verifier, "/me", &token, &holder.proof(&claims("1"))).await;
    assert_eq!((again.status, again.code.as_str()), (401, "proof_invalid"));
    assert!(again.challenges()[0].starts_with("DPoP error=\"invalid_dpop_proof\""), "{:?}", again.challenges());
    assert_eq!(with(&verifier, "/me", &token, &holder.proof(&claims("2"))).await.status, 200);
    // Ids are each key's own.
    let theirs = bound(&server, &thief);
    assert_eq!(with(&verifier, "/me", &theirs, &thief.proof(&Holder::claims(&theirs, "2"))).await.status, 200);
    // What else is wrong with it is said in the scheme that it was shown by (RFC 9449 §7.1).
    let dead = with(&verifier, "/me", "garbage", &holder.proof(&Holder::claims("garbage", "9"))).await;
    let challenge =
        "DPoP error=\"invalid_token\", error_description=\"token_malformed\", algs=\"ES256 RS256 Ed25519 EdDSA\"";
    assert_eq!((dead.status, dead.challenges()), (401.try_into().unwrap(), vec![challenge]));
    // As a bearer token it is worth nothing (RFC 9449 §7.2), with a proof or without one.
    for headers in [
        vec![("authorization", format!("Bearer {token}"))],
        vec![("authorization", format!("Bearer {token}")), ("dpop", holder.proof(&claims("3")))],
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let refused = send(&verifier, Method::GET, "/me", &headers).await;
        assert_eq!((refused.status, refused.code.as_str()), (401, "proof_invalid"));
        assert!(refused.challenges()[0].starts_with("DPoP error=\"invalid_token\""), "{:?}", refused.challenges());
    }
    assert!(verifier.verify(&token, &Rule::default()).await.is_err());
    // A bearer token stays one, and does not become a bound one.
    let bearer = server.token(2);
    let shown = send(&verifier, Method::GET, "/me", &[("authorization", &format!("Bearer {bearer}"))]).await;
    assert_eq!(shown.status, 200);
    let shown = with(&verifier, "/me", &bearer, &holder.proof(&Holder::claims(&bearer, "4"))).await;
    assert_eq!((shown.status, shown.code.as_str()), (401, "proof_invalid"));
    // Who brings nothing is told both ways.
    let nothing = send(&verifier, Method::GET, "/me", &[]).await;
    assert_eq!(nothing.challenges(), ["Bearer realm=\"portcullis\"", "DPoP algs=\"ES256 RS256 Ed25519 EdDSA\""]);
    assert!(verifier.metrics().contains("portcullis_verifier_refused_total{code=\"proof_invalid\"} 5"));
}

#[tokio::test]
async fn wrong_proofs_are_refused() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let token = bound(&server, &holder);
    let change = |name: &str, value: Value| {
        let mut claims = Holder::claims(&token, name);
        claims[name] = value;
        holder.proof(&claims)
    };
    let head = |name: &str, value: Value| {
        let mut header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": holder.jwk() });
        header[name] = value;
        holder.sign(&header, &Holder::claims(&token, name))
    };
    let mut private = holder.jwk();
    private["d"] = holder.jwk()["x"].clone();
    let now = unix_ms() / 1000;
    for (what, proof) in [
        ("another method", change("htm", json!("POST"))),
        ("another path", change("htu", json!("https://api.example/v2/other"))),
        ("another host", change("htu", json!("https://evil.example/v2/me"))),
        ("without TLS", change("htu", json!("http://api.example/v2/me"))),
        ("another token", change("ath", json!(b64::encode(&[0; 32])))),
        ("no token", change("ath", Value::Null)),
        ("too old", change("iat", json!(now - 120))),
        ("from the future", change("iat", json!(now + 120))),
        ("a private key in it", head("jwk", private)),
        ("another's key", head("jwk", thief.jwk())),
        ("a thief's own proof", thief.proof(&Holder::claims(&token, "thief"))),
        ("alg none", head("alg", json!("none"))),
        ("HS256", head("alg", json!("HS256"))),
        ("ES256 of another key", head("alg", json!("ES256"))),
        ("an access token's typ", head("typ", json!("at+jwt"))),
        ("the token itself", token.clone()),
        ("garbage", "garbage".into()),
    ] {
        let refused = with(&verifier, "/me", &token, &proof).await;
        assert_eq!((refused.status, refused.code.as_str()), (401, "proof_invalid"), "{what}");
    }
    let (one, two) = (holder.proof(&Holder::claims(&token, "a")), holder.proof(&Holder::claims(&token, "b")));
    let authorization = format!("DPoP {token}");
    let headers = [("authorization", authorization.as_str()), ("dpop", &one), ("dpop", &two)];
    assert_eq!(send(&verifier, Method::GET, "/me", &headers).await.code, "proof_invalid");
    assert_eq!(send(&verifier, Method::POST, "/me", &headers[..2]).await.code, "proof_invalid");
    // A layer that does not know where it is reached takes none, whatever `Host` says.
    assert_eq!(with(&verifier, "/nowhere", &token, &one).await.code, "proof_invalid");
    // A token that is dead is that first, and its proof is not remembered.
    let mut claims = server.claims(1);
    claims.exp = claims.iat;
    claims.cnf = Some(Confirmation::of(holder.thumbprint()));
    let dead = server.signer.sign(&claims);
    let proof = holder.proof(&Holder::claims(&dead, "dead"));
    for _ in 0..2 {
        assert_eq!(with(&verifier, "/me", &dead, &proof).await.code, "token_expired");
    }
    assert_eq!(with(&verifier, "/me", &token, &one).await.status, 200, "nothing of that used it up");
}

#[tokio::test]
async fn as_many_proofs_as_may_be_are_remembered() {
    let server = Server::start().await;
    let verifier = Verifier::start(server.config().proofs(8)).unwrap();
    assert!(verifier.wait_fresh(std::time::Duration::from_secs(5)).await);
    let holder = Holder::new();
    let token = bound(&server, &holder);
    for (id, status) in [("1", 200), ("2", 200), ("3", 503), ("1", 401)] {
        let answer = with(&verifier, "/me", &token, &holder.proof(&Holder::claims(&token, id))).await;
        assert_eq!(answer.status, status, "{id}");
    }
    // Of one key a quarter: another one's are let through.
    let other = Holder::new();
    let token = bound(&server, &other);
    let answer = with(&verifier, "/me", &token, &other.proof(&Holder::claims(&token, "5"))).await;
    assert_eq!(answer.status, 200);
}

#[test]
fn an_address_is_where_clients_call() {
    for good in ["https://api.example", "https://api.example/", "http://127.0.0.1:7401", "https://api.example/v2"] {
        assert!(Address::parse(good).is_ok(), "{good}");
    }
    for wrong in ["", "api.example", "ftp://a.example", "https://u@a.example", "https://a.example?x"] {
        assert!(Address::parse(wrong).is_err(), "{wrong}");
    }
}

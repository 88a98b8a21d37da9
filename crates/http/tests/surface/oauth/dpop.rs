//! Tokens that are bound to a key (RFC 9449), at our own endpoints.
use portcullis_testkit::application::{Application, REDIRECT, VERIFIER, encode, parameter, request};
use portcullis_testkit::{Answer, Options, Signer, TestServer};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

async fn world(kind: &str, more: Value) -> (TestServer, Application, String) {
    let server = TestServer::behind_a_proxy(Options::default()).await;
    server.sign_up(ADA).await;
    let mut members = json!({ "consent": "implied" });
    for (name, value) in more.as_object().unwrap() {
        members[name] = value.clone();
    }
    let app = server.application(kind, members).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

fn now(server: &TestServer) -> i64 {
    server.app.now().secs()
}

async fn call(server: &TestServer, app: &Application, path: &str, pairs: &[(&str, &str)], proofs: &[&str]) -> Answer {
    let mut call = server.client.post(path);
    for proof in proofs {
        call = call.header("dpop", proof);
    }
    if app.secret.is_empty() {
        return call.form(&encode(&[&[("client_id", app.id.as_str())], pairs].concat())).send().await;
    }
    call.basic((&app.id, &app.secret)).form(&encode(pairs)).send().await
}

fn token_url(server: &TestServer) -> String {
    format!("{}/oauth2/token", server.issuer)
}

/// A nonce, as a client gets its first one: by being refused.
async fn nonce(server: &TestServer, app: &Application, key: &Signer) -> String {
    let proof = key.proof("POST", &token_url(server), now(server), None, None);
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", "none")];
    let refused = call(server, app, "/oauth2/token", &pairs, &[&proof]).await.expect(400);
    assert_eq!(refused.json()["error"], "use_dpop_nonce");
    refused.header("dpop-nonce").to_owned()
}

async fn exchange(server: &TestServer, app: &Application, key: &Signer, pairs: &[(&str, &str)]) -> Answer {
    let nonce = nonce(server, app, key).await;
    let proof = key.proof("POST", &token_url(server), now(server), Some(&nonce), None);
    call(server, app, "/oauth2/token", pairs, &[&proof]).await
}

fn redeeming(code: &str) -> [(&str, &str); 4] {
    [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)]
}

async fn userinfo(server: &TestServer, scheme: &str, token: &str, proof: Option<&str>) -> Answer {
    let mut call = server.client.get("/oauth2/userinfo").header("authorization", format!("{scheme} {token}"));
    if let Some(proof) = proof {
        call = call.header("dpop", proof);
    }
    call.send().await
}

#[tokio::test]
async fn tokens_are_bound_to_the_key_that_was_proven() {
    for (kind, key) in [("public", Signer::es256()), ("confidential", Signer::ed25519()), ("public", Signer::rs256())] {
        let (server, app, cookie) = world(kind, json!({})).await;
        let code = server.code(&app, &cookie, "openid read").await;
        let answer = exchange(&server, &app, &key, &redeeming(&code)).await.expect(200);
        assert!(!answer.header("dpop-nonce").is_empty(), "the next one");
        let tokens = answer.json();
        assert_eq!(tokens["token_type"], "DPoP");
        let access = tokens["access_token"].as_str().unwrap();
        // Introspection says so.
        let asker = server.application("confidential", json!({})).await;
        let told = call(&server, &asker, "/oauth2/introspect", &[("token", access)], &[]).await.expect(200).json();
        assert_eq!((told["active"].clone(), told["token_type"].clone()), (true.into(), "DPoP".into()));
        assert_eq!(told["cnf"]["jkt"], key.jkt());
        // Userinfo by its holder, and by nobody else.
        let address = format!("{}/oauth2/userinfo", server.issuer);
        let proof = |key: &Signer, token: &str| key.proof("GET", &address, now(&server), None, Some(token));
        userinfo(&server, "DPoP", access, Some(&proof(&key, access))).await.expect(200);
        let bearer = userinfo(&server, "Bearer", access, None).await;
        let challenge = bearer.header("www-authenticate").to_owned();
        bearer.expect_problem("proof_invalid");
        assert!(
            challenge.starts_with("DPoP error=\"invalid_token\"") && challenge.contains("algs=\"ES256"),
            "{challenge}"
        );
        userinfo(&server, "Bearer", access, Some(&proof(&key, access))).await.expect_problem("proof_invalid");
        userinfo(&server, "DPoP", access, Some(&proof(&Signer::es256(), access))).await.expect_problem("proof_invalid");
        userinfo(&server, "DPoP", access, Some(&proof(&key, "another"))).await.expect_problem("proof_invalid");
        userinfo(&server, "DPoP", access, None).await.expect_problem("proof_invalid");
        // A refresh takes the same key, and the refusal of another one ends nothing.
        let refresh = tokens["refresh_token"].as_str().unwrap();
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        let stolen = exchange(&server, &app, &Signer::es256(), &pairs).await.expect(400).json();
        assert_eq!(stolen["error"], "invalid_grant");
        assert_eq!(server.refresh_for(&app, refresh).await.expect(400).json()["error"], "invalid_grant");
        let next = exchange(&server, &app, &key, &pairs).await.expect(200).json();
        assert_eq!(next["token_type"], "DPoP");
        userinfo(&server, "DPoP", access, Some(&proof(&key, access))).await.expect(200);
    }
}

#[tokio::test]
async fn a_bearer_token_is_no_bound_one() {
    let (server, app, cookie) = world("public", json!({})).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let access = tokens["access_token"].as_str().unwrap();
    let key = Signer::es256();
    let proof = key.proof("GET", &format!("{}/oauth2/userinfo", server.issuer), now(&server), None, Some(access));
    userinfo(&server, "DPoP", access, Some(&proof)).await.expect_problem("proof_invalid");
    userinfo(&server, "Bearer", access, None).await.expect(200);
    // A refresh with a proof gives a bound access token under the same grant.
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let bound = exchange(&server, &app, &key, &pairs).await.expect(200).json();
    assert_eq!(bound["token_type"], "DPoP");
    userinfo(&server, "Bearer", bound["access_token"].as_str().unwrap(), None).await.expect_problem("proof_invalid");
}

#[tokio::test]
async fn replayed_dpop_proofs_are_refused_and_end_nothing() {
    let (server, app, cookie) = world("public", json!({})).await;
    let key = Signer::es256();
    let nonce = nonce(&server, &app, &key).await;
    let proof = key.proof("POST", &token_url(&server), now(&server), Some(&nonce), None);
    let code = server.code(&app, &cookie, "openid").await;
    let pairs = redeeming(&code);
    // Of several at once one counts.
    let proofs = [proof.as_str()];
    let all = tokio::join!(
        call(&server, &app, "/oauth2/token", &pairs, &proofs),
        call(&server, &app, "/oauth2/token", &pairs, &proofs),
        call(&server, &app, "/oauth2/token", &pairs, &proofs),
    );
    let answers = [all.0, all.1, all.2];
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.json()["error"], "invalid_dpop_proof");
    }
    let tokens = answers.iter().find(|answer| answer.status == 200).unwrap().json();
    let access = tokens["access_token"].as_str().unwrap();
    // And at a resource.
    let address = format!("{}/oauth2/userinfo", server.issuer);
    let proof = key.proof("GET", &address, now(&server), None, Some(access));
    userinfo(&server, "DPoP", access, Some(&proof)).await.expect(200);
    let again = userinfo(&server, "DPoP", access, Some(&proof)).await;
    assert!(again.header("www-authenticate").contains("invalid_dpop_proof"));
    again.expect_problem("proof_invalid");
    // Nothing has ended, and it was counted.
    let proof = key.proof("GET", &address, now(&server), None, Some(access));
    userinfo(&server, "DPoP", access, Some(&proof)).await.expect(200);
    let metrics = server.client.get("/metrics").send().await;
    if metrics.status == 200 {
        assert!(metrics.text().contains("portcullis_proofs_refused_total 3"), "{}", metrics.text());
    }
}

#[tokio::test]
async fn wrong_dpop_proofs_are_refused() {
    let (server, app, cookie) = world("public", json!({})).await;
    let (key, other, url) = (Signer::es256(), Signer::es256(), token_url(&server));
    let nonce = nonce(&server, &app, &key).await;
    let code = server.code(&app, &cookie, "openid").await;
    let claims = || json!({ "jti": portcullis_testkit::signer::fresh_id(), "htm": "POST", "htu": url, "iat": now(&server), "nonce": nonce });
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        key.sign(&key.proof_header(), &claims)
    };
    let header = |name: &str, value: Value| {
        let mut header = key.proof_header();
        header[name] = value;
        key.sign(&header, &claims())
    };
    let mut private = key.jwk();
    private["d"] = key.jwk()["x"].clone();
    let good = with("nonce", json!(nonce));
    let (head, tail) = good.split_once('.').unwrap();
    let unsigned = format!("{head}.{}.", tail.split_once('.').unwrap().0);
    let wrong = [
        ("another method", with("htm", json!("GET"))),
        ("another endpoint", with("htu", json!(format!("{}/oauth2/par", server.issuer)))),
        ("another server", with("htu", json!("https://evil.example/oauth2/token"))),
        ("a private key in it", header("jwk", private)),
        ("a secret as its key", header("jwk", json!({ "kty": "oct", "k": "AAAA" }))),
        ("mixed keys", header("jwk", other.jwk())),
        ("alg none", header("alg", json!("none"))),
        ("HS256", header("alg", json!("HS256"))),
        ("another alg than its key's", header("alg", json!("RS256"))),
        ("an access token's typ", header("typ", json!("at+jwt"))),
        ("no typ of proofs", header("typ", json!("JWT"))),
        ("no signature", unsigned),
        ("garbage", "garbage".into()),
        ("too long", "x".repeat(7000)),
    ];
    for (what, proof) in &wrong {
        let refused = call(&server, &app, "/oauth2/token", &redeeming(&code), &[proof]).await.expect(400);
        assert_eq!(refused.json()["error"], "invalid_dpop_proof", "{what}");
        assert!(!refused.header("dpop-nonce").is_empty(), "{what}");
    }
    let two = call(&server, &app, "/oauth2/token", &redeeming(&code), &[&good, &good]).await.expect(400);
    assert_eq!(two.json()["error"], "invalid_dpop_proof");
    // Nonces: none, made up, of another kind, too old.
    let mark = server.app.first_seen("x");
    for other in ["", "made up", &mark] {
        let refused = call(&server, &app, "/oauth2/token", &redeeming(&code), &[&with("nonce", json!(other))]).await;
        assert_eq!(refused.expect(400).json()["error"], "use_dpop_nonce", "{other:?}");
    }
    // None of that has hurt the code. Its maker's clock may be wrong, for the nonce is ours.
    let late = with("iat", json!(now(&server) - 86_400));
    call(&server, &app, "/oauth2/token", &redeeming(&code), &[&late]).await.expect(200);
    server.advance(301_000);
    let refused = call(&server, &app, "/oauth2/token", &redeeming(&code), &[&with("nonce", json!(nonce))]).await;
    assert_eq!(refused.expect(400).json()["error"], "use_dpop_nonce");
}

#[tokio::test]
async fn a_code_can_ask_for_its_key() {
    let (server, app, cookie) = world("public", json!({ "dpop_bound_access_tokens": true })).await;
    let (key, other) = (Signer::es256(), Signer::es256());
    // The request named the key (RFC 9449 §10), by itself or by a proof at the push (§10.1).
    let named =
        server.authorize(&app, &cookie, &[("dpop_jkt", &key.jkt())]).await.expect(303).header("location").to_owned();
    let proof =
        |nonce: Option<&str>| key.proof("POST", &format!("{}/oauth2/par", server.issuer), now(&server), nonce, None);
    let form = request(&app, &[]);
    let push = async |proof: &str, more: &str| {
        server.client.post("/oauth2/par").header("dpop", proof).form(&format!("{form}{more}")).send().await
    };
    let first = push(&proof(None), "").await.expect(400);
    assert_eq!(first.json()["error"], "use_dpop_nonce");
    let nonce = first.header("dpop-nonce").to_owned();
    let pushed = push(&proof(Some(&nonce)), "").await.expect(201);
    assert!(!pushed.header("dpop-nonce").is_empty());
    let mixed = push(&proof(Some(&nonce)), &format!("&dpop_jkt={}", other.jkt())).await.expect(400);
    assert_eq!(mixed.json()["error"], "invalid_dpop_proof");
    let uri = pushed.json()["request_uri"].as_str().unwrap().to_owned();
    let query = encode(&[("client_id", &app.id), ("request_uri", &uri)]);
    let call_page = server.client.get(format!("/oauth2/authorize?{query}"));
    let by_push = call_page.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
    for place in [named, by_push.expect(303).header("location").to_owned()] {
        let code = parameter(&place, "code").unwrap();
        let stolen = exchange(&server, &app, &other, &redeeming(&code)).await.expect(400).json();
        assert_eq!(stolen["error"], "invalid_grant");
        // This client's tokens are always bound (§5.2).
        assert_eq!(server.redeem(&app, &code).await.expect(400).json()["error"], "invalid_dpop_proof");
        exchange(&server, &app, &key, &redeeming(&code)).await.expect(200);
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_show_proofs() {
    let metadata_server = TestServer::usual().await;
    let metadata = metadata_server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(metadata["dpop_signing_alg_values_supported"], json!(["ES256", "RS256", "Ed25519", "EdDSA"]));
}

/// A proof for another endpoint of ours than the token endpoint.
async fn proof_at(server: &TestServer, app: &Application, key: &Signer, path: &str) -> String {
    let nonce = nonce(server, app, key).await;
    key.proof("POST", &format!("{}{path}", server.issuer), now(server), Some(&nonce), None)
}

#[tokio::test]
async fn a_bound_token_that_was_found_is_no_weapon() {
    let (server, app, cookie) = world("public", json!({})).await;
    let (key, other) = (Signer::es256(), Signer::es256());
    let code = server.code(&app, &cookie, "openid read").await;
    let tokens = exchange(&server, &app, &key, &redeeming(&code)).await.expect(200).json();
    let address = format!("{}/oauth2/userinfo", server.issuer);
    let lives = |token: Value| {
        let (key, address, server) = (&key, &address, &server);
        async move {
            let token = token.as_str().unwrap();
            let proof = key.proof("GET", address, now(server), None, Some(token));
            userinfo(server, "DPoP", token, Some(&proof)).await.status == 200
        }
    };
    let shown = [("token", tokens["access_token"].as_str().unwrap())];
    // From a service's log, with nothing or a key of the finder's: refused, and nothing ends.
    let found = call(&server, &app, "/oauth2/revoke", &shown, &[]).await.expect(400);
    assert_eq!(found.json()["error"], "invalid_dpop_proof");
    assert!(!found.header("dpop-nonce").is_empty());
    let proof = proof_at(&server, &app, &other, "/oauth2/revoke").await;
    let stolen = call(&server, &app, "/oauth2/revoke", &shown, &[&proof]).await.expect(400);
    assert_eq!(stolen.json()["error"], "invalid_dpop_proof");
    assert!(lives(tokens["access_token"].clone()).await);
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
    let next = exchange(&server, &app, &key, &pairs).await.expect(200).json();
    // By its holder it is given up.
    let shown = [("token", next["access_token"].as_str().unwrap())];
    let proof = proof_at(&server, &app, &key, "/oauth2/revoke").await;
    call(&server, &app, "/oauth2/revoke", &shown, &[&proof]).await.expect(200);
    assert!(!lives(next["access_token"].clone()).await);
    // A client that proves who it is needs no key for that.
    let known = server.application("confidential", json!({ "consent": "implied" })).await;
    let code = server.code(&known, &cookie, "openid read").await;
    let tokens = exchange(&server, &known, &key, &redeeming(&code)).await.expect(200).json();
    let shown = [("token", tokens["refresh_token"].as_str().unwrap())];
    call(&server, &known, "/oauth2/revoke", &shown, &[]).await.expect(200);
    assert!(!lives(tokens["access_token"].clone()).await);
}

/// RFC 7009 §2.1 asks a public client for no more than its id, and the libraries of clients send no proof there.
#[tokio::test]
async fn a_bound_refresh_token_is_given_up_without_a_proof() {
    let (server, app, cookie) = world("public", json!({})).await;
    let (key, other) = (Signer::es256(), server.application("public", json!({})).await);
    for scope in ["openid read", "openid offline_access"] {
        let code = server.code(&app, &cookie, scope).await;
        let tokens = exchange(&server, &app, &key, &redeeming(&code)).await.expect(200).json();
        let refresh = tokens["refresh_token"].as_str().unwrap();
        let again = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        // By another client it is nothing.
        call(&server, &other, "/oauth2/revoke", &[("token", refresh)], &[]).await.expect(200);
        let next = exchange(&server, &app, &key, &again).await.expect(200).json();
        let shown = [("token", next["refresh_token"].as_str().unwrap()), ("token_type_hint", "refresh_token")];
        call(&server, &app, "/oauth2/revoke", &shown, &[]).await.expect(200);
        let again = [("grant_type", "refresh_token"), shown[0]]
            .map(|(name, value)| if name == "token" { ("refresh_token", value) } else { (name, value) });
        let dead = exchange(&server, &app, &key, &again).await.expect(400);
        assert_eq!(dead.json()["error"], "invalid_grant", "{scope}");
        let access = next["access_token"].as_str().unwrap();
        let address = format!("{}/oauth2/userinfo", server.issuer);
        let proof = key.proof("GET", &address, now(&server), None, Some(access));
        let refused = userinfo(&server, "DPoP", access, Some(&proof)).await.expect_problem("token_revoked");
        // In the scheme that was used (RFC 9449 §7.1).
        let challenge = refused.header("www-authenticate");
        assert!(
            challenge.starts_with("DPoP error=\"invalid_token\", error_description=\"token_revoked\", algs=\""),
            "{challenge}"
        );
    }
}

#[tokio::test]
async fn a_device_code_is_redeemed_with_the_key_that_asked_for_it() {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
    let more = json!({ "redirect_uris": [], "grant_types": [GRANT, "refresh_token"] });
    let (server, app, cookie) = world("public", more).await;
    let (key, other) = (Signer::es256(), Signer::es256());
    let proof = proof_at(&server, &app, &key, "/oauth2/device").await;
    let begun = call(&server, &app, "/oauth2/device", &[("scope", "openid read")], &[&proof]).await.expect(200);
    assert!(!begun.header("dpop-nonce").is_empty());
    let begun = begun.json();
    let post = |path: &'static str, form: String| {
        let call = server.client.post(path).header("origin", &server.issuer);
        call.header("cookie", format!("__Host-portcullis_session={cookie}")).form(&form).send()
    };
    let page = post("/device", encode(&[("user_code", begun["user_code"].as_str().unwrap())])).await.expect(200).text();
    let hidden = |name: &str| {
        let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap();
        value.split('"').next().unwrap().to_owned()
    };
    let (code, shown) = (hidden("user_code"), hidden("shown"));
    let said = [("user_code", &*code), ("shown", &*shown), ("decision", "allow")];
    post("/device/answer", encode(&said)).await.expect(200);
    let pairs = [("grant_type", GRANT), ("device_code", begun["device_code"].as_str().unwrap())];
    let leaked = server.token(&app, &pairs).await.expect(400).json();
    assert_eq!(leaked["error"], "invalid_grant");
    let stolen = exchange(&server, &app, &other, &pairs).await.expect(400).json();
    assert_eq!(stolen["error"], "invalid_grant");
    let tokens = exchange(&server, &app, &key, &pairs).await.expect(200).json();
    assert_eq!(tokens["token_type"], "DPoP");
}

#[tokio::test]
async fn a_bound_token_is_exchanged_by_the_service_that_it_was_shown_to() {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
    const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
    const THERE: &str = "https://b.example/api";
    let (server, app, cookie) = world("public", json!({})).await;
    let key = Signer::es256();
    let code = server.code(&app, &cookie, "openid read").await;
    let tokens = exchange(&server, &app, &key, &redeeming(&code)).await.expect(200).json();
    let more = json!({
        "redirect_uris": [], "grant_types": [GRANT], "scopes": ["openid", "read"], "resources": [THERE],
    });
    let service = server.application("confidential", more).await;
    let pairs = [
        ("grant_type", GRANT),
        ("subject_token", tokens["access_token"].as_str().unwrap()),
        ("subject_token_type", ACCESS),
        ("resource", THERE),
    ];
    let told = call(&server, &service, "/oauth2/token", &pairs, &[]).await.expect(200).json();
    assert_eq!((told["token_type"].as_str(), told["scope"].as_str()), (Some("Bearer"), Some("openid read")));
    // Bound to the service's own key, if it shows one; never to the old token's.
    let own = Signer::es256();
    let proof = proof_at(&server, &app, &own, "/oauth2/token").await;
    let bound = call(&server, &service, "/oauth2/token", &pairs, &[&proof]).await.expect(200).json();
    assert_eq!(bound["token_type"], "DPoP");
}

#[tokio::test]
async fn proofs_that_lead_nowhere_have_an_end() {
    let (server, app, cookie) = world("public", json!({})).await;
    let (key, address) = (Signer::es256(), token_url(&server));
    let nonce = nonce(&server, &app, &key).await;
    let proof = || key.proof("POST", &address, now(&server), Some(&nonce), None);
    // What comes to something is given back: more of them than a network may waste.
    let code = server.code(&app, &cookie, "openid read").await;
    let mut tokens = call(&server, &app, "/oauth2/token", &redeeming(&code), &[&proof()]).await.expect(200).json();
    for _ in 0..260 {
        let refresh = tokens["refresh_token"].as_str().unwrap().to_owned();
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
        tokens = call(&server, &app, "/oauth2/token", &pairs, &[&proof()]).await.expect(200).json();
    }
    let wasted = [("grant_type", "authorization_code"), ("code", "none"), ("code_verifier", VERIFIER)];
    let mut refused = 0;
    let told = loop {
        let answer = call(&server, &app, "/oauth2/token", &wasted, &[&proof()]).await;
        if answer.status != 400 || refused == 400 {
            break answer.expect(429);
        }
        refused += 1;
    };
    assert!(refused >= 200, "{refused}");
    assert_eq!((told.json()["error"].as_str(), told.header("retry-after")), (Some("slow_down"), "1"));
    // A client that proves who it is goes on.
    let known = server.application("confidential", json!({})).await;
    call(&server, &known, "/oauth2/token", &wasted, &[&proof()]).await.expect(400);
}

//! What links to accounts elsewhere open, what a sign-in by one proves, and how they go.
use super::upstream::{Away, Jar, back, claims, header, hidden, leave, provider, server_with, sign_in, world};
use portcullis_app::UpstreamKind;
use portcullis_store::faulty::Mode;
use portcullis_testkit::application::{encode, request};
use portcullis_testkit::idp::Idp;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Application, TestServer, parameter};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

fn now() -> i64 {
    portcullis_app::real::wall().secs()
}

/// A browser that is signed in to the account with the password, which has a link to `sub` from now on.
async fn linked(idp: &Idp, server: &TestServer, sub: &str) -> Jar {
    let mut jar = Jar::default();
    let page = sign_in(idp, server, &mut jar, json!({ "sub": sub })).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    jar.post(server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await.expect(303);
    jar
}

/// A browser that comes by a link.
async fn entered(idp: &Idp, server: &TestServer, changes: Value) -> Jar {
    let mut jar = Jar::default();
    sign_in(idp, server, &mut jar, changes).await.expect(303);
    assert!(jar.is_in(server).await);
    jar
}

/// Begins to link somebody to the account of this browser; `None` when it must prove first who uses it.
async fn begin_linking(server: &TestServer, jar: &mut Jar) -> Option<Away> {
    let answer = jar.post(server, "/account/links/add", &[("upstream", "idp")]).await;
    if answer.status == 303 {
        assert!(answer.header("location").starts_with("/sign-in?again=1"));
        return None;
    }
    let page = answer.expect(200).text();
    let url = page.split("id=\"continue\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let url = url.replace("&amp;", "&").replace("&#x2f;", "/");
    let value = |name: &str| parameter(&url, name).unwrap();
    Some(Away { state: value("state"), nonce: value("nonce"), challenge: String::new() })
}

async fn links(server: &TestServer, access: &str) -> Vec<Value> {
    let all = server.client.get("/v1/me/links").bearer(access).send().await.expect(200).json();
    all["links"].as_array().unwrap().clone()
}

async fn ask(server: &TestServer, app: &Application, jar: &mut Jar, more: &[(&str, &str)]) -> String {
    let answer = jar.get(server, &format!("/oauth2/authorize?{}", request(app, more))).await;
    answer.expect(303).header("location").to_owned()
}

/// A provider that does not say when its user proved who they are may have sent the browser back without a word to them. So whoever
/// finds a browser that is signed in there does nothing with it that needs a proof.
#[tokio::test]
async fn a_silent_sign_in_proves_nothing() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    linked(&idp, &server, "sub-1").await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let mut silent = entered(&idp, &server, json!({})).await;
    assert!(begin_linking(&server, &mut silent).await.is_none());
    // Applications are told nothing that is not known, and one that wants a proof gets no code.
    let tokens = server.granted(&app, silent.session().unwrap(), "openid").await;
    for token in ["id_token", "access_token"] {
        let part = tokens[token].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let claims: Value = serde_json::from_slice(&portcullis_wire::b64::decode(&part).unwrap()).unwrap();
        assert!(claims.get("auth_time").is_none() && claims["iat"].is_i64(), "{token}: {claims}");
    }
    let form = encode(&[("token", tokens["access_token"].as_str().unwrap())]);
    let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret)).form(&form);
    let known = call.send().await.expect(200).json();
    assert!(known["active"] == true && known.get("auth_time").is_none(), "{known}");
    for max_age in ["0", "3600", "4000000000"] {
        let place = ask(&server, &app, &mut silent, &[("max_age", max_age)]).await;
        assert!(place.starts_with("/sign-in?again=1"), "{max_age}: {place}");
        let place = ask(&server, &app, &mut silent, &[("max_age", max_age), ("prompt", "none")]).await;
        assert_eq!(parameter(&place, "error").as_deref(), Some("login_required"), "{max_age}");
    }
    // The password proves it, and so does a provider that says when.
    let form = [("identifier", ADA), ("password", PASSWORD), ("again", "1"), ("return_to", "/account/links")];
    silent.post(&server, "/sign-in", &form).await.expect(303);
    assert!(begin_linking(&server, &mut silent).await.is_some());
    let mut told = entered(&idp, &server, json!({ "auth_time": now() - 60 })).await;
    assert!(begin_linking(&server, &mut told).await.is_some());
    let mut old = entered(&idp, &server, json!({ "auth_time": now() - 7200 })).await;
    assert!(begin_linking(&server, &mut old).await.is_none());
    // What no clock has said is not believed.
    let mut strange = entered(&idp, &server, json!({ "auth_time": -5 })).await;
    assert!(begin_linking(&server, &mut strange).await.is_none());
    // Who has no password has nothing better: signing in anew is the proof, for a while.
    let mut alone = entered(&idp, &server, json!({ "sub": "alone", "email": "alone@example.test" })).await;
    assert!(begin_linking(&server, &mut alone).await.is_some());
    let place = ask(&server, &app, &mut alone, &[("max_age", "3600")]).await;
    assert!(place.starts_with("/sign-in?again=1"), "an application is told nothing all the same: {place}");
    server.advance(3_600_001);
    assert!(begin_linking(&server, &mut alone).await.is_none());
}

/// Its clock may be a minute behind ours, and it says whole seconds: a proof that it was asked for is one.
#[tokio::test]
async fn a_provider_whose_clock_is_behind_proves_all_the_same() {
    let (idp, server) = world().await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let mut jar = entered(&idp, &server, json!({ "auth_time": now() - 600 })).await;
    for more in [[("prompt", "login")], [("max_age", "5")]] {
        let page = ask(&server, &app, &mut jar, &more).await;
        let again = parameter(&page, "return_to").unwrap();
        let path = format!("/upstream/idp?{}", encode(&[("again", "1"), ("return_to", &again)]));
        let away = leave(&server, &mut jar, &path).await;
        let mut claims = claims(&idp, &away);
        claims["auth_time"] = json!(now() - 30);
        idp.gives(&idp.sign(&header(), &claims));
        let place = back(&server, &mut jar, &idp, &away).await.expect(303).header("location").to_owned();
        assert!(place.starts_with("/oauth2/authorize?"), "{place}");
        let place = jar.get(&server, &place).await.expect(303).header("location").to_owned();
        assert!(parameter(&place, "code").is_some(), "{more:?}: {place}");
        server.advance(6_000);
    }
}

/// Whatever fails on the way: what is answered as removed lets nobody in, and nobody who had come by it is left.
#[tokio::test]
async fn a_link_is_gone_with_what_came_by_it_or_not_yet_gone() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    let ada = server.sign_in(ADA).await;
    let (mut stopped, mut through) = (0, 0);
    for mode in [Mode::Before, Mode::After] {
        for n in 1..=14 {
            let sub = format!("{mode:?}-{n}");
            linked(&idp, &server, &sub).await;
            let mut strangers = [
                entered(&idp, &server, json!({ "sub": sub })).await,
                entered(&idp, &server, json!({ "sub": sub })).await,
            ];
            let own = links(&server, &ada.access).await;
            let at = format!("/v1/me/links/{}", own[0]["id"].as_str().unwrap());
            let remove = || server.client.delete(&at).bearer(&ada.access).send();
            server.store.fail_at(n, mode);
            let first = remove().await.status;
            server.store.never_fail();
            match first.as_u16() {
                204 => through += 1,
                503 => {
                    stopped += 1;
                    let again = remove().await.status.as_u16();
                    assert!(matches!(again, 204 | 404), "{mode:?} {n}: {again}");
                }
                other => panic!("{mode:?} {n}: {other}"),
            }
            assert_eq!(links(&server, &ada.access).await, Vec::<Value>::new(), "{mode:?} {n}");
            for stranger in &mut strangers {
                assert!(!stranger.is_in(&server).await, "{mode:?} {n}: after {first}");
            }
            server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
        }
    }
    assert!(stopped >= 6 && through > 0, "{stopped} {through}");
}

/// A removal that stopped half way: the link opens nothing, does not count as a way in, and is not linked anew.
#[tokio::test]
async fn a_link_that_is_being_removed_is_none() {
    let (idp, server) = world().await;
    let mut jar = entered(&idp, &server, json!({ "sub": "sub-1", "auth_time": now() })).await;
    let away = begin_linking(&server, &mut jar).await.unwrap();
    let mut second = claims(&idp, &away);
    second["sub"] = json!("sub-2");
    idp.gives(&idp.sign(&header(), &second));
    back(&server, &mut jar, &idp, &away).await.expect(303);
    let ids = |page: String| -> Vec<String> {
        page.split("data-link=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let both = ids(jar.get(&server, "/account/links").await.text());
    let [first, second] = both.as_slice() else { panic!("{both:?}") };
    // Which operation it is that comes after the link was closed depends on what the background reads.
    for n in 4.. {
        server.store.fail_at(n, Mode::Before);
        let answer = jar.post(&server, "/account/links/remove", &[("link", second)]).await;
        server.store.never_fail();
        let page = jar.get(&server, "/account/links").await.expect(200).text();
        if answer.status == 503 && page.contains("its removal is not finished") {
            break;
        }
        assert!(answer.status == 503 && n < 40, "{n}: {}", answer.status);
    }
    let mut other = Jar::default();
    let answer = sign_in(&idp, &server, &mut other, json!({ "sub": "sub-2", "auth_time": now() })).await;
    assert!(answer.status == 409 && other.session().is_none(), "{}", answer.status);
    // The other one is the only way in now.
    jar.post(&server, "/account/links/remove", &[("link", first)]).await.expect(409);
    let away = begin_linking(&server, &mut jar).await.unwrap();
    let mut same = claims(&idp, &away);
    same["sub"] = json!("sub-2");
    idp.gives(&idp.sign(&header(), &same));
    back(&server, &mut jar, &idp, &away).await.expect(409);
    jar.post(&server, "/account/links/remove", &[("link", second)]).await.expect(303);
    assert_eq!(ids(jar.get(&server, "/account/links").await.text()), std::slice::from_ref(first));
}

/// Sixteen, also when many are added at the same moment.
#[tokio::test]
async fn links_are_counted_under_a_lock() {
    let (idp, server) = world().await;
    let mut jar = entered(&idp, &server, json!({ "auth_time": now() })).await;
    let mut ready = vec![];
    for n in 0..24 {
        let away = begin_linking(&server, &mut jar).await.unwrap();
        let mut claims = claims(&idp, &away);
        claims["sub"] = json!(format!("more-{n}"));
        idp.gives_for(&format!("code-{n}"), &idp.sign(&header(), &claims));
        ready.push(encode(&[("state", &away.state), ("code", &format!("code-{n}")), ("iss", &idp.issuer)]));
    }
    let mut calls = tokio::task::JoinSet::new();
    for query in ready {
        let (client, cookie) = (server.client.clone(), jar.text());
        let path = format!("/upstream/idp/callback?{query}");
        calls.spawn(async move { client.get(path).header("cookie", cookie).send().await });
    }
    let mut linked = 0;
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        match (answer.status.as_u16(), answer.header("location")) {
            (303, "/account/links?done=back") => linked += 1,
            (409 | 503, _) => {}
            other => panic!("{other:?}"),
        }
    }
    let page = jar.get(&server, "/account/links").await.text();
    assert!(page.matches("data-link").count() <= 16, "{}", page.matches("data-link").count());
    assert!((1..=15).contains(&linked), "{linked}");
}

/// A link that an intruder has added outlives a new password, unless its owner says so; it is shown where they look.
#[tokio::test]
async fn a_new_password_takes_links_away_when_asked() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    linked(&idp, &server, "sub-1").await;
    let ada = server.sign_in(ADA).await;
    let mut intruder = entered(&idp, &server, json!({})).await;
    let page = intruder.get(&server, "/account/devices").await.text();
    assert!(page.contains("can sign in again") && page.contains("Provider idp (ada@example.test)"), "{page}");
    let change = |from: &str, to: &str, more: Value| {
        let mut body = json!({ "current_password": from, "new_password": to });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.client.post("/v1/me/password").bearer(&ada.access).json(&body).send()
    };
    let (second, third) = ("another good password", "a third good password");
    change(PASSWORD, second, json!({})).await.expect(200);
    assert!(!intruder.is_in(&server).await);
    let mut intruder = entered(&idp, &server, json!({})).await;
    change("wrong", third, json!({ "end_links": true })).await.expect(401);
    assert!(intruder.is_in(&server).await && links(&server, &ada.access).await.len() == 1);
    change(second, third, json!({ "end_links": true })).await.expect(200);
    assert_eq!(links(&server, &ada.access).await, Vec::<Value>::new());
    assert!(!intruder.is_in(&server).await);
    // Now they are a stranger, who would have to know the password.
    let mut outside = Jar::default();
    sign_in(&idp, &server, &mut outside, json!({})).await.expect(200);
    assert!(outside.session().is_none());
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
}

/// Only providers that can have their user prove anew are asked to.
#[tokio::test]
async fn nobody_is_sent_to_prove_anew_where_that_cannot_be() {
    let hub = Idp::start().await;
    let server = server_with(vec![provider("github", &hub.issuer, UpstreamKind::GitHub)]).await;
    let mut jar = Jar::default();
    jar.get(&server, "/upstream/github?again=1").await.expect(404);
    jar.get(&server, "/upstream/github").await.expect(303);
}

/// Whom a provider brings without address and name can still tell as whom they are signed in.
#[tokio::test]
async fn who_has_neither_address_nor_name_is_called_by_their_account() {
    let (idp, server) = world().await;
    idp.says("/userinfo", 200, &json!({ "sub": "sub-1" }));
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({ "email": null, "email_verified": null, "name": null })).await.expect(303);
    let app = server.application("confidential", json!({ "consent": "ask" })).await;
    let consent = format!("/oauth2/authorize?{}", request(&app, &[]));
    for page in ["/account/devices", "/account/links", "/account/apps", &consent, "/device", "/oauth2/logout"] {
        let text = jar.get(&server, page).await.expect(200).text();
        assert!(text.contains("an account without a name (acc_"), "{page}: {text}");
        assert!(!text.contains("None"), "{page}: {text}");
    }
}

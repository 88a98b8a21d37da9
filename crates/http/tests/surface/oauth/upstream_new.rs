//! Somebody new whom another provider sends: they are asked whether they want an account, and only their yes makes one.
use super::upstream::{
    Jar, NEW, agreed, back, came_back, claims, header, hidden, is_refused, leave, now, sign_in, world,
};
use portcullis_testkit::application::{encode, request};
use portcullis_testkit::{TestServer, parameter};
use portcullis_wire::{Digest, b64};
use serde_json::json;

const ADA: &str = "ada@example.test";
const PASSWORD: &str = portcullis_testkit::server::PASSWORD;

#[tokio::test]
async fn somebody_new_gets_an_account_and_comes_back_to_it() {
    let (idp, server) = world().await;
    let page = server.client.get("/sign-in?return_to=%2Faccount%2Fapps").send().await.expect(200).text();
    assert!(page.contains("Continue with Provider idp"), "{page}");
    let mut jar = Jar::default();
    let away = leave(&server, &mut jar, "/upstream/idp?return_to=%2Faccount%2Fapps").await;
    idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
    let answer = back(&server, &mut jar, &idp, &away).await;
    let answer = agreed(&server, &mut jar, answer).await.expect(303);
    assert_eq!(answer.header("location"), "/account/apps");
    assert!(jar.is_in(&server).await);
    // The code was exchanged by the verifier of the challenge, by a client that proved who it is.
    let calls = idp.calls();
    let (_, authorization, body) = calls.iter().find(|(path, ..)| path == "/token").unwrap();
    let verifier = parameter(&format!("?{body}"), "code_verifier").unwrap();
    assert_eq!(b64::encode(&Digest::of(verifier.as_bytes()).0), away.challenge);
    assert!(authorization.starts_with("Basic ") && !body.contains("client_secret"));
    // Again: the same account, and one more session.
    let mut other = Jar::default();
    sign_in(&idp, &server, &mut other, json!({ "email": "moved@example.test" })).await.expect(303);
    let page = other.get(&server, "/account/devices").await.expect(200).text();
    assert!(page.contains("Ada") && page.matches("class=\"device\"").count() >= 2, "{page}");
    let links = other.get(&server, "/account/links").await.expect(200).text();
    assert!(links.contains("Provider idp") && links.contains(ADA));
    // Nobody else's address was taken, and it has no password.
    let body = json!({ "identifier": ADA, "password": PASSWORD });
    server.client.post("/v1/sessions").json(&body).send().await.expect(401);
}

/// The ids of all accounts, and how many sessions the account of this address has.
async fn standing(server: &TestServer) -> (usize, Option<usize>) {
    let admin = server.admin().await;
    let get = |path: String| server.client.get(path).bearer(&admin.access).send();
    let all = get("/v1/admin/accounts?limit=100".into()).await.expect(200).json()["accounts"].clone();
    let all = all.as_array().unwrap();
    let Some(own) = all.iter().find(|row| row["email"] == ADA) else { return (all.len(), None) };
    let path = format!("/v1/admin/accounts/{}/sessions", own["id"].as_str().unwrap());
    let sessions = get(path).await.expect(200).json()["sessions"].as_array().unwrap().len();
    (all.len(), Some(sessions))
}

/// Somebody new is asked; only a yes makes an account and a session, once.
#[tokio::test]
async fn nobody_new_has_an_account_before_they_said_yes() {
    let (idp, server) = world().await;
    let before = standing(&server).await;
    let mut jar = Jar::default();
    let asked = came_back(&idp, &server, &mut jar, json!({})).await.expect(200);
    assert_eq!(asked.header("cache-control"), "no-store");
    let page = asked.text();
    for part in ["Make a new account?", "Provider idp", "Ada (ada@example.test)"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!((jar.session(), standing(&server).await), (None, before));
    // No is no, and the question is answered.
    let ticket = hidden(&page, "ticket");
    let no = jar.post(&server, NEW, &[("ticket", &ticket), ("decision", "no")]).await;
    assert!(is_refused(&no, "upstream-declined"));
    let late = jar.post(&server, NEW, &[("ticket", &ticket), ("decision", "yes")]).await;
    assert!(is_refused(&late, "upstream-stale"));
    assert_eq!((jar.session(), standing(&server).await), (None, before));
    // Yes is yes, once.
    let page = came_back(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    let form = [("ticket", &*hidden(&page, "ticket")), ("decision", "yes")];
    let mut second = jar.clone();
    assert_eq!(jar.post(&server, NEW, &form).await.expect(303).header("location"), "/account/devices");
    assert!(is_refused(&second.post(&server, NEW, &form).await, "upstream-stale"));
    assert!(jar.is_in(&server).await && second.session().is_none());
    assert_eq!(standing(&server).await, (before.0 + 1, Some(1)));
    // From now on nothing is asked.
    came_back(&idp, &server, &mut Jar::default(), json!({})).await.expect(303);
}

/// An answer counts in the browser that was asked, from a page of ours, for ten minutes; of many at once one does.
#[tokio::test]
async fn the_answer_of_somebody_new_is_their_own() {
    let (idp, server) = world().await;
    let before = standing(&server).await;
    let mut jar = Jar::default();
    let page = came_back(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    let form = [("ticket", &*ticket), ("decision", "yes")];
    let foreign = server.client.post(NEW).header("cookie", jar.text());
    foreign.header("origin", "https://evil.example").form(&encode(&form)).send().await.expect(403);
    let mut other = Jar::default();
    assert!(is_refused(&other.post(&server, NEW, &form).await, "upstream-stale"));
    leave(&server, &mut other, "/upstream/idp").await;
    assert!(is_refused(&other.post(&server, NEW, &form).await, "upstream-stale"));
    for wrong in ["", "x", &"x".repeat(5000)] {
        let answer = jar.post(&server, NEW, &[("ticket", wrong), ("decision", "yes")]).await;
        assert!(is_refused(&answer, "upstream-stale"), "{wrong}");
    }
    jar.post(&server, NEW, &[("ticket", &ticket)]).await.expect(400);
    // Neither is it the ticket of the other question.
    let answer = jar.post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await;
    assert!(is_refused(&answer, "upstream-stale"));
    // Nor a sign-in under way, by whatever is shown as its state; the question is still there.
    let query = encode(&[("state", &*format!("new:{ticket}")), ("code", "x")]);
    let answer = jar.get(&server, &format!("/upstream/idp/callback?{query}")).await;
    assert!(is_refused(&answer, "upstream-stale"));
    assert_eq!(standing(&server).await, before);
    let calls = (0..8).map(|_| {
        let mut jar = jar.clone();
        let (server, form) = (&server, &form);
        async move { jar.post(server, NEW, form).await.header("location").to_owned() }
    });
    let told = futures_util::future::join_all(calls).await;
    assert_eq!(told.iter().filter(|place| *place == "/account/devices").count(), 1, "{told:?}");
    assert_eq!(standing(&server).await, (before.0 + 1, Some(1)));
    // Not for ever; and no longer than twenty minutes after it began, however late the provider's answer came.
    let mut ahead = 0;
    for (away_for, asked_for, in_time) in [(0, 600_000, false), (590_000, 590_000, true)] {
        let mut slow = Jar::default();
        let away = leave(&server, &mut slow, "/upstream/idp").await;
        server.advance(away_for);
        let mut claims = claims(&idp, &away);
        (claims["sub"], claims["email"]) = (json!(format!("s{away_for}")), json!(format!("s{away_for}@example.test")));
        // Its clock goes on as ours does.
        let theirs = now() + (ahead + away_for) / 1000;
        (claims["iat"], claims["exp"]) = (json!(theirs), json!(theirs + 60));
        ahead += away_for + asked_for;
        idp.gives(&idp.sign(&header(), &claims));
        let page = back(&server, &mut slow, &idp, &away).await.expect(200).text();
        server.advance(asked_for);
        let form = [("ticket", &*hidden(&page, "ticket")), ("decision", "yes")];
        let answer = slow.post(&server, NEW, &form).await;
        assert_eq!(is_refused(&answer, "upstream-stale"), !in_time, "{away_for}");
        assert_eq!(slow.session().is_some(), in_time, "{away_for}");
    }
}

/// Any page may send a browser to a provider, which may send it back without a word: that makes nobody an account.
#[tokio::test]
async fn a_link_that_somebody_follows_makes_no_account() {
    let (idp, server) = world().await;
    server.sign_up("eve@example.test").await;
    let before = standing(&server).await;
    let signed_in = server.page_sign_in("eve@example.test").await;
    for mut jar in [Jar::of(&signed_in), Jar::default()] {
        let place = "/sign-in?return_to=%2Fupstream%2Fidp%3Freturn_to%3D%252Faccount%252Fapps";
        if jar.session().is_some() {
            assert!(jar.get(&server, place).await.expect(303).header("location").starts_with("/upstream/idp?"));
        }
        let away = leave(&server, &mut jar, "/upstream/idp?return_to=%2Faccount%2Fapps").await;
        idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
        let page = back(&server, &mut jar, &idp, &away).await.expect(200).text();
        assert!(page.contains("Make a new account?"), "{page}");
        assert_eq!(standing(&server).await, before);
    }
    // Whoever was signed in is that still.
    assert!(Jar::of(&signed_in).is_in(&server).await);
}

/// What happens while somebody is asked counts when they answer.
#[tokio::test]
async fn what_changed_while_somebody_new_was_asked_counts() {
    let (idp, server) = world().await;
    let mut jar = Jar::default();
    let page = came_back(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    // The address has an account by now: they prove that it is theirs.
    let account = server.sign_up(ADA).await;
    let form = [("ticket", &*hidden(&page, "ticket")), ("decision", "yes")];
    let page = jar.post(&server, NEW, &form).await.expect(200).text();
    assert!(page.contains("Is this your account?") && jar.session().is_none(), "{page}");
    let form = [("ticket", &*hidden(&page, "ticket")), ("password", PASSWORD)];
    jar.post(&server, "/upstream/confirm", &form).await.expect(303);
    assert_eq!(server.sign_in(ADA).await.account, account);
    assert!(jar.is_in(&server).await);
    // An application's request goes on by the form, wherever it leads.
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let mut other = Jar::default();
    let path =
        format!("/upstream/idp?{}", encode(&[("return_to", &format!("/oauth2/authorize?{}", request(&app, &[])))]));
    let away = leave(&server, &mut other, &path).await;
    let mut claims = claims(&idp, &away);
    (claims["sub"], claims["email"]) = (json!("new"), json!("new@example.test"));
    idp.gives(&idp.sign(&header(), &claims));
    let asked = back(&server, &mut other, &idp, &away).await.expect(200);
    assert!(!asked.header("content-security-policy").contains("form-action"));
    let went = agreed(&server, &mut other, asked).await.expect(303);
    let place = other.get(&server, went.header("location")).await.expect(303).header("location").to_owned();
    assert!(parameter(&place, "code").is_some(), "{place}");
}

//! `/upstream/{id}/backchannel-logout`: another provider says that somebody signed out there.
use super::upstream::{Jar, agreed, back, claims, header, leave, sign_in, world};
use portcullis_testkit::application::encode;
use portcullis_testkit::idp::Idp;
use portcullis_testkit::{Answer, TestServer};
use serde_json::{Value, json};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn now() -> i64 {
    portcullis_app::real::wall().secs()
}

/// An honest logout token with these changes; `null` takes a claim away.
fn token(idp: &Idp, jti: &str, changes: Value) -> String {
    let mut claims = json!({
        "iss": idp.issuer, "aud": "us", "iat": now(), "exp": now() + 120, "jti": jti, "events": { EVENT: {} },
        "sub": "sub-1", "sid": "sid-1",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    idp.sign(&json!({ "alg": "ES256", "kid": "k1", "typ": "logout+jwt" }), &claims)
}

async fn tell(server: &TestServer, token: &str) -> Answer {
    let form = encode(&[("logout_token", token)]);
    server.client.post("/upstream/idp/backchannel-logout").form(&form).send().await
}

async fn entered(idp: &Idp, server: &TestServer, sub: &str, sid: &str) -> Jar {
    let mut jar = Jar::default();
    let changes = json!({ "sub": sub, "sid": sid, "email": format!("{sub}@example.test") });
    sign_in(idp, server, &mut jar, changes).await.expect(303);
    assert!(jar.is_in(server).await);
    jar
}

#[tokio::test]
async fn what_came_from_there_ends_and_nothing_else() {
    let (idp, server) = world().await;
    let mut one = entered(&idp, &server, "sub-1", "sid-1").await;
    let mut two = entered(&idp, &server, "sub-1", "sid-2").await;
    let mut eve = entered(&idp, &server, "sub-2", "sid-3").await;
    // Of one session there.
    let answer = tell(&server, &token(&idp, "1", json!({}))).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!one.is_in(&server).await && two.is_in(&server).await && eve.is_in(&server).await);
    // A session and a subject that do not belong together are nobody's.
    tell(&server, &token(&idp, "2", json!({ "sub": "sub-1", "sid": "sid-3" }))).await.expect(200);
    assert!(two.is_in(&server).await && eve.is_in(&server).await);
    // Of everything of a person there, with tokens that applications got under it.
    tell(&server, &token(&idp, "3", json!({ "sid": null }))).await.expect(200);
    assert!(!two.is_in(&server).await && eve.is_in(&server).await);
    // By the session alone.
    tell(&server, &token(&idp, "4", json!({ "sub": null, "sid": "sid-3" }))).await.expect(200);
    assert!(!eve.is_in(&server).await);
    // Nobody is signed in any more: that is what was wanted.
    tell(&server, &token(&idp, "5", json!({}))).await.expect(200);
    let admin = server.admin().await;
    let path = "/v1/admin/events?kind=session.ended";
    let events = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(events["events"][0]["reason"], "signed_out_upstream");
}

#[tokio::test]
async fn only_a_logout_token_of_this_provider_counts_and_once() {
    let (idp, server) = world().await;
    let stranger = Idp::start().await;
    let mut jar = entered(&idp, &server, "sub-1", "sid-1").await;
    let wrong = [
        ("another client's", json!({ "aud": "somebody else" })),
        ("another issuer's", json!({ "iss": stranger.issuer })),
        ("with a nonce", json!({ "nonce": "n" })),
        ("without the event", json!({ "events": {} })),
        ("another event", json!({ "events": { "https://example.test/event": {} } })),
        ("an event that is none", json!({ "events": { EVENT: true } })),
        ("old", json!({ "iat": now() - 3600, "exp": null })),
        ("of the future", json!({ "iat": now() + 3600 })),
        ("expired", json!({ "exp": now() - 120 })),
        ("without an id", json!({ "jti": null })),
        ("about nobody", json!({ "sub": null, "sid": null })),
        ("about too much", json!({ "sub": "x".repeat(300) })),
    ];
    for (what, changes) in wrong {
        let answer = tell(&server, &token(&idp, what, changes)).await;
        assert_eq!((answer.status.as_u16(), answer.json()["error"].as_str()), (400, Some("invalid_request")), "{what}");
    }
    let away = leave(&server, &mut jar.clone(), "/upstream/idp").await;
    let id_token = idp.sign(&header(), &claims(&idp, &away));
    for (what, token) in [
        ("an ID token", id_token.as_str()),
        ("a stranger's", &token(&stranger, "1", json!({ "iss": idp.issuer }))),
        ("garbage", "a.b.c"),
        ("nothing", ""),
    ] {
        assert_eq!(tell(&server, token).await.status, 400, "{what}");
    }
    server.client.post("/upstream/idp/backchannel-logout").form("x=y").send().await.expect(400);
    server.client.post("/upstream/nobody/backchannel-logout").form("logout_token=x").send().await.expect(404);
    assert!(jar.is_in(&server).await);
    let token = token(&idp, "once", json!({}));
    tell(&server, &token).await.expect(200);
    assert!(!jar.is_in(&server).await);
    // The provider may not have got the answer. What was done is not done again.
    let mut later = entered(&idp, &server, "sub-1", "sid-1").await;
    tell(&server, &token).await.expect(200);
    assert!(later.is_in(&server).await);
}

#[tokio::test]
async fn a_sign_in_that_was_under_way_does_not_come_through() {
    let (idp, server) = world().await;
    entered(&idp, &server, "sub-1", "sid-1").await;
    let mut jar = Jar::default();
    let away = leave(&server, &mut jar, "/upstream/idp").await;
    idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
    tell(&server, &token(&idp, "1", json!({}))).await.expect(200);
    back(&server, &mut jar, &idp, &away).await.expect(409);
    assert!(!jar.is_in(&server).await);
    // One that begins later does.
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    assert!(jar.is_in(&server).await);
}

/// Who signs out there while they are asked here whether they want an account has said no.
#[tokio::test]
async fn a_question_that_was_open_is_answered_by_it() {
    let (idp, server) = world().await;
    let mut jar = Jar::default();
    let away = leave(&server, &mut jar, "/upstream/idp").await;
    idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
    let asked = back(&server, &mut jar, &idp, &away).await.expect(200);
    tell(&server, &token(&idp, "1", json!({}))).await.expect(200);
    agreed(&server, &mut jar, asked).await.expect(409);
    assert!(!jar.is_in(&server).await);
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    assert!(jar.is_in(&server).await);
}

/// The provider names its session only, of which nothing here has come yet; or a person who has no link yet.
#[tokio::test]
async fn a_sign_in_of_whom_nothing_is_known_here_does_not_come_through_either() {
    let (idp, server) = world().await;
    for (n, (sub, said)) in [
        ("sub-1", json!({ "sub": null, "sid": "sid-9" })),
        ("new-1", json!({ "sub": "new-1", "sid": null })),
        ("new-2", json!({ "sub": "new-2", "sid": "sid-9" })),
    ]
    .into_iter()
    .enumerate()
    {
        if n == 0 {
            entered(&idp, &server, "sub-1", "sid-1").await;
        }
        let mut jar = Jar::default();
        let away = leave(&server, &mut jar, "/upstream/idp").await;
        let mut claims = claims(&idp, &away);
        (claims["sub"], claims["sid"]) = (json!(sub), json!("sid-9"));
        claims["email"] = json!(format!("{sub}@example.test"));
        idp.gives(&idp.sign(&header(), &claims));
        tell(&server, &token(&idp, &format!("1-{n}"), said.clone())).await.expect(200);
        // Once more, by another token: what is kept is one row.
        tell(&server, &token(&idp, &format!("2-{n}"), said)).await.expect(200);
        back(&server, &mut jar, &idp, &away).await.expect(409);
        assert!(!jar.is_in(&server).await, "{sub}");
        // One that begins later does.
        entered(&idp, &server, sub, "sid-9").await;
    }
}

/// Both at the same moment: whichever was first, nobody is in who has signed out.
#[tokio::test]
async fn a_sign_in_and_its_logout_at_the_same_moment() {
    let (idp, server) = world().await;
    entered(&idp, &server, "sub-1", "sid-1").await;
    for n in 0..40 {
        let mut jar = Jar::default();
        let away = leave(&server, &mut jar, "/upstream/idp").await;
        let sid = format!("sid-{n}");
        let mut claims = claims(&idp, &away);
        (claims["sub"], claims["sid"]) = (json!("sub-1"), json!(sid));
        idp.gives(&idp.sign(&header(), &claims));
        let logout = token(&idp, &sid, json!({ "sub": null, "sid": sid }));
        let later = std::time::Duration::from_micros(150 * n);
        let (told, answer) = tokio::join!(
            async {
                tokio::time::sleep(later).await;
                tell(&server, &logout).await
            },
            back(&server, &mut jar, &idp, &away)
        );
        told.expect(200);
        assert!(matches!(answer.status.as_u16(), 303 | 409), "{}", answer.status);
        assert!(!jar.is_in(&server).await, "{n}");
    }
}

//! Devices without a browser: `/oauth2/device`, `/device`, and the grant type (RFC 8628).
use super::machine::{claims, judged, refused, soon_refused};
use portcullis_testkit::application::{Application, encode};
use portcullis_testkit::{Answer, Options, TestServer};
use portcullis_wire::Code;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn television(server: &TestServer) -> Application {
    let more = json!({ "name": "A television", "redirect_uris": [], "grant_types": [GRANT, "refresh_token"] });
    server.application("public", more).await
}

async fn begin(server: &TestServer, app: &Application, more: &[(&str, &str)]) -> Answer {
    let form = encode(&[&[("client_id", app.id.as_str())], more].concat());
    server.client.post("/oauth2/device").form(&form).send().await
}

async fn begun(server: &TestServer, app: &Application) -> (String, String) {
    let told = begin(server, app, &[("scope", "openid read")]).await.expect(200).json();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    (text("device_code"), text("user_code"))
}

async fn poll(server: &TestServer, app: &Application, code: &str) -> Answer {
    server.token(app, &[("grant_type", GRANT), ("device_code", code)]).await
}

async fn post(server: &TestServer, cookie: &str, path: &str, pairs: &[(&str, &str)]) -> Answer {
    let call = server.client.post(path).header("origin", &server.issuer);
    call.header("cookie", format!("__Host-portcullis_session={cookie}")).form(&encode(pairs)).send().await
}

/// Types the code, and answers the question that it leads to.
async fn answer(server: &TestServer, cookie: &str, code: &str, decision: &str) -> Answer {
    let page = post(server, cookie, "/device", &[("user_code", code)]).await;
    if page.status != 200 {
        return page;
    }
    let html = page.text();
    let hidden =
        |name: &str| html.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap().split('"').next().unwrap();
    let pairs = [("user_code", hidden("user_code")), ("shown", hidden("shown")), ("decision", decision)];
    post(server, cookie, "/device/answer", &pairs).await
}

async fn world() -> (TestServer, Application, String) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = television(&server).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

#[tokio::test]
async fn a_device_gets_a_session_of_its_own_once_its_user_said_yes() {
    let (server, app, cookie) = world().await;
    let told = begin(&server, &app, &[("scope", "openid read unknown")]).await.expect(200);
    assert_eq!(told.header("cache-control"), "no-store");
    let told = told.json();
    let (code, user_code) = (told["device_code"].as_str().unwrap(), told["user_code"].as_str().unwrap());
    assert_eq!((told["expires_in"].as_i64(), told["interval"].as_i64()), (Some(600), Some(5)));
    assert_eq!(told["verification_uri"], format!("{}/device", server.issuer));
    assert_eq!(told["verification_uri_complete"], format!("{}/device?user_code={user_code}", server.issuer));
    assert_eq!(refused(poll(&server, &app, code).await), "authorization_pending");
    // The link alone does nothing but fill in the field.
    let link = format!("/device?user_code={user_code}");
    let away = server.client.get(&*link).send().await.expect(303);
    assert!(away.header("location").starts_with("/sign-in?return_to=%2Fdevice%3Fuser_code%3D"));
    let page = server.client.get(&*link).header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
    let html = page.expect(200).text();
    assert!(
        html.contains(&format!("value=\"{}\"", user_code.replace('-', ""))) && !html.contains("television"),
        "{html}"
    );
    // The question names the client, what it wants, and says what to beware of.
    let spelled = user_code.to_lowercase().replace('-', " ");
    let html = post(&server, &cookie, "/device", &[("user_code", &spelled)]).await.expect(200).text();
    for part in ["Let A television in?", "Know who you are here", "<code>read</code>", "Say yes only if", user_code] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert_eq!(refused(poll(&server, &app, code).await), "slow_down", "at once again");
    answer(&server, &cookie, user_code, "allow").await.expect(200);
    let tokens = poll(&server, &app, code).await.expect(200).json();
    assert_eq!((tokens["scope"].as_str(), judged(&server, &tokens)), (Some("openid read"), Ok(())));
    assert_eq!(claims(&tokens["id_token"])["sub"], claims(&tokens["access_token"])["sub"]);
    // It is a device among devices, outlives the browser's session, and is ended like any.
    let ada = server.sign_in(ADA).await;
    let list = server.client.get("/v1/me/sessions").bearer(&ada.access).send().await.expect(200).json();
    let sid = claims(&tokens["access_token"])["sid"].clone();
    let row = list["sessions"].as_array().unwrap().iter().find(|row| row["id"] == sid).unwrap().clone();
    assert_eq!((row["kind"].as_str(), row["device_name"].as_str()), (Some("connected_app"), Some("A television")));
    post(&server, &cookie, "/sign-out", &[]).await.expect(303);
    let next = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
    // Asked once more, the device code gives nothing, and ends nothing.
    assert_eq!(refused(poll(&server, &app, code).await), "invalid_grant");
    assert_eq!(judged(&server, &next), Ok(()));
    let path = format!("/v1/me/sessions/{}", sid.as_str().unwrap());
    server.client.delete(path).bearer(&ada.access).send().await.expect(200);
    soon_refused(&server, &next, Code::TokenRevoked).await;
    assert_eq!(refused(server.refresh_for(&app, next["refresh_token"].as_str().unwrap()).await), "invalid_grant");
}

/// What its user proves after the yes is not the device's to say (OpenID Connect Core §12.2).
#[tokio::test]
async fn a_device_says_how_its_user_had_signed_in_when_they_said_yes() {
    let (server, app, cookie) = world().await;
    server.advance(60_000);
    let (code, user_code) = begun(&server, &app).await;
    answer(&server, &cookie, &user_code, "allow").await.expect(200);
    server.advance(30_000);
    let form = [("identifier", ADA), ("password", portcullis_testkit::server::PASSWORD)];
    let proven = post(&server, &cookie, "/sign-in", &form).await.expect(303);
    let proven = proven.cookie("__Host-portcullis_session").unwrap();
    let first = poll(&server, &app, &code).await.expect(200).json();
    let next = server.refresh_for(&app, first["refresh_token"].as_str().unwrap()).await.expect(200).json();
    let said =
        |tokens: &Value| ["id_token", "access_token"].map(|one| claims(&tokens[one])["auth_time"].as_i64().unwrap());
    let [at, _] = said(&first);
    assert_eq!((said(&first), said(&next)), ([at; 2], [at; 2]));
    // Who says yes after the proof says it.
    let (code, user_code) = begun(&server, &app).await;
    answer(&server, &proven, &user_code, "allow").await.expect(200);
    let later = poll(&server, &app, &code).await.expect(200).json();
    assert!(said(&later)[0] >= at + 90, "{at} {:?}", said(&later));
}

#[tokio::test]
async fn who_asks_too_often_must_ask_more_slowly() {
    let (server, app, _) = world().await;
    let (code, _) = begun(&server, &app).await;
    let ask = || async { poll(&server, &app, &code).await.expect(400).json() };
    assert_eq!(ask().await["error"], "authorization_pending");
    for interval in [10, 15, 20] {
        let told = ask().await;
        assert_eq!(told["error"], "slow_down");
        assert_eq!(told["error_description"], format!("ask every {interval} seconds at most"));
    }
    server.advance(19_000);
    assert_eq!(ask().await["error"], "slow_down");
    server.advance(25_000);
    assert_eq!(ask().await["error"], "authorization_pending", "it kept to it");
    server.advance(600_000);
    assert_eq!(ask().await["error"], "expired_token");
    // Of twelve at once one is in time.
    let (code, _) = begun(&server, &app).await;
    let told = futures_util::future::join_all((0..12).map(|_| poll(&server, &app, &code))).await;
    let pending = told.into_iter().filter(|told| told.json()["error"] == "authorization_pending").count();
    assert_eq!(pending, 1);
}

#[tokio::test]
async fn no_means_no() {
    let (server, app, cookie) = world().await;
    let (code, user_code) = begun(&server, &app).await;
    let html = answer(&server, &cookie, &user_code, "deny").await.expect(200).text();
    assert!(html.contains("Refused."));
    assert_eq!(refused(poll(&server, &app, &code).await), "access_denied");
    answer(&server, &cookie, &user_code, "allow").await.expect(404);
    assert_eq!(refused(poll(&server, &app, &code).await), "access_denied");
}

#[tokio::test]
async fn codes_are_for_one_client_one_user_and_one_use() {
    let (server, app, cookie) = world().await;
    let other = television(&server).await;
    let (code, user_code) = begun(&server, &app).await;
    let (_, strange) = begun(&server, &other).await;
    // Another client's device code, a user code as one, an unknown one, none.
    assert_eq!(refused(poll(&server, &other, &code).await), "invalid_grant");
    for wrong in [&*user_code, "pcd_unknown", &*strange] {
        assert_eq!(refused(poll(&server, &app, wrong).await), "invalid_grant");
    }
    assert_eq!(refused(server.token(&app, &[("grant_type", GRANT)]).await), "invalid_request");
    // The answer is to what was shown: another question's mark asks again.
    let html = post(&server, &cookie, "/device", &[("user_code", &strange)]).await.expect(200).text();
    let mark = html.split("name=\"shown\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let mixed = [("user_code", &*user_code), ("shown", mark), ("decision", "allow")];
    let again = post(&server, &cookie, "/device/answer", &mixed).await.expect(200).text();
    assert!(again.contains("Say yes only if"), "it is asked, not done");
    assert_eq!(refused(poll(&server, &app, &code).await), "authorization_pending");
    answer(&server, &cookie, &user_code, "allow").await.expect(200);
    // Used: nobody answers it again, and of many who ask at once one gets tokens.
    server.sign_up("eve@example.test").await;
    let eve = server.page_sign_in("eve@example.test").await;
    answer(&server, &eve, &user_code, "allow").await.expect(404);
    let told = futures_util::future::join_all((0..8).map(|_| poll(&server, &app, &code))).await;
    assert_eq!(told.iter().filter(|told| told.status == 200).count(), 1);
}

#[tokio::test]
async fn what_a_device_may_not_ask_for() {
    let (server, app, _) = world().await;
    assert_eq!(refused(begin(&server, &app, &[("scope", "admin")]).await), "invalid_scope");
    assert_eq!(refused(begin(&server, &app, &[("resource", "https://a.example/")]).await), "invalid_target");
    let web = server.application("public", json!({})).await;
    assert_eq!(refused(begin(&server, &web, &[]).await), "unauthorized_client");
    assert_eq!(refused(poll(&server, &web, "x").await), "unauthorized_client");
    let secret = server.application("confidential", json!({ "redirect_uris": [], "grant_types": [GRANT] })).await;
    assert_eq!(begin(&server, &secret, &[]).await.expect(401).json()["error"], "invalid_client");
    let twice = begin(&server, &app, &[("scope", "read"), ("scope", "openid")]).await;
    assert_eq!(refused(twice), "invalid_request");
}

#[tokio::test]
async fn an_end_between_the_request_and_the_answer_kills_it() {
    let (server, app, cookie) = world().await;
    let admin = server.admin().await;
    let ada = server.sign_in(ADA).await.account;
    let call = |path: String, body: Value| {
        let (server, admin) = (&server, &admin);
        async move { server.client.post(path).bearer(&admin.access).json(&body).send().await.expect(200) }
    };
    let switch = |off: bool| {
        let body = json!({ "disabled": off });
        server.client.patch(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access).json(&body).send()
    };
    // The browser's session is spared; what the device began before is not.
    let (_, user_code) = begun(&server, &app).await;
    post(&server, &cookie, "/account/devices/end-others", &[]).await.expect(303);
    answer(&server, &cookie, &user_code, "allow").await.expect(404);
    for round in 0..3 {
        let (code, user_code) = begun(&server, &app).await;
        match round {
            0 => {
                let path = format!("/v1/admin/accounts/{ada}");
                call(format!("{path}/block"), json!({ "reason": "a" })).await;
                call(format!("{path}/unblock"), json!({})).await;
            }
            1 => {
                let body = json!({ "everyone": true, "except": admin.sid, "reason": "a" });
                call("/v1/admin/revocations".into(), body).await;
            }
            _ => {
                switch(true).await.expect(200);
                switch(false).await.expect(200);
            }
        }
        let cookie = server.page_sign_in(ADA).await;
        answer(&server, &cookie, &user_code, "allow").await.expect(404);
        assert_eq!(refused(poll(&server, &app, &code).await), "authorization_pending", "it can only expire");
    }
}

#[tokio::test]
async fn an_end_between_the_answer_and_the_tokens_kills_it() {
    let (server, app, _) = world().await;
    for round in 0..4 {
        let cookie = server.page_sign_in(ADA).await;
        let (code, user_code) = begun(&server, &app).await;
        answer(&server, &cookie, &user_code, "allow").await.expect(200);
        let own = server.sign_in(ADA).await;
        match round {
            0 => drop(post(&server, &cookie, "/sign-out", &[]).await.expect(303)),
            1 => drop(post(&server, &cookie, "/account/devices/end-others", &[]).await.expect(303)),
            2 => {
                let pairs = [("client", app.id.as_str())];
                post(&server, &cookie, "/account/apps/disconnect", &pairs).await.expect(303);
            }
            _ => drop(server.client.delete("/v1/me/sessions").bearer(&own.access).send().await.expect(200)),
        }
        assert_eq!(refused(poll(&server, &app, &code).await), "invalid_grant", "round {round}");
    }
}

#[tokio::test]
async fn forms_come_from_our_pages_and_guesses_are_counted() {
    let (server, app, cookie) = world().await;
    let (_, user_code) = begun(&server, &app).await;
    for path in ["/device", "/device/answer"] {
        let call = server.client.post(path).header("origin", "https://evil.example");
        let call = call.header("cookie", format!("__Host-portcullis_session={cookie}"));
        call.form(&encode(&[("user_code", &user_code), ("decision", "allow")])).send().await.expect(403);
    }
    // Texts that are no codes are no guesses. Right ones cost nothing.
    for _ in 0..12 {
        post(&server, &cookie, "/device", &[("user_code", "<script>")]).await.expect(404);
        post(&server, &cookie, "/device", &[("user_code", &user_code)]).await.expect(200);
    }
    for n in 0..10u8 {
        let wrong = format!("BBBBBBBBB{}", char::from(b"BCDFGHJKLM"[usize::from(n)]));
        post(&server, &cookie, "/device", &[("user_code", &wrong)]).await.expect(404);
    }
    post(&server, &cookie, "/device", &[("user_code", &user_code)]).await.expect(404);
    server.advance(300_000);
    post(&server, &cookie, "/device", &[("user_code", &user_code)]).await.expect(200);
}

#[tokio::test]
async fn nobody_begins_without_end() {
    let server = TestServer::behind_a_proxy(Options::default()).await;
    let app = television(&server).await;
    let mut begun = 0;
    let told = loop {
        let answer = begin(&server, &app, &[]).await;
        if answer.status != 200 || begun == 120 {
            break answer.expect(429);
        }
        begun += 1;
    };
    assert!(begun >= 60, "{begun}");
    assert_eq!((told.json()["error"].as_str(), told.header("retry-after").is_empty()), (Some("slow_down"), false));
}

/// An IPv6 /48 is to be had for the asking, and has 256 prefixes.
#[tokio::test]
async fn a_whole_site_leaves_room_for_devices_elsewhere() {
    let mut server = TestServer::behind_a_proxy(Options::default()).await;
    let (app, client) = (television(&server).await, server.client.clone());
    let mut begun = 0;
    for prefix in (0..=255_u16).cycle().take(500) {
        server.client = client.from(format!("2001:db8:7:{:x}::1", prefix << 8));
        let answer = begin(&server, &app, &[]).await;
        if answer.status != 200 {
            assert!(!answer.expect(429).header("retry-after").is_empty());
            break;
        }
        begun += 1;
    }
    assert!((300..480).contains(&begun), "{begun}");
    for elsewhere in ["2001:db8:8::1", "2001:db9::1", "198.51.100.7", "203.0.113.1"] {
        server.client = client.from(elsewhere);
        begin(&server, &app, &[]).await.expect(200);
    }
}

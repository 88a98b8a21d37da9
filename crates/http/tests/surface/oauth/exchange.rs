//! Token exchange for delegation (RFC 8693): what the new token says, what it hangs on, and what is not exchanged.
use super::machine::{claims, judged, refused, soon_refused};
use portcullis_testkit::application::Application;
use portcullis_testkit::{Answer, SignedIn, TestServer};
use portcullis_wire::Code;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const B: &str = "https://b.example/api";
const C: &str = "https://c.example/api";

struct World {
    server: TestServer,
    admin: SignedIn,
    app: Application,
    service: Application,
    account: String,
    cookie: String,
    tokens: Value,
}

async fn service(server: &TestServer, resources: &[&str]) -> (Application, String) {
    let more = json!({
        "name": "A service", "redirect_uris": [], "grant_types": [GRANT], "scopes": ["openid", "offline_access", "read"],
        "resources": resources,
    });
    let service = server.application("confidential", more).await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/clients/{}", service.id);
    let row = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    (service, row["service_account"].as_str().unwrap().to_owned())
}

async fn world() -> World {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let admin = server.admin().await;
    let app = server.application("public", json!({ "resources": [B, "https://z.example/"] })).await;
    let (service, account) = service(&server, &[B]).await;
    let cookie = server.page_sign_in(ADA).await;
    let tokens = server.granted(&app, &cookie, "openid read profile").await;
    World { server, admin, app, service, account, cookie, tokens }
}

async fn exchange(server: &TestServer, by: &Application, token: &Value, more: &[(&str, &str)]) -> Answer {
    let usual = [("grant_type", GRANT), ("subject_token", token.as_str().unwrap()), ("subject_token_type", ACCESS)];
    let kept = usual.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let all: Vec<_> = kept.chain(more.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    server.token(by, &all).await
}

#[tokio::test]
async fn the_new_token_is_about_the_user_and_says_who_acts() {
    let World { server, app, service, account, tokens, .. } = world().await;
    let told = exchange(&server, &service, &tokens["access_token"], &[("resource", B)]).await.expect(200).json();
    assert_eq!((told["issued_token_type"].as_str(), told["token_type"].as_str()), (Some(ACCESS), Some("Bearer")));
    assert_eq!((told.get("refresh_token"), told["scope"].as_str()), (None, Some("openid read")));
    let (old, new) = (claims(&tokens["access_token"]), claims(&told["access_token"]));
    for same in ["sub", "sid", "gid", "auth_time", "acr", "amr", "iss"] {
        assert_eq!(old[same], new[same], "{same}");
    }
    assert_eq!((new["client_id"].as_str(), new["aud"].as_str()), (Some(&*service.id), Some(B)));
    assert_eq!((&new["act"], &new["via"]), (&json!({ "sub": account }), &json!([app.id])));
    assert!(new["exp"].as_i64() <= old["exp"].as_i64() && new["jti"] != old["jti"]);
    assert_eq!(judged(&server, &told), Ok(()));
    let call = server.client.post("/oauth2/introspect").basic((&service.id, &service.secret));
    let active =
        call.form(&format!("token={}", told["access_token"].as_str().unwrap())).send().await.expect(200).json();
    assert_eq!((active["active"].as_bool(), active["act"]["sub"].as_str()), (Some(true), Some(&*account)));
    // Once more, by another service, for its own resource: who acted before is kept inside.
    let (second, acts) = self::service(&server, &[B, C]).await;
    let deeper = exchange(&server, &second, &told["access_token"], &[("audience", C), ("scope", "read")]).await;
    let deeper = deeper.expect(200).json();
    let last = claims(&deeper["access_token"]);
    assert_eq!((&last["act"], last["aud"].as_str()), (&json!({ "sub": acts, "act": { "sub": account } }), Some(C)));
    assert_eq!((&last["via"], last["sub"].clone()), (&json!([service.id, app.id]), old["sub"].clone()));
    assert_eq!((&new["from"], &last["from"]), (&json!([old["jti"]]), &json!([new["jti"], old["jti"]])));
    assert_eq!(judged(&server, &deeper), Ok(()));
    assert!(server.app.introspect(deeper["access_token"].as_str().unwrap()).await.unwrap().is_some());
    // Not without end.
    let mut token = deeper["access_token"].clone();
    for round in 0.. {
        let answer = exchange(&server, &second, &token, &[("resource", C)]).await;
        if answer.status != 200 {
            assert_eq!((round, refused(answer)), (2, "invalid_request".into()));
            break;
        }
        token = answer.json()["access_token"].clone();
    }
}

#[tokio::test]
async fn what_may_not_be_exchanged() {
    let w = world().await;
    let (server, service, access) = (&w.server, &w.service, &w.tokens["access_token"]);
    let ask = |more: &'static [(&'static str, &'static str)]| exchange(server, service, access, more);
    // Scopes that the token or the client has not.
    for beyond in ["write", "profile", "read profile", "admin", "account", "offline_access"] {
        let answer = exchange(server, service, access, &[("resource", B), ("scope", beyond)]).await;
        assert_eq!(refused(answer), "invalid_scope", "{beyond}");
    }
    // Another's resource.
    assert_eq!(refused(ask(&[("resource", C)]).await), "invalid_target");
    assert_eq!(refused(ask(&[("resource", "https://z.example/")]).await), "invalid_target");
    assert_eq!(refused(ask(&[("audience", B), ("resource", C)]).await), "invalid_target");
    // Another type of token, said or shown.
    const ID: &str = "urn:ietf:params:oauth:token-type:id_token";
    for more in [
        &[("subject_token_type", ID)][..],
        &[("subject_token_type", "")],
        &[("requested_token_type", ID)],
        &[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
        &[("actor_token", "x")],
        &[("subject_token", "")],
        &[("subject_token", "x")],
    ] {
        assert_eq!(refused(exchange(server, service, access, more).await), "invalid_request", "{more:?}");
    }
    for name in ["id_token", "refresh_token"] {
        assert_eq!(refused(exchange(server, service, &w.tokens[name], &[("resource", B)]).await), "invalid_request");
    }
    // A token of another issuer, with claims like ours, and one of ours that was altered.
    let other = world().await;
    let strange = exchange(server, service, &other.tokens["access_token"], &[("resource", B)]).await;
    assert_eq!(refused(strange), "invalid_request");
    let altered = access.as_str().unwrap().replacen('.', ".e30", 1);
    assert_eq!(refused(exchange(server, service, &json!(altered), &[("resource", B)]).await), "invalid_request");
    // By who is not registered for it, or does not prove who it is.
    assert_eq!(refused(exchange(server, &w.app, access, &[("resource", B)]).await), "unauthorized_client");
    let nobody = Application { secret: String::new(), ..service.clone() };
    assert_eq!(
        exchange(server, &nobody, access, &[("resource", B)]).await.expect(401).json()["error"],
        "invalid_client"
    );
    // A token for services that this client has nothing to do with.
    let asked =
        server.authorize(&w.app, &w.cookie, &[("scope", "openid read"), ("resource", "https://z.example/")]).await;
    let code = server.decide(&asked.expect(200).text(), &w.cookie, "allow").await;
    let code = portcullis_testkit::application::parameter(code.expect(303).header("location"), "code").unwrap();
    let elsewhere = server.redeem(&w.app, &code).await.expect(200).json();
    let answer = exchange(server, service, &elsewhere["access_token"], &[("resource", B)]).await;
    assert_eq!(refused(answer), "invalid_request");
    // One that lives no more.
    server.advance(361_000);
    assert_eq!(refused(ask(&[("resource", B)]).await), "invalid_request");
}

#[tokio::test]
async fn it_never_outlives_the_token_that_it_came_from() {
    let w = world().await;
    let old = claims(&w.tokens["access_token"])["exp"].as_i64().unwrap();
    w.server.advance(200_000);
    for _ in 0..4 {
        let told = exchange(&w.server, &w.service, &w.tokens["access_token"], &[("resource", B)]).await;
        assert_eq!(claims(&told.expect(200).json()["access_token"])["exp"].as_i64(), Some(old));
    }
}

/// Every end of what it hangs on, at a verifier and by the rows; what has nothing to do with it does not touch it.
#[tokio::test]
async fn every_end_above_the_old_token_ends_the_new_one() {
    for round in 0..13 {
        let w = world().await;
        let (server, admin) = (&w.server, &w.admin);
        let told = exchange(server, &w.service, &w.tokens["access_token"], &[("resource", B)]).await;
        let told = told.expect(200).json();
        let (second, second_account) = service(server, &[B, C]).await;
        let deeper = exchange(server, &second, &told["access_token"], &[("resource", C)]).await.expect(200).json();
        let old = claims(&w.tokens["access_token"]);
        let text = |name: &str| old[name].as_str().unwrap().to_owned();
        let off = |id: &str| {
            let path = format!("/v1/admin/clients/{id}");
            server.client.patch(path).bearer(&admin.access).json(&json!({ "disabled": true })).send()
        };
        let block = |account: &str| {
            let path = format!("/v1/admin/accounts/{account}/block");
            server.client.post(path).bearer(&admin.access).json(&json!({ "reason": "a test" })).send()
        };
        let revoke = |token: &Value, app: &Application| {
            let form = format!("client_id={}&token={}", app.id, token.as_str().unwrap());
            server.client.post("/oauth2/revoke").form(&form).send()
        };
        let mut first_lives = false;
        match round {
            0 => server.client.delete(format!("/v1/admin/sessions/{}", text("sid"))).bearer(&admin.access).send().await,
            1 => block(&text("sub")).await,
            2 => block(&w.account).await,
            3 => off(&w.service.id).await,
            4 => off(&w.app.id).await,
            5 => revoke(&w.tokens["refresh_token"], &w.app).await,
            6 => {
                let path = format!("/v1/admin/accounts/{}/sessions", text("sub"));
                server.client.delete(path).bearer(&admin.access).send().await
            }
            7 => {
                let body = json!({ "everyone": true, "except": admin.sid, "reason": "a test" });
                server.client.post("/v1/admin/revocations").bearer(&admin.access).json(&body).send().await
            }
            8 => {
                let path = format!("/v1/admin/accounts/{}", w.account);
                server.client.delete(path).bearer(&admin.access).send().await
            }
            9 => {
                first_lives = true;
                off(&second.id).await
            }
            // By itself (RFC 7009): what came of it goes with it, what it came of does not.
            11 => revoke(&w.tokens["access_token"], &w.app).await,
            12 => {
                first_lives = true;
                let form = format!("token={}", deeper["access_token"].as_str().unwrap());
                let call = server.client.post("/oauth2/revoke").basic((&second.id, &second.secret));
                call.form(&form).send().await
            }
            _ => {
                first_lives = true;
                block(&second_account).await
            }
        }
        .expect(200);
        soon_refused(server, &deeper, Code::TokenRevoked).await;
        if first_lives {
            assert_eq!(judged(server, &told), Ok(()), "round {round}");
            assert!(server.app.introspect(told["access_token"].as_str().unwrap()).await.unwrap().is_some());
        } else {
            soon_refused(server, &told, Code::TokenRevoked).await;
        }
        if matches!(round, 2 | 3 | 8) {
            assert_eq!(judged(server, &w.tokens), Ok(()), "the user's own token lives on");
            exchange(server, &w.service, &w.tokens["access_token"], &[("resource", B)]).await.json()["error"]
                .as_str()
                .expect("who may not act exchanges nothing");
        }
    }
}

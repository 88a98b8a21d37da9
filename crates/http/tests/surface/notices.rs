//! What the owners of accounts are told of by mail, and what they are not.
use crate::oauth::upstream::{Jar, provider, sign_in as by_provider};
use crate::one_rule::rule;
use portcullis_app::UpstreamKind;
use portcullis_domain::risk::Outcome;
use portcullis_testkit::idp::Idp;
use portcullis_testkit::mails::path_of;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, PostOffice, TestServer};
use serde_json::json;

const ADA: &str = "ada@example.test";
const EVE: &str = "eve@example.test";

async fn world(change: impl FnOnce(&mut Options)) -> (TestServer, PostOffice) {
    let post = PostOffice::open().await;
    let mut options = Options::default();
    options.settings.mail = Some(post.mailer.clone());
    change(&mut options);
    let server = TestServer::behind_a_proxy(options).await;
    server.sign_up(ADA).await;
    (server, post)
}

async fn asked(server: &TestServer, from: &str) -> Answer {
    let body = json!({ "identifier": ADA, "password": PASSWORD });
    server.client.from(from).post("/v1/sessions").json(&body).send().await
}

/// A mail that is asked for last: what was committed before it has come, too.
async fn last(server: &TestServer, post: &PostOffice, count: usize) -> Vec<(String, String)> {
    server.sign_up(EVE).await;
    server.client.post("/v1/recovery").json(&json!({ "identifier": EVE })).send().await.expect(202);
    let mails = post.wait_for(count + 1).await;
    assert_eq!(
        mails.len(),
        count + 1,
        "{:?}",
        mails.iter().map(|mail| mail.header("subject").to_owned()).collect::<Vec<_>>()
    );
    mails.iter().map(|mail| (mail.to[0].clone(), mail.header("subject").to_owned())).collect()
}

#[tokio::test]
async fn what_rules_do_is_told_also_of_a_sign_in_that_they_refuse() {
    let (server, post) = world(|_| {}).await;
    server.sign_in(ADA).await;
    rule(&server, |s| s.act == "sign_in", Outcome::EndSession);
    for n in 0..5 {
        asked(&server, &format!("198.51.{n}.1")).await.expect(401);
    }
    let mails = post.wait_for(3).await;
    let refused: Vec<_> = mails.iter().filter(|mail| mail.header("subject").contains("was refused")).collect();
    assert!(refused.len() == 3 && refused[0].text().contains("somebody knows your password"), "{mails:?}");
    // Its link ends everything, and leads to a new password.
    let link = path_of(refused[0]).unwrap();
    assert!(server.client.get(&*link).send().await.expect(200).text().contains("with the right password"));
    server.client.post(&*link).header("origin", &server.issuer).form("all=1").send().await.expect(303);
    // As many as of other rare mails, and no more; of a wrong password none.
    let body = json!({ "identifier": ADA, "password": "not the password" });
    server.client.from("198.51.100.7").post("/v1/sessions").json(&body).send().await.expect(401);
    last(&server, &post, 3).await;
}

/// Sign-ins that are refused are told of three times, and then not for a while. What ends sessions or blocks is told all the same.
#[tokio::test]
async fn what_happens_often_keeps_nothing_rarer_from_being_told() {
    let (server, post) = world(|_| {}).await;
    let phone = server.sign_in(ADA).await;
    rule(&server, |s| s.act == "sign_in", Outcome::EndSession);
    for n in 0..4 {
        asked(&server, &format!("198.51.{n}.1")).await.expect(401);
    }
    post.wait_for(3).await;
    rule(&server, |s| s.act == "refresh", Outcome::EndSession);
    let body = json!({ "refresh_token": phone.refresh });
    server.client.from("198.51.100.1").post("/v1/sessions/refresh").json(&body).send().await.expect(401);
    let mails = post.wait_for(4).await;
    assert!(mails.iter().any(|mail| mail.header("subject").contains("You were signed out")), "{mails:?}");
    rule(&server, |s| s.act == "sign_in", Outcome::Block { for_ms: None });
    asked(&server, "198.51.100.2").await.expect(403);
    let mails = post.wait_for(5).await;
    assert!(mails.iter().any(|mail| mail.header("subject").contains("was blocked")), "{mails:?}");
}

#[tokio::test]
async fn a_session_that_a_rule_ends_and_an_account_that_it_blocks_are_told() {
    let (server, post) = world(|_| {}).await;
    let phone = server.sign_in(ADA).await;
    rule(&server, |s| s.act == "refresh", Outcome::EndSession);
    let body = json!({ "refresh_token": phone.refresh });
    server.client.from("198.51.100.1").post("/v1/sessions/refresh").json(&body).send().await.expect(401);
    let ended = post.wait_for(1).await.pop().unwrap();
    assert!(ended.to == [ADA] && ended.header("subject").contains("You were signed out"), "{ended:?}");
    assert!(ended.text().contains("a session was ended") && path_of(&ended).unwrap().starts_with("/not-me/"));
    rule(&server, |s| s.act == "sign_in", Outcome::Block { for_ms: Some(3_600_000) });
    asked(&server, "198.51.100.2").await.expect(403);
    let blocked = post.wait_for(2).await.pop().unwrap();
    assert!(blocked.header("subject").contains("was blocked") && blocked.text().contains("it did not look like you"));
    // When its time is over it lifts itself, and that is told.
    server.app.set_judge(None);
    server.advance(3_600_001);
    server.app.prune_all().await.unwrap();
    let open = post.wait_for(3).await.pop().unwrap();
    assert!(open.to == [ADA] && open.header("subject").contains("is open again"), "{open:?}");
    server.app.prune_all().await.unwrap();
    last(&server, &post, 3).await;
}

#[tokio::test]
async fn an_application_that_keeps_its_access_is_told_once() {
    let (server, post) = world(|_| {}).await;
    let app = server.application("confidential", json!({ "name": "Calendar <b>" })).await;
    let cookie = server.page_sign_in(ADA).await;
    server.granted(&app, &cookie, "openid").await;
    server.granted(&app, &cookie, "openid offline_access").await;
    let told = post.wait_for(1).await.pop().unwrap();
    assert!(told.header("subject").contains("An application was connected"), "{told:?}");
    assert!(told.text().contains("Calendar <b>") && told.html().contains("Calendar &lt;b&gt;"));
    // Its link ends that access.
    let tokens = server.granted(&app, &cookie, "openid offline_access").await;
    let link = path_of(&told).unwrap();
    assert!(server.client.get(&*link).send().await.expect(200).text().contains("An application was connected"));
    server.client.post(&*link).header("origin", &server.issuer).form("all=1").send().await.expect(303);
    assert_eq!(server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.status.as_u16(), 400);
    last(&server, &post, 1).await;
}

#[tokio::test]
async fn a_deletion_is_told_to_the_address_that_is_forgotten_by_it() {
    for grace in [0, 100_000] {
        let (server, post) = world(|options| options.settings.policy.deletion_grace = grace).await;
        let phone = server.sign_in(ADA).await;
        let body = json!({ "password": PASSWORD });
        server.client.delete("/v1/me").bearer(&phone.access).json(&body).send().await.expect(200);
        let told = post.wait_for(1).await.pop().unwrap();
        assert!(told.to == [ADA] && told.text().contains(ADA) && told.link().is_none(), "{told:?}");
        let words = if grace == 0 { "cannot be taken back" } else { "can be restored" };
        assert!(told.text().contains(words), "{}", told.text());
        // Once it is sent nothing of the address is kept with it.
        let filter = portcullis_app::MessageFilter::default();
        for _ in 0..3000 {
            let page = server.app.store().list_messages(&filter, None, 10).await.unwrap();
            if page.rows.iter().all(|row| row.settled_at.is_some()) {
                assert!(page.rows.iter().all(|row| !row.body.contains(ADA)), "{:?}", page.rows);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        server.advance(100_001);
        server.app.prune_all().await.unwrap();
        last(&server, &post, 1).await;
    }
}

#[tokio::test]
async fn a_sign_in_by_another_provider_is_told_in_a_browser_that_is_not_known() {
    let idp = Idp::start().await;
    let upstream = provider("idp", &idp.issuer, UpstreamKind::Oidc);
    let (server, post) = world(|options| options.settings.upstreams = vec![upstream]).await;
    let somebody = json!({ "email": "new@example.test" });
    let mut laptop = Jar::default();
    by_provider(&idp, &server, &mut laptop, somebody.clone()).await.expect(303);
    // That the provider has verified the address is no proof of ours; and of a first sign-in nobody needs to hear.
    let proof = post.wait_for(1).await.pop().unwrap();
    assert!(proof.to == ["new@example.test"] && path_of(&proof).unwrap().starts_with("/email/"), "{proof:?}");
    // The same browser, signed out and back.
    laptop.post(&server, "/sign-out", &[]).await.expect(303);
    by_provider(&idp, &server, &mut laptop, somebody.clone()).await.expect(303);
    let mut other = Jar::default();
    by_provider(&idp, &server, &mut other, somebody).await.expect(303);
    let told = post.wait_for(2).await.pop().unwrap();
    assert!(told.to == ["new@example.test"] && told.header("subject").contains("New sign-in"), "{told:?}");
    assert!(path_of(&told).unwrap().starts_with("/not-me/"));
    last(&server, &post, 2).await;
}

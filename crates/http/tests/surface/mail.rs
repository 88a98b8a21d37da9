//! Mails on their way: a mail server that is down, slow, or says no.
use portcullis_app::MessageFilter;
use portcullis_domain::outbox::{Message, MessageState};
use portcullis_testkit::mails::{mailer, path_of};
use portcullis_testkit::{Options, PostOffice, Receiver, TestServer, lasting_address};
use serde_json::json;
use std::time::Duration;

const ADA: &str = "ada@example.test";

async fn ask(server: &TestServer, who: &str) {
    server.client.post("/v1/recovery").json(&json!({ "identifier": who })).send().await.expect(202);
}

/// The newest message, once it is like this. Read inside: a clock that was put forward makes new tokens wait.
async fn message(server: &TestServer, fits: impl Fn(&Message) -> bool) -> Message {
    for _ in 0..3000 {
        let page = server.app.store().list_messages(&MessageFilter::default(), None, 50).await.unwrap();
        if let Some(row) = page.rows.into_iter().find(|row| fits(row)) {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no such message");
}

#[tokio::test]
async fn a_mail_server_that_is_down_loses_nothing_and_holds_up_nobody() {
    let at = lasting_address();
    let mut options = Options::default();
    options.settings.mail = Some(mailer(at));
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    ask(&server, ADA).await;
    let waiting = message(&server, |row| row.last_error.is_some()).await;
    assert_eq!(
        (waiting.state, waiting.mail_body().unwrap().template.as_str()),
        (MessageState::Waiting, "reset_password")
    );
    // Somebody else's logout goes out meanwhile.
    let receiver = Receiver::start().await;
    let uri = json!({ "backchannel_logout_uri": format!("{}/logout", receiver.base) });
    let app = server.application("confidential", uri).await;
    let cookie = server.page_sign_in(ADA).await;
    server.granted(&app, &cookie, "openid").await;
    let call = server.client.post("/sign-out").header("origin", &server.issuer).form("");
    call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(303);
    receiver.wait_for(1).await;
    // It comes back.
    let post = PostOffice::at(at).await;
    server.advance(120_000);
    let mail = post.wait_for(1).await.remove(0);
    assert_eq!(mail.to, [ADA]);
    let done = message(&server, |row| row.id == waiting.id && row.state == MessageState::Done).await;
    assert_eq!(mail.header("message-id"), format!("<{}@example.test>", done.id));
    server.client.get(path_of(&mail).unwrap()).send().await.expect(200);
}

#[tokio::test]
async fn later_is_tried_again_and_never_is_given_up() {
    let post = PostOffice::open().await;
    let mut options = Options::default();
    options.settings.mail = Some(post.mailer.clone());
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    post.catcher.answers_next("451 not now");
    ask(&server, ADA).await;
    let later = message(&server, |row| row.last_error.is_some()).await;
    assert_eq!(later.state, MessageState::Waiting, "{later:?}");
    server.advance(60_000);
    post.wait_for(1).await;
    message(&server, |row| row.id == later.id && row.state == MessageState::Done).await;
    post.catcher.answers_next("550 no such person here");
    ask(&server, ADA).await;
    let dead = message(&server, |row| row.state == MessageState::Dead).await;
    assert!(dead.tries == 1 && dead.last_error.as_ref().unwrap().contains("550"), "{dead:?}");
    // An administrator has it tried again; the link is the same.
    let admin = server.admin().await;
    let path = format!("/v1/admin/messages/{}/retry", dead.id);
    server.client.post(path).bearer(&admin.access).send().await.expect(200);
    let mail = post.wait_for(2).await.pop().unwrap();
    server.client.get(path_of(&mail).unwrap()).send().await.expect(200);
}

#[tokio::test]
async fn a_mail_whose_link_has_ended_is_not_sent() {
    let at = lasting_address();
    let mut options = Options::default();
    options.settings.mail = Some(mailer(at));
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    ask(&server, ADA).await;
    message(&server, |row| row.last_error.is_some()).await;
    let post = PostOffice::at(at).await;
    server.advance(61 * 60_000);
    let dead = message(&server, |row| row.state == MessageState::Dead).await;
    let why = dead.last_error.unwrap();
    assert!(why.contains("leads nowhere") || why.contains("time is over"), "{why}");
    assert_eq!(post.catcher.count(), 0);
}

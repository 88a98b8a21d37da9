//! What tests of machines' grants share.
use portcullis_testkit::{Answer, TestServer};
use portcullis_wire::{Code, b64};
use serde_json::Value;
use std::time::Duration;

/// The claims of a token.
pub(super) fn claims(token: &Value) -> Value {
    let body = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(body).unwrap()).unwrap()
}

/// What a verifier that follows the log says of the access token in this answer.
pub(super) fn judged(server: &TestServer, answer: &Value) -> Result<(), Code> {
    let hub = server.app.hub();
    let authentic = hub.authenticate(answer["access_token"].as_str().unwrap())?;
    hub.judge_for_any(&authentic, &portcullis_verify::Holder::Bearer)
}

/// Waits until a verifier refuses the token, and sees to it that the rows say the same.
pub(super) async fn soon_refused(server: &TestServer, answer: &Value, code: Code) {
    for _ in 0..200 {
        match judged(server, answer) {
            Err(told) => {
                assert_eq!(told, code);
                let token = answer["access_token"].as_str().unwrap();
                assert!(server.app.introspect(token).await.unwrap().is_none());
                return;
            }
            Ok(()) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the token lives on");
}

/// The error of an answer with status 400.
pub(super) fn refused(answer: Answer) -> String {
    answer.expect(400).json()["error"].as_str().unwrap().to_owned()
}

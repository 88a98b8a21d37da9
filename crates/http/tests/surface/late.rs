//! A token that comes days after it was replaced, and one that comes from a neighbour's script, with the rules that are on by default.
use portcullis_rules::Policy;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, TestServer};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0";
const TV: &str =
    "Mozilla/5.0 (SMART-TV; LINUX; Tizen 7.0) AppleWebKit/537.36 (KHTML, like Gecko) 94.0.4606.31/7.0 TV Safari/537.36";
const HOME: &str = "203.0.113.77";
const ELSEWHERE: &str = "198.51.100.1";
const DAY: i64 = 86_400_000;

async fn world() -> TestServer {
    let server = TestServer::behind_a_proxy(Options::default()).await;
    server.sign_up(ADA).await;
    server.app.set_judge(Some(Box::new(Policy::built_in())));
    server
}

async fn sign_in(server: &TestServer, agent: &str) -> Value {
    let body = json!({ "identifier": ADA, "password": PASSWORD });
    server
        .client
        .from(HOME)
        .post("/v1/sessions")
        .header("user-agent", agent)
        .json(&body)
        .send()
        .await
        .expect(201)
        .json()
}

async fn refresh(server: &TestServer, from: &str, agent: &str, of: &Value) -> Answer {
    let call = server.client.from(from).post("/v1/sessions/refresh").header("user-agent", agent);
    call.json(&json!({ "refresh_token": of["refresh_token"] })).send().await
}

async fn events(server: &TestServer, of: &Value) -> Vec<String> {
    let admin = server.admin().await;
    let path = format!("/v1/admin/events?account_id={}", of["session"]["account_id"].as_str().unwrap());
    let page = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    page["events"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect()
}

/// A notebook that lost an answer before a long weekend goes on where it was; the answer that was lost after all is a copy then.
#[tokio::test]
async fn a_lost_answer_is_repeated_days_later_at_home() {
    let server = world().await;
    let first = sign_in(&server, FIREFOX).await;
    server.advance(300_000);
    let lost = refresh(&server, HOME, FIREFOX, &first).await.expect(200).json();
    server.advance(4 * DAY);
    let newer = FIREFOX.replace("144.0", "145.0");
    let again = refresh(&server, HOME, &newer, &first).await.expect(200).json();
    assert_ne!(again["refresh_token"], lost["refresh_token"]);
    server.advance(300_000);
    let on = refresh(&server, HOME, &newer, &again).await.expect(200).json();
    let problem = refresh(&server, HOME, &newer, &lost).await.expect(401).json();
    assert_eq!(problem["code"], "refresh_reused");
    refresh(&server, HOME, &newer, &on).await.expect(401);
}

/// A network has another name under each MAC key, and stays where it is.
#[tokio::test]
async fn home_is_home_under_another_key() {
    let server = world().await;
    let first = sign_in(&server, FIREFOX).await;
    refresh(&server, HOME, FIREFOX, &first).await.expect(200);
    let admin = server.admin().await;
    let rotate = server.client.post("/v1/admin/keys/rotate").bearer(&admin.access).json(&json!({ "use": "mac" }));
    rotate.send().await.expect(200);
    server.advance(4 * DAY);
    refresh(&server, HOME, FIREFOX, &first).await.expect(200);
}

/// The same from elsewhere, by an older browser or by another program is a copy that somebody has.
#[tokio::test]
async fn a_predecessor_that_leaked_is_worth_nothing_days_later() {
    let older = FIREFOX.replace("144.0", "143.0");
    for (from, agent) in [(ELSEWHERE, FIREFOX), (HOME, older.as_str()), (HOME, "curl/8.9.1")] {
        let server = world().await;
        let first = sign_in(&server, FIREFOX).await;
        server.advance(300_000);
        let current = refresh(&server, HOME, FIREFOX, &first).await.expect(200).json();
        server.advance(3 * DAY);
        let problem = refresh(&server, from, agent, &first).await.expect(401).json();
        assert_eq!(problem["code"], "refresh_reused", "{from} {agent}");
        let problem = refresh(&server, HOME, FIREFOX, &current).await.expect(401).json();
        assert_eq!(problem["code"], "session_ended", "{from} {agent}");
    }
}

/// In the network of the refresh before: nobody is asked about a television that stays one, and a script is not one.
#[tokio::test]
async fn a_television_that_becomes_a_script_at_home_is_ended() {
    let server = world().await;
    let mine = sign_in(&server, TV).await;
    let looked = || server.app.risk_counts()[0];
    let before = looked();
    let newer = TV.replace("Tizen 7.0", "Tizen 8.0");
    let mine = refresh(&server, HOME, &newer, &mine).await.expect(200).json();
    assert_eq!(looked(), before, "what has not changed costs nothing");
    let problem = refresh(&server, HOME, "python-requests/2.32.3", &mine).await.expect(401).json();
    assert_eq!((&problem["code"], &problem["reason"]), (&json!("session_ended"), &json!("risk_rule")));
    refresh(&server, HOME, TV, &mine).await.expect(401);
}

/// Whoever has a browser may have a script: they are told once, and asked who they are where it matters.
#[tokio::test]
async fn a_script_beside_the_browser_at_home_is_told_of() {
    let server = world().await;
    let mine = sign_in(&server, FIREFOX).await;
    let mine = refresh(&server, HOME, "curl/8.9.1", &mine).await.expect(200).json();
    let told = async || events(&server, &mine).await.iter().filter(|kind| *kind == "risk.decided").count();
    assert_eq!(told().await, 1);
    let mine = refresh(&server, HOME, "curl/8.9.1", &mine).await.expect(200).json();
    let delete = server.client.from(HOME).delete("/v1/me").bearer(mine["access_token"].as_str().unwrap());
    assert_eq!(delete.send().await.json()["code"], "step_up_required");
    assert_eq!(told().await, 1, "once");
}

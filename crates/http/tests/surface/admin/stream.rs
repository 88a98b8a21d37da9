//! `/v1/admin/events/stream`: audit records as they are sealed.
use portcullis_testkit::client::Events;
use portcullis_testkit::server::SignedIn;
use portcullis_testkit::{Options, TestServer};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

const PATH: &str = "/v1/admin/events/stream";

async fn open(server: &TestServer, admin: &SignedIn, query: &str) -> Events {
    let mut events = server.client.get(format!("{PATH}{query}")).bearer(&admin.access).events().await;
    assert_eq!(events.status, 200);
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert_eq!(events.next().await.unwrap().name, "hello");
    events
}

/// The last word, and that it is the last.
async fn ended(events: &mut Events) -> String {
    let end = events.next_named("end").await;
    assert!(events.next().await.is_none());
    end.data["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_act_is_seen_within_a_second_and_a_stream_resumes() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let (mut all, mut some) = (open(&server, &admin, "").await, open(&server, &admin, "?kind=session.started").await);
    let begun = Instant::now();
    let account = server.sign_up("ada@example.test").await;
    let made = loop {
        let event = all.next_named("record").await;
        if event.data["account_id"] == *account {
            break event;
        }
    };
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(made.data["kind"], "account.created");
    assert_eq!(made.id.as_deref(), Some(&*made.data["place"].to_string()));
    // As everybody else is shown it.
    let listed = server.client.get(format!("/v1/admin/events?account_id={account}")).bearer(&admin.access).send().await;
    assert_eq!(listed.expect(200).json()["events"].as_array().unwrap().last().unwrap(), &made.data);
    let ada = server.sign_in("ada@example.test").await;
    let started = loop {
        let event = some.next_named("record").await;
        assert_eq!(event.data["kind"], "session.started", "it asked for nothing else");
        if event.data["session_id"] == *ada.sid {
            break event;
        }
    };
    drop((all, some));
    // What came while it was away comes first, in order, and once.
    server.client.delete(format!("/v1/admin/sessions/{}", ada.sid)).bearer(&admin.access).send().await.expect(200);
    let last = made.id.unwrap();
    let call = server.client.get(PATH).bearer(&admin.access).header("last-event-id", &last);
    let mut again = call.events().await;
    let hello = again.next().await.unwrap();
    assert_eq!((hello.id.as_deref(), &hello.data["missed"]), (Some(&*last), &json!(0)));
    let mut places = vec![];
    loop {
        let event = again.next_named("record").await;
        places.push(event.data["place"].as_u64().unwrap());
        if event.data["kind"] == "session.ended" {
            break;
        }
    }
    assert!(places.windows(2).all(|two| two[1] == two[0] + 1) && places[0] == last.parse::<u64>().unwrap() + 1);
    assert!(places.contains(&started.data["place"].as_u64().unwrap()));
}

#[tokio::test]
async fn it_ends_with_its_token() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let mut events = open(&server, &admin, "").await;
    // Its session is ended, by itself.
    let begun = Instant::now();
    server.client.delete("/v1/me/sessions/current").bearer(&admin.access).send().await.expect(200);
    assert_eq!(ended(&mut events).await, "token_revoked");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // The role is taken away: no record that comes after is shown.
    let first = server.admin().await;
    let body = json!({ "email": "second@example.test", "password": "another long password", "roles": ["admin"] });
    let made =
        server.client.post("/v1/admin/accounts").bearer(&first.access).json(&body).send().await.expect(201).json();
    let second = server.sign_in_as("second@example.test", "another long password", json!({})).await;
    let mut events = open(&server, &second, "?kind=account.changed").await;
    let path = format!("/v1/admin/accounts/{}", made["id"].as_str().unwrap());
    server.client.patch(path).bearer(&first.access).json(&json!({ "roles": [] })).send().await.expect(200);
    let last = events.next().await.unwrap();
    assert_eq!(last.name, "end", "{last:?}");
    // Its time is over.
    let mut events = open(&server, &first, "").await;
    server.advance(400_000);
    assert_eq!(ended(&mut events).await, "token_expired");
}

#[tokio::test]
async fn there_are_so_many_and_no_more() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let mut open_ones = vec![];
    for _ in 0..32 {
        open_ones.push(open(&server, &admin, "").await);
    }
    server.client.get(PATH).bearer(&admin.access).send().await.expect_problem("overloaded");
    open_ones.pop();
    let begun = Instant::now();
    while server.client.get(PATH).bearer(&admin.access).events().await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One that does not read is dropped like any connection that stands still, and gives its place back.
#[tokio::test]
async fn a_slow_reader_is_dropped() {
    let mut options = Options { send_buffer: Some(4096), ..Options::default() };
    options.limits.stall_time = Duration::from_millis(500);
    let server = TestServer::start(options).await;
    let admin = server.admin().await;
    let before = server.traffic.stalled.load(std::sync::atomic::Ordering::Relaxed);
    let stuck = open(&server, &admin, "").await;
    let somebody = format!("/v1/admin/accounts/{}", server.sign_up("somebody@example.test").await);
    let begun = Instant::now();
    let mut n = 0;
    while server.traffic.stalled.load(std::sync::atomic::Ordering::Relaxed) == before {
        assert!(begun.elapsed() < Duration::from_secs(300), "after {n} records");
        // More of them than a connection holds, and none has a budget.
        for _ in 0..20 {
            n += 1;
            let body = json!({ "name": format!("Somebody {n}") });
            server.client.patch(&*somebody).bearer(&admin.access).json(&body).send().await.expect(200);
        }
    }
    drop(stuck);
}

#[tokio::test]
async fn what_is_asked_for_must_be_right() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    for (query, field) in [("?kind=nothing", "kind"), ("?after=x", "after"), ("?actor=ada", "actor")] {
        let problem = server.client.get(format!("{PATH}{query}")).bearer(&admin.access).send().await;
        assert_eq!(problem.expect_problem("invalid_value").json()["field"], field);
    }
    server
        .client
        .get(format!("{PATH}?from=2026-01-01T00:00:00Z"))
        .bearer(&admin.access)
        .send()
        .await
        .expect_problem("malformed");
    let call = server.client.get(PATH).bearer(&admin.access).header("last-event-id", "evt_1");
    assert_eq!(call.send().await.expect_problem("invalid_value").json()["field"], "Last-Event-ID");
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let mut server = TestServer::usual().await;
    let admin = server.admin().await;
    let mut events = open(&server, &admin, "").await;
    let begun = Instant::now();
    server.stop().await;
    while events.next().await.is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

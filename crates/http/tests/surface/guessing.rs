//! Guesses at passwords: how many are looked at, that the owner's own device is not shut out, and that nothing tells.
use portcullis_app::password::Lane;
use portcullis_domain::throttle::{ACCOUNT, DEVICE, NETWORK, PREFIX};
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, TestServer};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

const DEVICE_COOKIE: &str = "__Host-portcullis_device";
const ADA: &str = "ada@example.test";

async fn server() -> TestServer {
    let options = Options {
        config: Box::new(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]),
        ..Options::default()
    };
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    server
}

/// A sign-in from this network, with this cookie of a known device if there is one.
async fn try_as(server: &TestServer, who: &str, password: &str, from: u8, cookie: Option<&str>) -> Answer {
    let body = json!({ "identifier": who, "password": password });
    let mut call = server.client.post("/v1/sessions").json(&body).header("x-forwarded-for", format!("10.0.{from}.9"));
    if let Some(cookie) = cookie {
        call = call.header("cookie", format!("theme=dark; {DEVICE_COOKIE}={cookie}"));
    }
    call.send().await
}

/// Signs in by cookie from this network; the mark of the device from then on.
async fn mark(server: &TestServer, who: &str, from: u8, before: Option<&str>) -> String {
    let body = json!({ "identifier": who, "password": PASSWORD, "transport": "cookie" });
    let mut call = server.client.post("/v1/sessions").json(&body).header("x-forwarded-for", format!("10.0.{from}.9"));
    if let Some(before) = before {
        call = call.header("cookie", format!("{DEVICE_COOKIE}={before}"));
    }
    call.send().await.expect(201).cookie(DEVICE_COOKIE).expect("a mark")
}

/// Hashes computed, attempts checked, attempts throttled.
fn counts(server: &TestServer) -> (u64, u64, u64) {
    let counts = server.app.counts();
    let (checked, throttled) = (counts.attempts_checked.load(Relaxed), counts.attempts_throttled.load(Relaxed));
    (server.app.passwords().counts().0, checked, throttled)
}

/// What of an answer may be told: all but what differs with every request.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut body = answer.json();
    body["request_id"] = Value::Null;
    let headers = answer.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let mut headers: Vec<_> = headers
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    // The body holds the request's id, which has always the same length.
    (answer.status.as_u16(), headers, body)
}

#[tokio::test]
async fn whatever_is_wrong_costs_one_hash_and_reads_the_same() {
    let server = server().await;
    let admin = server.admin().await;
    let bob = server.sign_up("bob@example.test").await;
    let block = server.client.post(format!("/v1/admin/accounts/{bob}/block")).bearer(&admin.access);
    block.json(&json!({ "reason": "r" })).send().await.expect(200);
    let keyless = json!({ "email": "keyless@example.test" });
    server.client.post("/v1/admin/accounts").bearer(&admin.access).json(&keyless).send().await.expect(201);
    let carol = server.sign_up("carol@example.test").await;
    server.client.delete(format!("/v1/admin/accounts/{carol}")).bearer(&admin.access).send().await.expect(200);
    server.sign_up("dave@example.test").await;
    let mut throttled = 0;
    for from in 100..200 {
        throttled += u32::from(try_as(&server, "dave@example.test", "x", from, None).await.status.as_u16() == 401);
    }
    assert_eq!(throttled, 100);

    let long = "x".repeat(5000);
    let wrong = seen(&try_as(&server, ADA, "a wrong password", 1, None).await);
    assert_eq!((wrong.0, wrong.2["code"].as_str()), (401, Some("invalid_credentials")));
    for (who, password, why) in [
        (ADA, "another wrong password", "wrong"),
        ("nobody@example.test", PASSWORD, "unknown"),
        ("no address at all", PASSWORD, "not even an address"),
        ("", "", "nothing"),
        (ADA, &long, "too long"),
        (ADA, "", "too short"),
        ("bob@example.test", "a wrong password", "blocked"),
        ("keyless@example.test", PASSWORD, "no password set"),
        ("carol@example.test", PASSWORD, "deleted"),
        ("dave@example.test", PASSWORD, "throttled, and right"),
        ("dave@example.test", "a wrong password", "throttled"),
        ("dave@example.test", &long, "throttled and too long"),
    ] {
        let before = counts(&server);
        let answer = try_as(&server, who, password, 2, None).await;
        let after = counts(&server);
        assert_eq!(seen(&answer), wrong, "{why}");
        assert_eq!(after.0 - before.0, 1, "{why}: one hash is computed");
        let throttled = u64::from(why.starts_with("throttled"));
        assert_eq!((after.1 - before.1, after.2 - before.2), (1 - throttled, throttled), "{why}");
    }
    // What is right costs one as well.
    let before = counts(&server);
    try_as(&server, ADA, PASSWORD, 3, None).await.expect(201);
    assert_eq!(counts(&server).0 - before.0, 1);
    let metrics = server.client.get("/metrics").send().await.expect(200).text();
    let (_, checked, throttled) = counts(&server);
    assert!(metrics.contains(&format!("portcullis_sign_in_attempts_checked_total {checked}\n")), "{metrics}");
    assert!(metrics.contains(&format!("portcullis_sign_in_attempts_throttled_total {throttled}\n")), "{metrics}");
}

#[tokio::test]
async fn guesses_from_everywhere_leave_the_owners_device_and_network_alone() {
    let server = server().await;
    let laptop = mark(&server, ADA, 1, None).await;
    try_as(&server, ADA, PASSWORD, 2, None).await.expect(201); // an application without cookies, at another place
    let before = counts(&server);
    let mut owners = 0;
    for n in 0..300u32 {
        try_as(&server, ADA, "a guess", (3 + n % 250) as u8, None).await.expect_problem("invalid_credentials");
        if n % 20 == 0 {
            try_as(&server, ADA, PASSWORD, 77, Some(&laptop)).await.expect(201); // wherever the laptop is by now
            try_as(&server, ADA, PASSWORD, 2, None).await.expect(201);
            owners += 2;
        }
    }
    let after = counts(&server);
    // The network 77 became known by the laptop's sign-in there; what was guessed from it after that has its own budget.
    let most = (ACCOUNT.burst + NETWORK.burst) as u64;
    let guessed = after.1 - before.1 - owners;
    assert!((ACCOUNT.burst as u64..=most).contains(&guessed), "{guessed} guesses were looked at");
    assert_eq!(after.0 - before.0, 300 + owners, "one hash for each");
    // Somewhere new, the owner waits for a refill, and no longer.
    try_as(&server, ADA, PASSWORD, 254, None).await.expect_problem("invalid_credentials");
    server.advance(ACCOUNT.every);
    try_as(&server, ADA, PASSWORD, 254, None).await.expect(201);
}

#[tokio::test]
async fn a_mark_is_a_budget_of_its_own_and_no_more() {
    let server = server().await;
    server.sign_up("bob@example.test").await;
    let laptop = mark(&server, ADA, 1, None).await;
    // It is no credential, and its budget has an end too.
    let before = counts(&server);
    for _ in 0..DEVICE.burst + 5 {
        try_as(&server, ADA, "a guess", 9, Some(&laptop)).await.expect_problem("invalid_credentials");
    }
    assert_eq!(counts(&server).1 - before.1, DEVICE.burst as u64);
    // Of another account it is a stranger's; so is one that was changed.
    for from in 10..20 {
        for _ in 0..5 {
            try_as(&server, "bob@example.test", "a guess", from, Some(&laptop)).await;
        }
    }
    try_as(&server, "bob@example.test", PASSWORD, 20, Some(&laptop)).await.expect_problem("invalid_credentials");
    let changed = format!("{}A", &laptop[..laptop.len() - 1]);
    for cookie in [&*changed, "", "pcd_", "garbage", &"pcd_x.".repeat(500)] {
        try_as(&server, "bob@example.test", PASSWORD, 20, Some(cookie)).await.expect_problem("invalid_credentials");
    }
    // The budget comes back one by one.
    server.advance(DEVICE.every);
    let both = mark(&server, ADA, 1, Some(&laptop)).await;
    server.advance(ACCOUNT.every);
    let both = mark(&server, "bob@example.test", 30, Some(&both)).await;
    // One browser, two accounts: both are known there.
    let before = counts(&server);
    for (who, from) in [(ADA, 101), ("bob@example.test", 102)] {
        for n in 0..40 {
            try_as(&server, who, "a guess", 110 + n, None).await;
        }
        try_as(&server, who, PASSWORD, from, Some(&both)).await.expect(201);
    }
    assert!(counts(&server).2 - before.2 >= 20);
}

#[tokio::test]
async fn the_mark_is_set_where_there_are_cookies() {
    let server = server().await;
    let answer = try_as(&server, ADA, PASSWORD, 1, None).await.expect(201);
    assert!(answer.set_cookies().is_empty(), "programs without cookies are known by their network");
    let body = json!({ "identifier": ADA, "password": PASSWORD, "transport": "cookie" });
    let answer = server.client.post("/v1/sessions").json(&body).send().await.expect(201);
    let line = answer.set_cookies().into_iter().find(|line| line.starts_with(DEVICE_COOKIE)).expect("a mark");
    for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=34560000"] {
        assert!(line.split("; ").any(|part| part == attribute), "{line}");
    }
    // On pages too; and a sign-out leaves it.
    let form = format!("identifier={ADA}&password={}", PASSWORD.replace(' ', "+"));
    let page = server.client.post("/sign-in").header("origin", &server.issuer).form(&form).send().await.expect(303);
    let (session, device) = (page.cookie("__Host-portcullis_session").unwrap(), page.cookie(DEVICE_COOKIE).unwrap());
    let cookies = format!("__Host-portcullis_session={session}; {DEVICE_COOKIE}={device}");
    let out = server.client.post("/sign-out").header("origin", &server.issuer).header("cookie", cookies).form("");
    let out = out.send().await.expect(303);
    assert_eq!((out.cookie("__Host-portcullis_session").as_deref(), out.cookie(DEVICE_COOKIE)), (Some(""), None));
}

#[tokio::test]
async fn a_full_pool_is_503_for_all_alike_and_costs_no_budget() {
    let server = server().await;
    let laptop = mark(&server, ADA, 1, None).await;
    let before = counts(&server);
    let all: Vec<_> = std::iter::from_fn(|| server.app.passwords().reserve(Lane::Others).ok()).collect();
    assert_eq!(all.len(), 256);
    for _ in 0..ACCOUNT.burst + 5 {
        for (who, password) in [(ADA, PASSWORD), (ADA, "a guess"), ("nobody@example.test", "a guess")] {
            try_as(&server, who, password, 5, None).await.expect_problem("overloaded");
        }
    }
    assert_eq!(counts(&server), before, "nothing was computed, nothing was charged");
    // A flood fills its own lane; a known device is served.
    try_as(&server, ADA, PASSWORD, 5, Some(&laptop)).await.expect(201);
    drop(all);
    try_as(&server, ADA, PASSWORD, 6, None).await.expect(201);
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_503_and_no_guess() {
    let server = server().await;
    try_as(&server, ADA, PASSWORD, 1, None).await.expect(201);
    let before = counts(&server);
    server.store.fail_from(1, portcullis_store::faulty::Mode::Before);
    for (who, password) in [(ADA, PASSWORD), (ADA, "a guess"), ("nobody@example.test", "a guess")] {
        try_as(&server, who, password, 1, None).await.expect_problem("unavailable");
    }
    assert_eq!(counts(&server).0, before.0, "without a charge nothing is computed");
    server.store.never_fail();
    try_as(&server, ADA, PASSWORD, 1, None).await.expect(201);
}

#[tokio::test]
async fn budgets_that_are_full_again_are_forgotten() {
    let server = server().await;
    for n in 0..60u8 {
        try_as(&server, &format!("nobody{}@example.test", n % 7), "a guess", n, None).await;
    }
    use portcullis_store::Store as _;
    let count = async || server.store.count_attempts().await.unwrap();
    assert!(count().await.buckets >= 60 + 7);
    try_as(&server, ADA, PASSWORD, 1, None).await.expect(201);
    assert_eq!(count().await.networks, 1);
    server.advance(ACCOUNT.burst * ACCOUNT.every);
    // The chore comes every few seconds.
    for _ in 0..6000 {
        if count().await.buckets == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((count().await.buckets, count().await.networks), (0, 1));
}

#[tokio::test]
async fn who_signs_up_without_end_waits_and_nobody_else_does() {
    let server = server().await;
    let up = async |who: String, from: u8| {
        let body = json!({ "email": who, "password": PASSWORD });
        let call = server.client.post("/v1/accounts").json(&body).header("x-forwarded-for", format!("10.0.{from}.9"));
        call.send().await
    };
    // Asking about one address that is taken, again and again.
    for _ in 0..NETWORK.burst {
        up(ADA.into(), 1).await.expect_problem("email_taken");
    }
    let hashes = server.app.passwords().counts().0;
    let refused = up(ADA.into(), 1).await.expect_problem("overloaded");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(server.app.passwords().counts().0, hashes, "it costs no hash");
    assert_eq!(server.app.counts().sign_ups_throttled.load(Relaxed), 1);
    // Neighbours go on, with other addresses; so does whoever else asks about that one, and whoever signs in there.
    up("bob@example.test".into(), 1).await.expect(201);
    up(ADA.into(), 2).await.expect_problem("email_taken");
    try_as(&server, ADA, PASSWORD, 1, None).await.expect(201);
    // An office has so many at once, then a few each minute.
    for n in NETWORK.burst + 1..PREFIX.burst {
        up(format!("new{n}@example.test"), 1).await.expect(201);
    }
    up("carol@example.test".into(), 1).await.expect_problem("overloaded");
    up("carol@example.test".into(), 3).await.expect(201);
    try_as(&server, "bob@example.test", PASSWORD, 1, None).await.expect(201);
    server.advance(PREFIX.every);
    up("dora@example.test".into(), 1).await.expect(201);
    up("emma@example.test".into(), 1).await.expect_problem("overloaded");
}

/// What comes from this machine itself is an operator, or a proxy that nobody told us of, and so everybody: nobody's own part, and
/// never without end.
#[tokio::test]
async fn sign_ups_from_this_machine_have_an_end() {
    let server = TestServer::usual().await;
    let fits = portcullis_domain::pace::SIGN_UPS_HERE.all.burst;
    server.sign_up(ADA).await;
    let again = async || {
        let body = json!({ "email": ADA, "password": PASSWORD });
        server.client.post("/v1/accounts").json(&body).send().await
    };
    let mut taken = 1;
    let refused = loop {
        let answer = again().await;
        if answer.status != 409 || taken > 2 * fits {
            break answer;
        }
        taken += 1;
    };
    // One more each second that it takes.
    assert!((fits..fits + 300).contains(&taken), "{taken}");
    assert!(!refused.expect_problem("overloaded").header("retry-after").is_empty());
    server
        .client
        .post("/v1/sessions")
        .json(&json!({ "identifier": ADA, "password": PASSWORD }))
        .send()
        .await
        .expect(201);
}

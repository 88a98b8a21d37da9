//! `/v1/admin/import` and `/v1/admin/export`, and the first sign-in with a hash of another kind.
use portcullis_app::real;
use portcullis_testkit::server::{Options, PASSWORD};
use portcullis_testkit::{Answer, TestServer};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

/// Each scheme with a hash that others published or computed, and its password.
const HASHES: [(&str, &str, &str); 8] = [
    ("bcrypt-2a", "U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    ("bcrypt-2y", "U*U*", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
    (
        "scrypt",
        "correct horse",
        "$scrypt$ln=10,r=8,p=1$c2Vhc2FsdHNlYXNhbHQ$mvzvlin6wa8binYh/HyNW4BstN5tfnskx1YOAA6VJCc",
    ),
    ("pbkdf2-sha256", "correct horse", "$pbkdf2-sha256$i=1000$c2Vhc2FsdA$mQnueSakb748zqBAC1tmWVZsZbi2zPGZarEzTGdfmso"),
    (
        "pbkdf2-sha512",
        "correct horse",
        "$pbkdf2-sha512$i=1000$c2Vhc2FsdA$CBx2rkpvjyEAoopNVuRZWOOxTTRwoV6JjrHARZAmWoRGf7Bll/+N6ttV/4gWvtd16NJ94OpVpZHm44IdMrFULg",
    ),
    ("django", "lètmein", "pbkdf2_sha256$12000$seasalt$Ybw8zsFxqja97tY/o6G+Fy1ksY4U/Hw3DRrGED6Up4s="),
    ("argon2i", "password", "$argon2i$m=65536,t=2,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ"),
    ("argon2id", "password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
];

async fn import(server: &TestServer, token: &str, accounts: Value, dry_run: bool) -> Answer {
    let body = json!({ "accounts": accounts, "dry_run": dry_run });
    server.client.post("/v1/admin/import").bearer(token).json(&body).send().await
}

fn statuses(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect()
}

async fn stored(server: &TestServer, email: &str) -> Option<String> {
    use portcullis_store::Store as _;
    let view = server.store.load_sign_in(email, portcullis_wire::ClientId::FIRST_PARTY).await.unwrap();
    view.account.unwrap().password_hash
}

async fn try_sign_in(server: &TestServer, email: &str, password: &str) -> Answer {
    let body = json!({ "identifier": email, "password": password });
    server.client.post("/v1/sessions").json(&body).send().await
}

/// Waits until the stored hash is another than this one.
async fn upgraded(server: &TestServer, email: &str, from: &str) -> String {
    for _ in 0..6000 {
        let now = stored(server, email).await.unwrap();
        if now != from {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{email} was not upgraded");
}

#[tokio::test]
async fn every_scheme_signs_in_and_is_upgraded_at_the_first_sign_in() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let email = |name: &str| format!("{name}@example.test");
    let lines: Vec<Value> =
        HASHES.iter().map(|(name, _, hash)| json!({ "email": email(name), "password_hash": hash })).collect();
    let answer = import(&server, &admin.access, lines.into(), false).await.expect(200).json();
    assert_eq!((answer["created"].as_u64(), answer["refused"].as_u64()), (Some(8), Some(0)), "{answer}");
    let firebase = json!({
        "scheme": "firebase-scrypt", "salt": "42xEC+ixf3L2lw==", "salt_separator": "Bw==", "rounds": 8, "mem_cost": 14,
        "signer_key": "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
        "hash": "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==",
    });
    let line = json!([{ "email": email("firebase"), "password_hash": firebase }]);
    assert_eq!(import(&server, &admin.access, line, false).await.expect(200).json()["created"], 1);

    let all = HASHES.iter().map(|(name, password, _)| (*name, *password)).chain([("firebase", "user1password")]);
    let mut upgrades = 0;
    for (name, password) in all {
        let (who, before) = (email(name), stored(&server, &email(name)).await.unwrap());
        let counts = || server.app.passwords().counts().0;
        // Wrong: one hash, like everything else.
        let at = counts();
        try_sign_in(&server, &who, "a wrong password").await.expect_problem("invalid_credentials");
        assert_eq!((counts() - at, stored(&server, &who).await.as_deref()), (1, Some(&*before)), "{name}");
        // Right, twice at once: both get in, and nothing of theirs ends.
        let at = counts();
        let both = tokio::join!(try_sign_in(&server, &who, password), try_sign_in(&server, &who, password));
        let tokens = [both.0.expect(201).json(), both.1.expect(201).json()];
        assert_eq!(counts() - at, 2, "{name}: one hash for each");
        if name != "argon2id" {
            upgrades += 1;
        }
        // The salt of the published one is short, so that one is upgraded too.
        let now = upgraded(&server, &who, &before).await;
        assert!(now.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{name}: {now}");
        try_sign_in(&server, &who, password).await.expect(201);
        try_sign_in(&server, &who, "a wrong password").await.expect_problem("invalid_credentials");
        assert_eq!(stored(&server, &who).await.unwrap(), now, "{name}: once is enough");
        for token in tokens {
            let access = token["access_token"].as_str().unwrap();
            server.client.get("/v1/me").bearer(access).send().await.expect(200);
        }
    }
    assert!(server.app.passwords().upgraded() >= upgrades);
    let metrics = server.client.get("/metrics").send().await.expect(200).text();
    assert!(metrics.contains("portcullis_password_upgrades_total "), "{metrics}");
}

#[tokio::test]
async fn an_upgrade_does_not_overwrite_what_came_between() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let (name, password, hash) = HASHES[0];
    let line = json!([{ "email": format!("{name}@example.test"), "password_hash": hash }]);
    let made = import(&server, &admin.access, line, false).await.expect(200).json();
    let id = made["results"][0]["id"].as_str().unwrap().to_owned();
    // It signs in, and is deleted at once: no tombstone gets a hash.
    try_sign_in(&server, &format!("{name}@example.test"), password).await.expect(201);
    server.client.delete(format!("/v1/admin/accounts/{id}")).bearer(&admin.access).send().await.expect(200);
    while server.app.passwords().upgraded() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // A commit of our own comes after the one of the upgrade, if there is one.
    server.sign_up("later@example.test").await;
    use portcullis_store::Store as _;
    let view = server.store.load_account(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(view.account.password_hash, None);
}

#[tokio::test]
async fn the_same_batch_again_changes_nothing() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let batch = json!([
        { "email": "Ada@Example.test", "name": "Ada", "roles": ["ops", "admin"], "created_at": "2020-02-29T12:00:00.000Z" },
        { "id": "acc_00000000000000000000000777", "email": "bob@example.test", "blocked": { "reason": "spam" } },
        { "email": "carol@example.test", "blocked": { "reason": "spam", "until": "2020-01-01T00:00:00Z" } },
    ]);
    let dry = import(&server, &admin.access, batch.clone(), true).await.expect(200).json();
    assert_eq!((statuses(&dry), dry["dry_run"].as_bool()), (vec!["created"; 3], Some(true)));
    let list = server.client.get("/v1/admin/accounts").bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["accounts"].as_array().unwrap().len(), 1, "a dry run writes nothing");

    let made = import(&server, &admin.access, batch.clone(), false).await.expect(200).json();
    assert_eq!(statuses(&made), ["created"; 3]);
    assert_eq!(made["results"][0]["id"], dry["results"][0]["id"], "a dry run tells the id");
    let id = made["results"][0]["id"].as_str().unwrap();
    let ada =
        server.client.get(format!("/v1/admin/accounts/{id}")).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((ada["email"].as_str(), &ada["roles"]), (Some("ada@example.test"), &json!(["admin", "ops"])));
    assert_eq!(
        (ada["created_at"].as_str(), ada["status"].as_str()),
        (Some("2020-02-29T12:00:00.000Z"), Some("active"))
    );
    let bob = server.client.get("/v1/admin/accounts/acc_00000000000000000000000777").bearer(&admin.access);
    assert_eq!(bob.send().await.expect(200).json()["status"], "blocked");
    let carol = made["results"][2]["id"].as_str().unwrap();
    let carol = server.client.get(format!("/v1/admin/accounts/{carol}")).bearer(&admin.access).send().await;
    assert_eq!(carol.expect(200).json()["status"], "active", "a block that has passed is none");

    let again = import(&server, &admin.access, batch, false).await.expect(200).json();
    assert_eq!(statuses(&again), ["unchanged"; 3]);
    assert_eq!(again["results"][0]["differs"], json!([]));
    let renamed = json!([{ "email": "ada@example.test", "name": "Ada L.", "roles": [] }]);
    let again = import(&server, &admin.access, renamed, false).await.expect(200).json();
    assert_eq!(again["results"][0]["differs"], json!(["name", "roles"]), "it stays as it is");

    // One record for each batch that made something.
    let events = server.client.get("/v1/admin/events?kind=accounts.imported").bearer(&admin.access).send().await;
    let events = events.expect(200).json();
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "{events}");
    assert!(events["events"][0]["reason"].as_str().unwrap().starts_with("3 accounts"), "{events}");
    assert_eq!(events["events"][0]["actor"], admin.account.as_str());

    // What was deleted does not come back.
    server.client.delete(format!("/v1/admin/accounts/{id}")).bearer(&admin.access).send().await.expect(200);
    let back = json!([{ "email": "ada@example.test" }]);
    let back = import(&server, &admin.access, back, false).await.expect(200).json();
    assert_eq!((statuses(&back), back["results"][0]["code"].as_str()), (vec!["refused"], Some("conflict")));
}

#[tokio::test]
async fn a_line_that_is_wrong_is_refused_by_itself() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    server.sign_up("taken@example.test").await;
    let batch = json!([
        { "email": "right@example.test" },
        { "email": "taken@example.test" },
        { "email": "no address" },
        { "mail": "x@example.test" },
        "no object", 5, null, [],
        { "email": "x@example.test", "roles": "admin" },
        { "email": "x@example.test", "roles": ["Admin!"] },
        { "email": "x@example.test", "id": "ses_00000000000000000000000001" },
        { "email": "x@example.test", "password_hash": "$md5$secret-hash" },
        { "email": "x@example.test", "password_hash": "$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW" },
        { "email": "x@example.test", "password_hash": { "scheme": "firebase-scrypt", "hash": "AAAA", "salt": "AAAA" } },
        { "email": "x@example.test", "password_hash": { "scheme": "firebase-scrypt", "hash": "A", "salt": "A", "rounds": "secret-hash" } },
        { "email": "x@example.test", "password_hash": 5 },
        { "email": "x@example.test", "created_at": "yesterday" },
        { "email": "x@example.test", "created_at": "2999-01-01T00:00:00Z" },
        { "email": "x@example.test", "blocked": { "reason": "" } },
        { "email": "x@example.test", "blocked": true },
        { "email": "x@example.test", "name": "a\u{7}b" },
        { "email": "right@example.test", "name": "twice" },
        { "email": "also-right@example.test" },
    ]);
    let n = batch.as_array().unwrap().len();
    let answer = import(&server, &admin.access, batch, false).await.expect(200);
    assert!(!answer.text().contains("secret-hash"), "{}", answer.text());
    let answer = answer.json();
    let told = statuses(&answer);
    assert_eq!((told.len(), told[0], told[n - 1]), (n, "created", "created"));
    assert!(told[1..n - 1].iter().all(|status| *status == "refused"), "{answer}");
    for result in &answer["results"].as_array().unwrap()[1..n - 1] {
        assert!(result["code"].is_string() && result["detail"].as_str().is_some_and(|d| d.len() > 5), "{result}");
    }
    assert_eq!(answer["results"][1]["code"], "email_taken");
    assert_eq!((answer["created"].as_u64(), answer["refused"].as_u64()), (Some(2), Some(n as u64 - 2)));
    // The call itself must be right.
    for wrong in [json!([]), json!(vec![json!({ "email": "x@example.test" }); 101])] {
        import(&server, &admin.access, wrong, false).await.expect_problem("invalid_value");
    }
    let user = server.sign_in("taken@example.test").await;
    import(&server, &user.access, json!([{ "email": "y@example.test" }]), true)
        .await
        .expect_problem("insufficient_scope");
    server.client.get("/v1/admin/export").bearer(&user.access).send().await.expect_problem("insufficient_scope");
    server
        .client
        .post("/v1/admin/import")
        .json(&json!({ "accounts": [] }))
        .send()
        .await
        .expect_problem("token_missing");
}

#[tokio::test]
async fn two_imports_and_a_sign_up_at_once_make_each_account_once() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let batch: Vec<Value> =
        (0..40).map(|n| json!({ "email": format!("user{n}@example.test"), "name": "imported" })).collect();
    let sign_ups = async {
        for n in 0..40 {
            let body = json!({ "email": format!("user{n}@example.test"), "password": PASSWORD });
            server.client.post("/v1/accounts").json(&body).send().await;
        }
    };
    let imports = [0, 1].map(|_| import(&server, &admin.access, batch.clone().into(), false));
    let [one, two] = imports;
    let (one, two, ()) = tokio::join!(one, two, sign_ups);
    let (one, two) = (one.expect(200).json(), two.expect(200).json());
    let list = server.client.get("/v1/admin/accounts?limit=200").bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["accounts"].as_array().unwrap().len(), 41, "each once, and the administrator");
    for n in 0..40 {
        let told = [statuses(&one)[n], statuses(&two)[n]];
        assert!(told.iter().filter(|status| **status == "created").count() <= 1, "{n}: {told:?}");
    }
}

#[tokio::test]
async fn hashes_leave_by_the_admin_socket_only_and_leave_a_record() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    server.sign_up("ada@example.test").await;
    let gone = server.sign_up("gone@example.test").await;
    server.client.delete(format!("/v1/admin/accounts/{gone}")).bearer(&admin.access).send().await.expect(200);
    let get = |path: &str| server.client.get(path.to_owned()).bearer(&admin.access).send();
    let all = get("/v1/admin/export").await.expect(200);
    assert!(!all.text().contains("argon2") && !all.text().contains(&gone), "{}", all.text());
    assert_eq!(all.json()["accounts"].as_array().unwrap().len(), 2);
    get("/v1/admin/export?password_hashes=true").await.expect_problem("forbidden");
    get("/v1/admin/export?password_hashes=maybe").await.expect_problem("invalid_value");
    get("/v1/admin/export?password=1").await.expect_problem("malformed");
    let records = get("/v1/admin/events?kind=accounts.exported").await.expect(200).json();
    assert_eq!(records["events"].as_array().unwrap().len(), 0);

    use portcullis_app::Admin;
    let exported = server.app.admin_export(&Admin::operator(), true, None, 200).await.unwrap();
    assert!(exported.lines.iter().all(|line| line["password_hash"].as_str().unwrap().starts_with("$argon2id$")));
    let records = get("/v1/admin/events?kind=accounts.exported").await.expect(200).json();
    assert_eq!(records["events"][0]["actor"], "operator", "{records}");
    assert!(server.app.counts().faults.iter().all(|count| count.load(Relaxed) == 0));
}

/// A refusal says as much after a step, whatever was computed: one of ours, one that was imported, or none for want of budget.
#[tokio::test]
async fn refused_sign_ins_are_answered_at_the_end_of_a_step() {
    const STEP: i64 = 300;
    let mut options = Options::default();
    options.settings.policy.failed_sign_in_step = STEP;
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.org").await;
    let admin = server.admin().await;
    let accounts = json!([{ "email": "old@example.org", "password_hash": HASHES[0].2 }]);
    import(&server, &admin.access, accounts, false).await.expect(200);
    for email in ["ada@example.org", "old@example.org", "nobody@example.org", "no address"] {
        let began = real::mono();
        try_sign_in(&server, email, "wrong").await.expect(401).expect_problem("invalid_credentials");
        assert!(real::mono().since(began) >= STEP, "{email}");
    }
    // Beyond the budget, too.
    let throttled = || server.app.counts().attempts_throttled.load(Relaxed);
    let mut guesses = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let client = server.client.clone();
        guesses.spawn(async move {
            let body = json!({ "identifier": "old@example.org", "password": "wrong" });
            let began = real::mono();
            client.post("/v1/sessions").json(&body).send().await.expect(401);
            real::mono().since(began)
        });
    }
    let least = guesses.join_all().await.into_iter().min();
    assert!(throttled() > 0 && least >= Some(STEP), "{least:?} ms");
}

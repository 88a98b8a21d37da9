//! Addresses: proved by links in mails, where they must be and where they need not be, and changed.
use portcullis_app::Admin;
use portcullis_store::Store;
use portcullis_testkit::application::encode;
use portcullis_testkit::client::Call;
use portcullis_testkit::mails::path_of;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, PostOffice, TestServer};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const EVE: &str = "eve@example.test";
const NEW: &str = "ada@example.org";

struct World {
    server: TestServer,
    post: PostOffice,
}

impl World {
    async fn new(required: bool) -> Self {
        Self::with(|options| options.settings.rules.require_verified_email = required).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let post = PostOffice::open().await;
        let mut options = Options::default();
        options.settings.mail = Some(post.mailer.clone());
        change(&mut options);
        Self { server: TestServer::start(options).await, post }
    }

    async fn signs_up(&self, email: &str) -> Answer {
        let body = json!({ "email": email, "password": PASSWORD });
        self.server.client.post("/v1/accounts").json(&body).send().await
    }

    async fn signs_in(&self, email: &str) -> Answer {
        let body = json!({ "identifier": email, "password": PASSWORD });
        self.server.client.post("/v1/sessions").json(&body).send().await
    }

    fn form(&self, path: &str, pairs: &[(&str, &str)]) -> Call {
        self.server.client.post(path).header("origin", &self.server.issuer).form(&encode(pairs))
    }

    fn me(&self, access: &str, body: &Value) -> Call {
        self.server.client.post("/v1/me/email").bearer(access).json(body)
    }

    async fn shown(&self, access: &str) -> (String, bool) {
        let me = self.server.client.get("/v1/me").bearer(access).send().await.expect(200).json();
        (me["email"].as_str().unwrap().to_owned(), me["email_verified"].as_bool().unwrap())
    }

    /// Who was written to, with which words, once there are so many.
    async fn subjects(&self, count: usize) -> Vec<(String, String)> {
        let mails = self.post.wait_for(count).await;
        mails.iter().map(|mail| (mail.to[0].clone(), mail.header("subject").to_owned())).collect()
    }

    async fn events(&self) -> Vec<String> {
        let admin = self.server.admin().await;
        let page = self.server.client.get("/v1/admin/events").bearer(&admin.access).send().await.expect(200).json();
        page["events"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn access(answer: &Answer) -> String {
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn gone(answer: &Answer) -> bool {
    answer.status == 404 && answer.text().contains("This link does not work any more")
}

#[tokio::test]
async fn where_it_need_not_be_proved_everything_works_before() {
    let world = World::new(false).await;
    let made = world.signs_up(ADA).await.expect(201).json();
    assert_eq!((made["email"].as_str(), made["email_verified"].as_bool()), (Some(ADA), Some(false)));
    let access = access(&world.signs_in(ADA).await.expect(201));
    assert_eq!(world.shown(&access).await, (ADA.to_owned(), false));
    let link = world.post.link("/email/pcl_").await;
    // Whoever scans mails opens links.
    for _ in 0..2 {
        let page = world.server.client.get(&*link).send().await.expect(200);
        assert!(page.text().contains(ADA) && page.text().contains("Confirm your address"));
        assert_eq!(page.header("referrer-policy"), "strict-origin");
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
    }
    assert!(!world.shown(&access).await.1);
    world.server.client.post(&*link).header("origin", "https://evil.example").form("").send().await.expect(403);
    assert!(!world.shown(&access).await.1);
    let done = world.form(&link, &[]).send().await.expect(200);
    assert!(done.text().contains("Your address is confirmed"));
    assert_eq!(world.shown(&access).await, (ADA.to_owned(), true));
    // Twice is once, and says so; asking again has nothing to send.
    world.form(&link, &[]).send().await.expect(200);
    assert!(world.server.client.get(&*link).send().await.expect(200).text().contains("is confirmed"));
    let asked = world.me(&access, &json!({})).send().await.expect(200).json();
    assert_eq!(asked, json!({ "email": ADA, "email_verified": true }));
    assert_eq!(world.events().await.iter().filter(|kind| *kind == "email.verified").count(), 1);
    let admin = world.server.admin().await;
    let path = format!("/v1/admin/accounts/{}", made["id"].as_str().unwrap());
    let shown = world.server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(shown["email_verified"], true);
    // An administrator may say otherwise.
    let call = world.server.client.patch(&*path).bearer(&admin.access).json(&json!({ "email_verified": false }));
    assert_eq!(call.send().await.expect(200).json()["email_verified"], false);
    assert!(gone(&world.form(&link, &[]).send().await));
    // Programs use a link by its last part.
    world.me(&access, &json!({})).send().await.expect(202);
    let second = world.post.wait_for(2).await.pop().unwrap();
    let token = path_of(&second).unwrap().rsplit('/').next().unwrap().to_owned();
    let used = world.server.client.post("/v1/me/email").json(&json!({ "token": token })).send().await.expect(200);
    assert_eq!(used.json(), json!({ "email": ADA, "email_verified": true }));
    assert!(world.shown(&access).await.1);
}

#[tokio::test]
async fn where_it_must_be_proved_nobody_signs_in_before_and_nobody_learns_who_has_an_account() {
    let world = World::new(true).await;
    let rows = world.server.store.clone();
    let before = rows.count_rows().await.unwrap().tickets;
    let first = world.signs_up(ADA).await.expect(202);
    let again = world.signs_up(ADA).await.expect(202);
    let other = world.signs_up(EVE).await.expect(202);
    assert_eq!((first.text(), first.header("content-type")), (again.text(), again.header("content-type")));
    assert_eq!(first.text(), other.text());
    assert_eq!(rows.count_rows().await.unwrap().tickets, before + 3, "one row for each");
    let mut told = world.subjects(3).await;
    told.sort();
    let words = ["Confirm your address", "You have an account", "Confirm your address"];
    for ((to, subject), (who, words)) in told.iter().zip([ADA, ADA, EVE].into_iter().zip(words)) {
        assert!(to == who && subject.contains(words), "{told:?}");
    }
    // What is wrong with the request is told as ever.
    let short = json!({ "email": ADA, "password": "short" });
    world.server.client.post("/v1/accounts").json(&short).send().await.expect(422);
    // Only the right password is told what is missing.
    let wrong = json!({ "identifier": ADA, "password": "not the password" });
    let refused = world.server.client.post("/v1/sessions").json(&wrong).send().await.expect(401).json();
    assert_eq!(refused["code"], "invalid_credentials");
    world.signs_in(ADA).await.expect_problem("email_not_verified");
    let page = world.form("/sign-in", &[("identifier", ADA), ("password", PASSWORD)]).send().await.expect(403);
    assert!(
        page.text().contains("Your address is not confirmed yet") && page.cookie("__Host-portcullis_session").is_none()
    );
    // And is sent the link once more, as often as mails may be sent.
    for _ in 0..4 {
        world.signs_in(ADA).await.expect(403);
    }
    let told = world.subjects(6).await;
    assert_eq!(told.iter().filter(|(to, subject)| to == ADA && subject.contains("Confirm")).count(), 4, "{told:?}");
    let link = world.post.link_about("Confirm", "/email/").await;
    world.form(&link, &[]).send().await.expect(200);
    let mine = access(&world.signs_in(ADA).await.expect(201));
    assert_eq!(world.shown(&mine).await, (ADA.to_owned(), true));
    // Eve's is proved by a new password, whose link went to the same address.
    assert_eq!(world.signs_in(EVE).await.expect(403).json()["code"], "email_not_verified");
    world.signs_up(EVE).await.expect(202);
    world.subjects(8).await;
    let link = world.post.link_about("You have an account", "/recover/").await;
    world.form(&link, &[("password", PASSWORD), ("again", PASSWORD)]).send().await.expect(200);
    world.signs_in(EVE).await.expect(201);
    assert_eq!(world.events().await.iter().filter(|kind| *kind == "email.verified").count(), 2);
}

#[tokio::test]
async fn many_at_once_make_one_account_and_all_are_answered_alike() {
    let world = World::new(true).await;
    let calls = (0..8).map(|_| {
        let body = json!({ "email": ADA, "password": PASSWORD });
        tokio::spawn(world.server.client.post("/v1/accounts").json(&body).send())
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().expect(202).text(), "{}");
    }
    let admin = Admin::operator();
    let found = world.server.app.admin_accounts(&admin, Some(ADA), None, 10).await.unwrap();
    assert_eq!(found.rows.len(), 1);
}

#[tokio::test]
async fn another_address_counts_once_its_link_is_used_and_the_one_before_is_told() {
    let world = World::new(false).await;
    let account = world.server.sign_up(ADA).await;
    world.server.sign_up(EVE).await;
    let phone = world.server.sign_in(ADA).await;
    let asks = |to: &str| world.me(&phone.access, &json!({ "email": to }));
    // The address of another account is not told; nobody is written to.
    let (taken, free) = (asks(EVE).send().await.expect(202), asks(NEW).send().await.expect(202));
    assert_eq!(taken.text(), free.text());
    let mail = world.post.wait_for(1).await.pop().unwrap();
    assert!(mail.to == [NEW] && !mail.text().contains(ADA), "{}", mail.text());
    for (wrong, status) in [("no address", 422), (ADA, 422)] {
        asks(wrong).send().await.expect(status);
    }
    assert_eq!(world.shown(&phone.access).await.0, ADA);
    let link = path_of(&mail).unwrap();
    assert!(world.server.client.get(&*link).send().await.expect(200).text().contains("Use this address?"));
    let done = world.form(&link, &[]).send().await.expect(200);
    assert!(done.text().contains("You have a new address"));
    assert_eq!(world.shown(&phone.access).await, (NEW.to_owned(), true));
    assert_eq!(
        (world.signs_in(ADA).await.status, world.signs_in(NEW).await.status.as_u16()),
        (http::StatusCode::UNAUTHORIZED, 201)
    );
    let told = world.post.wait_for(2).await.pop().unwrap();
    assert!(told.to == [ADA] && told.header("subject").contains("another address"), "{told:?}");
    // It was not them: the address comes back with the end of everything.
    let not_me = path_of(&told).unwrap();
    assert!(world.server.client.get(&*not_me).send().await.expect(200).text().contains("gets yours back"));
    let next = world.form(&not_me, &[("all", "1")]).send().await.expect(303);
    assert_eq!(world.server.client.get("/v1/me").bearer(&phone.access).send().await.status.as_u16(), 401);
    world.form(next.header("location"), &[("password", PASSWORD), ("again", PASSWORD)]).send().await.expect(200);
    assert_eq!((world.signs_in(NEW).await.status.as_u16(), world.signs_in(ADA).await.status.as_u16()), (401, 201));
    let admin = world.server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let shown = world.server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((shown["email"].as_str(), shown["email_verified"].as_bool()), (Some(ADA), Some(true)));
    assert_eq!(world.events().await.iter().filter(|kind| *kind == "email.changed").count(), 2);
}

#[tokio::test]
async fn a_change_needs_a_fresh_proof_and_its_link_dies_with_the_sessions() {
    let world = World::with(|options| options.settings.policy.step_up_max_age = -1).await;
    world.server.sign_up(ADA).await;
    let later = world.server.sign_in(ADA).await.access;
    let stale = world.me(&later, &json!({ "email": NEW })).send().await.expect(401).json();
    assert_eq!(stale["code"], "step_up_required");
    let wrong = json!({ "email": NEW, "password": "not the password" });
    world.me(&later, &wrong).send().await.expect(401);
    world.me(&later, &json!({ "email": NEW, "password": PASSWORD })).send().await.expect(202);
    let link = world.post.link("/email/").await;
    world.server.client.delete("/v1/me/sessions").bearer(&later).send().await.expect(200);
    assert!(gone(&world.server.client.get(&*link).send().await) && gone(&world.form(&link, &[]).send().await));
    // A link to a new password that went to the address before is void with the change.
    let body = json!({ "identifier": ADA });
    world.server.client.post("/v1/recovery").json(&body).send().await.expect(202);
    let reset = world.post.link("/recover/").await;
    let phone = world.server.sign_in(ADA).await;
    world.me(&phone.access, &json!({ "email": NEW, "password": PASSWORD })).send().await.expect(202);
    let next = world.post.wait_for(3).await.pop().unwrap();
    world.form(&path_of(&next).unwrap(), &[]).send().await.expect(200);
    assert!(gone(&world.server.client.get(&*reset).send().await));
    // Who has no mail server cannot.
    let bare = TestServer::start(Options::default()).await;
    bare.sign_up(ADA).await;
    let ada = bare.sign_in(ADA).await;
    for body in [json!({}), json!({ "email": NEW })] {
        let call = bare.client.post("/v1/me/email").bearer(&ada.access).json(&body);
        assert_eq!(call.send().await.expect(403).json()["code"], "forbidden");
    }
    for body in [json!({ "password": "x" }), json!({ "token": "x", "email": NEW }), json!({ "who": 1 })] {
        bare.client.post("/v1/me/email").bearer(&ada.access).json(&body).send().await.expect(400);
    }
    bare.client.post("/v1/me/email").json(&json!({ "token": "x" })).send().await.expect(404);
    bare.client.post("/v1/me/email").json(&json!({})).send().await.expect(401);
}

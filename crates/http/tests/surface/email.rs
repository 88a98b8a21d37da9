//! Addresses: proved by links in mails, where they must be and where they need not be, and changed.
use crate::one_rule::rule;
use portcullis_app::Admin;
use portcullis_domain::risk::Outcome;
use portcullis_store::{EventFilter, Store};
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

    /// Proves the address that this link was sent to.
    async fn proves(&self, link: &str) -> Answer {
        self.form(link, &[("password", PASSWORD)]).send().await
    }

    /// The newest mail to this address with these words in its subject, once there is one.
    async fn mail_to(&self, who: &str, words: &str) -> portcullis_app::Caught {
        let mut seen = 0;
        loop {
            let mails = self.post.wait_for(seen + 1).await;
            seen = mails.len();
            let fits = |mail: &portcullis_app::Caught| mail.to == [who] && mail.header("subject").contains(words);
            if let Some(mail) = mails.into_iter().rev().find(fits) {
                return mail;
            }
        }
    }

    async fn link_to(&self, who: &str, words: &str) -> String {
        path_of(&self.mail_to(who, words).await).unwrap()
    }

    /// Makes the account have another address, from this session.
    async fn moves(&self, access: &str, to: &str) {
        self.me(access, &json!({ "email": to })).send().await.expect(202);
        let link = self.post.link_about("Use this address", "/email/").await;
        self.form(&link, &[]).send().await.expect(200);
    }

    async fn says_not_me(&self, link: &str) -> Answer {
        self.form(link, &[]).send().await
    }

    async fn recovers(&self, link: &str, password: &str) -> Answer {
        self.form(link, &[("password", password), ("again", password)]).send().await
    }

    async fn signs_in_with(&self, email: &str, password: &str) -> u16 {
        let body = json!({ "identifier": email, "password": password });
        self.server.client.post("/v1/sessions").json(&body).send().await.status.as_u16()
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
    // Whoever opens it may not be who signed up: it needs the password.
    let wrong = world.form(&link, &[("password", "not the password")]).send().await.expect(401);
    assert!(wrong.text().contains("not the password that was chosen") && !world.shown(&access).await.1);
    let token = link.rsplit('/').next().unwrap();
    for (password, status) in [(json!("not the password"), 401), (Value::Null, 422)] {
        let body = json!({ "token": token, "password": password });
        world.server.client.post("/v1/me/email").json(&body).send().await.expect(status);
    }
    let done = world.proves(&link).await.expect(200);
    assert!(done.text().contains("Your address is confirmed"));
    assert_eq!(world.shown(&access).await, (ADA.to_owned(), true));
    // Twice is once, and says so; asking again has nothing to send.
    world.proves(&link).await.expect(200);
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
    assert!(gone(&world.proves(&link).await));
    // Programs use a link by its last part.
    world.me(&access, &json!({})).send().await.expect(202);
    let second = world.post.wait_for(2).await.pop().unwrap();
    let token = path_of(&second).unwrap().rsplit('/').next().unwrap().to_owned();
    let used = world
        .server
        .client
        .post("/v1/me/email")
        .json(&json!({ "token": token, "password": PASSWORD }))
        .send()
        .await
        .expect(200);
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
    // Whoever chose a password for an address by signing up learns nothing by it: whether it was new, or somebody's, or is
    // unknown, or the password is wrong. The mail goes to the address.
    let other = json!({ "identifier": ADA, "password": "not the password" });
    let nobody = json!({ "identifier": "nobody@example.test", "password": PASSWORD });
    let mine = json!({ "identifier": ADA, "password": PASSWORD });
    let mut said = vec![];
    for body in [other, nobody, mine] {
        let refused = world.server.client.post("/v1/sessions").json(&body).send().await.expect(401);
        assert_eq!(refused.json()["code"], "invalid_credentials");
        let pairs = ["identifier", "password"].map(|name| (name, body[name].as_str().unwrap().to_owned()));
        let pairs = pairs.each_ref().map(|(name, value)| (*name, value.as_str()));
        let page = world.form("/sign-in", &pairs).send().await.expect(401);
        assert!(page.text().contains("not confirmed yet") && page.cookie("__Host-portcullis_session").is_none());
        said.push((refused.json()["detail"].clone(), page.text().replace(body["identifier"].as_str().unwrap(), "WHO")));
    }
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    // It is sent once more, as often as mails may be sent there: three in all.
    let told = world.subjects(4).await;
    assert_eq!(told.iter().filter(|(to, subject)| to == ADA && subject.contains("Confirm")).count(), 2, "{told:?}");
    let link = world.post.link_about("Confirm", "/email/").await;
    world.proves(&link).await.expect(200);
    let mine = access(&world.signs_in(ADA).await.expect(201));
    assert_eq!(world.shown(&mine).await, (ADA.to_owned(), true));
    // Eve's is proved by a new password, whose link went to the same address.
    assert_eq!(world.signs_in(EVE).await.expect(401).json()["code"], "invalid_credentials");
    world.signs_up(EVE).await.expect(202);
    let link = world.link_to(EVE, "You have an account").await;
    world.recovers(&link, PASSWORD).await.expect(200);
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
    let not_me = world.post.link_about("has another address", "/not-me/").await;
    let mails = world.post.catcher.mails();
    let told = mails.iter().find(|mail| path_of(mail).as_ref() == Some(&not_me)).unwrap();
    assert_eq!(told.to, [ADA]);
    assert!(told.text().contains("a…@example.org") && !told.text().contains(NEW), "{}", told.text());
    // It was not them: the address comes back with the end of everything.
    assert!(world.server.client.get(&*not_me).send().await.expect(200).text().contains("gets yours back"));
    let next = world.form(&not_me, &[("all", "1")]).send().await.expect(303);
    assert_eq!(world.server.client.get("/v1/me").bearer(&phone.access).send().await.status.as_u16(), 401);
    world.form(next.header("location"), &[("password", PASSWORD), ("again", PASSWORD)]).send().await.expect(200);
    assert_eq!((world.signs_in(NEW).await.status.as_u16(), world.signs_in(ADA).await.status.as_u16()), (401, 201));
    let admin = world.server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let shown = world.server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((shown["email"].as_str(), shown["email_verified"].as_bool()), (Some(ADA), Some(true)));
    let events = world.events().await;
    let count = |kind: &str| events.iter().filter(|one| *one == kind).count();
    // Also of the address that somebody else has: the record tells no more than the answer.
    assert_eq!((count("email.change_asked"), count("email.changed")), (2, 2));
}

/// A browser that is known stays known when the account gets another address: no mail tells of it.
#[tokio::test]
async fn another_address_makes_no_device_new() {
    let world = World::new(false).await;
    world.server.sign_up(ADA).await;
    world.server.sign_in(ADA).await;
    let enters = async |email: &str, mark: Option<&str>| {
        let body = encode(&[("identifier", email), ("password", PASSWORD)]);
        let call = world.server.client.post("/sign-in").header("origin", &world.server.issuer).form(&body);
        let call = match mark {
            Some(mark) => call.header("cookie", format!("__Host-portcullis_device={mark}")),
            None => call,
        };
        let entered = call.send().await.expect(303);
        entered.cookie("__Host-portcullis_device").unwrap()
    };
    let mark = enters(ADA, None).await;
    world.mail_to(ADA, "New sign-in").await;
    let phone = world.server.sign_in(ADA).await;
    world.moves(&phone.access, NEW).await;
    let mails = world.post.catcher.mails().len();
    let mark = enters(NEW, Some(&mark)).await;
    enters(NEW, Some(&mark)).await;
    // It is told of one without the mark, and that is the first one since.
    enters(NEW, None).await;
    world.mail_to(NEW, "New sign-in").await;
    let to_new = |mail: &&portcullis_app::Caught| mail.to == [NEW];
    let mails = world.post.catcher.mails()[mails..].iter().filter(to_new).count();
    assert_eq!(mails, 1);
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
    world.post.wait_for(3).await;
    let next = world.post.link_about("Use this address", "/email/").await;
    assert_ne!(next, link);
    world.form(&next, &[]).send().await.expect(200);
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

/// Whoever takes an account over changes its address, and then at once its password: by a link that goes there.
#[tokio::test]
async fn the_owner_gets_the_account_back_from_whoever_changed_address_and_password() {
    let world = World::new(false).await;
    let account = world.server.sign_up(ADA).await;
    let thief = world.server.sign_in(ADA).await;
    world.moves(&thief.access, NEW).await;
    let mine = world.post.link_about("has another address", "/not-me/").await;
    world.server.client.post("/v1/recovery").json(&json!({ "identifier": NEW })).send().await.expect(202);
    let reset = world.post.link_about("new password", "/recover/").await;
    world.recovers(&reset, "the password of a thief").await.expect(200);
    let theirs = world.post.link_about("was reset", "/not-me/").await;
    // And signs up with the address that is free now, so that nobody gets it back.
    let squatter = world.signs_up(ADA).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let next = world.says_not_me(&mine).await.expect(303).header("location").to_owned();
    // The link that went to the thief's address is worth nothing against it, and no password opens the account.
    assert!(gone(&world.server.client.get(&*theirs).send().await) && gone(&world.says_not_me(&theirs).await));
    for (email, password) in [(NEW, "the password of a thief"), (ADA, "the password of a thief"), (ADA, PASSWORD)] {
        assert_eq!(world.signs_in_with(email, password).await, 401, "{email} {password}");
    }
    world.recovers(&next, "a password of my own").await.expect(200);
    assert_eq!(world.signs_in_with(ADA, "a password of my own").await, 201);
    let admin = world.server.admin().await;
    for (id, email, verified) in [(&account, json!(ADA), true), (&squatter, Value::Null, false)] {
        let path = format!("/v1/admin/accounts/{id}");
        let shown = world.server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
        assert_eq!((&shown["email"], &shown["email_verified"]), (&email, &json!(verified)), "{shown}");
    }
    // Whose address went is told so.
    world.mail_to(NEW, "any more").await;
}

#[tokio::test]
async fn a_link_to_another_address_ends_with_the_session_that_asked_for_it() {
    let world = World::new(false).await;
    world.server.sign_up(ADA).await;
    let (thief, mine) = (world.server.sign_in(ADA).await, world.server.sign_in(ADA).await);
    world.me(&thief.access, &json!({ "email": NEW })).send().await.expect(202);
    let link = world.post.link_about("Use this address", "/email/").await;
    world.server.client.get(&*link).send().await.expect(200);
    let listed = world.server.client.get("/v1/me/sessions").bearer(&thief.access).send().await.expect(200).json();
    let current = listed["sessions"].as_array().unwrap().iter().find(|row| row["current"] == true).unwrap();
    let path = format!("/v1/me/sessions/{}", current["id"].as_str().unwrap());
    world.server.client.delete(path).bearer(&mine.access).send().await.expect(200);
    assert!(gone(&world.server.client.get(&*link).send().await) && gone(&world.form(&link, &[]).send().await));
    assert_eq!(world.shown(&mine.access).await.0, ADA);
}

/// Wishes for an address take nothing from what its owner may ask for at `/recover`, and neither do sign-ups.
#[tokio::test]
async fn nobody_keeps_somebody_from_a_link_to_a_new_password() {
    let world = World::new(true).await;
    for who in [ADA, EVE] {
        world.server.sign_up(who).await;
    }
    let eve = world.server.sign_in(EVE).await;
    for _ in 0..3 {
        world.me(&eve.access, &json!({ "email": ADA })).send().await.expect(202);
        world.signs_up(ADA).await.expect(202);
    }
    world.me(&eve.access, &json!({ "email": ADA })).send().await.expect(409);
    world.server.client.post("/v1/recovery").json(&json!({ "identifier": ADA })).send().await.expect(202);
    let reset = world.post.link_about("Choose a new password", "/recover/").await;
    world.recovers(&reset, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn rules_see_a_change_of_address() {
    let world = World::new(false).await;
    world.server.sign_up(ADA).await;
    let phone = world.server.sign_in(ADA).await;
    rule(&world.server, |s| s.act == "change" && s.what == "email", Outcome::EndSession);
    let refused = world.me(&phone.access, &json!({ "email": NEW })).send().await;
    assert!(refused.status.is_client_error(), "{refused:?}");
    world.server.client.get("/v1/me").bearer(&phone.access).send().await.expect(401);
    // What is told is that the session ended; no link went to the other address.
    world.post.link_about("", "/not-me/").await;
    assert!(world.post.catcher.mails().iter().all(|mail| mail.to == [ADA]));
}

/// Whoever signs up with somebody else's address again and again, and deletes the account each time, fills no mailbox.
#[tokio::test]
async fn signing_up_and_deleting_again_and_again_fills_no_mailbox() {
    let world = World::new(false).await;
    for _ in 0..6 {
        world.signs_up(ADA).await.expect(201);
        let mine = access(&world.signs_in(ADA).await.expect(201));
        let body = json!({ "password": PASSWORD });
        world.server.client.delete("/v1/me").bearer(&mine).json(&body).send().await.expect(200);
    }
    for _ in 0..3000 {
        if world.server.store.count_messages().await.unwrap().waiting == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(world.server.store.count_messages().await.unwrap().waiting, 0);
    // Some of the links ended with their account before they were sent.
    let sent = world.post.catcher.mails();
    let deleted = sent.iter().filter(|mail| !mail.header("subject").contains("Confirm")).count();
    assert!(deleted == 3 && sent.len() <= 6, "{}", sent.len());
}

/// An administrator gives an account another address: what nobody could give back is not lost.
#[tokio::test]
async fn an_administrator_gives_an_account_another_address() {
    let world = World::new(false).await;
    let account = world.server.sign_up(ADA).await;
    world.server.sign_up(EVE).await;
    let admin = world.server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let patch = |body: Value| world.server.client.patch(&*path).bearer(&admin.access).json(&body).send();
    assert_eq!(patch(json!({ "email": EVE })).await.expect(409).json()["code"], "email_taken");
    patch(json!({ "email": "no address" })).await.expect(422);
    let set = patch(json!({ "email": NEW, "name": "Ada" })).await.expect(200).json();
    assert_eq!((&set["email"], &set["email_verified"], &set["name"]), (&json!(NEW), &json!(false), &json!("Ada")));
    let told = world.post.wait_for(1).await.pop().unwrap();
    assert!(told.to == [ADA] && told.header("subject").contains("any more") && told.link().is_none(), "{told:?}");
    let set = patch(json!({ "email": ADA, "email_verified": true })).await.expect(200).json();
    assert_eq!((&set["email"], &set["email_verified"]), (&json!(ADA), &json!(true)));
    assert_eq!(world.events().await.iter().filter(|kind| *kind == "email.changed").count(), 2);
}

/// Whoever has a session learns nothing new by what is missing: a proof says so.
#[tokio::test]
async fn a_proof_on_a_page_says_that_the_address_is_not_confirmed() {
    let world = World::new(true).await;
    let account = world.server.sign_up(ADA).await;
    let pairs = [("identifier", ADA), ("password", PASSWORD)];
    let page = world.form("/sign-in", &pairs).send().await.expect(303);
    let cookie = format!("__Host-portcullis_session={}", page.cookie("__Host-portcullis_session").unwrap());
    let admin = world.server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let patch = world.server.client.patch(path).bearer(&admin.access).json(&json!({ "email_verified": false }));
    patch.send().await.expect(200);
    let pairs = [("identifier", ADA), ("password", PASSWORD), ("again", "1")];
    let page = world.form("/sign-in", &pairs).header("cookie", &cookie).send().await.expect(403);
    assert!(page.text().contains("Your address is not confirmed yet"), "{}", page.text());
    world.mail_to(ADA, "Confirm").await;
}

const DAY: i64 = 86_400_000;

/// What somebody signed up for and never confirmed goes; what was confirmed, made by an administrator or given a role stays.
#[tokio::test]
async fn what_nobody_confirms_goes_after_a_week() {
    let world = World::new(true).await;
    let client = &world.server.client;
    let admin = world.server.admin().await;
    let body = json!({ "email": "made@example.test", "password": PASSWORD });
    client.post("/v1/admin/accounts").bearer(&admin.access).json(&body).send().await.expect(201);
    world.signs_up(ADA).await.expect(202);
    world.proves(&world.post.link("/email/").await).await.expect(200);
    world.signs_up("role@example.test").await.expect(202);
    world.signs_up(EVE).await.expect(202);
    let accounts = async || {
        let page = world.server.app.store().list_accounts(None, None, 100).await.unwrap();
        let mut all: Vec<_> = page.rows.into_iter().filter_map(|row| Some((row.email?, row.id))).collect();
        all.sort();
        all
    };
    let all = accounts().await;
    let id = |email: &str| all.iter().find(|row| row.0 == email).unwrap().1;
    let path = format!("/v1/admin/accounts/{}", id("role@example.test"));
    client.patch(path).bearer(&admin.access).json(&json!({ "roles": ["support"] })).send().await.expect(200);
    let later = async |ms| {
        world.server.advance(ms);
        world.server.app.prune_all().await.unwrap();
    };
    later(6 * DAY).await;
    assert_eq!(accounts().await, all);
    let written = world.post.catcher.mails().len();
    later(DAY + 1).await;
    let left: Vec<_> = all.iter().filter(|row| row.0 != EVE).cloned().collect();
    assert_eq!(accounts().await, left);
    let kind = Some("account.deleted".into());
    let filter = EventFilter { account: Some(id(EVE)), kind, ..EventFilter::default() };
    let gone = world.server.app.store().list_events(&filter, None, 10).await.unwrap().rows;
    assert_eq!(gone.iter().map(|row| &*row.event.actor).collect::<Vec<_>>(), ["system"]);
    let metrics = client.get("/metrics").send().await.expect(200).text();
    assert!(metrics.contains("portcullis_unverified_pruned_total 1"), "{metrics}");
    // The address is free.
    world.signs_up(EVE).await.expect(202);
    assert_eq!(accounts().await.len(), all.len());
    let to_eve = world.post.catcher.mails()[written..].iter().filter(|mail| mail.to == [EVE]).count();
    assert!(to_eve <= 1, "nobody was told");
}

//! A new password by a link in a mail, and "this was not me": asked from outside, with a real mail server.
use portcullis_testkit::application::encode;
use portcullis_testkit::client::Call;
use portcullis_testkit::mails::path_of;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, PostOffice, TestServer};
use serde_json::{Value, json};
use std::time::Duration;

const ADA: &str = "ada@example.test";
const NEW: &str = "another good password";
/// As long as something that must come may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    server: TestServer,
    post: PostOffice,
}

impl World {
    async fn new() -> Self {
        let post = PostOffice::open().await;
        let mut options = Options::default();
        options.settings.mail = Some(post.mailer.clone());
        let server = TestServer::start(options).await;
        server.sign_up(ADA).await;
        Self { server, post }
    }

    fn form(&self, path: &str, pairs: &[(&str, &str)]) -> Call {
        self.server.client.post(path).header("origin", &self.server.issuer).form(&encode(pairs))
    }

    async fn ask(&self, identifier: &str) -> Answer {
        self.server.client.post("/v1/recovery").json(&json!({ "identifier": identifier })).send().await
    }

    /// The path of a link that was asked for: one that was not there before, whatever other mails are under way.
    async fn link(&self) -> String {
        let known = self.links();
        self.ask(ADA).await.expect(202);
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(path) = self.links().into_iter().find(|path| !known.contains(path)) {
                return path;
            }
            assert!(tokio::time::Instant::now() < until, "no link has come");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The paths of all links to a new password that have come.
    fn links(&self) -> Vec<String> {
        let mails = self.post.catcher.mails();
        mails.iter().filter_map(path_of).filter(|path| path.starts_with("/recover/")).collect()
    }

    /// Once no mail waits to be sent.
    async fn all_are_sent(&self) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while portcullis_store::Store::count_messages(&*self.server.store).await.unwrap().waiting > 0 {
            assert!(tokio::time::Instant::now() < until, "mails wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn set(&self, link: &str, password: &str) -> Answer {
        self.form(link, &[("password", password), ("again", password)]).send().await
    }

    async fn signs_in(&self, password: &str) -> u16 {
        let body = json!({ "identifier": ADA, "password": password });
        self.server.client.post("/v1/sessions").json(&body).send().await.status.as_u16()
    }

    async fn lives(&self, access: &str) -> bool {
        self.server.client.get("/v1/me").bearer(access).send().await.status == 200
    }

    async fn events(&self) -> Vec<String> {
        let admin = self.server.admin().await;
        let page = self.server.client.get("/v1/admin/events").bearer(&admin.access).send().await.expect(200).json();
        page["events"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn gone(answer: &Answer) -> bool {
    answer.status == 404 && answer.text().contains("This link does not work any more")
}

#[tokio::test]
async fn a_link_gives_a_new_password_once_and_ends_everything() {
    let world = World::new().await;
    let (phone, laptop) = (world.server.sign_in(ADA).await, world.server.sign_in(ADA).await);
    let link = world.link().await;
    assert!(link.starts_with("/recover/pcl_"), "{link}");
    // Whoever scans mails opens links: nothing is changed by that, and no path goes on in a `Referer`.
    for _ in 0..3 {
        let page = world.server.client.get(&*link).send().await.expect(200);
        assert_eq!(page.header("referrer-policy"), "strict-origin");
        assert!(page.text().contains(ADA) && page.header("content-security-policy").contains("default-src 'none'"));
    }
    assert!(world.lives(&phone.access).await);
    for (password, again, words) in
        [("short", "short", "at least 8"), (NEW, "other", "not the same"), (ADA, ADA, "address itself")]
    {
        let page = world.form(&link, &[("password", password), ("again", again)]).send().await.expect(422);
        assert!(page.text().contains(words), "{}", page.text());
    }
    world.set(&link, NEW).await.expect(200);
    assert!(!world.lives(&phone.access).await && !world.lives(&laptop.access).await);
    assert_eq!((world.signs_in(PASSWORD).await, world.signs_in(NEW).await), (401, 201));
    assert!(gone(&world.set(&link, "a third password").await) && gone(&world.server.client.get(&*link).send().await));
    assert_eq!(world.signs_in(NEW).await, 201);
    let events = world.events().await;
    assert_eq!(events.iter().filter(|kind| *kind == "password.reset").count(), 1, "{events:?}");
    // And it is told to the address.
    let told = world.post.wait_for(2).await.pop().unwrap();
    assert!(told.header("subject").contains("was reset") && path_of(&told).unwrap().starts_with("/not-me/"));
}

#[tokio::test]
async fn of_many_at_once_one_sets_the_password() {
    let world = World::new().await;
    let token = world.link().await.rsplit('/').next().unwrap().to_owned();
    let calls = (0..8).map(|n| {
        let body = json!({ "token": token, "password": format!("a new password {n}") });
        world.server.client.post("/v1/recovery").json(&body).send()
    });
    let answers = futures_join(calls).await;
    let done: Vec<usize> = (0..8).filter(|n| answers[*n].status == 200).collect();
    assert_eq!(done.len(), 1, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    assert!(answers.iter().all(|a| matches!(a.status.as_u16(), 200 | 404 | 409)));
    assert_eq!(world.signs_in(&format!("a new password {}", done[0])).await, 201);
}

async fn futures_join<F: Future<Output = Answer> + Send + 'static>(calls: impl Iterator<Item = F>) -> Vec<Answer> {
    let tasks: Vec<_> = calls.map(tokio::spawn).collect();
    let mut out = vec![];
    for task in tasks {
        out.push(task.await.unwrap());
    }
    out
}

#[tokio::test]
async fn nobody_learns_who_has_an_account() {
    let world = World::new().await;
    let mut bodies = vec![];
    for who in [ADA, "nobody@example.test", "no address", "", "ADA@example.test "] {
        let answer = world.ask(who).await.expect(202);
        bodies.push((answer.text(), answer.header("content-type").to_owned()));
        let page = world.form("/recover", &[("identifier", who)]).send().await.expect(200);
        bodies.push((page.text(), page.header("content-type").to_owned()));
    }
    let (api, pages): (Vec<_>, Vec<_>) = bodies.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
    assert!(api.iter().all(|one| *one == api[0]) && pages.iter().all(|one| *one == pages[0]));
    // The same rows are written for all of them: one ticket each.
    let rows = world.server.store.clone();
    let before = portcullis_store::Store::count_rows(&*rows).await.unwrap().tickets;
    world.ask("nobody2@example.test").await.expect(202);
    assert_eq!(portcullis_store::Store::count_rows(&*rows).await.unwrap().tickets, before + 1);
}

#[tokio::test]
async fn an_answer_waits_for_the_end_of_its_step() {
    let post = PostOffice::open().await;
    let mut options = Options::default();
    options.settings.mail = Some(post.mailer.clone());
    options.settings.policy.failed_sign_in_step = 300;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    for who in [ADA, "nobody@example.test"] {
        let begun = tokio::time::Instant::now();
        server.client.post("/v1/recovery").json(&json!({ "identifier": who })).send().await.expect(202);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300), "{who}: {took:?}");
    }
}

#[tokio::test]
async fn a_mailbox_is_not_filled_by_who_knows_its_address() {
    let world = World::new().await;
    for _ in 0..6 {
        world.ask(ADA).await.expect(202);
    }
    world.server.sign_up("eve@example.test").await;
    world.ask("eve@example.test").await.expect(202);
    // Eve's mail was asked for last: what comes before it has come.
    let mails = world.post.wait_for(4).await;
    let to = |who: &str| mails.iter().filter(|mail| mail.to == [who]).count();
    assert_eq!((to(ADA), to("eve@example.test")), (3, 1));
    // All three work, until one is used.
    let links: Vec<String> = mails.iter().filter(|mail| mail.to == [ADA]).map(|mail| path_of(mail).unwrap()).collect();
    world.server.client.get(&*links[0]).send().await.expect(200);
    world.set(&links[2], NEW).await.expect(200);
    assert!(
        gone(&world.server.client.get(&*links[0]).send().await) && gone(&world.set(&links[1], "a third one").await)
    );
    // What is under way when the clock is put forward would be sent twice: a mail has come before its row says so.
    world.post.wait_for(5).await;
    world.all_are_sent().await;
    world.server.advance(20 * 60_000);
    world.ask(ADA).await.expect(202);
    let more = world.post.wait_for(6).await;
    assert_eq!(more.iter().filter(|mail| mail.header("subject").contains("Choose")).count(), 5);
}

#[tokio::test]
async fn links_that_are_old_cut_off_or_of_another_kind_are_one_and_the_same_page() {
    let world = World::new().await;
    let phone = world.server.sign_in(ADA).await;
    let old = world.link().await;
    world.server.client.delete("/v1/me/sessions").bearer(&phone.access).send().await.expect(200);
    let token = |link: &str| link.rsplit('/').next().unwrap().to_owned();
    let cut = world.set(&old, NEW).await;
    let expired = world.link().await;
    world.server.advance(61 * 60_000);
    // A mail about a new device, whose link is of another kind.
    let form = [("identifier", ADA), ("password", PASSWORD)];
    world.form("/sign-in", &form).send().await.expect(303);
    let not_me = world.post.link("/not-me/").await;
    let mut pages = vec![cut, world.set(&expired, NEW).await];
    pages.push(world.set(&format!("/recover/{}", token(&not_me)), NEW).await);
    pages.push(world.server.client.get(format!("/recover/{}", token(&not_me))).send().await);
    pages.push(world.server.client.get(format!("/not-me/{}", token(&old))).send().await);
    pages.push(world.form(&format!("/not-me/{}", token(&expired)), &[]).send().await);
    for wrong in ["x", "pcl_AAAAAAAAAAAAAAAAAAAAAA", "pcr_AAAAAAAAAAAAAAAAAAAAAA", "..%2f..%2faccount", "%3Cb%3E"] {
        pages.push(world.server.client.get(format!("/recover/{wrong}")).send().await);
        pages.push(world.set(&format!("/recover/{wrong}"), NEW).await);
    }
    assert!(pages.iter().all(gone), "{:?}", pages.iter().map(|page| page.status).collect::<Vec<_>>());
    assert!(pages.iter().all(|page| page.text() == pages[0].text()));
    for token in [token(&old), token(&expired), token(&not_me), "x".into()] {
        let body = json!({ "token": token, "password": NEW });
        let answer = world.server.client.post("/v1/recovery").json(&body).send().await.expect(404).json();
        assert_eq!(answer["code"], "not_found");
    }
    assert_eq!(world.signs_in(PASSWORD).await, 201);
}

/// Whoever has stolen a session can end all others as often as they like: a link under way works all the same. An end of everything
/// kills it, and no end that spares somebody revives it.
#[tokio::test]
async fn who_holds_a_session_keeps_nobody_from_recovering() {
    let world = World::new().await;
    let (thief, admin) = (world.server.sign_in(ADA).await, world.server.admin().await);
    let killed = world.link().await;
    let ends = world.server.client.delete(format!("/v1/admin/accounts/{}/sessions", thief.account));
    ends.bearer(&admin.access).send().await.expect(200);
    assert!(gone(&world.server.client.get(&*killed).send().await));
    // The thief comes again.
    let thief = world.server.sign_in(ADA).await;
    let others = || world.server.client.delete("/v1/me/sessions?except=current").bearer(&thief.access).send();
    let link = world.link().await;
    for _ in 0..3 {
        others().await.expect(200);
        assert!(gone(&world.server.client.get(&*killed).send().await));
        world.server.client.get(&*link).send().await.expect(200);
    }
    assert!(gone(&world.set(&killed, "of the link that was killed").await));
    world.set(&link, NEW).await.expect(200);
    assert!(!world.lives(&thief.access).await);
    assert_eq!((world.signs_in(PASSWORD).await, world.signs_in(NEW).await), (401, 201));
}

/// A lost answer is asked for again: by the caller's key, and by the form's own.
#[tokio::test]
async fn who_did_not_hear_the_answer_repeats_the_call() {
    let world = World::new().await;
    let token = world.link().await.rsplit('/').next().unwrap().to_owned();
    let call = |key: &str, password: &str| {
        let call = world.server.client.post("/v1/recovery").header("idempotency-key", key);
        call.json(&json!({ "token": token, "password": password })).send()
    };
    let first = call("k-1", NEW).await.expect(200).json();
    let phone = world.server.client.post("/v1/sessions").json(&json!({ "identifier": ADA, "password": NEW }));
    let access = phone.send().await.expect(201).json()["access_token"].as_str().unwrap().to_owned();
    let again = call("k-1", NEW).await.expect(200).json();
    assert_eq!((&again["rev"], &first["rev"]), (&first["rev"], &again["rev"]));
    assert!(world.lives(&access).await, "it did nothing again");
    // Nothing is told of a password, least of all whether it is the right one: by a key that was guessed every one is answered alike.
    let other = call("k-1", "a third password").await.expect(200).json();
    assert_eq!(other, again);
    assert_eq!((world.signs_in("a third password").await, world.signs_in(NEW).await), (401, 201), "and none is set");
    call("k-1", "short").await.expect(200);
    call("k-2", NEW).await.expect(404);
    // Nor by way of the page, whose keys stand for a password.
    let path = format!("/recover/{token}");
    let by_form = async |password| {
        let fields = [("password", password), ("again", password), ("repeat", "k-1")];
        let answer = world.form(&path, &fields).send().await;
        (answer.status, answer.text())
    };
    assert_eq!(by_form(NEW).await, by_form("a third password").await);
    let bare = json!({ "token": token, "password": NEW });
    world.server.client.post("/v1/recovery").json(&bare).send().await.expect(404);

    let link = world.link().await;
    let page = world.server.client.get(&*link).send().await.expect(200).text();
    let repeat = page.split("name=\"repeat\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let send = |password: &'static str| {
        world.form(&link, &[("password", password), ("again", password), ("repeat", &repeat)]).send()
    };
    for _ in 0..2 {
        let done = send("chosen on the page").await.expect(200);
        assert!(done.text().contains("You have a new password"));
    }
    assert_eq!(world.signs_in("chosen on the page").await, 201);
    assert!(gone(&world.set(&link, "chosen on the page").await));
}

#[tokio::test]
async fn who_is_blocked_is_told_so_behind_the_link_and_stays_blocked() {
    let world = World::new().await;
    let (ada, admin) = (world.server.sign_in(ADA).await.account, world.server.admin().await);
    let block = json!({ "reason": "spam <b>" });
    let call = world.server.client.post(format!("/v1/admin/accounts/{ada}/block")).bearer(&admin.access);
    call.json(&block).send().await.expect(200);
    let told = world.post.wait_for(1).await.pop().unwrap();
    assert!(told.header("subject").contains("blocked") && told.text().contains("spam <b>") && told.link().is_none());
    assert!(told.html().contains("spam &lt;b&gt;"));
    let link = world.link().await;
    let page = world.server.client.get(&*link).send().await.expect(403);
    assert!(page.text().contains("This account is blocked") && page.text().contains("spam &lt;b&gt;"));
    world.set(&link, NEW).await.expect(403);
    let body = json!({ "token": link.rsplit('/').next().unwrap(), "password": NEW });
    let answer = world.server.client.post("/v1/recovery").json(&body).send().await.expect(403).json();
    assert_eq!((answer["code"].as_str(), answer["reason"].as_str()), (Some("account_blocked"), Some("spam <b>")));
    let call = world.server.client.post(format!("/v1/admin/accounts/{ada}/unblock")).bearer(&admin.access);
    call.json(&json!({})).send().await.expect(200);
    assert!(world.post.wait_for(3).await.pop().unwrap().header("subject").contains("open again"));
    // The link was not used up by that.
    world.set(&link, NEW).await.expect(200);
    assert_eq!(world.signs_in(NEW).await, 201);
}

#[tokio::test]
async fn forms_of_other_origins_and_bodies_of_no_form_change_nothing() {
    let world = World::new().await;
    let link = world.link().await;
    let body = encode(&[("password", NEW), ("again", NEW)]);
    for origin in [Some("https://evil.example"), Some("null"), None] {
        for path in ["/recover", &*link, "/not-me/pcl_AAAAAAAAAAAAAAAAAAAAAA"] {
            let mut call = world.server.client.post(path).form(&body);
            if let Some(origin) = origin {
                call = call.header("origin", origin);
            }
            call.send().await.expect(403);
        }
    }
    for body in [
        json!({}),
        json!({ "identifier": ADA, "token": "x" }),
        json!({ "token": "x" }),
        json!({ "password": NEW }),
        json!({ "identifier": ADA, "more": 1 }),
    ] {
        world.server.client.post("/v1/recovery").json(&body).send().await.expect(400);
    }
    assert_eq!(world.signs_in(PASSWORD).await, 201);
    world.set(&link, NEW).await.expect(200);
}

#[tokio::test]
async fn where_no_mail_is_sent_it_is_said() {
    let server = TestServer::usual().await;
    let refused =
        server.client.post("/v1/recovery").json(&json!({ "identifier": ADA })).send().await.expect(403).json();
    assert!(refused["detail"].as_str().unwrap().contains("sends no mail"), "{refused}");
    assert!(server.client.get("/recover").send().await.expect(200).text().contains("sends no mail"));
    assert!(!server.client.get("/sign-in").send().await.expect(200).text().contains("/recover"));
    let world = World::new().await;
    assert!(world.server.client.get("/sign-in").send().await.expect(200).text().contains("href=\"/recover\""));
}

/// Whoever asks is counted, whatever they ask for, and whatever comes of it; who asks from elsewhere is not.
#[tokio::test]
async fn nobody_asks_for_links_without_end() {
    let post = PostOffice::open().await;
    let mut options = Options::default();
    options.settings.mail = Some(post.mailer.clone());
    let server = TestServer::behind_a_proxy(options).await;
    server.sign_up(ADA).await;
    let (usual, rows) = (server.client.clone(), server.store.clone());
    let far = usual.from("198.51.100.7");
    let ask = |who: &str| far.post("/v1/recovery").json(&json!({ "identifier": who })).send();
    let mut asked = 0;
    let told = loop {
        let who = [ADA, "nobody@example.test", "no address"][asked % 3];
        let answer = ask(who).await;
        if answer.status != 202 || asked == 4000 {
            break answer.expect(429);
        }
        asked += 1;
    };
    assert!(asked >= 60, "{asked}");
    let wait: u64 = told.header("retry-after").parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    // The page says the same, and nothing was written for it.
    let before = portcullis_store::Store::count_rows(&*rows).await.unwrap().tickets;
    let form = encode(&[("identifier", ADA)]);
    let page = |client: &portcullis_testkit::Client| {
        client.post("/recover").header("origin", &server.issuer).form(&form).send()
    };
    let mut refused = 0;
    for _ in 0..20 {
        refused += u64::from(page(&far).await.status == 429);
    }
    assert!(refused > 0, "the page has no pace");
    let written = portcullis_store::Store::count_rows(&*rows).await.unwrap().tickets - before;
    assert!(written <= 20 - refused, "{written} tickets, {refused} refused");
    // Somebody elsewhere has their own.
    usual.from("203.0.113.1").post("/v1/recovery").json(&json!({ "identifier": ADA })).send().await.expect(202);
    // And it comes back.
    let until = tokio::time::Instant::now() + PATIENCE;
    while ask("nobody@example.test").await.status != 202 {
        assert!(tokio::time::Instant::now() < until, "never again");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// ---- "this was not me" ----

/// A browser that signs in: its cookies, and its session.
async fn browser(world: &World, cookie: Option<&str>) -> (String, Vec<String>) {
    let mut call = world.form("/sign-in", &[("identifier", ADA), ("password", PASSWORD)]);
    if let Some(cookie) = cookie {
        call = call.header("cookie", cookie);
    }
    let answer = call.send().await.expect(303);
    (answer.cookie("__Host-portcullis_session").unwrap(), answer.set_cookies())
}

async fn here(world: &World, cookie: &str) -> bool {
    let call = world.server.client.get("/account/devices");
    call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.status == 200
}

#[tokio::test]
async fn a_new_device_is_told_of_and_a_known_one_is_not() {
    let world = World::new().await;
    // The first one of all is nobody's surprise.
    let (_, cookies) = browser(&world, None).await;
    let mark = cookies.iter().find(|line| line.starts_with("__Host-portcullis_device=")).unwrap();
    let mark = mark.split(';').next().unwrap();
    let (_, _) = browser(&world, Some(mark)).await;
    world.server.sign_in(ADA).await; // an application from a network that is known
    assert_eq!(world.post.catcher.count(), 0);
    let (thief, _) = browser(&world, None).await;
    let mail = world.post.wait_for(1).await.pop().unwrap();
    assert_eq!((mail.to.as_slice(), mail.header("auto-submitted").as_str()), (&[ADA.to_owned()][..], "auto-generated"));
    assert!(mail.header("subject").starts_with("New sign-in") && mail.text().contains("127.0.0.1"), "{}", mail.text());
    assert!(here(&world, &thief).await);
}

/// An imported account has been in use elsewhere: whoever signs in to it first is told of. One that was made here has its first sign-in
/// still before it, however long ago that was, and whatever of the trail is left.
#[tokio::test]
async fn the_first_sign_in_is_that_of_an_account_which_was_made_here() {
    let world = World::new().await;
    let admin = world.server.admin().await;
    let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    let body = json!({ "accounts": [{ "email": "eve@example.test", "password_hash": hash }] });
    world.server.client.post("/v1/admin/import").bearer(&admin.access).json(&body).send().await.expect(200);
    let sign_in = async |who: &str, password: &str| {
        world.form("/sign-in", &[("identifier", who), ("password", password)]).send().await.expect(303);
    };
    sign_in(ADA, PASSWORD).await;
    sign_in("eve@example.test", "U*U").await;
    let mails = world.post.wait_for(1).await;
    assert_eq!(mails[0].to, ["eve@example.test"], "and not the other one, who was first");
    sign_in(ADA, PASSWORD).await;
    assert_eq!(world.post.wait_for(2).await[1].to, [ADA]);
}

#[tokio::test]
async fn not_me_ends_that_session_and_leads_to_a_new_password() {
    let world = World::new().await;
    let (own, _) = browser(&world, None).await;
    let phone = world.server.sign_in(ADA).await;
    let (thief, _) = browser(&world, None).await;
    let link = world.post.link("/not-me/").await;
    let page = world.server.client.get(&*link).send().await.expect(200);
    assert!(page.text().contains("End that session") && page.text().contains("127.0.0.1"));
    assert_eq!(page.header("referrer-policy"), "strict-origin");
    assert!(here(&world, &thief).await, "looking changes nothing");
    let answer = world.form(&link, &[]).send().await.expect(303);
    let form = answer.header("location").to_owned();
    assert_eq!(form, link.replace("/not-me/", "/recover/"));
    assert!(!here(&world, &thief).await && here(&world, &own).await && world.lives(&phone.access).await);
    // Said twice, it is said; and the link of the mail leads on to the password.
    world.form(&link, &[]).send().await.expect(303);
    assert!(world.server.client.get(&*link).send().await.expect(200).text().contains("Choose a new password"));
    world.set(&form, NEW).await.expect(200);
    assert!(!here(&world, &own).await && !world.lives(&phone.access).await);
    assert_eq!((world.signs_in(PASSWORD).await, world.signs_in(NEW).await), (401, 201));
    assert!(gone(&world.set(&form, "a third password").await) && gone(&world.form(&link, &[]).send().await));
    let events = world.events().await;
    assert_eq!(events.iter().filter(|kind| *kind == "session.denied").count(), 1, "{events:?}");
}

/// Whoever is gone from the session that the mail is about may have others.
#[tokio::test]
async fn not_me_about_a_session_that_has_ended_ends_all() {
    let world = World::new().await;
    let (own, _) = browser(&world, None).await;
    let (thief, _) = browser(&world, None).await;
    let link = world.post.link("/not-me/").await;
    let form = world.form("/sign-out", &[]).header("cookie", format!("__Host-portcullis_session={thief}"));
    form.send().await.expect(303);
    assert!(!here(&world, &thief).await);
    let page = world.server.client.get(&*link).send().await.expect(200);
    assert!(page.text().contains("has ended already") && page.text().contains("End all sessions"), "{}", page.text());
    // Whatever the form says.
    world.form(&link, &[]).send().await.expect(303);
    assert!(!here(&world, &own).await);
    let events = world.events().await;
    assert_eq!(events.iter().filter(|kind| *kind == "session.denied").count(), 1, "{events:?}");
    world.set(&link.replace("/not-me/", "/recover/"), NEW).await.expect(200);
}

#[tokio::test]
async fn not_me_outlives_the_end_that_it_tells_of() {
    let world = World::new().await;
    let (own, _) = browser(&world, None).await;
    // Somebody who knows the password takes the account over, and signs everybody else out.
    let thief = world.server.sign_in(ADA).await;
    let body = json!({ "current_password": PASSWORD, "new_password": NEW });
    world.server.client.post("/v1/me/password").bearer(&thief.access).json(&body).send().await.expect(200);
    assert!(!here(&world, &own).await);
    let mail = world.post.wait_for(1).await.pop().unwrap();
    assert!(mail.header("subject").contains("was changed"), "{}", mail.header("subject"));
    world.server.client.delete("/v1/me/sessions?except=current").bearer(&thief.access).send().await.expect(200);
    let link = path_of(&mail).unwrap();
    world.form(&link, &[("all", "1")]).send().await.expect(303);
    assert!(!world.lives(&thief.access).await);
    world.set(&link.replace("/not-me/", "/recover/"), "the owner's own again").await.expect(200);
    assert_eq!((world.signs_in(NEW).await, world.signs_in("the owner's own again").await), (401, 201));
}

#[tokio::test]
async fn a_mail_knows_no_secret_on_its_way() {
    let world = World::new().await;
    let link = world.link().await;
    let secret = link.rsplit('/').next().unwrap();
    let admin = world.server.admin().await;
    let list = world.server.client.get("/v1/admin/messages").bearer(&admin.access).send().await.expect(200).json();
    let row = &list["messages"][0];
    assert_eq!((row["kind"].as_str(), row["template"].as_str()), (Some("mail"), Some("reset_password")), "{list}");
    assert!(row["client_id"] == Value::Null && row["account_id"].is_string() && !list.to_string().contains(secret));
    let stored =
        world.server.app.store().load_message(row["id"].as_str().unwrap().parse().unwrap()).await.unwrap().unwrap();
    assert!(!stored.body.contains(secret) && !stored.body.contains(ADA), "{}", stored.body);
}

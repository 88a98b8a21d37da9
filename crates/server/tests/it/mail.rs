//! Mails of a server that is killed, again and again: whoever was told that a link is on its way gets it, at the latest from the
//! next start; what came twice says that it is the same. And templates with mistakes.
use crate::support::{ADMIN, Dir, Server, call, run};
use portcullis_testkit::mails::path_of;
use portcullis_testkit::{Client, PostOffice};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PASSWORD: &str = "a good long password";
const PEOPLE: usize = 24;
/// A claim of a dead server lapses after a minute; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

async fn start(dir: &Dir, post: &PostOffice) -> Server {
    let mut command = Server::command(dir, &["--mail-from", "id@example.org"]);
    let url = format!("smtp://{}", post.catcher.address);
    command.env("PORTCULLIS_MAIL_URL_FILE", dir.write("mail-url", &url));
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    Server::run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_at_any_moment_loses_no_mail() {
    let (dir, post) = (Dir::new(), PostOffice::open().await);
    let mut server = start(&dir, &post).await;
    let email = |n: usize| format!("p{n}@example.test");
    for n in 0..PEOPLE {
        let body = json!({ "email": email(n), "password": PASSWORD });
        assert_eq!(server.call("POST", "/v1/accounts", None, Some(body)).await.0, 201);
    }
    // Mails are answered late, so that a kill finds some that are taken and not written down.
    post.catcher.slow(Duration::from_millis(60));
    let mut told = vec![];
    for round in 0..4 {
        let to = server.address;
        let asking = tokio::spawn(async move {
            let mut told = vec![];
            for n in (round * PEOPLE / 4)..((round + 1) * PEOPLE / 4) {
                let body = json!({ "identifier": email(n) });
                let asked = tokio::spawn(async move { call(to, "POST", "/v1/recovery", None, Some(body)).await.0 });
                // A call that broke off was not answered.
                if matches!(asked.await, Ok(202)) {
                    told.push(email(n));
                }
            }
            told
        });
        tokio::time::sleep(Duration::from_millis(40 + 90 * round as u64)).await;
        server.process.signal(Signal::KILL);
        server.process.ended().await;
        told.extend(asking.await.unwrap());
        server = start(&dir, &post).await;
    }
    // And some that nothing happens to.
    post.catcher.slow(Duration::ZERO);
    let last = email(PEOPLE);
    let body = json!({ "email": last, "password": PASSWORD });
    assert_eq!(server.call("POST", "/v1/accounts", None, Some(body)).await.0, 201);
    assert_eq!(server.call("POST", "/v1/recovery", None, Some(json!({ "identifier": last }))).await.0, 202);
    told.push(last);
    let until = tokio::time::Instant::now() + PATIENCE;
    let client = Client::new(format!("http://{}", server.address));
    let mails = loop {
        // Who signs up is also sent a link that proves the address.
        let mut mails = post.catcher.mails();
        mails.retain(|mail| path_of(mail).is_some_and(|path| path.starts_with("/recover/")));
        let got: BTreeSet<String> = mails.iter().flat_map(|mail| mail.to.clone()).collect();
        let token = server.access_token(ADMIN).await;
        let page = client.get("/v1/admin/messages?state=waiting").bearer(&token).send().await.expect(200).json();
        if told.iter().all(|who| got.contains(who)) && page["messages"].as_array().unwrap().is_empty() {
            break mails;
        }
        let missing: Vec<_> = told.iter().filter(|who| !got.contains(*who)).collect();
        assert!(tokio::time::Instant::now() < until, "{missing:?} {page} {}", server.process.log());
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    // One message for each person; what came twice is the same mail with the same link.
    let mut of: BTreeMap<String, BTreeSet<(String, Option<String>)>> = BTreeMap::new();
    for mail in &mails {
        of.entry(mail.to[0].clone()).or_default().insert((mail.header("message-id"), path_of(mail)));
    }
    assert!(of.values().all(|ids| ids.len() == 1), "{of:?}");
    assert!(told.len() > PEOPLE / 4, "it was killed before anybody was told: {told:?}");
    for who in &told {
        let link = of[who].first().unwrap().1.clone().unwrap();
        assert_eq!(client.get(&*link).send().await.status, 200, "{who}");
    }
}

#[test]
fn a_mistake_in_a_template_is_told_with_its_file_and_line() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path("mails")).unwrap();
    let toml = "mail_url = \"smtp://127.0.0.1:25\"\nmail_from = \"id@example.org\"\nmail_templates = \"mails\"\n";
    dir.write("portcullis.toml", toml);
    std::fs::write(dir.path("mails/new_device.en.txt"), "Subject: x\n\nHello {{ email }}\n").unwrap();
    run(&dir.0, &["config", "check"]).must(0, "mail_templates");
    std::fs::write(dir.path("mails/new_device.en.txt"), "Subject: x\n\nHello {{ emial }}\n").unwrap();
    run(&dir.0, &["config", "check"]).must(2, "new_device.en.txt:3: ");
    std::fs::remove_file(dir.path("mails/new_device.en.txt")).unwrap();
    for (more, words) in [("mail_language = \"fr\"\n", "mail_language"), ("mail_language = \"de\"\n", "")] {
        dir.write("portcullis.toml", &format!("{toml}{more}"));
        run(&dir.0, &["config", "check"]).must(if words.is_empty() { 0 } else { 2 }, words);
    }
    for (toml, words) in [
        ("mail_url = \"smtp://ada:sesame@mail.example.org\"\nmail_from = \"id@example.org\"\n", "in the clear"),
        ("mail_url = \"smtps://ada:sesame@mail.example.org\"\n", "mail_from"),
        ("mail_from = \"id@example.org\"\n", "has no effect without mail_url"),
        ("mail_url = \"imap://ada:sesame@mail.example.org\"\nmail_from = \"id@example.org\"\n", "must be smtps://"),
    ] {
        dir.write("portcullis.toml", toml);
        let ran = run(&dir.0, &["config", "check"]).must(2, words);
        assert!(!ran.out.contains("sesame") && !ran.err.contains("sesame"), "{ran:?}");
    }
    dir.write("portcullis.toml", "mail_url = \"smtp://mail.example.org\"\nmail_from = \"id@example.org\"\n");
    run(&dir.0, &["config", "check"]).must(0, "MAIL IN THE CLEAR");
    let shown: Value = run(&dir.0, &["config", "check", "--json"]).must(0, "").json();
    assert_eq!(shown["settings"]["mail_url"]["value"], "(secret)");
}

//! `serve` on PostgreSQL, on one node and on two.
use crate::demo_api::{ready, start};
use crate::support::{ADMIN, Dir, PATIENCE, Server, call, portcullis, run};
use portcullis_testkit::Cluster;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A master key of 32 bytes, in base64.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A node with its data in this directory.
fn node(dir: &Dir, url: &str) -> Command {
    let mut command = Server::command(dir, &[]);
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    with_database(&mut command, dir, url);
    command
}

/// The URL by a file, as a secret should come.
fn with_database(command: &mut Command, dir: &Dir, url: &str) {
    command.env("PORTCULLIS_DATABASE_URL_FILE", dir.write("database-url", url)).env("PORTCULLIS_MASTER_KEY", KEY);
}

fn code((status, body): &(u16, Value)) -> (u16, &str) {
    (*status, body["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn signs_in_refreshes_and_ends_on_two_nodes() {
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let (dir, other) = (Dir::new(), Dir::new());
    let one = Server::run(node(&dir, &url)).await;
    let two = Server::run(node(&other, &url)).await;
    let (id, secret) = Server::verifier_client(&dir);
    let (_process, api) = start(&dir, &one, (&id, &secret), &[]).await;
    ready(api).await;

    let ada = ("ada@example.org", "correct horse battery");
    let made = one.call("POST", "/v1/accounts", None, Some(json!({"email": ada.0, "password": ada.1}))).await;
    assert_eq!(made.0, 201, "{made:?}");
    let session = two.sign_in(ada).await;
    let refresh = json!({"refresh_token": session["refresh_token"]});
    let (first, second) = tokio::join!(
        one.call("POST", "/v1/sessions/refresh", None, Some(refresh.clone())),
        two.call("POST", "/v1/sessions/refresh", None, Some(refresh)),
    );
    assert_eq!((first.0, second.0), (200, 200), "{first:?} {second:?}");
    assert_eq!(first.1["refresh_token"], second.1["refresh_token"], "one successor");
    let token = second.1["access_token"].as_str().unwrap().to_owned();
    assert_eq!(call(api, "GET", "/whoami", Some(&token), None).await.0, 200);

    // On the node that the verifier follows: enforced when it has acknowledged.
    let phone = one.access_token(ada).await;
    let out = one.call("DELETE", "/v1/me/sessions/current?wait=enforced", Some(&phone), None).await;
    assert_eq!((out.0, out.1["enforcement"]["acknowledged"].as_u64()), (200, Some(1)), "{out:?}");
    assert_eq!(code(&call(api, "GET", "/whoami", Some(&phone), None).await), (401, "token_revoked"));

    // On the other node, which the verifier does not follow: its acknowledgement counts there, too.
    let tablet = two.access_token(ada).await;
    let out = two.call("DELETE", "/v1/me/sessions/current?wait=enforced", Some(&tablet), None).await;
    let enforcement = &out.1["enforcement"];
    assert!(out.0 == 200 && enforcement["complete"] == true && enforcement["acknowledged"] == 1, "{out:?}");
    assert_eq!(code(&call(api, "GET", "/whoami", Some(&tablet), None).await), (401, "token_revoked"));

    // Again on the other node: a notice wakes the first, long before a lease would end.
    let out = two.call("DELETE", "/v1/me/sessions", Some(&token), None).await;
    assert_eq!((out.0, out.1["ended"].as_u64()), (200, Some(1)), "{out:?}");
    let told = tokio::time::timeout(Duration::from_secs(2), async {
        while call(api, "GET", "/whoami", Some(&token), None).await.0 != 401 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.unwrap();
    let again = json!({"refresh_token": second.1["refresh_token"]});
    assert_eq!(code(&one.call("POST", "/v1/sessions/refresh", None, Some(again)).await), (401, "session_ended"));

    for server in [&one, &two] {
        assert!(!server.process.log().contains("open-sesame"), "{}", server.process.log());
    }
    assert!(one.process.log().contains("operator:(secret)@127.0.0.1"), "{}", one.process.log());
    files_are_no_way(&dir, &url);
}

/// What works on the files of a SQLite database says so.
fn files_are_no_way(dir: &Dir, url: &str) {
    let with = |args: &[&str]| {
        let mut command = portcullis(&dir.0, args);
        with_database(&mut command, dir, url);
        crate::support::Ran::from(command.output().unwrap())
    };
    with(&["restore", "some.db", "--data-dir", "data"]).must(2, "restored with its own tools");
    let shown = with(&["config", "check", "--json"]).must(0, "operator:(secret)@127.0.0.1");
    assert!(!shown.out.contains("open-sesame"), "{shown:?}");
    let doctor = with(&["doctor", "--data-dir", "data"]);
    assert!(doctor.out.contains("postgres://operator:(secret)@") && !doctor.out.contains("open-sesame"), "{doctor:?}");
    let copy = dir.path("copy.db");
    let out = ["backup", "--out", copy.to_str().unwrap(), "--data-dir", "data"];
    run(&dir.0, &out).must(1, "pg_dump");
    assert!(!Path::new(&copy).exists());
}

#[tokio::test]
async fn a_server_that_loses_acknowledged_commits_is_refused() {
    let dir = Dir::new();
    let url = Cluster::shared().database(None);
    let mut command = node(&dir, &url);
    let ended = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || command.output().unwrap()));
    let ran = crate::support::Ran::from(ended.await.unwrap().unwrap()).must(2, "fsync is off");
    assert!(!ran.err.contains("open-sesame"), "{ran:?}");
}

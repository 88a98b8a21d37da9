//! `breached_passwords_file`: checked before the server starts, looked at again while it runs.
use crate::support::{Dir, PATIENCE, Server, run};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// SHA-1 of `the first stolen password`, and of `the second stolen password`.
const FIRST: &str = "5DC3DB36C4CBD3FC30A562A0187976059DE6D2AE:17\n";
const SECOND: &str = "24C4B7E5B07A17C84E7710AB5B4D735454AC47D6:1\r\n";

#[test]
fn a_list_that_is_none_keeps_the_server_from_starting() {
    let dir = Dir::new();
    let check = |text: &str, words: &str| {
        dir.write("list.txt", text);
        let said = run(&dir.0, &["config", "check", "--breached-passwords-file", "list.txt"]).must(2, words);
        assert!(said.err.contains("breached_passwords_file"), "{}", said.err);
    };
    check("", "is empty");
    check("8846F7EAEE8FB117AD06BDD830B7586C:9\n", "NTLM");
    check("123456\n", "SHA1:COUNT");
    check(&format!("{FIRST}{FIRST}"), "not sorted");
    run(&dir.0, &["config", "check", "--breached-passwords-file", "missing.txt"]).must(2, "cannot be read");
    run(&dir.0, &["serve", "--breached-passwords-file", "missing.txt"]).must(2, "breached_passwords_file");
    // A pipe is not waited for.
    let pipe = dir.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    run(&dir.0, &["config", "check", "--breached-passwords-file", "pipe"]).must(2, "is no file");
    // Who does not serve does without: a list that is just being written keeps nobody from their database.
    run(&dir.0, &["doctor", "--offline", "--breached-passwords-file", "pipe"]).must(0, "read without a mistake");
    dir.write("list.txt", FIRST);
    run(&dir.0, &["config", "check", "--breached-passwords-file", "list.txt"]).must(0, "list.txt");
}

async fn sign_up(server: &Server, email: &str, password: &str) -> (u16, serde_json::Value) {
    server.call("POST", "/v1/accounts", None, Some(json!({ "email": email, "password": password }))).await
}

/// Says hello until the log says this so many times.
async fn told(server: &Server, words: &str, times: usize) {
    let heard = async {
        while server.process.log().matches(words).count() < times {
            server.process.signal(Signal::HUP);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{words}: {}", server.process.log()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_list_takes_its_place_and_a_broken_one_does_not() {
    let dir = Dir::new();
    dir.write("list.txt", FIRST);
    let server = Server::start_with(&dir, &["--breached-passwords-file", "list.txt"]).await;
    let (status, body) = sign_up(&server, "a@example.org", "the first stolen password").await;
    assert_eq!((status, &body["code"], &body["field"]), (422, &json!("password_breached"), &json!("password")));
    assert_eq!(sign_up(&server, "b@example.org", "the second stolen password").await.0, 201);
    let put = |text: &str| {
        dir.write("new.txt", text);
        std::fs::rename(dir.path("new.txt"), dir.path("list.txt")).unwrap();
    };
    // Another one, moved into its place.
    put(SECOND);
    told(&server, "a new list of stolen passwords is in force", 1).await;
    assert_eq!(sign_up(&server, "c@example.org", "the second stolen password").await.0, 422);
    assert_eq!(sign_up(&server, "d@example.org", "the first stolen password").await.0, 201);
    // A broken one, and none at all: the one before stays.
    put("no list\n");
    told(&server, "the list before stays in force", 1).await;
    assert_eq!(sign_up(&server, "e@example.org", "the second stolen password").await.0, 422);
    std::fs::remove_file(dir.path("list.txt")).unwrap();
    told(&server, "the list before stays in force", 2).await;
    assert_eq!(sign_up(&server, "e@example.org", "the second stolen password").await.0, 422);
    // Back again, and overwritten where it lies: what it said is gone.
    put(FIRST);
    told(&server, "a new list of stolen passwords is in force", 2).await;
    assert_eq!(sign_up(&server, "e@example.org", "the first stolen password").await.0, 422);
    dir.write("list.txt", "no list at all\n");
    told(&server, "was changed and cannot be used", 1).await;
    assert_eq!(sign_up(&server, "e@example.org", "the first stolen password").await.0, 201);
    dir.write("list.txt", FIRST);
    told(&server, "a new list of stolen passwords is in force", 3).await;
    assert_eq!(sign_up(&server, "f@example.org", "the first stolen password").await.0, 422);
    // What was heard is said once.
    assert_eq!(server.process.log().matches("the list before stays in force").count(), 2);
}

//! The server as a process: starting, ending, and what it leaves behind.
use crate::support::{ADMIN, Dir, ISSUER, Running, Server, basic, open, portcullis, read_until, run};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn it_serves_and_keeps_its_files_to_itself() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/.well-known/jwks.json"] {
        assert_eq!(server.call("GET", path, None, None).await.0, 200, "{path}");
    }
    let me = server.call("GET", "/v1/me", Some(&server.access_token(ADMIN).await), None).await;
    assert_eq!((me.0, me.1["email"].as_str()), (200, Some(ADMIN.0)));
    let mode = |name: &str| std::fs::metadata(dir.path("data").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for file in ["admin.sock", "master.key", "portcullis.db", "portcullis.db-wal"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert!(server.process.log().contains("WEAK PASSWORD HASHING"), "{}", server.process.log());
}

/// Hashes stand behind whatever else the server does, on the system that can tell one thread from another.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn only_hashing_has_a_lower_priority() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let nice = |stat: String| -> (String, i32) {
        let (before, after) = stat.rsplit_once(") ").unwrap();
        let name = before.split_once('(').unwrap().1.to_owned();
        (name, after.split(' ').nth(16).unwrap().parse().unwrap())
    };
    let tasks = format!("/proc/{}/task", server.process.id().as_raw_nonzero());
    let own = nice(std::fs::read_to_string("/proc/self/stat").unwrap()).1;
    let mut seen = [0, 0];
    for task in std::fs::read_dir(tasks).unwrap() {
        // One that has ended meanwhile is no matter.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, nice) = nice(stat);
        let hashes = name.starts_with("password-");
        assert_eq!(nice, if hashes { 10.max(own) } else { own }, "{name}");
        seen[usize::from(hashes)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Whatever is logged while a request is answered says which one: its id, which the answer has too, its method and its route.
#[tokio::test]
async fn a_line_of_the_log_names_its_request() {
    for format in ["text", "json"] {
        let dir = Dir::new();
        let args =
            ["serve", "--listen", "127.0.0.1:0", "--issuer", ISSUER, "--data-dir", "data", "--log-format", format];
        let mut process = Running::start(portcullis(&dir.0, &args));
        let log = process.log.clone();
        let serving = process.line(&log, &["serving", "address"]).await;
        let address = serving.split("address").nth(1).unwrap().trim_start_matches(['=', '"', ':']);
        let address = address.split(['"', ' ']).next().unwrap().parse().unwrap();
        let mut answer = String::new();
        open(address, "GET", "/v1/me/sessions", None, None).await.read_to_string(&mut answer).await.unwrap();
        let id = answer.split("x-request-id: ").nth(1).unwrap().lines().next().unwrap();
        let line = process.line(&log, &[id]).await;
        match format {
            "text" => {
                let request =
                    format!(" INFO request{{id={id} method=GET route=/v1/me/sessions}}: answered status=401 took_us=");
                assert!(line.contains(&request), "{line}");
                assert!(serving.contains(" INFO serving"), "{serving}");
            }
            _ => {
                let line: Value = serde_json::from_str(&line).unwrap();
                let span = json!({ "id": id, "method": "GET", "route": "/v1/me/sessions", "name": "request" });
                assert_eq!((&line["span"], &line["status"], &line["level"]), (&span, &json!(401), &json!("INFO")));
                let serving: Value = serde_json::from_str(&serving).unwrap();
                assert_eq!((&serving["message"], &serving["span"]), (&json!("serving"), &Value::Null));
            }
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_database_is_refused() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
    run(&dir.0, &args).must(2, "in use by another server");
    // by another name too, and without touching the first one's socket
    let link = dir.path("link.db");
    std::os::unix::fs::symlink(dir.path("data/portcullis.db"), &link).unwrap();
    std::fs::create_dir(dir.path("other")).unwrap();
    std::fs::copy(dir.path("data/master.key"), dir.path("other/master.key")).unwrap();
    let url = format!("sqlite://{}", link.display());
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "other", "--database-url", &url];
    run(&dir.0, &args).must(2, "in use by another server");
    assert_eq!(server.call("GET", "/readyz", None, None).await.0, 200);
    run(&dir.0, &["accounts", "list", "--data-dir", "data"]).must(0, ADMIN.0);
    // and one whose port is taken
    let listen = server.address.to_string();
    run(&dir.0, &["serve", "--listen", &listen, "--data-dir", "third"]).must(2, "cannot listen there");
}

#[tokio::test]
async fn killed_it_comes_back_with_its_sessions() {
    let dir = Dir::new();
    let mut server = Server::start(&dir).await;
    let kept = server.sign_in(ADMIN).await;
    let ended = server.sign_in(ADMIN).await;
    let token = |body: &serde_json::Value, name: &str| body[name].as_str().unwrap().to_owned();
    let path = format!("/v1/me/sessions/{}", ended["session"]["id"].as_str().unwrap());
    let (status, revoked) = server.call("DELETE", &path, Some(&token(&kept, "access_token")), None).await;
    assert_eq!((status, revoked["rev"].as_u64()), (200, Some(1)));
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.ended().await, None);
    assert!(dir.path("data/admin.sock").exists(), "the socket of a killed server is stale");

    let server = Server::start(&dir).await;
    let me = server.call("GET", "/v1/me", Some(&token(&kept, "access_token")), None).await;
    assert_eq!(me.0, 200, "{me:?}");
    let refresh = json!({ "refresh_token": token(&kept, "refresh_token") });
    assert_eq!(server.call("POST", "/v1/sessions/refresh", None, Some(refresh)).await.0, 200);
    let gone = server.call("GET", "/v1/me", Some(&token(&ended, "access_token")), None).await;
    assert_eq!((gone.0, gone.1["code"].as_str()), (401, Some("token_revoked")));
    let refresh = json!({ "refresh_token": token(&ended, "refresh_token") });
    let gone = server.call("POST", "/v1/sessions/refresh", None, Some(refresh)).await;
    assert_eq!((gone.0, gone.1["code"].as_str()), (401, Some("session_ended")));
    run(&dir.0, &["accounts", "list", "--data-dir", "data"]).must(0, ADMIN.0);
    assert!(!server.process.log().contains("made the first administrator"), "{}", server.process.log());
}

/// Slow enough that a sign-in is under way for as long as a test needs.
const SLOW: [&str; 4] = ["--argon2-memory", "64MiB", "--argon2-passes", "20"];

#[tokio::test]
async fn told_to_end_it_ends_feeds_and_finishes_what_is_in_flight() {
    let dir = Dir::new();
    let mut server = Server::start_with(&dir, &SLOW).await;
    let (id, secret) = Server::verifier_client(&dir);
    let auth = Some(basic((&id, &secret)));
    let mut feed = open(server.address, "GET", "/v1/feed?name=test&policy=closed", auth, None).await;
    let hello = read_until(&mut feed, "event: snapshot").await;
    assert!(hello.contains("event: hello"), "{hello}");
    let body = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
    let mut sign_in = open(server.address, "POST", "/v1/sessions", None, Some(body)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    server.process.signal(Signal::TERM);
    let rest = read_until(&mut feed, "no such mark").await;
    assert!(rest.contains("event: bye"), "{rest}");
    let answer = read_until(&mut sign_in, "no such mark").await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(server.process.ended().await, Some(0), "{}", server.process.log());
    assert!(!dir.path("data/admin.sock").exists());
    assert!(!dir.path("data/portcullis.db-wal").exists(), "a database that was closed has no log left");
}

#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let dir = Dir::new();
    let endless = ["--argon2-memory", "256MiB", "--argon2-passes", "1000"];
    let mut server = Server::run(Server::command(&dir, &endless)).await;
    let body = json!({ "identifier": "nobody@example.org", "password": "whatever it is" });
    let _sign_in = open(server.address, "POST", "/v1/sessions", None, Some(body)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    server.process.signal(Signal::INT);
    let log = server.process.log.clone();
    server.process.line(&log, &["requests in flight"]).await;
    server.process.signal(Signal::INT);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), server.process.ended()).await;
    assert_eq!(ended.expect("it waited for the hash"), Some(1));
}

#[tokio::test]
async fn operations_move_to_their_own_listener() {
    let dir = Dir::new();
    let free = portcullis_testkit::lasting_address();
    let server = Server::start_with(&dir, &["--ops-listen", &free.to_string()]).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(crate::support::call(free, "GET", path, None, None).await.0, 200, "{path}");
        assert_eq!(server.call("GET", path, None, None).await.0, 404, "{path}");
    }
    assert_eq!(crate::support::call(free, "GET", "/v1/me", None, None).await.0, 404);
}

#[tokio::test]
async fn logs_hold_request_ids_and_no_secrets() {
    let dir = Dir::new();
    let mut server = Server::start_with(&dir, &["--log-level", "trace"]).await;
    let tokens = server.sign_in(ADMIN).await;
    let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
    let refresh = json!({ "refresh_token": text("refresh_token") });
    let again = server.call("POST", "/v1/sessions/refresh", None, Some(refresh)).await.1;
    let (_, secret) = Server::verifier_client(&dir);
    let (status, problem) = server.call("GET", "/v1/me", Some("garbage"), None).await;
    assert_eq!(status, 401);
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().await, Some(0));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let log = server.process.log();
    let request_id = problem["request_id"].as_str().unwrap();
    assert!(log.contains(request_id), "the id of a refused request is not in the log");
    let again = again["access_token"].as_str().unwrap();
    let key = std::fs::read_to_string(dir.path("data/master.key")).unwrap();
    for secret in [ADMIN.1, &text("access_token"), &text("refresh_token"), again, &secret, key.trim()] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!log.contains(signature), "a secret is in the log: {signature}");
    }
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON: {line}");
    }
}

#[tokio::test]
async fn the_master_key_is_never_made_anew_nor_replaced() {
    let dir = Dir::new();
    let mut server = Server::start(&dir).await;
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().await, Some(0));
    let key = std::fs::read_to_string(dir.path("data/master.key")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--issuer", ISSUER, "--data-dir", "data"];

    std::fs::remove_file(dir.path("data/master.key")).unwrap();
    run(&dir.0, &serve).must(2, "master.key is missing");
    assert!(!dir.path("data/master.key").exists());

    let mut command = portcullis(&dir.0, &serve);
    command.env("PORTCULLIS_MASTER_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let ran = crate::support::Ran::from(command.output().unwrap()).must(2, "master key does not open the stored keys");
    assert!(!ran.err.contains("MDEyMzQ1"), "{ran:?}");

    dir.write("data/master.key", "not a key\n");
    run(&dir.0, &serve).must(2, "does not hold 32 bytes");
    assert_eq!(std::fs::read_to_string(dir.path("data/master.key")).unwrap(), "not a key\n");

    dir.write("data/master.key", &key);
    let server = Server::start(&dir).await;
    assert_eq!(server.call("GET", "/readyz", None, None).await.0, 200);
}

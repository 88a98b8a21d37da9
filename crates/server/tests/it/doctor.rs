//! `sessions`, `feed`, `audit` and `doctor`: what an operator sees of a server.
use crate::support::{ADMIN, Dir, Ran, Server, basic, open, portcullis, read_until, read_until_so, run};
use portcullis_testkit::lasting_address;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn on(dir: &Dir, args: &[&str]) -> Ran {
    run(&dir.0, &[args, &["--data-dir", "data"]].concat())
}

/// The states of the checks with this name.
fn states(report: &serde_json::Value, name: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["name"] == name).map(|check| check["state"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_session_and_all_of_an_account() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let first = server.access_token(ADMIN).await;
    let second = server.access_token(ADMIN).await;
    let listed = on(&dir, &["sessions", "list", ADMIN.0, "--json"]).must(0, "").json();
    let sessions = listed["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let mine = server.call("GET", "/v1/me/sessions", Some(&first), None).await.1;
    let first_id =
        mine["sessions"].as_array().unwrap().iter().find(|one| one["current"] == true).unwrap()["id"].clone();
    on(&dir, &["sessions", "list", ADMIN.0]).must(0, first_id.as_str().unwrap());
    let end = ["sessions", "end", first_id.as_str().unwrap(), "--wait"];
    on(&dir, &end).must(0, "1 session ended (rev 1); enforced everywhere");
    on(&dir, &end).must(0, "0 sessions ended");
    assert_eq!(server.call("GET", "/v1/me", Some(&first), None).await.0, 401);
    assert_eq!(server.call("GET", "/v1/me", Some(&second), None).await.0, 200);
    on(&dir, &["sessions", "end-all", ADMIN.0]).must(0, "1 session ended (rev 2)");
    assert_eq!(server.call("GET", "/v1/me", Some(&second), None).await.0, 401);
    let audit = on(&dir, &["audit", "--account", ADMIN.0, "--limit", "1"]).must(0, "more: --cursor ").out;
    assert!(audit.contains("operator") && audit.lines().count() == 3, "{audit}");
    on(&dir, &["audit", "--kind", "nonsense"]).must(1, "must be one of");
    on(&dir, &["config", "show"]).must(0, "data_dir");
    on(&dir, &["sessions", "end", "ses_"]).must(2, "is no session's id");
    on(&dir, &["sessions", "end", "ses_00000000000000000000000000"]).must(1, "not_found");
}

#[tokio::test]
async fn who_follows_the_feed() {
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--bound", "2s"]).await;
    on(&dir, &["feed", "--check"]).must(0, "nobody follows the feed; the log is at rev 0");
    let (id, secret) = Server::verifier_client(&dir);
    let auth = || Some(basic((&id, &secret)));
    let mut feed = open(server.address, "GET", "/v1/feed?name=orders&policy=closed", auth(), None).await;
    let begun =
        read_until_so(&mut feed, |text| text.split("\nid: ").nth(1).is_some_and(|rest| rest.contains("\n\n"))).await;
    on(&dir, &["feed"]).must(0, "orders");
    // It gets a lease by an acknowledgement, and then it is asked to know what is committed.
    let position = begun.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let hello = begun.lines().find_map(|line| line.strip_prefix("data: {")).unwrap();
    let hello: serde_json::Value = serde_json::from_str(&format!("{{{hello}")).unwrap();
    let ack = serde_json::json!({
        "instance": hello["instance"], "instance_secret": hello["instance_secret"], "epoch": hello["epoch"],
        "applied": 0, "position": position, "nonce": "n",
    });
    let mut request = open(server.address, "POST", "/v1/feed/acks", auth(), Some(ack)).await;
    assert!(read_until(&mut request, "no such mark").await.starts_with("HTTP/1.1 200"));
    on(&dir, &["feed", "--check"]).must(0, "fresh");
    server.access_token(ADMIN).await;
    on(&dir, &["sessions", "end-all", ADMIN.0]).must(0, "rev 1");
    let listed = on(&dir, &["feed", "--check", "--json"]).must(4, "").json();
    assert_eq!((listed["head"].as_u64(), listed["verifiers"][0]["behind"].as_u64()), (Some(1), Some(1)));
    // Whichever page is shown: the other one here accepts nothing yet, and is not late.
    let mut other = open(server.address, "GET", "/v1/feed?name=other&policy=closed", auth(), None).await;
    read_until(&mut other, "data: {").await;
    on(&dir, &["feed", "--check", "--limit", "1"]).must(4, "");
    let next = on(&dir, &["feed", "--limit", "1", "--json"]).must(0, "").json()["next"].as_str().unwrap().to_owned();
    on(&dir, &["feed", "--check", "--limit", "1", "--cursor", &next]).must(4, "");
    let report = on(&dir, &["doctor", "--json"]).must(0, "").json();
    assert_eq!(states(&report, "feed"), ["warning"]);
}

#[tokio::test]
async fn a_sound_installation_passes_and_each_fault_is_named() {
    let dir = Dir::new();
    on(&dir, &["doctor", "--offline"]).must(0, "the first start makes it");
    on(&dir, &["doctor"]).must(4, "is it running? --offline leaves it out");
    let server = Server::start(&dir).await;
    server.access_token(ADMIN).await;
    let report = on(&dir, &["doctor", "--json"]).must(0, "").json();
    assert_eq!(states(&report, "settings"), ["ok", "warning"], "the tests hash weakly, and that is said");
    for name in ["data directory", "database", "master key", "server", "keys", "feed", "rollback"] {
        assert_eq!(states(&report, name), ["ok"], "{name}: {report}");
    }
    on(&dir, &["doctor", "--bound", "5"]).must(4, "a duration needs a number and a unit");
    let other = on(&dir, &["doctor", "--issuer", "http://127.0.0.1:9", "--json"]).must(4, "").json();
    assert_eq!(
        (states(&other, "issuer"), states(&other, "public address")),
        (vec!["ok".to_owned(), "failed".to_owned()], vec!["failed".to_owned()],)
    );
    let mode = |name: &str, mode| {
        std::fs::set_permissions(dir.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, check, right, wrong) in
        [("data", "data directory", 0o700, 0o755), ("data/master.key", "master key", 0o600, 0o644)]
    {
        mode(name, wrong);
        let report = on(&dir, &["doctor", "--offline", "--json"]).must(4, "").json();
        assert_eq!(states(&report, check), ["failed"], "{report}");
        mode(name, right);
    }
    on(&dir, &["doctor", "--tls-cert", "none.pem", "--tls-key", "none.key", "--offline"]).must(4, "cannot be read");
    // A mark of tomorrow: the clock was set back.
    let mark = dir.path("data/high-water.json");
    let text = std::fs::read_to_string(&mark).unwrap();
    let mut tomorrow: serde_json::Value = serde_json::from_str(&text).unwrap();
    tomorrow["at"] = "2999-01-01T00:00:00.000Z".into();
    dir.write("mark.json", &tomorrow.to_string());
    on(&dir, &["doctor", "--offline", "--high-water-file", "mark.json"]).must(4, "it was set back by");
    dir.write("mark.json", "{");
    on(&dir, &["doctor", "--offline", "--high-water-file", "mark.json"]).must(4, "is damaged");
    on(&dir, &["doctor"]).must(0, "runs, and the database answers");
}

/// A proxy that rewrites the head of each request.
async fn proxy(to: SocketAddr, rewrite: fn(&str) -> String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut inside, mut head) = (TcpStream::connect(to).await.unwrap(), Vec::new());
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(from.read_u8().await.unwrap());
                }
                // Each request has a connection of its own: the answer ends with it.
                let head = rewrite(&String::from_utf8(head).unwrap());
                let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                inside.write_all(head.as_bytes()).await.unwrap();
                let _ = tokio::io::copy(&mut inside, &mut from).await;
            });
        }
    });
    address
}

/// The request without these headers, and with this line.
fn edited(head: &str, without: &[&str], with: &str) -> String {
    let kept = head.split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        !without.contains(&name.as_str())
    });
    kept.collect::<Vec<_>>().join("\r\n").replacen("\r\n", &format!("\r\n{with}"), 1)
}

/// The server is really called through a proxy, with headers that claim to be somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_hands_on_what_callers_write_is_named() {
    let hands_on: fn(&str) -> String = |head| edited(head, &[], "");
    let says: fn(&str) -> String =
        |head| edited(head, &["x-forwarded-for", "forwarded"], "X-Forwarded-For: 198.51.100.7\r\n");
    let keeps_one: fn(&str) -> String = |head| edited(head, &["x-forwarded-for"], "X-Forwarded-For: 198.51.100.7\r\n");
    let silent: fn(&str) -> String = |head| edited(head, &["x-forwarded-for", "forwarded"], "");
    for (rewrite, trusts, state, words) in [
        (says, true, "ok", "says who calls"),
        (keeps_one, true, "warning", "hands Forwarded on"),
        (silent, true, "warning", "does not say who calls"),
        (hands_on, true, "failed", "any caller can name another's address"),
        (says, false, "failed", "trusted_proxies does not have it"),
        (hands_on, false, "ok", "whatever it writes"),
    ] {
        let (dir, at) = (Dir::new(), lasting_address());
        let outside = proxy(at, rewrite).await;
        let (issuer, at) = (format!("http://{outside}"), at.to_string());
        let mut settings = vec!["--issuer", &issuer, "--listen", &at];
        if trusts {
            settings.extend(["--trusted-proxies", "127.0.0.1"]);
        }
        let serve = ["serve", "--data-dir", "data", "--log-format", "json"];
        let server = Server::run(portcullis(&dir.0, &[&serve, &settings[..]].concat())).await;
        let report = on(&dir, &[&["doctor", "--json"], &settings[..]].concat());
        assert_eq!(report.code, if state == "failed" { 4 } else { 0 }, "{}", report.out);
        let report = report.json();
        assert_eq!(
            (states(&report, "public address"), states(&report, "proxy headers")),
            (vec!["ok".into()], vec![state.to_owned()]),
            "{report}"
        );
        assert!(report.to_string().contains(words), "{report}");
        drop(server);
    }
}

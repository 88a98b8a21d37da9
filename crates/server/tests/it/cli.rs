//! `accounts` and `clients`: by the admin socket and by URL, for people and for programs.
use crate::support::{ADMIN, Dir, Server, basic, open, portcullis, read_until, read_until_so, run, run_with_input};

/// A command on the admin socket of this test's server.
fn on(dir: &Dir, args: &[&str]) -> crate::support::Ran {
    run(&dir.0, &[args, &["--data-dir", "data"]].concat())
}

#[tokio::test]
async fn accounts_by_the_admin_socket() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let args = ["accounts", "create", "Ada@Example.org", "--name", "Ada", "--json", "--data-dir", "data"];
    let ada = run_with_input(&dir.0, &args, "correct horse\n").must(0, "").json();
    let id = ada["id"].as_str().unwrap();
    assert_eq!((ada["email"].as_str(), ada["status"].as_str()), (Some("ada@example.org"), Some("active")));
    let problem = run_with_input(&dir.0, &args, "correct horse\n").must(1, "portcullis: ").json();
    assert_eq!(problem["code"], "email_taken");
    run_with_input(&dir.0, &args, "short\n").must(1, "invalid_value");
    on(&dir, &["accounts", "create", "b@example.org"]).must(2, "no password was given");

    let listed = on(&dir, &["accounts", "list"]).must(0, "EMAIL").out;
    assert!(listed.lines().count() == 3 && listed.contains(id) && listed.contains(ADMIN.0), "{listed}");
    let page = on(&dir, &["accounts", "list", "--limit", "1", "--json"]).json();
    assert_eq!(page["accounts"].as_array().unwrap().len(), 1);
    let more = on(&dir, &["accounts", "list", "--limit", "1", "--cursor", page["next"].as_str().unwrap()]);
    assert_eq!(more.must(0, "").out.lines().count(), 2);
    assert_eq!(on(&dir, &["accounts", "list", "--prefix", "ada@", "--json"]).json()["accounts"][0]["id"], id);

    on(&dir, &["accounts", "list", "--limit", "201"]).must(2, "201");

    let who = ("ada@example.org", "correct horse");
    server.access_token(who).await;
    server.access_token(who).await;
    let sessions =
        on(&dir, &["accounts", "sessions", "ada@example.org", "--limit", "1"]).must(0, "more: --cursor ").out;
    let cursor = sessions.rsplit("--cursor ").next().unwrap().trim().to_owned();
    on(&dir, &["accounts", "sessions", "ada@example.org", "--limit", "1", "--cursor", &cursor]).must(0, "ses_");
    on(&dir, &["accounts", "end-sessions", "ada@example.org"]).must(0, "2 sessions ended (rev 1)");
    let token = server.access_token(who).await;
    on(&dir, &["accounts", "sessions", "ada@example.org"]).must(0, "DEVICE");
    let sessions = on(&dir, &["accounts", "sessions", id, "--json"]).json();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    on(&dir, &["accounts", "end-sessions", id, "--wait"]).must(0, "1 session ended (rev 2); enforced everywhere");
    assert_eq!(server.call("GET", "/v1/me", Some(&token), None).await.1["code"], "token_revoked");

    on(&dir, &["accounts", "block", "ada@example.org", "--reason", "we had to"]).must(0, "rev 3");
    on(&dir, &["accounts", "show", "ada@example.org"]).must(0, "we had to");
    let body = serde_json::json!({ "identifier": who.0, "password": who.1 });
    let refused = server.call("POST", "/v1/sessions", None, Some(body)).await;
    assert_eq!((refused.0, refused.1["code"].as_str()), (403, Some("account_blocked")));
    on(&dir, &["accounts", "unblock", id]).must(0, "active");
    server.access_token(who).await;
    let deleted = on(&dir, &["accounts", "delete", id, "--json"]).must(0, "").json();
    assert_eq!((deleted["rev"].as_u64(), deleted["ended"].as_u64()), (Some(4), Some(1)));
    on(&dir, &["accounts", "show", "ada@example.org"]).must(1, "no account with the address");
    on(&dir, &["accounts", "show", id]).must(0, "deleted");
    on(&dir, &["accounts", "show", "ada"]).must(2, "neither an account's id");
    on(&dir, &["accounts", "show", "acc_00000000000000000000000000"]).must(1, "not_found");
    let events = server.call("GET", "/v1/admin/events", Some(&server.access_token(ADMIN).await), None).await.1;
    let by_operator = events["events"].as_array().unwrap().iter().filter(|event| event["actor"] == "operator").count();
    assert!(by_operator >= 4, "{events}");
}

#[tokio::test]
async fn by_url_and_token() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let url = format!("http://{}", server.address);
    let token = server.access_token(ADMIN).await;
    run(&dir.0, &["accounts", "list", "--server", &url, "--token", &token]).must(0, ADMIN.0);
    let mut by_env = portcullis(&dir.0, &["accounts", "list"]);
    by_env.env("PORTCULLIS_SERVER", &url).env("PORTCULLIS_TOKEN_FILE", dir.write("token", &format!("{token}\n")));
    crate::support::Ran::from(by_env.output().unwrap()).must(0, ADMIN.0);

    run(&dir.0, &["accounts", "list", "--server", &url]).must(2, "--token");
    run(&dir.0, &["accounts", "list", "--server", &url, "--token", "garbage"]).must(1, "token_malformed");
    run(&dir.0, &["accounts", "list", "--server", "http://10.0.0.1", "--token", "x"]).must(2, "in the clear");
    run(&dir.0, &["accounts", "list", "--server", "nonsense", "--token", "x"]).must(2, "no server's URL");
    // TLS is not spoken in the clear
    let tls = format!("https://{}", server.address);
    run(&dir.0, &["accounts", "list", "--server", &tls, "--token", &token]).must(3, &tls);
    // an account without the role
    let args = ["accounts", "create", "ada@example.org", "--data-dir", "data"];
    run_with_input(&dir.0, &args, "correct horse").must(0, "ada@example.org");
    let token = server.access_token(("ada@example.org", "correct horse")).await;
    run(&dir.0, &["accounts", "list", "--server", &url, "--token", &token]).must(1, "insufficient_scope");
}

#[test]
fn nobody_there_is_exit_code_3() {
    let dir = Dir::new();
    on(&dir, &["accounts", "list"]).must(3, "data/admin.sock");
    let free = portcullis_testkit::lasting_address();
    run(&dir.0, &["clients", "list", "--server", &format!("http://{free}"), "--token", "x"]).must(3, "refused");
}

#[tokio::test]
async fn clients() {
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--bound", "500ms"]).await;
    let (id, secret) = Server::verifier_client(&dir);
    on(&dir, &["clients", "list"]).must(0, &id);
    on(&dir, &["clients", "create", "x", "--kind", "nonsense"]).must(2, "verifier");
    let auth = || Some(basic((&id, &secret)));
    let mut feed = open(server.address, "GET", "/v1/feed?name=test&policy=closed", auth(), None).await;
    assert!(read_until(&mut feed, "event: snapshot").await.contains("200 OK"));
    on(&dir, &["clients", "disable", &id]).must(0, "disabled");
    let rest = read_until(&mut feed, "no such mark").await;
    assert!(rest.contains("event: bye"), "{rest}");
    let mut feed = open(server.address, "GET", "/v1/feed?name=test&policy=closed", auth(), None).await;
    assert!(read_until(&mut feed, "\r\n").await.contains("401"));
    on(&dir, &["clients", "enable", &id]).must(0, "enabled");
    let mut feed = open(server.address, "GET", "/v1/feed?name=test&policy=closed", auth(), None).await;
    assert!(read_until(&mut feed, "event: snapshot").await.contains("200 OK"));
    on(&dir, &["clients", "disable", "portcullis"]).must(1, "invalid_value");
    on(&dir, &["clients", "disable", "cli_00000000000000000000000001"]).must(1, "not_found");
}

/// A verifier that holds a lease and does not acknowledge: nobody can say in time that an end is enforced there.
#[tokio::test]
async fn waiting_in_vain_is_exit_code_4() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let (id, secret) = Server::verifier_client(&dir);
    let auth = Some(basic((&id, &secret)));
    let mut feed = open(server.address, "GET", "/v1/feed?name=test&policy=closed", auth, None).await;
    let begun =
        read_until_so(&mut feed, |text| text.split("\nid: ").nth(1).is_some_and(|rest| rest.contains("\n\n"))).await;
    let position = begun.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let hello = begun.lines().find_map(|line| line.strip_prefix("data: {")).unwrap();
    let hello: serde_json::Value = serde_json::from_str(&format!("{{{hello}")).unwrap();
    let ack = async |applied: u64| {
        let ack = serde_json::json!({
            "instance": hello["instance"], "instance_secret": hello["instance_secret"], "epoch": hello["epoch"],
            "applied": applied, "position": position, "nonce": "n",
        });
        let mut request = open(server.address, "POST", "/v1/feed/acks", Some(basic((&id, &secret))), Some(ack)).await;
        let answer = read_until(&mut request, "no such mark").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    ack(0).await; // its first lease
    on(&dir, &["accounts", "create", "ada@example.org", "--no-password"]).must(0, "ada@example.org");
    on(&dir, &["accounts", "end-sessions", "ada@example.org"]).must(0, "1 pending");
    let wait = ["accounts", "end-sessions", "ada@example.org", "--wait", "--timeout", "100ms"];
    on(&dir, &wait).must(4, "rev 2");

    ack(2).await; // and now everybody knows
    let one = on(&dir, &["accounts", "list", "--prefix", "ada@", "--json"]).json();
    let id = one["accounts"][0]["id"].as_str().unwrap().to_owned();
    let token = server.access_token(ADMIN).await;
    let revocation = server.call("GET", "/v1/admin/revocations/2", Some(&token), None).await.1;
    assert_eq!(revocation["account_id"], id.as_str());
    assert_eq!(revocation["enforcement"]["complete"], true, "{revocation}");
}

#[tokio::test]
async fn what_clients_register() {
    let dir = Dir::new();
    let _server = Server::start(&dir).await;
    let usual = [
        "clients",
        "create",
        "The shop",
        "--kind",
        "confidential",
        "--redirect-uri",
        "https://shop.example/cb",
        "--json",
    ];
    let more =
        ["--scope", "openid", "--scope", "read", "--grant-type", "authorization_code", "--grant-type", "device_code"];
    let made = on(&dir, &[&usual[..], &more].concat()).must(0, "").json();
    let id = made["client_id"].as_str().unwrap();
    assert_eq!(made["grant_types"][1], "urn:ietf:params:oauth:grant-type:device_code");
    on(&dir, &["clients", "show", id]).must(0, "https://shop.example/cb");
    // The key of RFC 8037 §A.2.
    let key = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let keys = dir.write("keys.json", &format!(r#"{{"keys": [{key}]}}"#));
    let by_key = ["--token-endpoint-auth-method", "private_key_jwt", "--jwks", keys.to_str().unwrap()];
    let changes = ["clients", "update", id, "--name", "Renamed", "--consent", "implied", "--unset", "scopes", "--json"];
    let changed = on(&dir, &changes).must(0, "").json();
    assert_eq!((changed["name"].as_str(), changed["consent"].as_str()), (Some("Renamed"), Some("implied")));
    assert_eq!(changed["scopes"].as_array().unwrap().len(), 3, "the default");
    on(&dir, &[&["clients", "update", id][..], &by_key].concat()).must(0, "private_key_jwt");
    on(&dir, &["clients", "rotate-secret", id]).must(1, "no secret");
    let unset = ["--unset", "token_endpoint_auth_method", "--unset", "jwks"];
    on(&dir, &[&["clients", "update", id][..], &unset].concat()).must(0, "client_secret_basic");
    let rotated = on(&dir, &["clients", "rotate-secret", id, "--overlap", "1h", "--json"]).must(0, "").json();
    assert_ne!(rotated["client_secret"], made["client_secret"]);
    assert!(rotated["old_secret_until"].is_string());
    let machine = ["clients", "create", "A job", "--kind", "confidential", "--grant-type", "client_credentials"];
    on(&dir, &machine).must(0, "service_account");
    let accounts = on(&dir, &["accounts", "list"]).must(0, "(service)").out;
    assert!(accounts.contains("A job"), "{accounts}");
    on(&dir, &["clients", "update", id]).must(2, "say what to change");
    on(&dir, &["clients", "update", id, "--consent", "ask", "--unset", "consent"]).must(2, "both given and unset");
    on(&dir, &["clients", "update", id, "--unset", "colour"]).must(1, "malformed");
    on(&dir, &["clients", "update", id, "--redirect-uri", "http://shop.example/"]).must(1, "invalid_value");
    on(&dir, &["clients", "rotate-secret", id, "--overlap", "31d"]).must(1, "invalid_value");
    on(&dir, &["clients", "rotate-secret", id, "--overlap", "5"]).must(2, "--overlap");
    on(&dir, &["clients", "show", "cli_00000000000000000000000001"]).must(1, "not_found");
    on(&dir, &["clients", "create", "x", "--jwks", "/nonexistent"]).must(2, "cannot be read");
}

#[tokio::test]
async fn clients_of_the_configuration_are_made_and_changed_and_never_deleted() {
    let dir = Dir::new();
    let secret = dir.write("secret", &"s".repeat(43));
    let id = "cli_00000000000000000000000001";
    let file = |name: &str, more: &str| {
        let entry = format!(
            "[[clients]]\nid = \"{id}\"\nname = \"{name}\"\nkind = \"confidential\"\nsecret_file = \"{}\"\n{more}",
            secret.display()
        );
        dir.write("portcullis.toml", &entry);
    };
    let machine = "grant_types = [\"client_credentials\"]\nscopes = [\"read\"]\n";
    file("A job", machine);
    let server = Server::start(&dir).await;
    let shown = on(&dir, &["clients", "show", id, "--json"]).must(0, "").json();
    assert_eq!((shown["name"].as_str(), shown["kind"].as_str()), (Some("A job"), Some("confidential")));
    let account = shown["service_account"].as_str().unwrap().to_owned();
    on(&dir, &["clients", "disable", id]).must(0, "disabled");
    drop(server);
    // Changed at the next start, with the same account; what was switched off stays off.
    file("Another job", machine);
    let server = Server::start(&dir).await;
    let shown = on(&dir, &["clients", "show", id, "--json"]).must(0, "").json();
    assert_eq!((shown["name"].as_str(), shown["service_account"].as_str()), (Some("Another job"), Some(&*account)));
    assert_eq!(shown["disabled"], true);
    drop(server);
    // Taken out of the file, it stays; as another kind it does not start.
    dir.write("portcullis.toml", "");
    let server = Server::start(&dir).await;
    on(&dir, &["clients", "show", id]).must(0, "Another job");
    drop(server);
    dir.write("portcullis.toml", &format!("[[clients]]\nid = \"{id}\"\nname = \"x\"\nkind = \"public\"\n"));
    run(&dir.0, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"])
        .must(2, "a client stays what it was registered as");
}

#[tokio::test]
async fn messages_by_the_admin_socket() {
    let dir = Dir::new();
    let _server = Server::start(&dir).await;
    on(&dir, &["messages", "list"]).must(0, "");
    let args = ["messages", "list", "--state", "dead", "--client", "cli_00000000000000000000000001", "--json"];
    let listed = on(&dir, &args).must(0, "").json();
    assert_eq!((&listed["messages"], &listed["next"]), (&serde_json::json!([]), &serde_json::Value::Null));
    on(&dir, &["messages", "list", "--state", "lost"]).must(2, "lost");
    on(&dir, &["messages", "list", "--client", "nobody"]).must(1, "invalid_value");
    on(&dir, &["messages", "retry", "msg_00000000000000000000000000"]).must(1, "not_found");
}

#[tokio::test]
async fn webhooks_by_the_admin_socket() {
    let dir = Dir::new();
    let _server = Server::start(&dir).await;
    on(&dir, &["webhooks", "list"]).must(0, "");
    on(&dir, &["webhooks", "create", "ftp://a.example/"]).must(1, "invalid_value");
    on(&dir, &["webhooks", "create", "https://a.example/", "--event", "nothing.*"]).must(1, "names no kind");
    let made = ["webhooks", "create", "https://a.example/", "--event", "account.*", "--disabled", "--json"];
    let made = on(&dir, &made).must(0, "").json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let shown = on(&dir, &["webhooks", "show", id]).must(0, "account.*").out;
    assert!(!shown.contains("whsec_"), "{shown}");
    on(&dir, &["webhooks", "update", id]).must(2, "say what to change");
    on(&dir, &["webhooks", "update", id, "--event", "*", "--description", "the desk"]).must(0, "the desk");
    on(&dir, &["webhooks", "test", id]).must(1, "switched off");
    on(&dir, &["webhooks", "enable", id]).must(0, "true");
    on(&dir, &["webhooks", "disable", id]).must(0, "false");
    let other = on(&dir, &["webhooks", "rotate-secret", id, "--overlap", "12h"]).must(0, "shown this once").out;
    assert!(other.contains("whsec_") && !other.contains(secret), "{other}");
    on(&dir, &["webhooks", "rotate-secret", id, "--overlap", "8d"]).must(1, "overlap_s");
    on(&dir, &["webhooks", "messages", id, "--state", "dead"]).must(0, "");
    on(&dir, &["webhooks", "replay", id, "--after", "yesterday"]).must(1, "invalid_value");
    on(&dir, &["webhooks", "replay", id, "--after", "0"]).must(0, id);
    on(&dir, &["webhooks", "replay", id, "--after", "2026-01-31T12:00:00Z"]).must(0, id);
    on(&dir, &["webhooks", "list"]).must(0, "disabled");
    on(&dir, &["webhooks", "delete", id]).must(0, "is deleted");
    on(&dir, &["webhooks", "show", id]).must(1, "not_found");
}

#[tokio::test]
async fn the_audit_trail() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let args = ["accounts", "create", "ada@example.org", "--data-dir", "data"];
    run_with_input(&dir.0, &args, "correct horse").must(0, "ada@example.org");
    server.access_token(("ada@example.org", "correct horse")).await;
    on(&dir, &["accounts", "block", "ada@example.org", "--reason", "spam"]).must(0, "rev 1");
    // Without a word it lists, as ever.
    on(&dir, &["audit", "--kind", "account.blocked"]).must(0, "spam");
    on(&dir, &["audit", "list", "--actor", "operator", "--rev", "1"]).must(0, "spam");
    on(&dir, &["audit", "list", "--actor", "nobody"]).must(1, "invalid_value");
    on(&dir, &["audit", "list", "--from", "yesterday"]).must(1, "invalid_value");
    let begun = tokio::time::Instant::now();
    let state = loop {
        let state = on(&dir, &["audit", "head", "--json"]);
        let state = if state.code == 0 { state.json() } else { serde_json::Value::Null };
        if state["unsealed"]["count"] == 0 {
            break state;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{state}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let head = on(&dir, &["audit", "head"]).must(0, "").out.trim().to_owned();
    assert_eq!(Some(&*head), state["head"].as_str());
    on(&dir, &["audit", "verify"]).must(0, "the chain is whole");
    on(&dir, &["audit", "verify", "--head", &head]).must(0, "the given head is in it");
    let out = on(&dir, &["audit", "verify", "--from", &head, "--json"]).must(0, "").json();
    assert_eq!((&out["whole"], &out["checked"]), (&true.into(), &0.into()));
    // A head that it has not: ends with 4, and says why.
    let (n, link) = head.split_once(':').unwrap();
    let beyond = format!("{}:{link}", n.parse::<u64>().unwrap() + 9);
    on(&dir, &["audit", "verify", "--head", &beyond]).must(4, "its end was cut off");
    let out = on(&dir, &["audit", "verify", "--head", &format!("1:{link}"), "--json"]).must(4, "").json();
    assert_eq!((&out["whole"], &out["findings"][0]["kind"]), (&false.into(), &"replaced".into()));
    let unmet = ["audit", "verify", "--head", &format!("1:{link}"), "--from", &head];
    on(&dir, &unmet).must(4, "THE GIVEN HEAD WAS NOT MET");
    on(&dir, &["audit", "verify", "--head", "nonsense"]).must(1, "NUMBER:LINK");
    // All of it, one a line.
    let lines = on(&dir, &["audit", "export"]).must(0, "").out;
    assert_eq!(lines.lines().count().to_string(), n);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["place"].is_u64()));
    on(&dir, &["audit", "export", "--kind", "account.blocked", "--out", "blocked.jsonl"]).must(0, "1 events written");
    on(&dir, &["audit", "export", "--out", "blocked.jsonl"]).must(2, "exists");
    let kept = std::fs::read_to_string(dir.0.join("blocked.jsonl")).unwrap();
    assert!(kept.contains("spam") && kept.lines().count() == 1, "{kept}");
}

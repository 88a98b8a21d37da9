//! `portcullis dev`, for programs and for people, and its tour.
use crate::support::{Dir, Ran, Running, call, portcullis, run};
use portcullis_testkit::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn one_line_of_json_is_enough_to_use_it() {
    let dir = Dir::new();
    let mut dev = Running::start(portcullis(&dir.0, &["dev", "--port", "0", "--json"]));
    let out = dev.out.clone();
    let place: Value = serde_json::from_str(&dev.line(&out, &["{"]).await).unwrap();
    let address = |name: &str| place[name].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    let (server, api) = (address("server"), address("demo_api"));
    let body = json!({ "identifier": place["account"]["email"], "password": place["account"]["password"] });
    let (status, tokens) = call(server, "POST", "/v1/sessions", None, Some(body)).await;
    assert_eq!(status, 201, "{tokens}");
    // ready means ready: the first call is accepted
    assert_eq!(call(api, "GET", "/whoami", tokens["access_token"].as_str(), None).await.0, 200);
    let body = json!({ "identifier": place["admin"]["email"], "password": place["admin"]["password"] });
    let (_, admin) = call(server, "POST", "/v1/sessions", None, Some(body)).await;
    let verifiers = call(server, "GET", "/v1/admin/verifiers", admin["access_token"].as_str(), None).await.1;
    assert_eq!(verifiers["verifiers"][0]["client_id"], place["client"]["client_id"], "{verifiers}");

    let data = std::path::PathBuf::from(place["data_dir"].as_str().unwrap());
    assert!(data.join("portcullis.db").exists());
    dev.signal(Signal::INT);
    assert_eq!(dev.ended().await, Some(0), "{}", dev.log());
    assert!(!data.exists(), "the temporary directory is still there");
    assert_eq!(out.lock().unwrap().lines().count(), 1);
}

#[tokio::test]
async fn mails_are_caught_and_shown_as_text() {
    let dir = Dir::new();
    let mut dev = Running::start(portcullis(&dir.0, &["dev", "--port", "0", "--json"]));
    let out = dev.out.clone();
    let place: Value = serde_json::from_str(&dev.line(&out, &["{"]).await).unwrap();
    let (server, page) =
        (Client::new(place["server"].as_str().unwrap()), Client::new(place["mails"].as_str().unwrap()));
    assert!(page.get("/").send().await.expect(200).text().contains("Nothing was sent yet"));
    let body = json!({ "identifier": place["account"]["email"] });
    server.post("/v1/recovery").json(&body).send().await.expect(202);
    let caught = loop {
        let list = page.get("/messages").send().await.expect(200).json();
        if let Some(mail) = list["messages"].get(0) {
            break mail.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(caught["to"][0], place["account"]["email"], "{caught}");
    let link = caught["link"].as_str().unwrap();
    let path = link.strip_prefix(place["server"].as_str().unwrap()).unwrap();
    assert!(server.get(path).send().await.expect(200).text().contains("Choose a new password"));
    let shown = page.get("/messages/1").send().await.expect(200);
    assert!(shown.header("content-security-policy").starts_with("default-src 'none'"));
    let html = shown.text();
    assert!(html.contains(&format!("<a href=\"{link}\"")) && !html.contains("font-family"), "{html}");
    // What somebody else sends there is text, too.
    let smtp = place["smtp"].as_str().unwrap().strip_prefix("smtp://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(smtp).await.unwrap();
    let head = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: <script>1</script>\r\n";
    let mails = format!(
        "EHLO x\r\n{head}Content-Type: text/html\r\n\r\n<script>2</script>\r\n.\r\n{head}\r\n<script>3</script>\r\n.\r\nQUIT\r\n"
    );
    stream.write_all(mails.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    for (path, words) in
        [("/", "&lt;script&gt;1"), ("/messages/2", "&lt;script&gt;1"), ("/messages/3", "&lt;script&gt;3")]
    {
        let html = page.get(path).send().await.expect(200).text();
        assert!(!html.contains("<script>") && html.contains(words), "{path}: {html}");
    }
    page.get("/messages/99").send().await.expect(404);
    page.get("/messages/x").send().await.expect(404);
    dev.signal(Signal::INT);
    assert_eq!(dev.ended().await, Some(0), "{}", dev.log());
}

#[tokio::test]
async fn kept_data_are_found_again() {
    let dir = Dir::new();
    let mut ids = vec![];
    for _ in 0..2 {
        let mut dev = Running::start(portcullis(&dir.0, &["dev", "--port", "0", "--data", "kept", "--json"]));
        let out = dev.out.clone();
        let place: Value = serde_json::from_str(&dev.line(&out, &["{"]).await).unwrap();
        ids.push((place["account"]["id"].clone(), place["client"].clone()));
        dev.signal(Signal::TERM);
        assert_eq!(dev.ended().await, Some(0));
    }
    assert_eq!(ids[0], ids[1]);
    assert!(dir.path("kept/portcullis.db").exists());
}

/// What is printed to be copied is run as it stands.
#[tokio::test]
async fn the_printed_commands_work() {
    let dir = Dir::new();
    let curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    assert!(curl.is_ok_and(|status| status.success()), "the printed commands use curl: install the package `curl`");
    let mut dev = Running::start(portcullis(&dir.0, &["dev", "--port", "0"]));
    let out = dev.out.clone();
    dev.line(&out, &["Ctrl-C"]).await;
    let text = out.lock().unwrap().clone();
    let script: String = text
        .lines()
        .skip_while(|line| !line.starts_with("# "))
        .take_while(|l| !l.starts_with("The whole"))
        .map(|l| format!("{l}\n"))
        .collect();
    let ran =
        tokio::task::spawn_blocking(move || Command::new("sh").arg("-c").arg(script).output().unwrap()).await.unwrap();
    let ran = Ran::from(ran).must(0, "");
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6, "{ran:?}");
    assert!(lines[0]["sid"].is_string() && lines[1]["sid"].is_string() && lines[0]["sid"] != lines[1]["sid"]);
    assert_eq!(lines[2]["sessions"].as_array().unwrap().len(), 2);
    assert_eq!((lines[3]["ended"].as_u64(), lines[3]["enforcement"]["complete"].as_bool()), (Some(2), Some(true)));
    assert_eq!((lines[4]["code"].as_str(), lines[5]["code"].as_str()), (Some("token_revoked"), Some("token_revoked")));
}

#[test]
fn the_tour_goes_well() {
    let dir = Dir::new();
    let ran = run(&dir.0, &["dev", "--tour", "--port", "0"]).must(0, "The tour went well");
    assert!(
        ran.out.contains("token_revoked") && ran.out.contains("event: ended") && ran.out.contains("account_blocked")
    );
    assert!(!ran.out.contains("differs") && !ran.out.contains('\x1b'), "{}", ran.out);
    let left = std::fs::read_dir(&dir.0).unwrap().count();
    assert_eq!(left, 0, "something was left behind");
    let report = run(&dir.0, &["dev", "--tour", "--port", "0", "--json"]).must(0, "").json();
    assert_eq!((report["ok"].as_bool(), report["revocations"].as_array().unwrap().len()), (Some(true), 5), "{report}");
}

/// The tour must be able to fail: where the account is blocked from the start, it says so and exits 4.
#[tokio::test]
async fn a_tour_that_differs_exits_4() {
    let dir = Dir::new();
    let mut dev = Running::start(portcullis(&dir.0, &["dev", "--port", "0", "--data", "kept", "--json"]));
    let out = dev.out.clone();
    dev.line(&out, &["{"]).await;
    let block = ["accounts", "block", "demo@portcullis.example", "--reason", "spoilt", "--data-dir", "kept"];
    run(&dir.0, &block).must(0, "rev 1");
    dev.signal(Signal::TERM);
    assert_eq!(dev.ended().await, Some(0));
    run(&dir.0, &["dev", "--tour", "--port", "0", "--data", "kept"]).must(4, "account_blocked");
}

#[test]
fn a_taken_port_is_told() {
    let dir = Dir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run(&dir.0, &["dev", "--port", &port]).must(2, "cannot listen there");
}

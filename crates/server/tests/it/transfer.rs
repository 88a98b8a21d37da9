//! `import` and `export`: files of every kind of wrong, runs that are killed and go on, and a round trip.
use crate::support::{ADMIN, Dir, PATIENCE, Ran, Running, Server, portcullis, run, run_with_input};
use portcullis_testkit::lasting_address;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"; // U*U

fn import(dir: &Dir, args: &[&str]) -> Ran {
    run(&dir.0, &[&["import", "--data-dir", "data"], args].concat())
}

fn accounts(dir: &Dir) -> usize {
    let exported = run(&dir.0, &["export", "--data-dir", "data"]).must(0, "");
    exported.out.lines().count()
}

/// The reports of a run with `--json`: those about lines, and the last one.
fn reports(ran: &Ran) -> (Vec<Value>, Value) {
    let mut all: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = all.pop().unwrap();
    (all, last)
}

#[tokio::test]
async fn broken_lines_of_every_kind_are_reported_and_the_rest_goes_on() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let token = server.access_token(ADMIN).await;
    let taken = json!({ "email": "taken@example.org", "password": "a good long password" });
    server.call("POST", "/v1/accounts", Some(&token), Some(taken)).await;
    let long = format!("{{\"email\":\"x@example.org\",\"name\":\"{}\"}}", "x".repeat(20_000));
    let nested = "[".repeat(10_000);
    // Each line, the member that is named, and a word of what is told; none for lines that are right.
    let lines: Vec<(&[u8], &str, &str)> = vec![
        (b"\xef\xbb\xbf{\"email\":\"with-bom@example.org\"}", "", ""),
        (b"{\"email\":\"with-crlf@example.org\"}\r", "", ""),
        (b"", "", ""),
        (b"   ", "", ""),
        (b"no JSON", "", "one JSON object"),
        (b"{\"email\":\"x@example.org\"", "", "EOF"),
        (b"{\"email\":\"x@example.org\"} x", "", "trailing"),
        (b"[]", "", "one JSON object"),
        (b"null", "", "one JSON object"),
        (b"\"x@example.org\"", "", "one JSON object"),
        (b"{}", "", "missing member `email`"),
        (b"{\"email\":\"x@example.org\",\"passwort\":\"x\"}", "", "unknown member `passwort`"),
        (b"{\"email\":\"x@example.org\",\"email\":\"y@example.org\"}", "", "twice"),
        (b"{\"email\":5}", "", "invalid type"),
        (b"{\"email\":\"x@example.org\",\"roles\":\"admin\"}", "", "invalid type"),
        (b"{\"email\":\"x@example.org\",\"password_hash\":5}", "", "password_hash"),
        (b"{\"email\":\"no address\"}", "email", "name@example.org"),
        (b"{\"email\":\"\"}", "email", "name@example.org"),
        (long.as_bytes(), "", "longer than"),
        (nested.as_bytes(), "", "recursion"),
        (b"{\"email\":\"x@example.org\",\"name\":\"\xff\"}", "", "not UTF-8 (at byte 34)"),
        (b"{\"email\":\"x@example.org\",\"name\":\"\0\"}", "", "NUL"),
        (b"{\"email\":\"x@example.org\",\"name\":\"\\u0000\"}", "name", "control"),
        (b"\xef\xbb\xbf{\"email\":\"x@example.org\"}", "", "one JSON object"),
        (b"{\"email\":\"x@example.org\",\"id\":\"5\"}", "id", "acc_"),
        (b"{\"email\":\"x@example.org\",\"id\":\"ses_00000000000000000000000001\"}", "id", "acc_"),
        (b"{\"email\":\"x@example.org\",\"roles\":[\"Admin!\"]}", "roles", "a-z"),
        (b"{\"email\":\"x@example.org\",\"created_at\":\"yesterday\"}", "created_at", "RFC 3339"),
        (b"{\"email\":\"x@example.org\",\"created_at\":\"2999-01-01T00:00:00Z\"}", "created_at", "future"),
        (b"{\"email\":\"x2@example.org\",\"blocked\":{\"reason\":\"\"}}", "blocked.reason", "characters"),
        (b"{\"email\":\"x2@example.org\",\"blocked\":{}}", "", "reason"),
        (b"{\"email\":\"x2@example.org\",\"password_hash\":\"$md5$secret-hash\"}", "password_hash", "not known"),
        (b"{\"email\":\"x2@example.org\",\"password_hash\":\"$argon2id$v=19$m=4000000000,t=9,p=1$c29tZXNhbHQ$AAAA\"}", "password_hash", "memory"),
        (b"{\"email\":\"x2@example.org\",\"password_hash\":{\"scheme\":\"firebase-scrypt\",\"hash\":\"AA==\",\"salt\":\"AA==\"}}", "password_hash", "--firebase"),
        (b"{\"email\":\"taken@example.org\"}", "email", "another account has this address"),
        (b"{\"email\":\"With-CRLF@example.org\"}", "email", "earlier line"),
        (b"{\"email\":\"last@example.org\"}", "", ""),
    ];
    let wrong = lines.iter().filter(|(_, _, told)| !told.is_empty()).count();
    let bytes: Vec<u8> = lines.iter().flat_map(|(line, ..)| [line, &b"\n"[..]].concat()).collect();
    std::fs::write(dir.path("people.jsonl"), &bytes[..bytes.len() - 1]).unwrap(); // and no end of the last line

    let before = accounts(&dir);
    for dry_run in [true, false] {
        let args: &[&str] =
            if dry_run { &["people.jsonl", "--json", "--dry-run"] } else { &["people.jsonl", "--json"] };
        let ran = import(&dir, args);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(!ran.out.contains("secret-hash") && !ran.err.contains("secret-hash"), "{ran:?}");
        let (told, last) = reports(&ran);
        let mut told: Vec<_> = told.iter().map(|report| (report["line"].as_u64().unwrap(), report)).collect();
        told.sort_by_key(|(n, _)| *n);
        let expected = lines.iter().enumerate().filter(|(_, (_, _, word))| !word.is_empty());
        for ((n, (line, field, word)), (at, report)) in expected.zip(&told) {
            let shown = format!("{}: {report}", String::from_utf8_lossy(&line[..line.len().min(100)]));
            assert_eq!(*at, n as u64 + 1, "{shown}");
            assert_eq!(report["field"].as_str().unwrap_or(""), *field, "{shown}");
            assert!(report["detail"].as_str().unwrap().contains(word), "{shown}");
        }
        assert_eq!(told.len(), wrong);
        let counts = json!({
            "done": true, "dry_run": dry_run, "lines": lines.len(), "blank": 2, "created": 3, "unchanged": 0, "refused": wrong,
        });
        assert_eq!(last, counts);
        assert_eq!(accounts(&dir), if dry_run { before } else { before + 3 });
        assert!(!dir.path("people.jsonl.progress").exists());
    }
    // For people; and again: nothing doubles.
    let ran = import(&dir, &["people.jsonl"]).must(4, "line 5: ");
    ran.must(4, "0 made, 3 there already").must(4, "line 17: email: an address looks like");
    assert_eq!(accounts(&dir), before + 3);
}

#[tokio::test]
async fn usage_and_servers_that_are_not_there() {
    let dir = Dir::new();
    let file = dir.write("people.jsonl", "{\"email\":\"ada@example.org\"}\n");
    let file = file.to_str().unwrap();
    import(&dir, &[file]).must(3, "--resume goes on from there");
    import(&dir, &["nowhere.jsonl"]).must(2, "nowhere.jsonl cannot be read");
    import(&dir, &["."]).must(2, "cannot be read");
    import(&dir, &["-", "--resume"]).must(2, "standard input");
    import(&dir, &[file, "--resume", "--dry-run"]).must(2, "--dry-run");
    run(&dir.0, &["export", "--data-dir", "data"]).must(3, "admin.sock");
    let server = Server::start(&dir).await;
    import(&dir, &[file]).must(0, "1 lines: 1 made");
    let piped = ["import", "-", "--data-dir", "data", "--json"];
    let ran = run_with_input(&dir.0, &piped, "{\"email\":\"bob@example.org\"}\n{\"email\":\"ada@example.org\"}");
    assert_eq!(reports(&ran.must(0, "")).1["unchanged"], 1);
    import(&dir, &["-"]).must(0, "0 lines");
    // A record of progress that is none, or of another file.
    dir.write("people.jsonl.progress", "garbage");
    import(&dir, &[file, "--resume"]).must(2, "is no record");
    // By URL and token: everything but hashes.
    let (url, token) = (format!("http://{}", server.address), server.access_token(ADMIN).await);
    let remote = ["--server", &url, "--token", &token];
    run(&dir.0, &[&["import", file], &remote[..]].concat()).must(0, "1 there already");
    run(&dir.0, &[&["export"], &remote[..]].concat()).must(0, "ada@example.org");
    run(&dir.0, &[&["export", "--with-password-hashes"], &remote[..]].concat()).must(1, "admin socket only");
    let out = ["export", "--data-dir", "data", "--out"];
    run(&dir.0, &[&out[..], &["people.jsonl"]].concat()).must(2, "exists");
    run(&dir.0, &[&out[..], &["no/such/place"]].concat()).must(2, "cannot be written");
}

/// Out of one server and into another: the same lines come out there, and everybody signs in as before.
#[tokio::test]
async fn what_goes_out_comes_in_the_same() {
    let (from, to) = (Dir::new(), Dir::new());
    let first = Server::start(&from).await;
    let mut lines = String::new();
    for n in 0..450 {
        let mut line = json!({ "email": format!("user{n}@example.org"), "password_hash": BCRYPT });
        if n % 2 == 0 {
            line["name"] = format!("Üser \"{n}\"").into();
            line["created_at"] = "2019-05-17T09:30:00.123Z".into();
        }
        if n % 5 == 0 {
            line["roles"] = json!(["editor", "a:b"]);
        }
        if n % 7 == 0 {
            line["blocked"] = json!({ "reason": "we had to", "until": "2999-01-01T00:00:00.000Z" });
        }
        writeln!(lines, "{line}").unwrap();
    }
    from.write("people.jsonl", &lines);
    import(&from, &["people.jsonl"]).must(0, "450 made");
    first.sign_in(("user1@example.org", "U*U")).await; // and is upgraded
    let export = |dir: &Dir, out: &str| {
        let args = ["export", "--data-dir", "data", "--with-password-hashes", "--out", out, "--json"];
        run(&dir.0, &args).must(0, "\"accounts\":451");
        std::fs::read_to_string(dir.path(out)).unwrap()
    };
    // The upgrade comes after its answer.
    let mut whole = export(&from, "0.jsonl");
    for n in 1.. {
        if whole.matches("$argon2id$").count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        whole = export(&from, &format!("{n}.jsonl"));
    }
    let without = run(&from.0, &["export", "--data-dir", "data"]).must(0, "").out;
    assert!(!without.contains("password_hash") && without.lines().count() == 451);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(from.path("0.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "hashes are for their owner only");

    let command = Server::command(&to, &[]); // with nobody in it
    let second = Server::run(command).await;
    to.write("all.jsonl", &whole);
    import(&to, &["all.jsonl"]).must(0, "451 made");
    assert_eq!(export(&to, "again.jsonl"), whole);
    import(&to, &["all.jsonl"]).must(0, "0 made, 451 there already");
    for who in [("user1@example.org", "U*U"), ("user2@example.org", "U*U"), ADMIN] {
        second.sign_in(who).await;
    }
    let body = json!({ "identifier": "user7@example.org", "password": "U*U" });
    let blocked = second.call("POST", "/v1/sessions", None, Some(body)).await;
    assert_eq!((blocked.0, blocked.1["code"].as_str()), (403, Some("account_blocked")));
}

/// Killed again and again, and the server too: the run goes on where it was, and nothing is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_goes_on() {
    const LINES: usize = 12_000;
    let _turn = crate::kept::turn().await;
    let dir = Dir::new();
    let at = lasting_address();
    let mut server = crate::kept::serve(&dir, at, &[]).await;
    let mut lines = String::new();
    for n in 0..LINES {
        let broken = if n % 100 == 7 { ",\"roles\":[\"Not Allowed\"]" } else { "" };
        writeln!(lines, "{{\"email\":\"user{n}@example.org\",\"name\":\"User {n}\"{broken}}}").unwrap();
    }
    dir.write("people.jsonl", &lines);
    let begin = || portcullis(&dir.0, &["import", "people.jsonl", "--resume", "--json", "--data-dir", "data"]);
    let done = || {
        let text = std::fs::read_to_string(dir.path("people.jsonl.progress")).unwrap_or_default();
        serde_json::from_str::<Value>(&text).ok().and_then(|value| value["lines"].as_u64()).unwrap_or(0)
    };
    let (mut stops, mut kept, mut server_down) = (vec![0], String::new(), false);
    while stops.len() < 7 {
        let before = done();
        let mut running = Running::start(begin());
        let moved = tokio::time::timeout(PATIENCE, async {
            // A run that is through before it is killed ends the story early.
            while done() < before + 200 && !running.has_ended() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        moved.await.unwrap_or_else(|_| panic!("it does not come on: {}", running.log()));
        if running.has_ended() {
            break;
        }
        if stops.len() == 2 {
            // The server this time: the import says how to go on.
            drop(server);
            let code = running.ended().await;
            assert!(code == Some(3) || code == Some(4), "{}", running.log());
            server_down = code == Some(3);
            assert_eq!(running.log().contains("--resume goes on from there"), server_down, "{}", running.log());
            server = crate::kept::serve(&dir, at, &[]).await;
            if !server_down {
                break;
            }
        } else {
            running.signal(Signal::KILL);
            running.ended().await;
        }
        kept = std::fs::read_to_string(dir.path("people.jsonl.progress")).unwrap_or(kept);
        stops.push(done());
    }
    assert!(stops.len() > 3 && server_down, "hardly anything was killed: {stops:?}");
    assert!(stops.is_sorted(), "{stops:?}");
    let ran = Ran::from(begin().output().unwrap());
    assert_eq!(ran.code, 4, "{ran:?}");
    let (_, last) = reports(&ran);
    let count = |name: &str| last[name].as_u64().unwrap();
    assert_eq!((count("lines"), count("refused")), (LINES as u64, LINES as u64 / 100), "{last}");
    assert_eq!(count("created") + count("unchanged"), LINES as u64 * 99 / 100, "{last}");
    assert_eq!(accounts(&dir), LINES * 99 / 100 + 1, "each once, and the administrator");
    assert!(!dir.path("people.jsonl.progress").exists());

    // A file that has changed in what is done is not gone on with.
    dir.write("people.jsonl.progress", &kept);
    dir.write("people.jsonl", &lines.replacen("User 5\"", "User V\"", 1));
    Ran::from(begin().output().unwrap()).must(2, "is not the file that was begun");
    // Lines that were added at its end are.
    dir.write("people.jsonl", &format!("{lines}{{\"email\":\"late@example.org\"}}\n"));
    let ran = Ran::from(begin().output().unwrap());
    assert_eq!(reports(&ran).1["lines"], LINES as u64 + 1, "{ran:?}");
    drop(server);
}

/// A long file takes no more memory than a short one, but for the few bytes that are kept of each line.
#[tokio::test]
async fn a_long_file_is_read_in_little_memory() {
    use std::io::Write as _;
    let dir = Dir::new();
    let _server = Server::start(&dir).await;
    let mut file = std::io::BufWriter::new(std::fs::File::create(dir.path("people.jsonl")).unwrap());
    // Lines that are refused where they are read: 60 MB of them.
    let name = "x".repeat(5_900);
    for n in 0..10_000 {
        writeln!(file, "{{\"email\":\"user{n}@example.org\",\"name\":\"{name}\"}}").unwrap();
    }
    drop(file);
    let mut command = std::process::Command::new("/bin/sh");
    let program = env!("CARGO_BIN_EXE_portcullis");
    let script = format!("ulimit -v 700000; exec {program} import people.jsonl --json --dry-run --data-dir data");
    command.args(["-c", &script]).current_dir(&dir.0).env_clear();
    let mut running = Running::start(command);
    let mut most_kib = 0;
    let id = running.id().as_raw_nonzero();
    let out = running.out.clone();
    while !out.lock().unwrap().contains("\"done\":true") {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        most_kib = peak.map_or(most_kib, |peak: u64| peak.max(most_kib));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(running.ended().await, Some(4));
    assert!((1..40_000).contains(&most_kib), "{most_kib} KiB for 60 MB");
}

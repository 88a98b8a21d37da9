//! A flood of guesses from everywhere, over kill and restart: no more are looked at than the budget allows, and the owner gets
//! in from a known device all the while.
use crate::kept::{Answer, Kept, mono_us, serve, sign_up, turn};
use crate::support::{Dir, Server};
use portcullis_domain::throttle::ACCOUNT;
use portcullis_testkit::lasting_address;
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const GUESSES: u64 = 5_000;
const ADDRESSES: u64 = 500;
const CONNECTIONS: u64 = 50;
const SETTINGS: [&str; 2] = ["--trusted-proxies", "127.0.0.1"];
const PASSWORD: &str = "a good long password";

async fn attempt(
    connection: &mut Kept,
    who: &str,
    password: &str,
    from: &str,
    cookie: Option<&str>,
) -> Result<Answer, String> {
    let mut body = json!({ "identifier": who, "password": password });
    let mut headers = vec![("x-forwarded-for", from)];
    if let Some(cookie) = cookie {
        body["transport"] = "cookie".into();
        headers.push(("cookie", cookie));
    }
    connection.call_with("POST", "/v1/sessions", None, Some(&body), &headers).await
}

/// The mark that an answer sets, as a `Cookie` header.
fn mark(answer: &Answer) -> String {
    let lines = answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let mut lines = lines.filter(|line| line.starts_with("__Host-portcullis_device="));
    lines.next().unwrap().split(';').next().unwrap().to_owned()
}

/// A counter of `/metrics`.
async fn metric(at: SocketAddr, name: &str) -> u64 {
    use tokio::io::AsyncReadExt as _;
    let mut stream = crate::support::open(at, "GET", "/metrics", None, None).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// How a flood went: answers, and guesses that were never answered.
#[derive(Default)]
struct Flood {
    next: AtomicU64,
    answered: AtomicU64,
    lost: AtomicU64,
}

impl Flood {
    /// Guesses numbered below `until`, over all addresses and connections. A connection that breaks is not opened again.
    async fn run(self: &Arc<Self>, to: SocketAddr, who: &str, until: u64) {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (flood, who) = (self.clone(), who.to_owned());
                tokio::spawn(async move {
                    let Ok(mut connection) = Kept::open(to).await else { return };
                    loop {
                        let n = flood.next.fetch_add(1, SeqCst);
                        if n >= until {
                            return;
                        }
                        let from = format!("10.{}.{}.{}", n % ADDRESSES / 250, n % 250, 1 + n / ADDRESSES);
                        match attempt(&mut connection, &who, &format!("guess {n}"), &from, None).await {
                            Ok(answer) => {
                                assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"));
                                flood.answered.fetch_add(1, SeqCst);
                            }
                            Err(_) => {
                                flood.lost.fetch_add(1, SeqCst);
                                return;
                            }
                        }
                    }
                })
            })
            .collect();
        for connection in connections {
            connection.await.unwrap();
        }
    }
}

/// The owner, who signs in again and again: by a known device from anywhere, and by a program from a known network. How often
/// it was answered yes; anything else ends the test. A broken connection ends the owner's day.
async fn owner(to: SocketAddr, cookie: String, stop: Arc<AtomicBool>) -> (u64, String) {
    let (mut signed_in, mut cookie) = (0, cookie);
    let Ok(mut connection) = Kept::open(to).await else { return (0, cookie) };
    while !stop.load(SeqCst) {
        let from = format!("198.18.{}.1", signed_in % 200);
        let Ok(answer) = attempt(&mut connection, "ada@example.org", PASSWORD, &from, Some(&cookie)).await else {
            break;
        };
        cookie = mark(&answer.must(201));
        signed_in += 1;
        let Ok(answer) = attempt(&mut connection, "ada@example.org", PASSWORD, "203.0.113.7", None).await else {
            break;
        };
        answer.must(201);
        signed_in += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (signed_in, cookie)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_guesses_and_the_owner() {
    let _turn = turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server: Server = serve(&dir, at, &SETTINGS).await;
    let (ada, bob) = (sign_up(at, "ada").await, sign_up(at, "bob").await);
    let mut connection = Kept::open(at).await.unwrap();
    let first = attempt(&mut connection, &ada, PASSWORD, "203.0.113.200", Some("a=b")).await.unwrap().must(201);
    attempt(&mut connection, &ada, PASSWORD, "203.0.113.7", None).await.unwrap().must(201);
    let began = mono_us();
    // What the refill may have added since; the test's own clock is enough, for it began before the first guess.
    let refilled = || (((mono_us() - began) / 1000) / ACCOUNT.every) as u64;
    let burst = ACCOUNT.burst as u64;

    // Half of them.
    let (flood, stop) = (Arc::new(Flood::default()), Arc::new(AtomicBool::new(false)));
    let day = tokio::spawn(owner(at, mark(&first), stop.clone()));
    let before = metric(at, "portcullis_password_hashes_total").await;
    flood.run(at, &ada, GUESSES / 2).await;
    stop.store(true, SeqCst);
    let (signed_in, cookie) = day.await.unwrap();
    assert!(signed_in >= 2 && flood.answered.load(SeqCst) == GUESSES / 2);
    let checked = metric(at, "portcullis_sign_in_attempts_checked_total").await - 2 - signed_in;
    assert!((burst..=burst + refilled()).contains(&checked), "{checked} guesses were looked at");
    let throttled = metric(at, "portcullis_sign_in_attempts_throttled_total").await;
    assert_eq!(checked + throttled, GUESSES / 2);
    let hashes = metric(at, "portcullis_password_hashes_total").await - before;
    assert!(hashes <= GUESSES / 2 + signed_in && hashes + 2 >= GUESSES / 2 + signed_in, "one hash for each: {hashes}");

    // The other half, with a kill in its middle: bob's budget is being used up when it comes, ada's is used up.
    let (on_bob, stop) = (Arc::new(Flood::default()), Arc::new(AtomicBool::new(false)));
    let day = tokio::spawn(owner(at, cookie, stop.clone()));
    let guesses = {
        let (on_bob, flood, bob, ada) = (on_bob.clone(), flood.clone(), bob.clone(), ada.clone());
        flood.next.store(GUESSES / 2, SeqCst);
        tokio::spawn(async move {
            tokio::join!(on_bob.run(at, &bob, 500), flood.run(at, &ada, GUESSES));
        })
    };
    while on_bob.answered.load(SeqCst) < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.process.signal(Signal::KILL);
    guesses.await.unwrap();
    let (before_the_kill, cookie) = day.await.unwrap();
    let answered = on_bob.answered.load(SeqCst).min(burst);
    drop(server);
    let server = serve(&dir, at, &SETTINGS).await;

    // The new process: all that is left of the guesses. What the old one looked at is not forgotten.
    let stop = Arc::new(AtomicBool::new(false));
    let day = tokio::spawn(owner(at, cookie, stop.clone()));
    flood.run(at, &ada, GUESSES).await;
    on_bob.next.store(0, SeqCst);
    on_bob.run(at, &bob, 500).await;
    stop.store(true, SeqCst);
    let (after_the_kill, _) = day.await.unwrap();
    assert!(after_the_kill >= 2, "the owner got in");
    let checked = metric(at, "portcullis_sign_in_attempts_checked_total").await - after_the_kill;
    let most = burst - answered + 2 * refilled();
    assert!(checked <= most, "{checked} guesses were looked at, {answered} had been before the kill");
    let (answered, lost) = (flood.answered.load(SeqCst), flood.lost.load(SeqCst));
    assert!(answered + lost == GUESSES && lost <= CONNECTIONS, "{answered} answered, {lost} lost");
    drop(server);
    eprintln!("{answered} guesses; the owner signed in {signed_in} + {before_the_kill} + {after_the_kill} times");
}

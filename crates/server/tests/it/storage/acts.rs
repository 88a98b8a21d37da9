//! What clients ask for while the disk is in trouble, what they are told, and whether that is true.
use crate::kept::{Answer, Kept, Session, insist, sign_in, sign_up, verifier};
use crate::support::{ADMIN, PATIENCE};
use portcullis_tower::wire::Code;
use portcullis_tower::{Rule, Verifier};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// One call, not repeated.
pub async fn once(to: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
    Kept::open(to).await.unwrap().call(method, path, token, body.as_ref()).await.unwrap()
}

/// Waits until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// A session that is to be ended, and how.
struct Victim {
    session: Session,
    method: &'static str,
    path: String,
    token: String,
    body: Option<Value>,
    /// Whether its end was answered.
    told: bool,
    /// Whether it was asked for.
    asked: bool,
}

/// People at a server, and a verifier.
pub struct Acts {
    pub at: SocketAddr,
    pub library: Verifier,
    pub admin: Session,
    /// Lives throughout.
    pub living: Session,
    victims: Vec<Victim>,
    names: u32,
    /// Addresses whose sign-up was answered with 503.
    unheard: Vec<String>,
}

impl Acts {
    /// With so many sessions to be ended by their owners, and as many whose account is to be blocked.
    pub async fn begin(at: SocketAddr, pairs: usize) -> Self {
        let admin = sign_in(at, ADMIN.0).await;
        let body = json!({ "name": "a verifier", "kind": "verifier" });
        let made = insist(at, "POST", "/v1/admin/clients", Some(&admin.access), Some(&body)).await.must(201);
        let client = (made.text("client_id").to_owned(), made.text("client_secret").to_owned());
        let library = verifier(at, &client, "library");
        let living = sign_in(at, &sign_up(at, "alice").await).await;
        let email = sign_up(at, "leaving").await;
        let mut victims = Vec::new();
        for n in 0..pairs {
            let session = sign_in(at, &email).await;
            let token = session.access.clone();
            let path = "/v1/me/sessions/current".to_owned();
            victims.push(Victim { session, method: "DELETE", path, token, body: None, told: false, asked: false });
            let session = sign_in(at, &sign_up(at, &format!("blocked.{n}")).await).await;
            let (path, token) = (format!("/v1/admin/accounts/{}/block", session.account), admin.access.clone());
            let body = Some(json!({ "reason": "a test" }));
            victims.push(Victim { session, method: "POST", path, token, body, told: false, asked: false });
        }
        assert!(library.wait_fresh(PATIENCE).await);
        Self { at, library, admin, living, victims, names: 0, unheard: Vec::new() }
    }

    /// A refresh, an end, a block and a sign-up, each asked for once: their statuses. 503 comes with `Retry-After`, and 200 is
    /// remembered.
    pub async fn round(&mut self) -> [u16; 4] {
        let mut out = [0; 4];
        let refreshed = once(self.at, "POST", "/v1/sessions/refresh", None, Some(self.refresh_body())).await;
        out[0] = status(&refreshed, 200);
        if refreshed.status == 200 {
            self.living.refresh = refreshed.text("refresh_token").to_owned();
        }
        let open = self.victims.iter_mut().filter(|victim| !victim.asked);
        for (victim, out) in open.take(2).zip(&mut out[1..]) {
            let answer = once(self.at, victim.method, &victim.path, Some(&victim.token), victim.body.clone()).await;
            *out = status(&answer, 200);
            (victim.asked, victim.told) = (true, answer.status == 200);
        }
        self.names += 1;
        let email = format!("new.{}@example.org", self.names);
        let body = json!({ "email": email, "password": "a good long password" });
        let signed_up = once(self.at, "POST", "/v1/accounts", None, Some(body)).await;
        out[3] = status(&signed_up, 201);
        if signed_up.status == 503 {
            self.unheard.push(email);
        }
        out
    }

    /// An end alone.
    pub async fn end_one(&mut self) -> u16 {
        let victim = self.victims.iter_mut().find(|victim| !victim.asked).unwrap();
        let answer = once(self.at, victim.method, &victim.path, Some(&victim.token), victim.body.clone()).await;
        (victim.asked, victim.told) = (true, answer.status == 200);
        status(&answer, 200)
    }

    /// So many rounds in which everything was answered with 503, and a few more at most.
    pub async fn refused_rounds(&mut self, rounds: usize, mut before: impl FnMut()) {
        let mut refused = 0;
        for _ in 0..rounds + 8 {
            before();
            refused += usize::from(self.round().await == [503; 4]);
            if refused == rounds {
                return;
            }
        }
        panic!("only {refused} of {rounds} rounds were refused");
    }

    fn refresh_body(&self) -> Value {
        json!({ "refresh_token": self.living.refresh })
    }

    /// Reads, leases and verdicts, while nothing can be written: what was not reported as done is not refused anywhere, and what
    /// was is refused.
    pub async fn reads_go_on(&self) {
        once(self.at, "GET", "/readyz", None, None).await.must(200);
        once(self.at, "GET", "/v1/me", Some(&self.living.access), None).await.must(200);
        let path = "/v1/admin/accounts?limit=10";
        once(self.at, "GET", path, Some(&self.admin.access), None).await.must(200);
        let granted = self.leases().await;
        until("another lease", async || self.leases().await > granted).await;
        assert!(self.library.wait_fresh(PATIENCE).await);
        assert!(self.library.verify(&self.living.access, &Rule::default()).await.is_ok(), "the living are refused");
        for victim in self.victims.iter().filter(|victim| victim.asked) {
            let at_server = once(self.at, "GET", "/v1/me", Some(&victim.session.access), None).await;
            assert_eq!(at_server.status, if victim.told { 401 } else { 200 }, "{}: {}", victim.path, at_server.body);
            let verdict = self.library.verify(&victim.session.access, &Rule::default()).await;
            assert_eq!(verdict.is_ok(), !victim.told, "{}", victim.path);
        }
    }

    /// A number of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let mut stream = crate::support::open(self.at, "GET", "/metrics", None, None).await;
        let text = crate::support::read_until(&mut stream, "no such mark").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }

    async fn leases(&self) -> u64 {
        self.metric("portcullis_feed_leases_total").await
    }

    /// After a restart: what was answered is in force, and of the rest server and verifier say the same. How many of those that
    /// were not answered were done.
    pub async fn agrees(&self) -> usize {
        assert!(self.library.wait_fresh(PATIENCE).await, "{:?}", self.library.readiness());
        once(self.at, "GET", "/v1/me", Some(&self.living.access), None).await.must(200);
        let mut unheard = 0;
        for victim in &self.victims {
            let at_server = once(self.at, "GET", "/v1/me", Some(&victim.session.access), None).await;
            let ended = at_server.status == 401 && at_server.code() == "token_revoked";
            assert!(ended || at_server.status == 200, "{}", at_server.body);
            assert!(ended || !victim.told, "what was reported as done is not: {}", victim.path);
            assert!(!ended || victim.asked, "nobody asked for {}", victim.path);
            unheard += usize::from(ended && !victim.told);
            until("server and verifier agree", async || {
                match self.library.verify(&victim.session.access, &Rule::default()).await {
                    Ok(_) => !ended,
                    Err(refusal) => ended && refusal.code() == Code::TokenRevoked,
                }
            })
            .await;
        }
        unheard
    }

    /// It works again: what was not answered is asked for again until it is, and is then true.
    pub async fn catch_up(&mut self) {
        let refreshed = insist(self.at, "POST", "/v1/sessions/refresh", None, Some(&self.refresh_body())).await;
        self.living.refresh = refreshed.must(200).text("refresh_token").to_owned();
        for victim in self.victims.iter_mut().filter(|victim| victim.asked && !victim.told) {
            let path = format!("{}?wait=enforced", victim.path);
            insist(self.at, victim.method, &path, Some(&victim.token), victim.body.as_ref()).await.must(200);
            victim.told = true;
        }
        for email in std::mem::take(&mut self.unheard) {
            let body = json!({ "email": email, "password": "a good long password" });
            let answer = insist(self.at, "POST", "/v1/accounts", None, Some(&body)).await;
            assert!(answer.status == 201 || answer.code() == "email_taken", "{}", answer.body);
            sign_in(self.at, &email).await;
        }
        self.agrees().await;
    }

    /// Who was not reported as made is not there: the addresses are free. For faults after which nothing was written.
    pub async fn nothing_was_done(&mut self) {
        for email in std::mem::take(&mut self.unheard) {
            let body = json!({ "email": email, "password": "a good long password" });
            insist(self.at, "POST", "/v1/accounts", None, Some(&body)).await.must(201);
        }
    }
}

fn status(answer: &Answer, good: u16) -> u16 {
    match answer.status {
        503 => {
            assert_eq!(answer.code(), "unavailable", "{}", answer.body);
            assert!(answer.headers.contains_key("retry-after"));
        }
        other => assert_eq!(other, good, "{}", answer.body),
    }
    answer.status
}

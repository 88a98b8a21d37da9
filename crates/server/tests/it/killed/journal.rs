//! What clients were told about ends, and a verifier that is asked all the time.
use crate::kept::{Answer, Kept, Session, insist, mono_us};
use portcullis_tower::wire::Code;
use portcullis_tower::{Rule, Verifier};
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two calls that end something: so that the kill finds some of them not yet made.
const PAUSE: Duration = Duration::from_millis(5);

/// A call that is to end something.
#[derive(Debug, Clone)]
pub struct Doomed {
    sessions: Vec<Session>,
    method: &'static str,
    path: String,
    token: String,
    body: Option<Value>,
}

impl Doomed {
    pub fn sign_out(session: Session) -> Self {
        let token = session.access.clone();
        Self { sessions: vec![session], method: "DELETE", path: "/v1/me/sessions/current".into(), token, body: None }
    }

    /// `sessions` are all of one account.
    pub fn block(sessions: Vec<Session>, admin: &Session) -> Self {
        let path = format!("/v1/admin/accounts/{}/block", sessions[0].account);
        let body = Some(json!({ "reason": "a test" }));
        Self { sessions, method: "POST", path, token: admin.access.clone(), body }
    }
}

/// A session whose end was answered.
#[derive(Debug, Clone)]
pub struct Ended {
    pub access: String,
    pub refresh: String,
    answered_us: i64,
}

/// The ends that were answered, and the newest rev of them.
#[derive(Debug, Default)]
pub struct Journal {
    ended: Mutex<Vec<Ended>>,
    newest: AtomicU64,
}

impl Journal {
    pub fn ended(&self) -> Vec<Ended> {
        self.ended.lock().unwrap().clone()
    }
    pub fn newest(&self) -> u64 {
        self.newest.load(SeqCst)
    }

    fn note(&self, doomed: Doomed, answer: &Answer) {
        let answered_us = mono_us();
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.newest.fetch_max(answer.body["rev"].as_u64().unwrap(), SeqCst);
        let ended =
            doomed.sessions.into_iter().map(|one| Ended { access: one.access, refresh: one.refresh, answered_us });
        self.ended.lock().unwrap().extend(ended);
    }

    /// Makes the calls one after the other until told to stop; those without an answer come back.
    pub async fn end_all(self: Arc<Self>, all: Vec<Doomed>, to: SocketAddr, stop: Arc<AtomicBool>) -> Vec<Doomed> {
        let mut unknown = Vec::new();
        for doomed in all {
            tokio::time::sleep(PAUSE).await;
            if stop.load(SeqCst) {
                return unknown;
            }
            let answer = match Kept::open(to).await {
                Ok(mut connection) => {
                    let (token, body) = (Some(&*doomed.token), doomed.body.as_ref());
                    connection.call(doomed.method, &doomed.path, token, body).await
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status != 503 => self.note(doomed, &answer),
                _ => unknown.push(doomed),
            }
        }
        unknown
    }

    /// Makes again what was not answered.
    pub async fn repeat(&self, unknown: Vec<Doomed>, to: SocketAddr) {
        for doomed in unknown {
            let answer = insist(to, doomed.method, &doomed.path, Some(&doomed.token), doomed.body.as_ref()).await;
            self.note(doomed, &answer);
        }
    }
}

/// What verifiers are asked, and what they said.
#[derive(Debug)]
pub struct Life {
    journal: Arc<Journal>,
    living: Vec<String>,
    bound_us: i64,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

/// Verdicts, counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub living: u64,
    pub revoked: u64,
    pub not_fresh: u64,
    /// Ended tokens that were accepted, none later than the bound.
    within_bound: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { living, revoked, not_fresh, within_bound } = self;
        write!(f, "{living} living accepted, {revoked} ended refused, {not_fresh} not_fresh, {within_bound} ended ")?;
        f.write_str("accepted within the bound, 0 after it")
    }
}

impl Life {
    pub fn new(journal: Arc<Journal>, living: Vec<String>, bound_us: i64) -> Arc<Self> {
        let (stop, seen) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { journal, living, bound_us, stop, seen })
    }
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
    }
    pub fn seen(&self) -> Seen {
        *self.seen.lock().unwrap()
    }
}

/// Asks a verifier about everything that lives and everything that was ended, from the first moment to the last.
pub async fn judge(verifier: Verifier, life: Arc<Life>) {
    let rule = Rule::default();
    while !life.stop.load(SeqCst) {
        let mut seen = Seen::default();
        for token in &life.living {
            match verifier.verify(token, &rule).await.map_err(|refusal| refusal.code()) {
                Ok(_) => seen.living += 1,
                Err(Code::NotFresh) => seen.not_fresh += 1,
                Err(code) => panic!("a living session is refused: {code}"),
            }
        }
        for one in life.journal.ended() {
            let sent_us = mono_us();
            match verifier.verify(&one.access, &rule).await.map_err(|refusal| refusal.code()) {
                Ok(_) => {
                    let late_us = sent_us - one.answered_us;
                    assert!(late_us <= life.bound_us, "accepted {late_us} us after its end was answered");
                    seen.within_bound += 1;
                }
                Err(Code::TokenRevoked) => seen.revoked += 1,
                Err(Code::NotFresh) => seen.not_fresh += 1,
                Err(code) => panic!("an ended session is refused with {code}"),
            }
            tokio::task::yield_now().await;
        }
        {
            let mut all = life.seen.lock().unwrap();
            all.living += seen.living;
            all.revoked += seen.revoked;
            all.not_fresh += seen.not_fresh;
            all.within_bound += seen.within_bound;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

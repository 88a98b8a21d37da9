//! Tight polling of a protected service as one device: the measuring instrument of the tour.
use crate::client::{Client, Target};
use http::{Method, Uri};
use portcullis_app::real;
use portcullis_wire::SecretString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// What one device's calls came to. Times in microseconds of the monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Calls accepted.
    pub accepted: u64,
    /// Calls refused by their code.
    pub refused: u64,
    /// When the last accepted call was sent.
    pub last_accepted_sent_us: i64,
    /// When the first refusal had arrived, and its code.
    pub first_refused: Option<(i64, String)>,
    /// What should never happen: an acceptance after a refusal, two different codes, a 5xx, no answer.
    pub odd: Option<String>,
}

impl Seen {
    fn note(&mut self, sent_us: i64, got_us: i64, status: u16, code: &str) {
        match (status, &self.first_refused) {
            (200, None) => {
                self.accepted += 1;
                self.last_accepted_sent_us = sent_us;
            }
            (200, Some((_, code))) => self.odd = Some(format!("accepted again after {code}")),
            (401 | 403, first) => {
                self.refused += 1;
                match first {
                    Some((_, before)) if before != code => {
                        self.odd = Some(format!("refused with {before}, then with {code}"))
                    }
                    Some(_) => {}
                    None => self.first_refused = Some((got_us, code.to_owned())),
                }
            }
            _ => self.odd = Some(format!("answered {status} {code}")),
        }
    }
}

/// A device that calls `GET /whoami` again and again until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts calling.
    pub fn start(api: &Uri, token: SecretString) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(poll(Client::new(Target::Url(api.clone())), token, seen.clone(), stop.clone()));
        Self { seen, stop, task }
    }

    /// What was seen so far.
    pub fn so_far(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, and says what was seen.
    pub async fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        let _ = self.task.await;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn poll(mut client: Client, token: SecretString, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        let sent_us = real::mono_us();
        let answer = client.call_as(Method::GET, "/whoami", Some(&token), None).await;
        let got_us = real::mono_us();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(answer) => seen.note(sent_us, got_us, answer.status, answer.code()),
                Err(error) => seen.odd = Some(error.0),
            }
        }
        // Dense enough to tell milliseconds, and leaves the cores to those who are measured.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An open `GET /stream`: ticks until it ends.
#[derive(Debug)]
pub struct Stream {
    state: Arc<Mutex<StreamState>>,
    task: JoinHandle<()>,
}

/// How far a stream got.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// Ticks received.
    pub ticks: u32,
    /// When `event: ended` arrived.
    pub ended_us: Option<i64>,
    /// Whether the connection was closed.
    pub closed: bool,
    /// Why it could not be opened.
    pub refused: Option<String>,
}

impl Stream {
    /// Opens it.
    pub fn open(api: &Uri, token: SecretString) -> Self {
        let state = Arc::new(Mutex::new(StreamState::default()));
        let task = tokio::spawn(follow(Client::new(Target::Url(api.clone())), token, state.clone()));
        Self { state, task }
    }

    /// How far it got.
    pub fn state(&self) -> StreamState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut client: Client, token: SecretString, state: Arc<Mutex<StreamState>>) {
    use http_body_util::BodyExt as _;
    let note = |change: &dyn Fn(&mut StreamState)| change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
    let response = match client.send(Method::GET, "/stream", Some(&token), None).await {
        Ok(response) if response.status() == 200 => response,
        Ok(response) => return note(&|state| state.refused = Some(format!("answered {}", response.status().as_u16()))),
        Err(error) => return note(&|state| state.refused = Some(error.0.clone())),
    };
    let mut body = response.into_body();
    let mut line = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        for byte in frame.into_data().unwrap_or_default() {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            match line.as_slice() {
                b"event: ended" => note(&|state| state.ended_us = Some(real::mono_us())),
                b"event: tick" => note(&|state| state.ticks += 1),
                _ => {}
            }
            line.clear();
        }
    }
    note(&|state| state.closed = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(answers: &[(u16, &str)]) -> Seen {
        let mut seen = Seen::default();
        for (at, (status, code)) in (0i64..).zip(answers) {
            seen.note(at * 10, at * 10 + 5, *status, code);
        }
        seen
    }

    #[test]
    fn a_clean_fall_is_dated() {
        let seen = seen(&[(200, ""), (200, ""), (401, "token_revoked"), (401, "token_revoked")]);
        assert_eq!((seen.accepted, seen.refused, seen.last_accepted_sent_us), (2, 2, 10));
        assert_eq!(seen.first_refused, Some((25, "token_revoked".into())));
        assert_eq!(seen.odd, None);
    }

    #[test]
    fn what_should_not_happen_is_odd() {
        assert!(seen(&[(200, ""), (503, "not_fresh"), (401, "token_revoked")]).odd.is_some());
        assert!(seen(&[(200, ""), (401, "token_revoked"), (200, "")]).odd.is_some());
        assert!(seen(&[(401, "token_revoked"), (401, "token_expired")]).odd.is_some());
        assert!(seen(&[(500, "")]).odd.is_some());
    }
}

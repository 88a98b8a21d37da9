//! Judging the same tokens at every verifier again and again, from before a revocation until after it.
use crate::kept::{Demo, Kept, mono_us};
use crate::support::PATIENCE;
use portcullis_tower::wire::Code;
use portcullis_tower::{Rule, Verifier};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// Between two rounds: dense enough to tell milliseconds, and leaves the cores to those who are measured.
const PAUSE: Duration = Duration::from_millis(1);
/// How many tasks judge in this process.
const JUDGES: usize = 4;

/// What one verifier said about one token.
#[derive(Debug, Default)]
struct Seat {
    accepted: AtomicU64,
    refused: AtomicU64,
    last_accepted_sent_us: AtomicI64,
}

/// A token, and what every verifier said about it.
#[derive(Debug)]
struct Track {
    token: String,
    spared: bool,
    seats: Vec<Seat>,
}

/// What was seen; grows while it is looked at.
#[derive(Debug)]
pub struct Seen {
    tracks: Vec<Track>,
    /// The first thing that should never happen.
    odd: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Seen {
    fn note(&self, track: &Track, seat: usize, sent_us: i64, outcome: Result<(), &str>) {
        let it = &track.seats[seat];
        let odd = match outcome {
            Ok(()) => {
                it.accepted.fetch_add(1, SeqCst);
                it.last_accepted_sent_us.store(sent_us, SeqCst);
                (it.refused.load(SeqCst) > 0).then_some("accepted after it was refused")
            }
            Err("token_revoked") if !track.spared => {
                it.refused.fetch_add(1, SeqCst);
                None
            }
            Err(what) => Some(what),
        };
        if let Some(what) = odd {
            let who = if track.spared { "who is spared" } else { "who is ended" };
            self.odd.lock().unwrap().get_or_insert_with(|| format!("verifier {seat}, {who}: {what}"));
        }
    }

    fn victims(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| !track.spared)
    }

    /// Whether every token has that many acceptances, some at every verifier.
    pub fn accepted_by_all(&self, many: u64) -> bool {
        self.tracks.iter().all(|track| enough(track.seats.iter().map(|seat| seat.accepted.load(SeqCst)), many))
    }

    /// Whether every ended token has that many refusals, some at every verifier.
    pub fn refused_by_all(&self, many: u64) -> bool {
        self.victims().all(|track| enough(track.seats.iter().map(|seat| seat.refused.load(SeqCst)), many))
    }

    /// Whether every other token was accepted by every verifier when sent later than this.
    pub fn spared_since(&self, us: i64) -> bool {
        let mut spared = self.tracks.iter().filter(|track| track.spared);
        spared.all(|track| track.seats.iter().all(|seat| seat.last_accepted_sent_us.load(SeqCst) > us))
    }

    /// When each verifier was sent the last ended token that it accepted.
    pub fn last_accepted_sent(&self) -> Vec<i64> {
        let seats = 0..self.tracks[0].seats.len();
        let last = |seat: usize| self.victims().map(|track| track.seats[seat].last_accepted_sent_us.load(SeqCst)).max();
        seats.map(|seat| last(seat).unwrap()).collect()
    }

    /// How often the ended tokens were accepted, in all.
    pub fn accepted(&self) -> u64 {
        self.victims().flat_map(|track| &track.seats).map(|seat| seat.accepted.load(SeqCst)).sum()
    }
    /// How often they were refused.
    pub fn refused(&self) -> u64 {
        self.victims().flat_map(|track| &track.seats).map(|seat| seat.refused.load(SeqCst)).sum()
    }

    fn assert_even(&self, kind: &str) {
        if let Some(odd) = &*self.odd.lock().unwrap() {
            panic!("{kind}: {odd}");
        }
    }
}

/// That many in all, and some everywhere.
fn enough(counts: impl Iterator<Item = u64>, many: u64) -> bool {
    let (sum, least) = counts.fold((0, u64::MAX), |(sum, least), count| (sum + count, least.min(count)));
    sum >= many && least > 0
}

/// The judging, under way.
pub struct Watch {
    seen: Arc<Seen>,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Starts. Every verifier keeps one seat.
    pub fn start(verifiers: &[Verifier], demos: &[Demo], victims: Vec<String>, spared: Vec<String>) -> Self {
        let seats = verifiers.len() + demos.len();
        let track = |token, spared| Track { token, spared, seats: (0..seats).map(|_| Seat::default()).collect() };
        let victims = victims.into_iter().map(|token| track(token, false));
        let tracks = victims.chain(spared.into_iter().map(|token| track(token, true))).collect();
        let seen = Arc::new(Seen { tracks, odd: Mutex::default(), stop: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        let numbered: Vec<_> = verifiers.iter().cloned().enumerate().collect();
        for some in numbered.chunks(verifiers.len().div_ceil(JUDGES)) {
            tasks.spawn(judge(some.to_vec(), seen.clone()));
        }
        for (n, demo) in demos.iter().enumerate() {
            tasks.spawn(call(verifiers.len() + n, demo.address, seen.clone()));
        }
        Self { seen, tasks }
    }

    /// Waits until this has been seen.
    pub async fn until(&self, kind: &str, enough: impl Fn(&Seen) -> bool) {
        let wait = async {
            while !enough(&self.seen) {
                self.seen.assert_even(kind);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, wait).await;
        self.seen.assert_even(kind);
        done.unwrap_or_else(|_| panic!("{kind}: {} accepted, {} refused", self.seen.accepted(), self.seen.refused()));
    }

    /// Stops; what was seen in all.
    pub async fn finish(mut self, kind: &str) -> Arc<Seen> {
        self.seen.stop.store(true, SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.seen.assert_even(kind);
        self.seen
    }
}

/// Verifiers of this process.
async fn judge(verifiers: Vec<(usize, Verifier)>, seen: Arc<Seen>) {
    let rule = Rule::default();
    while !seen.stop.load(SeqCst) {
        for (seat, verifier) in &verifiers {
            for track in &seen.tracks {
                let sent_us = mono_us();
                let verdict = verifier.verify(&track.token, &rule).await;
                let outcome = verdict.as_ref().map(|_| ()).map_err(|refusal| Code::as_str(refusal.code()));
                seen.note(track, *seat, sent_us, outcome);
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A demo API, over one connection.
async fn call(seat: usize, to: SocketAddr, seen: Arc<Seen>) {
    let mut connection = Kept::open(to).await.unwrap();
    while !seen.stop.load(SeqCst) {
        for track in &seen.tracks {
            let sent_us = mono_us();
            let answer = connection.call("GET", "/whoami", Some(&track.token), None).await.unwrap();
            let outcome = if answer.status == 200 { Ok(()) } else { Err(answer.code()) };
            seen.note(track, seat, sent_us, outcome);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

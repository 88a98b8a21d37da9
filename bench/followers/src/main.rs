//! Many verifiers in one process, and when each of them had applied what: for `cargo xtask bench cluster`.
//!
//! Each is a real one, with the feed client that services embed, an instance, a stream and leases of its own; only no service
//! stands behind it. What is written down is when a task that waits for the verifier saw that its verdicts rest on a position:
//! by the machine's `CLOCK_MONOTONIC`, which other processes of the same machine can read.
//!
//! Usage: `portcullis-followers COUNT ISSUER CLIENT_ID FEED_URL…`, the secret in `PORTCULLIS_CLIENT_SECRET`. The verifiers are
//! spread over the addresses. It prints `ready` when all are fresh. Then each line of standard input names positions, and is
//! answered by one line for each: the position, and for each verifier the microseconds at which it was applied, `-` where it
//! was not within ten seconds. It ends with its input.
use portcullis_tower::wire::Rev;
use portcullis_tower::{Config, Verifier};
use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All are fresh within this, or something is wrong.
const FRESH_LIMIT: Duration = Duration::from_secs(120);
/// A position is applied within this, or it counts as not applied.
const APPLIED_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks, when nothing comes.
const LOOK: Duration = Duration::from_secs(600);

type Fault = Box<dyn Error + Send + Sync>;

/// A verifier, and what it had applied when, ascending.
struct Followed {
    verifier: Verifier,
    applied: Arc<Mutex<Vec<(Rev, i64)>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, issuer, client, feeds @ ..] = arguments.as_slice() else {
        return Err("usage: portcullis-followers COUNT ISSUER CLIENT_ID FEED_URL…".into());
    };
    let secret = std::env::var("PORTCULLIS_CLIENT_SECRET")?;
    // One for all, with nobody that is trusted: nothing is encrypted here, and each would have the public authorities in memory.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty());
    let (tls, mut all) = (Arc::new(tls.with_no_client_auth()), Vec::new());
    for (n, feed) in (0..count.parse::<usize>()?).zip(feeds.iter().cycle()) {
        let config = Config::new(issuer.as_str(), issuer.as_str(), client.as_str(), secret.as_str());
        let config = config.tls(tls.clone());
        all.push(follow(config.feed_url(feed.as_str()).name(format!("follower-{n}")))?);
    }
    for one in &all {
        if !one.verifier.wait_fresh(FRESH_LIMIT).await {
            return Err("a verifier does not get fresh".into());
        }
    }
    let (say, mut said) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| say.blocking_send(line))
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    while let Some(line) = said.recv().await {
        for rev in line.split_whitespace() {
            let rev = Rev(rev.parse()?);
            let mut answer = rev.to_string();
            for one in &all {
                answer += &one.applied_at(rev).await.map_or(" -".to_owned(), |at| format!(" {at}"));
            }
            writeln!(out, "{answer}")?;
        }
        out.flush()?;
    }
    Ok(())
}

fn follow(config: Config) -> Result<Followed, Fault> {
    let (verifier, applied) = (Verifier::start(config)?, Arc::new(Mutex::new(Vec::new())));
    let (followed, record) = (verifier.clone(), applied.clone());
    tokio::spawn(async move {
        let mut next = Rev(1);
        loop {
            if followed.wait_applied(next, LOOK).await {
                let at = now_us();
                let applied = followed.readiness().applied;
                locked(&record).push((applied, at));
                next = Rev(applied.0 + 1);
            }
        }
    });
    Ok(Followed { verifier, applied })
}

impl Followed {
    /// When `rev` was applied.
    async fn applied_at(&self, rev: Rev) -> Option<i64> {
        if !self.verifier.wait_applied(rev, APPLIED_LIMIT).await {
            return None;
        }
        for _ in 0..1000 {
            let at = self.written_down(rev);
            if at.is_some() {
                return at;
            }
            tokio::task::yield_now().await; // the verifier knows it, the task that writes it down was not there yet
        }
        None
    }

    fn written_down(&self, rev: Rev) -> Option<i64> {
        let records = locked(&self.applied);
        let index = records.partition_point(|(applied, _)| *applied < rev);
        records.get(index).map(|(_, at)| *at)
    }
}

fn locked(records: &Mutex<Vec<(Rev, i64)>>) -> MutexGuard<'_, Vec<(Rev, i64)>> {
    records.lock().unwrap_or_else(PoisonError::into_inner) // each change is one push
}

/// Microseconds of the machine's monotonic clock.
fn now_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

//! The times of a verifier. Everything is measured in turns, round by round, and the figures of a round are printed as one line of JSON.
//!
//! Usage:
//! - `portcullis-verifying measure ROUNDS [LIVE]`: among so many live entries (1,000,000 unless told)
//! - `portcullis-verifying repeat LIVE TIMES`: shows 1,000 tokens again and again, for profilers
//! - `portcullis-verifying token FOLDER`: writes a token and its key for others (`token.json`)
//! - `portcullis-verifying first FOLDER SECONDS`: verifies that token again and again, as if it had never been seen; prints how often per second of processor time
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: it has clocks and says what they show"
)]
use arc_swap::ArcSwap;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use http::{HeaderMap, HeaderValue, header};
use portcullis_feed::knowledge::{Anchor, Lease};
use portcullis_feed::{Knowledge, Mono, Policy, RevokedSet, Subject};
use portcullis_tower::{Config, Rule, Verifier};
use portcullis_verify::{Decision, Expect, Holder, Keys, View, authenticate, judge};
use portcullis_verifying::feed::{Feed, SET_LIMIT, entry, wall_ms};
use portcullis_verifying::tokens::{AUDIENCE, ISSUER, Signer, claims};
use portcullis_verifying::{Fault, Seeded, median_of, onto, thread_s};
use portcullis_wire::jws::{Compact, Jwk};
use portcullis_wire::{Rev, Time};
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Tokens that are shown again and again.
const HOT: usize = 1000;
/// Tokens that are shown at random.
const MANY: usize = 100_000;
/// Of the cache.
const SLOTS: usize = 1 << 19;
/// Entries per second of a busy feed.
const RATE: u64 = 10_000;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", rounds] => measure(rounds.parse()?, 1_000_000),
        ["measure", rounds, live] => measure(rounds.parse()?, live.parse()?),
        ["token", folder] => token(Path::new(folder)),
        ["repeat", live, times] => repeat(live.parse()?, times.parse()?),
        ["first", folder, seconds] => first(Path::new(folder), seconds.parse()?),
        _ => Err("usage: portcullis-verifying measure ROUNDS [LIVE] | repeat LIVE TIMES | token FOLDER | first FOLDER SECONDS".into()),
    }
}

/// For profilers, and for who counts allocations.
fn repeat(live: usize, times: usize) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = Bench::new(live, HOT, &Signer::new()?, &runtime)?;
    for token in bench.tokens.iter().cycle().take(times) {
        if !passes(&bench.verifier, black_box(token), &bench.rule) {
            return Err("a good token is refused".into());
        }
    }
    runtime.shutdown_background();
    Ok(())
}

/// Whether a request with this token passes, by the path that a request takes.
fn passes(verifier: &Verifier, token: &str, rule: &Rule) -> bool {
    let judged = pin!(verifier.verify(token, rule));
    matches!(judged.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(verified)) if verified.is_proven())
}

fn passes_headers(verifier: &Verifier, headers: &HeaderMap, rule: &Rule) -> bool {
    let judged = pin!(verifier.verify_headers(headers, rule));
    matches!(judged.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(verified)) if verified.is_proven())
}

/// A set with so many live entries.
fn set_of(live: usize) -> RevokedSet {
    let (mut set, mut chance, until) = (RevokedSet::with_limit(SET_LIMIT), Seeded(3), Time(wall_ms() + 7_200_000));
    for n in 0..live {
        set.apply(&entry(Rev(n as u64 + 1), &mut chance, until), Mono(0));
    }
    set
}

struct Bench {
    verifier: Verifier,
    feed: Feed,
    rule: Rule,
    tokens: Vec<String>,
    headers: Vec<HeaderMap>,
}

impl Bench {
    fn new(live: usize, many: usize, signer: &Signer, runtime: &tokio::runtime::Runtime) -> Result<Self, Fault> {
        let feed = Feed::start(live, signer.jwk()?, 1)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let config = Config::new(feed.issuer(), AUDIENCE, "cli_x", "nobody's").tls(Arc::new(tls));
        let config = config.set_limit(SET_LIMIT).cache(SLOTS);
        let verifier = {
            let _inside = runtime.enter();
            Verifier::start(config)?
        };
        if !runtime.block_on(verifier.wait_fresh(Duration::from_secs(120))) {
            return Err("the verifier does not get fresh".into());
        }
        if verifier.readiness().set_entries < live {
            return Err(format!("{} entries are kept", verifier.readiness().set_entries).into());
        }
        let (issuer, head, now) = (feed.issuer(), feed.head(), wall_ms() / 1000);
        let sign = |n: usize| signer.sign(&claims(&issuer, n as u128, now, head));
        let tokens = (0..many).map(sign).collect::<Result<Vec<_>, _>>()?;
        let headers = tokens.iter().take(HOT).map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            Ok::<_, Fault>(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
        });
        let headers = headers.collect::<Result<Vec<_>, _>>()?;
        let bench = Self { verifier, feed, rule: Rule::default(), tokens, headers };
        // The first sight of each.
        if !bench.tokens.iter().all(|token| passes(&bench.verifier, token, &bench.rule)) {
            return Err("a good token is refused".into());
        }
        Ok(bench)
    }

    fn hot(&self) -> f64 {
        median_of(40, HOT, || {
            for token in &self.tokens[..HOT] {
                black_box(passes(&self.verifier, black_box(token), &self.rule));
            }
        })
    }

    fn hot_headers(&self) -> f64 {
        median_of(40, HOT, || {
            for headers in &self.headers {
                black_box(passes_headers(&self.verifier, black_box(headers), &self.rule));
            }
        })
    }

    fn random(&self, chance: &mut Seeded) -> f64 {
        // Each batch meets others, and the text of a token has just come in with its request, so that it is at hand; the memory of it is not.
        let mut shown = vec![String::new(); 500];
        let mut times = Vec::new();
        for _ in 0..40 {
            for text in &mut shown {
                text.clone_from(&self.tokens[chance.below(MANY)]);
            }
            times.push(median_of(1, shown.len(), || {
                for token in &shown {
                    black_box(passes(&self.verifier, black_box(token), &self.rule));
                }
            }));
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    /// Requests per second of so many threads, each on a core of its own, all with the same tokens.
    fn threads(&self, count: usize) -> f64 {
        const EACH: usize = 100;
        let barrier = Barrier::new(count);
        let rates = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count)
                .map(|core| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        onto(core);
                        barrier.wait();
                        median_of(EACH, HOT, || {
                            for token in &self.tokens[..HOT] {
                                black_box(passes(&self.verifier, black_box(token), &self.rule));
                            }
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().map_or(0.0, |took| 1.0 / took)).collect::<Vec<_>>()
        });
        rates.iter().sum()
    }
}

fn verdicts(set: &ArcSwap<RevokedSet>, subjects: &[Subject], chance: &mut Seeded) -> f64 {
    let order: Vec<usize> = (0..1000).map(|_| chance.below(subjects.len())).collect();
    median_of(40, order.len(), || {
        for n in &order {
            black_box(set.load().verdict(black_box(&subjects[*n]), Mono(1)));
        }
    })
}

/// A set that another thread changes, as often as told.
struct Changed {
    set: Arc<ArcSwap<RevokedSet>>,
    rate: Arc<AtomicU64>,
    applied: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Changed {
    fn new(set: RevokedSet) -> Self {
        let changed = Self {
            set: Arc::new(ArcSwap::from_pointee(set)),
            rate: Arc::default(),
            applied: Arc::default(),
            over: Arc::default(),
        };
        let (set, rate, applied, over) =
            (changed.set.clone(), changed.rate.clone(), changed.applied.clone(), changed.over.clone());
        std::thread::spawn(move || {
            onto(1);
            let (mut chance, until, mut begun) = (Seeded(5), Time(wall_ms() + 7_200_000), Instant::now());
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                let due = begun.elapsed().as_micros() as u64 * rate.load(Ordering::Relaxed) / 1_000_000;
                begun = Instant::now();
                for _ in 0..due {
                    let mut next = RevokedSet::clone(&set.load());
                    let rev = Rev(10_000_000 + applied.fetch_add(1, Ordering::Relaxed));
                    next.apply(&entry(rev, &mut chance, until), Mono(0));
                    set.store(Arc::new(next));
                }
            }
        });
        changed
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn measure(rounds: usize, live: usize) -> Result<(), Fault> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).on_thread_start(|| onto(1)).enable_all().build()?;
    let signer = Signer::new()?;
    let bench = Bench::new(live, MANY, &signer, &runtime)?;
    onto(0);
    let keys = Keys::parse(&[signer.jwk()?]);
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, signer.point())?;
    let parts = bench.tokens.iter().take(HOT).map(|token| {
        let (input, _) = token.rsplit_once('.').unwrap_or_default();
        let compact = Compact::parse(token, portcullis_wire::jws::ACCESS_TOKEN_TYP).map_err(|_| "a bad token")?;
        Ok::<_, Fault>((input, compact.signature))
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let subjects: Vec<Subject> = (0..MANY).map(|n| Subject::of(&claims(ISSUER, n as u128, 0, Rev(0)), None)).collect();
    let (small, large) = (Changed::new(set_of(live / 10)), Changed::new(set_of(live)));
    let mut chance = Seeded(11);
    for round in 0..=rounds {
        let mut said = Map::new();
        let mut say = |name: &str, value: f64| said.insert(name.to_owned(), json!(value));
        let from = round * 100 % HOT;
        let some = from..from + 100;
        say(
            "bare",
            median_of(5, some.len(), || {
                for (input, signature) in &parts[some.clone()] {
                    black_box(parsed.verify_sig(black_box(input).as_bytes(), signature).is_ok());
                }
            }),
        );
        say(
            "authenticate",
            median_of(5, some.len(), || {
                for token in &bench.tokens[some.clone()] {
                    black_box(authenticate(&keys, black_box(token)).is_ok());
                }
            }),
        );
        say("hot", bench.hot());
        say("hot_headers", bench.hot_headers());
        say("random", bench.random(&mut chance));
        say("set_small", verdicts(&small.set, &subjects, &mut chance));
        say("set_large", verdicts(&large.set, &subjects, &mut chance));
        say("one_thread", bench.threads(1));
        say("two_threads", bench.threads(2));
        onto(0);
        let before = bench.feed.head();
        let begun = Instant::now();
        bench.feed.rate(RATE);
        std::thread::sleep(Duration::from_millis(20));
        say("hot_busy", bench.hot());
        say("random_busy", bench.random(&mut chance));
        std::thread::sleep(Duration::from_millis(100));
        let applied = runtime.block_on(bench.verifier.wait_applied(before, Duration::from_secs(10)));
        say("fed_per_s", (bench.feed.head().0 - before.0) as f64 / begun.elapsed().as_secs_f64());
        bench.feed.rate(0);
        if !applied || !runtime.block_on(bench.verifier.wait_applied(bench.feed.head(), Duration::from_secs(10))) {
            return Err("the feed is not applied as fast as it is sent".into());
        }
        let (begun, before) = (Instant::now(), large.applied.load(Ordering::Relaxed));
        for changed in [&small, &large] {
            changed.rate.store(RATE, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(20));
        say("set_small_busy", verdicts(&small.set, &subjects, &mut chance));
        say("set_large_busy", verdicts(&large.set, &subjects, &mut chance));
        std::thread::sleep(Duration::from_millis(50));
        let changes = large.applied.load(Ordering::Relaxed) - before;
        say("changed_per_s", changes as f64 / begun.elapsed().as_secs_f64());
        for changed in [&small, &large] {
            changed.rate.store(0, Ordering::Relaxed);
        }
        // The first warms up.
        if round > 0 {
            println!("{}", Value::Object(said));
        }
    }
    runtime.shutdown_background();
    Ok(())
}

fn token(folder: &Path) -> Result<(), Fault> {
    let signer = Signer::new()?;
    let token = signer.sign(&claims(ISSUER, 1, wall_ms() / 1000, Rev(1)))?;
    let jwk = signer.jwk()?;
    let said = json!({ "token": token, "jwk": jwk, "issuer": ISSUER, "audience": AUDIENCE });
    Ok(std::fs::write(folder.join("token.json"), said.to_string())?)
}

fn first(folder: &Path, seconds: f64) -> Result<(), Fault> {
    let said: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("token.json"))?)?;
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let jwk: Jwk = serde_json::from_value(said["jwk"].clone())?;
    let now = wall_ms();
    let mut known = Knowledge::nothing(set_of(1000));
    let anchor = Anchor { time: Time(now), at: Mono(0) };
    (known.synced, known.applied, known.max_life_s) = (true, Rev(1000), 3600);
    (known.keys, known.time) = (Arc::new(vec![jwk]), Some(anchor));
    known.lease = Some(Lease { from: Mono(0), until: Mono(600_000), wall: anchor, tolerance_ms: 1000 });
    let view = View::new(known);
    let expect = Expect { issuer: text("issuer"), audience: text("audience") };
    let token = text("token");
    let (begun, mut count) = (thread_s(), 0_u64);
    while thread_s() - begun < seconds {
        for _ in 0..100 {
            let (verdict, _) =
                judge(&view, black_box(&token), &Holder::Bearer, &expect, Policy::Closed, Mono(0), Time(now));
            if verdict.decision != Decision::Accept {
                return Err(format!("refused: {verdict:?}").into());
            }
        }
        count += 100;
    }
    println!("{}", json!({ "per_s": count as f64 / (thread_s() - begun) }));
    Ok(())
}

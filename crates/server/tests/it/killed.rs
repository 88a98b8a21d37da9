//! kill -9 at any moment: it costs nobody a session (I6), takes back nothing that was answered (I9), and verifiers that live
//! through it neither accept what was ended (I1) nor need a hand to go on.
mod deeds;
mod journal;

use crate::kept::{Kept, Session, insist, refresh, serve, sign_in, sign_up, turn, verifier};
use crate::support::{ADMIN, Dir, PATIENCE, Server};
use deeds::Deeds;
use journal::{Doomed, Ended, Journal, Life, judge};
use portcullis_app::keys::MasterKey;
use portcullis_app::real;
use portcullis_domain::Chance as _;
use portcullis_domain::audit::{self, Place};
use portcullis_domain::family::Presented;
use portcullis_store::{ChainRead, Store as _};
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_testkit::lasting_address;
use portcullis_tower::wire::{Code, LogId, Rev, SecretString};
use portcullis_tower::{Rule, Verifier};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// At least so many kills (`cargo xtask soak kills` asks for more), and until so many refreshes were committed without their
/// answer.
const ROUNDS: usize = 15;
const ASKED: &str = "PORTCULLIS_TEST_KILLS";
const UNHEARD: usize = 3;
const MOST_ROUNDS: usize = 80;
const CHAINS: usize = 6;
/// Every so many rounds the server stays away until no verifier is fresh.
const LONG_AWAY: usize = 5;
/// A short bound, so that it passes in the test. The rest: nothing here may depend on how long a restart takes.
const SETTINGS: [&str; 6] = ["--bound", "2s", "--retry-window", "5m", "--access-ttl", "30m"];
const BOUND_US: i64 = 2_000_000;

/// A client that refreshes again and again, and keeps the last token whose answer it got.
struct Chain {
    sid: String,
    /// Its first access token: lives as long as the session.
    access: String,
    refresh: String,
    refreshed: u64,
}

impl Chain {
    fn take(&mut self, next: Session) {
        assert_eq!(next.sid, self.sid, "a refresh gave another session");
        self.refresh = next.refresh;
        self.refreshed += 1;
    }

    /// Until told to stop. Whatever is no answer, or says that the server cannot answer now, changes nothing.
    async fn run(mut self, to: SocketAddr, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(SeqCst) {
            let Ok(mut connection) = Kept::open(to).await else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            while !stop.load(SeqCst) {
                let body = json!({ "refresh_token": self.refresh });
                match connection.call("POST", "/v1/sessions/refresh", None, Some(&body)).await {
                    Ok(answer) if answer.status == 200 => self.take(Session::from(&answer)),
                    Ok(answer) => assert_eq!(answer.status, 503, "a session was lost: {}", answer.body),
                    Err(_) => break,
                }
            }
        }
        self
    }
}

/// What the round's clients came to.
struct Played {
    chains: Vec<Chain>,
    /// Calls to end something that were never answered.
    unknown: Vec<Doomed>,
    /// The answer to the last refresh of the first chain, which that chain never saw.
    lost: Session,
    deeds: Deeds,
}

/// All clients at once, and the kill.
async fn play(
    server: &mut Server,
    chains: Vec<Chain>,
    doomed: Vec<Doomed>,
    deeds: Deeds,
    journal: &Arc<Journal>,
) -> Played {
    let to = server.address;
    let stop = Arc::new(AtomicBool::new(false));
    let unlucky = chains[0].refresh.clone();
    let mut chains = chains.into_iter();
    let first = chains.next().unwrap();
    let running: Vec<_> = chains.map(|chain| tokio::spawn(chain.run(to, stop.clone()))).collect();
    let ending = tokio::spawn(journal.clone().end_all(doomed, to, stop.clone()));
    let deeds = tokio::spawn(deeds.run(to, stop.clone()));
    let moment = Duration::from_micros(u64::try_from(real::RealChance.bits() % 250_000).unwrap());
    tokio::time::sleep(moment).await;
    // This answer reached the client's machine, but not the client.
    let lost = Session::from(&refresh(to, &unlucky).await.must(200));
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.ended().await, None, "killed by the signal");
    stop.store(true, SeqCst);
    let mut back = vec![first];
    for chain in running {
        back.push(chain.await.unwrap());
    }
    Played { chains: back, unknown: ending.await.unwrap(), lost, deeds: deeds.await.unwrap() }
}

/// Looks into a copy of the database, as the killed server left it: how many refreshes were committed unheard. None that a
/// client heard of may be missing, and the log and its records are whole.
async fn unheard(dir: &Dir, chains: &[Chain], deeds: &mut Deeds) -> usize {
    let copy = dir.path("copy");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir(&copy).unwrap();
    for name in ["portcullis.db", "portcullis.db-wal"] {
        std::fs::copy(dir.path("data").join(name), copy.join(name)).unwrap();
    }
    let options = OpenOptions::new(LogId::from_bits(0), Arc::new(real::wall));
    let store = SqliteStore::open(&copy.join("portcullis.db"), options).unwrap();
    deeds.check(&store).await;
    the_audit_is_whole(&store, dir).await;
    let mut count = 0;
    for chain in chains {
        let known = Presented::parse(&SecretString::new(&*chain.refresh)).unwrap();
        let row = store.load_refresh(known.grant()).await.unwrap().unwrap();
        let ahead = row.grant.family.counter.checked_sub(known.counter()).expect("an answered refresh was lost");
        assert!(ahead <= 1, "one client, and {ahead} refreshes beyond what it heard");
        count += usize::from(ahead > 0);
    }
    count
}

/// The chain over audit records is whole, wherever in a seal the kill came.
async fn the_audit_is_whole(store: &SqliteStore, dir: &Dir) {
    let text = std::fs::read_to_string(dir.path("data").join("master.key")).unwrap();
    let master = MasterKey::parse(&SecretString::new(text)).unwrap();
    let log = store.stamp().await.unwrap().log;
    let (mut from, mut sealed) = (None, 0);
    loop {
        let place: Option<Place> = from;
        let read = store.read_chain(place.map(|place| place.n), audit::PAGE).await.unwrap();
        let ChainRead { chain, rows } = read.expect("it was begun");
        let key = master.open_audit_key(&chain, log).unwrap();
        let last = rows.len() < audit::PAGE as usize;
        let page = audit::Page { log, chain: &chain, from, known: None, rows: &rows, last };
        let checked = audit::check(&key, &page);
        assert_eq!(checked.findings, [], "killed, and the chain is broken");
        (from, sealed) = (Some(checked.to), sealed + checked.records);
        if last {
            break;
        }
    }
    let all = store.count_rows().await.unwrap().events;
    let waiting = store.count_unsealed().await.unwrap().count;
    assert_eq!(sealed + waiting, all);
    assert!(sealed > 0, "nothing was ever sealed");
}

/// Sessions to be ended in the next round: some sign out, the accounts of others are blocked.
async fn doomed(to: SocketAddr, admin: &Session, round: usize) -> Vec<Doomed> {
    let mut out = Vec::new();
    // Fewer than 64 of one account, beyond which verifiers keep one `stale` of the whole account (DESIGN §4.3).
    let email = sign_up(to, &format!("leaving.{round}")).await;
    for n in 0..24 {
        let one = sign_in(to, &email).await;
        out.push(Doomed::sign_out(one));
        if n % 8 == 0 {
            let email = sign_up(to, &format!("blocked.{round}.{n}")).await;
            let both = vec![sign_in(to, &email).await, sign_in(to, &email).await];
            out.push(Doomed::block(both, admin));
        }
    }
    out
}

/// Both verifiers know everything that was ever answered, and say so of every token.
async fn caught_up(verifiers: &[Verifier], journal: &Journal, chains: &[Chain]) {
    let (newest, ended) = (journal.newest(), journal.ended());
    let rule = Rule::default();
    for verifier in verifiers {
        let wait = async {
            while !(verifier.is_fresh() && verifier.readiness().applied >= Rev(newest)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("not fresh again without a hand: {:?}", verifier.readiness()));
        for one in &ended {
            let verdict = verifier.verify(&one.access, &rule).await;
            assert!(
                verdict.is_err_and(|refusal| refusal.code() == Code::TokenRevoked),
                "an ended token is not revoked"
            );
        }
        for chain in chains {
            let verdict = verifier.verify(&chain.access, &rule).await;
            assert!(
                verdict.as_ref().map_or_else(|refusal| refusal.code() == Code::NotFresh, |_| true),
                "a living session is refused: {verdict:?}"
            );
        }
    }
}

/// What was ended before the kill is ended after it, at the server itself.
async fn still_ended(to: SocketAddr, ended: &[Ended]) {
    for one in ended {
        let gone = insist(to, "GET", "/v1/me", Some(&one.access), None).await.must(401);
        assert_eq!(gone.code(), "token_revoked");
        let gone = refresh(to, &one.refresh).await;
        assert!(["session_ended", "account_blocked"].contains(&gone.code()), "{} {}", gone.status, gone.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_costs_nobody_a_session_and_brings_nothing_back() {
    let _turn = turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let mut server = serve(&dir, at, &SETTINGS).await;
    let client = Server::verifier_client(&dir);
    let verifiers: Vec<_> = (0..2).map(|n| verifier(at, &client, &format!("library {n}"))).collect();
    let admin = sign_in(at, ADMIN.0).await;
    let email = sign_up(at, "alice").await;
    let mut chains = Vec::new();
    for _ in 0..CHAINS {
        let Session { sid, access, refresh, .. } = sign_in(at, &email).await;
        chains.push(Chain { sid, access, refresh, refreshed: 0 });
    }
    let journal = Arc::new(Journal::default());
    let mut deeds = Deeds::new(&admin);
    let living = chains.iter().map(|chain| chain.access.clone()).collect();
    let life = Life::new(journal.clone(), living, BOUND_US);
    let judging: Vec<_> = verifiers.iter().map(|one| tokio::spawn(judge(one.clone(), life.clone()))).collect();

    let asked = std::env::var(ASKED).map(|text| text.parse().expect("PORTCULLIS_TEST_KILLS is a number"));
    let least: usize = asked.unwrap_or(ROUNDS);
    let (mut rounds, mut unheard_in_all, mut repeated) = (0, 0, 0);
    while rounds < least || (unheard_in_all < UNHEARD && rounds < MOST_ROUNDS) {
        rounds += 1;
        let before = journal.ended().len();
        let doomed = doomed(at, &admin, rounds).await;
        let played = play(&mut server, chains, doomed, deeds, &journal).await;
        deeds = played.deeds;
        // The first chain is unheard by construction; those that count are the others.
        unheard_in_all += unheard(&dir, &played.chains, &mut deeds).await - 1;
        if rounds % LONG_AWAY == 0 {
            for verifier in &verifiers {
                while verifier.is_fresh() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let refusal = verifier.verify(&admin.access, &Rule::default()).await.unwrap_err();
                assert_eq!(refusal.code(), Code::NotFresh);
            }
        }
        drop(server);
        server = serve(&dir, at, &SETTINGS).await;

        chains = played.chains;
        let same = Session::from(&refresh(at, &chains[0].refresh).await.must(200));
        assert_eq!(same.refresh, played.lost.refresh, "another successor than the one whose answer was lost");
        for chain in &mut chains {
            for _ in 0..2 {
                let next = refresh(at, &chain.refresh).await;
                assert_eq!(next.status, 200, "a session was lost in round {rounds}: {}", next.body);
                chain.take(Session::from(&next));
            }
            insist(at, "GET", "/v1/me", Some(&chain.access), None).await.must(200);
        }
        still_ended(at, &journal.ended()[before..]).await;
        // Who does not know calls again, and is told.
        deeds.repeat(at).await;
        repeated += played.unknown.len();
        journal.repeat(played.unknown, at).await;
        still_ended(at, &journal.ended()[before..]).await;
        caught_up(&verifiers, &journal, &chains).await;
    }
    life.stop();
    for task in judging {
        task.await.unwrap();
    }
    let seen = life.seen();
    let refreshed: u64 = chains.iter().map(|chain| chain.refreshed).sum();
    eprintln!(
        "{rounds} kills: {refreshed} refreshes in {CHAINS} chains, {rounds} answers lost on the way and {unheard_in_all} \
         commits that died before their answer; {} sessions ended, {repeated} calls repeated; {} acts of an administrator, {} \
         repeated of which {} were done already; verdicts: {seen}",
        journal.ended().len(),
        deeds.done(),
        deeds.repeated,
        deeds.found
    );
    assert!(unheard_in_all >= UNHEARD, "no kill fell between commit and answer");
    assert!(journal.ended().len() > rounds, "hardly anything was ended");
    assert!(seen.not_fresh > 0 && seen.revoked > 0 && seen.living > 0, "{seen}");
}

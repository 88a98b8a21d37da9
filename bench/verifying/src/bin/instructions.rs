//! The pure hot paths, each by itself and so many times, for counting instructions: run with a count and without, the difference is what they cost.
//! `cargo xtask bench instructions` does that. No clock is looked at, and each run does the same.
//!
//! Usage: `portcullis-instructions PATH COUNT`; without arguments, it prints the paths.
#![allow(clippy::print_stdout, reason = "a measurement")]
use portcullis_domain::family::{Family, MacKey};
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::view::{RefreshView, Stamp};
use portcullis_domain::{Chance, Cut, Rules, amr::Amr, issue, refresh};
use portcullis_feed::knowledge::{Anchor, Lease};
use portcullis_feed::{Knowledge, Mono, Policy, RevokedSet, set};
use portcullis_verify::{Authentic, Cache, Decision, Expect, Holder, Keys, Reason, View, authenticate, judge_claims};
use portcullis_verifying::feed::entry;
use portcullis_verifying::tokens::{AUDIENCE, ISSUER, claims};
use portcullis_verifying::{Fault, Seeded};
use portcullis_wire::frame::Entries;
use portcullis_wire::jws::{ACCESS_TOKEN_TYP, Algorithm, Compact, signing_input};
use portcullis_wire::{
    AccessClaims, AccountId, Chain, ClientId, Epoch, GrantId, KeyId, LogId, Rev, SecretBytes, SessionId, Time,
};
use std::hint::black_box;
use std::sync::Arc;

const NOW: Time = Time(1_800_000_000_000);
/// Live entries of the sets that are looked into.
const LIVE: usize = 100_000;
/// Tokens that are judged in turn.
const TOKENS: usize = 64;

type Path = fn(u64) -> Result<(), Fault>;

const PATHS: &[(&str, Path)] = &[
    ("parse", parse),
    ("unknown-key", unknown_key),
    ("judge", judged),
    ("repeat", repeated),
    ("set", in_set),
    ("refresh", refreshed),
    ("issue", issued),
    ("feed-encode", encoded),
    ("feed-apply", applied),
];

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = arguments.as_slice() else {
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let path = PATHS.iter().find(|(known, _)| known == name).ok_or("no such path")?.1;
    path(count.parse()?)
}

fn sample(n: usize) -> AccessClaims {
    claims(ISSUER, n as u128, NOW.secs(), Rev(LIVE as u64))
}

/// As a token has it; the signature is as long as a real one, and nobody's.
fn text(n: usize) -> Result<String, Fault> {
    let input = signing_input(Algorithm::Es256, KeyId(1), ACCESS_TOKEN_TYP, &sample(n))?;
    Ok(format!("{input}.{}{n:A>20}{}", "A".repeat(40), "A".repeat(26)))
}

fn wrong(what: &str) -> Fault {
    format!("not as it should be: {what}").into()
}

/// A token taken apart and its claims read: all of its first sight but the signature, whose code is another on each kind of processor.
fn parse(count: u64) -> Result<(), Fault> {
    let token = text(1)?;
    for _ in 0..count {
        let compact = Compact::parse(black_box(&token), ACCESS_TOKEN_TYP).map_err(|_| wrong("the form"))?;
        let read: AccessClaims = compact.claims().map_err(|_| wrong("the claims"))?;
        black_box(read);
    }
    Ok(())
}

/// `authenticate` as far as the look for the key: what a stranger's token costs.
fn unknown_key(count: u64) -> Result<(), Fault> {
    let (keys, token) = (Keys::default(), text(1)?);
    for _ in 0..count {
        if authenticate(&keys, black_box(&token)) != Err(Reason::UnknownKey) {
            return Err(wrong("a key"));
        }
    }
    Ok(())
}

fn filled(live: usize) -> RevokedSet {
    let (mut set, mut chance) = (RevokedSet::with_limit(1_000_000), Seeded(1));
    for n in 0..live {
        set.apply(&entry(Rev(n as u64 + 1), &mut chance, NOW.plus(3_600_000)), Mono(0));
    }
    set
}

/// A view that is fresh, with the live entries.
fn fresh() -> View {
    let mut known = Knowledge::nothing(filled(LIVE));
    let anchor = Anchor { time: NOW, at: Mono(0) };
    (known.synced, known.applied, known.max_life_s, known.time) = (true, Rev(LIVE as u64), 3600, Some(anchor));
    known.lease = Some(Lease { from: Mono(0), until: Mono(60_000), wall: anchor, tolerance_ms: 1000 });
    View::new(known)
}

fn accepted(view: &View, token: &Authentic, expect: &Expect) -> Result<(), Fault> {
    let verdict = judge_claims(view, black_box(token), &Holder::Bearer, expect, Policy::Closed, Mono(1), NOW.plus(1));
    if verdict.decision == Decision::Accept { Ok(()) } else { Err(wrong("the verdict")) }
}

fn known(n: usize) -> Authentic {
    Authentic::insecure_without_signature(sample(n), Some(KeyId(1)))
}

/// The judgement of a token whose signature is known already, fresh, among the live entries.
fn judged(count: u64) -> Result<(), Fault> {
    let (view, expect) = (fresh(), Expect { issuer: ISSUER.into(), audience: AUDIENCE.into() });
    let tokens: Vec<Authentic> = (0..TOKENS).map(known).collect();
    for (token, _) in tokens.iter().cycle().zip(0..count) {
        accepted(&view, token, &expect)?;
    }
    Ok(())
}

/// All of a token that was seen before: it is found by its text, and judged.
fn repeated(count: u64) -> Result<(), Fault> {
    let (view, expect) = (fresh(), Expect { issuer: ISSUER.into(), audience: AUDIENCE.into() });
    let cache = Cache::new(TOKENS * 8);
    let texts = (0..TOKENS).map(text).collect::<Result<Vec<_>, _>>()?;
    for (n, text) in texts.iter().enumerate() {
        cache.insert_without_signature(text, Arc::new(known(n)));
    }
    for (text, _) in texts.iter().cycle().zip(0..count) {
        match cache.authenticate(&view.keys, black_box(text)) {
            Ok((token, true)) => accepted(&view, &token, &expect)?,
            _ => return Err(wrong("the cache")),
        }
    }
    Ok(())
}

/// The revoked set alone.
fn in_set(count: u64) -> Result<(), Fault> {
    let (set, tokens) = (filled(LIVE), (0..TOKENS).map(sample).collect::<Vec<_>>());
    for (claims, _) in tokens.iter().cycle().zip(0..count) {
        if set.verdict_of(black_box(claims), Some(KeyId(1)), Mono(1)) != set::Verdict::Live {
            return Err(wrong("the set"));
        }
    }
    Ok(())
}

struct Dice(Seeded);

impl Chance for Dice {
    fn bits(&mut self) -> u128 {
        self.0.bits()
    }
}

fn rules() -> Rules {
    Rules {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        access_ttl: 300_000,
        longest_ttl: 300_000,
        idle_ttl: 30 * 86_400_000,
        absolute_ttl: 90 * 86_400_000,
        retry_window: 10_000,
        late_retry: 86_400_000,
        late_retry_at_home: 14 * 86_400_000,
        require_verified_email: false,
    }
}

/// One snapshot's rows of a grant whose token was handed out an hour ago.
fn view() -> RefreshView {
    let log = LogId::from_bits(1);
    let made = NOW.minus(3_600_000);
    let stamp = Stamp {
        log,
        epoch: Epoch(1),
        head: Rev(10),
        chain: Chain::genesis(log),
        horizon: NOW.plus(3_600_000),
        floor: NOW.minus(10_000),
        all: Cut::default(),
        worked_off: Rev::ZERO,
        now: NOW,
    };
    let account = Account {
        id: AccountId::from_bits(1),
        email: Some("ada@example.org".into()),
        name: None,
        password_hash: None,
        password_version: 1,
        email_verified_at: None,
        roles: vec![],
        status: Status::Active,
        created_at: Time(0),
        cut: Cut::default(),
        version: 1,
    };
    let session = Session {
        id: SessionId::from_bits(2),
        account: account.id,
        kind: SessionKind::App,
        client: None,
        device_name: "a phone".into(),
        agent: portcullis_domain::device::family(Some("curl/8")),
        ip: None,
        created_at: made,
        auth_time: made,
        amr: Amr::default(),
        last_seen_at: made,
        absolute_expires_at: made.plus(rules().absolute_ttl),
        born: Rev(10),
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(3),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        born: Rev(10),
        proof: None,
        network: None,
        family: Family::new([7; 32], KeyId(3), Epoch(1), made),
        ended: None,
    };
    RefreshView {
        access_ttl: None,
        stamp,
        grant,
        session,
        account,
        client_cut: Cut::default(),
        client_disabled: false,
        refreshed_at: None,
        standing: None,
    }
}

/// The whole decision of a refresh: the token's derivation, the outcome, the claims, the successor, the changes.
fn refreshed(count: u64) -> Result<(), Fault> {
    let key = MacKey::new(KeyId(3), &SecretBytes::new([9u8; 32]));
    let (view, rules, mut chance) = (view(), rules(), Dice(Seeded(4)));
    let token = view.grant.family.current_token(&key, view.grant.id);
    let how = refresh::How {
        cookie: false,
        user_agent: Some("curl/8".into()),
        ip: None,
        client: ClientId::FIRST_PARTY,
        proven: false,
        sender: None,
        at_home: false,
    };
    for _ in 0..count {
        let presented =
            portcullis_domain::family::Presented::parse(black_box(&token)).ok_or_else(|| wrong("a token"))?;
        let decided = refresh::refresh(&view, &presented, &how, &rules, &key, &key, &mut chance);
        black_box(decided.outcome.map_err(|_| wrong("a refusal"))?);
    }
    Ok(())
}

/// Claims, and the text that is signed.
fn issued(count: u64) -> Result<(), Fault> {
    let (view, rules, mut chance) = (view(), rules(), Dice(Seeded(4)));
    for _ in 0..count {
        let claims =
            issue::issue(&view.stamp, &rules, &view.account, &view.session, &view.grant, None, None, &mut chance);
        let claims = claims.map_err(|_| wrong("a refusal"))?;
        black_box(signing_input(Algorithm::Es256, KeyId(1), ACCESS_TOKEN_TYP, &claims)?);
    }
    Ok(())
}

/// An entry's link of the chain, and its frame.
fn encoded(count: u64) -> Result<(), Fault> {
    let (mut chain, mut chance) = (Chain::genesis(LogId::from_bits(1)), Seeded(1));
    for n in 0..count {
        let entry = entry(Rev(n + 1), &mut chance, NOW);
        chain = chain.after(&entry);
        black_box(serde_json::to_string(&Entries { entries: vec![entry], ack: true })?);
    }
    black_box(chain);
    Ok(())
}

/// A frame read, and its entry applied to a set that somebody else holds, too: what is changed is copied.
fn applied(count: u64) -> Result<(), Fault> {
    let (mut set, mut chance) = (filled(LIVE), Seeded(9));
    let entries = vec![entry(Rev(LIVE as u64 + 1), &mut chance, NOW.plus(3_600_000))];
    let mut text = serde_json::to_string(&Entries { entries, ack: false })?;
    for n in 0..count {
        let read: Entries = serde_json::from_str(black_box(&text))?;
        let before = set.clone();
        read.entries.iter().for_each(|entry| set.apply(entry, Mono(0)));
        black_box(before);
        let next = entry(Rev(LIVE as u64 + 2 + n), &mut chance, NOW.plus(3_600_000));
        text = serde_json::to_string(&Entries { entries: vec![next], ack: false })?;
    }
    Ok(())
}

//! From a memory and something that was seen to signals and the memory from then on.
use super::memory::{
    Agent, Country, Kept, MAX_AGENT, MAX_AGENTS, MAX_ECHOES, MAX_FORKS, MAX_LATE, MAX_MOMENTS, MAX_MOVES, MAX_SEEN,
    MAX_SESSIONS, MAX_WRONG, Memory, Move, Net, NetName, Sess, Where, push, secs, where_of,
};
use super::{Act, ExternalKind, Origin, RefreshSeen, Seen, Signals, Spot, Step, What, km_between};
use crate::device::{Build, digest};
use crate::turned::{Turned, is_other_machine, is_other_system, is_unlocked, may_be_update, program, turned};
use alloc::{borrow::Cow, string::String, vec::Vec};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Faster than an airliner, in km/h.
const TOO_FAST: i64 = 1000;
/// And farther than databases of places err.
const FAR: i64 = 500;

/// What this act says, and what is remembered from now on. Clock steps are harmless: what lies in the future is as if it were now.
///
/// What comes back teaches places and devices, since most acts are their owner's. Where the act was refused or ended, commit
/// [`Memory::doubted`] instead.
pub fn observe(memory: &Memory, seen: &Seen) -> (Signals, Memory) {
    let now = secs(seen.at);
    let mut kept = memory.settled(now);
    let as_it_was = kept.clone();
    let mut say = Signals {
        agent: agent_of(seen).into(),
        ok: true,
        reset_age_s: -1,
        session_age_s: -1,
        echoes_after_s: -1,
        fork_abroad_s: -1,
        ..Signals::default()
    };
    (say.act, say.what) = names(seen.act);
    say.first = kept.f.is_none();
    // Who comes by another provider has shown no password.
    let by_password = !matches!(seen.act, Act::Arrive { .. });
    say.refused = by_password && kept.q.is_some();
    say.guesses_account = i64::from(seen.guesses.account);
    say.guesses_prefix = i64::from(seen.guesses.prefix);
    place(&kept, seen, now, &mut say);
    if let (Act::Sighting, Some(id)) = (seen.act, seen.session) {
        sighting(&mut kept, NetName::of(id), seen, now, &mut say);
    } else if let Some(id) = seen.session {
        session(&mut kept, NetName::of(id), seen, now, &mut say);
    } else {
        travel(&kept.w, seen, now, &mut say);
    }
    account(&mut kept, seen, now, &mut say);
    let stays = matches!(seen.act, Act::Refresh(RefreshSeen::Rotated | RefreshSeen::Again))
        && !say.moved
        && !say.turned
        && !say.may_have_turned;
    if stays {
        return (say, Memory { kept: as_it_was });
    }
    if teaches(seen.act) {
        learn(&mut kept, seen, now);
    }
    (say, Memory { kept })
}

fn names(act: Act) -> (Cow<'static, str>, Cow<'static, str>) {
    let (kind, what) = match act {
        Act::SignUp => ("sign_up", ""),
        Act::SignIn { .. } => ("sign_in", ""),
        Act::Arrive { .. } => ("sign_in", "provider"),
        Act::Refresh(RefreshSeen::Rotated) => ("refresh", "rotated"),
        Act::Refresh(RefreshSeen::Again) => ("refresh", "again"),
        Act::Refresh(RefreshSeen::Skipped) => ("refresh", "skipped"),
        Act::Refresh(RefreshSeen::OtherDevice) => ("refresh", "other_device"),
        Act::Refresh(RefreshSeen::Theft) => ("refresh", "theft"),
        Act::Prove { .. } => ("prove", ""),
        Act::Change(What::Password) => ("change", "password"),
        Act::Change(What::Email) => ("change", "email"),
        Act::Change(What::Factor) => ("change", "factor"),
        Act::Change(What::App) => ("change", "app"),
        Act::Change(What::Key) => ("change", "key"),
        Act::Recover(Step::Asked) => ("recover", "asked"),
        Act::Recover(Step::Done) => ("recover", "done"),
        Act::Recover(Step::Denied) => ("recover", "denied"),
        Act::Sighting => ("sighting", ""),
        Act::External(ExternalKind::CredentialLeaked) => ("external", "credential_leaked"),
        Act::External(ExternalKind::DeviceLost) => ("external", "device_lost"),
        Act::External(ExternalKind::Fraud) => ("external", "fraud"),
    };
    (kind.into(), what.into())
}

/// The agent, as long as it is kept.
fn agent_of(seen: &Seen) -> String {
    short(&seen.agent)
}

fn short(agent: &str) -> String {
    agent.chars().filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\' || *c == ' ').take(MAX_AGENT).collect()
}

/// Of a sign-in, whether the browser showed the mark of an earlier one.
fn marked(act: Act) -> Option<bool> {
    match act {
        Act::SignIn { known_device, .. } | Act::Arrive { known_device } => Some(known_device),
        _ => None,
    }
}

/// Whether an act shows where the account's owner is: not what was refused, nor what anybody may do.
fn teaches(act: Act) -> bool {
    match act {
        Act::SignUp | Act::SignIn { .. } | Act::Arrive { .. } | Act::Change(_) => true,
        Act::Refresh(how) => !matches!(how, RefreshSeen::OtherDevice | RefreshSeen::Theft),
        Act::Prove { ok } => ok,
        // What a service says may be made up: it makes nobody at home anywhere.
        Act::Recover(_) | Act::External(_) | Act::Sighting => false,
    }
}

/// What is new about where it comes from, and with what.
fn place(kept: &Kept, seen: &Seen, now: i64, say: &mut Signals) {
    say.known_device = marked(seen.act) == Some(true);
    say.new_device = marked(seen.act) == Some(false) && !say.first;
    say.new_agent = !say.first && !seen.agent.is_empty() && kept.d.iter().all(|one| one.0 != say.agent);
    let Some(from) = &seen.from else { return };
    let country = from.place.country.map(Country);
    say.country = country.map_or(Cow::Borrowed(""), |c| c.0.iter().map(|b| char::from(*b)).collect::<String>().into());
    say.asn = i64::from(from.place.asn.unwrap_or(0));
    // Whoever hides where they are is not at home; nor, where countries and providers are known, in any that is.
    let first = say.first;
    if from.network == Origin::NOWHERE && !first {
        say.new_network = true;
        say.new_provider = kept.n.iter().any(|net| net.2 != 0);
        say.new_country = kept.n.iter().any(|net| net.1.is_some());
        return;
    }
    let known = |is: &dyn Fn(&Net) -> bool| first || kept.n.iter().any(|net| kept.knows(net, now) && is(net));
    say.new_network = !known(&|net| net.0.0 == from.network);
    say.new_provider = from.place.asn.is_some_and(|asn| !known(&|net| net.2 == asn));
    say.new_country = country.is_some_and(|country| {
        let told = first || kept.n.iter().any(|net| net.1.is_some());
        told && !known(&|net| net.1 == Some(country))
    });
}

/// How far and how fast it came from where it was.
fn travel(last: &Option<(Where, i64)>, seen: &Seen, now: i64, say: &mut Signals) {
    let Some(((lat, lon, radius), at)) = last else { return };
    let Some(here) = seen.from.as_ref().and_then(|from| from.place.spot) else { return };
    let there = Spot { lat_udeg: lat.saturating_mul(1000), lon_udeg: lon.saturating_mul(1000), radius_km: *radius };
    let km = i64::from(km_between(there, here));
    // Less than a minute is a minute: clocks and answers are not that exact.
    let took = (now - at).max(MINUTE);
    say.km = km;
    say.kmh = km * HOUR / took;
    say.impossible_travel = say.new_network && km > FAR && say.kmh > TOO_FAST;
}

/// What it says about the session.
fn session(kept: &mut Kept, id: NetName, seen: &Seen, now: i64, say: &mut Signals) {
    let makes = matches!(seen.act, Act::SignUp | Act::SignIn { .. } | Act::Arrive { .. });
    let network = seen.from.as_ref().map(|from| NetName(from.network));
    let at = kept.s.iter().position(|one| one.i == id);
    let mut one = match at {
        Some(at) => kept.s.remove(at),
        None => unknown(id, seen, now, makes, say),
    };
    if let Some(made) = &seen.made {
        one.b = secs(made.at).min(now);
        one.a = short(&made.agent);
    }
    travel(if makes { &kept.w } else { &one.w }, seen, now, say);
    let age = |list: &[i64], span: i64| list.iter().filter(|at| now - **at < span).count() as i64;
    say.session_age_s = if one.f & Sess::MADE == 0 && seen.made.is_none() { -1 } else { now - one.b };
    say.session_new_device = one.f & Sess::DEVICE != 0;
    say.session_new_network = one.f & Sess::NETWORK != 0;
    say.session_new_country = one.f & Sess::COUNTRY != 0;
    say.session_breached = one.f & Sess::BREACHED != 0;
    agents(&one.a, say);
    built(&mut one, seen, now, say);
    // A token that was refused shows no move: the session is where it was.
    let moves = !matches!(seen.act, Act::Refresh(RefreshSeen::OtherDevice | RefreshSeen::Theft));
    let before = one.network();
    say.moved = network.is_some_and(|network| network != before);
    let last = one.m.last().cloned();
    if let (true, true, Some(network)) = (say.moved, moves, network) {
        let asn = seen.from.as_ref().and_then(|from| from.place.asn).unwrap_or(0);
        push(&mut one.m, Move(network, now, asn, say.new_network), MAX_MOVES);
    }
    say.away = one.m.last().is_some_and(|step| step.3 && now - step.1 < DAY);
    (say.hops, say.turns) = (hops(&one.m, now), turns(&one, now));
    match seen.act {
        Act::Refresh(RefreshSeen::Rotated) if say.moved => {
            // What came there was used here: nobody else has it.
            if one.fp.is_some_and(|(there, _)| there == before) {
                (one.fk, one.fp) = (Vec::new(), None);
            }
            if one.np.is_some_and(|(there, here)| network != Some(there) || before != here) {
                (one.n, one.np) = (Vec::new(), None);
            }
        }
        Act::Refresh(RefreshSeen::Again) if say.moved => {
            let here = network.unwrap_or_default();
            echo(&mut one, before, here, now, say);
            echoed(&mut one, last.as_ref(), here, now, say);
        }
        Act::Refresh(RefreshSeen::Skipped) => {
            let here = network.unwrap_or_default();
            push(&mut one.k, (now, here), MAX_LATE);
            let there = last.as_ref().and_then(|last| kept.n.iter().find(|net| net.0 == last.0)?.1);
            let abroad = there.is_some_and(|there| !say.country.is_empty() && there.0 != say.country.as_bytes());
            // Who had been given a token there before was there.
            let went = last.as_ref().filter(|last| last.1 >= token_at(seen));
            let counted = fork(&mut one, went, here, now, say, abroad);
            // Where the account had been before it is not abroad.
            let new =
                |last: &Move| !kept.n.iter().any(|net| net.0 != last.0 && net.1 == there && kept.knows(net, last.1));
            say.fork_abroad_s = last.filter(|last| counted && abroad && new(last)).map_or(-1, |last| now - last.1);
            // Whoever repeats that late got no answer. Two who share the answers always have them.
            one.e.clear();
            (one.n, one.np) = (Vec::new(), None);
        }
        Act::Refresh(RefreshSeen::OtherDevice) => push(&mut one.o, now, MAX_LATE),
        Act::Prove { ok: false } => push(&mut one.p, now, MAX_WRONG),
        _ => {}
    }
    if let Act::Prove { ok } = seen.act {
        say.ok = ok;
    }
    say.echoes = age(&one.e, HOUR);
    say.echoes_after_s = one.es.map_or(-1, |first| (first - one.b).max(0));
    say.forks = age(&one.fk, HOUR);
    say.fork_days = if one.fa { days(&one.fk, now) } else { 0 };
    say.echoed = age(&one.n, HOUR);
    say.other_device_tries = age(&one.o, DAY);
    say.wrong_proofs = age(&one.p, HOUR);
    let mut late: Vec<NetName> = one.k.iter().filter(|(at, _)| now - at < DAY).map(|(_, network)| *network).collect();
    say.late_retries = late.len() as i64;
    late.sort_by_key(|name| name.0);
    late.dedup();
    say.late_networks = late.len() as i64;
    say.replaced = one.r.is_some();
    say.lost_before = kept.x[1].is_some_and(|told| now - told < 30 * DAY && told >= one.b && !makes);
    one.l = now;
    if let (true, Some(spot)) = (moves && (say.moved || one.w.is_none()), seen.from.as_ref().and_then(where_of)) {
        one.w = Some((spot, now));
    }
    if let (Some(true), Some(network)) = (marked(seen.act), network) {
        for other in kept.s.iter_mut().filter(|other| other.h == network && other.a == say.agent) {
            other.r = Some(now);
        }
    }
    push(&mut kept.s, one, MAX_SESSIONS);
}

/// What a service says of where it saw the session's token. Services are others' programs: what they say is compared with what is known,
/// and kept beside it, so that no other act is judged by it, and no session is forgotten for it.
fn sighting(kept: &mut Kept, id: NetName, seen: &Seen, now: i64, say: &mut Signals) {
    let at = kept.s.iter().position(|one| one.i == id);
    let mut one = match at {
        Some(at) => kept.s[at].clone(),
        None => unknown(id, seen, now, false, say),
    };
    if let Some(made) = &seen.made {
        one.b = secs(made.at).min(now);
        one.a = short(&made.agent);
    }
    let network = seen.from.as_ref().map(|from| NetName(from.network));
    travel(&one.w, seen, now, say);
    say.session_age_s = if one.f & Sess::MADE == 0 && seen.made.is_none() { -1 } else { now - one.b };
    agents(&one.a, say);
    say.moved = network.is_some_and(|network| network != one.network());
    one.g.retain(|(_, at)| now - at < 10 * MINUTE);
    // Where the session is anyway is worth a line only once it was seen elsewhere.
    if let Some(network) = network.filter(|_| say.moved || !one.g.is_empty()) {
        // Here, then elsewhere, and now here again.
        let away = one.g.iter().rposition(|(other, _)| *other != network);
        say.at_once = away.is_some_and(|away| one.g[..away].iter().any(|(other, _)| *other == network));
        if one.g.last().is_none_or(|(last, _)| *last != network) {
            push(&mut one.g, (network, now), MAX_SEEN);
        }
    }
    if let Some(at) = at {
        kept.s[at] = one;
    }
}

/// A session that nothing is remembered of.
fn unknown(id: NetName, seen: &Seen, now: i64, makes: bool, say: &Signals) -> Sess {
    let breached = matches!(seen.act, Act::SignIn { breached: true, .. });
    let bits = [
        (makes, Sess::MADE),
        (say.new_device, Sess::DEVICE),
        (makes && say.new_network, Sess::NETWORK),
        (makes && say.new_country, Sess::COUNTRY),
        (breached, Sess::BREACHED),
    ];
    let f = bits.iter().filter(|(yes, _)| *yes).fold(0, |all, (_, bit)| all | bit);
    // One that is seen by a refresh has moved, from where nobody knows: otherwise nobody had looked.
    let here = seen.from.as_ref().filter(|_| !matches!(seen.act, Act::Refresh(_)));
    let h = here.map_or(NetName::default(), |from| NetName(from.network));
    Sess {
        i: id,
        b: now,
        l: now,
        a: say.agent.clone().into_owned(),
        f,
        h,
        w: None,
        m: Vec::new(),
        e: Vec::new(),
        ep: None,
        es: None,
        fk: Vec::new(),
        fp: None,
        fa: false,
        n: Vec::new(),
        np: None,
        u: numbers(seen),
        k: Vec::new(),
        o: Vec::new(),
        p: Vec::new(),
        r: None,
        g: Vec::new(),
    }
}

/// A repetition from another network. It counts as long as it is always the same two, in the same order, and the second is new to the
/// account: a client that goes back and forth repeats here what it lost there, and there what it lost here.
fn echo(one: &mut Sess, before: NetName, here: NetName, now: i64, say: &Signals) {
    let pair = Some((before, here));
    if one.ep != pair || !say.new_network {
        one.e.clear();
    }
    one.ep = pair;
    one.es = one.es.or(Some(now));
    if say.new_network {
        push(&mut one.e, now, MAX_ECHOES);
    }
}

/// A late repetition. It is a fork when what the session got last, in a network that was new to the account, was never used, and nobody
/// waits for an answer for that long. It counts as long as what comes late comes from the same network, one that the account knows: it goes
/// on there as if nothing had been elsewhere. Sooner than that it may be an answer that was lost, which neither counts nor breaks the row.
fn fork(one: &mut Sess, last: Option<&Move>, here: NetName, now: i64, say: &Signals, abroad: bool) -> bool {
    let pair = |last: &Move| (last.0, here);
    let strange = last.filter(|last| last.3 && now - last.1 < DAY || one.fp == Some(pair(last)));
    let Some(last) = strange.filter(|_| say.moved && !say.new_network) else {
        (one.fk, one.fp) = (Vec::new(), None);
        return false;
    };
    if now - last.1 < 2 * MINUTE {
        return false;
    }
    if one.fp.is_some_and(|(_, to)| to != here) {
        one.fk.clear();
    }
    one.fa = abroad && (one.fa || one.fk.is_empty());
    one.fp = Some(pair(last));
    push(&mut one.fk, now, MAX_FORKS);
    true
}

/// How many of those moments of the last two weeks are eight hours apart from the one counted before.
fn days(moments: &[i64], now: i64) -> i64 {
    let young = moments.iter().filter(|at| now - **at < 14 * DAY);
    let apart = |(count, last): (i64, i64), at: &i64| match count > 0 && at - last < 8 * HOUR {
        true => (count, last),
        false => (count + 1, *at),
    };
    young.fold((0, 0), apart).0
}

/// A repetition, from where the account is at home, of what had come from a network that was new to it: as long as it is always the same two,
/// whoever is the first there is so each time, and the second has what the first got.
fn echoed(one: &mut Sess, last: Option<&Move>, here: NetName, now: i64, say: &Signals) {
    let Some(last) = last.filter(|last| !say.new_network && (last.3 || one.np == Some((last.0, here)))) else {
        (one.n, one.np) = (Vec::new(), None);
        return;
    };
    if one.np != Some((last.0, here)) {
        one.n.clear();
    }
    one.np = Some((last.0, here));
    push(&mut one.n, now, MAX_ECHOES);
}

/// When the session's current token was made: 0 where nobody says.
pub(super) fn token_at(seen: &Seen) -> i64 {
    seen.made.as_ref().and_then(|made| made.token_at).map_or(0, secs)
}

/// The numbers of a User-Agent, as they are kept: what there is to compare, and of whom. Nothing where nothing is said.
pub(super) fn numbers(seen: &Seen) -> [u32; 4] {
    let build = seen.build;
    match build == Build::default() {
        true => [0; 4],
        false => [digest(&agent_of(seen)), build.browser, build.system, build.model],
    }
}

/// Whether the same program says a lower version than before, or another phone.
pub(super) fn is_older(before: &[u32; 4], shown: &[u32; 4]) -> bool {
    let lower = |n: usize| shown[n] > 0 && shown[n] < before[n];
    let other = shown[3] > 0 && before[3] > 0 && shown[3] != before[3];
    shown[0] == before[0] && (lower(1) || lower(2) || other)
}

/// Whether what was shown is older than what the session showed before. What comes from a country that is new is not taken over: who stole
/// the session would otherwise be its owner the next time.
fn built(one: &mut Sess, seen: &Seen, now: i64, say: &mut Signals) {
    let shown = numbers(seen);
    let lower = |n: usize| shown[n] > 0 && shown[n] < one.u[n];
    let other = shown[3] > 0 && one.u[3] > 0 && shown[3] != one.u[3];
    let app = now - one.l < DAY && (lower(2) || other);
    let (same, soon) = (shown[3] > 0 && shown[3] == one.u[3], now - one.l < DAY);
    // Parts of one app say 18 and 18.6 of one system.
    let goes_back = shown[2] > 0 && shown[2] / 10_000 < one.u[2] / 10_000;
    say.older_system = shown[0] == one.u[0] && goes_back && (same || soon);
    say.older_browser = shown[0] == one.u[0] && lower(1);
    say.older_build = say.older_browser || shown[0] == one.u[0] && app;
    if shown[0] != 0 && !say.new_country {
        one.u = shown;
    }
}

/// What was made with `made` and is shown by another one.
fn agents(made: &str, say: &mut Signals) {
    say.other_browser = !say.agent.is_empty() && !made.is_empty() && made != say.agent;
    if !say.other_browser {
        return;
    }
    say.other_program = program(made) != program(&say.agent);
    say.may_be_update = say.other_program && may_be_update(made, &say.agent);
    say.other_system = is_other_system(made, &say.agent);
    say.unlocked = is_unlocked(made, &say.agent);
    say.other_machine = is_other_machine(made, &say.agent);
    let turned = turned(made, &say.agent);
    (say.turned, say.may_have_turned) = (turned == Turned::Surely, turned == Turned::Perhaps);
}

/// Networks that were new to the account, of providers that are each counted once.
fn hops(moves: &[Move], now: i64) -> i64 {
    let fresh: Vec<&Move> = moves.iter().filter(|step| step.3 && now - step.1 < 30 * MINUTE).collect();
    let first = |n: usize| {
        let same = |a: &Move, b: &Move| a.0 == b.0 || (a.2 != 0 && a.2 == b.2);
        !fresh[..n].iter().any(|before| same(before, fresh[n]))
    };
    (0..fresh.len()).filter(|n| first(*n)).count() as i64
}

/// Moves to where the session had been before the last move.
fn turns(one: &Sess, now: i64) -> i64 {
    let path: Vec<(NetName, i64)> =
        [(one.h, one.b)].into_iter().chain(one.m.iter().map(|step| (step.0, step.1))).collect();
    path.windows(3).filter(|three| three[0].0 == three[2].0 && now - three[2].1 < 10 * MINUTE).count() as i64
}

/// What it says about the account.
fn account(kept: &mut Kept, seen: &Seen, now: i64, say: &mut Signals) {
    let age = |list: &[i64], span: i64| list.iter().filter(|at| now - **at < span).count() as i64;
    match seen.act {
        Act::SignUp | Act::Arrive { .. } => push(&mut kept.i, now, MAX_MOMENTS),
        Act::SignIn { breached, .. } => {
            push(&mut kept.i, now, MAX_MOMENTS);
            say.breached = breached;
        }
        Act::Change(what) => {
            push(&mut kept.c, now, MAX_MOMENTS);
            if what == What::Password {
                (kept.x[0], kept.q) = (None, None);
            }
        }
        Act::Recover(Step::Asked) => push(&mut kept.ra, now, MAX_MOMENTS),
        Act::Recover(Step::Done) => {
            push(&mut kept.rd, now, MAX_MOMENTS);
            kept.rf = Some((say.new_network, say.new_country));
            (kept.x[0], kept.q) = (None, None);
        }
        Act::External(kind) => kept.x[told(kind)] = Some(now),
        Act::Recover(Step::Denied) | Act::Refresh(_) | Act::Prove { .. } | Act::Sighting => {}
    }
    say.sign_ins = age(&kept.i, 10 * MINUTE);
    say.changes = age(&kept.c, HOUR);
    say.resets_asked = age(&kept.ra, HOUR);
    say.resets_done = age(&kept.rd, DAY);
    if let (Some(at), Some((network, country))) = (kept.rd.last(), kept.rf) {
        (say.reset_age_s, say.reset_new_network, say.reset_new_country) = (now - at, network, country);
    }
    let within = |kind: ExternalKind, span: i64| kept.x[told(kind)].is_some_and(|at| now - at < span);
    // Who comes by another provider has shown no password.
    say.leaked = !matches!(seen.act, Act::Arrive { .. }) && within(ExternalKind::CredentialLeaked, 90 * DAY);
    say.lost = within(ExternalKind::DeviceLost, 30 * DAY);
    say.fraud = within(ExternalKind::Fraud, 7 * DAY);
}

fn told(kind: ExternalKind) -> usize {
    match kind {
        ExternalKind::CredentialLeaked => 0,
        ExternalKind::DeviceLost => 1,
        ExternalKind::Fraud => 2,
    }
}

/// Remembers where and with what.
fn learn(kept: &mut Kept, seen: &Seen, now: i64) {
    kept.f = kept.f.or(Some(now));
    if let Some(from) = seen.from.as_ref().filter(|from| from.network != Origin::NOWHERE) {
        learn_network(kept, from, now);
        if let Some(spot) = where_of(from) {
            kept.w = Some((spot, now));
        }
    }
    let agent = agent_of(seen);
    if !agent.is_empty() {
        kept.d.retain(|one| one.0 != agent);
        push(&mut kept.d, Agent(agent, now), MAX_AGENTS);
    }
}

fn learn_network(kept: &mut Kept, from: &Origin, now: i64) {
    let name = NetName(from.network);
    let first = kept.n.iter().position(|net| net.0 == name).map_or(now, |at| kept.n.remove(at).3);
    let place = &from.place;
    kept.n.push(Net(name, place.country.map(Country), place.asn.unwrap_or(0), first, now));
    kept.crowd_out(now);
}

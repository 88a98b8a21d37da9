//! What a verdict may do: thousands of verdicts, of acts, of accounts in any state; and for each outcome exactly these changes.
use crate::world::{START, Seeded, account, key, rules, stamp, view};
use portcullis_domain::account::change_password;
use portcullis_domain::amr::Amr;
use portcullis_domain::authorize::CodeBody;
use portcullis_domain::changes::{Change, Changes, Expect, Revoke};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::{By, Door, Scope, end};
use portcullis_domain::model::{Account, Block, SessionKind, Status, UNPROVEN};
use portcullis_domain::risk::enforce::{At, Cap, Judged, Kept, Plan, enforce};
use portcullis_domain::risk::{Hit, Outcome, Verdict, strongest};
use portcullis_domain::sign_in::{SignIn, sign_in};
use portcullis_domain::throttle::{Attempt, Bucket, BucketKey};
use portcullis_domain::ticket::{Ticket, TicketKind};
use portcullis_domain::view::{AccountView, SignInView};
use portcullis_domain::{Actor, Decision, Refused};
use portcullis_wire::{Digest, GrantId, Rev, SessionId, Target, Time, Verb};
use std::collections::BTreeMap;

const SESSION: SessionId = SessionId::from_bits(2);

fn outcome(dice: &mut Seeded) -> Outcome {
    match dice.below(9) {
        0 => Outcome::Allow,
        1 => Outcome::Notify,
        2 => Outcome::Throttle,
        3 => Outcome::StepUp,
        4 => Outcome::EndSession,
        5 => Outcome::EndAll,
        6 => Outcome::Block { for_ms: None },
        // What nobody writes, too: a block that is over at once.
        _ => Outcome::Block { for_ms: Some(dice.below(4) as i64 * 5_000 - 1) },
    }
}

fn verdict(dice: &mut Seeded) -> Verdict {
    let hit = |dice: &mut Seeded, n: u64| Hit {
        rule: format!("rule-{n}"),
        outcomes: (0..=dice.below(2)).map(|_| outcome(dice)).collect(),
        reason: ["a reason", "", "words\nin two lines", &"long ".repeat(300)][dice.below(4) as usize].into(),
        shadow: dice.below(5) == 0,
    };
    Verdict { version: "7".into(), hits: (0..dice.below(5)).map(|n| hit(dice, n)).collect() }
}

fn status(dice: &mut Seeded) -> Status {
    let until = (dice.below(3) > 0).then(|| START.plus(dice.below(5) as i64 * 4_000 - 4_000));
    let block = Block { reason: "spam".into(), actor: "operator".into(), at: START, until };
    match dice.below(8) {
        0 => Status::Deleting { at: START, until: START.plus(9_000), rev: portcullis_wire::Rev(1) },
        1 => Status::Deleted { at: START, rev: portcullis_wire::Rev(1) },
        2 | 3 => Status::Blocked(block),
        _ => Status::Active,
    }
}

/// An act as it was decided before anybody judged it.
fn base(row: &Account, at: At, dice: &mut Seeded) -> Decision<()> {
    let plain = |changes| Decision { outcome: Ok(()), changes };
    match (at, dice.below(4)) {
        (At::SignIn(_), _) => {
            let view = SignInView {
                stamp: stamp(START),
                account: Some(account()),
                unused: false,
                client_cut: Default::default(),
            };
            let request =
                SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
            let Decision { outcome, changes } = sign_in(&view, true, &request, &rules(), &key(), dice);
            Decision { outcome: outcome.map(|_| ()), changes }
        }
        (At::Session(..), 0) => {
            let by = By { actor: Actor::Account { account: row.id, session: SESSION }, ..By::SYSTEM };
            let view = AccountView { stamp: stamp(START), account: row.clone(), all_ended: portcullis_wire::Rev::ZERO };
            change_password(&view, "another hash".into(), SESSION, &by, dice)
        }
        // A theft, which the rules for refresh tokens have ended.
        (At::Session(..), 1) => {
            let scope = Scope::Session { account: row.id, session: SESSION };
            let changes = end(Door::Replay, scope, None, &By::SYSTEM, dice);
            Decision { outcome: Err(Refused::RefreshReused), changes }
        }
        // Somebody proves anew.
        (At::Session(..), 2) => {
            let steps = vec![Change::SetAuthTime { session: SESSION, at: START, amr: Amr::unknown() }];
            let expects = vec![Expect::Alive { session: SESSION, role: None }];
            plain(Changes { expects, steps, ..Changes::default() })
        }
        (At::Session(..), _) => {
            let family = view(START).grant.family;
            let steps = vec![Change::HandOut { grant: GrantId::from_bits(3), counter: family.counter, at: START }];
            plain(Changes { steps, ..Changes::default() })
        }
        (At::Account | At::SignUp | At::Asked | At::Reset, _) => plain(Changes::default()),
    }
}

/// What a decision is made of, in words that can be compared.
fn words(steps: &[Change]) -> Vec<String> {
    steps.iter().map(|step| format!("{step:?}")).collect()
}

fn ends(steps: &[Change], door: Door) -> Vec<Revoke> {
    let of = steps.iter().filter_map(|step| match step {
        Change::Revoke(revoke) if revoke.reason == door.as_str() => Some(revoke.clone()),
        _ => None,
    });
    of.collect()
}

fn until_of(steps: &[Change]) -> Option<Option<Time>> {
    steps.iter().find_map(|step| match step {
        Change::SetStatus { status: Status::Blocked(block), .. } => Some(block.until),
        _ => None,
    })
}

/// One case, with what is compared with it.
struct Case {
    row: Account,
    at: At,
    base: Decision<()>,
    verdict: Verdict,
    full: bool,
    attempt: Option<Attempt>,
    network: Option<[u8; 8]>,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut dice = Seeded(seed);
        let row = Account { status: status(&mut dice), ..account() };
        let at = match dice.below(5) {
            // The session that the sign-in below makes has an id by chance.
            0 => At::SignIn(SESSION),
            1 => At::Account,
            2 => At::Session(SESSION, None),
            3 => At::Reset,
            _ => At::Session(SESSION, Some(GrantId::from_bits(3))),
        };
        let base = base(&row, at, &mut dice);
        let attempt = (dice.below(2) == 0).then(|| Attempt::of(&key(), "ada@example.org", None, None));
        let network = (dice.below(2) == 0).then_some([5; 8]);
        Self { row, at, base, verdict: verdict(&mut dice), full: dice.below(3) == 0, attempt, network }
    }

    fn cap(&self) -> Cap {
        let budget = Cap::budget(3);
        let row = self.full.then_some(Bucket { debt: budget.burst * budget.every, seen_at: START });
        Cap { bucket: BucketKey([4; 16]), budget, row }
    }

    fn decided(&self) -> (Decision<()>, Plan) {
        let stamp = stamp(START);
        let judged = Judged {
            stamp: &stamp,
            account: &self.row,
            at: self.at,
            ip: None,
            network: self.network,
            attempt: self.attempt.as_ref(),
            verdict: &self.verdict,
            kept: Kept { version: 8, plain: "taught".into(), doubted: "doubted".into(), refused: "refused".into() },
            cap: self.cap(),
            mail: None,
            tells: &|_| true,
        };
        let base = Decision { outcome: self.base.outcome.clone(), changes: self.base.changes.clone() };
        enforce(base, &judged, &mut Seeded(1))
    }

    /// The outcome that is carried out: found anew, hit by hit.
    fn does(&self) -> (Option<Outcome>, bool) {
        let mut counted = Vec::new();
        for hit in self.verdict.hits.iter().filter(|hit| !hit.shadow) {
            counted.extend(hit.outcomes.iter().copied());
            if hit.outcomes.contains(&Outcome::Allow) {
                break;
            }
        }
        let rank = |outcome: &Outcome| match outcome {
            Outcome::Allow => (0, 0),
            Outcome::Notify => (1, 0),
            Outcome::Throttle => (2, 0),
            Outcome::StepUp => (3, 0),
            Outcome::EndSession => (4, 0),
            Outcome::EndAll => (5, 0),
            Outcome::Block { for_ms } => (6, for_ms.unwrap_or(i64::MAX)),
        };
        let blocks = |outcome: &Outcome| matches!(outcome, Outcome::Block { .. });
        let capped = self.full && counted.iter().any(blocks);
        // Beyond the cap a block is the end of the session.
        let left =
            counted.into_iter().map(|outcome| if capped && blocks(&outcome) { Outcome::EndSession } else { outcome });
        (left.max_by_key(rank).filter(|outcome| *outcome != Outcome::Allow), capped)
    }

    /// Until when the account is blocked already; `Some(None)`: until it is released.
    fn blocked(&self) -> Option<Option<Time>> {
        match &self.row.status {
            Status::Blocked(block) if block.until.is_none_or(|until| until > START) => Some(block.until),
            _ => None,
        }
    }
}

/// The memory and the records of each decision, and what is in no decision.
#[test]
fn every_decision_remembers_and_records_and_never_shortens_a_block() {
    let (mut seen, mut kept_longer) = (BTreeMap::<&str, u32>::new(), 0);
    for seed in 0..20_000 {
        let case = Case::of(seed);
        let (decision, plan) = case.decided();
        let steps = &decision.changes.steps;
        let (does, capped) = case.does();
        assert_eq!((plan.does.as_ref().map(|one| one.1), plan.capped), (does, capped), "seed {seed}");
        let memories: Vec<&Change> = steps.iter().filter(|step| matches!(step, Change::PutMemory { .. })).collect();
        let gone = matches!(case.row.status, Status::Deleting { .. } | Status::Deleted { .. });
        let memory = match (does, case.at) {
            (Some(Outcome::EndSession | Outcome::EndAll), At::Account) => "doubted",
            (Some(Outcome::Block { .. }), At::Account) => "doubted",
            // There is nothing left of the account that could be blocked.
            (Some(Outcome::Block { .. }), At::Reset) if gone => "taught",
            (Some(Outcome::Block { .. }), _) if gone => "doubted",
            // It is made, and all that was before ends; beyond the cap it is not.
            (Some(Outcome::EndAll), At::SignIn(_)) if !capped => "doubted",
            (Some(Outcome::EndAll), At::Reset) if !capped => "taught",
            (Some(Outcome::EndSession | Outcome::EndAll | Outcome::Block { .. }), _) => "refused",
            _ => "taught",
        };
        let put = Change::PutMemory { account: case.row.id, version: 8, memory: memory.into() };
        assert_eq!(format!("{memories:?}"), format!("{:?}", [&put]), "seed {seed}");
        let count = |kind| decision.changes.events.iter().filter(|event| event.kind == kind).count();
        let decided = usize::from(does.is_some_and(|does| does != Outcome::Notify));
        let shadows = case.verdict.hits.iter().filter(|hit| hit.shadow).count();
        assert_eq!(count(EventKind::RiskDecided), decided, "seed {seed}");
        assert_eq!(count(EventKind::RiskNoticed), usize::from(case.verdict.notifies().is_some()), "seed {seed}");
        assert_eq!((count(EventKind::RiskShadow), count(EventKind::RiskAlarm)), (shadows, usize::from(capped)));
        for event in &decision.changes.events {
            assert_eq!(event.account, Some(case.row.id), "seed {seed}: {:?}", event.kind);
        }
        // A block is made by a block that may be, and never a shorter one than there is.
        let until = until_of(steps);
        let draws = steps.iter().filter(|step| matches!(step, Change::Draw { .. })).count();
        assert_eq!(draws, usize::from(until.is_some()), "seed {seed}: each block is counted");
        assert!(until.is_none() || matches!(does, Some(Outcome::Block { .. })) && !capped, "seed {seed}");
        if let (Some(ours), Some(theirs)) = (until, case.blocked()) {
            assert!(
                ours.is_none_or(|ours| theirs.is_some_and(|theirs| ours > theirs)),
                "seed {seed}: {theirs:?} {ours:?}"
            );
            kept_longer += 1;
        }
        assert!(until.flatten().is_none_or(|until| until > START), "seed {seed}: it is over before it begins");
        *seen.entry(does.map_or("nothing", portcullis_domain::risk::enforce::word)).or_default() += 1;
    }
    assert!(seen.len() == 7 && seen.values().all(|n| *n > 200), "{seen:?}");
    assert!(kept_longer > 50, "{kept_longer}");
}

/// Exactly these changes besides what the act has anyway, and exactly these answers.
#[test]
fn each_outcome_does_what_it_says_and_nothing_else() {
    let mut checked = 0;
    for seed in 0..20_000 {
        let case = Case::of(seed);
        let (decision, plan) = case.decided();
        let steps = &decision.changes.steps;
        let does = plan.does.as_ref().map(|one| one.1);
        let gone = matches!(case.row.status, Status::Deleting { .. } | Status::Deleted { .. });
        let over = !ends(&case.base.changes.steps, Door::Replay).is_empty();
        let whole = Target::Account(case.row.id);
        // By the rule: what ends, and whether the act is refused.
        let (end, refused) = match (does, case.at) {
            (None | Some(Outcome::Allow | Outcome::Notify | Outcome::StepUp | Outcome::Throttle), _) => (None, false),
            (Some(Outcome::EndSession), At::SignIn(_)) => (None, true),
            (Some(Outcome::EndSession), At::Session(..)) => ((!over).then_some((Target::Session(SESSION), None)), true),
            // Beyond the cap it stands beside a block, or another rule that blocks: nobody is let in by using the cap up.
            (Some(Outcome::EndAll), At::SignIn(_) | At::Reset) if plan.capped => (Some((whole, None)), true),
            (Some(Outcome::EndAll), At::SignIn(session)) => (Some((whole, Some(session))), false),
            (Some(Outcome::EndAll), At::Session(..)) => (Some((whole, None)), true),
            (Some(Outcome::EndAll | Outcome::EndSession), At::Account) => (Some((whole, None)), false),
            (Some(Outcome::EndSession), At::Reset) => (None, true),
            (Some(Outcome::EndAll), At::Reset) => (None, false),
            (Some(Outcome::EndAll | Outcome::EndSession), At::SignUp | At::Asked) => (None, true),
            (Some(Outcome::Block { .. }), at) if !gone => (Some((whole, None)), at != At::Account),
            (Some(Outcome::Block { .. }), _) => (None, false),
        };
        let longer = match (does, case.blocked()) {
            (Some(Outcome::Block { for_ms }), Some(theirs)) => {
                let ours = for_ms.map(|ms| START.plus(ms.max(1)));
                theirs.is_none() || ours.is_some_and(|ours| theirs.is_some_and(|theirs| theirs >= ours))
            }
            _ => false,
        };
        let blocks = matches!(does, Some(Outcome::Block { .. })) && !gone && !longer;
        let door = if blocks { Door::Block } else { Door::RiskRule };
        let found: Vec<_> = [Door::RiskRule, Door::Block]
            .into_iter()
            .flat_map(|door| ends(steps, door).into_iter().map(move |revoke| (door, revoke)))
            .map(|(door, revoke)| (door, revoke.verb, revoke.target, revoke.except))
            .collect();
        let expected: Vec<_> = end.into_iter().map(|(target, except)| (door, Verb::End, target, except)).collect();
        assert_eq!(found, expected, "seed {seed}: {does:?} at {:?}", case.at);
        assert_eq!(until_of(steps).is_some(), blocks, "seed {seed}");
        // Who is refused, and how; what was refused before stays refused for the same reason.
        let before = case.base.outcome.clone();
        let answer = match (&before, refused, does, case.at) {
            (Err(refused), ..) => Err(refused.clone()),
            (Ok(()), false, ..) => Ok(()),
            (Ok(()), true, Some(Outcome::Block { .. }), At::SignIn(_) | At::Reset) => {
                assert!(matches!(decision.outcome, Err(Refused::AccountBlocked { .. })), "seed {seed}");
                decision.outcome.clone()
            }
            (Ok(()), true, Some(Outcome::Block { .. }), _) => {
                Err(Refused::SessionEnded { reason: Door::Block.as_str().into() })
            }
            (Ok(()), true, _, At::Reset) => {
                assert!(matches!(decision.outcome, Err(Refused::ByRule { .. })), "seed {seed}");
                decision.outcome.clone()
            }
            (Ok(()), true, ..) => Err(Refused::SessionEnded { reason: Door::RiskRule.as_str().into() }),
        };
        assert_eq!(decision.outcome, answer, "seed {seed}: {does:?} at {:?}", case.at);
        // An act that a rule refuses has nothing of what was asked for, and still asks whether who acts is there.
        let asked = words(&case.base.changes.steps);
        let done = words(steps);
        let stopped = before.is_ok() && decision.outcome.is_err();
        if stopped {
            assert!(asked.iter().all(|step| !done.contains(step)), "seed {seed}: {done:?}");
            let alive = |changes: &Changes| {
                changes.expects.iter().filter(|expect| matches!(expect, Expect::Alive { .. })).count()
            };
            assert_eq!(alive(&decision.changes), alive(&case.base.changes), "seed {seed}");
            assert!(decision.changes.events.iter().all(|event| event.kind != EventKind::PasswordChanged));
        } else {
            let kept = |step: &&String| done.contains(step) || step.starts_with("InsertGrant");
            assert!(asked.iter().all(|step| kept(&step)), "seed {seed}: {done:?}");
            assert!(case.base.changes.expects.iter().all(|expect| decision.changes.expects.contains(expect)));
        }
        only_what_belongs(seed, &case, does, stopped, steps);
        checked += usize::from(stopped);
    }
    assert!(checked > 2_000, "{checked}");
}

/// Of the rest there is no step that its outcome does not have.
fn only_what_belongs(seed: u64, case: &Case, does: Option<Outcome>, stopped: bool, steps: &[Change]) {
    let own: Vec<&Change> = match stopped {
        true => steps.iter().collect(),
        // What the act has comes first, in its order.
        false => steps[case.base.changes.steps.len()..].iter().collect(),
    };
    let proves = case.base.changes.steps.iter().any(|step| matches!(step, Change::SetAuthTime { .. }));
    let mut proof = 0;
    for step in own {
        let belongs = match step {
            Change::PutMemory { .. } => true,
            Change::Revoke(_) | Change::SetStatus { .. } | Change::Draw { .. } => does.is_some_and(|does| does.ends()),
            Change::Unprove { session, grant } => {
                proof += 1;
                let of = match case.at {
                    At::Session(_, grant) => grant,
                    At::SignIn(_) | At::Account | At::SignUp | At::Asked | At::Reset => None,
                };
                let both = *session == SESSION && *grant == of;
                does == Some(Outcome::StepUp) && both && !proves && !matches!(case.at, At::Account | At::Reset)
            }
            Change::TakeAttempt(attempt) => does == Some(Outcome::Throttle) && case.attempt == Some(*attempt),
            Change::SetNetwork { network, .. } => {
                !stopped && case.base.outcome.is_ok() && case.network == Some(*network)
            }
            _ => false,
        };
        assert!(belongs, "seed {seed}: {does:?} at {:?} did {step:?}", case.at);
    }
    let asks = does == Some(Outcome::StepUp) && !proves && !matches!(case.at, At::Account | At::Reset);
    assert_eq!(proof, usize::from(asks), "seed {seed}: whoever must prove anew has proven nothing");
    let charged = steps.iter().any(|step| matches!(step, Change::TakeAttempt(_)));
    assert_eq!(charged, does == Some(Outcome::Throttle) && case.attempt.is_some(), "seed {seed}");
    // Where a new grant is used is remembered, when it is the user's own network.
    for step in steps {
        if let Change::InsertGrant(grant) = step {
            assert_eq!(grant.network, case.network, "seed {seed}");
        }
    }
}

/// The strongest of what counts: no shadow, and nothing behind what allows.
#[test]
fn nothing_behind_what_allows_counts_and_no_shadow_does() {
    let hit = |outcomes: &[Outcome], shadow| Hit {
        rule: "r".into(),
        outcomes: outcomes.to_vec(),
        reason: "x".into(),
        shadow,
    };
    let of = |hits: Vec<Hit>| {
        let verdict = Verdict { version: "1".into(), hits };
        strongest(&verdict).map(|(_, outcome)| outcome)
    };
    let all = Outcome::EndAll;
    assert_eq!(of(vec![hit(&[Outcome::Allow], false), hit(&[all], false)]), None);
    assert_eq!(of(vec![hit(&[all], false), hit(&[Outcome::Allow], false)]), Some(all));
    assert_eq!(of(vec![hit(&[all], true)]), None);
    // A shadow that allows hides nobody.
    assert_eq!(of(vec![hit(&[Outcome::Allow], true), hit(&[all], false)]), Some(all));
}

/// Where a rule asks for a fresh proof, a code or a device that is let in by the same act carries none.
#[test]
fn what_is_asked_for_is_handed_on_by_no_code() {
    let code = CodeBody {
        redirect_uri: "https://app.example/back".into(),
        challenge: "challenge".into(),
        scope: "openid".into(),
        nonce: Some("nonce".into()),
        audience: None,
        jkt: None,
        generation: 3,
        auth_time: START.0,
        amr: Amr::elsewhere(&["pwd".into()]),
    };
    let device = r#"{"scope":"openid","audience":null,"jkt":null,"interval_s":5,"polled_at":null,"state":{"allowed":{"generation":3,"auth_time":17,"amr":"pwd"}}}"#;
    let ticket = |kind, body: String| Ticket {
        id: Digest::of(b"a ticket"),
        kind,
        account: Some(account().id),
        session: Some(SESSION),
        client: None,
        born: Rev(1),
        epoch: stamp(START).epoch,
        expires_at: START.plus(60_000),
        body,
        version: 1,
        used: None,
    };
    let pushed = Change::InsertTicket(ticket(TicketKind::Pushed, Ticket::write(&code)));
    let given = Change::InsertTicket(ticket(TicketKind::Code, Ticket::write(&code)));
    let let_in = Change::UpdateTicket(ticket(TicketKind::Device, device.into()));
    for (outcome, asks) in [(Outcome::StepUp, true), (Outcome::Notify, false)] {
        let hit = Hit { rule: "r".into(), outcomes: vec![outcome], reason: "x".into(), shadow: false };
        let case = Case {
            row: account(),
            at: At::Session(SESSION, None),
            base: Decision {
                outcome: Ok(()),
                changes: Changes { steps: vec![pushed.clone(), given.clone(), let_in.clone()], ..Changes::default() },
            },
            verdict: Verdict { version: "7".into(), hits: vec![hit] },
            full: false,
            attempt: None,
            network: None,
        };
        let steps = case.decided().0.changes.steps;
        let body = |n: usize| match &steps[n] {
            Change::InsertTicket(ticket) | Change::UpdateTicket(ticket) => ticket.body.clone(),
            step => panic!("{step:?}"),
        };
        let unknown = CodeBody { auth_time: UNPROVEN.0, amr: Amr::unknown(), ..code.clone() };
        assert_eq!(body(0), Ticket::write(&code), "what was asked is no proof");
        assert_eq!(body(1), Ticket::write(if asks { &unknown } else { &code }));
        let (dated, undated) = (r#""auth_time":17,"amr":"pwd""#, r#""auth_time":0,"amr":"""#);
        assert_eq!(body(2), if asks { device.replace(dated, undated) } else { device.to_owned() });
    }
}

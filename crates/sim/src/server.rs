//! The server: one node, and the loop of `app` around the real rules: see to the horizon, load a view, decide, commit, publish,
//! answer, with a delay between any two steps, in which everything else may happen.
use crate::clock::Ticks;
use crate::decide::{Facts, Outcome};
use crate::disk::{About, Owner};
use crate::hub::Hub;
use crate::mutant::Mutant;
use crate::net::{From, ToServer};
use crate::rng::Rng;
use crate::world::{Event, Settings, World, tell};
use portcullis_domain::changes::{Change, Changes, Committed, Conflict};
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::refused::Refused;
use portcullis_domain::sign_in::Issued;
use portcullis_domain::throttle::{Attempt, Verdict};
use portcullis_domain::{time_rules, view::Stamp};
use portcullis_feed::Mono;
use portcullis_store::CommitError;
use portcullis_wire::{AccountId, ClientId, Code, KeyId, Rev, SecretString, SessionId, Time};

/// What clients ask for.
#[derive(Debug, Clone)]
pub enum Request {
    SignIn {
        account: usize,
        agent: String,
        cookie: bool,
        origin: crate::guesses::Origin,
    },
    Refresh {
        token: SecretString,
        agent: String,
        cookie: bool,
        by: ClientId,
        network: u16,
    },
    /// About another provider.
    Upstream(crate::upstream::UpstreamRequest),
    /// Of an application, or about one.
    App(crate::applications::AppRequest),
    /// A user ends something, by a session of theirs.
    End {
        door: Door,
        actor: (AccountId, SessionId),
        session: Option<SessionId>,
        except_self: bool,
    },
    /// An administrator ends something.
    AdminEnd {
        door: Door,
        scope: Scope,
        key: String,
    },
    Block {
        account: AccountId,
        key: String,
    },
    Unblock {
        account: AccountId,
    },
    Delete {
        account: AccountId,
        key: String,
    },
    Roles {
        account: AccountId,
        admin: bool,
    },
    /// An administrator revokes a signing key.
    RevokeKey {
        id: KeyId,
        key: String,
    },
    /// An administrator rotates the signing key now.
    RotateKeys,
    /// An administrator ends whom a filter matches.
    Filter {
        filter: portcullis_domain::mass::Filter,
        now: bool,
        key: String,
    },
    /// An administrator imports accounts with these addresses.
    Import {
        emails: Vec<String>,
    },
    /// Somebody outside says this of an account.
    Signal {
        account: AccountId,
        kind: portcullis_domain::risk::ExternalKind,
    },
    /// About a link in a mail.
    Letter(crate::letters::LetterRequest),
    /// An administrator makes an account with this address.
    Create {
        email: String,
    },
}

/// What clients are answered.
#[derive(Debug, Clone)]
pub enum Reply {
    Tokens {
        issued: Box<Issued>,
        token: usize,
        set_cookie: bool,
    },
    Revoked {
        rev: Rev,
    },
    Imported(Vec<(portcullis_domain::account::Email, portcullis_domain::import::Fate)>),
    /// An authorization code, or an API key.
    Code(SecretString),
    /// A browser may go to another provider.
    Away(portcullis_domain::upstream::Begun),
    /// What a device asks with.
    Begun(Box<portcullis_domain::device_code::Begun>),
    Done,
    Refused(Refused),
    /// 401 about the access token that acts.
    Unauthenticated {
        code: Code,
    },
    Unavailable,
}

/// One operation on its way through the loop.
#[derive(Debug)]
pub struct Op {
    pub from: From,
    pub call: u64,
    pub arrived: Mono,
    pub request: Request,
    pub stage: Stage,
    pub tries: u32,
    pub facts: Option<Facts>,
    /// The committed head when the facts were read: what nobody in the world can get wrong.
    pub facts_head: Rev,
    pub outcome: Option<Result<Outcome, Refused>>,
    /// What the real rule says of the presented refresh token.
    pub judged: Option<portcullis_domain::refresh::Outcome>,
    pub changes: Changes,
    pub committed: Option<Committed>,
    /// What a sign-in takes from budgets, and what came of it.
    pub attempt: Option<Attempt>,
    pub verdict: Option<Verdict>,
    /// What the rules about suspicious activity made of it.
    pub ruled: Option<crate::suspicion::Ruled>,
    pub faulted: bool,
    /// For the bug that ends row by row: what is still to be ended.
    pub rest: Vec<Changes>,
    pub reply: Option<Reply>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Start,
    Horizon,
    Take,
    Taking,
    Load,
    Decide,
    Submit,
    Commit,
    Reply,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    pub life: u32,
    pub up: bool,
    pub clock: Ticks,
    pub paused_until: i64,
    pub horizon: Time,
    pub hub: Option<Hub>,
    /// Its keys.
    pub rota: crate::rota::Rota,
    /// Moves F in this life.
    pub floor: time_rules::FloorClock,
    /// For the bug that watches F anew after each raise: where it was watched.
    pub floor_seen: Option<Time>,
    pub rounds: u32,
}

impl Node {
    pub fn new(_settings: &Settings, rng: &mut Rng) -> Self {
        let ppm = rng.range(-200, 200);
        Self {
            life: 0,
            up: false,
            clock: Ticks::new(0, 1_000_000, ppm),
            paused_until: 0,
            horizon: Time::ZERO,
            hub: None,
            rota: crate::rota::Rota::default(),
            floor: time_rules::FloorClock::default(),
            floor_seen: None,
            rounds: 0,
        }
    }
}

impl World {
    /// The node's monotonic clock.
    pub fn node_now(&self) -> Mono {
        self.node.clock.now(self.now)
    }

    /// What the database says of itself, to readers.
    pub fn stamp(&self) -> Stamp {
        self.disk.visible.stamp(self.database.now(self.now))
    }

    /// Rarely, the server dies at this point of a commit.
    pub fn maybe_crash(&mut self, phase: &'static str) {
        if self.node.up && self.rng.chance(3) {
            self.counts.add(phase);
            self.crash();
        }
    }

    /// The server dies. What it had in memory is gone.
    pub fn crash(&mut self) {
        tell!(self, "server: crash; {} operations die", self.ops.len());
        self.node.life += 1;
        self.node.up = false;
        self.node.paused_until = 0;
        self.ops.clear();
        self.client_keys.forget();
        self.disk_after_crash();
        self.check_after_crash();
        self.close_all_streams();
        self.node.hub = None;
        let delay = self.rng.delay(400, 6_000);
        self.after(delay, Event::Restart);
    }

    /// The server starts on what the disk holds.
    pub fn restart(&mut self) {
        self.node.up = true;
        self.node.life += 1;
        self.node.horizon = Time::ZERO;
        (self.node.floor, self.node.floor_seen, self.node.rounds) = Default::default();
        self.floor_line.starts(self.now);
        if self.has(Mutant::BudgetsForgottenAtRestart) {
            self.forget_budgets();
        }
        self.start_hub();
        self.keys_at_start();
        self.counts.add("restarts");
        tell!(self, "server: starts at head {}", self.truth.head());
        let life = self.node.life;
        self.after(0, Event::ReadDue { life, seq: 0 });
        self.after(crate::house::ROUND, Event::House { life });
        self.after(500, Event::Keys { life });
        self.after(100, Event::Jobs { life });
    }

    /// A message reaches the server.
    pub fn at_server(&mut self, message: ToServer) {
        if !self.node.up {
            if let ToServer::Call { from, call, .. } = message
                && self.rng.chance(700)
            {
                self.reply_to(from, call, Reply::Unavailable); // nobody listens: refused at once
            }
            return;
        }
        match message {
            ToServer::Call { from, call, request } => self.begin_op(from, call, request),
            ToServer::Open { verifier, conn, identity, position } => self.open(verifier, conn, identity, position),
            ToServer::Close { conn } => self.close_stream(conn),
            ToServer::Ask { verifier, ask } => self.asked(verifier, ask),
            ToServer::Pull { verifier, part, rev } => self.pulled(verifier, part, rev),
        }
    }

    fn begin_op(&mut self, from: From, call: u64, request: Request) {
        let id = self.fresh();
        let op = Op {
            from,
            call,
            arrived: self.node_now(),
            request,
            stage: Stage::Start,
            tries: 0,
            facts: None,
            facts_head: Rev::ZERO,
            outcome: None,
            judged: None,
            changes: Changes::default(),
            committed: None,
            attempt: None,
            verdict: None,
            ruled: None,
            faulted: false,
            rest: Vec::new(),
            reply: None,
        };
        self.ops.insert(id, op);
        self.op_goes_on(id);
    }

    pub fn next(&mut self, id: u64, stage: Stage, delay: i64) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.stage = stage;
            let life = self.node.life;
            self.after(delay, Event::Op { life, op: id });
        }
    }

    /// The operation takes its next step.
    pub fn op_goes_on(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        match op.stage {
            Stage::Start => self.ensure_horizon(id),
            Stage::Take => self.take_attempt(id),
            Stage::Load => self.op_loads(id),
            Stage::Decide => self.op_decides(id),
            Stage::Submit => self.op_submits(id),
            Stage::Reply => self.op_replies(id),
            Stage::Horizon | Stage::Taking | Stage::Commit => {}
        }
    }

    fn ensure_horizon(&mut self, id: u64) {
        use crate::applications::AppRequest::{Machine, Redeem};
        use crate::machines::MachineRequest::{Exchange, Poll, UseKey};
        let issues = matches!(
            self.ops[&id].request,
            Request::SignIn { .. }
                | Request::Refresh { .. }
                | Request::Upstream(crate::upstream::UpstreamRequest::Arrive { .. })
                | Request::App(Redeem { .. } | Machine(Poll { .. } | UseKey { .. } | Exchange { .. }))
        );
        if issues && !self.may_sign() {
            return self.op_fails(id);
        }
        let floor = self.node.hub.as_ref().map_or(Time::ZERO, |hub| hub.publisher.floor());
        let now = time_rules::issue_time(self.database.now(self.now), floor);
        let next = time_rules::raise_horizon(self.node.horizon, now, self.settings.rules.max_life());
        let forgotten = self.has(Mutant::BeyondHorizon) && self.node.rounds > 0;
        if let Some(next) = next.filter(|_| issues && !forgotten) {
            self.next_waits(id, Stage::Horizon);
            let changes = Changes { steps: vec![Change::RaiseHorizon(next)], ..Changes::default() };
            return self.submit(Owner::Horizon(id), changes, About::default());
        }
        self.horizon_seen_to(id);
    }

    /// A sign-in takes its attempt next.
    fn horizon_seen_to(&mut self, id: u64) {
        let signs_in = matches!(self.ops.get(&id), Some(op) if matches!(op.request, Request::SignIn { .. }));
        self.next(id, if signs_in { Stage::Take } else { Stage::Load }, 0);
    }

    fn next_waits(&mut self, id: u64, stage: Stage) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.stage = stage;
        }
    }

    /// The horizon is committed, or not.
    pub fn horizon_committed(&mut self, id: u64, result: Result<Committed, CommitError>) {
        if result.is_err() {
            return self.op_fails(id);
        }
        self.counts.add("horizon raised");
        self.node.horizon = self.node.horizon.max(self.disk.visible.stamp(Time::ZERO).horizon);
        self.horizon_seen_to(id);
    }

    fn op_loads(&mut self, id: u64) {
        let Some(mut op) = self.ops.remove(&id) else { return };
        op.facts_head = self.disk.visible.stamp(Time::ZERO).head;
        let loaded = if self.held_up(&op) { Err(Reply::Unavailable) } else { self.load(&op.request) };
        // The password's hash takes a while; sometimes the pool is full.
        let delay = match op.request {
            Request::SignIn { .. } => self.rng.range(20, 80) + self.rng.delay(20, 4_000),
            _ => self.rng.delay(3, 700),
        };
        match loaded {
            Ok(facts) => {
                op.facts = Some(facts);
                self.ops.insert(id, op);
                self.next(id, Stage::Decide, delay);
            }
            Err(reply) => {
                op.reply = Some(reply);
                self.ops.insert(id, op);
                self.next(id, Stage::Reply, 1);
            }
        }
    }

    /// Whether a refresh was held up in here for so long that its client may have gone on by another answer. It is neither
    /// decided nor answered with tokens then, for I6 rests on no message being later than half of the retry window.
    fn held_up(&self, op: &Op) -> bool {
        let late = self.node_now().since(op.arrived) > self.settings.rules.retry_window / 2;
        late && matches!(op.request, Request::Refresh { .. })
    }

    fn op_decides(&mut self, id: u64) {
        let Some(mut op) = self.ops.remove(&id) else { return };
        self.decide(&mut op);
        let delay = self.rng.delay(2, 400);
        let stage = if op.changes.is_empty() { Stage::Reply } else { Stage::Submit };
        self.ops.insert(id, op);
        self.next(id, stage, delay);
    }

    fn op_submits(&mut self, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.stage = Stage::Commit;
        let changes = op.changes.clone();
        let act = if op.rest.is_empty() { crate::decide::act_of(op) } else { crate::decide::act_on_row(&changes) };
        let facts = crate::upstream::proof_of(&op.request).unwrap_or(op.facts_head);
        let about = About {
            facts,
            act,
            code: crate::applications::code_of(&op.request),
            arrival: crate::upstream::arrival_of(&op.request),
            letter: crate::letters::letter_of(&op.request),
            ruled: op.ruled.clone(),
        };
        if self.has(Mutant::PublishBeforeCommit) {
            self.publish_too_early(&changes);
        }
        self.submit(Owner::Op(id), changes, about);
    }

    /// The commit of an operation was told.
    pub fn op_committed(&mut self, id: u64, result: Result<Committed, CommitError>) {
        let Some(op) = self.ops.get_mut(&id).filter(|op| op.stage == Stage::Commit) else { return };
        match result {
            Ok(committed) => {
                op.committed = Some(committed);
                if let Some(next) = op.rest.pop() {
                    op.changes = next;
                    return self.next(id, Stage::Submit, 30);
                }
                let delay = self.rng.delay(4, 600);
                self.next(id, Stage::Reply, delay);
            }
            Err(CommitError::Conflict(conflict)) => self.op_conflicts(id, conflict),
            Err(_) if self.mutant == Some(Mutant::ErrorAsSuccess) => {
                let rev = self.disk.visible.stamp(Time::ZERO).head;
                op.committed =
                    Some(Committed { rev: Some(rev), ended: Some(0), attempt: None, pruned: 0, at: Time::ZERO });
                self.next(id, Stage::Reply, 1);
            }
            Err(_) => {
                op.faulted = true;
                self.op_fails(id);
            }
        }
    }

    pub fn op_fails(&mut self, id: u64) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.reply = Some(Reply::Unavailable);
            self.next(id, Stage::Reply, 1);
        }
    }

    fn op_conflicts(&mut self, id: u64, conflict: Conflict) {
        self.counts.add("conflicts");
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.tries += 1;
        if matches!(op.request, Request::Upstream(crate::upstream::UpstreamRequest::Answer { .. })) {
            op.rest.clear(); // whoever answered first has the account
        }
        let refused = |refused| Some(Reply::Refused(refused));
        op.reply = match conflict {
            Conflict::Moved | Conflict::Repeated | Conflict::Used if op.tries < 64 => None,
            // Somebody has made one of them meanwhile.
            Conflict::EmailTaken if op.tries < 16 && matches!(op.request, Request::Import { .. }) => None,
            // Ending row by row: somebody else ended that row.
            _ if !op.rest.is_empty() => None,
            Conflict::Moved | Conflict::Repeated => Some(Reply::Unavailable),
            Conflict::NotAlive(_) => Some(Reply::Unauthenticated { code: Code::TokenRevoked }),
            Conflict::BornDead => {
                self.counts.add("sign-ins born dead");
                refused(Refused::Conflict { detail: String::new() })
            }
            Conflict::EmailTaken => refused(Refused::EmailTaken),
            Conflict::Missing => refused(Refused::NotFound),
            Conflict::Used => Some(Reply::Unavailable),
            Conflict::TooMany => refused(Refused::Conflict { detail: String::new() }),
        };
        if op.reply.is_some() {
            return self.next(id, Stage::Reply, 1);
        }
        match op.rest.pop() {
            Some(next) => {
                op.changes = next;
                self.next(id, Stage::Submit, 1);
            }
            None => self.next(id, Stage::Load, 2),
        }
    }

    fn op_replies(&mut self, id: u64) {
        let Some(mut op) = self.ops.remove(&id) else { return };
        let held_up = self.held_up(&op);
        let reply = match op.reply.take() {
            Some(reply) => reply,
            None if held_up => Reply::Unavailable,
            None => self.render(&mut op),
        };
        tell!(self, "server: answers {:?} {:?} with {}", op.from, op.request, brief(&reply));
        if matches!(reply, Reply::Unavailable) {
            self.counts.add("answers: unavailable");
        }
        if let Reply::Tokens { issued, .. } = &reply {
            self.maybe_upgrade(&op.request, &issued.account);
        }
        self.check_reply(&op, &reply);
        self.reply_to(op.from, op.call, reply);
    }
}

fn brief(reply: &Reply) -> String {
    match reply {
        Reply::Tokens { issued, .. } => {
            format!("tokens of {} at rev {}, refresh {}", issued.session.id, issued.claims.rev, issued.current.1)
        }
        other => format!("{other:?}"),
    }
}
